package interop

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/client"
	"github.com/warrenmq/warren/test/process"
)

// pair is two programs by the Go SDK, each on a node of its own, and an AMQP client on the second.
type pair struct {
	t    *testing.T
	ctx  context.Context
	near *client.Client // publishes
	far  *client.Client // consumes
	amqp *amqp.Channel  // on far's node
	name string
}

// TestClientPatternsOnEveryPair runs the tutorial's patterns by the Go SDK with every pair of three nodes, and crosses
// them with AMQP.
func TestClientPatternsOnEveryPair(t *testing.T) {
	cluster := process.Start(t, 3)
	for _, near := range cluster.Nodes {
		for _, far := range cluster.Nodes {
			t.Run(near.Name+"-"+far.Name, func(t *testing.T) { patterns(t, near, far) })
		}
	}
}

func patterns(t *testing.T, near, far *process.Node) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	p := &pair{t: t, ctx: ctx, near: sdk(t, near), far: sdk(t, far), amqp: channelOf(t, dial(t, far)), name: queueName(t)}
	p.hello()
	p.workQueue()
	p.exchange("fanout", client.Binding{}, client.Message{}, client.Message{})
	p.exchange("direct", client.Binding{RoutingKey: "error"}, client.Message{RoutingKey: "error"}, client.Message{RoutingKey: "info"})
	p.exchange("topic", client.Binding{RoutingKey: "*.orange.#"}, client.Message{RoutingKey: "quick.orange.fox"}, client.Message{RoutingKey: "orange.fox"})
	p.exchange("headers", client.Binding{Arguments: client.Table{"x-match": "all", "a": 1, "b": "x"}},
		client.Message{Headers: map[string]any{"a": 1, "b": "x", "c": true}}, client.Message{Headers: map[string]any{"a": 1}})
	p.rpc()
	p.crossing()
}

func sdk(t *testing.T, n *process.Node) *client.Client {
	t.Helper()
	c, err := client.New([]string{n.GRPCAddress()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (p *pair) check(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *pair) publisher() *client.Publisher {
	p.t.Helper()
	publisher, err := p.near.Publisher()
	p.check(err)
	return publisher
}

// expect takes messages and compares their bodies.
func (p *pair) expect(k *client.Consumer, bodies ...string) {
	p.t.Helper()
	for _, want := range bodies {
		d, err := k.Next(p.ctx)
		p.check(err)
		if string(d.Body) != want {
			p.t.Errorf("got %q, want %q", d.Body, want)
		}
		p.check(d.Ack())
	}
}

func (p *pair) hello() {
	_, err := p.near.DeclareQueue(p.ctx, client.Queue{Name: p.name, Durable: true})
	p.check(err)
	k, err := p.far.Consume(p.ctx, p.name)
	p.check(err)
	defer k.Close()
	p.check(p.publisher().Publish(p.ctx, client.Message{RoutingKey: p.name, Body: []byte("hello")}))
	p.expect(k, "hello")
}

// workQueue has two workers with one task each at a time: a slow one does not hold up the other.
func (p *pair) workQueue() {
	slow, err := p.far.Consume(p.ctx, p.name, client.WithCredit(1))
	p.check(err)
	defer slow.Close()
	publisher := p.publisher()
	p.check(publisher.Publish(p.ctx, client.Message{RoutingKey: p.name, Body: []byte("long")}))
	long, err := slow.Next(p.ctx)
	p.check(err)
	fast, err := p.near.Consume(p.ctx, p.name, client.WithCredit(1))
	p.check(err)
	defer fast.Close()
	tasks := []string{"1", "2", "3", "4"}
	for _, task := range tasks {
		p.check(publisher.Publish(p.ctx, client.Message{RoutingKey: p.name, Body: []byte(task)}))
	}
	p.expect(fast, tasks...)
	p.check(long.Ack())
}

// exchange publishes a message that the binding matches and one that it does not.
func (p *pair) exchange(kind string, b client.Binding, matches, misses client.Message) {
	b.Source = p.name + "." + kind
	p.check(p.near.DeclareExchange(p.ctx, client.Exchange{Name: b.Source, Type: kind}))
	var subscribers []*client.Consumer
	for _, c := range []*client.Client{p.far, p.near} {
		k, err := c.Consume(p.ctx, "", client.WithTemporaryQueue(b))
		p.check(err)
		defer k.Close()
		subscribers = append(subscribers, k)
	}
	publisher := p.publisher()
	misses.Exchange, matches.Exchange = b.Source, b.Source
	if err := publisher.Publish(p.ctx, misses); kind != "fanout" && !errors.Is(err, client.ErrUnroutable) {
		p.t.Errorf("%s: a message that nothing matches: %v", kind, err)
	}
	matches.Body = []byte(kind)
	p.check(publisher.Publish(p.ctx, matches))
	for _, k := range subscribers {
		if kind == "fanout" {
			p.expect(k, "")
		}
		p.expect(k, kind)
	}
}

func (p *pair) rpc() {
	server, stop := context.WithCancel(p.ctx)
	defer stop()
	requests := p.name + ".rpc"
	_, err := p.far.DeclareQueue(p.ctx, client.Queue{Name: requests})
	p.check(err)
	answers, err := p.far.Publisher()
	p.check(err)
	done := make(chan error, 1)
	go func() {
		done <- p.far.Handle(server, requests, func(ctx context.Context, d *client.Delivery) error {
			return answers.Publish(ctx, client.Message{RoutingKey: d.ReplyTo, CorrelationID: d.CorrelationID, Body: []byte(strings.ToUpper(string(d.Body)))})
		})
	}()
	replies, err := p.near.Consume(p.ctx, "", client.WithTemporaryQueue())
	p.check(err)
	defer replies.Close()
	publisher := p.publisher()
	var want, got []string
	for i := range 20 {
		want = append(want, fmt.Sprintf("%d A%d", i, i))
		p.check(publisher.Publish(p.ctx, client.Message{RoutingKey: requests, ReplyTo: replies.Queue(), CorrelationID: fmt.Sprint(i), Body: fmt.Appendf(nil, "a%d", i)}))
	}
	for range want {
		d, err := replies.Next(p.ctx)
		p.check(err)
		got = append(got, d.CorrelationID+" "+string(d.Body))
		p.check(d.Ack())
	}
	if !slices.Equal(got, want) {
		p.t.Errorf("replies %q, want %q", got, want)
	}
	stop()
	if err := <-done; !errors.Is(err, context.Canceled) {
		p.t.Error(err)
	}
}

// crossing publishes by each protocol and reads by the other, on another node.
func (p *pair) crossing() {
	queue := p.name + ".cross"
	_, err := p.near.DeclareQueue(p.ctx, client.Queue{Name: queue, Durable: true})
	p.check(err)
	p.check(p.publisher().Publish(p.ctx, client.Message{RoutingKey: queue, Body: []byte("by gRPC"), Headers: map[string]any{"n": int16(5)}, Priority: 2}))
	got, ok, err := p.amqp.Get(queue, true)
	p.check(err)
	if !ok || string(got.Body) != "by gRPC" || got.Headers["n"] != int16(5) || got.Priority != 2 {
		p.t.Errorf("%t %+v", ok, got)
	}
	k, err := p.near.Consume(p.ctx, queue)
	p.check(err)
	defer k.Close()
	p.check(p.amqp.PublishWithContext(p.ctx, "", queue, false, false, amqp.Publishing{Body: []byte("by AMQP"), Headers: amqp.Table{"t": amqp.Table{"k": "v"}}}))
	d, err := k.Next(p.ctx)
	p.check(err)
	if table, _ := d.Headers["t"].(map[string]any); string(d.Body) != "by AMQP" || table["k"] != "v" {
		p.t.Errorf("%+v", d)
	}
	p.check(d.Ack())
}
