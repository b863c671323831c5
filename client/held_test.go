package client

import (
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	brokerv1 "github.com/warrenmq/warren/proto/broker/v1"
)

// TestHeldDeliveries settles deliveries in any order, some of them much later than others. What is sent says of each what the
// program said, and what is kept is bounded by what the program has.
func TestHeldDeliveries(t *testing.T) {
	const deliveries, most = 20000, 50
	r := rand.New(rand.NewPCG(1, 2))
	s := &consumeStream{wake: make(chan struct{}, 1)}
	hands := []uint64{}                         // with the program
	said := map[uint64]brokerv1.Settlement{}    // by the program
	unknown := map[uint64]struct{}{}            // not settled for the broker
	learned := map[uint64]brokerv1.Settlement{} // by the broker
	learn := func(tag uint64, as brokerv1.Settlement) {
		if _, ok := unknown[tag]; !ok {
			t.Fatalf("delivery %d is settled again", tag)
		}
		delete(unknown, tag)
		learned[tag] = as
	}
	take := func() {
		settles, _ := s.take()
		for _, settle := range settles {
			if !settle.Multiple {
				learn(settle.DeliveryTag, settle.Settlement)
				continue
			}
			for _, tag := range slices.Sorted(maps.Keys(unknown)) {
				if tag <= settle.DeliveryTag {
					learn(tag, settle.Settlement)
				}
			}
		}
		if len(unknown) != len(hands) {
			t.Fatalf("the program has %d deliveries, and %d are not settled for the broker", len(hands), len(unknown))
		}
		if n := len(s.held); n > 2*most {
			t.Fatalf("%d deliveries are kept, and the program has %d", n, len(hands))
		}
	}
	settle := func(i int) {
		tag := hands[i]
		hands = slices.Delete(hands, i, i+1)
		said[tag] = []brokerv1.Settlement{brokerv1.Settlement_SETTLEMENT_ACK, brokerv1.Settlement_SETTLEMENT_ACK, brokerv1.Settlement_SETTLEMENT_REQUEUE,
			brokerv1.Settlement_SETTLEMENT_DISCARD}[r.IntN(4)]
		if err := s.settle(tag, said[tag], 0); err != nil {
			t.Fatal(err)
		}
		if err := s.settle(tag, said[tag], 0); !errors.Is(err, errSettled) {
			t.Fatalf("delivery %d was settled twice: %v", tag, err)
		}
	}
	for tag := uint64(1); tag <= deliveries; tag++ {
		s.got(tag)
		unknown[tag] = struct{}{}
		hands = append(hands, tag)
		if len(hands) == most {
			for range 1 + r.IntN(most-1) {
				settle(1 + r.IntN(len(hands)-1)) // the first stays
			}
			take()
			if r.IntN(100) == 0 {
				settle(0)
			}
		}
	}
	for len(hands) > 0 {
		settle(len(hands) - 1)
	}
	take()
	if !maps.Equal(said, learned) || len(said) != deliveries || len(s.held) != 0 {
		t.Errorf("of %d deliveries the program has settled %d, and the broker knows of %d; %d are kept", deliveries, len(said), len(learned), len(s.held))
	}
}
