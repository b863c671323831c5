// Command natsclient drives NATS JetStream for the benchmark suite, as `warren bench` drives AMQP brokers: publishers with a
// window of publishes that are not acknowledged, consumers that pull and acknowledge each message, streams with three replicas
// in files and work-queue retention. Its one argument is a command as JSON; it prints a result as JSON.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// command is what the suite says; the names are those of its own types.
type command struct {
	What    string
	Run     *runOptions
	Churn   *churnOptions
	Memory  *memoryOptions
	Queue   string
	Servers []string
	PIDs    []int
}

type runOptions struct {
	Publishers, Consumers, Queues int
	Size, Confirm, Prefetch       int
	AckEvery                      int
	Rate                          float64
	Warmup, Duration              time.Duration
	Queue                         string
	Keep, Fanout                  bool
	Backlog                       int
}

type churnOptions struct {
	Kind             string
	Workers          int
	Warmup, Duration time.Duration
	Queue            string
}

type memoryOptions struct {
	Connections, Messages, Size int
	Settle                      time.Duration
	Queue                       string
}

func main() {
	if err := perform(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func perform(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("one argument is needed: a command as JSON")
	}
	var c command
	if err := json.Unmarshal([]byte(args[0]), &c); err != nil {
		return err
	}
	ctx := context.Background()
	var answer any
	var err error
	switch {
	case c.What == "run" && c.Run != nil:
		answer, err = run(ctx, &c)
	case c.What == "churn" && c.Churn != nil:
		answer, err = churn(ctx, &c)
	case c.What == "memory" && c.Memory != nil:
		answer, err = memory(ctx, &c)
	case c.What == "declare":
		answer, err = struct{}{}, declareOne(ctx, &c)
	default:
		err = fmt.Errorf("no command is called %q", c.What)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(answer)
}

// replicas is how many copies each stream has.
const replicas = 3

// askTimeout bounds a request about a stream; placing one can take a while on a busy machine.
const askTimeout = time.Minute

// connect opens a connection to one of the servers, without reconnecting to others unless it breaks.
func (c *command) connect(i int) (*nats.Conn, jetstream.JetStream, error) {
	servers := append([]string{c.Servers[i%len(c.Servers)]}, c.Servers...)
	conn, err := nats.Connect(servers[0], nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.Timeout(30*time.Second), nats.IgnoreDiscoveredServers())
	if err != nil {
		return nil, nil, fmt.Errorf("connect to %s: %w", servers[0], err)
	}
	window := 2000
	if c.Run != nil {
		window = max(1, c.Run.Confirm)
	}
	js, err := jetstream.New(conn, jetstream.WithPublishAsyncMaxPending(window), jetstream.WithPublishAsyncTimeout(askTimeout), jetstream.WithDefaultTimeout(askTimeout))
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, js, nil
}

// declare makes the stream of a queue. Several consumers of one stream take the place of a fanout to several queues.
func declare(ctx context.Context, js jetstream.JetStream, queue string, fanout bool) (jetstream.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	retention := jetstream.WorkQueuePolicy
	if fanout {
		retention = jetstream.InterestPolicy
	}
	stream, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: queue, Subjects: []string{queue}, Retention: retention, Storage: jetstream.FileStorage, Replicas: replicas})
	if err != nil {
		return nil, fmt.Errorf("declare %s: %w", queue, err)
	}
	return stream, nil
}

func declareOne(ctx context.Context, c *command) error {
	conn, js, err := c.connect(0)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = declare(ctx, js, c.Queue, false)
	return err
}
