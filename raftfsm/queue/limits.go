package queue

import "math"

// expireHeads drops the expired messages at the head of each lane. One behind a head that lives stays, and counts.
func (s *State) expireHeads(q *queue) {
	if q.expiring == 0 {
		return
	}
	for i := range q.filled() {
		l := q.lanes[i]
		for r := l.front(); r != nil && r.expired(s.now); r = l.front() {
			s.dropHead(q, i)
		}
	}
}

// dropHead drops the first message of one lane.
func (s *State) dropHead(q *queue, priority uint8) {
	occupied := q.occupied
	q.occupied = [4]uint64{}
	q.occupy(priority) // so that it is the lane's turn
	s.dropFirst(q)
	if q.lanes[priority].len() == 0 {
		occupied[priority>>6] &^= 1 << (priority & 63)
	}
	q.occupied = occupied
}

// expiry is the time at which a message enqueued now expires: after the shorter of the queue's and its own time to
// live. A time of 0 counts as 1 ms, in which a waiting consumer still gets the message.
func (s *State) expiry(q *queue, has bool, ttl uint64) int64 {
	if q.settings.HasMessageTTL {
		if !has || q.settings.MessageTTL < ttl {
			ttl = q.settings.MessageTTL
		}
		has = true
	}
	if !has {
		return 0
	}
	return later(s.now, max(ttl, 1))
}

// later adds milliseconds to a time, stopping at the end of time.
func later(now int64, millis uint64) int64 {
	if millis > uint64(math.MaxInt64-now) {
		return math.MaxInt64
	}
	return now + int64(millis)
}

// admits tells whether the queue takes one more message of the size. One whose consumers could take what is ready is
// served first.
func (s *State) admits(q *queue, size uint64) bool {
	if !q.settings.RejectPublish || !q.over(1, size) {
		return true
	}
	s.serve(q)
	return !q.over(1, size)
}

// over tells whether the queue is over a limit with so much more.
func (q *queue) over(messages, bytes uint64) bool {
	l := q.settings
	return l.HasMaxLength && q.ready+messages > l.MaxLength || l.HasMaxLengthBytes && q.bytes+bytes > l.MaxLengthBytes
}

// trim drops what is over a limit from the head. What had expired behind it goes first.
func (s *State) trim(q *queue) {
	if q.settings.RejectPublish {
		return
	}
	for q.ready > 0 && q.over(0, 0) {
		s.dropFirst(q)
		s.expireHeads(q)
	}
}

// nextDeadline is when the queue or the head of a lane expires, or a delayed message is due; 0: never.
func (q *queue) nextDeadline() int64 {
	var deadline int64
	sooner := func(t int64) {
		if t != 0 && (deadline == 0 || t < deadline) {
			deadline = t
		}
	}
	if q.expiring > 0 {
		for i := range q.filled() {
			sooner(q.lanes[i].front().expiry)
		}
	}
	if q.delayed.n > 0 {
		sooner(dueTime(q.delayed.first().id))
	}
	if q.settings.Expires > 0 && q.attached == 0 {
		sooner(later(q.lastUsed, q.settings.Expires))
	}
	return deadline
}

// schedule keeps the queue's timer right.
func (s *State) schedule(q *queue) {
	if deadline := q.nextDeadline(); deadline != q.deadline {
		s.timers.set(q, deadline)
	}
}

// passTime lets happen what an entry's time brings, before its commands: they leave no deadline that is over.
func (s *State) passTime() {
	s.forgetSilentProducers()
	for len(s.timers) > 0 && s.timers[0].deadline <= s.now {
		q := s.timers[0]
		s.releaseDue(q)
		s.expireHeads(q)
		if q.settings.Expires > 0 && q.attached == 0 && later(q.lastUsed, q.settings.Expires) <= s.now {
			s.removeItself(q)
			continue
		}
		s.schedule(q)
	}
	s.serveTouched() // what was due
}

// timers is a heap of the queues that have a deadline, the earliest first, equal ones by id.
type timers []*queue

func (t timers) less(i, j int) bool {
	a, b := t[i], t[j]
	return a.deadline < b.deadline || a.deadline == b.deadline && a.id < b.id
}

func (t timers) swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].timer, t[j].timer = i, j
}

// set gives a queue another deadline, 0 for none.
func (t *timers) set(q *queue, deadline int64) {
	switch {
	case deadline == 0:
		t.remove(q)
		return
	case q.deadline == 0:
		q.timer = len(*t)
		*t = append(*t, q)
	}
	q.deadline = deadline
	t.down(t.up(q.timer))
}

func (t *timers) remove(q *queue) {
	if q.deadline == 0 {
		return
	}
	i, last := q.timer, len(*t)-1
	t.swap(i, last)
	(*t)[last] = nil
	*t = (*t)[:last]
	q.deadline = 0
	if i < last {
		t.down(t.up(i))
	}
}

func (t timers) up(i int) int {
	for i > 0 && t.less(i, (i-1)/2) {
		t.swap(i, (i-1)/2)
		i = (i - 1) / 2
	}
	return i
}

func (t timers) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(t) {
			return
		}
		if child+1 < len(t) && t.less(child+1, child) {
			child++
		}
		if !t.less(child, i) {
			return
		}
		t.swap(i, child)
		i = child
	}
}
