package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/warrenmq/warren/cluster/raftnet"
	"github.com/warrenmq/warren/cluster/raftstore"
)

// group is this node's seat in one Raft group: it runs the library's instance, and anew when that has got stuck.
type group struct {
	id     uint32
	name   string // for logs
	log    *slog.Logger
	net    *raftnet.Transport
	uuid   string
	stable *raftstore.Stable
	logs   raft.LogStore
	// durable is an index up to which the log is durable here; nil: all of it is, whenever the library has stored it.
	durable func() uint64
	parts   groupParts
	config  raft.Config // without what belongs to an instance
	fatal   func(error) // ends the node

	running atomic.Pointer[raft.Raft] // nil: no instance; changed under mu

	changing sync.Mutex // held while an instance is started or stopped
	ended    bool       // there will be no other instance; guarded by changing
	halted   bool       // there will be none until resume; guarded by changing

	// next is the number of the seat that is to take this one's place, as the others are told; 0: none is.
	next atomic.Uint64

	standing sync.Mutex // held by who considers an election

	mu       sync.Mutex // guards what follows
	seat     raftstore.Seat
	facade   *raftnet.Group
	quit     chan struct{}
	kept     chan struct{} // of the instance, has room for one: a transfer has ended and left the leadership here
	work     *sync.WaitGroup
	leads    bool // established
	term     uint64
	able     time.Time     // since when nothing but its turn keeps this seat from standing for election; zero: something does
	campaign time.Time     // the last one
	pause    time.Duration // after it, until the next
	tries    int           // campaigns since a leader has last stayed
	led      time.Time     // since when a leader is known; zero: none is
	again    time.Time     // the last one in spite of the pause
	nodes    nodesView     // as consider has it; nil: it has not been called yet
	transfer time.Time     // since when a leadership transfer does not end; zero: none

	// unanswered is when a transfer to a seat, in the term unansweredIn, has ended without an answer: see mayHandTo.
	unanswered   map[raft.ServerID]time.Time
	unansweredIn uint64
}

// groupParts is what makes the catalog's group and the shards' different.
type groupParts interface {
	fsm() raft.FSM
	// snapshots opens the store for a new instance, which has not started yet.
	snapshots() (raft.SnapshotStore, error)
	// started tells that the instance runs.
	started()
	// lead tells that this seat leads in the term and that the machine has applied everything up to index, where a
	// barrier of the term stood. follow tells that it does not lead any more.
	lead(term, index uint64)
	follow()
	// changed tells that the group's leader, as far as this seat knows, is another.
	changed()
	// check tells damage of what is on disk, or why that cannot be read now. It changes nothing.
	check() error
	// reread reads what an instance reads when it starts, since one could not, and tells damage that check did not find.
	reread() error
	// met takes note of damage that was met while the group runs, if the error is of any.
	met(err error)
	// empty tells whether there is nothing on disk.
	empty() (bool, error)
	// discard empties what is on disk.
	discard() error
}

// The timers of all groups. Timeouts must be above the worst fsync, since heartbeats wait for it; a leader whose process
// died is not waited for, see campaign.
const (
	heartbeatTimeout = 1500 * time.Millisecond
	electionTimeout  = 1500 * time.Millisecond
	leaseTimeout     = 1200 * time.Millisecond
	commitTimeout    = 100 * time.Millisecond
	// maxAppendEntries bounds a request to 16 entries; those of 256 KiB are the rule, and raftnet bounds the octets of larger ones.
	maxAppendEntries = 16
	// stuckTransfer is how long a leadership transfer may last before the instance is made anew (hashicorp/raft#696).
	stuckTransfer = 3 * electionTimeout
)

// baseConfig is what the groups have in common.
func baseConfig(log *slog.Logger, name string) raft.Config {
	c := *raft.DefaultConfig()
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout, c.CommitTimeout = heartbeatTimeout, electionTimeout, leaseTimeout, commitTimeout
	c.MaxAppendEntries, c.BatchApplyCh = maxAppendEntries, true
	c.ShutdownOnRemove = false
	c.NoLegacyTelemetry = true
	c.RestoreCommittedLogs = false // it deadlocks, and loses configurations: reference raft.md 0.3
	c.Logger = raftLogger(log, name)
	return c
}

// server is the seat's id.
func (g *group) server() raft.ServerID {
	g.mu.Lock()
	defer g.mu.Unlock()
	return raftnet.ServerID(g.uuid, g.seat.Incarnation)
}

var errEnded = errors.New("the group has ended")

// start begins an instance. first, if not nil, is the configuration of a group that begins with it.
func (g *group) start(first *raft.Configuration) error {
	g.changing.Lock()
	defer g.changing.Unlock()
	g.halted = false
	return g.startLocked(first)
}

// startLocked is start for who holds changing.
func (g *group) startLocked(first *raft.Configuration) error {
	if g.ended {
		return fmt.Errorf("start %s: %w", g.name, errEnded)
	}
	if g.running.Load() != nil {
		return nil
	}
	if err := g.run(first); err != nil {
		return fmt.Errorf("start %s: %w", g.name, err)
	}
	return nil
}

// run is startLocked when none runs. mu is not held while the library reads what is on disk: this node tells the others meanwhile
// how its seats are.
func (g *group) run(first *raft.Configuration) error {
	server := g.server()
	notify := make(chan bool, 16)
	config := g.config
	config.LocalID, config.NotifyCh = server, notify
	snapshots, err := g.parts.snapshots()
	if err != nil {
		return err
	}
	facade := g.net.Group(g.id, server)
	if first != nil {
		err := raft.BootstrapCluster(&config, g.logs, g.stable, snapshots, facade, *first)
		if err != nil && !errors.Is(err, raft.ErrCantBootstrap) {
			return errors.Join(err, facade.Close())
		}
	}
	logs := &committedLog{LogStore: g.logs, lost: g.fatal}
	r, err := raft.NewRaft(&config, g.parts.fsm(), logs, g.stable, snapshots, facade)
	if err != nil {
		return errors.Join(err, facade.Close())
	}
	logs.instance.Store(r)
	facade.Refused(func(q *raft.RequestVoteRequest) { g.passedOver(r, facade, q) })
	facade.Elects(r)
	facade.Applied(r.AppliedIndex)
	if g.durable != nil {
		facade.Durable(g.durable)
	}
	facade.Members(func(seat raft.ServerAddress) bool { return hasMember(r, seat) })
	quit, kept, work := make(chan struct{}), make(chan struct{}, 1), new(sync.WaitGroup)
	g.mu.Lock()
	g.facade, g.quit, g.kept, g.work = facade, quit, kept, work
	g.running.Store(r)
	g.able = time.Time{}
	g.mu.Unlock()
	g.parts.started()
	observations := make(chan raft.Observation, 16)
	r.RegisterObserver(raft.NewObserver(observations, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	}))
	work.Go(func() { g.watch(r, notify, observations, kept, quit) })
	return nil
}

// hasMember tells whether a seat is in the newest configuration that an instance knows.
func hasMember(r *raft.Raft, seat raft.ServerAddress) bool {
	known := r.GetConfiguration()
	return known.Error() != nil || slices.ContainsFunc(known.Configuration().Servers, func(s raft.Server) bool { return s.Address == seat })
}

// stop ends the instance, for good. What it was doing fails with raft.ErrRaftShutdown.
func (g *group) stop() {
	g.changing.Lock()
	defer g.changing.Unlock()
	g.ended = true
	g.stopLocked()
}

// stopLocked ends the instance; changing is held.
func (g *group) stopLocked() {
	g.mu.Lock()
	r, facade, quit, work := g.running.Swap(nil), g.facade, g.quit, g.work
	g.mu.Unlock()
	if r == nil {
		return
	}
	if err := facade.Close(); err != nil {
		g.log.Warn("close transport", "group", g.name, "err", err)
	}
	if err := r.Shutdown().Error(); err != nil {
		g.log.Warn("shut down", "group", g.name, "err", err)
	}
	close(quit)
	work.Wait()
	g.setLeads(false, 0)
	g.parts.follow()
}

// restart makes the instance anew, unless the group has ended: it reads what is on disk and forgets what it believed.
func (g *group) restart(why string) {
	g.changing.Lock()
	defer g.changing.Unlock()
	if g.ended || g.halted {
		return
	}
	g.log.Warn("Raft instance is made anew", "group", g.name, "why", why)
	g.stopLocked()
	if err := g.startLocked(nil); err != nil {
		g.log.Error("Raft instance does not start", "group", g.name, "err", err)
		g.parts.met(g.unreadable(err))
	}
}

// halt ends the instance until resume. What it has promised is kept, and its vote is missing meanwhile.
func (g *group) halt(why string) {
	g.changing.Lock()
	defer g.changing.Unlock()
	g.log.Warn("Raft instance is stopped for a while", "group", g.name, "why", why)
	g.halted = true
	g.stopLocked()
}

// resume begins an instance if none runs and the group has not ended.
func (g *group) resume() {
	if err := g.start(nil); err != nil && !errors.Is(err, errEnded) {
		g.log.Error("Raft instance does not start", "group", g.name, "err", err)
	}
}

// revive begins an instance if there should be one and the last try to make it failed, as for want of files that may be open.
func (g *group) revive() error {
	if g.instance() != nil || !g.changing.TryLock() {
		return nil // one is being made
	}
	defer g.changing.Unlock()
	if g.ended || g.halted {
		return nil
	}
	err := g.startLocked(nil)
	if err != nil {
		g.log.Error("Raft instance does not start", "group", g.name, "err", err)
		g.parts.met(g.unreadable(err))
	}
	return err
}

// instance is the running instance, or nil.
func (g *group) instance() *raft.Raft { return g.running.Load() }

// watch follows an instance's leadership until quit. It alone establishes the seat: the end of the leadership, which is told after its beginning,
// must not be overtaken.
func (g *group) watch(r *raft.Raft, notify <-chan bool, observations <-chan raft.Observation, kept <-chan struct{}, quit chan struct{}) {
	for {
		select {
		case leads := <-notify:
			if leads {
				g.establish(r, quit)
			} else {
				g.setLeads(false, 0)
				g.parts.follow()
			}
			g.parts.changed()
		case <-kept:
			if _, leads := g.leading(); !leads {
				g.establish(r, quit)
				g.parts.changed()
			}
		case <-observations:
			g.parts.changed()
		case <-quit:
			return
		}
	}
}

// establish waits, after an election, until the machine has applied everything that earlier leaders committed; the
// library tells of leadership before that.
func (g *group) establish(r *raft.Raft, quit chan struct{}) {
	for r.State() == raft.Leader {
		term := r.CurrentTerm()
		barrier := r.Barrier(0)
		err := answer(barrier, quit)
		if err == nil {
			index := uint64(0)
			if f, ok := barrier.(raft.IndexFuture); ok {
				index = f.Index()
			}
			g.setLeads(true, term)
			g.parts.lead(term, index)
			g.log.Info("leads", "group", g.name, "term", term, "index", index)
			return
		}
		g.transferBlocked(err) // the rest of a transfer that this seat has given up ends in time
		select {
		case <-time.After(10 * time.Millisecond):
		case <-quit:
			return
		}
	}
}

func (g *group) setLeads(leads bool, term uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leads, g.term, g.transfer = leads, term, time.Time{}
	if !leads && g.facade != nil {
		g.facade.Release()
	}
}

// leading tells whether this seat leads and is established, and in which term.
func (g *group) leading() (term uint64, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.term, g.leads && g.running.Load() != nil
}

// leader is the node that this seat takes for the leader, with the term that it knows; empty: none.
func (g *group) leader() (uuid string, term uint64) {
	r := g.instance()
	if r == nil {
		return "", 0
	}
	// The library forgets the leader before its term rises, and both change while they are read: the leader of a term must not be taken for
	// that of the next.
	for term = r.CurrentTerm(); ; {
		_, id := r.LeaderWithID()
		now := r.CurrentTerm()
		if now == term {
			return raftnet.NodeOf(string(id)), term
		}
		term = now
	}
}

// members is the group's configuration as this seat knows it.
func (g *group) members() []raft.Server {
	r := g.instance()
	if r == nil {
		return nil
	}
	f := r.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	return f.Configuration().Servers
}

// verify confirms leadership by a majority and returns an index that holds everything committed before: a read index
// (Raft dissertation, 6.4). An entry of the term is committed already, since the seat was established.
func (g *group) verify(ctx context.Context) (uint64, error) {
	r, over := g.present()
	term, ok := g.leading()
	if !ok || r == nil {
		return 0, raft.ErrNotLeader
	}
	index := r.CommitIndex()
	for began := time.Now(); ; {
		done := make(chan error, 1)
		go func() { done <- answer(r.VerifyLeader(), over) }()
		select {
		case err := <-done:
			if err != nil {
				return 0, err
			}
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		if g.followedSince(term, began) {
			return index, nil
		}
	}
}

// followedSince tells whether a majority has followed this seat in the term after a time. The library's word for it may rest
// on answers from before: see raftnet.Group.FollowedSince.
func (g *group) followedSince(term uint64, since time.Time) bool {
	g.mu.Lock()
	facade := g.facade
	g.mu.Unlock()
	voters, followers := 0, 0
	for _, s := range g.members() {
		if s.Suffrage != raft.Voter {
			continue
		}
		voters++
		if s.Address == facade.LocalAddr() || facade.FollowedSince(s.Address, term, since) {
			followers++
		}
	}
	return 2*followers > voters
}

const (
	// rankDelay separates the seats that may stand for election after a leader's death, best placed first.
	rankDelay = 150 * time.Millisecond
	// splitPause separates the seats that stand since another cannot win: only a message lies between them.
	splitPause = rankDelay / 3
	// hangDelay is how much later a seat stands when its leader lives and has a disk that hangs. One that several nodes share goes on for all
	// of them at the same moment, and the leader says so a little after the others know.
	hangDelay = 6 * campaignPeriod
	// campaignPause is the shortest time between two campaigns of a seat: an election takes a round trip and an fsync.
	campaignPause = time.Second
	// maxCampaignPause is what the pause grows to while no leader stays.
	maxCampaignPause = 8 * time.Second
	// stays is how long a leader must be known to count as one that stays.
	stays = 2 * time.Second
	// unheardLimit is how long a leader may not be heard before it counts as none: more than the library takes for silence, by the
	// age that another node's word may have. A leader that no majority hears has given up by then (leaseTimeout).
	unheardLimit = heartbeatTimeout + statusPeriod
)

// unheard is how long an instance has not heard the leader that it follows; 0: it follows none.
func unheard(r *raft.Raft) time.Duration {
	if r.State() != raft.Follower {
		return 0
	}
	last := r.LastContact()
	if leader, _ := r.LeaderWithID(); leader == "" || last.IsZero() {
		return 0
	}
	return time.Since(last)
}

// mayStand tells whether enough time has passed since this seat stood last, and notes that it stands. The pause grows while no
// leader stays, and is never the same: seats that stand in step depose one another before any is established, for ever. mu is held.
func (g *group) mayStand(now time.Time) bool {
	if now.Sub(g.campaign) < g.pause {
		return false
	}
	pause := min(campaignPause<<min(g.tries, 10), maxCampaignPause)
	g.campaign, g.pause = now, pause+rand.N(pause/2)
	g.tries++
	return true
}

// nodesView is what is known of the nodes, for the decision to stand for election.
type nodesView interface {
	// alive tells whether a node's process runs and can be reached.
	alive(uuid string) bool
	// maybeLeads tells whether the process of a node that leads may still run.
	maybeLeads(uuid string) bool
	// hangs tells whether a node's disk hangs, or, of this node, may do so: it can neither lead nor vote for now.
	hangs(uuid string) bool
	// leaderElsewhere tells whether a node that lives takes another for the group's leader that may still be it, and has heard it.
	leaderElsewhere(group uint32) bool
	// yields tells whether this node would not lead for long, so that the others are to stand first.
	yields() bool
}

// canVote tells of nodes whether their seats can vote for now.
func canVote(nodes nodesView) func(uuid string) bool {
	return func(uuid string) bool { return nodes.alive(uuid) && !nodes.hangs(uuid) }
}

// consider lets this seat stand for election when the group has no leader that lives. A seat that is behind is refused by
// the others' votes, and the next in rank stands. Who merely cannot reach the leader does not stand while another hears it, or it
// says itself that it leads: a healthy leader is not disturbed. The library would find out that nobody hears a leader, too, but each
// seat looks at a time of its own, which makes three times heartbeatTimeout.
func (g *group) consider(now time.Time, nodes nodesView) {
	if !g.standing.TryLock() {
		return // the main loop is busy with the last one
	}
	defer g.standing.Unlock()
	r := g.instance()
	if r == nil {
		return
	}
	g.mu.Lock()
	g.nodes = nodes
	facade := g.facade
	g.mu.Unlock()
	leader, _ := g.leader()
	hangs := leader != "" && leader != g.uuid && nodes.hangs(leader)
	follows := leader != "" && nodes.maybeLeads(leader) && !hangs
	if follows && unheard(r) < unheardLimit {
		g.mu.Lock()
		g.able = time.Time{}
		if g.led.IsZero() {
			g.led = now
		} else if now.Sub(g.led) >= stays {
			g.tries = 0
		}
		g.mu.Unlock()
		return
	}
	rank, living, voters := g.rank(canVote(nodes))
	led := nodes.leaderElsewhere(g.id)
	if rank >= 0 && nodes.yields() {
		rank += living
	}
	// It is about to vote for another, or just has. The library notes a vote as contact when it is written.
	voted := facade.Deciding() || leader == "" && time.Since(r.LastContact()) < rankDelay
	able := rank >= 0 && !nodes.hangs(g.uuid) && !led && !voted && 2*living > voters
	delay := time.Duration(rank) * rankDelay
	if follows { // it may be a new leader, whose first entries are being written; no other seat has its turn then
		delay += rankDelay / 2
	}
	if hangs {
		delay += hangDelay
	}
	g.mu.Lock()
	g.led = time.Time{}
	stands := g.hasTurn(now, able, delay) && g.mayStand(now)
	g.mu.Unlock()
	if stands {
		g.stand(r, facade)
	}
}

// passedOver lets this seat stand for election when it has refused its vote to a candidate whose log ends before its own. That
// candidate has deposed whoever led, and cannot win without this seat; the next in rank would stand a while later. All seats that refuse
// it do so at the same moment, and take turns. Of a candidate that it stands against itself, see even.
func (g *group) passedOver(r *raft.Raft, facade *raftnet.Group, q *raft.RequestVoteRequest) {
	last := raft.Log{Index: r.LastIndex()}
	if err := g.logs.GetLog(last.Index, &last); err != nil {
		return // it stands in its turn
	}
	if r.State() == raft.Candidate && r.CurrentTerm() == q.Term {
		g.even(r, facade, q, &last)
		return
	}
	g.mu.Lock()
	nodes := g.nodes
	g.mu.Unlock()
	if compareLogs(q, &last) >= 0 || nodes == nil {
		return
	}
	votes := canVote(nodes)
	turn, _, _ := g.rank(func(uuid string) bool { return votes(uuid) && uuid != raftnet.NodeOf(string(q.Addr)) })
	if turn < 0 || nodes.hangs(g.uuid) {
		return
	}
	time.Sleep(time.Duration(turn) * splitPause)
	if leader, _ := r.LeaderWithID(); leader != "" || r.State() != raft.Follower || r.CurrentTerm() != q.Term {
		return // another had its turn, or the candidate has deposed nobody
	}
	if facade.Voted() >= q.Term {
		return // for another, who may win
	}
	now := time.Now()
	g.mu.Lock()
	stands := g.mayStand(now) || g.mayStandAgain(now)
	g.mu.Unlock()
	if stands {
		g.stand(r, facade)
	}
}

// mayStandAgain tells whether this seat may stand in spite of the pause, since it knows that another cannot win, and notes that it
// stands: once in a while, so that seats that go on deposing one another have their pauses. mu is held.
func (g *group) mayStandAgain(now time.Time) bool {
	if now.Sub(g.again) < campaignPause {
		return false
	}
	g.again, g.campaign = now, now
	return true
}

// compareLogs tells whether a candidate's log is newer than one that ends with last (positive), or older (negative).
func compareLogs(q *raft.RequestVoteRequest, last *raft.Log) int {
	return cmp.Or(cmp.Compare(q.LastLogTerm, last.Term), cmp.Compare(q.LastLogIndex, last.Index))
}

// even is for two seats that stand in the same term, which split the votes: both would wait for a timeout that the library chooses,
// above electionTimeout. Each has refused the other, and both find the same from what they have told one another: the one whose log is
// newer, or else the first by its id, stands once more, and has the other's vote.
func (g *group) even(r *raft.Raft, facade *raftnet.Group, q *raft.RequestVoteRequest, last *raft.Log) {
	if cmp.Or(compareLogs(q, last), cmp.Compare(facade.LocalAddr(), raft.ServerAddress(q.Addr))) > 0 {
		return
	}
	time.Sleep(splitPause) // the votes of others may decide
	if r.State() != raft.Candidate || r.CurrentTerm() != q.Term {
		return
	}
	g.mu.Lock()
	stands := g.mayStandAgain(time.Now())
	g.mu.Unlock()
	if stands {
		g.stand(r, facade)
	}
}

// hasTurn tells whether this seat's turn has come: delay after nothing else has kept it from standing. Seats learn at the
// same moment that none of them knows a leader, also when some have known none for long; they would stand together then and split
// the votes. mu is held.
func (g *group) hasTurn(now time.Time, able bool, delay time.Duration) bool {
	if !able {
		g.able = time.Time{}
		return false
	}
	if g.able.IsZero() {
		g.able = now
	}
	return now.Sub(g.able) >= delay
}

func (g *group) stand(r *raft.Raft, facade *raftnet.Group) {
	candidate := uint64(0)
	if r.State() == raft.Candidate {
		candidate = r.CurrentTerm()
	}
	if err := facade.Campaign(candidate); err != nil {
		g.log.Debug("campaign", "group", g.name, "err", err)
	}
}

// rank is this seat's place among the living voters (-1: it is none), and how many live of how many.
func (g *group) rank(alive func(uuid string) bool) (rank, living, voters int) {
	rank = -1
	for _, s := range g.members() {
		if s.Suffrage != raft.Voter {
			continue
		}
		voters++
		uuid := raftnet.NodeOf(string(s.ID))
		switch {
		case s.ID == g.server():
			rank = living
			living++
		case alive(uuid):
			living++
		}
	}
	return rank, living, voters
}

// transferBlocked notes that a leadership transfer was in the way, and makes the instance anew when it does not end.
func (g *group) transferBlocked(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !errors.Is(err, raft.ErrLeadershipTransferInProgress) {
		g.transfer = time.Time{}
		return
	}
	if g.transfer.IsZero() {
		g.transfer = time.Now()
	} else if time.Since(g.transfer) > stuckTransfer {
		g.transfer = time.Time{}
		go g.restart("a leadership transfer does not end")
	}
}
