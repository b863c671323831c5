package storage

import (
	"errors"
	"io"
	"path"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/warrenmq/warren/storage/vfs"
)

// keptFiles are the log files that a group keeps.
func keptFiles(g *Group) (names []string) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	for _, seg := range g.segments {
		if seg.log != nil {
			names = append(names, seg.log.name)
		}
	}
	return names
}

// TestFullFilesAreKept fills a queue that nobody reads, whose log files stay as they are, and reads it over and over: its files are the
// log's again.
func TestFullFilesAreKept(t *testing.T) {
	var copied, made atomic.Int64
	mem := vfs.NewMem()
	fs := vfs.Inject(mem, func(op vfs.Op) error {
		switch {
		case op.Kind == "write" && strings.HasSuffix(op.Name, ".seg"):
			copied.Add(int64(op.Size))
		case op.Kind == "create" && strings.HasSuffix(op.Name, ".wal"):
			made.Add(1)
		}
		return nil
	})
	size := func(o *Options) { o.WALFileSize, o.SegmentSize, o.KeepFiles = 64<<10, 64<<10, 2 }
	s := mustOpen(t, fs, size)
	a := &aged{t: t, s: s, g: mustGroup(t, s, 1), size: 1000}
	for range 10 {
		a.fill(func(uint64) bool { return true })
	}
	kept := len(keptFiles(a.g))
	if octets := int64(len(a.live)) * 1000; int64(kept+3)*64<<10 < octets || copied.Load() > octets/10 {
		t.Errorf("%d files are kept; %d octets were copied of %d", kept, copied.Load(), octets)
	}
	if all := a.g.SegmentBytes(); all != int64(kept)*64<<10 {
		t.Errorf("%d octets in %d files", all, kept)
	}
	a.verify()
	must(t, s.Close())
	s = mustOpen(t, fs, size)
	a.s, a.g = s, mustGroup(t, s, 1)
	if n := len(keptFiles(a.g)); n != kept {
		t.Errorf("%d files are kept after a restart, before %d", n, kept)
	}
	a.verify()
	for round := range 8 {
		if round == 4 {
			made.Store(0)
		}
		a.live = a.live[len(a.live)/2:]
		a.fill(func(uint64) bool { return true })
		a.s.wal.background.Wait()
		a.verify()
	}
	if made.Load() > 4 {
		t.Errorf("%d log files were made in four rounds: those that were kept are not used again", made.Load())
	}
	a.live = nil
	a.fill(func(uint64) bool { return false })
	if names := keptFiles(a.g); len(names) > 0 {
		t.Errorf("nothing is alive in %v", names)
	}
	must(t, s.Close())
	for _, name := range mem.Files() {
		if strings.HasPrefix(name, "d/group-1/") && path.Base(name) != "checkpoint" {
			t.Errorf("%s is left", name)
		}
	}
	must(t, Dump(mem, "d", io.Discard, false))
}

// two are two groups whose entries lie in the same log files: 200 of 1,000 octets and 200 of 1,500.
func two(t *testing.T, fs vfs.FS) (*Store, *Group, *Group) {
	s := mustOpen(t, fs, twoSizes)
	g, other := mustGroup(t, s, 1), mustGroup(t, s, 2)
	for i := uint64(1); i <= 200; i++ {
		must(t, g.Append(entries(1, i, i, 1, 1000)))
		must(t, other.Append(entries(2, i, i, 1, 1500)))
	}
	s.wal.background.Wait()
	return s, g, other
}

func twoSizes(o *Options) {
	o.WALFileSize, o.SegmentSize, o.KeepFiles, o.CacheBytes = 64<<10, 64<<10, 2, 1
}

// aliveFrom is a checkpoint with everything alive from an entry on.
func aliveFrom(t *testing.T, g *Group, from uint64, size uint32) {
	t.Helper()
	must(t, g.SaveCheckpoint(Checkpoint{Index: 200, Term: 1}, func(io.Writer) error { return nil }, func(min, max uint64, yield func(uint64, uint32, uint32) bool) {
		for i := from; i <= 200; i++ {
			if i >= min && i <= max && !yield(i, 0, size) {
				return
			}
		}
	}))
}

// TestFilesAreKeptByTwo: a log file with bodies of two groups is kept for both, and given back by the one that has less than half of it when
// the other needs it no more.
func TestFilesAreKeptByTwo(t *testing.T) {
	mem := vfs.NewMem()
	s, g, other := two(t, mem)
	aliveFrom(t, g, 1, 1000)
	aliveFrom(t, other, 1, 1500)
	n := len(keptFiles(g))
	if n < 4 || len(keptFiles(other)) != n {
		t.Fatalf("kept are %v and %v", keptFiles(g), keptFiles(other))
	}
	if g.Wasteful() || other.Wasteful() {
		t.Error("nothing is given up, and a checkpoint would give back something")
	}
	if all := g.SegmentBytes() + other.SegmentBytes(); all > int64(n)*64<<10 || all < int64(n)*64<<10-int64(2*n) {
		t.Errorf("%d octets in %d files", all, n)
	}
	// What the other had is more than half. The group does not know before it looks again.
	aliveFrom(t, other, 201, 1500)
	if k := len(keptFiles(g)); k != n || len(keptFiles(other)) > 0 {
		t.Errorf("%d files are kept by the one, %v by the other", k, keptFiles(other))
	}
	if all := g.SegmentBytes(); all != int64(n)*64<<10 || !g.Wasteful() {
		t.Errorf("%d octets in %d files that one group keeps, of which it has less than half; it says that this is wasteful: %v", all, n, g.Wasteful())
	}
	aliveFrom(t, g, 1, 1000)
	if names := keptFiles(g); len(names) > 0 || g.Wasteful() {
		t.Errorf("%v are less than half alive; it says that this is wasteful: %v", names, g.Wasteful())
	}
	for i := uint64(1); i <= 200; i++ {
		if body, err := g.ReadBody(i, 0, 1000); err != nil || string(body) != string(bodyOf(1, i, 1000)) {
			t.Fatalf("body of %d: %v", i, err)
		}
	}
	must(t, s.Close())
}

// TestHalfOfAFileIsNotKept: the other group needs nothing of the files, and the one has less than half of them.
func TestHalfOfAFileIsNotKept(t *testing.T) {
	s, g, other := two(t, vfs.NewMem())
	aliveFrom(t, other, 201, 1500)
	aliveFrom(t, g, 1, 1000)
	if names := keptFiles(g); len(names) > 0 {
		t.Errorf("%v are kept", names)
	}
	must(t, s.Close())
}

// TestKeptFilesAreNotWrittenTo: a group keeps files that the other needs as well, as the log's or as files that it keeps. Then the other needs
// them no more, perhaps after a restart, and the log goes on: it must not use them again.
func TestKeptFilesAreNotWrittenTo(t *testing.T) {
	for how := range 4 {
		again, both := how&1 != 0, how&2 != 0
		mem := vfs.NewMem()
		s, g, other := two(t, mem)
		aliveFrom(t, g, 1, 1000)
		n := len(keptFiles(g))
		if n < 4 {
			t.Fatalf("kept are %v", keptFiles(g))
		}
		if both {
			aliveFrom(t, other, 1, 1500)
		}
		if again {
			must(t, s.Close())
			s = mustOpen(t, mem, twoSizes)
			g, other = mustGroup(t, s, 1), mustGroup(t, s, 2)
		}
		aliveFrom(t, other, 201, 1500)
		for i := uint64(201); i <= 400; i += 4 {
			must(t, other.Append(entries(2, i, i+3, 1, 1000)))
		}
		s.wal.background.Wait()
		if k := len(keptFiles(g)); k != n {
			t.Fatalf("%d files are kept, before %d", k, n)
		}
		for i := uint64(1); i <= 200; i++ {
			if body, err := g.ReadBody(i, 0, 1000); err != nil || string(body) != string(bodyOf(1, i, 1000)) {
				t.Fatalf("opened again: %v, kept by both: %v, body of %d: %v", again, both, i, err)
			}
		}
		must(t, s.Close())
		must(t, Dump(mem, "d", io.Discard, false))
	}
}

// TestFileSystemWithoutLinks copies what it cannot keep.
func TestFileSystemWithoutLinks(t *testing.T) {
	mem := vfs.NewMem()
	s, g, _ := two(t, vfs.Inject(mem, func(op vfs.Op) error {
		if op.Kind == "link" {
			return errors.ErrUnsupported
		}
		return nil
	}))
	aliveFrom(t, g, 1, 1000)
	if names := keptFiles(g); len(names) > 0 || g.SegmentBytes() < 100*1000 {
		t.Errorf("kept are %v, and %d octets in segments", names, g.SegmentBytes())
	}
	must(t, s.Close())
	s = mustOpen(t, mem, twoSizes)
	for i := uint64(1); i <= 200; i++ {
		if body, err := mustGroup(t, s, 1).ReadBody(i, 0, 1000); err != nil || string(body) != string(bodyOf(1, i, 1000)) {
			t.Fatalf("body of %d: %v", i, err)
		}
	}
	must(t, s.Close())
}

// TestCheckpointThatFailsKeepsNothing: whatever fails, no name of a log file is left in the group's directory, and the next checkpoint does it.
func TestCheckpointThatFailsKeepsNothing(t *testing.T) {
	fails := errors.New("fails")
	for _, kind := range []string{"link", "create", "write", "sync", "rename"} {
		for nth := int32(1); nth <= 6; nth++ {
			var armed atomic.Bool
			var seen atomic.Int32
			mem := vfs.NewMem()
			s, g, _ := two(t, vfs.Inject(mem, func(op vfs.Op) error {
				if armed.Load() && op.Kind == kind && (strings.HasPrefix(op.Name, "d/group-1") || kind == "link") && seen.Add(1) == nth {
					return fails
				}
				return nil
			}))
			armed.Store(true)
			err := g.SaveCheckpoint(Checkpoint{Index: 200, Term: 1}, func(io.Writer) error { return nil }, func(min, max uint64, yield func(uint64, uint32, uint32) bool) {
				for i := uint64(1); i <= 200; i++ {
					if i >= min && i <= max && !yield(i, 0, 1000) {
						return
					}
				}
			})
			armed.Store(false)
			if err != nil && !errors.Is(err, fails) {
				t.Fatal(err)
			}
			if err != nil {
				for _, name := range mem.Files() {
					if strings.HasPrefix(name, "d/group-1/") {
						t.Errorf("%s %d fails: %s is left", kind, nth, name)
					}
				}
			}
			aliveFrom(t, g, 1, 1000)
			if len(keptFiles(g)) < 3 {
				t.Errorf("%s %d has failed: kept are %v", kind, nth, keptFiles(g))
			}
			must(t, s.Close())
			must(t, Dump(mem, "d", io.Discard, false))
		}
	}
}
