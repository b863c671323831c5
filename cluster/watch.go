package cluster

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/warrenmq/warren/cluster/pipe"
	"github.com/warrenmq/warren/cluster/raftnet"
	"github.com/warrenmq/warren/cluster/skew"
	nodev1 "github.com/warrenmq/warren/proto/node/v1"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// watcher knows how the other nodes are. It has a stream from each, on which the node tells how it is.
type watcher struct {
	c   *Cluster
	ctx context.Context

	mu    sync.Mutex // guards what follows
	peers map[string]*peerInfo
	work  sync.WaitGroup
}

// peerInfo is what is known of another node.
type peerInfo struct {
	state  pipe.PeerState
	since  time.Time      // of the state
	status *nodev1.Status // the last one; nil: none yet
	heard  time.Time      // when that came
	tried  bool           // it has been heard, or not been reached where it listens, at least once

	clock    skew.Reading  // the last one
	measured time.Duration // when that was, by clocks.now; 0: never
	end      context.CancelFunc
}

const (
	statusPeriod = 500 * time.Millisecond
	// silenceLimit is how long a node may say nothing before it counts as unreachable and its connections are given up.
	silenceLimit = 5 * statusPeriod
	probeTimeout = time.Second
	retryMin     = 5 * time.Millisecond // a process that ends closes its connections before its port
	retryMax     = 500 * time.Millisecond
)

func newWatcher(ctx context.Context, c *Cluster) *watcher {
	return &watcher{c: c, ctx: ctx, peers: map[string]*peerInfo{}}
}

// add begins to watch a node, once.
func (w *watcher) add(uuid string) {
	if uuid == w.c.identity.UUID || uuid == "" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.peers[uuid] != nil || w.ctx.Err() != nil {
		return
	}
	ctx, end := context.WithCancel(w.ctx)
	w.peers[uuid] = &peerInfo{state: pipe.PeerUnreachable, since: time.Now(), end: end}
	w.work.Go(func() { w.watch(ctx, uuid) })
}

// keep ends the watch of nodes that are no members any more, and connections to them.
func (w *watcher) keep(member func(uuid string) bool) {
	w.mu.Lock()
	for uuid, p := range w.peers {
		if !member(uuid) {
			p.end()
			delete(w.peers, uuid)
		}
	}
	w.mu.Unlock()
	w.c.network.Keep(member)
}

// watch follows one node until ctx ends.
func (w *watcher) watch(ctx context.Context, uuid string) {
	pause := retryMin
	for ctx.Err() == nil {
		began := time.Now()
		err := w.listen(ctx, uuid)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > retryMax {
			pause = retryMin
		}
		w.lost(ctx, uuid, err, pause == retryMax)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, retryMax)
	}
}

var (
	errSilentNode = errors.New("the node is silent")
	errOtherNode  = errors.New("another node answers where it was")
)

// listen takes a node's word on how it is until it falls silent.
func (w *watcher) listen(ctx context.Context, uuid string) error {
	control, err := w.c.network.Control(uuid)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	silence := time.AfterFunc(silenceLimit, func() { cancel(errSilentNode) })
	defer silence.Stop()
	var measuring sync.WaitGroup
	defer measuring.Wait()
	defer cancel(nil)
	measuring.Go(func() { w.c.clocks.measure(ctx, uuid, control) })
	stream, err := control.Watch(ctx, &nodev1.WatchRequest{Uuid: w.c.identity.UUID, ClusterId: w.c.clusterID()})
	if err != nil {
		return err
	}
	for {
		s, err := stream.Recv()
		switch status.Code(err) {
		case codes.NotFound:
			if !w.c.letInAgain(w.ctx, uuid) {
				w.c.removed()
			}
		case codes.FailedPrecondition:
			w.c.strangers.succeeded(status.Convert(err).Message())
		}
		if err != nil {
			return errors.Join(err, context.Cause(ctx))
		}
		silence.Reset(silenceLimit)
		if s.Uuid != uuid {
			return fmt.Errorf("%w: %s", errOtherNode, s.Uuid)
		}
		w.heard(uuid, s)
	}
}

// heard takes a node's status.
func (w *watcher) heard(uuid string, s *nodev1.Status) {
	w.mu.Lock()
	p := w.peers[uuid]
	if p == nil { // it is no member any more
		w.mu.Unlock()
		return
	}
	was, before := p.state, p.status
	if s.DiskHangs && !before.GetDiskHangs() {
		w.c.probe()
	}
	p.status, p.heard, p.state, p.tried = s, time.Now(), pipe.PeerAlive, true
	if was != pipe.PeerAlive {
		p.since = time.Now()
	}
	w.mu.Unlock()
	if was != pipe.PeerAlive {
		w.c.log.Info("node is reached", "peer", s.Name)
	}
	if before != nil && before.Session != 0 && s.Session > before.Session {
		w.c.sessionIs(queue.SessionID(before.Session), pipe.PeerDead)
	}
	if s.Session != 0 && (was != pipe.PeerAlive || before == nil || before.Session != s.Session) {
		w.c.sessionIs(queue.SessionID(s.Session), pipe.PeerAlive)
	}
	w.c.leaders.heard(uuid, s)
}

// clockIs takes a reading of a node's clock.
func (w *watcher) clockIs(uuid string, r skew.Reading, measured time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.peers[uuid]; p != nil {
		p.clock, p.measured = r, measured
	}
}

// lost decides what the end of a node's stream means. A process that has ended leaves a port that refuses; one that is cut
// off, or hangs, leaves nothing. sure: it has been tried several times.
func (w *watcher) lost(ctx context.Context, uuid string, why error, sure bool) {
	if errors.Is(why, errSilentNode) && w.alive(uuid) {
		w.is(uuid, pipe.PeerUnreachable, why) // whatever the port says
	}
	state := pipe.PeerUnreachable
	probing, cancel := context.WithTimeout(ctx, probeTimeout)
	err := w.c.network.Probe(probing, uuid)
	cancel()
	switch {
	case err == nil:
		if !errors.Is(why, errSilentNode) && !errors.Is(why, errOtherNode) && status.Code(why) != codes.Unimplemented {
			return // the connection broke, the node did not; the next try tells
		}
	case errors.Is(err, errNoAddress) && !w.alive(uuid):
		return // nothing was tried: what was known of it holds
	case errors.Is(err, syscall.ECONNREFUSED):
		state = pipe.PeerDead
	case errors.Is(err, syscall.ECONNRESET) && !sure:
		return // it took the connection and ended; the next try tells
	}
	w.is(uuid, state, why)
}

// is notes that a node is not alive, as far as can be seen.
func (w *watcher) is(uuid string, state pipe.PeerState, why error) {
	w.mu.Lock()
	p := w.peers[uuid]
	if p == nil {
		w.mu.Unlock()
		return
	}
	p.tried = true
	if p.state == pipe.PeerDead && errors.Is(why, errOtherNode) {
		state = pipe.PeerDead // it was seen to end
	}
	changed := p.state != state
	if changed {
		p.state, p.since = state, time.Now()
	}
	s := p.status
	w.mu.Unlock()
	if !changed {
		return
	}
	w.c.network.Disconnect(uuid)
	if s == nil {
		return
	}
	w.c.log.Warn("node is lost", "peer", s.Name, "dead", state == pipe.PeerDead, "err", why)
	if s.Session != 0 {
		w.c.sessionIs(queue.SessionID(s.Session), state)
	}
	w.c.leaders.lost(uuid)
	w.c.wakeCampaign()
	w.c.wakeSupervisor()
}

// alive tells whether a node's process runs and can be reached.
func (w *watcher) alive(uuid string) bool {
	if uuid == w.c.identity.UUID {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.peers[uuid]
	return p != nil && p.state == pipe.PeerAlive
}

// maybeLeads tells whether a node that leads may still do so: it is not known to be dead. A leader that cannot be reached
// from here may be reached by others, and times out if not.
func (w *watcher) maybeLeads(uuid string) bool {
	if uuid == w.c.identity.UUID {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.peers[uuid]
	return p == nil || p.state != pipe.PeerDead
}

// knows tells whether it is known of all nodes that are watched how they are.
func (w *watcher) knows() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.peers {
		if !p.tried {
			return false
		}
	}
	return true
}

// sessions are the runs of the nodes that are alive, as far as they are registered.
func (w *watcher) sessions() (list []queue.SessionID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.peers {
		if p.state == pipe.PeerAlive && p.status != nil && p.status.Session != 0 {
			list = append(list, queue.SessionID(p.status.Session))
		}
	}
	return list
}

// Alarms are the reasons for which other living nodes block publishers.
func (c *Cluster) Alarms() (reasons []string) {
	w := c.watcher
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.peers {
		if p.state == pipe.PeerAlive && p.status != nil && p.status.Alarm != "" {
			reasons = append(reasons, p.status.Alarm)
		}
	}
	return reasons
}

// leaderElsewhere implements nodesView.
func (w *watcher) leaderElsewhere(group uint32) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.peers {
		if p.state != pipe.PeerAlive || p.status == nil {
			continue
		}
		for _, g := range p.status.Groups {
			leader := raftnet.NodeOf(g.Leader)
			if g.Group != group || leader == "" || leader == w.c.identity.UUID || time.Duration(g.UnheardMillis)*time.Millisecond >= unheardLimit {
				continue
			}
			if of := w.peers[leader]; (of == nil || of.state != pipe.PeerDead) && !of.hangs() {
				return true
			}
		}
	}
	return false
}

// yields implements nodesView.
func (w *watcher) yields() bool {
	return w.c.clocks.off.Load() || w.c.draining.Load() || w.c.disk.slow.Load()
}

// hangs implements nodesView.
func (w *watcher) hangs(uuid string) bool {
	if uuid == w.c.identity.UUID {
		return w.c.disk.hangs.Load() || w.c.disk.probing.Load()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.peers[uuid].hangs()
}

// hangs tells whether a node has said, not long ago, that its disk hangs. The watcher's mu is held.
func (p *peerInfo) hangs() bool {
	return p != nil && p.state == pipe.PeerAlive && p.status.GetDiskHangs() && time.Since(p.heard) < silenceLimit
}

// info returns a copy of what is known of a node.
func (w *watcher) info(uuid string) peerInfo {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.peers[uuid]; p != nil {
		return *p
	}
	return peerInfo{state: pipe.PeerUnreachable}
}

// all returns copies of what is known of all nodes that are watched.
func (w *watcher) all() map[string]peerInfo {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make(map[string]peerInfo, len(w.peers))
	for uuid, p := range w.peers {
		all[uuid] = *p
	}
	return all
}

// status is how this node is.
func (c *Cluster) status() *nodev1.Status {
	s := &nodev1.Status{Uuid: c.identity.UUID, Name: c.o.Name, ClusterId: c.clusterID(), Session: uint64(c.Self().Session)}
	s.Draining, s.ClockOff, s.Idle, s.Address, s.Version = c.draining.Load(), c.clocks.off.Load(), c.idle.Load(), c.member().Address, c.o.Version
	s.DiskHangs, s.DiskSlow = c.disk.hangs.Load(), c.disk.slow.Load()
	if c.o.Resources != nil {
		r := c.o.Resources()
		s.MemoryBytes, s.DiskFreeBytes, s.DiskTotalBytes, s.Alarm = r.Memory, r.DiskFree, r.DiskTotal, r.Alarm
	}
	if c.hasCatalog() {
		g := c.catalog.groupStatus(c.catalog.reached())
		if g.Leads {
			g.Seats = seats(c.catalog.members())
		}
		s.Groups = append(s.Groups, g)
	}
	for _, sh := range c.shards() {
		g := sh.groupStatus(sh.host.Applied())
		if a := sh.agreed.Load(); g.Leads && a != nil {
			g.Seats, g.SeatsIndex = seats(a.configuration.Servers), a.index
		}
		sh.tellDamage(g)
		s.Groups = append(s.Groups, g)
	}
	c.mu.Lock()
	for group, why := range c.damage {
		s.Groups = append(s.Groups, &nodev1.GroupStatus{Group: group, Damage: why})
	}
	c.mu.Unlock()
	return s
}

func seats(servers []raft.Server) (list []*nodev1.Seat) {
	for _, s := range servers {
		list = append(list, &nodev1.Seat{Server: string(s.ID), Votes: s.Suffrage == raft.Voter})
	}
	return list
}

func (g *group) groupStatus(applied uint64) *nodev1.GroupStatus {
	s := &nodev1.GroupStatus{Group: g.id, Server: string(g.server()), Applied: applied}
	r := g.instance()
	if r == nil {
		return s
	}
	s.Term, s.Committed = r.CurrentTerm(), r.CommitIndex()
	// Who leads says in which term. The instance may be in a later one already, which is another's: who believed that this seat leads in it
	// would look for that one here.
	if term, leads := g.leading(); leads {
		s.Leads, s.Term = true, term
	}
	_, leader := r.LeaderWithID()
	s.Leader, s.UnheardMillis = string(leader), uint32(min(unheard(r).Milliseconds(), math.MaxUint32))
	return s
}

// Watch implements the Control service.
func (s controlServer) Watch(q *nodev1.WatchRequest, stream grpc.ServerStreamingServer[nodev1.Status]) error {
	c := s.c
	if id := c.clusterID(); q.ClusterId != "" && id != "" && q.ClusterId != id {
		if why := c.recoveredFrom(q.ClusterId); why != "" {
			return status.Error(codes.FailedPrecondition, why)
		}
		return status.Errorf(codes.PermissionDenied, "this node is of cluster %s", id)
	}
	if q.ClusterId != "" && c.isRemoved(q.Uuid) {
		return status.Error(codes.NotFound, ErrRemoved.Error())
	}
	c.watcher.add(q.Uuid)
	ticker := time.NewTicker(statusPeriod)
	defer ticker.Stop()
	for {
		changed := c.statusChange()
		if err := stream.Send(c.status()); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ticker.C:
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-c.ctx.Done():
			return c.ctx.Err()
		}
	}
}
