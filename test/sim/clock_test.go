package sim

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/warrenmq/warren/cluster"
)

// watch is a schedule of things that a test does to a cluster under load and sees there.
type watch struct {
	actions []*action
	mu      sync.Mutex // guards findings
	found   []string
}

// at lets something happen some time after the load has begun.
func (w *watch) at(at time.Duration, name string, do func(s *sim)) {
	f := &fault{name: name, inject: func(s *sim, _ *action) { do(s) }, heal: func(*sim, *action) {}}
	w.actions = append(w.actions, &action{fault: f, at: at})
}

func (w *watch) errorf(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.found = append(w.found, fmt.Sprintf(format, args...))
}

// run plays it with three nodes.
func (w *watch) run(t *testing.T) {
	t.Helper()
	p := &plan{nodes: 3, replicas: 3, shards: 3, snapshots: 20, sync: time.Millisecond, delay: 2 * time.Millisecond, messages: 300, actions: w.actions}
	p.setPace()
	runSchedule(t, 1, p)
	for _, f := range w.found {
		t.Error(f)
	}
}

// groups is every group's leader and term, as a node tells.
func groups(s *sim) map[string]cluster.Group {
	all := map[string]cluster.Group{}
	for _, g := range s.nodes[0].serving().member().Overview().Groups {
		all[g.Name] = g
	}
	return all
}

// TestClockOfALeader: the clock of the node that leads the catalog is an hour ahead for a while. Each of its groups changes its
// leader once, by a transfer; its shard comes back when the clock is right; and no other group changes anything, though that node
// finds all other clocks wrong.
func TestClockOfALeader(t *testing.T) {
	t.Parallel()
	var w watch
	var wrong string
	var before, during map[string]cluster.Group
	w.at(10*time.Second, "the clock is set", func(s *sim) {
		before = groups(s)
		wrong = before["catalog"].Leader
		for i := range s.nodes {
			if fmt.Sprintf("n%d", i+1) == wrong {
				s.step(i, time.Hour)
			}
		}
	})
	w.at(18*time.Second, "its leaderships are elsewhere", func(s *sim) {
		during = groups(s)
		for name, was := range before {
			switch g := during[name]; {
			case was.Leader != wrong && (g.Leader != was.Leader || g.Term != was.Term):
				w.errorf("%s was led by %s in term %d, now by %s in term %d", name, was.Leader, was.Term, g.Leader, g.Term)
			case was.Leader == wrong && (g.Leader == wrong || g.Term != was.Term+1):
				w.errorf("%s was led by %s in term %d, now by %s in term %d", name, was.Leader, was.Term, g.Leader, g.Term)
			}
		}
		for i := range s.nodes {
			s.step(i, 0)
		}
	})
	w.at(25*time.Second, "not yet", func(s *sim) {
		for name, g := range groups(s) {
			if g.Leader != during[name].Leader || g.Term != during[name].Term {
				w.errorf("%s is led by %s in term %d", name, g.Leader, g.Term)
			}
		}
	})
	w.at(45*time.Second, "its shard is back", func(s *sim) {
		for name, g := range groups(s) {
			switch was := during[name]; {
			case g.Preferred != wrong && (g.Leader != was.Leader || g.Term != was.Term):
				w.errorf("%s was led by %s in term %d, now by %s in term %d", name, was.Leader, was.Term, g.Leader, g.Term)
			case g.Preferred == wrong && (g.Leader != wrong || g.Term != was.Term+1):
				w.errorf("%s is led by %s in term %d and not by %s", name, g.Leader, g.Term, wrong)
			}
		}
	})
	w.run(t)
}

// TestClocksThatAllDiffer: without a majority of clocks nobody gives way.
func TestClocksThatAllDiffer(t *testing.T) {
	t.Parallel()
	var w watch
	var before map[string]cluster.Group
	w.at(10*time.Second, "the clocks are set", func(s *sim) {
		before = groups(s)
		for i := range s.nodes {
			s.step(i, time.Duration(i-1)*time.Hour)
		}
	})
	w.at(40*time.Second, "nothing has changed", func(s *sim) {
		for name, g := range groups(s) {
			if was := before[name]; g.Leader != was.Leader || g.Term != was.Term {
				w.errorf("%s was led by %s in term %d, now by %s in term %d", name, was.Leader, was.Term, g.Leader, g.Term)
			}
		}
	})
	w.run(t)
}
