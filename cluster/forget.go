package cluster

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
)

// forgetter takes queues out of the catalog that have deleted themselves in their shard (auto-delete, expiry). What it has
// not done when this node stops, the shard's next leader does; and each leader looks for such queues now and then: see forgetMissing.
// It also looks for what the catalog has forgotten and the shards have not: see sweep.
type forgetter struct {
	c    *Cluster
	wake chan struct{} // has room for one

	mu  sync.Mutex // guards ids
	ids map[queue.QueueID]bool

	now     func() time.Time            // for sweep, as is what follows
	unnamed map[queue.QueueID]time.Time // seen without a name at every look since
}

// forgetTimeout bounds a try to commit the removal; it is tried again.
const forgetTimeout = 10 * time.Second

// forgetPause is waited before that.
const forgetPause = time.Second

func newForgetter(c *Cluster) *forgetter {
	return &forgetter{c: c, wake: make(chan struct{}, 1), ids: map[queue.QueueID]bool{}, now: time.Now}
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

// forgetMissing takes queues out of the catalog that their shard does not have: who deleted them there, a client's node or a leader before
// this one, could not say so any more. A declared queue is in its shard before the catalog names it. So what had a name, and is not in a
// state that holds all that was committed after that was seen, has been deleted; a leader that was deposed, and does not know of it, finds
// out that it cannot know. None is taken that is yet to come.
func (c *Cluster) forgetMissing(ctx context.Context, s *shard) error {
	var named []queue.QueueID
	c.catalog.read(func(state *catalog.State) {
		for q := range state.QueuesIn(s.id) {
			named = append(named, q.ID)
		}
	})
	if len(missing(s, named)) == 0 { // as it mostly is
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, forgetTimeout)
	defer cancel()
	if err := s.host.Current(ctx); err != nil {
		return err
	}
	if ids := missing(s, named); len(ids) > 0 {
		c.log.Info("queues that are gone from their shard lose their names", "shard", s.id, "queues", len(ids))
		c.forgetter.forget(ids)
	}
	return nil
}

// missing are those of some queues that a shard does not have, as far as is known here.
func missing(s *shard, ids []queue.QueueID) []queue.QueueID {
	here := map[queue.QueueID]bool{}
	for _, id := range s.host.Queues() {
		here[id] = true
	}
	return slices.DeleteFunc(slices.Clone(ids), func(id queue.QueueID) bool { return here[id] })
}

// A queue that its shard has and the catalog does not name is left over: a restart of the whole cluster has ended it, as it is not
// durable; or its declare was cut off. Nobody can reach it any more. The shard's leader looks for such queues every orphanPeriod, and
// deletes one that it has seen without a name for orphanPause.
//
// What is being declared has no name yet either. It is not deleted, since a declare that is answered has taken broker.DeclareTime at
// most, by the clock of its node and from before its queue came into the shard to after the catalog had its name (broker.createQueue):
//
//   - The first look noted the time after it had found the queue in the shard. So the declare ends within broker.DeclareTime from
//     then on, or fails.
//   - The second look begins orphanPause after that. Then first a change of its own goes through the catalog's log, which comes behind
//     all that was under way there, and then a copy that is known to be current has no name for the queue.
//
// orphanPause is longer than broker.DeclareTime by more than two clocks' speeds differ. The name of a declare that has failed can still
// come, from a request that was held up on its way: it names a queue that is gone, as after a deletion. The queues of a restore have
// no names for as long as it takes: their settings say so.
//
// No message that is confirmed is deleted because the catalog does not name its queue (docs/adr/0002), unless it was declared not to
// survive: a durable queue goes if it is empty and unused.
const (
	orphanPeriod = time.Minute
	orphanPause  = broker.DeclareTime + broker.DeclareTime/6
	// orphanBatch is how many are deleted by one entry.
	orphanBatch = 1000
)

// sweep looks for queues that are left over until ctx ends.
func (f *forgetter) sweep(ctx context.Context) {
	ticker := time.NewTicker(orphanPeriod)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		if err := f.look(ctx); err != nil && ctx.Err() == nil {
			f.c.log.Info("queues without a name, and names without a queue, are looked for again in a while", "err", err)
		}
	}
}

// look is one look at the shards that this node leads.
func (f *forgetter) look(ctx context.Context) error {
	began := f.now()
	unnamed := map[queue.QueueID]time.Time{}
	due := map[*shard][]queue.QueueID{}
	var errs []error
	for _, s := range f.c.shards() {
		if _, leads := s.leading(); !leads {
			continue
		}
		errs = append(errs, f.c.forgetMissing(ctx, s))
		for _, id := range f.c.unnamedIn(s) {
			since, again := f.unnamed[id]
			if !again {
				since = f.now()
			}
			unnamed[id] = since
			if began.Sub(since) >= orphanPause {
				due[s] = append(due[s], id)
			}
		}
	}
	f.unnamed = unnamed
	if len(due) == 0 {
		return errors.Join(errs...)
	}
	trying, cancel := context.WithTimeout(ctx, forgetTimeout)
	defer cancel()
	if _, err := f.c.Propose(trying, catalog.DeleteQueue(&raftv1.DeleteQueue{})); err != nil {
		return errors.Join(append(errs, err)...)
	}
	for s, ids := range due {
		f.c.deleteUnnamed(s, ids)
	}
	return errors.Join(errs...)
}

// unnamedIn lists the queues of a shard that are left over, or being declared; none while it is not known which have names.
func (c *Cluster) unnamedIn(s *shard) []queue.QueueID {
	return c.withoutName(s, s.host.Queues()) // listed before the catalog is read
}

// withoutName returns those of a shard's queues that have no name and may be deleted for it.
func (c *Cluster) withoutName(s *shard, ids []queue.QueueID) (unnamed []queue.QueueID) {
	if c.follower.fresh() != nil { // the copy, from here on, holds what had been answered before
		return nil
	}
	c.catalog.read(func(state *catalog.State) { unnamed = state.Unnamed(ids) })
	return slices.DeleteFunc(unnamed, func(id queue.QueueID) bool {
		settings := s.host.Settings(id)
		n, there := s.host.PeekCounts(id)
		return settings == nil || !there || settings.Restoring || settings.Durable && n != (queue.Counts{})
	})
}

// deleteUnnamed deletes those of a shard's queues that still have no name.
func (c *Cluster) deleteUnnamed(s *shard, ids []queue.QueueID) {
	ids = c.withoutName(s, ids)
	for part := range slices.Chunk(ids, orphanBatch) {
		var b queue.Batch
		for _, id := range part {
			if settings := s.host.Settings(id); settings != nil {
				b.Delete(id, settings.Durable, settings.Durable) // if unused, if empty
			}
		}
		if err := s.host.Command(&b); err != nil {
			return // the next leader looks
		}
	}
	if len(ids) > 0 {
		c.log.Info("queues without a name are deleted, the durable ones if they are empty", "shard", s.id, "queues", len(ids))
	}
}
