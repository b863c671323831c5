package broker

import (
	"context"
	"testing"
	"time"
)

// TestWindow: a connection has maxBytes under way, or maxBehind while consumers are behind; what was refused room gets it
// when there is some.
func TestWindow(t *testing.T) {
	w := window{maxBytes: 100, maxBehind: 20, maxMessages: 1000}
	mayEnter := func(want bool) {
		t.Helper()
		if wait := w.tryEnter(10, 1); (wait == nil) != want {
			t.Errorf("with %d bytes, behind %v: room %v", w.bytes, w.behind, wait == nil)
		}
	}
	for range 10 {
		mayEnter(true)
	}
	mayEnter(false)
	w.done(80, 8, true)
	mayEnter(false) // 20 are under way
	w.done(10, 1, true)
	mayEnter(true)
	mayEnter(false)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	entered := make(chan error)
	go func() { entered <- w.enter(ctx, 10, 1) }()
	w.done(10, 1, false)
	if err := <-entered; err != nil {
		t.Fatal(err)
	}
	for range 8 {
		mayEnter(true)
	}
	mayEnter(false)
}
