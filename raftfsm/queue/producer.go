package queue

import (
	"encoding/binary"
	"slices"
)

// ProducerID names a producer, a series of messages with growing numbers that somebody may send again, on any node:
// sequence n of a producer is always the same message. It is a digest of who and what the client says it is.
type ProducerID [16]byte

// The machine remembers of each producer the highest number that came to its shard. A number up to it has been here
// before, since numbers come in order, and is answered as it was then and not stored again. What is forgotten, and when,
// follows from the entries alone (docs/adr/0004).
const (
	// ProducerWindow is how long a producer is remembered after its last message, in milliseconds of the entries' clock.
	ProducerWindow = 60 * 60 * 1000
	// MaxProducers is how many a shard remembers; one more forgets the one that was silent for longest.
	MaxProducers = 16384
	// maxRefusals bounds the runs of refused messages remembered of a producer. A number from before them is answered as
	// refused, whatever it was: nobody takes that for stored.
	maxRefusals = 64
)

// producer is what is known of one.
type producer struct {
	id       ProducerID
	last     uint64  // the highest number seen
	refused  []Range // the runs of numbers that were refused, with no accepted one between their ends; ascending
	unknown  uint64  // up to this number it is not known any more what was refused
	lastUsed int64   // milliseconds
	sum      uint64  // its part of State.sum

	older, newer *producer
}

// producers are all of a shard, in the order in which they were used last.
type producers struct {
	byID           map[ProducerID]*producer
	oldest, newest *producer
}

func (ps *producers) unlink(p *producer) {
	if p.older != nil {
		p.older.newer = p.newer
	} else {
		ps.oldest = p.newer
	}
	if p.newer != nil {
		p.newer.older = p.older
	} else {
		ps.newest = p.older
	}
	p.older, p.newer = nil, nil
}

// append makes p the newest.
func (ps *producers) append(p *producer) {
	if p.older = ps.newest; p.older != nil {
		p.older.newer = p
	} else {
		ps.oldest = p
	}
	ps.newest = p
}

// producer returns what is known of a producer, which is used now; a new one pushes out the oldest of too many.
func (s *State) producer(id ProducerID) *producer {
	ps := &s.producers
	p := ps.byID[id]
	if p != nil {
		ps.unlink(p)
	} else {
		if len(ps.byID) >= MaxProducers {
			s.forgetProducer(ps.oldest)
		}
		p = &producer{id: id}
		ps.byID[id] = p
	}
	p.lastUsed = s.now
	ps.append(p)
	return p
}

func (s *State) forgetProducer(p *producer) {
	s.producers.unlink(p)
	delete(s.producers.byID, p.id)
	s.resum(&p.sum, 0)
}

// forgetSilentProducers forgets those whose window is over.
func (s *State) forgetSilentProducers() {
	for p := s.producers.oldest; p != nil && later(p.lastUsed, ProducerWindow) <= s.now; p = s.producers.oldest {
		s.forgetProducer(p)
	}
}

// wasRefused tells how a number up to the last was answered.
func (p *producer) wasRefused(sequence uint64) bool {
	if sequence <= p.unknown {
		return true
	}
	i, _ := slices.BinarySearchFunc(p.refused, sequence, func(r Range, sequence uint64) int {
		if r.To < sequence {
			return -1
		}
		return 1
	})
	return i < len(p.refused) && p.refused[i].From <= sequence
}

// note takes the next number and how it was answered.
func (p *producer) note(sequence uint64, refused bool) {
	if refused {
		p.refuse(sequence)
	}
	p.last = sequence
}

func (p *producer) refuse(sequence uint64) {
	if n := len(p.refused); n > 0 && p.refused[n-1].To == p.last {
		p.refused[n-1].To = sequence
		return
	}
	if len(p.refused) == maxRefusals {
		p.unknown = p.refused[0].To
		p.refused = slices.Delete(p.refused, 0, 1)
	}
	p.refused = append(p.refused, Range{sequence, sequence})
}

func (p *producer) hash() uint64 {
	h := fold(binary.LittleEndian.Uint64(p.id[:])^salt0, binary.LittleEndian.Uint64(p.id[8:]))
	h = fold(fold(h, p.last), fold(p.unknown, uint64(p.lastUsed)))
	for _, r := range p.refused {
		h = fold(h, fold(r.From, r.To))
	}
	return h
}

func (p *producer) describe(sn *Snapshot) {
	sn.meta = append(sn.meta, p.id[:]...)
	sn.u64(p.last)
	sn.u64(p.unknown)
	sn.u64(uint64(p.lastUsed))
	sn.u32(uint32(len(p.refused)))
	for _, r := range p.refused {
		sn.u64(r.From)
		sn.u64(r.To)
	}
}

// producers reads n producers, in the order in which they were used last.
func (d *decoder) producers(n uint32) {
	d.demand(n <= MaxProducers, "too many producers")
	lastUsed := int64(0)
	for ; n > 0 && d.err == nil; n-- {
		p := d.producer()
		d.demand(p.lastUsed >= lastUsed && p.lastUsed <= d.s.now, "producers out of order")
		d.demand(d.s.producers.byID[p.id] == nil, "a producer twice")
		if d.err != nil {
			return
		}
		lastUsed = p.lastUsed
		d.s.producers.byID[p.id] = p
		d.s.producers.append(p)
		d.s.resum(&p.sum, p.hash())
	}
}

func (d *decoder) producer() *producer {
	p := &producer{}
	copy(p.id[:], d.bytes(len(p.id))) // before the next read: the bytes are the buffer's
	p.last, p.unknown, p.lastUsed = d.u64(), d.u64(), d.time()
	n := d.u32()
	d.demand(p.last > 0 && p.unknown <= p.last && n <= maxRefusals, "impossible producer")
	before := p.unknown
	for ; n > 0 && d.err == nil; n-- {
		r := Range{d.u64(), d.u64()}
		d.demand(r.From > before && r.To >= r.From && r.To <= p.last, "refusals out of order")
		p.refused = append(p.refused, r)
		before = r.To
	}
	return p
}
