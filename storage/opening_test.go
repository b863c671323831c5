package storage

import (
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/warrenmq/warren/storage/vfs"
)

// startFS is a file system that counts what is open, and whose operations fail when the test says so: those of vfs.Inject, and those by which
// a start looks round.
type startFS struct {
	vfs.FS
	fail func(op vfs.Op) error
	open atomic.Int32
}

func newStartFS(inner vfs.FS, fail func(op vfs.Op) error) *startFS {
	return &startFS{FS: vfs.Inject(inner, fail), fail: fail}
}

// heldFile is one that counts until it is closed.
type heldFile struct {
	vfs.File
	fs *startFS
}

func (f heldFile) Close() error {
	f.fs.open.Add(-1)
	return f.File.Close()
}

type heldLock struct {
	io.Closer
	fs *startFS
}

func (l heldLock) Close() error {
	l.fs.open.Add(-1)
	return l.Closer.Close()
}

func (fs *startFS) held(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	fs.open.Add(1)
	return heldFile{f, fs}, nil
}

func (fs *startFS) Create(name string) (vfs.File, error) { return fs.held(fs.FS.Create(name)) }
func (fs *startFS) Open(name string) (vfs.File, error)   { return fs.held(fs.FS.Open(name)) }

func (fs *startFS) Lock(name string) (io.Closer, error) {
	lock, err := fs.FS.Lock(name)
	if err != nil {
		return nil, err
	}
	fs.open.Add(1)
	return heldLock{lock, fs}, nil
}

func (fs *startFS) ReadDir(name string) ([]string, error) {
	if err := fs.fail(vfs.Op{Kind: "readdir", Name: name}); err != nil {
		return nil, err
	}
	return fs.FS.ReadDir(name)
}

func (fs *startFS) Stat(name string) (vfs.Info, error) {
	if err := fs.fail(vfs.Op{Kind: "stat", Name: name}); err != nil {
		return vfs.Info{}, err
	}
	return fs.FS.Stat(name)
}

// TestErrorsAtAStart lets each operation of a start fail, but for reads, for reasons that say nothing about what the disk holds. Either the
// store opens, and no group is damaged that was not; or it does not, keeps nothing open, and the next start finds all as it was.
func TestErrorsAtAStart(t *testing.T) {
	orderly, promises := damageRun(t, true)
	left := orderly.Clone()
	for _, name := range []string{"d/group-2/checkpoint.new", "d/group-2/0000000000000fff.seg"} {
		_, err := left.Create(name)
		must(t, err)
	}
	first := vfs.NewMem()
	must(t, first.MkdirAll("d"))
	flipped := orderly.Clone() // a new log file is begun for the damage
	newest := lastBatch(t, flipped, "d/wal/"+newestLog(t, flipped))
	flipped.SetBytes(newest.name, flip(flipped.Bytes(newest.name), newest.from))
	for _, start := range []struct {
		name     string
		disk     *vfs.Mem
		promises map[uint32]*promise
	}{{"first", first, nil}, {"orderly", left, promises}, {"damaged", flipped, promises}} {
		want, err := damaged(t, start.disk.Clone(), start.promises, false)
		must(t, err)
		if healthy := start.name != "damaged"; healthy != (want == "intact") {
			t.Fatalf("%s: %s: this test shows nothing", start.name, want)
		}
		for _, reason := range []error{syscall.EMFILE, syscall.ENFILE, syscall.EACCES, syscall.EPERM, syscall.ENOMEM, syscall.EIO} {
			nth := 1
			for startFails(t, start.disk.Clone(), start.promises, want, reason, nth) {
				nth++
			}
			if nth < 15 {
				t.Errorf("%s: only %d operations", start.name, nth)
			}
		}
	}
}

// startFails fails the nth operation of a start, and tells whether there was one.
func startFails(t *testing.T, disk *vfs.Mem, promises map[uint32]*promise, want string, reason error, nth int) bool {
	var count atomic.Int32
	var failed atomic.Pointer[vfs.Op]
	var opened atomic.Bool
	fs := newStartFS(disk, func(op vfs.Op) error {
		if opened.Load() || op.Kind == "read" || int(count.Add(1)) != nth {
			return nil
		}
		failed.Store(&op)
		return reason
	})
	s, err := Open(Options{Dir: "d", FS: fs, WALFileSize: 8 << 10, SegmentSize: 3 << 10, CacheBytes: 1, KeepFiles: 1, OnFatal: func(err error) { t.Errorf("fatal: %v", err) }})
	opened.Store(true)
	if err == nil {
		for _, g := range s.Groups() {
			if g.Damaged != nil && want == "intact" {
				t.Errorf("%+v fails with %v: %v", failed.Load(), reason, g.Damaged)
			}
		}
		must(t, s.Close())
	} else if !errors.Is(err, reason) {
		t.Errorf("%+v fails with %v: %v", failed.Load(), reason, err)
	}
	if n := fs.open.Load(); n != 0 {
		t.Errorf("%+v fails with %v (%v): %d files or locks are still open", failed.Load(), reason, err, n)
	}
	verdict, err := damaged(t, disk, promises, false)
	if err != nil || verdict != want {
		t.Errorf("after %+v had failed with %v: %s, %v; want %s", failed.Load(), reason, verdict, err, want)
	}
	return failed.Load() != nil
}

// newestLog is the file of the log that CURRENT names.
func newestLog(t *testing.T, disk *vfs.Mem) string {
	newest, err := parseNumberFile(disk.Bytes("d/wal/CURRENT"), currentMagic)
	must(t, err)
	return (&wal{}).walName(newest)
}

// TestUnreadableSectors: what cannot be read from a checkpoint or a segment any more is damage, of its group alone. A peer has it.
func TestUnreadableSectors(t *testing.T) {
	disk, promises := damageRun(t, true)
	for _, part := range []string{"d/group-1/checkpoint", ".seg"} {
		fs := vfs.Inject(disk.Clone(), func(op vfs.Op) error {
			if op.Kind == "read" && strings.HasPrefix(op.Name, "d/group-1/") && strings.HasSuffix(op.Name, part) {
				return syscall.EIO
			}
			return nil
		})
		s := mustOpen(t, fs, smallFiles)
		for id := range promises {
			if g := mustGroup(t, s, id); (g.Damaged() != nil) != (id == 1) {
				t.Errorf("%s: group %d: %v", part, id, g.Damaged())
			}
		}
		must(t, s.Close())
	}
}

// TestCheckpointOfAnotherVersion: it is whole, and is not to be thrown away by a program that does not know it.
func TestCheckpointOfAnotherVersion(t *testing.T) {
	disk, promises := damageRun(t, true)
	const name = "d/group-1/checkpoint"
	data := disk.Bytes(name)
	length := int(binary.LittleEndian.Uint32(data[12:]))
	binary.LittleEndian.PutUint32(data[8:], formatVer+1)
	seal(data, 0, length-4, 0, length-4)
	disk.SetBytes(name, data)
	if verdict, err := damaged(t, disk, promises, false); verdict != "open fails" || err != nil {
		t.Errorf("%s, %v", verdict, err)
	}
}
