package storage

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/warrenmq/warren/storage/vfs"
)

// TestBodies reads what was alive when the bodies were opened, after all of it was given up and its files went: from segments
// for what was old already, from the log for the rest. Two parts of an entry are alive.
func TestBodies(t *testing.T) {
	s := mustOpen(t, vfs.NewMem(), func(o *Options) { o.CacheBytes = 1 << 10 })
	g := mustGroup(t, s, 1)
	const size, total = 10_000, 600
	liveFrom := func(from uint64) LiveRefs {
		return func(min, max uint64, yield func(uint64, uint32, uint32) bool) {
			for i := min; i <= max; i++ {
				if i%10 == 0 && i >= from && (!yield(i, 0, 8) || !yield(i, 100, 500)) {
					return
				}
			}
		}
	}
	state := func(w io.Writer) error { _, err := io.WriteString(w, "state"); return err }
	fill := func(from, to uint64, live LiveRefs) {
		for i := from; i <= to; i += 10 {
			must(t, g.Append(entries(1, i, i+9, 1, size)))
			select {
			case <-s.NeedsCheckpoint():
				must(t, g.SaveCheckpoint(Checkpoint{Index: g.LastIndex(), Term: 1}, state, live))
			default:
			}
		}
	}
	fill(1, total, liveFrom(10))
	if g.FirstIndex() < 100 {
		t.Fatalf("the log begins at %d: nothing is in segments", g.FirstIndex())
	}
	b, err := g.OpenBodies(g.LastIndex)
	must(t, err)
	fill(total+1, 2*total, liveFrom(total+1))
	must(t, g.SaveCheckpoint(Checkpoint{Index: g.LastIndex(), Term: 1}, state, liveFrom(2*total+1)))
	if _, err := g.ReadBody(10, 0, 8); !errors.Is(err, ErrNotFound) {
		t.Fatalf("the old bodies are still there: %v", err)
	}
	for i := uint64(10); i <= total; i += 10 {
		for _, part := range []bodyPart{{offset: 0, size: 8}, {offset: 100, size: 500}} {
			got, err := b.Read(i, part.offset, part.size)
			if err != nil || !bytes.Equal(got, bodyOf(1, i, size)[part.offset:part.offset+part.size]) {
				t.Fatalf("entry %d at %d: %q, %v", i, part.offset, got, err)
			}
		}
	}
	if _, err := b.Read(total+10, 0, 8); !errors.Is(err, ErrNotFound) {
		t.Errorf("an entry after the state: %v", err)
	}
	must(t, b.Close())
	must(t, s.Close())
	if _, err := g.OpenBodies(g.LastIndex); !errors.Is(err, ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}
