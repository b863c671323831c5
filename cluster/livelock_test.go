package cluster

import (
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/warrenmq/warren/cluster/raftstore"
	"github.com/warrenmq/warren/raftfsm/queue"
	"github.com/warrenmq/warren/storage"
)

// TestSnapshotOverALongerLog gives a deposed leader a tail of entries that were never committed, longer than what the others
// have, and takes from the others the log that it would need. It gets a snapshot, which replaces the tail. The library goes on
// from the tail's end and would refuse all that follows, so that the leader sends the snapshot again, for ever
// (hashicorp/raft#697).
func TestSnapshotOverALongerLog(t *testing.T) {
	t.Parallel()
	const tail = 500
	members := startMembers(t, 3)
	id := queue.MakeQueueID(1, 9)
	members[0].do(1, func(b *queue.Batch) { b.Configure(id, &queue.Settings{VHost: "/", Name: "q", Durable: true}) })
	members[0].enqueue(id, 100, "body")

	var deposed *member
	var term uint64
	eventually(t, "somebody leads the shard", func() bool {
		for _, m := range members {
			if at, ok := m.shard(1).leading(); ok {
				deposed, term = m, at
			}
		}
		return deposed != nil
	})
	deposed.stop()
	last := appendTail(t, deposed, term, tail)
	var others []*member
	for _, m := range members {
		if m != deposed {
			others = append(others, m)
		}
	}
	others[0].enqueue(id, 10, "while one is away")
	for _, m := range others {
		s := m.shard(1)
		eventually(t, "both have what was put in", func() bool { c, ok := s.host.PeekCounts(id); return ok && c.Ready == 110 })
		must(t, s.checkpoint())
		meta, err := raftstore.CheckpointMeta(s.store)
		must(t, err)
		must(t, s.store.TruncatePrefix(meta.Index))
		if meta.Index >= last {
			t.Fatalf("the snapshot at %d is not shorter than the log, which ends at %d", meta.Index, last)
		}
	}

	must(t, deposed.start())
	s := deposed.shard(1)
	eventually(t, "the snapshot has replaced the tail", func() bool { c, ok := s.host.PeekCounts(id); return ok && c.Ready == 110 })
	others[0].enqueue(id, 10, "after the snapshot")
	eventually(t, "what follows comes as entries, not as another snapshot", func() bool {
		c, ok := s.host.PeekCounts(id)
		return ok && c.Ready == 120 && s.store.LastIndex() > 0 && s.store.LastIndex() == others[0].shard(1).store.LastIndex()
	})
}

// appendTail makes the log of shard 1 of a node that is stopped end with entries of a term that it led, and says where.
func appendTail(t *testing.T, m *member, term uint64, n int) (last uint64) {
	t.Helper()
	store, err := storage.Open(storage.Options{Dir: filepath.Join(m.o.DataDir, "store"), WALFileSize: 4 << 20, OnFatal: func(err error) { panic(err) }})
	must(t, err)
	g, err := store.Group(1)
	must(t, err)
	log := &raftstore.ShardLog{Group: g}
	end := g.LastIndex()
	for ; ; end-- { // its successor's entries had not come yet
		var e raft.Log
		must(t, log.GetLog(end, &e))
		if e.Term <= term {
			break
		}
	}
	if end < g.LastIndex() {
		must(t, log.DeleteRange(end+1, g.LastIndex()))
	}
	var entries []*raft.Log
	for i := range uint64(n) {
		entries = append(entries, &raft.Log{Index: end + 1 + i, Term: term, Type: raft.LogNoop})
	}
	must(t, log.StoreLogs(entries))
	must(t, store.Close())
	return end + uint64(n)
}
