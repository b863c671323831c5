package cluster

import (
	"sync"

	"github.com/warrenmq/warren/cluster/pipe"
	nodev1 "github.com/warrenmq/warren/proto/node/v1"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// leaderTable knows which node leads each shard, as far as anybody here has heard: from the replica on this node, and from
// the nodes that lead.
type leaderTable struct {
	c *Cluster

	mu     sync.RWMutex // guards shards
	shards map[queue.ShardID]shardLeader
}

var (
	_ pipe.Leaders  = (*leaderTable)(nil)
	_ pipe.Replicas = (*leaderTable)(nil)
)

// shardLeader is a node and the term in which it was elected.
type shardLeader struct {
	node uint16
	term uint64
}

func newLeaderTable(c *Cluster) *leaderTable {
	return &leaderTable{c: c, shards: map[queue.ShardID]shardLeader{}}
}

// Leader implements pipe.Leaders.
func (t *leaderTable) Leader(shard queue.ShardID) (node uint16, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	l, ok := t.shards[shard]
	return l.node, ok
}

// Replicas implements pipe.Replicas.
func (t *leaderTable) Replicas(shard queue.ShardID) (nodes []uint16) {
	for _, number := range t.c.placementOf(uint32(shard)) {
		if number == t.c.Self().Node || t.c.watcher.alive(t.c.uuidOf(number)) {
			nodes = append(nodes, number)
		}
	}
	return nodes
}

// set notes a leader unless a later one is known.
func (t *leaderTable) set(shard queue.ShardID, l shardLeader) {
	t.mu.Lock()
	was, known := t.shards[shard]
	if known && was.term > l.term || was == l {
		t.mu.Unlock()
		return
	}
	t.shards[shard] = l
	t.mu.Unlock()
	t.c.edgeLeaderChanged(shard)
}

// clear forgets that a node leads a shard.
func (t *leaderTable) clear(shard queue.ShardID, node uint16) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shards[shard].node == node {
		delete(t.shards, shard)
	}
}

// heard takes what a node says of the shards that it leads.
func (t *leaderTable) heard(uuid string, s *nodev1.Status) {
	node := t.c.numberOf(uuid)
	if node == 0 {
		return
	}
	for _, g := range s.Groups {
		shard := queue.ShardID(g.Group)
		switch {
		case g.Group == catalogGroup || queue.ShardID(g.Group).IsLocal():
		case g.Leads:
			t.set(shard, shardLeader{node, g.Term})
		default:
			t.mu.RLock()
			l := t.shards[shard]
			t.mu.RUnlock()
			if l.node == node && g.Term > l.term {
				t.clear(shard, node)
			}
		}
	}
}

// lost forgets what a node that cannot be reached led.
func (t *leaderTable) lost(uuid string) {
	node := t.c.numberOf(uuid)
	t.mu.Lock()
	defer t.mu.Unlock()
	for shard, l := range t.shards {
		if l.node == node {
			delete(t.shards, shard)
		}
	}
}

// leadershipChanged takes what the replica on this node knows of its shard's leader, and tells the other nodes.
func (c *Cluster) leadershipChanged(s *shard) {
	if !c.takeLeader(s) {
		c.leaders.clear(s.id, c.Self().Node)
	}
	c.statusChanged()
}

// takeLeader takes a leader that the replica on this node knows of; false: this node does not lead, and no other is known. It is done now and
// then without a reason, too: an edge that looks for a leader in the wrong place would do so until the leader changes.
func (c *Cluster) takeLeader(s *shard) bool {
	if term, ok := s.leading(); ok {
		c.leaders.set(s.id, shardLeader{c.Self().Node, term})
		return true
	}
	uuid, term := s.leader()
	if uuid == "" || uuid == c.identity.UUID {
		return false
	}
	if node := c.numberOf(uuid); node != 0 && c.watcher.maybeLeads(uuid) {
		c.leaders.set(s.id, shardLeader{node, term})
	}
	return true
}
