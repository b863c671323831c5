package router

import "hash/maphash"

// Route appends to dst every destination that the message reaches when it is published to this exchange, and returns
// the extended slice. Each is appended once, whatever the number of bindings, keys and exchanges that lead to it, in no
// particular order. What dst holds already is left alone and not compared with.
//
// An exchange whose bindings match nothing passes the message on to its alternate exchange, if that exists; a binding
// to an exchange counts as a match even if the message ends there. Each exchange routes a message once.
//
// Route allocates only to extend dst and scratch. The bindings of one exchange are seen as they were at one moment;
// when several exchanges take part, each has its own moment within the call.
func (x *Exchange) Route(m *Message, scratch *Scratch, dst []Dest) []Dest {
	st := x.state.Load()
	if ix, ok := st.index.(directIndex); ok && len(m.CC) == 0 {
		key := text(m.RoutingKey)
		found := lookup(ix.keys.trie, maphash.String(x.table.seed, key), key)
		if found != nil && found.value.exchanges.root == nil {
			return found.value.queues.appendTo(dst)
		}
		if found == nil && st.alternate == "" {
			return dst
		}
	}
	r := route{scratch: scratch, table: x.table, dst: dst, base: len(dst)}
	r.run(m, x)
	return r.dst
}

// route is one message on its way. The message itself is handed along beside it: what is in here counts as kept, in the
// eyes of the compiler, and the caller's message and the function in it would have to be allocated.
type route struct {
	scratch *Scratch
	table   *Table
	dst     []Dest // the caller's, and from base on the destinations found
	base    int

	headers     map[string]any
	haveHeaders bool
}

func (r *route) run(m *Message, x *Exchange) {
	s := r.scratch
	s.queues.reset()
	s.exchanges.reset()
	s.work = append(s.work[:0], x)
	for i := 0; i < len(s.work); i++ {
		r.visit(m, s.work[i])
	}
	r.release()
}

func (r *route) visit(m *Message, x *Exchange) {
	st := x.state.Load()
	if r.match(m, st.index) || st.alternate == "" {
		return
	}
	if alternate := r.table.ExchangeNamed(st.alternate); alternate != nil {
		r.enqueue(alternate)
	}
}

// match names the types, rather than calling through the interface, so that route and message can stay on the stack.
func (r *route) match(m *Message, ix index) bool {
	switch ix := ix.(type) {
	case directIndex:
		return ix.match(r, m)
	case fanoutIndex:
		return ix.match(r)
	case topicIndex:
		return ix.match(r, m)
	case headersIndex:
		return ix.match(r, m)
	}
	return false // the exchange was removed
}

// addKey adds what is bound with a key, and tells whether there was any.
func (r *route) addKey(keys keyTable, key string) bool {
	found := lookup(keys.trie, maphash.String(r.table.seed, key), key)
	return found != nil && r.add(&found.value)
}

// add adds targets, and tells whether there were any.
func (r *route) add(ts *targets) bool {
	if !ts.queues.empty() {
		r.addQueues(&ts.queues)
	}
	if ts.exchanges.root != nil {
		r.addExchanges(ts.exchanges.root)
	}
	return !ts.empty()
}

func (r *route) addQueues(s *queueSet) {
	switch {
	case len(r.dst) == r.base: // the first set of queues: nothing can be there twice
		r.dst = s.appendTo(r.dst)
	case s.one:
		r.addFresh(s.only)
	default:
		r.addDistinct(s.many.root)
	}
}

func (r *route) addFresh(d Dest) {
	if fresh(r.dst[r.base:], d, &r.scratch.queues) {
		r.dst = append(r.dst, d)
	}
}

func (r *route) addDistinct(n *node[Dest]) {
	for _, d := range n.bucket {
		r.addFresh(d)
	}
	for _, child := range n.slots {
		r.addDistinct(child)
	}
}

func (r *route) addExchanges(n *node[*Exchange]) {
	for _, x := range n.bucket {
		r.enqueue(x)
	}
	for _, child := range n.slots {
		r.addExchanges(child)
	}
}

func (r *route) enqueue(x *Exchange) {
	if s := r.scratch; fresh(s.work, x, &s.exchanges) {
		s.work = append(s.work, x)
	}
}

// messageHeaders returns the message's headers, parsed when they are first asked for.
func (r *route) messageHeaders(m *Message) map[string]any {
	if !r.haveHeaders {
		r.haveHeaders = true
		if m.Headers != nil {
			r.headers = m.Headers()
		}
	}
	return r.headers
}

func (r *route) release() {
	s := r.scratch
	s.work = emptied(s.work)
	s.queues.release()
	s.exchanges.release()
	s.topic.release()
}
