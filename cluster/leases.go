package cluster

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nodev1 "github.com/warrenmq/warren/proto/node/v1"
	"github.com/warrenmq/warren/raftfsm/catalog"
)

// A change of the catalog answers when every node that can be reached acts on it, and a node that cannot be reached knows
// that its copy may be stale (P6, P7). The means are leases (Gray and Cheriton, 1989):
//
//   - A node asks the catalog's leader for a lease. The leader confirms its leadership by a majority after it was asked, and
//     answers with the index of the last command. The copy is known to be current for leaseTime from the asking on, once it
//     holds that command.
//   - The leader answers a change when each node has said that it holds it, or when the leases that were given before the
//     change are over. Later ones bind the node to hold it.
//   - A node's copy may hold a change before all others do. What a client is told because of it waits until they do, or the next
//     client, of another node, would be told the opposite (Cluster.Settle).
//   - A new leader does not know the leases that the one before has given. None was asked for after the election, since no
//     majority would have confirmed the old leader; so all are over leaseTime after it. Only a node that the catalog has is given any,
//     so the new leader knows whose there may be.
const (
	leaseTime  = 1500 * time.Millisecond
	leasePause = 300 * time.Millisecond // between two pings
)

// leases is the leader's side. It is used on every node, and answers while this node leads.
type leases struct {
	c *Cluster

	mu      sync.Mutex // guards what follows
	leading bool
	nodes   map[uint16]lease
	changed chan struct{} // closed and replaced when a node has said what it holds
}

// lease is what the leader knows of a node's copy.
type lease struct {
	holds uint64    // the last command that it has said it holds
	until time.Time // end of the last lease that it was given
}

func newLeases(c *Cluster) *leases {
	return &leases{c: c, nodes: map[uint16]lease{}, changed: make(chan struct{})}
}

// lead begins a leadership: any node may hold a lease from the leader before.
func (l *leases) lead(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leading = true
	clear(l.nodes)
	l.c.catalog.read(func(s *catalog.State) {
		for n := range s.Nodes() {
			l.nodes[n.Number] = lease{until: now.Add(leaseTime)}
		}
	})
}

func (l *leases) follow() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leading = false
}

// binds tells whether a node may act on what its copy held before a change that were made now: this node leads, and has given it a lease
// that is not over, or the leader before may have.
func (l *leases) binds(node uint16, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leading && now.Before(l.nodes[node].until)
}

// holds notes what a node has said.
func (l *leases) holds(node uint16, index uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.nodes[node]
	if index > n.holds {
		n.holds = index
		l.nodes[node] = n
		close(l.changed)
		l.changed = make(chan struct{})
	}
}

// grant gives a node a lease: the index that it must hold; false: this node does not lead.
func (l *leases) grant(ctx context.Context, node uint16) (index uint64, ok bool) {
	if _, err := l.c.catalog.verify(ctx); err != nil {
		return 0, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.leading {
		return 0, false
	}
	n := l.nodes[node]
	n.until = time.Now().Add(leaseTime)
	l.nodes[node] = n
	return l.c.catalog.at(), true
}

// settleAll waits until every node acts on what has been committed so far, or knows that it does not, and says how far that is.
func (l *leases) settleAll(ctx context.Context) (index uint64, err error) {
	if _, err := l.c.catalog.verify(ctx); err != nil {
		return 0, err
	}
	index = l.c.catalog.at()
	return index, l.settle(ctx, index)
}

// settle waits until every node acts on a command or knows that it does not. Leases that were given after the command was applied
// here need not be waited for; the later it is called, the more of them are.
func (l *leases) settle(ctx context.Context, index uint64) error {
	l.mu.Lock()
	waits := map[uint16]time.Time{}
	self := l.c.Self().Node
	for node, n := range l.nodes {
		if node != self && n.holds < index {
			waits[node] = n.until // leases from here on bind the node to hold the command
		}
	}
	l.mu.Unlock()
	for {
		l.mu.Lock()
		changed := l.changed
		var last time.Time
		for node, until := range waits {
			if l.nodes[node].holds >= index {
				delete(waits, node)
			} else if until.After(last) {
				last = until
			}
		}
		l.mu.Unlock()
		rest := time.Until(last)
		if len(waits) == 0 || rest <= 0 {
			return nil
		}
		timer := time.NewTimer(rest)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		timer.Stop()
	}
}

// serve keeps one node's copy current and known to be so, until its stream ends.
func (l *leases) serve(stream grpc.BidiStreamingServer[nodev1.FollowRequest, nodev1.FollowResponse]) error {
	if _, ok := l.c.catalog.leading(); !ok {
		return errNotCatalogLeader
	}
	f := &feeder{l: l, stream: stream, wake: make(chan struct{}, 1), pings: make(chan uint64, 1)}
	ctx, cancel := context.WithCancelCause(stream.Context())
	var senders sync.WaitGroup
	for _, send := range []func(context.Context) error{f.feed, f.grant} {
		senders.Go(func() { cancel(send(ctx)) })
	}
	go func() { cancel(f.receive(ctx)) }() // ends with the stream, which ends when this function returns
	<-ctx.Done()
	senders.Wait()
	return context.Cause(ctx)
}

// feeder is the leader's end of a node's stream.
type feeder struct {
	l      *leases
	stream grpc.BidiStreamingServer[nodev1.FollowRequest, nodev1.FollowResponse]
	wake   chan struct{} // has room for one
	pings  chan uint64   // has room for one

	sending sync.Mutex // held to send

	mu    sync.Mutex // guards what follows
	node  uint16
	holds uint64
}

// maxNodeNumber is the highest number that the catalog gives.
const maxNodeNumber = 1<<15 - 1

func (f *feeder) receive(ctx context.Context) error {
	for ctx.Err() == nil {
		q, err := f.stream.Recv()
		if err != nil {
			return err
		}
		if q.Node > maxNodeNumber {
			return status.Error(codes.InvalidArgument, "no such node")
		}
		f.mu.Lock()
		f.node, f.holds = uint16(q.Node), max(f.holds, q.Applied)
		f.mu.Unlock()
		if q.Node == 0 {
			q.Ping = 0
		} else {
			f.l.holds(uint16(q.Node), q.Applied)
		}
		if q.Ping != 0 {
			select {
			case f.pings <- q.Ping:
			default: // the one before is being answered
			}
		}
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
	return ctx.Err()
}

// grant answers pings.
func (f *feeder) grant(ctx context.Context) error {
	for {
		select {
		case ping := <-f.pings:
			f.mu.Lock()
			node := f.node
			f.mu.Unlock()
			index, ok := f.l.grant(ctx, node)
			if !ok {
				return errNotCatalogLeader
			}
			if err := f.send(&nodev1.FollowResponse{Ping: ping, Index: index}); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

var errNotCatalogLeader = status.Error(codes.FailedPrecondition, "this node does not lead the catalog")

// maxFed bounds the commands of one message to a node.
const maxFed = 128

// feed sends what has been committed beyond what the node holds.
func (f *feeder) feed(ctx context.Context) error {
	sent := uint64(0) // the last command that this stream has sent
	for {
		f.mu.Lock()
		sent = max(sent, f.holds)
		f.mu.Unlock()
		commands, more := f.l.c.catalog.after(sent)
		response := &nodev1.FollowResponse{}
		for _, c := range commands[:min(len(commands), maxFed)] {
			response.Commands = append(response.Commands, &nodev1.CommittedCommand{Previous: c.previous, Index: c.index, Command: c.data})
			sent = c.index
		}
		if len(commands) > 0 {
			if err := f.send(response); err != nil {
				return err
			}
			continue
		}
		select {
		case <-more:
		case <-f.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
		if _, ok := f.l.c.catalog.leading(); !ok {
			return errNotCatalogLeader
		}
	}
}

func (f *feeder) send(response *nodev1.FollowResponse) error {
	f.sending.Lock()
	defer f.sending.Unlock()
	return f.stream.Send(response)
}
