package broker

import (
	"context"
	"errors"
	"maps"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// findQueue returns the queue of that name as this node knows it, nil when there is none.
func (c *Conn) findQueue(name string) (q *catalog.Queue) {
	c.broker.replicator.ReadCatalog(func(s *catalog.State) {
		if v := s.VHost(c.vhost.name); v != nil {
			q = v.Queue(name)
		}
	})
	return q
}

// lookupQueue returns the queue of that name, which the connection may use. That there is none, or that it may not, is only said when
// this node knows it.
func (c *Conn) lookupQueue(ctx context.Context, name string) (*catalog.Queue, error) {
	if q := c.findQueue(name); q != nil && c.mayUse(q) == nil {
		return q, nil
	}
	if err := c.broker.awaitFresh(ctx); err != nil {
		return nil, err
	}
	q := c.findQueue(name)
	if q == nil {
		return nil, noQueue(name, c.vhost.name)
	}
	return q, c.mayUse(q)
}

// mayUse refuses another connection's exclusive queue.
func (c *Conn) mayUse(q *catalog.Queue) error {
	if !q.Exclusive() || c.owns(q) {
		return nil
	}
	return locked(q)
}

func (c *Conn) owns(q *catalog.Queue) bool {
	return q.OwnerSession == c.broker.replicator.Self().Session && q.OwnerConnection == c.id
}

func locked(q *catalog.Queue) *Error {
	return errorf(ResourceLocked, "cannot obtain exclusive access to locked %s. It could be originally declared on another connection or the exclusive property value does not match that of the original declaration.",
		queueIn(q.Name, q.VHost))
}

// lookupExchange returns the exchange of that name.
func (c *Conn) lookupExchange(ctx context.Context, name string) (*catalog.Exchange, error) {
	if err := c.broker.awaitFresh(ctx); err != nil {
		return nil, err
	}
	if x := c.findExchange(name); x != nil {
		return x, nil
	}
	return nil, noExchange(name, c.vhost.name)
}

func (c *Conn) findExchange(name string) (x *catalog.Exchange) {
	c.broker.replicator.ReadCatalog(func(s *catalog.State) {
		if v := s.VHost(c.vhost.name); v != nil {
			x = v.Exchange(name)
		}
	})
	return x
}

// stands waits until an answer that rests on this node's copy of the catalog may be given, a refusal or none: until every node that
// can be reached would give it. Other errors say nothing about the catalog and are passed on.
func (b *Broker) stands(ctx context.Context, answer error) error {
	if answer != nil && (!isRefusal(answer) || isKind(answer, Unavailable)) {
		return answer
	}
	if b.replicator.Settled() {
		return answer
	}
	if err := b.replicator.Settle(ctx); err != nil {
		return err
	}
	return answer
}

// propose changes the catalog.
func (b *Broker) propose(ctx context.Context, cmd *catalog.Command) error {
	_, err := b.replicator.Propose(ctx, cmd)
	return err
}

// reap takes a queue that its shard does not have any more out of the catalog.
func (b *Broker) reap(ctx context.Context, id queue.QueueID) error {
	return b.propose(ctx, catalog.DeleteQueue(&raftv1.DeleteQueue{Ids: []uint64{uint64(id)}}))
}

// minPrune is from how many on the list of exclusive queues is looked through for those that deleted themselves.
const minPrune = 64

// own notes an exclusive queue of the connection.
func (c *Conn) own(name string, id queue.QueueID) {
	if len(c.exclusive) >= max(c.pruneAt, minPrune) {
		c.broker.replicator.ReadCatalog(func(s *catalog.State) {
			maps.DeleteFunc(c.exclusive, func(_ string, id queue.QueueID) bool { return s.QueueByID(id) == nil })
		})
		c.pruneAt = 2 * len(c.exclusive)
	}
	c.exclusive[name] = id
}

// errReplaced tells that a queue has gone and that another has its name, which this node's copy of the catalog did not know yet.
var errReplaced = errors.New("another queue has the name by now")

// gone is the refusal for a queue that its shard does not have any more, which the catalog then forgets.
func (c *Conn) gone(ctx context.Context, name string, id queue.QueueID) error {
	if err := c.broker.reap(ctx, id); err != nil {
		return err
	}
	return c.missing(name, id)
}

// missing is the refusal for a queue that the catalog has forgotten, as this node's copy knows: it is as new as that. It is none where
// another queue has the name.
func (c *Conn) missing(name string, id queue.QueueID) error {
	if now := c.findQueue(name); now != nil && now.ID != id {
		return errReplaced
	}
	return noQueue(name, c.vhost.name)
}

// byName does something with the queue that has a name, and again with the next one as long as it has been replaced.
func byName[T any](name string, do func() (T, error)) (T, error) {
	for range maxAttempts {
		if v, err := do(); !errors.Is(err, errReplaced) {
			return v, err
		}
	}
	var none T
	return none, errorf(Unavailable, "failed to perform operation on queue '%s': it is being declared and deleted all the time", name)
}
