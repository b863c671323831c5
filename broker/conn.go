package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"
	"github.com/warrenmq/warren/router"
)

// ConnOptions say who is at the other end.
type ConnOptions struct {
	Name   string // for logs and listings, such as "127.0.0.1:49514 -> 127.0.0.1:5672"
	Events ConnEvents
	// Patience ends the connection (ConnEvents.Closed) of a client that does not read what is returned to it. Zero: never.
	Patience Patience
}

// ConnEvents is what a connection tells its front door. The methods may be called on any goroutine, never block, and
// call no method of the connection.
type ConnEvents interface {
	Wake()                 // something waits: the writer should call Conn.Drain
	Blocked(reason string) // the connection published during an alarm and is not read any more (Flush blocks)
	Unblocked()
	// Failed tells that the broker wants a channel closed, for an error that no method of the client is waiting for; one that is
	// closed by now is passed over. It does not wait for Drain, which a client that does not read can keep from coming; but
	// a reader that waits for room for returns, or for a shard to take a batch, comes to it afterwards.
	Failed(ch *Channel, err *Error)
	Closed(err *Error) // the broker wants the connection closed (AMQP: 320 CONNECTION_FORCED, whatever the kind)
}

// Writer is where Drain writes. It keeps what it is given in memory (Drain decides how much); slices are valid during
// the call, bodies for good. Drain holds its lock while it decides what comes next and writes it, not while it fetches
// messages. What a front door writes by itself, under the same lock, keeps its place among the rest: so no delivery follows
// the answer to a cancel, and none precedes the answer to a consume.
type Writer interface {
	sync.Locker
	Deliver(channel uint16, consumerTag string, d *Outgoing)
	Return(channel uint16, code uint16, text string, exchange, routingKey, properties, body []byte)
	Confirm(channel uint16, tag uint64, multiple bool, o Outcome)
	CancelConsumer(channel uint16, consumerTag string)
}

// Conn is a client's connection to a vhost. Its methods and those of its channels are called by the connection's reader
// goroutine, one at a time, unless they say otherwise.
type Conn struct {
	broker  *Broker
	id      uint64 // of all connections of this run
	name    string
	user    string
	token   string   // of the login; empty: it was by something else
	tags    []string // the reader's
	rights  rights   // the reader's
	vhost   *vhost
	out     outbox
	window  window
	ended   context.Context // done when the connection is closed
	end     context.CancelFunc
	closing sync.Once

	channelsMu sync.Mutex // held by the reader to change channels, and by others to read it

	// The reader's.
	channels   map[uint16]*Channel
	stage      staging
	publishing []*Channel               // have publishes in stage whose numbers have not begun
	resuming   []*Channel               // have settled since the last flush what consumers may wait for
	published  bool                     // something was published since the last Flush
	stale      bool                     // since the last Flush: this node does not know whether its routes are current
	exclusive  map[string]queue.QueueID // the exclusive queues declared
	pruneAt    int                      // the length of exclusive at which it is pruned
	routing    routing

	// The writer's.
	writing writing

	underway atomic.Int64 // batches submitted and not applied

	failed chan struct{} // has room for one: a channel has failed since the reader last waited for the end of an alarm
}

// fail tells that a channel is to be closed.
func (c *Conn) fail(ch *Channel, err *Error) {
	c.out.events.Failed(ch, err)
	select {
	case c.failed <- struct{}{}:
	default:
	}
}

// routing is working space of the reader.
type routing struct {
	message    router.Message
	scratch    router.Scratch
	dests      []router.Dest
	queues     []queue.QueueID
	copies     [][]byte
	properties Properties
	edited     []byte
	replyTo    []byte
}

// newConn makes a connection that has passed all checks.
func (b *Broker) newConn(id *Identity, v *vhost, o ConnOptions) *Conn {
	c := &Conn{broker: b, id: b.replicator.NewID(), name: o.Name, user: id.User, token: id.token, tags: id.Tags, vhost: v, channels: map[uint16]*Channel{}, exclusive: map[string]queue.QueueID{}, failed: make(chan struct{}, 1)}
	c.out.events, c.out.patience = o.Events, o.Patience
	c.window.maxBytes, c.window.maxBehind, c.window.maxMessages = b.options.MaxUnconfirmedBytes, b.options.MaxBehindBytes, b.options.MaxUnconfirmedMessages
	c.ended, c.end = context.WithCancel(context.Background())
	c.stage.conn, c.writing.stage.conn = c, c
	c.writing.busy = make(chan struct{}, 1)
	c.routing.message.Headers = c.routing.headers
	return c
}

func (r *routing) headers() map[string]any {
	if r.properties.Headers == nil {
		return nil
	}
	return decodeTable(r.properties.Headers, 0)
}

// OpenChannel begins a channel. The number must not be open.
func (c *Conn) OpenChannel(number uint16) *Channel {
	ch := &Channel{conn: c, number: number, consumers: map[string]*consumer{}, ended: map[*consumer]bool{}}
	ch.permissions.conn = c
	c.channelsMu.Lock()
	c.channels[number] = ch
	c.channelsMu.Unlock()
	return ch
}

// Flush submits what Publish, Ack … have staged since the last Flush. The reader calls it when it holds no complete
// frame any more. It blocks while the shards have too much of this connection in hand, while too many returned messages
// wait for the client to read them, and, if the connection published, while an alarm tells publishers to wait, unless the reader
// has a channel to close (ConnEvents.Failed).
func (c *Conn) Flush(ctx context.Context) error {
	if err := c.flush(ctx); err != nil {
		return err
	}
	c.stale = false
	if err := c.out.waitForRoom(ctx); err != nil {
		return err
	}
	if !c.published {
		return nil
	}
	c.published = false
	return c.broker.alarm.wait(ctx, c)
}

// flush submits what is staged.
func (c *Conn) flush(ctx context.Context) error {
	c.resume()
	c.beginConfirms()
	return c.stage.flush(ctx)
}

// resume lets consumers go on that waited for what has been settled since the last flush.
func (c *Conn) resume() {
	for i, ch := range c.resuming {
		ch.resumeHeld()
		c.resuming[i] = nil
	}
	c.resuming = c.resuming[:0]
}

// beginConfirms begins the numbers of all publishes in stage: before any of them can be answered.
func (c *Conn) beginConfirms() {
	for i, ch := range c.publishing {
		if ch.confirms.begin(ch.counts) {
			c.out.confirm(ch)
		}
		ch.counts = ch.counts[:0]
		c.publishing[i] = nil
	}
	c.publishing = c.publishing[:0]
}

// submit sends one shard's batch.
func (c *Conn) submit(ctx context.Context, shard queue.ShardID) error {
	c.resume()
	c.beginConfirms()
	return c.stage.submit(ctx, shard)
}

// call stages a command for a shard, submits everything staged, and waits for the command's answer.
func (c *Conn) call(ctx context.Context, shard queue.ShardID, command func(b *queue.Batch)) (queue.Result, error) {
	b := c.stage.batch(shard)
	b.seal()
	w := &call{command: b.Commands, done: make(chan struct{})}
	command(&b.Batch.Batch)
	b.calls = append(b.calls, w)
	if err := c.flush(ctx); err != nil {
		return queue.Result{}, err
	}
	select {
	case <-w.done:
		return w.result, nil
	case <-ctx.Done():
		return queue.Result{}, ctx.Err()
	}
}

// operation bounds an operation that waits for the cluster.
func (c *Conn) operation(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, c.broker.options.OperationTimeout)
}

// explain makes a refusal of an operation that ran out of time; what names its subject, such as "queue 'q' in vhost
// '/'". Other errors are passed on.
func explain(err error, what string) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return errorf(Unavailable, "failed to perform operation on %s due to timeout", what)
	}
	var refusal *Error
	if err == nil || errors.As(err, &refusal) {
		return err
	}
	return fmt.Errorf("operation on %s: %w", what, err)
}

// Close ends the connection: unsettled messages go back, exclusive queues are deleted. It may be called from any
// goroutine once the reader is gone; calls after the first do nothing.
func (c *Conn) Close(ctx context.Context) {
	c.closing.Do(func() { c.close(ctx) })
}

// closeTimeout bounds what a connection's end waits for; the rest goes on behind.
const closeTimeout = 10 * time.Second

func (c *Conn) close(ctx context.Context) {
	for _, ch := range c.channels {
		ch.abandon()
	}
	c.channelsMu.Lock()
	c.channels = nil
	c.channelsMu.Unlock()
	for _, id := range c.exclusive {
		c.stage.batch(id.Shard()).Delete(id, false, false)
	}
	c.stage.last = true
	c.end()
	c.broker.forget(c)
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	if err := c.finish(ctx); err != nil {
		c.broker.log.Warn("end of a connection waits for the cluster", "connection", c.name, "err", err)
		go c.keepFinishing()
	}
}

// finish tells the shards and the catalog of the connection's end.
func (c *Conn) finish(ctx context.Context) error {
	if err := c.flush(ctx); err != nil {
		return fmt.Errorf("return its messages: %w", err)
	}
	if len(c.exclusive) == 0 {
		return nil
	}
	if err := c.broker.propose(ctx, catalog.SessionOver(&raftv1.SessionOver{
		Session: uint64(c.broker.replicator.Self().Session), Connection: c.id})); err != nil {
		return fmt.Errorf("delete its exclusive queues: %w", err)
	}
	return nil
}

// keepFinishing repeats finish until it succeeds or the node stops.
func (c *Conn) keepFinishing() {
	for delay := finishDelay; ; delay = min(2*delay, closeTimeout) {
		time.Sleep(delay)
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		err := c.finish(ctx)
		cancel()
		if err == nil || !errors.Is(err, context.DeadlineExceeded) && !isKind(err, Unavailable) && !errors.Is(err, ErrLargeBatch) {
			return
		}
	}
}

// finishDelay is the first of the growing times between attempts.
const finishDelay = 100 * time.Millisecond
