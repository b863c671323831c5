package storage

import (
	"io"
	"testing"

	"github.com/warrenmq/warren/storage/vfs"
)

// TestDiscard empties a group: at once, after a restart, and after a power cut right behind it; another group keeps its
// entries.
func TestDiscard(t *testing.T) {
	mem := vfs.NewMem()
	s := mustOpen(t, mem, nil)
	g, other := mustGroup(t, s, 1), mustGroup(t, s, 2)
	must(t, g.Append(entries(1, 1, 20, 1, 100)))
	must(t, other.Append(entries(2, 1, 20, 1, 100)))
	g.damage("for the test")
	if err := g.Append(entries(1, 21, 21, 1, 100)); err == nil {
		t.Fatal("a damaged group took an entry")
	}
	must(t, g.Discard())
	empty := func(s *Store, when string) *Group {
		t.Helper()
		g := mustGroup(t, s, 1)
		if err := g.Damaged(); err != nil || g.LastIndex() != 0 {
			t.Fatalf("%s: damage %v, last index %d", when, err, g.LastIndex())
		}
		if _, ok := g.LatestCheckpoint(); ok {
			t.Fatalf("%s: a checkpoint is left", when)
		}
		check(t, mustGroup(t, s, 2), 1, 20, 100)
		return g
	}
	empty(s, "at once")
	cut := mem.CrashClone(func(int) int { return 0 })
	must(t, s.Close())
	empty(mustOpen(t, cut, nil), "after a power cut")
	again := mustOpen(t, mem, nil)
	g = empty(again, "after a restart")
	must(t, g.Append(entries(1, 7, 9, 3, 50)))
	check(t, g, 7, 9, 50)
	must(t, again.Close())
}

// TestMissingDirectory loses the directory of a group whose log stands on a reset: the group refuses until it is discarded.
func TestMissingDirectory(t *testing.T) {
	mem := vfs.NewMem()
	s := mustOpen(t, mem, nil)
	g := mustGroup(t, s, 1)
	must(t, g.Append(entries(1, 1, 20, 1, 100)))
	must(t, g.Discard())
	must(t, g.Append(entries(1, 1, 3, 2, 100)))
	must(t, s.Close())
	must(t, mem.RemoveAll("d/group-1"))
	for range 2 {
		s = mustOpen(t, mem, nil)
		g = mustGroup(t, s, 1)
		if g.Damaged() == nil {
			t.Fatal("a group without a directory is healthy")
		}
		must(t, s.Close())
	}
	s = mustOpen(t, mem, nil)
	g = mustGroup(t, s, 1)
	must(t, g.Discard())
	must(t, g.Append(entries(1, 1, 5, 3, 100)))
	must(t, g.SaveCheckpoint(Checkpoint{Index: 5}, func(io.Writer) error { return nil }, nothing))
	must(t, s.Close())
	s = mustOpen(t, mem, nil)
	check(t, mustGroup(t, s, 1), 1, 5, 100)
	must(t, s.Close())
}
