package sim

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmq/warren/broker"
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

// TestAStopThatHangsFails: a node that is asked to end and does not close its clients' connections is killed, as its manager would, and
// that is a failure of the schedule.
func TestAStopThatHangsFails(t *testing.T) {
	for _, hangs := range []bool{false, true} {
		root := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			s, r := judged()
			s.random = rand.New(rand.NewPCG(1, 1))
			s.network = newNetwork(3, s.fork())
			n := r.n
			n.disk = newDisk(root)
			r.port, r.mount = s.network.plug(0), n.disk.mount(0, s.fork())
			if err := os.MkdirAll(r.mount.dir, 0o750); err != nil {
				t.Fatal(err)
			}
			r.broker = broker.New(broker.Options{Logger: slog.New(slog.DiscardHandler)})
			_, r.cancel = context.WithCancel(t.Context())
			r.started, r.serves = make(chan struct{}), make(chan struct{})
			close(r.started)
			close(r.serves)
			n.run = r
			r.clients.Add(1)
			if hangs {
				go func() { <-r.gone; r.clients.Done() }()
			} else {
				n.kill(r, false) // by another fault, at the same time
				r.clients.Done()
			}
			stopping(s, &action{victims: []int{0}})
			s.work.Wait()
			if failed := len(s.wrong) > 0; failed != hangs {
				t.Errorf("hangs %v: %v", hangs, s.wrong)
			}
		})
	}
}

// TestAProcessThatHasEndedTellsNothing: what the goroutines of a dead process still say reaches no client. What they wait for at a power cut
// ends, as if it were durable.
func TestAProcessThatHasEndedTellsNothing(t *testing.T) {
	_, r := judged()
	told := 0
	c := &session{run: r, delivered: func(*broker.Outgoing) { told++ }, confirmed: func(uint64, bool, bool) { told++ }, returned: func([]byte) { told++ }}
	say := func() error {
		c.Deliver(1, "", &broker.Outgoing{})
		c.Confirm(1, 1, false, broker.Confirmed)
		c.Return(1, 0, "", nil, nil, nil, nil)
		return c.answered(nil)
	}
	if err := say(); told != 3 || err != nil {
		t.Errorf("a process that lives has told %d of 3: %v", told, err)
	}
	close(r.gone)
	if err := say(); told != 3 || err == nil {
		t.Errorf("a dead process has told %d, and answered: %v", told-3, err)
	}
}
