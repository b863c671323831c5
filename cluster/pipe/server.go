package pipe

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/warrenmq/warren/raftfsm/queue"
)

// Server is the other end of other nodes' edges, for all hosts of this node.
type Server struct{ o ServerOptions }

// NewServer makes a server.
func NewServer(o ServerOptions) (*Server, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	return &Server{o}, nil
}

// Serve talks to another node's edge until the link or ctx ends, and closes the link. The error says why it ended.
func (s *Server) Serve(ctx context.Context, link Link) error {
	l := &serverLink{server: s, link: link, wake: make(chan struct{}, 1), outboxes: map[queue.ShardID]*outbox{}}
	stop := context.AfterFunc(ctx, link.Close)
	defer stop()
	var sender sync.WaitGroup
	sender.Go(func() {
		if err := l.send(); err != nil {
			l.fail(err)
		}
	})
	err := l.receive()
	l.fail(err)
	sender.Wait()
	l.detach()
	return l.err
}

// serverLink is the server's end of a link.
type serverLink struct {
	server   *Server
	link     Link
	session  queue.SessionID
	outboxes map[queue.ShardID]*outbox // the receiver's
	kicked   []*Host                   // the receiver's

	sentGreeting bool   // the sender's
	parcel       parcel // the sender's

	mu       sync.Mutex // guards what follows, and the outboxes' contents; taken after the hosts'
	err      error      // the link has ended
	greeted  bool
	waiting  []*outbox // have something to send
	held     int       // about how many bytes wait in outboxes
	inline   int       // bytes of envelopes that may still go along
	wake     chan struct{}
	overflow bool
}

func (l *serverLink) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// fail ends the link.
func (l *serverLink) fail(err error) {
	l.mu.Lock()
	if l.err == nil {
		l.err = err
	}
	l.mu.Unlock()
	l.link.Close()
	l.signal()
}

// detach ends the streams of a link that has ended.
func (l *serverLink) detach() {
	for _, o := range l.outboxes {
		o.host.detach(l.session, o)
	}
}

// receive takes what the edge sends until the link ends.
func (l *serverLink) receive() error {
	frame, err := l.link.Recv()
	if err != nil {
		return fmt.Errorf("greeting of an edge: %w", err)
	}
	g, rest, err := cutGreeting(frame)
	if err != nil {
		return fmt.Errorf("from an edge: %w", err)
	}
	l.session = g.session
	l.mu.Lock()
	l.inline, l.greeted = int(min(g.window, 1<<40)), true
	l.mu.Unlock()
	l.signal()
	for {
		if err := l.take(rest); err != nil {
			return fmt.Errorf("from node %d: %w", l.session.Node(), err)
		}
		if rest, err = l.link.Recv(); err != nil {
			return fmt.Errorf("receive from node %d: %w", l.session.Node(), err)
		}
	}
}

// take handles a frame. What it brings for a shard is proposed together.
func (l *serverLink) take(frame []byte) error {
	defer l.kick()
	for len(frame) > 0 {
		it, rest, err := cutItem(frame)
		if err != nil {
			return err
		}
		if err := l.takeItem(&it); err != nil {
			return err
		}
		frame = rest
	}
	return nil
}

func (l *serverLink) takeItem(it *item) error {
	switch it.kind {
	case itemBatch:
		b, err := decodeBatch(it.payload)
		if err != nil {
			return err
		}
		return l.batch(it.shard, &b)
	case itemHello:
		return l.hello(it)
	case itemCredit:
		c := cursor{b: it.payload}
		bytes := c.u64()
		l.mu.Lock()
		l.inline += int(min(bytes, 1<<40))
		l.mu.Unlock()
		return c.err("credit")
	default:
		return fmt.Errorf("item of kind %d from an edge: %w", it.kind, errMalformed)
	}
}

// batch gives a batch to its shard's proposer. One that the machine would not understand must not get into an entry.
func (l *serverLink) batch(shard queue.ShardID, b *batchItem) error {
	o := l.outboxes[shard]
	if o == nil {
		return nil
	}
	batch := queue.Batch{Data: b.data, Commands: b.commands}
	if err := queue.CheckBatch(l.session, &batch); err != nil {
		return fmt.Errorf("batch %d for shard %d: %w", b.seq, shard, err)
	}
	switch flows, added := o.propose(b, &batch); {
	case !flows:
		return nil // of an earlier generation: the edge knows, or is about to
	case !added:
		o.host.refuse(l.session, o)
		return nil
	}
	if !slices.Contains(l.kicked, o.host) {
		l.kicked = append(l.kicked, o.host)
	}
	return nil
}

func (l *serverLink) kick() {
	for i, h := range l.kicked {
		h.kick()
		l.kicked[i] = nil
	}
	l.kicked = l.kicked[:0]
}

// hello takes a part of a hello, and with the last one attaches the outbox to its host.
func (l *serverLink) hello(it *item) error {
	o := l.outboxes[it.shard]
	h := l.server.o.Hosts.Host(it.shard)
	if o == nil || h != nil && o.host != h {
		o = &outbox{link: l, shard: it.shard, host: h}
		if h != nil {
			l.outboxes[it.shard] = o
		}
	}
	last, err := decodeHello(it.payload, &o.greeting)
	if err != nil || !last {
		return err
	}
	hi := o.greeting
	o.greeting = hello{}
	hi.session = l.session
	o.begin(hi.generation)
	if h == nil {
		o.reset(hi.generation)
		return nil
	}
	l.kick() // what came before the hello goes before it
	h.hello(o, &hi)
	return nil
}

// send sends what the outboxes hold until the link ends.
func (l *serverLink) send() error {
	var out frameBuilder
	for range l.wake {
		l.mu.Lock()
		ended, greeted := l.err != nil, l.greeted
		l.mu.Unlock()
		if ended {
			return nil
		}
		if !greeted {
			continue
		}
		if err := l.drain(&out); err != nil {
			return fmt.Errorf("send to node %d: %w", l.session.Node(), err)
		}
	}
	return nil
}
