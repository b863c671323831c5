package queue

import (
	"bytes"
	"math"
	"math/rand/v2"
	"testing"
)

// run applies entries as they are made, and keeps what comes of them.
type run struct {
	t     testing.TB
	s     *State
	index uint64
	seq   uint64
	b     Batch
	entry []byte
	out   Effects
}

var runSession = MakeSessionID(1, 1)

func newRun(t testing.TB) *run { return &run{t: t, s: New()} }

// commit applies the batch at hand as the next entry.
func (r *run) commit() {
	r.index++
	r.seq++
	r.entry = AppendEntryHeader(r.entry[:0], int64(r.index), 1)
	r.entry = AppendBatch(r.entry, runSession, r.seq, r.seq-1, &r.b)
	r.b.Reset()
	r.out.Reset()
	if err := r.s.Apply(r.index, r.entry, &r.out); err != nil {
		r.t.Fatal(err)
	}
}

func (r *run) enqueue(id QueueID, n int, envelope []byte) {
	ids := []QueueID{id}
	for range n {
		mark := r.b.BeginEnqueue(ids, &EnqueueOptions{})
		r.b.Data = append(r.b.Data, envelope...)
		r.b.EndEnqueue(mark)
	}
}

// TestSnapshotWhileApplying writes snapshots while the state goes on, of so many messages that all sorts of blocks and
// pages are shared. The race detector tells whether one is changed in place.
func TestSnapshotWhileApplying(t *testing.T) {
	r := newRun(t)
	q, rng := MakeQueueID(1, 1), rand.New(rand.NewPCG(1, 2))
	r.b.Configure(q, &Settings{Name: "q", MaxPriority: 2})
	r.b.Attach(q, 1, &AttachOptions{Credit: 3000})
	r.commit()
	type written struct{ before, after []byte }
	done := make(chan written)
	pending, settled := 0, uint64(0)
	for i := range 200 {
		r.enqueue(q, rng.IntN(100), []byte("body"))
		for range 5 {
			settled += uint64(rng.IntN(20))
			r.b.Settle(1, Outcome(rng.IntN(3)), Range{settled, settled + uint64(rng.IntN(20))})
		}
		r.commit()
		if i%10 == 0 {
			sn := r.s.Snapshot()
			before := writeSnapshot(t, sn)
			pending++
			go func() {
				collectRefs(sn, 0, math.MaxUint64)
				done <- written{before, writeSnapshot(t, sn)}
			}()
		}
	}
	for ; pending > 0; pending-- {
		if w := <-done; !bytes.Equal(w.before, w.after) {
			t.Fatal("a snapshot changed")
		}
	}
	checkState(t, r.s)
	throughSnapshot(t, r.s)
}

// TestUploadBounds checks that an upload with too many pieces is refused and forgotten.
func TestUploadBounds(t *testing.T) {
	for _, test := range []struct {
		pieces int
		code   ResultCode
	}{{maxUploadPieces, OK}, {maxUploadPieces + 1, Refused}} {
		r := newRun(t)
		q := MakeQueueID(1, 1)
		r.b.Configure(q, &Settings{Name: "q"})
		for range test.pieces {
			r.b.Chunk(7, []byte("p"))
		}
		r.commit()
		r.b.EndEnqueue(r.b.BeginEnqueue([]QueueID{q}, &EnqueueOptions{Upload: 7}))
		r.commit()
		code := OK
		if results := r.out.Replies[0].Results; len(results) > 0 {
			code = results[0].Code
		}
		if code != test.code {
			t.Errorf("%d pieces: result %d, wanted %d", test.pieces, code, test.code)
		}
		checkState(t, r.s)
		throughSnapshot(t, r.s)
	}
}
