package queue

import (
	"encoding/binary"
	"math/bits"
)

// ProducerID names a producer, a series of numbered messages that somebody may send again, on any node: number n of a
// producer is always the same message. It is a digest of who and what the client says it is.
type ProducerID [16]byte

// The machine remembers of each producer which numbers it has seen, from the floor on: the lowest number that may still
// come again. One that was seen is answered as it was then and not stored again; one below the floor is refused, as
// whoever sends it has said that it is settled. What is forgotten, and when, follows from the entries alone
// (docs/adr/0004).
const (
	// ProducerWindow is how long a producer is remembered after its last message, in milliseconds of the entries' clock.
	ProducerWindow = 60 * 60 * 1000
	// MaxProducers is how many a shard remembers; one more forgets the one that was silent for longest.
	MaxProducers = 16384
	// ProducerSpan is how far a number may be above the lowest that may still come again.
	ProducerSpan = 16384
)

// producer is what is known of one.
type producer struct {
	id       ProducerID
	key      uint64   // see hash.go; odd
	floor    uint64   // no number below it comes again
	seen     []uint64 // bit i: floor&^63 + i was seen; without zeros at the end
	full     []uint64 // likewise: it was seen, and a queue was full; empty when there is none
	numbers  uint64   // sum of the hashes of what was seen
	lastUsed int64    // milliseconds
	sum      uint64   // its part of State.sum

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

func newProducer(id ProducerID) *producer {
	key := fold(binary.LittleEndian.Uint64(id[:]), binary.LittleEndian.Uint64(id[8:]))
	return &producer{id: id, key: key | 1}
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
		p = newProducer(id)
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

// has tells whether a number from the floor on is in a set.
func (p *producer) has(set []uint64, number uint64) bool {
	i := number - p.base()
	return i>>6 < uint64(len(set)) && set[i>>6]>>(i&63)&1 == 1
}

// base is the number of the sets' first bit.
func (p *producer) base() uint64 { return p.floor &^ 63 }

// add puts a number in a set.
func (p *producer) add(set *[]uint64, number uint64) {
	i := number - p.base()
	for uint64(len(*set)) <= i>>6 {
		*set = append(*set, 0)
	}
	(*set)[i>>6] |= 1 << (i & 63)
}

// note takes a number that has not been seen.
func (p *producer) note(number uint64, full bool) {
	p.add(&p.seen, number)
	if full {
		p.add(&p.full, number)
	}
	p.numbers += hashNumber(number, full)
}

// raise forgets the numbers below a floor.
func (p *producer) raise(floor uint64) {
	if floor <= p.floor {
		return
	}
	for n := range p.all {
		if n >= floor {
			break
		}
		p.numbers -= hashNumber(n, p.has(p.full, n))
	}
	words := floor>>6 - p.floor>>6
	p.floor = floor
	for _, set := range []*[]uint64{&p.seen, &p.full} {
		*set = (*set)[:copy(*set, (*set)[min(words, uint64(len(*set))):])]
		if len(*set) > 0 {
			(*set)[0] &^= 1<<(floor&63) - 1
		}
		for n := len(*set); n > 0 && (*set)[n-1] == 0; n-- {
			*set = (*set)[:n-1]
		}
	}
}

// all yields the numbers seen, in order.
func (p *producer) all(yield func(uint64) bool) {
	for i, set := range p.seen {
		for ; set != 0; set &= set - 1 {
			if !yield(p.base() + uint64(i)<<6 + uint64(bits.TrailingZeros64(set))) {
				return
			}
		}
	}
}

func hashNumber(number uint64, full bool) uint64 {
	if full {
		return fold(number, salt0)
	}
	return fold(number, salt1)
}

func (p *producer) hash() uint64 {
	return fold(p.key, fold(p.floor, uint64(p.lastUsed))) + p.key*p.numbers
}

func (p *producer) describe(sn *Snapshot) {
	sn.meta = append(sn.meta, p.id[:]...)
	sn.u64(p.floor)
	sn.u64(uint64(p.lastUsed))
	for _, set := range [][]uint64{p.seen, p.full} {
		sn.u16(uint16(len(set)))
		for _, word := range set {
			sn.u64(word)
		}
	}
}

// producers reads n producers, in the order in which they were used last.
func (d *decoder) producers(n uint32) {
	d.demand(n <= MaxProducers, "too many producers")
	lastUsed := int64(0)
	for ; n > 0 && d.err == nil; n-- {
		p := d.producer()
		d.demand(p.lastUsed >= lastUsed && p.lastUsed <= d.s.now && later(p.lastUsed, ProducerWindow) > d.s.now, "producers out of order")
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
	var id ProducerID
	copy(id[:], d.bytes(len(id))) // before the next read: the bytes are the buffer's
	p := newProducer(id)
	p.floor, p.lastUsed = d.u64(), d.time()
	p.seen, p.full = d.numbers(p), d.numbers(p)
	d.demand(p.floor > 0 && len(p.full) <= len(p.seen), "impossible producer")
	for i, word := range p.full {
		d.demand(i < len(p.seen) && word&^p.seen[i] == 0, "a number full that was not seen")
	}
	for n := range p.all {
		p.numbers += hashNumber(n, p.has(p.full, n))
	}
	return p
}

// numbers reads a set of a producer.
func (d *decoder) numbers(p *producer) (set []uint64) {
	n := d.u16()
	d.demand(n <= ProducerSpan/64+1, "producer with too many numbers")
	for ; n > 0 && d.err == nil; n-- {
		set = append(set, d.u64())
	}
	if len(set) > 0 && d.err == nil {
		d.demand(set[0]&(1<<(p.floor&63)-1) == 0 && set[len(set)-1] != 0 && p.base() <= 0-64*uint64(len(set)), "numbers out of bounds")
	}
	return set
}
