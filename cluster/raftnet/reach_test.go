package raftnet

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"
)

// TestWaitsForASeatThatIsAway: an append waits until its seat can be reached, a heartbeat does not, and who leads no more
// does not wait either.
func TestWaitsForASeatThatIsAway(t *testing.T) {
	n := newNetwork(t)
	_, b := two(t, n)
	var tries atomic.Int64
	var there atomic.Bool
	away := New(Options{Logger: slog.New(slog.DiscardHandler), Open: func(_ context.Context, uuid string, bulk bool) (Stream, error) {
		tries.Add(1)
		if !there.Load() {
			return nil, errors.New("refused")
		}
		return n.open("a", uuid, bulk)
	}})
	defer away.Close()
	g := away.Group(b.group, "a.2")
	defer g.Close()
	send := func(q *raft.AppendEntriesRequest) <-chan error {
		done := make(chan error, 1)
		go func() { done <- g.AppendEntries("b.1", "b.1", q, &raft.AppendEntriesResponse{}) }()
		return done
	}
	if err := <-send(&raft.AppendEntriesRequest{Term: 1}); !errors.Is(err, errUnreachable) {
		t.Errorf("heartbeat: %v", err)
	}
	waiting := send(&raft.AppendEntriesRequest{Term: 1, PrevLogEntry: 3})
	before := tries.Load()
	eventually(t, "it tries again", func() bool { return tries.Load() > before+1 })
	g.Release()
	if err := <-waiting; !errors.Is(err, errUnreachable) {
		t.Errorf("after the leadership's end: %v", err)
	}
	waiting = send(&raft.AppendEntriesRequest{Term: 2, PrevLogEntry: 3})
	before = tries.Load()
	eventually(t, "it tries again", func() bool { return tries.Load() > before+1 })
	there.Store(true)
	request := next(t, b)
	request.Respond(&raft.AppendEntriesResponse{Term: 2, Success: true}, nil)
	if err := <-waiting; err != nil {
		t.Error(err)
	}
	there.Store(false)
	away.link("b").fail(errCut)
	var removed atomic.Bool
	g.Members(func(raft.ServerAddress) bool { return !removed.Load() })
	waiting = send(&raft.AppendEntriesRequest{Term: 2, PrevLogEntry: 3})
	before = tries.Load()
	eventually(t, "it tries again", func() bool { return tries.Load() > before+1 })
	removed.Store(true)
	if err := <-waiting; !errors.Is(err, errUnreachable) {
		t.Errorf("after the seat was removed: %v", err)
	}
	removed.Store(false)
	waiting = send(&raft.AppendEntriesRequest{Term: 2, PrevLogEntry: 3})
	g.Close()
	if err := <-waiting; !errors.Is(err, context.Canceled) && !errors.Is(err, errUnreachable) {
		t.Errorf("after the group's end: %v", err)
	}
}

// TestWaitsForASeatThatIsNotThereYet: a node that has not started its replica yet, or has closed it, is not one that fails.
// What waits for the seat goes on as soon as it is there, an append as well as a snapshot.
func TestWaitsForASeatThatIsNotThereYet(t *testing.T) {
	n := newNetwork(t)
	a := n.join("a").Group(7, "a.1")
	defer a.Close()
	b := n.join("b")
	done := make(chan error, 2)
	go func() {
		done <- a.AppendEntries("b.2", "b.2", &raft.AppendEntriesRequest{Term: 1, PrevLogEntry: 3}, &raft.AppendEntriesResponse{})
	}()
	go func() {
		done <- a.InstallSnapshot("b.2", "b.2", &raft.InstallSnapshotRequest{Term: 1}, &raft.InstallSnapshotResponse{}, strings.NewReader(""))
	}()
	waiting := func() int {
		l := a.t.link("b")
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.waiting)
	}
	eventually(t, "both ask for the seat", func() bool { return waiting() == 2 })
	if err := a.AppendEntries("b.2", "b.2", &raft.AppendEntriesRequest{Term: 1}, &raft.AppendEntriesResponse{}); !errors.Is(err, errAbsent) {
		t.Errorf("heartbeat: %v", err)
	}
	older := b.Group(7, "b.1") // another seat than the one that is waited for
	seat := b.Group(7, "b.2")
	defer seat.Close()
	for range 2 {
		switch request := next(t, seat); request.Command.(type) {
		case *raft.AppendEntriesRequest:
			request.Respond(&raft.AppendEntriesResponse{Success: true}, nil)
		case *raft.InstallSnapshotRequest:
			request.Respond(&raft.InstallSnapshotResponse{Success: true}, nil)
		}
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	select {
	case rpc := <-older.Consumer():
		t.Errorf("%+v came to another seat", rpc.Command)
	default:
	}
}
