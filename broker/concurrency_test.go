package broker_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/internal/amqptest"
	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm"
	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// told is a confirm.
type told struct {
	tag           uint64
	multiple, ack bool
}

// client is a connection with a reader and a writer goroutine, as a front door has.
type client struct {
	t    *testing.T
	conn *broker.Conn
	wake chan struct{}
	do   chan func() // for the reader
	quit chan struct{}
	work sync.WaitGroup

	mu   sync.Mutex
	got  [][]byte
	tags []uint64
	// redelivered is beside got.
	redelivered []bool
	confirms    []told
	changed     sync.Cond
	unread      chan struct{} // not nil: the client does not read until it is closed
}

func newClient(t *testing.T, c *amqptest.Cluster) *client {
	k := &client{t: t, wake: make(chan struct{}, 1), do: make(chan func()), quit: make(chan struct{})}
	k.changed.L = &k.mu
	conn, err := c.Broker.Open(t.Context(), &broker.Identity{User: "guest"}, "/", broker.ConnOptions{Name: t.Name(), Events: k})
	if err != nil {
		t.Fatal(err)
	}
	k.conn = conn
	k.work.Go(k.read)
	k.work.Go(k.write)
	return k
}

func (k *client) read() {
	for {
		select {
		case f := <-k.do:
			f()
		case <-k.quit:
			return
		}
	}
}

func (k *client) write() {
	for {
		select {
		case <-k.wake:
		case <-k.quit:
			return
		}
		for more := true; more; {
			var err error
			if more, err = k.conn.Drain(k, 64<<10); err != nil {
				k.t.Error(err)
				return
			}
			k.mu.Lock()
			unread := k.unread
			k.mu.Unlock()
			if unread != nil { // in the socket's Write
				select {
				case <-unread:
				case <-k.quit:
					return
				}
			}
			k.conn.Written()
		}
	}
}

// run runs f as the reader and flushes.
func (k *client) run(f func() error) {
	k.t.Helper()
	done := make(chan error)
	k.do <- func() {
		err := f()
		if err == nil {
			err = k.conn.Flush(context.Background())
		}
		done <- err
	}
	if err := <-done; err != nil {
		k.t.Error(err)
	}
}

func (k *client) close() {
	close(k.quit)
	k.work.Wait()
	k.conn.Close(context.Background())
}

func (k *client) Lock()   {} // each method takes mu
func (k *client) Unlock() {}

func (k *client) Wake() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}
func (k *client) Blocked(string)                              {}
func (k *client) Unblocked()                                  {}
func (k *client) Failed(_ *broker.Channel, err *broker.Error) { k.t.Error(err) }
func (k *client) Closed(*broker.Error)                        {}

func (k *client) Deliver(_ uint16, _ string, m *broker.Outgoing) {
	k.mu.Lock()
	k.got = append(k.got, slices.Clone(m.Body))
	k.tags = append(k.tags, m.Tag)
	k.redelivered = append(k.redelivered, m.Redelivered)
	k.mu.Unlock()
	k.changed.Broadcast()
}

func (k *client) Confirm(_ uint16, tag uint64, multiple bool, o broker.Outcome) {
	k.mu.Lock()
	k.confirms = append(k.confirms, told{tag, multiple, o.Acked()})
	k.mu.Unlock()
	k.changed.Broadcast()
}

func (k *client) Return(uint16, uint16, string, []byte, []byte, []byte, []byte) {}
func (k *client) CancelConsumer(uint16, string)                                 {}

// await waits until f holds.
func (k *client) await(f func() bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for !f() {
		k.changed.Wait()
	}
}

// confirmed returns how many of the numbers 1..n are acked.
func (k *client) confirmed(n uint64) (acked uint64) {
	seen := make([]bool, n+1)
	through := uint64(0)
	for _, f := range k.confirms {
		if !f.ack {
			k.t.Errorf("nack %d", f.tag)
		}
		if f.multiple {
			through = max(through, f.tag)
		} else {
			seen[f.tag] = true
		}
	}
	for i := uint64(1); i <= n; i++ {
		if seen[i] || i <= through {
			acked++
		}
	}
	return acked
}

// TestConcurrentClients publishes to queues on different shards, whose answers come from goroutines of their own, and
// consumes with acknowledgements: each message is confirmed, comes once and in order.
func TestConcurrentClients(t *testing.T) {
	c := amqptest.NewAsyncCluster(t, broker.Options{MaxUnconfirmedMessages: 50})
	const publishers, messages, queues = 3, 2000, 4
	consumer := newClient(t, c)
	var consuming *broker.Channel
	consumer.run(func() error {
		consuming = consumer.conn.OpenChannel(1)
		consuming.Qos(0, 30, false)
		for i := range queues {
			name := fmt.Sprintf("q%d", i)
			if _, err := consuming.DeclareQueue(t.Context(), &broker.QueueDeclare{Name: name, Durable: true}); err != nil {
				return err
			}
			if _, err := consuming.Consume(t.Context(), &broker.Consume{Queue: name, Tag: name}); err != nil {
				return err
			}
			consuming.Started(name)
		}
		return nil
	})
	var publishing sync.WaitGroup
	for p := range publishers {
		publishing.Go(func() { publishNumbered(t, c, p, messages, queues) })
	}
	settleAll(consumer, consuming, publishers*messages)
	publishing.Wait()
	checkOrder(t, consumer.got, publishers, queues)
	consumer.close()
	c.Stop()
	for i := range queues {
		id := c.Find(fmt.Sprintf("q%d", i)).ID
		if n := c.Holds(id); n != (queue.Counts{}) {
			t.Errorf("queue %d is left with %+v", i, n)
		}
	}
}

func publishNumbered(t *testing.T, c *amqptest.Cluster, publisher, messages, queues int) {
	k := newClient(t, c)
	defer k.close()
	var ch *broker.Channel
	k.run(func() error {
		ch = k.conn.OpenChannel(7)
		return ch.ConfirmSelect()
	})
	for n := 0; n < messages; {
		k.run(func() error {
			for range 10 {
				body := binary.BigEndian.AppendUint32([]byte{byte(publisher), byte(n % queues)}, uint32(n))
				p := &broker.Publish{RoutingKey: fmt.Appendf(nil, "q%d", n%queues), Properties: []byte{0, 0}, Body: body}
				if err := ch.Publish(t.Context(), p); err != nil {
					return err
				}
				n++
			}
			return nil
		})
	}
	k.await(func() bool { return k.confirmed(uint64(messages)) == uint64(messages) })
}

// settleAll acks deliveries, one by one and several at a time, until so many have come.
func settleAll(k *client, ch *broker.Channel, want int) {
	for acked := 0; acked < want; {
		k.await(func() bool { return len(k.tags) > acked })
		k.mu.Lock()
		tags := slices.Clone(k.tags[acked:])
		k.mu.Unlock()
		k.run(func() error {
			half := len(tags) / 2
			for _, tag := range tags[half+1:] {
				if err := ch.Ack(tag, false); err != nil {
					return err
				}
			}
			return ch.Ack(tags[half], true)
		})
		acked += len(tags)
	}
}

func checkOrder(t *testing.T, bodies [][]byte, publishers, queues int) {
	last := map[[2]byte]int{}
	for _, b := range bodies {
		n := int(binary.BigEndian.Uint32(b[2:]))
		key := [2]byte{b[0], b[1]}
		if before, ok := last[key]; ok && n != before+queues || !ok && n != int(b[1]) {
			t.Fatalf("publisher %d, queue %d: message %d after %d", b[0], b[1], n, before)
		}
		last[key] = n
	}
	if len(last) != publishers*queues {
		t.Errorf("%d flows, want %d", len(last), publishers*queues)
	}
}

// TestFlushWaitsForTheWindow checks the bound on what is published and not applied.
func TestFlushWaitsForTheWindow(t *testing.T) {
	c := amqptest.NewCluster(t, broker.Options{MaxUnconfirmedBytes: 1000})
	d, ch := openDoor(t, c)
	if _, err := ch.DeclareQueue(t.Context(), &broker.QueueDeclare{Name: "q"}); err != nil {
		t.Fatal(err)
	}
	c.Hold(1)
	publish := func() error {
		if err := ch.Publish(t.Context(), &broker.Publish{RoutingKey: []byte("q"), Properties: []byte{0, 0}, Body: make([]byte, 1000)}); err != nil {
			return err
		}
		return d.conn.Flush(shortly())
	}
	if err := publish(); err != nil { // an empty window lets anything in
		t.Fatal(err)
	}
	if err := publish(); err != context.DeadlineExceeded {
		t.Fatalf("Flush beyond the window: %v", err)
	}
	c.Release(1)
	if err := d.conn.Flush(shortly()); err != nil {
		t.Fatal(err)
	}
	if n := c.Holds(c.Find("q").ID); n.Ready != 2 {
		t.Errorf("arrived: %+v, want 2", n)
	}
}

// TestFlushWaitsForTheReader checks the bound on returned messages that the client does not read.
func TestFlushWaitsForTheReader(t *testing.T) {
	c := amqptest.NewCluster(t, broker.Options{})
	d, ch := openDoor(t, c)
	p := &broker.Publish{RoutingKey: []byte("nowhere"), Mandatory: true, Properties: []byte{0, 0}, Body: make([]byte, broker.MaxReturnBytes)}
	if err := ch.Publish(shortly(), p); err != context.DeadlineExceeded {
		t.Fatalf("Publish: %v", err)
	}
	d.drain()
	if err := d.conn.Flush(shortly()); err != nil {
		t.Fatal(err)
	}
}

// TestUnreadableMessage checks that a delivery waits when its message cannot be read now, and comes later.
func TestUnreadableMessage(t *testing.T) {
	c := amqptest.NewCluster(t, broker.Options{})
	d, ch := openDoor(t, c)
	if _, err := ch.DeclareQueue(t.Context(), &broker.QueueDeclare{Name: "q"}); err != nil {
		t.Fatal(err)
	}
	tag, err := ch.Consume(t.Context(), &broker.Consume{Queue: "q"})
	if err != nil {
		t.Fatal(err)
	}
	ch.Started(tag)
	c.SetFailing(raftfsm.Errorf(broker.Unavailable, "no leader"))
	publishOne(t, d, ch, "q")
	if frames := d.drain(); len(frames) != 0 {
		t.Fatalf("%q", frames)
	}
	c.SetFailing(nil)
	for range d.wakes {
		if frames := d.drain(); len(frames) == 1 {
			break
		}
	}
	c.SetFailing(raftfsm.Errorf(broker.Internal, "checksum"))
	publishOne(t, d, ch, "q")
	if frames := d.drain(); len(frames) != 1 || frames[0] != "1 close " {
		t.Fatalf("%q", frames)
	}
}

func publishOne(t *testing.T, d *door, ch *broker.Channel, key string) {
	t.Helper()
	if err := ch.Publish(t.Context(), &broker.Publish{RoutingKey: []byte(key), Properties: []byte{0, 0}, Body: []byte("m")}); err != nil {
		t.Fatal(err)
	}
	if err := d.conn.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func openDoor(t testing.TB, c *amqptest.Cluster) (*door, *broker.Channel) {
	d := &door{t: t, wakes: make(chan struct{}, 1)}
	conn, err := c.Broker.Open(context.Background(), &broker.Identity{User: "guest"}, "/", broker.ConnOptions{Name: t.Name(), Events: d})
	if err != nil {
		t.Fatal(err)
	}
	d.conn = conn
	return d, conn.OpenChannel(1)
}

// TestFreshnessIsAwaited checks that a publish waits for this node to know its routes.
func TestFreshnessIsAwaited(t *testing.T) {
	c := amqptest.NewCluster(t, broker.Options{FreshTimeout: time.Minute})
	d, ch := openDoor(t, c)
	if err := ch.ConfirmSelect(); err != nil {
		t.Fatal(err)
	}
	c.SetCutOff(true)
	done := make(chan error)
	go func() {
		done <- ch.Publish(t.Context(), &broker.Publish{RoutingKey: []byte("nowhere"), Properties: []byte{0, 0}})
	}()
	select {
	case err := <-done:
		t.Fatalf("Publish did not wait: %v", err)
	case <-time.After(3 * broker.FreshPoll):
	}
	c.SetCutOff(false)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := d.conn.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if frames := d.drain(); !slices.Equal(frames, []string{"1 ack 1"}) {
		t.Errorf("%q", frames)
	}
}

// TestRefusalsAreNotStale: a declare or a use that this node's copy of the catalog refuses waits until the copy is known to be current, and
// is judged by what it says then.
func TestRefusalsAreNotStale(t *testing.T) {
	for name, refused := range map[string]func(ctx context.Context, ch *broker.Channel) error{
		"declare": func(ctx context.Context, ch *broker.Channel) error {
			_, err := ch.DeclareQueue(ctx, &broker.QueueDeclare{Name: "durable"})
			return err
		},
		"use": func(ctx context.Context, ch *broker.Channel) error {
			_, err := ch.PurgeQueue(ctx, "locked")
			return err
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := amqptest.NewCluster(t, broker.Options{FreshTimeout: time.Minute})
			_, ch := openDoor(t, c)
			_, owner := openDoor(t, c)
			if _, err := ch.DeclareQueue(t.Context(), &broker.QueueDeclare{Name: "durable", Durable: true}); err != nil {
				t.Fatal(err)
			}
			if _, err := owner.DeclareQueue(t.Context(), &broker.QueueDeclare{Name: "locked", Exclusive: true}); err != nil {
				t.Fatal(err)
			}
			ids := []uint64{uint64(c.Find("durable").ID), uint64(c.Find("locked").ID)}
			c.SetCutOff(true)
			done := make(chan error, 1)
			go func() { done <- refused(t.Context(), ch) }()
			time.Sleep(time.Second + broker.FreshPoll/2) // it does not look between what follows
			select {
			case err := <-done:
				t.Fatalf("%s: a copy that may be stale has refused it: %v", name, err)
			default:
			}
			c.SetCutOff(false) // and the copy holds what it lacked
			c.MustPropose(catalog.DeleteQueue(&raftv1.DeleteQueue{Ids: ids}))
			if err := <-done; name == "declare" && err != nil || name == "use" && !broker.IsKind(err, broker.NotFound) {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
}

// TestDeclareSeesWhatWasPublished checks that a declare counts what its connection has sent before, though nobody has
// answered for it yet.
func TestDeclareSeesWhatWasPublished(t *testing.T) {
	c := amqptest.NewAsyncCluster(t, broker.Options{})
	defer c.Stop()
	d, ch := openDoor(t, c)
	if _, err := ch.DeclareQueue(t.Context(), &broker.QueueDeclare{Name: "q"}); err != nil {
		t.Fatal(err)
	}
	for n := range uint32(200) {
		publishOne(t, d, ch, "q")
		if ok, err := ch.DeclareQueue(t.Context(), &broker.QueueDeclare{Name: "q", Passive: true}); err != nil || ok.Messages != n+1 {
			t.Fatalf("after %d messages: %+v %v", n+1, ok, err)
		}
	}
}

// TestLongRoutingKey checks what an envelope cannot hold.
func TestLongRoutingKey(t *testing.T) {
	_, ch := openDoor(t, amqptest.NewCluster(t, broker.Options{}))
	err := ch.Publish(t.Context(), &broker.Publish{RoutingKey: make([]byte, 256), Properties: []byte{0, 0}})
	if !broker.IsKind(err, broker.PreconditionFailed) {
		t.Error(err)
	}
}
