package broker

import (
	"time"
)

const consumerTimeout = "x-consumer-timeout"

// tickUnit is the resolution of the time that a delivery is stamped with.
const tickUnit = time.Second

// ticks is a coarse time since the broker began, so that stamping a delivery costs neither a clock nor eight bytes.
type ticks uint32

// Tick is called about once a second, and ends the channels that have held a delivery for longer than their consumers may
// (RabbitMQ up to 4.2 does so for all types of queues, with the same text): what they hold goes back to its queues. Times
// are of this node's monotonic clock: a step of the wall clock ends nothing.
func (b *Broker) Tick() {
	now := time.Since(b.began)
	b.now.Store(uint32(now / tickUnit))
	b.mu.Lock()
	conns := make([]*Conn, 0, len(b.conns))
	for c := range b.conns {
		conns = append(conns, c)
	}
	b.mu.Unlock()
	for _, c := range conns {
		c.checkTimeouts(ticks(now / tickUnit))
	}
}

// checkTimeouts looks at the channels that the connection has open.
func (c *Conn) checkTimeouts(now ticks) {
	c.channelsMu.Lock()
	channels := make([]*Channel, 0, len(c.channels))
	for _, ch := range c.channels {
		channels = append(channels, ch)
	}
	c.channelsMu.Unlock()
	for _, ch := range channels {
		if timeout, late := ch.late(now); late {
			c.broker.log.Warn("delivery acknowledgement timed out", "connection", c.name, "channel", ch.number, "timeout", timeout)
			c.fail(ch, errorf(TimedOut, "delivery acknowledgement on channel %d timed out. Timeout value used: %d ms. "+
				"This timeout value can be configured, see consumers doc guide to learn more", ch.number, timeout.Milliseconds()))
		}
	}
}

// late tells, once, whether a delivery of the channel has been out for longer than it may, and how long that is.
func (ch *Channel) late(now ticks) (timeout time.Duration, late bool) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.closed || ch.timedOut || ch.shortest == 0 {
		return 0, false
	}
	if oldest, ok := ch.unacked.oldest(); !ok || !ch.extended && !oldest.late(now, ch.shortest) {
		return 0, false
	}
	ch.unacked.each(func(e unsettled) bool {
		timeout = e.consumer.timeout
		late = timeout > 0 && e.late(now, timeout)
		return !late
	})
	ch.timedOut = late
	return timeout, late
}

// late tells whether the delivery has been out for longer than that. Its stamp is older than itself by up to a unit and the
// time between two calls of Tick.
func (e unsettled) late(now ticks, timeout time.Duration) bool {
	return time.Duration(now-e.at)*tickUnit > timeout+2*tickUnit
}

// watch gives a consumer its timeout. mu is held.
func (ch *Channel) watch(c *consumer, timeout time.Duration) {
	c.timeout = timeout
	if timeout > 0 && (ch.shortest == 0 || timeout < ch.shortest) {
		ch.shortest = timeout
	}
}

// timeoutOf is how long a delivery of a queue may be out: what the consumer asked for, or else the queue, or else the node.
func (b *Broker) timeoutOf(arguments, ofQueue *Table) time.Duration {
	for _, a := range []*Table{arguments, ofQueue} {
		if ms, ok := natural(a, consumerTimeout); ok {
			return time.Duration(min(ms, uint64(maxTimeout.Milliseconds()))) * time.Millisecond
		}
	}
	return b.options.ConsumerTimeout
}

// maxTimeout keeps a timeout within what can be computed with.
const maxTimeout = 100 * 365 * 24 * time.Hour

// hold gives out the tag of a delivery that must be settled. mu is held.
func (ch *Channel) hold(c *consumer, id uint64) (tag uint64) {
	return ch.unacked.add(c, id, ticks(ch.conn.broker.now.Load()))
}
