package router

// directIndex is the direct exchange: the routing key is the binding key.
type directIndex struct {
	keys keyTable
}

func (ix directIndex) with(ed *editor, key string, _ Args, to target) (index, bool) {
	keys, added := ix.keys.with(ed, key, to)
	return directIndex{keys}, added
}

func (ix directIndex) without(ed *editor, key string, to target) index {
	return directIndex{ix.keys.without(ed, key, to)}
}

func (ix directIndex) match(r *route, m *Message) (matched bool) {
	matched = r.addKey(ix.keys, text(m.RoutingKey))
	for _, key := range m.CC {
		matched = r.addKey(ix.keys, text(key)) || matched
	}
	return matched
}

// keyTable is targets by binding key, without a meaning of the key.
type keyTable struct {
	trie[entry[targets]]
}

func (k keyTable) with(ed *editor, key string, to target) (keyTable, bool) {
	e := entry[targets]{sum: ed.sum(key), key: key}
	if found := lookup(k.trie, e.sum, key); found != nil {
		e.value = found.value
	}
	if e.value.has(to) {
		return k, false
	}
	e.value = e.value.with(ed.number, to)
	return keyTable{k.trie.with(ed.number, e)}, true
}

func (k keyTable) without(ed *editor, key string, to target) keyTable {
	e := entry[targets]{sum: ed.sum(key), key: key}
	e.value = lookup(k.trie, e.sum, key).value.without(ed.number, to)
	if e.value.empty() {
		return keyTable{k.trie.without(ed.number, e)}
	}
	return keyTable{k.trie.with(ed.number, e)}
}
