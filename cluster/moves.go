package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/warrenmq/warren/cluster/pipe"
	"github.com/warrenmq/warren/cluster/place"
	"github.com/warrenmq/warren/cluster/raftnet"
	nodev1 "github.com/warrenmq/warren/proto/node/v1"
	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// situation is what the planner is asked about.
type situation struct {
	nodes       []place.Node
	shards      []place.Shard
	versions    map[uint16]uint64 // of the shards' placements
	replication int
	seats       map[string]bool // nodes that have a seat in a shard
	complete    bool            // the seats of all shards are known
}

// situation gathers what the catalog wants, and what the groups' leaders say that is.
func (c *Cluster) situation() *situation {
	now := &situation{versions: map[uint16]uint64{}, seats: map[string]bool{}}
	count := 0
	c.catalog.read(func(s *catalog.State) {
		now.replication, count = s.Replication(), s.ShardCount()
		for n := range s.Nodes() {
			now.nodes = append(now.nodes, place.Node{Number: n.Number, Alive: c.watcher.alive(n.UUID), Leaving: n.Leaving})
		}
		for sh := range s.Shards() {
			now.shards = append(now.shards, place.Shard{ID: uint16(sh.ID), Nodes: sh.Nodes, Preferred: sh.Preferred})
			now.versions[uint16(sh.ID)] = sh.Version
		}
	})
	now.complete = count == len(now.shards)
	for i := range now.shards {
		sh := &now.shards[i]
		leader := c.report(uint32(sh.ID))
		if leader == nil || len(leader.Seats) == 0 {
			now.complete = false
			continue
		}
		for _, seat := range leader.Seats {
			now.seats[raftnet.NodeOf(seat.Server)] = true
		}
		sh.Healthy = c.majorityIsWell(leader)
		sh.Settled = c.isSettled(sh, leader)
	}
	return now
}

// report is what the leader of a group says of it, as far as this node has heard; nil: nobody leads.
func (c *Cluster) report(group uint32) (leader *nodev1.GroupStatus) {
	consider := func(s *nodev1.Status) {
		for _, g := range s.GetGroups() {
			if g.Group == group && g.Leads && (leader == nil || g.Term > leader.Term) {
				leader = g
			}
		}
	}
	if s := c.shard(queue.ShardID(group)); s != nil {
		if _, leads := s.leading(); leads {
			own := s.groupStatus(s.host.Applied())
			if a := s.agreed.Load(); a != nil {
				own.Seats, own.SeatsIndex = seats(a.configuration.Servers), a.index
			}
			consider(&nodev1.Status{Groups: []*nodev1.GroupStatus{own}})
		}
	}
	for _, p := range c.watcher.all() {
		if p.state == pipe.PeerAlive {
			consider(p.status)
		}
	}
	return leader
}

// majorityIsWell tells whether most of a group's voters live and claim the seats that they have.
func (c *Cluster) majorityIsWell(leader *nodev1.GroupStatus) bool {
	voters, well := 0, 0
	for _, seat := range leader.Seats {
		if !seat.Votes {
			continue
		}
		voters++
		if c.claims(leader.Group, seat.Server) {
			well++
		}
	}
	return 2*well > voters
}

// claims tells whether the node of a seat lives and says that it has that seat.
func (c *Cluster) claims(group uint32, server string) bool {
	uuid := raftnet.NodeOf(server)
	if uuid == c.identity.UUID {
		s := c.shard(queue.ShardID(group))
		return s != nil && string(s.server()) == server
	}
	p := c.watcher.info(uuid)
	return p.state == pipe.PeerAlive && slices.ContainsFunc(p.status.GetGroups(), func(g *nodev1.GroupStatus) bool {
		return g.Group == group && g.Damage == "" && g.Server == server
	})
}

// isSettled tells whether a group's members are the voting replicas of the nodes that are to hold it, and no others.
func (c *Cluster) isSettled(sh *place.Shard, leader *nodev1.GroupStatus) bool {
	if len(leader.Seats) != len(sh.Nodes) {
		return false
	}
	for _, number := range sh.Nodes {
		uuid := c.uuidOf(number)
		if !slices.ContainsFunc(leader.Seats, func(s *nodev1.Seat) bool { return s.Votes && raftnet.NodeOf(s.Server) == uuid }) {
			return false
		}
	}
	return true
}

// move makes the next move, or several where they may be made side by side, or removes a node that has been emptied. This node leads the
// catalog.
func (c *Cluster) move(ctx context.Context) error {
	now := c.situation()
	for range place.MaxRepairs {
		m, ok := place.Next(now.nodes, now.shards, now.replication)
		if !ok {
			break
		}
		c.log.Info("a shard is placed anew", "shard", m.Shard, "nodes", m.Nodes, "preferred", m.Preferred, "why", m.Why)
		r := &raftv1.ShardReplicas{Shard: uint32(m.Shard), Preferred: uint32(m.Preferred), PreviousVersion: now.versions[m.Shard]}
		for _, n := range m.Nodes {
			r.Nodes = append(r.Nodes, uint32(n))
		}
		if _, err := c.Propose(ctx, catalog.SetReplicas(&raftv1.SetReplicas{Shards: []*raftv1.ShardReplicas{r}})); err != nil || !m.Repair {
			return err
		}
		now = c.situation()
	}
	for _, n := range now.nodes {
		if n.Leaving && now.holdsNothing(n.Number, c.uuidOf(n.Number)) {
			return c.remove(ctx, n)
		}
	}
	return nil
}

// holdsNothing tells whether a node is known to hold no replica.
func (now *situation) holdsNothing(number uint16, uuid string) bool {
	return now.complete && !now.seats[uuid] &&
		!slices.ContainsFunc(now.shards, func(sh place.Shard) bool { return slices.Contains(sh.Nodes, number) })
}

// remove forgets a node that holds nothing; its seat in the catalog goes then, since it is wanted no more. One that lives is
// waited for until it has no clients.
func (c *Cluster) remove(ctx context.Context, n place.Node) error {
	uuid := c.uuidOf(n.Number)
	if uuid == c.identity.UUID {
		return nil // leaveWhenEmpty hands the catalog over
	}
	if n.Alive && !c.watcher.info(uuid).status.GetIdle() {
		return nil
	}
	if !c.admitting.TryAcquire(1) {
		return nil // its leaving may be called off just now
	}
	defer c.admitting.Release(1)
	if now := c.directory.Load().byNumber[n.Number]; now == nil || !now.Leaving {
		return nil
	}
	if !c.safeWithout(c.catalog.group, c.catalog.members(), c.seatOf(c.catalog.group, uuid)) {
		return fmt.Errorf("node %d cannot be removed: no majority of the catalog's voters would live without it", n.Number)
	}
	c.log.Info("a node is removed", "number", n.Number, "uuid", uuid)
	_, err := c.Propose(ctx, catalog.RemoveNode(&raftv1.RemoveNode{Number: uint32(n.Number)}))
	return err
}

// leaveWhenEmpty lets this node's clients go when it is to leave and holds nothing any more. From then on it serves nobody, so its leaving is not
// called off (leaveHere); where that comes just before, this process ends, and the next one serves.
func (c *Cluster) leaveWhenEmpty() {
	n := c.directory.Load().byUUID[c.identity.UUID]
	if c.emptied && n != nil && !n.Leaving {
		c.o.OnFatal(errEmptied)
		return
	}
	if n == nil || !n.Leaving || len(c.shards()) > 0 || !c.situation().holdsNothing(n.Number, n.UUID) {
		return
	}
	if !c.emptied {
		c.emptied = true
		c.log.Info("this node leaves and holds nothing any more: its clients are closed")
		go func() {
			if c.o.OnEmptied != nil {
				c.o.OnEmptied()
			}
			c.idle.Store(true)
			c.statusChanged()
		}()
	}
	if _, leads := c.catalog.leading(); leads {
		c.handOn(c.catalog.group, c.otherNodes())
	}
}

var errEmptied = errors.New("this node was to leave, and is to stay when it serves no clients any more: it must be started again")
