package cluster

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/warrenmq/warren/cluster/pipe"
	"github.com/warrenmq/warren/cluster/raftnet"
	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
)

// campaignPeriod is how often each seat looks whether its group's leader lives.
const campaignPeriod = 25 * time.Millisecond

// campaign lets seats stand for election when their leader's process is gone.
func (c *Cluster) campaign(ctx context.Context) {
	ticker := time.NewTicker(campaignPeriod)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			var standing sync.WaitGroup // a seat that is busy does not keep the others
			for _, g := range c.groups() {
				standing.Go(func() { g.consider(now, c.watcher) })
			}
			standing.Wait()
		case <-ctx.Done():
			return
		}
	}
}

// groups are the groups that this node has a seat in.
func (c *Cluster) groups() []*group {
	list := []*group{c.catalog.group}
	for _, s := range c.shards() {
		list = append(list, s.group)
	}
	return list
}

// place starts the replicas that the catalog gives this node, and tells hosts of runs that are over.
func (c *Cluster) place(ctx context.Context) {
	select {
	case <-c.joined:
	case <-ctx.Done():
		return
	}
	runs := map[uint16]uint64{}
	for {
		c.startReplicas()
		for number, n := range c.directory.Load().byNumber {
			c.watcher.add(n.UUID)
			if n.Run > 1 && n.Run != runs[number] {
				c.sessionIs(queue.MakeSessionID(number, n.Run-1), pipe.PeerDead)
			}
			runs[number] = n.Run
		}
		select {
		case <-c.placing:
		case <-ctx.Done():
			return
		}
	}
}

func (c *Cluster) startReplicas() {
	self := c.Self().Node
	var mine []*catalog.Shard
	c.catalog.read(func(s *catalog.State) {
		for sh := range s.Shards() {
			if slices.Contains(sh.Nodes, self) {
				mine = append(mine, sh)
			}
		}
	})
	for _, placement := range mine {
		if c.shard(placement.ID) != nil || c.damaged(uint32(placement.ID)) != "" {
			continue
		}
		if err := c.startReplica(placement); err != nil {
			c.log.Error("a replica does not take part", "shard", placement.ID, "err", err)
			c.setDamaged(uint32(placement.ID), err.Error())
		}
	}
}

func (c *Cluster) startReplica(placement *catalog.Shard) error {
	s, err := newShard(c, placement.ID)
	if err != nil {
		return err
	}
	var first []string
	if placement.Version == 1 {
		for _, number := range placement.Nodes {
			first = append(first, c.uuidOf(number))
		}
	}
	if err := s.open(first, len(placement.Nodes) > 1, c.db.Renewed()); err != nil {
		s.host.Close()
		return err
	}
	all := map[queue.ShardID]*shard{placement.ID: s}
	for id, other := range *c.replicas.Load() {
		all[id] = other
	}
	c.replicas.Store(&all)
	for number, n := range c.directory.Load().byNumber {
		if n.Run > 1 {
			s.host.Peer(queue.MakeSessionID(number, n.Run-1), pipe.PeerDead)
		}
		if p := c.watcher.info(n.UUID); p.status != nil && p.state != pipe.PeerAlive {
			s.host.Peer(queue.SessionID(p.status.Session), p.state)
		}
	}
	c.leadershipChanged(s)
	return nil
}

// placementOf are the numbers of the nodes that should hold a shard.
func (c *Cluster) placementOf(group uint32) (nodes []uint16) {
	c.catalog.read(func(s *catalog.State) {
		if sh := s.Shard(queue.ShardID(group)); sh != nil {
			nodes = sh.Nodes
		}
	})
	return nodes
}

func (c *Cluster) damaged(group uint32) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.damage[group]
}

func (c *Cluster) setDamaged(group uint32, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.damage[group] = why
}

// superviseTimeout bounds each step of the catalog's leader; it is tried again.
const (
	superviseTimeout = 5 * time.Second
	supervisePeriod  = 500 * time.Millisecond
	// balanceAfter is how long a preferred leader must have been well before the leadership goes back to it.
	balanceAfter = 5 * time.Second
)

// supervise does what one node does for all: the catalog's leader begins the cluster, places its shards, and ends the
// sessions of nodes that are gone. Every node tells first members of the beginning and gives leaderships back.
func (c *Cluster) supervise(ctx context.Context) {
	ticker := time.NewTicker(supervisePeriod)
	defer ticker.Stop()
	for {
		step, cancel := context.WithTimeout(ctx, superviseTimeout)
		c.tellFounding(step)
		if _, ok := c.catalog.leading(); ok {
			if err := c.arrange(step); err != nil && ctx.Err() == nil {
				c.log.Info("the catalog's leader could not arrange everything; trying again", "err", err)
			}
		}
		cancel()
		c.exchangeSeats()
		c.giveBack(time.Now())
		select {
		case <-ticker.C:
		case <-c.supervised:
		case <-ctx.Done():
			return
		}
	}
}

// arrange brings the catalog to what it should be.
func (c *Cluster) arrange(ctx context.Context) error {
	var created bool
	var placed, nodes int
	c.catalog.read(func(s *catalog.State) {
		created = s.ClusterID() != ""
		for range s.Shards() {
			placed++
		}
		for range s.Nodes() {
			nodes++
		}
	})
	switch {
	case !created:
		_, err := c.Propose(ctx, catalog.CreateCluster(&raftv1.CreateCluster{ClusterId: c.clusterID(), Shards: uint32(c.o.Shards),
			Replication: uint32(c.o.Replicas), GuestPasswordHash: c.o.GuestPasswordHash}))
		return err
	case placed == 0 && nodes >= len(c.founded.Load().Servers):
		return c.placeFirst(ctx)
	case placed > 0:
		return c.endSessions(ctx)
	}
	return nil
}

// placeFirst spreads the shards over the first members, each node leading as many.
func (c *Cluster) placeFirst(ctx context.Context) error {
	var numbers []uint32
	var shards, replication int
	c.catalog.read(func(s *catalog.State) {
		shards, replication = s.ShardCount(), s.Replication()
		for n := range s.Nodes() {
			numbers = append(numbers, uint32(n.Number))
		}
	})
	m := &raftv1.SetReplicas{}
	for i := range shards {
		r := &raftv1.ShardReplicas{Shard: uint32(i)}
		for k := range min(replication, len(numbers)) {
			r.Nodes = append(r.Nodes, numbers[(i+k)%len(numbers)])
		}
		r.Preferred = r.Nodes[0]
		m.Shards = append(m.Shards, r)
	}
	_, err := c.Propose(ctx, catalog.SetReplicas(m))
	return err
}

// endSessions removes the exclusive queues of nodes whose process is gone, or which could not be reached for long.
func (c *Cluster) endSessions(ctx context.Context) error {
	over := map[queue.SessionID]bool{}
	c.catalog.read(func(s *catalog.State) {
		for v := range s.VHosts() {
			for q := range v.Queues() {
				if q.Exclusive() && !over[q.OwnerSession] && c.isOver(q.OwnerSession) {
					over[q.OwnerSession] = true
				}
			}
		}
	})
	var errs []error
	for session := range over {
		_, err := c.Propose(ctx, catalog.SessionOver(&raftv1.SessionOver{Session: uint64(session)}))
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (c *Cluster) isOver(session queue.SessionID) bool {
	uuid := c.uuidOf(session.Node())
	if uuid == "" || session.Node() == c.Self().Node {
		return false
	}
	p := c.watcher.info(uuid)
	if p.status == nil || queue.SessionID(p.status.Session) != session {
		return false
	}
	return p.state == pipe.PeerDead || p.state == pipe.PeerUnreachable && time.Since(p.since) > sessionGrace
}

// giveBack moves the leadership of one shard to the node that should have it, if that is well and up to date.
func (c *Cluster) giveBack(now time.Time) {
	preferred := map[queue.ShardID]uint16{}
	c.catalog.read(func(s *catalog.State) {
		for sh := range s.Shards() {
			preferred[sh.ID] = sh.Preferred
		}
	})
	for _, s := range c.shards() {
		node := preferred[s.id]
		if _, ok := s.leading(); !ok || node == c.Self().Node || node == 0 {
			continue
		}
		uuid := c.uuidOf(node)
		p := c.watcher.info(uuid)
		if p.state != pipe.PeerAlive || now.Sub(p.since) < balanceAfter || !s.upToDate(p) {
			continue
		}
		s.handTo(c.ctx, uuid)
		return // one at a time
	}
}

// maxLag is how many entries a seat may be behind to be given the leadership.
const maxLag = 64

// upToDate tells whether a node's seat, as it last said, is close behind this one.
func (g *group) upToDate(p peerInfo) bool {
	r := g.instance()
	if p.status == nil || r == nil {
		return false
	}
	for _, s := range p.status.Groups {
		if s.Group == g.id {
			return s.Damage == "" && s.Applied+maxLag >= r.CommitIndex()
		}
	}
	return false
}

// transferTimeout bounds the wait for a transfer; the library gives up after an election timeout.
const transferTimeout = 2 * electionTimeout

// handTo moves the leadership to a node's seat and waits until that has ended, one way or the other. Meanwhile this seat takes
// nothing new: the library would refuse it.
func (g *group) handTo(ctx context.Context, uuid string) {
	g.mu.Lock()
	r, quit := g.running.Load(), g.quit
	g.mu.Unlock()
	servers := g.members()
	at := slices.IndexFunc(servers, func(s raft.Server) bool {
		return s.Suffrage == raft.Voter && raftnet.NodeOf(string(s.ID)) == uuid
	})
	if r == nil || at < 0 {
		return
	}
	g.setLeads(false, 0)
	g.parts.follow()
	g.parts.changed()
	f := r.LeadershipTransferToServer(servers[at].ID, servers[at].Address)
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	select {
	case err := <-done:
		if err != nil {
			g.log.Info("leadership was not handed over", "group", g.name, "to", uuid, "err", err)
		}
	case <-time.After(transferTimeout):
	case <-ctx.Done():
	}
	if r.State() == raft.Leader { // it stays here
		g.establish(r, quit)
		g.parts.changed()
	}
}

// handOver moves all leaderships to other nodes before this one stops.
func (c *Cluster) handOver(ctx context.Context) {
	for _, g := range c.groups() {
		if _, ok := g.leading(); !ok || ctx.Err() != nil {
			continue
		}
		for _, s := range g.members() {
			uuid := raftnet.NodeOf(string(s.ID))
			if uuid != c.identity.UUID && c.watcher.alive(uuid) && g.upToDate(c.watcher.info(uuid)) {
				g.handTo(ctx, uuid)
				break
			}
		}
	}
}

// checkpoint makes checkpoints of the shards that keep log files from retiring.
func (c *Cluster) checkpoint(ctx context.Context) {
	for {
		select {
		case ids := <-c.o.Store.NeedsCheckpoint():
			for _, id := range ids {
				if s := c.shard(queue.ShardID(id)); s != nil && ctx.Err() == nil {
					if err := s.checkpoint(); err != nil && ctx.Err() == nil {
						c.log.Warn("checkpoint", "shard", id, "err", err)
					}
				}
			}
		case <-ctx.Done():
			return
		}
	}
}
