package client_test

import (
	"context"
	"fmt"
	"log"

	"github.com/warrenmq/warren/client"
)

// open connects to the node of these examples; a program names the nodes of its cluster.
func open() *client.Client {
	c, err := client.New([]string{address})
	if err != nil {
		log.Fatal(err)
	}
	return c
}

// check ends an example on an error.
func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// Hello world: a message into a queue, and out again.
func Example_hello() {
	ctx := context.Background()
	c, err := client.New([]string{address}, client.WithCredentials("guest", "guest"))
	check(err)
	defer c.Close()

	_, err = c.DeclareQueue(ctx, client.Queue{Name: "hello", Durable: true})
	check(err)

	p, err := c.Publisher()
	check(err)
	check(p.Publish(ctx, client.Message{RoutingKey: "hello", Body: []byte("Hello World!")}))
	check(p.Close(ctx))

	k, err := c.Consume(ctx, "hello")
	check(err)
	defer k.Close()
	for d, err := range k.Messages(ctx) {
		check(err)
		fmt.Printf("Received %q\n", d.Body)
		check(d.Ack())
		break
	}
	// Output: Received "Hello World!"
}

// A work queue: tasks are shared out to workers, each of which has one at a time. A task whose worker fails or dies goes
// to another.
func Example_workQueue() {
	c := open()
	defer c.Close()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	_, err := c.DeclareQueue(ctx, client.Queue{Name: "tasks", Durable: true})
	check(err)

	p, err := c.Publisher()
	check(err)
	for _, task := range []string{"one", "two", "three"} {
		check(p.PublishAsync(ctx, client.Message{RoutingKey: "tasks", Body: []byte(task)}, nil))
	}
	check(p.Close(ctx)) // waits until all are confirmed

	done := make(chan string, 3)
	handler := func(_ context.Context, d *client.Delivery) error {
		done <- string(d.Body)
		return nil // an error would give the task back
	}
	go func() { _ = c.Handle(ctx, "tasks", handler, client.WithCredit(1), client.WithWorkers(1)) }()
	for range 3 {
		fmt.Println(<-done)
	}
	// Output:
	// one
	// two
	// three
}

// Publish and subscribe: every subscriber has a queue of its own, which goes with it.
func Example_publishSubscribe() {
	ctx := context.Background()
	c := open()
	defer c.Close()
	check(c.DeclareExchange(ctx, client.Exchange{Name: "logs", Type: "fanout"}))

	first, err := c.Consume(ctx, "", client.WithTemporaryQueue(client.Binding{Source: "logs"}))
	check(err)
	defer first.Close()
	second, err := c.Consume(ctx, "", client.WithTemporaryQueue(client.Binding{Source: "logs"}))
	check(err)
	defer second.Close()

	p, err := c.Publisher()
	check(err)
	check(p.Publish(ctx, client.Message{Exchange: "logs", Body: []byte("info: started")}))

	for i, k := range []*client.Consumer{first, second} {
		d, err := k.Next(ctx)
		check(err)
		fmt.Printf("subscriber %d: %s\n", i+1, d.Body)
		check(d.Ack())
	}
	// Output:
	// subscriber 1: info: started
	// subscriber 2: info: started
}

// Routing: a direct exchange sends messages to the queues bound with their routing key.
func Example_routing() {
	ctx := context.Background()
	c := open()
	defer c.Close()
	check(c.DeclareExchange(ctx, client.Exchange{Name: "direct_logs", Type: "direct"}))
	errorsOnly, err := c.Consume(ctx, "", client.WithTemporaryQueue(client.Binding{Source: "direct_logs", RoutingKey: "error"}))
	check(err)
	defer errorsOnly.Close()

	p, err := c.Publisher()
	check(err)
	err = p.Publish(ctx, client.Message{Exchange: "direct_logs", RoutingKey: "info", Body: []byte("all is well")})
	fmt.Println("info:", err)
	check(p.Publish(ctx, client.Message{Exchange: "direct_logs", RoutingKey: "error", Body: []byte("disk full")}))

	d, err := errorsOnly.Next(ctx)
	check(err)
	fmt.Printf("error: %s\n", d.Body)
	check(d.Ack())
	// Output:
	// info: no queue is bound for the message
	// error: disk full
}

// Topics: a pattern of words, where * is one word and # any number.
func Example_topics() {
	ctx := context.Background()
	c := open()
	defer c.Close()
	check(c.DeclareExchange(ctx, client.Exchange{Name: "topic_logs", Type: "topic"}))
	k, err := c.Consume(ctx, "", client.WithTemporaryQueue(
		client.Binding{Source: "topic_logs", RoutingKey: "kern.*"}, client.Binding{Source: "topic_logs", RoutingKey: "#.critical"}))
	check(err)
	defer k.Close()

	p, err := c.Publisher()
	check(err)
	for _, key := range []string{"kern.info", "cron.info", "app.web.critical"} {
		if err := p.Publish(ctx, client.Message{Exchange: "topic_logs", RoutingKey: key}); err != nil {
			fmt.Printf("%s: %v\n", key, err)
		}
	}
	for range 2 {
		d, err := k.Next(ctx)
		check(err)
		fmt.Println("received", d.RoutingKey)
		check(d.Ack())
	}
	// Output:
	// cron.info: no queue is bound for the message
	// received kern.info
	// received app.web.critical
}

// Headers: a headers exchange matches headers instead of keys.
func Example_headers() {
	ctx := context.Background()
	c := open()
	defer c.Close()
	check(c.DeclareExchange(ctx, client.Exchange{Name: "reports", Type: "headers"}))
	k, err := c.Consume(ctx, "", client.WithTemporaryQueue(client.Binding{Source: "reports",
		Arguments: client.Table{"x-match": "all", "format": "pdf", "pages": 2}}))
	check(err)
	defer k.Close()

	p, err := c.Publisher()
	check(err)
	check(p.Publish(ctx, client.Message{Exchange: "reports", Headers: map[string]any{"format": "pdf", "pages": 2}, Body: []byte("a short report")}))
	d, err := k.Next(ctx)
	check(err)
	fmt.Printf("%s, %v\n", d.Body, d.Headers["format"])
	check(d.Ack())
	// Output: a short report, pdf
}

// RPC: a request names the queue for its reply, and a number that the reply repeats.
func Example_rpc() {
	c := open()
	defer c.Close()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	_, err := c.DeclareQueue(ctx, client.Queue{Name: "double"})
	check(err)
	p, err := c.Publisher()
	check(err)

	go func() {
		_ = c.Handle(ctx, "double", func(ctx context.Context, d *client.Delivery) error {
			return p.Publish(ctx, client.Message{RoutingKey: d.ReplyTo, CorrelationID: d.CorrelationID, Body: append(d.Body, d.Body...)})
		})
	}()

	replies, err := c.Consume(ctx, "", client.WithTemporaryQueue())
	check(err)
	defer replies.Close()
	check(p.Publish(ctx, client.Message{RoutingKey: "double", ReplyTo: replies.Queue(), CorrelationID: "1", Body: []byte("ab")}))
	d, err := replies.Next(ctx)
	check(err)
	fmt.Printf("%s: %s\n", d.CorrelationID, d.Body)
	check(d.Ack())
	// Output: 1: abab
}

// A program that copies a log into a queue: the offset is the number. When it runs again, it begins with the first record
// that it has not seen confirmed, and whatever was stored already is not stored twice.
func ExampleWithProducer() {
	ctx := context.Background()
	c := open()
	defer c.Close()
	_, err := c.DeclareQueue(ctx, client.Queue{Name: "imported", Durable: true})
	check(err)
	records := []string{"first", "second", "third"}
	run := func(from, to int) {
		p, err := c.Publisher(client.WithProducer("import-7", uint64(from)))
		check(err)
		for _, r := range records[from-1 : to] {
			check(p.Publish(ctx, client.Message{RoutingKey: "imported", Body: []byte(r)}))
		}
		check(p.Close(ctx))
	}
	run(1, 2)
	run(2, 3) // it did not know of the second
	info, err := c.InspectQueue(ctx, "imported")
	check(err)
	fmt.Println(info.Messages, "messages")
	// Output: 3 messages
}
