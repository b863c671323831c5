package broker

import (
	"time"

	"github.com/warrenmq/warren/raftfsm/queue"
)

// Ack settles a delivery, or with multiple all up to it (tag 0: all), as done.
func (ch *Channel) Ack(tag uint64, multiple bool) error { return ch.settle(tag, multiple, queue.Ack) }

// Nack gives deliveries back to their queues, or discards them.
func (ch *Channel) Nack(tag uint64, multiple, requeue bool) error {
	if requeue {
		return ch.settle(tag, multiple, queue.Requeue)
	}
	return ch.settle(tag, multiple, queue.Discard)
}

// Reject gives a delivery back to its queue, or discards it.
func (ch *Channel) Reject(tag uint64, requeue bool) error {
	if requeue {
		return ch.settle(tag, false, queue.RejectRequeue)
	}
	return ch.settle(tag, false, queue.Reject)
}

// MaxDelay is the longest delay of GiveBackLater.
const MaxDelay = 24 * time.Hour

// GiveBackLater gives deliveries back to their queues after a delay, counted in milliseconds from 1 to MaxDelay: until then nobody gets
// them, and they take nothing of a consumer's credit. failed counts a failed delivery of each. Not for transactions.
func (ch *Channel) GiveBackLater(tag uint64, multiple, failed bool, delay time.Duration) error {
	if delay < time.Millisecond || delay > MaxDelay {
		return errorf(PreconditionFailed, "a delay of %v is not from 1ms to %v", delay, MaxDelay)
	}
	o := queue.Requeue
	if failed {
		o = queue.RejectRequeue
	}
	return ch.settleLater(tag, multiple, o, uint64(delay.Milliseconds()))
}

// Extend begins the timeout of deliveries anew (see Broker.Tick): of one, or with multiple of all up to it (tag 0: all).
func (ch *Channel) Extend(tag uint64, multiple bool) error {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if multiple && tag == 0 {
		tag = ch.unacked.last
	} else if !ch.unacked.has(tag) {
		return unknownTag(tag)
	}
	ch.extended = true
	ch.unacked.stamp(tag, multiple, ticks(ch.conn.broker.now.Load()))
	return nil
}

func unknownTag(tag uint64) error { return errorf(PreconditionFailed, "unknown delivery tag %d", tag) }

// settle stages the settling of deliveries.
func (ch *Channel) settle(tag uint64, multiple bool, o queue.Outcome) error {
	return ch.settleLater(tag, multiple, o, 0)
}

// settleLater stages it with a delay for what goes back, in milliseconds.
func (ch *Channel) settleLater(tag uint64, multiple bool, o queue.Outcome, delay uint64) error {
	ok := false
	ch.mu.Lock()
	ch.fast = nil
	if multiple {
		ok = ch.settleThrough(tag, o, delay)
	} else if e, found := ch.unacked.take(tag); found {
		ch.settleOne(tag, e, o, delay)
		ok = true
	}
	fast := ch.fast
	ch.mu.Unlock()
	if !ok {
		return unknownTag(tag)
	}
	if ch.tx != nil {
		return ch.tx.check()
	}
	if fast != nil {
		ch.readAhead(fast)
	}
	ch.conn.resumeAtFlush(ch)
	return nil
}

// settleThrough settles all up to tag; false when that is not unsettled. mu is held.
func (ch *Channel) settleThrough(tag uint64, o queue.Outcome, delay uint64) bool {
	if tag == 0 {
		tag = ch.unacked.last
	} else if !ch.unacked.has(tag) {
		return false
	}
	ch.unacked.takeThrough(tag, func(tag uint64, e unsettled) { ch.settleOne(tag, e, o, delay) })
	return true
}

func (ch *Channel) settleOne(tag uint64, e unsettled, o queue.Outcome, delay uint64) {
	if ch.tx != nil {
		ch.tx.settle(tag, e, o)
		return
	}
	ch.conn.stage.batch(e.consumer.shard).settleLater(e.consumer.id, o, delay, queue.Range{From: e.id, To: e.id})
	ch.settled(e.consumer)
	if o == queue.Ack && e.consumer.countSettled() {
		ch.fast = e.consumer
	}
}

// settled counts a delivery as settled. A cancelled consumer goes with its last. mu is held.
func (ch *Channel) settled(c *consumer) {
	ch.release(c, 1)
	c.unsettled--
	if c.ended && c.unsettled == 0 {
		delete(ch.ended, c)
		ch.conn.stage.detach(c, false)
	}
}

// resumeAtFlush has resumeHeld called once for what the reader settles until its next Flush.
func (c *Conn) resumeAtFlush(ch *Channel) {
	if ch.anyHeld.Load() && (len(c.resuming) == 0 || c.resuming[len(c.resuming)-1] != ch) {
		c.resuming = append(c.resuming, ch)
	}
}

// resumeHeld lets consumers go on that waited for the channel's limit or their own.
func (ch *Channel) resumeHeld() {
	if ch.anyHeld.Load() {
		ch.conn.out.resume(ch)
	}
}

// Recover stages the return of everything unsettled of the channel to its queues. requeue=false is refused.
func (ch *Channel) Recover(requeue bool) error {
	if !requeue {
		return errorf(NotImplemented, "requeue=false")
	}
	ch.mu.Lock()
	ch.unacked.takeThrough(ch.unacked.last, func(_ uint64, e unsettled) {
		ch.conn.stage.batch(e.consumer.shard).settle(e.consumer.id, queue.Requeue, queue.Range{From: e.id, To: e.id})
		ch.settled(e.consumer)
	})
	ch.mu.Unlock()
	ch.resumeHeld()
	return nil
}
