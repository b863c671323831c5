package pipe

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// clients publish to and consume from one queue through edges, and check what they see.
type clients struct {
	t  testing.TB
	id queue.QueueID
	wg sync.WaitGroup

	mu        sync.Mutex
	confirmed map[uint32]uint64            // publisher: messages confirmed
	seen      map[[2]uint64]queue.Delivery // publisher and number: how it came
	problems  []string
}

func newClients(t testing.TB, id queue.QueueID) *clients {
	return &clients{t: t, id: id, confirmed: map[uint32]uint64{}, seen: map[[2]uint64]queue.Delivery{}}
}

func (c *clients) problem(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.problems) < 20 {
		c.problems = append(c.problems, fmt.Sprintf(format, args...))
	}
}

// do submits one batch and waits for its results.
func do(ctx context.Context, e *Edge, shard queue.ShardID, f func(b *queue.Batch)) ([]queue.Result, error) {
	answered := make(chan []queue.Result, 1)
	b := &broker.Batch{Done: func(_ *broker.Batch, r []queue.Result) {
		answered <- append([]queue.Result{}, r...)
	}}
	f(&b.Batch)
	if err := e.Submit(ctx, shard, b); err != nil {
		return nil, err
	}
	select {
	case r := <-answered:
		return r, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// declare creates the queue.
func (c *clients) declare(ctx context.Context, e *Edge) {
	c.t.Helper()
	r, err := do(ctx, e, c.id.Shard(), func(b *queue.Batch) { b.Configure(c.id, &queue.Settings{}) })
	if err != nil || len(r) != 1 || r[0].Code != queue.OK {
		c.t.Fatalf("configure: %+v, %v", r, err)
	}
}

// envelopeOf is the envelope of a publisher's message.
func envelopeOf(publisher uint32, number uint64, size int) []byte {
	b := le.AppendUint32(make([]byte, 0, max(16, size)), publisher)
	b = le.AppendUint64(b, number)
	b = le.AppendUint32(b, uint32(size))
	for len(b) < size {
		b = append(b, byte(number)+byte(len(b)))
	}
	return b
}

// publish publishes so many messages in batches of random size and returns when all are confirmed.
func (c *clients) publish(ctx context.Context, e *Edge, publisher uint32, messages uint64, size int, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, uint64(publisher)))
	var pending sync.WaitGroup
	for next := uint64(1); next <= messages; {
		n := min(uint64(1+rng.IntN(10)), messages-next+1)
		b := &broker.Batch{}
		for i := range n {
			c.enqueue(b, envelopeOf(publisher, next+i, 16+rng.IntN(size)), uint64(publisher)<<32|(next+i))
		}
		last := next + n - 1
		b.Done = func(b *broker.Batch, r []queue.Result) {
			c.mu.Lock()
			if c.confirmed[publisher]+n != last {
				c.problems = append(c.problems, fmt.Sprintf("publisher %d: confirm of %d after %d", publisher, last, c.confirmed[publisher]))
			}
			c.confirmed[publisher] = last
			c.mu.Unlock()
			pending.Done()
		}
		pending.Add(1)
		if err := e.Submit(ctx, c.id.Shard(), b); err != nil {
			c.problem("submit: %v", err)
			return
		}
		next += n
		if rng.IntN(4) == 0 {
			time.Sleep(time.Duration(rng.IntN(int(5 * time.Millisecond))))
		}
	}
	pending.Wait()
}

// enqueue appends a publish, in pieces if it is large.
func (c *clients) enqueue(b *broker.Batch, envelope []byte, upload uint64) {
	o := queue.EnqueueOptions{}
	for len(envelope) > 4<<10 {
		o.Upload = upload
		b.Chunk(upload, envelope[:4<<10])
		envelope = envelope[4<<10:]
	}
	mark := b.BeginEnqueue([]queue.QueueID{c.id}, &o)
	b.Data = append(b.Data, envelope...)
	b.EndEnqueue(mark)
}

// consumer takes messages and acknowledges them.
type consumer struct {
	c    *clients
	edge *Edge
	id   queue.ConsumerID

	mu        sync.Mutex
	inbox     []broker.Delivery
	lastID    uint64
	wake      chan struct{}
	cancelled bool
}

// consume attaches a consumer, and takes and acknowledges until ctx ends.
func (c *clients) consume(ctx context.Context, e *Edge, id queue.ConsumerID, credit uint32) *consumer {
	k := &consumer{c: c, edge: e, id: id, wake: make(chan struct{}, 1)}
	e.Subscribe(c.id.Shard(), id, k)
	r, err := do(ctx, e, c.id.Shard(), func(b *queue.Batch) {
		b.Attach(c.id, id, &queue.AttachOptions{Credit: credit})
	})
	if err != nil || len(r) != 1 || r[0].Code != queue.OK {
		c.problem("attach: %+v, %v", r, err)
		return k
	}
	c.wg.Go(func() { k.run(ctx) })
	return k
}

func (k *consumer) Deliver(ds []broker.Delivery) {
	k.mu.Lock()
	for i := range ds {
		if ds[i].ID <= k.lastID {
			k.c.problem("consumer %d: delivery %d after %d", k.id, ds[i].ID, k.lastID)
		}
		k.lastID = ds[i].ID
	}
	k.inbox = append(k.inbox, ds...)
	k.mu.Unlock()
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

func (k *consumer) Cancelled() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cancelled = true
}

func (k *consumer) run(ctx context.Context) {
	last := map[uint32]uint64{}
	for {
		select {
		case <-k.wake:
		case <-ctx.Done():
			return
		}
		k.mu.Lock()
		ds := k.inbox
		k.inbox = nil
		k.mu.Unlock()
		b := &broker.Batch{Done: func(*broker.Batch, []queue.Result) {}}
		for i := range ds {
			envelope, err := k.edge.Envelope(ctx, &ds[i])
			if err != nil {
				if ctx.Err() == nil {
					k.c.problem("envelope: %v", err)
				}
				return
			}
			k.c.check(&ds[i].Delivery, envelope, last)
			b.Settle(k.id, queue.Ack, queue.Range{From: ds[i].ID, To: ds[i].ID})
		}
		if b.Commands > 0 && k.edge.Submit(ctx, k.c.id.Shard(), b) != nil {
			return
		}
	}
}

// check checks a message against what was published and what came before.
func (c *clients) check(d *queue.Delivery, envelope []byte, last map[uint32]uint64) {
	if len(envelope) < 16 {
		c.problem("envelope of %d bytes", len(envelope))
		return
	}
	publisher, number := le.Uint32(envelope), le.Uint64(envelope[4:])
	if want := envelopeOf(publisher, number, int(le.Uint32(envelope[12:]))); string(want) != string(envelope) {
		c.problem("message %d of publisher %d came changed", number, publisher)
	}
	if last != nil {
		if number <= last[publisher] && !d.Redelivered {
			c.problem("message %d of publisher %d came after %d", number, publisher, last[publisher])
		}
		last[publisher] = number
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	key := [2]uint64{uint64(publisher), number}
	if before, twice := c.seen[key]; twice {
		c.problems = append(c.problems, fmt.Sprintf("message %d of publisher %d twice: %+v and %+v", number, publisher, before, *d))
	}
	c.seen[key] = *d
}

// get gets until so many messages have come.
func (c *clients) get(ctx context.Context, e *Edge, id queue.ConsumerID, messages int) {
	e.Subscribe(c.id.Shard(), id, ignore{})
	defer e.Unsubscribe(c.id.Shard(), id)
	last := map[uint32]uint64{}
	var settle queue.Delivery
	for got := 0; got < messages; {
		r, err := do(ctx, e, c.id.Shard(), func(b *queue.Batch) {
			if settle.ID != 0 {
				b.Settle(id, queue.Ack, queue.Range{From: settle.ID, To: settle.ID})
			}
			b.Get(c.id, id)
		})
		if err != nil || len(r) != 1 {
			c.problem("get: %+v, %v", r, err)
			return
		}
		if r[0].Code != queue.Message {
			settle.ID = 0
			time.Sleep(10 * time.Millisecond)
			continue
		}
		settle = r[0].Delivery
		d := broker.Delivery{Delivery: settle}
		envelope, err := e.Envelope(ctx, &d)
		if err != nil {
			c.problem("envelope: %v", err)
			return
		}
		c.check(&d.Delivery, envelope, last)
		got++
	}
	if _, err := do(ctx, e, c.id.Shard(), func(b *queue.Batch) {
		b.Settle(id, queue.Ack, queue.Range{From: settle.ID, To: settle.ID})
		b.Detach(id, false, math.MaxUint64)
	}); err != nil {
		c.problem("detach: %v", err)
	}
}

// ignore is a receiver that drops everything.
type ignore struct{}

func (ignore) Deliver([]broker.Delivery) {}
func (ignore) Cancelled()                {}

// await waits in the bubble until a condition holds.
func await(t testing.TB, limit time.Duration, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in %v: %s", limit, what)
		}
	}
}

func (c *clients) seenCount() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.seen)
}

// verdict fails the test for what the clients did not like.
func (c *clients) verdict() {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.problems {
		c.t.Error(p)
	}
}
