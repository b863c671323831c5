// Package broker holds the use cases that all front doors share: logging in, declaring, binding, publishing, consuming,
// settling, getting, transactions; with them the sessions of clients (Conn, Channel), permissions, the vocabulary and
// the kinds of error. It speaks no protocol: a front door turns its frames into calls and calls of Writer into frames.
// It replicates nothing: what must outlive the process goes through a Replicator.
package broker

import (
	"cmp"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warrenmq/warren/auth"
)

// Options are the settings of a Broker. The zero value of a field means its default.
type Options struct {
	Logger *slog.Logger // default: discards

	// MaxMessageSize is the longest body accepted, in bytes. Default 16 MiB.
	MaxMessageSize int64
	// NoAckCredit is how many messages may be on their way to a consumer that does not acknowledge. Default 1000.
	NoAckCredit uint32
	// UnlimitedCredit is how many messages a consumer without prefetch limit may hold unsettled. Default 2000.
	UnlimitedCredit uint32
	// MaxUnconfirmedBytes and MaxUnconfirmedMessages bound what one connection may have published and not yet seen
	// applied by the shards: beyond, Flush blocks. What waits there delays consumers' acknowledgements, which share the shard's
	// log: MaxBehindBytes is the bound while consumers are behind (docs/adr/0003). Defaults 1 MiB, 8192, 256 KiB.
	MaxUnconfirmedBytes    int
	MaxUnconfirmedMessages int
	MaxBehindBytes         int
	// MaxTransactionBytes bounds what one transaction holds. Its commit is one entry of each shard's log, and a node sends an entry to
	// another in one piece: it must fit all that entries travel in (package peer's frames) and stay in (half a log file of package
	// storage). Default and most: 16 MiB.
	MaxTransactionBytes int
	// ReadAhead says which consumers are given more than their clients may have.
	ReadAhead ReadAhead
	// OperationTimeout bounds every operation that waits for the cluster. Default and most: DeclareTime.
	OperationTimeout time.Duration
	// FreshTimeout bounds how long a publish waits, at the head of a batch, for this node to know that its routes are
	// current: longer than a few leaders of the catalog in a row take to be replaced, each some four seconds if it falls silent. Default 15 s.
	FreshTimeout time.Duration
	// MaxChannelConsumers bounds the consumers of one channel. Default 0: no bound.
	MaxChannelConsumers int
	// ConsumerTimeout is how long a delivery may stay unsettled, where neither consumer nor queue says (x-consumer-timeout):
	// then its channel is closed and what it holds goes back to the queues. Default 30 minutes, as RabbitMQ's; negative: no
	// bound.
	ConsumerTimeout time.Duration
	// Tokens checks bearer tokens; nil: none are accepted.
	Tokens *auth.Tokens
}

func (o *Options) setDefaults() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.MaxMessageSize = cmp.Or(o.MaxMessageSize, 16<<20)
	o.NoAckCredit = cmp.Or(o.NoAckCredit, 1000)
	o.UnlimitedCredit = cmp.Or(o.UnlimitedCredit, 2000)
	o.MaxUnconfirmedBytes = cmp.Or(o.MaxUnconfirmedBytes, 1<<20)
	o.MaxBehindBytes = min(o.MaxUnconfirmedBytes, cmp.Or(o.MaxBehindBytes, 256<<10))
	o.MaxTransactionBytes = min(cmp.Or(o.MaxTransactionBytes, maxTransaction), maxTransaction)
	o.ReadAhead.setDefaults()
	o.MaxUnconfirmedMessages = cmp.Or(o.MaxUnconfirmedMessages, 8192)
	o.OperationTimeout = min(cmp.Or(o.OperationTimeout, DeclareTime), DeclareTime)
	o.ConsumerTimeout = max(0, cmp.Or(o.ConsumerTimeout, 30*time.Minute))
	o.FreshTimeout = cmp.Or(o.FreshTimeout, 15*time.Second)
}

// Broker is the use cases of one node.
type Broker struct {
	options    Options
	log        *slog.Logger
	replicator Replicator // set by Start
	batches    batches
	alarm      alarm
	began      time.Time
	now        atomic.Uint32 // ticks since then, at the last Tick
	verifier   *auth.Verifier
	patterns   *auth.Patterns

	// rights counts the changes to users and permissions: what was checked under an earlier count is checked again.
	rights atomic.Uint64

	mu     sync.Mutex // guards what follows
	vhosts map[string]*vhost
	conns  map[*Conn]struct{}
}

// New returns a Broker that serves nobody until Start.
func New(o Options) *Broker {
	o.setDefaults()
	b := &Broker{options: o, log: o.Logger, verifier: auth.NewVerifier(0), patterns: auth.NewPatterns(0), began: time.Now(),
		vhosts: map[string]*vhost{}, conns: map[*Conn]struct{}{}}
	b.rights.Store(1)
	return b
}

// Start gives the broker its cluster, before the first Login. The cluster may call the broker's CatalogObserver methods
// earlier.
func (b *Broker) Start(r Replicator) { b.replicator = r }

// Alarm tells publishers to wait (reason "low on memory", "low on disk", "low on memory & disk") or, with an empty
// reason, to go on.
func (b *Broker) Alarm(reason string) { b.alarm.set(reason) }

// CloseConnections asks every connection to close, for example with "broker forced connection closure with reason
// 'shutdown'".
func (b *Broker) CloseConnections(text string) {
	b.closeWhere(text, func(*Conn) bool { return true })
}

// closeWhere asks connections to close.
func (b *Broker) closeWhere(text string, f func(*Conn) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		if f(c) {
			c.out.events.Closed(errorf(Unavailable, "%s", text))
		}
	}
}

// forget takes a connection off the books.
func (b *Broker) forget(c *Conn) {
	b.mu.Lock()
	delete(b.conns, c)
	b.mu.Unlock()
	b.alarm.forget(c)
}
