package broker

import (
	"context"
	"fmt"
	"iter"
	"math"
	"slices"
	"time"

	"github.com/warrenmq/warren/auth"
	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// What a front door shows of what there is. The lists hold what the connection's user has any permission for, as this node
// knows it. What they point to never changes.
type (
	QueueInfo    = catalog.Queue
	ExchangeInfo = catalog.Exchange
	BindingInfo  = catalog.Binding
	NodeInfo     = catalog.Node
	ShardInfo    = catalog.Shard
	Counts       = queue.Counts
)

// Queues returns up to limit queues of the vhost whose names are after the one given, in order of names.
func (c *Conn) Queues(after string, limit int) (queues []*QueueInfo, more bool) {
	c.readVHost(func(v *catalog.VHost) {
		queues, more = page(v.Queues(), limit, func(q *QueueInfo) bool {
			return q.Name > after && c.allowedAny(queueIn(q.Name, v.Name))
		})
	})
	return queues, more
}

// Exchanges is Queues for exchanges; the default exchange is not among them.
func (c *Conn) Exchanges(after string, limit int) (exchanges []*ExchangeInfo, more bool) {
	c.readVHost(func(v *catalog.VHost) {
		exchanges, more = page(v.Exchanges(), limit, func(x *ExchangeInfo) bool {
			return x.Name > after && c.allowedAny(exchangeIn(x.Name, v.Name))
		})
	})
	return exchanges, more
}

// Bindings returns up to limit bindings of the vhost after the first skip, from the source and to the destination given
// (empty: any). The user must have some permission for both ends.
func (c *Conn) Bindings(source, destination string, skip, limit int) (bindings []*BindingInfo, more bool) {
	c.readVHost(func(v *catalog.VHost) {
		all := v.Bindings()
		if source != "" {
			all = v.BindingsFrom(source)
		}
		bindings, more = page(all, limit, func(b *BindingInfo) bool {
			if destination != "" && b.Destination != destination || !c.mayShow(b) {
				return false
			}
			skip--
			return skip < 0
		})
	})
	return bindings, more
}

// page returns the first of all that are shown, up to limit, and whether there are more.
func page[T any](all iter.Seq[T], limit int, shown func(T) bool) (list []T, more bool) {
	for v := range all {
		if !shown(v) {
			continue
		}
		if len(list) == limit {
			return list, true
		}
		list = append(list, v)
	}
	return list, false
}

func (c *Conn) mayShow(b *BindingInfo) bool {
	destination := queueIn(b.Destination, b.VHost)
	if b.ToExchange {
		destination = exchangeIn(b.Destination, b.VHost)
	}
	return c.allowedAny(destination) && c.allowedAny(exchangeIn(b.Source, b.VHost))
}

// readVHost calls f with the connection's vhost, whose permissions have been looked up: f may ask for them.
func (c *Conn) readVHost(f func(*catalog.VHost)) {
	c.allowed(auth.Read, "") // so that it is not looked up under the catalog's lock
	c.broker.replicator.ReadCatalog(func(s *catalog.State) {
		if v := s.VHost(c.vhost.name); v != nil {
			f(v)
		}
	})
}

// allowedAny tells whether the user may do anything with it, by the permissions looked up last.
func (c *Conn) allowedAny(of resource) bool {
	name := of.permitted().name
	for _, op := range [...]auth.Operation{auth.Configure, auth.Write, auth.Read} {
		if c.rights.allowed.Allows(op, name) {
			return true
		}
	}
	return false
}

// CountsOf asks a queue's leader; false: the queue is gone.
func (c *Conn) CountsOf(ctx context.Context, q *QueueInfo) (Counts, bool, error) {
	n, ok, err := c.broker.replicator.Counts(ctx, q.ID)
	return n, ok, explain(err, queueIn(q.Name, q.VHost).String())
}

// peekTimeout bounds the wait for one message that Peek has seen: it may have been consumed meanwhile, and its body gone.
const peekTimeout = 2 * time.Second

// Peek shows up to limit ready messages behind the first skip to f, until f returns false, and returns how many are ready.
// Nothing changes for them. The messages stay valid and have no tag.
func (ch *Channel) Peek(ctx context.Context, name string, skip uint32, limit int, f func(*Outgoing) bool) (ready uint64, err error) {
	ctx, cancel := ch.conn.operation(ctx)
	defer cancel()
	return byName(name, func() (uint64, error) { return ch.peek(ctx, name, skip, limit, f) })
}

func (ch *Channel) peek(ctx context.Context, name string, skip uint32, limit int, f func(*Outgoing) bool) (ready uint64, err error) {
	q, err := ch.queueToRead(ctx, name)
	if err != nil {
		return 0, err
	}
	where := queueIn(q.Name, q.VHost)
	results, err := ch.conn.callAll(ctx, q.ID.Shard(), limit, func(b *queue.Batch, i int) { b.Peek(q.ID, skip+uint32(i)) })
	if err != nil {
		return 0, explain(err, where.String())
	}
	for i := range results {
		switch r := &results[i]; r.Code {
		case queue.Message:
			ready = r.Messages
			if m := ch.conn.peeked(ctx, r); m != nil && !f(m) {
				return ready, nil
			}
		case queue.Empty:
			if i == 0 {
				n, _, err := ch.conn.CountsOf(ctx, q)
				return n.Ready, err
			}
			return ready, nil
		case queue.Gone:
			return 0, ch.conn.gone(ctx, q.Name, q.ID)
		default:
			return 0, fmt.Errorf("peek at %s: unexpected result %d", where, r.Code)
		}
	}
	return ready, nil
}

// peeked gets a message; nil when it cannot be had any more.
func (c *Conn) peeked(ctx context.Context, r *queue.Result) *Outgoing {
	ctx, cancel := context.WithTimeout(ctx, peekTimeout)
	defer cancel()
	d := &Delivery{Delivery: r.Delivery}
	var e envelope
	if err := e.read(ctx, c.broker.replicator, d); err != nil {
		c.broker.log.Info("message that was to be shown cannot be read", "connection", c.name, "vhost", c.vhost.name, "err", err)
		return nil
	}
	var w writing
	w.fill(0, d, &e)
	w.outgoing.MessageCount = uint32(min(r.Messages, math.MaxUint32))
	return &w.outgoing
}

// callAll is call for n commands.
func (c *Conn) callAll(ctx context.Context, shard queue.ShardID, n int, command func(b *queue.Batch, i int)) ([]queue.Result, error) {
	b := c.stage.batch(shard)
	b.seal()
	calls := make([]call, n)
	for i := range calls {
		calls[i] = call{command: b.Commands, done: make(chan struct{})}
		command(&b.Batch.Batch, i)
		b.calls = append(b.calls, &calls[i])
	}
	if err := c.flush(ctx); err != nil {
		return nil, err
	}
	results := make([]queue.Result, n)
	for i := range calls {
		select {
		case <-calls[i].done:
			results[i] = calls[i].result
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return results, nil
}

// Status is what a node knows of itself and its cluster.
type Status struct {
	Node      string
	ClusterID string
	Nodes     []*NodeInfo
	Shards    []*ShardInfo
	Current   bool // this node's copy of the catalog is current
}

// Status returns it.
func (b *Broker) Status() Status {
	st := Status{Node: b.replicator.Self().Name, Current: b.replicator.Fresh() == nil}
	b.replicator.ReadCatalog(func(s *catalog.State) {
		st.ClusterID = s.ClusterID()
		for n := range s.Nodes() {
			copied := *n
			st.Nodes = append(st.Nodes, &copied)
		}
		for sh := range s.Shards() {
			copied := *sh
			copied.Nodes = slices.Clone(sh.Nodes)
			st.Shards = append(st.Shards, &copied)
		}
	})
	return st
}
