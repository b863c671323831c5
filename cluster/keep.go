package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/warrenmq/warren/cluster/pipe"
	"github.com/warrenmq/warren/cluster/raftnet"
	nodev1 "github.com/warrenmq/warren/proto/node/v1"
	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
)

// campaignPeriod is how often each seat looks whether its group's leader lives.
const campaignPeriod = 25 * time.Millisecond

// campaign lets seats stand for election when their leader's process is gone, and takes from them who leads.
func (c *Cluster) campaign(ctx context.Context) {
	ticker := time.NewTicker(campaignPeriod)
	defer ticker.Stop()
	var standing sync.WaitGroup
	defer standing.Wait()
	var taken time.Time
	for {
		select {
		case <-ticker.C:
		case <-c.campaigning:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		c.lookAtDisk(now)
		if now.Sub(taken) >= statusPeriod {
			taken = now
			for _, s := range c.shards() {
				c.takeLeader(s)
			}
		}
		for _, g := range c.groups() { // a seat that is busy does not keep the others
			standing.Go(func() { g.consider(now, c.watcher) })
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

// place starts the replicas that the catalog gives this node, ends those that it has taken, and tells hosts of runs that are
// over.
func (c *Cluster) place(ctx context.Context) {
	select {
	case <-c.joined:
	case <-ctx.Done():
		return
	}
	runs := map[uint16]uint64{}
	h, again := newHealer(c), retries{}
	for {
		now := time.Now()
		c.startReplicas(now, again, h)
		c.reviveGroups(now, again)
		c.endReplicas()
		h.step(now)
		c.followMembers(runs)
		select {
		case <-c.placing:
		case <-ctx.Done():
			return
		}
	}
}

// followMembers watches the members and no others, and tells hosts of runs that are over. runs is what it knew before. If this process's run
// is over itself, since a request of an earlier one was held up on its way, say, it ends: the catalog refuses all that it owns.
func (c *Cluster) followMembers(runs map[uint16]uint64) {
	d := c.directory.Load()
	if n, self := d.byUUID[c.identity.UUID], c.Self(); n != nil && n.Number == self.Node && n.Session() > self.Session {
		c.o.OnFatal(fmt.Errorf("the catalog has run %d of this node, and this process is an earlier one: it must be started again", n.Run))
		return
	}
	for number, n := range d.byNumber {
		c.watcher.add(n.UUID)
		if n.Run > 1 && n.Run != runs[number] {
			c.sessionIs(queue.MakeSessionID(number, n.Run-1), pipe.PeerDead)
			if number != c.Self().Node { // until it is told that the present one is over as well
				c.edge.SessionAlive(queue.MakeSessionID(number, n.Run))
			}
		}
		runs[number] = n.Run
	}
	for number, run := range runs {
		if d.byNumber[number] == nil { // removed
			c.sessionIs(queue.MakeSessionID(number, run), pipe.PeerDead)
			delete(runs, number)
		}
	}
	if d.placed {
		c.watcher.keep(func(uuid string) bool { return d.byUUID[uuid] != nil })
	}
}

const (
	// startPause lies between two tries to start what could not be started, at first.
	startPause = 10 * time.Second
	// maxStartPause is what the pause grows to: what is in the way may be a full disk.
	maxStartPause = 5 * time.Minute
)

// retry is when what could not be started is tried again.
type retry struct {
	after time.Time
	pause time.Duration
}

// retries are the groups that could not be started.
type retries map[uint32]retry

func (r retries) due(group uint32, now time.Time) bool { return !now.Before(r[group].after) }

// tried notes how a try ended.
func (r retries) tried(group uint32, now time.Time, err error) {
	if err == nil {
		delete(r, group)
		return
	}
	pause := min(max(2*r[group].pause, startPause), maxStartPause)
	r[group] = retry{now.Add(pause), pause}
}

// reviveGroups begins the instances that there should be and are not, since a later one of a group could not start.
func (c *Cluster) reviveGroups(now time.Time, again retries) {
	for _, g := range c.groups() {
		if again.due(g.id, now) {
			again.tried(g.id, now, g.revive())
		}
	}
}

// startReplicas starts the replicas that belong here, and again those that could not be started, but for what the healer is about to
// start: that is to begin empty.
func (c *Cluster) startReplicas(now time.Time, again retries, h *healer) {
	self := c.Self().Node
	var mine []*catalog.Shard
	c.catalog.read(func(s *catalog.State) {
		for sh := range s.Shards() {
			if slices.Contains(sh.Nodes, self) || c.hasSeatIn(uint32(sh.ID)) {
				mine = append(mine, sh)
			}
		}
	})
	for _, placement := range mine {
		group := uint32(placement.ID)
		if c.shard(placement.ID) != nil || h.starts(placement.ID) || !again.due(group, now) {
			continue
		}
		err, why := c.startReplica(placement, nil, 0), ""
		if err != nil {
			why = err.Error()
			c.log.Error("a replica does not take part", "shard", placement.ID, "err", err)
		}
		c.setDamaged(group, why)
		again.tried(group, now, err)
	}
	c.discardLeft()
}

// discardLeft discards what replicas have left whose end was cut short: their entries would keep log files for ever. endReplica alone
// leaves a seat that is not ready under a number above the first: what there is belongs to a former seat, which a majority has agreed
// to do without, and the present one has promised nothing. (A first seat that is not ready may have begun, and voted.) Should the
// shard be placed here again, which the catalog may not say here yet, the replica begins empty in any case.
func (c *Cluster) discardLeft() {
	for _, g := range c.o.Store.Groups() {
		if g.Last == 0 || c.shard(queue.ShardID(g.ID)) != nil || c.damaged(g.ID) != "" {
			continue
		}
		stable := c.db.Stable(g.ID)
		if seat, err := stable.Seat(); err != nil || seat.Incarnation <= 1 || seat.Ready {
			continue
		}
		store, err := c.o.Store.Group(g.ID)
		if err == nil {
			err = errors.Join(stable.Forget(), store.Discard())
		}
		if err != nil {
			c.log.Error("what a replica has left cannot be discarded", "shard", g.ID, "err", err)
			continue
		}
		c.log.Info("what a replica has left is discarded", "shard", g.ID)
	}
}

// hasSeatIn tells whether this node has a seat that was not given up: it takes part, though the shard may be placed elsewhere
// by now, until the group has agreed that it does not. Its vote may be needed for that.
func (c *Cluster) hasSeatIn(group uint32) bool {
	seat, err := c.db.Stable(group).Seat()
	return err == nil && seat.Ready
}

// endReplicas ends the replicas that are placed elsewhere and whose seats their groups have removed, and only those: that
// the catalog does not name this node is not enough to discard what it holds.
func (c *Cluster) endReplicas() {
	for _, s := range c.shards() {
		if slices.Contains(c.placementOf(s.group.id), c.Self().Node) || !c.unseated(s) {
			continue
		}
		if err := c.endReplica(s); err != nil && c.ctx.Err() == nil {
			c.log.Error("a replica that is not needed any more cannot be discarded", "shard", s.id, "err", err)
		}
	}
}

// unseated tells whether a majority of a replica's group has agreed on members without its seat, not before those that it
// knows itself: the leader that says so may be one of long ago.
func (c *Cluster) unseated(s *shard) bool {
	leader := c.report(s.group.id)
	if leader == nil || len(leader.Seats) == 0 || c.follower.fresh() != nil {
		return false
	}
	known := s.agreed.Load()
	return (known == nil || leader.SeatsIndex >= known.index) &&
		!slices.ContainsFunc(leader.Seats, func(seat *nodev1.Seat) bool { return seat.Server == string(s.server()) })
}

// endReplica stops a replica and discards what it holds. A later one on this node has another seat: this one has promised
// things.
func (c *Cluster) endReplica(s *shard) error {
	c.stopReplica(s)
	s.group.mu.Lock()
	seat := s.seat
	s.group.mu.Unlock()
	seat.Incarnation, seat.Ready = seat.Incarnation+1, false
	if err := errors.Join(s.stable.SaveSeat(seat), s.stable.Forget(), s.store.Discard()); err != nil {
		return err
	}
	c.log.Info("a replica has left this node", "shard", s.id)
	return nil
}

// stopReplica stops a replica; what it holds stays.
func (c *Cluster) stopReplica(s *shard) {
	all := maps.Clone(*c.replicas.Load())
	delete(all, s.id)
	c.replicas.Store(&all)
	s.stop()
	s.host.Close()
	c.leaders.clear(s.id, c.Self().Node)
	c.statusChanged()
}

// startReplica starts this node's replica of a shard. If damage is not nil, what is on disk is to be had again from the others, under
// the seat of that number.
func (c *Cluster) startReplica(placement *catalog.Shard, damage error, seat uint64) error {
	s, err := newShard(c, placement.ID)
	if err != nil {
		return err
	}
	s.damage = damage
	s.next.Store(seat)
	var first []string
	if placement.Version == 1 {
		for _, number := range placement.Nodes {
			first = append(first, c.uuidOf(number))
		}
	}
	// A lone replica that moves here is still elsewhere while its group says so: a seat that has nothing yet has lost nothing.
	peers := len(placement.Nodes) > 1 || c.report(s.group.id) != nil
	if err := s.open(first, peers, c.db.Renewed()); err != nil {
		s.stop() // what does not take part runs no instance beside the next one
		s.host.Close()
		return err
	}
	all := maps.Clone(*c.replicas.Load())
	all[placement.ID] = s
	c.replicas.Store(&all)
	for _, number := range c.formerNumbers() { // nobody else tells the host of them
		s.host.Peer(queue.MakeSessionID(number, math.MaxUint64), pipe.PeerDead)
	}
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

// formerNumbers are the numbers of nodes that were members and are none any more.
func (c *Cluster) formerNumbers() (numbers []uint16) {
	c.catalog.read(func(s *catalog.State) {
		for number := uint16(1); number <= s.LastNode(); number++ {
			if s.Node(number) == nil {
				numbers = append(numbers, number)
			}
		}
	})
	return numbers
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

// setDamaged notes why a group does not take part; empty: it does.
func (c *Cluster) setDamaged(group uint32, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if why == "" {
		delete(c.damage, group)
		return
	}
	c.damage[group] = why
}

// superviseTimeout bounds each step of the catalog's leader; it is tried again.
const (
	superviseTimeout = 5 * time.Second
	supervisePeriod  = 500 * time.Millisecond
	exchangePeriod   = 50 * time.Millisecond // while the members of a group change
	// balanceAfter is how long a preferred leader must have been well before the leadership goes back to it.
	balanceAfter = 5 * time.Second
)

// supervise does what one node does for all: the catalog's leader begins the cluster, places its shards, and ends the
// sessions of nodes that are gone. Every node tells first members of the beginning and gives leaderships back.
func (c *Cluster) supervise(ctx context.Context) {
	var lookedAtSessions time.Time // they are many: not each time
	for {
		pause := supervisePeriod
		c.pace.sample(time.Now(), c.groups())
		step, cancel := context.WithTimeout(ctx, superviseTimeout)
		c.tellFounding(step)
		if _, ok := c.catalog.leading(); ok {
			sessions := time.Since(lookedAtSessions) >= supervisePeriod
			if sessions {
				lookedAtSessions = time.Now()
			}
			if err := c.arrange(step, sessions); err != nil && ctx.Err() == nil {
				c.log.Info("the catalog's leader could not arrange everything; trying again", "err", err)
			}
		}
		cancel()
		if c.exchangeSeats() {
			pause = exchangePeriod
		}
		if c.giveAway() || c.giveAwayForClock() {
			pause = exchangePeriod
		} else {
			c.giveBack(time.Now())
		}
		c.raiseShards()
		c.leaveWhenEmpty()
		c.wakePlacer()
		select {
		case <-time.After(pause):
		case <-c.supervised:
		case <-ctx.Done():
			return
		}
	}
}

// arrange brings the catalog to what it should be; sessions: and looks for those that are over.
func (c *Cluster) arrange(ctx context.Context, sessions bool) error {
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
	case placed == 0 && (nodes >= len(c.founded.Load().Servers) || c.goesOnWithout(time.Now())):
		return c.placeFirst(ctx)
	case placed > 0:
		if sessions {
			if err := c.endSessions(ctx, time.Now()); err != nil {
				return err
			}
		}
		if err := c.raiseVersion(ctx); err != nil {
			return err
		}
		return c.move(ctx)
	}
	return nil
}

// goesOnWithout tells whether the first members that have not registered are given up: a majority has, and each of the others was not
// reached for long. Once the shards are placed a node of its name is let in instead, and one that does come back asks to be let in (letInAgain).
func (c *Cluster) goesOnWithout(now time.Time) bool {
	d, first := c.directory.Load(), c.founded.Load().Servers
	registered := 0
	for _, s := range first {
		if d.byUUID[s.UUID] != nil {
			registered++
		} else if p := c.watcher.info(s.UUID); p.since.IsZero() || p.state == pipe.PeerAlive || now.Sub(p.since) <= sessionGrace {
			return false
		}
	}
	return 2*registered > len(first)
}

// placeFirst spreads the shards over the first members that there are, each node leading as many.
func (c *Cluster) placeFirst(ctx context.Context) error {
	var numbers []uint32
	var shards, replication int
	c.catalog.read(func(s *catalog.State) {
		shards, replication = s.ShardCount(), s.Replication()
		for n := range s.Nodes() {
			numbers = append(numbers, uint32(n.Number))
		}
	})
	if len(numbers) == 0 {
		return errors.New("no node is registered yet")
	}
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

// memberRun is what the node that leads the catalog remembers of a member's present run. It belongs to supervise.
type memberRun struct {
	session queue.SessionID
	seen    time.Time // when this node first saw that it is the present one
	told    time.Time // when all were told that it is over; zero: it is not, as far as is known
}

// tellAgain lies between two times that all are told that a session is over. A node may have started since, or may have reached the lost one
// in between: what it sends to that one's memory would wait without end.
const tellAgain = sessionGrace

// endSessions removes the exclusive queues of members whose process is gone, or which could not be reached for long, and has what is on
// its way to their memory answered (sessionEnded). Queues without names may lie there, so it does not matter whether any has one.
func (c *Cluster) endSessions(ctx context.Context, now time.Time) error {
	var errs []error
	for _, r := range c.lostRuns(now) {
		_, err := c.Propose(ctx, catalog.SessionOver(&raftv1.SessionOver{Session: uint64(r.session)}))
		if err == nil {
			r.told = now
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// lostRuns are the members' runs that are over and of which it is time to tell: not while the lost node may hold a lease. What rests on the
// catalog, as mandatory publishes do, would wait for that to end since there is a change (Cluster.Settle), and clients of all nodes would
// notice that one has died.
func (c *Cluster) lostRuns(now time.Time) (lost []*memberRun) {
	members := c.directory.Load().byNumber
	maps.DeleteFunc(c.runs, func(number uint16, _ *memberRun) bool { return members[number] == nil })
	for _, number := range slices.Sorted(maps.Keys(members)) {
		n, r := members[number], c.runs[number]
		if r == nil || r.session != n.Session() {
			r = &memberRun{session: n.Session(), seen: now}
			c.runs[number] = r
		}
		switch {
		case !c.isOver(n, r.seen, now):
			r.told = time.Time{}
		case now.Sub(r.told) >= tellAgain && !c.leases.binds(number, now):
			lost = append(lost, r)
		}
	}
	return lost
}

// isOver tells whether a member's present run, which this node first saw at a time, has ended, or its node could not be reached for long.
// What was seen of the node may have been an earlier run, or nothing was seen since this node started; then it must not have been reached
// for as long after the run was seen: a node listens before it registers.
func (c *Cluster) isOver(n *catalog.Node, seen, now time.Time) bool {
	p := c.watcher.info(n.UUID)
	if n.Run == 0 || n.Number == c.Self().Node || p.state == pipe.PeerAlive || p.since.IsZero() {
		return false
	}
	since := p.since
	if queue.SessionID(p.status.GetSession()) != n.Session() {
		if since.Before(seen) {
			since = seen
		}
	} else if p.state == pipe.PeerDead {
		return true
	}
	return now.Sub(since) > sessionGrace
}

// giveBack moves the leadership of one shard to the node that should have it, if that is well and up to date.
func (c *Cluster) giveBack(now time.Time) {
	preferred := map[queue.ShardID]uint16{}
	c.catalog.read(func(s *catalog.State) {
		for sh := range s.Shards() {
			preferred[sh.ID] = sh.Preferred
		}
	})
	clocks := c.clocks.view()
	for _, s := range c.shards() {
		node := preferred[s.id]
		if _, ok := s.leading(); !ok || node == c.Self().Node || node == 0 {
			continue
		}
		uuid := c.uuidOf(node)
		p := c.watcher.info(uuid)
		// One that has just missed a status may be the leader before this one, and silent: a transfer to it would only time out.
		if p.state != pipe.PeerAlive || now.Sub(p.since) < balanceAfter || now.Sub(p.heard) > 2*statusPeriod || p.status.GetDraining() || !c.upToDate(s.group, p) ||
			p.status.GetClockOff() || clocks.Off(uuid, clocks.Bound) || p.status.GetDiskSlow() || !s.mayTake(uuid) {
			continue
		}
		s.handTo(c.ctx, uuid)
		return // one at a time
	}
}

// maxLag is how many entries a seat may be behind to be given the leadership, beyond those of the last seconds: what is known of
// it is half a second old.
const maxLag = 64

// upToDate tells whether a node's seat, as it last said, is close behind this one, and whole.
func (c *Cluster) upToDate(g *group, p peerInfo) bool {
	r := g.instance()
	if p.status == nil || r == nil {
		return false
	}
	enough := min(c.pace.before(g.id), r.CommitIndex()-min(maxLag, r.CommitIndex()))
	for _, s := range p.status.Groups {
		if s.Group == g.id {
			return s.Damage == "" && s.Found == "" && s.Applied >= enough
		}
	}
	return false
}

// pace remembers how far the groups were a little while ago.
type pace struct {
	mu      sync.Mutex // guards what follows
	sampled time.Time
	last    map[uint32]uint64 // what was committed when it was sampled
	earlier map[uint32]uint64 // and at the time before
}

// pacePeriod lies between two samples.
const pacePeriod = time.Second

func (p *pace) sample(now time.Time, groups []*group) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Sub(p.sampled) < pacePeriod {
		return
	}
	p.sampled, p.earlier, p.last = now, p.last, map[uint32]uint64{}
	for _, g := range groups {
		if r := g.instance(); r != nil {
			p.last[g.id] = r.CommitIndex()
		}
	}
}

// before is what a group had committed between one and two periods ago; as much as can be if that is not known.
func (p *pace) before(group uint32) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if index, ok := p.earlier[group]; ok {
		return index
	}
	return math.MaxUint64
}

// transferTimeout bounds the wait for a transfer; the library gives up after an election timeout.
const transferTimeout = 2 * electionTimeout

// handTo moves the leadership to a node's seat and waits until that has ended, one way or the other; moved: this seat leads no
// more. Meanwhile, and until watch has established it again, it takes nothing new: the library would refuse it. It is not tried with a seat
// of which mayHandTo is false.
func (g *group) handTo(ctx context.Context, uuid string) (moved bool) {
	g.mu.Lock()
	r, quit, kept := g.running.Load(), g.quit, g.kept
	g.mu.Unlock()
	servers := g.members()
	at := slices.IndexFunc(servers, func(s raft.Server) bool {
		return s.Suffrage == raft.Voter && raftnet.NodeOf(string(s.ID)) == uuid
	})
	if r == nil || at < 0 || !g.mayHandTo(servers[at].ID, r.CurrentTerm()) {
		return false
	}
	g.setLeads(false, 0)
	g.parts.follow()
	g.parts.changed()
	term := r.CurrentTerm()
	f := r.LeadershipTransferToServer(servers[at].ID, servers[at].Address)
	done := make(chan error, 1)
	go func() { done <- answer(f, quit) }()
	answered := false
	select {
	case err := <-done:
		if answered = transferAnswered(err); err != nil {
			g.log.Info("leadership was not handed over", "group", g.name, "to", uuid, "err", err)
		}
	case <-time.After(transferTimeout):
	case <-ctx.Done():
	}
	if !answered {
		g.noteUnanswered(servers[at].ID, term)
	}
	if r.State() == raft.Leader { // it stays here
		wake(kept)
		return false
	}
	return true
}

// unansweredPause is how long a seat is not offered the leadership after an offer that ended without an answer: longer than the
// library's goroutine takes to ask again after a request that is not answered, with its back-off.
const unansweredPause = 20 * time.Second

// mayHandTo tells whether a seat may be offered the leadership in the term: not soon after an offer that ended without an answer. The
// library's question to the goroutine that replicates to that seat lies in a channel with room for one until it is read, and the
// next transfer would wait to put another there, without end if the leadership is lost before (one way to hashicorp/raft#696).
func (g *group) mayHandTo(to raft.ServerID, term uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	at, asked := g.unanswered[to]
	return term != g.unansweredIn || !asked || time.Since(at) > unansweredPause
}

// mayTake tells whether a node has a vote and may be offered the leadership in the present term.
func (g *group) mayTake(uuid string) bool {
	r := g.instance()
	return r != nil && slices.ContainsFunc(g.members(), func(s raft.Server) bool {
		return s.Suffrage == raft.Voter && raftnet.NodeOf(string(s.ID)) == uuid && g.mayHandTo(s.ID, r.CurrentTerm())
	})
}

func (g *group) noteUnanswered(to raft.ServerID, term uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if term != g.unansweredIn {
		g.unanswered, g.unansweredIn = map[raft.ServerID]time.Time{}, term
	}
	g.unanswered[to] = time.Now()
}

// transferAnswered tells whether the goroutine that replicates has read the library's question: the last step of a transfer, to
// which the error belongs, is reached after it. An error that the library words otherwise one day counts as no answer.
func transferAnswered(err error) bool {
	return err == nil || strings.HasPrefix(err.Error(), "failed to make TimeoutNow RPC")
}

// handOver moves all leaderships to other nodes before this one stops.
func (c *Cluster) handOver(ctx context.Context) {
	for _, g := range c.groups() {
		if _, ok := g.leading(); !ok || ctx.Err() != nil {
			continue
		}
		if uuid := c.successor(g, c.otherNodes(), anyClock); uuid != "" {
			g.handTo(ctx, uuid)
		}
	}
}

const (
	// tidyPeriod is how often it is looked whether shards keep space on the disk that they need no more.
	tidyPeriod = 5 * time.Second
	// maxTidyPause is what the pause grows to after checkpoints that failed or found no room, as on a full disk.
	maxTidyPause = time.Minute
)

// checkpoint makes checkpoints of the shards that keep log files from retiring, or space that they need no more.
func (c *Cluster) checkpoint(ctx context.Context) {
	ticker := time.NewTicker(tidyPeriod)
	defer ticker.Stop()
	for {
		select {
		case ids := <-c.o.Store.NeedsCheckpoint():
			for _, id := range ids {
				s := c.shard(queue.ShardID(id))
				if s == nil || ctx.Err() != nil {
					continue
				}
				c.checkpointed(ctx, s, s.checkpoint())
				if c.report(id) == nil && s.store.LastIndex() > s.host.Applied() && ctx.Err() == nil {
					c.log.Warn("a shard without a leader keeps log files: what of it has come here and is not applied is not given up", "shard", id)
				}
			}
		case <-ticker.C:
			for _, s := range c.shards() {
				if ctx.Err() == nil && !time.Now().Before(s.tidyAfter) && s.wasteful() {
					octets, floor := s.store.SegmentBytes(), s.store.Floor()
					err := s.checkpoint()
					c.tidied(ctx, s, err, s.store.SegmentBytes() < octets || s.store.Floor() > floor)
				}
			}
		case <-ctx.Done():
			return
		}
	}
}

// checkpointed reports a checkpoint that failed.
func (c *Cluster) checkpointed(ctx context.Context, s *shard, err error) {
	if err != nil && ctx.Err() == nil {
		c.log.Warn("checkpoint", "shard", s.id, "err", err)
	}
}

// tidied is checkpointed after a checkpoint for tidiness. One that fails, or had no room to give back anything, is not repeated at once:
// each of them writes first.
func (c *Cluster) tidied(ctx context.Context, s *shard, err error, gaveBack bool) {
	c.checkpointed(ctx, s, err)
	if err == nil && (gaveBack || !s.store.Postponed()) {
		s.tidyPause = 0
		return
	}
	s.tidyPause = min(max(2*s.tidyPause, 2*tidyPeriod), maxTidyPause)
	s.tidyAfter = time.Now().Add(s.tidyPause)
}
