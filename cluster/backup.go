package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/warrenmq/warren/backup"
	nodev1 "github.com/warrenmq/warren/proto/node/v1"
	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// A backup is taken in parts: the catalog first, then each shard, whoever asks for them and in which order. What was confirmed or
// declared before it began is in it, unless it was consumed or deleted meanwhile:
//
//   - The catalog is this node's copy while that is known to be current (leases.go), so it holds every change that was answered
//     before. A queue that is declared later is not in it, and is not restored, though its shard may have it already.
//   - A shard is the state of its leader at one index, after a majority confirmed the leadership and the state held all that was
//     committed when it was asked for (group.verify): every confirmed message. A queue of the catalog that it does not have was
//     deleted meanwhile. A message for queues of several shards that is published meanwhile may be in some of them.
//
// The state is pinned, and the files with its bodies are held, until the part is written; the shard goes on meanwhile. When a
// leader is lost, the part ends in the middle, which whoever reads it finds, and asks for it again.

// BackupCatalog writes the first part of a backup: how many shards follow, and the catalog.
func (c *Cluster) BackupCatalog(ctx context.Context, w io.Writer) error {
	if err := c.Fresh(); err != nil {
		waiting, cancel := context.WithTimeout(ctx, backupPatience)
		defer cancel()
		if c.follower.waitFresh(waiting) != nil {
			return err
		}
	}
	begin := backup.Begin{TakenAtMillis: c.o.Surroundings.Now().UnixMilli(), Version: c.o.Version}
	var state *catalog.Snapshot
	c.catalog.read(func(s *catalog.State) {
		state = s.Snapshot()
		begin.ClusterID, begin.Shards = s.ClusterID(), uint32(s.ShardCount())
	})
	out := backup.NewWriter(w)
	if err := out.Begin(&begin); err != nil {
		return err
	}
	if err := state.Backup(func(record []byte) error { return out.Catalog(record) }); err != nil {
		return err
	}
	_, err := out.Close()
	return err
}

const (
	// backupPatience bounds the wait for a shard to have a leader that begins.
	backupPatience = 30 * time.Second
	backupRetryMin = 20 * time.Millisecond
	backupRetryMax = 500 * time.Millisecond
)

// BackupShard writes a part of a backup: one shard, from its leader, whichever node that is. One that is lost before anything
// was written is looked for again, for a while; later, the error says that the part is to be asked for again.
func (c *Cluster) BackupShard(ctx context.Context, id queue.ShardID, w io.Writer) error {
	return c.backupShard(ctx, id, w, false)
}

func (c *Cluster) backupShard(ctx context.Context, id queue.ShardID, w io.Writer, queuesOnly bool) error {
	out := &countingWriter{w: w}
	pause := backupRetryMin
	for end := time.Now().Add(backupPatience); ; pause = min(2*pause, backupRetryMax) {
		err := c.backupFromLeader(ctx, id, out, queuesOnly)
		switch {
		case err == nil:
			return nil
		case out.failed != nil:
			return out.failed
		case ctx.Err() != nil:
			return ctx.Err()
		case out.n > 0:
			return unavailable("the leader of shard %d was lost in the middle: %v", id, err)
		case time.Now().After(end):
			return unavailable("shard %d cannot be read: %v", id, err)
		}
		select {
		case <-time.After(pause/2 + rand.N(pause/2)):
		case <-ctx.Done():
			return ctx.Err()
		case <-c.ctx.Done():
			return unavailable("this node stops")
		}
	}
}

// countingWriter knows whether anything was written, and whether it was the other side that failed.
type countingWriter struct {
	w      io.Writer
	n      int64
	failed error
}

func (w *countingWriter) Write(b []byte) (int, error) {
	n, err := w.w.Write(b)
	w.n += int64(n)
	w.failed = err
	return n, err
}

func (c *Cluster) backupFromLeader(ctx context.Context, id queue.ShardID, w io.Writer, queuesOnly bool) error {
	leader, known := c.leaders.Leader(id)
	switch {
	case !known:
		return errors.New("it has no leader")
	case leader == c.Self().Node:
		return c.backupHere(ctx, id, w, queuesOnly)
	}
	control, err := c.network.BulkControl(c.uuidOf(leader))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // so that a leader whose part is not wanted any more stops
	stream, err := control.Backup(ctx, &nodev1.BackupRequest{Shard: uint32(id), Queues: queuesOnly})
	if err != nil {
		return err
	}
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := w.Write(part.Octets); err != nil {
			return err
		}
	}
}

// Backup implements the Control service.
func (s controlServer) Backup(q *nodev1.BackupRequest, stream grpc.ServerStreamingServer[nodev1.BackupResponse]) error {
	err := s.c.backupHere(stream.Context(), queue.ShardID(q.Shard), backupStream{stream}, q.Queues)
	if err != nil {
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	return nil
}

// backupStream hands octets to another node. It blocks while that one does not read.
type backupStream struct {
	stream grpc.ServerStreamingServer[nodev1.BackupResponse]
}

func (s backupStream) Write(b []byte) (int, error) {
	if err := s.stream.Send(&nodev1.BackupResponse{Octets: append([]byte(nil), b...)}); err != nil {
		return 0, err
	}
	return len(b), nil
}

// backupHere writes a shard that this node leads.
func (c *Cluster) backupHere(ctx context.Context, id queue.ShardID, w io.Writer, queuesOnly bool) (err error) {
	s := c.shard(id)
	if s == nil {
		return fmt.Errorf("shard %d is not on this node", id)
	}
	if err := s.host.Current(ctx); err != nil {
		return err
	}
	var state *queue.Snapshot
	bodies, err := s.store.OpenBodies(func() uint64 { state = s.host.Snapshot(); return state.Index() })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bodies.Close()) }()
	out := backup.NewWriter(w)
	if err := out.Begin(&backup.Begin{TakenAtMillis: c.o.Surroundings.Now().UnixMilli(), Shards: 1, Version: c.o.Version}); err != nil {
		return err
	}
	if err := out.Shard(&backup.Shard{ID: uint32(id), Index: state.Index(), TimeMillis: state.Time()}); err != nil {
		return err
	}
	for id, settings := range state.Queues {
		if err := out.Queue(&backup.Queue{ID: uint64(id), Settings: queue.AppendSettings(nil, settings)}); err != nil {
			return err
		}
	}
	if !queuesOnly {
		for m := range state.Messages {
			if err := backupMessage(out, bodies, m); err != nil {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
	}
	if err := out.ShardEnd(); err != nil {
		return err
	}
	_, err = out.Close()
	return err
}

// bodyReader is storage.Bodies.
type bodyReader interface {
	Read(index uint64, offset, size uint32) ([]byte, error)
}

// backupMessage writes a message. Of its body no more than a piece is in memory, beside the log's entry that it is in.
func backupMessage(out *backup.Writer, bodies bodyReader, m *queue.StoredMessage) error {
	b := backup.Message{Persistent: m.Persistent, Size: m.Body.Size(), Places: make([]backup.Place, len(m.Places))}
	for i, p := range m.Places {
		b.Places[i] = backup.Place{Queue: uint64(p.Queue), Priority: p.Priority, Out: p.Out, Failed: p.Failed, Acquired: p.Acquired, Expiry: p.Expiry}
	}
	if err := out.Message(&b); err != nil {
		return err
	}
	piece := func(r queue.Ref) error {
		octets, err := bodies.Read(r.Index, r.Offset, r.Size)
		if err != nil {
			return err
		}
		return out.Piece(octets)
	}
	err := piece(m.Body.First)
	for i := 0; i < len(m.Body.More) && err == nil; i++ {
		err = piece(m.Body.More[i])
	}
	return err
}
