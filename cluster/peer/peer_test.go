package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nodev1 "github.com/warrenmq/warren/proto/node/v1"
)

// patience bounds what should happen soon; it is only ever waited out by a test that fails.
const patience = 30 * time.Second

// book is where the nodes of a test listen now.
type book struct {
	mu        sync.Mutex // guards addresses
	addresses map[string]string
}

func (b *book) address(uuid string) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a := b.addresses[uuid]; a != "" {
		return a, nil
	}
	return "", fmt.Errorf("no address of %s", uuid)
}

// node is a running network.
type node struct {
	*Network
	stop func() // closes it, once, and waits for Serve
}

// controlServer answers with its node's name.
type controlServer struct {
	nodev1.UnimplementedControlServer
	name string
}

func (s controlServer) Watch(_ *nodev1.WatchRequest, stream nodev1.Control_WatchServer) error {
	if err := stream.Send(&nodev1.Status{Uuid: s.name}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}

// echo sends every frame back, with the class before it.
func echo(class Class) func(context.Context, Stream) {
	return func(_ context.Context, s Stream) {
		for {
			frame, err := s.Recv()
			if err != nil || s.Send([]byte{byte(class)}, frame) != nil {
				return
			}
		}
	}
}

func echoes() Handlers {
	h := Handlers{Serve: map[Class]func(context.Context, Stream){}}
	for class := range Class(classes) {
		h.Serve[class] = echo(class)
	}
	h.Call = func(_ context.Context, request []byte) ([]byte, error) {
		if len(request) == 0 {
			return nil, status.Error(codes.Unavailable, "an empty call")
		}
		return append([]byte("answer to "), request...), nil
	}
	return h
}

// start runs a node on a free port and writes it into the book.
func (b *book) start(t *testing.T, uuid string, h Handlers) *node {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.mu.Lock()
	b.addresses[uuid] = l.Addr().String()
	b.mu.Unlock()
	n := New(Options{Address: b.address, Listener: l, Logger: slog.New(slog.DiscardHandler)})
	h.Control = controlServer{name: uuid}
	served := make(chan error, 1)
	go func() { served <- n.Serve(h) }()
	stop := sync.OnceFunc(func() {
		n.Close()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(stop)
	return &node{n, stop}
}

func newBook() *book { return &book{addresses: map[string]string{}} }

func mustOpen(t *testing.T, n *node, uuid string, class Class) Stream {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := n.Open(ctx, uuid, class)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// exchange sends a frame, in parts, and wants it back.
func exchange(t *testing.T, s Stream, class Class, parts ...[]byte) {
	t.Helper()
	if err := s.Send(parts...); err != nil {
		t.Fatal(err)
	}
	got, err := s.Recv()
	if want := append([]byte{byte(class)}, bytes.Join(parts, nil)...); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d octets came back for %d: %v", len(got), len(want), err)
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// noGoroutines waits until none is left of what a test has started.
func noGoroutines(t *testing.T) {
	t.Helper()
	stacks := ""
	defer func() {
		if t.Failed() {
			t.Log(stacks)
		}
	}()
	eventually(t, "no goroutine is left", func() bool {
		b := make([]byte, 1<<20)
		stacks = string(b[:runtime.Stack(b, true)])
		for s := range strings.SplitSeq(stacks, "\n\n") {
			if (strings.Contains(s, "peer.") || strings.Contains(s, "google.golang.org/grpc")) && !strings.Contains(s, "testing.tRunner") {
				return false
			}
		}
		return true
	})
}

// Frames of all sizes come as they went, on streams of all classes, which do not mix.
func TestStreams(t *testing.T) {
	b := newBook()
	a, _ := b.start(t, "a", echoes()), b.start(t, "b", echoes())
	for class := range Class(classes) {
		s := mustOpen(t, a, "b", class)
		for _, size := range []int{0, 1, 100, 16 << 10, 33 << 10, 1 << 20, 20 << 20} {
			exchange(t, s, class, bytes.Repeat([]byte{7}, size))
		}
		exchange(t, s, class, []byte("in "), nil, []byte("several "), []byte("parts"))
		exchange(t, s, class)
	}
}

// What Recv returns belongs to the caller: later frames do not change it.
func TestFramesKeepTheirMemory(t *testing.T) {
	b := newBook()
	a, _ := b.start(t, "a", echoes()), b.start(t, "b", echoes())
	s := mustOpen(t, a, "b", Links)
	var frames [][]byte
	for i := range byte(50) {
		if err := s.Send(bytes.Repeat([]byte{i}, 5000)); err != nil {
			t.Fatal(err)
		}
		frame, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		frames = append(frames, frame)
	}
	for i, f := range frames {
		if !bytes.Equal(f[1:], bytes.Repeat([]byte{byte(i)}, 5000)) {
			t.Fatalf("frame %d has changed", i)
		}
	}
}

// A frame beyond the limit ends its stream and nothing else.
func TestFrameThatIsTooLarge(t *testing.T) {
	b := newBook()
	a, _ := b.start(t, "a", echoes()), b.start(t, "b", echoes())
	s, other := mustOpen(t, a, "b", Raft), mustOpen(t, a, "b", Raft)
	if err := s.Send(make([]byte, maxFrame+1)); !errors.Is(err, errFrameTooLarge) {
		t.Errorf("a frame of %d octets: %v", maxFrame+1, err)
	}
	if _, err := s.Recv(); !errors.Is(err, errFrameTooLarge) {
		t.Errorf("after a frame that is too large: %v", err)
	}
	exchange(t, other, Raft, []byte("still here"))
}

func TestCall(t *testing.T) {
	b := newBook()
	a, _ := b.start(t, "a", echoes()), b.start(t, "b", echoes())
	answer, err := a.Call(t.Context(), "b", []byte("a question"))
	if err != nil || string(answer) != "answer to a question" {
		t.Errorf("%q, %v", answer, err)
	}
	if _, err := a.Call(t.Context(), "b", nil); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "an empty call") {
		t.Errorf("a call that is refused: %v", err)
	}
	if _, err := a.Call(t.Context(), "c", []byte("x")); err == nil || !strings.Contains(err.Error(), "no address of c") {
		t.Errorf("a call to a node that is not known: %v", err)
	}
}

// The Control service goes over the same connections as the frames, with protobuf's codec.
func TestControl(t *testing.T) {
	b := newBook()
	a, _ := b.start(t, "a", echoes()), b.start(t, "b", echoes())
	control, err := a.Control("b")
	if err != nil {
		t.Fatal(err)
	}
	stream, err := control.Watch(t.Context(), &nodev1.WatchRequest{Uuid: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if s, err := stream.Recv(); err != nil || s.Uuid != "b" {
		t.Errorf("%v, %v", s, err)
	}
	if _, err := control.Propose(t.Context(), &nodev1.ProposeRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("a method that nobody has: %v", err)
	}
}

// Close on either side fails what blocks on the other.
func TestCloseIsSeenByTheOtherEnd(t *testing.T) {
	b := newBook()
	h := echoes()
	far := make(chan Stream)
	farSaw := make(chan error)
	h.Serve[Links] = func(_ context.Context, s Stream) {
		far <- s
		_, err := s.Recv()
		farSaw <- err
	}
	a, _ := b.start(t, "a", echoes()), b.start(t, "b", h)

	near := mustOpen(t, a, "b", Links)
	<-far
	near.Close()
	if err := <-farSaw; err == nil {
		t.Error("the near end was closed, the far one received a frame")
	}

	near = mustOpen(t, a, "b", Links)
	s := <-far
	s.Close()
	if _, err := near.Recv(); err == nil {
		t.Error("the far end was closed, the near one received a frame")
	}
	<-farSaw
	eventually(t, "the near end cannot send", func() bool { return near.Send([]byte("x")) != nil })
}

// When who serves a stream returns, the stream ends, after what was sent on it.
func TestEndOfServeEndsTheStream(t *testing.T) {
	b := newBook()
	h := echoes()
	h.Serve[Bulk] = func(_ context.Context, s Stream) { _ = s.Send([]byte("goodbye")) }
	a, _ := b.start(t, "a", echoes()), b.start(t, "b", h)
	s := mustOpen(t, a, "b", Bulk)
	if frame, err := s.Recv(); err != nil || string(frame) != "goodbye" {
		t.Errorf("%q, %v", frame, err)
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

// A stream whose other end does not read takes what fits in its window and no more; another stream goes on meanwhile, and
// what waited goes out when it is read.
func TestBackPressure(t *testing.T) {
	const size, frames = 256 << 10, 200
	b := newBook()
	h := echoes()
	read := make(chan struct{})
	took := make(chan int, 1)
	h.Serve[Bulk] = func(_ context.Context, s Stream) {
		<-read
		n := 0
		for range frames {
			frame, err := s.Recv()
			if err != nil {
				break
			}
			n += len(frame)
		}
		took <- n
	}
	a, _ := b.start(t, "a", echoes()), b.start(t, "b", h)
	s, other := mustOpen(t, a, "b", Bulk), mustOpen(t, a, "b", Raft)
	var sent atomic.Int64
	done := make(chan error, 1)
	go func() {
		for range frames {
			if err := s.Send(make([]byte, size)); err != nil {
				done <- err
				return
			}
			sent.Add(1)
		}
		done <- nil
	}()
	// The sender has stopped when nothing has gone out while many frames went to and fro on the other connection.
	eventually(t, "the sender stops", func() bool {
		before := sent.Load()
		for range 200 {
			exchange(t, other, Raft, []byte("meanwhile"))
		}
		return before > 0 && sent.Load() == before
	})
	if n := sent.Load() * size; n > 4*windowSize {
		t.Errorf("%d octets are under way to an end that does not read", n)
	}
	close(read)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := <-took; n != frames*size {
		t.Errorf("%d octets came, not %d", n, frames*size)
	}
}

// A node that comes back on another port is reached there: connections ask for the address at each dial.
func TestRestartOnAnotherPort(t *testing.T) {
	b := newBook()
	a, old := b.start(t, "a", echoes()), b.start(t, "b", echoes())
	s := mustOpen(t, a, "b", Raft)
	exchange(t, s, Raft, []byte("before"))
	where, _ := b.address("b")
	old.stop()
	if _, err := s.Recv(); err == nil {
		t.Fatal("a frame from a node that has ended")
	}
	if err := a.Probe(t.Context(), "b"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a probe of a node that has ended: %v", err)
	}
	b.start(t, "b", echoes())
	if now, _ := b.address("b"); now == where {
		t.Skip("the same port by chance")
	}
	if err := a.Probe(t.Context(), "b"); err != nil {
		t.Errorf("a probe of the node that came back: %v", err)
	}
	var again Stream
	eventually(t, "the node is reached", func() (ok bool) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		var err error
		again, err = a.Open(ctx, "b", Raft)
		return err == nil
	})
	defer again.Close()
	exchange(t, again, Raft, []byte("after"))
}

// Disconnect fails what is under way to one node, of all classes, and the next use dials anew.
func TestDisconnect(t *testing.T) {
	b := newBook()
	a, _, _ := b.start(t, "a", echoes()), b.start(t, "b", echoes()), b.start(t, "c", echoes())
	other := mustOpen(t, a, "c", Raft)
	var streams []Stream
	for class := range Class(classes) {
		streams = append(streams, mustOpen(t, a, "b", class))
	}
	a.Disconnect("b")
	for class, s := range streams {
		if _, err := s.Recv(); err == nil {
			t.Errorf("class %d: the stream goes on", class)
		}
	}
	exchange(t, other, Raft, []byte("another node"))
	for class := range Class(classes) {
		exchange(t, mustOpen(t, a, "b", class), class, []byte("anew"))
	}
	a.Disconnect("nobody")
}

// Opening ends with its context, even when the node takes connections and says nothing. The context does not end a stream
// that is open.
func TestOpenEndsWithItsContext(t *testing.T) {
	b := newBook()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	b.addresses["silent"] = silent.Addr().String()
	a, _ := b.start(t, "a", echoes()), b.start(t, "b", echoes())
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if s, err := a.Open(ctx, "silent", Raft); err == nil {
		s.Close()
		t.Error("a stream to a node that says nothing was opened")
	}
	ctx, cancel = context.WithTimeout(t.Context(), patience)
	s, err := a.Open(ctx, "b", Raft)
	cancel()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	exchange(t, s, Raft, []byte("after the context's end"))
}

// Close ends everything: streams on both ends, calls, what is opened later, and all goroutines.
func TestCloseLeavesNothing(t *testing.T) {
	b := newBook()
	h := echoes()
	hanging := make(chan struct{})
	h.Call = func(ctx context.Context, _ []byte) ([]byte, error) {
		close(hanging)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	a, other := b.start(t, "a", echoes()), b.start(t, "b", h)
	s := mustOpen(t, a, "b", Raft)
	exchange(t, s, Raft, []byte("x"))
	called := make(chan error, 1)
	go func() {
		_, err := a.Call(context.Background(), "b", []byte("x"))
		called <- err
	}()
	<-hanging
	a.stop()
	if err := <-called; err == nil {
		t.Error("a call was answered")
	}
	if _, err := s.Recv(); err == nil {
		t.Error("the stream goes on")
	}
	if _, err := a.Open(t.Context(), "b", Raft); !errors.Is(err, errClosed) {
		t.Errorf("a stream is opened after the end: %v", err)
	}
	if _, err := a.Call(t.Context(), "b", nil); !errors.Is(err, errClosed) {
		t.Errorf("a call after the end: %v", err)
	}
	if _, err := a.Control("b"); !errors.Is(err, errClosed) {
		t.Errorf("control after the end: %v", err)
	}
	other.stop()
	noGoroutines(t)
}

// A network that is closed before it serves does not serve.
func TestCloseBeforeServe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := New(Options{Listener: l, Logger: slog.New(slog.DiscardHandler)})
	n.Close()
	_ = n.Serve(Handlers{Control: controlServer{}}) // the listener is closed already
	if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
		c.Close()
		t.Error("it listens")
	}
	noGoroutines(t)
}
