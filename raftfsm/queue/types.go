package queue

// QueueID identifies one incarnation of a queue for ever: a queue deleted and declared again has another. The top 16
// bits are the shard that holds it, so that a router's destination says where to go.
type QueueID uint64

// Shard returns the shard that holds the queue.
func (id QueueID) Shard() ShardID { return ShardID(id >> 48) }

// MakeQueueID joins a shard and a number of 48 bits; higher bits of unique are dropped.
func MakeQueueID(shard ShardID, unique uint64) QueueID {
	return QueueID(uint64(shard)<<48 | unique&(1<<48-1))
}

// ShardID names a group of queues that share one machine. Shards with LocalShard set are not replicated: the node whose
// number is in the lower bits holds their (exclusive) queues in memory.
type ShardID uint16

// LocalShard marks the shard of a node's own exclusive queues.
const LocalShard ShardID = 1 << 15

// IsLocal tells whether the shard lives in the memory of one node.
func (s ShardID) IsLocal() bool { return s&LocalShard != 0 }

// Owner returns the number of the node that holds a local shard.
func (s ShardID) Owner() uint16 { return uint16(s &^ LocalShard) }

// SessionID is one run of one node as a source of commands: the node's number in the top 16 bits, the count of its
// starts below. A higher id of the same node means that the runs before are over. 0 is the shard's leader itself.
type SessionID uint64

// MakeSessionID joins a node's number and its count of starts.
func MakeSessionID(node uint16, run uint64) SessionID {
	return SessionID(uint64(node)<<48 | run&(1<<48-1))
}

// Node returns the node's number.
func (s SessionID) Node() uint16 { return uint16(s >> 48) }

// ConsumerID names a consumer, or the holder of a channel's basic.get messages. The session chooses it and never uses
// one twice.
type ConsumerID uint64

// Ref says where a piece of a message lies: bytes [Offset, Offset+Size) of the data of the log entry at Index.
type Ref struct {
	Index  uint64
	Offset uint32
	Size   uint32
}

// Body is where a message's envelope lies: one piece, or several in order when it was too large for an entry.
// Exactly one of the two is set: More is nil for a message of one piece.
type Body struct {
	First Ref
	More  []Ref // the pieces after First
}

// Size is the length of the envelope in bytes.
func (b *Body) Size() uint64 {
	n := uint64(b.First.Size)
	for _, r := range b.More {
		n += uint64(r.Size)
	}
	return n
}

// Outcome is how a consumer settles a delivery.
type Outcome uint8

const (
	Ack           Outcome = iota // done with it: the message is gone
	Requeue                      // basic.nack or recover with requeue: back to its place, acquired-count raised
	RejectRequeue                // basic.reject with requeue, or its channel died: delivery-count raised too
	Discard                      // basic.nack without requeue: dead-lettered or dropped, reason rejected
	Reject                       // basic.reject without requeue: likewise, delivery-count raised
	Undelivered                  // the client was never sent it: back to its place, as new unless somebody was given a later message, otherwise acquired-count raised
)

// Range is a run of delivery ids of one consumer, both ends included.
type Range struct{ From, To uint64 }

// ResultCode is how a command ended.
type ResultCode uint8

const (
	OK       ResultCode = iota
	Gone                // no such queue (any more): it was deleted, and a publish to it counts as done
	Empty               // get: nothing ready
	Message             // get, peek: Result.Delivery holds it
	Full                // enqueue: a limit with reject-publish refused it in at least one queue
	InUse               // attach: exclusive use in conflict; delete if-unused: has consumers
	NotEmpty            // delete if-empty: has messages
	IDTaken             // configure: another queue has this id
	Single              // get: refused, the queue has a single active consumer
	Unknown             // settle, cancel, credit, give-back: no such consumer in this session; attach, get: the id is in use already
	Refused             // enqueue: its upload is too large, was never begun, or lost pieces while its session was over; its number is too low
	Later               // give-back: nothing went back, the consumer has been given more
)

// Result is the answer to one command of a batch. Commands that ended as their sender expects without saying more
// (OK without counts) have none.
type Result struct {
	Command   uint32 // ordinal of the command in its batch
	Code      ResultCode
	Messages  uint64   // get: ready messages left; purge, delete: messages removed; configure, attach: ready messages
	Consumers uint32   // configure, attach: consumers of the queue
	Delivery  Delivery // get with code Message
}

// Reply tells a session that its batch Seq has been applied, or had been before. Replies of a session come in the order
// of its batches; one Reply stands for all batches after the one before it up to Seq that had no results.
type Reply struct {
	Session SessionID
	Seq     uint64
	Results []Result
}

// Delivery hands a message to a consumer of a session. It is out with that consumer until it is settled.
type Delivery struct {
	Session       SessionID
	Consumer      ConsumerID
	ID            uint64 // grows by one with each delivery to the consumer, from 1
	Queue         QueueID
	Body          Body
	Redelivered   bool
	Persistent    bool
	DeliveryCount uint32 // failed deliveries so far (x-delivery-count)
	AcquiredCount uint32 // times handed out before (x-acquired-count)
}

// Cancel tells a session that one of its consumers is no more, for a reason that the session did not give itself.
type Cancel struct {
	Session  SessionID
	Consumer ConsumerID
}

// Counts is what declare-ok and the tools say of a queue.
type Counts struct {
	Ready      uint64
	ReadyBytes uint64
	Unsettled  uint64
	Consumers  uint32
}

// Effects is what applying an entry asks the world to do. The node that leads the shard carries them out, the others
// drop them; each is a fact about the state, so carrying one out twice does no harm beyond a repeated frame, which the
// receiver knows by its numbers. The slices are reused: a receiver that keeps something copies it.
type Effects struct {
	Replies    []Reply
	Deliveries []Delivery // per consumer in order of ID
	Cancels    []Cancel
	Deleted    []QueueID // queues that deleted themselves (auto-delete, expiry): the catalog must forget them
	// NextTick is the earliest time, in milliseconds of the entries' clock, at which a Tick would change something; 0: never.
	NextTick int64
	// Behind tells that a consumer has settled deliveries while messages of its queue were ready: it waited for its settles, and
	// what publishers have in the log ahead of them made it wait longer.
	Behind bool
}

// maxKeptDeliveries is for how many deliveries Reset keeps memory: one entry can give as many as there is credit.
const maxKeptDeliveries = 8192

// Reset empties the effects and keeps their memory, unless it was much.
func (e *Effects) Reset() {
	clear(e.Replies)
	clear(e.Deliveries)
	if cap(e.Deliveries) > maxKeptDeliveries {
		e.Deliveries = nil
	}
	e.Replies, e.Deliveries = e.Replies[:0], e.Deliveries[:0]
	e.Cancels, e.Deleted, e.NextTick, e.Behind = e.Cancels[:0], e.Deleted[:0], 0, false
}
