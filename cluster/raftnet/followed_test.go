package raftnet

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// TestOldAnswersConfirmNothing: an answer to a request from before a time does not say that the sender leads after it.
func TestOldAnswersConfirmNothing(t *testing.T) {
	n := newNetwork(t)
	a, b := two(t, n)
	done := make(chan error, 1)
	send := func(term uint64) {
		done <- a.AppendEntries("b.1", "b.1", &raft.AppendEntriesRequest{Term: term}, &raft.AppendEntriesResponse{})
	}
	go send(3)
	request := next(t, b) // on its way before the question, answered after it
	asked := time.Now()
	request.Respond(&raft.AppendEntriesResponse{Term: 3, Success: true}, nil)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if a.FollowedSince("b.1", 3, asked) {
		t.Error("an answer to an older request counts")
	}
	go send(3)
	request = next(t, b)
	request.Respond(&raft.AppendEntriesResponse{Term: 3, Success: true}, nil)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if !a.FollowedSince("b.1", 3, asked) {
		t.Error("an answer to a later request does not count")
	}
	if a.FollowedSince("b.1", 4, asked) || a.FollowedSince("c.1", 3, asked) {
		t.Error("another term or another seat counts")
	}
	go send(3)
	request = next(t, b)
	later := time.Now()
	request.Respond(&raft.AppendEntriesResponse{Term: 4, Success: false}, nil)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if a.FollowedSince("b.1", 3, later) {
		t.Error("a refusal counts")
	}
}

// TestRefusalsAreTold: who has refused a candidate is told, since it may be the one to stand.
func TestRefusalsAreTold(t *testing.T) {
	n := newNetwork(t)
	a, b := two(t, n)
	told := make(chan *raft.RequestVoteRequest, 2)
	b.Refused(func(q *raft.RequestVoteRequest) { told <- q })
	go answerAll(b, func(rpc raft.RPC) (any, error) {
		return &raft.RequestVoteResponse{Granted: rpc.Command.(*raft.RequestVoteRequest).Term == 1}, nil
	})
	for term := range uint64(2) {
		if err := a.RequestVote("b.1", "b.1", &raft.RequestVoteRequest{Term: 1 + term}, &raft.RequestVoteResponse{}); err != nil {
			t.Fatal(err)
		}
	}
	if q := <-told; q.Term != 2 || len(told) > 0 {
		t.Errorf("of the refusal in term 2 it was told as of term %d, and %d more", q.Term, len(told))
	}
}
