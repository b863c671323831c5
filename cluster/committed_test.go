package cluster

import (
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// unreadable is a log of which one entry cannot be read.
type unreadable struct {
	*raft.InmemStore
	index uint64
}

var errUnreadable = errors.New("the disk does not give it back")

func (l unreadable) GetLog(index uint64, e *raft.Log) error {
	if index == l.index {
		return errUnreadable
	}
	return l.InmemStore.GetLog(index, e)
}

// TestACommittedEntryThatCannotBeRead: the node ends, and says why, when an entry cannot be read that is to be applied: the library would
// panic. One that is not to be applied may be missed, as by another node.
func TestACommittedEntryThatCannotBeRead(t *testing.T) {
	lost := make(chan error, 1)
	store := raft.NewInmemStore()
	log := &committedLog{LogStore: unreadable{store, 8}, lost: func(err error) { lost <- err }}
	if log.IsMonotonic() {
		t.Error("a log counts as monotonic that is not")
	}
	address, near := raft.NewInmemTransport("a")
	_, far := raft.NewInmemTransport("b")
	far.Connect(address, near)
	members := raft.Configuration{Servers: []raft.Server{{ID: "a", Address: "a"}, {ID: "b", Address: "b"}}}
	config := raft.DefaultConfig()
	config.LocalID, config.Logger, config.HeartbeatTimeout, config.ElectionTimeout = "a", hclog.NewNullLogger(), time.Hour, time.Hour
	must(t, raft.BootstrapCluster(config, log, store, raft.NewInmemSnapshotStore(), near, members))
	r, err := raft.NewRaft(config, &countingParts{}, log, store, raft.NewInmemSnapshotStore(), near)
	must(t, err)
	log.instance.Store(r)
	header := raft.RPCHeader{ProtocolVersion: 3, ID: []byte("b"), Addr: []byte("b")}
	send := func(previous, last, committed uint64) bool {
		q := &raft.AppendEntriesRequest{RPCHeader: header, Term: 2, PrevLogEntry: previous, PrevLogTerm: min(previous, 2), LeaderCommitIndex: committed}
		for i := previous + 1; i <= last; i++ {
			q.Entries = append(q.Entries, &raft.Log{Index: i, Term: 2, Type: raft.LogNoop})
		}
		var p raft.AppendEntriesResponse
		return far.AppendEntries("a", address, q, &p) == nil && p.Success
	}
	if !send(1, 10, 7) || r.AppliedIndex() != 7 || send(8, 10, 7) || len(lost) > 0 {
		t.Fatalf("entries up to 7 are committed, %d applied; the node has ended: %v", r.AppliedIndex(), len(lost) > 0)
	}
	if send(10, 11, 9) {
		t.Error("entry 8 counts as applied")
	}
	select {
	case err := <-lost:
		if !errors.Is(err, errUnreadable) {
			t.Errorf("the node has ended because of %v", err)
		}
	case <-time.After(patience):
		t.Error("the node goes on without an entry that is committed")
	}
	must(t, r.Shutdown().Error()) // nothing of it is left
}
