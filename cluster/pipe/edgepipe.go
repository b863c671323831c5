package pipe

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// phase says how far a pipe has come with the leader it talks to.
type phase uint8

const (
	down      phase = iota // talks to nobody
	saidHello              // said hello
	up                     // welcomed: batches flow
)

// pipe is the edge's end of the pipe to one shard.
type pipe struct {
	edge  *Edge
	shard queue.ShardID
	asked atomic.Int64 // by Edge.now, when that was asked which the leader has answered last; 0: nothing yet

	// handing is held while answers and deliveries are handed on, so that they keep their order when the pipe changes
	// its leader; it is taken before mu. What is next to it belongs to its holder.
	handing   sync.Mutex
	touched   []*subscription
	done      []finished
	cancelled []broker.Receiver

	mu       sync.Mutex // guards what follows
	window   window
	subs     map[queue.ConsumerID]*subscription
	closed   bool
	phase    phase
	attempt  uint32 // the generation: grows with each hello
	host     *Host  // whom the pipe talks to, if on this node
	link     *edgeLink
	node     uint16
	sent     uint64    // last batch handed to the leader in this generation
	listed   *edgeLink // in this link's list of pipes with something to send
	greeting *hello    // to be sent by the link
	greeted  int64     // when the attempt began, by Edge.now

	incarnation uint64 // of the machine that answered last, local shards only
	term        uint64 // the latest that this edge was welcomed in
	retry       *time.Timer
	waiting     bool // retry is running
	behind      bool // the leader said so with its last replies
	pause       time.Duration
}

func newPipe(e *Edge, shard queue.ShardID) *pipe {
	p := &pipe{edge: e, shard: shard, subs: map[queue.ConsumerID]*subscription{}}
	p.window.first = 1
	p.window.maxBytes, p.window.maxBatches = e.o.WindowBytes, e.o.WindowBatches
	p.retry = time.AfterFunc(time.Hour, p.connect)
	p.retry.Stop()
	if e.ctx.Err() != nil {
		p.closed = true
	}
	return p
}

// submit implements Edge.Submit.
func (p *pipe) submit(ctx context.Context, b *broker.Batch) error {
	if err := queue.CheckBatch(p.edge.o.Session, &b.Batch); err != nil { // in an entry it would stop all replicas
		return fmt.Errorf("submit to shard %d: %w", p.shard, err)
	}
	if len(b.Data) > p.edge.o.BatchBytes { // its entry would be refused again and again, and hold up all that comes after it
		return fmt.Errorf("submit to shard %d: %d octets: %w", p.shard, len(b.Data), broker.ErrLargeBatch)
	}
	p.mu.Lock()
	for !p.closed && p.window.full(b) {
		room := p.window.waitForRoom()
		p.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		}
		p.mu.Lock()
	}
	if p.closed {
		p.mu.Unlock()
		return ErrClosed
	}
	p.window.push(b)
	var err error
	host := p.host
	switch {
	case p.phase == down:
		p.wake()
	case p.phase == up && host != nil:
		err = p.offer()
	case p.phase == up:
		p.link.ready(p)
	}
	p.mu.Unlock()
	if host != nil {
		host.proposed(err)
		host.pump()
	}
	return nil
}

// offer hands what is unsent to the host on this node. mu is held.
func (p *pipe) offer() error {
	for p.sent < p.window.last() {
		b := p.window.at(p.sent + 1)
		ok, err := p.host.proposer.addAndFlush(p.edge.o.Session, p.sent+1, p.window.first-1, &b.Batch)
		if !ok {
			p.lost()
			return nil
		}
		p.sent++
		if err != nil {
			return err
		}
	}
	return nil
}

// wake makes a pipe that is down talk to a leader, unless it is about to. mu is held.
func (p *pipe) wake() {
	if !p.waiting {
		p.schedule(0)
	}
}

// schedule connects after a while. mu is held.
func (p *pipe) schedule(d time.Duration) {
	p.waiting = true
	p.retry.Reset(d)
}

// lost ends the talk with the leader, to be tried again after a pause. mu is held.
func (p *pipe) lost() {
	p.phase = down
	p.host, p.link, p.greeting = nil, nil, nil
	if p.closed {
		return
	}
	p.pause = min(max(2*p.pause, p.edge.o.RetryMin), p.edge.o.RetryMax)
	p.schedule(p.pause/2 + rand.N(p.pause/2+1))
}

// again says hello once more, to find out whether the other end is there.
func (p *pipe) again() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.phase, p.pause = down, 0
	p.host, p.link, p.greeting = nil, nil, nil
	p.schedule(0)
}

// leaderChanged goes to another leader at once.
func (p *pipe) leaderChanged() {
	node, ok := p.edge.leader(p.shard)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed || !ok:
		return
	case p.phase != down && p.node == node:
		return
	case p.phase != down:
		p.phase = down
		p.host, p.link, p.greeting = nil, nil, nil
	}
	p.pause = 0
	p.schedule(0)
}

// needed tells whether there is something to talk about. A replicated shard's machine may hold something of whoever has ever sent it
// anything, such as the messages that a transaction sends ahead: a leader that does not hear of this edge ends that after a while. What
// another node's memory holds may be gone for good with the node, so that is looked for when it is asked for. mu is held.
func (p *pipe) needed() bool {
	return p.window.len() > 0 || len(p.subs) > 0 || !p.shard.IsLocal() && p.window.first > 1
}

// connect says hello to the leader. It runs on the timer's goroutine.
func (p *pipe) connect() {
	node, known := p.edge.leader(p.shard)
	p.handing.Lock() // nothing of an earlier leader is handed on after the hello has been written
	p.mu.Lock()
	p.waiting = false
	if p.closed || p.phase != down || !p.needed() {
		p.mu.Unlock()
		p.handing.Unlock()
		return
	}
	p.attempt++
	p.greeted = p.edge.now()
	p.node = node
	hi := p.hello()
	var host *Host
	switch {
	case !known:
		p.lost()
	case node == p.edge.node:
		if host = p.edge.o.Hosts.Host(p.shard); host == nil {
			p.lost()
			break
		}
		p.phase, p.host = saidHello, host
	default:
		p.phase, p.link = saidHello, p.edge.link(node)
		p.greeting = hi
		p.link.ready(p)
	}
	batches := p.window.len()
	p.mu.Unlock()
	p.handing.Unlock()
	p.edge.o.Logger.Debug("pipe says hello", "shard", p.shard, "node", node, "known", known, "attempt", hi.generation, "batches", batches)
	if host != nil {
		host.hello(p, hi)
	}
}

// hello says what this edge has seen. mu is held.
func (p *pipe) hello() *hello {
	hi := &hello{p.edge.o.Session, p.attempt, p.term, make(map[queue.ConsumerID]uint64, len(p.subs))}
	for id, s := range p.subs {
		hi.consumers[id] = s.seen
	}
	return hi
}

// current tells whether a generation is the one that the pipe listens to. mu is held.
func (p *pipe) current(generation uint32) bool {
	return generation == p.attempt && p.phase != down && !p.closed
}

// reset implements stream.
func (p *pipe) reset(generation uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current(generation) {
		p.lost()
	}
}

// linkLost ends the talk over a link that has ended.
func (p *pipe) linkLost(l *edgeLink) {
	p.mu.Lock()
	if p.link != l || p.phase == down {
		p.mu.Unlock()
		return
	}
	p.lost()
	abandon := p.shard.IsLocal() && (p.edge.isOver(l.node) || l.noNode())
	p.mu.Unlock()
	if abandon {
		p.abandon()
	}
}

// welcome implements stream: what was applied is done, the rest is sent (again).
func (p *pipe) welcome(w welcome) {
	p.handing.Lock()
	defer p.handing.Unlock()
	p.mu.Lock()
	if !p.current(w.generation) || p.phase != saidHello {
		p.mu.Unlock()
		return
	}
	if p.renewed(&w) {
		p.window.first = w.last + 1
	}
	p.phase, p.pause, p.incarnation = up, 0, w.incarnation
	p.term = max(p.term, w.term)
	p.answer(w.last, nil)
	p.sent = p.window.first - 1
	if p.host != nil {
		p.host.proposed(p.offer())
	} else {
		p.edge.returned(p.node)
		p.link.ready(p)
	}
	batches := p.window.len()
	p.answered(p.greeted) // what is gone has been cancelled
	p.mu.Unlock()
	p.edge.o.Logger.Debug("pipe is welcomed", "shard", p.shard, "attempt", w.generation, "batches", batches)
	p.finish()
}

// renewed tells whether a local shard's machine has begun anew. All it was sent goes to it once more, under new numbers:
// what was meant for the queues of the machine before is answered by the new one as meant for deleted queues. mu is
// held.
func (p *pipe) renewed(w *welcome) bool {
	return p.shard.IsLocal() && (w.incarnation != p.incarnation || w.last+1 < p.window.first)
}

func (p *pipe) close() {
	p.handing.Lock()
	defer p.handing.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed, p.phase = true, down
	p.retry.Stop()
	p.window.open()
}
