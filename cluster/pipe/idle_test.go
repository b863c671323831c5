package pipe

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/warrenmq/warren/raftfsm/queue"
)

// TestIdleEdgeIsNotAway: what a transaction has sent ahead is there when its client commits much later, though the leader is another
// since, or the link was broken, and the edge has had nothing to say.
func TestIdleEdgeIsNotAway(t *testing.T) {
	for name, happens := range map[string]func(w *world){
		"another leader":   func(w *world) { w.shards[0].elect(2) },
		"the same, anew":   func(w *world) { w.shards[0].elect(1) },
		"itself":           func(w *world) { w.shards[0].elect(0) },
		"the link is lost": func(w *world) { w.nodes[0].cut(func(*worldLink) bool { return true }) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, worldOptions{nodes: 3, shards: 1, instant: true}, func(t *testing.T, w *world) {
				w.shards[0].elect(1)
				c := newClients(t, queue.MakeQueueID(0, 1))
				e := w.nodes[0].edge
				c.declare(t.Context(), e)
				if _, err := do(t.Context(), e, 0, func(b *queue.Batch) { b.Chunk(7, []byte("a large message")) }); err != nil {
					t.Fatal(err)
				}
				happens(w)
				time.Sleep(2 * time.Minute) // the client takes its time
				results, err := do(t.Context(), e, 0, func(b *queue.Batch) {
					b.EndEnqueue(b.BeginEnqueue([]queue.QueueID{c.id}, &queue.EnqueueOptions{}))
					b.EndEnqueue(b.BeginEnqueue([]queue.QueueID{c.id}, &queue.EnqueueOptions{Upload: 7}))
				})
				if err != nil || len(results) != 0 {
					t.Errorf("the commit is answered with %+v, %v", results, err)
				}
				await(t, time.Second, "the replica of the edge's node has both messages", func() bool {
					n, _ := w.nodes[0].hosts[0].PeekCounts(c.id)
					return n.Ready == 2
				})
			})
		})
	}
}

// countedLeaders counts how often somebody asks who leads.
type countedLeaders struct {
	Leaders
	asked atomic.Int64
}

func (l *countedLeaders) Leader(shard queue.ShardID) (uint16, bool) {
	l.asked.Add(1)
	return l.Leaders.Leader(shard)
}

// TestIdleEdgeWithoutLeader: an edge that has nothing to say looks for the leader of a shard no more often than RetryMax allows, and not at all
// for one that it never talked to.
func TestIdleEdgeWithoutLeader(t *testing.T) {
	inBubble(t, worldOptions{nodes: 2, shards: 2, instant: true}, func(t *testing.T, w *world) {
		s := w.shards[0]
		s.elect(1)
		n := w.nodes[0]
		leaders := &countedLeaders{Leaders: n}
		n.edge.o.Leaders = leaders
		c := newClients(t, queue.MakeQueueID(0, 1))
		c.declare(t.Context(), n.edge)
		n.edge.pipe(1)
		s.mu.Lock()
		s.views[0] = -1
		s.mu.Unlock()
		n.cut(func(*worldLink) bool { return true })
		n.edge.LeaderChanged(1)
		time.Sleep(time.Minute)
		before := leaders.asked.Load()
		time.Sleep(time.Minute)
		if asked := leaders.asked.Load() - before; asked == 0 || asked > int64(time.Minute/(n.edge.o.RetryMax/2)) {
			t.Errorf("asked %d times in a minute", asked)
		}
		s.elect(1)
		await(t, time.Second, "the edge is there", func() bool {
			h := w.nodes[1].hosts[0]
			h.mu.Lock()
			defer h.mu.Unlock()
			return h.attached[n.edge.o.Session] != nil
		})
		before = leaders.asked.Load()
		time.Sleep(time.Minute)
		if asked := leaders.asked.Load() - before; asked != 0 {
			t.Errorf("asked %d times in a minute with a leader", asked)
		}
	})
}
