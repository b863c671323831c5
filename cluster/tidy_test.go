package cluster

import (
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
		eventually(t, "bodies are outside the log", func() bool { return segments(t, m) > 0 && !m.shard(0).store.KeepsLog(m.shard(0).host.Applied()) })
	}
	members[0].do(0, func(b *queue.Batch) { b.Purge(id) })
	for _, m := range members {
		eventually(t, m.o.Name+" gives back the disk", func() bool { return segments(t, m) == 0 })
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

// TestSavedGoesDown: what goes up and down is no reason for a checkpoint each time.
func TestSavedGoesDown(t *testing.T) {
	s := &shard{}
	for _, test := range []struct {
		tidying  bool
		now      volume
		err      error
		expected volume
	}{
		{false, volume{100, 10}, nil, volume{100, 10}},
		{true, volume{40, 40}, nil, volume{40, 10}},
		{true, volume{100, 1}, nil, volume{40, 1}},
		{false, volume{0, 0}, errors.New("no space"), volume{40, 1}},
		{false, volume{100, 100}, nil, volume{100, 100}},
	} {
		s.tidying = test.tidying
		s.noteSaved(test.now, test.err)
		if s.saved != test.expected {
			t.Errorf("%+v: %v", test, s.saved)
		}
	}
}

// TestTidiesWithPauses: what fails may have written much, and is not repeated at once.
func TestTidiesWithPauses(t *testing.T) {
	c, s := &Cluster{log: slog.New(slog.DiscardHandler)}, &shard{}
	last := time.Duration(0)
	for range 20 {
		before := time.Now()
		c.tidied(t.Context(), s, errors.New("no space"))
		if s.tidyAfter.Sub(before) < s.tidyPause || s.tidyPause < 2*tidyPeriod || s.tidyPause > maxTidyPause || s.tidyPause < last {
			t.Fatalf("pause of %v after one of %v", s.tidyPause, last)
		}
		last = s.tidyPause
	}
	c.tidied(t.Context(), s, nil)
	if last != maxTidyPause || s.tidyPause != 0 {
		t.Errorf("pauses of %v, and %v after a success", last, s.tidyPause)
	}
}
