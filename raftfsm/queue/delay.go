package queue

// Messages that were given back with a delay wait beside the lanes of their queue, in order of the time at which they are
// due. Time is that of the entries: the first entry that comes at that time or later, a Tick if nothing else does, puts them
// back to their places, on every replica alike. Whoever had them may be gone by then. They count as unsettled.

// MaxDelay is the longest delay, in milliseconds: a year.
const MaxDelay = 366 * 24 * 60 * 60 * 1000

const (
	// dueBits is how many bits of the number that a delayed message has under its time tell apart those that are due in the
	// same millisecond.
	dueBits = 20
	// lastDue is the last time that such a number can hold, in milliseconds: in the year 2248.
	lastDue = 1<<(63-dueBits) - 1
)

// due is the time after a delay.
func (s *State) due(delay uint64) int64 { return min(later(s.now, delay), lastDue) }

// dueTime is the time in a delayed message's number.
func dueTime(number uint64) int64 { return int64(number >> dueBits) }

// waitKey is what stands for a queue's delayed messages in the digest.
func (q *queue) waitKey() uint64 { return fold(q.key, salt3) | 1 }

// delay keeps a message until it is due.
func (s *State) delay(q *queue, r *record, due int64) {
	number := q.numberAt(due)
	e := q.delayed.insert(&s.pool, number)
	e.queue, e.record = q.id, *r
	s.sum += q.waitKey() * fold(number, r.hash())
	s.touch(q)
}

// numberAt returns a free number for the time: after those of the same, and, when there are none left, of a later one.
func (q *queue) numberAt(due int64) uint64 {
	for {
		number, end := uint64(due)<<dueBits, uint64(due+1)<<dueBits
		if last, ok := q.delayed.before(end); ok && last >= number {
			number = last + 1
		}
		if number < end {
			return number
		}
		due++
	}
}

// before returns the highest id below the one given.
func (ps *pages) before(id uint64) (uint64, bool) {
	if ps.n == 0 {
		return 0, false
	}
	i, at := ps.find(id)
	switch {
	case i < len(ps.list) && at > ps.list[i].low:
		return ps.list[i].entries[at-1].id, true
	case i > 0:
		return ps.list[i-1].last(), true
	}
	return 0, false
}

// releaseDue puts back what is due.
func (s *State) releaseDue(q *queue) {
	for q.delayed.n > 0 && dueTime(q.delayed.first().id) <= s.now {
		e := q.delayed.first()
		r := e.record
		s.sum -= q.waitKey() * fold(e.id, r.hash())
		q.delayed.dropFirst(&s.pool)
		s.putBack(q, &r)
	}
}

// forgetDelayed is the end of what waits, with its queue.
func (s *State) forgetDelayed(q *queue) {
	for e := range q.delayed.all() {
		s.sum -= q.waitKey() * fold(e.id, e.record.hash())
		s.release(&e.record)
	}
	q.delayed.clear(&s.pool)
}
