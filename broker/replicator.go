package broker

import (
	"context"
	"errors"

	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// ErrLargeBatch tells that a batch is not taken now and never will be, as no log is sure to take an entry that holds it.
var ErrLargeBatch = errors.New("more than an entry of the log can hold")

// Replicator is what the broker needs of the cluster. One implementation serves a node alone and a node among others.
type Replicator interface {
	// Self is this node's present run.
	Self() Self

	// Propose commits a change to the catalog. When it returns nil, this node and every node that can be reached act on
	// the change (P6). A refusal by the machine is a *Error; without a majority within ctx the kind is Unavailable and
	// the outcome unknown.
	Propose(ctx context.Context, cmd *catalog.Command) (catalog.Reply, error)
	// ReadCatalog calls f with this node's copy of the catalog, which f must neither change nor keep. f must be short.
	ReadCatalog(f func(*catalog.State))
	// Fresh returns nil while this node's copy of the catalog cannot lack a change that another node has answered for,
	// and a *Error of kind Unavailable when that is not known (this node is cut off). What an absence decides
	// (unroutable, not found) asks it first (P7). It is cheap enough for every batch.
	Fresh() error

	// Settled tells whether every node that can be reached is known to act on all that this node's copy of the catalog holds. An
	// answer that rests on the copy waits for that: else the next client, of another node, might be told the opposite. It costs
	// next to nothing. Settle waits for it; its error is a *Error of kind Unavailable.
	Settled() bool
	Settle(ctx context.Context) error

	// Submit hands a batch to its shard. The pipe from this node to a shard keeps the order of submission, repeats what
	// a lost leader may have lost, and has each batch applied exactly once, in order, whoever leads. Submit blocks while
	// the pipe's window is full; the error is ctx's, ErrLargeBatch, or another when the node stops. Once Submit returned nil, Done is
	// called exactly once unless the node stops. The batch belongs to the pipe until then.
	Submit(ctx context.Context, shard queue.ShardID, b *Batch) error
	// Subscribe gives the deliveries of a consumer (or getter) of this node to r. It comes before the Attach or Get that
	// makes the first one. Unsubscribe ends it; what arrives for a consumer without receiver is dropped.
	Subscribe(shard queue.ShardID, id queue.ConsumerID, r Receiver)
	Unsubscribe(shard queue.ShardID, id queue.ConsumerID)
	// Attended tells whether what has come from a shard for consumers of this node is certainly theirs still: not when its leader was not heard for
	// so long that it may have taken this node for gone, and given the messages to others. That is known again when the leader has been
	// reached, and those consumers that are gone have been cancelled by then. It costs a look at the clock.
	Attended(shard queue.ShardID) bool
	// NewID returns a number that this run of the node has not used: consumers, uploads.
	NewID() uint64
	// PickShard chooses the replicated shard for a new queue: few queues, well led.
	PickShard() queue.ShardID
	// Envelope returns the delivery's envelope: what came along, or read from disk, or fetched from the shard's leader.
	// It is called for what came along as well, so that its place in the window of such envelopes is free again; not for
	// deliveries whose consumer ended before they were written.
	// It may block, unless the envelope came along, and must not be called from a Receiver. The bytes are read-only and stay valid.
	Envelope(ctx context.Context, d *Delivery) ([]byte, error)
	// Counts reads a queue's counts through the leader, not stale (read index).
	Counts(ctx context.Context, id queue.QueueID) (queue.Counts, bool, error)
}

// Self is this node's identity in the cluster for the present run.
type Self struct {
	Node    uint16 // the number the catalog gave it
	Name    string
	Session queue.SessionID
	Local   queue.ShardID // the shard of its own exclusive queues
}

// Batch is commands for one shard on their way.
type Batch struct {
	queue.Batch
	// Behind is set before Done: consumers of the shard wait for their settles, which what publishers have under way delays.
	Behind bool
	// Done tells that the batch has been applied and confirmed. results holds the answers of the commands that have one,
	// in order, and is valid only during the call. It is called on a goroutine that many share: it must not block.
	Done func(b *Batch, results []queue.Result)
}

// Delivery is a message for a consumer of this node.
type Delivery struct {
	queue.Delivery
	// Inline is the envelope when it came along with the delivery; otherwise Replicator.Envelope gets it.
	Inline []byte
}

// Receiver takes what comes for a consumer. Its methods are called on a goroutine that many share, in order for one
// consumer: they must not block. A delivery that was seen before a failover is not repeated.
type Receiver interface {
	// Deliver hands over deliveries; the slice is the caller's again after the call, the elements may be kept.
	Deliver(ds []Delivery)
	// Cancelled tells that the consumer is gone (its queue was deleted, or this node was away too long and the messages
	// went to others).
	Cancelled()
}

// CatalogObserver is what the cluster tells the broker about the catalog: implemented by Broker.
type CatalogObserver interface {
	// CatalogChanged is called after each applied command with what it changed, in order, before the change counts as
	// acted on by this node.
	CatalogChanged(s *catalog.State, changes []catalog.Change)
	// CatalogRestored is called when the whole state was replaced, and once at the start.
	CatalogRestored(s *catalog.State)
}
