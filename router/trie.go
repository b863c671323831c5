package router

import (
	"math/bits"
	"slices"
	"unsafe"
)

// A trie is a set of elements that is never changed: with and without return another trie that shares all but the path
// to the element. Elements are told apart by five bits of their hash at each level; a node is either a branch or, while
// it has few elements, a bucket.
//
//	branch            bits: which of the 32 slots exist; slots: only those, in order
//	 ├─ bucket        up to bucketLimit elements, in no order
//	 └─ branch
//	     └─ bucket
//
// Changes made with the same edit number share their copies: a node that was made under the present number has not been
// seen by a reader yet and is changed in place. Whoever publishes a trie must take a new number afterwards.
type trie[E element[E]] struct {
	root *node[E]
}

// element is what a trie can hold: same decides which of two it replaces, and the same elements have the same hash.
type element[E any] interface {
	hash() uint64
	same(E) bool
}

type node[E element[E]] struct {
	edit   uint64
	count  uint32 // elements here and below
	bits   uint32
	slots  []*node[E]
	bucket []E
}

const (
	levelBits = 5
	// lastShift is the shift of the deepest branch. Elements that share all the bits above stay in one bucket.
	lastShift = 60
)

// bucketLimit is how many elements fill about four cache lines: more would make changes dearer, fewer the way longer.
func bucketLimit[E any]() int {
	var e E
	return max(8, 256/int(unsafe.Sizeof(e)))
}

// find returns the element that is the same as e.
func (t trie[E]) find(e E) (found E, ok bool) {
	hash := e.hash()
	for n, shift := t.root, 0; n != nil; shift += levelBits {
		if n.bits == 0 {
			if i := n.index(e); i >= 0 {
				return n.bucket[i], true
			}
			break
		}
		n = n.child(hash, shift)
	}
	return found, false
}

// with returns the trie that has e, instead of an element that is the same.
func (t trie[E]) with(edit uint64, e E) trie[E] {
	return trie[E]{t.root.with(edit, 0, e.hash(), e)}
}

// without returns the trie that lacks the element that is the same as e. It must be there.
func (t trie[E]) without(edit uint64, e E) trie[E] {
	return trie[E]{t.root.without(edit, 0, e.hash(), e)}
}

func (t trie[E]) len() int {
	if t.root == nil {
		return 0
	}
	return int(t.root.count)
}

// appendTo appends all elements at and below n.
func (n *node[E]) appendTo(dst []E) []E {
	if n == nil {
		return dst
	}
	dst = append(dst, n.bucket...)
	for _, child := range n.slots {
		dst = child.appendTo(dst)
	}
	return dst
}

// place returns the bit of the slot a hash goes to, and the slot's position among those that exist.
func (n *node[E]) place(hash uint64, shift int) (bit uint32, at int) {
	bit = 1 << (hash >> shift & (1<<levelBits - 1))
	return bit, bits.OnesCount32(n.bits & (bit - 1))
}

func (n *node[E]) child(hash uint64, shift int) *node[E] {
	bit, at := n.place(hash, shift)
	if n.bits&bit == 0 {
		return nil
	}
	return n.slots[at]
}

func (n *node[E]) index(e E) int {
	for i := range n.bucket {
		if n.bucket[i].same(e) {
			return i
		}
	}
	return -1
}

// own returns the node itself when this edit made it, else a copy that has room for one element more.
func (n *node[E]) own(edit uint64) *node[E] {
	if n.edit == edit {
		return n
	}
	return &node[E]{edit: edit, count: n.count, bits: n.bits, slots: roomier(n.slots), bucket: roomier(n.bucket)}
}

func roomier[T any](s []T) []T {
	if len(s) == 0 {
		return nil
	}
	return append(make([]T, 0, len(s)+1), s...)
}

func (n *node[E]) with(edit uint64, shift int, hash uint64, e E) *node[E] {
	if n == nil {
		return &node[E]{edit: edit, count: 1, bucket: []E{e}}
	}
	n = n.own(edit)
	if n.bits == 0 {
		n.put(e)
		if len(n.bucket) > bucketLimit[E]() && shift <= lastShift {
			n.split(shift)
		}
		return n
	}
	bit, at := n.place(hash, shift)
	if n.bits&bit == 0 {
		n.bits |= bit
		n.slots = slices.Insert(n.slots, at, nil)
	}
	n.count -= uint32(trie[E]{n.slots[at]}.len())
	n.slots[at] = n.slots[at].with(edit, shift+levelBits, hash, e)
	n.count += n.slots[at].count
	return n
}

func (n *node[E]) put(e E) {
	if i := n.index(e); i >= 0 {
		n.bucket[i] = e
		return
	}
	n.bucket = append(n.bucket, e)
	n.count++
}

// split makes a branch of an owned bucket.
func (n *node[E]) split(shift int) {
	bucket := n.bucket
	n.bucket = nil
	for _, e := range bucket {
		bit, at := n.place(e.hash(), shift)
		if n.bits&bit == 0 {
			n.bits |= bit
			n.slots = slices.Insert(n.slots, at, nil)
		}
		n.slots[at] = n.slots[at].with(n.edit, shift+levelBits, e.hash(), e)
	}
}

func (n *node[E]) without(edit uint64, shift int, hash uint64, e E) *node[E] {
	if n.count == 1 {
		return nil
	}
	n = n.own(edit)
	n.count--
	if n.bits == 0 {
		i, last := n.index(e), len(n.bucket)-1
		n.bucket[i] = n.bucket[last]
		n.bucket = slices.Delete(n.bucket, last, last+1)
		return n
	}
	bit, at := n.place(hash, shift)
	n.slots[at] = n.slots[at].without(edit, shift+levelBits, hash, e)
	if n.slots[at] == nil {
		n.bits &^= bit
		n.slots = slices.Delete(n.slots, at, at+1)
	}
	// Half of the limit, so that one element that comes and goes does not split and join each time.
	if int(n.count) <= bucketLimit[E]()/2 {
		n.join()
	}
	return n
}

// join makes a bucket of an owned branch.
func (n *node[E]) join() {
	n.bucket = n.appendTo(make([]E, 0, n.count+1))
	n.bits, n.slots = 0, nil
}

// entry makes a map of a trie: elements are the same when their keys are.
type entry[V any] struct {
	sum   uint64 // hash of key
	key   string
	value V
}

func (e entry[V]) hash() uint64         { return e.sum }
func (e entry[V]) same(o entry[V]) bool { return e.sum == o.sum && e.key == o.key }

// lookup returns the entry of a key whose hash is sum, or nil. It is what routing a message mostly consists of.
func lookup[V any](t trie[entry[V]], sum uint64, key string) *entry[V] {
	n := t.root
	for shift := 0; n != nil; shift += levelBits {
		if n.bits == 0 {
			for i := range n.bucket {
				if e := &n.bucket[i]; e.sum == sum && e.key == key {
					return e
				}
			}
			return nil
		}
		n = n.child(sum, shift)
	}
	return nil
}
