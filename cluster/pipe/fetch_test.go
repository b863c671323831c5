package pipe

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// Replicas implements Replicas: all nodes, as far as is known.
func (n *worldNode) Replicas(queue.ShardID) (nodes []uint16) {
	for _, other := range n.w.nodes {
		nodes = append(nodes, other.id)
	}
	return nodes
}

// damagedBodies are bodies that cannot be read back.
type damagedBodies struct{}

var errDamaged = errors.New("wrong checksum")

func (damagedBodies) ReadBody(uint64, uint32, uint32, []byte) ([]byte, error) { return nil, errDamaged }

// TestEnvelopeFromAnyReplica: a message that neither the leader nor this node's replica can read comes from another one. When none
// can read it, that is told when ctx has ended.
func TestEnvelopeFromAnyReplica(t *testing.T) {
	inBubble(t, worldOptions{nodes: 4, shards: 1, seed: 1, instant: true}, func(t *testing.T, w *world) {
		synctest.Wait()
		damage := func(nodes ...int) {
			for _, n := range nodes {
				w.nodes[n].hosts[0].o.Bodies = damagedBodies{}
			}
		}
		delete(w.nodes[3].hosts, 0) // it has no replica
		damage(0, 1)
		w.shards[0].elect(0)
		c := newClients(t, queue.MakeQueueID(0, 1))
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		c.declare(ctx, w.nodes[0].edge)
		c.publish(ctx, w.nodes[0].edge, 1, uint64(len(w.nodes)), 20<<10, 1) // most are of several pieces
		for i, n := range w.nodes {
			c.get(ctx, n.edge, queue.ConsumerID(i+1), 1)
		}
		if got := c.seenCount(); got != len(w.nodes) {
			t.Errorf("%d messages of %d came", got, len(w.nodes))
		}
		c.verdict()
		synctest.Wait()
		damage(2)
		d := broker.Delivery{Delivery: queue.Delivery{Queue: c.id, Body: queue.Body{First: queue.Ref{Index: 1, Size: 1}}}}
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := w.nodes[0].edge.Envelope(ctx, &d); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, errDamaged) {
			t.Errorf("a message that nobody can read: %v", err)
		}
	})
}
