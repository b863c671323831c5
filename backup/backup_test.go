package backup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"testing"
)

// note copies a record, which is valid until the next one.
func note(record any) any {
	switch r := record.(type) {
	case *Begin:
		return *r
	case Catalog:
		return Catalog(bytes.Clone(r))
	case *Shard:
		return *r
	case *Queue:
		return Queue{r.ID, bytes.Clone(r.Settings)}
	case *Message:
		m := *r
		m.Places = append([]Place(nil), r.Places...)
		return m
	case Piece:
		return Piece(bytes.Clone(r))
	case *ShardEnd:
		return *r
	case *End:
		return *r
	}
	return record
}

func readAll(data []byte) (records []any, err error) {
	r := NewReader(bytes.NewReader(data))
	for {
		record, err := r.Next()
		if errors.Is(err, io.EOF) {
			return records, nil
		}
		if err != nil {
			return records, err
		}
		records = append(records, note(record))
	}
}

// shard writes a shard with a large message and two small ones.
func shard(t *testing.T, w *Writer, id uint32, large int) {
	t.Helper()
	places := []Place{{Queue: 7, Priority: 3, Failed: 2, Acquired: 9, Expiry: 1 << 40}, {Queue: 8, Out: true}}
	for _, err := range []error{
		w.Shard(&Shard{ID: id, Index: 77, TimeMillis: 1_700_000_000_000}),
		w.Queue(&Queue{ID: 7, Settings: []byte("settings of 7")}), w.Queue(&Queue{ID: 8}),
		w.Message(&Message{Persistent: true, Size: uint64(large), Places: places}), w.Piece(bytes.Repeat([]byte{5}, large)),
		w.Message(&Message{Size: 5, Places: places[1:]}), w.Piece([]byte("he")), w.Piece([]byte("llo")),
		w.Message(&Message{Places: places[:1]}),
		w.ShardEnd(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func written(t *testing.T, large int) []byte {
	t.Helper()
	var b bytes.Buffer
	w := NewWriter(&b)
	for _, err := range []error{w.Begin(&Begin{TakenAtMillis: 5, Shards: 2, ClusterID: "c-1", Version: "v1"}), w.Catalog(Catalog("a vhost")), w.Catalog(Catalog("a queue"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	shard(t, w, 0, large)
	shard(t, w, 1, large)
	if _, err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestRoundTrip(t *testing.T) {
	for _, large := range []int{1, MaxPiece + 1, 3 * maxChunk} {
		data := written(t, large)
		records, err := readAll(data)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(records[:3], []any{Begin{5, 2, "c-1", "v1"}, Catalog("a vhost"), Catalog("a queue")}) {
			t.Errorf("it begins with %+v", records[:3])
		}
		octets := 0
		for _, r := range records {
			if p, ok := r.(Piece); ok {
				octets += len(p)
			}
		}
		of := Counts{Queues: 4, Messages: 6, Places: 8, Octets: uint64(2 * (large + 5))}
		if last := records[len(records)-1]; last != (End{Shards: 2, Catalog: 2, Counts: of}) || octets != 2*(large+5) {
			t.Errorf("%d octets, it ends with %+v", octets, last)
		}
		begin, end, err := Verify(bytes.NewReader(data))
		if err != nil || begin.Shards != 2 || end.Messages != 6 {
			t.Errorf("%+v, %+v, %v", begin, end, err)
		}
	}
}

// TestDamage turns every bit of every octet, and all of them, takes and doubles every octet, and cuts the file off at every one: all is found,
// and what is read before is what was written.
func TestDamage(t *testing.T) {
	data := written(t, 100)
	whole, err := readAll(data)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, damaged []byte) {
		t.Helper()
		records, err := readAll(damaged)
		if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrFormat) {
			t.Fatalf("%s: %v", what, err)
		}
		if len(records) >= len(whole) || !reflect.DeepEqual(records, whole[:len(records)]) && len(records) > 0 {
			t.Fatalf("%s: other records came before it was found", what)
		}
		if _, _, err := Verify(bytes.NewReader(damaged)); err == nil {
			t.Fatalf("%s: verified", what)
		}
	}
	for i := range data {
		for _, mask := range []byte{1, 2, 4, 8, 16, 32, 64, 128, 255} {
			flipped := bytes.Clone(data)
			flipped[i] ^= mask
			check(fmt.Sprintf("octet %d with %#x", i, mask), flipped)
		}
		check(fmt.Sprintf("cut off at %d", i), data[:i])
		check(fmt.Sprintf("without octet %d", i), append(bytes.Clone(data[:i]), data[i+1:]...))
		check(fmt.Sprintf("octet %d twice", i), append(append(bytes.Clone(data[:i]), data[i]), data[i:]...))
	}
	check("with an octet behind it", append(bytes.Clone(data), 0))
	check("twice", append(bytes.Clone(data), data...))
}

// TestChunksBelongTogether exchanges, takes and repeats whole chunks, each of which is right by itself.
func TestChunksBelongTogether(t *testing.T) {
	data := written(t, 3*maxChunk)
	var chunks [][]byte
	for at := headerSize + 4; at < len(data); {
		n := 8 + int(le.Uint32(data[at:]))
		chunks = append(chunks, data[at:at+n])
		at += n
	}
	if len(chunks) < 5 {
		t.Fatalf("%d chunks", len(chunks))
	}
	join := func(list ...[]byte) []byte { return append(bytes.Clone(data[:headerSize+4]), bytes.Join(list, nil)...) }
	for what, other := range map[string][]byte{
		"exchanged": join(append([][]byte{chunks[1], chunks[0]}, chunks[2:]...)...),
		"missing":   join(chunks[1:]...),
		"repeated":  join(append([][]byte{chunks[0]}, chunks...)...),
		"no end":    join(chunks[:len(chunks)-1]...),
	} {
		if _, err := readAll(other); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestReturn takes half a shard back and writes it again.
func TestReturn(t *testing.T) {
	want := written(t, 100)
	var b bytes.Buffer
	w := NewWriter(&b)
	_ = w.Begin(&Begin{TakenAtMillis: 5, Shards: 2, ClusterID: "c-1", Version: "v1"})
	_ = w.Catalog(Catalog("a vhost"))
	_ = w.Catalog(Catalog("a queue"))
	shard(t, w, 0, 100)
	at, err := w.Flush()
	if err != nil || at.Written != int64(b.Len()) || at.Total().Messages != 3 {
		t.Fatalf("%+v, %v", at, err)
	}
	shard(t, w, 1, 3*maxChunk)
	if _, err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	b.Truncate(int(at.Written))
	w.Return(at)
	shard(t, w, 1, 100)
	end, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	got, err := readAll(b.Bytes())
	wanted, _ := readAll(want)
	if err != nil || !reflect.DeepEqual(got, wanted) || end.Messages != 6 {
		t.Errorf("%v, %+v", err, end)
	}
}

// TestParts reads the catalog alone and a shard alone, which are no whole backups.
func TestParts(t *testing.T) {
	for what, fill := range map[string]func(w *Writer){
		"catalog": func(w *Writer) { _ = w.Catalog(Catalog("x")) },
		"shard":   func(w *Writer) { shard(t, w, 1, 10) },
	} {
		var b bytes.Buffer
		w := NewWriter(&b)
		_ = w.Begin(&Begin{Shards: 2})
		fill(w)
		if _, err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := readAll(b.Bytes()); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if _, _, err := Verify(&b); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s alone counts as a backup: %v", what, err)
		}
	}
}

// TestAppend makes a backup of parts, of which one is cut off and comes again.
func TestAppend(t *testing.T) {
	part := func(fill func(w *Writer)) []byte {
		var b bytes.Buffer
		w := NewWriter(&b)
		_ = w.Begin(&Begin{TakenAtMillis: 5, Shards: 2, ClusterID: "c-1", Version: "v1"})
		fill(w)
		if _, err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	catalog := part(func(w *Writer) { _ = w.Catalog(Catalog("a vhost")); _ = w.Catalog(Catalog("a queue")) })
	first := part(func(w *Writer) { shard(t, w, 0, 100) })
	second := part(func(w *Writer) { shard(t, w, 1, 100) })
	var b bytes.Buffer
	w := NewWriter(&b)
	var told Counts
	for _, data := range [][]byte{catalog, first} {
		if err := w.Append(bytes.NewReader(data), func(c Counts) { told = c }); err != nil {
			t.Fatal(err)
		}
	}
	if told != (Counts{Queues: 2, Messages: 3, Places: 4, Octets: 105}) {
		t.Errorf("told %+v", told)
	}
	at, err := w.Flush()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Append(bytes.NewReader(second[:len(second)-1]), nil); !errors.Is(err, ErrDamaged) {
		t.Errorf("a part that is cut off: %v", err)
	}
	b.Truncate(int(at.Written))
	w.Return(at)
	if err := w.Append(bytes.NewReader(second), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := readAll(b.Bytes())
	wanted, _ := readAll(written(t, 100))
	if err != nil || !reflect.DeepEqual(got, wanted) {
		t.Errorf("%v:\n%+v\nwanted\n%+v", err, got, wanted)
	}
}

// TestOtherVersions tells files of another kind or version from damaged ones.
func TestOtherVersions(t *testing.T) {
	later := append([]byte(magic), version+1, 0, 0, 0)
	later = le.AppendUint32(later, chain(0, later))
	for what, data := range map[string][]byte{"no backup": []byte("PK\x03\x04 and so on and so forth"), "a later version": later} {
		if _, err := readAll(data); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestFailedWrite: the error stays, and Return takes it back.
func TestFailedWrite(t *testing.T) {
	full := errors.New("no space")
	w := NewWriter(failing{full})
	if err := w.Begin(&Begin{}); !errors.Is(err, full) {
		t.Errorf("%v", err)
	}
	if _, err := w.Close(); !errors.Is(err, full) {
		t.Errorf("%v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
