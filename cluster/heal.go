package cluster

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/warrenmq/warren/cluster/place"
	"github.com/warrenmq/warren/cluster/raftnet"
	nodev1 "github.com/warrenmq/warren/proto/node/v1"
	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// Damage may be met while a replica runs: when a message is read, a checkpoint copied, or another node brought up to date. The
// replica still knows what it has promised, and goes on; but what it cannot read its checkpoints cannot copy, so that the node's
// log would grow for ever. It is rebuilt from the others, as one whose damage is found at a start is, with one step more: the
// others are asked first. The node says that it has another seat, which is the leader's reason to remove the present one; when a
// majority has agreed that it is no member, and so holds all that was ever committed, what it holds is given up.

// finding is damage that was met while a replica runs.
type finding struct{ err error }

// met implements groupParts. It does not block.
func (s *shard) met(err error) {
	if !isDamage(err) || errors.Is(err, fs.ErrClosed) { // a file that was closed cannot be read either
		return
	}
	if s.found.CompareAndSwap(nil, &finding{err}) {
		s.group.log.Error("damage was found in a replica that runs", "err", err)
		s.c.statusChanged()
		s.c.wakePlacer()
	}
}

// cannotSend takes note of why an entry cannot be read.
func (s *shard) cannotSend(err error) {
	if isDamage(err) {
		s.starve.Store(true)
	}
	s.met(err)
}

// met implements groupParts. The catalog is in memory, and read from the disk by an instance that begins.
func (s *catalogSeat) met(error) {}

// tellDamage adds to what the other nodes are told of a seat that it is damaged, and which one is to take its place, of which
// nothing is known to be applied yet.
func (s *shard) tellDamage(g *nodev1.GroupStatus) {
	f := s.found.Load()
	if f == nil {
		return
	}
	g.Found = f.err.Error()
	if next := s.next.Load(); next != 0 && !g.Leads {
		g.Server, g.Applied = string(raftnet.ServerID(s.uuid, next)), 0
	}
}

// healer rebuilds damaged replicas, one at a time. It belongs to the goroutine that places replicas.
type healer struct {
	c    *Cluster
	rest map[queue.ShardID]time.Time // a replica is left alone until then
	now  *rebuild                    // nil: none is under way
}

// rebuild is a replica on its way to be whole.
type rebuild struct {
	shard   queue.ShardID
	why     error
	seat    uint64    // the number of its next seat
	told    time.Time // when the others were
	stopped bool      // the damaged one has been stopped, and no other has started
}

const (
	// healPause lies between two tries of the same.
	healPause = 10 * time.Second
	// maxTold is how long others are asked to remove a seat. Two nodes that ask at the same time get no answer.
	maxTold = 30 * time.Second
	// maxRebuild is how long other replicas wait while a new seat has no vote; it goes on by itself then.
	maxRebuild = 10 * time.Minute
)

func newHealer(c *Cluster) *healer { return &healer{c: c, rest: map[queue.ShardID]time.Time{}} }

// step does what can be done now, and does not wait but for a leadership to move.
func (h *healer) step(now time.Time) {
	if h.now != nil {
		h.proceed(now)
		return
	}
	for _, s := range h.c.shards() {
		if f := s.found.Load(); f != nil && now.After(h.rest[s.id]) && h.begin(now, s, f.err) {
			return
		}
	}
}

// starts tells whether a replica was stopped, and the healer is about to start it anew.
func (h *healer) starts(id queue.ShardID) bool {
	return h.now != nil && h.now.stopped && h.now.shard == id
}

// begin tells the others that a replica is to be rebuilt, if they can spare it; false: not now.
func (h *healer) begin(now time.Time, s *shard, why error) bool {
	c := h.c
	nodes := c.placementOf(s.group.id)
	if !slices.Contains(nodes, c.Self().Node) {
		return false // it is to go in any case
	}
	h.rest[s.id] = now.Add(healPause)
	if len(nodes) < 2 {
		h.rest[s.id] = now.Add(time.Hour)
		c.log.Error("a damaged replica stays as it is: no other node has a copy", "shard", s.id, "why", why)
		return false
	}
	if _, leads := s.leading(); leads {
		uuid := c.successor(s.group, c.otherNodes(), anyClock)
		if moved := uuid != "" && s.handTo(c.ctx, uuid); !moved && !(s.starve.Load() && c.canSpare(s, nodes)) {
			return false
		} else if !moved { // it can neither lead nor bring another to where that could
			s.halt("followers cannot be sent what they need")
		}
	} else if !c.canSpare(s, nodes) {
		h.rest[s.id] = now // until the others are well
		return false
	}
	s.group.mu.Lock()
	seat := s.seat
	s.group.mu.Unlock()
	h.now = &rebuild{shard: s.id, why: why, seat: nextIncarnation(seat), told: now}
	s.next.Store(h.now.seat)
	c.statusChanged()
	return true
}

// canSpare tells whether a group that has a leader can do without this node's seat for a while: another is whole, and this has no vote,
// or the members are what they should be and those that remain have a majority that lives.
func (c *Cluster) canSpare(s *shard, nodes []uint16) bool {
	leader := c.report(s.group.id)
	if leader == nil || len(leader.Seats) == 0 {
		return false
	}
	votes, others, well, whole := false, 0, 0, false
	for _, seat := range leader.Seats {
		switch {
		case !seat.Votes:
		case seat.Server == string(s.server()):
			votes = true
		default:
			others++
			if c.claims(s.group.id, seat.Server) {
				well++
				whole = whole || c.isWhole(s.group.id, seat.Server)
			}
		}
	}
	return whole && (!votes || c.isSettled(&place.Shard{Nodes: nodes}, leader) && 2*well > others)
}

// isWhole tells whether no damage is known of another node's replica. One without must be left: of two that are damaged each may have what
// the other lacks.
func (c *Cluster) isWhole(group uint32, server string) bool {
	p := c.watcher.info(raftnet.NodeOf(server))
	return slices.ContainsFunc(p.status.GetGroups(), func(g *nodev1.GroupStatus) bool {
		return g.Group == group && g.Damage == "" && g.Found == ""
	})
}

// proceed goes on with the replica that is being rebuilt.
func (h *healer) proceed(now time.Time) {
	c, b := h.c, h.now
	s := c.shard(b.shard)
	switch {
	case b.stopped:
		if now.After(h.rest[b.shard]) {
			h.start(now)
		}
	case s == nil: // it was placed elsewhere
		h.now = nil
	case s.next.Load() != 0 && c.unseated(s):
		c.stopReplica(s)
		b.stopped = true
		h.start(now)
	case s.next.Load() != 0:
		if now.Sub(b.told) > maxTold {
			s.next.Store(0)
			s.resume()
			c.statusChanged()
			h.rest[b.shard] = now.Add(healPause + rand.N(healPause))
			h.now = nil
		}
	case s.found.Load() != nil: // again
		h.rest[b.shard] = now.Add(healPause)
		h.now = nil
	case s.votes():
		c.log.Info("a replica that was damaged is whole again", "shard", s.id)
		h.now = nil
	case now.Sub(b.told) > maxRebuild:
		h.now = nil
	}
}

// start begins anew in the place of a replica that was stopped.
func (h *healer) start(now time.Time) {
	c, b := h.c, h.now
	var placement *catalog.Shard
	c.catalog.read(func(s *catalog.State) { placement = s.Shard(b.shard) })
	if err := c.startReplica(placement, b.why, b.seat); err != nil {
		c.log.Error("a damaged replica could not be rebuilt; trying again", "shard", b.shard, "err", err)
		c.setDamaged(uint32(b.shard), err.Error())
		h.rest[b.shard] = now.Add(healPause)
		return
	}
	c.setDamaged(uint32(b.shard), "")
	b.stopped = false
}

// votes tells whether the group's newest configuration, as far as this seat knows it, gives it a vote.
func (g *group) votes() bool {
	server := g.server()
	return slices.ContainsFunc(g.members(), func(s raft.Server) bool { return s.ID == server && s.Suffrage == raft.Voter })
}
