package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path"
	"time"

	"github.com/warrenmq/warren/storage/vfs"
)

// A snapshot on its way to another node is
//
//	stream  header | state | crc of the state u32 | record…
//	header  magic "WRNSNAP1" | version u32 | extra length u32 | index u64 | term u64 | state length u64 | records u64 | extra | crc u32
//	record  length u32 | a record as in a segment
const (
	snapshotMagic = "WRNSNAP1"
	snapshotFixed = 8 + 4 + 4 + 8 + 8 + 8 + 8
)

// source is a live entry of a snapshot and where it can be read, whatever retires meanwhile.
type source struct {
	index uint64
	parts []bodyPart
	size  uint64 // of the record
	seg   *segment
	file  *walFile
	at    int64
	it    segmentItem
}

// snapshotReader reads a snapshot stream. It holds the files that it needs open.
type snapshotReader struct {
	g       *Group
	buf     []byte // what comes next
	pending []byte // the state and its crc
	sources []source
	next    int
	octets  []byte
}

// OpenSnapshot begins a stream of a state and the bodies that it refers to, for Install on another node. The size is the
// stream's, exactly. Files that retire meanwhile stay readable to the stream until it is closed.
func (g *Group) OpenSnapshot(c Checkpoint, state []byte, live LiveRefs) (size int64, _ io.ReadCloser, err error) {
	if err := g.Damaged(); err != nil {
		return 0, nil, err
	}
	r := &snapshotReader{g: g}
	if err := r.collect(c.Index, live); err != nil {
		return 0, nil, errors.Join(err, r.Close())
	}
	le := binary.LittleEndian
	h := append([]byte(nil), snapshotMagic...)
	h = le.AppendUint32(h, formatVer)
	h = le.AppendUint32(h, uint32(len(c.Extra)))
	for _, n := range []uint64{c.Index, c.Term, uint64(len(state)), uint64(len(r.sources))} {
		h = le.AppendUint64(h, n)
	}
	h = append(h, c.Extra...)
	r.buf = le.AppendUint32(h, checksum(0, h))
	r.pending = le.AppendUint32(state[:len(state):len(state)], checksum(0, state))
	size = int64(len(r.buf) + len(r.pending))
	for _, s := range r.sources {
		size += 4 + int64(s.size)
	}
	return size, r, nil
}

// collect finds every live entry and holds its file.
func (r *snapshotReader) collect(index uint64, live LiveRefs) error {
	var failed error
	var current source
	var octets uint64
	flush := func() bool {
		if len(current.parts) > 0 {
			current.size = segmentRecordSize(len(current.parts), octets)
			failed = r.hold(&current)
			r.sources = append(r.sources, current)
		}
		current, octets = source{}, 0
		return failed == nil
	}
	live(0, index, func(i uint64, offset, size uint32) bool {
		if i != current.index && !flush() {
			return false
		}
		current.index = i
		if n := len(current.parts); n == 0 || current.parts[n-1].offset != offset {
			current.parts = append(current.parts, bodyPart{offset: offset, size: size})
			octets += uint64(size)
		}
		return true
	})
	if failed == nil {
		flush()
	}
	return failed
}

func (r *snapshotReader) hold(s *source) error {
	// A file that retires between the two looks leaves what is alive in a segment.
	if r.holdSegment(s) || r.holdFile(s) || r.holdSegment(s) {
		return nil
	}
	return fmt.Errorf("entry %d of group %d: %w", s.index, r.g.id, ErrNotFound)
}

func (r *snapshotReader) holdSegment(s *source) bool {
	r.g.mu.RLock()
	defer r.g.mu.RUnlock()
	seg, it, ok := inSegments(r.g.segments, s.index)
	if ok {
		seg.acquire()
		s.seg, s.it = seg, it
	}
	return ok
}

// holdFile takes the file without the group's lock: whoever retires files takes them the other way round.
func (r *snapshotReader) holdFile(s *source) bool {
	g := r.g
	g.mu.RLock()
	var l loc
	there := g.last != 0 && s.index >= g.base && s.index <= g.last
	if there {
		l = g.locs[s.index-g.base]
	}
	g.mu.RUnlock()
	if !there {
		return false
	}
	s.file, s.at = g.s.wal.acquire(uint64(l.number)), int64(l.at)*align
	return s.file != nil
}

func (r *snapshotReader) Read(p []byte) (int, error) {
	for len(r.buf) == 0 {
		switch {
		case r.pending != nil:
			r.buf, r.pending = r.pending, nil
		case r.next == len(r.sources):
			return 0, io.EOF
		default:
			if err := r.record(&r.sources[r.next]); err != nil {
				return 0, err
			}
			r.next++
		}
	}
	n := copy(p, r.buf)
	r.buf = r.buf[n:]
	return n, nil
}

// record reads an entry's live parts.
func (r *snapshotReader) record(s *source) error {
	piece, err := r.piece(s)
	if err != nil {
		return err
	}
	r.octets = r.octets[:0]
	for _, part := range s.parts {
		body, ok := piece.body(part.offset, part.size)
		if !ok {
			return fmt.Errorf("octets at %d of entry %d of group %d: %w", part.offset, s.index, r.g.id, ErrNotFound)
		}
		r.octets = append(r.octets, body...)
	}
	r.buf = binary.LittleEndian.AppendUint32(nil, uint32(s.size))
	r.buf = appendSegmentRecord(r.buf, s.index, s.parts, r.octets)
	if len(r.buf) != int(4+s.size) {
		return fmt.Errorf("entry %d of group %d has another size than was announced", s.index, r.g.id)
	}
	return nil
}

func (r *snapshotReader) piece(s *source) (*piece, error) {
	if s.seg != nil {
		return s.seg.read(s.it)
	}
	rec, err := readRecord(s.file.f, s.at)
	if err != nil {
		return nil, fmt.Errorf("entry %d of group %d: %w", s.index, r.g.id, err)
	}
	if rec.group != r.g.id || rec.index != s.index || rec.kind != kindEntry {
		return nil, fmt.Errorf("entry %d of group %d: %w: another record is there", s.index, r.g.id, ErrCorrupt)
	}
	return &piece{whole: true, entry: Entry{Data: rec.data}}, nil
}

// Close gives the files back.
func (r *snapshotReader) Close() error {
	var errs []error
	for _, s := range r.sources {
		if s.seg != nil {
			errs = append(errs, s.seg.release())
		}
		if s.file != nil {
			errs = append(errs, r.g.s.wal.release(s.file))
		}
	}
	r.sources, r.buf, r.pending = nil, nil, nil
	return errors.Join(errs...)
}

// Installer receives a snapshot stream. Nothing of the group changes before Commit.
type Installer struct {
	g    *Group
	name string
	f    vfs.File
	at   int64
}

// Install begins to receive a snapshot.
func (g *Group) Install() (*Installer, error) {
	dir := path.Join(g.dir, "install")
	if err := g.s.fs.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("install into group %d: %w", g.id, err)
	}
	i := &Installer{g: g, name: path.Join(dir, fmt.Sprintf("%016x", rand.Uint64()))}
	f, err := g.s.fs.Create(i.name)
	if err != nil {
		return nil, fmt.Errorf("install into group %d: %w", g.id, diskFull(err))
	}
	i.f = f
	return i, nil
}

// Write adds to the stream.
func (i *Installer) Write(p []byte) (int, error) {
	n, err := i.f.WriteAt(p, i.at)
	i.at += int64(n)
	return n, diskFull(err)
}

// Abort forgets the stream.
func (i *Installer) Abort() error {
	return errors.Join(i.f.Close(), i.g.s.fs.Remove(i.name))
}

// Commit checks the whole stream and makes it the group's checkpoint and its only data: the log is empty then, and the next
// entry may follow the checkpoint's index. A stream that is not whole changes nothing.
func (i *Installer) Commit() (Checkpoint, error) {
	g := i.g
	g.working.Lock()
	defer g.working.Unlock()
	c, err := i.install()
	if err = errors.Join(err, i.Abort()); err != nil {
		return Checkpoint{}, fmt.Errorf("install into group %d: %w", g.id, err)
	}
	return c, nil
}

func (i *Installer) install() (Checkpoint, error) {
	g := i.g
	w := &segmentWriter{g: g, next: 1}
	for _, seg := range g.segments {
		w.next = max(w.next, seg.number+1)
	}
	stream := io.NewSectionReader(i.f, 0, i.at)
	c, state, err := i.unpack(stream, w)
	if err == nil && len(w.done) > 0 {
		err = g.s.fs.SyncDir(g.dir)
	}
	g.mu.RLock()
	file := &checkpointFile{Checkpoint: c, floor: c.Index, install: newReset(), reset: g.reset}
	g.mu.RUnlock()
	for _, seg := range w.done {
		file.segments = append(file.segments, seg.number)
	}
	if err == nil {
		var unknown bool
		if unknown, err = g.writeCheckpoint(file, func(out io.Writer) error { _, err := out.Write(state); return err }); unknown {
			return Checkpoint{}, err
		}
	}
	if err != nil {
		return Checkpoint{}, errors.Join(err, w.abandon())
	}
	old := g.replace(w.done, file)
	err = g.resetLog()
	g.drop(old)
	return c, err
}

// resetLog notes in the log that an installed checkpoint took its place. There is no way back, so a full disk is waited for.
func (g *Group) resetLog() error {
	for {
		err := g.s.wal.submit(&request{group: g, records: []record{{kind: kindReset, group: g.id, index: g.checkpoint.Index, term: g.checkpoint.install}}})
		if !errors.Is(err, ErrDiskFull) || errors.Is(err, ErrClosed) {
			return err
		}
		time.Sleep(fullPause)
	}
}

// newReset makes the number of a reset.
func newReset() uint64 { return rand.Uint64() | 1 }

// resetAfterCrash completes an install that a crash cut short.
func (g *Group) resetAfterCrash() error {
	g.cutShort = false
	return g.s.wal.submit(&request{group: g, records: []record{{kind: kindReset, group: g.id, index: g.checkpoint.Index, term: g.checkpoint.install}}})
}

// replace makes the installed data the group's.
func (g *Group) replace(segments []*segment, file *checkpointFile) (old []*segment) {
	g.mu.Lock()
	defer g.mu.Unlock()
	old = g.segments
	g.segments, g.checkpoint, g.floor = segments, file, file.floor
	g.locs, g.base, g.first, g.last = nil, 0, 0, 0
	g.uncache(0)
	return old
}

// unpack checks a stream and writes its bodies as segments.
func (i *Installer) unpack(r io.Reader, w *segmentWriter) (Checkpoint, []byte, error) {
	le := binary.LittleEndian
	head := make([]byte, snapshotFixed)
	if _, err := io.ReadFull(r, head); err != nil {
		return Checkpoint{}, nil, cutShort(err)
	}
	if string(head[:8]) != snapshotMagic {
		return Checkpoint{}, nil, fmt.Errorf("%w: no snapshot", ErrCorrupt)
	}
	if v := le.Uint32(head[8:]); v != formatVer {
		return Checkpoint{}, nil, fmt.Errorf("snapshot of version %d; this program knows %d", v, formatVer)
	}
	extra, length, records := uint64(le.Uint32(head[12:])), le.Uint64(head[32:]), le.Uint64(head[40:])
	if extra > uint64(i.at) || length > uint64(i.at) || records > uint64(i.at) {
		return Checkpoint{}, nil, fmt.Errorf("%w: longer than its stream", ErrCorrupt)
	}
	rest := make([]byte, extra+4)
	if _, err := io.ReadFull(r, rest); err != nil {
		return Checkpoint{}, nil, cutShort(err)
	}
	if le.Uint32(rest[extra:]) != checksum(0, head, rest[:extra]) {
		return Checkpoint{}, nil, fmt.Errorf("%w: wrong checksum of the header", ErrCorrupt)
	}
	c := Checkpoint{Index: le.Uint64(head[16:]), Term: le.Uint64(head[24:]), Extra: rest[:extra:extra]}
	state := make([]byte, length+4)
	if _, err := io.ReadFull(r, state); err != nil {
		return Checkpoint{}, nil, cutShort(err)
	}
	if le.Uint32(state[length:]) != checksum(0, state[:length]) {
		return Checkpoint{}, nil, fmt.Errorf("%w: wrong checksum of the state", ErrCorrupt)
	}
	last := uint64(0)
	for range records {
		index, err := i.unpackRecord(r, w)
		if err == nil && (index <= last || index > c.Index) {
			err = fmt.Errorf("%w: entry %d after %d, up to %d", ErrCorrupt, index, last, c.Index)
		}
		if err != nil {
			return Checkpoint{}, nil, err
		}
		last = index
	}
	var one [1]byte
	if n, _ := r.Read(one[:]); n != 0 {
		return Checkpoint{}, nil, fmt.Errorf("%w: longer than announced", ErrCorrupt)
	}
	return c, state[:length:length], w.finish()
}

func (i *Installer) unpackRecord(r io.Reader, w *segmentWriter) (index uint64, err error) {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return 0, cutShort(err)
	}
	n := binary.LittleEndian.Uint32(length[:])
	if int64(n) > i.at {
		return 0, fmt.Errorf("%w: a record longer than the stream", ErrCorrupt)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return 0, cutShort(err)
	}
	index, p, err := parseSegmentRecord(b)
	if err != nil {
		return 0, err
	}
	return index, w.add(index, p.parts, p.octets)
}

func cutShort(err error) error { return fmt.Errorf("%w: cut short: %w", ErrCorrupt, err) }
