package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/cluster/raftstore"
	"github.com/warrenmq/warren/internal/freeport"
	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"
	"github.com/warrenmq/warren/storage"
	"github.com/warrenmq/warren/storage/vfs"
)

// patience bounds every wait of these tests; a busy machine with the race detector needs seconds.
const patience = 60 * time.Second

// member is a node of a test's cluster, in this process, with real disks and connections.
type member struct {
	*Cluster
	t     *testing.T
	o     Options
	fs    vfs.FS // of the store; nil: the operating system's
	cache int64  // of the store, in bytes; 0: its default
	store *storage.Store
	gone  chan struct{} // closed when the node is no member any more
}

// startMembers starts n nodes that wait for one another.
func startMembers(t *testing.T, n int) []*member {
	t.Helper()
	return startMembersOf(t, n, 3)
}

// startMembersOf is startMembers with another number of shards.
func startMembersOf(t *testing.T, n, shards int) []*member {
	t.Helper()
	members := newMembers(t, n, shards)
	startAll(t, members)
	return members
}

// newMembers makes n nodes that will wait for one another.
func newMembers(t *testing.T, n, shards int) []*member {
	t.Helper()
	members := make([]*member, n)
	var join []string
	for i := range members {
		ports := freePorts(t, 2)
		join = append(join, "127.0.0.1:"+strconv.Itoa(ports[1]))
		members[i] = &member{t: t, o: Options{DataDir: filepath.Join(t.TempDir(), "n"), Name: fmt.Sprintf("n%d", i), Host: "127.0.0.1",
			ClusterPort: ports[0], GossipPort: ports[1], Shards: shards, Replicas: 3, GuestPasswordHash: "x", Logger: slog.New(slog.DiscardHandler)}}
	}
	for _, m := range members {
		if n > 1 {
			m.o.Join, m.o.Expect = join, n
		}
	}
	return members
}

// startAll starts nodes, and stops them at the test's end.
func startAll(t *testing.T, members []*member) {
	t.Helper()
	started := make(chan error, len(members))
	for _, m := range members {
		go func() { started <- m.start() }()
	}
	for range members {
		if err := <-started; err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, m := range members {
			m.stop()
		}
	})
}

func freePorts(t *testing.T, n int) (ports []int) {
	t.Helper()
	ports, err := freeport.Find(n)
	if err != nil {
		t.Fatal(err)
	}
	return ports
}

func (m *member) start() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return m.startUntil(ctx)
}

func (m *member) startUntil(ctx context.Context) (err error) {
	fatal := func(err error) { panic(err) }
	m.store, err = storage.Open(storage.Options{Dir: filepath.Join(m.o.DataDir, "store"), FS: m.fs, CacheBytes: m.cache, WALFileSize: 4 << 20, SyncTimeout: patience, OnFatal: fatal})
	if err != nil {
		return err
	}
	b := broker.New(broker.Options{})
	m.gone = make(chan struct{})
	m.o.Store, m.o.Observer, m.o.OnFatal, m.o.OnRemoved = m.store, b, fatal, func() { close(m.gone) }
	m.Cluster, err = Start(ctx, m.o)
	if err != nil {
		return errors.Join(err, m.store.Close())
	}
	b.Start(m.Cluster)
	return nil
}

// stop ends the node, if it runs.
func (m *member) stop() {
	if m.Cluster == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := m.Close(ctx); err != nil {
		m.t.Error(err)
	}
	if err := m.store.Close(); err != nil {
		m.t.Error(err)
	}
	m.Cluster = nil
}

// exchange declares an exchange through this node.
func (m *member) exchange(name string) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	if _, err := m.Propose(ctx, catalog.DeclareExchange(&raftv1.DeclareExchange{Vhost: "/", Name: name, Type: "fanout", Durable: true})); err != nil {
		m.t.Fatal(err)
	}
}

func (m *member) hasExchange(name string) (has bool) {
	m.ReadCatalog(func(s *catalog.State) { has = s.VHost("/").Exchange(name) != nil })
	return has
}

// do has a batch applied and returns its results.
func (m *member) do(shard queue.ShardID, fill func(*queue.Batch)) []queue.Result {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	done := make(chan []queue.Result, 1)
	b := &broker.Batch{Done: func(_ *broker.Batch, r []queue.Result) { done <- append([]queue.Result(nil), r...) }}
	fill(&b.Batch)
	if err := m.Submit(ctx, shard, b); err != nil {
		m.t.Fatal(err)
	}
	select {
	case r := <-done:
		return r
	case <-ctx.Done():
		m.t.Fatalf("a batch for shard %d was not applied", shard)
		return nil
	}
}

// enqueue puts messages of one body into a queue.
func (m *member) enqueue(id queue.QueueID, n int, body string) {
	m.t.Helper()
	m.do(id.Shard(), func(b *queue.Batch) {
		for range n {
			mark := b.BeginEnqueue([]queue.QueueID{id}, &queue.EnqueueOptions{Persistent: true})
			b.Data = append(b.Data, body...)
			b.EndEnqueue(mark)
		}
	})
}

func (m *member) ready(id queue.QueueID) uint64 {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	counts, found, err := m.Counts(ctx, id)
	if err != nil || !found {
		m.t.Fatalf("counts: %v, %v", found, err)
	}
	return counts.Ready
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !condition(); {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestThreeNodes(t *testing.T) {
	members := startMembers(t, 3)
	for i, m := range members {
		for n := range 20 {
			name := fmt.Sprintf("x%d.%d", i, n)
			m.exchange(name)
			for _, other := range members {
				if !other.hasExchange(name) { // P6: when the change has answered, all act on it
					t.Fatalf("%s does not know %s", other.o.Name, name)
				}
				if err := other.Fresh(); err != nil {
					t.Fatalf("%s: %v", other.o.Name, err)
				}
			}
		}
	}
	var queues []queue.QueueID
	for shard := range queue.ShardID(3) {
		id := queue.MakeQueueID(shard, 7)
		queues = append(queues, id)
		members[0].do(shard, func(b *queue.Batch) { b.Configure(id, &queue.Settings{VHost: "/", Name: "q", Durable: true}) })
		for _, m := range members {
			m.enqueue(id, 10, "body")
		}
	}
	members[2].stop()
	for _, id := range queues {
		members[0].enqueue(id, 5, "while one is away")
	}
	members[1].exchange("while one is away")
	if err := members[2].start(); err != nil {
		t.Fatal(err)
	}
	for _, id := range queues {
		for _, m := range members {
			if n := m.ready(id); n != 35 {
				t.Errorf("%s counts %d messages in shard %d", m.o.Name, n, id.Shard())
			}
		}
	}
	if !members[2].hasExchange("while one is away") {
		t.Error("the node that came back does not know what was declared meanwhile")
	}
	for _, s := range members[2].shards() {
		eventually(t, "the replica has caught up", func() bool { c, ok := s.host.PeekCounts(queues[s.id]); return ok && c.Ready == 35 })
	}
}

// TestLostReplica takes from a stopped node its votes, and from another run its log: it comes back under other seats, and
// with everything.
func TestLostReplica(t *testing.T) {
	members := startMembers(t, 3)
	id := queue.MakeQueueID(1, 9)
	members[0].do(1, func(b *queue.Batch) { b.Configure(id, &queue.Settings{VHost: "/", Name: "q", Durable: true}) })
	members[0].enqueue(id, 100, "body")
	for i, take := range []func(dir string) error{
		func(dir string) error { return os.Remove(filepath.Join(dir, "raft.db")) },
		func(dir string) error { return os.RemoveAll(filepath.Join(dir, "store")) },
		func(dir string) error { // a bit in the middle of what was acknowledged
			files, err := filepath.Glob(filepath.Join(dir, "store", "wal", "0*.wal"))
			if err != nil || len(files) == 0 {
				return fmt.Errorf("no log: %w", err)
			}
			data, err := os.ReadFile(files[0])
			if err != nil {
				return err
			}
			for at := 1 << 10; at < 64<<10; at += 512 {
				data[at] ^= 4
			}
			return os.WriteFile(files[0], data, 0o600)
		},
		func(dir string) error { // a bit in the body of a checkpoint, which is read by the instance that starts with it
			name := filepath.Join(dir, "store", "group-1", "checkpoint")
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			data[len(data)-30] ^= 4 // the last block has 16 octets
			return os.WriteFile(name, data, 0o600)
		},
		func(dir string) error { // older votes, which do not know the last term
			db, err := raftstore.OpenDB(dir)
			if err != nil {
				return err
			}
			return errors.Join(db.Stable(1).SetUint64([]byte("CurrentTerm"), 0), db.Close())
		},
	} {
		victim := members[2]
		must(t, victim.shard(1).checkpoint())
		before := victim.shard(1).server()
		victim.stop()
		if err := take(victim.o.DataDir); err != nil {
			t.Fatal(err)
		}
		members[0].enqueue(id, 1, "while one is away")
		if err := victim.start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the replica votes again under another id and holds everything", func() bool {
			s := victim.shard(1)
			if s == nil || s.server() == before {
				return false
			}
			c, ok := s.host.PeekCounts(id)
			votes := false
			for _, server := range s.members() {
				votes = votes || server.ID == s.server() && server.Suffrage == raft.Voter
			}
			return votes && ok && c.Ready == uint64(101+i)
		})
		for _, s := range victim.shards() {
			if n := len(s.members()); n > 4 {
				t.Errorf("shard %d has %d members", s.id, n)
			}
		}
	}
}

// TestDamageAlone damages the only replica there is: it neither serves nor is emptied.
func TestDamageAlone(t *testing.T) {
	m := startMembers(t, 1)[0]
	id := queue.MakeQueueID(1, 9)
	m.do(1, func(b *queue.Batch) { b.Configure(id, &queue.Settings{VHost: "/", Name: "q", Durable: true}) })
	m.stop()
	if err := os.RemoveAll(filepath.Join(m.o.DataDir, "store")); err != nil {
		t.Fatal(err)
	}
	store, err := storage.Open(storage.Options{Dir: filepath.Join(m.o.DataDir, "store")})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	m.o.Store = store
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // it waits for somebody who has a copy
	defer cancel()
	if c, err := Start(ctx, m.o); err == nil {
		t.Errorf("it serves: %v", c.Close(ctx))
	}
	db, err := raftstore.OpenDB(m.o.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for shard := range uint32(m.o.Shards) {
		if seat, err := db.Stable(shard).Seat(); err != nil || seat.Incarnation != 1 {
			t.Errorf("shard %d: its seat was given up for another: %+v, %v", shard, seat, err)
		}
	}
}

// TestRestartAfterShorterSnapshot: hashicorp/raft goes on from the end of the log that it had when a snapshot replaces it,
// and refuses all that follows (#697); the instance is made anew.
func TestRestartAfterShorterSnapshot(t *testing.T) {
	m := startMembers(t, 1)[0]
	s := m.shard(0)
	id := queue.MakeQueueID(0, 5)
	m.do(0, func(b *queue.Batch) { b.Configure(id, &queue.Settings{VHost: "/", Name: "q"}) })
	if err := s.checkpoint(); err != nil {
		t.Fatal(err)
	}
	m.enqueue(id, 3, "after the checkpoint")
	before := s.instance()
	_, r, err := s.store.OpenCheckpoint()
	if err != nil {
		t.Fatal(err)
	}
	if err := (shardMachine{s}).Restore(r); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another instance leads", func() bool {
		_, leads := s.leading()
		return s.instance() != nil && s.instance() != before && leads
	})
	if n := m.ready(id); n != 3 {
		t.Errorf("%d messages after the restart", n)
	}
}

// TestRestartAfterStuckTransfer: a leadership transfer may never end (#696); the instance is made anew.
func TestRestartAfterStuckTransfer(t *testing.T) {
	m := startMembers(t, 1)[0]
	s := m.shard(0)
	before := s.instance()
	stuck := func() { s.transferBlocked(raft.ErrLeadershipTransferInProgress) }
	stuck()
	s.transferBlocked(nil) // it has ended
	s.group.mu.Lock()
	cleared := s.transfer.IsZero()
	s.group.mu.Unlock()
	if !cleared {
		t.Error("a transfer that has ended is still remembered")
	}
	stuck()
	s.group.mu.Lock()
	s.transfer = s.transfer.Add(-stuckTransfer - time.Second)
	s.group.mu.Unlock()
	stuck()
	eventually(t, "another instance leads", func() bool {
		_, leads := s.leading()
		return s.instance() != nil && s.instance() != before && leads
	})
}

// TestLeaderKnowsThatItLeads: whatever a node was told of a shard that it leads itself, its clients find the leader.
func TestLeaderKnowsThatItLeads(t *testing.T) {
	m := startMembers(t, 1)[0]
	s := m.shard(0)
	finds := func() bool {
		node, ok := m.leaders.Leader(s.id)
		return ok && node == m.Self().Node
	}
	eventually(t, "it leads", finds)
	term, _ := s.leading()
	m.leaders.set(s.id, shardLeader{99, term})
	if finds() {
		t.Fatal("it was not misled")
	}
	eventually(t, "it finds itself again", finds)
	m.leaders.clear(s.id, m.Self().Node)
	eventually(t, "it finds itself after it has forgotten", finds)
}

// TestRestartWhenMisled: an instance that believes in entries which are gone from the log is made anew.
func TestRestartWhenMisled(t *testing.T) {
	m := startMembers(t, 1)[0]
	s := m.shard(0)
	before := s.instance()
	select {
	case <-s.logs.(*raftstore.ShardLog).Misled():
	case <-time.After(patience):
		t.Fatal("its end does not begin")
	}
	eventually(t, "another instance leads", func() bool {
		_, leads := s.leading()
		return s.instance() != nil && s.instance() != before && leads
	})
}

// TestStateAtACheckpoint: what other nodes are sent is not behind the checkpoint, where the log may begin. The library's checkpoint counts
// entries that the machine does not see.
func TestStateAtACheckpoint(t *testing.T) {
	m := startMembers(t, 1)[0]
	s := m.shard(0)
	id := queue.MakeQueueID(0, 1)
	m.declare(id, queue.Settings{Name: "q"})
	m.enqueue(id, 3, "body")
	must(t, s.instance().Barrier(patience).Error())
	must(t, s.checkpoint())
	c, ok := s.store.LatestCheckpoint()
	if p := s.pin(); !ok || p.Index < c.Index || p.Term != c.Term {
		t.Errorf("the state is that at %d/%d, the checkpoint at %d/%d", p.Index, p.Term, c.Index, c.Term)
	}
	m.enqueue(id, 1, "body")
	if p := s.pin(); p.Index <= c.Index {
		t.Errorf("after another entry the state is that at %d, the checkpoint at %d", p.Index, c.Index)
	}
}

// TestSafeOptions: what the library must not do by itself.
func TestSafeOptions(t *testing.T) {
	c := baseConfig(slog.New(slog.DiscardHandler), "test")
	if c.RestoreCommittedLogs || c.ShutdownOnRemove || c.PreVoteDisabled {
		t.Errorf("%+v", c)
	}
	if c.HeartbeatTimeout < time.Second || c.ElectionTimeout < time.Second || c.LeaderLeaseTimeout > c.HeartbeatTimeout {
		t.Error("timeouts below the worst fsync")
	}
}
