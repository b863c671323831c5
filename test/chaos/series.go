package chaos

import (
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/warrenmq/warren/test/chaos/check"
)

// bucketLength is the resolution of the time line.
const bucketLength = 200 * time.Millisecond

// Latencies are counted in classes that grow by a fifth, from 50 µs on.
const (
	latencyClasses = 80
	latencyFirst   = 50 * time.Microsecond
	latencyGrowth  = 1.2
)

// gapsFrom is the shortest gap between two confirms of a publisher that is kept: about the time between two of its batches.
const gapsFrom = 6 * time.Millisecond

// series is what happened when, for the time line and for the gaps.
type series struct {
	now func() time.Duration

	mu      sync.Mutex // guards what follows
	buckets []bucket
	gaps    []gap
	waiters []*waiter
	refused []refusal
	healthy time.Duration // when expectAll was called last
	ended   bool          // the clients publish no more
	errors  int
}

type bucket struct {
	published, confirmed, delivered, failed int
	latencies                               [latencyClasses]uint32
}

type gap struct {
	from, to time.Duration
	who      string
}

// waiter is a publisher that waits for one confirm after the other. Guarded by series.mu.
type waiter struct {
	name    string
	rare    bool          // its confirms are far apart by themselves, and their gaps say nothing
	begun   bool          // it has published
	last    time.Duration // when its last confirm came, or its first message went
	resumed time.Duration // its first confirm since expectAll; 0: none
}

func newSeries(now func() time.Duration) *series { return &series{now: now} }

// bucket is the one for now. The caller holds s.mu.
func (s *series) bucket() *bucket {
	i := int(s.now() / bucketLength)
	for len(s.buckets) <= i {
		s.buckets = append(s.buckets, bucket{})
	}
	return &s.buckets[i]
}

func (s *series) published() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bucket().published++
}

func (s *series) confirmed(latency time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.bucket()
	b.confirmed++
	b.latencies[latencyClass(latency)]++
}

func (s *series) delivered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bucket().delivered++
}

// failed counts an error that a client saw.
func (s *series) failed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bucket().failed++
	s.errors++
}

// refusal is a negative confirm.
type refusal struct {
	at   time.Duration
	node int
	who  string
}

// refuse notes a negative confirm from a node.
func (s *series) refuse(who string, node int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused = append(s.refused, refusal{s.now(), node, who})
}

// judgeRefusals makes findings of negative confirms that no fault explains: the publisher's node was well, and a majority, for as long as
// the broker tries.
func (s *series) judgeRefusals(windows []check.Window, nodes int, report func(check.Finding)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.refused {
		if !check.Troubled(windows, r.node, nodes, r.at-refuses, r.at) {
			report(check.Finding{Kind: check.ClientError, Detail: fmt.Sprintf("at %v: %s: a negative confirm from node%d, which was well, as was a majority",
				r.at.Round(time.Millisecond), r.who, r.node+1)})
		}
	}
}

// refuses is how long a broker tries before it refuses a message, with a little more.
const refuses = 35 * time.Second

// waiter adds a publisher.
func (s *series) waiter(name string, rare bool) *waiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &waiter{name: name, rare: rare}
	s.waiters = append(s.waiters, w)
	return w
}

// begins notes that a publisher publishes: from its first message on it waits for confirms.
func (s *series) begins(w *waiter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !w.begun {
		w.begun, w.last = true, s.now()
	}
}

// answered notes a confirm, and how long its publisher waited for it, if that was long.
func (s *series) answered(w *waiter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if now-w.last >= gapsFrom && !w.rare {
		s.gaps = append(s.gaps, gap{w.last, now, w.name})
	}
	w.last = now
	if w.resumed == 0 {
		w.resumed = now
	}
}

// longestGap is the longest time between two confirms of one publisher that overlaps a span; 0: none worth keeping. One that goes on
// counts until now. What comes after end, when the next fault begins, is not this span's.
func (s *series) longestGap(from, to, end time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	longest := time.Duration(0)
	note := func(g gap) {
		if g.from <= to && g.to >= from {
			longest = max(longest, min(g.to, end)-g.from)
		}
	}
	for _, g := range s.gaps {
		note(g)
	}
	for _, w := range s.waiters {
		if g := (gap{w.last, s.now(), w.name}); !s.ended && w.begun && !w.rare && g.to-g.from >= gapsFrom {
			note(g)
		}
	}
	return longest
}

// worstGap says whose the longest gap of the whole run is, and when it was.
func (s *series) worstGap() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var worst gap
	for _, g := range s.gaps {
		if g.to-g.from > worst.to-worst.from {
			worst = g
		}
	}
	return fmt.Sprintf("%s, from %v to %v", worst.who, round(worst.from), round(worst.to))
}

// loadEnds ends the gaps that are open when the clients are told to publish no more. A publisher that still waits for its last confirms then
// has the whole of its gap when they come.
func (s *series) loadEnds() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	for _, w := range s.waiters {
		if now := s.now(); w.begun && !w.rare && now-w.last >= gapsFrom {
			s.gaps = append(s.gaps, gap{w.last, now, w.name})
		}
	}
}

// expectAll says that from now on every publisher must get a confirm.
func (s *series) expectAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.healthy = s.now()
	for _, w := range s.waiters {
		w.resumed = 0
	}
}

// healed is when every publisher was expected to go on.
func (s *series) healed() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.healthy
}

// late are the publishers that have had no confirm since expectAll, or only after a time.
func (s *series) late(after time.Duration) (names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.waiters {
		if w.resumed == 0 || w.resumed > after {
			names = append(names, w.name)
		}
	}
	return names
}

func latencyClass(d time.Duration) int {
	if d <= latencyFirst {
		return 0
	}
	return min(latencyClasses-1, 1+int(math.Log(float64(d)/float64(latencyFirst))/math.Log(latencyGrowth)))
}

// latencyOf is the upper bound of a class.
func latencyOf(class int) time.Duration {
	return time.Duration(float64(latencyFirst) * math.Pow(latencyGrowth, float64(class)))
}

// quantile is the latency below which a share of the bucket's confirms lie; 0 without confirms.
func (b *bucket) quantile(share float64) time.Duration {
	if b.confirmed == 0 {
		return 0
	}
	rest := int(math.Ceil(share * float64(b.confirmed)))
	for class, n := range b.latencies {
		if rest -= int(n); rest <= 0 {
			return latencyOf(class)
		}
	}
	return latencyOf(latencyClasses - 1)
}

// total adds all buckets up.
func (s *series) total() bucket {
	s.mu.Lock()
	defer s.mu.Unlock()
	var sum bucket
	for _, b := range s.buckets {
		sum.published += b.published
		sum.confirmed += b.confirmed
		sum.delivered += b.delivered
		sum.failed += b.failed
		for i, n := range b.latencies {
			sum.latencies[i] += n
		}
	}
	return sum
}
