package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path"

	"github.com/warrenmq/warren/storage/vfs"
)

// A kept log file is a full file of the log that is nearly all alive when it is to retire. Nothing is copied then: the file gets one more
// name, in the directory of each group that has bodies in it, and a segment that holds no records of its own but says where they lie in it:
//
//	segment  header | file | index | trailer
//	header   as of any segment, with magic "WRNSEGL1"
//	file     number u64 | octets u64 | size u64 | crc u32 | zero u32
//
// number and size are the log file's; octets are those that were alive when the segment was made. The index and the trailer are those of any
// segment, but for sizes of records, which the records tell. The log gives up its own name of the file as ever. It uses a file again only when
// that was its last name, which the file system says: nothing that was remembered wrongly, or came back with a power cut, can
// have a file written to that a group still needs.
const (
	keptMagic = "WRNSEGL1"
	keptRef   = 8 + 8 + 8 + 4 + 4
	// keptAlive is the part of a log file that is alive, over all groups, if it is kept: copying is worth more than the rest. In quarters.
	keptAlive = 3
	// maxKept bounds how many a group keeps: each is an open file.
	maxKept = 1024
)

// keptLog is what a segment knows of its log file.
type keptLog struct {
	number uint64
	name   string // in the group's directory
	size   int64  // of the file
	seed   uint32
	alive  int64 // octets of the group that were, at its last checkpoint; guarded by the group's mu
}

// share is how much of a log file a group's entries take.
type share struct {
	number uint64
	octets int64
}

func keptName(dir string, number uint64) string {
	return path.Join(dir, fmt.Sprintf("%016x.wal", number))
}

// keepLog gives a log file that is to go a name in the group's directory, if it is to be kept with so much of it alive. nil: it is copied.
func (g *Group) keepLog(number uint64, alive int64) *segment {
	f := g.s.wal.acquire(number)
	if f == nil {
		return nil
	}
	size := f.size
	if err := g.s.wal.release(f); err != nil {
		return nil
	}
	if alive < min(g.s.o.SegmentSize, size)/4 || g.kept() >= maxKept || g.s.aliveIn(number, g)+alive < size/4*keptAlive {
		return nil
	}
	log := &keptLog{number: number, name: keptName(g.dir, number), size: size, seed: f.seed, alive: alive}
	// What an attempt that failed may have left leads to the same file, or to one that nobody needs.
	if err := g.s.fs.Remove(log.name); err != nil && !errors.Is(err, vfs.ErrNotExist) {
		return nil
	}
	if err := g.s.fs.Link(g.s.wal.walName(number), log.name); err != nil {
		g.s.log.Debug("a log file cannot be kept and is copied", "group", g.id, "err", err)
		return nil
	}
	file, err := g.s.fs.Open(log.name)
	if err != nil {
		return nil
	}
	seg := &segment{f: file, size: alive, log: log}
	seg.readers.Store(1)
	return seg
}

// kept is how many log files the group keeps.
func (g *Group) kept() (n int) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	for _, seg := range g.segments {
		if seg.log != nil {
			n++
		}
	}
	return n
}

// aliveIn is how much of a log file is alive in all groups but one, nil for none. What a group has there that it has not looked at since,
// counts as alive.
func (s *Store) aliveIn(number uint64, but *Group) (octets int64) {
	for _, g := range s.sortedGroups() {
		if g != but {
			octets += g.aliveIn(number)
		}
	}
	return octets
}

func (g *Group) aliveIn(number uint64) int64 {
	upTo := g.upTo(number)
	g.mu.RLock()
	defer g.mu.RUnlock()
	for _, seg := range g.segments {
		if seg.log != nil && seg.log.number == number {
			return seg.log.alive
		}
	}
	if g.damaged == nil && upTo > g.floor {
		for _, sh := range g.shares {
			if sh.number == number {
				return sh.octets
			}
		}
	}
	return 0
}

// wasteful tells whether what is alive in a segment, so many octets, is to be written again so that the rest can go.
func (g *Group) wasteful(seg *segment, alive int64) bool {
	if seg.log == nil {
		return alive < seg.size/2
	}
	return alive == 0 || g.s.aliveIn(seg.log.number, g)+alive < seg.log.size/2
}

// Wasteful tells whether less than half is alive of a log file that the group keeps with others, who have given up what they had there: what
// the group has is written again by its next checkpoint, and the file goes.
func (g *Group) Wasteful() bool {
	kept := map[uint64]int64{} // sizes by number
	g.mu.RLock()
	for _, seg := range g.segments {
		if seg.log != nil {
			kept[seg.log.number] = seg.log.size
		}
	}
	g.mu.RUnlock()
	for number, size := range kept {
		if g.s.aliveIn(number, nil) < size/2 {
			return true
		}
	}
	return false
}

// occupied is what a segment takes of the disk: of a log file that several groups keep its part of what is alive.
func (g *Group) occupied(seg *segment, alive int64) int64 {
	if seg.log == nil {
		return seg.size
	}
	if all := g.s.aliveIn(seg.log.number, g) + alive; all > 0 {
		return int64(float64(seg.log.size) * float64(alive) / float64(all))
	}
	return seg.log.size
}

// complete writes the segment of a kept log file, of which items tell where the entries are.
func (w *segmentWriter) complete(seg *segment, items []segmentItem) error {
	seg.number, seg.name, seg.items = w.next, w.g.segmentName(w.next), items
	w.next++
	f, err := w.g.s.fs.Create(seg.name)
	if err != nil {
		return diskFull(err)
	}
	b := appendSegmentHeader(nil, keptMagic, w.g.id, w.g.s.id, seg.number)
	b = seg.log.append(b)
	b = appendSegmentIndex(b, int64(len(b)), items)
	out := paced{f: f}
	return errors.Join(out.write(b), diskFull(f.Sync()), f.Close())
}

func (l *keptLog) append(dst []byte) []byte {
	le := binary.LittleEndian
	start := len(dst)
	for _, n := range []uint64{l.number, uint64(l.alive), uint64(l.size)} {
		dst = le.AppendUint64(dst, n)
	}
	return append(le.AppendUint32(dst, checksum(0, dst[start:])), 0, 0, 0, 0)
}

// openLog opens the log file that a segment is about, whose own file has been read so far, and takes its place.
func (seg *segment) openLog(fs vfs.FS, storeID uint64) error {
	le := binary.LittleEndian
	b := make([]byte, keptRef)
	if err := readFull(seg.f, b, segmentHeader); err != nil {
		return err
	}
	if le.Uint32(b[24:]) != checksum(0, b[:24]) || le.Uint32(b[28:]) != 0 {
		return fmt.Errorf("%w: wrong checksum of the log file", ErrCorrupt)
	}
	log := &keptLog{number: le.Uint64(b), alive: int64(le.Uint64(b[8:])), size: int64(le.Uint64(b[16:]))}
	log.name, log.seed = keptName(path.Dir(seg.name), log.number), seedOf(storeID, log.number)
	f, err := fs.Open(log.name)
	if err != nil {
		return err
	}
	if size, err := f.Size(); err != nil || size != log.size {
		return errors.Join(fmt.Errorf("%s: %w: %d octets of %d", log.name, ErrCorrupt, size, log.size), err, f.Close())
	}
	err = seg.f.Close()
	seg.f, seg.size, seg.log = f, log.alive, log
	return err
}

// readLogged reads an entry of a kept log file.
func (seg *segment) readLogged(it segmentItem, group uint32) (*piece, error) {
	rec, err := readRecord(seg.f, seg.log.seed, int64(it.at)*align)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", seg.log.name, err)
	}
	if rec.group != group || rec.index != it.index || rec.kind != kindEntry {
		return nil, fmt.Errorf("%s: %w: another record is there", seg.log.name, ErrCorrupt)
	}
	return pieceOf(rec), nil
}

func pieceOf(rec *record) *piece {
	return &piece{whole: true, entry: Entry{Index: rec.index, Term: rec.term, Type: rec.typ, AppendedAt: rec.time, Data: rec.data, Extensions: rec.exts}}
}

// takeBack makes a log file that was kept, and that nobody needs any more, a spare of the log, or removes it.
func (w *wal) takeBack(seg *segment) error {
	if seg.readers.Load() == 1 && seg.log.size == w.s.o.WALFileSize && !shared(seg.f) {
		if kept, err := w.keepSpare(seg.log.name, spare{f: seg.f, written: true}); kept || err != nil {
			return err
		}
	}
	return errors.Join(seg.release(), w.s.fs.Remove(seg.log.name))
}

// shared tells whether a file has other names, or may have: it is not to be written to then under this one.
func shared(f vfs.File) bool {
	n, err := f.Links()
	return err != nil || n != 1
}
