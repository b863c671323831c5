package storage

import (
	"sync"
	"sync/atomic"
	"time"
)

// watchdogSteps is how many times a Watchdog looks before its time is over.
const watchdogSteps = 10

// Watchdog calls a function when something takes too long. It counts only time in which this process runs: it waits in
// steps, and a step that ends late counts as one. So neither a process that was stopped for a while (SIGSTOP, a paused
// virtual machine) nor one that waits long for a CPU takes its disk for dead when it goes on.
type Watchdog struct {
	stalls *Stalls // nil: nobody counts

	mu    sync.Mutex // guards what follows
	timer *time.Timer
	left  int           // steps; 0: it has called, or was stopped
	spent time.Duration // in steps
	slow  bool          // counted among the stalls
}

// Watch starts a Watchdog that calls late, on a goroutine of its own, after so much time.
func Watch(limit time.Duration, late func()) *Watchdog {
	return watch(nil, limit/watchdogSteps, watchdogSteps, late)
}

// StallTime is how long a write may take before its disk counts as one that hangs, for now. It is longer than what a disk that is shared
// or busy takes once in a while, and much shorter than what ends the process.
const StallTime = 2 * time.Second

// Stalls counts the writes under way that take longer than StallTime. The zero value is ready for use.
type Stalls struct{ n atomic.Int32 }

// Any tells whether there are some.
func (s *Stalls) Any() bool { return s.n.Load() > 0 }

// Watch is the function Watch for a write that is counted, if it comes to that, until the Watchdog is stopped.
func (s *Stalls) Watch(limit time.Duration, late func()) *Watchdog {
	step := min(limit/watchdogSteps, StallTime/2)
	return watch(s, step, int((limit+step-1)/step), late)
}

func watch(stalls *Stalls, step time.Duration, steps int, late func()) *Watchdog {
	w := &Watchdog{stalls: stalls, left: steps}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(step, func() {
		if w.step(step) {
			late()
		}
	})
	return w
}

// step counts, and tells whether the time is over.
func (w *Watchdog) step(step time.Duration) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.left == 0 {
		return false
	}
	if w.spent += step; w.stalls != nil && !w.slow && w.spent >= StallTime {
		w.slow = true
		w.stalls.n.Add(1)
	}
	if w.left--; w.left == 0 {
		return true
	}
	w.timer.Reset(step)
	return false
}

// Stop ends it and tells whether that was in time: late is not called and will not be.
func (w *Watchdog) Stop() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	inTime := w.left > 0
	w.left = 0
	if w.slow {
		w.slow = false
		w.stalls.n.Add(-1)
	}
	w.timer.Stop()
	return inTime
}
