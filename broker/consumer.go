package broker

import (
	"sync/atomic"
	"time"

	"github.com/warrenmq/warren/raftfsm/queue"
)

// consumer is a consumer of a channel, or (getter) the holder of what the channel got with basic.get from the queues of
// one shard.
type consumer struct {
	channel *Channel
	id      queue.ConsumerID
	tag     string
	queue   queue.QueueID // 0: a getter
	name    string        // of the queue
	shard   queue.ShardID
	noAck   bool
	getter  bool
	timeout time.Duration // for which a delivery may be out, 0: without end

	credit atomic.Uint32 // its own bound, without the channel's
	out    atomic.Int64  // deliveries taken for the client and not settled; not counted without acknowledgements
	reading

	// Guarded by the channel.
	unsettled int    // deliveries out, without those settled in a transaction that is not committed
	ended     bool   // cancelled: to be detached when nothing is out any more
	sent      uint64 // the last delivery that was written for the client; of a getter: that could be

	// Guarded by the outbox.
	waiting fifo[Delivery]
	listed  bool // in the list of the ready
	started bool // consume-ok is on its way
	held    bool // waits for the channel's limit or its own
	stalled bool // waits for its messages to be readable
	unsure  bool // waits until it is known whether they are still its own
	// fetched is the envelope of the delivery fetchedID, got while the consumer was stalled. The writer's otherwise.
	fetched   []byte
	fetchedID uint64
	gone      bool   // cancelled: nothing more
	barred    bool   // gets nothing before the channel has room, see turns.go
	turn      uint64 // the last of the channel's turns that it had
	silent    bool   // gone by the broker's will before it was started: to be told when it is

	// The writer's.
	unsettledFrom, unsettledTo uint64 // no-ack: ids drained and not settled yet; 0: none
	stalls                     int    // failed attempts to read a message, in a row
}

// paused tells whether nothing of the consumer may be drained now. The outbox is locked.
func (c *consumer) paused() bool {
	return !c.started || c.held || c.stalled || c.unsure || c.returning || c.gone
}

// Deliver implements Receiver.
func (c *consumer) Deliver(ds []Delivery) {
	if !c.getter { // what a getter got comes as an answer
		c.channel.conn.out.deliver(c, ds)
	}
}

// Cancelled implements Receiver.
func (c *consumer) Cancelled() {
	if !c.getter {
		c.channel.conn.out.cancel(c)
	}
}
