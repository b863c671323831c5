package broker

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestPatience: who reads slowly is waited for, who reads nothing is not.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var read atomic.Uint64
		var ends atomic.Int32
		p := Patience{Limit: time.Minute, Progress: read.Load}
		stop := p.Watch(func() { ends.Add(1) })
		for range 10 {
			time.Sleep(59 * time.Second)
			read.Add(1)
		}
		if ends.Load() != 0 {
			t.Fatal("a slow client is ended")
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if n := ends.Load(); n != 1 {
			t.Fatalf("a frozen client is ended %d times", n)
		}
		stop()
		p.Watch(func() { ends.Add(1) })()
		time.Sleep(time.Hour)
		Patience{}.Watch(func() { ends.Add(1) })()
		if n := ends.Load(); n != 1 {
			t.Errorf("ended %d times though it was stopped", n)
		}
	})
}
