package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/test/chaos/check"
)

// The workload: queues, and who publishes to them and takes from them.
//
//	ordered   one consumer at a time, so that order is seen across the consumers' lives
//	work      two consumers, one of which gives some back
//	left, right   behind a fanout exchange; what is in right is fetched by basic.get
//	backlog   nobody takes from it until the faults are over, so that messages outlive the log's files
const fanout = "fan"

// pause is a time of the clients' between two steps.
func pause(random *rand.Rand, about time.Duration) time.Duration {
	return about/4 + time.Duration(random.Int64N(int64(about)*3/2))
}

// sleep waits, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// anyRun is a run that serves clients, by a client's choice; nil: none does.
func (s *sim) anyRun(random *rand.Rand) *run {
	for _, i := range random.Perm(len(s.nodes)) {
		if r := s.nodes[i].serving(); r != nil && !r.stops() {
			return r
		}
	}
	return nil
}

// stops tells whether a run has been asked to stop: it takes no clients any more.
func (r *run) stops() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pleased
}

// connected opens a session on any node and lets use go on with it until that returns; again and again until ctx ends, or use
// says that it is done.
func (s *sim) connected(ctx context.Context, random *rand.Rand, prepare func() *session, use func(*session) (done bool, err error)) {
	for ctx.Err() == nil {
		r := s.anyRun(random)
		if r == nil {
			sleep(ctx, pause(random, 50*time.Millisecond))
			continue
		}
		c, err := connect(ctx, r, prepare())
		if err != nil {
			s.refused(r, "connect", err)
			sleep(ctx, pause(random, 50*time.Millisecond))
			continue
		}
		done, err := use(c)
		if err != nil && ctx.Err() == nil {
			s.refused(r, "client", err)
		}
		if done {
			return
		}
		sleep(ctx, pause(random, 10*time.Millisecond))
	}
}

// refused notes an error that a client saw: one is excused if its node was under a fault.
func (s *sim) refused(r *run, what string, err error) {
	select {
	case <-r.gone:
		return
	default:
	}
	r.mu.Lock()
	pleased := r.pleased
	r.mu.Unlock()
	if pleased {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errors = append(s.errors, clientError{s.now(), r.n.number, fmt.Sprintf("%s on %s: %v", what, r.name, err)})
}

// clientError is what a client of a node that ran saw.
type clientError struct {
	at   time.Duration
	node int
	text string
}

// publisher publishes messages with confirms.
type publisher struct {
	s        *sim
	entry    *check.Publisher
	exchange string
	key      string
	random   *rand.Rand
	left     int // messages to publish
	window   int // unconfirmed ones at most

	mu      sync.Mutex // guards what follows
	waiting map[uint64]uint32
	next    uint64
	changed chan struct{} // has room for one
}

func (p *publisher) run(ctx context.Context) {
	p.changed = make(chan struct{}, 1)
	p.s.connected(ctx, p.random, func() *session {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.waiting, p.next = map[uint64]uint32{}, 0
		waiting := p.waiting
		c := &session{returned: p.returned}
		c.confirmed = func(tag uint64, multiple, ack bool) { p.confirmed(c.run, waiting, tag, multiple, ack) }
		return c
	}, p.use)
}

// returned notes a message that came back as unroutable: its queue exists all the time.
func (p *publisher) returned(body []byte) {
	_, id, _ := decodeBody(body)
	p.entry.Undone(id)
	p.s.ledger.Report(check.Finding{Kind: check.ClientError, Detail: fmt.Sprintf("message %d was returned as unroutable", id)})
}

func (p *publisher) use(c *session) (done bool, err error) {
	defer c.close()
	if err := c.ch.ConfirmSelect(); err != nil {
		return false, err
	}
	p.entry.Begin()
	for p.left > 0 {
		for range min(p.left, 1+p.random.IntN(4)) {
			if err := p.publish(c); err != nil {
				return false, err
			}
		}
		if err := c.conn.Flush(c.ctx); err != nil {
			return false, err
		}
		if err := p.await(c, p.window); err != nil {
			return false, err
		}
		if p.random.IntN(40) == 0 {
			return false, nil // a client that goes without waiting for its confirms
		}
		sleep(c.ctx, pause(p.random, p.s.plan.pace))
	}
	return true, p.await(c, 0)
}

func (p *publisher) publish(c *session) error {
	id := p.entry.Next()
	p.left--
	size := bodyMin + p.random.IntN(600)
	if p.random.IntN(8) == 0 {
		size = 1000 + p.random.IntN(3000)
	}
	p.mu.Lock()
	p.next++
	p.waiting[p.next] = id
	p.mu.Unlock()
	return c.ch.Publish(c.ctx, &broker.Publish{Exchange: []byte(p.exchange), RoutingKey: []byte(p.key), Mandatory: true,
		Properties: persistent, Body: encodeBody(p.entry.Number(), id, size)})
}

// persistent is the properties of a message with delivery mode 2.
var persistent = []byte{0x10, 0x00, 2}

func (p *publisher) confirmed(r *run, waiting map[uint64]uint32, tag uint64, multiple, ack bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for t, id := range waiting {
		if t == tag || multiple && t <= tag {
			delete(waiting, t)
			if ack {
				p.entry.Confirmed(id)
				p.s.progress()
			} else {
				p.s.refused(r, "nack", fmt.Errorf("message %d of %s", id, p.key))
			}
		}
	}
	signal(p.changed)
}

// await waits until no more than so many messages are unconfirmed.
func (p *publisher) await(c *session, most int) error {
	for {
		p.mu.Lock()
		n := len(p.waiting)
		p.mu.Unlock()
		if n <= most {
			return nil
		}
		select {
		case <-p.changed:
		case <-c.ctx.Done():
			return c.err()
		}
	}
}

// consumer takes messages out of a queue, one life after another.
type consumer struct {
	s        *sim
	queue    *check.Queue
	random   *rand.Rand
	giveBack bool          // some messages
	lasting  time.Duration // about how long a life lasts

	mu    sync.Mutex // guards what follows
	entry *check.Consumer
	over  bool // the present life has ended
	got   []taken
	more  chan struct{} // has room for one
}

// taken is a delivery that is not settled.
type taken struct {
	tag           uint64
	publisher, id uint32
}

func (k *consumer) run(ctx context.Context) {
	k.more = make(chan struct{}, 1)
	k.s.connected(ctx, k.random, func() *session {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.over, k.got, k.entry = false, nil, nil
		return &session{delivered: k.delivered}
	}, k.use)
}

func (k *consumer) delivered(m *broker.Outgoing) {
	publisher, id, ok := decodeBody(m.Body)
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.over:
	case !ok:
		k.s.ledger.Report(check.Finding{Kind: check.Corrupt, Queue: k.queue.Name(), Detail: fmt.Sprintf("%d bytes", len(m.Body))})
	default:
		k.entry.Delivered(publisher, id, m.Redelivered)
		k.s.progress()
		k.got = append(k.got, taken{m.Tag, publisher, id})
		signal(k.more)
	}
}

func (k *consumer) use(c *session) (bool, error) {
	k.mu.Lock()
	k.entry = k.queue.Consumer(c.run.n.number)
	k.mu.Unlock()
	lost := true
	defer func() {
		k.end(lost)
		c.close()
	}()
	life, cancel := context.WithTimeout(c.ctx, pause(k.random, k.lasting))
	defer cancel()
	if err := c.ch.Qos(0, uint16(1+k.random.IntN(12)), false); err != nil {
		return false, err
	}
	tag, err := c.ch.Consume(c.ctx, &broker.Consume{Queue: k.queue.Name()})
	if err != nil {
		return false, err
	}
	c.ch.Started(tag)
	for {
		select {
		case <-k.more:
		case <-life.Done():
			if err := c.err(); err != nil {
				return false, err
			}
			lost = k.random.IntN(2) == 0
			return false, nil
		}
		sleep(life, pause(k.random, 2*time.Millisecond))
		if err := k.settle(c); err != nil {
			return false, err
		}
	}
}

// settle settles all or some of what was taken.
func (k *consumer) settle(c *session) error {
	k.mu.Lock()
	got := k.got
	k.got = nil
	k.mu.Unlock()
	for len(got) > 0 {
		n := 1 + k.random.IntN(len(got))
		some := got[:n]
		got = got[n:]
		last := some[n-1].tag
		back := k.giveBack && k.random.IntN(12) == 0
		for _, m := range some {
			if back {
				k.entry.Requeued(m.publisher, m.id)
			} else {
				k.entry.Acked(m.publisher, m.id)
			}
		}
		var err error
		if back {
			err = c.ch.Nack(last, true, true)
		} else {
			err = c.ch.Ack(last, true)
		}
		if err == nil {
			err = c.conn.Flush(c.ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (k *consumer) end(lost bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.over = true
	if lost {
		k.entry.Lost()
	} else {
		k.entry.Closed()
	}
}

// getter takes messages by basic.get.
func (k *consumer) runGets(ctx context.Context) {
	k.s.connected(ctx, k.random, func() *session { return &session{} }, func(c *session) (bool, error) {
		entry := k.queue.Consumer(c.run.n.number)
		lost := true
		defer func() {
			if lost {
				entry.Lost()
			} else {
				entry.Closed()
			}
			c.close()
		}()
		for range 5 + k.random.IntN(100) {
			m, ok, err := c.ch.Get(c.ctx, k.queue.Name(), false)
			if err = c.answered(err); err != nil {
				return false, err
			}
			if !ok {
				sleep(ctx, pause(k.random, 20*time.Millisecond))
				if ctx.Err() != nil {
					break
				}
				continue
			}
			publisher, id, whole := decodeBody(m.Body)
			if !whole {
				k.s.ledger.Report(check.Finding{Kind: check.Corrupt, Queue: k.queue.Name(), Detail: "by get"})
				continue
			}
			entry.Delivered(publisher, id, m.Redelivered)
			entry.Acked(publisher, id)
			k.s.progress()
			if err := errors.Join(c.ch.Ack(m.Tag, false), c.conn.Flush(c.ctx)); err != nil {
				return false, err
			}
		}
		lost = k.random.IntN(2) == 0
		return false, nil
	})
}

// declareAll declares the queues and the exchange of the workload.
func (s *sim) declareAll(ctx context.Context) error {
	var failure error
	s.connected(ctx, s.fork(), func() *session { return &session{} }, func(c *session) (bool, error) {
		defer c.close()
		failure = c.ch.DeclareExchange(ctx, &broker.ExchangeDeclare{Name: fanout, Type: "fanout", Durable: true})
		for _, q := range s.queues {
			if failure == nil {
				_, failure = c.ch.DeclareQueue(ctx, &broker.QueueDeclare{Name: q.Name(), Durable: true})
			}
		}
		for _, q := range s.queues[2:4] {
			if failure == nil {
				failure = c.ch.BindQueue(ctx, &broker.Binding{Source: fanout, Destination: q.Name()})
			}
		}
		return true, nil
	})
	return failure
}

// operator declares, binds and deletes queues of few names, so that what others see of it can be checked.
func (s *sim) operator(ctx context.Context, number int, random *rand.Rand) {
	names := []string{"name-a", "name-b"}
	s.connected(ctx, random, func() *session { return &session{} }, func(c *session) (bool, error) {
		defer c.close()
		for ctx.Err() == nil {
			sleep(ctx, pause(random, s.plan.pace*8))
			op := check.CatalogOp{Client: number, Queue: names[random.IntN(len(names))], Verb: check.Verb(random.IntN(5)), Variant: uint8(random.IntN(2))}
			if s.operations.Add(1) > maxOperations {
				return true, nil
			}
			op.Begin = s.now()
			err := c.answered(operate(c, &op))
			op.Finish = s.now()
			var refusal *broker.Error
			switch {
			case err == nil:
				op.Answer = check.OK
			case errors.As(err, &refusal) && refusal.Kind == broker.NotFound:
				op.Answer = check.Missing
			case errors.As(err, &refusal) && refusal.Kind == broker.PreconditionFailed:
				op.Answer = check.Inequivalent
			}
			s.mu.Lock()
			s.history = append(s.history, op)
			s.mu.Unlock()
			switch {
			case op.Answer == check.Unknown:
				return false, err
			case err != nil:
				return false, nil // the channel is closed
			}
		}
		return true, nil
	})
}

// maxOperations bounds the history that has to be explained.
const maxOperations = 60

func operate(c *session, op *check.CatalogOp) error {
	declare := broker.QueueDeclare{Name: op.Queue, Durable: true, AutoDelete: op.Variant == 1}
	binding := broker.Binding{Source: fanout + "-of-names", Destination: op.Queue, RoutingKey: op.Queue}
	switch op.Verb {
	case check.Declare:
		_, err := c.ch.DeclareQueue(c.ctx, &declare)
		return err
	case check.Delete:
		_, err := c.ch.DeleteQueue(c.ctx, op.Queue, false, false)
		return err
	case check.Passive:
		declare.Passive = true
		_, err := c.ch.DeclareQueue(c.ctx, &declare)
		return err
	case check.Bind:
		if err := c.ch.DeclareExchange(c.ctx, &broker.ExchangeDeclare{Name: binding.Source, Type: "direct", Durable: true}); err != nil {
			return err
		}
		return c.ch.BindQueue(c.ctx, &binding)
	case check.Unbind:
		if err := c.ch.DeclareExchange(c.ctx, &broker.ExchangeDeclare{Name: binding.Source, Type: "direct", Durable: true}); err != nil {
			return err
		}
		return c.ch.UnbindQueue(c.ctx, &binding)
	}
	panic("no such operation: " + op.Verb.String())
}

// addQueue makes a queue of the ledger.
func (s *sim) addQueue(name string, single bool) *check.Queue {
	q := s.ledger.Queue(name, single)
	s.queues = append(s.queues, q)
	return q
}

func to(queues ...*check.Queue) func(uint32) []*check.Queue {
	queues = slices.Clone(queues)
	return func(uint32) []*check.Queue { return queues }
}
