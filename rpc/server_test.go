package rpc

import (
	"context"
	"net"
	"testing"
)

// TestShutdownWhileServeBegins: a node may be stopped at any moment of its start, which is no failure.
func TestShutdownWhileServeBegins(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(Options{})
	s.grpc.Stop() // Shutdown, after Serve has looked whether it was called
	if err := s.Serve(l); err != nil {
		t.Errorf("serve: %v", err)
	}
	if err := s.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	l, err = net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(l); err != nil {
		t.Errorf("serve after the end: %v", err)
	}
	if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
		c.Close()
		t.Error("the listener is open")
	}
}
