package storage

import (
	"errors"
	"fmt"
	"sync"

	"github.com/warrenmq/warren/storage/vfs"
)

func (g *Group) fromCache(index uint64) *piece {
	g.cacheMu.RLock()
	defer g.cacheMu.RUnlock()
	return g.cached[index]
}

// Entry returns an entry of the log: ErrNotFound when there is none (any more), ErrCorrupt when the disk does not give back
// what was written. Nothing in it may be changed.
func (g *Group) Entry(index uint64) (Entry, error) {
	if e, ok := g.early.get(index); ok {
		return e, nil
	}
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
	rec, err := readRecord(f.f, f.seed, int64(l.at)*align)
	if releaseErr := g.s.wal.release(f); err == nil {
		err = releaseErr
	}
	if err != nil {
		return nil, fmt.Errorf("read entry %d of group %d: %w", index, g.id, err)
	}
	if rec.group != g.id || rec.index != index || rec.kind != kindEntry {
		return nil, fmt.Errorf("read entry %d of group %d: %w: another record is there", index, g.id, ErrCorrupt)
	}
	p := pieceOf(rec)
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

// readRecord reads and checks the record at an offset of a file with a seed.
func readRecord(f vfs.File, seed uint32, at int64) (*record, error) {
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
	if !rec.valid(b, seed) {
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
