package sim

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/warrenmq/warren/test/chaos/check"
)

// What has broken NATS 2.12.1 in Jepsen's hands, played against Warren: five nodes, five replicas, an fsync for every entry.
// nats-io/nats-server#7549, #7556, #7564, #7567.

// script is a plan that is written down, but for the times and what is hit within a file.
type script struct {
	random  *rand.Rand
	actions []*action
	at      time.Duration
	delay   time.Duration // of the network, at most; default 2 ms
}

// then adds a fault, some time after the last one began.
func (s *script) then(after time.Duration, name string, lasts time.Duration, victims ...int) {
	s.at += after + time.Duration(s.random.Int64N(int64(200*time.Millisecond)))
	for _, f := range faults {
		if f.name == name {
			s.actions = append(s.actions, &action{fault: f, at: s.at, lasts: lasts, victims: victims, seed: s.random.Uint64(), insists: true})
			return
		}
	}
	panic("no such fault: " + name)
}

// replay runs a script with one seed, or with those that the flags name.
func replay(t *testing.T, write func(s *script)) {
	first, count := uint64(1), 1
	if *seedFlag != 0 {
		first, count = *seedFlag, 1
	}
	if *schedulesFlag != 0 {
		count = *schedulesFlag
	}
	for i := range count {
		seed := first + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			s := &script{random: rand.New(rand.NewPCG(seed, 3))}
			write(s)
			p := &plan{nodes: 5, replicas: 5, shards: 1, snapshots: 4, sync: time.Millisecond, delay: cmp.Or(s.delay, 2*time.Millisecond), messages: 200, actions: s.actions}
			p.setPace()
			o := playPlan(t, seed, p)
			tell(t, seed, o)
			for _, a := range missed(p.actions) {
				t.Errorf("it did nothing: %v", a)
			}
		})
	}
}

// missed are the damages that found nothing to do harm to.
func missed(actions []*action) (list []*action) {
	for _, a := range actions {
		if a.fault.damages != "" && a.detail == "" {
			list = append(list, a)
		}
	}
	return list
}

// TestNATS7549: flipped bits in the messages' files of two nodes of five, with restarts.
func TestNATS7549(t *testing.T) {
	replay(t, func(s *script) {
		s.then(time.Second, "flip-log", 300*time.Millisecond, 1)
		s.then(800*time.Millisecond, "flip-log", 300*time.Millisecond, 3)
		s.then(2*time.Second, "flip-segment", 300*time.Millisecond, 1)
		s.then(800*time.Millisecond, "flip-segment", 300*time.Millisecond, 3)
		s.then(800*time.Millisecond, "kill", 300*time.Millisecond, 0, 2)
		s.then(time.Second, "flip-checkpoint", 300*time.Millisecond, 1)
		s.then(time.Second, "kill-all", 200*time.Millisecond, 0, 1, 2, 3, 4)
	})
}

// TestTruncation is the same with files that are cut.
func TestTruncation(t *testing.T) {
	replay(t, func(s *script) {
		s.then(time.Second, "truncate-log", 300*time.Millisecond, 1)
		s.then(800*time.Millisecond, "truncate-log", 300*time.Millisecond, 3)
		s.then(2*time.Second, "truncate-segment", 300*time.Millisecond, 1)
		s.then(800*time.Millisecond, "truncate-checkpoint", 300*time.Millisecond, 3)
		s.then(time.Second, "truncate-votes", 300*time.Millisecond, 1)
		s.then(time.Second, "kill-all", 200*time.Millisecond, 0, 1, 2, 3, 4)
	})
}

// TestNATS7556: flipped bits in the catalog's snapshots and its log on two nodes of five, with crashes after which one of them
// might lead and take queues that it does not know for orphans.
func TestNATS7556(t *testing.T) {
	replay(t, func(s *script) {
		s.then(2500*time.Millisecond, "flip-catalog", 300*time.Millisecond, 2)
		s.then(time.Second, "flip-catalog", 300*time.Millisecond, 4)
		s.then(time.Second, "kill-leader", 500*time.Millisecond, 0)
		s.then(1500*time.Millisecond, "flip-votes", 300*time.Millisecond, 2)
		s.then(1500*time.Millisecond, "truncate-catalog", 300*time.Millisecond, 4)
		s.then(time.Second, "kill", 500*time.Millisecond, 0, 1)
		s.then(2*time.Second, "kill-all", 200*time.Millisecond, 0, 1, 2, 3, 4)
	})
}

// TestNATS7564: all nodes lose power at once, again and again: what was confirmed was on the disks of a majority.
func TestNATS7564(t *testing.T) {
	replay(t, func(s *script) {
		for range 4 {
			s.then(1500*time.Millisecond, "power-all", 300*time.Millisecond, 0, 1, 2, 3, 4)
		}
	})
}

// TestNATS7567: two nodes are paused; a third loses power, and with it what it had not synced. When it is back those two go on
// and the others are paused, so that the three that know least are the first to form a majority.
func TestNATS7567(t *testing.T) {
	replay(t, func(s *script) {
		s.then(time.Second, "stop", 2500*time.Millisecond, 0)
		s.actions = append(s.actions, &action{fault: s.actions[0].fault, at: s.at, lasts: 2500 * time.Millisecond, victims: []int{1}})
		s.at += 1500 * time.Millisecond
		s.then(0, "power", 600*time.Millisecond, 2)
		s.at = s.actions[0].at + 2500*time.Millisecond
		s.then(0, "stop", 3*time.Second, 3)
		s.actions = append(s.actions, &action{fault: s.actions[0].fault, at: s.at, lasts: 3 * time.Second, victims: []int{4}})
	})
}

// TestDisksThatLie holds the suite itself to account: on disks that do not sync what they say they have, a power cut of all nodes
// must lose messages, and the checkers must tell.
func TestDisksThatLie(t *testing.T) {
	t.Parallel()
	s := &script{random: rand.New(rand.NewPCG(1, 3))}
	s.then(2*time.Second, "power-all", 100*time.Millisecond, 0, 1, 2)
	p := &plan{nodes: 3, replicas: 3, shards: 1, sync: time.Millisecond, delay: time.Millisecond, messages: 60, lies: true, actions: s.actions}
	p.setPace()
	if o := playPlan(t, 1, p); o.verdict.Counts[check.Lost] == 0 {
		t.Errorf("nothing was found to be lost: %v", o)
	}
}

// TestBegin lets clusters of five begin, again and again, on a slow network: elections must come to an end.
func TestBegin(t *testing.T) {
	replay(t, func(s *script) {
		s.delay = 20 * time.Millisecond
		s.then(time.Second, "break", 0, 0, 1)
	})
}
