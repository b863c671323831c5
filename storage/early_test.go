package storage

import (
	"errors"
	"math"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/warrenmq/warren/storage/vfs"
)

// heldDisk is a disk whose fsyncs of the log wait, while it is told to hold them.
type heldDisk struct {
	vfs.FS
	mem  *vfs.Mem
	hold atomic.Pointer[chan struct{}] // nil: they do not wait
}

func newHeldDisk() *heldDisk {
	d := &heldDisk{mem: vfs.NewMem()}
	d.FS = vfs.Inject(d.mem, func(op vfs.Op) error {
		if hold := d.hold.Load(); hold != nil && op.Kind == "sync" && strings.HasSuffix(op.Name, ".wal") {
			<-*hold
		}
		return nil
	})
	return d
}

// stop makes fsyncs wait until the function that it returns is called.
func (d *heldDisk) stop() (release func()) {
	hold := make(chan struct{})
	d.hold.Store(&hold)
	return func() { d.hold.Store(nil); close(hold) }
}

// TestAppendEarly: entries are there at once, and count as durable when the disk says so.
func TestAppendEarly(t *testing.T) {
	disk := newHeldDisk()
	s := mustOpen(t, disk, nil)
	g, other := mustGroup(t, s, 1), mustGroup(t, s, 2)
	must(t, g.Append(entries(1, 1, 3, 1, 100)))
	release := disk.stop()
	for _, list := range [][]Entry{entries(1, 4, 6, 1, 100), entries(1, 7, 7, 2, 100)} {
		if !g.AppendEarly(list) {
			t.Fatal("not taken")
		}
	}
	if !other.AppendEarly(entries(2, 1, 2, 1, 100)) {
		t.Fatal("another group's are not taken")
	}
	for i := uint64(1); i <= 7; i++ {
		if e, err := g.Entry(i); err != nil || e.Index != i || string(e.Data) != string(bodyOf(1, i, 100)) {
			t.Fatalf("entry %d: %v", i, err)
		}
	}
	if _, err := g.Entry(8); !errors.Is(err, ErrNotFound) {
		t.Errorf("entry 8: %v", err)
	}
	if g.LastIndex() != 3 || g.Durable() != 3 || other.Durable() != 0 {
		t.Errorf("up to %d, durable up to %d and %d", g.LastIndex(), g.Durable(), other.Durable())
	}
	must(t, g.WaitDurable(3))
	waited := make(chan error, 2)
	go func() { waited <- g.WaitDurable(4) }()
	go func() { waited <- g.Append(entries(1, 8, 8, 2, 100)) }() // in its turn
	lost := mustOpen(t, disk.mem.CrashClone(func(int) int { return 0 }), nil)
	check(t, mustGroup(t, lost, 1), 1, 3, 100)
	must(t, lost.Close())
	select {
	case err := <-waited:
		t.Fatalf("durable before the fsync: %v", err)
	default:
	}
	release()
	must(t, <-waited)
	must(t, <-waited)
	must(t, other.Settle())
	if g.Durable() != math.MaxUint64 || other.Durable() != math.MaxUint64 {
		t.Errorf("durable up to %d and %d", g.Durable(), other.Durable())
	}
	left := mustOpen(t, disk.mem.CrashClone(func(int) int { return 0 }), nil)
	check(t, mustGroup(t, left, 1), 1, 8, 100)
	check(t, mustGroup(t, left, 2), 1, 2, 100)
	must(t, left.Close())
	check(t, g, 1, 8, 100)
	must(t, s.Close())
}

// TestEarlyThenCut: what removes entries waits for those that are not durable yet, and removes them.
func TestEarlyThenCut(t *testing.T) {
	disk := newHeldDisk()
	s := mustOpen(t, disk, nil)
	g, dropped := mustGroup(t, s, 1), mustGroup(t, s, 2)
	release := disk.stop()
	if !g.AppendEarly(entries(1, 1, 9, 1, 100)) || !dropped.AppendEarly(entries(2, 1, 9, 1, 100)) {
		t.Fatal("not taken")
	}
	done := make(chan error, 2)
	go func() { done <- g.TruncateSuffix(5) }()
	go func() { done <- dropped.Discard() }()
	release()
	must(t, <-done)
	must(t, <-done)
	check(t, g, 1, 4, 100)
	if _, err := g.Entry(5); !errors.Is(err, ErrNotFound) {
		t.Errorf("entry 5 is gone: %v", err)
	}
	if dropped.FirstIndex() != 0 || dropped.LastIndex() != 0 {
		t.Errorf("a group that was discarded has %d to %d", dropped.FirstIndex(), dropped.LastIndex())
	}
	if !g.AppendEarly(entries(1, 5, 6, 2, 100)) || !dropped.AppendEarly(entries(2, 30, 31, 2, 100)) {
		t.Fatal("not taken")
	}
	must(t, s.Close())
	s = mustOpen(t, disk, nil)
	check(t, mustGroup(t, s, 1), 1, 6, 100)
	check(t, mustGroup(t, s, 2), 30, 31, 100)
	must(t, s.Close())
}

// TestNotEarly: what Append may have to refuse is left to it.
func TestNotEarly(t *testing.T) {
	mem := vfs.NewMem()
	s := mustOpen(t, mem, func(o *Options) { o.WALFileSize = 64 << 10 })
	g := mustGroup(t, s, 1)
	must(t, g.Append(entries(1, 1, 3, 1, 100)))
	for what, list := range map[string][]Entry{"nothing": nil, "index 0": {{}}, "a gap": entries(1, 5, 5, 1, 100), "a repetition": entries(1, 3, 3, 1, 100),
		"a gap inside": append(entries(1, 4, 4, 1, 100), entries(1, 6, 6, 1, 100)...), "too large": entries(1, 4, 4, 1, 40<<10)} {
		if g.AppendEarly(list) {
			t.Errorf("%s was taken", what)
		}
	}
	// The log's file ends somewhere here, and for the next one there is no room on the disk.
	must(t, g.Settle())
	s.wal.background.Wait() // the next file is reserved
	must(t, s.wal.closeSpares())
	must(t, mem.Remove(s.wal.spareName(0)))
	mem.SetCapacity(1)
	last := uint64(3)
	for g.AppendEarly(entries(1, last+1, last+1, 1, 3000)) {
		if last++; last > 100 {
			t.Fatal("more was taken than there is room for")
		}
	}
	must(t, g.Settle())
	if last < 10 {
		t.Errorf("only %d were taken", last)
	}
	var err error
	for range 10 { // what is left of the file is kept free by AppendEarly
		if err = g.Append(entries(1, last+1, last+1, 1, 3000)); err != nil {
			break
		}
		last++
	}
	if !errors.Is(err, ErrDiskFull) {
		t.Errorf("the disk is full: %v", err)
	}
	mem.SetCapacity(1 << 30)
	must(t, g.Append(entries(1, last+1, last+1, 1, 3000)))
	must(t, s.Close())
	if g.AppendEarly(entries(1, last+2, last+2, 1, 100)) {
		t.Error("a store that is closed takes entries")
	}
	s = mustOpen(t, mem, func(o *Options) { o.WALFileSize = 64 << 10 })
	if g = mustGroup(t, s, 1); g.LastIndex() != last+1 {
		t.Errorf("there are %d, %d were appended", g.LastIndex(), last+1)
	}
	must(t, s.Close())
}

// TestEarlyFails: who waits for entries that a failed write leaves in doubt is told when the store is closed, and no more are taken.
func TestEarlyFails(t *testing.T) {
	f := newFaulty(t)
	g := mustGroup(t, f.s, 1)
	must(t, g.Append(entries(1, 1, 3, 1, 100)))
	broken := errors.New("broken disk")
	f.set(func(op vfs.Op) error {
		if op.Kind == "sync" {
			return broken
		}
		return nil
	})
	if !g.AppendEarly(entries(1, 4, 5, 1, 100)) {
		t.Fatal("not taken")
	}
	waited := make(chan error, 3)
	go func() { waited <- g.WaitDurable(5) }()
	go func() { waited <- g.Settle() }()
	go func() { waited <- g.Append(entries(1, 6, 6, 1, 100)) }()
	<-f.s.wal.done
	if f.fatals.Load() != 1 {
		t.Errorf("%d fatal errors", f.fatals.Load())
	}
	if g.AppendEarly(entries(1, 6, 6, 1, 100)) {
		t.Error("a log that has failed takes entries")
	}
	_ = f.s.Close() // it fails, or not, as before
	for range 3 {
		if err := <-waited; !errors.Is(err, ErrClosed) {
			t.Errorf("who waited is told %v", err)
		}
	}
	must(t, g.WaitDurable(3))
}
