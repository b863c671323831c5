package queue

import (
	"container/heap"
	"slices"
)

// LiveRefs yields where the envelopes that the snapshot needs lie, as far as their entries are from min to max (both
// included): in order of index and offset, each once. Runs of messages outside the range cost next to nothing.
func (sn *Snapshot) LiveRefs(min, max uint64, yield func(index uint64, offset, size uint32) bool) {
	m := merger{max: max}
	m.add(sn.looseRefs(min, max))
	for i := range sn.parts {
		if p := &sn.parts[i]; p.bare {
			m.addLane(p, min)
		}
	}
	heap.Init(&m.sources)
	var last place
	for len(m.sources) > 0 {
		r := m.sources[0].ref
		if at := (place{r.Index, r.Offset}); at != last {
			last = at
			if !yield(r.Index, r.Offset, r.Size) {
				return
			}
		}
		m.advance()
	}
}

// looseRefs collects and sorts what is not in order anyway: all but ready messages.
func (sn *Snapshot) looseRefs(min, max uint64) []Ref {
	from, _ := slices.BinarySearchFunc(sn.refs, Ref{Index: min}, compareRefs)
	var refs []Ref
	for _, r := range sn.refs[from:] {
		if r.Index > max {
			break
		}
		refs = append(refs, r)
	}
	for i := range sn.parts {
		if sn.parts[i].bare {
			continue
		}
		for _, pg := range sn.parts[i].pages {
			for k := range pg.live() {
				if r := &pg.live()[k].record; r.index >= min && r.index <= max && r.plain() {
					refs = append(refs, r.ref())
				}
			}
		}
	}
	slices.SortFunc(refs, compareRefs)
	return refs
}

// plain tells whether the record's own reference is the whole envelope, and not empty.
func (r *record) plain() bool { return r.flags&recordLarge == 0 && r.size > 0 }

// merger reads several ordered sources as one.
type merger struct {
	max     uint64
	sources sources
}

// source is an ordered run of references with the next one at hand.
type source struct {
	ref     Ref
	refs    []Ref    // then these
	entries []entry  // or these
	pages   []*page  // and those after them,
	records []record // then these
	span    span     // and those after them
}

func (m *merger) add(refs []Ref) {
	if len(refs) > 0 {
		m.sources = append(m.sources, &source{ref: refs[0], refs: refs[1:]})
	}
}

// addLane adds the records of a lane from min on. Their entries only grow along it.
func (m *merger) addLane(p *part, min uint64) {
	src := &source{pages: p.pages, span: p.span}
	if src.skipPages(min); len(src.entries) == 0 {
		src.skipRecords(min)
	}
	if src.next(m.max) {
		m.sources = append(m.sources, src)
	}
}

// skipPages leaves those entries of the pages that reach min.
func (src *source) skipPages(min uint64) {
	for len(src.pages) > 0 {
		live := src.pages[0].live()
		src.pages = src.pages[1:]
		if live[len(live)-1].record.index >= min {
			from, _ := slices.BinarySearchFunc(live, min, func(e entry, min uint64) int { return reach(&e.record, min) })
			src.entries = live[from:]
			return
		}
	}
}

// skipRecords does the same with the records after them.
func (src *source) skipRecords(min uint64) {
	for src.span.n > 0 {
		records := src.span.next()
		if records[len(records)-1].index >= min {
			from, _ := slices.BinarySearchFunc(records, min, func(r record, min uint64) int { return reach(&r, min) })
			src.records = records[from:]
			return
		}
	}
}

// reach compares for a search of the first record with an index of min or more.
func reach(r *record, min uint64) int {
	if r.index < min {
		return -1
	}
	return 1
}

// advance moves the first source on.
func (m *merger) advance() {
	if m.sources[0].next(m.max) {
		heap.Fix(&m.sources, 0)
	} else {
		heap.Pop(&m.sources)
	}
}

// next takes the next reference up to max.
func (src *source) next(max uint64) bool {
	if len(src.refs) > 0 {
		src.ref, src.refs = src.refs[0], src.refs[1:]
		return true
	}
	for {
		r := src.record()
		if r == nil || r.index > max {
			return false
		}
		if r.plain() {
			src.ref = r.ref()
			return true
		}
	}
}

// record takes the next record of a lane, or nil at its end.
func (src *source) record() (r *record) {
	if len(src.entries) == 0 && len(src.pages) > 0 {
		src.entries, src.pages = src.pages[0].live(), src.pages[1:]
	}
	if len(src.entries) > 0 {
		r, src.entries = &src.entries[0].record, src.entries[1:]
		return r
	}
	if len(src.records) == 0 && src.span.n > 0 {
		src.records = src.span.next()
	}
	if len(src.records) > 0 {
		r, src.records = &src.records[0], src.records[1:]
	}
	return r
}

type sources []*source

func (s sources) Len() int           { return len(s) }
func (s sources) Less(i, j int) bool { return compareRefs(s[i].ref, s[j].ref) < 0 }
func (s sources) Swap(i, j int)      { s[i], s[j] = s[j], s[i] }
func (s *sources) Push(x any)        { *s = append(*s, x.(*source)) }
func (s *sources) Pop() any {
	last := len(*s) - 1
	x := (*s)[last]
	(*s)[last] = nil
	*s = (*s)[:last]
	return x
}
