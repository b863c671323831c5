package cluster

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/warrenmq/warren/cluster/pipe"
	"github.com/warrenmq/warren/cluster/raftnet"
	"github.com/warrenmq/warren/cluster/raftstore"
	nodev1 "github.com/warrenmq/warren/proto/node/v1"
)

// countingParts is a machine that counts what it applies, slowly when told so, and notes when it is told that it leads.
type countingParts struct {
	store   *raft.InmemSnapshotStore
	gate    chan struct{} // entries are applied when it is closed
	applied atomic.Int64
	led     chan int64 // what had been applied when lead was called
	index   atomic.Uint64
}

func newCountingParts() *countingParts {
	return &countingParts{store: raft.NewInmemSnapshotStore(), gate: make(chan struct{}), led: make(chan int64, 16)}
}

func (p *countingParts) fsm() raft.FSM                          { return p }
func (p *countingParts) snapshots() (raft.SnapshotStore, error) { return p.store, nil }
func (p *countingParts) started()                               {}
func (p *countingParts) follow()                                {}
func (p *countingParts) changed()                               {}
func (p *countingParts) check() error                           { return nil }
func (p *countingParts) reread() error                          { return nil }
func (p *countingParts) met(error)                              {}
func (p *countingParts) empty() (bool, error)                   { return false, nil }
func (p *countingParts) discard() error                         { return nil }

func (p *countingParts) lead(_, index uint64) {
	p.index.Store(index)
	p.led <- p.applied.Load()
}

func (p *countingParts) Apply(*raft.Log) any {
	<-p.gate
	p.applied.Add(1)
	return nil
}

func (p *countingParts) Snapshot() (raft.FSMSnapshot, error) { return nil, errors.New("none") }
func (p *countingParts) Restore(io.ReadCloser) error         { return nil }

// loneGroup is a group of the seat a.1 alone; no other node can be reached. It is not started.
func loneGroup(t *testing.T, parts groupParts) *group {
	t.Helper()
	db, err := raftstore.OpenDB(t.TempDir())
	must(t, err)
	t.Cleanup(func() { must(t, db.Close()) })
	log := slog.New(slog.DiscardHandler)
	transport := raftnet.New(raftnet.Options{Logger: log, Open: func(context.Context, string, bool) (raftnet.Stream, error) {
		return nil, errors.New("there is no other node")
	}})
	return &group{id: 1, name: "test", log: log, net: transport, uuid: "a", stable: db.Stable(1), logs: raft.NewInmemStore(),
		config: baseConfig(log, "test"), seat: raftstore.Seat{Incarnation: 1}, parts: parts}
}

// TestLeadsWhenCaughtUp: the library tells of leadership before the machine has applied what earlier leaders committed; the
// seat leads when it has.
func TestLeadsWhenCaughtUp(t *testing.T) {
	first := newCountingParts()
	close(first.gate)
	g := loneGroup(t, first)
	if err := g.start(firstConfiguration([]string{"a"})); err != nil {
		t.Fatal(err)
	}
	<-first.led
	const entries = 50
	for range entries {
		if err := g.instance().Apply([]byte("x"), 0).Error(); err != nil {
			t.Fatal(err)
		}
	}
	second := newCountingParts()
	g.changing.Lock()
	g.stopLocked()
	g.parts = second
	err := g.startLocked(nil)
	g.changing.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	defer g.stop()
	eventually(t, "the library leads", func() bool { return g.instance().State() == raft.Leader })
	if _, leads := g.leading(); leads {
		t.Error("it leads while nothing is applied")
	}
	close(second.gate)
	if n := <-second.led; n != entries {
		t.Errorf("it was told to lead when %d of %d entries were applied", n, entries)
	}
	if second.index.Load() <= entries {
		t.Errorf("its barrier stood at %d", second.index.Load())
	}
}

// TestWhoHasNotComeDoesNotVote: a group with a short log does not count a seat for that nothing has come to yet. Its node may have died since it
// was heard, and a replica that lives would go in its favour.
func TestWhoHasNotComeDoesNotVote(t *testing.T) {
	parts := newCountingParts()
	close(parts.gate)
	g := loneGroup(t, parts)
	must(t, g.start(firstConfiguration([]string{"a"})))
	defer g.stop()
	<-parts.led
	c := &Cluster{change: make(chan struct{})}
	c.identity.UUID = "a"
	c.watcher = newWatcher(t.Context(), c)
	seat := &nodev1.GroupStatus{Group: 1, Server: "b.1"}
	peer := &peerInfo{state: pipe.PeerAlive, since: time.Now(), heard: time.Now(), status: &nodev1.Status{Groups: []*nodev1.GroupStatus{seat}}}
	c.watcher.peers["b"] = peer
	for range 3 {
		_, err := c.exchange(g, []string{"a", "b"})
		must(t, err)
	}
	added := g.instance().GetConfiguration()
	must(t, added.Error())
	servers := added.Configuration().Servers
	if len(servers) != 2 || servers[1].Suffrage != raft.Nonvoter {
		t.Fatalf("the seats are %+v", servers)
	}
	committed := g.instance().CommitIndex()
	if seat.Committed = committed; !c.hasCome(g, *peer, committed) {
		t.Error("what it says then does not count")
	}
}

// TestNoInstanceAfterTheEnd: what restarts a group may come when it has ended.
func TestNoInstanceAfterTheEnd(t *testing.T) {
	parts := newCountingParts()
	close(parts.gate)
	g := loneGroup(t, parts)
	if err := g.start(firstConfiguration([]string{"a"})); err != nil {
		t.Fatal(err)
	}
	before := g.instance()
	g.able = time.Now().Add(-time.Minute)
	g.restart("a test wants it")
	if g.instance() == nil || g.instance() == before {
		t.Fatal("no other instance runs")
	}
	if !g.able.IsZero() {
		t.Error("its turn counts from what another instance saw")
	}
	g.stop()
	g.restart("a test wants it, too late")
	if g.instance() != nil {
		t.Error("an instance runs after the end")
	}
	if err := g.start(nil); !errors.Is(err, errEnded) {
		t.Errorf("a start after the end: %v", err)
	}
}

// TestACandidateStands: a seat that waits for its election timeout, since the others did not miss the leader yet, stands at
// once when it is known that they do.
func TestACandidateStands(t *testing.T) {
	db, err := raftstore.OpenDB(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	log := slog.New(slog.DiscardHandler)
	var there *raftnet.Transport
	here := raftnet.New(raftnet.Options{Logger: log, Open: func(context.Context, string, bool) (raftnet.Stream, error) {
		near, far := memoryStreams()
		go there.Serve(t.Context(), far)
		return near, nil
	}})
	there = raftnet.New(raftnet.Options{Logger: log, Open: func(context.Context, string, bool) (raftnet.Stream, error) {
		return nil, errors.New("nobody is asked by the other")
	}})
	defer there.Close()
	defer here.Close()
	other := there.Group(1, "b.1")
	parts := newCountingParts()
	close(parts.gate)
	g := &group{id: 1, name: "test", log: log, net: here, uuid: "a", stable: db.Stable(1), logs: raft.NewInmemStore(),
		config: baseConfig(log, "test"), seat: raftstore.Seat{Incarnation: 1}, parts: parts}
	if err := g.start(firstConfiguration([]string{"a", "b"})); err != nil {
		t.Fatal(err)
	}
	defer g.stop()
	preVote := <-other.Consumer()
	if _, ok := preVote.Command.(*raft.RequestPreVoteRequest); !ok {
		t.Fatalf("%T came first", preVote.Command)
	}
	eventually(t, "it is a candidate", func() bool { return g.instance().State() == raft.Candidate })
	preVote.Respond(&raft.RequestPreVoteResponse{Term: preVote.Command.(*raft.RequestPreVoteRequest).Term}, nil)
	g.stand(g.instance(), g.facade)
	vote := <-other.Consumer()
	q, ok := vote.Command.(*raft.RequestVoteRequest)
	if !ok {
		t.Fatalf("it waited for its timeout: %T came next", vote.Command)
	}
	vote.Respond(&raft.RequestVoteResponse{Term: q.Term, Granted: true}, nil)
	eventually(t, "it is elected", func() bool { return g.instance().State() == raft.Leader })
	other.Close()
}

// memoryStreams are the two ends of a stream in memory.
func memoryStreams() (near, far *memoryStream) {
	a, b, ended := make(chan []byte, 16), make(chan []byte, 16), make(chan struct{})
	end := sync.OnceFunc(func() { close(ended) })
	return &memoryStream{a, b, ended, end}, &memoryStream{b, a, ended, end}
}

type memoryStream struct {
	in, out chan []byte
	ended   chan struct{}
	end     func()
}

func (s *memoryStream) Send(parts ...[]byte) error {
	select {
	case s.out <- bytes.Join(parts, nil):
		return nil
	case <-s.ended:
		return io.ErrClosedPipe
	}
}

func (s *memoryStream) Recv() ([]byte, error) {
	select {
	case b := <-s.in:
		return b, nil
	case <-s.ended:
		return nil, io.EOF
	}
}

func (s *memoryStream) Close() { s.end() }

// TestCampaignsGetRarer: seats that stand in step depose one another before any is established. So the pause grows, by chance,
// while no leader stays, and is short again after one has.
func TestCampaignsGetRarer(t *testing.T) {
	start := time.Now()
	g := &group{}
	var times []time.Duration
	for at := time.Duration(0); at < time.Minute; at += 25 * time.Millisecond {
		if g.mayStand(start.Add(at)) {
			times = append(times, at)
		}
	}
	if len(times) < 6 || len(times) > 12 {
		t.Errorf("campaigns at %v", times)
	}
	for i, at := range times[1:] {
		pause := min(campaignPause<<i, maxCampaignPause)
		if gap := at - times[i]; gap < pause || gap > pause*3/2+25*time.Millisecond {
			t.Errorf("campaign %d after %v", i+2, gap)
		}
	}
	g.tries = 0 // a leader has stayed
	now := start.Add(2 * time.Minute)
	if !g.mayStand(now) || g.mayStand(now.Add(campaignPause-1)) || !g.mayStand(now.Add(campaignPause*3/2)) {
		t.Error("after a leader that stayed the pause is not the shortest")
	}
}

// TestTurnsCountFromTheSameMoment: seats that learn together that none of them knows a leader do not stand together, also when one of
// them has known none for long.
func TestTurnsCountFromTheSameMoment(t *testing.T) {
	first, second := &group{}, &group{}
	now := time.Now()
	for range 100 {
		now = now.Add(50 * time.Millisecond)
		if second.hasTurn(now, false, rankDelay) {
			t.Fatal("it stands though another knows a leader")
		}
	}
	now = now.Add(50 * time.Millisecond)
	if !first.hasTurn(now, true, 0) || second.hasTurn(now, true, rankDelay) {
		t.Error("both stand, or the first does not")
	}
	if second.hasTurn(now.Add(rankDelay-time.Millisecond), true, rankDelay) || !second.hasTurn(now.Add(rankDelay), true, rankDelay) {
		t.Error("the second does not stand in its turn")
	}
	if second.hasTurn(now.Add(time.Second), false, rankDelay) || second.hasTurn(now.Add(2*time.Second), true, rankDelay) {
		t.Error("what kept it from standing is forgotten")
	}
}

// nodesSeen is what a seat is told of the nodes.
type nodesSeen struct{ elsewhere, dead bool }

func (n nodesSeen) alive(string) bool           { return true }
func (n nodesSeen) maybeLeads(string) bool      { return !n.dead }
func (n nodesSeen) hangs(string) bool           { return false }
func (n nodesSeen) leaderElsewhere(uint32) bool { return n.elsewhere }
func (n nodesSeen) yields() bool                { return false }

// observed is a seat "a" of a group of two whose other seat the test plays.
type observed struct {
	t     *testing.T
	g     *group
	other *raftnet.Group
	parts *countingParts
	// writes, if not nil, is what the seat's votes wait for, to be written.
	writes atomic.Pointer[chan struct{}]
}

// observe plays in a bubble. The library's own timers keep still.
func observe(t *testing.T, play func(o *observed)) { observeWith(t, time.Hour, time.Hour, play) }

// observeWith is observe with other timers.
func observeWith(t *testing.T, heartbeat, election time.Duration, play func(o *observed)) {
	db, err := raftstore.OpenDB(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	synctest.Test(t, func(t *testing.T) {
		log := slog.New(slog.DiscardHandler)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		var here, there *raftnet.Transport
		open := func(to **raftnet.Transport) func(context.Context, string, bool) (raftnet.Stream, error) {
			return func(context.Context, string, bool) (raftnet.Stream, error) {
				near, far := memoryStreams()
				go (*to).Serve(ctx, far)
				return near, nil
			}
		}
		here, there = raftnet.New(raftnet.Options{Logger: log, Open: open(&there)}), raftnet.New(raftnet.Options{Logger: log, Open: open(&here)})
		defer here.Close()
		defer there.Close()
		o := &observed{t: t, other: there.Group(1, "b.1"), parts: newCountingParts()}
		config := baseConfig(log, "test")
		config.HeartbeatTimeout, config.ElectionTimeout = heartbeat, election
		close(o.parts.gate)
		db.Around(func(write func() error) error {
			if wait := o.writes.Load(); wait != nil {
				<-*wait
			}
			return write()
		})
		o.g = &group{id: 1, name: "test", log: log, net: here, uuid: "a", stable: db.Stable(1), logs: raft.NewInmemStore(),
			config: config, seat: raftstore.Seat{Incarnation: 1}, parts: o.parts}
		if err := o.g.start(firstConfiguration([]string{"a", "b"})); err != nil {
			t.Fatal(err)
		}
		defer o.other.Close()
		defer o.g.stop()
		play(o)
	})
}

func (o *observed) header() raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte("b.1"), Addr: []byte("b.1")}
}

// beat is a heartbeat of the other, which leads.
func (o *observed) beat() {
	o.t.Helper()
	var p raft.AppendEntriesResponse
	if err := o.other.AppendEntries("a.1", "a.1", &raft.AppendEntriesRequest{RPCHeader: o.header(), Term: 7}, &p); err != nil || !p.Success {
		o.t.Fatalf("heartbeat: %+v, %v", p, err)
	}
}

// ask asks for the seat's vote as the other does when it knows that the leader is gone.
func (o *observed) ask(term, lastIndex, lastTerm uint64) (p raft.RequestVoteResponse) {
	q := &raft.RequestVoteRequest{RPCHeader: o.header(), Term: term, LastLogIndex: lastIndex, LastLogTerm: lastTerm, LeadershipTransfer: true}
	if err := o.other.RequestVote("a.1", "a.1", q, &p); err != nil {
		o.t.Errorf("vote: %v", err)
	}
	return p
}

// stands lets the seat look around for a time and tells whether, and when, it asks for a vote.
func (o *observed) stands(during time.Duration, seen nodesSeen) (after time.Duration, asks bool) {
	began := time.Now()
	for time.Since(began) < during {
		go o.g.consider(time.Now(), seen)
		synctest.Wait()
		select {
		case vote := <-o.other.Consumer():
			q := vote.Command.(*raft.RequestVoteRequest)
			if !q.LeadershipTransfer {
				o.t.Error("it asks as one that may not disturb a leader")
			}
			vote.Respond(&raft.RequestVoteResponse{Term: q.Term}, nil)
			return time.Since(began), true
		case <-time.After(campaignPeriod):
		}
	}
	return 0, false
}

// TestStandsWhenNobodyHearsTheLeader: a leader that cannot be reached counts until this seat has not heard it for a while, and
// nobody else hears it.
func TestStandsWhenNobodyHearsTheLeader(t *testing.T) {
	observe(t, func(o *observed) {
		o.beat()
		if _, asks := o.stands(unheardLimit-campaignPeriod, nodesSeen{}); asks {
			o.t.Fatal("it stands though it has heard the leader")
		}
		if _, asks := o.stands(time.Minute, nodesSeen{elsewhere: true}); asks {
			o.t.Fatal("it stands though another hears the leader")
		}
		o.beat()
		if after, asks := o.stands(time.Minute, nodesSeen{}); !asks || after < unheardLimit || after > unheardLimit+2*rankDelay {
			o.t.Errorf("it stands: %v, after %v", asks, after)
		}
		if o.g.groupStatus(0).UnheardMillis != 0 {
			o.t.Error("a candidate tells of a leader")
		}
	})
}

// TestStatusNamesTheTermThatItLeadsIn: a seat that has been deposed and has not heard of it yet does not say that it leads in its follower's
// term. All would take it for the new leader, and the new leader, who has heard it, too.
func TestStatusNamesTheTermThatItLeadsIn(t *testing.T) {
	observe(t, func(o *observed) {
		o.beat() // another leads in this term
		term := o.g.instance().CurrentTerm()
		o.g.setLeads(true, term-1)
		if s := o.g.groupStatus(0); !s.Leads || s.Term != term-1 {
			o.t.Errorf("it says that it leads: %v, in term %d; it led in %d", s.Leads, s.Term, term-1)
		}
		o.g.setLeads(false, 0)
		if s := o.g.groupStatus(0); s.Leads || s.Term != term {
			o.t.Errorf("it says that it leads: %v, in term %d; it follows in %d", s.Leads, s.Term, term)
		}
	})
}

// restoringParts is a machine whose restore takes as long as the test wants.
type restoringParts struct {
	*countingParts
	began, ends chan struct{}
}

func (p *restoringParts) fsm() raft.FSM { return p }

func (p *restoringParts) Restore(io.ReadCloser) error {
	close(p.began)
	<-p.ends
	return nil
}

// TestStatusDuringARestore: a seat whose machine is restored from a large checkpoint keeps nobody from asking how it is. The node would
// be taken for one that cannot be reached.
func TestStatusDuringARestore(t *testing.T) {
	db, err := raftstore.OpenDB(t.TempDir())
	must(t, err)
	defer db.Close()
	log := slog.New(slog.DiscardHandler)
	parts := &restoringParts{newCountingParts(), make(chan struct{}), make(chan struct{})}
	close(parts.gate)
	transport := raftnet.New(raftnet.Options{Logger: log})
	sink, err := parts.store.Create(1, 5, 1, *firstConfiguration([]string{"a"}), 1, transport.Group(1, "a.1"))
	must(t, err)
	must(t, sink.Close())
	g := &group{id: 1, name: "test", log: log, net: transport, uuid: "a", stable: db.Stable(1), logs: raft.NewInmemStore(),
		config: baseConfig(log, "test"), seat: raftstore.Seat{Incarnation: 1}, parts: parts}
	started := make(chan error, 1)
	go func() { started <- g.start(nil) }()
	<-parts.began
	told := make(chan string, 1)
	go func() { told <- g.groupStatus(0).Server }()
	select {
	case server := <-told:
		if server != "a.1" {
			t.Errorf("it says that it is %q", server)
		}
	case <-time.After(patience):
		t.Error("nobody learns how it is")
	}
	close(parts.ends)
	must(t, <-started)
	g.stop()
}

// TestStandsWhenACandidateIsBehind: who refuses a candidate since its log ends earlier is the one that can be elected, and
// stands at once; who refuses for another reason does not.
func TestStandsWhenACandidateIsBehind(t *testing.T) {
	observe(t, func(o *observed) {
		o.beat()
		o.g.consider(time.Now(), nodesSeen{})
		r := o.g.instance()
		o.g.passedOver(r, o.g.facade, &raft.RequestVoteRequest{RPCHeader: o.header(), Term: 7})
		if !o.g.campaign.IsZero() {
			o.t.Fatal("it stands though it knows a leader, which the candidate has not deposed")
		}
		if p := o.ask(8, 9, 7); !p.Granted { // it knows no leader now
			o.t.Fatalf("vote: %+v", p)
		}
		var last raft.Log
		must(o.t, o.g.logs.GetLog(r.LastIndex(), &last))
		for _, q := range []raft.RequestVoteRequest{{LastLogTerm: last.Term, LastLogIndex: last.Index}, {LastLogTerm: last.Term, LastLogIndex: last.Index + 1},
			{LastLogTerm: last.Term + 1, LastLogIndex: last.Index - 1}} {
			q.RPCHeader, q.Term = o.header(), 8
			o.g.passedOver(r, o.g.facade, &q)
			if !o.g.campaign.IsZero() {
				o.t.Fatalf("it stands against a candidate that is not behind: %+v", q)
			}
		}
		refused := time.Now()
		if p := o.ask(9, last.Index-1, last.Term); p.Granted {
			o.t.Fatal("it votes for a candidate that is behind")
		}
		vote := <-o.other.Consumer()
		q := vote.Command.(*raft.RequestVoteRequest)
		vote.Respond(&raft.RequestVoteResponse{Term: q.Term}, nil)
		if q.Term != 10 || time.Since(refused) > 0 {
			o.t.Errorf("it stands in term %d, %v after the candidate's term 9", q.Term, time.Since(refused))
		}
	})
}

// TestWhoIsVotingDoesNotStand: a vote that is being written may be the one that makes another the leader.
func TestWhoIsVotingDoesNotStand(t *testing.T) {
	observe(t, func(o *observed) {
		o.beat()
		if _, asks := o.stands(time.Minute, nodesSeen{elsewhere: true}); asks {
			o.t.Fatal("it stands though another hears the leader")
		}
		writing := make(chan struct{})
		o.writes.Store(&writing)
		voted := make(chan raft.RequestVoteResponse)
		go func() { voted <- o.ask(8, 9, 7) }()
		synctest.Wait()
		if _, asks := o.stands(time.Second, nodesSeen{}); asks {
			o.t.Fatal("it stands though its vote is not written yet")
		}
		o.writes.Store(nil)
		close(writing)
		if p := <-voted; !p.Granted {
			o.t.Fatalf("vote: %+v", p)
		}
		if after, asks := o.stands(time.Minute, nodesSeen{}); !asks || after < rankDelay {
			o.t.Errorf("it stands: %v, %v after it has voted for another", asks, after)
		}
	})
}

// TestWhoHasVotedDoesNotStandAtOnce: the candidate that has this seat's vote is about to win.
func TestWhoHasVotedDoesNotStandAtOnce(t *testing.T) {
	observe(t, func(o *observed) {
		o.beat()
		if _, asks := o.stands(time.Minute, nodesSeen{elsewhere: true}); asks {
			o.t.Fatal("it stands though another hears the leader")
		}
		if p := o.ask(8, 9, 7); !p.Granted {
			o.t.Fatalf("vote: %+v", p)
		}
		after, asks := o.stands(time.Minute, nodesSeen{})
		if asks && after < rankDelay {
			o.t.Errorf("it stands against whom it has voted for, after %v", after)
		}
		if !asks || after > 2*rankDelay {
			o.t.Errorf("it stands: %v, after %v, though nobody leads", asks, after)
		}
	})
}

// TestWhoHearsTheLeader: who follows a leader and has not heard it for long does not keep others from standing.
func TestWhoHearsTheLeader(t *testing.T) {
	w := newWatcher(context.Background(), &Cluster{identity: identity{UUID: "a"}})
	w.peers["b"] = &peerInfo{state: pipe.PeerUnreachable}
	w.peers["c"] = &peerInfo{state: pipe.PeerAlive, status: &nodev1.Status{Groups: []*nodev1.GroupStatus{{Group: 1, Leader: "b.1"}}}}
	group := w.peers["c"].status.Groups[0]
	for unheard, elsewhere := range map[time.Duration]bool{0: true, unheardLimit - time.Millisecond: true, unheardLimit: false, time.Hour: false} {
		if group.UnheardMillis = uint32(unheard.Milliseconds()); w.leaderElsewhere(1) != elsewhere {
			t.Errorf("unheard for %v: a leader elsewhere: %v", unheard, !elsewhere)
		}
	}
}

// unreadableLogs is a log store that can be read when told so.
type unreadableLogs struct {
	raft.LogStore
	fails atomic.Bool
}

func (l *unreadableLogs) LastIndex() (uint64, error) {
	if l.fails.Load() {
		return 0, syscall.EMFILE
	}
	return l.LogStore.LastIndex()
}

// TestAnInstanceThatCouldNotStart: an instance that was to be made anew and could not start is made later; not while the seat waits, and
// not when the group has ended.
func TestAnInstanceThatCouldNotStart(t *testing.T) {
	db, err := raftstore.OpenDB(t.TempDir())
	must(t, err)
	defer db.Close()
	log := slog.New(slog.DiscardHandler)
	transport := raftnet.New(raftnet.Options{Logger: log, Open: func(context.Context, string, bool) (raftnet.Stream, error) {
		return nil, errors.New("there is no other node")
	}})
	parts := newCountingParts()
	close(parts.gate)
	logs := &unreadableLogs{LogStore: raft.NewInmemStore()}
	g := &group{id: 1, name: "test", log: log, net: transport, uuid: "a", stable: db.Stable(1), logs: logs,
		config: baseConfig(log, "test"), seat: raftstore.Seat{Incarnation: 1}, parts: parts}
	must(t, g.start(firstConfiguration([]string{"a"})))
	defer g.stop()
	logs.fails.Store(true)
	g.restart("a test wants it")
	if g.revive() == nil || g.instance() != nil {
		t.Fatal("an instance runs that cannot read its log")
	}
	logs.fails.Store(false)
	if err := g.revive(); err != nil || g.instance() == nil {
		t.Fatalf("no instance runs: %v", err)
	}
	g.halt("a test wants it")
	if err := g.revive(); err != nil || g.instance() != nil {
		t.Errorf("an instance runs that was stopped for a while: %v", err)
	}
	g.resume()
	g.stop()
	if err := g.revive(); err != nil || g.instance() != nil {
		t.Errorf("an instance runs after the end: %v", err)
	}
}

// TestMissingInstancesAreMade: a node begins the instances of its groups that there should be and are not, also the catalog's.
func TestMissingInstancesAreMade(t *testing.T) {
	m := startMembersOf(t, 1, 1)[0]
	for _, g := range m.groups() {
		g.changing.Lock()
		g.stopLocked()
		g.changing.Unlock()
		eventually(t, g.name+" leads again", func() bool { _, leads := g.leading(); return leads })
	}
}
