// Package rpc is the gRPC front door (proto/broker/v1): it turns calls and streams into calls of the broker, which holds
// their meaning, and the broker's events into responses. Messages are the same as those of AMQP; their properties are
// converted here, as the broker keeps them in AMQP's form.
package rpc

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/warrenmq/warren/broker"
	brokerv1 "github.com/warrenmq/warren/proto/broker/v1"
)

// Options says how the front door behaves. The zero value of a field means its default.
type Options struct {
	Broker *broker.Broker
	Logger *slog.Logger // default: discards
	// TLS makes the port speak TLS; nil: plain text.
	TLS *tls.Config
	// Version is Warren's own, told in GetStatus.
	Version string
	// Ready says why this node does not serve, nil when it does; the health service tells it. Default: it always does.
	Ready func() error
	// MaxMessageSize is the longest body accepted, in bytes. Default 16 MiB.
	MaxMessageSize int64
	// MaxConnections bounds the open connections of this node. Default 65,536.
	MaxConnections int
}

func (o *Options) setDefaults() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Ready == nil {
		o.Ready = func() error { return nil }
	}
	o.MaxMessageSize = cmp.Or(o.MaxMessageSize, 16<<20)
	o.MaxConnections = cmp.Or(o.MaxConnections, 1<<16)
}

const (
	// batchRoom is how much a request may have beside one message of the greatest size, in bytes.
	batchRoom = 4 << 20
	// maxStreams bounds the streams of one connection: as many as AMQP has channels, since who opens one more is not told but
	// waits. It is not what bounds memory: a stream holds what its consumer's credit and the broker's windows let it, and while it
	// receives, a window and a request at most (MaxRecvMsgSize), for which one needs credentials (see strangers).
	maxStreams = 1<<16 - 1
	// streamWindow and connWindow are how much a client may send ahead of what has been read, in bytes. A stream may be as far
	// ahead as a connection may have under way (docs/adr/0003): what follows is there when that has been applied, however
	// late a busy client learns that it may send more.
	streamWindow = 1 << 20
	connWindow   = 2 << 20
	// readBuffer is how much is read at once, and writeBuffer how much is gathered for one write, in bytes. Connections share the
	// memory: those that are silent hold none. With TLS each has memory for reading of its own.
	readBuffer    = 128 << 10
	readBufferTLS = 32 << 10
	writeBuffer   = 128 << 10
	// maxHeader bounds the metadata of a call, in bytes.
	maxHeader = 16 << 10
	// handshakeTimeout bounds the time from the connection to its first frames.
	handshakeTimeout = 10 * time.Second
	// pingEvery is after how long a silent client is asked whether it lives, pingTimeout how long it may take to answer,
	// and pingLeast how often clients may ask: less than the ten seconds that the SDKs take.
	pingEvery   = time.Minute
	pingTimeout = 20 * time.Second
	pingLeast   = 5 * time.Second
	// healthPeriod is how often the health service looks.
	healthPeriod = 500 * time.Millisecond
)

// Server takes gRPC calls.
type Server struct {
	options Options
	log     *slog.Logger
	grpc    *grpc.Server
	health  *health.Server
	metrics *metrics

	strangers   strangers
	running     context.Context // ends with Shutdown
	stopRunning context.CancelFunc
	parted      <-chan struct{} // closed when, after that, every session has ended

	mu       sync.Mutex // guards what follows
	sessions map[*session]struct{}
	stopping bool
	part     func()         // tells that there is no session any more while stopping
	work     sync.WaitGroup // one for each session that is not closed, and for the health loop
}

// NewServer prepares a server; Serve runs it.
func NewServer(o Options) *Server {
	o.setDefaults()
	s := &Server{options: o, log: o.Logger, health: health.NewServer(), metrics: newMetrics(), sessions: map[*session]struct{}{}}
	s.running, s.stopRunning = context.WithCancel(context.Background())
	parted, part := context.WithCancel(context.Background())
	s.parted, s.part = parted.Done(), part
	s.tellHealth()
	transport, reads := insecure.NewCredentials(), readBuffer
	if o.TLS != nil {
		transport, reads = credentials.NewTLS(o.TLS), readBufferTLS
	}
	s.grpc = grpc.NewServer(
		grpc.Creds(transport),
		grpc.MaxRecvMsgSize(int(o.MaxMessageSize)+batchRoom),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ForceServerCodecV2(newCodec()),
		experimental.BufferPool(messageBuffers),
		grpc.ReadBufferSize(reads),
		grpc.WriteBufferSize(writeBuffer),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connWindow),
		grpc.MaxHeaderListSize(maxHeader),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingEvery, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingLeast, PermitWithoutStream: true}),
		grpc.InTapHandle(s.admit),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
	)
	brokerv1.RegisterPublishingServiceServer(s.grpc, publishing{server: s})
	brokerv1.RegisterConsumingServiceServer(s.grpc, consuming{server: s})
	brokerv1.RegisterTopologyServiceServer(s.grpc, topology{server: s})
	brokerv1.RegisterAdminServiceServer(s.grpc, admin{server: s})
	registerHealth(s.grpc, s.health)
	reflection.Register(s.grpc)
	return s
}

// Serve accepts connections until Shutdown, which makes it return nil.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	if s.stopping {
		s.mu.Unlock()
		return l.Close()
	}
	s.work.Add(1)
	s.mu.Unlock()
	go func() { defer s.work.Done(); s.watchHealth() }()
	err := s.grpc.Serve(limit(l, s.options.MaxConnections))
	if errors.Is(err, grpc.ErrServerStopped) { // Shutdown came in between
		return nil
	}
	return err
}

// watchHealth keeps what the health service says current.
func (s *Server) watchHealth() {
	ticker := time.NewTicker(healthPeriod)
	defer ticker.Stop()
	for {
		s.tellHealth()
		select {
		case <-ticker.C:
		case <-s.running.Done():
			return
		}
	}
}

// tellHealth says whether the node serves: of the whole, and by the name of each service.
func (s *Server) tellHealth() {
	status := grpc_health_v1.HealthCheckResponse_SERVING
	if s.options.Ready() != nil {
		status = grpc_health_v1.HealthCheckResponse_NOT_SERVING
	}
	for _, name := range []string{"", brokerv1.PublishingService_ServiceDesc.ServiceName, brokerv1.ConsumingService_ServiceDesc.ServiceName,
		brokerv1.TopologyService_ServiceDesc.ServiceName, brokerv1.AdminService_ServiceDesc.ServiceName} {
		s.health.SetServingStatus(name, status)
	}
}

// shutdownText is what clients are told when a node stops.
const shutdownText = "the node is shutting down"

// partingTime is how long clients may take to hear of the end, once every session has ended, before their connections are cut.
const partingTime = time.Second

// Shutdown stops accepting, ends every stream, and waits until they are gone; what is left at the end of ctx is cut, and so are,
// soon, clients that do not read what they are told and streams that have not asked for anything yet.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if s.stopping {
		s.mu.Unlock()
		return nil
	}
	s.stopping = true
	for session := range s.sessions {
		session.Closed(&broker.Error{Kind: broker.Unavailable, Text: shutdownText})
	}
	if len(s.sessions) == 0 {
		s.part()
	}
	s.mu.Unlock()
	s.stopRunning()
	s.health.Shutdown()
	gone := make(chan struct{})
	go func() { defer close(gone); s.grpc.GracefulStop(); s.work.Wait() }()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
	case <-s.parted:
		s.await(ctx, gone)
	}
	s.grpc.Stop()
	<-gone
	return nil
}

// await gives clients the time to part.
func (s *Server) await(ctx context.Context, gone <-chan struct{}) {
	timer := time.NewTimer(partingTime)
	defer timer.Stop()
	select {
	case <-gone:
	case <-ctx.Done():
	case <-timer.C:
	}
}
