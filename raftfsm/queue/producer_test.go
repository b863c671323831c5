package queue

import (
	"bytes"
	"encoding/binary"
	"math"
	"slices"
	"testing"
)

func producerID(n int) (id ProducerID) {
	binary.BigEndian.PutUint32(id[:], uint32(n))
	return id
}

// enqueueAs applies one message of a producer, for the queue "q".
func (w *world) enqueueAs(producer int, sequence uint64) {
	b := w.batch(MakeSessionID(1, 1), 0)
	b.EndEnqueue(b.BeginEnqueue([]QueueID{QueueID(w.name("q"))}, &EnqueueOptions{Producer: producerID(producer), Sequence: sequence}))
}

func (w *world) apply() {
	w.t.Helper()
	entry := AppendEntryHeader(nil, w.time, uint32(len(w.batches)))
	for i := range w.batches {
		b := &w.batches[i]
		entry = AppendBatch(entry, b.session, b.seq, b.seq-1, &b.Batch)
	}
	w.batches = w.batches[:0]
	w.index++
	w.out.Reset()
	if err := w.s.Apply(w.index, entry, &w.out); err != nil {
		w.t.Fatal(err)
	}
}

func TestTheProducerThatWasSilentForLongestGoes(t *testing.T) {
	w := newWorld(t)
	for i := range MaxProducers {
		w.enqueueAs(i, 1)
	}
	w.apply()
	w.enqueueAs(0, 1) // a repetition is a use as well
	w.enqueueAs(MaxProducers, 1)
	w.apply()
	checkState(t, w.s)
	for i, want := range map[int]bool{0: true, 1: false, 2: true, MaxProducers: true} {
		if got := w.s.producers.byID[producerID(i)] != nil; got != want {
			t.Errorf("producer %d: remembered %t, want %t", i, got, want)
		}
	}
	throughSnapshot(t, w.s)
}

func TestTheWidestSpan(t *testing.T) {
	w := newWorld(t)
	for _, n := range []uint64{1, ProducerSpan + 1} {
		b := w.batch(MakeSessionID(1, 1), 0)
		b.EndEnqueue(b.BeginEnqueue([]QueueID{QueueID(w.name("q"))}, &EnqueueOptions{Producer: producerID(1), Sequence: n, Behind: uint16(n - 1)}))
	}
	w.apply()
	checkState(t, w.s)
	p := throughSnapshot(t, w.s).producers.byID[producerID(1)]
	if !p.has(p.seen, 1) || p.has(p.seen, 2) || !p.has(p.seen, ProducerSpan+1) {
		t.Errorf("seen: %v", p.seen)
	}
}

// TestTheHighestNumbers: a snapshot with a producer at the end of all numbers can be read again, and says the same.
func TestTheHighestNumbers(t *testing.T) {
	for _, numbers := range [][]uint64{{math.MaxUint64}, {math.MaxUint64 - 63}, {math.MaxUint64 - 64, math.MaxUint64}} {
		w := newWorld(t)
		for _, n := range numbers {
			behind := uint16(n - numbers[0])
			b := w.batch(MakeSessionID(1, 1), 0)
			b.EndEnqueue(b.BeginEnqueue([]QueueID{QueueID(w.name("q"))}, &EnqueueOptions{Producer: producerID(1), Sequence: n, Behind: behind}))
		}
		w.apply()
		checkState(t, w.s)
		p := throughSnapshot(t, w.s).producers.byID[producerID(1)]
		for _, n := range numbers {
			if !p.has(p.seen, n) {
				t.Errorf("of %v, %d is forgotten", numbers, n)
			}
		}
	}
}

func TestSnapshotsOfOlderFormatsCanBeRead(t *testing.T) {
	w := newWorld(t)
	w.block("n1 configure q\nn1 enqueue q a")
	data := snapshotBytes(t, w.s)
	session := bytes.LastIndex(data, binary.LittleEndian.AppendUint64(nil, uint64(MakeSessionID(1, 1))))
	second := slices.Concat(data[:session-8], data[session:]) // without the number of delayed messages
	second[4] = 2
	first := slices.Concat(second[:len(second)-12], second[len(second)-8:]) // and without that of producers
	first[4] = 1
	for _, old := range [][]byte{first, second} {
		s, err := Restore(bytes.NewReader(old))
		if err != nil {
			t.Fatalf("format %d: %v", old[4], err)
		}
		if !bytes.Equal(snapshotBytes(t, s), data) {
			t.Errorf("format %d: the state is another", old[4])
		}
	}
}

// BenchmarkProducerThrough is BenchmarkThrough with the numbers of a producer, 500 of them under way.
func BenchmarkProducerThrough(b *testing.B) {
	r := benchRun(b)
	r.b.Attach(benchQueue, 1, &AttachOptions{Credit: 1000})
	r.commit()
	envelope := make([]byte, 1<<10)
	queues := []QueueID{benchQueue}
	b.ReportAllocs()
	sequence, settled := uint64(500), uint64(0)
	for b.Loop() {
		if settled > 0 {
			r.b.Settle(1, Ack, Range{settled - benchBatch + 1, settled})
		}
		for range benchBatch {
			sequence++
			mark := r.b.BeginEnqueue(queues, &EnqueueOptions{Producer: producerID(1), Sequence: sequence, Behind: 500})
			r.b.Data = append(r.b.Data, envelope...)
			r.b.EndEnqueue(mark)
		}
		r.commit()
		settled += benchBatch
	}
	perMessage(b, b.N*benchBatch)
}
