package queue

import "iter"

// lane holds the ready messages of one priority of a queue in order. Messages that were never delivered only join at
// the end and leave at the front; those that came back are kept apart, sorted. As messages are delivered in order,
// whatever came back is older than whatever was never out.
type lane struct {
	head, tail *block
	skip       uint32 // records of head that are gone
	fill       uint32 // records of tail that are written
	fresh      int    // messages never delivered
	back       pages  // messages that came back, by order number
}

func (l *lane) len() int { return l.fresh + l.back.n }

// push returns the place for a new message at the end, whose content is left over from another.
func (l *lane) push(p *pool) *record {
	if l.tail == nil || int(l.fill) == len(l.tail.records) {
		l.grow(p)
	}
	r := &l.tail.records[l.fill]
	l.fill++
	l.fresh++
	return r
}

func (l *lane) grow(p *pool) {
	b := p.block(l.tail != nil)
	if l.tail == nil {
		l.head, l.skip = b, 0
	} else {
		l.tail.next = b // a snapshot that reads the tail stops before this link
	}
	l.tail, l.fill = b, 0
}

// front returns the first message, which must not be changed, or nil.
func (l *lane) front() *record {
	if l.back.n > 0 {
		return &l.back.first().record
	}
	if l.fresh > 0 {
		return &l.head.records[l.skip]
	}
	return nil
}

// drop removes the first message; there must be one.
func (l *lane) drop(p *pool) {
	if l.back.n > 0 {
		l.back.dropFirst(p)
		return
	}
	l.skip++
	l.fresh--
	switch {
	case l.fresh == 0:
		l.rest(p)
	case int(l.skip) == len(l.head.records):
		next := l.head.next
		p.freeBlock(l.head)
		l.head, l.skip = next, 0
	}
}

// rest is the end of the last fresh message: head is tail. A small block that no snapshot reads is used again.
func (l *lane) rest(p *pool) {
	if l.head.epoch == p.epoch && len(l.head.records) == smallBlock {
		l.skip, l.fill = 0, 0
		return
	}
	p.freeBlock(l.head)
	l.head, l.tail, l.skip, l.fill = nil, nil, 0, 0
}

// putBack takes a message that was out to its old place.
func (l *lane) putBack(p *pool, r *record) {
	e := l.back.insert(p, r.order)
	e.queue, e.record = 0, *r
}

// clear removes all messages.
func (l *lane) clear(p *pool) {
	l.back.clear(p)
	for l.head != nil {
		next := l.head.next
		if l.head == l.tail {
			next = nil
		}
		p.freeBlock(l.head)
		l.head = next
	}
	*l = lane{}
}

// pin returns a view of the fresh messages that stays as it is.
func (l *lane) pin() span { return span{l.head, l.skip, l.fresh} }

// all yields the messages in order.
func (l *lane) all() iter.Seq[*record] {
	return func(yield func(*record) bool) {
		for e := range l.back.all() {
			if !yield(&e.record) {
				return
			}
		}
		for part := range l.pin().parts() {
			for i := range part {
				if !yield(&part[i]) {
					return
				}
			}
		}
	}
}

// span is a run of records through blocks: what a snapshot holds of a lane.
type span struct {
	head *block
	skip uint32
	n    int
}

// next cuts off the records in the first block.
func (s *span) next() []record {
	part := s.head.records[s.skip:]
	part = part[:min(len(part), s.n)]
	s.n -= len(part)
	s.skip = 0
	if s.n > 0 { // otherwise the link may be written at this moment
		s.head = s.head.next
	}
	return part
}

// parts yields the records block by block.
func (s span) parts() iter.Seq[[]record] {
	return func(yield func([]record) bool) {
		for s.n > 0 && yield(s.next()) {
		}
	}
}
