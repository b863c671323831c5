package broker_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/internal/amqptest"
	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm/catalog"
)

// TestDeclareOfAnExpiredQueue: a queue has expired and the catalog is about to forget it. Who declares it again has one that stays.
func TestDeclareOfAnExpiredQueue(t *testing.T) {
	c := amqptest.NewCluster(t, broker.Options{})
	d, ch := openDoor(t, c)
	_, _, arguments := broker.ParseOptions([]string{"x-expires=60000"})
	brief := broker.QueueDeclare{Name: "brief", Arguments: arguments}
	declare := func() {
		t.Helper()
		if _, err := ch.DeclareQueue(t.Context(), &brief); err != nil {
			t.Fatal(err)
		}
	}
	declare()
	expired := c.Find("brief").ID
	c.Lose(expired)
	declare()
	c.MustPropose(catalog.DeleteQueue(&raftv1.DeleteQueue{Ids: []uint64{uint64(expired)}})) // it was on its way
	if c.Find("brief") == nil {
		t.Fatal("the queue that was just declared is gone")
	}
	publishOne(t, d, ch, "brief")
	if n := c.Holds(c.Find("brief").ID); n.Ready != 1 {
		t.Errorf("it holds %d messages of one", n.Ready)
	}
	if n := c.Holds(expired); n.Ready != 0 {
		t.Error("the one that has expired is back")
	}
}

// slowCatalog is a cluster whose changes of the catalog succeed late, whatever the context says.
type slowCatalog struct {
	*amqptest.Cluster
	takes time.Duration
}

func (s *slowCatalog) Propose(ctx context.Context, cmd *catalog.Command) (catalog.Reply, error) {
	time.Sleep(s.takes)
	return s.Cluster.Propose(context.WithoutCancel(ctx), cmd)
}

// TestDeclareTime: a declare that takes longer has not succeeded, though its queue may have its name.
func TestDeclareTime(t *testing.T) {
	for takes, ok := range map[time.Duration]bool{broker.DeclareTime - 1: true, broker.DeclareTime: false, time.Hour: false} {
		synctest.Test(t, func(t *testing.T) {
			c := amqptest.NewCluster(t, broker.Options{OperationTimeout: time.Hour})
			_, ch := openDoor(t, c)
			c.Broker.Start(&slowCatalog{c, takes})
			_, err := ch.DeclareQueue(context.Background(), &broker.QueueDeclare{Name: "q"})
			if ok != (err == nil) || !ok && !broker.IsKind(err, broker.Unavailable) {
				t.Errorf("after %v: %v", takes, err)
			}
		})
	}
}

// replacing is a cluster in which somebody else has deleted a queue and declared another of its name: this node's copy of the catalog learns
// both with its next change.
type replacing struct {
	*amqptest.Cluster
	replace func()
}

func (r *replacing) Propose(ctx context.Context, cmd *catalog.Command) (catalog.Reply, error) {
	reply, err := r.Cluster.Propose(ctx, cmd)
	if replace := r.replace; replace != nil {
		r.replace = nil
		replace()
	}
	return reply, err
}

// TestReplacedQueues: a node whose copy of the catalog is old finds that a queue has gone from its shard. Whoever names it means the one that
// has the name by now.
func TestReplacedQueues(t *testing.T) {
	for name, do := range map[string]func(ch *broker.Channel) error{
		"declare passively": func(ch *broker.Channel) error {
			_, err := ch.DeclareQueue(t.Context(), &broker.QueueDeclare{Name: "q", Passive: true})
			return err
		},
		"declare": func(ch *broker.Channel) error {
			_, err := ch.DeclareQueue(t.Context(), &broker.QueueDeclare{Name: "q", Durable: true})
			return err
		},
		"consume": func(ch *broker.Channel) error {
			_, err := ch.Consume(t.Context(), &broker.Consume{Queue: "q", Tag: "c"})
			return err
		},
		"get": func(ch *broker.Channel) error {
			_, _, err := ch.Get(t.Context(), "q", true)
			return err
		},
		"peek": func(ch *broker.Channel) error {
			_, err := ch.Peek(t.Context(), "q", 0, 1, func(*broker.Outgoing) bool { return true })
			return err
		},
		"purge": func(ch *broker.Channel) error {
			_, err := ch.PurgeQueue(t.Context(), "q")
			return err
		},
		"delete": func(ch *broker.Channel) error {
			_, err := ch.DeleteQueue(t.Context(), "q", false, false)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := amqptest.NewCluster(t, broker.Options{})
			_, ch := openDoor(t, c)
			_, other := openDoor(t, c)
			declare := func() {
				if _, err := other.DeclareQueue(t.Context(), &broker.QueueDeclare{Name: "q", Durable: true}); err != nil {
					t.Error(err)
				}
			}
			declare()
			former := c.Find("q").ID
			c.Lose(former)
			c.Broker.Start(&replacing{c, declare})
			if err := do(ch); err != nil {
				t.Error(err)
			}
			switch q := c.Find("q"); {
			case name == "delete" && q != nil:
				t.Error("it is still there")
			case name != "delete" && (q == nil || q.ID == former):
				t.Errorf("the queue is %v", q)
			}
		})
	}
}
