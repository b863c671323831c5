package catalog

import (
	"fmt"
	"slices"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// DefaultVHost and DefaultUser exist from the start.
const (
	DefaultVHost = "/"
	DefaultUser  = "guest"
)

// maxNode is the highest number of a node: a local shard has it beside the bit that makes it local.
const maxNode = uint16(queue.LocalShard) - 1

// createCluster makes the things that every cluster starts with. Nodes that all try to be the first do no harm.
func (a *apply) createCluster(m *raftv1.CreateCluster) *raftfsm.Error {
	if a.cluster.id != "" {
		return nil
	}
	if m.ClusterId == "" || m.Shards == 0 || m.Shards > uint32(queue.LocalShard) {
		return raftfsm.Errorf(raftfsm.PreconditionFailed, "cluster '%s' cannot have %d shards", m.ClusterId, m.Shards)
	}
	a.cluster.id, a.cluster.shards, a.cluster.replication = m.ClusterId, m.Shards, m.Replication
	a.changed(Change{Kind: ClusterChanged})
	for _, err := range []*raftfsm.Error{
		a.createVHost(&raftv1.CreateVHost{Name: DefaultVHost, Description: "Default virtual host"}),
		a.putUser(&raftv1.PutUser{Name: DefaultUser, PasswordHash: m.GuestPasswordHash, Tags: []string{"administrator"}}),
		a.setPermission(&raftv1.SetPermission{Vhost: DefaultVHost, User: DefaultUser, Configure: ".*", Write: ".*", Read: ".*"}),
	} {
		if err != nil && err.Kind != raftfsm.Exists {
			panic(err) // the names are at fault
		}
	}
	return nil
}

// admitNode makes a node a member before its first run. The same node again changes nothing.
func (a *apply) admitNode(m *raftv1.AdmitNode) *raftfsm.Error {
	switch {
	case m.Uuid == "" || m.Name == "":
		return raftfsm.Errorf(raftfsm.PreconditionFailed, "node '%s' has no identity or no name", m.Name)
	case m.MachineVersion < a.cluster.machineVersion:
		return raftfsm.Errorf(raftfsm.PreconditionFailed, "the program of node '%s' knows machine version %d at most, the cluster is at %d: start it with a newer program",
			m.Name, m.MachineVersion, a.cluster.machineVersion)
	case a.cluster.lastNode == maxNode:
		return raftfsm.Errorf(raftfsm.ResourceError, "no node number is left")
	}
	if n := a.NodeByUUID(m.Uuid); n != nil {
		a.reply.Node = n.Number
		return nil
	}
	for n := range a.Nodes() {
		if n.Name == m.Name && !n.Leaving && uint32(n.Number) != m.Replaces {
			return raftfsm.Errorf(raftfsm.Exists, "the cluster has a node '%s' already", m.Name)
		}
	}
	if m.Replaces <= uint32(maxNode) {
		if old := a.nodes[uint16(m.Replaces)]; old != nil && old.Name == m.Name {
			a.leaving(old, true)
		}
	}
	a.cluster.lastNode++
	n := &Node{Number: a.cluster.lastNode, UUID: m.Uuid, Name: m.Name, MachineVersion: m.MachineVersion, Version: m.Version}
	a.nodes[n.Number] = n
	a.reply.Node = n.Number
	a.changed(Change{Kind: NodeChanged, Node: n})
	return nil
}

// setLeaving begins or calls off that a node leaves. The last one that stays cannot leave, nor one without which fewer stay than its
// proposer accepts: two leaders of the catalog may have judged two nodes at the same time.
func (a *apply) setLeaving(m *raftv1.SetLeaving) *raftfsm.Error {
	if m.Number > uint32(maxNode) || a.nodes[uint16(m.Number)] == nil {
		return raftfsm.Errorf(raftfsm.NotFound, "there is no node %d", m.Number)
	}
	n, staying := a.nodes[uint16(m.Number)], 0
	for other := range a.Nodes() {
		if other != n && !other.Leaving {
			staying++
		}
	}
	switch {
	case m.Leaving && staying == 0:
		return raftfsm.Errorf(raftfsm.PreconditionFailed, "node '%s' is the last one that stays", n.Name)
	case m.Leaving && !n.Leaving && uint32(staying) < m.Others:
		return raftfsm.Errorf(raftfsm.PreconditionFailed, "another node has begun to leave meanwhile, so that only %d would stay beside node '%s': add a node first, or accept fewer replicas with --few",
			staying, n.Name)
	}
	a.leaving(n, m.Leaving)
	return nil
}

func (a *apply) leaving(n *Node, leaving bool) {
	if n.Leaving == leaving {
		return
	}
	changed := *n // what can be seen never changes
	changed.Leaving = leaving
	a.nodes[n.Number] = &changed
	a.changed(Change{Kind: NodeChanged, Node: &changed})
}

// registerNode begins a run of a node. Exclusive queues of its earlier runs go; and if nobody who ran before is alive,
// so does all that outlives connections but not the cluster.
func (a *apply) registerNode(m *raftv1.RegisterNode) *raftfsm.Error {
	if m.Uuid == "" {
		return raftfsm.Errorf(raftfsm.PreconditionFailed, "node '%s' has no identity", m.Name)
	}
	if m.MachineVersion < a.cluster.machineVersion {
		return raftfsm.Errorf(raftfsm.PreconditionFailed, "the program of node '%s' knows machine version %d at most, the cluster is at %d: start it with a newer program",
			m.Name, m.MachineVersion, a.cluster.machineVersion)
	}
	old := a.NodeByUUID(m.Uuid)
	switch {
	case old == nil && len(a.shards) > 0: // the first members have registered: it was removed, or never admitted
		return raftfsm.Errorf(raftfsm.AccessRefused, "node '%s' is no member of the cluster", m.Name)
	case old == nil && a.cluster.lastNode == maxNode:
		return raftfsm.Errorf(raftfsm.ResourceError, "no node number is left")
	}
	restarted := a.allRestarted(old, m.Alive)
	a.cluster.timeMillis = max(a.cluster.timeMillis, a.timeMillis)
	n := &Node{UUID: m.Uuid, Name: m.Name, Run: 1, MachineVersion: m.MachineVersion, Version: m.Version, StartedAt: a.cluster.timeMillis}
	if old != nil {
		n.Number, n.Run, n.Leaving = old.Number, old.Run+1, old.Leaving
	} else {
		a.cluster.lastNode++
		n.Number = a.cluster.lastNode
	}
	a.nodes[n.Number] = n
	a.reply.Node, a.reply.Run = n.Number, n.Run
	a.changed(Change{Kind: NodeChanged, Node: n})
	a.removeOwned(func(owner queue.SessionID) bool { return restarted || owner.Node() == n.Number })
	if restarted {
		a.removeTransient()
	}
	return nil
}

// allRestarted tells whether none of the nodes that have run is among those alive. The node that registers ran before,
// but that run is over.
func (s *State) allRestarted(registering *Node, alive []uint32) bool {
	for number, n := range s.nodes {
		if n != registering && slices.Contains(alive, uint32(number)) {
			return false
		}
	}
	return true
}

// removeTransient removes the queues and exchanges that a restart of the whole cluster ends.
func (a *apply) removeTransient() {
	a.removeQueues(a.queues, func(q *Queue) bool { return !q.Durable })
	for v := range a.VHosts() {
		for x := range v.Exchanges() {
			if !x.Durable && v.exchanges[x.Name] == x {
				a.removeExchange(v, x)
			}
		}
	}
}

// isOver tells whether a run has ended: the node has begun another, or is no member.
func (s *State) isOver(session queue.SessionID) bool {
	n := s.nodes[session.Node()]
	return n == nil || n.Session() != session
}

// removeOwned removes the exclusive queues of runs.
func (a *apply) removeOwned(matches func(owner queue.SessionID) bool) {
	all := queueSet{}
	for owner, set := range a.owned {
		if matches(owner) {
			for id, q := range set {
				all[id] = q
			}
		}
	}
	a.removeQueues(all, func(*Queue) bool { return true })
}

func (a *apply) sessionOver(m *raftv1.SessionOver) {
	a.removeQueues(a.owned[queue.SessionID(m.Session)], func(q *Queue) bool {
		return m.Connection == 0 || q.OwnerConnection == m.Connection
	})
	if m.Connection == 0 {
		a.changed(Change{Kind: SessionEnded, Session: queue.SessionID(m.Session)})
	}
}

// removeNode forgets a node and its exclusive queues. A node that is to hold a shard cannot go: the shard is placed
// elsewhere first.
func (a *apply) removeNode(m *raftv1.RemoveNode) *raftfsm.Error {
	if m.Number > uint32(maxNode) || a.nodes[uint16(m.Number)] == nil {
		return nil
	}
	n := a.nodes[uint16(m.Number)]
	for shard := range a.Shards() {
		if slices.Contains(shard.Nodes, n.Number) {
			return raftfsm.Errorf(raftfsm.PreconditionFailed, "node '%s' still holds shard %d", n.Name, shard.ID)
		}
	}
	a.removeOwned(func(owner queue.SessionID) bool { return owner.Node() == n.Number })
	delete(a.nodes, n.Number)
	a.changed(Change{Kind: NodeRemoved, Node: n})
	return nil
}

// setReplicas places all of the shards or none.
func (a *apply) setReplicas(m *raftv1.SetReplicas) *raftfsm.Error {
	seen := map[uint32]bool{}
	for _, r := range m.Shards {
		if seen[r.Shard] {
			return raftfsm.Errorf(raftfsm.PreconditionFailed, "shard %d is placed twice", r.Shard)
		}
		seen[r.Shard] = true
		if err := a.checkReplicas(r); err != nil {
			return err
		}
	}
	for _, r := range m.Shards {
		shard := newShard(&raftv1.ShardRecord{Shard: r.Shard, Version: r.PreviousVersion + 1, Nodes: r.Nodes, Preferred: r.Preferred})
		a.shards[shard.ID] = shard
		a.changed(Change{Kind: ShardChanged, Shard: shard})
	}
	return nil
}

func newShard(r *raftv1.ShardRecord) *Shard {
	shard := &Shard{ID: queue.ShardID(r.Shard), Preferred: uint16(r.Preferred), Version: r.Version}
	for _, n := range r.Nodes {
		shard.Nodes = append(shard.Nodes, uint16(n))
	}
	return shard
}

func (s *State) checkReplicas(r *raftv1.ShardReplicas) *raftfsm.Error {
	if r.Shard >= s.cluster.shards || len(r.Nodes) == 0 {
		return raftfsm.Errorf(raftfsm.PreconditionFailed, "shard %d of %d cannot be placed on %d nodes", r.Shard, s.cluster.shards, len(r.Nodes))
	}
	var version uint64
	if old := s.shards[queue.ShardID(r.Shard)]; old != nil {
		version = old.Version
	}
	if version != r.PreviousVersion {
		return raftfsm.Errorf(raftfsm.PreconditionFailed, "the placement of shard %d has version %d, not %d", r.Shard, version, r.PreviousVersion)
	}
	for i, n := range r.Nodes {
		if n > uint32(maxNode) || s.nodes[uint16(n)] == nil || slices.Contains(r.Nodes[:i], n) {
			return raftfsm.Errorf(raftfsm.PreconditionFailed, "shard %d: node %d is unknown or named twice", r.Shard, n)
		}
	}
	if r.Preferred != 0 && !slices.Contains(r.Nodes, r.Preferred) {
		return raftfsm.Errorf(raftfsm.PreconditionFailed, "shard %d: node %d shall lead but holds no replica", r.Shard, r.Preferred)
	}
	return nil
}

// tooOld tells that this program is older than what the cluster is at.
func tooOld(version uint32) error {
	return fmt.Errorf("the cluster is at machine version %d, and this program knows %d at most: start the newer program again", version, LatestMachineVersion)
}

// setMachineVersion raises the machine version. A build that does not know the version cannot go on.
func (a *apply) setMachineVersion(m *raftv1.SetMachineVersion) error {
	for n := range a.Nodes() {
		if n.MachineVersion < m.Version {
			a.reply.Err = raftfsm.Errorf(raftfsm.PreconditionFailed, "node '%s' knows machine version %d at most", n.Name, n.MachineVersion)
			return nil
		}
	}
	if m.Version > LatestMachineVersion {
		return tooOld(m.Version)
	}
	if m.Version > a.cluster.machineVersion {
		a.cluster.machineVersion = m.Version
		a.changed(Change{Kind: ClusterChanged})
	}
	return nil
}
