package rpc

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/warrenmq/warren/broker"
	brokerv1 "github.com/warrenmq/warren/proto/broker/v1"
)

// session is a call's connection to the broker, with one channel. Streams have a goroutine that reads and calls the
// broker, and the handler's own, which drains and sends.
type session struct {
	server  *Server
	conn    *broker.Conn
	channel *broker.Channel

	calls     context.Context // of the broker's calls; ends with the stream, and when it is to be closed
	stopCalls context.CancelFunc
	awake     chan struct{} // has room for one
	closed    chan struct{} // closed when the broker wants the session to end
	reason    atomic.Pointer[broker.Error]

	blockedMu sync.Mutex // guards blocked, for a short time
	blocked   string     // why publishers are not read; empty: they are
}

// open begins a session for a call's user in its vhost.
func (s *Server) open(ctx context.Context) (*session, error) {
	c := callerOf(ctx)
	n := &session{server: s, awake: make(chan struct{}, 1), closed: make(chan struct{})}
	n.calls, n.stopCalls = context.WithCancel(ctx)
	conn, err := s.options.Broker.Open(ctx, c.identity, c.vhost, broker.ConnOptions{Name: c.address + " (gRPC)", Events: n})
	if err != nil {
		n.stopCalls()
		return nil, err
	}
	n.conn = conn
	n.channel = conn.OpenChannel(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		n.Closed(&broker.Error{Kind: broker.Unavailable, Text: shutdownText})
	}
	s.sessions[n] = struct{}{}
	s.work.Add(1)
	return n, nil
}

// closeTimeout bounds what is given back to the cluster when a session ends; the rest goes on behind.
const closeTimeout = 30 * time.Second

// close ends the session: unsettled messages go back. Nobody calls the broker for it any more.
func (n *session) close() {
	defer n.server.work.Done()
	n.stopCalls()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	n.conn.Close(ctx)
	n.server.mu.Lock()
	delete(n.server.sessions, n)
	n.server.mu.Unlock()
}

// Wake implements broker.ConnEvents, as do the three methods below.
func (n *session) Wake() {
	select {
	case n.awake <- struct{}{}:
	default:
	}
}

// Blocked notes that publishers are not read.
func (n *session) Blocked(reason string) { n.setBlocked(reason) }

// Unblocked notes that they are again.
func (n *session) Unblocked() { n.setBlocked("") }

func (n *session) setBlocked(reason string) {
	n.blockedMu.Lock()
	n.blocked = reason
	n.blockedMu.Unlock()
	n.Wake()
}

func (n *session) isBlocked() string {
	n.blockedMu.Lock()
	defer n.blockedMu.Unlock()
	return n.blocked
}

// Closed asks for the end of the session.
func (n *session) Closed(err *broker.Error) {
	if n.reason.CompareAndSwap(nil, err) {
		n.stopCalls()
		close(n.closed)
	}
}

// forced returns what the broker ended the session for, or err.
func (n *session) forced(err error) error {
	if reason := n.reason.Load(); reason != nil {
		return failure(codes.Unavailable, brokerv1.ErrorReason_ERROR_REASON_CLOSED, reason.Text)
	}
	return err
}

// converse runs a stream: read on a goroutine of its own, until it returns (nil: the client has nothing more to say), and
// write here, whenever there is something to drain. write tells whether the stream is done if nothing more comes in. The
// session is closed before the client hears of the end, unless reading cannot be stopped otherwise.
func (n *session) converse(ctx context.Context, read func() error, write func() (done bool, err error)) error {
	ended := make(chan error, 1)
	go func() {
		var err error
		defer func() { ended <- err }()
		defer n.contain(&err)
		err = read()
	}()
	reading := true
	err := n.loop(ctx, ended, &reading, write)
	n.stopCalls()
	if !reading {
		n.close()
		return n.forced(err)
	}
	go func() { // it ends when this handler has returned
		<-ended
		n.close()
	}()
	return n.forced(err)
}

// contain is Server.contain for a goroutine of the session.
func (n *session) contain(err *error) {
	if reason := recover(); reason != nil {
		n.server.log.Error("stream given up", "panic", reason, "stack", string(debug.Stack()))
		*err = fmt.Errorf("panic: %v", reason)
	}
}

func (n *session) loop(ctx context.Context, ended <-chan error, reading *bool, write func() (bool, error)) error {
	for {
		var failed error
		select {
		case failed = <-ended:
			*reading = false
		case <-n.awake:
		case <-n.closed:
			return nil // see forced
		case <-ctx.Done():
			return ctx.Err()
		}
		done, err := write() // also what was confirmed before a failure
		switch {
		case failed != nil:
			return failed
		case err != nil:
			return err
		case done && !*reading:
			return nil
		}
	}
}

// call runs a unary call's work.
func (s *Server) call(ctx context.Context, f func(ctx context.Context, n *session) error) error {
	n, err := s.open(ctx)
	if err != nil {
		return err
	}
	defer n.close()
	return n.forced(f(n.calls, n))
}
