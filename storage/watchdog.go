package storage

import (
	"sync"
	"time"
)

// watchdogSteps is how many times a Watchdog looks before its time is over.
const watchdogSteps = 10

// Watchdog calls a function when something takes too long. It counts only time in which this process runs: it waits in
// steps, and a step that ends late counts as one. So neither a process that was stopped for a while (SIGSTOP, a paused
// virtual machine) nor one that waits long for a CPU takes its disk for dead when it goes on.
type Watchdog struct {
	mu    sync.Mutex // guards what follows
	timer *time.Timer
	left  int // steps; 0: it has called, or was stopped
}

// Watch starts a Watchdog that calls late, on a goroutine of its own, after so much time.
func Watch(limit time.Duration, late func()) *Watchdog {
	w := &Watchdog{left: watchdogSteps}
	step := limit / watchdogSteps
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
	w.timer.Stop()
	return inTime
}
