package client_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
	"google.golang.org/grpc"

	"github.com/warrenmq/warren/client"
	brokerv1 "github.com/warrenmq/warren/proto/broker/v1"
)

func declare(t *testing.T, c *client.Client, q client.Queue) {
	t.Helper()
	if _, err := c.DeclareQueue(testContext(t), q); err != nil {
		t.Fatal(err)
	}
}

func publisher(t *testing.T, c *client.Client, opts ...client.PublisherOption) *client.Publisher {
	t.Helper()
	p, err := c.Publisher(opts...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPublishAndConsume(t *testing.T) {
	ctx, c, q := testContext(t), connect(t), name(t)
	declare(t, c, client.Queue{Name: q, Durable: true})
	p := publisher(t, c)
	sent := client.Message{RoutingKey: q, Body: []byte("hello"), ContentType: "text/plain", Priority: 3, CorrelationID: "c", MessageID: "m", ReplyTo: "r",
		Type: "t", AppID: "a", UserID: "guest", Expiration: time.Minute, Timestamp: time.Unix(1700000000, 0),
		Headers: map[string]any{"n": int64(1), "s": "x", "b": true, "l": []any{int64(1), "two"}, "t": map[string]any{"k": nil}, "d": client.Decimal{Scale: 1, Unscaled: 15}}}
	if err := p.Publish(ctx, sent); err != nil {
		t.Fatal(err)
	}
	k, err := c.Consume(ctx, q)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	d, err := k.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%+v", d.Message); got != fmt.Sprintf("%+v", sent) {
		t.Errorf("got  %s\nsent %+v", got, sent)
	}
	if err := errors.Join(d.Ack(), p.Close(ctx)); err != nil {
		t.Fatal(err)
	}
	if err := d.Ack(); err == nil {
		t.Error("settled twice")
	}
	awaitEmpty(t, c, q)
	if err := p.Publish(ctx, sent); !errors.Is(err, client.ErrClosed) {
		t.Error(err)
	}
}

// awaitEmpty waits until a queue has neither ready nor unsettled messages.
func awaitEmpty(t *testing.T, c *client.Client, queue string) {
	t.Helper()
	ctx := testContext(t)
	for {
		for q, err := range c.Queues(ctx) {
			if err != nil {
				t.Fatal(err)
			}
			if q.Name == queue && q.Counted && q.Ready+q.Unsettled == 0 {
				return
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestOutcomes(t *testing.T) {
	ctx, c, q := testContext(t), connect(t), name(t)
	declare(t, c, client.Queue{Name: q, Arguments: client.Table{"x-max-length": 1, "x-overflow": "reject-publish"}})
	p := publisher(t, c)
	if err := p.Publish(ctx, client.Message{RoutingKey: "nobody"}); !errors.Is(err, client.ErrUnroutable) {
		t.Error(err)
	}
	if err := p.Publish(ctx, client.Message{RoutingKey: q}); err != nil {
		t.Error(err)
	}
	var rejected *client.Rejected
	if err := p.Publish(ctx, client.Message{RoutingKey: q}); !errors.As(err, &rejected) || rejected.Reason != client.QueueFull {
		t.Error(err)
	}
	if err := p.Publish(ctx, client.Message{Exchange: "none"}); !errors.As(err, &rejected) || rejected.Reason != client.NotFound {
		t.Error(err)
	}
	if err := p.Publish(ctx, client.Message{RoutingKey: q, Headers: map[string]any{"x": struct{}{}}}); err == nil {
		t.Error("a struct was sent")
	}
	if err := p.Close(ctx); err != nil {
		t.Error(err)
	}
}

func TestErrors(t *testing.T) {
	ctx, c, q := testContext(t), connect(t), name(t)
	declare(t, c, client.Queue{Name: q, Durable: true})
	if _, err := c.DeclareQueue(ctx, client.Queue{Name: q}); !errors.Is(err, &client.Error{Reason: client.PreconditionFailed}) {
		t.Error(err)
	}
	if _, err := c.InspectQueue(ctx, "none"); !errors.Is(err, &client.Error{Reason: client.NotFound}) {
		t.Error(err)
	}
	if _, err := c.Consume(ctx, "none"); !errors.Is(err, &client.Error{Reason: client.NotFound}) {
		t.Error(err)
	}
	if _, err := c.Get(ctx, q, true); !errors.Is(err, client.ErrEmpty) {
		t.Error(err)
	}
	stranger, err := client.New([]string{address}, client.WithCredentials("guest", "wrong"))
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if _, err := stranger.Status(ctx); !errors.Is(err, &client.Error{Reason: client.LoginRefused}) {
		t.Error(err)
	}
	p := publisher(t, stranger)
	if err := p.Publish(ctx, client.Message{RoutingKey: q}); !errors.Is(err, &client.Error{Reason: client.LoginRefused}) {
		t.Error(err)
	}
	nobody, err := client.New([]string{"127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	defer nobody.Close()
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if _, err := nobody.Status(short); err == nil {
		t.Error("nobody answered")
	}
}

// TestNobodyAnswers: who gives up waiting learns why there was nothing.
func TestNobodyAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := client.New([]string{"nobody:1"}, client.WithDialOptions(grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			return nil, errors.New("nobody is there")
		})))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		p := publisher(t, c)
		outcome := make(chan error, 1)
		for what, wait := range map[string]func(context.Context) error{
			"status":  func(ctx context.Context) error { _, err := c.Status(ctx); return err },
			"consume": func(ctx context.Context) error { _, err := c.Consume(ctx, "q"); return err },
			"publish": func(ctx context.Context) error { return p.Publish(ctx, client.Message{}) },
			"flush": func(ctx context.Context) error {
				return errors.Join(p.PublishAsync(ctx, client.Message{}, func(err error) { outcome <- err }), p.Flush(ctx))
			},
			"close": func(ctx context.Context) error {
				p := publisher(t, c)
				return errors.Join(p.PublishAsync(ctx, client.Message{}, nil), p.Close(ctx))
			},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			if err := wait(ctx); err == nil || !strings.Contains(err.Error(), "nobody is there") {
				t.Errorf("%s: %v", what, err)
			}
			cancel()
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.Close(ended); err == nil {
			t.Error("everything was confirmed")
		}
		if err := <-outcome; !errors.Is(err, client.ErrClosed) || !strings.Contains(err.Error(), "nobody is there") {
			t.Errorf("the outcome: %v", err)
		}
	})
}

// TestDeliveryTimeout holds a delivery for longer than its queue allows: the consumer starts again by itself, and the message
// comes again.
func TestDeliveryTimeout(t *testing.T) {
	another := newRelay(t)
	ctx, c, q := testContext(t), connect(t, address, another.address()), name(t)
	declare(t, c, client.Queue{Name: q, Durable: true, Arguments: client.Table{"x-queue-type": "quorum", "x-consumer-timeout": 1}})
	p := publisher(t, c)
	if err := p.Publish(ctx, client.Message{RoutingKey: q, Body: []byte("slow")}); err != nil {
		t.Fatal(err)
	}
	k, err := c.Consume(ctx, q)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	held, err := k.Next(ctx)
	if err != nil || held.Redelivered {
		t.Fatalf("%v, %v", held, err)
	}
	again, err := k.Next(ctx)
	if err != nil || !again.Redelivered || string(again.Body) != "slow" {
		t.Fatalf("%v, %v", again, err)
	}
	if n := another.taken(); n > 0 {
		t.Errorf("it went to another node (%d connections), although nothing is wrong with this one", n)
	}
	if err := held.Ack(); !errors.Is(err, client.ErrLost) {
		t.Errorf("what was given back is settled: %v", err)
	}
	if err := again.Ack(); err != nil {
		t.Error(err)
	}
	k.Close()
	if _, err := c.Get(ctx, q, true); !errors.Is(err, client.ErrEmpty) {
		t.Errorf("the message is still there: %v", err)
	}
}

func TestSettling(t *testing.T) {
	ctx, c, q := testContext(t), connect(t), name(t)
	declare(t, c, client.Queue{Name: q, Durable: true})
	p := publisher(t, c)
	for i := range 100 {
		if err := p.PublishAsync(ctx, client.Message{RoutingKey: q, Body: []byte(strconv.Itoa(i))}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Close(ctx); err != nil {
		t.Fatal(err)
	}
	k, err := c.Consume(ctx, q, client.WithCredit(10))
	if err != nil {
		t.Fatal(err)
	}
	done := map[string]bool{}
	for d, err := range k.Messages(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		n, _ := strconv.Atoi(string(d.Body))
		switch {
		case !d.Redelivered && n%7 == 0:
			err = d.Requeue()
		case !d.Redelivered && n%5 == 0:
			err = d.Fail()
		case n%3 == 0:
			done[string(d.Body)] = true
			err = d.Discard()
		default:
			done[string(d.Body)] = true
			err = d.Ack()
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(done) == 100 {
			break
		}
	}
	awaitEmpty(t, c, q)
	k.Close()
}

// TestDelays gives messages back with a delay: others come meanwhile, then they come again, counted.
func TestDelays(t *testing.T) {
	ctx, c, q := testContext(t), connect(t), name(t)
	declare(t, c, client.Queue{Name: q, Durable: true})
	p := publisher(t, c)
	for _, body := range []string{"requeued", "failed", "done"} {
		if err := p.Publish(ctx, client.Message{RoutingKey: q, Body: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
	k, err := c.Consume(ctx, q, client.WithCredit(1))
	if err != nil {
		t.Fatal(err)
	}
	next := func(body string) *client.Delivery {
		t.Helper()
		d, err := k.Next(ctx)
		if err != nil || string(d.Body) != body {
			t.Fatalf("came %v, %v instead of %s", d, err, body)
		}
		return d
	}
	const delay = 500 * time.Millisecond
	d := next("requeued")
	if err := d.RequeueAfter(25 * time.Hour); err == nil {
		t.Error("a delay of more than a day was taken")
	}
	begun := time.Now()
	if err := d.RequeueAfter(2 * delay); err != nil {
		t.Fatal(err)
	}
	if err := next("failed").FailAfter(delay); err != nil {
		t.Fatal(err)
	}
	d = next("done")
	if err := d.Extend(); err != nil {
		t.Fatal(err)
	}
	if err := d.Ack(); err != nil {
		t.Fatal(err)
	}
	if err := d.Extend(); err == nil {
		t.Error("a settled delivery was extended")
	}
	d = next("failed")
	if n, ok := d.Headers["x-delivery-count"].(int64); !d.Redelivered || !ok || n != 1 {
		t.Errorf("came back as %+v", d)
	}
	if took := time.Since(begun); took < delay-50*time.Millisecond {
		t.Errorf("back after %v", took)
	}
	if err := d.Ack(); err != nil {
		t.Fatal(err)
	}
	d = next("requeued")
	if took := time.Since(begun); !d.Redelivered || took < 2*delay-50*time.Millisecond {
		t.Errorf("back after %v: %+v", took, d)
	}
	k.Close()
	got, err := c.Get(ctx, q, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(got.Extend(), got.RequeueAfter(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	for err = client.ErrEmpty; errors.Is(err, client.ErrEmpty); {
		got, err = c.Get(ctx, q, true)
	}
	if err != nil || string(got.Body) != "requeued" {
		t.Errorf("got %v, %v", got, err)
	}
}

// TestLostConnections publishes and consumes while connections are cut all the time: nothing is lost, nothing is stored
// twice, and the order is kept.
func TestLostConnections(t *testing.T) {
	const messages = 20000
	ctx, q := testContext(t), name(t)
	relays := []*relay{newRelay(t), newRelay(t)}
	c := connect(t, relays[0].address(), relays[1].address())
	declare(t, c, client.Queue{Name: q, Durable: true})
	p := publisher(t, c, client.WithMaxUnconfirmed(500, 1<<20))
	k, err := c.Consume(ctx, q, client.WithCredit(100))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	var confirmed atomic.Int64
	var publishing sync.WaitGroup
	publishing.Go(func() {
		for i := range messages {
			err := p.PublishAsync(ctx, client.Message{RoutingKey: q, Body: []byte(strconv.Itoa(i))}, func(err error) {
				if err != nil {
					t.Error(err)
				}
				confirmed.Add(1)
			})
			if err != nil {
				t.Error(err)
				return
			}
			if i%2000 == 1999 {
				relays[i/2000%2].cut()
				relays[(i/2000+1)%2].cut()
			}
		}
	})
	first := 0 // of those not marked as redelivered: each comes once, in order
	seen := make([]bool, messages)
	for left := messages; left > 0; {
		d, err := k.Next(ctx)
		if err != nil {
			t.Fatalf("%d left: %v", left, err)
		}
		n, err := strconv.Atoi(string(d.Body))
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case seen[n] && !d.Redelivered:
			t.Fatalf("message %d is in the queue twice", n)
		case !d.Redelivered && n < first:
			t.Fatalf("message %d after %d", n, first)
		}
		if !d.Redelivered {
			first = n
		}
		if !seen[n] {
			seen[n] = true
			left--
		}
		if err := d.Ack(); err != nil && !errors.Is(err, client.ErrLost) {
			t.Fatal(err)
		}
	}
	publishing.Wait()
	if err := p.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if n := confirmed.Load(); n != messages {
		t.Errorf("%d confirmed", n)
	}
	if cuts := relays[0].cuts + relays[1].cuts; cuts < 5 {
		t.Errorf("connections were cut %d times", cuts)
	}
	awaitEmpty(t, c, q)
}

func TestAProducerThatComesAgain(t *testing.T) {
	ctx, c, q := testContext(t), connect(t), name(t)
	declare(t, c, client.Queue{Name: q, Durable: true})
	for range 3 {
		p := publisher(t, c, client.WithProducer(q, 1))
		for i := range 10 {
			if err := p.PublishAsync(ctx, client.Message{RoutingKey: q, Body: []byte(strconv.Itoa(i))}, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		if err := p.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := c.InspectQueue(ctx, q); err != nil || info.Messages != 10 {
		t.Errorf("%+v, %v", info, err)
	}
}

func TestTheTopologyIsRestored(t *testing.T) {
	ctx, q := testContext(t), name(t)
	relays := []*relay{newRelay(t)}
	c, behind := connect(t, relays[0].address()), connect(t)
	declare(t, c, client.Queue{Name: q})
	if err := c.DeclareExchange(ctx, client.Exchange{Name: q, Type: "topic"}); err != nil {
		t.Fatal(err)
	}
	if err := c.Bind(ctx, client.Binding{Source: q, Destination: q, RoutingKey: "#"}); err != nil {
		t.Fatal(err)
	}
	k, err := c.Consume(ctx, q)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	// What goes while the client is away is there again when it is back.
	if err := behind.DeleteExchange(ctx, q); err != nil {
		t.Fatal(err)
	}
	relays[0].cut()
	p := publisher(t, behind)
	for {
		err := p.Publish(ctx, client.Message{Exchange: q, RoutingKey: "a"})
		if err == nil {
			break
		}
		var rejected *client.Rejected
		if !errors.As(err, &rejected) && !errors.Is(err, client.ErrUnroutable) {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	d, err := k.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Ack(), c.DeleteExchange(ctx, q)); err != nil {
		t.Error(err)
	}
	if _, err := c.DeleteQueue(ctx, q); err != nil {
		t.Error(err)
	}
	if _, err := k.Next(ctx); !errors.Is(err, &client.Error{Reason: client.NotFound}) {
		t.Errorf("the consumer of a deleted queue ended with %v", err)
	}
}

func TestHandle(t *testing.T) {
	ctx, c, q := testContext(t), connect(t), name(t)
	declare(t, c, client.Queue{Name: q, Durable: true})
	p := publisher(t, c)
	for i := range 20 {
		if err := p.Publish(ctx, client.Message{RoutingKey: q, Body: []byte(strconv.Itoa(i))}); err != nil {
			t.Fatal(err)
		}
	}
	handling, stop := context.WithCancel(ctx)
	defer stop()
	var done atomic.Int32
	err := c.Handle(handling, q, func(_ context.Context, d *client.Delivery) error {
		if !d.Redelivered && string(d.Body) == "7" {
			return errors.New("not now")
		}
		if done.Add(1) == 20 {
			stop()
		}
		return nil
	}, client.WithWorkers(3), client.WithCredit(5))
	if !errors.Is(err, context.Canceled) || done.Load() < 20 {
		t.Error(err, done.Load())
	}
}

func TestGet(t *testing.T) {
	ctx, c, q := testContext(t), connect(t), name(t)
	declare(t, c, client.Queue{Name: q, Durable: true})
	p := publisher(t, c)
	for _, body := range []string{"a", "b"} {
		if err := p.Publish(ctx, client.Message{RoutingKey: q, Body: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
	d, err := c.Get(ctx, q, false)
	if err != nil || string(d.Body) != "a" || d.Requeue() != nil {
		t.Fatal(d, err)
	}
	d, err = c.Get(ctx, q, false)
	if err != nil || string(d.Body) != "a" || !d.Redelivered || d.Ack() != nil {
		t.Fatal(d, err)
	}
	if peeked, err := c.Peek(ctx, q, 0, 10, 0); err != nil || len(peeked) != 1 || string(peeked[0].Body) != "b" || peeked[0].Redelivered {
		t.Fatal(peeked, err)
	}
	if n, err := c.PurgeQueue(ctx, q); err != nil || n != 1 {
		t.Fatal(n, err)
	}
}

func TestLists(t *testing.T) {
	ctx, c, q := testContext(t), connect(t), name(t)
	declare(t, c, client.Queue{Name: q, Durable: true, Arguments: client.Table{"x-max-length": 5}})
	if err := c.DeclareExchange(ctx, client.Exchange{Name: q, Type: "fanout", Durable: true}); err != nil {
		t.Fatal(err)
	}
	if err := c.Bind(ctx, client.Binding{Source: q, Destination: q}); err != nil {
		t.Fatal(err)
	}
	found := 0
	for got, err := range c.Queues(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if got.Name == q && got.Arguments["x-max-length"] == int64(5) && got.Durable {
			found++
		}
	}
	for got, err := range c.Exchanges(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if got.Name == q && got.Type == "fanout" {
			found++
		}
	}
	for got, err := range c.Bindings(ctx, q, q) {
		if err != nil {
			t.Fatal(err)
		}
		if got.Source == q {
			found++
		}
	}
	if found != 3 {
		t.Errorf("%d of 3 found", found)
	}
	if st, err := c.Status(ctx); err != nil || st.Node != "n" || !st.Current || len(st.Nodes) != 1 {
		t.Errorf("%+v, %v", st, err)
	}
	if err := c.Unbind(ctx, client.Binding{Source: q, Destination: q}); err != nil {
		t.Error(err)
	}
}

// TestCrossing reads by AMQP what was sent by gRPC, and back.
func TestCrossing(t *testing.T) {
	ctx, c, q := testContext(t), connect(t), name(t)
	declare(t, c, client.Queue{Name: q, Durable: true})
	conn, err := amqp091.Dial(amqpURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	p := publisher(t, c)
	if err := p.Publish(ctx, client.Message{RoutingKey: q, Body: []byte("by gRPC"), Headers: map[string]any{"n": int32(7)}, ContentType: "text/plain"}); err != nil {
		t.Fatal(err)
	}
	got, ok, err := ch.Get(q, true)
	if err != nil || !ok || string(got.Body) != "by gRPC" || got.Headers["n"] != int32(7) || got.ContentType != "text/plain" || got.DeliveryMode != 2 {
		t.Fatalf("%+v, %t, %v", got, ok, err)
	}
	if err := ch.PublishWithContext(ctx, "", q, false, false, amqp091.Publishing{Body: []byte("by AMQP"), Headers: amqp091.Table{"n": int32(8)}}); err != nil {
		t.Fatal(err)
	}
	k, err := c.Consume(ctx, q, client.WithAutoSettle())
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	d, err := k.Next(ctx)
	if err != nil || string(d.Body) != "by AMQP" || d.Headers["n"] != int32(8) || !d.Transient {
		t.Fatalf("%+v, %v", d, err)
	}
}

func TestLargeMessages(t *testing.T) {
	ctx, c, q := testContext(t), connect(t), name(t)
	declare(t, c, client.Queue{Name: q, Durable: true})
	p := publisher(t, c)
	var sizes []int
	for _, size := range []int{0, 1, 128 << 10, 1 << 20, 5 << 20} {
		if err := p.Publish(ctx, client.Message{RoutingKey: q, Body: []byte(strings.Repeat("x", size))}); err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, size)
	}
	var got []int
	for range sizes {
		d, err := c.Get(ctx, q, true)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, len(d.Body))
	}
	if !slices.Equal(got, sizes) {
		t.Errorf("got %v, sent %v", got, sizes)
	}
	var rejected *client.Rejected
	if err := p.Publish(ctx, client.Message{RoutingKey: q, Body: make([]byte, 16<<20+1)}); !errors.As(err, &rejected) || rejected.Reason != client.PreconditionFailed {
		t.Error(err)
	}
}

// TestCloseWaitsForTheTelling has a slow reader of outcomes: Flush and Close return when it has been told.
func TestCloseWaitsForTheTelling(t *testing.T) {
	ctx, c, q := testContext(t), connect(t), name(t)
	declare(t, c, client.Queue{Name: q, Durable: true})
	for what, end := range map[string]func(*client.Publisher) error{
		"Flush": func(p *client.Publisher) error { return p.Flush(ctx) },
		"Close": func(p *client.Publisher) error { return p.Close(ctx) },
	} {
		p := publisher(t, c)
		var told atomic.Bool
		if err := p.PublishAsync(ctx, client.Message{RoutingKey: q}, func(err error) {
			time.Sleep(200 * time.Millisecond)
			told.Store(err == nil)
		}); err != nil {
			t.Fatal(err)
		}
		if err := end(p); err != nil || !told.Load() {
			t.Errorf("%s returned %v, told: %v", what, err, told.Load())
		}
	}
}

// TestClientCloseSendsWhatWasSettled holds a settlement back until Close is under way.
func TestClientCloseSendsWhatWasSettled(t *testing.T) {
	ctx, other, q := testContext(t), connect(t), name(t)
	declare(t, other, client.Queue{Name: q, Durable: true})
	if err := publisher(t, other).Publish(ctx, client.Message{RoutingKey: q}); err != nil {
		t.Fatal(err)
	}
	closing, sent := make(chan struct{}), make(chan error, 1)
	intercept := func(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		stream, err := streamer(ctx, desc, conn, method, opts...)
		return &heldStream{ClientStream: stream, release: closing, sent: sent}, err
	}
	c, err := client.New([]string{address}, client.WithDialOptions(grpc.WithStreamInterceptor(intercept)))
	if err != nil {
		t.Fatal(err)
	}
	idle, err := c.Consume(ctx, "", client.WithTemporaryQueue())
	if err != nil {
		t.Fatal(err)
	}
	k, err := c.Consume(ctx, q)
	if err != nil {
		t.Fatal(err)
	}
	d, err := k.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Ack(); err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- c.Close() }()
	if _, err := idle.Next(ctx); !errors.Is(err, client.ErrClosed) {
		t.Error(err)
	}
	close(closing)
	if err := errors.Join(<-sent, <-closed); err != nil {
		t.Fatal("what was settled was not sent: ", err)
	}
	if _, err := c.Consume(ctx, q); !errors.Is(err, client.ErrClosed) {
		t.Error(err)
	}
	awaitEmpty(t, other, q)
}

// heldStream sends the first settles when released, unless the stream is over by then.
type heldStream struct {
	grpc.ClientStream
	release <-chan struct{}
	sent    chan<- error
}

func (s *heldStream) SendMsg(m any) error {
	request, ok := m.(*brokerv1.ConsumeRequest)
	if !ok || request.GetSettles() == nil {
		return s.ClientStream.SendMsg(m)
	}
	<-s.release
	err := s.Context().Err()
	if err == nil {
		err = s.ClientStream.SendMsg(m)
	}
	s.sent <- err
	return err
}

// TestClientCloseWithoutANode has a consumer that has lost its stream, and nothing that it could send.
func TestClientCloseWithoutANode(t *testing.T) {
	ctx, r, q := testContext(t), newRelay(t), name(t)
	declare(t, connect(t), client.Queue{Name: q, Durable: true})
	lost := make(chan struct{})
	var once sync.Once
	log := slog.New(slog.NewTextHandler(writerFunc(func(b []byte) (int, error) {
		once.Do(func() { close(lost) })
		return len(b), nil
	}), nil))
	// Were the pause between attempts waited for, the test would not end in time.
	c, err := client.New([]string{r.address()}, client.WithLogger(log), client.WithReconnectDelay(time.Hour, time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	k, err := c.Consume(ctx, q)
	if err != nil {
		t.Fatal(err)
	}
	r.cut()
	<-lost
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := k.Next(ctx); !errors.Is(err, client.ErrClosed) {
		t.Error(err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
