package pipe

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/warrenmq/warren/raftfsm/queue"
)

// TestSchedules lets leaders change and links break at random while clients publish, consume and get: nothing may be
// lost, come twice or out of order, and all replicas must end alike. A failure names its seed.
func TestSchedules(t *testing.T) {
	seeds := 200
	if testing.Short() {
		seeds = 20
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			o := worldOptions{nodes: 3, shards: 2, seed: uint64(seed)}
			if seed%2 == 1 { // narrow: everything waits for something
				o.edge.WindowBatches, o.edge.WindowBytes, o.edge.InlineWindow = 8, 4<<10, 2<<10
				o.host.EntryBytes, o.host.InFlight = 2<<10, 2
			}
			inBubble(t, o, func(t *testing.T, w *world) { schedule(t, w, uint64(seed)) })
		})
	}
}

func schedule(t *testing.T, w *world, seed uint64) {
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	for _, s := range w.shards {
		s.elect(w.n(len(w.nodes)))
	}
	began := time.Now()
	const messages = 300
	size := 600
	if seed%3 == 0 {
		size = 20 << 10 // some in several pieces
	}
	streaming := newClients(t, queue.MakeQueueID(0, 1))
	polled := newClients(t, queue.MakeQueueID(1, 1))
	defer streaming.verdict()
	defer polled.verdict()
	streaming.declare(ctx, w.nodes[0].edge)
	polled.declare(ctx, w.nodes[1].edge)

	faults := make(chan struct{})
	var trouble sync.WaitGroup
	trouble.Go(func() { w.trouble(faults) })

	var publishers, getter sync.WaitGroup
	for i, n := range w.nodes {
		publishers.Go(func() { streaming.publish(ctx, n.edge, uint32(i+1), messages, size, seed) })
	}
	publishers.Go(func() { polled.publish(ctx, w.nodes[0].edge, 9, 40, size, seed) })
	getter.Go(func() { polled.get(ctx, w.nodes[2].edge, 500, 40) })
	consumers := []*consumer{
		streaming.consume(ctx, w.nodes[0].edge, 101, 10),
		streaming.consume(ctx, w.nodes[1].edge, 102, 50),
	}
	publishers.Wait()
	getter.Wait()
	await(t, time.Minute, "all messages delivered", func() bool { return streaming.seenCount() == messages*len(w.nodes) })
	close(faults)
	trouble.Wait()
	t.Logf("%d and %d leaders in %v", w.shards[0].term, w.shards[1].term, time.Since(began))
	for _, s := range w.shards {
		w.settled(t, s)
	}
	cancel()
	streaming.wg.Wait()
	for _, k := range consumers {
		if k.cancelled {
			t.Errorf("consumer %d was cancelled", k.id)
		}
	}
}

// trouble changes leaders and cuts links until it is told to stop.
func (w *world) trouble(stop chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(w.n(int(30 * time.Millisecond)))):
		}
		switch w.n(4) {
		case 0, 1:
			w.shards[w.n(len(w.shards))].elect(w.n(len(w.nodes)))
		case 2:
			s := w.shards[w.n(len(w.shards))] // twice at once
			s.elect(w.n(len(w.nodes)))
			s.elect(w.n(len(w.nodes)))
		case 3:
			w.nodes[w.n(len(w.nodes))].cut(func(*worldLink) bool { return w.n(2) == 0 })
		}
	}
}

// settled waits until all is acknowledged and applied everywhere, and compares the replicas.
func (w *world) settled(t *testing.T, s *worldShard) {
	t.Helper()
	await(t, time.Minute, "everything settled", func() bool {
		for _, n := range w.nodes {
			c, ok := n.hosts[s.id].PeekCounts(queue.MakeQueueID(s.id, 1))
			if !ok || c.Ready != 0 || c.Unsettled != 0 {
				return false
			}
		}
		return true
	})
	await(t, time.Minute, "replicas at the same entry", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, a := range s.applied {
			if a != uint64(len(s.log)) {
				return false
			}
		}
		return len(s.proposed) == 0
	})
	first := stateHash(w.nodes[0].hosts[s.id])
	for _, n := range w.nodes[1:] {
		if h := stateHash(n.hosts[s.id]); h != first {
			t.Errorf("shard %d: node %d's state differs", s.id, n.id)
		}
	}
}

func stateHash(h *Host) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state.Hash()
}
