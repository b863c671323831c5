package queue

import (
	"iter"
	"slices"
	"sort"
)

// entry is a message under a number: out with a consumer under its delivery id, or back in a lane under its order.
type entry struct {
	id     uint64
	queue  QueueID // of a message that is out
	record record
}

const entrySize = 16 + recordSize

// page holds entries in ascending order of id, from low on. A page that a snapshot may read (its epoch is over) is
// replaced by a copy instead of changed.
type page struct {
	epoch   uint64
	low     int // entries below are gone
	entries []entry
}

func (pg *page) live() []entry { return pg.entries[pg.low:] }

func (pg *page) full() bool { return len(pg.entries) == cap(pg.entries) }

// pages is an ordered set of entries. Taking the first or a run, adding at the end and adding in between cost what is
// touched. Only the one page of an empty set is empty, and sparse neighbours are merged, so that a few old entries hold
// little memory.
type pages struct {
	list []*page
	n    int
}

const (
	pageCap    = 64
	sparsePage = 16 // a page with less joins a neighbour if both fit in half a page
)

func (ps *pages) first() *entry { return &ps.list[0].entries[ps.list[0].low] }

// own returns the page at i fit to be changed.
func (ps *pages) own(p *pool, i int) *page {
	pg := ps.list[i]
	if pg.epoch == p.epoch {
		return pg
	}
	return ps.replace(p, i, max(len(pg.live()), min(cap(pg.entries), pageCap)))
}

// replace moves the page at i to one with room for n.
func (ps *pages) replace(p *pool, i, n int) *page {
	old := ps.list[i]
	pg := p.page(n)
	pg.entries = append(pg.entries, old.live()...)
	ps.list[i] = pg
	p.freePage(old)
	return pg
}

// push adds an entry at the end; id must be above all. Its other fields are left over from another.
func (ps *pages) push(p *pool, id uint64) *entry {
	last := len(ps.list) - 1
	if last < 0 {
		ps.list = append(ps.list, p.page(1))
		last = 0
	}
	pg := ps.own(p, last)
	if pg.full() {
		pg = ps.extend(p, last)
	}
	ps.n++
	pg.entries = pg.entries[:len(pg.entries)+1]
	e := &pg.entries[len(pg.entries)-1]
	e.id = id
	return e
}

// extend makes room at the end of the last page, or starts another.
func (ps *pages) extend(p *pool, last int) *page {
	pg := ps.list[last]
	switch {
	case pg.low >= cap(pg.entries)/2:
		n := copy(pg.entries, pg.live())
		pg.low, pg.entries = 0, pg.entries[:n]
		return pg
	case cap(pg.entries) < pageCap:
		return ps.replace(p, last, cap(pg.entries)+1)
	default:
		pg = p.page(pageCap)
		ps.list = append(ps.list, pg)
		return pg
	}
}

// insert adds an entry at its place; the id must not be there. Its other fields are left over from another.
func (ps *pages) insert(p *pool, id uint64) *entry {
	i, _ := ps.find(id)
	if i == len(ps.list) {
		return ps.push(p, id)
	}
	pg := ps.own(p, i)
	if pg.low == 0 && pg.full() {
		ps.split(p, i)
		return ps.insert(p, id)
	}
	_, at := ps.find(id)
	ps.n++
	if pg.low > 0 {
		pg.low--
		copy(pg.entries[pg.low:], pg.entries[pg.low+1:at])
		at--
	} else {
		pg.entries = pg.entries[:len(pg.entries)+1]
		copy(pg.entries[at+1:], pg.entries[at:])
	}
	e := &pg.entries[at]
	e.id = id
	return e
}

// split makes room in a full page.
func (ps *pages) split(p *pool, i int) {
	pg := ps.list[i]
	if cap(pg.entries) < pageCap {
		ps.replace(p, i, cap(pg.entries)+1)
		return
	}
	right := p.page(pageCap)
	right.entries = append(right.entries, pg.entries[pageCap/2:]...)
	pg.entries = pg.entries[:pageCap/2]
	ps.list = slices.Insert(ps.list, i+1, right)
}

// find returns the place of the first entry with an id not below: its page and its place in page.entries.
func (ps *pages) find(id uint64) (i, at int) {
	if ps.n == 0 {
		return len(ps.list), 0
	}
	if ps.list[0].last() < id { // seldom
		i = sort.Search(len(ps.list), func(i int) bool { return ps.list[i].last() >= id })
	}
	if i == len(ps.list) {
		return i, 0
	}
	pg := ps.list[i]
	if pg.entries[pg.low].id >= id {
		return i, pg.low
	}
	live := pg.live()
	return i, pg.low + sort.Search(len(live), func(k int) bool { return live[k].id >= id })
}

func (pg *page) last() uint64 { return pg.entries[len(pg.entries)-1].id }

// run returns the entries with ids from from to to as far as they are in one page: page i, places a to b.
func (ps *pages) run(from, to uint64) (i, a, b int) {
	i, a = ps.find(from)
	if i == len(ps.list) {
		return i, 0, 0
	}
	pg := ps.list[i]
	if pg.last() <= to {
		return i, a, len(pg.entries)
	}
	for b = a; pg.entries[b].id <= to; b++ {
	}
	return i, a, b
}

// cut removes the places a to b of page i, found by run.
func (ps *pages) cut(p *pool, i, a, b int) {
	ps.n -= b - a
	if b-a == len(ps.list[i].live()) {
		ps.remove(p, i)
		return
	}
	low := ps.list[i].low
	pg := ps.own(p, i)
	a, b = a-low+pg.low, b-low+pg.low
	if a == pg.low {
		pg.low = b
	} else {
		pg.entries = slices.Delete(pg.entries, a, b)
	}
	if len(ps.list) > 1 && len(pg.live()) < sparsePage {
		ps.merge(p, i)
	}
}

func (ps *pages) dropFirst(p *pool) {
	low := ps.list[0].low
	ps.cut(p, 0, low, low+1)
}

// remove takes out the page at i, all of whose entries are gone.
func (ps *pages) remove(p *pool, i int) {
	pg := ps.list[i]
	if len(ps.list) == 1 && pg.epoch == p.epoch && cap(pg.entries) < pageCap && ps.n == 0 {
		pg.low, pg.entries = 0, pg.entries[:0]
		return
	}
	p.freePage(pg)
	if i == 0 && len(ps.list) > pageCap {
		ps.list[0] = nil
		ps.list = ps.list[1:] // moving all the others would make a long list slow
		return
	}
	ps.list = slices.Delete(ps.list, i, i+1)
}

// merge joins the sparse page at i with a neighbour, if that is sparse enough too.
func (ps *pages) merge(p *pool, i int) {
	if i+1 == len(ps.list) {
		i--
	}
	left, right := ps.list[i].live(), ps.list[i+1].live()
	if len(left)+len(right) > pageCap/2 {
		return
	}
	pg := p.page(pageCap)
	pg.entries = append(append(pg.entries, left...), right...)
	p.freePage(ps.list[i])
	p.freePage(ps.list[i+1])
	ps.list[i] = pg
	ps.list = slices.Delete(ps.list, i+1, i+2)
}

func (ps *pages) clear(p *pool) {
	for _, pg := range ps.list {
		p.freePage(pg)
	}
	*ps = pages{}
}

// all yields the entries in order; they must not be changed.
func (ps *pages) all() iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		for _, pg := range ps.list {
			for i := range pg.live() {
				if !yield(&pg.live()[i]) {
					return
				}
			}
		}
	}
}

// backward yields the entries from the last on; they must not be changed.
func (ps *pages) backward() iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		for i := len(ps.list) - 1; i >= 0; i-- {
			live := ps.list[i].live()
			for k := len(live) - 1; k >= 0; k-- {
				if !yield(&live[k]) {
					return
				}
			}
		}
	}
}

// pin returns the pages as they are; they will not change.
func (ps *pages) pin() []*page {
	if ps.n == 0 {
		return nil
	}
	return slices.Clone(ps.list)
}
