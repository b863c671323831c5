package storage

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// copyPlan says how much is copied from the log, and what becomes of the segments: those with little alive in them are written again with
// it.
type copyPlan struct {
	floor      uint64     // what is alive up to here is in segments then
	next       uint64     // number of the next segment
	keep, drop []*segment // what is alive in those that drop is written again
	postponed  bool       // some with little alive are kept, or the oldest log file, for want of room
}

// maxSmall is how many segments of less than a quarter of the full size a group has before they become one. Each checkpoint
// makes one: without a bound, a queue in which one message in a million stays would end with a file for each of them.
const maxSmall = 8

// planCopy decides by what is alive in each segment, in octets of its file, and in the log.
func (g *Group) planCopy(floors []uint64, live LiveRefs) copyPlan {
	plan := copyPlan{next: 1}
	free := g.free()
	alive, fromLog := g.planLog(&plan, floors, free, live)
	for _, seg := range g.segments {
		plan.next = max(plan.next, seg.number+1)
	}
	// What is alive is written before anything is given back. A disk that is nearly full, as may be the reason why so much was deleted,
	// is not to become full by that: those with the least alive go first, and some stay.
	room := free/2 - fromLog
	wasteful := slices.DeleteFunc(slices.Clone(g.segments), func(seg *segment) bool { return alive[seg] >= seg.size/2 })
	slices.SortStableFunc(wasteful, func(a, b *segment) int { return cmp.Compare(alive[a], alive[b]) })
	goes := map[*segment]bool{}
	for _, seg := range wasteful {
		if room -= alive[seg]; room < 0 && alive[seg] > 0 {
			plan.postponed = true
			break
		}
		goes[seg] = true
	}
	g.planMerge(alive, room, goes)
	for _, seg := range g.segments {
		if goes[seg] {
			plan.drop = append(plan.drop, seg)
		} else {
			plan.keep = append(plan.keep, seg)
		}
	}
	return plan
}

// planLog counts what is alive in each segment and what is to be copied from the log. From the floors that it is given it takes the highest
// for which there is room: each file that goes makes room for the next.
func (g *Group) planLog(plan *copyPlan, floors []uint64, free int64, live LiveRefs) (alive map[*segment]int64, fromLog int64) {
	plan.floor, alive = floors[len(floors)-1], map[*segment]int64{}
	in := newLookup(g.segments)
	at, before := 0, int64(0) // the entry under way is above floors[at-1], and so much is copied up to there
	live.entries(plan.floor, func(index uint64, parts []bodyPart, octets uint64) bool {
		size := int64(segmentRecordSize(len(parts), octets)) + segmentIndexItem
		if seg := in.find(index); seg != nil {
			alive[seg] += size
			return true
		}
		for ; index > floors[at]; at++ {
			before = fromLog
		}
		if fromLog += size; at > 0 && fromLog > g.roomForLog(free, at) {
			// Nothing in the segments remains uncounted: it is below everything that is in the log alone.
			fromLog, plan.floor, plan.postponed = before, floors[at-1], at == 1
			return false
		}
		return true
	})
	return alive, fromLog
}

// planMerge adds the small segments to those that go, if there are too many and all of them have room.
func (g *Group) planMerge(alive map[*segment]int64, room int64, goes map[*segment]bool) {
	var small []*segment
	for _, seg := range g.segments {
		if g.small(seg) && !goes[seg] {
			small = append(small, seg)
			room -= alive[seg]
		}
	}
	if len(small) <= maxSmall || room < 0 {
		return
	}
	for _, seg := range small {
		goes[seg] = true
	}
}

// roomForLog is how much may be copied from the first so many files of the log. A file goes when every group has copied what it has in it,
// which takes as much as the file at most, and the first ones that go become spares and make no room: who copies more than what is in the
// first one leaves so much, and half of what is free in any case.
func (g *Group) roomForLog(free int64, files int) int64 {
	if files == 1 {
		return free
	}
	return min(free/2, free-(1+maxSpares)*g.s.o.WALFileSize)
}

func (g *Group) free() int64 {
	free, err := g.s.fs.Free(g.dir)
	if err != nil {
		return math.MaxInt64 // a full disk is found when it is written to
	}
	return free
}

func (g *Group) small(seg *segment) bool { return seg.size < g.s.o.SegmentSize/4 }

// copyLive copies the live parts of entries up to the floor that are in no segment that is kept.
func (g *Group) copyLive(w *segmentWriter, plan copyPlan, live LiveRefs) error {
	var failed error
	kept := newLookup(plan.keep)
	live.entries(plan.floor, func(index uint64, parts []bodyPart, _ uint64) bool {
		if kept.find(index) == nil {
			failed = g.copyEntry(w, index, parts)
		}
		return failed == nil
	})
	if failed != nil {
		return failed
	}
	if err := w.finish(); err != nil {
		return err
	}
	if len(w.done) > 0 {
		return g.s.fs.SyncDir(g.dir)
	}
	return nil
}

func (g *Group) copyEntry(w *segmentWriter, index uint64, parts []bodyPart) error {
	octets, err := g.gather(w.octets[:0], index, parts)
	if err != nil {
		return err
	}
	w.octets = octets
	return w.add(index, parts, octets)
}

// gather reads the parts of an entry one after the other. What is read from the disk does not displace what is recent.
func (g *Group) gather(dst []byte, index uint64, parts []bodyPart) ([]byte, error) {
	piece := g.fromCache(index)
	for _, p := range parts {
		var body []byte
		ok := false
		if piece != nil {
			body, ok = piece.body(p.offset, p.size)
		}
		if !ok {
			var err error
			if piece, err = g.read(index, false); err != nil {
				return nil, err
			}
			if body, ok = piece.body(p.offset, p.size); !ok {
				return nil, fmt.Errorf("%d octets at %d of entry %d: %w", p.size, p.offset, index, ErrNotFound)
			}
		}
		dst = append(dst, body...)
	}
	return dst, nil
}
