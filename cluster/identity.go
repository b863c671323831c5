package cluster

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/warrenmq/warren/cluster/raftstore"
)

// identity is what makes a data directory this node's: written once, never changed.
type identity struct {
	UUID string `json:"uuid"`
}

// founding is how the node's cluster began: written when it becomes a member, never changed.
type founding struct {
	ClusterID string         `json:"cluster_id"`
	Servers   []foundingNode `json:"servers"` // the first members; empty: the node joined later
	// Members is whom a node that joined later could ask then.
	Members []foundingNode `json:"members,omitempty"`
}

// first tells whether a node is one of the first members.
func (f *founding) first(uuid string) bool {
	return slices.ContainsFunc(f.Servers, func(s foundingNode) bool { return s.UUID == uuid })
}

// known are the nodes that the file names.
func (f *founding) known() []foundingNode { return slices.Concat(f.Servers, f.Members) }

// foundingNode is one of a cluster's first members, and where it was then.
type foundingNode struct {
	UUID    string `json:"uuid"`
	Address string `json:"address"`
}

const (
	identityFile = "node.json"
	foundingFile = "cluster.json"
)

// A file is: the JSON of {"version": 1, "crc32c": checksum of the value's JSON, "value": …}.
type sealedFile struct {
	Version int             `json:"version"`
	Sum     uint32          `json:"crc32c"`
	Value   json.RawMessage `json:"value"`
}

const sealedVersion = 1

func sumOf(value []byte) uint32 { return crc32.Checksum(value, crc32.MakeTable(crc32.Castagnoli)) }

// errDamagedFile tells that a file is there and does not hold what was written.
var errDamagedFile = errors.New("damaged")

// load reads a file into value; false: there is none.
func load(dir, name string, value any) (bool, error) {
	data, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	var f sealedFile
	if err := json.Unmarshal(data, &f); err != nil {
		return false, fmt.Errorf("%s is %w: %w", name, errDamagedFile, err)
	}
	if f.Version != sealedVersion {
		return false, fmt.Errorf("%s has version %d; this program knows %d", name, f.Version, sealedVersion)
	}
	if sumOf(f.Value) != f.Sum {
		return false, fmt.Errorf("%s is %w: wrong checksum", name, errDamagedFile)
	}
	if err := json.Unmarshal(f.Value, value); err != nil {
		return false, fmt.Errorf("%s: %w", name, err)
	}
	return true, nil
}

// save writes a file so that its name leads to the whole of it or to nothing.
func save(dir, name string, value any) error {
	inner, err := json.Marshal(value)
	if err != nil {
		return err
	}
	data, err := json.Marshal(sealedFile{sealedVersion, sumOf(inner), inner})
	if err != nil {
		return err
	}
	aside := filepath.Join(dir, name+".new")
	f, err := os.OpenFile(aside, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(aside, filepath.Join(dir, name)); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// openIdentity reads who this node is, or decides it, and opens what it has promised under that name. Votes that are gone or
// cannot be read are noted as lost: no group may count on them. Without a name, votes are nobody's; where there is no data either, and
// nothing was promised, a first start was cut short.
//
// A node has its name once its file of votes is marked as its first. So a file without a mark beside a name is not the one in which it
// promised, however it came there: made anew by bolt, since the former one was lost, put aside or empty.
func openIdentity(dir string, data bool, log *slog.Logger) (id identity, db *raftstore.DB, err error) {
	known, err := load(dir, identityFile, &id)
	if err != nil {
		return id, nil, err
	}
	db, err = raftstore.OpenDB(dir)
	if errors.Is(err, raftstore.ErrDamaged) && (known || !data) {
		log.Error("the votes cannot be read; the file is put aside", "err", err)
		if err = raftstore.PutAside(dir); err == nil {
			db, err = raftstore.OpenDB(dir)
		}
	}
	if err != nil {
		return id, nil, err
	}
	switch {
	case known && !db.Marked():
		log.Error("the votes are lost: replicas are rebuilt from the other nodes")
		err = db.MarkRenewed()
	case !known && (data || !db.Blank()):
		err = fmt.Errorf("%s is missing beside votes or data: this directory's identity is lost; start with an empty one", identityFile)
	case !known:
		id, err = newIdentity(dir, db)
	}
	if err != nil {
		return id, nil, errors.Join(err, db.Close())
	}
	return id, db, nil
}

// newIdentity names a node that has promised nothing. Its file of votes and the mark in it are durable before the name is.
func newIdentity(dir string, db *raftstore.DB) (identity, error) {
	if err := errors.Join(db.ClearRenewed(), syncDir(dir)); err != nil {
		return identity{}, err
	}
	id := identity{UUID: newUUID()}
	return id, save(dir, identityFile, id)
}

// newUUID returns a random UUID (RFC 9562, version 4).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
