package storage

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"sort"
	"sync"
)

// Entry is one entry of a group's log.
type Entry struct {
	Index, Term uint64
	Type        uint8
	AppendedAt  int64
	Data        []byte
	Extensions  []byte
}

// size is the length of its record.
func (e *Entry) size() int64 { return int64(padded(recordSize + len(e.Data) + len(e.Extensions))) }

// loc is where an entry lies in the log.
type loc struct {
	number uint32 // of the file
	at     uint32 // offset in units of align
}

// Group is the log of one Raft group, its checkpoint and its segments. One goroutine appends; any number read.
type Group struct {
	s   *Store
	id  uint32
	dir string

	chain uint32 // crc of the last record; the writer's, and recovery's before it
	tail  uint64 // index that the log came to with that record; likewise
	reset uint64 // number of the last reset; likewise

	mu         sync.RWMutex // guards what follows
	base       uint64       // index of locs[0]
	locs       []loc
	shares     []share // how much of each file locs take; what was truncated counts
	first      uint64  // what is below was given up by TruncatePrefix
	last       uint64  // 0: no entry
	floor      uint64  // entries up to here are not needed in the log any more
	segments   []*segment
	checkpoint *checkpointFile
	postponed  bool // the last checkpoint has left segments for want of room
	vain       bool // the last checkpoint left the oldest log file needed; until the next file begins another would, too
	trails     []*trail
	damaged    error
	unreadable bool // the group's own files are damaged, not only its log
	cutShort   bool // a crash came between an installed checkpoint and its record in the log; Open's

	cacheMu sync.RWMutex // guards cached
	cached  map[uint64]*piece

	early early // what AppendEarly has taken

	working sync.Mutex // held for a checkpoint or an install: one at a time
}

func newGroup(s *Store, id uint32) *Group {
	g := &Group{s: s, id: id, dir: path.Join(s.o.Dir, fmt.Sprintf("group-%d", id)), cached: map[uint64]*piece{}}
	g.early.init()
	s.known.Add(1)
	return g
}

// begin takes the right to make a checkpoint, an install or a discard: one at a time, and none once the store is closed.
func (g *Group) begin() error {
	g.working.Lock()
	if g.s.wal.isClosed() {
		g.working.Unlock()
		return ErrClosed
	}
	return nil
}

func (g *Group) close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var errs []error
	for _, seg := range g.segments {
		errs = append(errs, seg.release())
	}
	g.segments = nil
	return errors.Join(errs...)
}

// Damaged says why the group's data cannot be trusted, or nil. A damaged group neither reads nor writes.
func (g *Group) Damaged() error {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.damaged
}

func (g *Group) damage(format string, args ...any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.damaged == nil {
		g.damaged = fmt.Errorf("%w: group %d: %s", ErrDamaged, g.id, fmt.Sprintf(format, args...))
		g.s.log.Error("damage found", "group", g.id, "err", g.damaged)
	}
}

// FirstIndex is the lowest index in the log, 0 when it is empty. It rises when log files retire.
func (g *Group) FirstIndex() uint64 {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.last == 0 || max(g.base, g.first) > g.last {
		return 0
	}
	return max(g.base, g.first)
}

// LastIndex is the highest index in the log, 0 when it is empty.
func (g *Group) LastIndex() uint64 {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if max(g.base, g.first) > g.last {
		return 0
	}
	return g.last
}

// Append adds entries, which follow one another and what is there, and returns when they are durable. The entries' data
// belongs to the store from then on.
func (g *Group) Append(entries []Entry) error {
	if len(entries) == 0 {
		return nil
	}
	if err := g.Damaged(); err != nil {
		return err
	}
	if err := g.Settle(); err != nil {
		return err
	}
	next := entries[0].Index
	if next == 0 {
		return fmt.Errorf("append to group %d: index 0", g.id)
	}
	given, last := g.end()
	switch {
	case last == 0 || next == last+1: // 0: there is no checkpoint either
	case given && next <= last:
		if err := g.TruncateSuffix(next); err != nil {
			return err
		}
	default:
		return fmt.Errorf("append to group %d: index %d does not follow %d", g.id, next, last)
	}
	if err := g.check(entries); err != nil {
		return err
	}
	return g.submit(entries, record{})
}

// check tells whether entries follow one another, and fit.
func (g *Group) check(entries []Entry) error {
	for i, e := range entries {
		if e.Index != entries[0].Index+uint64(i) {
			return fmt.Errorf("append to group %d: index %d is not in line", g.id, e.Index)
		}
		if size := e.size(); size > g.s.maxRecord() {
			return fmt.Errorf("append to group %d: a record of %d octets is more than half a log file of %d", g.id, size, g.s.o.WALFileSize)
		}
	}
	return nil
}

// end is the last index, also of a log that was given up to its end. An empty log goes on behind the checkpoint: what is before it would
// leave a gap.
func (g *Group) end() (given bool, last uint64) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.last == 0 && g.checkpoint != nil {
		return false, g.checkpoint.Index
	}
	return g.first > g.last, g.last
}

func (g *Group) submit(entries []Entry, other record) error {
	if err := g.Damaged(); err != nil {
		return err
	}
	return g.s.wal.submit(g, entries, other)
}

// TruncateSuffix removes the entries from index on, for good when it returns.
func (g *Group) TruncateSuffix(from uint64) error {
	if from == 0 {
		return fmt.Errorf("truncate group %d from index 0", g.id)
	}
	return g.submit(nil, record{kind: kindTruncate, group: g.id, index: from})
}

// TruncatePrefix gives up the entries up to index. Bodies in them can still be read while their references are alive.
func (g *Group) TruncatePrefix(to uint64) error {
	if err := g.Damaged(); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.first = max(g.first, to+1)
	return nil
}

// written takes note of durable records of this group; the writer calls it, and recovery.
func (g *Group) written(f *walFile, batch []placed, items []cached) []cached {
	g.mu.Lock()
	defer g.mu.Unlock()
	// One allocation for all: they come together, and the cache lets them go together, but for the last few.
	pieces := make([]piece, len(batch))
	for i, p := range batch {
		p.r.next = p.record + 1
		rec := p.r.record(p.record)
		g.note(f, &rec, p.at)
		if rec.kind == kindEntry {
			e := p.r.entries[p.record]
			pieces[i] = piece{entry: e, whole: true}
			items = append(items, cached{g, e.Index, &pieces[i], int64(len(e.Data)+len(e.Extensions)) + overhead})
		}
	}
	return items
}

// note changes the list of entries by a record. mu is held.
func (g *Group) note(f *walFile, rec *record, at int64) {
	switch rec.kind {
	case kindEntry:
		if g.last == 0 {
			g.base, g.locs = rec.index, nil
		}
		g.locs = append(g.locs, loc{uint32(f.number), uint32(at / align)})
		if n := len(g.shares); n == 0 || g.shares[n-1].number != f.number {
			g.shares = append(g.shares, share{number: f.number})
		}
		g.shares[len(g.shares)-1].octets += int64(rec.size())
		g.last, g.tail = rec.index, rec.index
	case kindTruncate:
		if rec.index <= g.base {
			g.locs, g.last = nil, 0
		} else if rec.index <= g.last {
			g.locs = g.locs[:rec.index-g.base]
			g.last = rec.index - 1
		}
		g.tail, g.first = min(g.tail, rec.index-1), min(g.first, rec.index)
		g.uncache(rec.index)
	case kindReset:
		g.locs, g.base, g.first, g.last, g.tail, g.reset = nil, 0, 0, 0, rec.index, rec.term
		g.shares = nil
		g.damaged, g.unreadable = nil, false
		g.dropTrails()
		g.uncache(0)
	}
}

// uncache forgets cached entries from an index on.
func (g *Group) uncache(from uint64) {
	g.cacheMu.Lock()
	defer g.cacheMu.Unlock()
	for index := range g.cached {
		if index >= from {
			delete(g.cached, index)
		}
	}
}

// pins tells whether an entry that no checkpoint covers is in the file or before it. A damaged group pins nothing: it is
// rebuilt from its peers.
func (g *Group) pins(f *walFile) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	next := max(g.floor+1, g.base)
	return g.damaged == nil && g.last != 0 && next <= g.last && uint64(g.locs[next-g.base].number) <= f.number
}

// upTo is the highest index whose entry is in a file up to the number, or what the floor is.
func (g *Group) upTo(number uint64) uint64 {
	g.mu.RLock()
	defer g.mu.RUnlock()
	n := sort.Search(len(g.locs), func(i int) bool { return uint64(g.locs[i].number) > number })
	return max(g.floor, g.base+uint64(n)-min(1, g.base+uint64(n)))
}

// trim forgets the entries of files up to the number, which have retired.
func (g *Group) trim(number uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shares = slices.DeleteFunc(g.shares, func(sh share) bool { return sh.number <= number })
	n := sort.Search(len(g.locs), func(i int) bool { return uint64(g.locs[i].number) > number })
	if n == 0 {
		return
	}
	g.locs = slices.Clone(g.locs[n:])
	g.base += uint64(n)
	if len(g.locs) == 0 {
		g.last, g.base = 0, 0
	}
}
