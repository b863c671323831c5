package storage

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"sort"
	"sync"

	"github.com/warrenmq/warren/storage/vfs"
)

// Entry is one entry of a group's log.
type Entry struct {
	Index, Term uint64
	Type        uint8
	AppendedAt  int64
	Data        []byte
	Extensions  []byte
}

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
	first      uint64 // what is below was given up by TruncatePrefix
	last       uint64 // 0: no entry
	floor      uint64 // entries up to here are not needed in the log any more
	segments   []*segment
	checkpoint *checkpointFile
	damaged    error
	unreadable bool // the group's own files are damaged, not only its log
	cutShort   bool // a crash came between an installed checkpoint and its record in the log; Open's

	cacheMu sync.RWMutex // guards cached
	cached  map[uint64]*piece

	working sync.Mutex // held for a checkpoint or an install: one at a time
}

func newGroup(s *Store, id uint32) *Group {
	return &Group{s: s, id: id, dir: path.Join(s.o.Dir, fmt.Sprintf("group-%d", id)), cached: map[uint64]*piece{}}
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
	next := entries[0].Index
	if next == 0 {
		return fmt.Errorf("append to group %d: index 0", g.id)
	}
	given, last := g.end()
	switch {
	case last == 0 || next == last+1:
	case given && next <= last:
		if err := g.TruncateSuffix(next); err != nil {
			return err
		}
	default:
		return fmt.Errorf("append to group %d: index %d does not follow %d", g.id, next, last)
	}
	for i, e := range entries {
		if e.Index != next+uint64(i) {
			return fmt.Errorf("append to group %d: index %d is not in line", g.id, e.Index)
		}
		if size := padded(recordSize + len(e.Data) + len(e.Extensions)); int64(size) > g.s.o.WALFileSize/2 {
			return fmt.Errorf("append to group %d: a record of %d octets is more than half a log file of %d", g.id, size, g.s.o.WALFileSize)
		}
	}
	return g.submit(entries, record{})
}

// end is the last index, also of a log that was given up to its end.
func (g *Group) end() (given bool, last uint64) {
	g.mu.RLock()
	defer g.mu.RUnlock()
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
		g.damaged, g.unreadable = nil, false
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

func (g *Group) fromCache(index uint64) *piece {
	g.cacheMu.RLock()
	defer g.cacheMu.RUnlock()
	return g.cached[index]
}

// Entry returns an entry of the log: ErrNotFound when there is none (any more), ErrCorrupt when the disk does not give back
// what was written. Nothing in it may be changed.
func (g *Group) Entry(index uint64) (Entry, error) {
	if index < g.FirstIndex() || index > g.LastIndex() || index == 0 {
		return Entry{}, ErrNotFound
	}
	if p := g.fromCache(index); p != nil && p.whole {
		return p.entry, nil
	}
	p, err := g.readEntry(index, true)
	if err != nil {
		return Entry{}, err
	}
	return p.entry, nil
}

// readEntry reads an entry from the log's file, and into the cache when it is to be kept.
func (g *Group) readEntry(index uint64, keep bool) (*piece, error) {
	g.mu.RLock()
	if g.damaged != nil {
		defer g.mu.RUnlock()
		return nil, g.damaged
	}
	if index < g.base || index > g.last || index-g.base >= uint64(len(g.locs)) {
		g.mu.RUnlock()
		return nil, ErrNotFound
	}
	l := g.locs[index-g.base]
	g.mu.RUnlock()
	f := g.s.wal.acquire(uint64(l.number))
	if f == nil {
		return nil, ErrNotFound
	}
	rec, err := readRecord(f.f, int64(l.at)*align)
	if releaseErr := g.s.wal.release(f); err == nil {
		err = releaseErr
	}
	if err != nil {
		return nil, fmt.Errorf("read entry %d of group %d: %w", index, g.id, err)
	}
	if rec.group != g.id || rec.index != index || rec.kind != kindEntry {
		return nil, fmt.Errorf("read entry %d of group %d: %w: another record is there", index, g.id, ErrCorrupt)
	}
	p := &piece{whole: true, entry: Entry{Index: rec.index, Term: rec.term, Type: rec.typ, AppendedAt: rec.time, Data: rec.data, Extensions: rec.exts}}
	if keep {
		g.keep(cached{g, index, p, int64(len(rec.data)+len(rec.exts)) + overhead}, func() bool {
			return index >= g.base && index <= g.last && g.locs[index-g.base] == l
		})
	}
	return p, nil
}

// keep caches what was read, unless something else has taken its place meanwhile.
func (g *Group) keep(it cached, still func() bool) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if still() {
		g.s.cache.add(it)
	}
}

// firstRead is what is read of a record at once: most fit. It is read into memory that is used again; what is kept of a
// record, which the cache counts, is not a page for a few octets.
const firstRead = 4 << 10

var firstReads = sync.Pool{New: func() any { return new([firstRead]byte) }}

// readRecord reads and checks the record at an offset.
func readRecord(f vfs.File, at int64) (*record, error) {
	first := firstReads.Get().(*[firstRead]byte)
	defer firstReads.Put(first)
	n, err := f.ReadAt(first[:], at)
	if n < recordSize {
		return nil, fmt.Errorf("%w: cut short: %w", ErrCorrupt, err)
	}
	rec := parseRecord(first[:])
	size := recordSize + int64(rec.dataLen) + int64(rec.extLen)
	b := first[:min(size, int64(n))]
	if size > int64(n) {
		if total, err := f.Size(); err != nil || size > total-at {
			return nil, errors.Join(ErrCorrupt, err)
		}
		b = make([]byte, size)
		copy(b, first[:n])
		if err := readFull(f, b[n:], at+int64(n)); err != nil {
			return nil, err
		}
	}
	if !rec.valid(b) {
		return nil, fmt.Errorf("%w: wrong checksum", ErrCorrupt)
	}
	if size <= int64(n) {
		kept := append(make([]byte, 0, size-recordSize), b[recordSize:]...)
		rec.data, rec.exts = kept[:rec.dataLen:rec.dataLen], kept[rec.dataLen:]
	}
	return &rec, nil
}

// ReadBody returns octets [offset, offset+size) of the data of the entry at index, from memory, the log or a segment. They
// are read-only and stay as they are.
func (g *Group) ReadBody(index uint64, offset, size uint32) ([]byte, error) {
	if p := g.fromCache(index); p != nil {
		if body, ok := p.body(offset, size); ok {
			return body, nil
		}
	}
	p, err := g.read(index, true)
	if err != nil {
		return nil, err
	}
	body, ok := p.body(offset, size)
	if !ok {
		return nil, fmt.Errorf("read %d octets at %d of entry %d of group %d: %w", size, offset, index, g.id, ErrNotFound)
	}
	return body, nil
}

// read reads what there is of an entry from the log or a segment.
func (g *Group) read(index uint64, keep bool) (*piece, error) {
	p, err := g.readEntry(index, keep)
	if errors.Is(err, ErrNotFound) {
		return g.readSegments(index, keep)
	}
	return p, err
}
