package cluster

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/warrenmq/warren/raftfsm/queue"
)

func segments(t *testing.T, m *member) int {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(m.o.DataDir, "store", "group-0", "*.seg"))
	must(t, err)
	return len(names)
}

// TestDiskIsGivenBack: what was purged leaves the disk of every node though nothing is published any more, as with a resource alarm.
func TestDiskIsGivenBack(t *testing.T) {
	members := newMembers(t, 3, 1)
	startAll(t, members)
	id := queue.MakeQueueID(0, 9)
	members[0].do(0, func(b *queue.Batch) { b.Configure(id, &queue.Settings{VHost: "/", Name: "q", Durable: true}) })
	for range 8 { // more than the log files that are kept
		members[0].enqueue(id, 20, strings.Repeat("filling ", 12<<10))
	}
	for _, m := range members {
		eventually(t, "bodies are outside the log", func() bool { return segments(t, m) > 0 && !m.shard(0).store.KeepsLog() })
	}
	members[0].do(0, func(b *queue.Batch) { b.Purge(id) })
	for _, m := range members {
		eventually(t, m.o.Name+" gives back the disk", func() bool { return segments(t, m) == 0 })
	}
}

// TestWasteful: a checkpoint that would give back little is not made.
func TestWasteful(t *testing.T) {
	m := startMembers(t, 1)[0]
	id := queue.MakeQueueID(0, 9)
	m.do(0, func(b *queue.Batch) { b.Configure(id, &queue.Settings{VHost: "/", Name: "q", Durable: true}) })
	s := m.shard(0)
	for range 8 {
		m.enqueue(id, 20, strings.Repeat("filling ", 12<<10))
	}
	eventually(t, "bodies are outside the log", s.store.HasSegments)
	eventually(t, "all is on the disk", func() bool { return !s.store.KeepsLog() })
	must(t, s.checkpoint())
	if s.wasteful() {
		t.Error("with all that was saved")
	}
	for _, test := range []struct {
		name     string
		saved    volume
		wasteful bool
	}{
		{"half of the messages", volume{320, 0}, false},
		{"less than half of the messages", volume{321, 0}, true},
		{"half of the octets", volume{160, 2 * 160 * 96 << 10}, false},
		{"less than half of the octets", volume{160, 2*160*96<<10 + 1}, true},
	} {
		s.mu.Lock()
		s.saved = test.saved
		s.mu.Unlock()
		if s.wasteful() != test.wasteful {
			t.Error(test.name)
		}
	}
}
