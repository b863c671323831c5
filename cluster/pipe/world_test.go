package pipe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmq/warren/raftfsm/queue"
)

// world is a few nodes, each with an edge, a server and a host of every shard, over logs and links that a seed lets
// fail. It runs in a synctest bubble: time is the bubble's.
type world struct {
	t      *testing.T
	ctx    context.Context
	stop   context.CancelFunc
	wg     sync.WaitGroup
	nodes  []*worldNode
	shards []*worldShard

	mu  sync.Mutex
	rng *rand.Rand
}

// worldOptions are what tests change.
type worldOptions struct {
	nodes, shards int
	seed          uint64
	edge          EdgeOptions
	host          HostOptions
	server        ServerOptions
	instant       bool // no delays
}

var quiet = slog.New(slog.DiscardHandler)

func newWorld(t *testing.T, o worldOptions) *world {
	w := &world{t: t, rng: rand.New(rand.NewPCG(o.seed, 1))}
	w.ctx, w.stop = context.WithCancel(context.Background())
	for i := range o.shards {
		w.shards = append(w.shards, &worldShard{w: w, id: queue.ShardID(i), leader: -1, instant: o.instant, changed: make(chan struct{})})
	}
	for i := range o.nodes {
		n := &worldNode{w: w, id: uint16(i + 1), hosts: map[queue.ShardID]*Host{}, links: map[*worldLink]uint16{}}
		w.nodes = append(w.nodes, n)
		for _, s := range w.shards {
			ho := o.host
			ho.Shard, ho.State, ho.Bodies, ho.Log, ho.Logger = s.id, queue.New(), s, &worldLog{s, i}, quiet
			ho.VerifyRead = func(context.Context) (uint64, error) { return s.verify(i) }
			n.hosts[s.id] = must(NewHost(ho))
			s.views = append(s.views, -1)
			s.applied = append(s.applied, 0)
			s.control = append(s.control, make(chan func(), 1024))
		}
		eo := o.edge
		eo.Session, eo.Links, eo.Leaders, eo.Hosts, eo.Logger = queue.MakeSessionID(n.id, 1), n, n, n, quiet
		n.edge = must(NewEdge(eo))
		so := o.server
		so.Hosts, so.Logger = n, quiet
		n.server = must(NewServer(so))
	}
	for _, s := range w.shards {
		w.wg.Go(s.commit)
		for i := range w.nodes {
			w.wg.Go(func() { s.apply(i) })
			w.wg.Go(func() { s.obey(i) })
		}
	}
	return w
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// end stops everything and waits for it.
func (w *world) end() {
	w.stop()
	for _, n := range w.nodes {
		n.edge.Close()
		for _, h := range n.hosts {
			h.Close()
		}
		n.cut(func(*worldLink) bool { return true })
	}
	w.wg.Wait()
}

func (w *world) n(max int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rng.IntN(max)
}

// doze lets up to max of the bubble's time pass; false: the world ends.
func (w *world) doze(max time.Duration) bool {
	select {
	case <-time.After(time.Duration(w.n(int(max)))):
		return true
	case <-w.ctx.Done():
		return false
	}
}

// worldNode is Links, Leaders and Hosts of a node.
type worldNode struct {
	w      *world
	id     uint16
	edge   *Edge
	server *Server
	hosts  map[queue.ShardID]*Host
	away   atomic.Bool // it reaches no other node

	mu    sync.Mutex
	links map[*worldLink]uint16
}

func (n *worldNode) Leader(shard queue.ShardID) (uint16, bool) {
	s := n.w.shards[shard]
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.views[n.id-1]
	return uint16(v + 1), v >= 0
}

func (n *worldNode) Host(shard queue.ShardID) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.hosts[shard]
}

func (n *worldNode) Open(_ context.Context, node uint16) (Link, error) {
	if n.w.ctx.Err() != nil || n.away.Load() {
		return nil, errCut
	}
	edge, server := newLinkPair()
	n.mu.Lock()
	n.links[edge] = node
	n.mu.Unlock()
	n.w.wg.Go(func() { n.w.nodes[node-1].server.Serve(n.w.ctx, server) })
	return edge, nil
}

func (n *worldNode) Call(ctx context.Context, node uint16, request []byte) ([]byte, error) {
	if n.w.n(20) == 0 || n.away.Load() {
		return nil, errors.New("call lost")
	}
	return n.w.nodes[node-1].server.Call(ctx, request)
}

// cut closes the links of this node's edge that the condition holds for.
func (n *worldNode) cut(f func(*worldLink) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for l := range n.links {
		if f(l) {
			l.Close()
			delete(n.links, l)
		}
	}
}

// worldLink is one end of a link through channels.
type worldLink struct {
	in, out chan []byte
	closed  chan struct{}
	once    *sync.Once
}

func newLinkPair() (a, b *worldLink) {
	x, y, closed, once := make(chan []byte, 4), make(chan []byte, 4), make(chan struct{}), new(sync.Once)
	return &worldLink{x, y, closed, once}, &worldLink{y, x, closed, once}
}

var errCut = errors.New("link cut")

func (l *worldLink) Send(frame []byte) error {
	select {
	case <-l.closed:
		return errCut
	default:
	}
	select {
	case l.out <- slices.Clone(frame):
		return nil
	case <-l.closed:
		return errCut
	}
}

func (l *worldLink) Recv() ([]byte, error) {
	select {
	case <-l.closed:
		return nil, errCut
	default:
	}
	select {
	case frame := <-l.in:
		return frame, nil
	case <-l.closed:
		return nil, errCut
	}
}

func (l *worldLink) Close() { l.once.Do(func() { close(l.closed) }) }

// worldShard is one replicated log: what is committed, what the leader's term has proposed, who believes what.
type worldShard struct {
	w       *world
	id      queue.ShardID
	instant bool

	mu       sync.Mutex
	term     uint64
	leader   int      // index of the node, -1: none
	log      [][]byte // committed; index 1 first; nil: not for the machine
	proposed [][]byte // by the leader in its term, not committed
	views    []int
	applied  []uint64
	changed  chan struct{}
	control  []chan func()
}

func (s *worldShard) signal() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// worldLog is the log as one node's host sees it.
type worldLog struct {
	s    *worldShard
	node int
}

func (l *worldLog) Propose(term uint64, entry []byte) error {
	s := l.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leader == l.node && s.term == term {
		s.proposed = append(s.proposed, entry)
		s.signal()
		return nil
	}
	if s.w.n(3) == 0 {
		return errors.New("not the leader")
	}
	s.fail(l.node, term, 1)
	return nil
}

// fail tells a host after a while that entries of the term are lost.
func (s *worldShard) fail(node int, term uint64, entries int) {
	s.w.wg.Go(func() {
		for range entries {
			if s.w.doze(30 * time.Millisecond) {
				s.w.nodes[node].hosts[s.id].ProposalFailed(term, errors.New("leadership lost"))
			}
		}
	})
}

// commit commits what the leader proposes.
func (s *worldShard) commit() {
	for {
		s.mu.Lock()
		changed, some := s.changed, len(s.proposed) > 0
		s.mu.Unlock()
		if !some {
			select {
			case <-changed:
				continue
			case <-s.w.ctx.Done():
				return
			}
		}
		if !s.instant && !s.w.doze(3*time.Millisecond) {
			return
		}
		s.mu.Lock()
		s.commitSome(1 + s.w.n(3))
		s.mu.Unlock()
	}
}

// commitSome moves up to n proposed entries to the log. mu is held.
func (s *worldShard) commitSome(n int) {
	n = min(n, len(s.proposed))
	s.log = append(s.log, s.proposed[:n]...)
	s.proposed = s.proposed[n:]
	s.signal()
}

// apply feeds one node's host.
func (s *worldShard) apply(node int) {
	h := s.w.nodes[node].hosts[s.id]
	for {
		s.mu.Lock()
		from, changed := s.applied[node], s.changed
		data := s.log[from:]
		leads := s.leader == node
		s.mu.Unlock()
		if len(data) == 0 {
			select {
			case <-changed:
				continue
			case <-s.w.ctx.Done():
				return
			}
		}
		if !leads && !s.instant && !s.w.doze(10*time.Millisecond) {
			return
		}
		var entries []Entry
		for i, d := range data {
			if d != nil {
				entries = append(entries, Entry{from + uint64(i) + 1, d})
			}
		}
		if err := h.ApplyBatch(entries); err != nil {
			s.w.t.Errorf("node %d: %v", node+1, err)
			return
		}
		s.mu.Lock()
		s.applied[node] = from + uint64(len(data))
		s.signal()
		s.mu.Unlock()
	}
}

// obey carries out, in order, what one node's host is told about leadership.
func (s *worldShard) obey(node int) {
	for {
		select {
		case f := <-s.control[node]:
			f()
		case <-s.w.ctx.Done():
			return
		}
	}
}

// elect makes a node the leader: some of what the leader before had in flight is committed, the rest is lost, and the
// old leader learns of it late.
func (s *worldShard) elect(node int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.leader; old >= 0 {
		s.commitSome(s.w.n(len(s.proposed) + 1))
		s.fail(old, s.term, len(s.proposed))
		s.proposed = nil
		s.control[old] <- func() {
			if s.instant || s.w.doze(40*time.Millisecond) {
				s.w.nodes[old].hosts[s.id].Follow()
			}
		}
	}
	s.term++
	s.leader = node
	s.log = append(s.log, nil)
	s.signal()
	term, index := s.term, uint64(len(s.log))
	s.control[node] <- func() {
		if s.waitApplied(node, index) {
			s.w.nodes[node].hosts[s.id].Lead(term, index)
		}
	}
	for i := range s.views {
		s.w.wg.Go(func() { s.learn(i, node, term) })
	}
}

// learn tells a node's edge after a while who leads.
func (s *worldShard) learn(node, leader int, term uint64) {
	if !s.instant && !s.w.doze(20*time.Millisecond) {
		return
	}
	s.mu.Lock()
	if s.term == term {
		s.views[node] = leader
	}
	s.mu.Unlock()
	s.w.nodes[node].edge.LeaderChanged(s.id)
}

func (s *worldShard) waitApplied(node int, index uint64) bool {
	for {
		s.mu.Lock()
		done, changed := s.applied[node] >= index, s.changed
		s.mu.Unlock()
		if done {
			return true
		}
		select {
		case <-changed:
		case <-s.w.ctx.Done():
			return false
		}
	}
}

// verify is VerifyRead.
func (s *worldShard) verify(node int) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leader != node {
		return 0, ErrNotLeader
	}
	return uint64(len(s.log)), nil
}

// ReadBody implements BodyReader for all nodes.
func (s *worldShard) ReadBody(index uint64, offset, size uint32, dst []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if index == 0 || index > uint64(len(s.log)) || uint64(offset)+uint64(size) > uint64(len(s.log[index-1])) {
		return nil, fmt.Errorf("no bytes %d+%d in entry %d", offset, size, index)
	}
	if cap(dst) >= int(size) { // what comes back may be dst's memory: nobody may rely on an alias
		return append(dst[:0], s.log[index-1][offset:offset+size]...), nil
	}
	return s.log[index-1][offset : offset+size], nil
}

// inBubble runs a test in a bubble with a world of its own.
func inBubble(t *testing.T, o worldOptions, f func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, o)
		defer w.end()
		f(t, w)
	})
}
