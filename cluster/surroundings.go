package cluster

import (
	"context"
	"net"
	"time"

	"github.com/warrenmq/warren/cluster/gossip"
)

// Surroundings are what a node touches outside its process, beside its Store. The zero value is the real world; a simulation
// has another.
type Surroundings struct {
	// Listen takes the other nodes' connections (default: TCP). A Dial that finds nobody fails with syscall.ECONNREFUSED.
	Listen func(address string) (net.Listener, error)
	Dial   func(ctx context.Context, address string) (net.Conn, error)
	// Gossip carries gossip (default: UDP and TCP).
	Gossip gossip.Transport
	// Now is the wall clock (default: time.Now). Waiting goes by the process's own clock.
	Now func() time.Time
	// VoteWrite does a write to the file of votes (default: it is done).
	VoteWrite func(write func() error) error
	// HashEvery is how many entries of a shard lie between two comparisons of the replicas' states (default: pipe's).
	HashEvery uint64
	// EntryBytes is the size at which an entry of a shard is sent (default: pipe's). Half a file of the log must hold it.
	EntryBytes int
	// SnapshotEvery is how many commands of the catalog lie between two of its snapshots (default 8192), and how many the log
	// keeps behind one. A small number lets them happen within seconds.
	SnapshotEvery uint64
}

func (s *Surroundings) setDefaults() {
	if s.Listen == nil {
		s.Listen = func(address string) (net.Listener, error) { return net.Listen("tcp", address) }
	}
	if s.SnapshotEvery == 0 {
		s.SnapshotEvery = snapshotCommands
	}
	if s.Now == nil {
		s.Now = time.Now
	}
}
