package pipe

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// noNode is a cluster that has no node but this one.
type noNode struct{ nowhere }

func (noNode) Open(context.Context, uint16) (Link, error) { return nil, ErrNoNode }

// TestWhoIsWaitedFor: what is meant for another node's memory waits while that node cannot be reached, unless its latest run is over or
// there is no such node.
func TestWhoIsWaitedFor(t *testing.T) {
	const node = 2
	earlier, present := queue.MakeSessionID(node, 1), queue.MakeSessionID(node, 2)
	for name, test := range map[string]struct {
		links Links
		tell  func(e *Edge)
		waits bool
	}{
		"it is away":                   {nowhere{}, func(*Edge) {}, true},
		"there is none":                {noNode{}, func(*Edge) {}, false},
		"it is over":                   {nowhere{}, func(e *Edge) { e.SessionAlive(present); e.SessionOver(present) }, false},
		"it is there again":            {nowhere{}, func(e *Edge) { e.SessionOver(present); e.SessionAlive(present) }, true},
		"it has begun anew":            {nowhere{}, func(e *Edge) { e.SessionOver(earlier); e.SessionAlive(present) }, true},
		"so it has, as is heard first": {nowhere{}, func(e *Edge) { e.SessionAlive(present); e.SessionOver(earlier) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := must(NewEdge(EdgeOptions{Session: queue.MakeSessionID(1, 1), Links: test.links, Leaders: nowhere{}, Hosts: nowhere{}, Logger: quiet}))
				defer e.Close()
				test.tell(e)
				var answered atomic.Bool
				b := &broker.Batch{Done: func(_ *broker.Batch, r []queue.Result) { answered.Store(len(r) == 1 && r[0].Code == queue.Gone) }}
				shard := queue.LocalShard | node
				b.Purge(queue.MakeQueueID(shard, 1))
				if err := e.Submit(t.Context(), shard, b); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
				if answered.Load() == test.waits {
					t.Errorf("it is answered: %v", test.waits)
				}
			})
		})
	}
}
