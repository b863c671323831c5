package storage

import "slices"

// LiveRefs gives the references that are alive to entries with indexes in [min, max], in ascending order of index and
// offset; one that comes twice counts once. It must give the same until the call that it was handed to has returned.
type LiveRefs func(min, max uint64, yield func(index uint64, offset, size uint32) bool)

// entries gives what is alive of each entry up to an index: its parts, which are only lent, and how many octets they have.
func (live LiveRefs) entries(to uint64, yield func(index uint64, parts []bodyPart, octets uint64) bool) {
	var index, octets uint64
	var parts []bodyPart
	more := true
	flush := func() bool {
		if len(parts) > 0 {
			more = yield(index, parts, octets)
		}
		parts, octets = parts[:0], 0
		return more
	}
	live(0, to, func(i uint64, offset, size uint32) bool {
		if i != index && !flush() {
			return false
		}
		index = i
		if n := len(parts); n == 0 || parts[n-1].offset != offset {
			parts = append(parts, bodyPart{offset: offset, size: size})
			octets += uint64(size)
		}
		return true
	})
	if more {
		flush()
	}
}

// lookup finds entries in segments, and is quick when they are asked for in ascending order: a million are, for a
// checkpoint of a deep queue.
type lookup struct {
	segments []*segment
	highest  uint64   // index in any of them
	seg      *segment // where the last one was
	at       int      // and its place
}

func newLookup(segments []*segment) *lookup {
	l := &lookup{segments: segments}
	for _, seg := range segments {
		if n := len(seg.items); n > 0 {
			l.highest = max(l.highest, seg.items[n-1].index)
		}
	}
	return l
}

// find returns the segment that has the index, or nil.
func (l *lookup) find(index uint64) *segment {
	if index > l.highest {
		return nil
	}
	if l.seg != nil {
		// Most often it is the next one. What lies between is dead, so a few steps are worth trying.
		for i := l.at; i < min(l.at+8, len(l.seg.items)) && l.seg.items[i].index <= index; i++ {
			if l.seg.items[i].index == index {
				l.at = i
				return l.seg
			}
		}
	}
	seg, it, ok := inSegments(l.segments, index)
	if !ok {
		return nil
	}
	l.seg = seg
	l.at, _ = slices.BinarySearchFunc(seg.items, it.index, compareItem)
	return seg
}
