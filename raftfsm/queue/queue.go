package queue

import (
	"iter"
	"math/bits"
)

// queue is one queue: its ready messages and its consumers.
type queue struct {
	id       QueueID
	key      uint64 // see hash.go; odd
	settings *Settings
	meta     uint64 // its own part of State.sum

	lanes     []*lane   // by priority, those that were needed so far
	occupied  [4]uint64 // bit p: lane p has messages
	ready     uint64
	bytes     uint64 // of the envelopes of ready messages
	sum       uint64 // of the hashes of ready records
	expiring  uint64 // ready messages that expire
	larges    uint64 // ready messages of several pieces
	unsettled uint64
	gotten    uint64 // of the unsettled ones, those with getters
	lastOrder uint64
	delayed   pages // given back, but not due yet: see delay.go

	consumers []*consumer // in order of Attach; with the cancelled ones that hold messages
	attached  int         // of them, those not cancelled
	levels    []*level    // consumers that can take a message
	active    *consumer   // of a queue with a single active consumer
	quiescing bool        // another shall be active as soon as active has settled all

	lastUsed int64 // milliseconds: for Expires
	deadline int64 // of the queue or a head of a lane; 0: none
	timer    int   // place in State.timers, if there is a deadline

	dirty, deleted bool
}

func newQueue(id QueueID, settings *Settings) *queue {
	return &queue{id: id, key: fold(uint64(id), salt2) | 1, settings: settings}
}

func (q *queue) hash() uint64 { return hashBytes(uint64(q.id), q.settings.appendNormal(nil)) }

// lane returns the lane of a priority, made if need be.
func (q *queue) lane(priority uint8) *lane {
	if n := int(priority) + 1; n > len(q.lanes) {
		lanes := make([]*lane, n) // no more than needed: queues are many and seldom get another priority
		copy(lanes, q.lanes)
		q.lanes = lanes
	}
	if q.lanes[priority] == nil {
		q.lanes[priority] = &lane{}
	}
	return q.lanes[priority]
}

// first returns the lane with the next message, and its priority; there must be one.
func (q *queue) first() (*lane, uint8) {
	if q.settings.MaxPriority == 0 {
		return q.lanes[0], 0
	}
	for word := len(q.occupied) - 1; ; word-- {
		if q.occupied[word] != 0 {
			priority := word<<6 + bits.Len64(q.occupied[word]) - 1
			return q.lanes[priority], uint8(priority)
		}
	}
}

func (q *queue) occupy(priority uint8) { q.occupied[priority>>6] |= 1 << (priority & 63) }

// filled yields the priorities that have messages, lowest first, as they are at the call.
func (q *queue) filled() iter.Seq[uint8] {
	return func(yield func(uint8) bool) {
		for word, set := range q.occupied {
			for ; set != 0; set &= set - 1 {
				if !yield(uint8(word<<6 + bits.TrailingZeros64(set))) {
					return
				}
			}
		}
	}
}

func (q *queue) vacate(priority uint8) { q.occupied[priority>>6] &^= 1 << (priority & 63) }

// joined counts a message that has become ready.
func (s *State) joined(q *queue, r *record) {
	q.occupy(r.priority)
	q.ready++
	q.bytes += s.bodySize(r)
	if r.flags&recordLarge != 0 {
		q.larges++
	}
	if r.expiry != 0 {
		q.expiring++
	}
	h := r.hash()
	q.sum += h
	s.sum += q.key * h
	s.touch(q)
}

// enqueue adds a message at the end of its lane.
func (s *State) enqueue(q *queue, r *record) {
	q.lastOrder++
	r.order = q.lastOrder
	s.retain(r)
	*q.lane(r.priority).push(&s.pool) = *r
	s.joined(q, r)
}

// nextFresh is the order of the first message of a queue without priorities that was never out; there may be none yet.
func (q *queue) nextFresh() uint64 {
	if l := q.lane(0); l.fresh > 0 {
		return l.head.records[l.skip].order
	}
	return q.lastOrder + 1
}

// putBack takes a message that was out to its old place.
func (s *State) putBack(q *queue, r *record) {
	q.lane(r.priority).putBack(&s.pool, r)
	s.joined(q, r)
}

// takeFirst moves the next message to r and returns its hash; there must be one.
func (s *State) takeFirst(q *queue, r *record) (hash uint64) {
	l, priority := q.first()
	*r = *l.front()
	l.drop(&s.pool)
	if l.len() == 0 {
		q.vacate(priority)
	}
	q.ready--
	q.bytes -= s.bodySize(r)
	if r.flags&recordLarge != 0 {
		q.larges--
	}
	if r.expiry != 0 {
		q.expiring--
	}
	h := r.hash()
	q.sum -= h
	s.sum -= q.key * h
	return h
}

// dropFirst is the end of the next message: it expired, or there are too many. Dead-lettering would begin here.
func (s *State) dropFirst(q *queue) {
	var r record
	s.takeFirst(q, &r)
	s.release(&r)
}

// dropReady is the end of all ready messages.
func (s *State) dropReady(q *queue) (dropped uint64) {
	for i := range q.filled() {
		if q.larges > 0 {
			for r := range q.lanes[i].all() {
				s.release(r)
			}
		}
		q.lanes[i].clear(&s.pool)
	}
	if q.larges == 0 {
		s.messages -= q.ready
		s.octets -= q.bytes
	}
	dropped = q.ready
	s.sum -= q.key * q.sum
	q.occupied, q.sum = [4]uint64{}, 0
	q.ready, q.bytes, q.expiring, q.larges = 0, 0, 0, 0
	return dropped
}

// touch has the queue served at the end of the batch.
func (s *State) touch(q *queue) {
	if !q.dirty {
		q.dirty = true
		s.dirty = append(s.dirty, q)
	}
}

// serveTouched brings the queues that a batch touched to rest.
func (s *State) serveTouched() {
	for _, q := range s.dirty {
		q.dirty = false
		if q.deleted {
			continue
		}
		s.serve(q)
		s.trim(q)
		s.schedule(q)
	}
	clear(s.dirty)
	s.dirty = s.dirty[:0]
}

// serve hands out messages while there are some and somebody can take them.
func (s *State) serve(q *queue) {
	s.expireHeads(q)
	for q.ready > 0 {
		c := q.next()
		if c == nil {
			return
		}
		s.deliver(q, c)
		if c.spent() {
			c.leaveRing()
		} else {
			c.level.rotate()
		}
		if q.expiring > 0 {
			s.expireHeads(q)
		}
	}
}

// deliver moves the next message of the queue to the consumer.
func (s *State) deliver(q *queue, c *consumer) {
	e := s.handOut(q, c)
	ds := s.out.Deliveries
	if len(ds) == cap(ds) {
		ds = append(ds, Delivery{})
	} else {
		ds = ds[:len(ds)+1]
	}
	s.fill(&ds[len(ds)-1], c, e)
	s.out.Deliveries = ds
}

// handOut makes the next message of the queue one that is out with c.
func (s *State) handOut(q *queue, c *consumer) *entry {
	c.lastID++
	e := c.out.push(&s.pool, c.lastID)
	e.queue = q.id
	h := s.takeFirst(q, &e.record)
	s.sum += c.key * fold(e.id, h)
	q.unsettled++
	return e
}

// fill describes a delivery.
func (s *State) fill(d *Delivery, c *consumer, e *entry) {
	s.fillRecord(d, e.queue, &e.record)
	d.Session, d.Consumer, d.ID = c.session.id, c.id, e.id
}

// fillRecord describes a message.
func (s *State) fillRecord(d *Delivery, id QueueID, r *record) {
	*d = Delivery{
		Queue: id, Body: Body{First: Ref{r.index, r.offset, r.size}},
		Redelivered: r.acquired > 0, Persistent: r.flags&recordPersistent != 0,
		DeliveryCount: uint32(r.failed), AcquiredCount: r.acquired,
	}
	if r.flags&recordLarge != 0 {
		d.Body = s.body(r)
	}
}

// readyAt returns the ready message behind skip others, in the order of their turn; nil when there are not so many.
func (q *queue) readyAt(skip uint64) *record {
	if skip >= q.ready {
		return nil
	}
	for priority := len(q.lanes) - 1; priority >= 0; priority-- {
		l := q.lanes[priority]
		if l == nil {
			continue
		}
		if n := uint64(l.len()); skip >= n {
			skip -= n
			continue
		}
		for r := range l.all() {
			if skip == 0 {
				return r
			}
			skip--
		}
	}
	return nil
}

// remove is the end of a queue: of its messages, wherever they are, and of its consumers, whose sessions are told.
func (s *State) remove(q *queue) {
	for _, c := range q.consumers {
		s.forgetOut(c)
		if !c.cancelled {
			s.out.Cancels = append(s.out.Cancels, Cancel{c.session.id, c.id})
		}
		s.dropConsumer(c)
	}
	if q.gotten > 0 {
		for _, ss := range s.sessions { // in any order: what is forgotten leaves no trace
			ss.forgetGotten(s, q)
		}
	}
	s.dropReady(q)
	s.forgetDelayed(q)
	s.resum(&q.meta, 0)
	s.timers.remove(q)
	delete(s.queues, q.id)
	q.deleted = true
	q.consumers, q.levels, q.active = nil, nil, nil
	s.latest = nil
}

// removeItself is remove for a reason that no session gave.
func (s *State) removeItself(q *queue) {
	s.remove(q)
	s.out.Deleted = append(s.out.Deleted, q.id)
}
