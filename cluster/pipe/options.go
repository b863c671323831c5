package pipe

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/warrenmq/warren/raftfsm/queue"
)

// EdgeOptions configure an Edge. Fields without a default are required.
type EdgeOptions struct {
	Session queue.SessionID // this node's run
	Links   Links
	Leaders Leaders
	Hosts   Hosts
	Logger  *slog.Logger

	WindowBytes   int           // unanswered bytes of commands per shard (default 16 MiB)
	WindowBatches int           // unanswered batches per shard (default 4096)
	BatchBytes    int           // commands of one batch: with some 100 octets more it is what the log takes (default 32 MiB)
	InlineWindow  int           // bytes of envelopes that another node may send along with deliveries (default 8 MiB)
	RetryMin      time.Duration // first pause before a lost pipe is tried again (default 5 ms)
	RetryMax      time.Duration // longest pause (default 500 ms)
	Hold          time.Duration // how long after a leader was asked what it answered what came is handed on: at most half its Grace (default 30 s)
}

func (o *EdgeOptions) validate() error {
	setDefault(&o.WindowBytes, 16<<20)
	setDefault(&o.WindowBatches, 4096)
	setDefault(&o.BatchBytes, 32<<20)
	setDefault(&o.InlineWindow, 8<<20)
	setDefault(&o.RetryMin, 5*time.Millisecond)
	setDefault(&o.RetryMax, 500*time.Millisecond)
	setDefault(&o.Hold, 30*time.Second)
	switch {
	case o.Session == 0:
		return errors.New("edge options: no session")
	case o.Links == nil || o.Leaders == nil || o.Hosts == nil || o.Logger == nil:
		return errors.New("edge options: Links, Leaders, Hosts or Logger is missing")
	case o.WindowBytes < 0 || o.BatchBytes < 0 || o.WindowBatches < 0 || o.InlineWindow < 0 || o.RetryMin < 0 || o.RetryMax < o.RetryMin || o.Hold < 0:
		return errors.New("edge options: a bound is negative or RetryMax below RetryMin")
	}
	return nil
}

// HostOptions configure a Host. Fields without a default are required.
type HostOptions struct {
	Shard  queue.ShardID
	State  *queue.State // the machine (queue.New, or restored); the host owns it from then on
	Bodies BodyReader
	Log    Log
	Logger *slog.Logger
	// VerifyRead returns an index such that a state that has applied it is not stale, once leadership has been
	// confirmed by a majority.
	VerifyRead func(ctx context.Context) (index uint64, err error)
	// QueuesDeleted tells, while this host leads, that queues deleted themselves; the slice may be kept. It is called
	// on the goroutine that applies and must not block. May be nil.
	QueuesDeleted func(ids []queue.QueueID)
	// Now is the time for entries; it should make no steps (default time.Now).
	Now func() time.Time

	EntryBytes   int           // an entry is sent when it has so many bytes (default 256 KiB)
	InFlight     int           // entries in flight at most (default 4)
	PendingBytes int           // bytes that may wait for their entry before sessions are turned away (default 256 MiB)
	Grace        time.Duration // how long an unreachable node's sessions live on (default 60 s)
	TickMin      time.Duration // shortest time between two ticks (default 100 ms)
	HashEvery    uint64        // entries between two hashes of the state (default 10,000)
}

func (o *HostOptions) validate() error {
	setDefault(&o.EntryBytes, 256<<10)
	setDefault(&o.InFlight, 4)
	setDefault(&o.PendingBytes, 256<<20)
	setDefault(&o.Grace, time.Minute)
	setDefault(&o.TickMin, 100*time.Millisecond)
	setDefault(&o.HashEvery, 10_000)
	if o.Now == nil {
		o.Now = time.Now
	}
	switch {
	case o.State == nil || o.Bodies == nil || o.Log == nil || o.Logger == nil || o.VerifyRead == nil:
		return errors.New("host options: State, Bodies, Log, Logger or VerifyRead is missing")
	case o.EntryBytes < 0 || o.InFlight < 0 || o.PendingBytes < 0 || o.Grace < 0 || o.TickMin < 0:
		return errors.New("host options: a bound is negative")
	}
	return nil
}

// LocalOptions configure the host of a shard that lives in this node's memory alone.
type LocalOptions struct {
	Shard         queue.ShardID // with queue.LocalShard set
	Logger        *slog.Logger
	QueuesDeleted func(ids []queue.QueueID) // as in HostOptions
	Now           func() time.Time          // as in HostOptions
}

// ServerOptions configure a Server. All are required but those with a default.
type ServerOptions struct {
	Hosts       Hosts
	Logger      *slog.Logger
	OutboxBytes int // what may wait for an edge that does not read before its link is closed (default 64 MiB)
}

func (o *ServerOptions) validate() error {
	setDefault(&o.OutboxBytes, 64<<20)
	if o.Hosts == nil || o.Logger == nil {
		return errors.New("server options: Hosts or Logger is missing")
	}
	return nil
}

// setDefault gives an option that is not set its default.
func setDefault[T comparable](option *T, value T) {
	var zero T
	if *option == zero {
		*option = value
	}
}
