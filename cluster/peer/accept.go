package peer

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// accept takes connections until the network is closed, and sorts them by their first octets into streams of frames and
// gRPC's, which go to calls.
func (n *Network) accept(h Handlers, calls *handed) error {
	defer calls.Close()
	openings := make(chan struct{}, maxOpening)
	var sorting sync.WaitGroup
	defer sorting.Wait()
	pause := time.Duration(0)
	for {
		conn, err := n.o.Listener.Accept()
		switch {
		case n.life.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil: // too many open files, or the like: it passes
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			n.o.Logger.Warn("cannot take a connection from another node", "err", err, "again in", pause)
			select {
			case <-time.After(pause):
			case <-n.life.Done():
			}
			continue
		}
		pause = 0
		select {
		case openings <- struct{}{}:
			sorting.Go(func() {
				n.sort(conn, h, calls)
				<-openings
			})
		default:
			_ = conn.Close()
		}
	}
}

// sort reads what a connection is for and hands it on.
func (n *Network) sort(conn net.Conn, h Handlers, calls *handed) {
	quit := func() { _ = conn.Close() }
	late := time.AfterFunc(openingTimeout, quit)
	stop := context.AfterFunc(n.life, quit)
	var first [openingSize]byte
	_, err := io.ReadFull(conn, first[:])
	if late.Stop(); !stop() || err != nil {
		quit()
		return
	}
	if string(first[:len(magic)]) != magic {
		calls.hand(&begun{Conn: conn, first: first[:]})
		return
	}
	class := Class(first[openingSize-1])
	if serve := h.Serve[class]; serve != nil && string(first[:]) == string(opening(class)) {
		go n.serveStream(conn, class, serve)
		return
	}
	n.o.Logger.Warn("another node asks for what this one does not know", "address", conn.RemoteAddr(), "version", first[len(magic)], "class", class)
	quit()
}

// handed is the listener of the gRPC server: it gets connections that somebody else has accepted.
type handed struct {
	address net.Addr
	conns   chan net.Conn
	once    sync.Once
	closed  chan struct{}
}

// hand gives a connection to the server, or closes it if there is none any more.
func (h *handed) hand(conn net.Conn) {
	select {
	case h.conns <- conn:
	case <-h.closed:
		_ = conn.Close()
	}
}

// Accept implements net.Listener.
func (h *handed) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handed) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

// Addr implements net.Listener.
func (h *handed) Addr() net.Addr { return h.address }

// begun is a connection whose first octets have been read already.
type begun struct {
	net.Conn
	first []byte
}

// Read implements net.Conn.
func (b *begun) Read(p []byte) (int, error) {
	if len(b.first) == 0 {
		return b.Conn.Read(p)
	}
	k := copy(p, b.first)
	b.first = b.first[k:]
	return k, nil
}
