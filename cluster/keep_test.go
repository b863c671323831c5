package cluster

import (
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/warrenmq/warren/cluster/raftstore"
	"github.com/warrenmq/warren/storage"
)

// TestEndOfAReplicaCutShort: a node that was killed when it had given up a seat, and before it had discarded what that held, discards it
// when it starts. It keeps what any other seat holds, though the catalog knows of no such shard.
func TestEndOfAReplicaCutShort(t *testing.T) {
	m := startMembersOf(t, 1, 1)[0]
	m.stop()
	seats := map[uint32]raftstore.Seat{
		6: {Incarnation: 1}, // a first member that was killed when it began
		7: {Incarnation: 2, Ready: true},
		8: {},               // the votes are lost
		9: {Incarnation: 2}, // what endReplica leaves
	}
	store, err := storage.Open(storage.Options{Dir: filepath.Join(m.o.DataDir, "store"), WALFileSize: 4 << 20, OnFatal: func(err error) { panic(err) }})
	must(t, err)
	db, _, err := raftstore.OpenDB(m.o.DataDir)
	must(t, err)
	for id, seat := range seats {
		g, err := store.Group(id)
		must(t, err)
		must(t, (&raftstore.ShardLog{Group: g}).StoreLogs([]*raft.Log{{Index: 1, Term: 1, Type: raft.LogNoop}}))
		if seat.Incarnation > 0 {
			must(t, db.Stable(id).SaveSeat(seat))
		}
	}
	must(t, db.Close())
	must(t, store.Close())

	must(t, m.start())
	last := func(id uint32) uint64 {
		g, err := m.store.Group(id)
		must(t, err)
		return g.LastIndex()
	}
	eventually(t, "what the seat that was given up held is discarded", func() bool { return last(9) == 0 })
	for id := range seats {
		if id != 9 && last(id) != 1 {
			t.Errorf("what seat %+v of shard %d held is gone", seats[id], id)
		}
	}
}
