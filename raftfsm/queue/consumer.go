package queue

import "slices"

// consumer is somebody whom messages can be out with: a consumer of one queue, or a getter, which takes single messages
// of any queue and has none of its own.
type consumer struct {
	id      ConsumerID
	key     uint64 // see hash.go; odd
	session *session
	queue   *queue // nil: a getter
	meta    uint64 // its own part of State.sum

	tag       string
	priority  int32
	credit    uint32 // unsettled deliveries allowed
	exclusive bool
	noAck     bool
	cancelled bool // gets nothing more; forgotten when it has settled all

	lastID uint64 // of its last delivery
	out    pages  // what it has, by delivery id

	ordinal    uint32 // in queue.consumers, from 1, while a snapshot is taken or restored
	level      *level // of its queue, for its priority; nil once cancelled
	next, prev *consumer
	inRing     bool // it can take a message
}

func newConsumer(ss *session, id ConsumerID) *consumer {
	return &consumer{id: id, session: ss, key: fold(ss.key, uint64(id)) | 1}
}

func (c *consumer) hash() uint64 {
	h := fold(c.key, uint64(c.credit)<<32|uint64(uint32(c.priority)))
	if c.queue != nil {
		h = fold(h, uint64(c.queue.id))
	}
	return fold(h, uint64(c.flags()))
}

// Flags of a consumer in its hash and in a snapshot.
const (
	consumerGetter = 1 << iota
	consumerExclusive
	consumerNoAck
	consumerCancelled
	consumerFlagsEnd
)

func (c *consumer) flags() (flags uint8) {
	for i, set := range [...]bool{c.queue == nil, c.exclusive, c.noAck, c.cancelled} {
		if set {
			flags |= 1 << i
		}
	}
	return flags
}

// spent tells whether the consumer has as much as it may have.
func (c *consumer) spent() bool { return c.out.n >= int(c.credit) }

// eligible tells whether the consumer may take a message.
func (c *consumer) eligible() bool {
	return c.queue != nil && !c.cancelled && !c.spent() && c.session.state == SessionActive &&
		(!c.queue.settings.SingleActive || c == c.queue.active && !c.queue.quiescing)
}

// consider lets the consumer queue for messages, at the end, or not, as it now may.
func (s *State) consider(c *consumer) {
	switch able := c.eligible(); {
	case able && !c.inRing:
		c.level.join(c)
		s.touch(c.queue)
	case !able && c.inRing:
		c.leaveRing()
	}
}

// level is the consumers of one priority of a queue that can take a message, in the order in which they get one.
type level struct {
	priority int32
	attached int // consumers of this priority, able or not
	head     *consumer
	tail     *consumer
}

// next returns the consumer whose turn it is, or nil.
func (q *queue) next() *consumer {
	for _, l := range q.levels {
		if l.head != nil {
			return l.head
		}
	}
	return nil
}

// levelOf returns the level of a priority, made if need be, counting one more consumer there.
func (q *queue) levelOf(priority int32) *level {
	i := slices.IndexFunc(q.levels, func(l *level) bool { return l.priority <= priority })
	if i < 0 {
		i = len(q.levels)
	}
	if i == len(q.levels) || q.levels[i].priority != priority {
		q.levels = slices.Insert(q.levels, i, &level{priority: priority})
	}
	q.levels[i].attached++
	return q.levels[i]
}

func (l *level) join(c *consumer) {
	c.inRing, c.prev, c.next = true, l.tail, nil
	if l.tail != nil {
		l.tail.next = c
	} else {
		l.head = c
	}
	l.tail = c
}

func (c *consumer) leaveRing() {
	l := c.level
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		l.head = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	} else {
		l.tail = c.prev
	}
	c.inRing, c.prev, c.next = false, nil, nil
}

// rotate sends the first to the end.
func (l *level) rotate() {
	if c := l.head; c != l.tail {
		c.leaveRing()
		l.join(c)
	}
}

// attach starts a consumer.
func (s *State) attach(ss *session, a *attachCommand) {
	q := s.queue(a.queue)
	switch {
	case ss.consumers[a.consumer] != nil:
		s.answer(Unknown, 0, 0)
		return
	case q == nil:
		s.answer(Gone, 0, 0)
		return
	case a.exclusive && q.attached > 0 || q.hasExclusive():
		s.answer(InUse, 0, 0)
		return
	}
	c := newConsumer(ss, a.consumer)
	c.queue, c.tag, c.priority, c.credit = q, string(a.tag), a.priority, a.credit
	c.exclusive, c.noAck = a.exclusive, a.noAck
	ss.consumers[c.id] = c
	q.consumers = append(q.consumers, c)
	q.attached++
	c.level = q.levelOf(c.priority)
	s.resum(&c.meta, c.hash())
	s.touch(q)
	s.elect(q)
	s.consider(c)
	s.answer(OK, q.ready, uint32(q.attached))
}

// hasExclusive tells whether the queue's only consumer is an exclusive one.
func (q *queue) hasExclusive() bool {
	return q.attached == 1 && slices.ContainsFunc(q.consumers, func(c *consumer) bool { return c.exclusive && !c.cancelled })
}

// setCredit changes how much a consumer may have.
func (s *State) setCredit(ss *session, id ConsumerID, credit uint32) {
	c := ss.consumers[id]
	if c == nil || c.queue == nil {
		s.answer(Unknown, 0, 0)
		return
	}
	c.credit = credit
	s.resum(&c.meta, c.hash())
	s.consider(c)
}

// cancel stops a consumer.
func (s *State) cancel(ss *session, id ConsumerID) {
	c := ss.consumers[id]
	if c == nil || c.queue == nil || c.cancelled {
		s.answer(Unknown, 0, 0)
		return
	}
	s.answer(OK, c.lastID, 0)
	s.leave(c)
	if !c.queue.deleted {
		s.forgetIdle(c)
	}
}

// leave is the end of a consumer for its queue: the next one may become active, and a queue that deletes itself may
// lose its last. What the consumer has stays with it, unless the queue is deleted.
func (s *State) leave(c *consumer) {
	q := c.queue
	if c.inRing {
		c.leaveRing()
	}
	if c.level.attached--; c.level.attached == 0 {
		q.levels = slices.DeleteFunc(q.levels, func(l *level) bool { return l == c.level })
	}
	c.level = nil
	c.cancelled = true
	q.attached--
	if q.attached == 0 {
		q.lastUsed = s.now
	}
	if q.attached == 0 && q.settings.AutoDelete {
		s.removeItself(q)
		return
	}
	s.resum(&c.meta, c.hash())
	s.touch(q)
	s.elect(q)
}

// forgetIdle forgets a cancelled consumer that has nothing left.
func (s *State) forgetIdle(c *consumer) {
	if !c.cancelled || c.out.n > 0 {
		return
	}
	q := c.queue
	q.consumers = slices.DeleteFunc(q.consumers, func(o *consumer) bool { return o == c })
	s.dropConsumer(c)
}

// dropConsumer takes a consumer that has nothing out of its session.
func (s *State) dropConsumer(c *consumer) {
	s.resum(&c.meta, 0)
	delete(c.session.consumers, c.id)
}

// detach forgets a consumer or getter and returns what it has; deliveries after sent never reached its client.
func (s *State) detach(c *consumer, failed bool, sent uint64) {
	if c.queue == nil {
		s.returnAll(c, failed, sent)
		s.dropConsumer(c)
		return
	}
	if !c.cancelled {
		s.leave(c)
	}
	if c.queue.deleted {
		return // and it with it
	}
	s.returnAll(c, failed, sent)
	s.forgetIdle(c)
}

// elect chooses the active consumer of a queue with a single one: the first by state of its node, priority and order of
// Attach. It stays active until it leaves; a better one takes over once it has nothing unsettled, and until then it gets
// nothing new.
func (s *State) elect(q *queue) {
	if !q.settings.SingleActive || q.deleted {
		return
	}
	if q.active != nil && q.active.cancelled {
		q.active = nil
	}
	var best *consumer
	for _, c := range q.consumers {
		if !c.cancelled && (best == nil || c.outranks(best)) {
			best = c
		}
	}
	was := q.active
	q.quiescing = was != nil && best.outranks(was) && was.out.n > 0
	if was == nil || best.outranks(was) && was.out.n == 0 {
		q.active = best
	}
	if was != nil {
		s.consider(was)
	}
	if q.active != nil {
		s.consider(q.active)
	}
}

func (c *consumer) outranks(o *consumer) bool {
	up, otherUp := c.session.state == SessionActive, o.session.state == SessionActive
	if up != otherUp {
		return up
	}
	return c.priority > o.priority
}
