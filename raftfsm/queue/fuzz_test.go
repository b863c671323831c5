package queue

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// FuzzCommands lets the fuzzer choose the commands of TestRandomCommands.
func FuzzCommands(f *testing.F) { f.Fuzz(rapid.MakeFuzz(runTrial)) }

// someEntries returns entries and the state after them, in which there is something of everything.
func someEntries(n int) (entries [][]byte, s *State) {
	rapid.Custom(func(t *rapid.T) int {
		tr := newTrial(t)
		for range 30 {
			tr.entry()
			entries = append(entries, tr.log[tr.index])
		}
		s = tr.plain
		return 0
	}).Example(n)
	return entries, s
}

// allocated tells how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// What arbitrary bytes may cost: so many bytes for each of them, beside what is the same for all.
const (
	allocatedPerByte = 200
	allocatedAnyway  = 1 << 20
)

func demandFrugal(t *testing.T, input int, bytes uint64) {
	t.Helper()
	if bytes > allocatedAnyway+allocatedPerByte*uint64(input) {
		t.Fatalf("%d bytes allocated for %d", bytes, input)
	}
}

// FuzzApply applies arbitrary entries to a state that has something of everything. Whatever cannot be applied leaves no
// trace; what can, does the same everywhere.
func FuzzApply(f *testing.F) {
	entries, s := someEntries(1)
	for _, entry := range entries {
		f.Add(entry)
	}
	index, _ := s.Applied()
	base := snapshotBytes(f, s)
	f.Fuzz(func(t *testing.T, entry []byte) {
		var out [2]Effects
		var replicas [2]*State
		for i := range replicas {
			var err error
			if replicas[i], err = Restore(bytes.NewReader(base)); err != nil {
				t.Fatal(err)
			}
		}
		s := replicas[0]
		var err error
		demandFrugal(t, len(entry), allocated(func() { err = s.Apply(index+1, entry, &out[0]) }))
		if checked := Check(entry); (checked == nil) != (err == nil || errors.Is(err, ErrDiverged)) {
			t.Fatalf("Check: %v, Apply: %v", checked, err)
		}
		if err != nil {
			if !bytes.Equal(snapshotBytes(t, s), base) || !reflect.DeepEqual(out[0], Effects{}) {
				t.Fatalf("an entry that was refused left something: %v", err)
			}
			return
		}
		if err := replicas[1].Apply(index+1, entry, &out[1]); err != nil || !reflect.DeepEqual(out[0], out[1]) {
			t.Fatalf("a second replica gives %v, %+v; the first gave %+v", err, out[1], out[0])
		}
		checkState(t, s)
		throughSnapshot(t, s)
	})
}

// FuzzRestore restores arbitrary bytes. What can be restored writes the same bytes again, and works.
func FuzzRestore(f *testing.F) {
	entries, s := someEntries(1)
	f.Add(snapshotBytes(f, s))
	f.Add(snapshotBytes(f, New()))
	for n := 2; n < 8; n++ {
		_, s := someEntries(n)
		f.Add(snapshotBytes(f, s))
	}
	f.Fuzz(func(t *testing.T, data []byte) { restoreAnything(t, data, entries) })
}

// TestRestoreDamaged damages each byte of a snapshot.
func TestRestoreDamaged(t *testing.T) {
	entries, s := someEntries(1)
	data := snapshotBytes(t, s)
	for i := range data {
		damaged := bytes.Clone(data)
		damaged[i] ^= []byte{1, 0x80, 0xff}[i%3]
		restoreAnything(t, damaged, entries)
	}
}

func restoreAnything(t *testing.T, data []byte, entries [][]byte) {
	var s *State
	var err error
	demandFrugal(t, len(data), allocated(func() { s, err = Restore(bytes.NewReader(data)) }))
	if repaired := withDigest(data, err); repaired != nil {
		data = repaired
		s, err = Restore(bytes.NewReader(data))
	}
	if err != nil {
		if !errors.Is(err, ErrSnapshot) && !errors.Is(err, ErrVersion) {
			t.Fatalf("restore: %v", err)
		}
		return
	}
	if again := snapshotBytes(t, s); !bytes.HasPrefix(data, again) {
		t.Fatalf("restored from %x, written as %x", data, again)
	}
	for _, entry := range entries {
		var out Effects
		index, _ := s.Applied()
		if err := s.Apply(index+1, entry, &out); err != nil && !errors.Is(err, ErrDiverged) && !errors.Is(err, ErrOrder) {
			t.Fatal(err)
		}
	}
}

// withDigest returns a snapshot whose only fault is a wrong digest with the right one, which no fuzzer finds. The digest
// is taken to be at the very end.
func withDigest(data []byte, err error) []byte {
	if err == nil || len(data) < 8 {
		return nil
	}
	var digest uint64
	_, text, ok := strings.Cut(err.Error(), "digest ")
	if n, _ := fmt.Sscanf(text, "%v,", &digest); !ok || n != 1 {
		return nil
	}
	return binary.LittleEndian.AppendUint64(bytes.Clone(data[:len(data)-8]), digest)
}

// FuzzCheckBatch compares what is said of a batch with what is said of an entry that holds it.
func FuzzCheckBatch(f *testing.F) {
	entries, _ := someEntries(3)
	for _, entry := range entries {
		h := decodeBatch(entry[EntryHeaderSize:])
		at := EntryHeaderSize + BatchHeaderSize
		f.Add(uint64(h.session), h.commands, entry[at:at+int(h.size)])
	}
	f.Fuzz(func(t *testing.T, session uint64, commands uint32, data []byte) {
		b := &Batch{Data: data, Commands: commands}
		err := CheckBatch(SessionID(session), b)
		entry := AppendBatch(AppendEntryHeader(nil, 0, 1), SessionID(session), 1, 0, b)
		if whole := Check(entry); (whole == nil) != (err == nil) {
			t.Fatalf("CheckBatch: %v, Check: %v", err, whole)
		}
	})
}

// FuzzSettings checks that settings have one form.
func FuzzSettings(f *testing.F) {
	f.Add((&Settings{}).append(nil))
	f.Add((&Settings{VHost: "/", Name: "q", HasMaxLength: true, MaxLength: 3, HasDeadLetter: true, DeadLetterXchg: "x"}).append(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseSettings(data)
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrVersion) {
				t.Fatal(err)
			}
			return
		}
		if again := s.append(nil); !bytes.Equal(again, data) {
			t.Fatalf("%+v was %x, is written as %x", s, data, again)
		}
	})
}
