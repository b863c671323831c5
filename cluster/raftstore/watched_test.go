package raftstore

import (
	"errors"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	bbolterrors "go.etcd.io/bbolt/errors"
)

// brokenStore is a store whose writes do what a test wants.
type brokenStore struct {
	*raft.InmemStore
	write func() error
}

func (s *brokenStore) Set(_, _ []byte) error         { return s.write() }
func (s *brokenStore) StoreLogs([]*raft.Log) error   { return s.write() }
func (s *brokenStore) DeleteRange(_, _ uint64) error { return s.write() }
func (s *brokenStore) Close() error                  { return nil }

// writes is one write of each kind.
func writes(db *DB) map[string]func() error {
	return map[string]func() error{
		"term":    func() error { return db.Stable(1).SetUint64([]byte(keyTerm), 3) },
		"vote":    func() error { return db.Stable(1).Set([]byte(keyVoteFor), []byte("a.1")) },
		"seat":    func() error { return db.Stable(1).SaveSeat(Seat{Incarnation: 1}) },
		"entries": func() error { return db.CatalogLog().StoreLogs(catalogEntries(1, 2)) },
		"entry":   func() error { return db.CatalogLog().StoreLog(catalogEntries(1, 1)[0]) },
		"delete":  func() error { return db.CatalogLog().DeleteRange(1, 1) },
		"mark":    db.MarkRenewed,
		"no mark": db.ClearRenewed,
	}
}

// starts tells which writes are those of a start, before anything is promised.
func starts(name string) bool { return name == "mark" || name == "no mark" }

func breakable(t *testing.T) (db *DB, s *brokenStore, fatals *atomic.Int64) {
	t.Helper()
	fatals = new(atomic.Int64)
	s = &brokenStore{InmemStore: raft.NewInmemStore()}
	db = &DB{watch(s)}
	db.OnFatal(func(error) { fatals.Add(1) })
	return db, s, fatals
}

// A leader whose disk hangs would keep its group frozen for ever, since its heartbeats go on (hashicorp/raft#503, #666): its
// process must end. Until it does nobody is told that the write has failed, which is not known.
func TestHangingWrite(t *testing.T) {
	for name := range writes(nil) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				db, s, fatals := breakable(t)
				release := make(chan struct{})
				s.write = func() error { <-release; return nil }
				done := make(chan error, 1)
				go func() { done <- writes(db)[name]() }()
				time.Sleep(writeTimeout - time.Second)
				if fatals.Load() != 0 {
					t.Error("a write of 9 s is no failure")
				}
				time.Sleep(time.Hour)
				if n := fatals.Load(); n != 1 {
					t.Errorf("OnFatal was called %d times", n)
				}
				select {
				case err := <-done:
					t.Errorf("a write that is under way was answered: %v", err)
				default:
				}
				for other, write := range writes(db) {
					if err := write(); !errors.Is(err, errDead) {
						t.Errorf("%s after a write that hangs: %v", other, err)
					}
				}
				close(release)
				if err := <-done; !errors.Is(err, errDead) {
					t.Errorf("after the end: %v", err)
				}
			})
		})
	}
}

// After a write that failed nothing is known of the file: no later one may pass for durable. A term, over which the library panics, is not
// answered before the process has had its time to end.
func TestFailedWrite(t *testing.T) { synctest.Test(t, testFailedWrite) }

func testFailedWrite(t *testing.T) {
	broken := errors.New("input/output error")
	for name := range writes(nil) {
		db, s, fatals := breakable(t)
		s.write = func() error { return nil }
		if err := writes(db)[name](); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		s.write = func() error { return broken }
		if err := writes(db)[name](); !errors.Is(err, broken) {
			t.Errorf("%s: %v", name, err)
		}
		s.write = func() error { return nil }
		for other, write := range writes(db) {
			began := time.Now()
			if err := write(); !errors.Is(err, errDead) {
				t.Errorf("%s after a failed %s: %v", other, name, err)
			}
			if answered := time.Since(began); other == "term" && answered < endTime {
				t.Errorf("a term after a failed %s is answered after %v", name, answered)
			}
		}
		if n := fatals.Load(); (n == 1) == starts(name) || n > 1 {
			t.Errorf("%s: OnFatal was called %d times", name, n)
		}
	}
}

// A write after the end of an orderly stop is refused; nothing is wrong with the file.
func TestWriteAfterClose(t *testing.T) {
	db := openDB(t, t.TempDir())
	db.OnFatal(func(err error) { t.Errorf("fatal: %v", err) })
	set(t, db.Close())
	for name, write := range writes(db) {
		if err := write(); !errors.Is(err, bbolterrors.ErrDatabaseNotOpen) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Who names nobody to call is stopped all the same.
func TestFailedWriteByDefault(t *testing.T) {
	db := &DB{watch(&brokenStore{InmemStore: raft.NewInmemStore(), write: func() error { return errors.New("input/output error") }})}
	defer func() {
		if recover() == nil {
			t.Error("it goes on")
		}
	}()
	t.Errorf("the write was answered: %v", db.Stable(1).SaveSeat(Seat{Incarnation: 1}))
}

// TestFullDiskAtTheStart: the mark is written before there is anybody to call. That it cannot be is an error, with which the start ends,
// and the file is of no more use.
func TestFullDiskAtTheStart(t *testing.T) {
	for name, mark := range map[string]func(*DB) error{"renewed": (*DB).MarkRenewed, "first": (*DB).ClearRenewed} {
		db := &DB{watch(&brokenStore{InmemStore: raft.NewInmemStore(), write: func() error { return syscall.ENOSPC }})}
		if err := mark(db); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: %v", name, err)
		}
		if err := mark(db); !errors.Is(err, errDead) {
			t.Errorf("%s, a second time: %v", name, err)
		}
	}
}
