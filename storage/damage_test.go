package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/warrenmq/warren/storage/vfs"
)

// damageRun is a store with some of everything in it, closed or killed.
func damageRun(t *testing.T, orderly bool) (*vfs.Mem, map[uint32]*promise) {
	r := newRecorded(t, 7, nil)
	r.work(18)
	r.checkpoint(1)
	r.install(2)
	for id := uint32(1); id <= 3; id++ {
		r.append(id, 2, 60)
	}
	if orderly {
		must(t, r.s.Close())
		return r.mem.Clone(), r.promises
	}
	// A power cut right behind the last fsync: its note that all is durable is not.
	left := r.mem.CrashClone(func(int) int { return 0 })
	must(t, r.s.Close())
	return left, r.promises
}

// damaged opens a store that something was done to. Whatever was promised is there or said to be damaged; verdict tells
// which. lostTail permits that entries of the last write are missing without a word.
func damaged(t *testing.T, disk *vfs.Mem, promises map[uint32]*promise, lostTail bool) (verdict string, err error) {
	s, err := Open(Options{Dir: "d", FS: disk, WALFileSize: 8 << 10, SegmentSize: 3 << 10, CacheBytes: 1, KeepFiles: 1, OnFatal: func(err error) { t.Errorf("fatal: %v", err) }})
	if err != nil {
		return "open fails", nil
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	verdict = "intact"
	for id, p := range promises {
		g, err := s.Group(id)
		if err != nil {
			return "", err
		}
		if g.Damaged() != nil {
			verdict = "damaged"
			if err := g.Append(entries(id, p.last+1, p.last+1, 1, 10)); !errors.Is(err, ErrDamaged) {
				return "", fmt.Errorf("damaged group %d takes an entry: %v", id, err)
			}
			continue
		}
		err = p.verify(g)
		switch {
		case err == nil:
		case errors.Is(findCorrupt(g, p), ErrCorrupt):
			verdict = "read fails"
		case lostTail && p.exactly(g, p.last-2, p.last-1) == nil:
			verdict = "tail lost"
		default:
			return "", fmt.Errorf("group %d is healthy, but %w", id, err)
		}
	}
	return verdict, nil
}

// findCorrupt reads everything, checks what can be read, and returns whether something cannot.
func findCorrupt(g *Group, p *promise) error {
	var found error
	if c, r, err := g.OpenCheckpoint(); err == nil {
		state, err := io.ReadAll(r)
		if r.Close(); err == nil && (c.Index != p.checkpoint || !bytes.Equal(state, p.state)) {
			return fmt.Errorf("another checkpoint")
		}
		found = errors.Join(found, err)
	}
	if last := g.LastIndex(); last > 0 && last != p.last {
		return fmt.Errorf("ends at %d", last)
	}
	for i := max(g.FirstIndex(), 1); i <= g.LastIndex(); i++ {
		e, err := g.Entry(i)
		if err == nil && !same(e, p.entries[i]) {
			return fmt.Errorf("another entry %d", i)
		}
		if errors.Is(err, ErrNotFound) {
			return fmt.Errorf("no entry %d", i)
		}
		found = errors.Join(found, err)
	}
	for index, parts := range p.live {
		for _, part := range parts {
			body, err := g.ReadBody(index, part.offset, part.size)
			if err == nil && !bytes.Equal(body, p.entries[index].Data[part.offset:][:part.size]) {
				return fmt.Errorf("another body in %d", index)
			}
			if errors.Is(err, ErrNotFound) {
				return fmt.Errorf("no body in %d", index)
			}
			found = errors.Join(found, err)
		}
	}
	return found
}

// forEveryOffset damages each file at every offset, or every stride octets.
func forEveryOffset(t *testing.T, orderly bool, harm func(data []byte, at int) []byte) map[string]int {
	disk, promises := damageRun(t, orderly)
	newest, err := parseNumberFile(disk.Bytes("d/wal/CURRENT"), currentMagic)
	must(t, err)
	window := lastBatch(t, disk, fmt.Sprintf("d/wal/%016x.wal", newest))
	stride := 1
	if testing.Short() || racing {
		stride = 13
	}
	verdicts := map[string]int{}
	failures := 0
	for _, name := range disk.Files() {
		if path.Base(name) == "LOCK" || isSpareName(path.Base(name)) {
			continue
		}
		original := disk.Bytes(name)
		end := len(original)
		if strings.HasSuffix(name, ".wal") {
			// What is behind the last batch says nothing; a few octets of it will do.
			end = min(end, lastBatch(t, disk, name).to+100)
		}
		for at := 0; at < end; at += stride {
			copied := disk.Clone()
			copied.SetBytes(name, harm(slices.Clone(original), at))
			inWindow := !orderly && name == window.name && at >= window.from && at < window.to
			verdict, err := damaged(t, copied, promises, inWindow)
			if err != nil {
				t.Errorf("%s at %d of %d: %v", name, at, len(original), err)
				if failures++; failures > 8 {
					t.FailNow()
				}
			}
			verdicts[strings.TrimLeft(path.Ext(name)+" ", ".")+verdict]++
		}
	}
	t.Log(verdicts)
	return verdicts
}

// place is a part of a file.
type place struct {
	name     string
	from, to int
}

// lastBatch finds the last batch of a log file.
func lastBatch(t *testing.T, disk *vfs.Mem, name string) place {
	id, err := parseNumberFile(disk.Bytes("d/store"), storeMagic)
	must(t, err)
	w := place{name: name}
	data := disk.Bytes(name)
	number := binary.LittleEndian.Uint64(data[24:])
	for at := 0; at+batchHeaderSize < len(data); at += align {
		if h, ok := parseBatch(data[at:], seedOf(id, number)); ok && h.durable == uint64(at) && h.length > 0 {
			w.from, w.to = at, at+h.size()+int(h.length)
		}
	}
	return w
}

func flip(data []byte, at int) []byte {
	data[at] ^= 1 << (at % 8)
	return data
}

func cutAt(data []byte, at int) []byte { return data[:at] }

// TestBitFlips flips one bit of every octet of every file. After an orderly end, and after a kill, nothing is missed. After
// a power cut there is a window: the last batch, when nothing behind it says that it was durable. Damage there cannot be
// told from a write that was torn.
func TestBitFlips(t *testing.T) {
	t.Run("orderly", func(t *testing.T) {
		t.Parallel()
		if v := forEveryOffset(t, true, flip); v["wal tail lost"] > 0 {
			t.Error("entries were lost without a word")
		}
	})
	t.Run("power cut", func(t *testing.T) {
		t.Parallel()
		forEveryOffset(t, false, flip)
	})
}

// TestCuts truncates every file at every offset. A log file that was cut is found by its size, so there is no window.
func TestCuts(t *testing.T) {
	for _, orderly := range []bool{true, false} {
		t.Run(fmt.Sprint("orderly ", orderly), func(t *testing.T) {
			t.Parallel()
			if v := forEveryOffset(t, orderly, cutAt); v["wal tail lost"] > 0 {
				t.Error("entries were lost without a word")
			}
		})
	}
}

// TestLostWritesThatLeaveNoGap: writes in the middle of the log never came to the disk, and what follows them fits to what is before them by
// its numbers. Only the chain of the group's records tells.
func TestLostWritesThatLeaveNoGap(t *testing.T) {
	mem := vfs.NewMem()
	s := mustOpen(t, mem, nil)
	g := mustGroup(t, s, 1)
	must(t, g.Append(entries(1, 1, 5, 1, 100)))
	name, begin := s.wal.walName(s.wal.current().number), s.wal.tail
	must(t, g.TruncateSuffix(4))
	must(t, g.Append(entries(1, 4, 5, 2, 100)))
	end := s.wal.tail
	must(t, g.Append(entries(1, 6, 6, 2, 100)))
	must(t, s.Close())
	data := mem.Bytes(name)
	clear(data[begin:end])
	mem.SetBytes(name, data)
	s = mustOpen(t, mem, nil)
	if g := mustGroup(t, s, 1); g.Damaged() == nil {
		t.Error("entries of a term that was over are taken for what was written in their place")
	}
	must(t, s.Close())
}

// TestMissingFiles removes each file, and opens the store twice: what was found the first time is found again.
func TestMissingFiles(t *testing.T) {
	for _, orderly := range []bool{true, false} {
		disk, promises := damageRun(t, orderly)
		for _, name := range disk.Files() {
			copied := disk.Clone()
			must(t, copied.Remove(name))
			first, err := damaged(t, copied, promises, false)
			if err != nil {
				t.Errorf("without %s: %v", name, err)
			}
			second, err := damaged(t, copied, promises, false)
			if err != nil || first != second {
				t.Errorf("without %s, second time %s after %s: %v", name, second, first, err)
			}
			t.Log(name, first)
			intact := disk.Clone()
			must(t, intact.Remove(name))
			if err := Dump(intact, "d", io.Discard, false); (err != nil) != (first != "intact") {
				t.Errorf("without %s, %s, the dump says %v", name, first, err)
			}
		}
	}
}

// TestOlderCurrent puts back each CURRENT that a run has had: what is in files above the one that it names was promised. And in the midst of
// the beginning of a file, which has a name and a header then, CURRENT is not older.
func TestOlderCurrent(t *testing.T) {
	const current = "d/wal/CURRENT"
	begun := 0
	r := newRecorded(t, 7, func(op vfs.Op, disk *vfs.Mem, promises map[uint32]*promise) {
		if op.Kind != "rename" || op.Name != current+".new" || len(promises) < 3 {
			return
		}
		left := map[uint32]*promise{}
		for id, p := range promises {
			left[id] = p.clone()
		}
		begun++
		if err := reopened(t, disk.Clone(), left); err != nil {
			t.Errorf("before %d files: %v", begun, err)
		}
	})
	olds := map[uint64][]byte{}
	for range 12 {
		r.work(3)
		data := r.mem.Bytes(current)
		number, err := parseNumberFile(data, currentMagic)
		must(t, err)
		olds[number] = data
	}
	for id := uint32(1); id <= 3; id++ {
		r.append(id, 2, 60)
	}
	must(t, r.s.Close())
	newest, err := parseNumberFile(r.mem.Bytes(current), currentMagic)
	must(t, err)
	delete(olds, newest)
	if len(olds) < 5 || begun < len(olds) || slices.Contains(r.mem.Files(), (&wal{dir: "d/wal"}).walName(slices.Min(slices.Collect(maps.Keys(olds))))) {
		t.Fatalf("CURRENT had %d older names, %d files were begun: this test shows little", len(olds), begun)
	}
	for number, data := range olds {
		disk := r.mem.Clone()
		disk.SetBytes(current, data)
		if err := Dump(disk.Clone(), "d", io.Discard, false); !errors.Is(err, ErrCorrupt) {
			t.Errorf("CURRENT names %x, not %x: the dump says %v", number, newest, err)
		}
		for life := range 2 { // CURRENT is right again in the second one
			if verdict, err := damaged(t, disk, r.promises, false); err != nil || verdict != "damaged" {
				t.Errorf("CURRENT names %x, not %x, life %d: %s, %v", number, newest, life, verdict, err)
			}
		}
		healed(t, disk)
	}
}

// healed discards the groups of a damaged store, and goes on with them through several files.
func healed(t *testing.T, disk *vfs.Mem) {
	s := mustOpen(t, disk, smallFiles)
	for id := uint32(1); id <= 3; id++ {
		if err := mustGroup(t, s, id).Damaged(); !errors.Is(err, ErrDamaged) {
			t.Errorf("group %d: %v", id, err)
		}
		must(t, mustGroup(t, s, id).Discard())
		for index := uint64(51); index <= 70; index++ {
			must(t, mustGroup(t, s, id).Append(entries(id, index, index, 9, 900)))
		}
	}
	must(t, s.Close())
	s = mustOpen(t, disk, smallFiles)
	for id := uint32(1); id <= 3; id++ {
		check(t, mustGroup(t, s, id), 51, 70, 900)
	}
	must(t, s.Close())
}

// TestDamageStays damages the log in its newest file, lets files be filled and retire, and finds the group damaged in each
// life until it is discarded.
func TestDamageStays(t *testing.T) {
	mem := vfs.NewMem()
	s := mustOpen(t, mem, smallFiles)
	must(t, mustGroup(t, s, 1).Append(entries(1, 1, 3, 1, 100)))
	must(t, mustGroup(t, s, 2).Append(entries(2, 1, 3, 1, 100)))
	must(t, s.Close())
	name := "d/wal/0000000000000001.wal"
	data := mem.Bytes(name)
	data[bytes.Index(data, bodyOf(1, 2, 100))] ^= 1
	mem.SetBytes(name, data)
	last := uint64(3)
	for life := range 4 {
		s = mustOpen(t, mem, smallFiles)
		if err := mustGroup(t, s, 1).Damaged(); !errors.Is(err, ErrDamaged) {
			t.Fatalf("life %d: group 1 is healthy with %d to %d", life, mustGroup(t, s, 1).FirstIndex(), mustGroup(t, s, 1).LastIndex())
		}
		g := mustGroup(t, s, 2)
		must(t, g.Damaged())
		for range 30 {
			must(t, g.Append(entries(2, last+1, last+1, 1, 1000)))
			last++
		}
		must(t, g.SaveCheckpoint(Checkpoint{Index: last}, func(io.Writer) error { return nil }, refs(nil)))
		must(t, s.Close())
	}
	if slices.Contains(mem.Files(), name) {
		t.Error("the damaged file is still there")
	}
	s = mustOpen(t, mem, smallFiles)
	must(t, mustGroup(t, s, 1).Discard())
	must(t, mustGroup(t, s, 1).Append(entries(1, 50, 51, 1, 100)))
	must(t, s.Close())
	s = mustOpen(t, mem, smallFiles)
	check(t, mustGroup(t, s, 1), 50, 51, 100)
	must(t, s.Close())
}
