package storage

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestWatchdog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		w := Watch(10*time.Second, func() { calls.Add(1) })
		time.Sleep(10*time.Second - time.Millisecond)
		if calls.Load() != 0 {
			t.Fatal("called early")
		}
		time.Sleep(time.Minute)
		if n := calls.Load(); n != 1 {
			t.Fatalf("called %d times", n)
		}
		if w.Stop() {
			t.Fatal("stopped in time after it had called")
		}

		w = Watch(10*time.Second, func() { calls.Add(1) })
		time.Sleep(9 * time.Second)
		if !w.Stop() || w.left != 0 {
			t.Fatal("not stopped in time")
		}
		time.Sleep(time.Minute)
		if n := calls.Load(); n != 1 {
			t.Fatal("called after it was stopped")
		}
	})
}

// TestStalls: a write counts from StallTime on until its Watchdog is stopped, whatever the limit is.
func TestStalls(t *testing.T) {
	for _, limit := range []time.Duration{10 * time.Second, time.Minute, 2500 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			var stalls Stalls
			var late atomic.Int32
			w := stalls.Watch(limit, func() { late.Add(1) })
			quick := stalls.Watch(limit, func() { late.Add(1) })
			time.Sleep(StallTime - time.Millisecond)
			if stalls.Any() {
				t.Errorf("%v: early", limit)
			}
			quick.Stop()
			time.Sleep(2 * time.Millisecond)
			synctest.Wait()
			if !stalls.Any() {
				t.Errorf("%v: not counted", limit)
			}
			time.Sleep(limit - StallTime - 2*time.Millisecond)
			synctest.Wait()
			if late.Load() != 0 || !stalls.Any() {
				t.Errorf("%v: the time was over %d times before it was", limit, late.Load())
			}
			time.Sleep(StallTime)
			synctest.Wait()
			if late.Load() != 1 || w.Stop() || stalls.Any() {
				t.Errorf("%v: the time was over %d times", limit, late.Load())
			}
		})
	}
}

// TestWatchdogOfAStoppedProcess keeps a Watchdog from looking for most of its time, as a process does that is stopped: that
// time does not count.
func TestWatchdogOfAStoppedProcess(t *testing.T) {
	w := Watch(2*time.Second, func() { t.Error("called") })
	w.mu.Lock()
	time.Sleep(1600 * time.Millisecond)
	left := w.left
	w.mu.Unlock()
	if left != watchdogSteps {
		t.Fatalf("%d steps left", left)
	}
	time.Sleep(time.Millisecond)
	w.mu.Lock()
	left = w.left
	w.mu.Unlock()
	if left < watchdogSteps/2 {
		t.Errorf("%d steps left: the time that it could not look has counted", left)
	}
	if !w.Stop() {
		t.Error("not stopped in time")
	}
}
