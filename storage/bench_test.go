package storage

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/warrenmq/warren/storage/vfs"
)

// nothing refers to no entry.
func nothing(uint64, uint64, func(uint64, uint32, uint32) bool) {}

// BenchmarkAppendGroups appends entries of 4 KiB from one goroutine for each group, which wait for the disk together.
func BenchmarkAppendGroups(b *testing.B) {
	for _, groups := range []int{1, 16} {
		b.Run(fmt.Sprint(groups), func(b *testing.B) {
			s := mustOpen(b, nil, func(o *Options) { o.Dir, o.WALFileSize = b.TempDir(), 64<<20 })
			defer s.Close()
			const size = 4 << 10
			b.SetBytes(size)
			b.ReportAllocs()
			var work sync.WaitGroup
			for id := range groups {
				g := mustGroup(b, s, uint32(id))
				work.Go(func() {
					data := make([]byte, size)
					for i := 1; i <= (b.N+groups-1)/groups; i++ {
						if err := g.Append([]Entry{{Index: uint64(i), Term: 1, Data: data}}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			work.Wait()
		})
	}
}

// BenchmarkAppendBatch appends 64 small entries at a time, on a disk that takes no time: what the package itself costs.
func BenchmarkAppendBatch(b *testing.B) {
	s := mustOpen(b, nil, func(o *Options) {
		o.Dir, o.WALFileSize = b.TempDir(), 64<<20
		o.FS = noSync{vfs.OS()}
	})
	defer s.Close()
	g := mustGroup(b, s, 1)
	data := make([]byte, 200)
	list := make([]Entry, 64)
	b.ReportAllocs()
	next := uint64(1)
	for b.Loop() {
		for i := range list {
			list[i] = Entry{Index: next, Term: 1, Data: data}
			next++
		}
		must(b, g.Append(list))
		select {
		case <-s.NeedsCheckpoint():
			must(b, g.SaveCheckpoint(Checkpoint{Index: next - 1}, func(io.Writer) error { return nil }, nothing))
		default:
		}
	}
}

// noSync is a file system whose files are durable at once.
type noSync struct{ vfs.FS }

func (n noSync) Create(name string) (vfs.File, error) {
	f, err := n.FS.Create(name)
	return noSyncFile{f}, err
}

type noSyncFile struct{ vfs.File }

func (noSyncFile) Sync() error { return nil }

// BenchmarkReadBodyFrom reads a body of 1 KiB out of an entry of 16 KiB: from memory, the log and a segment.
func BenchmarkReadBodyFrom(b *testing.B) {
	const count, size = 1000, 16 << 10
	for _, from := range []string{"cache", "log", "segment"} {
		b.Run(from, func(b *testing.B) {
			s := mustOpen(b, nil, func(o *Options) {
				o.Dir, o.WALFileSize = b.TempDir(), 4<<20
				if from != "cache" {
					o.CacheBytes = 1
				}
			})
			defer s.Close()
			g := mustGroup(b, s, 1)
			for i := uint64(1); i <= count; i += 50 {
				must(b, g.Append(entries(1, i, i+49, 1, size)))
			}
			if from == "segment" {
				live := func(from, to uint64, yield func(uint64, uint32, uint32) bool) {
					for i := max(from, 1); i <= to && yield(i, 1024, 1024); i++ {
					}
				}
				must(b, g.SaveCheckpoint(Checkpoint{Index: count}, func(io.Writer) error { return nil }, live))
			}
			upper := uint64(100)
			b.ReportAllocs()
			i := uint64(0)
			for b.Loop() {
				i++
				if _, err := g.ReadBody(i%upper+1, 1024, 1024); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkCheckpoint makes a checkpoint of a million live messages, of 48 octets of state each, whose bodies are in segments
// already; and tells the time of the slowest append to another group meanwhile.
func BenchmarkCheckpoint(b *testing.B) {
	const perEntry, total, size = 8, 1_000_000, 100
	s := mustOpen(b, nil, func(o *Options) { o.Dir, o.WALFileSize = b.TempDir(), 32<<20 })
	defer s.Close()
	g, other := mustGroup(b, s, 1), mustGroup(b, s, 2)
	live := func(from, to uint64, yield func(uint64, uint32, uint32) bool) {
		for i := max(from, 1); i <= min(to, total/perEntry); i++ {
			for k := range uint32(perEntry) {
				if !yield(i, k*size, size) {
					return
				}
			}
		}
	}
	state := func(w io.Writer) error {
		buf := make([]byte, 48<<10)
		for range total / 1000 {
			if _, err := w.Write(buf[:48_000]); err != nil {
				return err
			}
		}
		return nil
	}
	save := func() {
		must(b, g.SaveCheckpoint(Checkpoint{Index: g.LastIndex()}, state, live))
	}
	for i := uint64(1); i <= total/perEntry; i += 250 {
		must(b, g.Append(entries(1, i, i+249, 1, perEntry*size)))
		select {
		case <-s.NeedsCheckpoint():
			save()
		default:
		}
	}
	stop, slowest := make(chan struct{}), make(chan time.Duration)
	go func() {
		var worst time.Duration
		for i := uint64(1); ; i++ {
			began := time.Now()
			if err := other.Append([]Entry{{Index: i, Term: 1, Data: make([]byte, 100)}}); err != nil {
				b.Error(err)
			}
			worst = max(worst, time.Since(began))
			select {
			case <-stop:
				slowest <- worst
				return
			default:
			}
		}
	}()
	b.ReportAllocs()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for b.Loop() {
		save()
	}
	runtime.ReadMemStats(&after)
	close(stop)
	b.ReportMetric(float64((<-slowest).Microseconds())/1000, "ms-slowest-append")
	b.ReportMetric(float64(after.HeapSys)/(1<<20), "MiB-heap")
}

// BenchmarkSnapshot streams a million live messages of 100 octets to nowhere.
func BenchmarkSnapshot(b *testing.B) {
	const perEntry, total, size = 8, 1_000_000, 100
	s := mustOpen(b, nil, func(o *Options) { o.Dir, o.WALFileSize, o.CacheBytes = b.TempDir(), 256<<20, 1 })
	defer s.Close()
	g := mustGroup(b, s, 1)
	for i := uint64(1); i <= total/perEntry; i += 250 {
		must(b, g.Append(entries(1, i, i+249, 1, perEntry*size)))
	}
	live := func(from, to uint64, yield func(uint64, uint32, uint32) bool) {
		for i := max(from, 1); i <= to; i++ {
			for k := range uint32(perEntry) {
				if !yield(i, k*size, size) {
					return
				}
			}
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		n, r, err := g.OpenSnapshot(Checkpoint{Index: total / perEntry}, nil, live)
		must(b, err)
		b.SetBytes(n)
		_, err = io.Copy(io.Discard, r)
		must(b, errors.Join(err, r.Close()))
	}
}
