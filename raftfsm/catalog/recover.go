package catalog

import (
	"slices"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// Former is a cluster that lost its majority for good and was recovered, from the data of one survivor, as another.
type Former struct {
	ClusterID   string
	Survivor    string // name of the node whose data it was
	RecoveredAt int64  // milliseconds since 1970
}

// maxFormer bounds how many former clusters are remembered.
const maxFormer = 16

// recoverCluster leaves the cluster to one survivor, under another id. All runs of all nodes are over, the survivor's too: it
// gets a new number, since nobody knows of which runs the majority has told whom. Shards keep what the survivor has of them;
// those of which it has nothing are placed as if for the first time.
func (a *apply) recoverCluster(m *raftv1.RecoverCluster) *raftfsm.Error {
	last := max(a.cluster.lastNode, uint16(min(m.LastNode, uint32(maxNode))))
	switch {
	case a.cluster.id == m.ClusterId:
		return nil // done already
	case a.cluster.id != m.FormerId || m.FormerId == "":
		return raftfsm.Errorf(raftfsm.PreconditionFailed, "the cluster is '%s', not '%s'", a.cluster.id, m.FormerId)
	case m.ClusterId == "" || m.Uuid == "" || a.NodeByUUID(m.Uuid) != nil:
		return raftfsm.Errorf(raftfsm.PreconditionFailed, "a recovered cluster and its survivor need new identities")
	case last == maxNode:
		return raftfsm.Errorf(raftfsm.ResourceError, "no node number is left")
	}
	a.cluster.timeMillis = max(a.cluster.timeMillis, a.timeMillis)
	former := append(slices.Clone(a.cluster.former), Former{ClusterID: m.FormerId, Survivor: m.Name, RecoveredAt: a.cluster.timeMillis})
	a.cluster.former = former[max(0, len(former)-maxFormer):]
	a.cluster.id, a.cluster.lastNode = m.ClusterId, last+1
	a.changed(Change{Kind: ClusterChanged})
	a.removeOwned(func(queue.SessionID) bool { return true })
	for n := range a.Nodes() {
		delete(a.nodes, n.Number)
		a.changed(Change{Kind: NodeRemoved, Node: n})
	}
	n := &Node{Number: a.cluster.lastNode, UUID: m.Uuid, Name: m.Name, MachineVersion: m.MachineVersion, Version: m.Version}
	a.nodes[n.Number] = n
	a.reply.Node = n.Number
	a.changed(Change{Kind: NodeChanged, Node: n})
	for old := range a.Shards() {
		shard := &Shard{ID: old.ID, Nodes: []uint16{n.Number}, Preferred: n.Number, Version: old.Version + 1}
		if slices.Contains(m.LostShards, uint32(old.ID)) {
			shard.Version = 1
		}
		a.shards[shard.ID] = shard
		a.changed(Change{Kind: ShardChanged, Shard: shard})
	}
	return nil
}
