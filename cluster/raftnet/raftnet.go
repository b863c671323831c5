// Package raftnet is the one transport for all Raft groups of a node, with a thin facade for each. Requests of all groups
// to one node share a stream; a group's number and an id in each frame tell them apart. Snapshots go over streams of their
// own. Opening streams is left to its caller.
//
// It defuses defects of hashicorp/raft v1.8.0 from outside: heartbeats go the way of all other requests, through the
// group's main loop (the library's fast path lets replicas diverge, hashicorp/raft#695), and there is no pipeline (it can
// wedge for ever, #612). Pre-votes are carried, so a node that was cut off does not disturb the others when it returns.
package raftnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Stream is frames in order in both directions, as package peer has it.
type Stream interface {
	Send(parts ...[]byte) error
	Recv() ([]byte, error)
	Close()
}

// Options configure a Transport. All are required but those with a default.
type Options struct {
	// Open opens a stream to a node whose other end goes to Transport.Serve there, or (bulk) to Transport.ServeBulk.
	Open   func(ctx context.Context, uuid string, bulk bool) (Stream, error)
	Logger *slog.Logger
	// Timeout bounds each request but those with snapshots; a stream on which one was not answered in time is given up.
	// It must be above the worst fsync. Default 4 s.
	Timeout time.Duration
}

// Transport carries the requests of all groups of this node.
type Transport struct {
	o Options

	mu     sync.Mutex // guards what follows
	groups map[uint32]*Group
	links  map[string]*link
	closed bool
}

// New makes a transport.
func New(o Options) *Transport {
	if o.Timeout == 0 {
		o.Timeout = 4 * time.Second
	}
	return &Transport{o: o, groups: map[uint32]*Group{}, links: map[string]*link{}}
}

// ServerID names a node's seat in a group: the node, and how often its replica was made anew. A replica that has lost what
// it knew comes back under a higher number, so nobody counts on what it had promised before.
func ServerID(uuid string, incarnation uint64) raft.ServerID {
	return raft.ServerID(fmt.Sprintf("%s.%d", uuid, incarnation))
}

// NodeOf returns the node that holds a seat.
func NodeOf(server string) string {
	uuid, _, _ := strings.Cut(server, ".")
	return uuid
}

// Group returns the facade of a group on this node, under the id that its seat has. It replaces one that was there.
func (t *Transport) Group(group uint32, server raft.ServerID) *Group {
	g := &Group{t: t, group: group, server: string(server), requests: make(chan raft.RPC), closed: make(chan struct{}),
		followed: map[raft.ServerAddress]following{}, released: make(chan struct{})}
	t.mu.Lock()
	old := t.groups[group]
	t.groups[group] = g
	t.mu.Unlock()
	if old != nil {
		old.end()
	}
	return g
}

func (t *Transport) group(group uint32) *Group {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.groups[group]
}

// Close gives up all streams: requests under way fail, and all later ones.
func (t *Transport) Close() {
	t.mu.Lock()
	links := t.links
	t.links, t.closed = map[string]*link{}, true
	t.mu.Unlock()
	for _, l := range links {
		l.fail(raft.ErrTransportShutdown)
	}
}

// Group is a group's end of the transport: a raft.Transport with pre-vote.
type Group struct {
	t        *Transport
	group    uint32
	server   string
	requests chan raft.RPC
	once     sync.Once
	closed   chan struct{}

	mu       sync.Mutex // guards what follows
	followed map[raft.ServerAddress]following
	released chan struct{} // closed and replaced when the seat does not lead any more
}

// following is the last request that a seat has answered as a follower of this one.
type following struct {
	term uint64
	sent time.Time
}

var (
	_ raft.Transport   = (*Group)(nil)
	_ raft.WithPreVote = (*Group)(nil)
	_ raft.WithClose   = (*Group)(nil)
)

// Consumer implements raft.Transport.
func (g *Group) Consumer() <-chan raft.RPC { return g.requests }

// LocalAddr implements raft.Transport: an address is a seat's id, since the addresses of machines change.
func (g *Group) LocalAddr() raft.ServerAddress { return raft.ServerAddress(g.server) }

// EncodePeer implements raft.Transport.
func (g *Group) EncodePeer(_ raft.ServerID, addr raft.ServerAddress) []byte { return []byte(addr) }

// DecodePeer implements raft.Transport.
func (g *Group) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }

// SetHeartbeatHandler implements raft.Transport. The handler is never called: see the package comment (#695).
func (g *Group) SetHeartbeatHandler(func(raft.RPC)) {}

// AppendEntriesPipeline implements raft.Transport: there is none (#612).
func (g *Group) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

// Close implements raft.WithClose: requests for the group are refused from then on.
func (g *Group) Close() error {
	g.t.mu.Lock()
	if g.t.groups[g.group] == g {
		delete(g.t.groups, g.group)
	}
	g.t.mu.Unlock()
	g.end()
	return nil
}

func (g *Group) end() { g.once.Do(func() { close(g.closed) }) }

// AppendEntries implements raft.Transport. A seat that cannot be reached is waited for: the library counts failures and lets
// up to ten seconds pass before it tries again, in which a node that has come back would not be brought up to date. What the
// library sends as a heartbeat fails at once, since those have a bound of their own.
func (g *Group) AppendEntries(_ raft.ServerID, to raft.ServerAddress, q *raft.AppendEntriesRequest, p *raft.AppendEntriesResponse) error {
	heartbeat := q.PrevLogEntry == 0 && q.LeaderCommitIndex == 0 && len(q.Entries) == 0
	for {
		err := g.appendEntries(to, q, p)
		if err == nil || heartbeat || !errors.Is(err, errUnreachable) || !g.pause() {
			return err
		}
	}
}

// reachPause is waited between two tries to reach a seat.
const reachPause = 50 * time.Millisecond

// pause waits a little; false: the group is closed, or its seat here does not lead any more.
func (g *Group) pause() bool {
	g.mu.Lock()
	released := g.released
	g.mu.Unlock()
	timer := time.NewTimer(reachPause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-released:
	case <-g.closed:
	}
	return false
}

// Release ends the waiting for seats that cannot be reached: this one does not lead any more.
func (g *Group) Release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.released)
	g.released = make(chan struct{})
}

func (g *Group) appendEntries(to raft.ServerAddress, q *raft.AppendEntriesRequest, p *raft.AppendEntriesResponse) error {
	head := g.head(kindAppend, to, q.RPCHeader, 40+len(q.Entries)*(entrySize+64))
	sent := time.Now()
	err := g.t.call(string(to), g.group, head, func(head []byte) [][]byte { return appendEntriesParts(head, q) }, p)
	if err == nil && p.Success {
		g.mu.Lock()
		if f := g.followed[to]; q.Term > f.term || q.Term == f.term && sent.After(f.sent) {
			g.followed[to] = following{q.Term, sent}
		}
		g.mu.Unlock()
	}
	return err
}

// FollowedSince tells whether a seat has followed this one in the term at some time after since: it has answered a request
// that was sent then. The library's VerifyLeader also counts answers to what was sent before it was asked: one that lay in a
// socket while this process was stopped would confirm a leader that has long been deposed.
func (g *Group) FollowedSince(seat raft.ServerAddress, term uint64, since time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	f := g.followed[seat]
	return f.term == term && !f.sent.Before(since)
}

// RequestVote implements raft.Transport.
func (g *Group) RequestVote(_ raft.ServerID, to raft.ServerAddress, q *raft.RequestVoteRequest, p *raft.RequestVoteResponse) error {
	head := appendVote(g.head(kindVote, to, q.RPCHeader, 32), q)
	return g.t.call(string(to), g.group, head, nil, p)
}

// RequestPreVote implements raft.WithPreVote.
func (g *Group) RequestPreVote(_ raft.ServerID, to raft.ServerAddress, q *raft.RequestPreVoteRequest, p *raft.RequestPreVoteResponse) error {
	head := appendPreVote(g.head(kindPreVote, to, q.RPCHeader, 32), q)
	return g.t.call(string(to), g.group, head, nil, p)
}

// TimeoutNow implements raft.Transport.
func (g *Group) TimeoutNow(_ raft.ServerID, to raft.ServerAddress, q *raft.TimeoutNowRequest, p *raft.TimeoutNowResponse) error {
	return g.t.call(string(to), g.group, g.head(kindTimeout, to, q.RPCHeader, 0), nil, p)
}

// head is a request up to its payload, with room for it; the id comes when the request is sent.
func (g *Group) head(kind byte, to raft.ServerAddress, h raft.RPCHeader, room int) []byte {
	hd := header{kind: kind, group: g.group}
	a := address{g.server, string(to), h.ProtocolVersion}
	return a.append(hd.append(make([]byte, 0, headerSize+5+len(a.from)+len(a.to)+room)))
}

// errGroupClosed tells that a group is not on this node (any more).
var errGroupClosed = errors.New("no such group here")

// Campaign makes this seat stand for election at once, without asking whether the others miss the leader. Whoever calls it
// knows that the leader's process is gone.
func (g *Group) Campaign() error {
	a := address{g.server, g.server, raft.ProtocolVersionMax}
	_, err := g.ask(&raft.TimeoutNowRequest{RPCHeader: a.rpcHeader()}, nil, nil)
	return err
}

// ask hands a request to the group's main loop and waits for the answer.
func (g *Group) ask(command any, snapshot io.Reader, done <-chan struct{}) (any, error) {
	answers := make(chan raft.RPCResponse, 1)
	select {
	case g.requests <- raft.RPC{Command: command, Reader: snapshot, RespChan: answers}:
	case <-g.closed:
		return nil, errGroupClosed
	case <-done:
		return nil, context.Canceled
	}
	select {
	case a := <-answers:
		return a.Response, a.Error
	case <-g.closed:
		return nil, errGroupClosed
	}
}
