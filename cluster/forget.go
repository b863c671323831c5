package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
)

// forgetter takes queues out of the catalog that have deleted themselves in their shard (auto-delete, expiry). What it has
// not done when this node stops, the shard's next leader does: see forgetMissing.
type forgetter struct {
	c    *Cluster
	wake chan struct{} // has room for one

	mu  sync.Mutex // guards ids
	ids map[queue.QueueID]bool
}

// forgetTimeout bounds a try to commit the removal; it is tried again.
const forgetTimeout = 10 * time.Second

// forgetPause is waited before that.
const forgetPause = time.Second

func newForgetter(c *Cluster) *forgetter {
	return &forgetter{c: c, wake: make(chan struct{}, 1), ids: map[queue.QueueID]bool{}}
}

// forget implements pipe.HostOptions.QueuesDeleted.
func (f *forgetter) forget(ids []queue.QueueID) {
	f.mu.Lock()
	for _, id := range ids {
		f.ids[id] = true
	}
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *forgetter) run(ctx context.Context) {
	for {
		select {
		case <-f.wake:
		case <-ctx.Done():
			return
		}
		f.mu.Lock()
		ids := f.ids
		f.ids = map[queue.QueueID]bool{}
		f.mu.Unlock()
		if len(ids) == 0 {
			continue
		}
		m := &raftv1.DeleteQueue{}
		for id := range ids {
			m.Ids = append(m.Ids, uint64(id))
		}
		trying, cancel := context.WithTimeout(ctx, forgetTimeout)
		_, err := f.c.Propose(trying, catalog.DeleteQueue(m))
		cancel()
		if err != nil && ctx.Err() == nil {
			f.c.log.Warn("deleted queues are still in the catalog; trying again", "queues", len(ids), "err", err)
			select {
			case <-time.After(forgetPause):
			case <-ctx.Done():
				return
			}
			again := make([]queue.QueueID, 0, len(ids))
			for id := range ids {
				again = append(again, id)
			}
			f.forget(again)
		}
	}
}

// forgetMissing takes queues out of the catalog that their shard does not have: a leader before this one deleted them and
// could not say so any more. A declared queue is in its shard before the catalog names it, so none is taken that is yet to
// come.
func (c *Cluster) forgetMissing(s *shard) {
	here := map[queue.QueueID]bool{}
	var missing []queue.QueueID
	var named []queue.QueueID
	c.catalog.read(func(state *catalog.State) {
		for q := range state.QueuesIn(s.id) {
			named = append(named, q.ID)
		}
	})
	for _, id := range s.host.Queues() { // after the catalog: what is named is in the machine
		here[id] = true
	}
	for _, id := range named {
		if !here[id] {
			missing = append(missing, id)
		}
	}
	if len(missing) > 0 {
		c.forgetter.forget(missing)
	}
}
