package rpc

import (
	"io"
	"net"
	"sync"
	"syscall"

	"google.golang.org/grpc/mem"
)

// limited is a listener with a bound on its open connections: Accept waits while there are too many. netutil.LimitListener
// does the same, and hides from gRPC how to read connections when something has come (ready.ReadOnReady).
type limited struct {
	net.Listener
	slots  chan struct{}
	closed chan struct{}
	once   sync.Once
}

func limit(l net.Listener, most int) *limited {
	return &limited{Listener: l, slots: make(chan struct{}, most), closed: make(chan struct{})}
}

// Accept implements net.Listener, as does Close.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		if raw, err := tcp.SyscallConn(); err == nil {
			r := &ready{conn: conn{Conn: c, of: l}, raw: raw}
			r.tryRead = r.try
			return r, nil
		}
	}
	return &conn{Conn: c, of: l}, nil
}

func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// conn is a connection of a limited listener.
type conn struct {
	net.Conn
	of   *limited
	once sync.Once
}

// Close implements net.Conn.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { <-c.of.slots })
	return err
}

// ready is a TCP connection that gRPC reads into memory of a pool when something has come (its package readyreader), as it reads
// a *net.TCPConn: what is silent holds none.
type ready struct {
	conn
	raw     syscall.RawConn
	tryRead func(fd uintptr) bool // try, made once

	// Of the read that is under way; one goroutine reads.
	size   int
	pool   mem.BufferPool
	buffer *[]byte
	n      int
	err    error
}

// ReadOnReady waits for octets and reads up to size of them into a buffer of the pool.
func (r *ready) ReadOnReady(size int, pool mem.BufferPool) (*[]byte, int, error) {
	r.size, r.pool, r.n, r.err = size, pool, 0, nil
	err := r.raw.Read(r.tryRead)
	if err == nil {
		err = r.err
	}
	if err == nil && r.n == 0 {
		err = io.EOF
	}
	buffer := r.buffer
	r.buffer, r.pool = nil, nil
	if err != nil {
		if buffer != nil {
			pool.Put(buffer)
		}
		return nil, 0, err
	}
	return buffer, r.n, nil
}

// try reads what is there; false: nothing is.
func (r *ready) try(fd uintptr) bool {
	r.buffer = r.pool.Get(r.size)
	for {
		if r.n, r.err = syscall.Read(int(fd), *r.buffer); r.err != syscall.EINTR {
			break
		}
	}
	if r.err == syscall.EAGAIN {
		r.pool.Put(r.buffer)
		r.buffer = nil
		return false
	}
	return true
}
