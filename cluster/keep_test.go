package cluster

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/warrenmq/warren/cluster/pipe"
	"github.com/warrenmq/warren/cluster/raftstore"
	"github.com/warrenmq/warren/raftfsm/catalog"
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

// TestAFirstMemberIsGone: a first member that is gone before it has registered is waited for as long as one that cannot be reached
// counts as alive, and no longer, when a majority has registered.
func TestAFirstMemberIsGone(t *testing.T) {
	now := time.Now()
	long := now.Add(-sessionGrace - time.Second)
	for name, test := range map[string]struct {
		registered []string
		missing    map[string]*peerInfo
		goesOn     bool
	}{
		"dead for long":               {[]string{"a", "b"}, map[string]*peerInfo{"x": {state: pipe.PeerDead, since: long}}, true},
		"not reached for long":        {[]string{"a", "b"}, map[string]*peerInfo{"x": {state: pipe.PeerUnreachable, since: long}}, true},
		"it may be starting again":    {[]string{"a", "b"}, map[string]*peerInfo{"x": {state: pipe.PeerDead, since: now}}, false},
		"it is there":                 {[]string{"a", "b"}, map[string]*peerInfo{"x": {state: pipe.PeerAlive, since: long}}, false},
		"nothing is known of it":      {[]string{"a", "b"}, nil, false},
		"no majority":                 {[]string{"a"}, map[string]*peerInfo{"b": {state: pipe.PeerDead, since: long}, "x": {state: pipe.PeerDead, since: long}}, false},
		"one of two that are missing": {[]string{"a"}, map[string]*peerInfo{"b": {state: pipe.PeerAlive, since: long}, "x": {state: pipe.PeerDead, since: long}}, false},
	} {
		c := &Cluster{identity: identity{UUID: "a"}}
		c.founded.Store(&founding{Servers: []foundingNode{{UUID: "a"}, {UUID: "b"}, {UUID: "x"}}})
		d := &directory{byUUID: map[string]*catalog.Node{}}
		for _, uuid := range test.registered {
			d.byUUID[uuid] = &catalog.Node{UUID: uuid}
		}
		c.directory.Store(d)
		c.watcher = newWatcher(t.Context(), c)
		c.watcher.peers = test.missing
		if c.goesOnWithout(now) != test.goesOn {
			t.Errorf("%s: the shards are placed: %v", name, !test.goesOn)
		}
	}
}
