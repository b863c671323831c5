package rpc

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"
)

// countedPool counts the buffers that are out, and tells when one comes back.
type countedPool struct {
	out  atomic.Int64
	back chan struct{}
}

func newCountedPool() *countedPool { return &countedPool{back: make(chan struct{}, 16)} }

func (p *countedPool) Get(n int) *[]byte {
	p.out.Add(1)
	b := make([]byte, n)
	return &b
}

func (p *countedPool) Put(*[]byte) {
	p.out.Add(-1)
	select {
	case p.back <- struct{}{}:
	default:
	}
}

// pair is the two ends of a connection over a limited listener.
func pair(t *testing.T, l *limited) (*ready, net.Conn) {
	t.Helper()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return server.(*ready), client
}

func listen(t *testing.T, most int) *limited {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	limited := limit(l, most)
	t.Cleanup(func() { limited.Close() })
	return limited
}

func TestWhoIsSilentHoldsNoMemory(t *testing.T) {
	server, client := pair(t, listen(t, 1))
	pool := newCountedPool()
	type result struct {
		data string
		err  error
	}
	results := make(chan result)
	go func() {
		for {
			b, n, err := server.ReadOnReady(4, pool)
			if err != nil {
				results <- result{err: err}
				return
			}
			data := string((*b)[:n])
			pool.Put(b)
			results <- result{data: data}
		}
	}()
	<-pool.back // it has found nothing, and waits
	if n := pool.out.Load(); n != 0 {
		t.Errorf("who waits holds %d buffers", n)
	}
	if _, err := client.Write([]byte("abcdef")); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"abcd", "ef"} {
		if got := <-results; got.data != want || got.err != nil {
			t.Errorf("read %+v, wanted %s", got, want)
		}
	}
	for range 3 { // of the two reads, and of the next one
		<-pool.back
	}
	if n := pool.out.Load(); n != 0 {
		t.Errorf("who waits again holds %d buffers", n)
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	if got := <-results; !errors.Is(got.err, io.EOF) || pool.out.Load() != 0 {
		t.Errorf("at the end: %v, %d buffers out", got.err, pool.out.Load())
	}
}

func TestAReadEndsWithItsConnection(t *testing.T) {
	server, _ := pair(t, listen(t, 1))
	pool := newCountedPool()
	failed := make(chan error)
	go func() {
		_, _, err := server.ReadOnReady(4, pool)
		failed <- err
	}()
	<-pool.back
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; !errors.Is(err, net.ErrClosed) || pool.out.Load() != 0 {
		t.Errorf("%v, %d buffers out", err, pool.out.Load())
	}
}

func TestAcceptWaitsForTheEndOfAnotherConnection(t *testing.T) {
	l := listen(t, 2)
	first, _ := pair(t, l)
	pair(t, l)
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	accepted := make(chan error, 2)
	accept := func() {
		c, err := l.Accept()
		if err == nil {
			t.Cleanup(func() { c.Close() })
		}
		accepted <- err
	}
	go accept()
	select {
	case err := <-accepted:
		t.Fatalf("a third connection: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	for range 2 { // the second time tells nothing
		first.Close()
	}
	if err := <-accepted; err != nil {
		t.Fatal(err)
	}
	go accept()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after the end: %v", err)
	}
}

// TestGRPCReadsWhenReady: gRPC knows the method by its name and signature alone; another version may have another.
func TestGRPCReadsWhenReady(t *testing.T) {
	s := NewServer(Options{})
	l := &spied{limited: listen(t, 1)}
	served := make(chan error, 1)
	go func() { served <- s.grpc.Serve(l) }()
	c, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := grpc_health_v1.NewHealthClient(c).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Error(err)
	}
	if l.reads.Load() == 0 {
		t.Error("connections are not read by ReadOnReady")
	}
	c.Close()
	s.grpc.Stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// spied counts how often its connections are read when they are ready.
type spied struct {
	*limited
	reads atomic.Int64
}

func (l *spied) Accept() (net.Conn, error) {
	c, err := l.limited.Accept()
	if err != nil {
		return nil, err
	}
	return &spiedConn{c.(*ready), l}, nil
}

type spiedConn struct {
	*ready
	of *spied
}

func (c *spiedConn) ReadOnReady(size int, pool mem.BufferPool) (*[]byte, int, error) {
	c.of.reads.Add(1)
	return c.ready.ReadOnReady(size, pool)
}
