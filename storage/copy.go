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
	kept       []*segment // of log files that stay as they are
	upTo       []uint64   // and the last index in each
	alive      map[*segment]int64
	next       uint64     // number of the next segment
	keep, drop []*segment // what is alive in those that drop is written again
	postponed  bool       // some with little alive are kept, or the oldest log file, for want of room
}

// maxSmall is how many segments of less than a quarter of the full size a group has before they become one. Each checkpoint
// makes one: without a bound, a queue in which one message in a million stays would end with a file for each of them.
const maxSmall = 8

// planCopy decides by what is alive in each segment, in octets of its file, and in the log.
func (g *Group) planCopy(files []leaving, live LiveRefs) copyPlan {
	plan := copyPlan{next: 1}
	free := g.free()
	fromLog := g.planLog(&plan, files, free, live)
	alive := plan.alive
	for _, seg := range g.segments {
		plan.next = max(plan.next, seg.number+1)
	}
	// What is alive is written before anything is given back. A disk that is nearly full, as may be the reason why so much was deleted,
	// is not to become full by that: those with the least alive go first, and some stay.
	room := free/2 - fromLog
	wasteful := slices.DeleteFunc(slices.Clone(g.segments), func(seg *segment) bool { return !g.wasteful(seg, alive[seg]) })
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

// planLog counts what is alive in each segment and what is to be copied from the log. Of the files that are to go it takes as many as there
// is room for: each makes room for the next. Those that are nearly all alive are kept as they are.
func (g *Group) planLog(plan *copyPlan, files []leaving, free int64, live LiveRefs) (fromLog int64) {
	plan.floor, plan.alive = files[len(files)-1].floor, map[*segment]int64{}
	in := newLookup(g.segments)
	at, octets := 0, make([]int64, len(files)) // the entry under way is in files[at], of which so much is alive
	live.entries(plan.floor, func(index uint64, parts []bodyPart, n uint64) bool {
		size := int64(segmentRecordSize(len(parts), n)) + segmentIndexItem
		if seg := in.find(index); seg != nil {
			plan.alive[seg] += size
			return true
		}
		for index > files[at].floor {
			at++
		}
		octets[at] += size
		return true
	})
	fromLog = octets[0]
	copied := 0 // files
	for at := 1; at < len(files); at++ {
		if files[at].whole {
			if seg := g.keepLog(files[at].number, octets[at]); seg != nil {
				plan.kept, plan.upTo = append(plan.kept, seg), append(plan.upTo, files[at].floor)
				continue
			}
		}
		copied++
		if fromLog += octets[at]; octets[at] > 0 && fromLog > g.roomForLog(free, copied) {
			fromLog -= octets[at]
			plan.floor, plan.postponed = files[at-1].floor, at == 1
			break
		}
	}
	return fromLog
}

// planMerge adds the small segments to those that go, if there are too many and all of them have room.
func (g *Group) planMerge(alive map[*segment]int64, room int64, goes map[*segment]bool) {
	var small []*segment
	for _, seg := range g.segments {
		if seg.log == nil && g.small(seg) && !goes[seg] {
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

// copyLive copies the live parts of entries up to the floor that are in no segment that is kept, and notes where they are in the log files
// that are.
func (g *Group) copyLive(w *segmentWriter, plan copyPlan, live LiveRefs) error {
	var failed error
	in := newLookup(plan.keep)
	g.mu.RLock()
	base, locs := g.base, g.locs // entries up to a checkpoint's index are committed: no truncation changes this part of the list
	g.mu.RUnlock()
	items := make([][]segmentItem, len(plan.kept))
	live.entries(plan.floor, func(index uint64, parts []bodyPart, _ uint64) bool {
		if in.find(index) != nil {
			return true
		}
		if i, _ := slices.BinarySearch(plan.upTo, index); i < len(plan.kept) && index >= base {
			if l := locs[index-base]; uint64(l.number) == plan.kept[i].log.number {
				items[i] = append(items[i], segmentItem{index: index, at: l.at})
				return true
			}
		}
		failed = g.copyEntry(w, index, parts)
		return failed == nil
	})
	if failed != nil {
		return failed
	}
	if err := w.finish(); err != nil {
		return err
	}
	for i, seg := range plan.kept {
		if err := w.complete(seg, items[i]); err != nil {
			return err
		}
	}
	if len(w.done)+len(w.kept) > 0 {
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
