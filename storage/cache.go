package storage

import (
	"cmp"
	"slices"
	"sync"
	"unsafe"
)

// cache holds recent entries and records that were read back, up to a number of octets, over all groups. What came first
// goes first: a queue is read in the order in which it was filled.
type cache struct {
	limit int64

	mu   sync.Mutex // guards the ring
	used int64
	ring []cached // in order of arrival from head on
	head int
}

// cached is one thing in a group's map.
type cached struct {
	group *Group
	index uint64
	piece *piece
	bytes int64
}

// piece is an entry's data, or what is alive of it.
type piece struct {
	entry  Entry
	whole  bool       // entry is complete; otherwise only the parts are there
	parts  []bodyPart // of a segment's record, by offset
	octets []byte     // the parts' octets, one after the other
}

// size is how many octets it has.
func (p *piece) size() int64 {
	return int64(len(p.entry.Data)+len(p.entry.Extensions)+len(p.octets)) + int64(len(p.parts))*int64(unsafe.Sizeof(bodyPart{}))
}

// bodyPart is a live range of an entry's data, and where its octets begin in a segment's record.
type bodyPart struct{ offset, size, at uint32 }

// overhead is about what a cached entry costs beside its data.
const overhead = 128

func newCache(limit int64) *cache { return &cache{limit: limit} }

// add puts things into their groups' maps and drops the oldest beyond the limit. The caller holds no group's cacheMu.
func (c *cache) add(items ...cached) {
	byGroup(items, func(it *cached) { it.group.cached[it.index] = it.piece })
	byGroup(c.admit(items), func(it *cached) {
		if it.group.cached[it.index] == it.piece {
			delete(it.group.cached, it.index)
		}
	})
}

// byGroup does something under cacheMu, which is taken once for things of the same group that follow one another.
func byGroup(items []cached, do func(it *cached)) {
	for i := 0; i < len(items); {
		g := items[i].group
		g.cacheMu.Lock()
		for ; i < len(items) && items[i].group == g; i++ {
			do(&items[i])
		}
		g.cacheMu.Unlock()
	}
}

// admit counts the items and returns those that must go for them.
func (c *cache) admit(items []cached) (victims []cached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, it := range items {
		c.ring = append(c.ring, it)
		c.used += it.bytes
	}
	for c.used > c.limit && c.head < len(c.ring) {
		victims = append(victims, c.ring[c.head])
		c.used -= c.ring[c.head].bytes
		c.ring[c.head] = cached{}
		c.head++
	}
	if c.head > 1024 && c.head > len(c.ring)/2 {
		n := copy(c.ring, c.ring[c.head:])
		clear(c.ring[n:])
		c.ring, c.head = c.ring[:n], 0
	}
	return victims
}

// body finds a range of the entry's data.
func (p *piece) body(offset, size uint32) ([]byte, bool) {
	if p.whole {
		if uint64(offset)+uint64(size) > uint64(len(p.entry.Data)) {
			return nil, false
		}
		return p.entry.Data[offset : offset+size : offset+size], true
	}
	at, found := slices.BinarySearchFunc(p.parts, offset, func(part bodyPart, o uint32) int { return cmp.Compare(part.offset, o) })
	if !found || p.parts[at].size != size {
		return nil, false
	}
	start := p.parts[at].at
	return p.octets[start : start+size : start+size], true
}
