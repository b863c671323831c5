package node

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/warrenmq/warren/config"
)

var errDisk = errors.New("the disk is gone")

// TestFatalEndsAStart: a node that waits for its peers, and whose disk dies meanwhile, does not wait any more.
func TestFatalEndsAStart(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	c := &config.Server{Name: "n", DataDir: t.TempDir(), Host: "127.0.0.1", Expect: 2, Join: []string{l.Addr().String()}, Shards: 1, Replicas: 2}
	n := newNode(c, slog.New(slog.DiscardHandler))
	ended := make(chan struct{})
	started := make(chan error, 1)
	go func() {
		started <- n.unlessFatal(func() error {
			defer close(ended)
			return n.start(ctx, "test")
		})
	}()
	select {
	case err := <-started:
		t.Fatalf("a node that waits for another has started, or failed: %v", err)
	case <-time.After(100 * time.Millisecond): // wherever it has got to
	}
	n.stopFor(errDisk)
	select {
	case err := <-started:
		if !errors.Is(err, errDisk) {
			t.Errorf("the start: %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("the start goes on")
	}
	cancel()
	<-ended
}

// TestFatalEndsAStop: what hangs is not waited for.
func TestFatalEndsAStop(t *testing.T) {
	n := newNode(&config.Server{}, slog.New(slog.DiscardHandler))
	hangs := make(chan struct{})
	defer close(hangs)
	stopped := make(chan error, 1)
	go func() {
		stopped <- n.unlessFatal(func() error {
			<-hangs
			return nil
		})
	}()
	n.stopFor(errDisk)
	if err := <-stopped; !errors.Is(err, errDisk) {
		t.Errorf("the stop: %v", err)
	}
}
