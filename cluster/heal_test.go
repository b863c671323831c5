package cluster

import (
	"bytes"
	"context"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/raftfsm/queue"
	"github.com/warrenmq/warren/storage"
)

// flip flips a bit of the only place in some of a node's files where there is a text.
func flip(t *testing.T, m *member, pattern, text string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(m.o.DataDir, "store", pattern))
	must(t, err)
	for _, name := range names {
		data, err := os.ReadFile(name)
		must(t, err)
		at := bytes.Index(data, []byte(text))
		if at < 0 {
			continue
		}
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteAt([]byte{data[at] ^ 4}, int64(at))
		must(t, err)
		must(t, f.Close())
		return
	}
	t.Fatalf("%q is in none of %d files", text, len(names))
}

// holds tells whether a text is in some of a node's files.
func holds(t *testing.T, m *member, pattern, text string) bool {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(m.o.DataDir, "store", pattern))
	must(t, err)
	return slices.ContainsFunc(names, func(name string) bool {
		data, err := os.ReadFile(name)
		return err == nil && bytes.Contains(data, []byte(text))
	})
}

// delivery is one of the message of a shard with the highest index, as a consumer gets it.
func (m *member) delivery(id queue.QueueID) *broker.Delivery {
	d := &broker.Delivery{Delivery: queue.Delivery{Queue: id}}
	m.shard(id.Shard()).host.Snapshot().LiveRefs(0, math.MaxUint64, func(index uint64, offset, size uint32) bool {
		d.Body.First = queue.Ref{Index: index, Offset: offset, Size: size}
		return true
	})
	return d
}

func logFiles(t *testing.T, m *member) (n int) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(m.o.DataDir, "store", "wal", "0*.wal"))
	must(t, err)
	return len(names)
}

// TestDamageWhileRunning flips bits in bodies on nodes that run. Whoever consumes gets the message all the same, and the replica is
// rebuilt from the others: its node's log files go on to retire.
func TestDamageWhileRunning(t *testing.T) {
	const inLog, inSegment, inKept = "wal/0*.wal", "group-0/*.seg", "group-0/*.wal"
	members := newMembers(t, 3, 1)
	for _, m := range members {
		m.cache = 1 // what is read is read from the disk
	}
	startAll(t, members)
	id, other := queue.MakeQueueID(0, 9), queue.MakeQueueID(0, 10)
	for _, id := range []queue.QueueID{id, other} {
		members[0].do(0, func(b *queue.Batch) { b.Configure(id, &queue.Settings{VHost: "/", Name: "q", Durable: true}) })
	}
	fill := func(stays bool) { // more than the log files that stay for followers
		for range 8 {
			into := other
			if stays {
				into = id
			}
			members[0].enqueue(into, 20, strings.Repeat("filling ", 12<<10))
			members[0].do(0, func(b *queue.Batch) { b.Purge(other) })
		}
	}
	find := func(leads bool) (found *member) {
		eventually(t, "one leads", func() bool {
			at := slices.IndexFunc(members, func(m *member) bool { _, ok := m.shard(0).leading(); return ok == leads })
			if at >= 0 {
				found = members[at]
			}
			return at >= 0
		})
		return found
	}
	for _, test := range []struct {
		name, where string
		leader      bool
		consumed    bool // it is found by who consumes; otherwise by a checkpoint
	}{
		{"log of the leader", inLog, true, true},
		{"segment of the leader", inSegment, true, true},
		{"kept log file of the leader", inKept, true, true},
		{"log of a follower, which nobody reads", inLog, false, false},
		{"segment of a follower", inSegment, false, true},
		{"kept log file of a follower", inKept, false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := "the body to be damaged in the " + test.name
			fill(test.where == inKept) // a log file that is nearly all alive is kept, others are copied from
			members[0].enqueue(id, 1, text)
			var d *broker.Delivery
			for _, m := range members {
				eventually(t, "all have the message", func() bool {
					d = m.delivery(id)
					b, err := m.shard(0).store.ReadBody(d.Body.First.Index, d.Body.First.Offset, d.Body.First.Size)
					return err == nil && strings.Contains(string(b), text)
				})
			}
			victim := find(test.leader)
			if test.where != inLog {
				fill(test.where == inKept)
				eventually(t, "the message is in a segment, and in the log no more", func() bool {
					return holds(t, victim, test.where, text) && victim.shard(0).store.FirstIndex() > d.Body.First.Index
				})
				victim = find(test.leader)
			}
			before := victim.shard(0).server()
			flip(t, victim, test.where, text)
			if test.consumed {
				for _, m := range append([]*member{victim}, members...) {
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					b, err := m.Envelope(ctx, d)
					cancel()
					if err != nil || !strings.Contains(string(b), text) {
						t.Fatalf("a consumer of %s: %d octets, %v", m.o.Name, len(b), err)
					}
				}
			} else {
				fill(false)
			}
			eventually(t, "the replica votes under another id, and is whole", func() bool {
				s := victim.shard(0)
				return s != nil && s.server() != before && s.votes() && s.found.Load() == nil && s.store.Damaged() == nil
			})
			s := victim.shard(0)
			eventually(t, "it has the message", func() bool {
				b, err := s.store.ReadBody(d.Body.First.Index, d.Body.First.Offset, d.Body.First.Size)
				return err == nil && strings.Contains(string(b), text)
			})
			fill(true)
			eventually(t, "log files retire", func() bool { return logFiles(t, victim) <= 4 })
			must(t, s.checkpoint())
			eventually(t, "nobody has to look at it", func() bool { return len(victim.Overview().Problems) == 0 })
		})
	}
}

// TestDamagedLeaderStarvesFollowers: a leader that cannot read an entry that followers need can neither bring them to where they could
// lead nor lead itself. It stops, another leads, and its replica is rebuilt.
func TestDamagedLeaderStarvesFollowers(t *testing.T) {
	members := newMembers(t, 3, 1)
	for _, m := range members {
		m.cache = 1
	}
	startAll(t, members)
	id := queue.MakeQueueID(0, 9)
	members[0].do(0, func(b *queue.Batch) { b.Configure(id, &queue.Settings{VHost: "/", Name: "q", Durable: true}) })
	members[0].enqueue(id, 1, "the body to be damaged")
	at := slices.IndexFunc(members, func(m *member) bool { _, leads := m.shard(0).leading(); return leads })
	s := members[at].shard(0)
	before, term := s.server(), s.instance().CurrentTerm()
	for _, server := range s.members() { // nobody may be offered the leadership
		s.noteUnanswered(server.ID, term)
	}
	flip(t, members[at], "wal/0*.wal", "the body to be damaged")
	for i, m := range members {
		m.enqueue(id, 1, "it goes on")
		if n := m.ready(id); n != uint64(2+i) {
			t.Errorf("%d messages", n)
		}
	}
	eventually(t, "the replica votes under another id", func() bool {
		s := members[at].shard(0)
		return s != nil && s.server() != before && s.votes()
	})
}

// TestTheLastWholeCopyStays: of two replicas in which damage was found each may have what the other lacks. None is given up.
func TestTheLastWholeCopyStays(t *testing.T) {
	members := startMembersOf(t, 2, 1)
	a, b := members[0].shard(0), members[1].shard(0)
	spares := func() bool { return b.c.canSpare(b, b.c.placementOf(b.group.id)) }
	eventually(t, "the other is whole, and can be relied on", spares)
	a.found.Store(&finding{storage.ErrCorrupt}) // as met does, but that nothing is done about it
	a.c.statusChanged()
	eventually(t, "it is told that the other is damaged", func() bool { return !b.c.isWhole(b.group.id, string(a.server())) })
	if spares() {
		t.Error("the copy that may be the only one is given up")
	}
}

// TestDamageWhileRunningAlone: the only replica there is goes on with the damage that was found in it, and it is told.
func TestDamageWhileRunningAlone(t *testing.T) {
	m := newMembers(t, 1, 1)[0]
	m.cache = 1
	startAll(t, []*member{m})
	id := queue.MakeQueueID(0, 9)
	m.do(0, func(b *queue.Batch) { b.Configure(id, &queue.Settings{VHost: "/", Name: "q", Durable: true}) })
	m.enqueue(id, 1, "the body to be damaged")
	s, d := m.shard(0), m.delivery(id)
	before := s.server()
	m.enqueue(id, 1, strings.Repeat("in its place in the cache ", 100))
	flip(t, m, "wal/0*.wal", "the body to be damaged")
	if _, err := (bodies{s}).ReadBody(d.Body.First.Index, d.Body.First.Offset, d.Body.First.Size, nil); !isDamage(err) {
		t.Fatalf("the damage is not found: %v", err)
	}
	now := time.Now()
	h := newHealer(m.Cluster)
	h.step(now)
	if rest := h.rest[0]; h.now != nil || rest.Before(now.Add(healPause)) {
		t.Errorf("it is looked at again after %v, rebuilt: %v", rest.Sub(now), h.now)
	}
	m.enqueue(id, 1, "it goes on")
	if n := m.ready(id); n != 3 || m.shard(0) != s || s.server() != before {
		t.Errorf("%d messages, in seat %s, which was %s", n, s.server(), before)
	}
	if problems := m.Overview().Problems; len(problems) != 1 || !strings.Contains(problems[0], "the only replica") {
		t.Errorf("the problems are %q", problems)
	}
}
