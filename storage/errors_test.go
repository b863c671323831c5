package storage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmq/warren/storage/vfs"
)

// faulty is a store whose operations fail when the test says so.
type faulty struct {
	mem    *vfs.Mem
	fail   atomic.Pointer[func(vfs.Op) error]
	fatals atomic.Int32
	s      *Store
}

func newFaulty(t testing.TB) *faulty {
	f := &faulty{mem: vfs.NewMem()}
	fs := vfs.Inject(f.mem, func(op vfs.Op) error {
		if fail := f.fail.Load(); fail != nil {
			return (*fail)(op)
		}
		return nil
	})
	f.s = mustOpen(t, fs, func(o *Options) {
		smallFiles(o)
		o.OnFatal = func(error) { f.fatals.Add(1) }
	})
	return f
}

func (f *faulty) set(fail func(vfs.Op) error) { f.fail.Store(&fail) }

// TestDiskFull fills the disk: appends say so, nothing that was acknowledged is lost, and it goes on when there is space.
func TestDiskFull(t *testing.T) {
	mem := vfs.NewMem()
	s := mustOpen(t, mem, smallFiles)
	g := mustGroup(t, s, 1)
	last := uint64(0)
	fill := func() (err error) {
		for range 100 {
			if err = g.Append(entries(1, last+1, last+1, 1, 900)); err != nil {
				return err
			}
			last++
		}
		return nil
	}
	mem.SetCapacity(40 << 10)
	for range 3 {
		if err := fill(); !errors.Is(err, ErrDiskFull) {
			t.Fatalf("after %d entries: %v", last, err)
		}
	}
	check(t, g, 1, last, 900)
	if err := g.SaveCheckpoint(Checkpoint{Index: last}, func(w io.Writer) error { _, err := w.Write(make([]byte, 50<<10)); return err }, refs(nil)); !errors.Is(err, ErrDiskFull) {
		t.Fatalf("checkpoint: %v", err)
	}
	left := mem.CrashClone(func(int) int { return 0 })
	recovered := mustOpen(t, left, smallFiles)
	check(t, mustGroup(t, recovered, 1), 1, last, 900)
	must(t, recovered.Close())
	mem.SetCapacity(0)
	must(t, fill())
	check(t, g, 1, last, 900)
	must(t, s.Close())
	s = mustOpen(t, mem, smallFiles)
	check(t, mustGroup(t, s, 1), 1, last, 900)
	must(t, s.Close())
}

// TestDiskFullAtEachStep lets each step of a change of files fail for want of space, once.
func TestDiskFullAtEachStep(t *testing.T) {
	for step := range 12 {
		f := newFaulty(t)
		g := mustGroup(t, f.s, 1)
		must(t, g.Append(entries(1, 1, 1, 1, 900)))
		var steps atomic.Int32
		var failed atomic.Pointer[vfs.Op]
		f.set(func(op vfs.Op) error {
			// A write into a log file needs no space: it is reserved.
			if op.Kind == "rename" || op.Kind == "syncdir" || op.Kind == "sync" || op.Kind == "write" && !strings.Contains(op.Name, "CURRENT") {
				return nil
			}
			if int(steps.Add(1)) == step+1 {
				failed.Store(&op)
				return syscall.ENOSPC
			}
			return nil
		})
		last, refused := uint64(1), 0
		for range 30 {
			switch err := g.Append(entries(1, last+1, last+1, 1, 900)); {
			case err == nil:
				last++
			case errors.Is(err, ErrDiskFull):
				refused++
			default:
				t.Fatalf("step %d: %v", step, err)
			}
		}
		if refused > 1 || last < 30 || f.fatals.Load() > 0 {
			t.Errorf("step %d (%+v): %d refused, %d entries, %d fatal", step, failed.Load(), refused, last, f.fatals.Load())
		}
		f.set(func(vfs.Op) error { return nil }) // the check's reads are no step
		check(t, g, 1, last, 900)
		s := mustOpen(t, f.mem.CrashClone(func(int) int { return 0 }), smallFiles)
		check(t, mustGroup(t, s, 1), 1, last, 900)
		must(t, s.Close())
		must(t, f.s.Close())
	}
}

// TestFullInTheMiddle fills the disk within one request, a part of which is durable: it waits for space.
func TestFullInTheMiddle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		s := mustOpen(t, mem, smallFiles)
		g := mustGroup(t, s, 1)
		synctest.Wait()
		mem.SetCapacity(20 << 10)
		done := make(chan error, 1)
		go func() { done <- g.Append(entries(1, 1, 40, 1, 900)) }()
		time.Sleep(time.Minute)
		select {
		case err := <-done:
			t.Fatalf("answered without space: %v", err)
		default:
		}
		mem.SetCapacity(0)
		must(t, <-done)
		check(t, g, 1, 40, 900)

		must(t, g.Append(entries(1, 41, 41, 1, 900)))
		synctest.Wait()
		mem.SetCapacity(20 << 10)
		go func() { done <- g.Append(entries(1, 42, 80, 1, 900)) }()
		time.Sleep(time.Minute)
		must(t, s.Close())
		if err := <-done; !errors.Is(err, ErrClosed) {
			t.Fatalf("after the store was closed: %v", err)
		}
	})
}

// noNextFile takes the log's next file away, and all space with it.
func noNextFile(t testing.TB, s *Store, mem *vfs.Mem) {
	t.Helper()
	s.wal.background.Wait()
	must(t, s.wal.closeSpares())
	must(t, mem.Remove(s.wal.spareName(0)))
	mem.SetCapacity(1)
}

// TestFullAtTheEndOfAFile: a request that does not fit into the newest file is refused whole when there is no next one, and does not keep
// others waiting, which fit.
func TestFullAtTheEndOfAFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		s := mustOpen(t, mem, func(o *Options) { o.WALFileSize = 64 << 10 })
		g, other := mustGroup(t, s, 1), mustGroup(t, s, 2)
		must(t, g.Append(entries(1, 1, 10, 1, 3000)))
		noNextFile(t, s, mem)
		answers := make(chan error, 2)
		go func() {
			answers <- g.Append(entries(1, 11, 26, 1, 3000))
			answers <- other.Append(entries(2, 1, 1, 1, 100))
		}()
		time.Sleep(time.Minute)
		select {
		case err := <-answers:
			if !errors.Is(err, ErrDiskFull) {
				t.Errorf("the larger one: %v", err)
			}
			must(t, <-answers)
		default:
			t.Error("the log's writer waits for space, and everybody with it")
		}
		if !g.AppendEarly(entries(1, 11, 12, 1, 3000)) {
			t.Error("what fits is not taken")
		}
		must(t, g.Settle())
		mem.SetCapacity(0)
		must(t, g.Append(entries(1, 13, 28, 1, 3000)))
		check(t, g, 1, 28, 3000)
		check(t, other, 1, 1, 100)
		left := mem.CrashClone(func(int) int { return 0 })
		must(t, s.Close())
		s = mustOpen(t, left, func(o *Options) { o.WALFileSize = 64 << 10 })
		check(t, mustGroup(t, s, 1), 1, 28, 3000)
		check(t, mustGroup(t, s, 2), 1, 1, 100)
		must(t, s.Close())
	})
}

// TestFull: the store says that there is no room for the next log file when the newest one begins, and finds out by itself, which is when
// it is asked, that there is some.
func TestFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		attempts := 0
		s := mustOpen(t, vfs.Inject(mem, func(op vfs.Op) error {
			if op.Kind == "create" && isSpareName(path.Base(op.Name)) {
				attempts++
			}
			return nil
		}), func(o *Options) { o.WALFileSize = 64 << 10 })
		g := mustGroup(t, s, 1)
		fill := func() (n int) {
			for g.Append(entries(1, g.LastIndex()+1, g.LastIndex()+1, 1, 3000)) == nil {
				n++
			}
			return n
		}
		synctest.Wait()
		if s.Full() {
			t.Fatal("full, and there is a spare")
		}
		mem.SetCapacity(150 << 10) // two files are reserved
		for s.wal.current().number < 2 {
			must(t, g.Append(entries(1, g.LastIndex()+1, g.LastIndex()+1, 1, 3000)))
			synctest.Wait()
		}
		if !s.Full() {
			t.Error("the last file has begun, and the store is not full")
		}
		if n := fill(); n < 10 {
			t.Errorf("%d appends were taken in the last file", n)
		}
		synctest.Wait()
		before := attempts
		for range 10 {
			if !s.Full() {
				t.Error("not full any more")
			}
			synctest.Wait()
		}
		if attempts > before {
			t.Errorf("what there is not was tried to be taken %d times", attempts-before)
		}
		mem.SetCapacity(0)
		s.Full()
		synctest.Wait()
		if s.Full() || s.wal.spares.best() < 0 {
			t.Error("full, and there is room")
		}
		mem.SetCapacity(230 << 10) // and three files with what is small
		if n := fill(); n < 10 || !s.Full() {
			t.Errorf("%d appends were taken in the file that was reserved; full: %v", n, s.Full())
		}
		must(t, g.SaveCheckpoint(Checkpoint{Index: g.LastIndex()}, func(io.Writer) error { return nil }, noRefs))
		if s.Full() {
			t.Error("full, and a file has retired")
		}
		must(t, s.Close())
		s.Full() // whoever asks late does no harm
		synctest.Wait()
	})
}

// TestInstallOnAFullDisk: the space goes when an installed checkpoint has its name. What the install takes the place of, and the stream that
// it came in, make room for the log's next file, in which the install is noted.
func TestInstallOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := func(io.Writer) error { return nil }
		const size, last = 3000, 60
		alive := func(from, to uint64, yield func(uint64, uint32, uint32) bool) {
			for i := max(from, 1); i <= min(to, last) && yield(i, 0, size); i++ {
			}
		}
		big := func(o *Options) { o.WALFileSize, o.SegmentSize = 64<<10, 64<<10 }
		peer := mustOpen(t, vfs.NewMem(), big)
		must(t, mustGroup(t, peer, 1).Append(entries(1, 1, last, 1, size)))
		_, stream, err := mustGroup(t, peer, 1).OpenSnapshot(Checkpoint{Index: last, Term: 1}, []byte("installed"), alive)
		must(t, err)
		wire, err := io.ReadAll(stream)
		must(t, errors.Join(err, stream.Close(), peer.Close()))

		mem := vfs.NewMem()
		installing := atomic.Bool{}
		s := mustOpen(t, vfs.Inject(mem, func(op vfs.Op) error {
			if op.Kind == "rename" && path.Base(op.Name) == "checkpoint.new" && installing.Load() {
				mem.SetCapacity(1)
				left, err := mem.Free("")
				must(t, err)
				mem.SetCapacity(1 - left + 4<<10)
			}
			return nil
		}), big)
		g, other := mustGroup(t, s, 1), mustGroup(t, s, 2)
		must(t, g.Append(entries(1, 1, last, 1, size)))
		synctest.Wait()
		must(t, g.SaveCheckpoint(Checkpoint{Index: last, Term: 1}, state, alive))
		for takes := int64(0); s.wal.newest.size-s.wal.tail >= takes; { // until there is no room for a record of the length of a reset's
			before := s.wal.tail
			must(t, other.TruncateSuffix(1))
			takes = s.wal.tail - before
		}
		for s.wal.spares.best() >= 0 {
			must(t, s.wal.closeSpares())
			for _, name := range mem.Files() {
				if isSpareName(path.Base(name)) {
					must(t, mem.Remove(name))
				}
			}
		}
		if len(segmentFiles(mem)) == 0 {
			t.Fatal("there is nothing that the install takes the place of")
		}
		installing.Store(true)
		done := make(chan error, 1)
		go func() { done <- installAll(g, wire) }()
		time.Sleep(time.Minute)
		select {
		case err := <-done:
			must(t, err)
		default:
			t.Error("the install waits for the space that it holds")
			mem.SetCapacity(0)
			must(t, <-done)
		}
		for i := uint64(1); i <= last; i++ {
			if body, err := g.ReadBody(i, 0, size); err != nil || string(body) != string(bodyOf(1, i, size)) {
				t.Errorf("body of %d: %v", i, err)
			}
		}
		must(t, s.Close())
	})
}

// TestFailedWrites fails each write, fsync, rename and directory sync that appending needs: OnFatal hears it once, nobody
// is told that it worked, and what was acknowledged before is there afterwards.
func TestFailedWrites(t *testing.T) {
	broken := errors.New("broken")
	for _, kind := range []string{"write", "sync", "syncdir", "rename"} {
		for nth := range 6 {
			synctest.Test(t, func(t *testing.T) {
				f := newFaulty(t)
				groups := []*Group{mustGroup(t, f.s, 1), mustGroup(t, f.s, 2)}
				synctest.Wait()
				var count atomic.Int32
				f.set(func(op vfs.Op) error {
					if op.Kind == kind && int(count.Add(1)) > nth {
						return broken
					}
					return nil
				})
				acknowledged := make([]uint64, 2)
				var wait sync.WaitGroup
				for i, g := range groups {
					wait.Go(func() {
						for range 60 {
							next := acknowledged[i] + 1
							if g.Append(entries(g.id, next, next, 1, 900)) != nil {
								return
							}
							acknowledged[i] = next
						}
					})
				}
				synctest.Wait()
				if n := f.fatals.Load(); n != 1 {
					t.Errorf("%s %d: OnFatal called %d times", kind, nth, n)
				}
				f.s.Close()
				wait.Wait()
				if n := f.fatals.Load(); n != 1 {
					t.Errorf("%s %d: OnFatal called %d times", kind, nth, n)
				}
				s := mustOpen(t, f.mem.CrashClone(func(int) int { return 0 }), smallFiles)
				for i, g := range groups {
					g = mustGroup(t, s, g.id)
					if err := g.Damaged(); err != nil || g.LastIndex() < acknowledged[i] {
						t.Errorf("%s %d: %d of %d entries: %v", kind, nth, g.LastIndex(), acknowledged[i], err)
					}
				}
				must(t, s.Close())
			})
		}
	}
}

// TestHangingDisk lets an fsync or a write hang, and come back in the end: OnFatal hears it once and nobody is told that it worked.
func TestHangingDisk(t *testing.T) {
	for _, kind := range []string{"sync", "write"} {
		t.Run(kind, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { hang(t, kind) }) })
	}
}

func hang(t *testing.T, kind string) {
	f := newFaulty(t)
	g := mustGroup(t, f.s, 1)
	must(t, g.Append(entries(1, 1, 3, 1, 100)))
	synctest.Wait()
	release := make(chan struct{})
	f.set(func(op vfs.Op) error {
		if op.Kind == kind {
			<-release
		}
		return nil
	})
	done := make(chan error, 2)
	go func() { done <- g.Append(entries(1, 4, 4, 1, 100)) }()
	time.Sleep(9 * time.Second)
	if f.fatals.Load() != 0 {
		t.Fatal("9 s are no failure")
	}
	time.Sleep(time.Hour)
	if n := f.fatals.Load(); n != 1 {
		t.Fatalf("OnFatal called %d times", n)
	}
	if err := g.Append(entries(1, 4, 4, 1, 100)); !errors.Is(err, ErrClosed) {
		t.Fatalf("append to a dead log: %v", err)
	}
	close(release)
	time.Sleep(time.Hour)
	select {
	case err := <-done:
		t.Fatalf("answered: %v", err)
	default:
	}
	f.s.Close()
	if err := <-done; !errors.Is(err, ErrClosed) || f.fatals.Load() != 1 {
		t.Fatalf("%v, OnFatal called %d times", err, f.fatals.Load())
	}
}

// TestFailedSyncAndPowerCut lets the last fsync of a process fail: the next process reads what the disk never got. What it shows is there
// after a power cut.
func TestFailedSyncAndPowerCut(t *testing.T) {
	f := newFaulty(t)
	g := mustGroup(t, f.s, 1)
	must(t, g.Append(entries(1, 1, 3, 1, 100)))
	f.set(func(op vfs.Op) error {
		if op.Kind == "sync" {
			return errors.New("input/output error")
		}
		return nil
	})
	go g.Append(entries(1, 4, 6, 1, 100))
	for f.fatals.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	left := f.mem.KillClone()
	left.ForgetUnsynced()
	f.s.Close()
	s := mustOpen(t, left, smallFiles)
	g = mustGroup(t, s, 1)
	shown := g.LastIndex()
	if shown != 6 {
		t.Fatalf("the next process sees %d entries: this test shows nothing", shown)
	}
	cut := mustOpen(t, left.CrashClone(func(int) int { return 0 }), smallFiles)
	check(t, mustGroup(t, cut, 1), 1, shown, 100)
	must(t, cut.Close())
	must(t, s.Close())
}

// TestFailuresChangeNothing lets a checkpoint and an install fail at each of their operations. Either the store is dead, or
// nothing has changed and the next one works; and what is on disk is healthy after a power cut in any case.
func TestFailuresChangeNothing(t *testing.T) {
	for _, what := range []string{"checkpoint", "install"} {
		for nth := 1; ; nth++ {
			if !failOnce(t, what, nth) {
				t.Logf("%s: %d operations", what, nth-1)
				break
			}
		}
	}
}

// failOnce fails the nth operation and tells whether there was one.
func failOnce(t *testing.T, what string, nth int) bool {
	r := newRecorded(t, 3, nil)
	r.work(12)
	r.checkpoint(1)
	r.append(1, 6, 900)
	must(t, r.s.Close())
	var count, fatals atomic.Int32
	var failed atomic.Pointer[vfs.Op]
	var on atomic.Bool
	fs := vfs.Inject(r.mem, func(op vfs.Op) error {
		if on.Load() && !strings.Contains(op.Name, "spare-") && int(count.Add(1)) == nth {
			failed.Store(&op)
			return errors.New("broken")
		}
		return nil
	})
	closed := make(chan error, 1)
	r.s = mustOpen(t, fs, func(o *Options) {
		smallFiles(o)
		o.OnFatal = func(error) {
			fatals.Add(1)
			go func() { closed <- r.s.Close() }()
		}
	})
	g, p := mustGroup(t, r.s, 1), r.promises[1]
	before := p.clone()
	before.next = nil
	after := p.clone()
	after.next = nil
	var err error
	r.s.wal.prepareSpare()
	on.Store(true)
	if what == "checkpoint" {
		after.live, after.checkpoint, after.state = r.age(p, p.last), p.last, []byte("new")
		err = g.SaveCheckpoint(Checkpoint{Index: p.last}, func(w io.Writer) error { _, err := w.Write([]byte("new")); return err }, refs(after.live))
	} else {
		wire := snapshotOf(t, 1, p.last+20)
		after = newPromise()
		after.checkpoint, after.state = p.last+20, []byte("installed")
		err = installAll(g, wire)
	}
	on.Store(false)
	there := int(count.Load()) >= nth
	now := before
	if err == nil {
		now = after
	}
	label := fmt.Sprintf("%s, operation %d (%+v): %v", what, nth, failed.Load(), err)
	if fatals.Load() == 0 {
		if verifyErr := now.verify(g); verifyErr != nil && (err == nil || what == "checkpoint" || after.verify(g) != nil) {
			t.Errorf("%s: then %v", label, verifyErr)
		}
	}
	either := before.clone()
	either.doing, either.next = what, after
	left := r.mem.CrashClone(func(int) int { return 0 })
	if err := reopened(t, left, map[uint32]*promise{1: either}); err != nil {
		t.Errorf("%s: after a power cut: %v", label, err)
	}
	if fatals.Load() == 0 && err != nil {
		if what == "checkpoint" {
			err = g.SaveCheckpoint(Checkpoint{Index: p.last}, func(w io.Writer) error { _, err := w.Write([]byte("new")); return err }, refs(after.live))
		} else {
			err = installAll(g, snapshotOf(t, 1, p.last+20))
		}
		if err = errors.Join(err, after.verify(g)); err != nil {
			t.Errorf("%s: again: %v", label, err)
		}
	}
	if fatals.Load() > 0 {
		<-closed
	} else if err := r.s.Close(); err != nil {
		t.Errorf("%s: close: %v", label, err)
	}
	return there
}

// snapshotOf is a stream of a snapshot at an index, with nothing alive.
func snapshotOf(t testing.TB, id uint32, index uint64) []byte {
	other := mustOpen(t, vfs.NewMem(), smallFiles)
	_, stream, err := mustGroup(t, other, id).OpenSnapshot(Checkpoint{Index: index}, []byte("installed"), refs(nil))
	must(t, err)
	wire, err := io.ReadAll(stream)
	must(t, err)
	must(t, stream.Close())
	must(t, other.Close())
	return wire
}

func installAll(g *Group, wire []byte) error {
	in, err := g.Install()
	if err != nil {
		return err
	}
	if _, err := io.Copy(in, bytes.NewReader(wire)); err != nil {
		return errors.Join(err, in.Abort())
	}
	_, err = in.Commit()
	return err
}
