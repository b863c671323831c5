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
		m.addSpan(sn.parts[i].span, min)
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

// looseRefs collects and sorts what is not in order anyway: all but messages never delivered.
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
	records []record // or these
	span    span     // and those after them
}

func (m *merger) add(refs []Ref) {
	if len(refs) > 0 {
		m.sources = append(m.sources, &source{ref: refs[0], refs: refs[1:]})
	}
}

// addSpan adds the records of a span from min on. Their entries only grow along a span.
func (m *merger) addSpan(sp span, min uint64) {
	src := &source{span: sp}
	for src.span.n > 0 {
		src.records = src.span.next()
		if src.records[len(src.records)-1].index >= min {
			break
		}
	}
	from, _ := slices.BinarySearchFunc(src.records, min, func(r record, min uint64) int {
		if r.index < min {
			return -1
		}
		return 1
	})
	src.records = src.records[from:]
	if src.next(m.max) {
		m.sources = append(m.sources, src)
	}
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
		for i := range src.records {
			r := &src.records[i]
			if r.index > max {
				return false
			}
			if r.plain() {
				src.ref, src.records = r.ref(), src.records[i+1:]
				return true
			}
		}
		if src.span.n == 0 {
			return false
		}
		src.records = src.span.next()
	}
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
