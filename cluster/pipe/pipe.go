// Package pipe carries commands from the nodes where clients are connected (edges) to the shards that hold the queues,
// each exactly once and in order whoever leads, and carries answers and deliveries back.
//
// An Edge has one pipe to each shard that it uses: batches with numbers, kept until they are answered and repeated to
// the next leader when one is lost. A Host holds the state machine of one shard on one node: it packs the batches of
// all edges into log entries, applies what the log has committed, and, while it leads, sends the effects back. When edge
// and leader are the same node everything between them is a function call; otherwise both talk over a Link, the edge's
// end in Edge, the other in Server.
//
// What the package leaves to others: replication, elections and knowing who leads (Log, Leaders, Host.Lead and
// Host.Follow), opening connections (Links), keeping bytes on disk (BodyReader). Package cluster gives it those.
package pipe

import (
	"context"
	"errors"

	"github.com/warrenmq/warren/raftfsm/queue"
)

var (
	// ErrClosed tells that the edge is closed: the node stops.
	ErrClosed = errors.New("edge is closed")
	// ErrNotLeader tells that the host does not lead its shard (any more).
	ErrNotLeader = errors.New("not the leader of the shard")
	// ErrNoNode tells that the cluster does not have a node any more; numbers are not given again.
	ErrNoNode = errors.New("the cluster has no such node")
	// errMalformed tells that bytes from another node make no sense.
	errMalformed = errors.New("malformed frame")
)

// Links opens connections to other nodes.
type Links interface {
	// Open connects to the edge side of a Server of another node: there Server.Serve gets the other end. The ctx is for
	// opening alone. The error is ErrNoNode only when that is certain: what is on its way there is given up.
	Open(ctx context.Context, node uint16) (Link, error)
	// Call asks a node one thing: there Server.Call answers. Requests and answers are below 2 MiB, unless a single
	// piece of a message is larger.
	Call(ctx context.Context, node uint16, request []byte) ([]byte, error)
}

// Link is an ordered stream of frames in both directions with flow control. Frames are below 512 KiB, unless a single
// batch or message is larger. One goroutine sends, another receives, any may close.
type Link interface {
	// Send hands a frame over and may block while the other end does not read. The frame belongs to the link after it.
	Send(frame []byte) error
	// Recv returns the next frame, which belongs to the caller.
	Recv() ([]byte, error)
	// Close ends the link; Send and Recv of both ends fail soon.
	Close()
}

// Leaders knows who leads. When it learns something new, Edge.LeaderChanged is to be called.
type Leaders interface {
	// Leader returns the node that leads the shard, as far as is known. Local shards are not asked for.
	Leader(shard queue.ShardID) (node uint16, ok bool)
}

// Hosts finds the machines on this node.
type Hosts interface {
	// Host returns the host of the shard, replicated or local, nil if this node has none.
	Host(shard queue.ShardID) *Host
}

// Log is the replicated log as a host sees it.
type Log interface {
	// Propose hands an entry over. Entries come to Host.Apply in the order of the calls or not at all. It must neither
	// block nor call the host before it returns. The entry belongs to the log. If it returns an error the entry is not
	// in the log. If the entry fails later, or its end is unknown, Host.ProposalFailed is to be called with the same term.
	Propose(term uint64, entry []byte) error
}

// BodyReader reads back what is in the log.
type BodyReader interface {
	// ReadBody returns size bytes from offset on of the data of the entry at index. The result is read-only and stays
	// valid: it is either an alias of memory that the storage keeps for it, or dst's memory if that is large enough, or
	// new.
	ReadBody(index uint64, offset, size uint32, dst []byte) ([]byte, error)
}

// Entry is a committed log entry.
type Entry struct {
	Index uint64
	Data  []byte
}

// PeerState is what the cluster knows of another node's run.
type PeerState uint8

// The states of a peer.
const (
	PeerAlive       PeerState = iota
	PeerUnreachable           // cannot be reached: its consumers get nothing new for a while
	PeerDead                  // its process is known to have ended: its sessions are over
)
