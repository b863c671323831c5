package storage

import (
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/warrenmq/warren/storage/vfs"
)

// TestFirstStartIsCutShort cuts the power and kills the process at every operation of a store's first start: the next one begins.
func TestFirstStartIsCutShort(t *testing.T) {
	cut := rand.New(rand.NewPCG(1, 2))
	none, all := func(int) int { return 0 }, func(n int) int { return n }
	part := func(n int) int { return cut.IntN(n + 1) }
	mem := vfs.NewMem()
	points := 0
	recorded := atomic.Bool{}
	recorded.Store(true)
	fs := vfs.Inject(mem, func(op vfs.Op) error {
		if !recorded.Load() {
			return nil
		}
		points++
		for how, left := range map[string]*vfs.Mem{"nothing unsynced kept": mem.CrashClone(none), "unsynced names kept": mem.CrashCloneNames(none, all),
			"unsynced octets kept": mem.CrashClone(all), "a random part kept": mem.CrashCloneNames(part, part), "killed": mem.KillClone()} {
			s, err := Open(Options{Dir: "d", FS: left, WALFileSize: 64 << 10})
			if err != nil {
				t.Errorf("before %s %s, %s: %v", op.Kind, op.Name, how, err)
				continue
			}
			g := mustGroup(t, s, 1)
			for s.wal.current().number < 3 { // what an earlier start has left is in nobody's way
				must(t, g.Append(entries(1, g.LastIndex()+1, g.LastIndex()+3, 1, 1000)))
			}
			check(t, g, 1, g.LastIndex(), 1000)
			must(t, s.Close())
			s = mustOpen(t, left, func(o *Options) { o.WALFileSize = 64 << 10 })
			check(t, mustGroup(t, s, 1), 1, g.LastIndex(), 1000)
			must(t, s.Close())
		}
		return nil
	})
	s, err := Open(Options{Dir: "d", FS: fs, WALFileSize: 64 << 10})
	recorded.Store(false)
	must(t, err)
	must(t, s.Close())
	if points < 10 {
		t.Fatalf("only %d operations were seen", points)
	}
}

// TestMissingCurrent takes the name of the newest file from a store that holds something: it is not taken for a fresh one.
func TestMissingCurrent(t *testing.T) {
	mem := vfs.NewMem()
	s := mustOpen(t, mem, nil)
	must(t, mustGroup(t, s, 1).Append(entries(1, 1, 3, 1, 100)))
	must(t, s.Close())
	must(t, mem.Remove("d/wal/CURRENT"))
	if s, err := Open(Options{Dir: "d", FS: mem, WALFileSize: 1 << 20}); err == nil {
		t.Error("the store was opened", s.Close())
	}
}

// TestLogIsGone empties the directory of the log, as when the disk that it is on is not mounted: a store that has groups is not taken for a
// fresh one, and nothing of it is changed, so that the log can be put back.
func TestLogIsGone(t *testing.T) {
	full, promises := damageRun(t, true)
	mem := vfs.NewMem()
	s := mustOpen(t, mem, smallFiles)
	mustGroup(t, s, 1)
	must(t, s.Close())
	for name, before := range map[string]*vfs.Mem{"full": full, "nothing appended": mem} {
		for _, spares := range []bool{false, true} {
			disk := before.Clone()
			for _, file := range disk.Files() {
				if path.Dir(file) == "d/wal" && !(spares && isSpareName(path.Base(file))) {
					must(t, disk.Remove(file))
				}
			}
			left := disk.Files()
			if s, err := Open(Options{Dir: "d", FS: disk, WALFileSize: 8 << 10}); err == nil {
				t.Errorf("%s, spares %v: the store was opened: %+v, %v", name, spares, s.Groups(), s.Close())
			}
			if now := disk.Files(); !slices.Equal(now, left) {
				t.Errorf("%s, spares %v: %v has become %v", name, spares, left, now)
			}
			for _, file := range before.Files() {
				f, err := disk.Create(file)
				must(t, err)
				_, err = f.WriteAt(before.Bytes(file), 0)
				must(t, errors.Join(err, f.Close()))
			}
			if name == "nothing appended" {
				must(t, mustOpen(t, disk, smallFiles).Close())
			} else if verdict, err := damaged(t, disk, promises, false); verdict != "intact" || err != nil {
				t.Errorf("with the log again: %s, %v", verdict, err)
			}
		}
	}
}

// TestFilesAreUsedAgain writes through many log files: from some point on none is made and none is removed, and those that are made are
// filled before they are used.
func TestFilesAreUsedAgain(t *testing.T) {
	var made, removed, zeros, renamed atomic.Int32
	mem := vfs.NewMem()
	fs := vfs.Inject(mem, func(op vfs.Op) error {
		if !strings.HasSuffix(op.Name, ".wal") {
			return nil
		}
		switch op.Kind {
		case "create":
			made.Add(1)
		case "remove":
			removed.Add(1)
		case "zero":
			zeros.Add(1)
		case "rename":
			renamed.Add(1)
		}
		return nil
	})
	s := mustOpen(t, fs, func(o *Options) { o.WALFileSize = 64 << 10 })
	s.wal.fillBelow = math.MaxInt64
	g := mustGroup(t, s, 1)
	files := func(n int) {
		t.Helper()
		for range n {
			from := s.wal.current().number
			for s.wal.current().number == from {
				must(t, g.Append(entries(1, g.LastIndex()+1, g.LastIndex()+3, 1, 1000)))
			}
			s.wal.background.Wait()
			select {
			case <-s.NeedsCheckpoint():
				must(t, g.SaveCheckpoint(Checkpoint{Index: g.LastIndex()}, func(io.Writer) error { return nil }, noRefs))
			default:
			}
		}
	}
	files(8)
	if made.Load() > 8 || zeros.Load() < 2 {
		t.Errorf("%d files were made, %d filled", made.Load(), zeros.Load())
	}
	made.Store(0)
	removed.Store(0)
	files(20)
	if made.Load() > 0 || removed.Load() > 0 || renamed.Load() < 40 {
		t.Errorf("later %d files were made and %d removed; %d changes of names", made.Load(), removed.Load(), renamed.Load())
	}
	if zeros.Load() > 4 {
		t.Errorf("%d fillings: what was written once is filled", zeros.Load())
	}
	must(t, s.Close())
	spares := 0
	for _, name := range mem.Files() {
		if isSpareName(path.Base(name)) {
			spares++
		}
	}
	if spares > maxSpares {
		t.Errorf("%d spares", spares)
	}
}

func noRefs(uint64, uint64, func(uint64, uint32, uint32) bool) {}

// TestTornBatchInUsedFile tears a batch in a file that was used before, where its former life had a batch of the same layout: what is
// behind the tear is whole, and nevertheless not what was written. It is the end of the log and no damage.
func TestTornBatchInUsedFile(t *testing.T) {
	mem := vfs.NewMem()
	var hook atomic.Pointer[func(vfs.Op)]
	fs := vfs.Inject(mem, func(op vfs.Op) error {
		if h := hook.Load(); h != nil {
			(*h)(op)
		}
		return nil
	})
	s := mustOpen(t, fs, func(o *Options) { o.WALFileSize = 64 << 10 })
	g := mustGroup(t, s, 1)
	one := func() { must(t, g.Append(entries(1, g.LastIndex()+1, g.LastIndex()+1, 1, 439))) } // a batch of 520 octets
	file := func(number uint64) {
		one() // whoever is answered knows that the writer runs
		for s.wal.current().number < number {
			one()
		}
		s.wal.background.Wait()
		select {
		case <-s.NeedsCheckpoint():
			must(t, g.SaveCheckpoint(Checkpoint{Index: g.LastIndex()}, func(io.Writer) error { return nil }, noRefs))
		default:
		}
	}
	for number := range uint64(10) {
		file(number)
	}
	for (s.wal.tail+batchHeaderSize+8)%512 != 0 { // its header ends where a sector does
		one()
	}
	s.wal.background.Wait() // nothing but the batch is synced from here on
	former := make([]byte, 520)
	must(t, readFull(s.wal.current().f, former, s.wal.tail))
	// The mark of an idle writer may have taken the place of its header.
	if rec := parseRecord(former[batchHeaderSize+8:]); rec.kind != kindEntry || rec.dataLen != 439 {
		t.Fatalf("the file's former life had no such batch: this test shows nothing: %x", former[:80])
	}
	var left *vfs.Mem
	h := func(op vfs.Op) {
		if op.Kind == "sync" && left == nil {
			left = mem.CrashClone(func(n int) int { return min(n, batchHeaderSize+8) })
		}
	}
	acknowledged := g.LastIndex()
	hook.Store(&h)
	one()
	hook.Store(nil)
	must(t, s.Close())
	s = mustOpen(t, left, func(o *Options) { o.WALFileSize = 64 << 10 })
	g = mustGroup(t, s, 1)
	if g.Damaged() != nil || g.LastIndex() != acknowledged {
		t.Errorf("last %d, acknowledged %d, damaged: %v", g.LastIndex(), acknowledged, g.Damaged())
	}
	must(t, s.Close())
}

// TestSparesAreKept starts a store again: its spares are spares again, and one of another size is not.
func TestSparesAreKept(t *testing.T) {
	mem := vfs.NewMem()
	size := func(n int64) func(*Options) { return func(o *Options) { o.WALFileSize = n } }
	s := mustOpen(t, mem, size(64<<10))
	must(t, mustGroup(t, s, 1).Append(entries(1, 1, 1, 1, 1000))) // the writer runs
	s.wal.background.Wait()
	must(t, s.Close())
	for name, data := range map[string]string{"spare-1.wal": walMagic + strings.Repeat("x", 64<<10-len(walMagic)), "spare-7.wal": strings.Repeat("x", 64<<10)} {
		f, err := mem.Create("d/wal/" + name)
		must(t, err)
		_, err = f.WriteAt([]byte(data), 0)
		must(t, errors.Join(err, f.Sync()))
	}
	s = mustOpen(t, mem, size(64<<10))
	if a, b := s.wal.spares[0], s.wal.spares[1]; a.f == nil || a.written || b.f == nil || !b.written {
		t.Errorf("spares: %+v, %+v", a, b)
	}
	if _, err := mem.Stat("d/wal/spare-7.wal"); err == nil {
		t.Error("a spare too many is there")
	}
	g := mustGroup(t, s, 1)
	for s.wal.current().number < 4 {
		must(t, g.Append(entries(1, g.LastIndex()+1, g.LastIndex()+1, 1, 1000)))
	}
	check(t, g, 1, g.LastIndex(), 1000)
	must(t, s.Close())
	s = mustOpen(t, mem, size(128<<10))
	g = mustGroup(t, s, 1)
	must(t, g.Append(entries(1, g.LastIndex()+1, g.LastIndex()+1, 1, 1000))) // the writer runs
	s.wal.background.Wait()
	for _, one := range s.wal.spares {
		if one.f == nil {
			continue
		}
		if size, err := one.f.Size(); err != nil || size != 128<<10 {
			t.Errorf("a spare of another size was kept: %d, %v", size, err)
		}
	}
	check(t, mustGroup(t, s, 1), 1, mustGroup(t, s, 1).LastIndex(), 1000)
	must(t, s.Close())
}
