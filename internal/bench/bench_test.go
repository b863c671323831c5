package bench

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/warrenmq/warren/amqp/wire"
	"github.com/warrenmq/warren/test/process"
)

// target starts one node, as a process of its own: what is measured is read from /proc.
func target(t *testing.T) Target {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a node")
	}
	node := process.Start(t, 1).Nodes[0]
	return Target{Servers: []string{node.AMQPAddress()}, User: "guest", Password: "guest", VHost: "/"}
}

// targets starts one node and tells how it is reached by each protocol.
func targets(t *testing.T) map[string]Target {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a node")
	}
	node := process.Start(t, 1).Nodes[0]
	return map[string]Target{
		AMQP: {Protocol: AMQP, Servers: []string{node.AMQPAddress()}, User: "guest", Password: "guest", VHost: "/"},
		GRPC: {Protocol: GRPC, Servers: []string{node.GRPCAddress()}, User: "guest", Password: "guest", VHost: "/"},
	}
}

// longEnough measures for twice as long until something was seen: a busy machine may do nothing for a while.
func longEnough(t *testing.T, measure func(d time.Duration) (seen bool, err error)) {
	t.Helper()
	for d := 300 * time.Millisecond; d < time.Minute; d *= 2 {
		seen, err := measure(d)
		if err != nil {
			t.Fatal(err)
		}
		if seen {
			return
		}
	}
	t.Fatal("not measured")
}

func options(t Target) Options {
	return Options{Target: t, Publishers: 1, Consumers: 1, Queues: 1, Size: 64, Confirm: 100, Prefetch: 64, AckEvery: 16, Persistent: true,
		Warmup: 50 * time.Millisecond, Duration: time.Second, Queue: "bench-test"}
}

func TestRunAgainstANode(t *testing.T) {
	servers := targets(t)
	for _, protocol := range []string{AMQP, GRPC} {
		t.Run(protocol, func(t *testing.T) { testRun(t, servers[protocol]) })
	}
	t.Run("nothing stays", func(t *testing.T) {
		server := servers[AMQP]
		c, err := server.dial(t.Context(), server.Servers[0])
		if err != nil {
			t.Fatal(err)
		}
		declared := options(server)
		missing := declared.declare("bench-test")
		missing.Passive = true
		if _, err := ask[*wire.QueueDeclareOk](c, missing); err == nil || !strings.Contains(err.Error(), "404") {
			t.Errorf("the queue is still there: %v", err)
		}
	})
}

func testRun(t *testing.T, server Target) {
	t.Run("in and out", func(t *testing.T) {
		longEnough(t, func(d time.Duration) (bool, error) {
			o := options(server)
			o.Duration = d
			r, err := Run(t.Context(), o)
			return err == nil && r.Published > 0 && r.Confirmed > 0 && r.Consumed > 0 && r.ConfirmTime.Count > 0 && r.EndToEnd.Count > 0 && len(r.CPUPerMessage) == 1, err
		})
	})
	t.Run("fanout", func(t *testing.T) {
		longEnough(t, func(d time.Duration) (bool, error) {
			o := options(server)
			o.Fanout, o.Queues, o.Consumers, o.Duration = true, 3, 3, d
			r, err := Run(t.Context(), o)
			return err == nil && r.Published > 0 && r.Consumed > 0, err
		})
	})
	t.Run("backlog", func(t *testing.T) {
		o := options(server)
		o.Backlog, o.Publishers, o.Consumers, o.AckEvery = 1001, 2, 1, 1
		r, err := Run(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if r.Published <= 0 || r.Consumed <= 0 || r.ConfirmTime.Count != 1001 || r.EndToEnd.Count != 1001 {
			t.Errorf("not measured: %+v", r)
		}
	})
	t.Run("one at a time", func(t *testing.T) {
		longEnough(t, func(d time.Duration) (bool, error) {
			o := options(server)
			o.Consumers, o.Confirm, o.Duration = 0, 1, d
			r, err := Run(t.Context(), o)
			return err == nil && r.Confirmed > 0 && r.Consumed == 0, err
		})
	})
	t.Run("no acks", func(t *testing.T) {
		longEnough(t, func(d time.Duration) (bool, error) {
			o := options(server)
			o.AckEvery, o.Duration = 0, d
			r, err := Run(t.Context(), o)
			return err == nil && r.Consumed > 0, err
		})
	})
	t.Run("no confirms", func(t *testing.T) {
		longEnough(t, func(d time.Duration) (bool, error) {
			o := options(server)
			o.Confirm, o.Duration = 0, d
			r, err := Run(t.Context(), o)
			return err == nil && r.Consumed > 0 && r.Confirmed == 0, err
		})
	})
	t.Run("what is refused is told", func(t *testing.T) {
		o := options(server)
		o.Password = "wrong"
		if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("a wrong password: %v", err)
		}
	})
}

func TestDeclareAndAnswers(t *testing.T) {
	server := target(t)
	if err := Declare(t.Context(), server, server.Servers[0], "bench-ask"); err != nil {
		t.Fatal(err)
	}
	if err := Answers(t.Context(), server, server.Servers[0], "bench-ask", time.Minute); err != nil {
		t.Fatal(err)
	}
}

func TestChurnAgainstANode(t *testing.T) {
	server := target(t)
	for _, kind := range []string{ChurnConnection, ChurnExclusive, ChurnQueue} {
		t.Run(kind, func(t *testing.T) {
			longEnough(t, func(d time.Duration) (bool, error) {
				r, err := Churn(t.Context(), ChurnOptions{Target: server, Kind: kind, Workers: 2, Duration: d, Queue: "bench-churn"})
				return err == nil && r.Cycles > 0 && r.CycleTime.Count > 0, err
			})
		})
	}
}

func TestMemoryAgainstANode(t *testing.T) {
	server := target(t)
	for _, o := range []MemoryOptions{
		{Target: server, Connections: 50},
		{Target: server, Queues: 50, Queue: "bench-memory"},
		{Target: server, Messages: 500, Size: 100, Queue: "bench-memory"},
	} {
		r, err := Memory(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Before) != 1 || len(r.After) != 1 || r.Seconds <= 0 {
			t.Errorf("not measured: %+v", r)
		}
	}
}

func TestOptionsThatMeanNothingAreRefused(t *testing.T) {
	server := Target{Servers: []string{"127.0.0.1:1"}}
	backlog := options(server)
	backlog.Backlog, backlog.Confirm = 10, 0
	never := options(server)
	never.AckEvery = 100
	for name, call := range map[string]func(context.Context) error{
		"no server":           func(ctx context.Context) error { _, err := Run(ctx, options(Target{})); return err },
		"backlog unconfirmed": func(ctx context.Context) error { _, err := Run(ctx, backlog); return err },
		"ack never comes":     func(ctx context.Context) error { _, err := Run(ctx, never); return err },
		"kind of churn": func(ctx context.Context) error {
			_, err := Churn(ctx, ChurnOptions{Target: server, Kind: "all", Workers: 1, Duration: 1})
			return err
		},
		"two kinds of memory": func(ctx context.Context) error {
			_, err := Memory(ctx, MemoryOptions{Target: server, Queues: 1, Connections: 1})
			return err
		},
	} {
		if err := call(t.Context()); err == nil || strings.Contains(err.Error(), "dial") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
