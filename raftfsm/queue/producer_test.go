package queue

import (
	"bytes"
	"encoding/binary"
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

func TestOldRefusalsAreTakenForGranted(t *testing.T) {
	p := &producer{}
	for n := uint64(1); n <= 4*maxRefusals; n++ {
		p.note(n, n%2 == 0)
	}
	if len(p.refused) != maxRefusals || p.unknown != 2*maxRefusals {
		t.Fatalf("%d runs, unknown up to %d", len(p.refused), p.unknown)
	}
	for n := uint64(1); n <= p.last; n++ {
		if got, want := p.wasRefused(n), n%2 == 0 || n <= p.unknown; got != want {
			t.Errorf("number %d: refused %t, want %t", n, got, want)
		}
	}
}

func TestSnapshotsWithoutProducersCanBeRead(t *testing.T) {
	w := newWorld(t)
	w.block("n1 configure q\nn1 enqueue q a")
	data := snapshotBytes(t, w.s)
	old := append(bytes.Clone(data[:len(data)-12]), data[len(data)-8:]...) // without the number of producers
	old[4] = 1
	s, err := Restore(bytes.NewReader(old))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(snapshotBytes(t, s), data) {
		t.Error("the state is another")
	}
}
