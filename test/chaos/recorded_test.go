package chaos

import (
	"strconv"
	"testing"
	"time"

	"github.com/warrenmq/warren/test/chaos/check"
)

// recordedResult is the result of a run that never was: ten seconds, one fault, and one lost message if it is to fail.
func recordedResult(t *testing.T, failed bool) *Result {
	t.Helper()
	var now time.Duration
	clock := func() time.Duration { return now }
	ledger, s := check.NewLedger(clock), newSeries(clock)
	q := ledger.Queue("q", true)
	p := ledger.Publisher("p", func(uint32) []*check.Queue { return []*check.Queue{q} })
	p.Begin()
	c := q.Consumer(0)
	for i := range uint32(1000) {
		now = time.Duration(i) * 10 * time.Millisecond
		id := p.Next()
		s.published()
		p.Confirmed(id)
		s.confirmed(time.Duration(i%20) * time.Millisecond)
		if failed && i == 500 {
			continue
		}
		s.delivered()
		c.Delivered(p.Number(), id, false)
		c.Acked(p.Number(), id)
	}
	result := &Result{Options: Options{Seed: 42, Nodes: 3, Workloads: []string{"work"}}, Verdict: ledger.Judge(nil), Series: s.points(),
		Schedule: []*Action{{Fault: "kill-one", Victims: []int{1}, Injected: 3 * time.Second, Healed: 5 * time.Second, Recovered: 6 * time.Second,
			With: &Action{Fault: "stop-long", Victims: []int{2}, Injected: 4 * time.Second, Healed: 5 * time.Second, Recovered: 5 * time.Second}}}}
	return result
}

func parseSeed(text string) (uint64, error) { return strconv.ParseUint(text, 10, 64) }
