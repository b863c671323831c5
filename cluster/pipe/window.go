package pipe

import (
	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// window is the batches of a pipe that have no answer yet, in order of their numbers.
type window struct {
	maxBytes, maxBatches int

	first   uint64          // number of the oldest batch here, or of the next one to come
	batches []*broker.Batch // ring
	head    int
	count   int
	bytes   int
	room    chan struct{} // closed when there is room again; nil: nobody waits
}

func weight(b *broker.Batch) int { return queue.BatchHeaderSize + len(b.Data) }

func (w *window) len() int { return w.count }

// last is the number of the newest batch.
func (w *window) last() uint64 { return w.first + uint64(w.count) - 1 }

// full tells whether the batch must wait. A batch larger than the window goes alone.
func (w *window) full(b *broker.Batch) bool {
	return w.count >= w.maxBatches || w.count > 0 && w.bytes+weight(b) > w.maxBytes
}

// waitForRoom returns a channel that is closed when a batch leaves.
func (w *window) waitForRoom() <-chan struct{} {
	if w.room == nil {
		w.room = make(chan struct{})
	}
	return w.room
}

// open wakes all that wait for room.
func (w *window) open() {
	if w.room != nil {
		close(w.room)
		w.room = nil
	}
}

func (w *window) push(b *broker.Batch) {
	if w.count == len(w.batches) {
		larger := make([]*broker.Batch, max(16, 2*w.count))
		n := copy(larger, w.batches[w.head:])
		copy(larger[n:], w.batches[:w.head])
		w.batches, w.head = larger, 0
	}
	w.batches[(w.head+w.count)&(len(w.batches)-1)] = b
	w.count++
	w.bytes += weight(b)
}

// at returns the batch with a number, which must be here.
func (w *window) at(seq uint64) *broker.Batch {
	return w.batches[(w.head+int(seq-w.first))&(len(w.batches)-1)]
}

// pop removes the oldest batch. Who waits is woken by open.
func (w *window) pop() *broker.Batch {
	b := w.batches[w.head]
	w.batches[w.head] = nil
	w.head = (w.head + 1) & (len(w.batches) - 1)
	w.count--
	w.first++
	w.bytes -= weight(b)
	return b
}
