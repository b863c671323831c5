package raftstore

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/warrenmq/warren/storage"
)

// store is what is used of package raft-boltdb's store.
type store interface {
	raft.LogStore
	Get(key []byte) ([]byte, error)
	Set(key, value []byte) error
	Close() error
}

// watched is bolt's store with an eye on its writes. The Raft library waits for a write for ever: a leader whose disk hangs
// goes on sending heartbeats, so nobody stands for election, and commits nothing (hashicorp/raft#503, #666). And it goes on
// after one that failed, though nobody may assume anything about the file then: a later fsync may succeed without what the
// failed one should have written. So a write that hangs or fails is the end of the process.
type watched struct {
	store
	timeout time.Duration
	around  func(write func() error) error // nil: nothing
	fatal   atomic.Pointer[func(error)]
	dying   sync.Once
	dead    atomic.Bool
	stalls  storage.Stalls
}

// writeTimeout is how long a write may take; one that takes longer is on a dead disk.
const writeTimeout = 10 * time.Second

var errDead = errors.New("an earlier write failed or hangs")

func watch(s store) *watched {
	w := &watched{store: s, timeout: writeTimeout}
	die := func(err error) { panic(err) }
	w.fatal.Store(&die)
	return w
}

func (w *watched) die(err error) {
	w.dying.Do(func() {
		w.dead.Store(true)
		(*w.fatal.Load())(fmt.Errorf("%s: %w", fileName, err))
	})
}

// endTime is how long whoever was told by OnFatal has to end the process.
const endTime = 10 * time.Second

// awaitEnd waits for the process's end after a write that failed. The library panics over a term that is not saved, and then nobody
// would read why it ended.
func (w *watched) awaitEnd() {
	if w.dead.Load() {
		time.Sleep(endTime)
	}
}

// write does a write and answers when it has ended, whatever is thought of it by then: one that is still under way has
// neither failed nor succeeded.
func (w *watched) write(do func() error) error {
	err := w.try(do)
	if err != nil && !errors.Is(err, errDead) && !errors.Is(err, bbolterrors.ErrDatabaseNotOpen) {
		w.die(err)
	}
	return err
}

// try is write for who ends when it fails, without anything having been promised.
func (w *watched) try(do func() error) error {
	if w.dead.Load() {
		return errDead
	}
	watchdog := w.stalls.Watch(w.timeout, func() { w.die(fmt.Errorf("a write takes longer than %v", w.timeout)) })
	if around := w.around; around != nil {
		inner := do
		do = func() error { return around(inner) }
	}
	err := do()
	watchdog.Stop()
	switch {
	case err != nil && !errors.Is(err, bbolterrors.ErrDatabaseNotOpen):
		w.dead.Store(true)
	case w.dead.Load():
		return errDead
	}
	return err
}

// setFirst is the write of a record before the file is used. One that fails, as on a full disk, is the end of the start, as it is when bolt
// cannot make the file.
func (w *watched) setFirst(key, value []byte) error {
	return w.try(func() error { return w.store.Set(key, value) })
}

// Set is a write of a record.
func (w *watched) Set(key, value []byte) error {
	return w.write(func() error { return w.store.Set(key, value) })
}

// StoreLogs is a write of entries.
func (w *watched) StoreLogs(entries []*raft.Log) error {
	return w.write(func() error { return w.store.StoreLogs(entries) })
}

// StoreLog is a write of an entry.
func (w *watched) StoreLog(e *raft.Log) error { return w.StoreLogs([]*raft.Log{e}) }

// DeleteRange is a write, too.
func (w *watched) DeleteRange(min, max uint64) error {
	return w.write(func() error { return w.store.DeleteRange(min, max) })
}
