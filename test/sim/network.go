package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/warrenmq/warren/cluster/gossip"
)

// network carries connections and packets between nodes, in memory. Like TCP over a bad wire it keeps what was sent on a
// connection until the way is open again; packets on a way that is cut are lost.
type network struct {
	mu     sync.Mutex // guards everything of the network, also of its connections
	random *rand.Rand
	ports  []*port         // by node: the present run's; nil: the machine is off
	ways   map[[2]int]*way // by sender and receiver
	frozen map[int]bool    // nodes whose process is stopped: what is sent to them waits
	conns  map[*conn]bool  // ends that are open, or were when their machine went off
}

// way is one direction between two nodes.
type way struct {
	cut   bool
	delay time.Duration
	loss  float64 // of packets; connections repeat what is lost and are late
}

// port is what one run of a node has of the network.
type port struct {
	n         *network
	node      int
	listeners map[string]*listener
	gossip    *listener
	packets   chan *gossip.Packet
	off       bool
}

const (
	// packetRoom is how many packets may wait for a node; more are lost.
	packetRoom = 256
	// sendRoom is what a connection holds of what was sent and not read; writing blocks beyond.
	sendRoom = 8 << 20
	// repeatAfter is about when what was lost is sent again.
	repeatAfter = 200 * time.Millisecond
)

func newNetwork(nodes int, random *rand.Rand) *network {
	n := &network{random: random, ports: make([]*port, nodes), ways: map[[2]int]*way{}, frozen: map[int]bool{}, conns: map[*conn]bool{}}
	for from := range nodes {
		for to := range nodes {
			n.ways[[2]int{from, to}] = &way{}
		}
	}
	return n
}

// The ports of every node.
const (
	clusterPort = 7673
	gossipPort  = 7946
)

func host(node int) string { return fmt.Sprintf("10.0.0.%d", node+1) }

// nodeAt is the node of an address, as host makes them.
func nodeAt(address string) (int, error) {
	h, _, err := net.SplitHostPort(address)
	if err != nil {
		return 0, err
	}
	ip := net.ParseIP(h).To4()
	if ip == nil {
		return 0, fmt.Errorf("no address of a node: %s", address)
	}
	return int(ip[3]) - 1, nil
}

// plug connects a new run of a node. Connections of a run whose machine went off are unknown to the new one.
func (n *network) plug(node int) *port {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := &port{n: n, node: node, listeners: map[string]*listener{}, packets: make(chan *gossip.Packet, packetRoom)}
	p.gossip = p.listen(host(node) + ":" + strconv.Itoa(gossipPort))
	n.ports[node] = p
	delete(n.frozen, node)
	for c := range n.conns {
		if c.port.node == node && c.port.off {
			c.end(syscall.ECONNRESET)
		}
	}
	n.wake()
	return p
}

// unplug ends a run's part. The kernel of a process that died says so to the other ends, if the way is open; a machine that
// lost its power says nothing.
func (p *port) unplug(power bool) {
	n := p.n
	n.mu.Lock()
	defer n.mu.Unlock()
	if p.off {
		return
	}
	p.off = true
	delete(n.frozen, p.node)
	if power {
		n.ports[p.node] = nil
	}
	for _, l := range p.listeners {
		l.close()
	}
	for c := range n.conns {
		if c.port == p {
			c.dead = true
			signal(c.in.changed)
			signal(c.out.room)
			if !power {
				c.end(syscall.ECONNRESET)
			}
		}
	}
	n.wake()
}

// change changes the ways between nodes.
func (n *network) change(f func(ways map[[2]int]*way)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f(n.ways)
	n.wake()
}

// freeze stops a node's traffic, or lets it go on.
func (n *network) freeze(node int, frozen bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.frozen[node] = frozen
	n.wake()
}

// reset breaks the connections between two nodes.
func (n *network) reset(a, b int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.conns {
		if c.port.node == a && c.to == b || c.port.node == b && c.to == a {
			c.in.fail(syscall.ECONNRESET)
			c.out.fail(syscall.ECONNRESET)
		}
	}
}

// wake lets everyone who waits look again. mu is held.
func (n *network) wake() {
	for c := range n.conns {
		signal(c.in.changed)
	}
}

// open tells whether what was sent arrives. mu is held.
func (n *network) open(from, to int) bool {
	return !n.ways[[2]int{from, to}].cut && !n.frozen[from] && !n.frozen[to]
}

// lateness is when something sent now arrives. mu is held.
func (n *network) lateness(from, to int) time.Duration {
	w := n.ways[[2]int{from, to}]
	late := w.delay
	for w.loss > 0 && n.random.Float64() < w.loss {
		late += repeatAfter
	}
	return late
}

// Listen takes connections to an address of this node.
func (p *port) Listen(address string) (net.Listener, error) {
	p.n.mu.Lock()
	defer p.n.mu.Unlock()
	if p.off || p.listeners[address] != nil {
		return nil, &net.OpError{Op: "listen", Err: syscall.EADDRINUSE}
	}
	return p.listen(address), nil
}

func (p *port) listen(address string) *listener {
	l := &listener{p: p, address: address, waiting: make(chan net.Conn, 64), closed: make(chan struct{})}
	p.listeners[address] = l
	return l
}

// Dial connects to another node. A way that is cut, and a machine without power, leave it without an answer.
func (p *port) Dial(ctx context.Context, address string) (net.Conn, error) {
	to, err := nodeAt(address)
	if err != nil {
		return nil, err
	}
	for {
		c, err := p.connect(to, address)
		if c != nil || err != nil {
			return c, err
		}
		select {
		case <-time.After(repeatAfter):
		case <-ctx.Done():
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: ctx.Err()}
		}
	}
}

// connect makes both ends of a connection; neither a connection nor an error: nobody answers.
func (p *port) connect(to int, address string) (net.Conn, error) {
	n := p.n
	n.mu.Lock()
	defer n.mu.Unlock()
	if p.off {
		return nil, errOff
	}
	if n.ways[[2]int{p.node, to}].cut || n.ways[[2]int{to, p.node}].cut || n.frozen[p.node] {
		return nil, nil
	}
	other := n.ports[to]
	if other == nil {
		return nil, nil
	}
	l := other.listeners[address]
	if l == nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	there, back := newHalf(n, p.node, to), newHalf(n, to, p.node)
	near := &conn{port: p, to: to, in: back, out: there}
	far := &conn{port: other, to: p.node, in: there, out: back}
	select {
	case l.waiting <- far:
	default:
		return nil, nil // a full backlog
	}
	n.conns[near], n.conns[far] = true, true
	return near, nil
}

var errOff = errors.New("this run of the node has ended")

type listener struct {
	p       *port
	address string
	waiting chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.waiting:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.p.n.mu.Lock()
	defer l.p.n.mu.Unlock()
	l.close()
	return nil
}

// close takes no more connections and breaks those that nobody has accepted. mu is held.
func (l *listener) close() {
	delete(l.p.listeners, l.address)
	l.once.Do(func() { close(l.closed) })
	for {
		select {
		case c := <-l.waiting:
			c.(*conn).end(syscall.ECONNRESET)
		default:
			return
		}
	}
}

func (l *listener) Addr() net.Addr { return tcp(l.p.node) }

func tcp(node int) *net.TCPAddr { return &net.TCPAddr{IP: net.ParseIP(host(node)), Port: clusterPort} }

// half is one direction of a connection. The network's mutex guards it.
type half struct {
	n        *network
	from, to int
	sent     []segment
	held     int           // bytes in sent
	deaf     bool          // nobody reads any more
	broken   error         // the direction is no more; nil: it is
	changed  chan struct{} // has room for one: the reader should look again
	room     chan struct{} // has room for one: the writer should look again
}

// segment is data under way, or the end of the direction.
type segment struct {
	data []byte
	end  error
	at   time.Time // when it arrives, if the way is open then
}

func newHalf(n *network, from, to int) *half {
	return &half{n: n, from: from, to: to, changed: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// send queues data, or the end. mu is held.
func (h *half) send(s segment) {
	s.at = time.Now().Add(h.n.lateness(h.from, h.to))
	if k := len(h.sent); k > 0 && s.at.Before(h.sent[k-1].at) {
		s.at = h.sent[k-1].at
	}
	h.sent, h.held = append(h.sent, s), h.held+len(s.data)
	signal(h.changed)
}

// fail ends the direction at once: what is under way is lost. mu is held.
func (h *half) fail(err error) {
	h.broken, h.sent, h.held = err, nil, 0
	signal(h.changed)
	signal(h.room)
}

// conn is one end of a connection.
type conn struct {
	port    *port
	to      int
	in, out *half
	dead    bool // it was closed, or its run has ended

	readBy, writeBy time.Time // deadlines; zero: none
	timer           *time.Timer
}

// end closes this end; the other hears of it when the way is open. mu is held.
func (c *conn) end(err error) {
	if !c.port.n.conns[c] {
		return
	}
	delete(c.port.n.conns, c)
	c.dead = true
	c.in.deaf, c.in.sent, c.in.held = true, nil, 0
	signal(c.in.changed)
	signal(c.in.room)
	c.out.send(segment{end: err})
	signal(c.out.room)
}

// Read implements net.Conn. One goroutine at a time reads.
func (c *conn) Read(p []byte) (int, error) {
	for {
		c.port.n.mu.Lock()
		got, wait, err := c.take(p)
		c.port.n.mu.Unlock()
		if got > 0 || err != nil || len(p) == 0 {
			return got, err
		}
		if wait < 0 {
			<-c.in.changed
			continue
		}
		if c.timer == nil {
			c.timer = time.NewTimer(wait)
		} else {
			c.timer.Reset(wait)
		}
		select {
		case <-c.in.changed:
		case <-c.timer.C:
		}
	}
}

// take takes what has arrived, or tells how long to wait before looking again; negative: until something changes. mu is held.
func (c *conn) take(p []byte) (got int, wait time.Duration, err error) {
	h, now := c.in, time.Now()
	switch {
	case c.dead:
		return 0, 0, net.ErrClosed
	case h.broken != nil:
		return 0, 0, readError(h.broken)
	}
	wait = -1
	if !c.readBy.IsZero() {
		if wait = c.readBy.Sub(now); wait <= 0 {
			return 0, 0, os.ErrDeadlineExceeded
		}
	}
	if len(h.sent) == 0 || !h.n.open(h.from, h.to) {
		return 0, wait, nil
	}
	for len(h.sent) > 0 && got < len(p) && !h.sent[0].at.After(now) {
		s := &h.sent[0]
		if s.end != nil {
			if got == 0 {
				err = readError(s.end)
			}
			return got, 0, err
		}
		k := copy(p[got:], s.data)
		got, h.held, s.data = got+k, h.held-k, s.data[k:]
		if len(s.data) == 0 {
			h.sent = h.sent[1:]
		}
	}
	if got > 0 {
		signal(h.room)
		return got, 0, nil
	}
	if until := h.sent[0].at.Sub(now); wait < 0 || until < wait {
		wait = until
	}
	return 0, wait, nil
}

func readError(err error) error {
	if errors.Is(err, io.EOF) {
		return io.EOF
	}
	return &net.OpError{Op: "read", Net: "tcp", Err: err}
}

// Write implements net.Conn. It blocks when the other end does not read for long.
func (c *conn) Write(p []byte) (int, error) {
	n := c.port.n
	for {
		n.mu.Lock()
		if c.out.deaf && n.open(c.port.node, c.to) && n.open(c.to, c.port.node) {
			// The answer is a reset, which ends both directions at once.
			c.in.fail(syscall.ECONNRESET)
			c.out.fail(syscall.ECONNRESET)
		}
		switch {
		case c.dead, c.out.broken != nil:
			n.mu.Unlock()
			return 0, &net.OpError{Op: "write", Net: "tcp", Err: syscall.EPIPE}
		case !c.writeBy.IsZero() && !time.Now().Before(c.writeBy):
			n.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		case c.out.deaf: // it will be refused when the way is open
			n.mu.Unlock()
			return len(p), nil
		case c.out.held < sendRoom:
			c.out.send(segment{data: append([]byte(nil), p...)})
			n.mu.Unlock()
			return len(p), nil
		}
		n.mu.Unlock()
		<-c.out.room
	}
}

// Close implements net.Conn. A machine without power tells nobody.
func (c *conn) Close() error {
	c.port.n.mu.Lock()
	defer c.port.n.mu.Unlock()
	if !c.port.off {
		c.end(io.EOF)
	}
	c.dead = true
	signal(c.in.changed)
	signal(c.out.room)
	return nil
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return tcp(c.port.node) }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return tcp(c.to) }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.port.n.mu.Lock()
	defer c.port.n.mu.Unlock()
	c.readBy = t
	signal(c.in.changed)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.port.n.mu.Lock()
	defer c.port.n.mu.Unlock()
	c.writeBy = t
	signal(c.out.room)
	return nil
}

// FinalAdvertiseAddr implements gossip.Transport, as do the methods below. The run's port carries the gossip.
func (p *port) FinalAdvertiseAddr(ip string, port int) (net.IP, int, error) {
	return net.ParseIP(ip), port, nil
}

// WriteTo sends a packet; it may get lost.
func (p *port) WriteTo(b []byte, address string) (time.Time, error) {
	to, err := nodeAt(address)
	if err != nil {
		return time.Time{}, err
	}
	n := p.n
	n.mu.Lock()
	defer n.mu.Unlock()
	other := n.ports[to]
	if p.off || other == nil || other.off || !n.open(p.node, to) || n.random.Float64() < n.ways[[2]int{p.node, to}].loss {
		return time.Now(), nil
	}
	packet := &gossip.Packet{Buf: append([]byte(nil), b...), From: &net.UDPAddr{IP: net.ParseIP(host(p.node)), Port: gossipPort}, Timestamp: time.Now()}
	select {
	case other.packets <- packet:
	default:
	}
	return time.Now(), nil
}

// PacketCh gives the packets for this node.
func (p *port) PacketCh() <-chan *gossip.Packet { return p.packets }

// DialTimeout connects to another node's gossip.
func (p *port) DialTimeout(address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return p.Dial(ctx, address)
}

// StreamCh gives the connections for gossip.
func (p *port) StreamCh() <-chan net.Conn { return p.gossip.waiting }

// Shutdown ends gossip.
func (p *port) Shutdown() error { return p.gossip.Close() }
