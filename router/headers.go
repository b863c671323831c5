package router

import (
	"maps"
	"slices"
	"strings"
)

// headersIndex is the headers exchange: the binding's arguments are compared with the message's headers, one set of
// arguments after the other; keys do not matter. Bindings with the same arguments are compared once.
type headersIndex struct {
	rules trie[entry[*headersRule]] // by the identity of the arguments
}

// headersRule is one set of arguments, immutable.
type headersRule struct {
	any     bool // one pair is enough, rather than all
	pairs   []headerPair
	targets targets
}

type headerPair struct {
	key   string
	value any // nil (void): the header must be there, whatever its value
}

// xMatch is the argument that chooses how to compare.
const xMatch = "x-match"

// newHeadersRule compiles arguments. The plain forms of x-match leave out arguments that start with "x-"; what is not
// one of its values counts as "all".
func newHeadersRule(args Args) *headersRule {
	mode, _ := args[xMatch].(string)
	rule := &headersRule{any: mode == "any" || mode == "any-with-x"}
	withX := mode == "all-with-x" || mode == "any-with-x"
	for _, key := range slices.Sorted(maps.Keys(args)) {
		if key != xMatch && (withX || !strings.HasPrefix(key, "x-")) {
			rule.pairs = append(rule.pairs, headerPair{key, args[key]})
		}
	}
	return rule
}

// matches follows from the pairs alone: without any, "all" matches every message and "any" none.
func (rule *headersRule) matches(headers map[string]any) bool {
	for i := range rule.pairs {
		pair := &rule.pairs[i]
		value, ok := headers[pair.key]
		if ok && pair.value != nil {
			ok = equal(pair.value, value)
		}
		if ok == rule.any {
			return ok
		}
	}
	return !rule.any
}

func (ix headersIndex) with(ed *editor, key string, args Args, to target) (index, bool) {
	e := entry[*headersRule]{sum: ed.sum(key), key: key}
	if found := lookup(ix.rules, e.sum, key); found != nil {
		if found.value.targets.has(to) {
			return ix, false
		}
		e.value = found.value.with(ed, to)
	} else {
		e.value = newHeadersRule(args).with(ed, to)
	}
	return headersIndex{ix.rules.with(ed.number, e)}, true
}

func (rule *headersRule) with(ed *editor, to target) *headersRule {
	return &headersRule{any: rule.any, pairs: rule.pairs, targets: rule.targets.with(ed.number, to)}
}

func (ix headersIndex) without(ed *editor, key string, to target) index {
	e := entry[*headersRule]{sum: ed.sum(key), key: key}
	rule := *lookup(ix.rules, e.sum, key).value
	rule.targets = rule.targets.without(ed.number, to)
	if rule.targets.empty() {
		return headersIndex{ix.rules.without(ed.number, e)}
	}
	e.value = &rule
	return headersIndex{ix.rules.with(ed.number, e)}
}

func (ix headersIndex) match(r *route, m *Message) bool {
	return ix.rules.root != nil && r.matchRules(m, ix.rules.root)
}

func (r *route) matchRules(m *Message, n *node[entry[*headersRule]]) (matched bool) {
	for i := range n.bucket {
		if rule := n.bucket[i].value; rule.matches(r.messageHeaders(m)) {
			matched = r.add(&rule.targets) || matched
		}
	}
	for _, child := range n.slots {
		matched = r.matchRules(m, child) || matched
	}
	return matched
}
