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
// broker, one that drains and sends, and the handler's own, which waits for their end: either may be held up by the client.
type session struct {
	server  *Server
	conn    *broker.Conn
	channel *broker.Channel

	calls     context.Context // of the broker's calls; ends with the stream, and when it is to be closed
	stopCalls context.CancelFunc
	awake     chan struct{} // has room for one
	closed    chan struct{} // closed when the broker wants the session to end
	reason    atomic.Pointer[broker.Error]
	failed    chan error // has room for one: the first error that ends the stream whatever its client does
	owes      bool       // what the writer has to tell comes before an error of the reader: outcomes

	blockedMu sync.Mutex // guards blocked, for a short time
	blocked   string     // why publishers are not read; empty: they are
}

// open begins a session for a call's user in its vhost.
func (s *Server) open(ctx context.Context) (*session, error) {
	c := callerOf(ctx)
	n := &session{server: s, awake: make(chan struct{}, 1), closed: make(chan struct{}), failed: make(chan error, 1)}
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
	n.server.forget(n)
}

func (s *Server) forget(n *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, n)
	if s.stopping && len(s.sessions) == 0 {
		s.part()
	}
}

// Wake implements broker.ConnEvents, as do the four methods below.
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

// Failed asks for the end of the session with that error.
func (n *session) Failed(_ *broker.Channel, err *broker.Error) { n.fail(err) }

func (n *session) fail(err error) {
	select {
	case n.failed <- err:
	default:
	}
}

// forced returns what the broker ended the session for, or err.
func (n *session) forced(err error) error {
	if reason := n.reason.Load(); reason != nil {
		return failure(codes.Unavailable, brokerv1.ErrorReason_ERROR_REASON_CLOSED, reason.Text)
	}
	return err
}

// ending is how the conversation of a stream ended.
type ending struct {
	err  error
	read bool // nothing reads any more
}

// converse runs a stream: read on a goroutine of its own, until it returns (nil: the client has nothing more to say), and
// write on another, whenever there is something to drain. write tells whether the stream is done if nothing more comes in. The
// session is closed before the client hears of the end, unless reading or writing cannot be stopped otherwise: what they use is
// there until both have returned.
func (n *session) converse(ctx context.Context, read func() error, write func() (done bool, err error)) error {
	ended, over := make(chan error, 1), make(chan ending, 1)
	var both sync.WaitGroup
	both.Go(func() {
		var err error
		defer func() {
			if err != nil && !n.owes {
				n.fail(err)
			}
			ended <- err
		}()
		defer n.contain(&err)
		err = read()
	})
	both.Go(func() {
		var end ending
		defer func() { over <- end }()
		defer n.contain(&end.err)
		end.err = n.loop(ctx, ended, &end.read, write)
	})
	end := n.await(ctx, over)
	n.stopCalls()
	if end.read {
		n.close()
		return n.forced(end.err)
	}
	go func() { // they end when this handler has returned
		both.Wait()
		n.close()
	}()
	return n.forced(end.err)
}

// await waits for the end of the conversation, or for what ends it.
func (n *session) await(ctx context.Context, over <-chan ending) ending {
	select {
	case end := <-over:
		return end
	case failed := <-n.failed:
		return ending{err: failed}
	case <-n.closed:
		return ending{} // see forced
	case <-ctx.Done():
		return ending{err: ctx.Err()}
	}
}

// contain is Server.contain for a goroutine of the session.
func (n *session) contain(err *error) {
	if reason := recover(); reason != nil {
		n.server.log.Error("stream given up", "panic", reason, "stack", string(debug.Stack()))
		*err = fmt.Errorf("panic: %v", reason)
	}
}

// loop writes until the stream is done. read tells whether reading has ended.
func (n *session) loop(ctx context.Context, ended <-chan error, read *bool, write func() (bool, error)) error {
	for {
		var failed error
		select {
		case failed = <-ended:
			*read = true
		case <-n.awake:
		case <-n.closed:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
		done, err := write() // also what was confirmed before a failure
		switch {
		case failed != nil:
			return failed
		case err != nil:
			return err
		case done && *read:
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
