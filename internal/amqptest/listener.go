package amqptest

import (
	"errors"
	"net"
	"sync"
)

// Listener accepts connections that are pipes in memory.
type Listener struct {
	sockets chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

// NewListener returns a listener without connections.
func NewListener() *Listener {
	return &Listener{sockets: make(chan net.Conn), closed: make(chan struct{})}
}

// Accept waits for the next Dial.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case socket := <-l.sockets:
		return socket, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr returns RabbitMQ's port on the loopback interface.
func (l *Listener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 5672} }

var errNotAccepting = errors.New("the listener is closed")

// Dial connects from an address. The pipe holds nothing: who writes waits for the reader.
func (l *Listener) Dial(from net.IP) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case l.sockets <- &addressed{Conn: theirs, remote: &net.TCPAddr{IP: from, Port: 40000}, local: l.Addr()}:
		return ours, nil
	case <-l.closed:
		return nil, errNotAccepting
	}
}

// addressed is a pipe with addresses.
type addressed struct {
	net.Conn
	remote, local net.Addr
}

func (a *addressed) RemoteAddr() net.Addr { return a.remote }
func (a *addressed) LocalAddr() net.Addr  { return a.local }
