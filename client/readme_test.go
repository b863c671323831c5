package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/warrenmq/warren/client"
)

// The programs of README.md, as they are there: TestReadme holds them against it.

func readmeHello(ctx context.Context, addresses []string) error {
	c, err := client.New(addresses, client.WithCredentials("guest", "guest")) // addresses such as "node1:7672", "node2:7672"
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.DeclareQueue(ctx, client.Queue{Name: "hello", Durable: true}); err != nil {
		return err
	}
	p, err := c.Publisher()
	if err != nil {
		return err
	}
	if err := p.Publish(ctx, client.Message{RoutingKey: "hello", Body: []byte("Hello World!")}); err != nil {
		return err
	}
	k, err := c.Consume(ctx, "hello")
	if err != nil {
		return err
	}
	for d, err := range k.Messages(ctx) {
		if err != nil {
			return err
		}
		fmt.Println(string(d.Body))
		if err := d.Ack(); err != nil {
			return err
		}
	}
	return nil
}

func readmeDelays(ctx context.Context, c *client.Client) error {
	err := c.Handle(ctx, "tasks", func(ctx context.Context, d *client.Delivery) error {
		if string(d.Body) == "later" && !d.Redelivered {
			return d.RequeueAfter(100 * time.Millisecond)
		}
		if err := d.Extend(); err != nil { // this will take a while
			return err
		}
		fmt.Println(string(d.Body))
		return nil
	})
	return err
}

// notRun lists what begins programs that are not run, and why.
var notRun = map[string]string{
	"client.New(addresses, client.WithDialOptions(grpc.WithStatsHandler(otelgrpc": "OpenTelemetry is no dependency of the module",
}

func TestReadme(t *testing.T) {
	data, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile("readme_test.go")
	if err != nil {
		t.Fatal(err)
	}
	flat := func(text string) string { // without indentation
		var out strings.Builder
		for line := range strings.Lines(text) {
			out.WriteString(strings.TrimLeft(line, "\t"))
		}
		return out.String()
	}
	programs := flat(string(self))
	for i, part := range strings.Split(string(data), "```go\n")[1:] {
		block, _, _ := strings.Cut(part, "```")
		reason := ""
		for beginning, why := range notRun {
			if strings.HasPrefix(block, beginning) {
				reason = why
			}
		}
		switch {
		case reason != "":
			t.Logf("not run: %s(%s)", block, reason)
		case !strings.Contains(programs, flat(block)):
			t.Errorf("program %d of README.md is not among those that run here:\n%s", i+1, block)
		}
	}
	if bytes.Count(data, []byte("```go\n")) != 3 {
		t.Error("README.md has other programs than those known here")
	}

	c := connect(t)
	run := func(queue string, program func(ctx context.Context) error) {
		t.Helper()
		ctx, cancel := context.WithCancel(testContext(t))
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- program(ctx) }()
		awaitConsumed(t, c, queue)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", queue, err)
		}
	}
	run("hello", func(ctx context.Context) error { return readmeHello(ctx, []string{address}) })
	declare(t, c, client.Queue{Name: "tasks", Durable: true})
	p := publisher(t, c)
	for _, body := range []string{"later", "now"} {
		if err := p.Publish(testContext(t), client.Message{RoutingKey: "tasks", Body: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
	run("tasks", func(ctx context.Context) error { return readmeDelays(ctx, c) })
}

// awaitConsumed waits until a queue has a consumer and no message, ready or out.
func awaitConsumed(t *testing.T, c *client.Client, queue string) {
	t.Helper()
	ctx := testContext(t)
	for {
		for q, err := range c.Queues(ctx) {
			if err != nil {
				t.Fatal(err)
			}
			if q.Name == queue && q.Counted && q.Consumers == 1 && q.Ready+q.Unsettled == 0 {
				return
			}
		}
		if ctx.Err() != nil {
			t.Fatalf("%s is not consumed", queue)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
