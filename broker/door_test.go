package broker_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/warrenmq/warren/broker"
)

// door is a front door that remembers what it is told.
type door struct {
	t      testing.TB
	conn   *broker.Conn
	wakes  chan struct{}
	mu     sync.Mutex
	events []string
	frames []string
}

func (d *door) Wake() {
	select {
	case d.wakes <- struct{}{}:
	default:
	}
}

func (d *door) event(text string) {
	d.mu.Lock()
	d.events = append(d.events, text)
	d.mu.Unlock()
}

func (d *door) Lock()   {} // nobody else writes
func (d *door) Unlock() {}

func (d *door) Blocked(reason string)    { d.event("blocked " + reason) }
func (d *door) Unblocked()               { d.event("unblocked") }
func (d *door) Closed(err *broker.Error) { d.event("closed " + err.Text) }
func (d *door) Failed(ch *broker.Channel, err *broker.Error) {
	d.event(fmt.Sprintf("%d close %s", ch.Number(), err.Text))
}
