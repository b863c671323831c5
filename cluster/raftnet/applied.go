package raftnet

import (
	"context"

	"github.com/hashicorp/raft"
)

// Applied tells how to find out up to which index this seat's instance has applied its log; applied must not block. See skipApplied.
func (g *Group) Applied(applied func() uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.applied = applied
}

// skipApplied makes of a request to append entries one that asks for no entry that this seat has applied.
//
// The library looks into its log for the entry before those of a request, and for each of those that it should have. But a seat may
// have given up entries that its leader does not know it to have: when a partition took only its answers, it went on, and made a
// checkpoint. The library refuses then; the leader goes back entry by entry, to the first one, and is refused for ever, unless it has
// given up that entry itself and sends a snapshot.
//
// What this seat has applied is committed. So each leader has it whose term is not below that in which this seat learnt so (Raft, 5.4.3:
// leader completeness), and the library refuses the others first, by their terms. Hence the leader's entries up to there are the same
// as this seat's: they, and the entry before them, need not be looked for.
//
// The library commits up to LeaderCommitIndex as far as its log goes, and has compared its log with the leader's only as far as the
// request goes: what is behind that may be of an earlier leader, and never have been committed. So the index is bounded by the request
// (Raft, figure 2: "index of last new entry").
func (g *Group) skipApplied(q *raft.AppendEntriesRequest) {
	q.LeaderCommitIndex = min(q.LeaderCommitIndex, q.PrevLogEntry+uint64(len(q.Entries)))
	known := g.known()
	if q.PrevLogEntry > known {
		return
	}
	q.Entries = q.Entries[min(known-q.PrevLogEntry, uint64(len(q.Entries))):]
	q.PrevLogEntry, q.PrevLogTerm = 0, 0 // none: it is not looked for
}

// known is the index up to which this seat has applied its log, and would have it again after a crash: a seat that led may have applied
// what is on the others' disks and not on its own yet.
func (g *Group) known() uint64 {
	g.mu.Lock()
	applied, durable := g.applied, g.durable
	g.mu.Unlock()
	return min(applied(), durable())
}

// skipSnapshot answers a snapshot of what this seat has applied already, if it is such a one: installed, it would take back what comes
// behind it, which others count on. A leader may send one that does not know what this seat has, and whose machine is behind. Whether
// it leads is for the library to say, by an empty request to append entries.
func (g *Group) skipSnapshot(ctx context.Context, q *raft.InstallSnapshotRequest) (response any, err error, skipped bool) {
	if known := g.known(); known == 0 || q.LastLogIndex > known {
		return nil, nil, false
	}
	response, err = g.ask(ctx, &raft.AppendEntriesRequest{RPCHeader: q.RPCHeader, Term: q.Term}, nil)
	if a, ok := response.(*raft.AppendEntriesResponse); ok {
		response = &raft.InstallSnapshotResponse{Term: a.Term, Success: a.Success}
	}
	return response, err, true
}
