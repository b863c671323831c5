package raftnet

import (
	"context"
	"errors"
	"log/slog"
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
}
