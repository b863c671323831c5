package catalog

import (
	"fmt"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm/queue"
	"google.golang.org/protobuf/proto"
)

// Backup yields what another cluster is to have, too, encoded: users, vhosts, permissions, exchanges, queues and bindings, each
// after what it needs. Left out are what every vhost has, and exclusive queues, which end with their connections.
func (sn *Snapshot) Backup(yield func(record []byte) error) error {
	exclusive := map[[2]string]bool{}
	for record := range sn.records {
		switch r := record.Record.(type) {
		case *raftv1.CatalogRecord_Cluster, *raftv1.CatalogRecord_Node, *raftv1.CatalogRecord_Shard:
			continue
		case *raftv1.CatalogRecord_Exchange:
			if IsSystemExchange(r.Exchange.Name) {
				continue
			}
		case *raftv1.CatalogRecord_Queue:
			if r.Queue.OwnerSession != 0 {
				exclusive[[2]string{r.Queue.Vhost, r.Queue.Name}] = true
				continue
			}
		case *raftv1.CatalogRecord_Binding:
			if !r.Binding.ToExchange && exclusive[[2]string{r.Binding.Vhost, r.Binding.Destination}] {
				continue
			}
		}
		data, err := proto.MarshalOptions{Deterministic: true}.Marshal(record)
		if err != nil {
			return fmt.Errorf("encode a record of the catalog: %w", err)
		}
		if err := yield(data); err != nil {
			return err
		}
	}
	return nil
}

// RestoreCommand reads a record of Backup and makes the command that makes the thing. What this build does not know, and what
// Backup does not write, is an error.
func RestoreCommand(data []byte) (*Command, error) {
	record := new(raftv1.CatalogRecord)
	if err := proto.Unmarshal(data, record); err != nil {
		return nil, fmt.Errorf("decode a record of the catalog: %w", err)
	}
	if err := refuseUnknown(record.ProtoReflect()); err != nil {
		return nil, err
	}
	switch r := record.Record.(type) {
	case *raftv1.CatalogRecord_User:
		return PutUser(r.User), nil
	case *raftv1.CatalogRecord_Vhost:
		return CreateVHost(r.Vhost), nil
	case *raftv1.CatalogRecord_Permission:
		return SetPermission(r.Permission), nil
	case *raftv1.CatalogRecord_Exchange:
		return DeclareExchange(r.Exchange), nil
	case *raftv1.CatalogRecord_Queue:
		return AddQueue(r.Queue), nil
	case *raftv1.CatalogRecord_Binding:
		return Bind(r.Binding), nil
	}
	return nil, fmt.Errorf("a record of the catalog of type %T is not known", record.Record)
}

// RestoreClaim is a name in DefaultVHost that a restore holds, as an exclusive queue of its node's run that no shard has, so that no other
// begins meanwhile. Clients declare nothing that begins with "amq.".
const RestoreClaim = "amq.restore"

// Occupied names something that the catalog holds beside what every cluster has from the start, as far as a backup would have
// it, too; empty: nothing. Users and their permissions do not count: somebody has to log in. A restore's claim does not, either.
func (s *State) Occupied() string {
	for v := range s.VHosts() {
		if v.Name != DefaultVHost {
			return fmt.Sprintf("vhost '%s'", v.Name)
		}
		for q := range v.Queues() {
			if q.Name != RestoreClaim {
				return queueResource(v.Name, q.Name)
			}
		}
		for x := range v.Exchanges() {
			if !IsSystemExchange(x.Name) {
				return exchangeResource(v.Name, x.Name)
			}
		}
		for b := range v.Bindings() {
			return fmt.Sprintf("a binding from %s", exchangeResource(v.Name, b.Source))
		}
	}
	return ""
}

// Unnamed tells which of a shard's queues have no name.
func (s *State) Unnamed(ids []queue.QueueID) (unnamed []queue.QueueID) {
	for _, id := range ids {
		if s.queues[id] == nil {
			unnamed = append(unnamed, id)
		}
	}
	return unnamed
}
