package chaos

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warrenmq/warren/test/chaos/check"
)

// timeline is a series with a clock that the test sets.
type timeline struct {
	*series
	now time.Duration
}

func newTimeline() *timeline {
	l := &timeline{}
	l.series = newSeries(func() time.Duration { return l.now })
	return l
}

// confirmsAt has a publisher get confirms at these times, in seconds.
func (l *timeline) confirmsAt(w *waiter, times ...float64) {
	for _, at := range times {
		l.now = time.Duration(at * float64(time.Second))
		l.begins(w)
		l.answered(w)
	}
}

// TestGapsOfFaults: a gap counts for the fault that it began under or that hit while it went on, though it ends after all nodes serve
// again, or never. One that the next fault makes longer is not the fault before's.
func TestGapsOfFaults(t *testing.T) {
	const second = time.Second
	fault := func(injected, recovered time.Duration) *Action {
		return &Action{Fault: "kill-all", Injected: injected, Healed: recovered, Recovered: recovered}
	}
	for _, c := range []struct {
		name     string
		confirms []float64
		schedule []*Action
		end      time.Duration
		gaps     []time.Duration
		whole    time.Duration
	}{
		{"ends after the nodes serve", []float64{1, 2, 4.6, 5}, []*Action{fault(2*second, 4*second)}, 5 * second, []time.Duration{2600 * time.Millisecond}, 2600 * time.Millisecond},
		{"ends with the load", []float64{1, 2}, []*Action{fault(2*second, 4*second)}, 9 * second, []time.Duration{7 * second}, 7 * second},
		{"begins after the nodes serve", []float64{1, 2, 3, 4, 5, 9}, []*Action{fault(2*second, 4*second), fault(20*second, 21*second)}, 9 * second,
			[]time.Duration{4 * second, 0}, 4 * second},
		{"made longer by the next", []float64{1, 2, 3, 4, 8, 9}, []*Action{fault(1500*time.Millisecond, 2*second), fault(5*second, 6*second)}, 9 * second,
			[]time.Duration{second, 4 * second}, 4 * second},
		{"under no fault", []float64{1, 5, 6, 7}, []*Action{fault(6500*time.Millisecond, 7*second)}, 7 * second, []time.Duration{second}, 4 * second},
		{"of company", []float64{1, 2, 6, 7}, []*Action{{Fault: "kill-one", Injected: 1500 * time.Millisecond, With: fault(3*second, 4*second)}}, 7 * second,
			[]time.Duration{4 * second, 4 * second}, 4 * second},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newTimeline()
			l.confirmsAt(l.waiter("p", false), c.confirms...)
			l.now = c.end
			l.loadEnds()
			l.now += time.Hour // the checks
			result := &Result{Schedule: c.schedule}
			result.measureGaps(l.series)
			var gaps []time.Duration
			for _, a := range result.Schedule {
				for ; a != nil; a = a.With {
					gaps = append(gaps, a.LongestGap)
				}
			}
			if !slices.Equal(gaps, c.gaps) || result.Gap != c.whole {
				t.Errorf("gaps %v, of the whole run %v; want %v, %v", gaps, result.Gap, c.gaps, c.whole)
			}
		})
	}
}

// TestAnOpenGapCounts: what goes on is told when nobody knows yet how long it will last.
func TestAnOpenGapCounts(t *testing.T) {
	l := newTimeline()
	l.confirmsAt(l.waiter("p", false), 1, 2)
	l.waiter("never begun", false)
	l.now = 5 * time.Second
	if gap := l.longestGap(3*time.Second, 4*time.Second, 5*time.Second); gap != 3*time.Second {
		t.Errorf("gap %v", gap)
	}
}

// TestGapsOfRounds: a round's time goes on until the next, with what comes after the node's return.
func TestGapsOfRounds(t *testing.T) {
	l := newTimeline()
	l.confirmsAt(l.waiter("p", false), 9.9, 10, 10.2, 13, 13.1, 13.2, 18.2, 20, 20.1, 23)
	l.loadEnds()
	round := func(injected time.Duration) *Action {
		return &Action{Injected: injected, Healed: injected + 3*time.Second - 500*time.Millisecond, Recovered: injected + 4*time.Second}
	}
	result := &Result{Schedule: []*Action{round(10 * time.Second), round(20 * time.Second)}, Rounds: []*Round{{}, {}}}
	result.measureGaps(l.series)
	for i, want := range []Round{{Failover: 2800 * time.Millisecond, Return: 5 * time.Second}, {Failover: 2900 * time.Millisecond, Return: 2900 * time.Millisecond}} {
		if r := result.Rounds[i]; r.Failover != want.Failover || r.Return != want.Return {
			t.Errorf("round %d: %v, %v, want %v, %v", i, r.Failover, r.Return, want.Failover, want.Return)
		}
	}
}

// TestPublishersGoOn: each must have a confirm soon after the last fault.
func TestPublishersGoOn(t *testing.T) {
	l := newTimeline()
	soon, late, never := l.waiter("soon", false), l.waiter("late", false), l.waiter("never", true)
	for _, w := range []*waiter{soon, late, never} {
		l.confirmsAt(w, 1)
	}
	l.now = 10 * time.Second
	l.expectAll()
	l.confirmsAt(soon, 11, 60)
	l.confirmsAt(late, 41, 42)
	if names := l.late(l.healed() + resumesWithin); !slices.Equal(names, []string{"late", "never"}) {
		t.Error(names)
	}
}

// TestRefusalsAreJudged: a negative confirm is a finding unless its node or a majority had a reason.
func TestRefusalsAreJudged(t *testing.T) {
	for _, c := range []struct {
		name    string
		windows []check.Window
		finding bool
	}{
		{"no fault", nil, true},
		{"its node", []check.Window{{Node: 0, From: 90 * time.Second, To: 95 * time.Second}}, false},
		{"its node, long ago", []check.Window{{Node: 0, From: 20 * time.Second, To: 40 * time.Second}}, true},
		{"another node", []check.Window{{Node: 1, From: 90 * time.Second}}, true},
		{"both others", []check.Window{{Node: 1, From: 90 * time.Second}, {Node: 2, From: 70 * time.Second, To: 75 * time.Second}}, false},
		{"afterwards", []check.Window{{Node: 0, From: 101 * time.Second}}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newTimeline()
			l.now = 100 * time.Second
			l.refuse("p", 0)
			found := ""
			l.judgeRefusals(c.windows, 3, func(f check.Finding) { found += f.String() })
			if (found != "") != c.finding || c.finding && !strings.Contains(found, "node1") {
				t.Errorf("%q", found)
			}
		})
	}
}
