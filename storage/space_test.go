package storage

import (
	"errors"
	"io"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/warrenmq/warren/storage/vfs"
)

// aged is a group whose caller keeps a few of its entries alive.
type aged struct {
	t    testing.TB
	s    *Store
	g    *Group
	live []uint64 // ascending
	size uint32   // of each body
}

func newAged(t testing.TB, mem *vfs.Mem, size uint32) *aged {
	s := mustOpen(t, mem, func(o *Options) { o.WALFileSize, o.SegmentSize = 64<<10, 64<<10 })
	t.Cleanup(func() { must(t, s.Close()) })
	return &aged{t: t, s: s, g: mustGroup(t, s, 1), size: size}
}

func (a *aged) refs(from, to uint64, yield func(uint64, uint32, uint32) bool) {
	for _, i := range a.live {
		if i >= from && i <= to && !yield(i, 0, a.size) {
			return
		}
	}
}

// fill appends until a checkpoint is wanted, and makes it.
func (a *aged) fill(keep func(index uint64) bool) {
	a.t.Helper()
	for {
		from := a.g.LastIndex() + 1
		must(a.t, a.g.Append(entries(1, from, from+9, 1, 1000)))
		for i := from; i <= from+9; i++ {
			if keep(i) {
				a.live = append(a.live, i)
			}
		}
		select {
		case <-a.s.NeedsCheckpoint():
			must(a.t, a.g.SaveCheckpoint(Checkpoint{Index: a.g.LastIndex()}, func(io.Writer) error { return nil }, a.refs))
			return
		default:
		}
	}
}

func (a *aged) verify() {
	a.t.Helper()
	for _, i := range a.live {
		if body, err := a.g.ReadBody(i, 0, a.size); err != nil || string(body) != string(bodyOf(1, i, 1000)[:a.size]) {
			a.t.Fatalf("body of %d: %v", i, err)
		}
	}
}

func segmentFiles(mem *vfs.Mem) []string {
	var names []string
	for _, name := range mem.Files() {
		if strings.HasSuffix(name, ".seg") {
			names = append(names, path.Base(name))
		}
	}
	return names
}

// TestTrickle leaves one small message of each log file alive: they end in few segments.
func TestTrickle(t *testing.T) {
	mem := vfs.NewMem()
	a := newAged(t, mem, 100)
	for range 60 {
		kept := false
		a.fill(func(uint64) bool { first := !kept; kept = true; return first })
		if n := len(segmentFiles(mem)); n > maxSmall+2 {
			t.Fatalf("%d segments for %d messages of 100 octets", n, len(a.live))
		}
	}
	a.verify()
}

// TestSmallBodiesStay looks at bodies that are smaller than what a segment says about them: a segment in which all is alive
// is not written again.
func TestSmallBodiesStay(t *testing.T) {
	mem := vfs.NewMem()
	a := newAged(t, mem, 4)
	a.s.o.SegmentSize = 1 << 10 // nothing is small
	for range 3 {
		a.fill(func(uint64) bool { return true })
	}
	before := segmentFiles(mem)
	a.fill(func(uint64) bool { return false })
	after := segmentFiles(mem)
	for _, name := range before {
		if !slices.Contains(after, name) {
			t.Fatalf("segment %s was written again: %v", name, after)
		}
	}
	a.verify()
}

// TestSpace lets messages die in any order: the disk holds at most about twice what is alive, and a constant.
func TestSpace(t *testing.T) {
	mem := vfs.NewMem()
	a := newAged(t, mem, 900)
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 80 {
		a.fill(func(uint64) bool { return random.IntN(3) == 0 })
		if round > 40 {
			a.live = slices.DeleteFunc(a.live, func(uint64) bool { return random.IntN(8) == 0 })
			if round == 79 {
				a.live = nil
				a.fill(func(uint64) bool { return false })
			}
		}
		space, alive := int64(0), int64(len(a.live))*int64(a.size)
		for _, name := range mem.Files() {
			if info, err := mem.Stat(name); err == nil {
				space += info.Size
			}
		}
		const constant = (1 /* kept */ + 1 /* written */ + 1 /* spare */ + 2 /* waiting for the checkpoint */ + 2 /* segments */) * 64 << 10
		if space > 5*alive/2+constant {
			t.Fatalf("round %d: %d octets for %d alive: %v", round, space, alive, mem.Files())
		}
	}
	a.verify()
	if names := segmentFiles(mem); len(names) > 0 {
		t.Fatalf("segments without anything alive: %v", names)
	}
}

// TestRetireWithoutCheckpoint discards a group again and again, which then keeps no file and is asked for no checkpoint: its
// files go nevertheless.
func TestRetireWithoutCheckpoint(t *testing.T) {
	a := newAged(t, vfs.NewMem(), 900)
	for range 20 {
		for range 10 {
			from := a.g.LastIndex() + 1
			must(t, a.g.Append(entries(1, from, from+9, 1, 1000)))
		}
		must(t, a.g.Discard())
	}
	must(t, a.g.Append(entries(1, 1, 60, 1, 1000))) // one more file, with which the others retire
	a.s.wal.background.Wait()
	if n := len(a.s.wal.files); n > 4 {
		t.Fatalf("%d log files are left", n)
	}
}

// TestClosedForWork finds a store that is closed closed for what changes its files, and what was under way ended.
func TestClosedForWork(t *testing.T) {
	s := mustOpen(t, vfs.NewMem(), nil)
	g := mustGroup(t, s, 1)
	must(t, g.Append(entries(1, 1, 5, 1, 100)))
	writing, release := make(chan struct{}), make(chan struct{})
	saved, closed := make(chan error), make(chan error)
	go func() {
		saved <- g.SaveCheckpoint(Checkpoint{Index: 5}, func(io.Writer) error {
			close(writing)
			<-release
			return nil
		}, nothing)
	}()
	<-writing
	go func() { closed <- s.Close() }()
	select {
	case <-closed:
		t.Fatal("closed under a checkpoint")
	case release <- struct{}{}:
	}
	must(t, <-saved)
	must(t, <-closed)
	in, err := g.Install()
	must(t, err)
	_, commitErr := in.Commit()
	for _, err := range []error{g.SaveCheckpoint(Checkpoint{Index: 5}, func(io.Writer) error { return nil }, nothing), g.Discard(), commitErr} {
		if !errors.Is(err, ErrClosed) {
			t.Fatalf("after Close: %v", err)
		}
	}
}

// TestCheckpointInVain: a replica that has not applied what the oldest log file holds cannot free it by a checkpoint. It is asked
// for another when the next file begins, not at once: whoever answers would do nothing else.
func TestCheckpointInVain(t *testing.T) {
	s := mustOpen(t, vfs.NewMem(), nil)
	defer func() { must(t, s.Close()) }()
	g := mustGroup(t, s, 1)
	last := uint64(0)
	newest := func() uint64 {
		s.wal.filesMu.RLock()
		defer s.wal.filesMu.RUnlock()
		return s.wal.files[len(s.wal.files)-1].number
	}
	rotate := func() {
		t.Helper()
		for at := newest(); newest() == at; last += 10 {
			must(t, g.Append(entries(1, last+1, last+10, 1, 2000)))
		}
		s.wal.background.Wait()
	}
	asked := func() bool {
		select {
		case <-s.NeedsCheckpoint():
			return true
		default:
			return false
		}
	}
	nothing := func(_, _ uint64, _ func(uint64, uint32, uint32) bool) {}
	state := func(w io.Writer) error { _, err := w.Write([]byte("state")); return err }
	for range s.o.KeepFiles + 2 {
		rotate()
	}
	for range 3 {
		if !asked() {
			t.Fatal("nobody is asked for a checkpoint though a file could retire")
		}
		must(t, g.SaveCheckpoint(Checkpoint{Index: 1, Term: 1}, state, nothing)) // the others are not applied yet
		if asked() {
			t.Fatal("another checkpoint is asked for, which would help as little")
		}
		if !g.KeepsLog(last) || g.KeepsLog(1) {
			t.Fatal("whoever asks is not told that a log file is kept, or that such a checkpoint does not help")
		}
		rotate()
	}
	if !asked() {
		t.Fatal("nobody is asked after the next file")
	}
	must(t, g.SaveCheckpoint(Checkpoint{Index: last, Term: 1}, state, nothing))
	s.wal.background.Wait()
	if n := len(s.wal.files); n > s.o.KeepFiles+1 || g.KeepsLog(last) {
		t.Errorf("%d files are left", n)
	}
}

// TestLargeStates: a checkpoint is asked for when it gives up four times of the log what it writes, and for any file when the disk is nearly
// full.
func TestLargeStates(t *testing.T) {
	mem := vfs.NewMem()
	s := mustOpen(t, mem, func(o *Options) { o.WALFileSize, o.KeepFiles = 64<<10, 1 })
	defer func() { must(t, s.Close()) }()
	g, other := mustGroup(t, s, 1), mustGroup(t, s, 2)
	state := func(w io.Writer) error { _, err := w.Write(make([]byte, 95<<10)); return err } // each; 760 KiB of log are twelve files
	files := func() int {
		s.wal.background.Wait()
		s.wal.filesMu.RLock()
		defer s.wal.filesMu.RUnlock()
		return len(s.wal.files) - 1 - s.o.KeepFiles
	}
	asked := func() bool {
		select {
		case <-s.NeedsCheckpoint():
			return true
		default:
			return false
		}
	}
	fill := func() {
		for from := s.wal.current().number; s.wal.current().number == from; {
			must(t, g.Append(entries(1, g.LastIndex()+1, g.LastIndex()+5, 1, 1000)))
			must(t, other.Append(entries(2, other.LastIndex()+1, other.LastIndex()+1, 1, 1000)))
		}
	}
	save := func() {
		for _, g := range []*Group{g, other} {
			must(t, g.SaveCheckpoint(Checkpoint{Index: g.LastIndex(), Term: 1}, state, noRefs))
		}
		files()
		asked()
	}
	fill()
	save()
	for {
		fill()
		n := files()
		if want := n >= 12; asked() != want || g.KeepsLog(g.LastIndex()) != want {
			t.Fatalf("%d files are to go: asked for a checkpoint, or not, against what it is worth", n)
		} else if want {
			break
		}
	}
	save()
	if n := files(); n > 0 {
		t.Errorf("%d files are left", n)
	}
	for files() < 3 {
		fill()
	}
	if asked() || g.KeepsLog(g.LastIndex()) {
		t.Error("asked for a checkpoint after three files")
	}
	free, err := mem.Free("")
	must(t, err)
	const room = 5 * 64 << 10
	mem.SetCapacity(1)
	used, err := mem.Free("")
	must(t, err)
	mem.SetCapacity(1 - used + room)
	if !g.KeepsLog(g.LastIndex()) {
		t.Errorf("with %d octets free instead of %d the log is worth nothing", room, free)
	}
	fill()
	s.wal.background.Wait()
	if !asked() {
		t.Error("not asked for a checkpoint though there is little room")
	}
}

// TestLittleRoom: on a disk that is nearly full a checkpoint writes what is alive in segments again as far as there is room, and the next
// ones the rest.
func TestLittleRoom(t *testing.T) {
	t.Run("copied", func(t *testing.T) { littleRoom(t, 7, 5) })
	t.Run("kept", func(t *testing.T) { littleRoom(t, 10, 4) })
}

// littleRoom begins with so many of each ten entries alive, which lie in so many segments at least.
func littleRoom(t *testing.T, parts uint64, segments int) {
	mem := vfs.NewMem()
	s := mustOpen(t, mem, func(o *Options) { o.WALFileSize, o.SegmentSize, o.KeepFiles = 64<<10, 32<<10, 1 })
	defer func() { must(t, s.Close()) }()
	g := mustGroup(t, s, 1)
	const size, last = 1000, 400
	for at := uint64(1); at <= last; at += 10 {
		must(t, g.Append(entries(1, at, at+9, 1, size)))
	}
	alive := func(part uint64) LiveRefs { // of each ten entries
		return func(from, to uint64, yield func(uint64, uint32, uint32) bool) {
			for i := from; i <= min(to, last); i++ {
				if i > 0 && i%10 < part && !yield(i, 0, size) {
					return
				}
			}
		}
	}
	state := func(w io.Writer) error { return nil }
	octets := func() (n int64) {
		for _, seg := range g.segments {
			n += seg.size
		}
		return n
	}
	must(t, g.SaveCheckpoint(Checkpoint{Index: last, Term: 1}, state, alive(parts)))
	full := octets()
	if len(g.segments) < segments || g.Postponed() {
		t.Fatalf("%d segments", len(g.segments))
	}
	// Less than half is alive everywhere. There is room for two segments' halves, and a little for the checkpoint itself.
	free := int64(2 * (2 * full / int64(len(g.segments)) / 3))
	s.wal.background.Wait()
	const much = 1 << 40
	mem.SetCapacity(much)
	left, err := mem.Free("")
	must(t, err)
	mem.SetCapacity(much - left + free)
	rounds := 0
	for {
		rounds++
		must(t, g.SaveCheckpoint(Checkpoint{Index: last, Term: 1}, state, alive(3)))
		if !g.Postponed() {
			break
		}
		if rounds > 20 {
			t.Fatal("it does not end")
		}
	}
	if now := octets(); rounds < 2 || now > full/2 {
		t.Errorf("%d octets are left of %d after %d checkpoints", now, full, rounds)
	}
	for i := uint64(1); i <= last; i++ {
		if i%10 >= 3 {
			continue
		}
		if body, err := g.ReadBody(i, 0, size); err != nil || string(body) != string(bodyOf(1, i, 1000)[:size]) {
			t.Fatalf("body of %d: %v", i, err)
		}
	}
}

// TestGivenUpAtOnce: the log files of a group that is discarded, or installed, go at once, and those that a crash has left when the store
// is opened. Nothing is appended after it, as on a disk that is full.
func TestGivenUpAtOnce(t *testing.T) {
	for what, giveUp := range map[string]func(g *Group, wire []byte) error{"discard": func(g *Group, _ []byte) error { return g.Discard() }, "install": installAll} {
		t.Run(what, func(t *testing.T) {
			mem := vfs.NewMem()
			var crashed *vfs.Mem
			fs := vfs.Inject(mem, func(op vfs.Op) error {
				if op.Kind == "syncdir" && op.Name == "d/group-1" { // after the reset of a discard, before that of an install
					crashed = mem.KillClone()
				}
				return nil
			})
			size := func(o *Options) { o.WALFileSize = 64 << 10 }
			s := mustOpen(t, fs, size)
			g, other := mustGroup(t, s, 1), mustGroup(t, s, 2)
			for at := uint64(1); at <= 600; at += 10 {
				must(t, g.Append(entries(1, at, at+9, 1, 1000)))
			}
			must(t, other.Append(entries(2, 1, 5, 1, 100)))
			s.wal.background.Wait()
			must(t, giveUp(g, snapshotOf(t, 1, 1000)))
			few := func(s *Store, when string) {
				t.Helper()
				s.wal.filesMu.RLock()
				n := len(s.wal.files)
				s.wal.filesMu.RUnlock()
				if n > s.o.KeepFiles+1 {
					t.Errorf("%s %d log files are left", when, n)
				}
				check(t, mustGroup(t, s, 2), 1, 5, 100)
				must(t, s.Close())
			}
			few(s, "at once")
			few(mustOpen(t, crashed, size), "after a crash")
		})
	}
}

// TestLogOnAFullDisk: after one group has kept the log for long, the others have bodies alive in forty files, and there is room for three.
// Their checkpoints copy as much as there is room for, so that a file goes, and the next ones the rest.
func TestLogOnAFullDisk(t *testing.T) {
	mem := vfs.NewMem()
	s := mustOpen(t, mem, func(o *Options) { o.WALFileSize, o.SegmentSize = 64<<10, 64<<10 })
	defer func() { must(t, s.Close()) }()
	idle := mustGroup(t, s, 1)
	must(t, idle.Append(entries(1, 1, 3, 1, 100)))
	const groups, last, size = 8, 300, 1000
	for at := uint64(1); at <= last; at += 3 {
		for id := uint32(2); id < 2+groups; id++ {
			must(t, mustGroup(t, s, id).Append(entries(id, at, at+2, 1, size)))
		}
	}
	s.wal.background.Wait()
	files := func() int {
		s.wal.filesMu.RLock()
		defer s.wal.filesMu.RUnlock()
		return len(s.wal.files)
	}
	before := files()
	if before < 40 {
		t.Fatalf("only %d files", before)
	}
	all := func(from, to uint64, yield func(uint64, uint32, uint32) bool) {
		for i := max(from, 1); i <= min(to, last) && yield(i, 0, size); i++ {
		}
	}
	save := func(g *Group, live LiveRefs) {
		t.Helper()
		must(t, g.SaveCheckpoint(Checkpoint{Index: g.LastIndex(), Term: 1}, func(io.Writer) error { return nil }, live))
	}
	const much = 1 << 40
	leave := func(octets int64) {
		t.Helper()
		mem.SetCapacity(much)
		left, err := mem.Free("")
		must(t, err)
		mem.SetCapacity(much - left + octets)
	}
	save(idle, noRefs)
	leave(4 << 10) // less than what the first file takes: it stays, and so does everything
	first := mustGroup(t, s, 2)
	save(first, all)
	if files() != before || !first.Postponed() || len(first.segments) > 0 {
		t.Fatalf("%d files of %d; postponed: %v, %d segments", files(), before, first.Postponed(), len(first.segments))
	}
	leave(3 * 64 << 10)
	save(first, all)
	for rounds := 0; files() > s.o.KeepFiles+1; rounds++ {
		if rounds > 1000 {
			t.Fatalf("it does not end: %d files", files())
		}
		select {
		case ids := <-s.NeedsCheckpoint():
			for _, id := range ids {
				save(mustGroup(t, s, id), all)
			}
		default:
			t.Fatalf("nobody is asked, and %d files are left", files())
		}
	}
	for id := uint32(2); id < 2+groups; id++ {
		g := mustGroup(t, s, id)
		if g.Postponed() {
			t.Errorf("something of group %d was postponed", id)
		}
		for i := uint64(1); i <= last; i++ {
			if body, err := g.ReadBody(i, 0, size); err != nil || string(body) != string(bodyOf(id, i, size)) {
				t.Fatalf("body of %d of group %d: %v", i, id, err)
			}
		}
	}
}

// TestDamagedKeepsItsLog: what a group could not read may be put back, so a start does not give up the log files that only this group keeps.
func TestDamagedKeepsItsLog(t *testing.T) {
	mem := vfs.NewMem()
	options := func(o *Options) { o.WALFileSize, o.KeepFiles = 64<<10, 1 }
	s := mustOpen(t, mem, options)
	g := mustGroup(t, s, 1)
	must(t, g.Append(entries(1, 1, 10, 1, 1000)))
	must(t, g.SaveCheckpoint(Checkpoint{Index: 5, Term: 1}, func(io.Writer) error { return nil }, noRefs))
	for at := uint64(11); at <= 400; at += 10 {
		must(t, g.Append(entries(1, at, at+9, 1, 1000)))
	}
	files, name, last := len(s.wal.files), g.checkpointName(), g.LastIndex()
	must(t, s.Close())
	whole := mem.Bytes(name)
	mem.SetBytes(name, []byte("not a checkpoint"))
	s = mustOpen(t, mem, options)
	if n := len(s.wal.files); mustGroup(t, s, 1).Damaged() == nil || files < 4 || n < files {
		t.Errorf("%d log files of %d; damage: %v", n, files, mustGroup(t, s, 1).Damaged())
	}
	must(t, s.Close())
	mem.SetBytes(name, whole)
	s = mustOpen(t, mem, options)
	g = mustGroup(t, s, 1)
	if g.Damaged() != nil || g.LastIndex() != last {
		t.Errorf("after it was put back: last index %d of %d; damage: %v", g.LastIndex(), last, g.Damaged())
	}
	must(t, s.Close())
}
