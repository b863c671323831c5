package pipe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/warrenmq/warren/raftfsm/queue"
)

// NewLocalHost makes the host of a shard that lives in this node's memory alone: it leads from the start and what it
// holds ends with it.
func NewLocalHost(o LocalOptions) (*Host, error) {
	if !o.Shard.IsLocal() {
		return nil, fmt.Errorf("local options: shard %d is not local", o.Shard)
	}
	log := &memoryLog{entries: map[uint64]*memoryEntry{}}
	h, err := NewHost(HostOptions{
		Shard: o.Shard, State: queue.New(), Bodies: log, Log: log, Logger: o.Logger,
		VerifyRead:    func(context.Context) (uint64, error) { return 0, nil },
		QueuesDeleted: o.QueuesDeleted, Now: o.Now,
	})
	if err != nil {
		return nil, err
	}
	h.local = log
	h.incarnation = uint64(h.o.Now().UnixNano())
	h.Lead(1, 0)
	return h, nil
}

// memoryLog is a log that has committed what it is given. It keeps what the machine's live messages refer to and
// sweeps the rest when that may have become as much as what lives: see tidy.
type memoryLog struct {
	held atomic.Int64 // bytes of the entries

	mu      sync.Mutex // guards what follows; taken after all other locks
	queue   []Entry    // proposed, not applied
	running bool       // a goroutine applies
	last    uint64
	entries map[uint64]*memoryEntry

	// Of the goroutine that applies.
	limit int64  // twice what was held after the last sweep
	most  uint64 // the most that has lived since, as far as tidy has seen: octets
}

// memoryEntry is an entry's data, or what is left of it.
type memoryEntry struct {
	data   []byte
	pieces []piece // ordered by offset; nil: data is the whole entry
}

// piece says that data[at:at+size] was data[offset:offset+size] of the whole entry.
type piece struct{ offset, size, at uint32 }

// sweepAtLeast is the bytes below which nothing is swept.
const sweepAtLeast = 4 << 20

var errSwept = errors.New("no live message stands there")

// Propose implements Log.
func (l *memoryLog) Propose(_ uint64, entry []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	l.queue = append(l.queue, Entry{l.last, entry})
	l.entries[l.last] = &memoryEntry{data: entry}
	l.held.Add(int64(cap(entry)))
	return nil
}

// pump applies what is proposed, on the calling goroutine unless another is at it.
func (l *memoryLog) pump(h *Host) {
	for {
		entries := l.take()
		if entries == nil {
			return
		}
		if err := h.ApplyBatch(entries); err != nil {
			h.log().Error("this node's exclusive queues are stopped", "err", err)
			h.Close()
		}
		l.done(h)
	}
}

func (l *memoryLog) take() []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running || len(l.queue) == 0 {
		return nil
	}
	entries := l.queue
	l.queue, l.running = nil, true
	return entries
}

func (l *memoryLog) done(h *Host) {
	if l.held.Load() > sweepAtLeast {
		l.tidy(h)
	}
	l.mu.Lock()
	l.running = false
	l.mu.Unlock()
}

// tidy sweeps when what is held has doubled since the last sweep, and when what lives has halved: what was consumed or purged would
// stay for as long as nobody publishes, and with a memory alarm nobody can. So much has come or gone then as the sweep costs.
func (l *memoryLog) tidy(h *Host) {
	h.mu.Lock()
	_, live := h.state.Contents()
	l.most = max(l.most, live)
	if l.held.Load() <= l.limit && 2*live >= l.most {
		h.mu.Unlock()
		return
	}
	refs := liveRefs(h.state)
	h.mu.Unlock()
	l.limit, l.most = 2*l.sweep(refs, h.Applied()), live
}

// sweep drops everything up to the entry at index that no ref names, and returns what is held then.
func (l *memoryLog) sweep(refs []queue.Ref, index uint64) (held int64) {
	slices.SortFunc(refs, func(a, b queue.Ref) int {
		return cmp.Or(cmp.Compare(a.Index, b.Index), cmp.Compare(a.Offset, b.Offset))
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := make(map[uint64]*memoryEntry)
	for from := 0; from < len(refs); {
		to := from + 1
		for to < len(refs) && refs[to].Index == refs[from].Index {
			to++
		}
		if e := l.entries[refs[from].Index]; e != nil {
			e = e.shrink(refs[from:to])
			kept[refs[from].Index] = e
			held += int64(cap(e.data))
		}
		from = to
	}
	for i, e := range l.entries {
		if i > index {
			kept[i] = e
			held += int64(cap(e.data))
		}
	}
	l.entries = kept
	l.held.Store(held)
	return held
}

// shrink returns the entry with nothing but the refs, if that is worth a copy. Readers may hold the old one.
func (e *memoryEntry) shrink(refs []queue.Ref) *memoryEntry {
	var live uint64
	for _, r := range refs {
		live += uint64(r.Size)
	}
	if live > uint64(cap(e.data))/2 {
		return e
	}
	small := &memoryEntry{data: make([]byte, 0, live)}
	for i, r := range refs {
		if i > 0 && refs[i-1] == r {
			continue // one message in several queues
		}
		b, err := e.read(r.Offset, r.Size)
		if err != nil {
			return e
		}
		small.pieces = append(small.pieces, piece{r.Offset, r.Size, uint32(len(small.data))})
		small.data = append(small.data, b...)
	}
	return small
}

func (e *memoryEntry) read(offset, size uint32) ([]byte, error) {
	if e.pieces == nil {
		if uint64(offset)+uint64(size) > uint64(len(e.data)) {
			return nil, fmt.Errorf("bytes %d+%d of an entry of %d", offset, size, len(e.data))
		}
		return e.data[offset : offset+size : offset+size], nil
	}
	i, found := slices.BinarySearchFunc(e.pieces, offset, func(p piece, o uint32) int { return cmp.Compare(p.offset, o) })
	if !found || e.pieces[i].size != size {
		return nil, errSwept
	}
	at := e.pieces[i].at
	return e.data[at : at+size : at+size], nil
}

// ReadBody implements BodyReader; the result is an alias.
func (l *memoryLog) ReadBody(index uint64, offset, size uint32, _ []byte) ([]byte, error) {
	l.mu.Lock()
	e := l.entries[index]
	l.mu.Unlock()
	if e == nil {
		return nil, errSwept
	}
	return e.read(offset, size)
}
