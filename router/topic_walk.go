package router

import (
	"hash/maphash"
	"strings"
)

// topicWalk follows all patterns at once through the words of a routing key. It is scratch space.
//
// A prefix that ends with "#" stays reached for the rest of the key, whatever the words are: it moves to loops once and
// remains. All other prefixes are reached by one word and left by the next. So the work for a word is bounded by the
// number of prefixes that are reached there, also with several "#" in a pattern.
type topicWalk struct {
	here  []*topicNode // reached by the words so far
	next  []*topicNode // reached by one word more
	loops []*topicNode // reached, ending with "#"
	seen  idSet        // ids of the floating ones among loops
}

// walkTopic adds the targets of all patterns below root that match the key.
func (r *route) walkTopic(root *topicNode, key string) (matched bool) {
	w := &r.scratch.topic
	w.start(root)
	for more := key != ""; more; {
		var word string
		word, key, more = strings.Cut(key, ".")
		w.step(word, maphash.String(r.table.seed, word))
		if len(w.here) == 0 && len(w.loops) == 0 {
			return false
		}
	}
	for _, n := range w.here {
		matched = r.add(&n.targets) || matched
	}
	for _, n := range w.loops {
		matched = r.add(&n.targets) || matched
	}
	return matched
}

func (w *topicWalk) start(root *topicNode) {
	w.release()
	w.seen.reset()
	w.reach(root)
	w.here, w.next = w.next, w.here
}

func (w *topicWalk) step(word string, sum uint64) {
	w.next = emptied(w.next)
	before := w.loops // what this word adds to them comes after it
	for _, n := range w.here {
		w.advance(n, word, sum)
	}
	for _, n := range before {
		w.advance(n, word, sum)
	}
	w.here, w.next = w.next, w.here
}

func (w *topicWalk) advance(n *topicNode, word string, sum uint64) {
	if e := lookup(n.words, sum, word); e != nil {
		w.reach(e.value)
	}
	if n.anyWord != nil {
		w.reach(n.anyWord)
	}
}

// reach notes a prefix that does not end with "#", and those that follow from it without a word.
func (w *topicWalk) reach(n *topicNode) {
	w.next = append(w.next, n)
	for n = n.anyWords; n != nil; n = n.anyWords {
		if n.floating && !w.seen.add(mix(n.id)) {
			return
		}
		w.loops = append(w.loops, n)
	}
}

// release forgets the nodes, so that they do not outlive their exchange, and space that one odd key has made large.
func (w *topicWalk) release() {
	w.here, w.next, w.loops = emptied(w.here), emptied(w.next), emptied(w.loops)
	w.seen.release()
}
