package storage

import (
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/warrenmq/warren/storage/vfs"
)

// fuzzDisk is a small store with some of everything.
func fuzzDisk(f *testing.F) *vfs.Mem {
	r := newRecorded(f, 5, nil)
	r.work(16)
	r.checkpoint(1)
	r.append(2, 2, 60)
	must(f, r.s.Close())
	return r.mem.Clone()
}

// modest fails when work allocates much more than what it was given has octets.
func modest(t *testing.T, input int, work func()) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	work()
	runtime.ReadMemStats(&after)
	// Recovery looks through a file by the megabyte, and Mem copies what is written.
	if used := after.TotalAlloc - before.TotalAlloc; used > 16<<20+64*uint64(input) {
		t.Errorf("%d octets allocated for %d", used, input)
	}
}

// readAll opens a store and reads all of it; whatever is there, it must not panic, and a group that says that it is healthy
// must read.
func readAll(t *testing.T, disk *vfs.Mem) {
	s, err := Open(Options{Dir: "d", FS: disk, WALFileSize: 8 << 10, KeepFiles: 1, OnFatal: func(err error) { t.Errorf("fatal: %v", err) }})
	if err != nil {
		return
	}
	for _, info := range s.Groups() {
		g, err := s.Group(info.ID)
		if err != nil {
			t.Fatal(err)
		}
		for i := max(info.First, 1); i <= info.Last && i < info.First+1000 && info.Damaged == nil; i++ {
			if _, err := g.Entry(i); err != nil {
				t.Fatalf("entry %d of %d to %d of a healthy group: %v", i, info.First, info.Last, err)
			}
		}
		for _, seg := range g.segments {
			for _, it := range seg.items {
				_, err := seg.read(it, g.id)
				if err != nil && !errors.Is(err, ErrCorrupt) {
					t.Fatal(err)
				}
			}
		}
		if _, r, err := g.OpenCheckpoint(); err == nil {
			_, err = io.Copy(io.Discard, r)
			if err = errors.Join(err, r.Close()); err != nil && !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// fuzzFile puts anything in the place of a file, with the contents of all files as seeds.
func fuzzFile(f *testing.F, has func(name string) bool) {
	disk := fuzzDisk(f)
	target := ""
	for _, name := range disk.Files() {
		if has(name) {
			target = name
		}
	}
	if target == "" {
		f.Fatal("no such file")
	}
	f.Add(disk.Bytes(target))
	f.Add(disk.Bytes(target)[:len(disk.Bytes(target))/2])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		copied := disk.Clone()
		copied.SetBytes(target, data)
		modest(t, len(data), func() {
			_ = Dump(copied, "d", io.Discard, true)
			readAll(t, copied)
		})
	})
}

func FuzzLogFile(f *testing.F) {
	fuzzFile(f, func(name string) bool { return strings.HasSuffix(name, ".wal") && !strings.Contains(name, "spare") })
}

func FuzzCheckpoint(f *testing.F) {
	fuzzFile(f, func(name string) bool { return strings.HasSuffix(name, "/checkpoint") })
}

func FuzzSegment(f *testing.F) {
	fuzzFile(f, func(name string) bool { return strings.HasSuffix(name, ".seg") })
}

func FuzzCurrent(f *testing.F) {
	fuzzFile(f, func(name string) bool { return strings.HasSuffix(name, "CURRENT") })
}

func FuzzStoreFile(f *testing.F) {
	fuzzFile(f, func(name string) bool { return strings.HasSuffix(name, "d/store") })
}

// FuzzSnapshot gives anything to an install. What is refused changes nothing.
func FuzzSnapshot(f *testing.F) {
	s := mustOpen(f, vfs.NewMem(), smallFiles)
	g := mustGroup(f, s, 1)
	must(f, g.Append(entries(1, 1, 20, 1, 200)))
	_, stream, err := g.OpenSnapshot(Checkpoint{Index: 20, Term: 1, Extra: []byte("extra")}, []byte("state"), refs(map[uint64][]bodyPart{3: {{offset: 1, size: 50}}, 9: {{offset: 0, size: 10}, {offset: 100, size: 20}}}))
	must(f, err)
	wire, err := io.ReadAll(stream)
	must(f, err)
	must(f, stream.Close())
	must(f, s.Close())
	f.Add(wire)
	f.Add(wire[:len(wire)-30])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		s := mustOpen(t, vfs.NewMem(), smallFiles)
		g := mustGroup(t, s, 1)
		must(t, g.Append(entries(1, 1, 5, 1, 50)))
		modest(t, len(data), func() {
			if installAll(g, data) != nil {
				check(t, g, 1, 5, 50)
				if _, ok := g.LatestCheckpoint(); ok {
					t.Error("a refused stream left a checkpoint")
				}
			}
		})
		must(t, s.Close())
	})
}

// FuzzRecords gives anything to the decoders of the parts.
func FuzzRecords(f *testing.F) {
	rec := record{kind: kindEntry, group: 1, index: 2, data: []byte("data"), exts: []byte("x")}
	f.Add(rec.append(nil, 0))
	header := batchHeader{length: 64, durable: 8, groups: []uint32{1, 2}}
	b := make([]byte, header.size())
	header.put(b, 0)
	f.Add(b)
	f.Add(appendSegmentRecord(nil, 7, []bodyPart{{offset: 1, size: 3}}, []byte("abc")))
	f.Fuzz(func(t *testing.T, data []byte) {
		modest(t, len(data), func() {
			splitRecords(data, 0)
			parseBatch(data, 0)
			_, _ = parseNumberFile(data, currentMagic)
			if _, p, err := parseSegmentRecord(data); err == nil {
				for _, part := range p.parts {
					p.body(part.offset, part.size)
				}
			}
		})
	})
}
