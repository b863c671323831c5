package broker

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// outbox is what waits for a connection's writer. Everything in it is bounded by something else: confirms and returns by
// Flush, which blocks when too much waits; deliveries by the credit of their consumers.
type outbox struct {
	events ConnEvents
	// patience is how long waitForRoom waits for a client that reads nothing.
	patience Patience
	woken    atomic.Bool // Wake was called and no Drain has begun since

	mu          sync.Mutex // guards what follows, and in each consumer what says so
	confirming  []*Channel // have confirms to tell
	returns     []returned
	returnBytes int
	room        chan struct{} // closed when the returns are few again; nil: nobody waits
	ready       fifo[*consumer]
	cancels     []*consumer
	slowing     []*consumer // to be slowed, see ahead.go
	unsure      []*consumer // to be looked at again by lookAgain, which will be called if there are any
}

// maxReturnBytes bounds the returned messages that wait for a client that does not read.
const maxReturnBytes = 1 << 20

// returned is a message for which there is no queue.
type returned struct {
	channel *Channel
	message envelope
	size    int
}

// wake calls the writer, once for each Drain.
func (o *outbox) wake() {
	if !o.woken.Swap(true) {
		o.events.Wake()
	}
}

// confirm says that the channel has confirms to tell.
func (o *outbox) confirm(ch *Channel) {
	o.mu.Lock()
	o.confirming = append(o.confirming, ch)
	o.mu.Unlock()
	o.wake()
}

// sendBack queues a basic.return, of which it copies everything.
func (o *outbox) sendBack(ch *Channel, m *envelope) {
	r := returned{channel: ch, message: m.clone(), size: m.size() + deliverOverhead}
	o.mu.Lock()
	o.returns = append(o.returns, r)
	o.returnBytes += r.size
	o.mu.Unlock()
	o.wake()
}

// waitForRoom blocks while too many returns wait. Since the reader sees no sign of life meanwhile, the connection of a client that
// takes none for too long is ended: it may be frozen, and others wait for what it holds.
func (o *outbox) waitForRoom(ctx context.Context) error {
	wait := o.crowded()
	if wait == nil {
		return nil
	}
	defer o.patience.Watch(func() {
		o.events.Closed(errorf(Unavailable, "the client does not read what is returned to it"))
	})()
	for ; wait != nil; wait = o.crowded() {
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (o *outbox) crowded() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.returnBytes <= maxReturnBytes {
		return nil
	}
	if o.room == nil {
		o.room = make(chan struct{})
	}
	return o.room
}

// deliver queues deliveries for a consumer.
func (o *outbox) deliver(c *consumer, ds []Delivery) {
	o.mu.Lock()
	var listed bool
	if !c.gone {
		c.waiting.push(ds...)
		listed = o.list(c)
		if c.held || c.limited && c.waiting.len() > c.room() { // the writer may be stuck, so that it is not held
			c.watch()
		}
	}
	o.mu.Unlock()
	if listed {
		o.wake()
	}
}

// list makes a consumer ready if it is to be. mu is held.
func (o *outbox) list(c *consumer) bool {
	if c.listed || c.paused() || c.waiting.len() == 0 {
		return false
	}
	c.listed = true
	o.ready.push(c)
	return true
}

// update changes something of a consumer and lists it if that made it ready.
func (o *outbox) update(c *consumer, f func()) {
	o.mu.Lock()
	f()
	listed := o.list(c)
	o.mu.Unlock()
	if listed {
		o.wake()
	}
}

// cancel queues a basic.cancel for a consumer that the broker ended.
func (o *outbox) cancel(c *consumer) {
	o.mu.Lock()
	tell := !c.gone && c.started
	c.silent = !c.gone && !c.started
	c.gone = true
	c.waiting.all()
	c.retained = nil
	if tell {
		o.cancels = append(o.cancels, c)
	}
	o.mu.Unlock()
	if tell {
		o.wake()
	}
}

// tell queues a basic.cancel for a consumer that has been stopped.
func (o *outbox) tell(c *consumer) {
	o.mu.Lock()
	o.cancels = append(o.cancels, c)
	o.mu.Unlock()
	o.wake()
}

// start lets a consumer's deliveries flow.
func (o *outbox) start(c *consumer) {
	o.mu.Lock()
	c.started = true
	tell := o.list(c)
	if c.silent {
		c.silent, tell = false, true
		o.cancels = append(o.cancels, c)
	}
	o.mu.Unlock()
	if tell {
		o.wake()
	}
}

// drop ends a consumer without a word and returns what has not been drained.
func (o *outbox) drop(c *consumer) []Delivery {
	o.mu.Lock()
	defer o.mu.Unlock()
	c.gone = true
	waiting := append(c.retained, c.waiting.all()...)
	c.retained = nil
	return waiting
}

// takenAtOnce bounds the deliveries that Drain handles together.
const takenAtOnce = 64

// take appends to ds deliveries of the consumer that is next, of about so many bytes; nil when none is ready. A consumer
// that has more goes to the end of the line.
func (o *outbox) take(ds []Delivery, bytes int) (*consumer, []Delivery) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.ready.len() > 0 {
		c := o.ready.pop()
		c.listed = false
		if c.paused() || c.waiting.len() == 0 || o.passedOver(c) {
			continue
		}
		n := o.reserve(c)
		if n == 0 {
			continue
		}
		for taken := 0; taken < n; taken++ {
			if bytes <= 0 {
				c.channel.release(c, n-taken)
				break
			}
			bytes -= int(c.waiting.head().Body.Size()) + deliverOverhead
			ds = append(ds, c.waiting.pop())
		}
		o.list(c)
		return c, ds
	}
	return nil, ds
}

// unsurePause lies between two looks at consumers that were passed over.
const unsurePause = 200 * time.Millisecond

// passedOver tells whether a consumer's messages may be others' by now (Replicator.Attended), and has it looked at again. It is asked for each
// take, not by a timer, since the process may have been stopped. mu is held.
func (o *outbox) passedOver(c *consumer) bool {
	if c.channel.conn.broker.replicator.Attended(c.shard) {
		return false
	}
	c.unsure = true
	if o.unsure = append(o.unsure, c); len(o.unsure) == 1 {
		time.AfterFunc(unsurePause, c.channel.conn.lookAgain)
	}
	return true
}

// lookAgain lists the consumers that were passed over and whose messages are known to be theirs.
func (c *Conn) lookAgain() {
	o := &c.out
	o.mu.Lock()
	wake := false
	o.unsure = slices.DeleteFunc(o.unsure, func(of *consumer) bool {
		if !of.gone && !c.broker.replicator.Attended(of.shard) {
			return false
		}
		of.unsure = false
		wake = o.list(of) || wake
		return true
	})
	if len(o.unsure) > 0 && c.ended.Err() == nil {
		time.AfterFunc(unsurePause, c.lookAgain)
	}
	o.mu.Unlock()
	if wake {
		o.wake()
	}
}

// reserve takes places for a consumer's next deliveries, of its own and of what the channel's consumers share, in which they
// take turns; it holds one for which there are none, until there are or look gives back what waits. mu is held.
func (o *outbox) reserve(c *consumer) (n int) {
	ch := c.channel
	if ch.limit.Load() == 0 || c.noAck {
		n = ch.reserve(c, min(takenAtOnce, c.waiting.len()))
	} else {
		if !ch.yields(c) {
			n = ch.reserve(c, 1)
		}
		if n > 0 {
			ch.turns++
			c.turn = ch.turns
		} else {
			ch.anyHeld.Store(true)
		}
	}
	if n == 0 {
		ch.held = append(ch.held, c)
		c.held = true
		c.watch() // what waits goes back if the client lets nothing through, and nobody else may be looking
	}
	return n
}

// deliverOverhead is about what a delivery costs on the wire beside its envelope, in bytes.
const deliverOverhead = 64

// putBack undoes a take of a consumer that is to wait; false when the consumer is gone.
func (o *outbox) putBack(c *consumer, ds []Delivery) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	c.stalled = true
	if !c.gone {
		c.waiting.unpop(ds)
	}
	return !c.gone
}

// resume lists the consumers that waited for their channel's limit.
func (o *outbox) resume(ch *Channel) {
	o.mu.Lock()
	wake := o.letGo(ch)
	o.mu.Unlock()
	if wake {
		o.wake()
	}
}

// takeReturns returns the returned messages that wait.
func (o *outbox) takeReturns() []returned {
	o.mu.Lock()
	defer o.mu.Unlock()
	rs := o.returns
	o.returns, o.returnBytes = nil, 0
	if o.room != nil {
		close(o.room)
		o.room = nil
	}
	return rs
}

// takeConfirming appends to chs the channels that have confirms to tell.
func (o *outbox) takeConfirming(chs []*Channel) []*Channel {
	o.mu.Lock()
	defer o.mu.Unlock()
	chs = append(chs, o.confirming...)
	clear(o.confirming)
	o.confirming = o.confirming[:0]
	return chs
}

// takeEnds returns the consumers that the broker ended.
func (o *outbox) takeEnds() []*consumer {
	o.mu.Lock()
	defer o.mu.Unlock()
	cancels := o.cancels
	o.cancels = nil
	return cancels
}

// more tells whether a Drain would find something.
func (o *outbox) more() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.ready.len() > 0 || len(o.confirming) > 0 || len(o.returns) > 0 || len(o.cancels) > 0 || len(o.slowing) > 0
}
