package raftstore

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/warrenmq/warren/storage/vfs"
)

// machine is a state machine that takes whatever comes.
type machine struct{}

func (machine) Apply(*raft.Log) any                 { return nil }
func (machine) Snapshot() (raft.FSMSnapshot, error) { return nil, errors.New("no snapshots here") }
func (machine) Restore(r io.ReadCloser) error {
	_, err := io.Copy(io.Discard, r)
	return errors.Join(err, r.Close())
}

// A follower with a longer log of another history that gets a snapshot goes on believing in its old last index, and rejects
// what follows for ever (hashicorp/raft#697). What package cluster relies on is that a new instance over the same store takes
// it: the store has the snapshot, and nothing of the old log. That the first instance rejects is the library's defect; when
// it no longer does, the remedy can go.
func TestSnapshotOverALongerLog(t *testing.T) {
	_, snaps, _ := filled(t)
	snaps.Live()
	_, r, err := snaps.Open(liveID)
	set(t, err)
	stream, err := io.ReadAll(r)
	set(t, errors.Join(err, r.Close()))

	g, _ := openGroup(t, vfs.NewMem())
	log, stable := &ShardLog{Group: g}, openDB(t, t.TempDir()).Stable(1)
	members := raft.Configuration{Servers: []raft.Server{{ID: "A", Address: "A"}, {ID: "B", Address: "B"}}}
	config := raft.DefaultConfig()
	config.LocalID, config.Logger = "A", hclog.NewNullLogger()
	config.HeartbeatTimeout, config.ElectionTimeout = time.Hour, time.Hour
	address, near := raft.NewInmemTransport("A")
	set(t, raft.BootstrapCluster(config, log, stable, &ShardSnapshots{Group: g}, near, members))
	set(t, log.StoreLogs(shardEntries(2, 35, 1)))

	start := func() (*raft.Raft, *raft.InmemTransport) {
		_, near := raft.NewInmemTransport(address)
		_, far := raft.NewInmemTransport("B")
		far.Connect(address, near)
		instance, err := raft.NewRaft(config, machine{}, log, stable, &ShardSnapshots{Group: g}, near)
		set(t, err)
		return instance, far
	}
	header := raft.RPCHeader{ProtocolVersion: 3, ID: []byte("B"), Addr: []byte("B")}
	follow := func(far *raft.InmemTransport) bool {
		var p raft.AppendEntriesResponse
		set(t, far.AppendEntries("A", address, &raft.AppendEntriesRequest{RPCHeader: header, Term: 2, PrevLogEntry: 20, PrevLogTerm: 2,
			Entries: shardEntries(21, 21, 2), LeaderCommitIndex: 20}, &p))
		return p.Success
	}

	instance, far := start()
	var p raft.InstallSnapshotResponse
	set(t, far.InstallSnapshot("A", address, &raft.InstallSnapshotRequest{RPCHeader: header, SnapshotVersion: 1, Term: 2, LastLogIndex: 20, LastLogTerm: 2,
		Configuration: raft.EncodeConfiguration(testMembers), ConfigurationIndex: 3, Size: int64(len(stream))}, &p, bytes.NewReader(stream)))
	if !p.Success {
		t.Fatal("the snapshot was not installed")
	}
	wantRange(t, log, 0, 0)
	if follow(far) {
		t.Log("the library takes what follows the snapshot: #697 is mended")
	} else if instance.LastIndex() <= 20 { // by this package cluster knows that the instance is stuck
		t.Errorf("the instance rejects what follows, and its last index is %d", instance.LastIndex())
	}
	set(t, instance.Shutdown().Error())

	instance, far = start()
	if !follow(far) || instance.LastIndex() != 21 {
		t.Errorf("a new instance does not take what follows the snapshot; its last index is %d", instance.LastIndex())
	}
	set(t, instance.Shutdown().Error())
	wantRange(t, log, 21, 21)
}
