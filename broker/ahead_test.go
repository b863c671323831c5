package broker_test

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/internal/amqptest"
	"github.com/warrenmq/warren/raftfsm/queue"
)

const aheadPrefetch = 64

// reader is a client with one consumer, which checks what comes.
type reader struct {
	*client
	ch    *broker.Channel
	acked int // of got
}

// newReader makes a reader of the queue q.
func newReader(t *testing.T, c *amqptest.Cluster, prefetch uint16) *reader {
	r := &reader{client: newClient(t, c)}
	r.run(func() error {
		r.ch = r.conn.OpenChannel(1)
		if err := r.ch.Qos(0, prefetch, false); err != nil {
			return err
		}
		_, err := r.ch.DeclareQueue(t.Context(), &broker.QueueDeclare{Name: "q", Durable: true})
		return err
	})
	return r
}

// consume starts the consumer.
func (r *reader) consume() {
	r.run(func() error {
		if _, err := r.ch.Consume(context.Background(), &broker.Consume{Queue: "q", Tag: "t"}); err != nil {
			return err
		}
		r.ch.Started("t")
		return nil
	})
}

// ack acknowledges all that has come, or the first n, and returns how much that is.
func (r *reader) ack(n int) int {
	r.mu.Lock()
	tags := r.tags[r.acked:]
	tags = tags[:min(n, len(tags))]
	r.mu.Unlock()
	if len(tags) == 0 {
		return 0
	}
	r.run(func() error { return r.ch.Ack(tags[len(tags)-1], true) })
	r.acked += len(tags)
	return len(tags)
}

// publishTo publishes messages with consecutive numbers from first on.
func publishTo(t *testing.T, c *amqptest.Cluster, first, n int) {
	k := newClient(t, c)
	defer k.close()
	k.run(func() error {
		ch := k.conn.OpenChannel(1)
		for i := range n {
			body := binary.BigEndian.AppendUint32(nil, uint32(first+i))
			if err := ch.Publish(t.Context(), &broker.Publish{RoutingKey: []byte("q"), Properties: []byte{0, 0}, Body: body}); err != nil {
				return err
			}
		}
		return nil
	})
}

// wantNumbers checks that the messages have consecutive numbers, and that none came again.
func (r *reader) wantNumbers(first int) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, body := range r.got {
		if n := int(binary.BigEndian.Uint32(body)); n != first+i {
			r.t.Fatalf("message %d is number %d, want %d", i, n, first+i)
		}
		if r.redelivered[i] {
			r.t.Fatalf("message %d is redelivered", i)
		}
	}
}

// TestReadAhead: a fast consumer does not wait for its acknowledgements to be in the log, has never more than its prefetch limit,
// and keeps nothing from others when it gets slow.
func TestReadAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const messages, delay = 20_000, 5 * time.Millisecond
		c := amqptest.NewAsyncCluster(t, broker.Options{})
		defer c.Stop()
		r := newReader(t, c, aheadPrefetch)
		defer r.close()
		publishTo(t, c, 0, messages)
		c.SetDelay(delay)
		r.consume()
		began := time.Now()
		const part = messages / 2
		for r.acked < part {
			r.await(func() bool { return len(r.tags) > r.acked })
			synctest.Wait()
			if out := len(r.tags) - r.acked; out > aheadPrefetch {
				t.Fatalf("the client has %d deliveries, its limit is %d", out, aheadPrefetch)
			}
			r.ack(aheadPrefetch / 2)
		}
		// Without reading ahead it would get half a limit for each delay.
		if took, least := time.Since(began), part/aheadPrefetch*delay; took > least/4 {
			t.Errorf("%d messages took %v, waiting for each acknowledgement %v", part, took, least)
		}
		// It stops. What it has not been sent is free again soon.
		time.Sleep(200 * time.Millisecond)
		id := c.Find("q").ID
		if n := c.Holds(id); n.Unsettled != aheadPrefetch || int(n.Ready) != messages-r.acked-aheadPrefetch {
			t.Errorf("%d acknowledged, the queue holds %+v", r.acked, n)
		}
		other := newReader(t, c, 10)
		defer other.close()
		other.consume()
		other.await(func() bool { return len(other.got) == 10 })
		other.wantNumbers(len(r.got))
		r.wantNumbers(0)
	})
}

// inlining is a cluster whose envelopes come along with the deliveries, in a window.
type inlining struct {
	*amqptest.Cluster
	used int    // by those of the one consumer that nobody has asked for
	last uint64 // the last that somebody has
	mu   sync.Mutex
}

// inlined is a receiver of such deliveries.
type inlined struct {
	broker.Receiver
	of *inlining
}

func (i *inlining) Subscribe(s queue.ShardID, id queue.ConsumerID, r broker.Receiver) {
	i.Cluster.Subscribe(s, id, inlined{r, i})
}

func (r inlined) Deliver(ds []broker.Delivery) {
	r.of.mu.Lock()
	r.of.used += len(ds)
	r.of.mu.Unlock()
	for i := range ds {
		ds[i].Inline = []byte("what Envelope returns")
	}
	r.Receiver.Deliver(ds)
}

func (i *inlining) Envelope(ctx context.Context, d *broker.Delivery) ([]byte, error) {
	i.mu.Lock()
	if d.ID > i.last {
		i.used--
		i.last = d.ID
	}
	i.mu.Unlock()
	return i.Cluster.Envelope(ctx, d)
}

// TestReadAheadLeavesWindow: what goes back without having been read takes no room in the window of envelopes.
func TestReadAheadLeavesWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &inlining{Cluster: amqptest.NewAsyncCluster(t, broker.Options{})}
		defer c.Stop()
		c.Broker.Start(c)
		r := newReader(t, c.Cluster, aheadPrefetch)
		defer r.close()
		publishTo(t, c.Cluster, 0, 4000)
		c.SetDelay(time.Millisecond)
		r.consume()
		for r.acked < 1000 {
			r.await(func() bool { return len(r.tags) > r.acked })
			r.ack(aheadPrefetch)
		}
		time.Sleep(time.Second)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.used != 0 {
			t.Errorf("%d envelopes take room, and none will be read", c.used)
		}
	})
}

// TestReadAheadPaused: a consumer that read ahead, was paused and has settled all goes on when it may have something again.
func TestReadAheadPaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const messages = 4000
		c := amqptest.NewAsyncCluster(t, broker.Options{})
		defer c.Stop()
		r := newReader(t, c, aheadPrefetch)
		defer r.close()
		publishTo(t, c, 0, messages)
		c.SetDelay(time.Millisecond)
		r.consume()
		for r.acked < 1000 {
			r.await(func() bool { return len(r.tags) > r.acked })
			r.ack(aheadPrefetch)
		}
		synctest.Wait()
		r.run(func() error { r.ch.SetCredit("t", 0); return nil })
		for r.ack(aheadPrefetch) > 0 {
			synctest.Wait()
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := c.Holds(c.Find("q").ID); n.Unsettled != 0 {
			t.Errorf("paused, it holds %+v", n)
		}
		before := len(r.got)
		r.run(func() error { r.ch.SetCredit("t", aheadPrefetch); return nil })
		time.Sleep(time.Second)
		synctest.Wait()
		if n := len(r.got) - before; n != aheadPrefetch {
			t.Errorf("%d deliveries came, it may have %d", n, aheadPrefetch)
		}
		r.wantNumbers(0)
	})
}

// TestReadAheadPausedOnTheWay: what was on its way to a consumer that had read ahead, when it was paused, is there for others.
func TestReadAheadPausedOnTheWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const messages, onTheWay = 4000, 10
		c := amqptest.NewAsyncCluster(t, broker.Options{})
		defer c.Stop()
		r := newReader(t, c, aheadPrefetch)
		defer r.close()
		publishTo(t, c, 0, messages)
		c.SetDelay(10 * time.Millisecond)
		r.consume()
		for r.acked < 1000 {
			r.await(func() bool { return len(r.tags) > r.acked })
			r.ack(aheadPrefetch)
		}
		time.Sleep(200 * time.Millisecond) // it reads ahead no more
		r.ack(onTheWay)                    // for which others come
		r.run(func() error { r.ch.SetCredit("t", 0); return nil })
		time.Sleep(time.Second)
		if n := c.Holds(c.Find("q").ID); int(n.Unsettled) != aheadPrefetch-onTheWay {
			t.Errorf("it was sent %d, the queue holds %+v", len(r.got)-r.acked, n)
		}
		other := newReader(t, c, 10)
		defer other.close()
		other.consume()
		other.await(func() bool { return len(other.got) == 10 })
		for i, body := range other.got { // some were with the reader twice, so that the machine may call them redelivered
			if n := int(binary.BigEndian.Uint32(body)); n != len(r.got)+i {
				t.Fatalf("message %d is number %d, want %d", i, n, len(r.got)+i)
			}
		}
		r.wantNumbers(0)
	})
}

// fullPipe is a cluster that takes nothing for a while, and counts what it is asked to.
type fullPipe struct {
	*amqptest.Cluster
	full    atomic.Bool
	batches atomic.Int64 // that came
}

func (p *fullPipe) Submit(ctx context.Context, s queue.ShardID, b *broker.Batch) error {
	p.batches.Add(1)
	if p.full.Load() {
		<-ctx.Done()
		return ctx.Err()
	}
	return p.Cluster.Submit(ctx, s, b)
}

// TestReadAheadStuck: a fast client that reads no more, so that its writer does not come back, keeps nothing beyond its limit from others, even
// when it acknowledges; when it reads again, it gets the rest of its limit.
func TestReadAheadStuck(t *testing.T) {
	for late, full := range map[int]bool{0: false, 10: false, 20: true} { // acknowledged afterwards; is the pipe full for a while
		synctest.Test(t, func(t *testing.T) {
			const messages = 4000
			p := &fullPipe{Cluster: amqptest.NewAsyncCluster(t, broker.Options{})}
			c := p.Cluster
			c.Broker.Start(p)
			defer c.Stop()
			r := newReader(t, c, aheadPrefetch)
			defer r.close()
			publishTo(t, c, 0, messages)
			c.SetDelay(time.Millisecond)
			r.consume()
			for r.acked < 1000 {
				r.await(func() bool { return len(r.tags) > r.acked })
				r.ack(aheadPrefetch)
			}
			unread := make(chan struct{})
			r.mu.Lock()
			r.unread = unread
			r.mu.Unlock()
			r.ack(aheadPrefetch) // it is sent some more, with which the writer stays
			synctest.Wait()
			r.ack(late)
			p.full.Store(full)
			time.Sleep(time.Second)
			p.full.Store(false)
			time.Sleep(time.Second)
			id := c.Find("q").ID
			if n := c.Holds(id); n.Unsettled != aheadPrefetch || int(n.Ready) != messages-r.acked-aheadPrefetch {
				t.Errorf("%d sent, %d acknowledged, the queue holds %+v", len(r.got), r.acked, n)
			}
			before := p.batches.Load()
			time.Sleep(time.Hour)
			if n := p.batches.Load() - before; n != 0 {
				t.Errorf("%d batches in an hour in which nothing happens", n)
			}
			other := newReader(t, c, 10)
			defer other.close()
			other.consume()
			other.await(func() bool { return len(other.got) == 10 })
			other.wantNumbers(r.acked + aheadPrefetch)
			close(unread)
			synctest.Wait()
			if out := len(r.got) - r.acked; out != aheadPrefetch {
				t.Errorf("it reads again and has %d", out)
			}
			r.wantNumbers(0)
		})
	}
}

// TestReadAheadEnds: what has not been sent when the consumer, or its channel, ends goes back as it was; what has been sent, is
// redelivered.
func TestReadAheadEnds(t *testing.T) {
	for name, end := range map[string]func(r *reader) error{
		"cancel":  func(r *reader) error { return r.ch.Cancel(context.Background(), "t") },
		"channel": func(r *reader) error { r.ch.Close(context.Background()); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := amqptest.NewAsyncCluster(t, broker.Options{})
				defer c.Stop()
				r := newReader(t, c, aheadPrefetch)
				defer r.close()
				publishTo(t, c, 0, 4000)
				c.SetDelay(time.Millisecond)
				r.consume()
				for r.acked < 1000 {
					r.await(func() bool { return len(r.tags) > r.acked })
					r.ack(aheadPrefetch)
				}
				synctest.Wait()
				id := c.Find("q").ID
				if n := c.Holds(id); n.Unsettled <= aheadPrefetch {
					t.Fatalf("it has not read ahead: %+v", n)
				}
				r.run(func() error { return end(r) })
				time.Sleep(10 * time.Millisecond)
				sent := len(r.got)
				want := queue.Counts{Ready: uint64(4000 - r.acked), Unsettled: 0}
				if name == "cancel" { // it keeps what it has
					want = queue.Counts{Ready: uint64(4000 - sent), Unsettled: uint64(sent - r.acked)}
				}
				if n := c.Holds(id); n.Ready != want.Ready || n.Unsettled != want.Unsettled {
					t.Errorf("the queue holds %+v, want %+v", n, want)
				}
				other := newReader(t, c, 200)
				defer other.close()
				other.consume()
				other.await(func() bool { return len(other.got) == 200 })
				first := 4000 - int(want.Ready)
				for i, body := range other.got {
					if n := int(binary.BigEndian.Uint32(body)); n != first+i {
						t.Fatalf("message %d is number %d, want %d", i, n, first+i)
					}
					if again := first+i < sent; other.redelivered[i] != again {
						t.Fatalf("number %d, %d were sent: redelivered %t", first+i, sent, other.redelivered[i])
					}
				}
			})
		})
	}
}

// TestReadAheadAtAnyPace: a client that is fast and slow by turns, with limits that change meanwhile, gets each message once and in
// order, and never more than it may have.
func TestReadAheadAtAnyPace(t *testing.T) {
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			const messages = 10_000
			random := rand.New(rand.NewPCG(seed, 1))
			c := amqptest.NewAsyncCluster(t, broker.Options{})
			defer c.Stop()
			r := newReader(t, c, aheadPrefetch)
			defer r.close()
			publishTo(t, c, 0, messages)
			r.consume()
			limit := aheadPrefetch
			lowered, changed := 0, time.Now() // a limit from before, below which deliveries may be on their way
			for r.acked < messages {
				switch pick := random.IntN(100); {
				case pick < 2:
					time.Sleep(time.Duration(random.IntN(200)) * time.Millisecond)
				case pick < 10:
					time.Sleep(time.Duration(random.IntN(5)) * time.Millisecond)
				case pick < 12:
					c.SetDelay(time.Duration(random.IntN(60)) * time.Millisecond)
				case pick < 13: // slow, with acknowledgements on their way when it is found out
					for range 30 {
						time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond)
						r.ack(1 + random.IntN(3))
					}
				case pick < 15:
					lowered, changed = max(lowered, limit), time.Now()
					limit = 32 + random.IntN(100)
					r.run(func() error { r.ch.SetCredit("t", uint32(limit)); return nil })
				}
				synctest.Wait()
				out := len(r.tags) - r.acked
				if out > max(limit, lowered) {
					t.Fatalf("the client has %d deliveries, its limit is %d", out, limit)
				}
				if out <= limit && time.Since(changed) > time.Second {
					lowered = 0
				}
				if out == 0 && r.acked < messages {
					r.await(func() bool { return len(r.tags) > r.acked })
				}
				r.ack(1 + random.IntN(limit))
			}
			r.wantNumbers(0)
			time.Sleep(time.Second)
			if n := c.Holds(c.Find("q").ID); n.Ready != 0 || n.Unsettled != 0 || len(r.got) != messages {
				t.Errorf("%d came, the queue holds %+v", len(r.got), n)
			}
		})
	}
}
