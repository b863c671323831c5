package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/warrenmq/warren/storage/vfs"
)

// These targets put the checksums of what they make up right, so that what lies behind a checksum meets anything too: a
// decoder answers with what was encoded, or with an error.

// seal puts the checksum of b[from:to] at b[at:], if that lies in b.
func seal(b []byte, seed uint32, at, from, to int) {
	if from >= 0 && from <= to && to <= len(b) && at >= 0 && at+4 <= len(b) {
		binary.LittleEndian.PutUint32(b[at:], checksum(seed, b[from:to]))
	}
}

// fileOf is a file with a content.
func fileOf(t testing.TB, content []byte) vfs.File {
	t.Helper()
	f, err := vfs.NewMem().Create("f")
	must(t, err)
	_, err = f.WriteAt(content, 0)
	must(t, err)
	return f
}

func FuzzSealedNumberFile(f *testing.F) {
	b := append([]byte(currentMagic), 1, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, 7)
	f.Add(binary.LittleEndian.AppendUint32(b, checksum(0, b)))
	f.Fuzz(func(t *testing.T, b []byte) {
		seal(b, 0, 20, 0, 20)
		if n, err := parseNumberFile(b, currentMagic); err == nil && n != binary.LittleEndian.Uint64(b[12:]) {
			t.Fatalf("%d from %x", n, b)
		}
	})
}

func FuzzSealedWALHeader(f *testing.F) {
	marks := map[uint32]watermark{1: {2, 3, 4}, 9: {5, poisoned, 0}}
	f.Add(appendWALHeader(nil, 1, 1, 1<<20, []uint32{1, 9}, marks))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= walHeaderSize {
			seal(b, 0, walHeaderSize-4, 0, walHeaderSize-4)
			end := walHeaderSize + int(binary.LittleEndian.Uint32(b[12:]))%(len(b)+1)*watermarkSize
			seal(b, 0, end, walHeaderSize, end)
		}
		s := &Store{id: 1, fs: vfs.NewMem(), groups: map[uint32]*Group{}}
		s.o.setDefaults()
		s.log = s.o.Logger
		r := &recovery{s: s, suspects: map[uint32]string{}, needs: map[uint32]uint64{}, missing: map[uint32]string{}}
		wf := &walFile{number: 1, f: fileOf(t, b), size: int64(len(b))}
		if err := r.header(wf, true); err == nil && wf.begin > int64(padded(len(b))) {
			t.Fatalf("a header of %d octets ends at %d", len(b), wf.begin)
		}
	})
}

func FuzzSealedBatch(f *testing.F) {
	seed := seedOf(1, 1)
	r := record{kind: kindEntry, group: 1, index: 5, term: 2, data: []byte("data"), exts: []byte("x")}
	records := r.append(nil, seed)
	h := batchHeader{length: uint32(len(records)), durable: 64, groups: []uint32{1}}
	b := make([]byte, h.size())
	h.put(b, seed)
	f.Add(append(b, records...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= batchHeaderSize {
			size := padded(batchHeaderSize + 4*int(binary.LittleEndian.Uint16(b[16:])))
			if size <= len(b) {
				binary.LittleEndian.PutUint32(b[20:], checksum(seed, b[:20], b[batchHeaderSize:size]))
			}
		}
		h, ok := parseBatch(b, seed)
		if !ok {
			return
		}
		again := make([]byte, h.size())
		h.put(again, seed)
		if back, ok := parseBatch(again, seed); !ok || back.length != h.length || back.durable != h.durable || len(back.groups) != len(h.groups) {
			t.Fatalf("%+v became %+v", h, back)
		}
	})
}

func FuzzSealedRecords(f *testing.F) {
	r := record{kind: kindEntry, group: 1, index: 5, term: 2, data: []byte("data"), exts: []byte("x")}
	seed := seedOf(1, 1)
	b := r.append(nil, seed)
	r = record{kind: kindTruncate, group: 1, index: 4, prev: r.crc}
	f.Add(r.append(b, seed))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= recordSize {
			first := parseRecord(b)
			if end := recordSize + int(first.dataLen) + int(first.extLen); end <= len(b) {
				binary.LittleEndian.PutUint32(b[recordSize-4:], checksum(seed, b[:recordSize-4], b[recordSize:end]))
			}
		}
		all, ok := splitRecords(b, seed)
		if !ok {
			return
		}
		total := 0
		for i := range all {
			again := all[i].append(nil, seed)
			if back := parseRecord(again); !back.valid(again, seed) || !bytes.Equal(back.data, all[i].data) || back.index != all[i].index {
				t.Fatalf("%+v became %+v", all[i], back)
			}
			total += len(again)
		}
		if total != len(b) {
			t.Fatalf("%d octets of %d", total, len(b))
		}
		if rec, err := readRecord(fileOf(t, b), seed, 0); len(all) > 0 && (err != nil || !bytes.Equal(rec.data, all[0].data)) {
			t.Fatalf("read from a file: %v", err)
		}
	})
}

// FuzzSealedLogFile opens a store whose log file is anything behind its header: what it then gives for an entry is what was
// appended, or an error.
func FuzzSealedLogFile(f *testing.F) {
	mem := vfs.NewMem()
	small := func(o *Options) { o.WALFileSize = 2 << 10 }
	s := mustOpen(f, mem, small)
	must(f, mustGroup(f, s, 1).Append(entries(1, 1, 3, 1, 50)))
	must(f, mustGroup(f, s, 1).Append(entries(1, 4, 5, 1, 80)))
	begin := s.wal.files[0].begin
	must(f, s.Close())
	const name = "d/wal/0000000000000001.wal"
	whole := mem.Bytes(name)
	f.Add(whole[begin:1200], uint16(0))
	f.Fuzz(func(t *testing.T, b []byte, at uint16) {
		disk := mem.Clone()
		content := bytes.Clone(whole)
		copy(content[min(int(begin)+int(at), len(content)):], b)
		disk.SetBytes(name, content)
		s := mustOpen(t, disk, small)
		g := mustGroup(t, s, 1)
		for i := uint64(1); i <= g.LastIndex() && g.Damaged() == nil; i++ {
			e, err := g.Entry(i)
			want := entries(1, i, i, 1, map[bool]int{true: 50, false: 80}[i <= 3])[0]
			if err == nil && !same(e, want) {
				t.Fatalf("entry %d is %+v", i, e)
			}
		}
		must(t, s.Close())
	})
}

func FuzzSealedSegment(f *testing.F) {
	mem := vfs.NewMem()
	must(f, mem.MkdirAll("d"))
	w := &segmentWriter{g: &Group{s: &Store{id: 1, fs: mem, o: Options{SegmentSize: 1 << 20}}, id: 1, dir: "d"}, next: 1}
	must(f, w.add(4, []bodyPart{{offset: 0, size: 3}, {offset: 9, size: 2}}, []byte("abcde")))
	must(f, w.add(6, []bodyPart{{offset: 1, size: 1}}, []byte("z")))
	must(f, w.finish())
	name := w.done[0].name
	f.Add(mem.Bytes(name))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := len(b) - segmentTrailer; n >= segmentHeader {
			copy(b, appendSegmentHeader(nil, segmentMagic, 1, 1, 1))
			at := binary.LittleEndian.Uint64(b[n:])
			if at <= uint64(n) {
				seal(b, 0, n+12, int(at), n)
			}
		}
		disk := vfs.NewMem()
		must(t, disk.MkdirAll("d"))
		file, err := disk.Create(name)
		must(t, err)
		_, err = file.WriteAt(b, 0)
		must(t, err)
		seg, err := openSegment(disk, name, 1, 1, 1)
		if err != nil {
			return
		}
		for _, it := range seg.items {
			if end := int(it.at)*align + int(it.size); it.size >= segmentRecord {
				seal(b, 0, int(it.at)*align, int(it.at)*align+4, end)
			}
		}
		_, err = file.WriteAt(b, 0)
		must(t, err)
		for _, it := range seg.items {
			if p, err := seg.read(it, 1); err == nil {
				readParts(t, p)
			}
		}
	})
}

// FuzzSealedKeptLog is about segments whose records are in a log file.
func FuzzSealedKeptLog(f *testing.F) {
	rec := record{kind: kindEntry, group: 1, index: 4, term: 1, data: []byte("abcde")}
	log := make([]byte, 64)
	log = rec.append(log, seedOf(1, 7))
	b := appendSegmentHeader(nil, keptMagic, 1, 1, 1)
	b = (&keptLog{number: 7, alive: 5, size: int64(len(log))}).append(b)
	f.Add(appendSegmentIndex(b, int64(len(b)), []segmentItem{{index: 4, at: 64 / align}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := len(b) - segmentTrailer; n >= segmentHeader+keptRef {
			copy(b, appendSegmentHeader(nil, keptMagic, 1, 1, 1))
			seal(b, 0, segmentHeader+24, segmentHeader, segmentHeader+24)
			if at := binary.LittleEndian.Uint64(b[n:]); at <= uint64(n) {
				seal(b, 0, n+12, int(at), n)
			}
		}
		disk := vfs.NewMem()
		must(t, disk.MkdirAll("d"))
		for name, content := range map[string][]byte{"d/0000000000000001.seg": b, "d/0000000000000007.wal": log} {
			file, err := disk.Create(name)
			must(t, err)
			_, err = file.WriteAt(content, 0)
			must(t, err)
		}
		seg, err := openSegment(disk, "d/0000000000000001.seg", 1, 1, 1)
		if err != nil || seg.log == nil {
			return
		}
		for _, it := range seg.items {
			if p, err := seg.read(it, 1); err == nil && (it.index != 4 || string(p.entry.Data) != "abcde") {
				t.Fatalf("entry %d is %q", it.index, p.entry.Data)
			}
		}
	})
}

// readParts reads every part of a piece as ReadBody does.
func readParts(t *testing.T, p *piece) {
	t.Helper()
	for _, part := range p.parts {
		if body, ok := p.body(part.offset, part.size); ok && len(body) != int(part.size) {
			t.Fatalf("%d octets of a part of %d", len(body), part.size)
		}
	}
}

func FuzzSealedSegmentRecord(f *testing.F) {
	f.Add(appendSegmentRecord(nil, 4, []bodyPart{{offset: 0, size: 3}, {offset: 9, size: 2}}, []byte("abcde")))
	// Sizes whose sum is right in 32 bits only.
	wrong := appendSegmentRecord(nil, 4, []bodyPart{{offset: 0, size: 1 << 31}, {offset: 9, size: 1<<31 + 5}}, []byte("abcde"))
	f.Add(wrong)
	f.Fuzz(func(t *testing.T, b []byte) {
		seal(b, 0, 0, min(4, len(b)), len(b))
		if _, p, err := parseSegmentRecord(b); err == nil {
			readParts(t, p)
		}
	})
}

func FuzzSealedCheckpoint(f *testing.F) {
	c := &checkpointFile{Checkpoint: Checkpoint{Index: 5, Term: 2, Extra: []byte("extra")}, floor: 3, segments: []uint64{1, 7}}
	file := fileOf(f, nil)
	w := &blockWriter{out: paced{f: file}, buf: c.appendHeader(nil, 1, 1)}
	_, err := w.Write(bytes.Repeat([]byte("state"), 100))
	must(f, errors.Join(err, w.finish()))
	whole := make([]byte, w.out.at)
	must(f, readFull(file, whole, 0))
	f.Add(whole)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= checkpointFixed {
			if length := int(binary.LittleEndian.Uint32(b[12:])); length >= 4 && length <= len(b) {
				seal(b, 0, length-4, 0, length-4)
			}
		}
		file := fileOf(t, b)
		c, err := readCheckpoint(file, 1, 1)
		if err != nil {
			return
		}
		if again := c.appendHeader(nil, 1, 1); !bytes.Equal(again, b[:c.bodyAt]) {
			t.Fatalf("%x became %x", b[:c.bodyAt], again)
		}
		if n, err := io.Copy(io.Discard, &blockReader{f: file, at: c.bodyAt}); err == nil && n > int64(len(b)) {
			t.Fatalf("%d octets of state out of %d", n, len(b))
		}
	})
}

// FuzzSealedSnapshotStream installs anything: either it is refused and the group is as it was, or what it refers to can be read.
func FuzzSealedSnapshotStream(f *testing.F) {
	s := mustOpen(f, vfs.NewMem(), nil)
	g := mustGroup(f, s, 1)
	must(f, g.Append(entries(1, 1, 9, 1, 40)))
	live := refs(map[uint64][]bodyPart{2: {{offset: 0, size: 10}}, 7: {{offset: 3, size: 4}, {offset: 8, size: 30}}})
	_, stream, err := g.OpenSnapshot(Checkpoint{Index: 9, Term: 1, Extra: []byte("e")}, []byte("state"), live)
	must(f, err)
	wire, err := io.ReadAll(stream)
	must(f, errors.Join(err, stream.Close(), s.Close()))
	f.Add(wire, uint8(0))
	f.Add(wire, uint8(1))
	f.Fuzz(func(t *testing.T, b []byte, fix uint8) {
		if fix&1 != 0 {
			sealStream(b)
		}
		s := mustOpen(t, vfs.NewMem(), nil)
		g := mustGroup(t, s, 1)
		must(t, g.Append(entries(1, 1, 3, 1, 40)))
		in, err := g.Install()
		must(t, err)
		_, err = in.Write(b)
		must(t, err)
		if _, err := in.Commit(); err != nil {
			check(t, g, 1, 3, 40)
		} else if _, r, err := g.OpenCheckpoint(); err != nil {
			t.Fatal(err)
		} else if _, err := io.Copy(io.Discard, r); err != nil {
			t.Fatal(err)
		}
		dir := s.fs
		must(t, s.Close())
		s = mustOpen(t, dir, nil)
		if err := mustGroup(t, s, 1).Damaged(); err != nil {
			t.Fatalf("damaged by a stream: %v", err)
		}
		must(t, s.Close())
	})
}

// sealStream puts the checksums of a stream right, as far as its lengths lead.
func sealStream(b []byte) {
	if len(b) < snapshotFixed {
		return
	}
	le := binary.LittleEndian
	limit := uint64(len(b))
	at := snapshotFixed + int(min(uint64(le.Uint32(b[12:])), limit))
	seal(b, 0, at, 0, at)
	state := at + 4
	at = state + int(min(le.Uint64(b[32:]), limit))
	seal(b, 0, at, state, at)
	for at += 4; at+4 <= len(b); {
		n := int(min(uint64(le.Uint32(b[at:])), limit))
		at += 4
		seal(b, 0, at, at+4, at+n)
		at += n
	}
}
