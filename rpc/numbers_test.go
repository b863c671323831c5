package rpc

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestEveryNumberIsToldOnce tells numbers as the broker does: one at a time before their turn, or all up to one.
func TestEveryNumberIsToldOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var n numbers
		var sequences []uint64 // by tag, from 1
		var told []uint64
		front, sequence := uint64(0), uint64(0)
		early := map[uint64]bool{}
		take := func(tag uint64, multiple bool) {
			n.take(tag, multiple, func(first, last uint64) {
				for ; first <= last; first++ {
					told = append(told, first)
				}
			})
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch last := uint64(len(sequences)); rapid.IntRange(0, 3).Draw(t, "step") {
			case 0, 1:
				sequence += uint64(rapid.IntRange(1, 3).Draw(t, "gap"))
				count := rapid.IntRange(1, 5).Draw(t, "count")
				n.add(last+1, sequence, count)
				back := rapid.IntRange(0, count).Draw(t, "back")
				n.shorten(back)
				for range count - back {
					sequences = append(sequences, sequence)
					sequence++
				}
			case 2:
				if front < last {
					front = rapid.Uint64Range(front+1, last).Draw(t, "through")
					for early[front+1] {
						front++
					}
					take(front, true)
				}
			case 3:
				if tag := rapid.Uint64Range(0, last).Draw(t, "tag"); tag > front && !early[tag] {
					early[tag] = true
					take(tag, false)
					for early[front+1] {
						front++
					}
				}
			}
		}
		if front < uint64(len(sequences)) {
			take(uint64(len(sequences)), true)
		}
		slices.Sort(told)
		if !slices.Equal(told, sequences) {
			t.Fatalf("told %v of %v", told, sequences)
		}
		if !n.empty() || len(n.early) > 0 {
			t.Fatalf("left: %+v", n)
		}
	})
}
