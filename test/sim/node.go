package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/cluster"
	"github.com/warrenmq/warren/storage"
)

// node is a machine. Its runs follow one another on one disk.
type node struct {
	s      *sim
	number int
	disk   *disk
	runs   int

	repair sync.Mutex // held while somebody is at the disk of a dead node: it does not start meanwhile
	dying  sync.Mutex // held while a run is killed: who finds it dead finds a disk that it does not use any more

	mu  sync.Mutex // guards what follows
	run *run       // the present one; nil: none
}

// run is a process, from its start to its end.
type run struct {
	n      *node
	name   string
	log    *slog.Logger
	port   *port
	mount  *mount
	broker *broker.Broker
	store  *storage.Store

	cancel  context.CancelFunc // of the start
	started chan struct{}      // closed when the start has ended, one way or the other
	serves  chan struct{}      // closed when clients are served
	gone    chan struct{}      // closed when the process has ended
	clients sync.WaitGroup     // connections that are open

	mu      sync.Mutex // guards what follows
	cluster *cluster.Cluster
	ended   bool
	pleased bool  // it was asked to end
	closing bool  // stop closes the parts, also if the process is killed meanwhile
	fatal   error // why it ended by itself
}

// present is the node's run, or nil.
func (n *node) present() *run {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.run
}

// serving is the node's run if it serves clients, or nil.
func (n *node) serving() *run {
	r := n.present()
	if r == nil {
		return nil
	}
	select {
	case <-r.gone:
		return nil
	case <-r.serves:
		return r
	default:
		return nil
	}
}

// walSize is that of the log's files: small, so that they rotate, are copied from and retire in a schedule. An entry must fit into
// half of one, and is not larger than what all publishers together may have unconfirmed.
const (
	walSize        = 96 << 10
	maxUnconfirmed = 6 << 10
)

// start begins a run, if there is none.
func (n *node) start() {
	n.repair.Lock()
	defer n.repair.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.run != nil {
		return
	}
	n.runs++
	name := fmt.Sprintf("n%d.%d", n.number+1, n.runs)
	ctx, cancel := context.WithCancel(context.Background())
	r := &run{n: n, name: name, log: n.s.logger(name), port: n.s.network.plug(n.number), mount: n.disk.mount(n.s.plan.sync, n.s.fork()),
		cancel: cancel, started: make(chan struct{}), serves: make(chan struct{}), gone: make(chan struct{})}
	r.mount.died = func(err error) { r.note(err); n.kill(r, false) }
	r.mount.lies = n.s.plan.lies
	n.run = r
	n.s.work.Go(func() { r.start(ctx) })
}

func (r *run) start(ctx context.Context) {
	defer close(r.started)
	s := r.n.s
	store, err := storage.Open(storage.Options{Dir: "store", FS: r.mount.fs(), WALFileSize: walSize, CacheBytes: 1 << 20, SegmentSize: 32 << 10,
		KeepFiles: 1, Logger: r.log, OnFatal: r.die})
	if err != nil {
		r.die(err)
		return
	}
	b := broker.New(broker.Options{Logger: r.log, MaxUnconfirmedBytes: maxUnconfirmed,
		ReadAhead: broker.ReadAhead{Messages: 8, MinLimit: 2, Fast: time.Second, Slow: 200 * time.Millisecond}})
	var join []string
	for i := range s.nodes {
		join = append(join, fmt.Sprintf("%s:%d", host(i), gossipPort))
	}
	r.mu.Lock()
	r.store, r.broker = store, b
	r.mu.Unlock()
	c, err := cluster.Start(ctx, cluster.Options{DataDir: r.mount.dir, Name: fmt.Sprintf("n%d", r.n.number+1), Host: host(r.n.number),
		ClusterPort: clusterPort, GossipPort: gossipPort, Join: join, Expect: len(s.nodes), Shards: s.plan.shards, Replicas: s.plan.replicas,
		Store: store, Observer: b, GuestPasswordHash: "x", Version: "sim", Logger: r.log, OnFatal: r.die,
		Surroundings: cluster.Surroundings{Listen: r.port.Listen, Dial: r.port.Dial, Gossip: r.port, VoteWrite: r.mount.writeVotes,
			Now: func() time.Time { return s.clock(r.n.number) }, HashEvery: 25, EntryBytes: walSize / 4, SnapshotEvery: s.plan.snapshots}})
	if err != nil {
		if ctx.Err() == nil {
			r.die(err)
		}
		return
	}
	b.Start(c)
	r.mu.Lock()
	r.cluster = c
	r.mu.Unlock()
	r.mount.mu.Lock()
	r.mount.serving = true
	r.mount.mu.Unlock()
	close(r.serves)
}

// member is the run's part in the cluster, nil while it starts.
func (r *run) member() *cluster.Cluster {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cluster
}

// die is the process ending itself.
func (r *run) die(err error) {
	if r.note(err) {
		r.n.s.work.Go(func() { r.n.kill(r, false) })
	}
}

// note keeps why a process ends itself; false: it has ended, or is about to.
func (r *run) note(err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended || r.fatal != nil {
		return false
	}
	r.fatal = err
	r.n.s.died(death{r.name, r.n.number, r.n.s.now(), err})
	r.log.Error("the process ends itself", "err", err)
	return true
}

// kill ends a run: its process at once, or its machine's power. Nothing that it does from then on reaches anybody.
func (n *node) kill(r *run, power bool) {
	n.dying.Lock()
	defer n.dying.Unlock()
	r.mu.Lock()
	if r.ended {
		r.mu.Unlock()
		return
	}
	r.ended = true
	r.mu.Unlock()
	r.port.unplug(power)
	close(r.gone) // before the cut: a write that is waited for ends with it, as if it had been made
	n.disk.cut(r.mount, power, n.s.fork())
	n.mu.Lock()
	if n.run == r {
		n.run = nil
	}
	n.mu.Unlock()
	n.s.work.Go(r.bury)
}

// bury ends the goroutines of a process that is dead already.
func (r *run) bury() {
	r.cancel()
	r.mu.Lock()
	store, failed := r.store, r.fatal != nil
	r.mu.Unlock()
	var closing sync.WaitGroup
	defer closing.Wait()
	if store != nil && failed { // whoever waits for a write that failed waits for this
		closing.Go(func() { _ = store.Close() })
	}
	<-r.started
	defer r.clients.Wait()
	r.mu.Lock()
	stopping, c := r.closing, r.cluster
	r.mu.Unlock()
	if stopping {
		return // stop does the rest
	}
	over, cancel := context.WithCancel(context.Background())
	cancel()
	if c != nil {
		_ = c.Close(over) // nobody is left to be told
	}
	if r.store != nil && !failed {
		_ = r.store.Close()
	}
}

// stopsWithin is how long a run is given to close its clients' connections when it is stopped.
const stopsWithin = 30 * time.Second

// stop ends a run gracefully and waits for it.
func (n *node) stop(r *run) error {
	r.mu.Lock()
	if r.ended || r.pleased {
		r.mu.Unlock()
		return nil
	}
	r.pleased = true
	r.mu.Unlock()
	if n.serving() != r {
		n.kill(r, false) // one that is starting has nothing to hand over
		return nil
	}
	r.broker.CloseConnections("broker forced connection closure with reason 'shutdown'")
	left := make(chan struct{})
	go func() { r.clients.Wait(); close(left) }()
	select {
	case <-left:
	case <-r.gone:
		<-left
		return nil // it was killed meanwhile
	case <-time.After(stopsWithin): // then whoever manages the process kills it
		n.kill(r, false)
		<-left
		return fmt.Errorf("its clients' connections are open after %v", stopsWithin)
	}
	r.mu.Lock()
	if r.ended {
		r.mu.Unlock()
		return nil
	}
	r.closing = true
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	go func() {
		select {
		case <-r.gone:
			cancel()
		case <-ctx.Done():
		}
	}()
	err := errors.Join(r.member().Close(ctx), r.store.Close())
	r.mu.Lock()
	ended := r.ended
	r.ended = true
	r.mu.Unlock()
	if ended {
		return nil // it was killed meanwhile
	}
	r.port.unplug(false)
	close(r.gone)
	n.mu.Lock()
	n.run = nil
	n.mu.Unlock()
	return err
}
