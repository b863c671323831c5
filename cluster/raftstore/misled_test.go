package raftstore

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/warrenmq/warren/storage/vfs"
)

// large are commands of a size.
func large(from, to, term uint64, size int) (list []*raft.Log) {
	for i := from; i <= to; i++ {
		list = append(list, &raft.Log{Index: i, Term: term, Type: raft.LogCommand, Data: make([]byte, size)})
	}
	return list
}

// A follower whose log's end is cut off, since its leader has other entries there, and which then finds no space for those, goes on
// believing in its old last index and refuses what follows for ever. Package cluster is told so, and relies on that a new instance
// over the same store takes it, once there is space. That the first instance refuses is the library's defect; when it no longer
// does, the remedy can go.
func TestFullDiskAfterACut(t *testing.T) {
	mem := vfs.NewMem()
	mem.SetCapacity(1<<20 + 1<<19) // the first log file, and no other
	g, _ := openGroup(t, mem)
	misled := 0
	log, stable := &ShardLog{Group: g, Misled: func() <-chan struct{} { misled++; return nil }}, openDB(t, t.TempDir()).Stable(1)
	members := raft.Configuration{Servers: []raft.Server{{ID: "A", Address: "A"}, {ID: "B", Address: "B"}}}
	config := raft.DefaultConfig()
	config.LocalID, config.Logger = "A", hclog.NewNullLogger()
	config.HeartbeatTimeout, config.ElectionTimeout = time.Hour, time.Hour
	address, near := raft.NewInmemTransport("A")
	set(t, raft.BootstrapCluster(config, log, stable, &ShardSnapshots{Group: g}, near, members))
	set(t, log.StoreLogs(large(2, 8, 1, 100<<10)))

	start := func() (*raft.Raft, *raft.InmemTransport) {
		_, near := raft.NewInmemTransport(address)
		_, far := raft.NewInmemTransport("B")
		far.Connect(address, near)
		instance, err := raft.NewRaft(config, machine{}, log, stable, &ShardSnapshots{Group: g}, near)
		set(t, err)
		return instance, far
	}
	header := raft.RPCHeader{ProtocolVersion: 3, ID: []byte("B"), Addr: []byte("B")}
	follow := func(far *raft.InmemTransport, prev, term uint64, entries []*raft.Log) bool {
		var p raft.AppendEntriesResponse
		set(t, far.AppendEntries("A", address, &raft.AppendEntriesRequest{RPCHeader: header, Term: 2, PrevLogEntry: prev, PrevLogTerm: term,
			Entries: entries}, &p))
		return p.Success
	}

	instance, far := start()
	if follow(far, 8, 1, large(9, 9, 2, 400<<10)) || misled != 0 { // nothing was cut off: it can be sent again
		t.Fatalf("there was space, or the instance counts as misled: %d", misled)
	}
	if follow(far, 6, 1, large(7, 9, 2, 400<<10)) || misled != 1 {
		t.Fatalf("there was space, or nobody was told: %d", misled)
	}
	wantRange(t, log, 1, 6)
	mem.SetCapacity(0)
	if follow(far, 6, 1, large(7, 9, 2, 400<<10)) {
		t.Log("the library takes what follows the cut: its defect is mended")
	}
	set(t, instance.Shutdown().Error())

	instance, far = start()
	if !follow(far, 6, 1, large(7, 9, 2, 400<<10)) || instance.LastIndex() != 9 || misled != 1 {
		t.Errorf("a new instance does not take what follows the cut; its last index is %d, misled %d", instance.LastIndex(), misled)
	}
	set(t, instance.Shutdown().Error())
	wantRange(t, log, 1, 9)
}

// TestFullDiskAfterACutOfEverything: the cut may take all that the log holds, when what is before it has gone with its files.
func TestFullDiskAfterACutOfEverything(t *testing.T) {
	mem := vfs.NewMem()
	mem.SetCapacity(1<<20 + 1<<19)
	g, _ := openGroup(t, mem)
	misled := 0
	log := &ShardLog{Group: g, Misled: func() <-chan struct{} { misled++; return nil }}
	set(t, log.StoreLogs(large(1, 8, 1, 100<<10)))
	set(t, g.TruncatePrefix(7)) // as if their files had retired
	set(t, log.DeleteRange(8, 8))
	if err := log.StoreLogs(large(8, 9, 2, 400<<10)); err == nil || misled != 1 {
		t.Errorf("entries without room: %v, told %d times", err, misled)
	}
	set(t, log.DeleteRange(1, 7)) // of what is not there
	if err := log.StoreLogs(large(8, 9, 2, 400<<10)); err == nil || misled != 1 {
		t.Errorf("entries without room, and nothing was cut off: %v, told %d times", err, misled)
	}
}

// TestMembersThatCannotBeStored: a leader goes by a change of members as soon as it is to be stored. When there is no room for it, its
// instance neither counts votes nor commits by what no log holds: it waits for its end, and a new one knows the members that it had.
func TestMembersThatCannotBeStored(t *testing.T) {
	mem := vfs.NewMem()
	mem.SetCapacity(1<<20 + 1<<19)
	g, store := openGroup(t, mem)
	var running atomic.Pointer[raft.Raft]
	told, over := make(chan struct{}, 1), make(chan struct{})
	log := &ShardLog{Group: g, Leads: func() bool { r := running.Load(); return r != nil && r.State() == raft.Leader },
		Misled: func() <-chan struct{} { told <- struct{}{}; return over }}
	stable := openDB(t, t.TempDir()).Stable(1)
	members := raft.Configuration{Servers: []raft.Server{{ID: "A", Address: "A"}, {ID: "B", Address: "B"}}}
	config := func(id raft.ServerID, timeout time.Duration) *raft.Config {
		c := raft.DefaultConfig()
		c.LocalID, c.Logger = id, hclog.NewNullLogger()
		c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = timeout, timeout, timeout
		return c
	}
	_, near := raft.NewInmemTransport("A")
	_, far := raft.NewInmemTransport("B")
	near.Connect("B", far)
	far.Connect("A", near)
	other := raft.NewInmemStore()
	set(t, raft.BootstrapCluster(config("A", time.Second), log, stable, &ShardSnapshots{Group: g}, near, members))
	set(t, raft.BootstrapCluster(config("B", time.Hour), other, other, raft.NewDiscardSnapshotStore(), far, members))
	b, err := raft.NewRaft(config("B", time.Hour), machine{}, other, other, raft.NewDiscardSnapshotStore(), far)
	set(t, err)
	defer func() { set(t, b.Shutdown().Error()) }()
	start := func() *raft.Raft {
		r, err := raft.NewRaft(config("A", 100*time.Millisecond), machine{}, log, stable, &ShardSnapshots{Group: g}, near)
		set(t, err)
		running.Store(r)
		return r
	}
	a := start()
	for deadline := time.Now().Add(time.Minute); a.State() != raft.Leader || a.Barrier(time.Minute).Error() != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("A does not lead")
		}
	}
	beside, err := store.Group(2) // fills the disk to the last octet
	set(t, err)
	for i, size := uint64(1), 300<<10; size > 0; {
		if err := (&ShardLog{Group: beside}).StoreLogs(large(i, i, 1, size)); err != nil {
			size /= 2
		} else {
			i++
		}
	}
	removed := a.RemoveServer("B", 0, 0)
	<-told
	last := a.LastIndex()
	mem.SetCapacity(0)
	for deadline := time.Now().Add(time.Second); a.LastIndex() == last && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		// ten election timeouts, in which it does nothing
	}
	near.DisconnectAll() // as package cluster does, which then ends the instance
	ended := make(chan error, 1)
	go func() { ended <- a.Shutdown().Error() }()
	for a.State() != raft.Shutdown { // the library says so before it waits for the main loop
		time.Sleep(time.Millisecond)
	}
	close(over)
	set(t, <-ended)
	if err := removed.Error(); err == nil || a.LastIndex() != last {
		t.Errorf("without room B was removed: %v; the log goes up to %d, not %d", err, a.LastIndex(), last)
	}
	a = start()
	defer func() { set(t, a.Shutdown().Error()) }()
	known := a.GetConfiguration()
	set(t, known.Error())
	if got := known.Configuration().Servers; len(got) != 2 {
		t.Errorf("the new instance has the members %v", got)
	}
}

// TestEmptySnapshot: a stream without octets makes no snapshot of what is here already.
func TestEmptySnapshot(t *testing.T) {
	g, _ := openGroup(t, vfs.NewMem())
	snaps := &ShardSnapshots{Group: g}
	sink, err := snaps.Create(1, 5, 1, testMembers, 1, nil)
	set(t, err)
	set(t, SaveState(sink, testState{"state", nil}))
	set(t, sink.Close())
	sink, err = snaps.Create(1, 9, 2, testMembers, 1, nil)
	set(t, err)
	if err := sink.Close(); err == nil {
		t.Error("nothing came, and it counts as the snapshot at 9")
	}
}
