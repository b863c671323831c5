package router

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// clash is an element with a hash of little worth, so that full buckets and deep branches come about.
type clash uint16

func (c clash) hash() uint64      { return uint64(c%7) << 58 }
func (c clash) same(o clash) bool { return c == o }

// version is a trie that a reader may hold, and what it must still hold later.
type version[E comparableElement[E]] struct {
	trie trie[E]
	want []E
}

type comparableElement[E any] interface {
	comparable
	element[E]
}

// checkTrie makes random changes, under edit numbers that sometimes span several of them, and then looks whether all
// versions that were published on the way are what they were.
func checkTrie[E comparableElement[E]](t *rapid.T, draw func(*rapid.T) E) {
	var current trie[E]
	var published []version[E]
	present := map[E]bool{}
	edit := uint64(1)
	for range rapid.IntRange(1, 400).Draw(t, "changes") {
		e := draw(t)
		if present[e] && rapid.Bool().Draw(t, "remove") {
			current = current.without(edit, e)
			delete(present, e)
		} else {
			current = current.with(edit, e)
			present[e] = true
		}
		if _, found := current.find(e); found != present[e] || current.len() != len(present) {
			t.Fatalf("find(%v) = %v among %d, want %v among %d", e, found, current.len(), present[e], len(present))
		}
		if rapid.IntRange(0, 3).Draw(t, "publish") == 0 {
			published = append(published, version[E]{current, slices.Collect(maps.Keys(present))})
			edit++
		}
	}
	for _, v := range published {
		if got := v.trie.root.appendTo(nil); len(got) != len(v.want) || v.trie.len() != len(v.want) {
			t.Fatalf("a version has %d elements and says %d, had %d", len(got), v.trie.len(), len(v.want))
		}
		for _, e := range v.want {
			if _, found := v.trie.find(e); !found {
				t.Fatalf("a version has lost %v", e)
			}
		}
	}
}

func TestTrieVersionsStayAsTheyAre(t *testing.T) {
	t.Run("spread", rapid.MakeCheck(func(t *rapid.T) {
		checkTrie(t, func(t *rapid.T) Dest { return Dest(rapid.IntRange(0, 150).Draw(t, "element")) })
	}))
	t.Run("clashing", rapid.MakeCheck(func(t *rapid.T) {
		checkTrie(t, func(t *rapid.T) clash { return clash(rapid.IntRange(0, 300).Draw(t, "element")) })
	}))
}

func TestTrieGrowsAndShrinks(t *testing.T) {
	const n = 50_000
	var set trie[Dest]
	for d := range Dest(n) {
		set = set.with(uint64(d), d)
	}
	all := set.root.appendTo(nil)
	slices.Sort(all)
	for i, d := range all {
		if d != Dest(i) {
			t.Fatalf("element %d is %d", i, d)
		}
	}
	for d := range Dest(n) {
		set = set.without(n+uint64(d), d)
		if set.len() != n-int(d)-1 {
			t.Fatalf("len is %d after %d were removed", set.len(), d+1)
		}
		if root := set.root; set.len() == bucketLimit[Dest]()/2 && root.bits != 0 {
			t.Errorf("%d elements are left in %d buckets", set.len(), len(root.slots))
		}
	}
	if set.root != nil {
		t.Error("an empty set has nodes")
	}
}

func TestIDSet(t *testing.T) {
	var set idSet
	for round := range uint64(3) {
		for id := range uint64(1000) {
			if !set.add(mix(id + round)) {
				t.Fatalf("round %d: %d was there", round, id)
			}
			if set.add(mix(id + round)) {
				t.Fatalf("round %d: %d was not there", round, id)
			}
		}
		set.reset()
	}
}
