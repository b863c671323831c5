package broker

import (
	"context"
	"sync"
	"sync/atomic"
)

// alarm makes the connections that publish wait while memory or disk is short. The zero value is no alarm.
type alarm struct {
	raised atomic.Bool // there is one; for a quick look

	mu      sync.Mutex // guards what follows
	reason  string
	cleared chan struct{} // closed at the end of the alarm; nil: no alarm
	blocked map[*Conn]struct{}
}

// set raises, changes or (empty) clears the alarm.
func (a *alarm) set(reason string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reason = reason
	a.raised.Store(reason != "")
	switch {
	case reason != "" && a.cleared == nil:
		a.cleared = make(chan struct{})
		a.blocked = map[*Conn]struct{}{}
	case reason == "" && a.cleared != nil:
		close(a.cleared)
		for c := range a.blocked {
			c.out.events.Unblocked()
		}
		a.cleared, a.blocked = nil, nil
	}
}

// wait blocks a connection that has published until there is no alarm, and tells it so. One whose channel has failed is let go: what
// that holds does not wait for the end of the alarm.
func (a *alarm) wait(ctx context.Context, c *Conn) error {
	if !a.raised.Load() {
		return nil
	}
	cleared := a.block(c)
	if cleared == nil {
		return nil
	}
	select {
	case <-cleared:
		return nil
	case <-c.failed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (a *alarm) block(c *Conn) (cleared <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cleared == nil {
		return nil
	}
	if _, told := a.blocked[c]; !told {
		a.blocked[c] = struct{}{}
		c.out.events.Blocked(a.reason)
	}
	return a.cleared
}

func (a *alarm) forget(c *Conn) {
	a.mu.Lock()
	delete(a.blocked, c)
	a.mu.Unlock()
}
