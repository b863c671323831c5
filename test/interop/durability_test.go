package interop

import (
	"encoding/binary"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/test/process"
)

// TestBacklogSurvivesKill publishes a backlog with confirms, kills the node, and finds everything, in order.
func TestBacklogSurvivesKill(t *testing.T) {
	count := 40_000
	if os.Getenv("WARREN_LARGE") != "" {
		count = 1_000_000
	}
	// Small log files, so that the ordinary run too retires some and reads bodies from segments.
	flags := []string{"--wal-file-size", "8MiB", "--cache-size", "8MiB"}
	if os.Getenv("WARREN_LARGE") != "" {
		flags = nil
	}
	node := process.Start(t, 1, flags...).Nodes[0]
	queue := queueName(t)
	publishNumbers(t, node, queue, count)
	node.Kill()
	begin := time.Now()
	node.Restart()
	t.Logf("restart with %d messages: %v, %d MiB resident", count, time.Since(begin).Round(time.Millisecond), node.RSS()>>20)
	expectNumbers(t, node, queue, count)
}

// publishNumbers publishes 1 KiB messages that begin with their number and waits until all are confirmed.
func publishNumbers(t *testing.T, node *process.Node, queue string, count int) {
	t.Helper()
	ch := channelOf(t, dial(t, node))
	declare(t, ch, queue)
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	confirms := ch.NotifyPublish(make(chan amqp.Confirmation, 4096))
	window := make(chan struct{}, 4000)
	var done sync.WaitGroup
	done.Go(func() {
		for range count {
			if c, open := <-confirms; !open || !c.Ack {
				t.Errorf("not confirmed: %+v", c)
				return
			}
			<-window
		}
	})
	body := make([]byte, 1024)
	for i := range count {
		select {
		case window <- struct{}{}:
		case <-time.After(patience):
			t.Fatalf("confirms stand still at message %d", i)
		}
		binary.BigEndian.PutUint64(body, uint64(i))
		if err := ch.PublishWithContext(t.Context(), "", queue, false, false, amqp.Publishing{DeliveryMode: amqp.Persistent, Body: body}); err != nil {
			t.Fatal(err)
		}
	}
	done.Wait()
}

// expectNumbers consumes and expects the numbers from 0 in order.
func expectNumbers(t *testing.T, node *process.Node, queue string, count int) {
	t.Helper()
	ch := channelOf(t, dial(t, node))
	if err := ch.Qos(1000, 0, false); err != nil {
		t.Fatal(err)
	}
	deliveries, err := ch.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range count {
		var d amqp.Delivery
		select {
		case d = <-deliveries:
		case <-time.After(patience):
			t.Fatalf("message %d did not come", i)
		}
		if len(d.Body) != 1024 || binary.BigEndian.Uint64(d.Body) != uint64(i) {
			t.Fatalf("at %d came message %d of %d bytes", i, binary.BigEndian.Uint64(d.Body), len(d.Body))
		}
		if i%500 == 499 || i == count-1 {
			if err := d.Ack(true); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestKillOneOfThree kills each node in turn under load: what was confirmed comes out, and nothing comes twice. Publishers on the killed
// node reconnect to another one, as real programs do, and never repeat a message.
func TestKillOneOfThree(t *testing.T) {
	c := process.Start(t, 3)
	queue := queueName(t)
	declare(t, channelOf(t, dial(t, c.Nodes[0])), queue)
	var stop atomic.Bool
	var load sync.WaitGroup
	ledgers := make([]ledger, 3)
	for i := range ledgers {
		ledgers[i].publisher = uint32(i)
		load.Go(func() { ledgers[i].run(t, c.Nodes, queue, &stop) })
	}
	for _, victim := range c.Nodes {
		time.Sleep(2 * time.Second) // load between the kills
		victim.Kill()
		time.Sleep(2 * time.Second) // load while it is away
		victim.Restart()
	}
	time.Sleep(time.Second)
	stop.Store(true)
	load.Wait()
	seen := drainAll(t, c.Nodes[1], queue)
	total := 0
	for i := range ledgers {
		total += len(ledgers[i].confirmed)
		for _, n := range ledgers[i].confirmed {
			if seen[message{uint32(i), n}] == 0 {
				t.Errorf("publisher %d: confirmed message %d is lost", i, n)
			}
		}
	}
	for m, times := range seen {
		if times > 1 {
			t.Errorf("publisher %d: message %d came %d times", m.publisher, m.number, times)
		}
	}
	t.Logf("%d confirmed, %d came", total, len(seen))
	if total < 1000 {
		t.Fatalf("only %d messages were confirmed: that was no load", total)
	}
}

type message struct {
	publisher uint32
	number    uint64
}

// ledger is one publisher and the numbers that were confirmed to it.
type ledger struct {
	publisher uint32
	next      uint64
	confirmed []uint64
}

// run publishes until told to stop, one window of confirms at a time, going to the next node when the connection breaks.
func (l *ledger) run(t *testing.T, nodes []*process.Node, queue string, stop *atomic.Bool) {
	for at := int(l.publisher); !stop.Load(); at++ {
		conn, err := amqp.Dial(nodes[at%len(nodes)].URL())
		if err != nil {
			time.Sleep(50 * time.Millisecond) // a node that was killed refuses; the next is tried
			continue
		}
		ch, err := conn.Channel()
		if err == nil {
			err = ch.Confirm(false)
		}
		for err == nil && !stop.Load() {
			err = l.window(ch, queue)
		}
		_ = conn.Close() // broken, or done with
	}
}

func (l *ledger) window(ch *amqp.Channel, queue string) error {
	const size = 50
	waiting := make([]*amqp.DeferredConfirmation, 0, size)
	first := l.next
	for range size {
		body := make([]byte, 200)
		binary.BigEndian.PutUint32(body, l.publisher)
		binary.BigEndian.PutUint64(body[4:], l.next)
		l.next++
		c, err := ch.PublishWithDeferredConfirm("", queue, true, false, amqp.Publishing{DeliveryMode: amqp.Persistent, Body: body})
		if err != nil {
			return err
		}
		waiting = append(waiting, c)
	}
	for i, c := range waiting {
		select {
		case <-c.Done():
		case <-time.After(patience):
			return amqp.ErrClosed
		}
		if !c.Acked() {
			return amqp.ErrClosed
		}
		l.confirmed = append(l.confirmed, first+uint64(i))
	}
	return nil
}

// drainAll consumes everything that is in the queue and counts it. The last message is its own: what comes before it was
// there.
func drainAll(t *testing.T, node *process.Node, queue string) map[message]int {
	t.Helper()
	const last = 1<<32 - 1 // no publisher has this number
	ch := channelOf(t, dial(t, node))
	body := make([]byte, 12)
	binary.BigEndian.PutUint32(body, last)
	if err := ch.PublishWithContext(t.Context(), "", queue, true, false, amqp.Publishing{DeliveryMode: amqp.Persistent, Body: body}); err != nil {
		t.Fatal(err)
	}
	if err := ch.Qos(1000, 0, false); err != nil {
		t.Fatal(err)
	}
	deliveries, err := ch.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[message]int{}
	for n := 1; ; n++ {
		var d amqp.Delivery
		var ok bool
		select {
		case d, ok = <-deliveries:
		case <-time.After(patience):
		}
		if !ok {
			t.Fatalf("after %d messages no other came, and not the last one", n-1)
		}
		publisher := binary.BigEndian.Uint32(d.Body)
		if n%500 == 0 || publisher == last {
			if err := d.Ack(true); err != nil {
				t.Fatal(err)
			}
		}
		if publisher == last {
			return seen
		}
		seen[message{publisher, binary.BigEndian.Uint64(d.Body[4:])}]++
	}
}
