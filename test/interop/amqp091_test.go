package interop

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/test/process"
)

// dial connects and closes when the test ends.
func dial(t *testing.T, node *process.Node) *amqp.Connection {
	t.Helper()
	conn, err := amqp.Dial(node.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func channelOf(t *testing.T, conn *amqp.Connection) *amqp.Channel {
	t.Helper()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

func declare(t *testing.T, ch *amqp.Channel, name string) {
	t.Helper()
	if _, err := ch.QueueDeclare(name, true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// TestAMQP091 drives a node alone and a cluster with RabbitMQ's Go client, publisher and consumer on different nodes.
func TestAMQP091(t *testing.T) {
	for _, nodes := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d nodes", nodes), func(t *testing.T) {
			c := process.Start(t, nodes)
			from, to := c.Nodes[0], c.Nodes[nodes-1]
			for _, s := range []struct {
				name string
				run  func(*testing.T, *process.Node, *process.Node)
			}{
				{"mixed sizes", mixedSizes}, {"largest message", largestMessage}, {"get", get}, {"return", returns},
				{"transaction", transaction}, {"cancel", cancels}, {"errors", errorTexts}, {"announced", announced},
			} {
				t.Run(s.name, func(t *testing.T) { s.run(t, from, to) })
			}
		})
	}
}

// sizes are mixed as real traffic is: most under 1 KiB, some empty, a few up to 4 MiB; the same for every run.
func sizes(count, large int) []int {
	list := make([]int, count)
	for i := range list {
		if i%50 != 0 {
			list[i] = i * 7919 % 1024
		}
	}
	for i := range large {
		list[(2*i+1)*count/(2*large)] = i*104729*31%(4<<20) + 1
	}
	return list
}

// fill makes the bytes of the i-th message from its number alone.
func fill(i, size int) []byte {
	body := make([]byte, size)
	x := uint64(i)*0x9e3779b97f4a7c15 + 1
	for at := 0; at < size; at += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		var word [8]byte
		binary.LittleEndian.PutUint64(word[:], x)
		copy(body[at:], word[:])
	}
	return body
}

// mixedSizes carries messages of mixed sizes with confirms, byte for byte and in order.
func mixedSizes(t *testing.T, from, to *process.Node) {
	count, large := 3000, 12
	if os.Getenv("WARREN_LARGE") != "" {
		count, large = 100_000, 470 // 1 GB in all
	}
	list := sizes(count, large)
	out := channelOf(t, dial(t, from))
	queue := queueName(t)
	declare(t, out, queue)
	if err := out.Confirm(false); err != nil {
		t.Fatal(err)
	}
	in := channelOf(t, dial(t, to))
	if err := in.Qos(100, 0, false); err != nil {
		t.Fatal(err)
	}
	deliveries, err := in.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() { failed <- publishAll(out, queue, list) }()
	for i, size := range list {
		var d amqp.Delivery
		select {
		case d = <-deliveries:
		case <-time.After(patience):
			t.Fatalf("message %d did not come", i)
		}
		if d.Headers["n"] != int64(i) || d.Redelivered {
			t.Fatalf("message %d: number %v, redelivered %v", i, d.Headers["n"], d.Redelivered)
		}
		if !bytes.Equal(d.Body, fill(i, size)) {
			t.Fatalf("message %d: %d bytes arrived changed", i, size)
		}
		if err := d.Ack(false); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
}

// publishAll publishes and waits for the confirms, with at most 500 outstanding.
func publishAll(ch *amqp.Channel, queue string, list []int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*patience)
	defer cancel()
	var waiting []*amqp.DeferredConfirmation
	for i, size := range list {
		c, err := ch.PublishWithDeferredConfirmWithContext(ctx, "", queue, true, false, amqp.Publishing{
			DeliveryMode: amqp.Persistent, Headers: amqp.Table{"n": int64(i)}, Body: fill(i, size)})
		if err != nil {
			return err
		}
		waiting = append(waiting, c)
		if len(waiting) == 500 {
			if err := confirmed(ctx, waiting); err != nil {
				return err
			}
			waiting = waiting[:0]
		}
	}
	return confirmed(ctx, waiting)
}

func confirmed(ctx context.Context, waiting []*amqp.DeferredConfirmation) error {
	for _, c := range waiting {
		if ok, err := c.WaitContext(ctx); err != nil || !ok {
			return fmt.Errorf("publish %d: confirmed %v, %w", c.DeliveryTag, ok, err)
		}
	}
	return nil
}

func largestMessage(t *testing.T, from, to *process.Node) {
	out := channelOf(t, dial(t, from))
	queue := queueName(t)
	declare(t, out, queue)
	body := fill(1, 16<<20)
	if err := out.Confirm(false); err != nil {
		t.Fatal(err)
	}
	c, err := out.PublishWithDeferredConfirmWithContext(within(t), "", queue, false, false, amqp.Publishing{Body: body})
	if err != nil {
		t.Fatal(err)
	}
	if err := confirmed(within(t), []*amqp.DeferredConfirmation{c}); err != nil {
		t.Fatal(err)
	}
	in := channelOf(t, dial(t, to))
	m, ok, err := in.Get(queue, true)
	if err != nil || !ok || !bytes.Equal(m.Body, body) {
		t.Fatalf("got %v, %v, %d bytes", ok, err, len(m.Body))
	}
	closed := out.NotifyClose(make(chan *amqp.Error, 1))
	if err := out.PublishWithContext(within(t), "", queue, false, false, amqp.Publishing{Body: make([]byte, 16<<20+1)}); err != nil {
		t.Fatal(err)
	}
	expectClose(t, closed, 406, "PRECONDITION_FAILED - message size 16777217 is larger than configured max size 16777216")
}

func expectClose(t *testing.T, closed chan *amqp.Error, code int, text string) {
	t.Helper()
	select {
	case e := <-closed:
		if e == nil || e.Code != code || e.Reason != text {
			t.Fatalf("closed with %v, want %d %q", e, code, text)
		}
	case <-time.After(patience):
		t.Fatalf("no close; want %d %q", code, text)
	}
}

func get(t *testing.T, from, to *process.Node) {
	out, in := channelOf(t, dial(t, from)), channelOf(t, dial(t, to))
	queue := queueName(t)
	declare(t, out, queue)
	if _, ok, err := in.Get(queue, false); ok || err != nil {
		t.Fatal(ok, err)
	}
	for i := range 3 {
		if err := out.PublishWithContext(within(t), "", queue, false, false, amqp.Publishing{Body: []byte{byte(i)}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := out.QueueDeclarePassive(queue, true, false, false, false, nil); err != nil { // the publishes are done then
		t.Fatal(err)
	}
	first, ok, err := in.Get(queue, false)
	if err != nil || !ok || first.Body[0] != 0 || first.MessageCount != 2 || first.Redelivered {
		t.Fatalf("%v %v %+v", ok, err, first)
	}
	if err := first.Nack(false, true); err != nil {
		t.Fatal(err)
	}
	again, ok, err := in.Get(queue, true)
	if err != nil || !ok || again.Body[0] != 0 || !again.Redelivered {
		t.Fatalf("%v %v %+v", ok, err, again)
	}
	if n, err := in.QueuePurge(queue, false); err != nil || n != 2 {
		t.Fatal(n, err)
	}
}

func returns(t *testing.T, from, _ *process.Node) {
	ch := channelOf(t, dial(t, from))
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	returned := ch.NotifyReturn(make(chan amqp.Return, 1))
	c, err := ch.PublishWithDeferredConfirmWithContext(within(t), "amq.direct", "nobody", true, false, amqp.Publishing{MessageId: "m", Body: []byte("back")})
	if err != nil {
		t.Fatal(err)
	}
	if err := confirmed(within(t), []*amqp.DeferredConfirmation{c}); err != nil {
		t.Fatal(err)
	}
	select {
	case r := <-returned:
		if r.ReplyCode != 312 || r.ReplyText != "NO_ROUTE" || r.Exchange != "amq.direct" || r.RoutingKey != "nobody" || r.MessageId != "m" || string(r.Body) != "back" {
			t.Fatalf("%+v", r)
		}
	default:
		t.Fatal("the confirm came before the return")
	}
}

func transaction(t *testing.T, from, to *process.Node) {
	out, in := channelOf(t, dial(t, from)), channelOf(t, dial(t, to))
	queue := queueName(t)
	declare(t, out, queue)
	publish := func(body string) {
		t.Helper()
		if err := out.PublishWithContext(within(t), "", queue, false, false, amqp.Publishing{Body: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
	ready := func(want int) {
		t.Helper()
		if q, err := in.QueueDeclarePassive(queue, true, false, false, false, nil); err != nil || q.Messages != want {
			t.Fatalf("%d messages, %v; want %d", q.Messages, err, want)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(out.Tx())
	publish("dropped")
	must(out.TxRollback())
	ready(0)
	publish("one")
	publish("two")
	ready(0)
	must(out.TxCommit())
	ready(2)
	m, ok, err := out.Get(queue, false)
	if err != nil || !ok || string(m.Body) != "one" {
		t.Fatal(string(m.Body), ok, err)
	}
	must(m.Ack(false))
	must(out.TxRollback()) // the ack is undone: the message is still out
	must(m.Ack(false))
	publish("three")
	must(out.TxCommit())
	ready(2)
}

func cancels(t *testing.T, from, to *process.Node) {
	out, in := channelOf(t, dial(t, from)), channelOf(t, dial(t, to))
	queue := queueName(t)
	declare(t, out, queue)
	deliveries, err := in.Consume(queue, "mine", false, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := in.Cancel("mine", false); err != nil {
		t.Fatal(err)
	}
	if _, open := <-deliveries; open {
		t.Fatal("a delivery after cancel-ok")
	}
	cancelled := in.NotifyCancel(make(chan string, 1))
	if _, err := in.Consume(queue, "told", false, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := out.QueueDelete(queue, false, false, false); err != nil {
		t.Fatal(err)
	}
	select {
	case tag := <-cancelled:
		if tag != "told" {
			t.Fatal(tag)
		}
	case <-time.After(patience):
		t.Fatal("the consumer of a deleted queue was not told")
	}
}

// errorTexts checks codes and texts that clients match on (reference: errors.md).
func errorTexts(t *testing.T, from, _ *process.Node) {
	conn := dial(t, from)
	queue := queueName(t)
	declare(t, channelOf(t, conn), queue)
	for _, c := range []struct {
		name string
		do   func(*amqp.Channel) error
		code int
		text string
	}{
		{"no queue", func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclarePassive("none", false, false, false, false, nil)
			return err
		}, 404, "NOT_FOUND - no queue 'none' in vhost '/'"},
		{"no exchange", func(ch *amqp.Channel) error {
			return ch.ExchangeDeclarePassive("none", "direct", false, false, false, false, nil)
		}, 404, "NOT_FOUND - no exchange 'none' in vhost '/'"},
		{"durable differs", func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclare(queue, false, false, false, false, nil)
			return err
		}, 406, "PRECONDITION_FAILED - inequivalent arg 'durable' for queue '" + queue + "' in vhost '/': received 'false' but current is 'true'"},
		{"reserved name", func(ch *amqp.Channel) error {
			_, err := ch.QueueDeclare("amq.mine", false, false, false, false, nil)
			return err
		}, 403, "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'"},
		{"default exchange", func(ch *amqp.Channel) error { return ch.QueueBind(queue, "k", "", false, nil) },
			403, "ACCESS_REFUSED - operation not permitted on the default exchange"},
		{"exchange type", func(ch *amqp.Channel) error {
			return ch.ExchangeDeclare("x", "strange", false, false, false, false, nil)
		}, 406, "PRECONDITION_FAILED - unknown exchange type 'strange'"},
		{"unknown tag", func(ch *amqp.Channel) error {
			if err := ch.Ack(77, false); err != nil {
				return err
			}
			_, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
			return err
		}, 406, "PRECONDITION_FAILED - unknown delivery tag 77"},
	} {
		ch := channelOf(t, conn)
		closed := ch.NotifyClose(make(chan *amqp.Error, 1))
		err := c.do(ch)
		var e *amqp.Error
		if errors.As(err, &e) && e.Code == c.code && e.Reason == c.text {
			continue
		}
		select {
		case e := <-closed:
			if e == nil || e.Code != c.code || e.Reason != c.text {
				t.Errorf("%s: closed with %v, want %d %q", c.name, e, c.code, c.text)
			}
		case <-time.After(patience):
			t.Errorf("%s: %v, want %d %q", c.name, err, c.code, c.text)
		}
	}
	if conn.IsClosed() {
		t.Fatal("a soft error closed the connection")
	}
}

// announced checks what connection.start says.
func announced(t *testing.T, from, _ *process.Node) {
	conn := dial(t, from)
	if conn.Properties["product"] != "Warren" {
		t.Errorf("product %v", conn.Properties["product"])
	}
	capabilities, _ := conn.Properties["capabilities"].(amqp.Table)
	for _, name := range strings.Fields("publisher_confirms exchange_exchange_bindings basic.nack consumer_cancel_notify connection.blocked consumer_priorities authentication_failure_close per_consumer_qos direct_reply_to") {
		if capabilities[name] != true {
			t.Errorf("capability %s: %v", name, capabilities[name])
		}
	}
}
