package peer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener of connections in memory. They hold nothing: who writes waits for who reads.
type pipes struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial(ctx context.Context, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.conns <- far:
		return near, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// inMemory runs two networks in a bubble; the first one reaches the other.
func inMemory(t *testing.T, h Handlers) *Network {
	p := newPipes()
	b := New(Options{Listener: p, Logger: slog.New(slog.DiscardHandler)})
	a := New(Options{Listener: newPipes(), Dial: p.dial, Address: func(string) (string, error) { return "b", nil }, Logger: slog.New(slog.DiscardHandler)})
	served := make(chan error, 1)
	h.Control = controlServer{name: "b"}
	go func() { served <- b.Serve(h) }()
	t.Cleanup(func() {
		a.Close()
		b.Close()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return a
}

// Two ends that have nothing to say stay together: pings pass, and nobody sees them.
func TestIdleStreamsStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := inMemory(t, echoes())
		s, err := a.Open(t.Context(), "b", Raft)
		if err != nil {
			t.Fatal(err)
		}
		answer := make(chan string)
		go func() {
			frame, err := s.Recv()
			if err != nil {
				frame = []byte(err.Error())
			}
			answer <- string(frame)
		}()
		time.Sleep(100 * beat)
		if err := s.Send([]byte("after a while")); err != nil {
			t.Fatal(err)
		}
		if got := <-answer; got != "\x00after a while" {
			t.Errorf("%q", got)
		}
	})
}

// An end that says nothing, pings included, is given up; one that does not listen is not.
func TestSilentEndIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := newPipes()
		a := New(Options{Listener: newPipes(), Dial: silent.dial, Address: func(string) (string, error) { return "b", nil }, Logger: slog.New(slog.DiscardHandler)})
		defer a.Close()
		go func() {
			conn, _ := silent.Accept()
			_, _ = io.CopyN(conn, conn, openingSize)
			_, _ = io.Copy(io.Discard, conn) // it takes pings and sends none
		}()
		s, err := a.Open(t.Context(), "b", Raft)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * beat) // nobody waits for anything to come
		if err := s.Send([]byte("x")); err != nil {
			t.Fatalf("a stream that nobody reads: %v", err)
		}
		start := time.Now()
		if _, err := s.Recv(); !errors.Is(err, errSilent) {
			t.Errorf("from an end that says nothing: %v", err)
		}
		if took := time.Since(start); took < (silentBeats-1)*beat || took > (silentBeats+1)*beat {
			t.Errorf("given up after %v", took)
		}
	})
}

// An end that is busy and does not read for long keeps its stream.
func TestSlowReaderKeepsItsStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := echoes()
		h.Serve[Links] = func(_ context.Context, s Stream) {
			time.Sleep(100 * beat)
			echo(Links)(t.Context(), s)
		}
		s, err := inMemory(t, h).Open(t.Context(), "b", Links)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send([]byte("no hurry")); err != nil { // returns when it is read
			t.Fatal(err)
		}
		if frame, err := s.Recv(); err != nil || string(frame) != "\x01no hurry" {
			t.Errorf("%q, %v", frame, err)
		}
	})
}

// A connection that does not say what it is for is closed after a while; one that says something else gets no stream.
func TestOpenings(t *testing.T) {
	t.Run("silent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPipes()
			b := New(Options{Listener: p, Logger: slog.New(slog.DiscardHandler)})
			served := make(chan error, 1)
			go func() { served <- b.Serve(Handlers{Control: controlServer{}}) }()
			conn, err := p.dial(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			_, _ = conn.Write([]byte(magic))
			if _, err := conn.Read(make([]byte, 1)); err == nil || time.Since(start) != openingTimeout {
				t.Errorf("%v after %v", err, time.Since(start))
			}
			b.Close()
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
	})
	for name, first := range map[string]string{
		"garbage":              "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"another version":      magic + "\x02\x00",
		"a class beyond these": magic + "\x01\x03",
	} {
		t.Run(name, func(t *testing.T) {
			b := newBook()
			n := b.start(t, "b", echoes())
			where, _ := b.address("b")
			conn, err := net.Dial("tcp", where)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := conn.Write([]byte(first)); err != nil {
				t.Fatal(err)
			}
			if got, _ := io.ReadAll(conn); bytes.Contains(got, []byte(magic)) {
				t.Errorf("it was taken: %q", got)
			}
			if open := n.list(func(*stream) bool { return true }); len(open) > 0 {
				t.Error("there is a stream")
			}
		})
	}
}

// Others have so many streams to a node and no more; when one ends there is room for another.
func TestStreamsAreBounded(t *testing.T) {
	n := New(Options{Listener: newPipes(), Logger: slog.New(slog.DiscardHandler)})
	defer n.Close()
	taken := func() *stream { return newStream(n, "", memoryConn{in: bytes.NewReader(nil)}) }
	first := taken()
	for s, i := first, 0; i < maxTaken; s, i = taken(), i+1 {
		if !n.add(s) {
			t.Fatalf("stream %d is refused", i)
		}
	}
	if n.add(taken()) {
		t.Error("one too many is taken")
	}
	if !n.add(newStream(n, "b", memoryConn{})) {
		t.Error("a stream that this node opens is refused")
	}
	first.Close()
	first.Close()
	if s := taken(); !n.add(s) || n.add(taken()) {
		t.Error("the room of one that has ended is not given to one other")
	}
}

// A node that answers an opening with anything else has no stream.
func TestOtherEndWithoutFrames(t *testing.T) {
	b := newBook()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b.addresses["other"] = l.Addr().String()
	go func() {
		if conn, err := l.Accept(); err == nil {
			_, _ = conn.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
			_, _ = io.Copy(io.Discard, conn)
			conn.Close()
		}
	}()
	if _, err := b.start(t, "a", echoes()).Open(t.Context(), "other", Raft); !errors.Is(err, errNotFrames) {
		t.Errorf("%v", err)
	}
}

// memoryConn is a connection with something in it to read; the rest does nothing.
type memoryConn struct {
	net.Conn
	in io.Reader
}

func (c memoryConn) Read(p []byte) (int, error)  { return c.in.Read(p) }
func (c memoryConn) Write(p []byte) (int, error) { return len(p), nil }
func (c memoryConn) Close() error                { return nil }

func streamOf(t testing.TB, in io.Reader) *stream {
	n := New(Options{Listener: newPipes(), Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(n.Close)
	return newStream(n, "", memoryConn{in: in})
}

// A frame that is announced and does not come takes no memory worth mentioning.
func TestAnnouncedFrameTakesNoMemory(t *testing.T) {
	head := le.AppendUint32(nil, maxFrame)
	s := streamOf(t, io.MultiReader(bytes.NewReader(head), bytes.NewReader(make([]byte, 3*firstPiece))))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := s.Recv()
	runtime.ReadMemStats(&after)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v", err)
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > 12*firstPiece {
		t.Errorf("%d octets were allocated for a frame of which %d came", took, 3*firstPiece)
	}
	if _, err := streamOf(t, bytes.NewReader(le.AppendUint32(nil, maxFrame+1))).Recv(); !errors.Is(err, errFrameTooLarge) {
		t.Errorf("a frame beyond the limit: %v", err)
	}
}

// FuzzRecv reads any octets as frames: what comes out is what is in them, and the end has an error.
func FuzzRecv(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{3, 0, 0, 0, 'a', 'b', 'c', 255, 255, 255, 255, 0, 0, 0, 0, 9, 0, 0, 0, 1})
	f.Add(le.AppendUint32(nil, maxFrame+1))
	n := New(Options{Listener: newPipes(), Logger: slog.New(slog.DiscardHandler)})
	f.Cleanup(n.Close)
	f.Fuzz(func(t *testing.T, in []byte) {
		s := newStream(n, "", memoryConn{in: bytes.NewReader(in)})
		rest := in
		for {
			frame, err := s.Recv()
			for len(rest) >= frameHead && le.Uint32(rest) == pingLength {
				rest = rest[frameHead:]
			}
			if err != nil {
				if len(rest) >= frameHead && uint64(le.Uint32(rest)) <= uint64(len(rest)-frameHead) {
					t.Fatalf("%v before %x", err, rest)
				}
				return
			}
			if want := rest[frameHead : frameHead+le.Uint32(rest)]; !bytes.Equal(frame, want) {
				t.Fatalf("%x instead of %x", frame, want)
			}
			rest = rest[frameHead+len(frame):]
		}
	})
}
