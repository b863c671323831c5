package broker

import (
	"context"
	"sync"
	"testing"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// cluster is a Replicator in memory: the real catalog and the real machine for each shard, applied at once unless a shard
// is held, as one without leader is.
type cluster struct {
	t        testing.TB
	broker   *Broker
	self     Self
	observed bool

	mu      sync.Mutex
	catalog *catalog.State
	index   uint64
	lastID  uint64
	cutOff  bool
	shards  map[queue.ShardID]*pipe
	next    queue.ShardID // that PickShard returns
	failing error         // of Envelope
	async   bool          // each shard works on a goroutine of its own
	work    sync.WaitGroup
}

// pipe is the way to one shard.
type pipe struct {
	cluster   *cluster
	mu        sync.Mutex
	machine   *shard
	receivers map[queue.ConsumerID]Receiver
	held      bool
	waiting   []*Batch
	batches   int
	jobs      chan *Batch
	full      chan struct{} // Submit blocks until it is closed
}

func newCluster(t testing.TB, o Options) *cluster {
	c := &cluster{t: t, broker: New(o), catalog: catalog.New(), shards: map[queue.ShardID]*pipe{}}
	c.mustPropose(catalog.CreateCluster(&raftv1.CreateCluster{ClusterId: "test", Shards: 4, Replication: 1, GuestPasswordHash: guestHash(t)}))
	reply := c.mustPropose(catalog.RegisterNode(&raftv1.RegisterNode{Uuid: "u", Name: "n", MachineVersion: 1}))
	session := queue.MakeSessionID(reply.Node, reply.Run)
	c.self = Self{Node: reply.Node, Name: "n", Session: session, Local: queue.LocalShard | queue.ShardID(reply.Node)}
	c.broker.CatalogRestored(c.catalog)
	c.observed = true
	c.broker.Start(c)
	return c
}

func (c *cluster) mustPropose(cmd *catalog.Command) catalog.Reply {
	reply, err := c.Propose(context.Background(), cmd)
	if err != nil {
		c.t.Fatal(err)
	}
	return reply
}

func (c *cluster) Self() Self { return c.self }

func (c *cluster) Propose(ctx context.Context, cmd *catalog.Command) (catalog.Reply, error) {
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
		c.broker.CatalogChanged(c.catalog, changes)
	}
	if reply.Err != nil {
		return reply, reply.Err
	}
	return reply, nil
}

func (c *cluster) ReadCatalog(f func(*catalog.State)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(c.catalog)
}

func (c *cluster) Fresh() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cutOff {
		return errorf(Unavailable, "cut off")
	}
	return nil
}

func (c *cluster) setCutOff(cut bool) {
	c.mu.Lock()
	c.cutOff = cut
	c.mu.Unlock()
}

func (c *cluster) pipe(id queue.ShardID) *pipe {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.shards[id]
	if p == nil {
		p = &pipe{cluster: c, machine: newShard(c.t, c.self.Session), receivers: map[queue.ConsumerID]Receiver{}}
		if c.async {
			p.jobs = make(chan *Batch, 100)
			c.work.Go(p.run)
		}
		c.shards[id] = p
	}
	return p
}

func (c *cluster) Submit(ctx context.Context, id queue.ShardID, b *Batch) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	p := c.pipe(id)
	if err := p.waitForRoom(ctx); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.batches++
	if p.jobs != nil {
		p.mu.Unlock()
		defer p.mu.Lock()
		p.jobs <- b
		return nil
	}
	if p.held {
		p.waiting = append(p.waiting, b)
		return nil
	}
	p.apply(b)
	return nil
}

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
	for b := range p.jobs {
		p.mu.Lock()
		p.apply(b)
		p.mu.Unlock()
	}
}

// stop ends the goroutines of the shards.
func (c *cluster) stop() {
	c.mu.Lock()
	for _, p := range c.shards {
		close(p.jobs)
	}
	c.mu.Unlock()
	c.work.Wait()
}

func (c *cluster) setFailing(err error) {
	c.mu.Lock()
	c.failing = err
	c.mu.Unlock()
}

// apply runs a batch and its effects. The pipe is locked.
func (p *pipe) apply(b *Batch) {
	p.machine.apply(&b.Batch)
	b.Done(b, p.machine.results())
	p.machine.deliveries(func(id queue.ConsumerID, ds []Delivery) {
		if r := p.receivers[id]; r != nil {
			r.Deliver(ds)
		}
	})
	for _, cancel := range p.machine.effects.Cancels {
		if r := p.receivers[cancel.Consumer]; r != nil {
			r.Cancelled()
		}
	}
	for _, id := range p.machine.effects.Deleted {
		p.cluster.mustPropose(catalog.DeleteQueue(&raftv1.DeleteQueue{Ids: []uint64{uint64(id)}}))
	}
}

// hold makes a shard keep what comes, as if it had no leader.
func (c *cluster) hold(id queue.ShardID) {
	p := c.pipe(id)
	p.mu.Lock()
	p.held = true
	p.mu.Unlock()
}

// letGo applies what a held shard has kept.
func (c *cluster) letGo(id queue.ShardID) {
	p := c.pipe(id)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = false
	for _, b := range p.waiting {
		p.apply(b)
	}
	p.waiting = nil
}

func (c *cluster) Subscribe(s queue.ShardID, id queue.ConsumerID, r Receiver) {
	p := c.pipe(s)
	p.mu.Lock()
	p.receivers[id] = r
	p.mu.Unlock()
}

func (c *cluster) Unsubscribe(s queue.ShardID, id queue.ConsumerID) {
	p := c.pipe(s)
	p.mu.Lock()
	delete(p.receivers, id)
	p.mu.Unlock()
}

func (c *cluster) NewID() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastID++
	return c.lastID
}

func (c *cluster) PickShard() queue.ShardID {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next = (c.next + 1) % 4
	return c.next
}

func (c *cluster) Envelope(ctx context.Context, d *Delivery) ([]byte, error) {
	c.mu.Lock()
	err := c.failing
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	p := c.pipe(d.Queue.Shard())
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.machine.body(&d.Body), nil
}

func (c *cluster) Counts(ctx context.Context, id queue.QueueID) (queue.Counts, bool, error) {
	p := c.pipe(id.Shard())
	p.mu.Lock()
	defer p.mu.Unlock()
	counts, ok := p.machine.state.Counts(id)
	return counts, ok, nil
}

// find returns a queue of the default vhost.
func (c *cluster) find(name string) (q *catalog.Queue) {
	c.ReadCatalog(func(s *catalog.State) { q = s.VHost("/").Queue(name) })
	return q
}

// door is a front door that remembers what it is told.
type door struct {
	t      testing.TB
	conn   *Conn
	wakes  chan struct{}
	mu     sync.Mutex
	events []string
	frames []string
}

func (d *door) Wake() {
	select {
	case d.wakes <- struct{}{}:
	default:
	}
}

func (d *door) event(text string) {
	d.mu.Lock()
	d.events = append(d.events, text)
	d.mu.Unlock()
}

func (d *door) Blocked(reason string) { d.event("blocked " + reason) }
func (d *door) Unblocked()            { d.event("unblocked") }
func (d *door) Closed(err *Error)     { d.event("closed " + err.Text) }
