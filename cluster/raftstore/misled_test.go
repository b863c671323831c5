package raftstore

import (
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/warrenmq/warren/storage/vfs"
)

// A follower whose log's end is cut off, since its leader has other entries there, and which then finds no space for those, goes on
// believing in its old last index and refuses what follows for ever. Package cluster is told so, and relies on that a new instance
// over the same store takes it, once there is space. That the first instance refuses is the library's defect; when it no longer
// does, the remedy can go.
func TestFullDiskAfterACut(t *testing.T) {
	mem := vfs.NewMem()
	mem.SetCapacity(1<<20 + 1<<19) // the first log file, and no other
	g, _ := openGroup(t, mem)
	misled := 0
	log, stable := &ShardLog{Group: g, Misled: func() { misled++ }}, openDB(t, t.TempDir()).Stable(1)
	members := raft.Configuration{Servers: []raft.Server{{ID: "A", Address: "A"}, {ID: "B", Address: "B"}}}
	config := raft.DefaultConfig()
	config.LocalID, config.Logger = "A", hclog.NewNullLogger()
	config.HeartbeatTimeout, config.ElectionTimeout = time.Hour, time.Hour
	address, near := raft.NewInmemTransport("A")
	set(t, raft.BootstrapCluster(config, log, stable, &ShardSnapshots{Group: g}, near, members))
	entries := func(from, to, term uint64, size int) (list []*raft.Log) {
		for i := from; i <= to; i++ {
			list = append(list, &raft.Log{Index: i, Term: term, Type: raft.LogCommand, Data: make([]byte, size)})
		}
		return list
	}
	set(t, log.StoreLogs(entries(2, 8, 1, 100<<10)))

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
	if follow(far, 8, 1, entries(9, 9, 2, 400<<10)) || misled != 0 { // nothing was cut off: it can be sent again
		t.Fatalf("there was space, or the instance counts as misled: %d", misled)
	}
	if follow(far, 6, 1, entries(7, 9, 2, 400<<10)) || misled != 1 {
		t.Fatalf("there was space, or nobody was told: %d", misled)
	}
	wantRange(t, log, 1, 6)
	mem.SetCapacity(0)
	if follow(far, 6, 1, entries(7, 9, 2, 400<<10)) {
		t.Log("the library takes what follows the cut: its defect is mended")
	}
	set(t, instance.Shutdown().Error())

	instance, far = start()
	if !follow(far, 6, 1, entries(7, 9, 2, 400<<10)) || instance.LastIndex() != 9 || misled != 1 {
		t.Errorf("a new instance does not take what follows the cut; its last index is %d, misled %d", instance.LastIndex(), misled)
	}
	set(t, instance.Shutdown().Error())
	wantRange(t, log, 1, 9)
}
