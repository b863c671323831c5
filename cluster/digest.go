package cluster

import (
	"crypto/sha256"
	"fmt"

	"github.com/warrenmq/warren/raftfsm/catalog"
)

// Digest is a replica's state in short: replicas of a group at the same index have the same sum.
type Digest struct {
	Group uint32 // a shard's number, or CatalogGroup
	Index uint64 // of the last command applied
	Sum   [sha256.Size]byte
}

// CatalogGroup is the catalog's number among the groups.
const CatalogGroup = catalogGroup

// Digests takes the sums of all replicas of this node that run, the catalog's first. It costs as much as a snapshot of each.
func (c *Cluster) Digests() ([]Digest, error) {
	var list []Digest
	if c.hasCatalog() {
		d := Digest{Group: catalogGroup}
		var err error
		c.catalog.read(func(s *catalog.State) {
			d.Index = s.Applied()
			d.Sum, err = s.Hash()
		})
		if err != nil {
			return nil, fmt.Errorf("digest of the catalog: %w", err)
		}
		list = append(list, d)
	}
	for _, s := range c.shards() {
		state := s.host.Snapshot()
		sum := sha256.New()
		if _, err := state.WriteTo(sum); err != nil {
			return nil, fmt.Errorf("digest of shard %d: %w", s.id, err)
		}
		list = append(list, Digest{uint32(s.id), state.Index(), [sha256.Size]byte(sum.Sum(nil))})
	}
	return list, nil
}

// LeadsCatalog tells whether this node leads the catalog, as far as it knows.
func (c *Cluster) LeadsCatalog() bool {
	_, leads := c.catalog.leading()
	return leads
}
