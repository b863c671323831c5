package cluster

import (
	"errors"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warrenmq/warren/raftfsm/queue"
	"github.com/warrenmq/warren/storage/vfs"
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
		eventually(t, "bodies are outside the log", func() bool { return segments(t, m) > 0 && !m.shard(0).store.KeepsLog(m.shard(0).host.Applied()) })
	}
	members[0].do(0, func(b *queue.Batch) { b.Purge(id) })
	for _, m := range members {
		eventually(t, m.o.Name+" gives back the disk", func() bool { return segments(t, m) == 0 })
	}
}

// TestDiskOfWhatWasNotReady: the same of messages that were out with a consumer, beside many small ones that stay, and of what was sent ahead
// for a message that does not come.
func TestDiskOfWhatWasNotReady(t *testing.T) {
	piece := []byte(strings.Repeat("filling ", 12<<10))
	big, small := queue.MakeQueueID(0, 9), queue.MakeQueueID(0, 10)
	for _, test := range []struct {
		name      string
		fill, end func(b *queue.Batch)
	}{
		{
			"out with a consumer",
			func(b *queue.Batch) {
				mark := b.BeginEnqueue([]queue.QueueID{big}, &queue.EnqueueOptions{Persistent: true})
				b.Data = append(b.Data, piece...)
				b.EndEnqueue(mark)
			},
			func(b *queue.Batch) { b.Settle(7, queue.Ack, queue.Range{From: 1, To: 160}) },
		},
		{
			"sent ahead",
			func(b *queue.Batch) { b.Chunk(8, piece) },
			func(b *queue.Batch) { // as broker.Conn.discardUpload
				b.EndEnqueue(b.BeginEnqueue([]queue.QueueID{queue.MakeQueueID(0, 0)}, &queue.EnqueueOptions{Upload: 8}))
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := startMembers(t, 1)[0]
			for _, id := range []queue.QueueID{big, small} {
				m.do(0, func(b *queue.Batch) {
					b.Configure(id, &queue.Settings{VHost: "/", Name: strconv.Itoa(int(id)), Durable: true})
				})
			}
			m.do(0, func(b *queue.Batch) { b.Attach(big, 7, &queue.AttachOptions{Credit: 1000}) })
			m.enqueue(small, 400, "staying")
			for range 8 { // more than the log files that are kept
				m.do(0, func(b *queue.Batch) {
					for range 20 {
						test.fill(b)
					}
				})
			}
			s := m.shard(0)
			eventually(t, "bodies are outside the log", func() bool { return s.store.SegmentBytes() > 1<<20 && !s.store.KeepsLog(s.host.Applied()) })
			m.do(0, test.end)
			eventually(t, "the disk is given back", func() bool { return s.store.SegmentBytes() < 1<<20 })
			if n := m.ready(small); n != 400 {
				t.Errorf("%d messages stay of 400", n)
			}
		})
	}
}

// TestDiskOfTwoShards: the bodies of two shards are in the same log files, which are kept. What the one gives up leaves the disk, though nothing
// happens to the other.
func TestDiskOfTwoShards(t *testing.T) {
	m := startMembersOf(t, 1, 2)[0]
	a, b := queue.MakeQueueID(0, 9), queue.MakeQueueID(1, 9)
	for _, id := range []queue.QueueID{a, b} {
		m.do(id.Shard(), func(b *queue.Batch) { b.Configure(id, &queue.Settings{VHost: "/", Name: "q", Durable: true}) })
	}
	for range 16 { // more than the log files that stay for followers
		m.enqueue(a, 11, strings.Repeat("filling ", 12<<10))
		m.enqueue(b, 9, strings.Repeat("filling ", 12<<10))
	}
	stays := m.shard(1).store
	eventually(t, "bodies are outside the log", func() bool {
		return m.shard(0).store.SegmentBytes()+stays.SegmentBytes() > 16<<20 && !stays.KeepsLog(m.shard(1).host.Applied())
	})
	kept, err := filepath.Glob(filepath.Join(m.o.DataDir, "store", "group-1", "*.wal"))
	must(t, err)
	if len(kept) == 0 {
		t.Fatal("no log file is kept")
	}
	m.do(0, func(b *queue.Batch) { b.Purge(a) })
	eventually(t, "the disk is given back", func() bool {
		return m.shard(0).store.SegmentBytes() == 0 && stays.SegmentBytes() < 16*9*100<<10 && !stays.Wasteful()
	})
	if n := m.ready(b); n != 16*9 {
		t.Errorf("%d messages stay of %d", n, 16*9)
	}
}

// TestWasteful: a checkpoint that would give back little is not made.
func TestWasteful(t *testing.T) {
	now := volume{160, 1000}
	for _, test := range []struct {
		name  string
		saved volume
		gone  bool
	}{
		{"all is left", now, false},
		{"more was added", volume{16, 10}, false},
		{"half of the messages", volume{320, 0}, false},
		{"less than half of the messages", volume{321, 0}, true},
		{"half of the octets", volume{160, 2000}, false},
		{"less than half of the octets", volume{160, 2001}, true},
	} {
		if test.saved.mostlyGone(now) != test.gone {
			t.Error(test.name)
		}
	}
	if !(volume{1, 0}).mostlyGone(volume{}) {
		t.Error("the last message")
	}
}

// TestCounts: what goes up and down is no reason for a checkpoint each time; what came into segments counts.
func TestCounts(t *testing.T) {
	s := &shard{}
	for _, test := range []struct {
		now   volume
		floor uint64
		saved volume
	}{
		{volume{100, 10}, 5, volume{100, 10}},
		{volume{40, 40}, 5, volume{40, 10}},
		{volume{100, 1}, 5, volume{40, 1}},
		{volume{100, 100}, 6, volume{100, 100}},
		{volume{0, 0}, 6, volume{0, 0}},
		{volume{1 << 20, 1 << 30}, 7, volume{1 << 20, 1 << 30}},
		{volume{10, 10}, 0, volume{10, 10}}, // anew after it was discarded
	} {
		if s.count(test.now, test.floor); s.saved != test.saved {
			t.Errorf("%+v: %v", test, s.saved)
		}
	}
}

// roomy is a file system that has as much room as the test says.
type roomy struct {
	vfs.FS
	free *atomic.Int64
}

func (r roomy) Free(string) (int64, error) { return r.free.Load(), nil }

// TestDiskIsGivenBackLater: what had no room at first is given back when there is some.
func TestDiskIsGivenBackLater(t *testing.T) {
	m := newMembers(t, 1, 1)[0]
	free := &atomic.Int64{}
	free.Store(1 << 40)
	m.fs = roomy{vfs.OS(), free}
	startAll(t, []*member{m})
	one, other := queue.MakeQueueID(0, 1), queue.MakeQueueID(0, 2)
	for _, id := range []queue.QueueID{one, other} {
		m.do(0, func(b *queue.Batch) {
			b.Configure(id, &queue.Settings{VHost: "/", Name: strconv.Itoa(int(id)), Durable: true})
		})
	}
	for range 40 { // a fifth of each segment is the other's
		m.enqueue(one, 4, strings.Repeat("filling ", 12<<10))
		m.enqueue(other, 1, strings.Repeat("staying ", 12<<10))
	}
	s := m.shard(0)
	eventually(t, "bodies are outside the log", func() bool { return s.store.SegmentBytes() > 4<<20 && !s.store.KeepsLog(s.host.Applied()) })
	before := s.store.SegmentBytes()
	free.Store(0)
	m.do(0, func(b *queue.Batch) { b.Purge(one) })
	eventually(t, "there is no room", s.store.Postponed)
	if s.store.SegmentBytes() < before {
		t.Error("something was written again")
	}
	free.Store(1 << 40)
	eventually(t, "the disk is given back", func() bool { return s.store.SegmentBytes() < before/2 && !s.store.Postponed() })
	if n := m.ready(other); n != 40 {
		t.Errorf("%d messages stay of 40", n)
	}
}

// TestTidiesWithPauses: what fails may have written much, and is not repeated at once.
func TestTidiesWithPauses(t *testing.T) {
	m := startMembers(t, 1)[0]
	c, s := &Cluster{log: slog.New(slog.DiscardHandler)}, &shard{store: m.shard(0).store}
	last := time.Duration(0)
	for range 20 {
		before := time.Now()
		c.tidied(t.Context(), s, errors.New("no space"), false)
		if s.tidyAfter.Sub(before) < s.tidyPause || s.tidyPause < 2*tidyPeriod || s.tidyPause > maxTidyPause || s.tidyPause < last {
			t.Fatalf("pause of %v after one of %v", s.tidyPause, last)
		}
		last = s.tidyPause
	}
	c.tidied(t.Context(), s, nil, false)
	if last != maxTidyPause || s.tidyPause != 0 {
		t.Errorf("pauses of %v, and %v after a success", last, s.tidyPause)
	}
}
