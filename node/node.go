// Package node wires a Warren node: configuration in, a running node out. It reads as two lists, start and stop. What a
// part does is left to its package.
package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/warrenmq/warren/amqp"
	"github.com/warrenmq/warren/auth"
	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/cluster"
	"github.com/warrenmq/warren/config"
	"github.com/warrenmq/warren/management"
	"github.com/warrenmq/warren/rpc"
	"github.com/warrenmq/warren/storage"
	"github.com/warrenmq/warren/tlsfiles"
)

// Node is a running node.
type Node struct {
	config *config.Server
	log    *slog.Logger

	metrics *prometheus.Registry
	store   *storage.Store
	broker  *broker.Broker
	cluster *cluster.Cluster
	amqp    *amqp.Server
	rpc     *rpc.Server
	// rpcListener is the listener of rpc, from before rpc is there; both are nil without a port.
	rpcListener net.Listener
	http        *management.Server
	clientTLS   *tlsfiles.Source // what clients are shown; nil: plain text
	nodeTLS     *tlsfiles.Source // what other nodes are shown; nil: plain text

	joined  atomic.Bool            // broker and cluster can be asked
	waiting atomic.Pointer[string] // for what its start waits; nil: nobody has said
	alarmed atomic.Pointer[string] // why publishers are blocked; nil or empty: they are not
	started chan struct{}          // closed when everything has started
	left    chan struct{}          // closed when the node is no member any more
	serving atomic.Bool            // every listener is open
	fatal   chan error             // has room for one: the first reason to stop
	work    sync.WaitGroup         // the goroutines that serve and watch
	quit    chan struct{}          // closed when the watchers are to end
}

// joinTimeout bounds the wait for the other nodes at a start; it is long, since nodes of a cluster may be started by hand.
const joinTimeout = 24 * time.Hour

// Start brings a node up and returns when it serves. A ctx that ends stops the start. An error for which the node cannot go on
// ends it at once, as with Fatal.
func Start(ctx context.Context, c *config.Server, version string, log *slog.Logger) (*Node, error) {
	n := newNode(c, log)
	if err := n.unlessFatal(func() error { return n.start(ctx, version) }); err != nil {
		return nil, err
	}
	return n, nil
}

func newNode(c *config.Server, log *slog.Logger) *Node {
	return &Node{config: c, log: log, metrics: prometheus.NewRegistry(), fatal: make(chan error, 1), quit: make(chan struct{}),
		started: make(chan struct{}), left: make(chan struct{})}
}

// unlessFatal does something and returns its error, or, without waiting for it, the reason for which the node cannot go on:
// what hangs on a dead disk does not end.
func (n *Node) unlessFatal(do func() error) error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	select {
	case err := <-done:
		return err
	case err := <-n.fatal:
		return fmt.Errorf("stopped: %w", err)
	}
}

func (n *Node) start(ctx context.Context, version string) (err error) {
	c, log := n.config, n.log
	defer func() {
		if err != nil {
			n.abandon()
		}
	}()

	if exposed := c.Exposed(); len(exposed) > 0 {
		log.Warn("PLAIN TEXT on an address that other machines reach: set up TLS, or say --insecure if it is meant",
			"host", c.Host, "what", strings.Join(exposed, ", "))
	}
	if err := n.openTLS(); err != nil {
		return err
	}
	// Health first: a probe must see a node that waits for its peers as alive and not ready.
	if err := n.serveHTTP(); err != nil {
		return err
	}
	// The ports are taken before anything is written, so that a second node on the same ports fails at once.
	listeners, err := n.listenAMQP()
	if err != nil {
		return fmt.Errorf("listen for AMQP: %w", err)
	}
	defer func() {
		if err != nil {
			closeAll(listeners)
		}
	}()
	serveRPC, err := n.listenRPC(version)
	if err != nil {
		return err
	}
	n.store, err = storage.Open(storage.Options{Dir: filepath.Join(c.DataDir, "store"), WALFileSize: int64(c.WALFileSize),
		CacheBytes: int64(c.CacheSize), Logger: log, OnFatal: n.stopFor, OnSync: n.measureSyncs()})
	if err != nil {
		return err
	}
	consumerTimeout := c.ConsumerTimeout
	if consumerTimeout == 0 {
		consumerTimeout = -1 // none, where 0 is the broker's default
	}
	tokens, err := n.openTokens()
	if err != nil {
		return err
	}
	n.broker = broker.New(broker.Options{Logger: log, MaxMessageSize: int64(c.MaxMessageSize), ConsumerTimeout: consumerTimeout, Tokens: tokens,
		MaxTransactionBytes: int(c.WALFileSize / 4)})
	if n.cluster, err = n.startCluster(ctx, version); err != nil {
		return err
	}
	n.metrics.MustRegister(n.cluster.Metrics())
	n.broker.Start(n.cluster)
	n.watchTokens(tokens)
	n.joined.Store(true)
	if err := n.ensureUser(ctx); err != nil {
		return err
	}
	n.amqp = amqp.NewServer(amqp.Options{Broker: n.broker, Logger: log, Version: version, Announce: c.AMQPAnnounce,
		ClusterName: c.Name, MaxMessageSize: int64(c.MaxMessageSize), MaxConnections: maxClients, MaxSockets: clientSockets(fileLimit())})
	for _, l := range listeners {
		n.serve("AMQP", func() error { return n.amqp.Serve(l) })
	}
	serveRPC()
	n.work.Go(n.watchResources)
	n.serving.Store(true)
	close(n.started)
	return nil
}

func (n *Node) startCluster(ctx context.Context, version string) (*cluster.Cluster, error) {
	guest, err := auth.Hash("guest")
	if err != nil {
		return nil, err
	}
	joining, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	c := n.config
	return cluster.Start(joining, cluster.Options{DataDir: c.DataDir, Name: c.Name, Host: c.Host, Advertise: c.Advertise,
		ClusterPort: c.ClusterPort, GossipPort: c.GossipPort, Join: c.Join, Expect: c.Expect, Shards: c.Shards, Replicas: c.Replicas, MaxClockSkew: c.MaxClockSkew,
		Store: n.store, Observer: n.broker, Logger: n.log, GuestPasswordHash: guest, Version: version, OnFatal: n.stopFor,
		GossipKeyFile: c.GossipKeyFile, Waiting: func(why string) { n.waiting.Store(&why) }, Surroundings: n.surroundings(), Resources: n.resources, OnEmptied: n.closeClients, OnRemoved: func() { close(n.left) }})
}

// measureSyncs shows how long fsyncs of the log take: what every confirm waits for, and the first thing to look at when they are slow.
func (n *Node) measureSyncs() func(time.Duration) {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "warren_log_sync_seconds", Help: "How long fsyncs of the node's log took.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 2, 15)}) // to 1.6 s
	n.metrics.MustRegister(h)
	return func(took time.Duration) { h.Observe(took.Seconds()) }
}

func (n *Node) serveHTTP() error {
	if n.config.HTTPPort == 0 {
		return nil
	}
	listener, err := net.Listen("tcp", n.config.Address(n.config.HTTPPort))
	if err != nil {
		return fmt.Errorf("listen for HTTP: %w", err)
	}
	n.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	n.http = management.New(management.Options{Ready: n.Ready, Metrics: n.metrics, Profiles: n.config.Profiles, Digests: n.writeDigests,
		Cluster: operators{n}, Login: n.login, Logger: n.log})
	n.serve("HTTP", func() error { return n.http.Serve(n.secure(listener, "http/1.1")) })
	return nil
}

// listenRPC takes the port of the gRPC front door and returns what serves it, once there is a broker. A client that connects
// earlier waits.
func (n *Node) listenRPC(version string) (serve func(), err error) {
	if n.config.GRPCPort == 0 {
		return func() {}, nil
	}
	if n.rpcListener, err = net.Listen("tcp", n.config.Address(n.config.GRPCPort)); err != nil {
		return nil, fmt.Errorf("listen for gRPC: %w", err)
	}
	return func() {
		var secured *tls.Config
		if n.clientTLS != nil {
			secured = n.clientTLS.Server("h2")
		}
		n.rpc = rpc.NewServer(rpc.Options{TLS: secured, Broker: n.broker, Logger: n.log, Version: version, Ready: n.Ready, MaxMessageSize: int64(n.config.MaxMessageSize)})
		n.metrics.MustRegister(n.rpc.Metrics())
		n.serve("gRPC", func() error { return n.rpc.Serve(n.rpcListener) })
	}, nil
}

// serve runs a listener's loop; one that ends by itself stops the node.
func (n *Node) serve(what string, loop func() error) {
	n.work.Go(func() {
		if err := loop(); err != nil {
			n.stopFor(fmt.Errorf("serve %s: %w", what, err))
		}
	})
}

// stopFor asks for the end of the process; the first reason counts.
func (n *Node) stopFor(err error) {
	select {
	case n.fatal <- err:
	default:
	}
}

// Fatal gives the reason when the node cannot go on. Whoever runs it ends the process at once: what was confirmed is on
// disk, and a restart recovers it.
func (n *Node) Fatal() <-chan error { return n.fatal }

// Ready returns nil when the node serves clients.
func (n *Node) Ready() error {
	if !n.serving.Load() {
		return n.starting()
	}
	return n.cluster.Ready()
}

// writeDigests tells the state of each of this node's replicas in short, for comparing them with other nodes'.
func (n *Node) writeDigests(w io.Writer) error {
	if !n.serving.Load() {
		return errors.New("starting")
	}
	list, err := n.cluster.Digests()
	if err != nil {
		return err
	}
	for _, d := range list {
		group := "catalog"
		if d.Group != cluster.CatalogGroup {
			group = fmt.Sprintf("shard-%d", d.Group)
		}
		if _, err := fmt.Fprintf(w, "%s %d %x\n", group, d.Index, d.Sum); err != nil {
			return err
		}
	}
	return nil
}

// stopTimeout bounds each step of a graceful stop.
const stopTimeout = 20 * time.Second

// Stop ends the node gracefully: clients are closed first, so that nothing new comes; then leaderships move to other
// nodes, so that they do not wait for an election; the disk closes last, since everything above writes to it. An error for
// which the node cannot go on ends it at once, as with Fatal.
func (n *Node) Stop() error { return n.unlessFatal(n.stop) }

func (n *Node) stop() error {
	n.serving.Store(false)
	close(n.quit)
	errs := []error{inTime(n.amqp.Shutdown)}
	if n.rpc != nil {
		errs = append(errs, inTime(n.rpc.Shutdown))
	}
	errs = append(errs, inTime(n.cluster.Close), n.store.Close())
	if n.http != nil {
		errs = append(errs, inTime(n.http.Shutdown))
	}
	n.work.Wait()
	return errors.Join(errs...)
}

// inTime does a step of a stop: however long the one before has taken, it has its time.
func inTime(step func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	return step(ctx)
}

// abandon undoes a start that failed half-way.
func (n *Node) abandon() {
	close(n.quit)
	if n.rpcListener != nil {
		_ = n.rpcListener.Close()
	}
	if n.cluster != nil {
		_ = inTime(n.cluster.Close) // the start's error is the one to tell
	}
	if n.store != nil {
		_ = n.store.Close()
	}
	if n.http != nil {
		_ = inTime(n.http.Shutdown)
	}
	n.work.Wait()
}
