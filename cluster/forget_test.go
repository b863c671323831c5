package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warrenmq/warren/cluster/pipe"
	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// looker looks for left over queues with a clock of its own.
type looker struct {
	t  *testing.T
	m  *member
	f  *forgetter
	at time.Time
}

func newLooker(t *testing.T, m *member) *looker {
	l := &looker{t: t, m: m, f: newForgetter(m.Cluster), at: time.Now()}
	l.f.now = func() time.Time { return l.at }
	return l
}

// look lets time pass and looks; what it deletes is gone when it returns.
func (l *looker) look(after time.Duration) {
	l.t.Helper()
	l.at = l.at.Add(after)
	eventually(l.t, "the catalog is known to be current", func() bool { return l.m.Fresh() == nil })
	must(l.t, l.f.look(l.t.Context()))
	for _, s := range l.m.shards() {
		l.m.do(s.id, func(b *queue.Batch) { b.Cancel(0) }) // comes behind
	}
}

// has lists which of some queues are in their shard.
func (m *member) has(ids map[string]queue.QueueID) (there []string) {
	for name, id := range ids {
		if _, ok := m.shard(id.Shard()).host.PeekCounts(id); ok {
			there = append(there, name)
		}
	}
	slices.Sort(there)
	return there
}

// TestTransientQueuesGo: a node alone is started again, and what was not durable is gone, in the catalog and in its shard.
func TestTransientQueuesGo(t *testing.T) {
	m := startMembersOf(t, 1, 2)[0]
	ids := map[string]queue.QueueID{"transient": queue.MakeQueueID(0, 7), "transient too": queue.MakeQueueID(1, 7)}
	for name, id := range ids {
		m.do(id.Shard(), func(b *queue.Batch) { b.Configure(id, &queue.Settings{VHost: "/", Name: name}) })
		m.propose(catalog.AddQueue(&raftv1.AddQueue{Vhost: "/", Name: name, Id: uint64(id)}))
		m.enqueue(id, 100, "body")
	}
	durable := queue.MakeQueueID(0, 8)
	m.declare(durable, queue.Settings{Name: "durable"})
	l := newLooker(t, m)
	l.look(0)
	l.look(time.Hour)
	if there := m.has(ids); len(there) != 2 {
		t.Fatalf("of the queues that have names, only %q are there", there)
	}
	m.stop()
	if err := m.start(); err != nil {
		t.Fatal(err)
	}
	l = newLooker(t, m)
	l.look(0)
	l.look(orphanPause)
	if there := m.has(ids); len(there) != 0 {
		t.Errorf("%q are still in their shards", there)
	}
	if n := m.ready(durable); n != 0 {
		t.Errorf("the durable queue holds %d messages", n)
	}
}

// TestLeftOverQueues: which queues without names go, and when.
func TestLeftOverQueues(t *testing.T) {
	m := startMembersOf(t, 1, 1)[0]
	ids := map[string]queue.QueueID{}
	configure := func(name string, s queue.Settings) queue.QueueID {
		id := queue.MakeQueueID(0, uint64(len(ids)+1))
		ids[name] = id
		s.VHost, s.Name = "/", name
		m.do(0, func(b *queue.Batch) { b.Configure(id, &s) })
		return id
	}
	m.enqueue(configure("transient", queue.Settings{}), 3, "body")
	configure("durable, empty", queue.Settings{Durable: true})
	m.enqueue(configure("durable, full", queue.Settings{Durable: true}), 3, "body")
	m.enqueue(configure("being restored", queue.Settings{Restoring: true}), 3, "body")
	configure("being restored, durable", queue.Settings{Restoring: true, Durable: true})
	early := configure("declared early", queue.Settings{})
	l := newLooker(t, m)
	expect := func(when string, names ...string) {
		t.Helper()
		if there := m.has(ids); !slices.Equal(there, names) {
			t.Errorf("%s there are %q", when, there)
		}
	}
	all := []string{"being restored", "being restored, durable", "declared early", "durable, empty", "durable, full", "transient"}
	l.look(0)
	expect("at first", all...)
	m.propose(catalog.AddQueue(&raftv1.AddQueue{Vhost: "/", Name: "declared early", Id: uint64(early)}))
	l.look(orphanPause - 1)
	expect("a moment too early", all...)
	late := configure("declared late", queue.Settings{})
	l.look(1)
	kept := []string{"being restored", "being restored, durable", "declared early", "declared late", "durable, full"}
	expect("after a while", kept...)
	l.look(orphanPause - 1)
	expect("a moment before the late one's time", kept...)
	m.propose(catalog.AddQueue(&raftv1.AddQueue{Vhost: "/", Name: "declared late", Id: uint64(late)}))
	l.look(1)
	l.look(time.Hour)
	expect("in the end", kept...)
}

// TestNameBetweenTheLooks: a queue gets its name when the second look has begun already.
func TestNameBetweenTheLooks(t *testing.T) {
	m := startMembersOf(t, 1, 1)[0]
	id := queue.MakeQueueID(0, 7)
	m.do(0, func(b *queue.Batch) { b.Configure(id, &queue.Settings{VHost: "/", Name: "q"}) })
	s := m.shard(0)
	unnamed := m.unnamedIn(s)
	if !slices.Equal(unnamed, []queue.QueueID{id}) {
		t.Fatalf("%x have no name", unnamed)
	}
	m.propose(catalog.AddQueue(&raftv1.AddQueue{Vhost: "/", Name: "q", Id: uint64(id)}))
	eventually(t, "the catalog is known to be current", func() bool { return m.Fresh() == nil })
	m.deleteUnnamed(s, unnamed)
	m.enqueue(id, 3, "body")
	if n := m.ready(id); n != 3 {
		t.Errorf("%d messages", n)
	}
}

// TestStaleCatalogDeletesNothing: a node that does not know whether its copy of the catalog is current takes no queue for left over.
func TestStaleCatalogDeletesNothing(t *testing.T) {
	members := startMembersOf(t, 3, 1)
	id := queue.MakeQueueID(0, 7)
	members[0].do(0, func(b *queue.Batch) { b.Configure(id, &queue.Settings{VHost: "/", Name: "q"}) })
	at := slices.IndexFunc(members, func(m *member) bool { _, leads := m.shard(0).leading(); return leads })
	leader := members[at]
	eventually(t, "the catalog is known to be current", func() bool { return len(leader.unnamedIn(leader.shard(0))) == 1 })
	for i, m := range members {
		if i != at {
			m.stop()
		}
	}
	eventually(t, "the catalog is not known to be current", func() bool { return leader.Fresh() != nil })
	if unnamed := leader.unnamedIn(leader.shard(0)); len(unnamed) != 0 {
		t.Errorf("%x count as left over", unnamed)
	}
}

// TestRestoreIsNotDisturbed: the queues that a restore fills stay, however long it takes.
func TestRestoreIsNotDisturbed(t *testing.T) {
	source := startMembersOf(t, 1, 1)[0]
	body := strings.Repeat("x", 6000)
	for n, name := range []string{"transient", "transient, empty"} {
		id := queue.MakeQueueID(0, uint64(n+1))
		source.do(0, func(b *queue.Batch) { b.Configure(id, &queue.Settings{VHost: "/", Name: name}) })
		source.propose(catalog.AddQueue(&raftv1.AddQueue{Vhost: "/", Name: name, Id: uint64(id)}))
	}
	source.enqueue(queue.MakeQueueID(0, 1), 100, body)
	data, _ := takeBackup(t, source, nil)
	m := startMembersOf(t, 1, 1)[0]
	l := newLooker(t, m)
	looks := 0
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	done, err := m.Restore(ctx, slowly{bytes.NewReader(data), func() {
		l.look(orphanPause)
		if len(m.shard(0).host.Queues()) > 0 {
			looks++
		}
	}})
	if err != nil || done.Queues != 2 || done.Messages != 100 {
		t.Fatalf("%+v, %v", done, err)
	}
	if looks < 2 {
		t.Fatalf("there were queues at %d looks", looks)
	}
	l.look(orphanPause)
	l.look(orphanPause)
	m.ReadCatalog(func(s *catalog.State) {
		for q := range s.QueuesIn(0) {
			settings := m.shard(0).host.Settings(q.ID)
			if settings == nil {
				t.Errorf("%q is gone", q.Name)
			} else if settings.Restoring {
				t.Errorf("%q is still marked as being restored", q.Name)
			}
			if n, _ := m.shard(0).host.PeekCounts(q.ID); q.Name == "transient" && n.Ready != 100 {
				t.Errorf("%q holds %d messages", q.Name, n.Ready)
			}
		}
	})
}

// slowly reads little at a time, and calls f before.
type slowly struct {
	io.Reader
	f func()
}

func (s slowly) Read(p []byte) (int, error) {
	s.f()
	return s.Reader.Read(p[:min(len(p), 64<<10)])
}

// TestExclusiveQueueWithoutItsName: what the catalog does not name any more, other nodes having ended this one's session, is deleted from
// this node's memory: whether the command is applied here or a snapshot without the name comes. What never had a name stays.
func TestExclusiveQueueWithoutItsName(t *testing.T) {
	m := startMembersOf(t, 1, 1)[0]
	local, session := m.Self().Local, m.Self().Session
	ids := []queue.QueueID{queue.MakeQueueID(local, 1), queue.MakeQueueID(local, 2), queue.MakeQueueID(local, 3)}
	for i, id := range ids {
		m.do(local, func(b *queue.Batch) { b.Configure(id, &queue.Settings{VHost: "/"}) })
		if i < 2 {
			m.propose(catalog.AddQueue(&raftv1.AddQueue{Vhost: "/", Name: fmt.Sprint(i), Id: uint64(id), OwnerSession: uint64(session), OwnerConnection: uint64(i + 1)}))
		}
	}
	left := func(n int) func() bool { return func() bool { return len(m.local.Queues()) == n } }
	m.propose(catalog.SessionOver(&raftv1.SessionOver{Session: uint64(session), Connection: 1}))
	eventually(t, "the queue that was removed is gone", left(2))
	data, err := catalog.Encode(catalog.SessionOver(&raftv1.SessionOver{Session: uint64(session)}))
	must(t, err)
	var snapshot bytes.Buffer
	m.catalog.read(func(s *catalog.State) { _, err = s.Snapshot().WriteTo(&snapshot) })
	must(t, err)
	state, err := catalog.Restore(&snapshot)
	must(t, err)
	_, _, err = state.Apply(state.Applied()+1, data)
	must(t, err)
	m.catalog.restore(state)
	eventually(t, "the queue that a snapshot lacks is gone", left(1))
	if m.local.Settings(ids[2]) == nil {
		t.Error("the queue that never had a name is gone")
	}
}

// TestNameWithoutItsQueue: a queue was deleted in its shard, and who did that could not tell the catalog. Its name goes at the next look,
// and no other does. Who does not lead the shard takes no name away, whatever its copy lacks.
func TestNameWithoutItsQueue(t *testing.T) {
	members := startMembersOf(t, 3, 1)
	ids := map[string]queue.QueueID{"gone": queue.MakeQueueID(0, 7), "kept": queue.MakeQueueID(0, 8)}
	for name, id := range ids {
		members[0].declare(id, queue.Settings{Name: name})
	}
	var leader, other *member
	eventually(t, "the shard is led by the node that should, and stays there", func() bool {
		var preferred uint16
		members[0].ReadCatalog(func(s *catalog.State) { preferred = s.Shard(0).Preferred })
		at := slices.IndexFunc(members, func(m *member) bool { return m.Self().Node == preferred })
		leader, other = members[at], members[(at+1)%3]
		_, leads := leader.shard(0).leading()
		return leads
	})
	leader.do(0, func(b *queue.Batch) { b.Delete(ids["gone"], false, false) })
	eventually(t, "the other replica has applied that", func() bool { return other.shard(0).host.Settings(ids["gone"]) == nil })
	if err := other.forgetMissing(t.Context(), other.shard(0)); !errors.Is(err, pipe.ErrNotLeader) && !other.shard(0).host.Leading() {
		t.Errorf("a follower: %v", err)
	}
	var unnamed []queue.QueueID
	named := func() int {
		leader.ReadCatalog(func(s *catalog.State) { unnamed = s.Unnamed([]queue.QueueID{ids["gone"], ids["kept"]}) })
		return 2 - len(unnamed)
	}
	newLooker(t, leader).look(0)
	eventually(t, "one name is left", func() bool { return named() == 1 })
	if unnamed[0] != ids["gone"] {
		t.Error("the other queue has lost its name")
	}
}
