package storage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/warrenmq/warren/storage/vfs"
)

func mustOpen(t testing.TB, fs vfs.FS, change func(*Options)) *Store {
	t.Helper()
	o := Options{Dir: "d", FS: fs, WALFileSize: 1 << 20, KeepFiles: 1, OnFatal: func(err error) { t.Errorf("fatal: %v", err) }}
	if change != nil {
		change(&o)
	}
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustGroup(t testing.TB, s *Store, id uint32) *Group {
	t.Helper()
	g, err := s.Group(id)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// bodyOf makes the data of an entry from its index.
func bodyOf(group uint32, index uint64, size int) []byte {
	return bytes.Repeat([]byte(fmt.Sprintf("%d/%d;", group, index)), size/4+1)[:size]
}

func entries(group uint32, from, to, term uint64, size int) []Entry {
	var list []Entry
	for i := from; i <= to; i++ {
		list = append(list, Entry{Index: i, Term: term, Type: 1, AppendedAt: int64(i), Data: bodyOf(group, i, size), Extensions: []byte("x")})
	}
	return list
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func check(t testing.TB, g *Group, from, to uint64, size int) {
	t.Helper()
	if g.FirstIndex() != from || g.LastIndex() != to {
		t.Fatalf("group %d has %d to %d, want %d to %d (%v)", g.id, g.FirstIndex(), g.LastIndex(), from, to, g.Damaged())
	}
	for i := from; i <= to; i++ {
		e, err := g.Entry(i)
		if err != nil || e.Index != i || !bytes.Equal(e.Data, bodyOf(g.id, i, size)) || string(e.Extensions) != "x" {
			t.Fatalf("entry %d of group %d: %v", i, g.id, err)
		}
	}
}

func TestAppendAndReopen(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, nil)
	for id := range uint32(3) {
		must(t, mustGroup(t, s, id).Append(entries(id, 1, 20, 1, 100)))
		must(t, mustGroup(t, s, id).Append(entries(id, 21, 30, 2, 100)))
	}
	must(t, mustGroup(t, s, 1).TruncateSuffix(26))
	must(t, mustGroup(t, s, 1).Append(entries(1, 26, 27, 3, 100)))
	for range 3 {
		check(t, mustGroup(t, s, 0), 1, 30, 100)
		check(t, mustGroup(t, s, 1), 1, 27, 100)
		must(t, s.Close())
		s = mustOpen(t, fs, nil)
	}
	must(t, s.Close())
	var out bytes.Buffer
	if err := Dump(fs, "d", &out, false); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
}

// TestMaxEntry: what MaxEntry says is taken, and no more.
func TestMaxEntry(t *testing.T) {
	s := mustOpen(t, vfs.NewMem(), nil)
	defer s.Close()
	g := mustGroup(t, s, 1)
	most := make([]byte, s.MaxEntry())
	must(t, g.Append([]Entry{{Index: 1, Term: 1, Type: 1, Data: most}}))
	if g.Append([]Entry{{Index: 2, Term: 1, Type: 1, Data: append(most, 0)}}) == nil {
		t.Error("a larger one is taken")
	}
}

// TestRetire fills many files, keeps every tenth entry alive, and finds the bodies in segments.
func TestRetire(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, nil)
	g, idle := mustGroup(t, s, 1), mustGroup(t, s, 2)
	must(t, idle.Append(entries(2, 1, 1, 1, 50)))
	const size = 10_000
	live := func(min, max uint64, yield func(uint64, uint32, uint32) bool) {
		for i := min; i <= max; i++ {
			if i%10 == 0 && i > 0 && (!yield(i, 0, 8) || !yield(i, 100, 500)) {
				return
			}
		}
	}
	state := func(w io.Writer) error { _, err := w.Write(bytes.Repeat([]byte("state"), 50_000)); return err }
	last := uint64(0)
	for range 60 {
		must(t, g.Append(entries(1, last+1, last+10, 1, size)))
		last += 10
		select {
		case groups := <-s.NeedsCheckpoint():
			for _, id := range groups {
				h := mustGroup(t, s, id)
				refs := live
				if id == 2 {
					refs = func(_, _ uint64, yield func(uint64, uint32, uint32) bool) { yield(1, 5, 10) }
				}
				before, _ := h.LatestCheckpoint() // the log may hold nothing any more
				must(t, h.SaveCheckpoint(Checkpoint{Index: max(h.LastIndex(), before.Index), Term: 1, Extra: []byte("extra")}, state, refs))
			}
		default:
		}
	}
	verify := func() {
		t.Helper()
		for i := uint64(10); i <= last; i += 10 {
			for _, r := range []bodyPart{{offset: 0, size: 8}, {offset: 100, size: 500}} {
				body, err := g.ReadBody(i, r.offset, r.size)
				if err != nil || !bytes.Equal(body, bodyOf(1, i, size)[r.offset:r.offset+r.size]) {
					t.Fatalf("body of %d: %v", i, err)
				}
			}
		}
		if body, err := idle.ReadBody(1, 5, 10); err != nil || !bytes.Equal(body, bodyOf(2, 1, 50)[5:15]) {
			t.Fatalf("body of the idle group: %v", err)
		}
	}
	verify()
	if n := len(s.wal.files); n > 3 {
		t.Fatalf("%d log files are left", n)
	}
	must(t, s.Close())
	s = mustOpen(t, fs, func(o *Options) { o.CacheBytes = 1 })
	g, idle = mustGroup(t, s, 1), mustGroup(t, s, 2)
	verify()
	c, r, err := g.OpenCheckpoint()
	must(t, err)
	data, err := io.ReadAll(r)
	must(t, err)
	if string(c.Extra) != "extra" || len(data) != 250_000 {
		t.Fatalf("%+v, %d octets", c, len(data))
	}
	must(t, r.Close())

	// To another node and back.
	c.Index = g.LastIndex()
	size2, stream, err := g.OpenSnapshot(c, []byte("the state"), live)
	must(t, err)
	wire, err := io.ReadAll(stream)
	must(t, err)
	must(t, stream.Close())
	if int64(len(wire)) != size2 {
		t.Fatalf("%d octets, announced %d", len(wire), size2)
	}
	other := mustOpen(t, vfs.NewMem(), nil)
	h := mustGroup(t, other, 1)
	must(t, h.Append(entries(1, 1, 5, 1, 100)))
	in, err := h.Install()
	must(t, err)
	_, err = in.Write(wire)
	must(t, err)
	got, err := in.Commit()
	must(t, err)
	if got.Index != c.Index || h.LastIndex() != 0 {
		t.Fatalf("%+v, log to %d", got, h.LastIndex())
	}
	must(t, h.Append(entries(1, c.Index+1, c.Index+3, 2, 100)))
	for i := uint64(10); i <= last; i += 10 {
		if body, err := h.ReadBody(i, 100, 500); err != nil || !bytes.Equal(body, bodyOf(1, i, size)[100:600]) {
			t.Fatalf("body of %d after the install: %v", i, err)
		}
	}
	must(t, other.Close())
	must(t, s.Close())
	var out bytes.Buffer
	if err := Dump(fs, "d", &out, true); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
}

// TestAnEmptyLogGoesOnBehindItsCheckpoint: entries that do not follow the checkpoint of an empty log would leave a gap, or stand for what the
// checkpoint has.
func TestAnEmptyLogGoesOnBehindItsCheckpoint(t *testing.T) {
	from := mustOpen(t, vfs.NewMem(), nil)
	defer from.Close()
	source := mustGroup(t, from, 1)
	must(t, source.Append(entries(1, 1, 20, 1, 10)))
	_, r, err := source.OpenSnapshot(Checkpoint{Index: 20, Term: 1}, nil, nothing)
	must(t, err)
	stream, err := io.ReadAll(r)
	must(t, errors.Join(err, r.Close()))

	s := mustOpen(t, vfs.NewMem(), nil)
	defer s.Close()
	g := mustGroup(t, s, 1)
	must(t, g.Append(entries(1, 1, 5, 1, 10)))
	i, err := g.Install()
	must(t, err)
	_, err = i.Write(stream)
	must(t, err)
	_, err = i.Commit()
	must(t, err)
	for _, first := range []uint64{1, 6, 20, 22} {
		if err := g.Append(entries(1, first, first+6, 1, 10)); err == nil {
			t.Errorf("entries from %d were taken behind a checkpoint at 20", first)
		}
		if g.AppendEarly(entries(1, first, first+6, 1, 10)) {
			t.Errorf("entries from %d were taken early behind a checkpoint at 20", first)
		}
	}
	if first, last := g.FirstIndex(), g.LastIndex(); first != 0 || last != 0 {
		t.Errorf("the log is %d to %d", first, last)
	}
	must(t, g.Append(entries(1, 21, 27, 1, 10)))
}
