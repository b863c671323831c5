package cluster

import (
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/cluster/pipe"
	"github.com/warrenmq/warren/cluster/raftstore"
	nodev1 "github.com/warrenmq/warren/proto/node/v1"
	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"
	"github.com/warrenmq/warren/storage"
	"github.com/warrenmq/warren/storage/vfs"
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
	db, err := raftstore.OpenDB(m.o.DataDir)
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

// TestWhichSessionsAreOver: of a member that is lost, also when it was never heard here; never of one that may have registered since it
// was last looked for.
func TestWhichSessionsAreOver(t *testing.T) {
	now := time.Now()
	long, short := now.Add(-sessionGrace-time.Second), now.Add(-time.Second)
	session := uint64(queue.MakeSessionID(2, 5))
	before, after := &nodev1.Status{Session: session - 1}, &nodev1.Status{Session: session}
	for name, test := range map[string]struct {
		peer peerInfo
		seen time.Time
		over bool
	}{
		"its process has ended":                            {peerInfo{state: pipe.PeerDead, since: short, status: after}, long, true},
		"it is silent for long":                            {peerInfo{state: pipe.PeerUnreachable, since: long, status: after}, long, true},
		"and another leads the catalog since":              {peerInfo{state: pipe.PeerUnreachable, since: long, status: after}, short, true},
		"it is silent":                                     {peerInfo{state: pipe.PeerUnreachable, since: short, status: after}, long, false},
		"it is there":                                      {peerInfo{state: pipe.PeerAlive, since: long, status: after}, long, false},
		"it is there, and registers":                       {peerInfo{state: pipe.PeerAlive, since: long, status: before}, long, false},
		"it was never heard here, for long":                {peerInfo{state: pipe.PeerUnreachable, since: long}, long, true},
		"it was never heard here and refuses, for long":    {peerInfo{state: pipe.PeerDead, since: long}, long, true},
		"this node has just started":                       {peerInfo{state: pipe.PeerUnreachable, since: short}, long, false},
		"it was not there for long, and has registered":    {peerInfo{state: pipe.PeerUnreachable, since: long}, short, false},
		"it was ended for long, and has registered":        {peerInfo{state: pipe.PeerDead, since: long}, short, false},
		"its run before has ended":                         {peerInfo{state: pipe.PeerDead, since: short, status: before}, short, false},
		"its run before has ended, and nothing came since": {peerInfo{state: pipe.PeerDead, since: long, status: before}, long, true},
		"it is not looked for yet":                         {peerInfo{state: pipe.PeerUnreachable}, long, false},
	} {
		c := &Cluster{}
		c.watcher = newWatcher(t.Context(), c)
		c.watcher.peers["x"] = &test.peer
		if c.isOver(&catalog.Node{Number: 2, UUID: "x", Run: 5}, test.seen, now) != test.over {
			t.Errorf("%s: its session is over: %v", name, !test.over)
		}
	}
}

// TestNothingWaitsForANodeThatIsNone: what is meant for the memory of a node that was removed before this one started is answered.
func TestNothingWaitsForANodeThatIsNone(t *testing.T) {
	m := startMembersOf(t, 1, 1)[0]
	local := queue.LocalShard | 77
	results := m.do(local, func(b *queue.Batch) { b.Purge(queue.MakeQueueID(local, 1)) })
	if len(results) != 1 || results[0].Code != queue.Gone {
		t.Errorf("the answer is %+v", results)
	}
}

// TestLostSessionsAreToldOfAgain: all are told of a lost member once in a while, whether or not its clients had queues with names; and at
// once of one that was reached in between, and of its next run.
func TestLostSessionsAreToldOfAgain(t *testing.T) {
	began := time.Now()
	peer := &peerInfo{state: pipe.PeerUnreachable, since: began}
	c := &Cluster{runs: map[uint16]*memberRun{}}
	c.leases = newLeases(c)
	c.watcher = newWatcher(t.Context(), c)
	c.watcher.peers["x"] = peer
	run := uint64(1)
	for i, step := range []struct {
		after  time.Duration // since the last one
		change func(now time.Time)
		told   bool
	}{
		{0, func(time.Time) {}, false},
		{sessionGrace, func(time.Time) {}, false},
		{time.Second, func(time.Time) {}, true},
		{tellAgain - 1, func(time.Time) {}, false},
		{1, func(time.Time) {}, true},
		{time.Second, func(now time.Time) { peer.state, peer.since = pipe.PeerAlive, now }, false},
		{time.Second, func(now time.Time) {
			peer.state, peer.since, peer.status = pipe.PeerDead, now, &nodev1.Status{Session: uint64(queue.MakeSessionID(2, 1))}
		}, true},
		{time.Second, func(time.Time) { run = 2 }, false},
		{time.Second, func(now time.Time) {
			peer.since, peer.status = now, &nodev1.Status{Session: uint64(queue.MakeSessionID(2, 2))}
		}, true},
	} {
		began = began.Add(step.after)
		step.change(began)
		n := &catalog.Node{Number: 2, UUID: "x", Run: run}
		c.directory.Store(&directory{byNumber: map[uint16]*catalog.Node{2: n}})
		lost := c.lostRuns(began)
		for _, r := range lost {
			r.told = began
		}
		if told := len(lost) == 1 && lost[0].session == n.Session(); told != step.told {
			t.Errorf("step %d: told of %d", i, len(lost))
		}
	}
}

// TestALostSessionEndsWithItsLease: the catalog is not changed for a member that has died before its lease is over; what rests on the catalog
// would wait for it.
func TestALostSessionEndsWithItsLease(t *testing.T) {
	l := bareLeases(t)
	c := l.c
	c.runs, c.leases = map[uint16]*memberRun{}, l
	c.watcher = newWatcher(t.Context(), c)
	now := time.Now()
	c.watcher.peers["x"] = &peerInfo{state: pipe.PeerDead, since: now, status: &nodev1.Status{Session: uint64(queue.MakeSessionID(2, 1))}}
	c.directory.Store(&directory{byNumber: map[uint16]*catalog.Node{2: {Number: 2, UUID: "x", Run: 1}}})
	l.lead(now)
	for _, test := range []struct {
		after time.Duration
		told  bool
	}{{0, false}, {leaseTime - 1, false}, {leaseTime, true}} {
		if told := len(c.lostRuns(now.Add(test.after))) == 1; told != test.told {
			t.Errorf("after %v all are told: %v", test.after, told)
		}
	}
}

// TestAReplicaThatCouldNotStart: a damaged replica cannot be discarded when its node starts, since the disk is full. When there is room it
// is rebuilt, though the node is not started again.
func TestAReplicaThatCouldNotStart(t *testing.T) {
	members := startMembersOf(t, 3, 1)
	id := queue.MakeQueueID(0, 9)
	members[0].declare(id, queue.Settings{Name: "q"})
	members[0].enqueue(id, 100, "body")
	victim := members[2]
	before := victim.shard(0).server()
	must(t, victim.shard(0).checkpoint())
	victim.stop()
	name := filepath.Join(victim.o.DataDir, "store", "group-0", "checkpoint")
	data, err := os.ReadFile(name)
	must(t, err)
	data[len(data)-30] ^= 4
	must(t, os.WriteFile(name, data, 0o600))
	var full atomic.Bool
	full.Store(true)
	victim.fs = vfs.Inject(vfs.OS(), func(op vfs.Op) error {
		if full.Load() && op.Kind == "remove" && op.Name == name {
			return syscall.ENOSPC
		}
		return nil
	})
	must(t, victim.start())
	if victim.damaged(0) == "" || victim.shard(0) != nil {
		t.Fatal("the replica takes part")
	}
	full.Store(false)
	eventually(t, "the replica votes under another id and is whole", func() bool {
		s := victim.shard(0)
		if s == nil || s.server() == before || !s.votes() {
			return false
		}
		c, ok := s.host.PeekCounts(id)
		return ok && c.Ready == 100
	})
	if why := victim.damaged(0); why != "" {
		t.Errorf("it is still said that it does not take part: %s", why)
	}
}

// TestALoneReplicaMovesToAKilledNode: the node that a shard's only replica moves to was killed when it had noted its seat, and before anything
// came. The replica is not lost: it is where it was, and moves when the node is back.
func TestALoneReplicaMovesToAKilledNode(t *testing.T) {
	members := newMembers(t, 2, 1)
	for _, m := range members {
		m.o.Replicas = 1
	}
	startAll(t, members)
	settled(t, members)
	from, to := members[0], members[1]
	if from.shard(0) == nil {
		from, to = to, from
	}
	id := queue.MakeQueueID(0, 9)
	from.declare(id, queue.Settings{Name: "q"})
	from.enqueue(id, 100, "body")
	number := uint32(to.Self().Node)
	to.stop()
	db, err := raftstore.OpenDB(to.o.DataDir)
	must(t, err)
	must(t, db.Stable(0).SaveSeat(raftstore.Seat{Incarnation: 1, Ready: true})) // what group.open notes first
	must(t, db.Close())
	must(t, to.start())
	from.propose(catalog.SetReplicas(&raftv1.SetReplicas{Shards: []*raftv1.ShardReplicas{{Shard: 0, Nodes: []uint32{number}, Preferred: number, PreviousVersion: 1}}}))
	eventually(t, "the replica has moved", func() bool { return to.shard(0) != nil && from.shard(0) == nil })
	if n := to.ready(id); n != 100 {
		t.Errorf("%d messages of 100 came with it", n)
	}
}

// TestALaterRunIsRegistered: a process ends when the catalog has a later run of its node, whose exclusive queues alone it takes.
func TestALaterRunIsRegistered(t *testing.T) {
	for run, ends := range map[uint64]bool{4: false, 5: false, 6: true} {
		var why error
		c := &Cluster{identity: identity{UUID: "a"}, o: Options{OnFatal: func(err error) { why = err }}}
		c.watcher = newWatcher(t.Context(), c)
		c.self.Store(&broker.Self{Node: 2, Session: queue.MakeSessionID(2, 5)})
		n := &catalog.Node{Number: 2, UUID: "a", Run: run}
		c.directory.Store(&directory{byNumber: map[uint16]*catalog.Node{2: n}, byUUID: map[string]*catalog.Node{"a": n}})
		c.followMembers(map[uint16]uint64{})
		if (why != nil) != ends {
			t.Errorf("run 5 of a node of which the catalog has run %d: %v", run, why)
		}
	}
}

// TestPausesBetweenTries: what could not be started is tried again after a while, and more and more rarely.
func TestPausesBetweenTries(t *testing.T) {
	again, now := retries{}, time.Now()
	for _, pause := range []time.Duration{startPause, 2 * startPause, 4 * startPause, 8 * startPause, 16 * startPause, maxStartPause, maxStartPause} {
		if !again.due(1, now) || !again.due(2, now) {
			t.Fatal("it is not tried")
		}
		again.tried(1, now, errLost)
		if now = now.Add(pause); again.due(1, now.Add(-1)) {
			t.Fatalf("it is tried again before %v", pause)
		}
	}
	again.tried(1, now, nil)
	again.tried(1, now, errLost)
	if !again.due(1, now.Add(startPause)) {
		t.Error("the pause is that of an earlier failure")
	}
}
