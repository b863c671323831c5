package amqptest

import (
	"bytes"
	"context"
	"encoding/binary"
	"sync"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// FreeCluster is a Cluster whose shards cost nothing from Free on, for benchmarks: a publish is answered at once and
// comes back as a delivery of the same bytes to the one consumer there is. What is published waits while as much is out.
type FreeCluster struct {
	*Cluster
	// MaxOut is how many deliveries may be out; 0: any number.
	MaxOut int

	mu         sync.Mutex // guards what follows
	room       sync.Cond  // told when deliveries are settled
	free       bool
	receiver   broker.Receiver
	consumer   queue.ConsumerID
	queue      queue.QueueID
	lastID     uint64
	out        int
	deliveries []broker.Delivery
	envelope   []byte
	ranges     int
}

// NewFreeCluster makes a cluster that is as others until Free.
func NewFreeCluster(c *Cluster) *FreeCluster {
	f := &FreeCluster{Cluster: c}
	f.room.L = &f.mu
	c.Broker.Start(f)
	return f
}

// Free makes it cost nothing; the consumer that was subscribed last gets everything, as messages of that queue.
func (c *FreeCluster) Free(queue string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = c.Find(queue).ID
	c.free = true
}

// Ranges is how many ranges of deliveries have been settled.
func (c *FreeCluster) Ranges() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ranges
}

// Submit answers at once.
func (c *FreeCluster) Submit(ctx context.Context, shard queue.ShardID, b *broker.Batch) error {
	c.mu.Lock()
	if !c.free {
		c.mu.Unlock()
		return c.Cluster.Submit(ctx, shard, b)
	}
	defer c.mu.Unlock()
	c.deliveries = c.deliveries[:0]
	data := b.Data
	for range b.Commands {
		kind, size := queue.Kind(data[0]), int(binary.LittleEndian.Uint32(data[4:]))
		payload := data[queue.CommandHeaderSize:][:size]
		switch kind {
		case queue.KindEnqueue:
			c.enqueue(payload[4+8:])
		case queue.KindSettle:
			c.settle(payload[8:])
		}
		data = data[queue.CommandHeaderSize+size:]
	}
	b.Done(b, nil)
	if len(c.deliveries) > 0 && c.receiver != nil {
		ds := c.deliveries
		c.deliveries = nil // settles are submitted while this waits
		for c.MaxOut > 0 && c.out >= c.MaxOut && ctx.Err() == nil {
			c.room.Wait()
		}
		c.out += len(ds)
		c.receiver.Deliver(ds)
		c.deliveries = ds
	}
	return nil
}

// enqueue makes a delivery of an envelope; all are the same in a benchmark.
func (c *FreeCluster) enqueue(envelope []byte) {
	if !bytes.Equal(c.envelope, envelope) {
		c.envelope = bytes.Clone(envelope)
	}
	c.lastID++
	c.deliveries = append(c.deliveries, broker.Delivery{Delivery: queue.Delivery{Consumer: c.consumer, ID: c.lastID, Queue: c.queue,
		Body: queue.Body{First: queue.Ref{Size: uint32(len(envelope))}}}})
}

func (c *FreeCluster) settle(ranges []byte) {
	for ; len(ranges) >= 16; ranges = ranges[16:] {
		c.out -= int(binary.LittleEndian.Uint64(ranges[8:])-binary.LittleEndian.Uint64(ranges)) + 1
		c.ranges++
	}
	c.room.Broadcast()
}

// Subscribe notes the consumer that gets everything.
func (c *FreeCluster) Subscribe(s queue.ShardID, id queue.ConsumerID, r broker.Receiver) {
	c.mu.Lock()
	c.consumer, c.receiver = id, r
	c.mu.Unlock()
	c.Cluster.Subscribe(s, id, r)
}

// Envelope returns the bytes that were published last.
func (c *FreeCluster) Envelope(ctx context.Context, d *broker.Delivery) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.free {
		return c.Cluster.Envelope(ctx, d)
	}
	return c.envelope, nil
}
