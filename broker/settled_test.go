package broker

import (
	"math/rand/v2"
	"testing"

	"github.com/warrenmq/warren/raftfsm/queue"
)

// TestSettledDeliveriesCount: what a transaction has settled counts as at least what it makes of a commit's batch, and there is an end
// to it. A range of one consumer's deliveries counts once.
func TestSettledDeliveriesCount(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	consumers := make([]*consumer, 40) // more than a batch keeps open settles
	for i := range consumers {
		consumers[i] = &consumer{id: queue.ConsumerID(i)}
	}
	for _, c := range []struct {
		name       string
		consumer   func(i int) int
		id         func(i int) int
		least, end int
	}{
		{"in order", func(int) int { return 0 }, func(i int) int { return i }, settledBytes, 0},
		{"backwards", func(int) int { return 0 }, func(i int) int { return 1_000_000 - i }, 0, maxTransaction / settledBytes},
		{"in turn", func(i int) int { return i % len(consumers) }, func(i int) int { return i }, 0, maxTransaction / settledBytes},
		{"anyhow", func(int) int { return r.IntN(20) }, func(int) int { return r.IntN(1_000_000) }, 0, 0},
	} {
		tx := &transaction{most: maxTransaction}
		b := &batch{}
		settled := 0
		for ; settled < 600_000 && tx.check() == nil; settled++ {
			e := unsettled{consumer: consumers[c.consumer(settled)], id: uint64(c.id(settled))}
			tx.settle(uint64(settled), e, queue.Ack)
			b.settle(e.consumer.id, queue.Ack, queue.Range{From: e.id, To: e.id})
		}
		b.seal()
		if len(b.Data) > tx.bytes {
			t.Errorf("%s (seed %d): a batch of %d bytes where %d are counted", c.name, seed, len(b.Data), tx.bytes)
		}
		if c.end != 0 && settled != c.end+1 || c.least != 0 && tx.bytes != c.least {
			t.Errorf("%s: the end after %d, %d bytes", c.name, settled, tx.bytes)
		}
	}
}
