package sim

import (
	"strings"
	"testing"
	"time"

	"github.com/warrenmq/warren/test/chaos/check"
)

// judged is a simulation in which nothing runs, to judge what clients saw.
func judged() (*sim, *run) {
	s := &sim{plan: &plan{nodes: 3}, began: time.Now()}
	s.ledger = check.NewLedger(s.now)
	for i := range 3 {
		s.nodes = append(s.nodes, &node{s: s, number: i})
	}
	return s, &run{n: s.nodes[0], name: "n1.1", gone: make(chan struct{})}
}

// TestANegativeConfirmIsAnError: a client of a node that is well must not be refused.
func TestANegativeConfirmIsAnError(t *testing.T) {
	s, r := judged()
	p := &publisher{s: s, key: "work", changed: make(chan struct{}, 1), entry: s.ledger.Publisher("p", to(s.ledger.Queue("work", false)))}
	p.entry.Begin()
	waiting := map[uint64]uint32{1: p.entry.Next(), 2: p.entry.Next()}
	p.confirmed(r, waiting, 1, false, true)
	if list := s.unexcused(); len(list) != 0 {
		t.Fatalf("a confirm is taken for an error: %v", list)
	}
	p.confirmed(r, waiting, 2, false, false)
	if list := s.unexcused(); len(list) != 1 || !strings.Contains(list[0].text, "nack") {
		t.Fatalf("%v", list)
	}
}
