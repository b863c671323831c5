package raftnet

import (
	"testing"

	"github.com/hashicorp/raft"
)

// TestCommittedIsDurableHere: a leader whose log is not on its disk yet does not tell its followers that an entry is committed because
// they have it: they would apply what may be lost when this node's machine fails.
func TestCommittedIsDurableHere(t *testing.T) {
	a, b := two(t, newNetwork(t))
	told := make(chan uint64, 1)
	go answerAll(b, func(rpc raft.RPC) (any, error) {
		told <- rpc.Command.(*raft.AppendEntriesRequest).LeaderCommitIndex
		return &raft.AppendEntriesResponse{Success: true}, nil
	})
	tell := func(committed uint64) uint64 {
		t.Helper()
		q := &raft.AppendEntriesRequest{RPCHeader: requestHeader("a.1"), Term: 5, PrevLogEntry: 20, LeaderCommitIndex: committed}
		if err := a.AppendEntries("b.1", "b.1", q, &raft.AppendEntriesResponse{}); err != nil {
			t.Fatal(err)
		}
		return <-told
	}
	if got := tell(9); got != 9 {
		t.Errorf("9 entries are committed, followers are told of %d", got)
	}
	a.Durable(func() uint64 { return 7 })
	for committed, want := range map[uint64]uint64{5: 5, 7: 7, 9: 7} {
		if got := tell(committed); got != want {
			t.Errorf("%d entries are committed and 7 durable, followers are told of %d", committed, got)
		}
	}
}
