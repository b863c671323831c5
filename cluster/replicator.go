package cluster

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/warrenmq/warren/broker"
	nodev1 "github.com/warrenmq/warren/proto/node/v1"
	"github.com/warrenmq/warren/raftfsm"
	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"
)

var _ broker.Replicator = (*Cluster)(nil)

// Self implements broker.Replicator; the zero value before this node is registered.
func (c *Cluster) Self() broker.Self {
	if s := c.self.Load(); s != nil {
		return *s
	}
	return broker.Self{}
}

const (
	proposeRetryMin = 10 * time.Millisecond
	proposeRetryMax = 250 * time.Millisecond
)

// errNoAnswer tells of a change that is made, as the copy has it by a snapshot.
var errNoAnswer = unavailable("the change is made, but its answer is not known here")

// Propose implements broker.Replicator. A command that has a number keeps it: proposed again, it takes effect once.
func (c *Cluster) Propose(ctx context.Context, cmd *catalog.Command) (catalog.Reply, error) {
	cmd.TimeMillis = c.clocks.entryTime().UnixMilli()
	if cmd.Proposal == 0 {
		cmd.Proposal = rand.Uint64() | 1
	}
	data, err := catalog.Encode(cmd)
	if err != nil {
		return catalog.Reply{}, err
	}
	index, err := c.commit(ctx, data)
	if err != nil {
		return catalog.Reply{}, err
	}
	if err := c.catalog.waitFor(ctx, index); err != nil {
		return catalog.Reply{}, unavailable("the change is made, but this node is behind")
	}
	c.follower.isSettled(index)
	reply, ok := c.catalog.replyTo(index)
	switch {
	case !ok:
		return catalog.Reply{}, errNoAnswer
	case reply.Err != nil:
		return reply, reply.Err
	}
	return reply, nil
}

// commit has a command committed by whoever leads the catalog, and seen by every node that can be reached. It is tried until ctx
// ends; one that was committed before a leader was lost is known to the next by its number. No command at all has what was
// committed before seen by every node.
func (c *Cluster) commit(ctx context.Context, data []byte) (index uint64, err error) {
	pause := proposeRetryMin
	for {
		leader, _ := c.catalog.leader()
		switch leader {
		case "":
			err = errors.New("the catalog has no leader")
		case c.identity.UUID:
			index, err = c.commitHere(ctx, data)
		default:
			index, err = c.commitThere(ctx, leader, data)
		}
		if err == nil {
			return index, nil
		}
		select {
		case <-time.After(pause/2 + rand.N(pause/2)):
		case <-ctx.Done():
			c.log.Debug("a change of the catalog was not committed in time", "err", err)
			return 0, unavailable("the cluster has no majority, or is too busy")
		case <-c.ctx.Done():
			return 0, unavailable("this node stops")
		}
		pause = min(2*pause, proposeRetryMax)
	}
}

func (c *Cluster) commitHere(ctx context.Context, data []byte) (uint64, error) {
	if len(data) == 0 {
		return c.leases.settleAll(ctx)
	}
	index, err := c.catalog.commit(ctx, data)
	if err != nil {
		return 0, err
	}
	return index, c.leases.settle(ctx, index)
}

var errNotLeader = errors.New("the other node does not lead the catalog")

func (c *Cluster) commitThere(ctx context.Context, leader string, data []byte) (uint64, error) {
	control, err := c.network.Control(leader)
	if err != nil {
		return 0, err
	}
	response, err := control.Propose(ctx, &nodev1.ProposeRequest{Command: data})
	if err != nil {
		return 0, err
	}
	if response.NotLeader {
		return 0, errNotLeader
	}
	return response.Index, nil
}

// ReadCatalog implements broker.Replicator.
func (c *Cluster) ReadCatalog(f func(*catalog.State)) { c.catalog.read(f) }

// Fresh implements broker.Replicator.
func (c *Cluster) Fresh() error { return c.follower.fresh() }

// Settled implements broker.Replicator.
func (c *Cluster) Settled() bool { return c.follower.settledTo(c.catalog.appliedTo.Load()) }

// Settle implements broker.Replicator.
func (c *Cluster) Settle(ctx context.Context) error {
	for at := c.catalog.appliedTo.Load(); !c.follower.settledTo(at); {
		index, err := c.commit(ctx, nil)
		if err != nil {
			return err
		}
		c.follower.isSettled(index)
	}
	return nil
}

// Submit implements broker.Replicator.
func (c *Cluster) Submit(ctx context.Context, shard queue.ShardID, b *broker.Batch) error {
	return c.edge.Submit(ctx, shard, b)
}

// Subscribe implements broker.Replicator.
func (c *Cluster) Subscribe(shard queue.ShardID, id queue.ConsumerID, r broker.Receiver) {
	c.edge.Subscribe(shard, id, r)
}

// Unsubscribe implements broker.Replicator.
func (c *Cluster) Unsubscribe(shard queue.ShardID, id queue.ConsumerID) {
	c.edge.Unsubscribe(shard, id)
}

// Attended implements broker.Replicator.
func (c *Cluster) Attended(shard queue.ShardID) bool { return c.edge.Attended(shard) }

// NewID implements broker.Replicator.
func (c *Cluster) NewID() uint64 { return c.lastID.Add(1) }

// Envelope implements broker.Replicator.
func (c *Cluster) Envelope(ctx context.Context, d *broker.Delivery) ([]byte, error) {
	data, err := c.edge.Envelope(ctx, d)
	if err != nil && ctx.Err() != nil {
		return nil, raftfsm.Errorf(broker.Unavailable, "the message's shard cannot be reached")
	}
	return data, err
}

// Counts implements broker.Replicator.
func (c *Cluster) Counts(ctx context.Context, id queue.QueueID) (queue.Counts, bool, error) {
	counts, found, err := c.edge.Counts(ctx, id)
	if err != nil && ctx.Err() != nil {
		return counts, false, raftfsm.Errorf(broker.Unavailable, "the queue's shard cannot be reached")
	}
	return counts, found, err
}

// localPreference is how many more queues a shard that this node leads may have than the emptiest, in parts of that one's
// number, and still be preferred: a queue led where its clients are costs one hop less.
const localPreference = 2

// PickShard implements broker.Replicator: the shard with the fewest queues that has a leader, one led here before others.
func (c *Cluster) PickShard() queue.ShardID {
	self := c.Self().Node
	var here, any []queue.ShardID
	var fewestHere, fewest int
	pick := func(list []queue.ShardID, best *int, id queue.ShardID, n int) []queue.ShardID {
		if len(list) == 0 || n < *best {
			*best = n
			return append(list[:0], id)
		} else if n == *best {
			return append(list, id)
		}
		return list
	}
	count := 0
	c.catalog.read(func(s *catalog.State) {
		count = s.ShardCount()
		for id := range queue.ShardID(count) {
			node, ok := c.leaders.Leader(id)
			if !ok {
				continue
			}
			n := s.QueueCountIn(id)
			any = pick(any, &fewest, id, n)
			if node == self {
				here = pick(here, &fewestHere, id, n)
			}
		}
	})
	switch {
	case len(here) > 0 && fewestHere <= localPreference*fewest+1:
		return here[rand.N(len(here))]
	case len(any) > 0:
		return any[rand.N(len(any))]
	}
	return queue.ShardID(rand.N(max(1, count)))
}
