// Package amqp is the AMQP 0-9-1 front door: it speaks the protocol as RabbitMQ does (handshake, frames, channels, errors)
// and turns methods into calls of the broker, which holds their meaning. The bytes are amqp/wire's.
package amqp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/warrenmq/warren/amqp/wire"
	"github.com/warrenmq/warren/broker"
)

// Options says how the front door behaves. The zero value of a field means its default.
type Options struct {
	Broker *broker.Broker
	Logger *slog.Logger
	// Version is Warren's own; Announce, as PRODUCT/VERSION, is told to clients instead of it.
	Version, Announce string
	// ClusterName is told to clients.
	ClusterName string
	// MaxMessageSize is the longest body accepted, in bytes. Default 16 MiB.
	MaxMessageSize int64
	// HandshakeTimeout bounds the time from the connection to connection.open-ok. Default 10 s, as RabbitMQ's.
	HandshakeTimeout time.Duration
	// Heartbeat is what the server proposes. Default 60 s.
	Heartbeat time.Duration
	// MaxConnections bounds the open connections of this node, and those in their handshake as well. Default 65,536.
	MaxConnections int
	// MaxSockets bounds all connections together, so that clients leave the node the file descriptors that its storage and
	// its peers need. A quarter of them is out of reach for connections that never end their handshake. Default: twice
	// MaxConnections.
	MaxSockets int
}

// What the server proposes in connection.tune; RabbitMQ's figures (reference: errors.md 3.4).
const (
	channelMax   = 2047
	frameMax     = 131072
	frameMinSize = 8192 // the least frame-max a client may choose; also the bound before tuning
)

func (o *Options) setDefaults() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MaxMessageSize == 0 {
		o.MaxMessageSize = 16 << 20
	}
	if o.HandshakeTimeout == 0 {
		o.HandshakeTimeout = 10 * time.Second
	}
	if o.Heartbeat == 0 {
		o.Heartbeat = 60 * time.Second
	}
	if o.MaxConnections == 0 {
		o.MaxConnections = 1 << 16
	}
	if o.MaxSockets == 0 {
		o.MaxSockets = 2 * o.MaxConnections
	}
}

// Server accepts AMQP connections.
type Server struct {
	options Options
	log     *slog.Logger
	buffers buffers

	mu        sync.Mutex // guards what follows
	listeners map[net.Listener]bool
	conns     map[*conn]bool
	open      int // of conns: beyond the handshake
	stopping  bool
	serving   sync.WaitGroup // one for each connection
}

// NewServer prepares a server; Serve runs it.
func NewServer(o Options) *Server {
	o.setDefaults()
	return &Server{options: o, log: o.Logger, listeners: map[net.Listener]bool{}, conns: map[*conn]bool{}}
}

// acceptPause is waited after a failure to accept, such as no file descriptors left, so that it does not spin.
const acceptPause = 50 * time.Millisecond

// Serve accepts connections until Shutdown, which makes it return nil.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	if s.stopping {
		s.mu.Unlock()
		return l.Close()
	}
	s.listeners[l] = true
	s.mu.Unlock()
	for {
		socket, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			s.log.Warn("accept", "err", err)
			time.Sleep(acceptPause)
			continue
		}
		s.begin(socket)
	}
}

// begin serves a connection on a goroutine of its own, or refuses it.
func (s *Server) begin(socket net.Conn) {
	c := newConn(s, socket)
	s.mu.Lock()
	full := len(s.conns)-s.open >= s.maxHandshakes() || len(s.conns) >= s.options.MaxSockets
	if s.stopping || full {
		all, open := len(s.conns), s.open
		s.mu.Unlock()
		if full {
			s.log.Warn("connection refused", "peer", socket.RemoteAddr(), "open", open, "handshaking", all-open)
		}
		_ = socket.Close() // nothing was said yet
		return
	}
	s.conns[c] = true
	s.serving.Add(1)
	s.mu.Unlock()
	go func() {
		defer s.serving.Done()
		c.serve()
		s.mu.Lock()
		delete(s.conns, c)
		if c.admitted {
			s.open--
		}
		s.mu.Unlock()
	}()
}

// maxHandshakes bounds the connections that are not open yet.
func (s *Server) maxHandshakes() int {
	return min(s.options.MaxConnections, (s.options.MaxSockets+1)*3/4)
}

// admit counts one more open connection, or refuses it.
func (s *Server) admit() *protocolError {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open >= s.options.MaxConnections {
		return hard(wire.NotAllowed, fmt.Sprintf("connection refused: node connection limit (%d) is reached", s.options.MaxConnections))
	}
	s.open++
	return nil
}

// Connections is the number of connections now.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// shutdownText is what RabbitMQ tells clients when a node stops (reference: errors.md 5.9).
const shutdownText = "broker forced connection closure with reason 'shutdown'"

// Shutdown stops accepting, tells every client, and waits until they are gone; those that are not by the end of ctx are cut.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.stopping = true
	var errs []error
	for l := range s.listeners {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, fmt.Errorf("close listener: %w", err))
		}
	}
	for c := range s.conns {
		c.Closed(&broker.Error{Kind: broker.Unavailable, Text: shutdownText})
	}
	s.mu.Unlock()
	gone := make(chan struct{})
	go func() { s.serving.Wait(); close(gone) }()
	select {
	case <-gone:
		return errors.Join(errs...)
	case <-ctx.Done():
	}
	s.mu.Lock()
	for c := range s.conns {
		c.cut()
	}
	s.mu.Unlock()
	<-gone
	return errors.Join(errs...)
}
