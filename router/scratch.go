package router

import "slices"

// Scratch is working space for Route. The zero value is ready. A goroutine that routes keeps one and gives it to every
// call, whatever table, exchange or message; two calls at a time must not share one. It holds nothing between calls
// but space, of a bounded size (a few MB after very wide routes).
type Scratch struct {
	work      []*Exchange // exchanges met, in the order in which they are routed from
	exchanges idSet       // the same, when there are many
	queues    idSet       // destinations met, when there are many
	topic     topicWalk
}

const (
	// scanLimit is the length up to which a list is searched from end to end rather than through an idSet.
	scanLimit = 32
	// keptSlots is how many slots of 16 bytes an idSet may keep from one use to the next.
	keptSlots = 1 << 17
	// keptNodes is the same for lists of pointers.
	keptNodes = 1 << 14
)

// fresh tells whether e is not in list. If so, the caller must append it; then a long list is mirrored in set.
func fresh[E interface {
	comparable
	hash() uint64
}](list []E, e E, set *idSet) bool {
	if len(list) < scanLimit {
		return !slices.Contains(list, e)
	}
	if set.count == 0 {
		for _, known := range list {
			set.add(known.hash())
		}
	}
	return set.add(e.hash())
}

// idSet is a set of numbers that are well mixed already. It is emptied by moving on to the next generation.
type idSet struct {
	slots      []idSlot
	generation uint64
	count      int
}

type idSlot struct {
	id         uint64
	generation uint64
}

func (s *idSet) reset() {
	s.generation++
	s.count = 0
}

// add returns false when the number was in the set already.
func (s *idSet) add(id uint64) bool {
	if 2*s.count >= len(s.slots) {
		s.grow()
	}
	mask := uint64(len(s.slots) - 1)
	for i := id & mask; ; i = (i + 1) & mask {
		switch slot := &s.slots[i]; {
		case slot.generation != s.generation:
			*slot = idSlot{id, s.generation}
			s.count++
			return true
		case slot.id == id:
			return false
		}
	}
}

func (s *idSet) grow() {
	old, generation := s.slots, s.generation
	*s = idSet{slots: make([]idSlot, max(4*scanLimit, 2*len(old))), generation: 1}
	for _, slot := range old {
		if slot.generation == generation {
			s.add(slot.id)
		}
	}
}

// release gives back space beyond the bound.
func (s *idSet) release() {
	if len(s.slots) > keptSlots {
		*s = idSet{}
	}
}

// emptied clears a list for the next use, or drops it when it has grown beyond the bound.
func emptied[T any](list []T) []T {
	clear(list)
	if cap(list) > keptNodes {
		return nil
	}
	return list[:0]
}
