package broker

import (
	"testing"

	"pgregory.net/rapid"
)

// TestConfirmsAgainstClient completes publishes in random order and reads the frames as a client does that believes the
// numbers in order and lets multiple cover what it does not know yet: each gets its own answer, once all are complete.
func TestConfirmsAgainstClient(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var c confirms
		c.start()
		pending := map[uint64]int{} // commands not applied
		nacked := map[uint64]bool{}
		var last uint64
		client := confirmClient{answers: map[uint64]bool{}, waiting: map[uint64]bool{}, next: 1}
		finish := func(seq uint64) {
			c.finish(seq, 1)
			if pending[seq]--; pending[seq] == 0 {
				delete(pending, seq)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"publish": func(t *rapid.T) {
				counts := rapid.SliceOfN(rapid.SampledFrom([]uint16{0, 1, 1, 1, 2, refused}), 1, 100).Draw(t, "counts")
				for _, n := range counts {
					last++
					if n == refused {
						nacked[last] = true
					} else if n > 0 {
						pending[last] = int(n)
					}
				}
				c.begin(counts)
			},
			"finish": func(t *rapid.T) {
				for range rapid.IntRange(1, 20).Draw(t, "n") {
					seq := rapid.Uint64Range(0, last).Draw(t, "seq")
					if pending[seq] == 0 {
						continue
					}
					if rapid.Bool().Draw(t, "refused") {
						c.refuse(seq, QueueFull)
						nacked[seq] = true
					}
					finish(seq)
				}
			},
			"drain": func(t *rapid.T) { client.read(t, c.drain(nil)) },
		})
		for seq := uint64(1); seq <= last; seq++ {
			for pending[seq] > 0 {
				finish(seq)
			}
		}
		client.read(t, c.drain(nil))
		for seq := uint64(1); seq <= last; seq++ {
			if ack, ok := client.answers[seq]; !ok || ack == nacked[seq] {
				t.Fatalf("%d of %d: answered %v, ack %v, nacked %v", seq, last, ok, ack, nacked[seq])
			}
		}
	})
}

// confirmClient resolves frames as amqp091-go does: single ones wait for their turn, a multiple one answers all before.
type confirmClient struct {
	answers map[uint64]bool
	waiting map[uint64]bool
	next    uint64
}

func (k *confirmClient) read(t *rapid.T, frames []told) {
	for _, f := range frames {
		if f.multiple {
			for k.next <= f.tag {
				k.answers[k.next] = f.outcome.Acked()
				k.next++
				k.resequence()
			}
			continue
		}
		if _, twice := k.answers[f.tag]; twice {
			t.Fatalf("%d answered twice", f.tag)
		}
		k.waiting[f.tag] = f.outcome.Acked()
		k.resequence()
	}
}

func (k *confirmClient) resequence() {
	for {
		ack, ok := k.waiting[k.next]
		if !ok {
			return
		}
		delete(k.waiting, k.next)
		k.answers[k.next] = ack
		k.next++
	}
}
