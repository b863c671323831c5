package queue

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// first returns the next message of the queue: the oldest of the highest priority.
func (q *modelQueue) first() *modelMessage {
	return slices.MinFunc(q.ready, func(a, b *modelMessage) int {
		return cmp.Or(cmp.Compare(b.priority, a.priority), cmp.Compare(a.order, b.order))
	})
}

func (q *modelQueue) take(msg *modelMessage) {
	q.ready = slices.DeleteFunc(q.ready, func(o *modelMessage) bool { return o == msg })
}

func (q *modelQueue) drop(msg *modelMessage) {
	q.take(msg)
	q.gone++
}

func (q *modelQueue) bytes() (n uint64) {
	for _, msg := range q.ready {
		n += msg.size()
	}
	return n
}

func (q *modelQueue) over(messages, bytes uint64) bool {
	return q.set.HasMaxLength && uint64(len(q.ready))+messages > q.set.MaxLength ||
		q.set.HasMaxLengthBytes && q.bytes()+bytes > q.set.MaxLengthBytes
}

// heads returns the first message of each priority.
func (q *modelQueue) heads() map[uint8]*modelMessage {
	heads := map[uint8]*modelMessage{}
	for _, msg := range q.ready {
		if heads[msg.priority] == nil || msg.order < heads[msg.priority].order {
			heads[msg.priority] = msg
		}
	}
	return heads
}

// expire drops expired messages as long as one is the first of its priority.
func (m *model) expire(q *modelQueue) {
	for again := true; again; {
		again = false
		for _, msg := range q.heads() {
			if msg.expired(m.now) {
				q.drop(msg)
				again = true
			}
		}
	}
}

func (m *model) passTime() {
	for id, p := range m.series {
		if p.lastUsed+ProducerWindow <= m.now {
			delete(m.series, id)
		}
	}
	for _, q := range m.sortedQueues() {
		due := func(msg *modelMessage) bool { return msg.due <= m.now }
		for _, msg := range q.delayed {
			if due(msg) {
				q.join(msg)
			}
		}
		q.delayed = slices.DeleteFunc(q.delayed, due)
		m.expire(q)
		if at := q.expiresAt(); at != 0 && at <= m.now {
			m.remove(q)
			m.effects.deleted = append(m.effects.deleted, q.id)
		}
	}
	m.rest()
}

// expiresAt is when the queue goes for want of use; 0: never.
func (q *modelQueue) expiresAt() int64 {
	switch {
	case q.set.Expires == 0 || len(q.consumers) > 0:
		return 0
	case q.set.Expires > uint64(math.MaxInt64-q.lastUsed):
		return math.MaxInt64
	}
	return q.lastUsed + int64(q.set.Expires)
}

func (m *model) nextTick() int64 {
	next := int64(0)
	for _, q := range m.queues {
		times := []int64{q.expiresAt()}
		for _, msg := range q.heads() {
			times = append(times, msg.expiry)
		}
		for _, msg := range q.delayed {
			times = append(times, msg.due)
		}
		for _, at := range times {
			if at != 0 && (next == 0 || at < next) {
				next = at
			}
		}
	}
	return next
}

func (c *modelConsumer) able() bool {
	if c.queue == nil || c.cancelled || len(c.out) >= int(c.credit) || c.session.state != SessionActive {
		return false
	}
	if !c.queue.set.SingleActive {
		return true
	}
	best := c.queue.best()
	return c.queue.active == c && !best.outranks(c)
}

func (c *modelConsumer) outranks(o *modelConsumer) bool {
	up, otherUp := c.session.state == SessionActive, o.session.state == SessionActive
	return up && !otherUp || up == otherUp && c.priority > o.priority
}

// best is who should be the single active consumer.
func (q *modelQueue) best() *modelConsumer {
	var best *modelConsumer
	for _, c := range q.consumers {
		if best == nil || c.outranks(best) {
			best = c
		}
	}
	return best
}

// lineUp lets consumers join the line for messages at its end, or leave it, as each command has left them.
func (m *model) lineUp() {
	for _, q := range m.queues {
		if !slices.Contains(q.consumers, q.active) {
			q.active = nil
		}
		best := q.best()
		if q.set.SingleActive && best != nil && (q.active == nil || len(q.active.out) == 0 && best.outranks(q.active)) {
			q.active = best
		}
	}
	for _, ss := range m.sessions {
		for _, c := range ss.sorted() {
			switch able := c.able(); {
			case !able:
				c.since = 0
			case c.since == 0:
				m.stamps++
				c.since = m.stamps
			}
		}
	}
}

// turn returns the consumer whose turn it is: the highest priority, then the longest in line.
func (q *modelQueue) turn() *modelConsumer {
	var turn *modelConsumer
	for _, c := range q.consumers {
		if c.since > 0 && (turn == nil || c.priority > turn.priority || c.priority == turn.priority && c.since < turn.since) {
			turn = c
		}
	}
	return turn
}

func (m *model) serve(q *modelQueue) {
	for m.expire(q); len(q.ready) > 0; m.expire(q) {
		c := q.turn()
		if c == nil {
			return
		}
		text := m.handOut(q, c)
		at := cancelText(c.session.id, c.id)
		m.effects.deliveries[at] = append(m.effects.deliveries[at], text)
		c.since = 0
		if c.able() {
			m.stamps++
			c.since = m.stamps
		}
	}
}

func (m *model) handOut(q *modelQueue, c *modelConsumer) string {
	msg := q.first()
	q.take(msg)
	c.lastID++
	o := modelOut{c.lastID, msg}
	c.out = append(c.out, o)
	return c.describe(o)
}

func (c *modelConsumer) describe(o modelOut) string {
	return deliveryText(&Delivery{Session: c.session.id, Consumer: c.id, ID: o.id, Queue: o.m.queue.id,
		Redelivered: o.m.acquired > 0, Persistent: o.m.persistent, DeliveryCount: o.m.failed, AcquiredCount: o.m.acquired,
	}, strings.Join(o.m.pieces, ""))
}

func deliveryText(d *Delivery, body string) string {
	return fmt.Sprint(d.Session, d.Consumer, d.ID, d.Queue, d.Redelivered, d.Persistent, d.DeliveryCount, d.AcquiredCount, body)
}

func (m *model) attach(ss *modelSession, c *step) {
	q := m.queues[c.queue]
	if ss.consumers[c.consumer] != nil {
		m.answer(Unknown, 0, 0)
		return
	}
	if q == nil {
		m.answer(Gone, 0, 0)
		return
	}
	exclusive := slices.ContainsFunc(q.consumers, func(c *modelConsumer) bool { return c.exclusive })
	if exclusive || c.first && len(q.consumers) > 0 {
		m.answer(InUse, 0, 0)
		return
	}
	k := &modelConsumer{id: c.consumer, session: ss, queue: q, credit: c.credit, priority: c.priority, exclusive: c.first}
	ss.consumers[k.id] = k
	q.consumers = append(q.consumers, k)
	m.answer(OK, len(q.ready), len(q.consumers))
}

func (m *model) cancel(ss *modelSession, c *step) {
	k := ss.consumers[c.consumer]
	if k == nil || k.queue == nil || k.cancelled {
		m.answer(Unknown, 0, 0)
		return
	}
	m.answer(OK, int(k.lastID), 0)
	m.leave(k)
	m.forgetIdle(k)
}

func (m *model) leave(c *modelConsumer) {
	q := c.queue
	c.cancelled, c.since = true, 0
	q.consumers = slices.DeleteFunc(q.consumers, func(o *modelConsumer) bool { return o == c })
	if len(q.consumers) > 0 {
		return
	}
	q.lastUsed = m.now
	if q.set.AutoDelete {
		m.remove(q)
		m.effects.deleted = append(m.effects.deleted, q.id)
	}
}

func (m *model) forgetIdle(c *modelConsumer) {
	if c.cancelled && len(c.out) == 0 && c.session.consumers[c.id] == c {
		delete(c.session.consumers, c.id)
	}
}

func (m *model) detach(c *modelConsumer, failed bool, sent uint64) {
	if c.queue != nil && !c.cancelled {
		m.leave(c)
	}
	if c.session.consumers[c.id] != c {
		return
	}
	m.returnAll(c, failed, sent)
	delete(c.session.consumers, c.id)
}

func (m *model) returnAll(c *modelConsumer, failed bool, sent uint64) {
	asNew := c.latest(sent+1, math.MaxUint64) // sent may be the largest: then it is none, from 0 on
	for _, o := range c.out {
		if o.id > sent {
			m.undelivered(o, asNew)
			continue
		}
		m.giveBack(o.m, failed, 0)
	}
	c.out = nil
}

func (m *model) giveBack(msg *modelMessage, failed bool, delay uint64) {
	q := msg.queue
	msg.acquired++
	if failed {
		msg.failed++
	}
	if q.set.HasDeliveryLimit && msg.failed > q.set.DeliveryLimit {
		q.gone++
		return
	}
	if delay > 0 {
		msg.due = m.now + int64(delay)
		q.delayed = append(q.delayed, msg)
		return
	}
	q.join(msg)
}

// join takes a message back to its place.
func (q *modelQueue) join(msg *modelMessage) {
	msg.back = true
	q.ready = append(q.ready, msg)
	slices.SortFunc(q.ready, func(a, b *modelMessage) int { return cmp.Compare(a.order, b.order) })
}

func (m *model) settle(ss *modelSession, c *step) {
	k := ss.consumers[c.consumer]
	if k == nil {
		m.answer(Unknown, 0, 0)
		return
	}
	for _, r := range c.ranges {
		m.settleRange(k, c, r)
	}
	m.forgetIdle(k)
}

func (m *model) settleRange(k *modelConsumer, c *step, r Range) {
	asNew := k.latest(r.From, r.To)
	var left []modelOut
	for _, o := range k.out {
		if o.id < r.From || o.id > r.To {
			left = append(left, o)
			continue
		}
		switch c.outcome {
		case Requeue:
			m.giveBack(o.m, false, c.delay)
		case RejectRequeue:
			m.giveBack(o.m, true, c.delay)
		case Undelivered:
			m.undelivered(o, asNew)
		default:
			o.m.queue.gone++
		}
	}
	k.out = left
}

// undelivered returns a message: as it was, if no later one was handed out.
func (m *model) undelivered(o modelOut, asNew uint64) {
	if o.id < asNew {
		o.m.acquired++
	}
	o.m.queue.join(o.m)
}

// latest is the delivery from which on those in the range are the last messages that were handed out.
func (c *modelConsumer) latest(from, to uint64) uint64 {
	first := uint64(math.MaxUint64)
	if c.queue == nil || c.queue.set.MaxPriority > 0 {
		return first
	}
	order := c.queue.total + 1
	for _, msg := range c.queue.ready {
		if !msg.back {
			order = min(order, msg.order)
		}
	}
	for _, o := range slices.Backward(c.out) {
		if o.id > to || o.id < from || o.m.order != order-1 || o.m.acquired > 0 {
			break
		}
		first, order = o.id, order-1
	}
	return first
}

func (m *model) giveBackLast(ss *modelSession, c *step) {
	k := ss.consumers[c.consumer]
	if k == nil || k.queue == nil {
		m.answer(Unknown, 0, 0)
		return
	}
	k.credit = c.credit
	if c.ranges[0].To != k.lastID {
		m.answer(Later, 0, 0)
		return
	}
	m.answer(OK, 0, 0)
	m.settle(ss, &step{consumer: c.consumer, outcome: Undelivered, ranges: c.ranges})
}

func (m *model) get(ss *modelSession, c *step) {
	q, k := m.queues[c.queue], ss.consumers[c.consumer]
	switch {
	case k != nil && k.queue != nil:
		m.answer(Unknown, 0, 0)
		return
	case q == nil:
		m.answer(Gone, 0, 0)
		return
	case q.set.SingleActive:
		m.answer(Single, 0, 0)
		return
	}
	q.lastUsed = m.now
	m.expire(q)
	if len(q.ready) == 0 {
		m.answer(Empty, 0, 0)
		return
	}
	if k == nil {
		k = &modelConsumer{id: c.consumer, session: ss}
		ss.consumers[k.id] = k
	}
	text := m.handOut(q, k)
	m.answer(Message, len(q.ready), 0)
	m.results[len(m.results)-1] += ": " + text
	m.held = append(m.held, k.out[len(k.out)-1].m.pieces...)
}
