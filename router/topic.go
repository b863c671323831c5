package router

import "strings"

// topicIndex is the topic exchange. Keys are words between dots; in a binding key "*" stands for exactly one word and
// "#" for any number of them, also none. The empty key has no words, while "a." has two, the second of them empty.
//
// Binding keys without wildcards are found by the whole routing key at once; only the others are walked word by word.
type topicIndex struct {
	literals keyTable
	patterns *topicNode // nil when there are none
}

const (
	anyWord  = "*"
	anyWords = "#"
)

func (ix topicIndex) with(ed *editor, key string, _ Args, to target) (_ index, added bool) {
	if !hasWildcard(key) {
		ix.literals, added = ix.literals.with(ed, key, to)
		return ix, added
	}
	if n := ix.patterns.at(ed, key); n != nil && n.targets.has(to) {
		return ix, false
	}
	if ix.patterns == nil {
		ix.patterns = &topicNode{edit: ed.number, id: ed.newID()}
	}
	ix.patterns = ix.patterns.with(ed, key, false, to)
	return ix, true
}

func (ix topicIndex) without(ed *editor, key string, to target) index {
	if !hasWildcard(key) {
		ix.literals = ix.literals.without(ed, key, to)
	} else {
		ix.patterns = ix.patterns.without(ed, key, false, to)
	}
	return ix
}

func (ix topicIndex) match(r *route, m *Message) (matched bool) {
	matched = ix.matchKey(r, text(m.RoutingKey))
	for _, key := range m.CC {
		matched = ix.matchKey(r, text(key)) || matched
	}
	return matched
}

func (ix topicIndex) matchKey(r *route, key string) bool {
	matched := r.addKey(ix.literals, key)
	if ix.patterns != nil {
		matched = r.walkTopic(ix.patterns, key) || matched
	}
	return matched
}

func hasWildcard(key string) bool {
	return countWords(key, anyWord)+countWords(key, anyWords) > 0
}

// countWords returns how many words of the key are the given one.
func countWords(key, word string) (count int) {
	for more := key != ""; more; {
		var w string
		if w, key, more = strings.Cut(key, "."); w == word {
			count++
		}
	}
	return count
}

// topicNode is a prefix of binding keys, and what is bound to exactly this prefix. Nodes are immutable in the way of a
// trie's nodes.
type topicNode struct {
	edit     uint64
	id       uint64 // stays when the node is copied
	words    trie[entry[*topicNode]]
	anyWord  *topicNode
	anyWords *topicNode
	targets  targets
	// loop is set when the prefix ends with "#".
	loop bool
	// floating is set when the prefix has a "#" before its end, so that one routing key can reach the node at several
	// of its words.
	floating bool
}

// child returns the node one word further, or nil.
func (n *topicNode) child(ed *editor, word string) *topicNode {
	switch word {
	case anyWord:
		return n.anyWord
	case anyWords:
		return n.anyWords
	}
	if e := lookup(n.words, ed.sum(word), word); e != nil {
		return e.value
	}
	return nil
}

// setChild puts a node one word further; nil removes the one that is there. The receiver must be owned by the edit.
func (n *topicNode) setChild(ed *editor, word string, child *topicNode) {
	switch word {
	case anyWord:
		n.anyWord = child
		return
	case anyWords:
		n.anyWords = child
		return
	}
	e := entry[*topicNode]{sum: ed.sum(word), key: word, value: child}
	if child == nil {
		n.words = n.words.without(ed.number, e)
	} else {
		n.words = n.words.with(ed.number, e)
	}
}

// at returns the node of a binding key that starts here, or nil.
func (n *topicNode) at(ed *editor, key string) *topicNode {
	for more := true; more && n != nil; {
		var word string
		word, key, more = strings.Cut(key, ".")
		n = n.child(ed, word)
	}
	return n
}

func (n *topicNode) own(ed *editor) *topicNode {
	if n.edit == ed.number {
		return n
	}
	c := *n
	c.edit = ed.number
	return &c
}

// with adds a target under the rest of a binding key. ended says that no word is left: a rest of "" alone would be one
// empty word.
func (n *topicNode) with(ed *editor, key string, ended bool, to target) *topicNode {
	n = n.own(ed)
	if ended {
		n.targets = n.targets.with(ed.number, to)
		return n
	}
	word, rest, more := strings.Cut(key, ".")
	child := n.child(ed, word)
	if child == nil {
		child = n.newChild(ed, word)
	}
	n.setChild(ed, word, child.with(ed, rest, !more, to))
	return n
}

func (n *topicNode) newChild(ed *editor, word string) *topicNode {
	loop := word == anyWords
	return &topicNode{edit: ed.number, id: ed.newID(), loop: loop, floating: n.floating || n.loop && !loop}
}

// without removes a target that is there, and the nodes that lead nowhere then.
func (n *topicNode) without(ed *editor, key string, ended bool, to target) *topicNode {
	n = n.own(ed)
	if ended {
		n.targets = n.targets.without(ed.number, to)
	} else {
		word, rest, more := strings.Cut(key, ".")
		n.setChild(ed, word, n.child(ed, word).without(ed, rest, !more, to))
	}
	if n.targets.empty() && n.words.root == nil && n.anyWord == nil && n.anyWords == nil {
		return nil
	}
	return n
}
