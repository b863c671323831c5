package router

// target is the end of a binding: an exchange, or a queue when exchange is nil.
type target struct {
	exchange *Exchange
	queue    Dest
}

// targets is an immutable set of target.
type targets struct {
	queues    queueSet
	exchanges trie[*Exchange]
}

func (ts targets) empty() bool {
	return ts.queues.empty() && ts.exchanges.root == nil
}

func (ts targets) has(to target) (found bool) {
	if to.exchange == nil {
		return ts.queues.has(to.queue)
	}
	_, found = ts.exchanges.find(to.exchange)
	return found
}

func (ts targets) with(edit uint64, to target) targets {
	if to.exchange != nil {
		ts.exchanges = ts.exchanges.with(edit, to.exchange)
	} else {
		ts.queues = ts.queues.with(edit, to.queue)
	}
	return ts
}

// without removes a target that is there.
func (ts targets) without(edit uint64, to target) targets {
	if to.exchange != nil {
		ts.exchanges = ts.exchanges.without(edit, to.exchange)
	} else {
		ts.queues = ts.queues.without(edit, to.queue)
	}
	return ts
}

// queueSet is an immutable set of queues. Most have one, which is kept here, where a match finds it: following one
// pointer more costs as much as all else that a match does.
type queueSet struct {
	many trie[Dest] // empty when there is only one
	only Dest
	one  bool // only is the set
}

func (s queueSet) empty() bool { return !s.one && s.many.root == nil }

func (s queueSet) has(d Dest) bool {
	if s.one {
		return s.only == d
	}
	_, found := s.many.find(d)
	return found
}

func (s queueSet) with(edit uint64, d Dest) queueSet {
	switch {
	case s.empty():
		return queueSet{only: d, one: true}
	case s.one:
		s = queueSet{many: s.many.with(edit, s.only)}
	}
	s.many = s.many.with(edit, d)
	return s
}

// without removes a queue that is there. A set that shrinks to one queue stays a trie, as it may well grow again.
func (s queueSet) without(edit uint64, d Dest) queueSet {
	if s.one {
		return queueSet{}
	}
	return queueSet{many: s.many.without(edit, d)}
}

func (s *queueSet) appendTo(dst []Dest) []Dest {
	if s.one {
		return append(dst, s.only)
	}
	return s.many.root.appendTo(dst)
}
