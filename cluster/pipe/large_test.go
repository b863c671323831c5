package pipe

import (
	"context"
	"errors"
	"testing"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// TestLargeBatchIsNotTaken: whoever submits what no entry can hold is told; what others submit is not held up by it.
func TestLargeBatchIsNotTaken(t *testing.T) {
	const most = 4 << 10
	inBubble(t, worldOptions{nodes: 1, shards: 1, instant: true, edge: EdgeOptions{BatchBytes: most}}, func(t *testing.T, w *world) {
		w.shards[0].elect(0)
		e, c := w.nodes[0].edge, newClients(t, queue.MakeQueueID(0, 1))
		c.declare(w.ctx, e)
		for octets, want := range map[int]error{most: nil, most + 1: broker.ErrLargeBatch} {
			b := &broker.Batch{Done: func(*broker.Batch, []queue.Result) {}}
			b.Chunk(1, nil)
			octets -= len(b.Data)
			b.Reset()
			b.Chunk(1, make([]byte, octets))
			if err := e.Submit(context.Background(), 0, b); !errors.Is(err, want) {
				t.Errorf("%d octets: %v", len(b.Data), err)
			}
		}
		if r, err := do(w.ctx, e, 0, func(b *queue.Batch) { b.Purge(c.id) }); err != nil || len(r) != 1 {
			t.Errorf("what comes then: %+v, %v", r, err)
		}
	})
}
