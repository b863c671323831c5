package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/warrenmq/warren/storage/vfs"
)

// A checkpoint is one file of a group's directory, written aside and renamed:
//
//	checkpoint  header | block… | last block
//	header      magic "WRNCKPT1" | version u32 | length of the header u32 | store id u64 | group u32 | segments u32 | index u64 |
//	            term u64 | floor u64 | install u64 | reset u64 | extra length u32 | extra | segments × number u64 | crc u32
//	block       length u32, not 0 | crc u32 | octets
//	last block  0 u32 | crc of the length of all octets u32 | length of all octets u64
//
// floor is the index up to which entries are not needed in the log. reset is the number of the last reset of the log when
// the checkpoint was written. install is not 0 in the checkpoint that an installed snapshot became, until the next one: the
// log before the reset of that number is void. A log whose last reset is neither was discarded after the checkpoint.
const (
	checkpointMagic = "WRNCKPT1"
	checkpointFixed = 8 + 4 + 4 + 8 + 4 + 4 + 8 + 8 + 8 + 8 + 8 + 4
	blockSize       = 64 << 10
	maxHeader       = 64 << 20
)

// Checkpoint is a state of a group at an index. Extra is its caller's, for example the Raft configuration.
type Checkpoint struct {
	Index, Term uint64
	Extra       []byte
}

// checkpointFile is a checkpoint on disk.
type checkpointFile struct {
	Checkpoint
	floor, install, reset uint64
	segments              []uint64
	bodyAt                int64 // where the blocks begin
	size                  int64 // of the file
}

func (g *Group) checkpointName() string { return path.Join(g.dir, "checkpoint") }

func (c *checkpointFile) appendHeader(dst []byte, storeID uint64, group uint32) []byte {
	le := binary.LittleEndian
	start := len(dst)
	dst = append(dst, checkpointMagic...)
	dst = le.AppendUint32(dst, formatVer)
	dst = le.AppendUint32(dst, uint32(checkpointFixed+len(c.Extra)+8*len(c.segments)+4))
	dst = le.AppendUint64(dst, storeID)
	dst = le.AppendUint32(dst, group)
	dst = le.AppendUint32(dst, uint32(len(c.segments)))
	for _, n := range []uint64{c.Index, c.Term, c.floor, c.install, c.reset} {
		dst = le.AppendUint64(dst, n)
	}
	dst = le.AppendUint32(dst, uint32(len(c.Extra)))
	dst = append(dst, c.Extra...)
	for _, n := range c.segments {
		dst = le.AppendUint64(dst, n)
	}
	return le.AppendUint32(dst, checksum(0, dst[start:]))
}

// readCheckpoint reads and checks the header.
func readCheckpoint(f vfs.File, storeID uint64, group uint32) (*checkpointFile, error) {
	le := binary.LittleEndian
	fixed := make([]byte, checkpointFixed)
	if err := readFull(f, fixed, 0); err != nil {
		return nil, err
	}
	length := le.Uint32(fixed[12:])
	if string(fixed[:8]) != checkpointMagic || length < checkpointFixed+4 || length > maxHeader {
		return nil, fmt.Errorf("%w: no checkpoint", ErrCorrupt)
	}
	if size, err := f.Size(); err != nil {
		return nil, err
	} else if int64(length) > size {
		return nil, fmt.Errorf("%w: cut short", ErrCorrupt)
	}
	b := make([]byte, length)
	if err := readFull(f, b, 0); err != nil {
		return nil, err
	}
	if le.Uint32(b[length-4:]) != checksum(0, b[:length-4]) {
		return nil, fmt.Errorf("%w: wrong checksum of the header", ErrCorrupt)
	}
	if v := le.Uint32(b[8:]); v != formatVer { // and no damage: the checksum is right
		return nil, fmt.Errorf("checkpoint of version %d; this program knows %d", v, formatVer)
	}
	n, extra := uint64(le.Uint32(b[28:])), uint64(le.Uint32(b[72:]))
	if checkpointFixed+extra+8*n+4 != uint64(length) {
		return nil, fmt.Errorf("%w: wrong lengths in the header", ErrCorrupt)
	}
	if le.Uint64(b[16:]) != storeID || le.Uint32(b[24:]) != group {
		return nil, fmt.Errorf("%w: a checkpoint of another store or group", ErrCorrupt)
	}
	c := &checkpointFile{Checkpoint: Checkpoint{Index: le.Uint64(b[32:]), Term: le.Uint64(b[40:]), Extra: b[checkpointFixed : checkpointFixed+extra]},
		floor: le.Uint64(b[48:]), install: le.Uint64(b[56:]), reset: le.Uint64(b[64:]), bodyAt: int64(length)}
	for i := range n {
		c.segments = append(c.segments, le.Uint64(b[checkpointFixed+extra+8*i:]))
	}
	return c, nil
}

// open reads the group's directory: its checkpoint and the segments that it names. Segments that it does not name are left
// from a checkpoint that was never completed. Only what was read and is wrong, or is not there, is damage, for which the group's data may be
// discarded. What cannot be opened now, for want of descriptors, memory or rights, says nothing about what is in it: the store does not open.
func (g *Group) open() error {
	err := g.load()
	if err == nil {
		return nil
	}
	if !errors.Is(err, ErrCorrupt) && !errors.Is(err, vfs.ErrNotExist) {
		return fmt.Errorf("group %d: %w", g.id, err)
	}
	g.unreadable = true
	g.damage("%s", err)
	return nil
}

func (g *Group) load() error {
	// What is seen now is built upon: it must not be undone by a power cut.
	if err := g.s.fs.SyncDir(g.dir); err != nil {
		return err
	}
	names, err := g.s.fs.ReadDir(g.dir)
	if err != nil {
		return err
	}
	needed := map[string]bool{"checkpoint": true}
	f, err := g.s.fs.Open(g.checkpointName())
	if err != nil && !errors.Is(err, vfs.ErrNotExist) {
		return err
	}
	if err == nil {
		c, err := readCheckpoint(f, g.s.id, g.id)
		if err == nil {
			c.size, err = f.Size()
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("checkpoint: %w", err)
		}
		g.checkpoint, g.floor = c, c.floor
		for _, number := range c.segments {
			name := g.segmentName(number)
			needed[path.Base(name)] = true
			seg, err := openSegment(g.s.fs, name, g.id, g.s.id, number)
			if err != nil {
				return err
			}
			if seg.log != nil {
				needed[path.Base(seg.log.name)] = true
			}
			g.segments = append(g.segments, seg)
		}
	}
	for _, name := range names {
		if !needed[name] && (strings.HasSuffix(name, ".seg") || strings.HasSuffix(name, ".wal") || strings.HasSuffix(name, ".new") || name == "install") {
			if err := g.s.fs.RemoveAll(path.Join(g.dir, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// LatestCheckpoint tells the newest checkpoint; false when there is none.
func (g *Group) LatestCheckpoint() (Checkpoint, bool) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.checkpoint == nil {
		return Checkpoint{}, false
	}
	return g.checkpoint.Checkpoint, true
}

// SegmentBytes is how much lies outside the log, in octets. Segments that are less than half alive are given back by the next checkpoint.
func (g *Group) SegmentBytes() (n int64) {
	g.mu.RLock()
	segments, alive := slices.Clone(g.segments), make([]int64, len(g.segments))
	for i, seg := range segments {
		if seg.log != nil {
			alive[i] = seg.log.alive
		}
	}
	g.mu.RUnlock()
	for i, seg := range segments {
		n += g.occupied(seg, alive[i])
	}
	return n
}

// Floor is the index up to which what is alive lies outside the log.
func (g *Group) Floor() uint64 {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.floor
}

// Postponed tells that the last checkpoint has left segments that are less than half alive, or the oldest log file, since there was no room
// on the disk to write what is alive in them.
func (g *Group) Postponed() bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.postponed
}

// OpenCheckpoint reads the state of the newest checkpoint. Damage is found while reading: ErrCorrupt.
func (g *Group) OpenCheckpoint() (Checkpoint, io.ReadCloser, error) {
	if err := g.Damaged(); err != nil {
		return Checkpoint{}, nil, err
	}
	f, err := g.s.fs.Open(g.checkpointName())
	if errors.Is(err, vfs.ErrNotExist) {
		return Checkpoint{}, nil, ErrNotFound
	} else if err != nil {
		return Checkpoint{}, nil, err
	}
	c, err := readCheckpoint(f, g.s.id, g.id)
	if err != nil {
		return Checkpoint{}, nil, errors.Join(err, f.Close())
	}
	return c.Checkpoint, &blockReader{f: f, at: c.bodyAt}, nil
}

// SaveCheckpoint makes a state durable: a restart needs the entries after its index only. Bodies that are alive in log files
// that are to retire are copied to segments first; then the files retire. writeState writes the state; live tells which
// parts of entries up to the index it refers to.
func (g *Group) SaveCheckpoint(c Checkpoint, writeState func(io.Writer) error, live LiveRefs) error {
	if err := g.begin(); err != nil {
		return err
	}
	defer g.working.Unlock()
	if err := g.Damaged(); err != nil {
		return err
	}
	if latest, ok := g.LatestCheckpoint(); ok && c.Index < latest.Index { // another was installed meanwhile
		return fmt.Errorf("checkpoint of group %d at %d: there is one at %d", g.id, c.Index, latest.Index)
	}
	if err := g.save(c, writeState, live); err != nil {
		return fmt.Errorf("checkpoint of group %d at %d: %w", g.id, c.Index, err)
	}
	g.setVain(g.s.wal.pinnedBy(g))
	return g.s.wal.retire()
}

func (g *Group) setVain(vain bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.vain = vain
}

func (g *Group) isVain() bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.vain
}

func (g *Group) save(c Checkpoint, writeState func(io.Writer) error, live LiveRefs) error {
	g.mu.RLock()
	reset := g.reset
	g.mu.RUnlock()
	plan := g.planCopy(g.leaving(c.Index), live)
	w := &segmentWriter{g: g, next: plan.next, kept: plan.kept}
	if err := g.copyLive(w, plan, live); err != nil {
		return errors.Join(err, w.abandon())
	}
	file := &checkpointFile{Checkpoint: c, floor: plan.floor, reset: reset}
	segments := slices.Concat(plan.keep, w.done, w.kept)
	for _, seg := range segments {
		file.segments = append(file.segments, seg.number)
	}
	if unknown, err := g.writeCheckpoint(file, writeState); unknown {
		return err
	} else if err != nil {
		return errors.Join(err, w.abandon())
	}
	g.mu.Lock()
	g.segments, g.checkpoint, g.floor, g.postponed = segments, file, plan.floor, plan.postponed
	for _, seg := range plan.keep {
		if seg.log != nil {
			seg.log.alive = plan.alive[seg]
		}
	}
	g.mu.Unlock()
	g.drop(plan.drop)
	return nil
}

// leaving is a log file that is to go, and what the floor may become with it.
type leaving struct {
	number uint64
	floor  uint64
	whole  bool // all that the group has there is below the floor then
}

// leaving are the files that are to go with a checkpoint at an index, ascending. Before them comes, with no number, what the floor is.
func (g *Group) leaving(index uint64) []leaving {
	files := []leaving{{floor: g.Floor()}}
	for _, number := range g.s.wal.toGo() {
		upTo := g.upTo(number)
		files = append(files, leaving{number, min(upTo, index), upTo <= index})
	}
	return files
}

// drop removes segments that no checkpoint names any more. One that cannot be removed is removed when the store is opened.
func (g *Group) drop(segments []*segment) {
	for _, seg := range segments {
		err := g.s.fs.Remove(seg.name)
		if seg.log != nil {
			err = errors.Join(err, g.s.wal.takeBack(seg))
		} else {
			err = errors.Join(err, seg.release())
		}
		if err != nil {
			g.s.log.Warn("a segment cannot be removed", "group", g.id, "err", err)
		}
	}
}
