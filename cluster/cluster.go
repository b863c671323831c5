// Package cluster makes nodes one broker: it finds them (gossip), keeps the catalog and the shards by Raft, knows who leads
// and who lives, and runs the pipes between them. It is the only package that names the Raft library. It satisfies
// broker.Replicator. What commands mean is left to raftfsm, what clients may do to broker.
//
// DESIGN.md tells how the parts work together; leases.go says what makes a change of the catalog seen everywhere.
package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/cluster/gossip"
	"github.com/warrenmq/warren/cluster/peer"
	"github.com/warrenmq/warren/cluster/pipe"
	"github.com/warrenmq/warren/cluster/raftnet"
	"github.com/warrenmq/warren/cluster/raftstore"
	nodev1 "github.com/warrenmq/warren/proto/node/v1"
	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"
	"github.com/warrenmq/warren/storage"
)

// Options configure a Cluster. All are required but those with a default.
type Options struct {
	DataDir     string
	Name        string
	Host        string // address to listen on
	Advertise   string // address that the other nodes are told; default Host
	ClusterPort int
	GossipPort  int
	// GossipKeyFile has keys for gossip (gossip.Options.KeyFile); empty: plain text.
	GossipKeyFile string
	Join          []string // gossip addresses of any members
	Expect        int      // size of the cluster to begin; 0 or 1 without Join: this node alone
	Shards        int      // of a cluster that begins; default 16
	Replicas      int      // of each shard; default 3
	// MaxClockSkew is how far a node's clock may differ from those of a majority before the node is to lead nothing (default 5 s).
	MaxClockSkew time.Duration

	Store             *storage.Store
	Observer          broker.CatalogObserver
	GuestPasswordHash string // of a cluster that begins
	Version           string
	Logger            *slog.Logger
	Surroundings      Surroundings
	// OnFatal is called when this node cannot go on. The process is to end at once.
	OnFatal func(error)
	// Resources says what the process takes from its machine, for the other nodes to show (default: nothing).
	Resources func() Resources
	// Waiting is told, while Start waits, for what, in a sentence (default: the log alone).
	Waiting func(why string)
	// OnEmptied is called, once, when this node is to leave and holds no replica any more: it returns when no clients are left
	// (default: there are none). Then the node is removed.
	OnEmptied func()
	// OnRemoved is called, once, when this node is no member any more: the cluster is to be closed (default: OnFatal).
	OnRemoved func()
}

// Resources is what a node takes from its machine, and what is left there.
type Resources struct {
	Memory              uint64 // that the process holds, in bytes
	DiskFree, DiskTotal uint64 // where its data is, in bytes
	Alarm               string // why it blocks publishers; empty: it does not
}

func (o *Options) validate() error {
	o.Advertise = cmp.Or(o.Advertise, o.Host)
	o.Shards, o.Replicas, o.MaxClockSkew = cmp.Or(o.Shards, 16), cmp.Or(o.Replicas, 3), cmp.Or(o.MaxClockSkew, 5*time.Second)
	o.Surroundings.setDefaults()
	if o.OnRemoved == nil {
		o.OnRemoved = func() { o.OnFatal(ErrRemoved) }
	}
	switch {
	case o.DataDir == "" || o.Name == "" || o.Host == "" || o.Store == nil || o.Observer == nil || o.Logger == nil || o.OnFatal == nil:
		return errors.New("cluster options: a required one is missing")
	case o.MaxClockSkew < 0:
		return fmt.Errorf("cluster options: clocks may differ by %v", o.MaxClockSkew)
	case o.Shards < 1 || o.Shards >= int(queue.LocalShard) || o.Replicas < 1:
		return fmt.Errorf("cluster options: %d shards with %d replicas", o.Shards, o.Replicas)
	}
	return nil
}

// Cluster is this node's part in a cluster.
type Cluster struct {
	o        Options
	log      *slog.Logger
	identity identity
	db       *raftstore.DB
	network  *peer.Network
	raftnet  *raftnet.Transport
	gossip   atomic.Pointer[gossip.Gossip] // nil: not started yet

	catalog   *catalogSeat
	leases    *leases
	follower  *follower
	leaders   *leaderTable
	watcher   *watcher
	forgetter *forgetter
	strangers *strangers
	clocks    *clocks

	ctx    context.Context // ends with the cluster
	end    context.CancelFunc
	work   sync.WaitGroup
	joined chan struct{} // closed when what follows is set

	edge   *pipe.Edge
	server *pipe.Server
	local  *pipe.Host // this node's exclusive queues

	self        atomic.Pointer[broker.Self] // nil: not registered yet
	founded     atomic.Pointer[founding]    // nil: no member yet
	promised    atomic.Pointer[promise]     // what it says may be empty; written under mu
	lost        bool                        // it is a member of a cluster, and the file that named it cannot be read; set before anybody asks
	hasSeat     atomic.Bool                 // the catalog's seat runs
	directory   atomic.Pointer[directory]
	replicas    atomic.Pointer[map[queue.ShardID]*shard] // replaced, never changed
	lastID      atomic.Uint64
	placing     chan struct{} // have room for one each
	supervised  chan struct{}
	campaigning chan struct{}

	giveUp    context.CancelCauseFunc // ends Start
	once      sync.Once               // for OnRemoved
	emptied   bool                    // OnEmptied was called; supervise's
	idle      atomic.Bool             // it leaves, and serves no clients any more
	draining  atomic.Bool             // it wants to lead nothing
	disk      disk
	runs      map[uint16]*memberRun // supervise's
	admitting *semaphore.Weighted   // held to let a node in or to let one leave: one at a time
	pace      pace

	mu     sync.Mutex // guards what follows
	change chan struct{}
	damage map[uint32]string // groups that do not take part, and why
	begun  chan struct{}     // closed when founded is set
	founds string            // the cluster that this node tries to found; empty: none
	heard  time.Time         // when the founder was that this node has promised to
}

// sessionGrace is how long the consumers of a node that cannot be reached keep their messages.
const sessionGrace = time.Minute

// An entry of a shard's log also goes from node to node in one frame (package peer). Beside its one batch of commands it has a header of its
// own, and the batch another.
const (
	maxEntry      = 32 << 20
	entryOverhead = queue.EntryHeaderSize + queue.BatchHeaderSize
)

// directory is the members of the cluster.
type directory struct {
	byNumber map[uint16]*catalog.Node
	byUUID   map[string]*catalog.Node
	placed   bool // the shards are placed: the first members have all registered, or are given up
}

// Start makes this node a member and returns when it takes part: it is registered, its copy of the catalog is current, its
// replicas have started, and every shard has a leader. Until then it waits, for other nodes as well, as long as ctx allows.
func Start(ctx context.Context, o Options) (_ *Cluster, err error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	c := &Cluster{o: o, log: o.Logger, admitting: semaphore.NewWeighted(1), joined: make(chan struct{}), placing: make(chan struct{}, 1), supervised: make(chan struct{}, 1), campaigning: make(chan struct{}, 1),
		change: make(chan struct{}), damage: map[uint32]string{}, begun: make(chan struct{}), runs: map[uint16]*memberRun{}}
	c.ctx, c.end = context.WithCancel(context.Background())
	ctx, c.giveUp = context.WithCancelCause(ctx)
	defer c.giveUp(nil)
	c.directory.Store(&directory{})
	c.replicas.Store(&map[queue.ShardID]*shard{})
	defer func() {
		if err != nil {
			err = errors.Join(err, c.shutDown())
		}
	}()
	if err := c.open(); err != nil {
		return nil, fmt.Errorf("start cluster: %w", err)
	}
	starting, started := context.WithCancel(ctx)
	defer started()
	c.work.Go(func() { c.explain(starting) })
	for _, step := range []func(context.Context) error{c.find, c.takeSeat, c.register, c.takePart} {
		if err := step(ctx); err != nil {
			if cause := context.Cause(ctx); errors.Is(cause, ErrRemoved) || errors.Is(cause, ErrRecovered) {
				err = cause
			}
			return nil, fmt.Errorf("start cluster: %w", err)
		}
	}
	return c, nil
}

// open reads what is on disk and begins to listen.
func (c *Cluster) open() (err error) {
	if err := os.MkdirAll(c.o.DataDir, 0o750); err != nil {
		return err
	}
	if err := refuseHalfRecovered(c.o.DataDir); err != nil {
		return err
	}
	if c.identity, c.db, err = openIdentity(c.o.DataDir, c.holdsData(), c.log); err != nil {
		return err
	}
	if err := c.readFounding(); err != nil {
		return err
	}
	if err := c.readPromise(); err != nil {
		return err
	}
	c.db.Around(c.o.Surroundings.VoteWrite)
	c.db.OnFatal(c.o.OnFatal)
	listener, err := c.o.Surroundings.Listen(gossip.Join(c.o.Host, c.o.ClusterPort))
	if err != nil {
		return fmt.Errorf("listen for other nodes: %w", err)
	}
	c.network = peer.New(peer.Options{Address: c.address, Listener: listener, Dial: c.o.Surroundings.Dial, Logger: c.log})
	c.raftnet = raftnet.New(raftnet.Options{Logger: c.log, Open: func(ctx context.Context, uuid string, bulk bool) (raftnet.Stream, error) {
		class := peer.Raft
		if bulk {
			class = peer.Bulk
		}
		return c.network.Open(ctx, uuid, class)
	}})
	c.catalog, c.leases, c.follower = newCatalogSeat(c), newLeases(c), newFollower(c)
	c.leaders, c.watcher, c.forgetter = newLeaderTable(c), newWatcher(c.ctx, c), newForgetter(c)
	c.strangers, c.clocks = newStrangers(c), newClocks(c)
	c.work.Go(c.serveNodes)
	c.work.Go(func() { c.strangers.meet(c.ctx) })
	g, err := gossip.Start(gossip.Options{Self: c.member(), Bind: c.o.Host, Port: c.o.GossipPort, Advertise: c.o.Advertise,
		Seeds: c.o.Join, Changed: c.membersChanged, Foreign: c.strangers.met, Logger: c.log, Transport: c.o.Surroundings.Gossip, KeyFile: c.o.GossipKeyFile})
	if err != nil {
		return err
	}
	c.gossip.Store(g)
	g.Update(c.member()) // another node may have told of the cluster's beginning meanwhile
	return nil
}

// readFounding reads which cluster this node is in, or finds that it is in one and that only its members can tell: the file was written when
// it became a member, and before it had anything.
func (c *Cluster) readFounding() error {
	var f founding
	switch found, err := load(c.o.DataDir, foundingFile, &f); {
	case errors.Is(err, errDamagedFile):
		c.log.Error("the file that names the cluster cannot be read", "err", err)
		c.lost = true
	case err != nil:
		return err
	case found:
		c.founded.Store(&f)
		close(c.begun)
	default:
		c.lost = c.hasData()
	}
	return nil
}

func (c *Cluster) serveNodes() {
	err := c.network.Serve(peer.Handlers{
		Serve: map[peer.Class]func(context.Context, peer.Stream){
			peer.Raft:  func(ctx context.Context, s peer.Stream) { c.raftnet.Serve(ctx, s) },
			peer.Bulk:  func(ctx context.Context, s peer.Stream) { c.raftnet.ServeBulk(ctx, s) },
			peer.Links: c.serveLink,
		},
		Call:    c.answerCall,
		Control: controlServer{c: c},
	})
	if err != nil && c.ctx.Err() == nil {
		c.o.OnFatal(err)
	}
}

func (c *Cluster) answerCall(ctx context.Context, request []byte) ([]byte, error) {
	select {
	case <-c.joined:
		return c.server.Call(ctx, request)
	default:
		return nil, errStarting
	}
}

var errStarting = unavailable("this node is starting")

// member is what this node tells the others by gossip. One that is of a cluster and does not know of which must not be counted among those
// with which another begins.
func (c *Cluster) member() *nodev1.Member {
	expect := uint32(c.o.Expect)
	if c.lost {
		expect = 0
	}
	return &nodev1.Member{Uuid: c.identity.UUID, Name: c.o.Name, Address: net.JoinHostPort(c.o.Advertise, strconv.Itoa(c.o.ClusterPort)),
		ClusterId: c.clusterID(), Expect: expect}
}

func (c *Cluster) clusterID() string {
	if f := c.founded.Load(); f != nil {
		return f.ClusterID
	}
	return ""
}

// address is where a node listens now: gossip knows best; before it does, where the cluster began may still be right.
func (c *Cluster) address(uuid string) (string, error) {
	if g := c.gossip.Load(); g != nil {
		if a := g.Address(uuid); a != "" {
			return a, nil
		}
	}
	var known []foundingNode
	if f := c.founded.Load(); f != nil {
		known = f.known()
	} else if p := c.promised.Load(); p != nil {
		known = p.Servers
	}
	for _, s := range known {
		if s.UUID == uuid {
			return s.Address, nil
		}
	}
	if a := c.strangers.address(uuid); a != "" {
		return a, nil
	}
	return "", fmt.Errorf("%w: %s", errNoAddress, uuid)
}

var errNoAddress = errors.New("it is not known where the node listens")

// takeSeat starts this node's copy of the catalog.
func (c *Cluster) takeSeat(context.Context) error {
	f := c.founded.Load()
	var first []string
	for _, s := range f.Servers {
		first = append(first, s.UUID)
	}
	for _, s := range f.known() {
		c.watcher.add(s.UUID)
	}
	if err := c.catalog.open(first, len(first) != 1, c.db.Renewed()); err != nil {
		return err
	}
	c.hasSeat.Store(true)
	for _, run := range []func(context.Context){c.follower.run, c.forgetter.run, c.forgetter.sweep, c.campaign, c.place, c.supervise, c.checkpoint, c.clocks.compare} {
		c.work.Go(func() { run(c.ctx) })
	}
	return nil
}

func (c *Cluster) hasCatalog() bool { return c.hasSeat.Load() }

// takePart makes the pipes and waits until clients can be served.
func (c *Cluster) takePart(ctx context.Context) (err error) {
	self := c.Self()
	if c.local, err = pipe.NewLocalHost(pipe.LocalOptions{Shard: self.Local, Logger: c.log, QueuesDeleted: c.forgetter.forget, Now: c.clocks.entryTime}); err != nil {
		return err
	}
	if c.server, err = pipe.NewServer(pipe.ServerOptions{Hosts: hosts{c}, Logger: c.log}); err != nil {
		return err
	}
	if c.edge, err = pipe.NewEdge(pipe.EdgeOptions{Session: self.Session, Links: links{c}, Leaders: c.leaders, Hosts: hosts{c}, Logger: c.log, Hold: sessionGrace / 2,
		BatchBytes: int(min(c.o.Store.MaxEntry(), maxEntry)) - entryOverhead}); err != nil {
		return err
	}
	close(c.joined)
	c.wakePlacer()
	if err := c.follower.waitFresh(ctx); err != nil {
		return fmt.Errorf("wait for the catalog: %w", err)
	}
	for {
		changed := c.statusChange()
		err := c.Ready()
		if err == nil {
			return nil
		}
		select {
		case <-changed:
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}

// Ready returns nil when this node serves: it is registered, its copy of the catalog is current, its replicas have started,
// and every shard has a leader.
func (c *Cluster) Ready() error {
	select {
	case <-c.joined:
	default:
		return errStarting
	}
	if err := c.follower.fresh(); err != nil {
		return err
	}
	var count, placed int
	var mine []queue.ShardID
	self := c.Self().Node
	c.catalog.read(func(s *catalog.State) {
		count = s.ShardCount()
		for sh := range s.Shards() {
			placed++
			if slices.Contains(sh.Nodes, self) {
				mine = append(mine, sh.ID)
			}
		}
	})
	for _, id := range mine {
		if c.shard(id) == nil && c.damaged(uint32(id)) == "" {
			return unavailable("this node's replica of shard %d has not started", id)
		}
	}
	if count == 0 || placed < count {
		return unavailable("the shards are not placed yet")
	}
	for id := range queue.ShardID(count) {
		if _, ok := c.leaders.Leader(id); !ok {
			return unavailable("shard %d has no leader", id)
		}
	}
	return nil
}

// Close ends this node's part: leaderships move to other nodes first, so that nobody waits for an election.
func (c *Cluster) Close(ctx context.Context) error {
	c.handOver(ctx)
	return c.shutDown()
}

func (c *Cluster) shutDown() error {
	c.end()
	var errs []error
	if g := c.gossip.Load(); g != nil {
		errs = append(errs, g.Leave())
	}
	if c.edge != nil {
		c.edge.Close()
	}
	if c.raftnet != nil {
		c.raftnet.Close() // so that no group waits for an answer
	}
	for _, s := range c.shards() {
		s.stop()
		s.host.Close()
	}
	if c.local != nil {
		c.local.Close()
	}
	if c.catalog != nil {
		c.catalog.stop()
	}
	if c.network != nil {
		c.network.Close()
	}
	if c.watcher != nil {
		c.watcher.work.Wait()
	}
	c.work.Wait()
	if c.db != nil {
		errs = append(errs, c.db.Close())
	}
	return errors.Join(errs...)
}

// statusChange returns a channel that is closed when there is something new to tell the other nodes.
func (c *Cluster) statusChange() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.change
}

func (c *Cluster) statusChanged() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.change)
	c.change = make(chan struct{})
}

// shards are this node's replicas, by id.
func (c *Cluster) shards() []*shard {
	all := *c.replicas.Load()
	list := make([]*shard, 0, len(all))
	for _, id := range slices.Sorted(maps.Keys(all)) {
		list = append(list, all[id])
	}
	return list
}

func (c *Cluster) shard(id queue.ShardID) *shard { return (*c.replicas.Load())[id] }

// numberOf returns a node's number, 0 if it is no member.
func (c *Cluster) numberOf(uuid string) uint16 {
	if n := c.directory.Load().byUUID[uuid]; n != nil {
		return n.Number
	}
	return 0
}

// uuidOf returns a node's identity, empty if it is no member.
func (c *Cluster) uuidOf(number uint16) string {
	if n := c.directory.Load().byNumber[number]; n != nil {
		return n.UUID
	}
	return ""
}

// catalogChanged takes note of what a command changed. The catalog is locked.
func (c *Cluster) catalogChanged(s *catalog.State, changes []catalog.Change) {
	var removed []queue.QueueID
	for i := range changes {
		if changes[i].Kind == catalog.QueueRemoved && changes[i].Queue.ID.Shard() == c.Self().Local {
			removed = append(removed, changes[i].Queue.ID)
		}
	}
	c.deleteHere(removed)
	for i := range changes {
		if changes[i].Kind == catalog.ClusterChanged {
			c.log.Info("the cluster", "id", s.ClusterID(), "machine version", s.MachineVersion())
		}
		switch changes[i].Kind {
		case catalog.SessionEnded:
			c.sessionEnded(changes[i].Session)
		case catalog.NodeChanged, catalog.NodeRemoved, catalog.ShardChanged, catalog.ClusterChanged:
			c.catalogRestored(s)
			return
		}
	}
}

// sessionEnded has what was on its way to another node's memory answered: its exclusive queues are gone, whether or not its process is, and
// who consumes replies there is not waited for. Otherwise who publishes to them would wait for as long as it is silent.
func (c *Cluster) sessionEnded(session queue.SessionID) {
	select {
	case <-c.joined:
	default:
		return // nothing is on its way; it is told again
	}
	if session.Node() != c.Self().Node {
		c.edge.SessionOver(session)
	}
}

// deleteHere deletes queues of this node's memory that have lost their names. Mostly they are gone; but when the node was cut off for long
// and the others have ended its session, nobody can reach them any more, and whoever consumes them is to hear of that. The catalog is
// locked, and a queue's end calls its consumers, so it is not waited for.
func (c *Cluster) deleteHere(ids []queue.QueueID) {
	select {
	case <-c.joined:
	default:
		return // there are none yet
	}
	if len(ids) == 0 {
		return
	}
	go func() {
		var b queue.Batch
		for _, id := range ids {
			if c.local.Settings(id) != nil {
				b.Delete(id, false, false)
			}
		}
		if len(b.Data) == 0 {
			return
		}
		if err := c.local.Command(&b); err != nil && c.ctx.Err() == nil {
			c.log.Warn("exclusive queues without a name stay", "err", err)
		}
	}()
}

// catalogRestored takes note of the nodes and shards. The catalog is locked.
func (c *Cluster) catalogRestored(s *catalog.State) {
	d := &directory{byNumber: map[uint16]*catalog.Node{}, byUUID: map[string]*catalog.Node{}}
	for n := range s.Nodes() {
		d.byNumber[n.Number], d.byUUID[n.UUID] = n, n
	}
	for range s.Shards() {
		d.placed = true
		break
	}
	c.directory.Store(d)
	if c.self.Load() != nil && d.byUUID[c.identity.UUID] == nil {
		c.removed()
	}
	c.wakePlacer()
	c.wakeSupervisor()
}

// ErrRemoved tells that this node is no member of its cluster any more.
var ErrRemoved = errors.New("this node was removed from the cluster: what it holds is not needed any more; to join again it needs an empty data directory")

// removed is called when this node is no member any more. It does not block.
func (c *Cluster) removed() {
	c.once.Do(func() {
		c.log.Warn("this node is no member of the cluster any more")
		if c.self.Load() == nil { // it starts
			c.giveUp(ErrRemoved)
			return
		}
		go c.o.OnRemoved()
	})
}

// isRemoved tells whether a node is known to be no member. A node that was let in is one before it knows the cluster's id.
func (c *Cluster) isRemoved(uuid string) bool {
	d := c.directory.Load()
	return d.placed && d.byUUID[uuid] == nil && c.hasCatalog() && c.follower.fresh() == nil
}

func (c *Cluster) wakePlacer()     { wake(c.placing) }
func (c *Cluster) wakeSupervisor() { wake(c.supervised) }
func (c *Cluster) wakeCampaign()   { wake(c.campaigning) }

func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// edgeLeaderChanged tells the edge, if there is one already.
func (c *Cluster) edgeLeaderChanged(shard queue.ShardID) {
	select {
	case <-c.joined:
		c.edge.LeaderChanged(shard)
	default:
	}
	c.statusChanged()
}

// sessionIs tells all hosts how a run of another node is.
func (c *Cluster) sessionIs(session queue.SessionID, state pipe.PeerState) {
	select {
	case <-c.joined:
	default:
		return // the hosts are told when they begin
	}
	for _, s := range c.shards() {
		s.host.Peer(session, state)
	}
	c.local.Peer(session, state)
	switch {
	case session.Node() == c.Self().Node:
	case state == pipe.PeerDead:
		c.edge.SessionOver(session)
	case state == pipe.PeerAlive:
		c.edge.SessionAlive(session)
	}
}
