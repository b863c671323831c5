package pipe

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// edgeLink is the edge's end of the link to one node, for the pipes of all shards led there. It lives as long as its
// connection; the pipes then make another.
type edgeLink struct {
	edge *Edge
	node uint16

	mu       sync.Mutex // guards what follows; taken after the pipes'
	err      error      // the link has ended
	link     Link       // nil: being opened
	waiting  []*pipe    // have something to send
	credits  int        // bytes of envelopes consumed, not told yet
	wake     chan struct{}
	creditAt int // tell credits from so many bytes on

	arrivals arrivals // the receiver's
	results  []queue.Result
}

// openTimeout bounds the opening of a link.
const openTimeout = 10 * time.Second

func newEdgeLink(e *Edge, node uint16) *edgeLink {
	return &edgeLink{edge: e, node: node, wake: make(chan struct{}, 1), creditAt: max(1, e.o.InlineWindow/8)}
}

// ready lists a pipe that has something to send; the pipe's mu is held.
func (l *edgeLink) ready(p *pipe) {
	if p.listed == l {
		return
	}
	p.listed = l
	l.mu.Lock()
	l.waiting = append(l.waiting, p)
	l.mu.Unlock()
	l.signal()
}

func (l *edgeLink) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// credit counts envelopes as consumed.
func (l *edgeLink) credit(bytes int) {
	if bytes == 0 {
		return
	}
	l.mu.Lock()
	l.credits += bytes
	tell := l.credits >= l.creditAt
	l.mu.Unlock()
	if tell {
		l.signal()
	}
}

// fail ends the link.
func (l *edgeLink) fail(err error) {
	l.mu.Lock()
	link := l.link
	if l.err == nil {
		l.err = err
	}
	l.mu.Unlock()
	if link != nil {
		link.Close()
	}
	l.signal()
}

func (l *edgeLink) failed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err != nil
}

// noNode tells whether the link ended since there is no such node.
func (l *edgeLink) noNode() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Is(l.err, ErrNoNode)
}

// run opens the link, talks over it until it ends, and tells the pipes.
func (l *edgeLink) run() {
	err := l.talk()
	l.fail(err)
	l.edge.forget(l)
	if l.edge.ctx.Err() == nil {
		l.edge.o.Logger.Info("link to a node has ended", "node", l.node, "err", err)
	}
	for _, p := range *l.edge.pipes.Load() {
		p.linkLost(l)
	}
}

func (l *edgeLink) talk() error {
	ctx, cancel := context.WithTimeout(l.edge.ctx, openTimeout)
	defer cancel()
	link, err := l.edge.o.Links.Open(ctx, l.node)
	if err != nil {
		return fmt.Errorf("open link to node %d: %w", l.node, err)
	}
	l.mu.Lock()
	l.link = link
	err = l.err
	l.mu.Unlock()
	if err != nil { // closed meanwhile
		link.Close()
		return err
	}
	sender := make(chan struct{})
	go func() {
		defer close(sender)
		if err := l.send(link); err != nil {
			l.fail(err)
		}
	}()
	err = l.receive(link)
	l.fail(err)
	<-sender
	return err
}

// send sends what the pipes have until the link ends.
func (l *edgeLink) send(link Link) error {
	out := frameBuilder{}
	out.b = greeting{l.edge.o.Session, uint64(l.edge.o.InlineWindow)}.append(out.b)
	if err := link.Send(out.take()); err != nil {
		return fmt.Errorf("greet node %d: %w", l.node, err)
	}
	for range l.wake {
		if l.failed() {
			return nil
		}
		for l.fill(&out) {
			if err := link.Send(out.take()); err != nil {
				return fmt.Errorf("send to node %d: %w", l.node, err)
			}
		}
	}
	return nil
}

// fill puts a frame together; false: there is nothing to send.
func (l *edgeLink) fill(out *frameBuilder) bool {
	for len(out.b) < frameBytes {
		p := l.next()
		if p == nil {
			break
		}
		out.b = p.fill(l, out.b)
	}
	l.mu.Lock()
	if l.credits >= l.creditAt {
		out.b = appendCredit(out.b, uint64(l.credits))
		l.credits = 0
	}
	l.mu.Unlock()
	return len(out.b) > 0
}

func (l *edgeLink) next() *pipe {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) == 0 {
		return nil
	}
	p := l.waiting[0]
	l.waiting[0] = nil
	l.waiting = l.waiting[1:]
	return p
}

// fill appends what the pipe has to send, up to a frame; if more is left it is listed again.
func (p *pipe) fill(l *edgeLink, dst []byte) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listed == l {
		p.listed = nil
	}
	if p.link != l {
		return dst
	}
	if p.greeting != nil {
		dst = appendHello(dst, p.shard, p.greeting)
		p.greeting = nil
	}
	if p.phase != up {
		return dst
	}
	for p.sent < p.window.last() {
		if len(dst) >= frameBytes {
			p.link.ready(p)
			break
		}
		b := p.window.at(p.sent + 1)
		it := batchItem{p.attempt, b.Commands, p.sent + 1, p.window.first - 1, b.Data}
		dst = it.append(dst, p.shard)
		p.sent++
	}
	return dst
}

// receive hands on what comes until the link ends.
func (l *edgeLink) receive(link Link) error {
	frame, err := link.Recv()
	if err != nil {
		return fmt.Errorf("greeting of node %d: %w", l.node, err)
	}
	_, rest, err := cutGreeting(frame)
	for err == nil {
		if err = l.take(rest, len(frame)); err != nil {
			break
		}
		if frame, err = link.Recv(); err != nil {
			return fmt.Errorf("receive from node %d: %w", l.node, err)
		}
		rest = frame
	}
	return fmt.Errorf("from node %d: %w", l.node, err)
}

// take hands on the items of a frame of so many bytes. Neighbours of the same shard go together.
func (l *edgeLink) take(frame []byte, size int) error {
	var together struct {
		p          *pipe
		generation uint32
	}
	flush := func() {
		if together.p != nil {
			together.p.arrive(l, together.generation, &l.arrivals, size)
		}
		a := &l.arrivals
		clear(a.deliveries)
		a.deliveries, a.replies, a.cancels = a.deliveries[:0], a.replies[:0], a.cancels[:0]
		l.results = l.results[:0]
		together.p = nil
	}
	defer flush()
	for len(frame) > 0 {
		it, rest, err := cutItem(frame)
		if err != nil {
			return err
		}
		frame = rest
		c := cursor{b: it.payload}
		generation := c.u32()
		if c.bad {
			return fmt.Errorf("item of kind %d: %w", it.kind, errMalformed)
		}
		p := l.edge.pipe(it.shard)
		if together.p != p || together.generation != generation {
			flush()
			together.p, together.generation = p, generation
		}
		switch it.kind {
		case itemDeliveries, itemReplies, itemCancels:
			if err := l.collect(&it, &c); err != nil {
				together.p = nil // nothing of a broken frame
				return err
			}
		case itemWelcome:
			flush()
			w, err := decodeWelcome(it.payload)
			if err != nil {
				return err
			}
			p.welcome(w)
		case itemReset:
			flush()
			p.reset(generation)
		default:
			return fmt.Errorf("item of kind %d from a server: %w", it.kind, errMalformed)
		}
	}
	return nil
}

// collect decodes an item into the arrivals.
func (l *edgeLink) collect(it *item, c *cursor) error {
	a := &l.arrivals
	switch it.kind {
	case itemDeliveries:
		for range c.count(deliverySize + pieceSize) {
			a.deliveries = append(a.deliveries, broker.Delivery{})
			c.delivery(&a.deliveries[len(a.deliveries)-1])
		}
	case itemReplies:
		a.behind = it.flags&repliesBehind != 0
		for range c.count(replySize) {
			var r queue.Reply
			r, l.results = c.reply(l.edge.o.Session, l.results)
			a.replies = append(a.replies, r)
		}
	case itemCancels:
		for range c.count(8) {
			a.cancels = append(a.cancels, queue.ConsumerID(c.u64()))
		}
	}
	return c.err("effects")
}

// frameBuilder builds frames in one buffer and hands out copies of the right size, or the buffer itself when it is
// mostly full.
type frameBuilder struct{ b []byte }

func (f *frameBuilder) take() []byte {
	frame := f.b
	if cap(frame) <= 2*len(frame) {
		f.b = make([]byte, 0, cap(frame))
		return frame
	}
	f.b = frame[:0]
	return append(make([]byte, 0, len(frame)), frame...)
}
