package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/warrenmq/warren/cluster/pipe"
	"github.com/warrenmq/warren/cluster/raftnet"
	nodev1 "github.com/warrenmq/warren/proto/node/v1"
	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// traffic puts messages into a queue of each shard through a node until it is stopped, and counts those that were applied.
type traffic struct {
	m       *member
	queues  []queue.QueueID
	applied []atomic.Uint64
	stop    func()
}

// startTraffic declares a queue in each shard and begins.
func startTraffic(t *testing.T, m *member) *traffic {
	t.Helper()
	l := &traffic{m: m}
	for shard := range queue.ShardID(m.o.Shards) {
		id := queue.MakeQueueID(shard, 100)
		l.queues = append(l.queues, id)
		m.do(shard, func(b *queue.Batch) { b.Configure(id, &queue.Settings{VHost: "/", Name: "q", Durable: true}) })
	}
	l.applied = make([]atomic.Uint64, len(l.queues))
	quit := make(chan struct{})
	var work sync.WaitGroup
	for i, id := range l.queues {
		work.Go(func() {
			for {
				select {
				case <-quit:
					return
				default:
				}
				m.enqueue(id, 3, strings.Repeat("body", 50))
				l.applied[i].Add(3)
			}
		})
	}
	l.stop = sync.OnceFunc(func() { close(quit); work.Wait() })
	t.Cleanup(l.stop)
	return l
}

// check ends the load and compares what was applied with what there is: through a node, and in the replicas of all.
func (l *traffic) check(t *testing.T, members []*member) {
	t.Helper()
	l.stop()
	for i, id := range l.queues {
		want := l.applied[i].Load()
		for _, m := range members {
			if n := m.ready(id); n != want {
				t.Errorf("%s counts %d messages in shard %d, %d were applied", m.o.Name, n, id.Shard(), want)
			}
			if s := m.shard(id.Shard()); s != nil {
				eventually(t, "a replica holds everything", func() bool { c, ok := s.host.PeekCounts(id); return ok && c.Ready == want })
			}
		}
	}
}

// settled waits until all shards are where the planner wants them, every node says so, and none has anything else.
func settled(t *testing.T, members []*member) {
	t.Helper()
	eventually(t, fmt.Sprintf("the shards are settled on %d nodes", len(members)), func() bool {
		for _, m := range members {
			now := m.situation()
			if len(now.nodes) != len(members) || !now.complete {
				return false
			}
			for _, sh := range now.shards {
				if !sh.Settled || !sh.Healthy {
					return false
				}
			}
			for _, s := range m.shards() {
				if !containsNode(m.placementOf(s.group.id), m.Self().Node) {
					return false
				}
			}
			if len(m.watcher.all()) != len(members)-1 || len(m.catalog.members()) != len(members) {
				return false
			}
		}
		return true
	})
}

func containsNode(nodes []uint16, node uint16) bool {
	for _, n := range nodes {
		if n == node {
			return true
		}
	}
	return false
}

// TestWipedNode empties a node's directory under load: it comes back as another node of its name, takes the former one's
// seats, and nothing is lost.
func TestWipedNode(t *testing.T) {
	members := startMembers(t, 3)
	l := startTraffic(t, members[0])
	victim := members[2]
	for round := range 2 {
		former := victim.identity.UUID
		victim.stop()
		if err := os.RemoveAll(victim.o.DataDir); err != nil {
			t.Fatal(err)
		}
		if err := victim.start(); err != nil {
			t.Fatal(err)
		}
		if victim.identity.UUID == former {
			t.Fatal("an emptied directory has the identity that it had")
		}
		if n := victim.Self().Node; n != uint16(4+round) {
			t.Errorf("the new node has number %d", n)
		}
		settled(t, members)
		eventually(t, "every node knows that the former one has no seat, and that all have votes", func() bool {
			for _, m := range members {
				for _, g := range m.groups() {
					servers := g.members()
					if len(servers) != 3 || voters(servers) != 3 || hasVote(servers, former) {
						return false
					}
				}
			}
			return true
		})
	}
	l.check(t, members)
}

// TestAReplicaStaysUntilAnotherVotes: a replica that is to move does not go while the one in its place has a seat and no vote, also when the
// node of that one has died meanwhile: the group would have one voter less, and another death could end it.
func TestAReplicaStaysUntilAnotherVotes(t *testing.T) {
	members := startMembersOf(t, 3, 1)
	settled(t, members)
	leader := leaderOf(t, members)
	others := slices.DeleteFunc(slices.Clone(members), func(m *member) bool { return m == leader })
	stays, moves := others[0], others[1]
	g := leader.shard(0).group
	const dead = "11111111-2222-3333-4444-555555555555"
	seat := raftnet.ServerID(dead, 1)
	if err := g.instance().AddNonvoter(seat, raft.ServerAddress(seat), 0, patience).Error(); err != nil {
		t.Fatal(err)
	}
	wanted := []string{leader.identity.UUID, stays.identity.UUID, dead}
	if done, err := leader.Cluster.exchange(g, wanted); !done || err != nil {
		t.Errorf("a member was changed: %v, %v", done, err)
	}
	f := g.instance().GetConfiguration()
	if err := f.Error(); err != nil {
		t.Fatal(err)
	}
	if servers := f.Configuration().Servers; !hasVote(servers, moves.identity.UUID) {
		t.Errorf("the replica has gone, and nobody votes in its place: %v", servers)
	}
}

// TestWhoIsWantedInTheCatalog: a node that is to go and has gone has no vote until all that it held is copied. One that is slow or cut off for
// a moment, or that nobody has told to go, has.
func TestWhoIsWantedInTheCatalog(t *testing.T) {
	now := time.Now()
	long, short := now.Add(-sessionGrace-time.Second), now.Add(-time.Second)
	for name, test := range map[string]struct {
		leaving bool
		other   string // name of another node that stays
		peer    peerInfo
		wanted  bool
	}{
		"it is to go, and its process has ended":      {true, "y", peerInfo{state: pipe.PeerDead, since: short}, false},
		"it is to go, and was not reached for long":   {true, "y", peerInfo{state: pipe.PeerUnreachable, since: long}, false},
		"it is to go, and is cut off for a moment":    {true, "y", peerInfo{state: pipe.PeerUnreachable, since: short}, true},
		"another has come in its place":               {true, "x", peerInfo{state: pipe.PeerUnreachable, since: short}, false},
		"and it lives all the same":                   {true, "x", peerInfo{state: pipe.PeerAlive, since: short}, true},
		"it is to go, and hands over what it holds":   {true, "y", peerInfo{state: pipe.PeerAlive, since: long}, true},
		"it is to go, and was not looked for yet":     {true, "y", peerInfo{state: pipe.PeerUnreachable}, true},
		"its process has ended, and it may come back": {false, "y", peerInfo{state: pipe.PeerDead, since: long}, true},
		"it is away for long, and may come back":      {false, "y", peerInfo{state: pipe.PeerUnreachable, since: long}, true},
	} {
		c := &Cluster{identity: identity{UUID: "self"}}
		c.founded.Store(&founding{})
		c.watcher = newWatcher(t.Context(), c)
		c.watcher.peers["x"] = &test.peer
		c.directory.Store(&directory{placed: true, byNumber: map[uint16]*catalog.Node{
			1: {UUID: "self", Name: "self", Leaving: true}, 2: {UUID: "x", Name: "x", Leaving: test.leaving}, 3: {UUID: "y", Name: test.other}}})
		wanted := c.wantedNodes(catalogGroup)
		if !slices.Contains(wanted, "self") || slices.Contains(wanted, "x") != test.wanted {
			t.Errorf("%s: wanted are %v", name, wanted)
		}
	}
}

// TestCatalogVotesOfAReplacedNode: the node in a dead one's place votes in the catalog, and the dead one does not, before what that one held
// is copied: one death more would stop the catalog.
func TestCatalogVotesOfAReplacedNode(t *testing.T) {
	members := startMembersOf(t, 3, 1)
	settled(t, members)
	victim := members[2]
	former := victim.identity.UUID
	victim.stop()
	must(t, os.RemoveAll(victim.o.DataDir))
	for _, m := range members[:2] { // the copy takes long
		m.shard(0).halt("test")
	}
	started := make(chan error, 1)
	go func() { started <- victim.start() }()
	eventually(t, "the dead node has no vote, and the new one has", func() bool {
		leader, _ := catalogLeader(t, members[:2])
		servers := leader.catalog.members()
		return len(servers) == 3 && voters(servers) == 3 && !hasVote(servers, former)
	})
	if now := members[0].situation(); now.complete {
		t.Errorf("what it held is copied already: %+v", now.shards)
	}
	for _, m := range members[:2] {
		m.shard(0).resume()
	}
	must(t, <-started)
	settled(t, members)
}

// TestWipedWhileTheOthersWereAway empties a node's directory while those that could tell where it listened are started anew: it is
// let in at once all the same, not when a node that cannot be reached is given up.
func TestWipedWhileTheOthersWereAway(t *testing.T) {
	members := startMembers(t, 3)
	victim := members[2]
	former, request := victim.identity.UUID, &nodev1.JoinRequest{Uuid: "another", Name: victim.o.Name, Address: victim.member().Address}
	for _, m := range members {
		m.stop()
	}
	must(t, os.RemoveAll(victim.o.DataDir))
	started := make(chan error, len(members))
	for _, m := range members {
		go func() { started <- m.start() }()
	}
	must(t, <-started)
	must(t, <-started) // two of the three: the victim is let in after the others have begun to serve
	leader, _ := catalogLeader(t, members[:2])
	eventually(t, "the leader has looked for the former node, or let the new one in", func() bool {
		return leader.watcher.info(former).tried || leader.namesake(request) == nil || leader.namesake(request).UUID != former
	})
	if old := leader.namesake(request); old != nil && old.UUID == former {
		if refusal, wait := leader.refuse(request); refusal != "" || wait {
			t.Errorf("it is refused: %q, %v", refusal, wait)
		}
	}
	must(t, <-started)
	settled(t, members)
}

// TestNameIsTaken: a second node under the name of one that runs is not let in.
func TestNameIsTaken(t *testing.T) {
	members := startMembers(t, 3)
	second := newMember(t, members, 3)
	second.o.Name = members[1].o.Name
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // as long as it is to try
	defer cancel()
	if err := second.startUntil(ctx); err == nil || !strings.Contains(err.Error(), "running already") {
		t.Errorf("a second node of the name: %v", err)
	}
	if second.Cluster != nil {
		second.stop()
	}
}

// TestLostClusterFile: a node whose file that names its cluster is gone beside data, or damaged, begins no other. Members tell it where it
// belongs.
func TestLostClusterFile(t *testing.T) {
	damage := func(path string) error {
		data, err := os.ReadFile(path)
		if err == nil {
			data[len(data)/2] ^= 4
			err = os.WriteFile(path, data, 0o600)
		}
		return err
	}
	alone := func(t *testing.T, harm func(path string) error) {
		m := startMembers(t, 1)[0]
		m.stop()
		must(t, harm(filepath.Join(m.o.DataDir, foundingFile)))
		if err := m.start(); err == nil || !strings.Contains(err.Error(), "--join") {
			t.Errorf("it starts: %v", err)
		}
	}
	t.Run("gone, alone", func(t *testing.T) { alone(t, os.Remove) })
	t.Run("damaged, alone", func(t *testing.T) { alone(t, damage) })
	t.Run("damaged, alone and without data", func(t *testing.T) {
		m := newMembers(t, 1, 1)[0]
		must(t, os.MkdirAll(m.o.DataDir, 0o750))
		must(t, os.WriteFile(filepath.Join(m.o.DataDir, foundingFile), nil, 0o600))
		if err := m.start(); err == nil || !strings.Contains(err.Error(), "--join") {
			t.Errorf("it starts: %v", err)
		}
	})
	t.Run("among others", func(t *testing.T) {
		members := startMembers(t, 3)
		l := startTraffic(t, members[0])
		m := members[2]
		for _, harm := range []func(path string) error{os.Remove, damage} {
			uuid, cluster := m.identity.UUID, m.clusterID()
			m.stop()
			must(t, harm(filepath.Join(m.o.DataDir, foundingFile)))
			must(t, m.start())
			if m.identity.UUID != uuid || m.clusterID() != cluster || m.Self().Node > 3 {
				t.Errorf("it is another node: %s in %s, number %d", m.identity.UUID, m.clusterID(), m.Self().Node)
			}
			settled(t, members)
		}
		l.check(t, members)
	})
}

// TestLostNodeIsNoFirstMember: nodes that begin a cluster do not count one among them that has the data of another.
func TestLostNodeIsNoFirstMember(t *testing.T) {
	c := &Cluster{o: Options{Name: "n", Expect: 3}}
	if c.member().Expect != 3 {
		t.Error("a node without data is not counted")
	}
	if c.lost = true; c.member().Expect != 0 {
		t.Errorf("it is counted among %d", c.member().Expect)
	}
}

// TestVotesLostBeforeJoining: a node that has been of no cluster has promised nothing by votes that cannot be read any more: it is let
// in.
func TestVotesLostBeforeJoining(t *testing.T) {
	members := startMembers(t, 3)
	m := newMember(t, members, 3)
	if err := os.MkdirAll(m.o.DataDir, 0o750); err != nil {
		t.Fatal(err)
	}
	id, db, err := openIdentity(m.o.DataDir, false, m.o.Logger)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(m.o.DataDir, "raft.db"), 8494); err != nil {
		t.Fatal(err)
	}
	if err := m.start(); err != nil {
		t.Fatal(err)
	}
	if !m.db.Renewed() || m.identity.UUID != id.UUID || m.clusterID() != members[0].clusterID() {
		t.Errorf("%s is in %s, votes lost: %v", m.identity.UUID, m.clusterID(), m.db.Renewed())
	}
}

// newMember prepares a node that joins others.
func newMember(t *testing.T, members []*member, number int) *member {
	t.Helper()
	ports := freePorts(t, 2)
	m := &member{t: t, o: members[0].o}
	m.o.DataDir, m.o.Name, m.o.Expect = filepath.Join(t.TempDir(), "n"), fmt.Sprintf("n%d", number), 0
	m.o.ClusterPort, m.o.GossipPort, m.o.Join = ports[0], ports[1], nil
	for _, other := range members {
		m.o.Join = append(m.o.Join, "127.0.0.1:"+strconv.Itoa(other.o.GossipPort))
	}
	t.Cleanup(m.stop)
	return m
}

// TestFirstMemberIsLetIn: a first member that asks before it is told that the cluster has begun learns who the first members are: it
// waits for them if it comes to lead the catalog.
func TestFirstMemberIsLetIn(t *testing.T) {
	leader := startMembersOf(t, 1, 1)[0]
	x := newCandidate(t, "x", 2)
	f, d := *leader.founded.Load(), *leader.directory.Load()
	f.Servers = append(slices.Clone(f.Servers), foundingNode{"x", x.member().Address})
	d.placed = false
	leader.founded.Store(&f)
	leader.directory.Store(&d)
	x.knows(leader.Cluster)
	response, err := x.askToJoin(t.Context(), leader.member())
	must(t, err)
	must(t, x.found(foundingIn(response)))
	if got := x.founded.Load().Servers; !slices.Equal(got, f.Servers) {
		t.Errorf("it has written down the first members %v", got)
	}
}

// TestBegunWithoutAFirstMember: a first member that was away while the cluster began without it is let in under its identity when it comes,
// as long as it has never been registered. One that has been removed is not.
func TestBegunWithoutAFirstMember(t *testing.T) {
	members := startMembersOf(t, 2, 1)
	late := newMember(t, members, 2)
	must(t, os.MkdirAll(late.o.DataDir, 0o750))
	id, db, err := openIdentity(late.o.DataDir, false, late.o.Logger)
	must(t, err)
	must(t, db.Close())
	f := *members[0].founded.Load()
	f.Servers = append(slices.Clone(f.Servers), foundingNode{id.UUID, "127.0.0.1:" + strconv.Itoa(late.o.ClusterPort)})
	must(t, save(late.o.DataDir, foundingFile, f))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := late.startUntil(ctx); !errors.Is(err, ErrRemoved) {
		t.Fatalf("a node that is no member, and may have been one: %v", err)
	}
	late.Cluster = nil
	must(t, save(late.o.DataDir, promiseFile, promise{ClusterID: f.ClusterID, Servers: f.Servers}))
	must(t, late.start())
	if late.identity.UUID != id.UUID || late.unregistered() || exists(filepath.Join(late.o.DataDir, promiseFile)) {
		t.Errorf("it is %s; not registered: %v", late.identity.UUID, late.unregistered())
	}
	settled(t, append(members, late))
}
