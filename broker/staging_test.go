package broker_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/internal/amqptest"
)

// mostStaged is half of what the smallest log takes at once, in octets.
const mostStaged = 256 << 10

// TestMuchStagedAtOnceIsSplit: a batch is never larger than the smallest log takes, however much is staged at once, as when a client
// settles all that many consumers got in turns.
func TestMuchStagedAtOnceIsSplit(t *testing.T) {
	const consumers, deliveries = 20, 9_000
	for name, settle := range map[string]func(ch *broker.Channel) error{
		"ack":     func(ch *broker.Channel) error { return ch.Ack(0, true) },
		"nack":    func(ch *broker.Channel) error { return ch.Nack(0, true, false) },
		"recover": func(ch *broker.Channel) error { return ch.Recover(true) },
	} {
		t.Run(name, func(t *testing.T) {
			c := amqptest.NewCluster(t, broker.Options{})
			d, ch := openDoor(t, c)
			defer d.conn.Close(context.Background())
			if _, err := ch.DeclareQueue(t.Context(), &broker.QueueDeclare{Name: "q"}); err != nil {
				t.Fatal(err)
			}
			if err := ch.Qos(0, 2*deliveries, false); err != nil {
				t.Fatal(err)
			}
			for i := range consumers {
				tag, err := ch.Consume(t.Context(), &broker.Consume{Queue: "q", Tag: fmt.Sprint(i)})
				if err != nil {
					t.Fatal(err)
				}
				ch.Started(tag)
			}
			for range deliveries {
				publishOne(t, d, ch, "q")
				d.drain()
			}
			if err := settle(ch); err != nil {
				t.Fatal(err)
			}
			if err := d.conn.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			want := uint64(0)
			if name == "recover" {
				want = deliveries
			}
			if n := c.Holds(c.Find("q").ID); n.Ready+n.Unsettled != want {
				t.Errorf("the queue holds %+v", n)
			}
			if got := c.Largest(); got > mostStaged || got < deliveries {
				t.Errorf("the largest batch has %d octets", got)
			}
		})
	}
}

// TestEndOfManyConsumersIsSplit is the same of a connection that ends.
func TestEndOfManyConsumersIsSplit(t *testing.T) {
	const consumers = 12_000
	c := amqptest.NewCluster(t, broker.Options{})
	d, ch := openDoor(t, c)
	if _, err := ch.DeclareQueue(t.Context(), &broker.QueueDeclare{Name: "q"}); err != nil {
		t.Fatal(err)
	}
	for range consumers {
		if _, err := ch.Consume(t.Context(), &broker.Consume{Queue: "q"}); err != nil {
			t.Fatal(err)
		}
	}
	d.conn.Close(context.Background())
	if n := c.Holds(c.Find("q").ID); n.Consumers != 0 {
		t.Errorf("the queue has %d consumers", n.Consumers)
	}
	if got := c.Largest(); got > mostStaged || got < consumers {
		t.Errorf("the largest batch has %d octets", got)
	}
}

// TestEndAfterRefusal: a connection whose batch was refused for good ends like any other: what it held goes back.
func TestEndAfterRefusal(t *testing.T) {
	c := amqptest.NewCluster(t, broker.Options{})
	d, ch := openDoor(t, c)
	if _, err := ch.DeclareQueue(t.Context(), &broker.QueueDeclare{Name: "q"}); err != nil {
		t.Fatal(err)
	}
	publishOne(t, d, ch, "q")
	if _, ok, err := ch.Get(t.Context(), "q", false); !ok || err != nil {
		t.Fatal(ok, err)
	}
	c.RefuseSubmit()
	if err := ch.Publish(t.Context(), &broker.Publish{RoutingKey: []byte("q"), Properties: []byte{0, 0}}); err != nil {
		t.Fatal(err)
	}
	if err := d.conn.Flush(t.Context()); err == nil {
		t.Error("nobody was told")
	}
	d.conn.Close(context.Background())
	if n := c.Holds(c.Find("q").ID); n.Ready != 1 || n.Unsettled != 0 {
		t.Errorf("after the end: %+v", n)
	}
}
