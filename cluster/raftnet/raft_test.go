package raftnet

import (
	"errors"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// counter is a state machine that counts what it applies.
type counter struct{ applied atomic.Int64 }

func (c *counter) Apply(*raft.Log) any                 { return c.applied.Add(1) }
func (c *counter) Snapshot() (raft.FSMSnapshot, error) { return nil, errors.New("no snapshots here") }
func (c *counter) Restore(r io.ReadCloser) error       { return r.Close() }

// brittleLog fails writes while failing is above zero, each taking one off.
type brittleLog struct {
	*raft.InmemStore
	failing atomic.Int64
}

func (l *brittleLog) StoreLogs(entries []*raft.Log) error {
	if l.failing.Load() > 0 {
		l.failing.Add(-1)
		return errors.New("the disk fails")
	}
	return l.InmemStore.StoreLogs(entries)
}

func (l *brittleLog) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

// replica is one node with an instance of the real library over this package's transport.
type replica struct {
	uuid string
	*raft.Raft
	state *counter
	log   *brittleLog
}

// three starts a group of three nodes and returns it when it has a leader, which comes first.
func three(t *testing.T, n *network) []*replica {
	t.Helper()
	var members raft.Configuration
	for _, uuid := range []string{"a", "b", "c"} {
		id := ServerID(uuid, 1)
		members.Servers = append(members.Servers, raft.Server{ID: id, Address: raft.ServerAddress(id)})
	}
	var all []*replica
	for _, s := range members.Servers {
		all = append(all, startReplica(t, n, s.ID, &members))
	}
	eventually(t, "a leader", func() bool { return leaderFirst(all) })
	return all
}

// startReplica starts one replica; first, if not nil, is the configuration of a group that begins.
func startReplica(t *testing.T, n *network, id raft.ServerID, first *raft.Configuration) *replica {
	t.Helper()
	r := &replica{uuid: NodeOf(string(id)), state: new(counter), log: &brittleLog{InmemStore: raft.NewInmemStore()}}
	config := raft.DefaultConfig()
	config.LocalID, config.Logger = id, hclog.NewNullLogger()
	config.HeartbeatTimeout, config.ElectionTimeout, config.LeaderLeaseTimeout = 300*time.Millisecond, 300*time.Millisecond, 200*time.Millisecond
	config.CommitTimeout = 10 * time.Millisecond
	facade := n.join(r.uuid).Group(1, id)
	snapshots := raft.NewInmemSnapshotStore()
	if first != nil {
		if err := raft.BootstrapCluster(config, r.log, r.log.InmemStore, snapshots, facade, *first); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if r.Raft, err = raft.NewRaft(config, r.state, r.log, r.log.InmemStore, snapshots, facade); err != nil {
		t.Fatal(err)
	}
	facade.Elects(r.Raft)
	facade.Applied(r.AppliedIndex)
	t.Cleanup(func() {
		if err := facade.Close(); err != nil { // what waits for a seat that is away ends
			t.Error(err)
		}
		if err := r.Shutdown().Error(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func leaderFirst(all []*replica) bool {
	for i, r := range all {
		if r.State() == raft.Leader {
			all[0], all[i] = all[i], all[0]
			return true
		}
	}
	return false
}

// apply applies commands; who leads may change meanwhile.
func apply(t *testing.T, all []*replica, commands int) {
	t.Helper()
	for range commands {
		eventually(t, "a command is applied", func() bool {
			return leaderFirst(all) && all[0].Apply([]byte("command"), time.Second).Error() == nil
		})
	}
}

// A follower whose disk fails for a moment gets what it missed. With the library's pipeline this can go wrong: the leader
// stops sending it entries until it is restarted (hashicorp/raft#612).
func TestFollowerCatchesUpAfterFailedWrites(t *testing.T) {
	all := three(t, newNetwork(t))
	apply(t, all, 10)
	follower := all[1]
	stop, loading := make(chan struct{}), sync.WaitGroup{}
	end := sync.OnceFunc(func() { close(stop) })
	defer end()
	for range 8 { // so that there is always something to send
		loading.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					load(all)
				}
			}
		})
	}
	for range 15 { // with a pipeline, it stops in one round of several
		follower.log.failing.Store(3)
		before := follower.LastIndex()
		eventually(t, "the follower's disk has failed", func() bool { return follower.log.failing.Load() == 0 })
		eventually(t, "the follower gets entries again", func() bool { return follower.LastIndex() > before+10 })
	}
	end()
	loading.Wait()
	eventually(t, "all have all entries", func() bool {
		return all[0].LastIndex() == all[1].LastIndex() && all[1].LastIndex() == all[2].LastIndex()
	})
}

// A follower that was away gets many large entries: no request has more of them than a stream takes.
func TestFollowerCatchesUpWithLargeEntries(t *testing.T) {
	n := newNetwork(t)
	all := three(t, n)
	away := all[1]
	n.isolate(away.uuid)
	large := make([]byte, 5<<20)
	for range largestFrame/len(large) + 1 {
		eventually(t, "a command is applied", func() bool {
			return leaderFirst(all) && all[0].Apply(large, time.Second).Error() == nil
		})
	}
	last := all[0].LastIndex()
	n.heal(away.uuid)
	eventually(t, "the follower has all entries", func() bool { return away.AppliedIndex() >= last })
}

// load applies a command on whoever leads; it may fail.
func load(all []*replica) {
	for _, r := range all {
		if r.State() == raft.Leader {
			_ = r.Apply([]byte("load"), 0).Error()
			return
		}
	}
	runtime.Gosched()
}

// A node that was cut off has not raised its term, so it does not depose the leader when it returns.
func TestIsolatedNodeDoesNotRaiseTheTerm(t *testing.T) {
	n := newNetwork(t)
	all := three(t, n)
	apply(t, all, 5)
	lonely := all[1]
	n.isolate(lonely.uuid)
	eventually(t, "the isolated node has noticed", func() bool { return n.attempts(lonely.uuid) >= 2 })
	term := lonely.CurrentTerm()
	// Each attempt to be elected asks both others.
	eventually(t, "the isolated node has tried to be elected several times", func() bool { return n.attempts(lonely.uuid) >= 12 })
	if got := lonely.CurrentTerm(); got != term {
		t.Errorf("the isolated node has raised the term from %d to %d", term, got)
	}
	n.heal(lonely.uuid)
	apply(t, all, 5) // another node may lead by now: the machine may be too busy for these timers
	eventually(t, "the isolated node has applied what it missed", func() bool { return lonely.state.applied.Load() >= 10 })
}

// A seat that was away while members changed refuses, by its configuration, the candidates that the change has made voters, though
// they need its vote: with the leader gone there would be none for ever (test/sim, five nodes, seed 6412).
func TestVoteForACandidateThatIsNotKnownYet(t *testing.T) {
	n := newNetwork(t)
	all := three(t, n)
	apply(t, all, 5)
	behind, leaving := all[1], all[2]
	n.isolate(behind.uuid)
	late := startReplica(t, n, "d.1", nil)
	others := []*replica{all[0], leaving}
	eventually(t, "a new voter", func() bool {
		return leaderFirst(others) && others[0].AddVoter("d.1", "d.1", 0, time.Second).Error() == nil
	})
	others = append(others, late)
	var removed raft.ServerID
	eventually(t, "a voter less", func() bool {
		if !leaderFirst(others) {
			return false
		}
		for _, r := range others[1:] {
			if removed == "" && r != late {
				removed = ServerID(r.uuid, 1)
			}
		}
		return others[0].RemoveServer(removed, 0, time.Second).Error() == nil
	})
	eventually(t, "the new voter knows", func() bool {
		f := late.GetConfiguration()
		return f.Error() == nil && len(f.Configuration().Servers) == 3
	})
	for _, r := range others { // what is left is the one that was away and the one that it does not know
		if r != late {
			n.isolate(r.uuid)
		}
	}
	n.heal(behind.uuid)
	eventually(t, "the new voter leads", func() bool { return late.State() == raft.Leader })
	eventually(t, "the other follows", func() bool { return behind.LastIndex() == late.LastIndex() })
}
