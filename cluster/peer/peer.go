// Package peer connects the nodes of a cluster: one port on each, and to every other node a few connections that are kept
// apart by what they carry, so that a snapshot never delays a heartbeat. It carries streams of raw frames, each on a
// connection of its own, and by gRPC calls of raw bytes and the Control service of proto/node/v1. What is in the frames,
// and which nodes there are, is left to others: a node is named by its identity, and its address is asked for at each dial,
// since it may change.
package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	nodev1 "github.com/warrenmq/warren/proto/node/v1"
)

// Class says what a connection carries. Connections of different classes do not delay one another.
type Class uint8

// The classes of connections.
const (
	Raft     Class = iota // consensus, and the Control service
	Links                 // clients' traffic to the leaders
	Bulk                  // snapshots
	classes  = 3
	maxFrame = 64 << 20 // a frame beyond this is refused; the largest have 16 MiB, of log entries or of a transaction, and some more
)

// Options configure a Network. All are required but those with a default.
type Options struct {
	// Address returns where a node listens now, as host:port.
	Address func(uuid string) (string, error)
	// Listener takes the other nodes' connections; the network closes it.
	Listener net.Listener
	// Dial opens a connection (default: TCP).
	Dial   func(ctx context.Context, address string) (net.Conn, error)
	Logger *slog.Logger
}

// Handlers is what a node does with what comes from the others.
type Handlers struct {
	// Serve takes a stream that another node has opened, until it ends. One for each class.
	Serve map[Class]func(ctx context.Context, s Stream)
	// Call answers a call.
	Call func(ctx context.Context, request []byte) ([]byte, error)
	// Control answers the Control service.
	Control nodev1.ControlServer
}

// Network is this node's end of all connections between nodes.
type Network struct {
	o    Options
	life context.Context // ends with Close
	end  context.CancelFunc

	mu      sync.Mutex // guards what follows
	conns   map[key]*grpc.ClientConn
	streams map[*stream]struct{}
	taken   int // of them, those that other nodes have opened
}

type key struct {
	uuid  string
	class Class
}

const (
	// windowSize is HTTP/2's flow control window: what a stream may have under way. Bandwidth times delay between two
	// machines of one site is far below.
	windowSize = 4 << 20
	// connectTimeout bounds one attempt to connect.
	connectTimeout = 2 * time.Second
	// keepaliveTime and keepaliveTimeout find connections whose peer vanished; whoever watches a node finds out sooner.
	keepaliveTime    = 10 * time.Second
	keepaliveTimeout = 5 * time.Second
)

// New makes a network. It dials at once when asked to, and serves others from Serve on.
func New(o Options) *Network {
	if o.Dial == nil {
		var d net.Dialer
		o.Dial = func(ctx context.Context, address string) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) }
	}
	n := &Network{o: o, conns: map[key]*grpc.ClientConn{}, streams: map[*stream]struct{}{}}
	n.life, n.end = context.WithCancel(context.Background())
	go n.beats()
	return n
}

// Serve takes connections until Close.
func (n *Network) Serve(h Handlers) error {
	server := grpc.NewServer(
		grpc.ForceServerCodecV2(codec{}),
		grpc.MaxRecvMsgSize(maxFrame),
		grpc.MaxSendMsgSize(maxFrame),
		grpc.ConnectionTimeout(openingTimeout),
		grpc.StaticStreamWindowSize(windowSize), grpc.StaticConnWindowSize(2*windowSize),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveTime / 2, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
	)
	server.RegisterService(callService(h), nil)
	nodev1.RegisterControlServer(server, h.Control)
	stop := context.AfterFunc(n.life, server.Stop)
	defer stop()
	calls := &handed{address: n.o.Listener.Addr(), conns: make(chan net.Conn), closed: make(chan struct{})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(calls) }()
	err := n.accept(h, calls)
	server.Stop()
	if of := <-served; err == nil && of != nil && !errors.Is(of, grpc.ErrServerStopped) {
		err = of
	}
	if err != nil {
		return fmt.Errorf("serve other nodes: %w", err)
	}
	return nil
}

// Close ends all connections, at once.
func (n *Network) Close() {
	n.mu.Lock()
	n.end()
	conns := n.conns
	n.conns = map[key]*grpc.ClientConn{}
	n.mu.Unlock()
	_ = n.o.Listener.Close() // as all that follows: there is nothing else to know
	for _, c := range conns {
		_ = c.Close()
	}
	for _, s := range n.list(func(*stream) bool { return true }) {
		s.fail(errClosed)
	}
}

func (n *Network) conn(uuid string, class Class) (*grpc.ClientConn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.life.Err() != nil {
		return nil, errClosed
	}
	k := key{uuid, class}
	if c := n.conns[k]; c != nil {
		return c, nil
	}
	c, err := grpc.NewClient("passthrough:///"+uuid,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(n.dial),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{}), grpc.MaxCallRecvMsgSize(maxFrame), grpc.MaxCallSendMsgSize(maxFrame)),
		grpc.WithStaticStreamWindowSize(windowSize), grpc.WithStaticConnWindowSize(2*windowSize),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.WithIdleTimeout(0),
		grpc.WithDisableServiceConfig(),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: connectTimeout,
			Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.3, MaxDelay: 500 * time.Millisecond}}),
	)
	if err != nil {
		return nil, fmt.Errorf("connect to node %s: %w", uuid, err)
	}
	n.conns[k] = c
	return c, nil
}

// dial opens a connection to wherever the node listens now.
func (n *Network) dial(ctx context.Context, uuid string) (net.Conn, error) {
	address, err := n.o.Address(uuid)
	if err != nil {
		return nil, err
	}
	return n.o.Dial(ctx, address)
}

// Probe tries whether a node takes connections: nil, or why not.
func (n *Network) Probe(ctx context.Context, uuid string) error {
	c, err := n.dial(ctx, uuid)
	if err != nil {
		return err
	}
	return c.Close()
}

// Disconnect breaks all connections to a node, so that nobody waits for one that leads nowhere; the next use dials anew.
func (n *Network) Disconnect(uuid string) {
	n.disconnect(func(other string) bool { return other == uuid })
}

var errDisconnected = errors.New("the other node is taken for gone")

// Keep breaks all connections but those to some nodes.
func (n *Network) Keep(needed func(uuid string) bool) {
	n.disconnect(func(uuid string) bool { return !needed(uuid) })
}

func (n *Network) disconnect(which func(uuid string) bool) {
	n.mu.Lock()
	var conns []*grpc.ClientConn
	for k, c := range n.conns {
		if which(k.uuid) {
			conns = append(conns, c)
			delete(n.conns, k)
		}
	}
	n.mu.Unlock()
	for _, c := range conns {
		_ = c.Close() // as in Close
	}
	for _, s := range n.list(func(s *stream) bool { return s.uuid != "" && which(s.uuid) }) {
		s.fail(errDisconnected)
	}
}

// Control returns the Control service of a node.
func (n *Network) Control(uuid string) (nodev1.ControlClient, error) { return n.control(uuid, Raft) }

// BulkControl is Control for answers that are large: they do not delay what is small.
func (n *Network) BulkControl(uuid string) (nodev1.ControlClient, error) {
	return n.control(uuid, Bulk)
}

func (n *Network) control(uuid string, class Class) (nodev1.ControlClient, error) {
	c, err := n.conn(uuid, class)
	if err != nil {
		return nil, err
	}
	return nodev1.NewControlClient(c), nil
}
