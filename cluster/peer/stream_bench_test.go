package peer

import (
	"context"
	"log/slog"
	"net"
	"testing"
)

// BenchmarkStream sends frames over loopback to a node that takes them, and waits for an answer to each burst of four: the
// leader's way to a follower, without what either does with them.
func BenchmarkStream(b *testing.B) {
	for _, c := range []struct {
		name string
		size int
	}{{"1KiB", 1 << 10}, {"256KiB", 256 << 10}} {
		b.Run(c.name, func(b *testing.B) { benchmarkStream(b, c.size) })
	}
}

func benchmarkStream(b *testing.B, size int) {
	const burst = 4
	book := newBook()
	a := benchNode(b, book, "a", Handlers{})
	benchNode(b, book, "b", Handlers{Serve: map[Class]func(context.Context, Stream){Raft: func(_ context.Context, s Stream) {
		for n := 1; ; n++ {
			frame, err := s.Recv()
			if err != nil || n%burst == 0 && s.Send(frame[:1]) != nil {
				return
			}
		}
	}}})
	s, err := a.Open(b.Context(), "b", Raft)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	head, body := make([]byte, 64), make([]byte, size)
	b.SetBytes(burst * int64(size))
	b.ReportAllocs()
	for b.Loop() {
		for range burst {
			if err := s.Send(head, body); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := s.Recv(); err != nil {
			b.Fatal(err)
		}
	}
}

// benchNode runs a node until the benchmark ends.
func benchNode(b *testing.B, addresses *book, uuid string, h Handlers) *Network {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	addresses.mu.Lock()
	addresses.addresses[uuid] = l.Addr().String()
	addresses.mu.Unlock()
	h.Control = controlServer{name: uuid}
	n := New(Options{Address: addresses.address, Listener: l, Logger: slog.New(slog.DiscardHandler)})
	served := make(chan error, 1)
	go func() { served <- n.Serve(h) }()
	b.Cleanup(func() {
		n.Close()
		if err := <-served; err != nil {
			b.Errorf("serve: %v", err)
		}
	})
	return n
}
