// Package client is the Go SDK of Warren's gRPC API. A [Client] knows the addresses of several nodes and moves on to another
// when one fails: publishers publish again what is not confirmed, and nothing is stored twice; consumers go on; what was
// declared is declared again. A program sees a pause and nothing else.
package client

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	brokerv1 "github.com/warrenmq/warren/proto/broker/v1"
)

// Option changes how a Client behaves.
type Option func(*options)

type options struct {
	user, password string
	token          string
	vhost          string
	tls            *tls.Config
	log            *slog.Logger
	dial           []grpc.DialOption
	minDelay       time.Duration
	maxDelay       time.Duration
}

// WithCredentials sets the user; guest is the default, and may come from the broker's own machine alone. With an empty user
// the client's certificate says who it is (see WithTLS).
func WithCredentials(user, password string) Option {
	return func(o *options) { o.user, o.password = user, password }
}

// WithToken shows a bearer token (see `warren token create`) instead of a user and password.
func WithToken(token string) Option { return func(o *options) { o.token = token } }

// WithVHost sets the virtual host; "/" is the default.
func WithVHost(name string) Option { return func(o *options) { o.vhost = name } }

// WithTLS makes all connections use TLS; plain text is the default. A client's certificate that the nodes' authorities have
// signed can stand for a user and password: its common name is the user.
func WithTLS(c *tls.Config) Option { return func(o *options) { o.tls = c } }

// WithLogger sets where connections lost and found are told; nowhere is the default.
func WithLogger(log *slog.Logger) Option { return func(o *options) { o.log = log } }

// WithDialOptions adds options of the gRPC connections. OpenTelemetry is one:
//
//	client.WithDialOptions(grpc.WithStatsHandler(otelgrpc.NewClientHandler()))
func WithDialOptions(dial ...grpc.DialOption) Option {
	return func(o *options) { o.dial = append(o.dial, dial...) }
}

// WithReconnectDelay bounds the pause between attempts, which grows from the least to the most while all nodes fail.
// Defaults 50 ms and 2 s.
func WithReconnectDelay(least, most time.Duration) Option {
	return func(o *options) { o.minDelay, o.maxDelay = least, most }
}

// Client talks to a cluster. It is for use by many goroutines.
type Client struct {
	options options
	log     *slog.Logger
	nodes   []*grpc.ClientConn

	ctx   context.Context // ends with Close
	end   context.CancelFunc
	works sync.WaitGroup // publishers and consumers

	mu         sync.Mutex // guards what follows
	current    int        // of nodes: the one in use
	generation uint64     // counts the changes of current, and of the connection to it
	restored   uint64     // the generation for which the topology has been declared again
	declared   []declared
	consumers  map[*Consumer]struct{} // those that run: they are closed with the client
	closed     bool
}

const (
	pingEvery      = 10 * time.Second
	pingTimeout    = 5 * time.Second
	connectTimeout = 3 * time.Second
	streamWindow   = 4 << 20
)

// New returns a Client for nodes at addresses HOST:PORT (gRPC ports, 7672 by default). It connects when it is used.
func New(addresses []string, opts ...Option) (*Client, error) {
	if len(addresses) == 0 {
		return nil, errors.New("no addresses")
	}
	o := options{user: "guest", password: "guest", vhost: "/", log: slog.New(slog.DiscardHandler)}
	for _, f := range opts {
		f(&o)
	}
	o.minDelay, o.maxDelay = cmp.Or(o.minDelay, 50*time.Millisecond), cmp.Or(o.maxDelay, 2*time.Second)
	c := &Client{options: o, log: o.log, consumers: map[*Consumer]struct{}{}}
	c.ctx, c.end = context.WithCancel(context.Background())
	for _, address := range addresses {
		conn, err := grpc.NewClient("passthrough:///"+address, c.dialOptions()...)
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		c.nodes = append(c.nodes, conn)
	}
	return c, nil
}

func (c *Client) dialOptions() []grpc.DialOption {
	transport := insecure.NewCredentials()
	if c.options.tls != nil {
		transport = credentials.NewTLS(c.options.tls)
	}
	return append([]grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithPerRPCCredentials(c.login()),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: pingTimeout}),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: connectTimeout,
			Backoff: backoff.Config{BaseDelay: c.options.minDelay, Multiplier: 1.6, Jitter: 0.2, MaxDelay: c.options.maxDelay}}),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(streamWindow),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32)),
		grpc.WithDisableServiceConfig(),
	}, c.options.dial...)
}

// login puts credentials and vhost into the metadata of calls.
type login map[string]string

func (c *Client) login() login {
	l := login{"warren-vhost": c.options.vhost}
	switch {
	case c.options.token != "":
		l["authorization"] = "Bearer " + c.options.token
	case c.options.user != "":
		l["authorization"] = "Basic " + base64.StdEncoding.EncodeToString([]byte(c.options.user+":"+c.options.password))
	}
	return l
}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (l login) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return l, nil
}

// RequireTransportSecurity is false, since nodes on the same machine or network may be used in plain text.
func (l login) RequireTransportSecurity() bool { return false }

// Close ends all consumers, as Consumer.Close does, and then publishers without waiting for what is under way, and the
// connections. Publisher.Close waits.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	consumers := slices.Collect(maps.Keys(c.consumers))
	c.mu.Unlock()
	var closing sync.WaitGroup // at once: together they take no longer than one
	for _, k := range consumers {
		closing.Go(k.Close)
	}
	closing.Wait()
	c.end()
	c.works.Wait()
	var errs []error
	for _, n := range c.nodes {
		errs = append(errs, n.Close())
	}
	return errors.Join(errs...)
}

// start runs the work of a publisher.
func (c *Client) start(work func()) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	c.works.Go(work)
	return nil
}

// startConsumer runs the work of a consumer, which Close closes.
func (c *Client) startConsumer(k *Consumer) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	c.consumers[k] = struct{}{}
	c.works.Go(func() {
		k.work()
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.consumers, k)
	})
	return nil
}

// node returns the connection in use, and which generation it is.
func (c *Client) node() (*grpc.ClientConn, uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[c.current], c.generation
}

// lost tells that a call on a connection failed in a way that another node may do better. Only the first to tell of a
// generation counts.
func (c *Client) lost(generation uint64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if generation != c.generation {
		return
	}
	before := c.nodes[c.current].Target()
	c.generation++
	c.current = (c.current + 1) % len(c.nodes)
	c.log.Warn("node does not serve; trying the next", "node", before, "next", c.nodes[c.current].Target(), "err", err)
}

// attempts is the pauses between attempts, and what became of the last.
type attempts struct {
	client *Client
	failed atomic.Int32
	cause  atomic.Pointer[error] // why the last one failed; nil: it has not
}

// lost tells that the attempt of a generation failed.
func (a *attempts) lost(generation uint64, err error) {
	a.cause.Store(&err)
	a.client.lost(generation, err)
}

// up tells that one has succeeded.
func (a *attempts) up() {
	a.failed.Store(0)
	a.cause.Store(nil)
}

// explain adds to the error of somebody who has waited why there was no success, if that is known.
func (a *attempts) explain(err error) error {
	cause := a.cause.Load()
	if err == nil || cause == nil {
		return err
	}
	return fmt.Errorf("%w (the last attempt: %v)", err, fromStatus(*cause))
}

// wait pauses, longer with each failure in a row once every node had its turn.
func (a *attempts) wait(ctx context.Context) error {
	rounds := int(a.failed.Add(1)) - len(a.client.nodes)
	if rounds < 0 {
		return ctx.Err()
	}
	o := &a.client.options
	delay := min(o.maxDelay, o.minDelay<<min(rounds, 16))
	timer := time.NewTimer(delay/2 + rand.N(delay/2+1))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-a.client.ctx.Done():
		return ErrClosed
	}
}

// call makes a call that may be repeated, on one node after the other until one answers.
func (c *Client) call(ctx context.Context, f func(ctx context.Context, node *grpc.ClientConn) error) error {
	a := attempts{client: c}
	for {
		if c.ctx.Err() != nil {
			return ErrClosed
		}
		node, generation := c.node()
		err := f(ctx, node)
		if err == nil || !isTransient(err) || ctx.Err() != nil {
			if err = fromStatus(err); errors.Is(err, ctx.Err()) {
				err = a.explain(err)
			}
			return err
		}
		a.lost(generation, err)
		if a.wait(ctx) != nil {
			return fromStatus(err)
		}
	}
}

// declared is one thing of the topology that the client has made.
type declared struct {
	key  string
	make func(ctx context.Context, node *grpc.ClientConn) error
}

// remember notes something that was declared.
func (c *Client) remember(key string, again func(ctx context.Context, node *grpc.ClientConn) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.declared = append(slices.DeleteFunc(c.declared, func(d declared) bool { return d.key == key }), declared{key, again})
}

// forget drops what was deleted.
func (c *Client) forget(gone func(key string) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.declared = slices.DeleteFunc(c.declared, func(d declared) bool { return gone(d.key) })
}

// restore declares everything again after a connection was lost, once for each.
func (c *Client) restore(ctx context.Context, node *grpc.ClientConn, generation uint64) error {
	c.mu.Lock()
	if c.restored >= generation {
		c.mu.Unlock()
		return nil
	}
	list := slices.Clone(c.declared)
	c.mu.Unlock()
	for _, d := range list {
		if err := d.make(ctx, node); err != nil {
			if isTransient(err) || ctx.Err() != nil {
				return err
			}
			c.log.Warn("cannot be declared again", "what", d.key, "err", err)
		}
	}
	c.mu.Lock()
	c.restored = max(c.restored, generation)
	c.mu.Unlock()
	return nil
}

// stream opens a stream, and opens it again whenever it ends for a reason that another node may not have. open makes it and
// run uses it; an error of either is judged. again says that a new stream shall be opened at once although nothing is
// wrong with the node. It returns when ctx ends, or with an error that does not pass.
func (a *attempts) stream(ctx context.Context, what string, run func(ctx context.Context, node *grpc.ClientConn, up func()) error) error {
	c := a.client
	for {
		node, generation := c.node()
		sctx, cancel := context.WithCancel(ctx)
		err := c.restore(sctx, node, generation)
		if err == nil {
			err = run(sctx, node, a.up)
		}
		cancel()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errAgain):
			c.log.Info("stream is opened again", "what", what)
		case !isTransient(err):
			return fromStatus(err)
		default:
			a.lost(generation, err)
		}
		if err := a.wait(ctx); err != nil {
			return err
		}
	}
}

// errAgain asks for another stream.
var errAgain = errors.New("again")

func (c *Client) topology(node *grpc.ClientConn) brokerv1.TopologyServiceClient {
	return brokerv1.NewTopologyServiceClient(node)
}

func (c *Client) admin(node *grpc.ClientConn) brokerv1.AdminServiceClient {
	return brokerv1.NewAdminServiceClient(node)
}
