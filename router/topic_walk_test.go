package router

import (
	"hash/maphash"
	"testing"
)

// TestTopicWalkReachesEachPrefixOnce follows patterns that could match in very many ways, and counts how often their
// prefixes are held: a pattern of two "#" must not cost the square of the key's length.
func TestTopicWalkReachesEachPrefixOnce(t *testing.T) {
	table := NewTable()
	table.PutExchange("x", Topic, "", false)
	for i, pattern := range []string{"#.*.#", "#..#.*", "#.*.*.#.end", "*.#.#"} {
		table.Bind("x", Dest(i), pattern, nil)
	}
	const loops = 6 // the prefixes that end with "#": "#" "#.*.#" "#..#" "#.*.*.#" "*.#" "*.#.#"
	var w topicWalk
	w.start(table.ExchangeNamed("x").state.Load().index.(topicIndex).patterns)
	for range 256 {
		w.step("", maphash.String(table.seed, ""))
	}
	if len(w.loops) != loops {
		t.Errorf("%d prefixes that end with # are held, there are %d", len(w.loops), loops)
	}
}
