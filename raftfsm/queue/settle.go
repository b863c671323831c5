package queue

import "math"

// settle ends deliveries of a consumer or getter: those in the ranges that are out. What goes back does so at the time due,
// in milliseconds; 0: at once.
func (s *State) settle(ss *session, id ConsumerID, o Outcome, due int64, ranges []byte) {
	c := ss.consumers[id]
	if c == nil {
		s.answer(Unknown, 0, 0)
		return
	}
	for ; len(ranges) >= 16; ranges = ranges[16:] {
		s.settleRange(c, o, due, u64(ranges), u64(ranges[8:]))
	}
	if c.queue != nil && c.queue.ready > 0 && o == Ack {
		s.out.Behind = true
	}
	s.settled(c)
}

// settleRange costs what it settles, however wide the range.
func (s *State) settleRange(c *consumer, o Outcome, due int64, from, to uint64) {
	asNew := uint64(math.MaxUint64)
	if o == Undelivered {
		asNew = c.latest(from, to)
	}
	for from <= to {
		i, a, b := c.out.run(from, to)
		if a == b {
			return
		}
		entries := c.out.list[i].entries[a:b]
		for k := range entries {
			s.settleOne(c, o, due, &entries[k], entries[k].id >= asNew)
		}
		c.out.cut(&s.pool, i, a, b)
	}
}

// latest returns the delivery from which on those in the range are the messages of the queue that were handed out last, and only this
// once: nobody else has been given a later one. What is given back from there on can be taken for new; what is older cannot, or who has been given a later one
// would get it out of order without a sign. In a queue with priorities that is not known of any.
func (c *consumer) latest(from, to uint64) uint64 {
	first := uint64(math.MaxUint64)
	if c.queue == nil || c.queue.settings.MaxPriority > 0 || c.out.n == 0 {
		return first
	}
	order := c.queue.nextFresh()
	for e := range c.out.backward() {
		if e.id > to || e.id < from || e.record.order != order-1 || e.record.acquired > 0 {
			break
		}
		first, order = e.id, order-1
	}
	return first
}

// settleOne ends a delivery. asNew is for one that is Undelivered.
func (s *State) settleOne(c *consumer, o Outcome, due int64, e *entry, asNew bool) {
	q := c.queue
	if q == nil {
		q = s.queue(e.queue)
		q.gotten--
	}
	q.unsettled--
	s.sum -= c.key * fold(e.id, e.record.hash())
	switch o {
	case Requeue, RejectRequeue:
		s.giveBack(q, &e.record, o == RejectRequeue, due)
	case Undelivered:
		r := e.record
		if !asNew {
			r.returned(false)
		}
		s.putBack(q, &r)
	default:
		s.release(&e.record) // dead-lettering would begin here, unless o is Ack
	}
}

// giveBackLast changes a consumer's credit and returns its last deliveries as if they had not been made, unless there are
// later ones.
func (s *State) giveBackLast(ss *session, id ConsumerID, credit uint32, first, last uint64) {
	c := ss.consumers[id]
	if c == nil || c.queue == nil {
		s.answer(Unknown, 0, 0)
		return
	}
	c.credit = credit
	s.resum(&c.meta, c.hash())
	if c.lastID != last {
		s.answer(Later, 0, 0)
		s.consider(c)
		return
	}
	s.answer(OK, 0, 0)
	s.settleRange(c, Undelivered, 0, first, last)
	s.settled(c)
}

// giveBack returns a message to its queue, now or at the time due, or drops it after too many failures.
func (s *State) giveBack(q *queue, was *record, failed bool, due int64) {
	r := *was
	r.returned(failed)
	if q.settings.HasDeliveryLimit && uint32(r.failed) > q.settings.DeliveryLimit {
		s.release(&r)
		return
	}
	if due != 0 {
		s.delay(q, &r, due)
		return
	}
	s.putBack(q, &r)
}

// settled lets a consumer that has less now have more.
func (s *State) settled(c *consumer) {
	switch q := c.queue; {
	case q == nil:
	case c.cancelled:
		s.forgetIdle(c)
	case c.out.n == 0 && q.quiescing:
		s.elect(q)
	default:
		s.consider(c)
	}
}

// returnAll returns all that a consumer has, what comes after sent as undelivered.
func (s *State) returnAll(c *consumer, failed bool, sent uint64) {
	o := Requeue
	if failed {
		o = RejectRequeue
	}
	s.settleRange(c, o, 0, 0, sent)
	s.settleRange(c, Undelivered, 0, 0, math.MaxUint64)
}

// forgetOut is the end of all that a consumer has, with its queue.
func (s *State) forgetOut(c *consumer) {
	s.settleRange(c, Ack, 0, 0, math.MaxUint64)
}

// forgetGotten is the end of what the session's getters have of a queue.
func (ss *session) forgetGotten(s *State, q *queue) {
	for _, c := range ss.consumers {
		if c.queue != nil {
			continue
		}
		var ids []uint64
		for e := range c.out.all() {
			if e.queue == q.id {
				ids = append(ids, e.id)
			}
		}
		for _, id := range ids {
			s.settleRange(c, Ack, 0, id, id)
		}
	}
}

// get takes one message for a getter.
func (s *State) get(ss *session, id QueueID, consumer ConsumerID) {
	q := s.queue(id)
	c := ss.consumers[consumer]
	switch {
	case c != nil && c.queue != nil:
		s.answer(Unknown, 0, 0)
		return
	case q == nil:
		s.answer(Gone, 0, 0)
		return
	case q.settings.SingleActive:
		s.answer(Single, 0, 0)
		return
	}
	q.lastUsed = s.now
	s.touch(q)
	s.expireHeads(q)
	if q.ready == 0 {
		s.answer(Empty, 0, 0)
		return
	}
	if c == nil {
		c = newConsumer(ss, consumer)
		ss.consumers[consumer] = c
		s.resum(&c.meta, c.hash())
	}
	q.gotten++
	e := s.handOut(q, c)
	s.answer(Message, q.ready, 0)
	s.fill(&s.results[len(s.results)-1].Delivery, c, e)
}
