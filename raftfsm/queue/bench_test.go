package queue

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"runtime"
	"testing"
)

const benchBatch = 64

var benchQueue = MakeQueueID(1, 1)

// benchRun returns a run with a queue.
func benchRun(b *testing.B) *run {
	r := newRun(b)
	r.b.Configure(benchQueue, &Settings{Name: "q"})
	r.commit()
	return r
}

func perMessage(b *testing.B, messages int) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(messages), "ns/message")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkThrough is the usual life of messages: entries of 64 enqueues of 1 KiB are delivered to a waiting consumer,
// which settles them in one range.
func BenchmarkThrough(b *testing.B) {
	r := benchRun(b)
	r.b.Attach(benchQueue, 1, &AttachOptions{Credit: 1000})
	r.commit()
	envelope := make([]byte, 1<<10)
	b.ReportAllocs()
	settled := uint64(0)
	for b.Loop() {
		if settled > 0 {
			r.b.Settle(1, Ack, Range{settled - benchBatch + 1, settled})
		}
		r.enqueue(benchQueue, benchBatch, envelope)
		r.commit()
		settled += benchBatch
	}
	perMessage(b, b.N*benchBatch)
}

// BenchmarkApplyThrough is the same without making the entries, which edges do.
func BenchmarkApplyThrough(b *testing.B) {
	r := benchRun(b)
	r.b.Attach(benchQueue, 1, &AttachOptions{Credit: 1000})
	r.commit()
	r.enqueue(benchQueue, benchBatch, make([]byte, 1<<10))
	r.b.Settle(1, Ack, Range{0, math.MaxUint64})
	r.commit()
	b.ReportAllocs()
	for b.Loop() {
		r.again()
	}
	perMessage(b, b.N*benchBatch)
}

// again applies the last entry once more, as the next batch.
func (r *run) again() {
	r.index++
	r.seq++
	binary.LittleEndian.PutUint64(r.entry[EntryHeaderSize+16:], r.seq)
	binary.LittleEndian.PutUint64(r.entry[EntryHeaderSize+24:], r.seq-1)
	r.out.Reset()
	if err := r.s.Apply(r.index, r.entry, &r.out); err != nil {
		r.t.Fatal(err)
	}
}

func BenchmarkEnqueue(b *testing.B) {
	r := benchRun(b)
	r.enqueue(benchQueue, benchBatch, make([]byte, 1<<10))
	r.commit()
	b.ReportAllocs()
	for b.Loop() {
		r.again()
		if r.s.queues[benchQueue].ready > 1<<20 {
			r.s.dropReady(r.s.queues[benchQueue])
		}
	}
	perMessage(b, b.N*benchBatch)
}

// backlog returns a run with so many messages ready.
func backlog(b *testing.B, n int) *run {
	r := benchRun(b)
	envelope := make([]byte, 10)
	for range n / 1000 {
		r.enqueue(benchQueue, 1000, envelope)
		r.commit()
	}
	return r
}

func BenchmarkSnapshot(b *testing.B) {
	for _, kind := range []string{"ready", "unsettled", "returned"} {
		r := backlog(b, 1_000_000)
		if kind != "ready" {
			r.b.Attach(benchQueue, 1, &AttachOptions{Credit: math.MaxUint32})
			r.commit()
		}
		if kind == "returned" {
			r.b.Detach(1, false, math.MaxUint64)
			r.commit()
		}
		b.Run("take/"+kind, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r.s.Snapshot()
			}
		})
		b.Run("write/"+kind, func(b *testing.B) {
			sn := r.s.Snapshot()
			b.SetBytes(sn.Size())
			b.ReportAllocs()
			for b.Loop() {
				sn.WriteTo(io.Discard)
			}
		})
		b.Run("live/"+kind, func(b *testing.B) {
			sn := r.s.Snapshot()
			b.ReportAllocs()
			for b.Loop() {
				sn.LiveRefs(0, math.MaxUint64, func(uint64, uint32, uint32) bool { return true })
			}
		})
		b.Run("restore/"+kind, func(b *testing.B) {
			data := snapshotBytes(b, r.s)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Restore(bytes.NewReader(data)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func manyQueues(b *testing.B, n, messages int) *run {
	r := newRun(b)
	for i := range n {
		id := MakeQueueID(1, uint64(i)+1)
		r.b.Configure(id, &Settings{VHost: "/", Name: fmt.Sprint("queue-", i)})
		r.enqueue(id, messages, []byte("body"))
		if i%100 == 99 {
			r.commit()
		}
	}
	r.commit()
	return r
}

func BenchmarkManyQueues(b *testing.B) {
	r := manyQueues(b, 10_000, 1)
	b.Run("snapshot", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r.s.Snapshot()
		}
	})
	b.Run("write", func(b *testing.B) {
		for b.Loop() {
			r.s.Snapshot().WriteTo(io.Discard)
		}
	})
	b.Run("restore", func(b *testing.B) {
		data := snapshotBytes(b, r.s)
		for b.Loop() {
			if _, err := Restore(bytes.NewReader(data)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkMemory tells what things cost in memory.
func BenchmarkMemory(b *testing.B) {
	measure := func(name string, n int, build func() *run) {
		b.Run(name, func(b *testing.B) {
			var before, after runtime.MemStats
			for b.Loop() {
				runtime.GC()
				runtime.ReadMemStats(&before)
				r := build()
				runtime.GC()
				runtime.ReadMemStats(&after)
				runtime.KeepAlive(r)
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(n), "B/"+name)
			b.ReportMetric(0, "ns/op")
		})
	}
	measure("empty-queue", 10_000, func() *run { return manyQueues(b, 10_000, 0) })
	measure("queue-of-one", 10_000, func() *run { return manyQueues(b, 10_000, 1) })
	measure("ready-message", 1_000_000, func() *run { return backlog(b, 1_000_000) })
	measure("unsettled-message", 1_000_000, func() *run {
		r := backlog(b, 1_000_000)
		r.b.Attach(benchQueue, 1, &AttachOptions{Credit: math.MaxUint32})
		r.commit()
		r.out = Effects{}
		return r
	})
}

// BenchmarkRequeue is a storm: two consumers get all there is and give it back again.
func BenchmarkRequeue(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r := backlog(b, n)
			for c := range ConsumerID(2) {
				r.b.Attach(benchQueue, c+1, &AttachOptions{Credit: uint32(n)})
			}
			r.commit()
			b.ReportAllocs()
			for b.Loop() {
				r.b.Settle(1, Requeue, Range{0, math.MaxUint64})
				r.b.Settle(2, Requeue, Range{0, math.MaxUint64})
				r.commit()
			}
			perMessage(b, b.N*n)
		})
	}
}

// BenchmarkOneByOne settles the messages of a large prefetch singly, from the front.
func BenchmarkOneByOne(b *testing.B) {
	r := backlog(b, 200_000)
	r.b.Attach(benchQueue, 1, &AttachOptions{Credit: 100_000})
	r.commit()
	envelope := make([]byte, 10)
	b.ReportAllocs()
	settled := uint64(0)
	for b.Loop() {
		for range benchBatch {
			settled++
			r.b.Settle(1, Ack, Range{settled, settled})
		}
		r.enqueue(benchQueue, benchBatch, envelope)
		r.commit()
	}
	perMessage(b, b.N*benchBatch)
}
