package pipe

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmq/warren/raftfsm/queue"
)

// refusing is a log that takes no entry, as the library's does during a leadership transfer.
type refusing struct {
	mu    sync.Mutex
	host  *Host
	count int
	limit int // it stops answering after so many, so that a test ends
}

func (l *refusing) Propose(term uint64, _ []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.count++; l.count <= l.limit {
		go l.host.ProposalFailed(term, errors.New("leadership transfer in progress"))
	}
	return nil
}

func (l *refusing) proposed() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count
}

func hostFor(t *testing.T, log Log) *Host {
	t.Helper()
	h, err := NewHost(HostOptions{State: queue.New(), Bodies: &worldShard{}, Log: log, Logger: quiet,
		VerifyRead: func(context.Context) (uint64, error) { return 0, nil }})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// TestRefusedEntriesAreNotRepeatedAtOnce: a leader whose entries are refused as soon as they are proposed tries again after a
// pause. (Without one, a simulated cluster stood still: test/sim, seed 4040 with five nodes.)
func TestRefusedEntriesAreNotRepeatedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &refusing{limit: 1000}
		h := hostFor(t, log)
		log.host = h
		defer h.Close()
		h.Lead(1, 0)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := log.proposed(); n < 10 || n > 110 {
			t.Errorf("%d entries in ten seconds", n)
		}
	})
}

// told is a stream that notes what it is told.
type told struct {
	welcomed, resets []uint32
	cancelled        int
}

func (s *told) effects(_ queue.SessionID, _ uint32, e *queue.Effects, _ bool) {
	s.cancelled += len(e.Cancels)
}
func (s *told) welcome(w welcome)       { s.welcomed = append(s.welcomed, w.generation) }
func (s *told) reset(generation uint32) { s.resets = append(s.resets, generation) }

// immediate is a log that has committed what it is given; apply applies it.
type immediate struct {
	mu      sync.Mutex // guards what follows
	entries []Entry
}

func (l *immediate) Propose(_ uint64, entry []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, Entry{uint64(len(l.entries) + 1), entry})
	return nil
}

// after returns the entries behind an index.
func (l *immediate) after(index uint64) []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.entries[index:]
}

// TestLateHello: what was still under way on a link that its edge has given up does not take the place of the edge's new stream,
// which nobody would tell anything any more.
func TestLateHello(t *testing.T) {
	log := &immediate{}
	h := hostFor(t, log)
	defer h.Close()
	apply := func() {
		for done := h.Applied(); done < uint64(len(log.entries)); done = h.Applied() {
			if err := h.ApplyBatch(log.entries[done:]); err != nil {
				t.Fatal(err)
			}
		}
	}
	session := queue.MakeSessionID(2, 1)
	h.Lead(1, 0)
	apply()
	newer, older := &told{}, &told{}
	h.hello(newer, &hello{session: session, generation: 7})
	apply()
	h.hello(older, &hello{session: session, generation: 6})
	apply()
	h.detach(session, older) // its link ends
	if a := h.attached[session]; a == nil || a.stream != newer {
		t.Errorf("attached: %+v", a)
	}
	if len(newer.welcomed) != 1 || len(newer.resets) != 0 || len(older.welcomed) != 0 || len(older.resets) != 1 {
		t.Errorf("the new stream was told %+v, the old one %+v", newer, older)
	}
}

// TestHelloToLeaderOfEarlierTerm: a host that has lost its leadership and was not told yet does not answer an edge that the next
// leader has welcomed: what this host has not applied yet, it would take for gone.
func TestHelloToLeaderOfEarlierTerm(t *testing.T) {
	log := &immediate{}
	h := hostFor(t, log)
	defer h.Close()
	session := queue.MakeSessionID(2, 1)
	h.Lead(1, 0)
	early := &told{}
	h.hello(early, &hello{session: session, generation: 1}) // its entry is committed, and applied later
	s := &told{}
	h.hello(s, &hello{session: session, generation: 2, term: 2, consumers: map[queue.ConsumerID]uint64{7: 0}})
	if err := h.ApplyBatch(log.entries); err != nil {
		t.Fatal(err)
	}
	if len(s.welcomed) != 0 || s.cancelled != 0 || len(s.resets) != 1 {
		t.Errorf("the leader of an earlier term said %+v", s)
	}
	h.Lead(2, h.Applied())
	h.hello(s, &hello{session: session, generation: 3, term: 2})
	if err := h.ApplyBatch(log.entries[h.Applied():]); err != nil {
		t.Fatal(err)
	}
	if len(s.welcomed) != 1 || s.welcomed[0] != 3 {
		t.Errorf("the leader of the term said %+v", s)
	}
}

// TestOutboxTellsTheHighest: of replies without results one stands for those before it, in whatever order they come.
func TestOutboxTellsTheHighest(t *testing.T) {
	o := &outbox{link: &serverLink{server: &Server{o: ServerOptions{OutboxBytes: 1 << 20}}, wake: make(chan struct{}, 1)}}
	session := queue.MakeSessionID(2, 1)
	for _, seq := range []uint64{3, 7, 6} {
		o.effects(session, 0, &queue.Effects{Replies: []queue.Reply{{Session: session, Seq: seq}}}, false)
	}
	if len(o.replies) != 1 || o.replies[0].Seq != 7 {
		t.Errorf("%+v", o.replies)
	}
}

// TestNoWelcomeAfterLoss: an edge that was not told everything is not told that it was.
func TestNoWelcomeAfterLoss(t *testing.T) {
	near, far := newLinkPair()
	defer near.Close()
	o := &outbox{link: &serverLink{server: &Server{o: ServerOptions{OutboxBytes: 1}}, link: far, wake: make(chan struct{}, 1)}}
	session := queue.MakeSessionID(2, 1)
	for seq := range uint64(2) {
		o.effects(session, 0, &queue.Effects{Replies: []queue.Reply{{Session: session, Seq: seq + 1, Results: []queue.Result{{}}}}}, false)
	}
	o.welcome(welcome{last: 2})
	o.link.mu.Lock()
	defer o.link.mu.Unlock()
	if o.welcomed != nil || o.flowing {
		t.Error("welcomed")
	}
}

// TestNoBatchBehindItsReset: a link's stream is reset before the session's newer hello is proposed, and what came by the link before is
// proposed by then, or never.
func TestNoBatchBehindItsReset(t *testing.T) {
	h := hostFor(t, &immediate{})
	defer h.Close()
	h.Lead(1, 0)
	l := &serverLink{session: queue.MakeSessionID(2, 1), wake: make(chan struct{}, 1)}
	o := &outbox{link: l, host: h, generation: 3, flowing: true}
	l.outboxes = map[queue.ShardID]*outbox{0: o}
	var b queue.Batch
	b.Purge(queue.MakeQueueID(0, 1))
	h.proposer.mu.Lock()
	took := make(chan error, 1)
	go func() { took <- l.batch(0, &batchItem{generation: 3, commands: b.Commands, seq: 1, data: b.Data}) }()
	locked := 0 // looks in a row that found the link locked
	for deadline := time.Now().Add(time.Second); locked < 100 && time.Now().Before(deadline); runtime.Gosched() {
		if locked++; l.mu.TryLock() {
			l.mu.Unlock()
			locked = 0
		}
	}
	h.proposer.mu.Unlock()
	if locked < 100 {
		t.Error("while a batch waits for the proposer, a reset can come before it")
	}
	o.reset(3)
	if err := <-took; err != nil {
		t.Fatal(err)
	}
	waits := h.Pending()
	if err := l.batch(0, &batchItem{generation: 3, commands: b.Commands, seq: 2, data: b.Data}); err != nil || waits == 0 || h.Pending() != waits {
		t.Errorf("after the reset: %v; %d octets wait, %d did before", err, h.Pending(), waits)
	}
}
