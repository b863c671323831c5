package peer

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A stream has a TCP connection of its own, on the port of the gRPC server; docs/adr says why it is no stream of gRPC. All
// integers are little-endian.
//
//	opener        8 octets: "WARREN", version (1), class
//	acceptor      the same, once it serves the stream
//
//	then, in both directions, any number of
//
//	frame         4 octets: length, at most maxFrame
//	              the payload
//	ping          4 octets: 0xffffffff, when nothing else was sent for a while
const (
	openingSize    = 8
	magic          = "WARREN"
	framesVersion  = 1
	frameHead      = 4
	pingLength     = 1<<32 - 1
	firstPiece     = 1 << 20 // memory for a frame that has not come yet
	readBuffer     = 64 << 10
	writeBuffer    = 32 << 10
	beat           = 4 * time.Second // a stream on which nothing was sent for so long gets a ping
	silentBeats    = 4               // a stream that nothing came on for so many beats, pings included, is given up
	maxOpening     = 1024            // connections that have not said yet what they are; more are closed
	openingTimeout = 10 * time.Second
	maxTaken       = 1024 // streams that others have opened: two of each node, and one for each snapshot under way
)

var (
	errClosed        = errors.New("the network is closed")
	errStreamClosed  = errors.New("the stream was closed here")
	errSilent        = errors.New("nothing came from the other end, not even a ping")
	errFrameTooLarge = fmt.Errorf("a frame is larger than %d octets", maxFrame)
	errNotFrames     = errors.New("the other end does not speak frames of this version")
)

var le = binary.LittleEndian

func opening(class Class) []byte { return append([]byte(magic), framesVersion, byte(class)) }

// stream implements Stream.
type stream struct {
	network *Network
	uuid    string // of the node that it was opened to; empty: the other node opened it
	conn    net.Conn
	life    context.Context // ends with the stream
	end     context.CancelCauseFunc
	once    sync.Once

	// The receiver's.
	in     *bufio.Reader
	inHead [frameHead]byte

	sending sync.Mutex // held to write to the connection
	head    [frameHead]byte
	parts   net.Buffers   // room for the parts of a frame
	rest    net.Buffers   // of parts, what is not written yet
	out     *bufio.Writer // nil: the connection takes parts as they are

	sent, received atomic.Bool // something, since the last beat
	waits          atomic.Bool // Recv waits for the connection
	quiet          int         // beats without anything received; the beating goroutine's
}

func newStream(n *Network, uuid string, conn net.Conn) *stream {
	s := &stream{network: n, uuid: uuid, conn: conn}
	s.life, s.end = context.WithCancelCause(context.Background())
	s.in = bufio.NewReaderSize(noting{s}, readBuffer)
	if _, ok := conn.(*net.TCPConn); !ok {
		s.out = bufio.NewWriterSize(conn, writeBuffer)
	}
	return s
}

// noting reads from the connection and notes that something came.
type noting struct{ s *stream }

func (n noting) Read(p []byte) (int, error) {
	k, err := n.s.conn.Read(p)
	if k > 0 {
		n.s.received.Store(true)
	}
	return k, err
}

// fail ends the stream; the first cause is what Send and Recv return.
func (s *stream) fail(cause error) {
	s.once.Do(func() {
		s.end(cause)
		_ = s.conn.Close() // there is nothing else to know
		s.network.remove(s)
	})
}

// Close implements Stream.
func (s *stream) Close() { s.fail(errStreamClosed) }

// Send implements Stream.
func (s *stream) Send(parts ...[]byte) error {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	if size > maxFrame {
		s.fail(errFrameTooLarge)
		return errFrameTooLarge
	}
	s.sending.Lock()
	defer s.sending.Unlock()
	return s.write(uint32(size), parts)
}

// write writes a frame or a ping. sending is held.
func (s *stream) write(length uint32, parts [][]byte) error {
	le.PutUint32(s.head[:], length)
	var err error
	if s.out == nil {
		s.parts = append(append(s.parts[:0], s.head[:]), parts...)
		s.rest = s.parts
		_, err = s.rest.WriteTo(s.conn) // writev
		clear(s.parts)
	} else {
		_, err = s.out.Write(s.head[:])
		for _, p := range parts {
			if err == nil {
				_, err = s.out.Write(p)
			}
		}
		if err == nil {
			err = s.out.Flush()
		}
	}
	s.sent.Store(true)
	if err != nil {
		s.fail(err)
		return context.Cause(s.life)
	}
	return nil
}

// Recv implements Stream.
func (s *stream) Recv() ([]byte, error) {
	s.waits.Store(true)
	frame, err := s.recv()
	s.waits.Store(false)
	if err != nil {
		s.fail(err)
		return nil, context.Cause(s.life)
	}
	return frame, nil
}

func (s *stream) recv() ([]byte, error) {
	for {
		if _, err := io.ReadFull(s.in, s.inHead[:]); err != nil {
			return nil, err
		}
		switch n := le.Uint32(s.inHead[:]); {
		case n == pingLength:
		case n > maxFrame:
			return nil, errFrameTooLarge
		default:
			return s.payload(int(n))
		}
	}
}

// payload reads a frame of n octets. It takes memory for what has come, not for what was announced.
func (s *stream) payload(n int) ([]byte, error) {
	frame := make([]byte, min(n, firstPiece))
	for have := 0; ; {
		k, err := io.ReadFull(s.in, frame[have:])
		if have += k; err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if have == n {
			return frame, nil
		}
		frame = slices.Grow(frame, min(n-have, have))[:min(n, 2*have)]
	}
}

// tick is called at each beat: it says something if nothing else was said, and gives up an end that says nothing.
func (s *stream) tick() {
	if s.received.Swap(false) || !s.waits.Load() {
		s.quiet = 0
	} else if s.quiet++; s.quiet >= silentBeats {
		s.fail(errSilent)
		return
	}
	if !s.sent.Swap(false) && s.sending.TryLock() {
		go func() { // writing waits while the other end does not read
			defer s.sending.Unlock()
			_ = s.write(pingLength, nil) // the stream has ended then
		}()
	}
}

// Open opens a stream to a node. The ctx is for opening alone.
func (n *Network) Open(ctx context.Context, uuid string, class Class) (Stream, error) {
	if n.life.Err() != nil {
		return nil, errClosed
	}
	s, err := n.open(ctx, uuid, class)
	if err != nil {
		return nil, fmt.Errorf("open a stream to node %s: %w", uuid, err)
	}
	return s, nil
}

func (n *Network) open(ctx context.Context, uuid string, class Class) (*stream, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	defer context.AfterFunc(n.life, cancel)()
	conn, err := n.dial(ctx, uuid)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	err = greet(conn, class)
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	s := newStream(n, uuid, conn)
	if !n.add(s) {
		s.fail(errClosed)
		return nil, errClosed
	}
	return s, nil
}

// greet says what the connection is for and waits for the other end to take it.
func greet(conn net.Conn, class Class) error {
	if _, err := conn.Write(opening(class)); err != nil {
		return err
	}
	var answer [openingSize]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return err
	}
	if string(answer[:]) != string(opening(class)) {
		return errNotFrames
	}
	return nil
}

// serveStream serves a stream that another node has opened and ends it.
func (n *Network) serveStream(conn net.Conn, class Class, serve func(context.Context, Stream)) {
	s := newStream(n, "", conn)
	defer s.Close()
	if !n.add(s) {
		return
	}
	if _, err := conn.Write(opening(class)); err != nil {
		return
	}
	serve(s.life, s)
}

// add makes a stream one of the network's; false: the network is closed, or others have opened too many.
func (n *Network) add(s *stream) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.life.Err() != nil || s.uuid == "" && n.taken >= maxTaken {
		return false
	}
	n.streams[s] = struct{}{}
	if s.uuid == "" {
		n.taken++
	}
	return true
}

func (n *Network) remove(s *stream) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, held := n.streams[s]; held && s.uuid == "" {
		n.taken--
	}
	delete(n.streams, s)
}

// beats calls tick of every stream at each beat until the network is closed.
func (n *Network) beats() {
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-n.life.Done():
			return
		}
		for _, s := range n.list(func(*stream) bool { return true }) {
			s.tick()
		}
	}
}

// list returns some of the streams.
func (n *Network) list(which func(*stream) bool) []*stream {
	n.mu.Lock()
	defer n.mu.Unlock()
	var list []*stream
	for s := range n.streams {
		if which(s) {
			list = append(list, s)
		}
	}
	return list
}
