package broker_test

import (
	"testing"

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
