package amqptest

import (
	"slices"
	"testing"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// shard is the real machine of a shard with its log in memory.
type shard struct {
	t       testing.TB
	session queue.SessionID
	state   *queue.State
	entries map[uint64][]byte // data of the log by index
	index   uint64
	seq     uint64
	effects queue.Effects
}

func newShard(t testing.TB, session queue.SessionID) *shard {
	s := &shard{t: t, session: session, state: queue.New(), entries: map[uint64][]byte{}}
	var up queue.Batch
	up.SessionUp(session)
	s.append(0, 0, &up)
	return s
}

// apply runs a batch of the session and leaves its effects.
func (s *shard) apply(b *queue.Batch) {
	s.seq++
	s.append(s.session, s.seq, b)
}

func (s *shard) append(session queue.SessionID, seq uint64, b *queue.Batch) {
	s.index++
	entry := queue.AppendEntryHeader(nil, int64(s.index), 1)
	entry = queue.AppendBatch(entry, session, seq, max(seq, 1)-1, b)
	s.entries[s.index] = entry
	s.effects.Reset()
	if err := s.state.Apply(s.index, entry, &s.effects); err != nil {
		s.t.Errorf("apply: %v", err)
	}
}

// results are the answers to the batch just applied.
func (s *shard) results() []queue.Result {
	for _, r := range s.effects.Replies {
		if r.Seq == s.seq {
			return r.Results
		}
	}
	return nil
}

// body returns a message's envelope.
func (s *shard) body(b *queue.Body) []byte {
	var data []byte
	for _, r := range append([]queue.Ref{b.First}, b.More...) {
		data = append(data, s.entries[r.Index][r.Offset:][:r.Size]...)
	}
	return data
}

// refuse gives a queue the limit 0 for what is new.
func (s *shard) refuse(id queue.QueueID) {
	for q, settings := range s.state.Queues() {
		if q == id {
			changed := *settings
			changed.HasMaxLength, changed.MaxLength, changed.RejectPublish = true, 0, true
			var b queue.Batch
			b.Configure(id, &changed)
			s.append(0, 0, &b)
		}
	}
}

// lose deletes a queue behind everybody's back.
func (s *shard) lose(id queue.QueueID) {
	var b queue.Batch
	b.Delete(id, false, false)
	s.append(0, 0, &b)
}

// deliveries groups what was just delivered by consumer, in order.
func (s *shard) deliveries(f func(queue.ConsumerID, []broker.Delivery)) {
	sent := slices.Clone(s.effects.Deliveries)
	for len(sent) > 0 {
		n := 1
		for n < len(sent) && sent[n].Consumer == sent[0].Consumer {
			n++
		}
		ds := make([]broker.Delivery, n)
		for i := range ds {
			ds[i] = broker.Delivery{Delivery: sent[i]}
		}
		f(sent[0].Consumer, ds)
		sent = sent[n:]
	}
}
