package broker

import (
	"sync"
	"time"
)

// Patience is for how long the reader waits for a client that reads nothing. It sees no sign of life meanwhile.
type Patience struct {
	Limit time.Duration // 0: for ever
	// Progress grows while the client reads, however slowly.
	Progress func() uint64
}

// Watch calls end, once, when the client has read nothing for as long as the limit, until it is stopped.
func (p Patience) Watch(end func()) (stop func()) {
	if p.Limit == 0 {
		return func() {}
	}
	var mu sync.Mutex // guards what follows
	var timer *time.Timer
	stopped, before := false, p.Progress()
	frozen := func() bool {
		mu.Lock()
		defer mu.Unlock()
		now := p.Progress()
		if !stopped && now != before {
			before = now
			timer.Reset(p.Limit)
			return false
		}
		return !stopped
	}
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(p.Limit, func() {
		if frozen() {
			end()
		}
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		stopped = true
		timer.Stop()
	}
}
