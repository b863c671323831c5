package queue

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestPages compares pages with a sorted slice, over pages enough for every way of splitting and joining them, and
// checks that what a snapshot has pinned stays.
func TestPages(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pt := &pagesTrial{t: t, g: &generator{t: t}}
		for range pt.g.number(1, 40) {
			pt.step()
			checkPages(t, &pt.ps)
			pt.compare("pages", slices.Collect(pt.ids()), pt.want)
		}
		for i, pages := range pt.pinned {
			pt.compare(fmt.Sprint("pinned at ", i), pinnedIDs(pages), pt.then[i])
		}
	})
}

type pagesTrial struct {
	t      *rapid.T
	g      *generator
	pool   pool
	ps     pages
	want   []uint64
	last   uint64
	pinned [][]*page
	then   [][]uint64
}

func (pt *pagesTrial) ids() func(func(uint64) bool) {
	return func(yield func(uint64) bool) {
		for e := range pt.ps.all() {
			if e.record.order != e.id || !yield(e.id) {
				return
			}
		}
	}
}

func pinnedIDs(pages []*page) (ids []uint64) {
	for _, pg := range pages {
		for _, e := range pg.live() {
			ids = append(ids, e.id)
		}
	}
	return ids
}

func (pt *pagesTrial) compare(what string, got, want []uint64) {
	if !slices.Equal(got, want) {
		pt.t.Fatalf("%s: %v, wanted %v", what, got, want)
	}
}

func (pt *pagesTrial) step() {
	n := pt.g.number(1, 200)
	switch pt.g.number(0, 7) {
	case 0, 1:
		for range n {
			pt.last += uint64(pt.g.number(1, 3))
			pt.ps.push(&pt.pool, pt.last).record.order = pt.last
			pt.want = append(pt.want, pt.last)
		}
	case 2, 3:
		for range n {
			pt.insert()
		}
	case 4:
		for range min(n, len(pt.want)) {
			pt.ps.dropFirst(&pt.pool)
			pt.want = pt.want[1:]
		}
	case 5, 6:
		from := uint64(pt.g.number(0, int(pt.last)))
		pt.cut(from, from+uint64(n))
	case 7:
		pt.pool.epoch++
		pt.pinned = append(pt.pinned, pt.ps.pin())
		pt.then = append(pt.then, slices.Clone(pt.want))
	}
}

// insert adds an id that is not there, mostly in between.
func (pt *pagesTrial) insert() {
	id := uint64(pt.g.number(1, int(pt.last)+10))
	at, ok := slices.BinarySearch(pt.want, id)
	if ok {
		return
	}
	pt.ps.insert(&pt.pool, id).record.order = id
	pt.want = slices.Insert(slices.Clone(pt.want), at, id)
	pt.last = max(pt.last, id)
}

func (pt *pagesTrial) cut(from, to uint64) {
	for {
		i, a, b := pt.ps.run(from, to)
		if a == b {
			break
		}
		pt.ps.cut(&pt.pool, i, a, b)
	}
	pt.want = slices.DeleteFunc(slices.Clone(pt.want), func(id uint64) bool { return id >= from && id <= to })
}
