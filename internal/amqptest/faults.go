package amqptest

import (
	"time"

	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// What a test does to a cluster behind the broker's back.

// PickNext makes s the shard that PickShard returns next.
func (c *Cluster) PickNext(s queue.ShardID) {
	c.mu.Lock()
	c.next = s - 1
	c.mu.Unlock()
}

// Hold makes a shard keep what comes, as if it had no leader.
func (c *Cluster) Hold(id queue.ShardID) {
	p := c.pipe(id)
	p.mu.Lock()
	p.held = true
	p.mu.Unlock()
}

// Release applies what a held shard has kept.
func (c *Cluster) Release(id queue.ShardID) {
	p := c.pipe(id)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = false
	for _, b := range p.waiting {
		p.apply(b)
	}
	p.waiting = nil
}

// Block makes Submit to a shard block, as a full window does, until unblock is called.
func (c *Cluster) Block(id queue.ShardID) (unblock func()) {
	full := make(chan struct{})
	p := c.pipe(id)
	p.mu.Lock()
	p.full = full
	p.mu.Unlock()
	return func() { close(full) }
}

// SetFailing makes Envelope fail; nil ends it.
func (c *Cluster) SetFailing(err error) {
	c.mu.Lock()
	c.failing = err
	c.mu.Unlock()
}

// SetSlow makes Envelope take so long.
func (c *Cluster) SetSlow(d time.Duration) {
	c.mu.Lock()
	c.slow = d
	c.mu.Unlock()
}

// SetDelay makes each batch of an async cluster take so long on its way to its shard; others may be on their way meanwhile.
func (c *Cluster) SetDelay(d time.Duration) { c.delay.Store(int64(d)) }

// PanicOnSubmit makes the next Submit panic.
func (c *Cluster) PanicOnSubmit() { c.panicOnSubmit.Store(true) }

// RefuseSubmit makes the next Submit refuse its batch, as one that no log can take.
func (c *Cluster) RefuseSubmit() { c.refuse.Store(true) }

// PanicOnEnvelope makes the next Envelope panic.
func (c *Cluster) PanicOnEnvelope() { c.panicOnEnvelope.Store(true) }

// Find returns a queue of the default vhost, nil when there is none.
func (c *Cluster) Find(name string) (q *catalog.Queue) {
	c.ReadCatalog(func(s *catalog.State) { q = s.VHost("/").Queue(name) })
	return q
}

// Holds returns what a queue holds.
func (c *Cluster) Holds(id queue.QueueID) queue.Counts {
	p := c.pipe(id.Shard())
	p.mu.Lock()
	defer p.mu.Unlock()
	n, _ := p.machine.state.Counts(id)
	return n
}

// Refuse makes a queue refuse what is new.
func (c *Cluster) Refuse(id queue.QueueID) {
	p := c.pipe(id.Shard())
	p.mu.Lock()
	defer p.mu.Unlock()
	p.machine.refuse(id)
}

// Lose deletes a queue in its shard and nowhere else.
func (c *Cluster) Lose(id queue.QueueID) {
	p := c.pipe(id.Shard())
	p.mu.Lock()
	defer p.mu.Unlock()
	p.machine.lose(id)
}
