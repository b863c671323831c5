package cluster

import (
	"fmt"
	"runtime"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// committedLog is a group's log as its instance reads it. An entry that is committed and not yet applied must be read: the library panics
// when that fails (processLogs in its raft.go), as when the disk has lost what it had taken. So the node ends, and says why; when it
// starts again the damage is found, and the replica is had from the others.
type committedLog struct {
	raft.LogStore
	instance atomic.Pointer[raft.Raft] // nil: it reads the log to begin, and takes an error for one
	lost     func(error)               // ends the node
}

// IsMonotonic implements raft.MonotonicLogStore.
func (l *committedLog) IsMonotonic() bool {
	m, ok := l.LogStore.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

// GetLog implements raft.LogStore.
func (l *committedLog) GetLog(index uint64, e *raft.Log) error {
	err := l.LogStore.GetLog(index, e)
	r := l.instance.Load()
	if err == nil || r == nil || index <= r.AppliedIndex() || index > r.CommitIndex() {
		return err
	}
	l.lost(fmt.Errorf("entry %d is committed and cannot be read: %w", index, err))
	runtime.Goexit() // the library's goroutine ends, as its instance does now
	return nil
}
