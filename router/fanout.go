package router

// fanoutIndex is the fanout exchange: every message goes to every target.
type fanoutIndex struct {
	all targets
}

func (ix fanoutIndex) with(ed *editor, _ string, _ Args, to target) (index, bool) {
	if ix.all.has(to) {
		return ix, false
	}
	return fanoutIndex{ix.all.with(ed.number, to)}, true
}

func (ix fanoutIndex) without(ed *editor, _ string, to target) index {
	return fanoutIndex{ix.all.without(ed.number, to)}
}

func (ix fanoutIndex) match(r *route) bool {
	return r.add(&ix.all)
}
