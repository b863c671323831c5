package storage

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path"
	"time"

	"github.com/warrenmq/warren/storage/vfs"
)

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
	if err := g.begin(); err != nil {
		return Checkpoint{}, errors.Join(err, i.Abort())
	}
	defer g.working.Unlock()
	c, err := i.install()
	if abortErr := i.Abort(); abortErr != nil {
		g.s.log.Warn("a received stream cannot be removed", "group", g.id, "err", abortErr)
	}
	if err == nil {
		g.s.wal.giveBackFiles() // the former log's, of which the reset may need one
		err = g.resetLog()
	}
	if err != nil {
		return Checkpoint{}, fmt.Errorf("install into group %d: %w", g.id, err)
	}
	return c, nil
}

// install makes the stream the group's checkpoint and segments, which the log does not know yet: a crash in between is made good for by
// Open. Nothing needs the former segments then, nor the stream. They go before the log is asked, which may wait for the room that they take.
func (i *Installer) install() (Checkpoint, error) {
	g := i.g
	w := &segmentWriter{g: g, next: 1}
	for _, seg := range g.segments {
		w.next = max(w.next, seg.number+1)
	}
	c, state, err := i.unpack(w)
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
		if unknown, err = g.writeCheckpoint(file, state.copyTo); unknown {
			return Checkpoint{}, err
		}
	}
	if err != nil {
		return Checkpoint{}, errors.Join(err, w.abandon())
	}
	g.drop(g.replace(w.done, file))
	return c, nil
}

// resetLog notes in the log that an installed checkpoint took its place. There is no way back, so a full disk is waited for.
func (g *Group) resetLog() error {
	for {
		err := g.s.wal.submit(g, nil, record{kind: kindReset, group: g.id, index: g.checkpoint.Index, term: g.checkpoint.install})
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
	return g.s.wal.submit(g, nil, record{kind: kindReset, group: g.id, index: g.checkpoint.Index, term: g.checkpoint.install})
}

// replace makes the installed data the group's.
func (g *Group) replace(segments []*segment, file *checkpointFile) (old []*segment) {
	g.mu.Lock()
	defer g.mu.Unlock()
	old = g.segments
	g.segments, g.checkpoint, g.floor, g.postponed = segments, file, file.floor, false
	g.locs, g.shares, g.base, g.first, g.last = nil, nil, 0, 0, 0
	g.uncache(0)
	return old
}

// unpack checks a stream and writes its bodies as segments. The state is only looked for: it is checked while it is copied.
func (i *Installer) unpack(w *segmentWriter) (Checkpoint, *streamState, error) {
	r := bufio.NewReaderSize(io.NewSectionReader(i.f, 0, i.at), writeSize)
	c, state, records, err := i.unpackHeader(r)
	if err != nil {
		return Checkpoint{}, nil, err
	}
	at := state.at + state.size
	var crc [4]byte
	if err := readFull(i.f, crc[:], at); err != nil {
		return Checkpoint{}, nil, err
	}
	state.crc = binary.LittleEndian.Uint32(crc[:])
	r.Reset(io.NewSectionReader(i.f, at+4, i.at-at-4))
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
	if _, err := r.ReadByte(); err == nil {
		return Checkpoint{}, nil, fmt.Errorf("%w: longer than announced", ErrCorrupt)
	}
	return c, state, w.finish()
}

func (i *Installer) unpackHeader(r io.Reader) (c Checkpoint, _ *streamState, records uint64, err error) {
	le := binary.LittleEndian
	head := make([]byte, snapshotFixed)
	if _, err := io.ReadFull(r, head); err != nil {
		return c, nil, 0, cutShort(err)
	}
	if string(head[:8]) != snapshotMagic {
		return c, nil, 0, fmt.Errorf("%w: no snapshot", ErrCorrupt)
	}
	if v := le.Uint32(head[8:]); v != formatVer {
		return c, nil, 0, fmt.Errorf("snapshot of version %d; this program knows %d", v, formatVer)
	}
	extra, length, records := uint64(le.Uint32(head[12:])), le.Uint64(head[32:]), le.Uint64(head[40:])
	if extra > uint64(i.at) || length > uint64(i.at) || records > uint64(i.at) {
		return c, nil, 0, fmt.Errorf("%w: longer than its stream", ErrCorrupt)
	}
	rest := make([]byte, extra+4)
	if _, err := io.ReadFull(r, rest); err != nil {
		return c, nil, 0, cutShort(err)
	}
	if le.Uint32(rest[extra:]) != checksum(0, head, rest[:extra]) {
		return c, nil, 0, fmt.Errorf("%w: wrong checksum of the header", ErrCorrupt)
	}
	c = Checkpoint{Index: le.Uint64(head[16:]), Term: le.Uint64(head[24:]), Extra: rest[:extra:extra]}
	return c, &streamState{f: i.f, at: int64(snapshotFixed + len(rest)), size: int64(length)}, records, nil
}

// streamState is where a stream's state lies.
type streamState struct {
	f        vfs.File
	at, size int64
	crc      uint32
}

// copyTo writes the state, and fails when it is not what was sent.
func (s *streamState) copyTo(out io.Writer) error {
	buf := make([]byte, blockSize)
	crc := uint32(0)
	for done := int64(0); done < s.size; {
		part := buf[:min(int64(len(buf)), s.size-done)]
		if err := readFull(s.f, part, s.at+done); err != nil {
			return err
		}
		crc = checksum(crc, part)
		if _, err := out.Write(part); err != nil {
			return err
		}
		done += int64(len(part))
	}
	if crc != s.crc {
		return fmt.Errorf("%w: wrong checksum of the state", ErrCorrupt)
	}
	return nil
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
