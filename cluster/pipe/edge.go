package pipe

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// Edge is the edge side of all pipes of this node's run. Its methods may be called from anywhere but a Receiver or a
// Batch.Done, unless they say otherwise.
type Edge struct {
	o    EdgeOptions
	node uint16
	ctx  context.Context // ends with the edge
	end  context.CancelFunc

	began time.Time // what now counts from

	pipes atomic.Pointer[map[queue.ShardID]*pipe] // replaced, never changed

	mu    sync.Mutex // guards what follows, and the making of pipes
	links map[uint16]*edgeLink
	over  map[uint16]queue.SessionID // the runs of other nodes that are over
	alive map[uint16]queue.SessionID // their latest runs that were heard
}

// NewEdge makes an edge. Pipes begin with their first use.
func NewEdge(o EdgeOptions) (*Edge, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	e := &Edge{o: o, node: o.Session.Node(), began: time.Now(), links: map[uint16]*edgeLink{}, over: map[uint16]queue.SessionID{}, alive: map[uint16]queue.SessionID{}}
	e.ctx, e.end = context.WithCancel(context.Background())
	e.pipes.Store(&map[queue.ShardID]*pipe{})
	go e.keepAsking()
	return e, nil
}

// pipe returns the pipe to a shard.
func (e *Edge) pipe(shard queue.ShardID) *pipe {
	if p := (*e.pipes.Load())[shard]; p != nil {
		return p
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	old := *e.pipes.Load()
	if p := old[shard]; p != nil {
		return p
	}
	all := maps.Clone(old)
	p := newPipe(e, shard)
	all[shard] = p
	e.pipes.Store(&all)
	return p
}

// Submit implements broker.Replicator: it hands a batch to its shard's pipe and blocks while the pipe's window is full.
// The error is ctx's or ErrClosed.
func (e *Edge) Submit(ctx context.Context, shard queue.ShardID, b *broker.Batch) error {
	return e.pipe(shard).submit(ctx, b)
}

// Subscribe implements broker.Replicator. It may be called from a Receiver.
func (e *Edge) Subscribe(shard queue.ShardID, id queue.ConsumerID, r broker.Receiver) {
	e.pipe(shard).subscribe(id, r)
}

// Unsubscribe implements broker.Replicator. It may be called from a Receiver.
func (e *Edge) Unsubscribe(shard queue.ShardID, id queue.ConsumerID) {
	e.pipe(shard).unsubscribe(id)
}

// LeaderChanged tells that Leaders knows something new about the shard. It does not block.
func (e *Edge) LeaderChanged(shard queue.ShardID) {
	if p := (*e.pipes.Load())[shard]; p != nil {
		p.leaderChanged()
	}
}

// SessionOver tells that a run of another node is over for good, and the runs before it: what its local shard has not
// answered is answered as if all its queues were deleted, unless the node turns out to be there. It does not block.
func (e *Edge) SessionOver(s queue.SessionID) {
	e.mu.Lock()
	if s >= e.alive[s.Node()] { // else the node is there with a later one
		e.over[s.Node()] = max(e.over[s.Node()], s)
	}
	e.mu.Unlock()
	if p := (*e.pipes.Load())[queue.LocalShard|queue.ShardID(s.Node())]; p != nil {
		p.again()
	}
}

// SessionAlive tells that a run of another node is there (again): what is meant for its local shard waits until it can be reached.
func (e *Edge) SessionAlive(s queue.SessionID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.alive[s.Node()] = max(e.alive[s.Node()], s)
	if e.over[s.Node()] <= s {
		delete(e.over, s.Node())
	}
}

// isOver tells whether the latest run of the node is known to be over.
func (e *Edge) isOver(node uint16) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.over[node] != 0
}

// returned notes that the node has been reached: a run that is not over.
func (e *Edge) returned(node uint16) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.over, node)
}

// leader returns the node to talk to about a shard.
func (e *Edge) leader(shard queue.ShardID) (node uint16, ok bool) {
	if shard.IsLocal() {
		return shard.Owner(), true
	}
	return e.o.Leaders.Leader(shard)
}

// link returns the link to a node, made if there is none.
func (e *Edge) link(node uint16) *edgeLink {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.links[node]
	if l == nil {
		l = newEdgeLink(e, node)
		if e.ctx.Err() != nil {
			return l
		}
		e.links[node] = l
		go l.run()
	}
	return l
}

// forget removes a link that has ended.
func (e *Edge) forget(l *edgeLink) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.links[l.node] == l {
		delete(e.links, l.node)
	}
}

// Close ends all pipes: Submit returns ErrClosed, and Done and Receivers are not called any more once it returns.
func (e *Edge) Close() {
	e.mu.Lock()
	e.end()
	links := maps.Clone(e.links)
	e.mu.Unlock()
	for _, l := range links {
		l.fail(ErrClosed)
	}
	for _, p := range *e.pipes.Load() {
		p.close()
	}
}
