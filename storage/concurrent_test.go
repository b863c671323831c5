package storage

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/warrenmq/warren/storage/vfs"
)

// TestReadersAndRetirement reads entries, bodies and snapshots while two groups append, truncate and checkpoint, so that
// files retire under the readers. Nobody waits for ever, and what is read is what was written.
func TestReadersAndRetirement(t *testing.T) {
	s := mustOpen(t, vfs.NewMem(), smallFiles)
	const size, every, rounds = 300, 5, 150
	live := func(from, to uint64, yield func(uint64, uint32, uint32) bool) {
		for i := (max(from, 1) + every - 1) / every * every; i <= to && yield(i, 10, 50); i += every {
		}
	}
	var writers, readers sync.WaitGroup
	var over atomic.Bool
	for id := uint32(1); id <= 2; id++ {
		g := mustGroup(t, s, id)
		var last, saved atomic.Uint64
		writers.Go(func() {
			for i := range rounds {
				from := last.Load() + 1
				if err := g.Append(entries(id, from, from+4, 1, size)); err != nil {
					t.Error(err)
					return
				}
				last.Store(from + 4)
				if i%10 == 9 {
					// The same entries once more: what was read before must not stay for them.
					if err := errors.Join(g.TruncateSuffix(from+3), g.Append(entries(id, from+3, from+4, 1, size))); err != nil {
						t.Error(err)
						return
					}
				}
				if i%7 == 6 {
					if err := g.SaveCheckpoint(Checkpoint{Index: from + 2, Term: 1}, func(io.Writer) error { return nil }, live); err != nil {
						t.Error(err)
						return
					}
					saved.Store(from + 2)
				}
			}
		})
		for range 2 {
			readers.Go(func() {
				for n := uint64(0); !over.Load(); n++ {
					to := saved.Load()
					if to < every {
						continue
					}
					index := (n%(to/every) + 1) * every
					body, err := g.ReadBody(index, 10, 50)
					if err != nil || !bytes.Equal(body, bodyOf(id, index, size)[10:60]) {
						t.Errorf("body of %d in group %d: %v", index, id, err)
						return
					}
					if e, err := g.Entry(last.Load() - 3); err == nil && !bytes.Equal(e.Data, bodyOf(id, e.Index, size)) {
						t.Errorf("entry %d of group %d is another", e.Index, id)
					} else if err != nil && !errors.Is(err, ErrNotFound) {
						t.Error(err)
					}
				}
			})
		}
		readers.Go(func() {
			for !over.Load() {
				to := saved.Load()
				size, stream, err := g.OpenSnapshot(Checkpoint{Index: to, Term: 1}, nil, live)
				if err != nil {
					t.Errorf("snapshot of group %d at %d: %v", id, to, err)
					return
				}
				n, err := io.Copy(io.Discard, stream)
				if err = errors.Join(err, stream.Close()); err != nil || n != size {
					t.Errorf("snapshot of group %d: %d octets of %d: %v", id, n, size, err)
				}
			}
		})
	}
	writers.Wait()
	over.Store(true)
	readers.Wait()
	if n := s.wal.current().number; n < 10 {
		t.Errorf("only %d log files", n)
	}
	must(t, s.Close())
}
