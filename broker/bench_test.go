package broker_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/internal/amqptest"
)

// counter is a front door that counts.
type counter struct {
	woken               bool
	delivered, acked    uint64
	deliveries, confirm int
}

func (k *counter) Lock()                                 {}
func (k *counter) Unlock()                               {}
func (k *counter) Wake()                                 { k.woken = true }
func (k *counter) Blocked(string)                        {}
func (k *counter) Unblocked()                            {}
func (k *counter) Closed(*broker.Error)                  {}
func (k *counter) Failed(*broker.Channel, *broker.Error) {}
func (k *counter) Deliver(_ uint16, _ string, m *broker.Outgoing) {
	k.delivered = m.Tag
	k.deliveries++
}
func (k *counter) Confirm(_ uint16, tag uint64, _ bool, _ broker.Outcome) {
	k.acked = tag
	k.confirm++
}
func (k *counter) Return(uint16, uint16, string, []byte, []byte, []byte, []byte) {}
func (k *counter) CancelConsumer(uint16, string)                                 {}

// loop is one connection that publishes, confirms, delivers and acknowledges in batches.
type loop struct {
	conn  *broker.Conn
	ch    *broker.Channel
	door  *counter
	batch int
	p     broker.Publish
}

func newLoop(t testing.TB, batch, size int) (*loop, *amqptest.FreeCluster) {
	t.Helper()
	base := amqptest.NewCluster(t, broker.Options{})
	free := amqptest.NewFreeCluster(base)
	l := &loop{door: &counter{}, batch: batch}
	conn, err := base.Broker.Open(context.Background(), &broker.Identity{User: "guest"}, "/", broker.ConnOptions{Events: l.door})
	if err != nil {
		t.Fatal(err)
	}
	l.conn, l.ch = conn, conn.OpenChannel(1)
	if _, err := l.ch.DeclareQueue(context.Background(), &broker.QueueDeclare{Name: "orders", Durable: true}); err != nil {
		t.Fatal(err)
	}
	if err := l.ch.BindQueue(context.Background(), &broker.Binding{Source: "amq.topic", Destination: "orders", RoutingKey: "orders.#"}); err != nil {
		t.Fatal(err)
	}
	if err := l.ch.ConfirmSelect(); err != nil {
		t.Fatal(err)
	}
	tag, err := l.ch.Consume(context.Background(), &broker.Consume{Queue: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	l.ch.Started(tag)
	free.Free("orders")
	l.p = broker.Publish{Exchange: []byte("amq.topic"), RoutingKey: []byte("orders.created"), Body: make([]byte, size),
		Properties: broker.EncodeProperties(map[string]string{"content-type": "application/json", "mode": "2", "message-id": "4711"}, nil)}
	return l, free
}

// round takes a batch of messages from publish to ack.
func (l *loop) round() error {
	ctx := context.Background()
	for range l.batch {
		if err := l.ch.Publish(ctx, &l.p); err != nil {
			return err
		}
	}
	if err := l.conn.Flush(ctx); err != nil {
		return err
	}
	before := l.door.delivered
	if err := l.drain(); err != nil {
		return err
	}
	for tag := before + 1; tag <= l.door.delivered; tag++ {
		if err := l.ch.Ack(tag, false); err != nil {
			return err
		}
	}
	return l.conn.Flush(ctx)
}

func (l *loop) drain() error {
	for more := true; more; {
		var err error
		if more, err = l.conn.Drain(l.door, 256<<10); err != nil {
			return err
		}
		l.conn.Written()
	}
	return nil
}

// TestPublishAllocatesNothing bounds the allocations of a batch from publish to ack: they do not grow with its messages.
func TestPublishAllocatesNothing(t *testing.T) {
	const batch = 128
	l, free := newLoop(t, batch, 256)
	rounds := 0
	allocations := testing.AllocsPerRun(200, func() {
		if err := l.round(); err != nil {
			t.Fatal(err)
		}
		rounds++
	})
	if perMessage := allocations / batch; perMessage > 0.5 { // the race detector makes pools forget
		t.Errorf("%.2f allocations per message, %.0f per batch", perMessage, allocations)
	}
	want := uint64(rounds * batch)
	if l.door.acked != want || l.door.delivered != want || l.ch.Unsettled() != 0 {
		t.Errorf("confirmed %d, delivered %d, unacked %d after %d messages", l.door.acked, l.door.delivered, l.ch.Unsettled(), want)
	}
	if l.door.confirm > 2*rounds || free.Ranges() > 2*rounds {
		t.Errorf("%d confirms and %d settled ranges in %d rounds", l.door.confirm, free.Ranges(), rounds)
	}
}

// BenchmarkPublishToAck is the cost per message from publish over confirm and delivery to ack, with shards that cost
// nothing.
func BenchmarkPublishToAck(b *testing.B) {
	for _, size := range []int{16, 1024} {
		for _, batch := range []int{1, 100} {
			b.Run(fmt.Sprintf("size=%d/batch=%d", size, batch), func(b *testing.B) {
				l, _ := newLoop(b, batch, size)
				b.ReportAllocs()
				n := 0
				for b.Loop() {
					if n++; n%batch == 0 {
						if err := l.round(); err != nil {
							b.Fatal(err)
						}
					}
				}
			})
		}
	}
}
