package router

// bindingID is what tells two bindings apart.
type bindingID struct {
	source *Exchange
	to     target
	key    string
	args   string // Args.identity
}

// matchKey returns the part of a binding that the type of its source looks at. Bindings that differ only in the rest
// match as one.
func (id *bindingID) matchKey() string {
	switch id.source.kind {
	case Fanout:
		return ""
	case Headers:
		return id.args
	}
	return id.key
}

// edge is all bindings that match as one.
type edge struct {
	source *Exchange
	to     target
	key    string // bindingID.matchKey
}

// binding is the writer's note of one binding. It sits in the list of its source and in that of its target.
type binding struct {
	bindingID
	inFrom, inTo int // its places in these lists
}

// bindingList is bindings in no order; each knows its place, so that it can be taken out at once.
type bindingList []*binding

func (l *bindingList) remove(at int, place func(*binding) *int) {
	last := len(*l) - 1
	moved := (*l)[last]
	(*l)[at] = moved
	*place(moved) = at
	(*l)[last] = nil
	*l = (*l)[:last]
}
