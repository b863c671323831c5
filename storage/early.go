package storage

import (
	"math"
	"sync"
	"sync/atomic"
)

// early is what AppendEarly has taken and what is not known to be durable yet.
type early struct {
	any atomic.Bool // there are entries: what has none need not wait for the lock

	mu      sync.Mutex // guards what follows; taken before the log's
	changed sync.Cond  // told of everything
	entries []Entry    // in line; they become durable in this order
	err     error      // why they, and all that would follow them, may never be
}

func (e *early) init() { e.changed.L = &e.mu }

// AppendEarly takes entries, which follow one another and what is there, and returns at once: they become durable in their turn. Until
// then Entry gives them, and nothing else tells of them. The entries' data belongs to the store from then on. It returns false, and has
// taken nothing, where Append may have to refuse them, or has more to do; then Append does it.
//
// It is for the leader of a group, which may send its followers what it has not written yet (Ongaro's dissertation, 10.2.1). It must not
// act on an entry, nor tell anybody that it is committed, before WaitDurable says so.
func (g *Group) AppendEarly(entries []Entry) bool {
	if len(entries) == 0 || entries[0].Index == 0 || g.Damaged() != nil {
		return false
	}
	e := &g.early
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err != nil {
		return false
	}
	given, last := g.end()
	if n := len(e.entries); n > 0 {
		given, last = false, e.entries[n-1].Index
	}
	if given || last != 0 && entries[0].Index != last+1 || g.check(entries) != nil {
		return false
	}
	if !g.s.wal.submitEarly(g, entries) {
		return false
	}
	e.entries = append(e.entries, entries...)
	e.any.Store(true)
	return true
}

// WaitDurable waits until the entries up to an index are durable. The error tells that they may never be; the store has failed or was
// closed.
func (g *Group) WaitDurable(index uint64) error {
	e := &g.early
	if !e.any.Load() {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for len(e.entries) > 0 && e.entries[0].Index <= index {
		if e.err != nil {
			return e.err
		}
		e.changed.Wait()
	}
	return nil
}

// Durable is an index up to which all entries are durable: of a group whose entries all are, the greatest there is.
func (g *Group) Durable() uint64 {
	e := &g.early
	if !e.any.Load() {
		return math.MaxUint64
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.entries) == 0 {
		return math.MaxUint64
	}
	return e.entries[0].Index - 1
}

// Settle waits until everything that was taken early is durable, as WaitDurable does.
func (g *Group) Settle() error { return g.WaitDurable(math.MaxUint64) }

// get finds an entry that is not known to be durable.
func (e *early) get(index uint64) (Entry, bool) {
	if !e.any.Load() {
		return Entry{}, false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.entries) == 0 || index < e.entries[0].Index || index > e.entries[len(e.entries)-1].Index {
		return Entry{}, false
	}
	return e.entries[index-e.entries[0].Index], true
}

// answer notes that the first n entries are durable, or that they may never be.
func (e *early) answer(n int, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case err != nil:
		e.err = err
	case n == len(e.entries):
		clear(e.entries)
		e.entries = e.entries[:0]
		e.any.Store(false)
	default:
		clear(e.entries[:n])
		e.entries = e.entries[n:]
	}
	e.changed.Broadcast()
}
