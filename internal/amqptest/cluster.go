// Package amqptest runs a broker, and the AMQP front door, in memory: a Cluster is a broker.Replicator with the real
// catalog and the real machine for each shard but no Raft, a Listener accepts connections that are pipes, and a Client
// sends any bytes and takes frames. Everything works inside a bubble of testing/synctest. It is for tests alone.
package amqptest

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warrenmq/warren/broker"
	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm"
	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// shards is how many replicated shards a Cluster has.
const shards = 4

// Cluster is a Replicator in memory: the real catalog and the real machine for each shard, applied at once unless a shard
// is held, as one without leader is.
type Cluster struct {
	Broker *broker.Broker

	t        testing.TB
	self     broker.Self
	observed bool

	panicOnSubmit, panicOnEnvelope atomic.Bool
	refuse                         atomic.Bool
	unattended                     atomic.Bool
	delay                          atomic.Int64
	largest                        atomic.Int64

	mu      sync.Mutex // guards what follows
	catalog *catalog.State
	index   uint64
	lastID  uint64
	cutOff  bool
	pipes   map[queue.ShardID]*pipe
	next    queue.ShardID // that PickShard returned last
	failing error         // of Envelope
	slow    time.Duration // that Envelope takes
	async   bool
	work    sync.WaitGroup
}

// pipe is the way to one shard.
type pipe struct {
	cluster *Cluster
	jobs    chan job // nil unless the cluster is async

	mu        sync.Mutex // guards what follows
	machine   *shard
	receivers map[queue.ConsumerID]broker.Receiver
	held      bool
	waiting   []*broker.Batch
	full      chan struct{} // Submit blocks until it is closed
}

// job is a batch on its way through an async shard.
type job struct {
	batch *broker.Batch
	due   time.Time // when it is applied
}

// NewCluster makes a cluster of one node and its broker, with the user guest and the vhost "/".
func NewCluster(t testing.TB, o broker.Options) *Cluster {
	t.Helper()
	c := &Cluster{t: t, Broker: broker.New(o), catalog: catalog.New(), pipes: map[queue.ShardID]*pipe{}}
	c.MustPropose(catalog.CreateCluster(&raftv1.CreateCluster{ClusterId: "test", Shards: shards, Replication: 1, GuestPasswordHash: Hash("guest")}))
	reply := c.MustPropose(catalog.RegisterNode(&raftv1.RegisterNode{Uuid: "u", Name: "n", MachineVersion: 1}))
	session := queue.MakeSessionID(reply.Node, reply.Run)
	c.self = broker.Self{Node: reply.Node, Name: "n", Session: session, Local: queue.LocalShard | queue.ShardID(reply.Node)}
	c.Broker.CatalogRestored(c.catalog)
	c.observed = true
	c.Broker.Start(c)
	return c
}

// NewAsyncCluster is NewCluster with a goroutine for each shard; Stop ends them.
func NewAsyncCluster(t testing.TB, o broker.Options) *Cluster {
	t.Helper()
	c := NewCluster(t, o)
	c.async = true
	return c
}

// Stop ends the goroutines of the shards.
func (c *Cluster) Stop() {
	c.mu.Lock()
	for _, p := range c.pipes {
		if p.jobs != nil {
			close(p.jobs)
		}
	}
	c.mu.Unlock()
	c.work.Wait()
}

// Hash is RabbitMQ's form of a password, which takes no time to check.
func Hash(password string) string {
	salt := []byte("salt")
	sum := sha256.Sum256(append(salt[:4:4], password...))
	return base64.StdEncoding.EncodeToString(append(salt, sum[:]...))
}

// MustPropose changes the catalog.
func (c *Cluster) MustPropose(cmd *catalog.Command) catalog.Reply {
	c.t.Helper()
	reply, err := c.Propose(context.Background(), cmd)
	if err != nil {
		c.t.Fatal(err)
	}
	return reply
}

// Self implements broker.Replicator, as do the methods below down to Counts.
func (c *Cluster) Self() broker.Self { return c.self }

// Propose applies a change at once.
func (c *Cluster) Propose(ctx context.Context, cmd *catalog.Command) (catalog.Reply, error) {
	if err := c.Fresh(); err != nil {
		return catalog.Reply{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	data, err := catalog.Encode(cmd)
	if err != nil {
		return catalog.Reply{}, err
	}
	c.index++
	reply, changes, err := c.catalog.Apply(c.index, data)
	if err != nil {
		return catalog.Reply{}, err
	}
	if c.observed {
		c.Broker.CatalogChanged(c.catalog, changes)
	}
	if reply.Err != nil {
		return reply, reply.Err
	}
	return reply, nil
}

// ReadCatalog calls f with the catalog.
func (c *Cluster) ReadCatalog(f func(*catalog.State)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(c.catalog)
}

// Fresh fails while the node is cut off.
func (c *Cluster) Fresh() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cutOff {
		return raftfsm.Errorf(broker.Unavailable, "cut off")
	}
	return nil
}

// Settled is true: there is one copy of the catalog.
func (c *Cluster) Settled() bool { return true }

// Settle has nothing to wait for.
func (c *Cluster) Settle(context.Context) error { return nil }

// SetCutOff cuts the node off from its cluster, or ends that.
func (c *Cluster) SetCutOff(cut bool) {
	c.mu.Lock()
	c.cutOff = cut
	c.mu.Unlock()
}

func (c *Cluster) pipe(id queue.ShardID) *pipe {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.pipes[id]
	if p == nil {
		p = &pipe{cluster: c, machine: newShard(c.t, c.self.Session), receivers: map[queue.ConsumerID]broker.Receiver{}}
		if c.async {
			p.jobs = make(chan job, 100)
			c.work.Go(p.run)
		}
		c.pipes[id] = p
	}
	return p
}

// Submit applies a batch, now or (async, held) later.
func (c *Cluster) Submit(ctx context.Context, id queue.ShardID, b *broker.Batch) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if c.panicOnSubmit.Swap(false) {
		panic("Submit was told to panic")
	}
	if c.refuse.Swap(false) {
		return broker.ErrLargeBatch
	}
	for size, was := int64(len(b.Data)), c.largest.Load(); size > was && !c.largest.CompareAndSwap(was, size); was = c.largest.Load() {
	}
	p := c.pipe(id)
	if err := p.waitForRoom(ctx); err != nil {
		return err
	}
	if p.jobs != nil {
		p.jobs <- job{b, time.Now().Add(time.Duration(c.delay.Load()))}
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held {
		p.waiting = append(p.waiting, b)
		return nil
	}
	p.apply(b)
	return nil
}

// Largest is the octets of the largest batch that was submitted.
func (c *Cluster) Largest() int { return int(c.largest.Load()) }

func (p *pipe) waitForRoom(ctx context.Context) error {
	p.mu.Lock()
	full := p.full
	p.mu.Unlock()
	if full == nil {
		return nil
	}
	select {
	case <-full:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run applies batches on a goroutine of its own.
func (p *pipe) run() {
	for j := range p.jobs {
		time.Sleep(time.Until(j.due))
		p.mu.Lock()
		p.apply(j.batch)
		p.mu.Unlock()
	}
}

// apply runs a batch and its effects, in the order in which cluster/pipe hands them on. The pipe is locked.
func (p *pipe) apply(b *broker.Batch) {
	p.machine.apply(&b.Batch)
	p.machine.deliveries(func(id queue.ConsumerID, ds []broker.Delivery) {
		if r := p.receivers[id]; r != nil {
			r.Deliver(ds)
		}
	})
	b.Done(b, p.machine.results())
	for _, cancel := range p.machine.effects.Cancels {
		if r := p.receivers[cancel.Consumer]; r != nil {
			r.Cancelled()
		}
	}
	for _, id := range p.machine.effects.Deleted {
		p.cluster.MustPropose(catalog.DeleteQueue(&raftv1.DeleteQueue{Ids: []uint64{uint64(id)}}))
	}
}

// Subscribe gives the deliveries of a consumer to r.
func (c *Cluster) Subscribe(s queue.ShardID, id queue.ConsumerID, r broker.Receiver) {
	p := c.pipe(s)
	p.mu.Lock()
	p.receivers[id] = r
	p.mu.Unlock()
}

// Unsubscribe ends that.
func (c *Cluster) Unsubscribe(s queue.ShardID, id queue.ConsumerID) {
	p := c.pipe(s)
	p.mu.Lock()
	delete(p.receivers, id)
	p.mu.Unlock()
}

// Attended is true unless Unattended was set.
func (c *Cluster) Attended(queue.ShardID) bool { return !c.unattended.Load() }

// Unattended has the node not know, or know again, whether what has come for its consumers is theirs.
func (c *Cluster) Unattended(is bool) { c.unattended.Store(is) }

// NewID counts.
func (c *Cluster) NewID() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastID++
	return c.lastID
}

// PickShard takes the shards in turn.
func (c *Cluster) PickShard() queue.ShardID {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next = (c.next + 1) % shards
	return c.next
}

// Envelope reads a message from the log in memory.
func (c *Cluster) Envelope(ctx context.Context, d *broker.Delivery) ([]byte, error) {
	if c.panicOnEnvelope.Swap(false) {
		panic("Envelope was told to panic")
	}
	c.mu.Lock()
	err, slow := c.failing, c.slow
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if slow > 0 {
		select {
		case <-time.After(slow):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	p := c.pipe(d.Queue.Shard())
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.machine.body(&d.Body), nil
}

// Counts asks the machine.
func (c *Cluster) Counts(ctx context.Context, id queue.QueueID) (queue.Counts, bool, error) {
	p := c.pipe(id.Shard())
	p.mu.Lock()
	defer p.mu.Unlock()
	counts, ok := p.machine.state.Counts(id)
	return counts, ok, nil
}
