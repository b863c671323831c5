package pipe

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warrenmq/warren/raftfsm/queue"
)

// Host holds a shard's machine on this node, leader or not. Entries come in through ApplyBatch, on one goroutine;
// everything else may be called from anywhere.
type Host struct {
	o        HostOptions
	proposer proposer
	local    *memoryLog // of a local shard, else nil

	applied atomic.Uint64

	// mu guards what follows. It is held while effects are handed on, so that a session gets them in order. Under it
	// come the locks of the streams, and under those the proposer's.
	mu          sync.Mutex
	state       *queue.State
	effects     queue.Effects
	resume      queue.Effects
	leading     bool
	term        uint64
	incarnation uint64
	attached    map[queue.SessionID]*attachment
	helloes     int // attachments that wait for their session to be up
	sinceHash   uint64
	behindUntil int64  // ms
	version     uint32 // of the machine, as the proposer knows it
	reads       []read
	peers       peers
	tick        ticker
	closed      bool
}

// NewHost makes the host of a replicated shard; it follows until Lead.
func NewHost(o HostOptions) (*Host, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	h := &Host{o: o, state: o.State, attached: map[queue.SessionID]*attachment{}}
	h.proposer.log, h.proposer.now = o.Log, func() int64 { return o.Now().UnixMilli() }
	h.proposer.entryBytes, h.proposer.inFlight, h.proposer.maxPending = o.EntryBytes, o.InFlight, o.PendingBytes
	h.peers.init()
	h.applied.Store(appliedBy(o.State))
	h.noteVersion()
	return h, nil
}

// nowMillis is the time in the machine's terms, if this host leads.
func (h *Host) nowMillis() int64 { return h.proposer.time() }

func (h *Host) log() *slog.Logger { return h.o.Logger.With("shard", h.o.Shard) }

// ApplyBatch applies committed entries in order; an entry without data only moves the index. After an error the state
// is not to be trusted any more: this replica must stop. Entries that the state holds already are passed over.
func (h *Host) ApplyBatch(entries []Entry) error {
	n, last, err := h.apply(entries)
	if err != nil {
		return fmt.Errorf("apply entries of shard %d: %w", h.o.Shard, err)
	}
	h.proposed(h.proposer.applied(n, last))
	return nil
}

// noteVersion tells the proposer of the machine's version when it has changed. The lock is held.
func (h *Host) noteVersion() {
	version := h.state.MachineVersion()
	if version == h.version {
		return
	}
	if h.version != 0 {
		h.log().Info("machine version", "version", version)
	}
	h.version = version
	h.proposer.machine(version)
}

// Raise has the machine raised to a version that every replica's program knows. If this host does not lead, or has no room, it
// is to be told again.
func (h *Host) Raise(version uint32) {
	h.mu.Lock()
	raised := h.leading && h.state.MachineVersion() < version && h.command(func(b *queue.Batch) { b.MachineVersion(version) })
	h.mu.Unlock()
	if raised {
		h.kick()
	}
}

// maxEffects is the deliveries at which effects are handed on before the rest of the entries is applied.
const maxEffects = 1024

// apply returns how many entries had data, and their latest time.
func (h *Host) apply(entries []Entry) (n int, last int64, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range entries {
		e := &entries[i]
		if len(e.Data) > 0 {
			if last, err = h.applyOne(e, last); err != nil {
				return n, last, err
			}
			n++
		}
		if e.Index > h.applied.Load() {
			h.applied.Store(e.Index)
		}
	}
	h.noteVersion()
	h.handOn()
	if h.helloes > 0 {
		h.admit(entries)
	}
	h.wakeReads()
	h.hash(n)
	return n, last, nil
}

func (h *Host) applyOne(e *Entry, last int64) (int64, error) {
	if e.Index <= appliedBy(h.state) {
		return last, nil
	}
	if err := h.state.Apply(e.Index, e.Data, &h.effects); err != nil {
		return last, fmt.Errorf("entry %d: %w", e.Index, err)
	}
	if len(h.effects.Deliveries) > maxEffects {
		h.handOn()
	}
	if len(e.Data) >= queue.EntryHeaderSize {
		last = max(last, int64(le.Uint64(e.Data[8:])))
	}
	return last, nil
}

// handOn gives the effects to the sessions' streams, if this host leads.
func (h *Host) handOn() {
	e := &h.effects
	if h.leading {
		behind := h.behind(e)
		for session, a := range h.attached {
			if a.hello == nil {
				a.stream.effects(session, a.generation, e, behind)
			}
		}
		if len(e.Deleted) > 0 && h.o.QueuesDeleted != nil {
			h.o.QueuesDeleted(append([]queue.QueueID(nil), e.Deleted...))
		}
		h.tick.due(h, e.NextTick)
	}
	e.Reset()
}

// behindFor is for how long the shard's consumers count as behind after one was: a few of their settles' ways, so that what
// publishers may have under way does not change with each entry.
const behindFor = 100 // ms

// behind tells whether a consumer of the shard was behind a short while ago.
func (h *Host) behind(e *queue.Effects) bool {
	now := h.nowMillis()
	if e.Behind {
		h.behindUntil = now + behindFor
	}
	return now < h.behindUntil
}

// Lead tells that this node leads the shard in the term and that its state holds everything up to index, where a barrier
// of this term stood.
func (h *Host) Lead(term, index uint64) {
	h.mu.Lock()
	h.follow()
	if h.closed {
		h.mu.Unlock()
		return
	}
	h.leading, h.term = true, term
	h.applied.Store(max(h.applied.Load(), index))
	_, time := h.state.Applied()
	h.proposer.lead(term, time)
	h.command(func(b *queue.Batch) { b.Tick() })
	h.peers.judge(h)
	h.wakeReads()
	h.mu.Unlock()
	h.kick()
}

// Follow tells that this node does not lead any more. Edges are told and go to the next leader.
func (h *Host) Follow() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.follow()
}

func (h *Host) follow() {
	if !h.leading {
		return
	}
	h.leading = false
	h.proposer.follow()
	h.tick.stop()
	h.peers.stop()
	h.resetAll()
	for _, r := range h.reads {
		r.done <- ErrNotLeader
	}
	h.reads = nil
}

// resetAll turns all sessions away.
func (h *Host) resetAll() {
	for session, a := range h.attached {
		delete(h.attached, session)
		a.stream.reset(a.generation)
	}
	h.helloes = 0
}

// ProposalFailed tells that an entry of the term was not committed, or that this is not known. Unless the term is over,
// edges say hello again and repeat what was in it. Timers and sessions are seen to by a tick, a while later: what refuses entries,
// such as a leadership transfer, may refuse the next one at once.
func (h *Host) ProposalFailed(term uint64, err error) {
	if !h.proposer.failed(term) {
		return
	}
	h.mu.Lock()
	if h.leading && h.term == term {
		h.log().Warn("an entry failed: edges repeat what was in it", "term", term, "err", err)
		h.resetAll()
		h.tick.due(h, h.nowMillis()+h.o.TickMin.Milliseconds())
	}
	h.mu.Unlock()
	h.kick()
}

// Command proposes commands of the leader itself, of which there is no answer; it copies the batch. The error is
// ErrNotLeader.
func (h *Host) Command(b *queue.Batch) error {
	if !h.proposer.add(0, 0, 0, b) {
		return ErrNotLeader
	}
	h.kick()
	return nil
}

// command adds commands of the leader; kick must follow, or be about to. If the proposer has no room, what is lost is
// proposed again when its reason shows again.
func (h *Host) command(f func(b *queue.Batch)) bool {
	var b queue.Batch
	f(&b)
	return h.proposer.add(0, 0, 0, &b)
}

// kick sends what may be sent. No lock may be held.
func (h *Host) kick() {
	h.proposed(h.proposer.flush())
	h.pump()
}

// pump applies what a local shard's log holds. No lock may be held.
func (h *Host) pump() {
	if h.local != nil {
		h.local.pump(h)
	}
}

// proposed handles the error of a hand-over to the log. Locks may be held.
func (h *Host) proposed(err error) {
	if err == nil {
		return
	}
	go func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.leading {
			h.log().Warn("an entry could not be proposed: edges repeat what was in it", "err", err)
			h.resetAll()
		}
	}()
}

// Snapshot pins the state as it is.
func (h *Host) Snapshot() *queue.Snapshot {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state.Snapshot()
}

// Contents returns what the state holds: see queue.State.
func (h *Host) Contents() (messages, octets uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state.Contents()
}

// Restore replaces the state by another, which the host owns from then on.
func (h *Host) Restore(s *queue.State) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.state = s
	h.noteVersion()
	h.applied.Store(appliedBy(s))
	h.wakeReads()
}

// Applied is the index up to which the state holds everything.
func (h *Host) Applied() uint64 { return h.applied.Load() }

// Leading tells whether this host leads its shard.
func (h *Host) Leading() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.leading
}

// Pending is the bytes of commands that wait for their entry.
func (h *Host) Pending() int { return h.proposer.waiting() }

// Held is the memory that a local shard's messages take, in bytes; 0 for a replicated one.
func (h *Host) Held() int64 {
	if h.local == nil {
		return 0
	}
	return h.local.held.Load()
}

// Queues lists the queues as this replica knows them, in no order.
func (h *Host) Queues() []queue.QueueID {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state.QueueIDs()
}

// Settings are those of a queue as this replica knows them, not to be changed; nil: no such queue.
func (h *Host) Settings(id queue.QueueID) *queue.Settings {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state.Settings(id)
}

// PeekCounts reads a queue's counts as this replica knows them, perhaps stale; false: no such queue.
func (h *Host) PeekCounts(id queue.QueueID) (queue.Counts, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state.Counts(id)
}

// Close follows and stops all timers.
func (h *Host) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.follow()
	h.closed = true
}

// read waits for the state to reach an index.
type read struct {
	index uint64
	done  chan error // one place
}

func (h *Host) wakeReads() {
	if len(h.reads) == 0 {
		return
	}
	applied := h.applied.Load()
	left := h.reads[:0]
	for _, r := range h.reads {
		if r.index <= applied {
			r.done <- nil
		} else {
			left = append(left, r)
		}
	}
	h.reads = left
}

// Counts reads a queue's counts, not stale; false: no such queue. The error is ErrNotLeader, ctx's or VerifyRead's.
func (h *Host) Counts(ctx context.Context, id queue.QueueID) (queue.Counts, bool, error) {
	if err := h.current(ctx); err != nil {
		return queue.Counts{}, false, err
	}
	c, ok := h.PeekCounts(id)
	return c, ok, nil
}

// current waits until the state holds everything that was committed when it was called.
func (h *Host) current(ctx context.Context) error {
	if h.local != nil {
		return nil
	}
	if !h.Leading() {
		return ErrNotLeader
	}
	index, err := h.o.VerifyRead(ctx)
	if err != nil {
		return fmt.Errorf("confirm leadership of shard %d: %w", h.o.Shard, err)
	}
	r := read{index, make(chan error, 1)}
	h.mu.Lock()
	switch {
	case !h.leading:
		r.done <- ErrNotLeader
	case h.applied.Load() >= index:
		r.done <- nil
	default:
		h.reads = append(h.reads, r)
	}
	h.mu.Unlock()
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// body returns a message's envelope from this node's log.
func (h *Host) body(b *queue.Body) ([]byte, error) {
	if len(b.More) == 0 {
		return h.piece(b.First, nil)
	}
	whole := make([]byte, 0, b.Size())
	whole, err := h.appendPiece(whole, b.First)
	for _, r := range b.More {
		if err != nil {
			break
		}
		whole, err = h.appendPiece(whole, r)
	}
	return whole, err
}

func (h *Host) piece(r queue.Ref, dst []byte) ([]byte, error) {
	piece, err := h.o.Bodies.ReadBody(r.Index, r.Offset, r.Size, dst)
	if err != nil {
		return nil, fmt.Errorf("read message of shard %d at entry %d: %w", h.o.Shard, r.Index, err)
	}
	return piece, nil
}

func (h *Host) appendPiece(dst []byte, r queue.Ref) ([]byte, error) {
	piece, err := h.piece(r, nil)
	return append(dst, piece...), err
}

// lastIndex is the latest entry that a piece of the message stands in.
func lastIndex(b *queue.Body) uint64 {
	last := b.First.Index
	for _, r := range b.More {
		last = max(last, r.Index)
	}
	return last
}

// ticker proposes a Tick when the machine wants one.
type ticker struct {
	timer *time.Timer
	at    int64 // what the timer waits for, ms; 0: nothing
	last  int64 // when the last one was proposed, ms
}

// due is called with the host's lock held after effects.
func (t *ticker) due(h *Host, at int64) {
	if at == 0 || t.at != 0 && t.at <= at {
		return
	}
	t.at = at
	wait := time.Duration(max(at, t.last+h.o.TickMin.Milliseconds())-h.nowMillis()) * time.Millisecond
	if t.timer == nil {
		t.timer = time.AfterFunc(wait, h.tickNow)
		return
	}
	t.timer.Reset(wait)
}

func (t *ticker) stop() {
	if t.timer != nil {
		t.timer.Stop()
	}
	t.at = 0
}

func (h *Host) tickNow() {
	h.mu.Lock()
	if h.leading && h.tick.at != 0 {
		h.tick.at, h.tick.last = 0, h.nowMillis()
		h.command(func(b *queue.Batch) { b.Tick() })
	}
	h.mu.Unlock()
	h.kick()
}
