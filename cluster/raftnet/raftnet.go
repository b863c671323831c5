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
	"math"
	"strings"
	"sync"
	"sync/atomic"
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
	// Timeout bounds each request but those with snapshots. It must be above the worst fsync. Default 4 s.
	Timeout time.Duration
}

// Transport carries the requests of all groups of this node.
type Transport struct {
	o Options

	mu      sync.Mutex // guards what follows
	groups  map[uint32]*Group
	arrived chan struct{} // closed and replaced when a group gets a seat here
	links   map[string]*link
	closed  bool
}

// New makes a transport.
func New(o Options) *Transport {
	if o.Timeout == 0 {
		o.Timeout = 4 * time.Second
	}
	return &Transport{o: o, groups: map[uint32]*Group{}, arrived: make(chan struct{}), links: map[string]*link{}}
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
	g := &Group{t: t, group: group, server: string(server), requests: make(chan raft.RPC), followed: map[raft.ServerAddress]following{},
		durable: func() uint64 { return math.MaxUint64 }, applied: func() uint64 { return 0 },
		member: func(raft.ServerAddress) bool { return true }, refused: func(*raft.RequestVoteRequest) {}, judged: func(candidate raft.ServerID) raft.ServerID { return candidate }}
	g.life, g.endLife = context.WithCancel(context.Background())
	g.leads, g.endLeads = context.WithCancel(g.life)
	t.mu.Lock()
	old := t.groups[group]
	t.groups[group] = g
	close(t.arrived)
	t.arrived = make(chan struct{})
	t.mu.Unlock()
	if old != nil {
		old.end()
	}
	return g
}

// seat returns the facade of a group if it has the seat that is meant here, and else what is closed when another comes.
func (t *Transport) seat(group uint32, server string) (*Group, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if g := t.groups[group]; g != nil && g.server == server {
		return g, nil
	}
	return nil, t.arrived
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
	deciding atomic.Int32    // requests for this seat's vote that are not answered yet
	granted  atomic.Uint64   // the latest term in which it gave its vote
	life     context.Context // ends when the group is closed
	endLife  context.CancelFunc

	mu       sync.Mutex // guards what follows
	followed map[raft.ServerAddress]following
	leads    context.Context // ends with Release, and is replaced
	endLeads context.CancelFunc
	durable  func() uint64
	applied  func() uint64
	member   func(raft.ServerAddress) bool
	refused  func(*raft.RequestVoteRequest)
	judged   func(raft.ServerID) raft.ServerID
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

func (g *Group) end() { g.endLife() }

// Closed is closed with the facade: its group reaches nobody then.
func (g *Group) Closed() <-chan struct{} { return g.life.Done() }

// Members tells how to find out whether a seat is in the group's configuration: one that is not is not waited for. member must
// not block.
func (g *Group) Members(member func(raft.ServerAddress) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.member = member
}

// Durable tells how to find out up to which index this seat's log is durable, when the library takes entries for stored that are not yet.
// Followers are not told that more is committed than that. durable must not block.
func (g *Group) Durable(durable func() uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.durable = durable
}

// Refused names who is told, on a goroutine of its own, when this seat has refused a candidate its vote.
func (g *Group) Refused(tell func(*raft.RequestVoteRequest)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refused = tell
}

// Elects names the instance whose votes are asked for by this facade. The library refuses its vote, and its pre-vote, to a candidate
// that its newest configuration does not have as a voter. But a seat that has not been told of a change of members yet, as it was
// away, is needed by those that the change has made voters: when the leader fails then, it would refuse them for ever, and have no
// majority itself. Who leads is decided by terms and logs alone (Raft, 4.2.2: a server grants its vote to candidates that are not in
// its configuration). So such a candidate is judged under the name of a voter that the seat does know, as long as it knows no leader:
// a seat that was removed must not depose one.
func (g *Group) Elects(r *raft.Raft) {
	judged := func(candidate raft.ServerID) raft.ServerID {
		if leader, _ := r.LeaderWithID(); leader != "" {
			return candidate
		}
		known := r.GetConfiguration()
		if known.Error() != nil {
			return candidate
		}
		as := candidate
		for _, s := range known.Configuration().Servers {
			switch {
			case s.Suffrage != raft.Voter:
			case s.ID == candidate:
				return candidate
			default:
				as = s.ID
			}
		}
		return as
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.judged = judged
}

// judge names a candidate as this seat is to judge it.
func (g *Group) judge(command any) {
	var h *raft.RPCHeader
	switch q := command.(type) {
	case *raft.RequestVoteRequest:
		h = &q.RPCHeader
	case *raft.RequestPreVoteRequest:
		h = &q.RPCHeader
	default:
		return
	}
	g.mu.Lock()
	judged := g.judged
	g.mu.Unlock()
	h.ID = []byte(judged(raft.ServerID(h.ID)))
}

// voted looks at a vote that this seat has given.
func (g *Group) voted(q *raft.RequestVoteRequest, response any) {
	p, ok := response.(*raft.RequestVoteResponse)
	if !ok {
		return
	}
	if p.Granted {
		g.granted.Store(q.Term) // votes are given one after the other, in terms that grow
		return
	}
	g.mu.Lock()
	tell := g.refused
	g.mu.Unlock()
	go tell(q)
}

// Deciding tells whether somebody waits for this seat's vote, and may have it already: it is being written.
func (g *Group) Deciding() bool { return g.deciding.Load() > 0 }

// Voted is the latest term in which this seat has given another its vote, 0 for none since it was made.
func (g *Group) Voted() (term uint64) { return g.granted.Load() }

// Release ends the waiting for seats that are away: this one does not lead any more.
func (g *Group) Release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.endLeads()
	g.leads, g.endLeads = context.WithCancel(g.life)
}

// AppendEntries implements raft.Transport. A seat that is away is waited for: the library counts failures and lets up to ten
// seconds pass before it tries again, in which a node that has come back would not be brought up to date. What the library
// sends as a heartbeat fails at once, since those have a bound of their own.
func (g *Group) AppendEntries(_ raft.ServerID, to raft.ServerAddress, q *raft.AppendEntriesRequest, p *raft.AppendEntriesResponse) error {
	heartbeat := q.PrevLogEntry == 0 && q.LeaderCommitIndex == 0 && len(q.Entries) == 0
	q.Entries = bounded(q.Entries)
	g.mu.Lock()
	leads, durable := g.leads, g.durable
	g.mu.Unlock()
	committed := q.LeaderCommitIndex
	for {
		q.LeaderCommitIndex = min(committed, durable())
		err := g.appendEntries(to, q, p)
		if err == nil || heartbeat || !isAway(err) || !g.await(leads, to) {
			return err
		}
	}
}

// appendBytes bounds the entries of one request, in bytes, unless a single one is larger.
const appendBytes = 16 << 20

// bounded leaves out the entries that would make a request too large. The library bounds their number alone. It takes what is left in
// the request for what it has sent, and goes on behind the last of it (updateLastAppended in its replication.go); it does not use the
// request again before that, as there is no pipeline.
func bounded(entries []*raft.Log) []*raft.Log {
	size := 0
	for i, e := range entries {
		if size += len(e.Data) + len(e.Extensions); i > 0 && size > appendBytes {
			return entries[:i]
		}
	}
	return entries
}

// isAway tells whether a request has failed because the node cannot be reached, or has not got the seat now.
func isAway(err error) bool { return errors.Is(err, errUnreachable) || errors.Is(err, errAbsent) }

// awayPause is waited between two tries to reach a seat.
const awayPause = 50 * time.Millisecond

// await waits until a seat is there. It returns false when ctx ends, or when the seat is in the configuration no more.
func (g *Group) await(ctx context.Context, to raft.ServerAddress) bool {
	for {
		g.mu.Lock()
		member := g.member
		g.mu.Unlock()
		if !member(to) {
			return false
		}
		err := g.t.call(ctx, string(to), g.group, g.head(kindPresence, to, raft.RPCHeader{}, 0), nil, nil)
		if err == nil || errors.Is(err, raft.ErrTransportShutdown) {
			return err == nil
		}
		timer := time.NewTimer(awayPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return false
		}
	}
}

func (g *Group) appendEntries(to raft.ServerAddress, q *raft.AppendEntriesRequest, p *raft.AppendEntriesResponse) error {
	head := g.head(kindAppend, to, q.RPCHeader, 40+len(q.Entries)*(entrySize+64))
	sent := time.Now()
	err := g.t.call(g.life, string(to), g.group, head, func(head []byte) [][]byte { return appendEntriesParts(head, q) }, p)
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
	return g.t.call(g.life, string(to), g.group, head, nil, p)
}

// RequestPreVote implements raft.WithPreVote.
func (g *Group) RequestPreVote(_ raft.ServerID, to raft.ServerAddress, q *raft.RequestPreVoteRequest, p *raft.RequestPreVoteResponse) error {
	head := appendPreVote(g.head(kindPreVote, to, q.RPCHeader, 32), q)
	return g.t.call(g.life, string(to), g.group, head, nil, p)
}

// TimeoutNow implements raft.Transport.
func (g *Group) TimeoutNow(_ raft.ServerID, to raft.ServerAddress, q *raft.TimeoutNowRequest, p *raft.TimeoutNowResponse) error {
	return g.t.call(g.life, string(to), g.group, g.head(kindTimeout, to, q.RPCHeader, 0), nil, p)
}

// head is a request up to its payload, with room for it; the id comes when the request is sent.
func (g *Group) head(kind byte, to raft.ServerAddress, h raft.RPCHeader, room int) []byte {
	hd := header{kind: kind, group: g.group}
	a := address{g.server, string(to), h.ProtocolVersion}
	return a.append(hd.append(make([]byte, 0, headerSize+5+len(a.from)+len(a.to)+room)))
}

var (
	// errGroupClosed tells that a group is not on this node (any more).
	errGroupClosed = errors.New("no such group here")
	// errAbsent tells that a seat is not on the node that was asked.
	errAbsent = errors.New("the seat is not there")
)

// Campaign makes this seat stand for election at once, without asking whether the others miss the leader. Whoever calls it
// knows that the leader is gone. candidate, if not 0, is the term in which this seat stands already: the library does not heed
// the call then, and waits for an election timeout. So it is made a follower first, by a request for its vote in the next term
// that it must refuse.
func (g *Group) Campaign(candidate uint64) error {
	ctx, cancel := context.WithTimeout(g.life, g.t.o.Timeout)
	defer cancel()
	a := address{g.server, g.server, raft.ProtocolVersionMax}
	if candidate != 0 {
		if _, err := g.ask(ctx, &raft.RequestVoteRequest{RPCHeader: a.rpcHeader(), Term: candidate + 1}, nil); err != nil {
			return err
		}
	}
	_, err := g.ask(ctx, &raft.TimeoutNowRequest{RPCHeader: a.rpcHeader()}, nil)
	return err
}

// ask hands a request to the group's main loop, as long as ctx allows, and waits for the answer.
func (g *Group) ask(ctx context.Context, command any, snapshot io.Reader) (any, error) {
	answers := make(chan raft.RPCResponse, 1)
	select {
	case <-g.life.Done():
		return nil, errGroupClosed
	default:
	}
	select {
	case g.requests <- raft.RPC{Command: command, Reader: snapshot, RespChan: answers}:
	case <-g.life.Done():
		return nil, errGroupClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case a := <-answers:
		return a.Response, a.Error
	case <-g.life.Done():
		return nil, errGroupClosed
	}
}
