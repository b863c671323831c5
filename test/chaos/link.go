package chaos

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/test/chaos/check"
)

const (
	// patience bounds every answer a client waits for. Faults last at most 20 s, and recovery comes on top.
	patience = 60 * time.Second
	// redial is the pause between two tries to connect.
	redial = 50 * time.Millisecond
)

// link is a connection with one channel.
type link struct {
	conn   *amqp.Connection
	ch     *amqp.Channel
	socket net.Conn
	node   int
	closed chan *amqp.Error // of the channel or the connection
}

// client is a program that uses the cluster: it knows the addresses of all nodes, or of one in the stable mode.
type client struct {
	r    *run
	name string
	next int // the node it tries next
}

func (r *run) client(name string, first int) *client { return &client{r: r, name: name, next: first} }

// connect tries one node after the other until one takes it, or ctx ends.
func (c *client) connect(ctx context.Context) (*link, error) {
	for {
		node := c.next % c.r.o.Nodes
		if c.r.o.Stable {
			node = c.r.o.stableNode()
		}
		l, err := c.r.open(node)
		if err == nil {
			return l, nil
		}
		c.next++
		if c.r.o.Stable {
			c.r.clientError(c.name, fmt.Errorf("connect: %w", err))
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(redial):
		}
	}
}

// open connects to a node and opens a channel.
func (r *run) open(node int) (*link, error) {
	n := r.cluster.nodes[node]
	l := &link{node: node, closed: make(chan *amqp.Error, 4)}
	conn, err := amqp.DialConfig("amqp://guest:guest@"+n.name+"/", amqp.Config{Heartbeat: 10 * time.Second,
		Dial: func(string, string) (net.Conn, error) {
			socket, err := n.dial(n.ports[0], 5*time.Second)
			if err == nil {
				l.socket = socket
				err = socket.SetDeadline(time.Now().Add(20 * time.Second)) // of the handshake; the client lifts it
			}
			return socket, err
		}})
	if err != nil {
		return nil, err
	}
	l.conn = conn
	defer l.bound(patience)()
	if l.ch, err = conn.Channel(); err != nil {
		_ = conn.Close() // it failed already
		return nil, err
	}
	l.ch.NotifyClose(l.closed)
	return l, nil
}

// bound drops the socket unless the release is called in time: no call to a broker may hang for ever.
func (l *link) bound(d time.Duration) (release func()) {
	timer := time.AfterFunc(d, func() { _ = l.socket.Close() })
	return func() { timer.Stop() }
}

// crash drops the socket without a word, as the end of a program does.
func (l *link) crash() {
	if tcp, ok := l.socket.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // a graceful end is as good
	}
	_ = l.socket.Close()
	_ = l.conn.Close() // lets the client library end its goroutines
}

// close ends the connection gracefully.
func (l *link) close() error {
	defer l.bound(patience)()
	return l.conn.Close()
}

// reason is why the link was lost, for reports.
func (l *link) reason(err error) error {
	select {
	case e := <-l.closed:
		if e != nil {
			return fmt.Errorf("%w: closed: %v", err, e)
		}
	case <-time.After(time.Second):
	}
	return err
}

var errLost = errors.New("the channel was lost")

// clientError counts an error that a client saw; in the stable mode it is a finding.
func (r *run) clientError(who string, err error) {
	r.series.failed()
	if r.o.Stable && !r.over.Load() {
		r.ledger.Report(check.Finding{Kind: check.ClientError, Detail: fmt.Sprintf("at %v: %s: %v", r.now().Round(time.Millisecond), who, err)})
	}
}

// refused counts a negative confirm. In the stable mode it is a client's error, in others the judge looks for what explains it.
func (r *run) refused(who string, node int) {
	r.series.refuse(who, node)
	if r.o.Stable {
		r.clientError(who, errors.New("a negative confirm"))
	}
}
