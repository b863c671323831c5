package router

import (
	"hash/maphash"
	"sync/atomic"
)

// Table is the routing of one virtual host: exchanges by name, and bindings from them to destinations and to one
// another. The default exchange "" is always there.
//
// The methods that change it must not run at the same time as one another; the caller sees to that. Exchange,
// ExchangeNamed and what they return may be used by any number of goroutines meanwhile. A change is seen by every Route
// that starts after the method returned (inside Update: after Update returned).
type Table struct {
	seed     maphash.Seed // of all hashes of keys and words: not to be guessed from outside
	names    atomic.Pointer[node[entry[*Exchange]]]
	fallback *Exchange // the default exchange

	// The rest belongs to the writer.
	editor   editor
	exchange trie[entry[*Exchange]] // what names will be
	bindings map[bindingID]*binding
	to       map[target]bindingList
	more     map[edge]int // how many bindings an edge has beyond the first
	dirty    []*Exchange  // exchanges to be published
	updates  int          // calls of Update that are under way
}

// editor is what changes to immutable structures have in common.
type editor struct {
	number uint64 // of the present change, see trie
	lastID uint64
	seed   maphash.Seed
}

func (ed *editor) newID() uint64 {
	ed.lastID++
	return ed.lastID
}

func (ed *editor) sum(key string) uint64 { return maphash.String(ed.seed, key) }

// NewTable returns a table that has only the default exchange.
func NewTable() *Table {
	t := &Table{
		seed:     maphash.MakeSeed(),
		bindings: map[bindingID]*binding{},
		to:       map[target]bindingList{},
		more:     map[edge]int{},
	}
	t.editor = editor{number: 1, seed: t.seed}
	t.putNew("", Direct, state{})
	t.fallback = t.find("")
	return t
}

// Exchange returns the exchange of that name, nil when there is none. It takes no lock and does not allocate.
func (t *Table) Exchange(name []byte) *Exchange {
	return t.ExchangeNamed(text(name))
}

// ExchangeNamed is Exchange for a string.
func (t *Table) ExchangeNamed(name string) *Exchange {
	if name == "" {
		return t.fallback
	}
	e := lookup(trie[entry[*Exchange]]{t.names.Load()}, maphash.String(t.seed, name), name)
	if e == nil {
		return nil
	}
	return e.value
}

// Update makes all changes of f at once: readers see none of them until f has returned, and then, exchange by exchange,
// all. Many changes cost far less this way, as they share their copies.
func (t *Table) Update(f func()) {
	t.updates++
	f()
	t.updates--
	t.publish()
}

// PutExchange adds an exchange, or changes the alternate exchange and internal flag of the one that has the name.
// alternate is "" for none, and need not exist. An exchange of another kind is removed first, with its bindings. The
// default exchange cannot be changed.
func (t *Table) PutExchange(name string, kind Kind, alternate string, internal bool) {
	if name == "" {
		return
	}
	t.Update(func() {
		x := t.find(name)
		if x != nil && x.kind != kind {
			t.RemoveExchange(name)
			x = nil
		}
		if x == nil {
			t.putNew(name, kind, state{alternate: alternate, internal: internal})
			return
		}
		x.draft.alternate, x.draft.internal = alternate, internal
		t.touch(x)
	})
}

func (t *Table) putNew(name string, kind Kind, draft state) {
	draft.index = newIndex(kind)
	x := &Exchange{name: name, kind: kind, id: t.editor.newID(), table: t, draft: draft}
	x.publish() // nobody can have it yet
	t.exchange = t.exchange.with(t.editor.number, entry[*Exchange]{t.editor.sum(name), name, x})
	t.publish()
}

// RemoveExchange removes an exchange and all bindings from it and to it. The default exchange cannot be removed.
func (t *Table) RemoveExchange(name string) {
	x := t.find(name)
	if x == nil || x == t.fallback {
		return
	}
	t.Update(func() {
		for len(x.from) > 0 {
			t.forget(x.from[len(x.from)-1])
		}
		t.removeTo(target{exchange: x})
		x.draft = state{}
		t.touch(x)
		t.exchange = t.exchange.without(t.editor.number, entry[*Exchange]{t.editor.sum(name), name, x})
	})
}

// Bind binds a destination to an exchange. args is the binding's table or nil; it must not be changed afterwards. A
// binding that is there already, same in key and args, is left as it is. Nothing happens when the exchange does not
// exist or is the default exchange.
func (t *Table) Bind(source string, dst Dest, key string, args Args) {
	t.bind(t.declared(source), target{queue: dst}, key, args)
}

// BindExchange binds an exchange to another. Both must exist, as with Bind.
func (t *Table) BindExchange(source, dstExchange, key string, args Args) {
	if x := t.declared(dstExchange); x != nil {
		t.bind(t.declared(source), target{exchange: x}, key, args)
	}
}

// Unbind removes the binding that is the same in all four. Nothing happens when there is none.
func (t *Table) Unbind(source string, dst Dest, key string, args Args) {
	t.unbind(t.declared(source), target{queue: dst}, key, args)
}

// UnbindExchange removes a binding between exchanges, as Unbind.
func (t *Table) UnbindExchange(source, dstExchange, key string, args Args) {
	if x := t.declared(dstExchange); x != nil {
		t.unbind(t.declared(source), target{exchange: x}, key, args)
	}
}

// BindDefault lets the default exchange send messages whose routing key is the queue's name to dst, and to no
// destination that had the name before.
func (t *Table) BindDefault(queueName string, dst Dest) {
	t.Update(func() {
		for _, old := range t.named(queueName) {
			if old != dst {
				t.unbind(t.fallback, target{queue: old}, queueName, nil)
			}
		}
		t.bind(t.fallback, target{queue: dst}, queueName, nil)
	})
}

// UnbindDefault takes a queue's name from the default exchange.
func (t *Table) UnbindDefault(queueName string) {
	for _, dst := range t.named(queueName) {
		t.unbind(t.fallback, target{queue: dst}, queueName, nil)
	}
}

// named returns the destination that has a name in the default exchange, if any.
func (t *Table) named(queueName string) []Dest {
	keys := t.fallback.draft.index.(directIndex).keys
	if e := lookup(keys.trie, t.editor.sum(queueName), queueName); e != nil {
		return e.value.queues.appendTo(nil)
	}
	return nil
}

// RemoveDest removes all bindings to a destination, that of its name in the default exchange too.
func (t *Table) RemoveDest(dst Dest) {
	t.Update(func() { t.removeTo(target{queue: dst}) })
}

func (t *Table) removeTo(to target) {
	for list := t.to[to]; len(list) > 0; list = t.to[to] {
		t.drop(list[len(list)-1])
	}
}

// find returns an exchange as the writer sees it, with changes that are not published yet.
func (t *Table) find(name string) *Exchange {
	if e := lookup(t.exchange, t.editor.sum(name), name); e != nil {
		return e.value
	}
	return nil
}

// declared is find without the default exchange, which takes part in no explicit binding.
func (t *Table) declared(name string) *Exchange {
	if name == "" {
		return nil
	}
	return t.find(name)
}

func (t *Table) bind(source *Exchange, to target, key string, args Args) {
	if source == nil {
		return
	}
	b := &binding{bindingID: bindingID{source, to, key, args.identity()}}
	if t.bindings[b.bindingID] != nil {
		return
	}
	t.remember(b)
	ix, added := source.draft.index.with(&t.editor, b.matchKey(), args, to)
	if !added {
		t.more[edge{source, to, b.matchKey()}]++
		return
	}
	source.draft.index = ix
	t.touch(source)
}

func (t *Table) unbind(source *Exchange, to target, key string, args Args) {
	if source == nil {
		return
	}
	if b := t.bindings[bindingID{source, to, key, args.identity()}]; b != nil {
		t.drop(b)
	}
}

// drop removes a binding, and takes the target out of its source's index with the last that matches alike.
func (t *Table) drop(b *binding) {
	if last := t.forget(b); last {
		b.source.draft.index = b.source.draft.index.without(&t.editor, b.matchKey(), b.to)
		t.touch(b.source)
	}
}

// remember notes a binding in the writer's lists.
func (t *Table) remember(b *binding) {
	t.bindings[b.bindingID] = b
	b.inFrom, b.inTo = len(b.source.from), len(t.to[b.to])
	b.source.from = append(b.source.from, b)
	t.to[b.to] = append(t.to[b.to], b)
}

// forget takes a binding out of the writer's lists, and tells whether it was the last of its edge.
func (t *Table) forget(b *binding) (last bool) {
	delete(t.bindings, b.bindingID)
	b.source.from.remove(b.inFrom, func(moved *binding) *int { return &moved.inFrom })
	list := t.to[b.to]
	list.remove(b.inTo, func(moved *binding) *int { return &moved.inTo })
	if len(list) == 0 {
		delete(t.to, b.to)
	} else {
		t.to[b.to] = list
	}
	return t.lessen(edge{b.source, b.to, b.matchKey()})
}

// lessen takes one binding from an edge, and tells whether it was the last.
func (t *Table) lessen(e edge) (last bool) {
	switch t.more[e] {
	case 0:
		return true
	case 1:
		delete(t.more, e)
	default:
		t.more[e]--
	}
	return false
}

// touch notes that an exchange's draft has changed, and publishes it unless that is left to Update.
func (t *Table) touch(x *Exchange) {
	if !x.dirty {
		x.dirty = true
		t.dirty = append(t.dirty, x)
	}
	t.publish()
}

// publish lets readers see what has changed: first what exchanges do, then which there are.
func (t *Table) publish() {
	if t.updates > 0 {
		return
	}
	for _, x := range t.dirty {
		x.publish()
	}
	t.dirty = emptied(t.dirty)
	t.names.Store(t.exchange.root)
	t.editor.number++
}
