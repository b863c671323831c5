package amqp

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warrenmq/warren/amqp/wire"
	"github.com/warrenmq/warren/broker"
)

// conn is one client. Its reader goroutine (serve) owns everything but the writer, which has a goroutine of its own, and
// the fields that say otherwise.
type conn struct {
	server *Server
	socket net.Conn
	log    *slog.Logger

	ctx       context.Context // ends when the socket is of no use any more
	cancel    context.CancelFunc
	calls     context.Context // of the calls that carry out the client's methods; ends when the connection is to close
	stopCalls context.CancelFunc

	in       *wire.Scanner
	out      *writer
	broker   *broker.Conn // nil until connection.open
	channels map[uint16]*channel
	aliasing []*channel // channels whose incomplete content points into the read buffer
	// incomplete is how many bytes of bodies the channels hold that are not complete.
	incomplete int

	client     clientInfo
	channelMax uint16
	frameMax   uint32
	heartbeat  time.Duration
	closing    bool // connection.close is out; everything but close-ok is ignored
	admitted   bool // counted among the server's open ones

	failed    failures                      // channels that the broker wants closed
	suspended atomic.Bool                   // blocked by an alarm: heartbeats are not watched
	forced    atomic.Pointer[protocolError] // what the server ends the connection for
	cutOnce   sync.Once
}

// clientInfo is what start-ok said.
type clientInfo struct {
	name                string // connection_name
	cancelNotify        bool
	blocked             bool
	authenticationClose bool
	identity            *broker.Identity
	mechanism, userName string
}

func newConn(s *Server, socket net.Conn) *conn {
	c := &conn{server: s, socket: socket, channels: map[uint16]*channel{}, frameMax: frameMinSize, channelMax: channelMax}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.calls, c.stopCalls = context.WithCancel(c.ctx)
	c.log = s.log.With("peer", socket.RemoteAddr().String())
	c.in = wire.NewScanner(socket, frameMinSize)
	c.out = newWriter(c)
	return c
}

// cut ends the connection without a word.
func (c *conn) cut() {
	c.cutOnce.Do(func() {
		c.cancel()
		_ = c.socket.Close() // nothing more is expected of it
	})
}

// closeTimeout bounds the wait for close-ok and for the last bytes to leave.
const closeTimeout = 5 * time.Second

// brokerCloseTimeout bounds what is given back to the cluster when a client goes.
const brokerCloseTimeout = 30 * time.Second

// serve converses until the connection ends.
func (c *conn) serve() {
	defer c.cut()
	defer c.contain("reader")
	if err := c.socket.SetDeadline(time.Now().Add(c.server.options.HandshakeTimeout)); err != nil {
		return
	}
	err := c.handshake()
	if c.broker != nil {
		defer c.giveBack()
	}
	if err != nil {
		c.log.Info("handshake failed", "err", err)
		return
	}
	if err := c.socket.SetDeadline(time.Time{}); err != nil {
		return
	}
	written := make(chan struct{})
	go func() { defer close(written); c.out.run() }()
	err = c.converse()
	c.finish(err)
	c.out.stop()
	<-written
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, errDropped) {
		c.log.Info("connection closed", "user", c.client.userName, "err", err)
	}
}

// contain makes a panic, which is a broken invariant of this connection, the end of this connection alone.
func (c *conn) contain(where string) {
	if reason := recover(); reason != nil {
		c.log.Error("connection given up", "in", where, "panic", reason, "stack", string(debug.Stack()))
		c.cut()
	}
}

// converse handles frames until the connection ends; the error says why, nil after an orderly close.
func (c *conn) converse() error {
	for {
		for {
			frame, ok, err := c.in.Next()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			c.takeFailures()
			done, err := c.frame(frame)
			if err != nil {
				if err = c.refuse(frame.Channel, c.orForced(err)); err != nil {
					return err
				}
			}
			if done {
				return nil
			}
		}
		if err := c.flush(); err != nil {
			return err
		}
		if err := c.fill(); err != nil {
			return err
		}
	}
}

// flush hands on what the frames in the buffer have staged.
func (c *conn) flush() error {
	if c.closing {
		return nil
	}
	return c.orForced(c.broker.Flush(c.calls))
}

// orForced returns err, or what the broker ends the connection for: that has cut short whatever went on.
func (c *conn) orForced(err error) error {
	if forced := c.forced.Load(); forced != nil && !c.closing {
		return forced
	}
	return err
}

// fill reads more bytes. Content that points into the buffer is copied first, since the buffer moves.
func (c *conn) fill() error {
	for _, ch := range c.aliasing {
		ch.content.own()
	}
	c.aliasing = c.aliasing[:0]
	for {
		if err := c.watchHeartbeat(); err != nil {
			return err
		}
		if err := c.orForced(nil); err != nil { // its deadline may have been overwritten
			return err
		}
		if c.takeFailures() { // as theirs
			continue
		}
		err := c.orForced(c.in.Fill())
		if err == nil {
			return nil
		}
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			if c.suspended.Load() || c.failed.some.Load() {
				continue
			}
			c.log.Info("missed heartbeats from client", "timeout", c.heartbeat)
			return errDropped
		}
		return err
	}
}

// watchHeartbeat sets the deadline of the next read: two intervals without a byte end the connection (AMQP 0-9-1, 4.2.7).
func (c *conn) watchHeartbeat() error {
	if c.heartbeat == 0 || c.closing {
		return nil
	}
	return c.socket.SetReadDeadline(time.Now().Add(c.patience()))
}

// patience is for how long a client may show no life, 0: for ever.
func (c *conn) patience() time.Duration { return 2 * c.heartbeat }

// refuse answers a frame's error: a soft one closes the channel and the conversation goes on.
func (c *conn) refuse(number uint16, err error) error {
	if c.ctx.Err() != nil || errors.Is(err, errDropped) {
		return errDropped
	}
	p := c.toProtocol(err)
	if p.scope == ofConnection || number == 0 {
		return p
	}
	ch := c.channels[number]
	if ch == nil {
		return p
	}
	c.closeChannel(ch, p)
	return nil
}

// giveBack returns what the client has unsettled and deletes its exclusive queues. A client that sees the end of its
// connection expects that this has been done, so it comes before the last word.
func (c *conn) giveBack() {
	ctx, cancel := context.WithTimeout(context.Background(), brokerCloseTimeout)
	defer cancel()
	c.broker.Close(ctx)
}

// finish says goodbye: a hard error is told with connection.close, and its close-ok waited for.
func (c *conn) finish(err error) {
	var p *protocolError
	var w *wire.Error
	if err == nil || c.closing || !errors.As(err, &p) && !errors.As(err, &w) {
		return
	}
	p = c.toProtocol(err)
	c.closing = true
	c.out.settle()
	c.giveBack() // which may take its time
	_ = c.socket.SetWriteDeadline(time.Now().Add(closeTimeout))
	c.out.method(0, &wire.ConnectionClose{ReplyCode: p.code, ReplyText: wire.ReplyText(p.code, p.text), ClassId: p.class, MethodId: p.method})
	if c.socket.SetReadDeadline(time.Now().Add(closeTimeout)) != nil {
		return
	}
	c.awaitCloseOk()
}

// awaitCloseOk reads past everything up to connection.close-ok, or gives up. Where frames end is not known any more after
// a bad one: then it reads to the end, since a socket that is closed with bytes unread takes back what was written.
func (c *conn) awaitCloseOk() {
	for {
		frame, ok, err := c.in.Next()
		if err != nil {
			_, _ = io.Copy(io.Discard, c.socket) // up to the deadline
			return
		}
		if !ok {
			if c.in.Fill() != nil {
				return
			}
			continue
		}
		if frame.Channel != 0 || frame.Type != wire.FrameMethod {
			continue
		}
		m, err := wire.ParseMethod(frame.Payload)
		if err != nil {
			return
		}
		switch m.(type) {
		case *wire.ConnectionCloseOk:
			return
		case *wire.ConnectionClose:
			c.out.method(0, &wire.ConnectionCloseOk{})
			return
		}
	}
}

// The broker's events. They come on any goroutine.

// Wake tells the writer that the broker has something.
func (c *conn) Wake() { c.out.wake() }

// Blocked tells a client that knows the extension that it is not read any more.
func (c *conn) Blocked(reason string) {
	c.suspended.Store(true)
	if c.client.blocked {
		c.out.later(&wire.ConnectionBlocked{Reason: reason})
	}
	c.out.wake() // it looks after the client now
}

// Unblocked tells that it is read again.
func (c *conn) Unblocked() {
	c.suspended.Store(false)
	if c.client.blocked {
		c.out.later(&wire.ConnectionUnblocked{})
	}
}

// Failed has the reader, which owns the channels, close one.
func (c *conn) Failed(ch *broker.Channel, err *broker.Error) {
	p := c.toProtocol(err)
	if p.scope == ofConnection {
		c.end(p)
		return
	}
	c.failed.add(channelFailure{ch, p}, c.socket)
}

// Closed asks for the end of the connection.
func (c *conn) Closed(err *broker.Error) { c.end(hard(wire.ConnectionForced, err.Text)) }

// end makes the reader close the connection, from any goroutine.
func (c *conn) end(reason *protocolError) {
	if !c.forced.CompareAndSwap(nil, reason) {
		return
	}
	c.stopCalls()                                               // wakes a reader that waits for the cluster, or for the end of an alarm
	_ = c.socket.SetReadDeadline(time.Unix(1, 0))               // one that waits for bytes
	_ = c.socket.SetWriteDeadline(time.Now().Add(closeTimeout)) // one that waits for a client to read
}
