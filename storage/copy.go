package storage

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// copyPlan says what becomes of the segments: those with little alive in them are written again, with what is copied from
// the log.
type copyPlan struct {
	next       uint64     // number of the next segment
	keep, drop []*segment // what is alive in those that drop is written again
	postponed  bool       // some are kept for want of room, and some are not
}

// maxSmall is how many segments of less than a quarter of the full size a group has before they become one. Each checkpoint
// makes one: without a bound, a queue in which one message in a million stays would end with a file for each of them.
const maxSmall = 8

// planCopy counts what is alive in each segment, in octets of its file.
func (g *Group) planCopy(floor uint64, live LiveRefs) copyPlan {
	alive := map[*segment]int64{}
	in := newLookup(g.segments)
	live.entries(floor, func(index uint64, parts []bodyPart, octets uint64) bool {
		if seg := in.find(index); seg != nil {
			alive[seg] += int64(segmentRecordSize(len(parts), octets)) + segmentIndexItem
		}
		return true
	})
	plan := copyPlan{next: 1}
	small := 0
	for _, seg := range g.segments {
		plan.next = max(plan.next, seg.number+1)
		if g.small(seg) {
			small++
		}
	}
	wanted := slices.DeleteFunc(slices.Clone(g.segments), func(seg *segment) bool {
		return alive[seg] >= seg.size/2 && !(small > maxSmall && g.small(seg))
	})
	slices.SortStableFunc(wanted, func(a, b *segment) int { return cmp.Compare(alive[a], alive[b]) })
	// What is alive is written before anything is given back. A disk that is nearly full, as may be the reason why so much was deleted,
	// is not to become full by that.
	room, drop := g.room(), map[*segment]bool{}
	progress := false
	for _, seg := range wanted {
		if room -= alive[seg]; room < 0 && alive[seg] > 0 {
			plan.postponed = progress
			break
		}
		drop[seg], progress = true, true
	}
	for _, seg := range g.segments {
		if drop[seg] {
			plan.drop = append(plan.drop, seg)
		} else {
			plan.keep = append(plan.keep, seg)
		}
	}
	return plan
}

// room is how much may be written again at once: half of what is free.
func (g *Group) room() int64 {
	free, err := g.s.fs.Free(g.dir)
	if err != nil {
		return math.MaxInt64 // a full disk is found when it is written to
	}
	return free / 2
}

func (g *Group) small(seg *segment) bool { return seg.size < g.s.o.SegmentSize/4 }

// copyLive copies the live parts of entries up to floor that are in no segment that is kept.
func (g *Group) copyLive(w *segmentWriter, plan copyPlan, floor uint64, live LiveRefs) error {
	var failed error
	kept := newLookup(plan.keep)
	live.entries(floor, func(index uint64, parts []bodyPart, _ uint64) bool {
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
