package broker_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/internal/amqptest"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// sharing is a client whose consumers share a limit, one for each of the queues q0, q1 …
type sharing struct {
	*client
	ch    *broker.Channel
	acked int // of got
}

func newSharing(t *testing.T, c *amqptest.Cluster, limit uint16, queues ...int) *sharing {
	s := &sharing{client: newClient(t, c)}
	s.run(func() error {
		s.ch = s.conn.OpenChannel(1)
		if err := s.ch.Qos(0, limit, true); err != nil {
			return err
		}
		for _, q := range queues {
			name := fmt.Sprintf("q%d", q)
			if _, err := s.ch.DeclareQueue(context.Background(), &broker.QueueDeclare{Name: name, Durable: true}); err != nil {
				return err
			}
			if _, err := s.ch.Consume(context.Background(), &broker.Consume{Queue: name, Tag: name}); err != nil {
				return err
			}
			s.ch.Started(name)
		}
		return nil
	})
	return s
}

// publish publishes n messages to a queue, numbered from first on.
func (s *sharing) publish(q, first, n int) {
	s.run(func() error {
		for i := range n {
			body := binary.BigEndian.AppendUint32([]byte{byte(q)}, uint32(first+i))
			if err := s.ch.Publish(context.Background(), &broker.Publish{RoutingKey: fmt.Appendf(nil, "q%d", q), Properties: []byte{0, 0}, Body: body}); err != nil {
				return err
			}
		}
		return nil
	})
}

// ack acknowledges the first n of what has come, and returns how many there were.
func (s *sharing) ack(n int) int {
	s.mu.Lock()
	tags := s.tags[s.acked:]
	s.mu.Unlock()
	if n = min(n, len(tags)); n > 0 {
		s.run(func() error { return s.ch.Ack(tags[n-1], true) })
		s.acked += n
	}
	return n
}

// ofQueue are the numbers of what has come from a queue.
func (s *sharing) ofQueue(q int) (numbers []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, body := range s.got {
		if int(body[0]) == q {
			numbers = append(numbers, int(binary.BigEndian.Uint32(body[1:])))
		}
	}
	return numbers
}

// counting counts the batches of a cluster.
type counting struct {
	*amqptest.Cluster
	batches atomic.Int64
}

func (c *counting) Submit(ctx context.Context, s queue.ShardID, b *broker.Batch) error {
	c.batches.Add(1)
	return c.Cluster.Submit(ctx, s, b)
}

// TestSharedLimitKeepsNothing: what a channel's limit does not let through is there for other consumers, as if it had never been out;
// while the client works on what it has, nothing goes on.
func TestSharedLimitKeepsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &counting{Cluster: amqptest.NewAsyncCluster(t, broker.Options{})}
		defer c.Stop()
		c.Broker.Start(c)
		c.SetDelay(time.Millisecond)
		a := newSharing(t, c.Cluster, 1, 0, 1)
		defer a.close()
		b := newSharing(t, c.Cluster, 1, 1)
		defer b.close()
		a.publish(0, 0, 1)
		a.await(func() bool { return len(a.got) == 1 })
		for i := range 4 { // each consumer of q1 is offered some of them first
			b.publish(1, i, 1)
			b.await(func() bool { return len(b.got) == i+1 })
			b.ack(1)
		}
		time.Sleep(time.Second)
		before := c.batches.Load()
		time.Sleep(time.Hour)
		if n := c.batches.Load() - before; n != 0 {
			t.Errorf("%d batches in an hour in which nothing happens", n)
		}
		for i := range 5 {
			b.publish(1, 4+i, 1)
		}
		b.await(func() bool { return len(b.got) == 5 })
		if n := len(a.got); n != 1 {
			t.Errorf("%d deliveries came, the limit is 1", n)
		}
		a.ack(1) // and now it gets what b has no room for
		a.await(func() bool { return len(a.got) == 2 })
		if got, want := fmt.Sprint(a.ofQueue(1), b.ofQueue(1)), "[5] [0 1 2 3 4]"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if slices.Contains(append(a.redelivered, b.redelivered...), true) {
			t.Error("something is redelivered")
		}
	})
}

// TestSharedLimitTurns: however long the client works on a message, those consumers of a channel that have some get their turns; those that
// have none take none.
func TestSharedLimitTurns(t *testing.T) {
	for _, work := range []time.Duration{0, 10 * time.Millisecond, 70 * time.Millisecond, time.Second} {
		for _, limit := range []int{1, 3} {
			t.Run(fmt.Sprint(work, " ", limit), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					const messages, queues = 60, 4 // q3 has none
					c := amqptest.NewAsyncCluster(t, broker.Options{})
					defer c.Stop()
					c.SetDelay(2 * time.Millisecond)
					s := newSharing(t, c, uint16(limit), 0, 1, 2, 3)
					defer s.close()
					for q := range queues - 1 {
						s.publish(q, 0, messages)
					}
					for s.acked < messages*(queues-1)/2 {
						s.await(func() bool { return len(s.tags) > s.acked })
						time.Sleep(work)
						s.ack(1)
						synctest.Wait()
						if out := len(s.tags) - s.acked; out > limit {
							t.Fatalf("the client has %d deliveries, the limit is %d", out, limit)
						}
					}
					for q := range queues - 1 {
						if n := len(s.ofQueue(q)); n < messages/2-2*limit || n > messages/2+2*limit {
							t.Errorf("%d of %d came from q%d", n, len(s.got), q)
						}
					}
				})
			})
		}
	}
}

// TestLimitEndsWhileReaderIsHeldUp lets the limit end, and the reader be held up before what it has staged goes out: what the writer says
// meanwhile of consumers that were barred is the last word.
func TestLimitEndsWhileReaderIsHeldUp(t *testing.T) {
	for _, global := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			c := amqptest.NewAsyncCluster(t, broker.Options{})
			defer c.Stop()
			c.SetDelay(time.Millisecond)
			s := newSharing(t, c, 1, 0, 1)
			defer s.close()
			s.publish(0, 0, 1)
			s.await(func() bool { return len(s.got) == 1 })
			s.publish(1, 0, 1)
			time.Sleep(time.Second) // q1's message has gone back, and its consumer is barred
			s.run(func() error {
				if err := s.ch.Qos(0, 10, global); err != nil {
					return err
				}
				time.Sleep(time.Second)
				return nil
			})
			s.publish(1, 1, 1)
			time.Sleep(time.Minute)
			if got := fmt.Sprint(s.ofQueue(1)); got != "[0 1]" {
				t.Errorf("global %v: of q1 there came %s", global, got)
			}
		})
	}
}

// TestSharedLimitBesideAShardWithoutLeader: a consumer that was barred keeps nobody from his turn when its shard does not answer.
func TestSharedLimitBesideAShardWithoutLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := amqptest.NewCluster(t, broker.Options{})
		s := newSharing(t, c, 1, 0, 1)
		defer s.close()
		s.publish(0, 0, 10)
		s.publish(1, 0, 10)
		s.await(func() bool { return len(s.got) == 1 })
		time.Sleep(time.Second) // what waits has gone back
		from, other := int(s.got[0][0]), 1-int(s.got[0][0])
		c.Hold(c.Find(fmt.Sprintf("q%d", other)).ID.Shard())
		for i := range 9 {
			s.ack(1)
			time.Sleep(time.Second)
			if n := len(s.ofQueue(from)); n != i+2 {
				t.Fatalf("%d came after %d were acknowledged", n, i+1)
			}
		}
		c.Release(c.Find(fmt.Sprintf("q%d", other)).ID.Shard())
		for range 10 {
			s.ack(1)
			time.Sleep(time.Second)
		}
		if n := len(s.ofQueue(other)); n != 10 {
			t.Errorf("%d came from the other queue", n)
		}
	})
}

// TestSharedLimitAtAnyPace: a client that is fast and slow by turns, with limits that change meanwhile, gets each message of each queue once and
// in order, and never more than it may have.
func TestSharedLimitAtAnyPace(t *testing.T) {
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			const messages, queues = 500, 3
			random := rand.New(rand.NewPCG(seed, 2))
			c := amqptest.NewAsyncCluster(t, broker.Options{})
			defer c.Stop()
			limit := 1 + random.IntN(20)
			s := newSharing(t, c, uint16(limit), 0, 1, 2)
			defer s.close()
			lowered, left := 0, [queues]int{messages, messages, messages}
			for s.acked < queues*messages {
				switch pick := random.IntN(100); {
				case pick < 5:
					time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
				case pick < 30:
					time.Sleep(time.Duration(random.IntN(60)) * time.Millisecond)
				case pick < 33:
					c.SetDelay(time.Duration(random.IntN(60)) * time.Millisecond)
				case pick < 36:
					lowered = max(lowered, limit)
					limit = 1 + random.IntN(20)
					s.run(func() error { return s.ch.Qos(0, uint16(limit), true) })
				case pick < 50:
					q := random.IntN(queues)
					n := min(left[q], random.IntN(100))
					s.publish(q, messages-left[q], n)
					left[q] -= n
				}
				synctest.Wait()
				out := len(s.tags) - s.acked
				if out > max(limit, lowered) {
					t.Fatalf("the client has %d deliveries, its limit is %d", out, limit)
				}
				if out <= limit {
					lowered = 0
				}
				if s.ack(1+random.IntN(limit)) == 0 && left == [queues]int{} && s.acked < queues*messages {
					s.await(func() bool { return len(s.tags) > s.acked })
				}
			}
			time.Sleep(time.Second)
			for q := range queues {
				for i, n := range s.ofQueue(q) {
					if n != i {
						t.Fatalf("message %d of q%d is number %d", i, q, n)
					}
				}
				if n := c.Holds(c.Find(fmt.Sprintf("q%d", q)).ID); n.Ready != 0 || n.Unsettled != 0 {
					t.Errorf("q%d holds %+v", q, n)
				}
			}
		})
	}
}
