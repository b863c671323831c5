package amqptest

import (
	"context"
	"sync"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// BatchCluster is a Cluster that notes the batches that have a kilobyte or more, which are those of messages, and lets none
// through before May is closed.
type BatchCluster struct {
	*Cluster
	May chan struct{}

	mu       sync.Mutex // guards what follows
	commands []uint32
	bytes    []int
}

// NewBatchCluster makes a cluster that notes batches.
func NewBatchCluster(c *Cluster) *BatchCluster {
	b := &BatchCluster{Cluster: c, May: make(chan struct{})}
	c.Broker.Start(b)
	return b
}

// Submit notes a batch.
func (c *BatchCluster) Submit(ctx context.Context, shard queue.ShardID, b *broker.Batch) error {
	if len(b.Data) >= 1024 {
		c.mu.Lock()
		c.commands, c.bytes = append(c.commands, b.Commands), append(c.bytes, len(b.Data))
		c.mu.Unlock()
		<-c.May
	}
	return c.Cluster.Submit(ctx, shard, b)
}

// Batches returns how many commands and bytes each batch had.
func (c *BatchCluster) Batches() (commands []uint32, bytes []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.commands, c.bytes
}
