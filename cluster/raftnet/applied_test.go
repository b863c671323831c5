package raftnet

import (
	"bytes"
	"testing"

	"github.com/hashicorp/raft"
)

// leaderOf is whom a replica takes for its leader: its requests are made by the test.
type leaderOf struct {
	t       *testing.T
	facade  *Group
	members raft.Configuration
	term    uint64
	of      func(index uint64) uint64 // the term of an entry behind the first
}

// termOf is the term of an entry. The first, of term 1, is the configuration.
func (l *leaderOf) termOf(index uint64) uint64 {
	if index <= 1 {
		return index
	}
	return l.of(index)
}

// led starts an instance of the library as one of three members, and who is to lead it.
func led(t *testing.T) (*replica, *leaderOf) {
	n := newNetwork(t)
	l := &leaderOf{t: t, facade: n.join("a").Group(1, "a.1")}
	t.Cleanup(func() { l.facade.Close() })
	for _, uuid := range []string{"a", "b", "c"} {
		id := ServerID(uuid, 1)
		l.members.Servers = append(l.members.Servers, raft.Server{ID: id, Address: raft.ServerAddress(id)})
	}
	return startReplica(t, n, "b.1", &l.members), l
}

// send sends the entries behind previous up to last and tells whether they were taken.
func (l *leaderOf) send(previous, last, committed uint64) bool {
	l.t.Helper()
	q := &raft.AppendEntriesRequest{RPCHeader: requestHeader("a.1"), Term: l.term, PrevLogEntry: previous, PrevLogTerm: l.termOf(previous),
		LeaderCommitIndex: committed}
	for i := previous + 1; i <= last; i++ {
		e := &raft.Log{Index: i, Term: l.termOf(i), Type: raft.LogCommand, Data: []byte("command")}
		if i == 1 {
			e.Type, e.Data = raft.LogConfiguration, raft.EncodeConfiguration(l.members)
		}
		q.Entries = append(q.Entries, e)
	}
	var p raft.AppendEntriesResponse
	if err := l.facade.AppendEntries("b.1", "b.1", q, &p); err != nil {
		l.t.Fatal(err)
	}
	return p.Success
}

// TestEntriesThatWereGivenUp: a follower that has given up entries which its leader does not know it to have goes on from what it has
// applied. Its leader sends them again after a partition that took only the follower's answers.
func TestEntriesThatWereGivenUp(t *testing.T) {
	const term = 100 // above those in which b stands meanwhile
	for name, given := range map[string]uint64{"none": 0, "some": 10, "all that are applied but one": 19, "all that are applied": 20} {
		t.Run(name, func(t *testing.T) {
			b, leader := led(t)
			leader.term, leader.of = term, func(uint64) uint64 { return term }
			if !leader.send(1, 24, 20) {
				t.Fatal("entries 2 to 24 were refused")
			}
			eventually(t, "entry 20 is applied", func() bool { return b.AppliedIndex() == 20 })
			if given > 0 {
				if err := b.log.DeleteRange(1, given); err != nil {
					t.Fatal(err)
				}
			}
			for _, q := range []struct{ previous, last uint64 }{{5, 12}, {0, 16}, {20, 20}, {5, 20}, {7, 23}, {19, 22}, {20, 23}} {
				if !leader.send(q.previous, q.last, 20) {
					t.Errorf("entries %d to %d, which it has or had, were refused", q.previous+1, q.last)
				}
			}
			if got := b.LastIndex(); got != 24 {
				t.Errorf("the log goes up to %d after entries that it had, not to 24", got)
			}
			leader.term--
			if leader.send(3, 10, 0) {
				t.Error("entries of an earlier leader were taken")
			}
			leader.term++
			if !leader.send(3, 30, 30) {
				t.Fatal("entries 4 to 30, of which 25 to 30 are new, were refused")
			}
			eventually(t, "entry 30 is applied", func() bool { return b.state.applied.Load() == 29 })
		})
	}
}

// TestCommittedAsFarAsCompared: what follows a request's entries in a log may be of an earlier leader. It is not committed because the
// present one has committed as many entries.
func TestCommittedAsFarAsCompared(t *testing.T) {
	b, leader := led(t)
	const term, next, same = 100, 200, 20
	leader.term, leader.of = term, func(uint64) uint64 { return term }
	if !leader.send(1, 40, 10) {
		t.Fatal("entries 2 to 40 were refused")
	}
	eventually(t, "entry 10 is applied", func() bool { return b.AppliedIndex() == 10 })
	leader.term, leader.of = next, func(index uint64) uint64 {
		if index <= same {
			return term
		}
		return next
	}
	if !leader.send(10, 18, 45) {
		t.Fatal("entries 11 to 18, which it has, were refused")
	}
	if got := b.CommitIndex(); got != 18 {
		t.Errorf("%d entries are committed; 18 were compared", got)
	}
	if !leader.send(18, 45, 45) {
		t.Fatal("entries 19 to 45 were refused")
	}
	eventually(t, "entry 45 is applied", func() bool { return b.AppliedIndex() == 45 })
	for i := uint64(1); i <= 45; i++ {
		var e raft.Log
		if err := b.log.GetLog(i, &e); err != nil || e.Term != leader.termOf(i) {
			t.Errorf("entry %d is of term %d: %v", i, e.Term, err)
		}
	}
}

// TestSnapshotOfWhatIsApplied: a snapshot of what a seat has applied takes nothing back from it, and its sender goes on behind it.
func TestSnapshotOfWhatIsApplied(t *testing.T) {
	b, leader := led(t)
	leader.term, leader.of = 100, func(uint64) uint64 { return 100 }
	if !leader.send(1, 24, 20) {
		t.Fatal("entries 2 to 24 were refused")
	}
	eventually(t, "entry 20 is applied", func() bool { return b.AppliedIndex() == 20 })
	send := func(term, index uint64) raft.InstallSnapshotResponse {
		t.Helper()
		state := make([]byte, 3*chunk)
		var p raft.InstallSnapshotResponse
		q := &raft.InstallSnapshotRequest{RPCHeader: requestHeader("a.1"), SnapshotVersion: 1, Term: term, LastLogIndex: index, LastLogTerm: 100,
			Configuration: raft.EncodeConfiguration(leader.members), ConfigurationIndex: 1, Size: int64(len(state))}
		if err := leader.facade.InstallSnapshot("b.1", "b.1", q, &p, bytes.NewReader(state)); err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, index := range []uint64{5, 20} {
		if p := send(100, index); !p.Success || p.Term != 100 {
			t.Errorf("a snapshot at %d is answered by %+v", index, p)
		}
		if applied, last := b.AppliedIndex(), b.LastIndex(); applied != 20 || last != 24 {
			t.Errorf("after a snapshot at %d, %d entries are applied and the log ends at %d", index, applied, last)
		}
	}
	if p := send(99, 20); p.Success || p.Term != 100 {
		t.Errorf("a snapshot of an earlier leader is answered by %+v", p)
	}
	if p := send(100, 22); !p.Success || b.AppliedIndex() != 22 {
		t.Errorf("a snapshot at 22 is answered by %+v, and %d entries are applied", p, b.AppliedIndex())
	}
}
