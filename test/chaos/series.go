package chaos

import (
	"math"
	"sync"
	"time"
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
	refused int
	errors  int
}

type bucket struct {
	published, confirmed, delivered, failed int
	latencies                               [latencyClasses]uint32
}

type gap struct{ from, to time.Duration }

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

// refuse counts a negative confirm.
func (s *series) refuse() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused++
}

// gap notes the time between two confirms of one publisher, if it is long.
func (s *series) gap(from, to time.Duration) {
	if to-from < gapsFrom {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gaps = append(s.gaps, gap{from, to})
}

// longestGap is the longest time between two confirms of one publisher that overlaps a span; 0: none worth keeping.
func (s *series) longestGap(from, to time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	longest := time.Duration(0)
	for _, g := range s.gaps {
		if g.from <= to && g.to >= from {
			longest = max(longest, g.to-g.from)
		}
	}
	return longest
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
