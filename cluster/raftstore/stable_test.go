package raftstore

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"
)

func openDB(t *testing.T, dir string) *DB {
	t.Helper()
	db, err := OpenDB(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() }) // some tests close it themselves
	return db
}

func reopen(t *testing.T, db *DB, dir string) *DB {
	t.Helper()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return openDB(t, dir)
}

func wantVote(t *testing.T, s *Stable, term uint64, candidate string) {
	t.Helper()
	gotTerm, err := s.GetUint64([]byte(keyVoteTerm))
	if err != nil || gotTerm != term {
		t.Errorf("the vote's term is %d, not %d: %v", gotTerm, term, err)
	}
	got, err := s.Get([]byte(keyVoteFor))
	if err != nil || string(got) != candidate {
		t.Errorf("the vote is for %q, not %q: %v", got, candidate, err)
	}
}

func set(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The library writes a vote's term and its candidate one after the other. If a crash comes between, the candidate of an
// earlier term must not count as the new term's: it would get a vote that nobody checked (hashicorp/raft#661).
func TestVoteIsOneRecord(t *testing.T) {
	dir := t.TempDir()
	db := openDB(t, dir)
	s := db.Stable(3)
	set(t, s.SetUint64([]byte(keyTerm), 5))
	set(t, s.SetUint64([]byte(keyVoteTerm), 5))
	set(t, s.Set([]byte(keyVoteFor), []byte("a.1")))
	wantVote(t, s, 5, "a.1")

	set(t, s.SetUint64([]byte(keyVoteTerm), 8))
	db = reopen(t, db, dir)
	s = db.Stable(3)
	wantVote(t, s, 5, "a.1")

	set(t, s.SetUint64([]byte(keyVoteTerm), 8))
	set(t, s.Set([]byte(keyVoteFor), []byte("b.1")))
	db = reopen(t, db, dir)
	wantVote(t, db.Stable(3), 8, "b.1")
	if term, err := db.Stable(3).GetUint64([]byte(keyTerm)); err != nil || term != 5 {
		t.Errorf("the term is %d: %v", term, err)
	}
}

// The library knows by the text that a value was never set, and starts from zero; any other error ends the start.
func TestWhatWasNeverSet(t *testing.T) {
	s := openDB(t, t.TempDir()).Stable(0)
	for _, key := range []string{keyTerm, keyVoteTerm} {
		if _, err := s.GetUint64([]byte(key)); err == nil || err.Error() != "not found" {
			t.Errorf("%s: %v", key, err)
		}
	}
	if _, err := s.Get([]byte(keyVoteFor)); err == nil || err.Error() != "not found" {
		t.Errorf("%s: %v", keyVoteFor, err)
	}
	if s.Set([]byte("Other"), nil) == nil || s.SetUint64([]byte("Other"), 1) == nil {
		t.Error("a key that is not the library's was taken")
	}
}

func TestGroupsDoNotShareVotes(t *testing.T) {
	db := openDB(t, t.TempDir())
	set(t, db.Stable(1).SetUint64([]byte(keyTerm), 7))
	if _, err := db.Stable(11).GetUint64([]byte(keyTerm)); !errors.Is(err, errNotFound) {
		t.Errorf("group 11 has the term of group 1: %v", err)
	}
}

func TestForgottenVote(t *testing.T) {
	s := openDB(t, t.TempDir()).Stable(1)
	set(t, s.SetUint64([]byte(keyTerm), 7))
	set(t, s.SetUint64([]byte(keyVoteTerm), 7))
	set(t, s.Set([]byte(keyVoteFor), []byte("a.1")))
	set(t, s.Forget())
	wantVote(t, s, 0, "")
	if term, err := s.GetUint64([]byte(keyTerm)); err != nil || term != 0 {
		t.Errorf("the term is %d: %v", term, err)
	}
}

func TestSeat(t *testing.T) {
	dir := t.TempDir()
	db := openDB(t, dir)
	if !db.Blank() || db.Marked() || !db.Renewed() {
		t.Error("a new file is not blank, or says that nothing was lost before it was asked")
	}
	set(t, db.ClearRenewed())
	if !db.Blank() || !db.Marked() || db.Renewed() {
		t.Error("a node's first file is not blank, or renewed")
	}
	s := db.Stable(CatalogGroup)
	if seat, err := s.Seat(); err != nil || seat != (Seat{}) {
		t.Errorf("a seat that was never saved: %+v, %v", seat, err)
	}
	set(t, s.SaveSeat(Seat{Incarnation: 4, Ready: true}))
	db = reopen(t, db, dir)
	if seat, err := db.Stable(CatalogGroup).Seat(); err != nil || seat != (Seat{Incarnation: 4, Ready: true}) {
		t.Errorf("the seat after reopening: %+v, %v", seat, err)
	}
	if db.Blank() || db.Renewed() {
		t.Error("a file with a seat is blank or renewed")
	}
	set(t, db.MarkRenewed())
	if db = reopen(t, db, dir); !db.Marked() || !db.Renewed() {
		t.Error("the mark is lost")
	}
	db = openDB(t, t.TempDir())
	set(t, db.MarkRenewed())
	if db.Blank() {
		t.Error("a file that took the place of one that was lost is blank")
	}
}

func catalogEntries(from, to uint64) []*raft.Log {
	var all []*raft.Log
	for i := from; i <= to; i++ {
		all = append(all, &raft.Log{Index: i, Term: 2, Type: raft.LogCommand, Data: bytes.Repeat([]byte{byte(i)}, int(i)*10), Extensions: []byte{7}[:i%2]})
	}
	return all
}

func wantEntry(t *testing.T, l raft.LogStore, want *raft.Log) {
	t.Helper()
	var got raft.Log
	if err := l.GetLog(want.Index, &got); err != nil {
		t.Errorf("entry %d: %v", want.Index, err)
	} else if !sameEntry(&got, want) {
		t.Errorf("entry %d is %+v, not %+v", want.Index, got, want)
	}
}

func sameEntry(a, b *raft.Log) bool {
	return a.Index == b.Index && a.Term == b.Term && a.Type == b.Type && bytes.Equal(a.Data, b.Data) && bytes.Equal(a.Extensions, b.Extensions)
}

func wantRange(t *testing.T, l raft.LogStore, first, last uint64) {
	t.Helper()
	gotFirst, err := l.FirstIndex()
	set(t, err)
	gotLast, err := l.LastIndex()
	set(t, err)
	if gotFirst != first || gotLast != last {
		t.Errorf("the log is [%d, %d], not [%d, %d]", gotFirst, gotLast, first, last)
	}
}

func TestCatalogLog(t *testing.T) {
	dir := t.TempDir()
	db := openDB(t, dir)
	l := db.CatalogLog()
	wantRange(t, l, 0, 0)
	entries := catalogEntries(1, 20)
	set(t, l.StoreLogs(entries))
	if len(entries[0].Extensions) != 1 || entries[1].Extensions == nil || len(entries[1].Extensions) != 0 {
		t.Error("storing has changed the caller's entries")
	}
	db = reopen(t, db, dir)
	l = db.CatalogLog()
	wantRange(t, l, 1, 20)
	for _, e := range entries {
		wantEntry(t, l, e)
	}
	set(t, l.Check(0))
	var e raft.Log
	if err := l.GetLog(21, &e); !errors.Is(err, raft.ErrLogNotFound) {
		t.Errorf("an entry that does not exist: %v", err)
	}
	set(t, l.DeleteRange(1, 5))
	wantRange(t, l, 6, 20)
	if err := l.Check(4); !errors.Is(err, ErrDamaged) {
		t.Errorf("a log that begins at 6 behind a snapshot of 4: %v", err)
	}
	set(t, l.Check(5))
	set(t, l.DeleteRange(10, 10))
	if err := l.Check(5); !errors.Is(err, ErrDamaged) {
		t.Errorf("a log without entry 10: %v", err)
	}
	if err := l.Check(9); !errors.Is(err, ErrDamaged) {
		t.Errorf("a log without entry 10 behind a snapshot of 9: %v", err)
	}
	set(t, l.Check(10))
	set(t, l.Forget())
	wantRange(t, l, 0, 0)
	set(t, l.Check(0))
	set(t, l.Forget())
}

func TestPutAside(t *testing.T) {
	dir := t.TempDir()
	set(t, os.WriteFile(filepath.Join(dir, fileName), bytes.Repeat([]byte("not bolt"), 2000), 0o600))
	if _, err := OpenDB(dir); !Exists(dir) || !errors.Is(err, ErrDamaged) {
		t.Fatalf("a file that is not bolt's: exists %v, %v", Exists(dir), err)
	}
	set(t, PutAside(dir))
	if Exists(dir) {
		t.Error("the file is still there")
	}
	db, err := OpenDB(dir)
	set(t, err)
	set(t, db.Close())
}
