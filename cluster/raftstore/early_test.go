package raftstore

import (
	"math"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"

	"github.com/warrenmq/warren/storage/vfs"
)

// TestEarlyIsForALeadersCommands: a leader's commands are taken before they are durable, and nothing else is: not what the library acts
// on by itself, nor what a follower promises to hold. Who asks how far the log goes, or cuts it, waits for what was taken.
func TestEarlyIsForALeadersCommands(t *testing.T) {
	of := func(index uint64, kind raft.LogType) []*raft.Log {
		list := shardEntries(index, index, 1)
		list[0].Type = kind
		return list
	}
	for what, wait := range map[string]func(l *ShardLog) error{
		"a configuration":            func(l *ShardLog) error { return l.StoreLogs(of(3, raft.LogConfiguration)) },
		"a new leader's first entry": func(l *ShardLog) error { return l.StoreLogs(of(3, raft.LogNoop)) },
		"a barrier":                  func(l *ShardLog) error { return l.StoreLogs(of(3, raft.LogBarrier)) },
		"a configuration after a command": func(l *ShardLog) error {
			return l.StoreLogs(append(of(3, raft.LogCommand), of(4, raft.LogConfiguration)...))
		},
		"a follower's command": func(l *ShardLog) error {
			l.Leads = func() bool { return false }
			return l.StoreLogs(of(3, raft.LogCommand))
		},
		"a command of nobody in particular": func(l *ShardLog) error { return (&ShardLog{Group: l.Group}).StoreLogs(of(3, raft.LogCommand)) },
		"the end of the log": func(l *ShardLog) error {
			last, err := l.LastIndex()
			if last != 2 {
				t.Errorf("the log goes to %d", last)
			}
			return err
		},
		"a cut": func(l *ShardLog) error { return l.DeleteRange(2, 2) },
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				held := make(chan struct{})
				close(held)
				fs := vfs.Inject(vfs.NewMem(), func(op vfs.Op) error {
					if op.Kind == "sync" && strings.HasSuffix(op.Name, ".wal") {
						<-held
					}
					return nil
				})
				g, store := openGroup(t, fs)
				synctest.Wait() // the next log file is reserved
				l := &ShardLog{Group: g, Leads: func() bool { return true }}
				held = make(chan struct{})
				set(t, l.StoreLogs(of(1, raft.LogCommand)))
				set(t, l.StoreLogs(of(2, raft.LogCommand)))
				var e raft.Log
				set(t, l.GetLog(2, &e))
				if g.Durable() != 0 {
					t.Errorf("durable up to %d while the disk is held up", g.Durable())
				}
				done := make(chan error, 1)
				go func() { done <- wait(l) }()
				synctest.Wait()
				select {
				case err := <-done:
					t.Errorf("it has not waited: %v", err)
					done <- err
				default:
				}
				close(held)
				set(t, <-done)
				set(t, store.Close())
				if g.Durable() != math.MaxUint64 {
					t.Errorf("durable up to %d at the end", g.Durable())
				}
			})
		})
	}
}
