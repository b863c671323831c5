package catalog

import (
	"cmp"
	"slices"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
)

// records yields all records in their order.
func (sn *Snapshot) records(yield func(*raftv1.CatalogRecord) bool) {
	if !yield(sn.first.record()) {
		return
	}
	ok := each(sn.nodes, (*Node).record, yield) && each(sn.shards, (*Shard).record, yield) && each(sn.users, (*User).record, yield)
	for i := 0; ok && i < len(sn.vhosts); i++ {
		ok = sn.vhosts[i].records(yield)
	}
}

func (v *vhostSnapshot) records(yield func(*raftv1.CatalogRecord) bool) bool {
	permissions := sortedBy(v.permissions, func(p *Permission) string { return p.User })
	exchanges := sortedBy(v.exchanges, func(x *Exchange) string { return x.Name })
	queues := sortedBy(v.queues, func(q *Queue) string { return q.Name })
	bindings := slices.SortedFunc(slices.Values(v.bindings), func(a, b *Binding) int { return a.id.compare(b.id) })
	vhost := &raftv1.CreateVHost{Name: v.name, Description: v.description}
	return yield(&raftv1.CatalogRecord{Record: &raftv1.CatalogRecord_Vhost{Vhost: vhost}}) &&
		each(permissions, (*Permission).record, yield) &&
		each(exchanges[1:], (*Exchange).record, yield) && // without the default exchange, which every vhost has
		each(queues, (*Queue).record, yield) &&
		each(bindings, (*Binding).record, yield)
}

func each[T any](things []T, record func(T) *raftv1.CatalogRecord, yield func(*raftv1.CatalogRecord) bool) bool {
	for _, t := range things {
		if !yield(record(t)) {
			return false
		}
	}
	return true
}

func sortedBy[T any](things []T, name func(T) string) []T {
	return slices.SortedFunc(slices.Values(things), func(a, b T) int { return cmp.Compare(name(a), name(b)) })
}

func (c *cluster) record() *raftv1.CatalogRecord {
	r := &raftv1.ClusterRecord{ClusterId: c.id, Shards: c.shards, Replication: c.replication, MachineVersion: c.machineVersion,
		LastNode: uint32(c.lastNode), TimeMillis: c.timeMillis}
	for _, f := range c.former {
		r.Former = append(r.Former, &raftv1.FormerCluster{ClusterId: f.ClusterID, Survivor: f.Survivor, RecoveredAtMillis: f.RecoveredAt})
	}
	return &raftv1.CatalogRecord{Record: &raftv1.CatalogRecord_Cluster{Cluster: r}}
}

func (n *Node) record() *raftv1.CatalogRecord {
	return &raftv1.CatalogRecord{Record: &raftv1.CatalogRecord_Node{Node: &raftv1.NodeRecord{
		Number: uint32(n.Number), Uuid: n.UUID, Name: n.Name, Run: n.Run, MachineVersion: n.MachineVersion,
		Version: n.Version, StartedAtMillis: n.StartedAt, Leaving: n.Leaving}}}
}

func (s *Shard) record() *raftv1.CatalogRecord {
	r := &raftv1.ShardRecord{Shard: uint32(s.ID), Version: s.Version, Preferred: uint32(s.Preferred)}
	for _, n := range s.Nodes {
		r.Nodes = append(r.Nodes, uint32(n))
	}
	return &raftv1.CatalogRecord{Record: &raftv1.CatalogRecord_Shard{Shard: r}}
}

func (u *User) record() *raftv1.CatalogRecord {
	return &raftv1.CatalogRecord{Record: &raftv1.CatalogRecord_User{User: &raftv1.PutUser{
		Name: u.Name, PasswordHash: u.PasswordHash, Tags: u.Tags}}}
}

func (p *Permission) record() *raftv1.CatalogRecord {
	return &raftv1.CatalogRecord{Record: &raftv1.CatalogRecord_Permission{Permission: &raftv1.SetPermission{
		Vhost: p.VHost, User: p.User, Configure: p.Configure, Write: p.Write, Read: p.Read}}}
}

func (x *Exchange) record() *raftv1.CatalogRecord {
	return &raftv1.CatalogRecord{Record: &raftv1.CatalogRecord_Exchange{Exchange: &raftv1.DeclareExchange{
		Vhost: x.VHost, Name: x.Name, Type: x.Type, Durable: x.Durable, AutoDelete: x.AutoDelete, Internal: x.Internal,
		Arguments: x.Arguments}}}
}

func (q *Queue) record() *raftv1.CatalogRecord {
	return &raftv1.CatalogRecord{Record: &raftv1.CatalogRecord_Queue{Queue: &raftv1.AddQueue{
		Vhost: q.VHost, Name: q.Name, Id: uint64(q.ID), Durable: q.Durable, AutoDelete: q.AutoDelete,
		OwnerSession: uint64(q.OwnerSession), OwnerConnection: q.OwnerConnection, Arguments: q.Arguments}}}
}

func (b *Binding) record() *raftv1.CatalogRecord {
	m := &raftv1.Bind{Vhost: b.VHost, Source: b.Source, Destination: b.Destination, ToExchange: b.ToExchange, Arguments: b.Arguments}
	m.RoutingKey, m.RoutingKeyOctets = splitKey(b.Key)
	return &raftv1.CatalogRecord{Record: &raftv1.CatalogRecord_Binding{Binding: m}}
}
