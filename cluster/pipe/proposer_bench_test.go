package pipe

import (
	"fmt"
	"testing"

	"github.com/warrenmq/warren/raftfsm/queue"
)

// keptLog commits at once and keeps nothing.
type keptLog struct {
	entries int
}

func (l *keptLog) Propose(uint64, []byte) error { l.entries++; return nil }

func (l *keptLog) ReadBody(uint64, uint32, uint32, []byte) ([]byte, error) { return nil, nil }

// BenchmarkProposer packs batches of 32 messages into entries: what one batch costs, by the size of its messages.
func BenchmarkProposer(b *testing.B) {
	for _, size := range []int{16, 1 << 10, 16 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			l := &keptLog{}
			p := &proposer{log: l, now: func() int64 { return 1 }, entryBytes: 256 << 10, inFlight: 4, maxPending: 16 << 20}

			p.lead(1, 0)
			batch := &queue.Batch{Data: make([]byte, 32*(size+64)), Commands: 32}
			b.SetBytes(int64(len(batch.Data)))
			b.ReportAllocs()
			seq := uint64(0)
			for b.Loop() {
				seq++
				took, err := p.addAndFlush(queue.MakeSessionID(1, 1), seq, seq-1, batch)
				if err != nil || !took {
					b.Fatalf("batch %d: taken %v, %v", seq, took, err)
				}
				if l.entries == p.inFlight {
					if err := p.applied(l.entries, 1); err != nil {
						b.Fatal(err)
					}
					l.entries = p.flying
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*32), "ns/message")
		})
	}
}
