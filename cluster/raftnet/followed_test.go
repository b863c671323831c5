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
