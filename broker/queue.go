package broker

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/warrenmq/warren/auth"
	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// maxAttempts bounds how often a declare starts over when others declare and delete the same name.
const maxAttempts = 8

// DeclareTime is how long the declare of a queue takes at most, if it succeeds. Whoever finds a queue without a name in a shard relies on
// it: see forget.go in package cluster.
const DeclareTime = 30 * time.Second

// DeclareQueue makes sure that a queue exists as described; passive, that it exists.
func (ch *Channel) DeclareQueue(ctx context.Context, d *QueueDeclare) (QueueOK, error) {
	ctx, cancel := ch.conn.operation(ctx)
	defer cancel()
	var ok QueueOK
	var err error
	switch name := cleanName(d.Name); {
	case isReplyTo(name):
		return ch.declareReplies(ctx, name)
	case d.Passive:
		ok, err = byName(name, func() (QueueOK, error) { return ch.declarePassive(ctx, name) })
	default:
		ok, err = ch.declareActive(ctx, name, d)
	}
	if err == nil {
		ch.lastQueue = ok.Name
	}
	return ok, err
}

func (ch *Channel) declarePassive(ctx context.Context, name string) (QueueOK, error) {
	name, err := ch.queueName(name)
	if err != nil {
		return QueueOK{}, err
	}
	where := queueIn(name, ch.conn.vhost.name)
	if err := ch.permissions.checkAny(where); err != nil {
		return QueueOK{}, err
	}
	q, err := ch.conn.lookupQueue(ctx, name)
	if err != nil {
		return QueueOK{}, ch.conn.broker.stands(ctx, err)
	}
	ok, exists, err := ch.countsOf(ctx, q)
	if err == nil && !exists {
		if err = ch.conn.missing(name, q.ID); errors.Is(err, errReplaced) {
			return QueueOK{}, err
		}
	}
	return ok, explain(ch.conn.broker.stands(ctx, err), where.String())
}

func (ch *Channel) declareActive(ctx context.Context, name string, d *QueueDeclare) (QueueOK, error) {
	kind := queueKind(d.Arguments)
	switch {
	case name == "" && kind != classicKind:
		return QueueOK{}, errorf(PreconditionFailed, "Cannot declare a server-named queue for type rabbit_%s_queue", kind)
	case name == "":
		name = generate(generatedQueue)
	case reserved(name):
		return QueueOK{}, errorf(AccessRefused, "queue name '%s' contains reserved prefix 'amq.*'", name)
	}
	where := queueIn(name, ch.conn.vhost.name)
	if err := ch.permissions.check(auth.Configure, where); err != nil {
		return QueueOK{}, err
	}
	for range maxAttempts {
		ok, done, err := ch.declareOnce(ctx, name, d)
		if done || err != nil {
			return ok, explain(err, where.String())
		}
	}
	return QueueOK{}, errorf(Unavailable, "failed to perform operation on %s: it is being declared and deleted all the time", where)
}

// declareOnce finds or creates the queue; not done means that somebody else changed it meanwhile.
func (ch *Channel) declareOnce(ctx context.Context, name string, d *QueueDeclare) (ok QueueOK, done bool, err error) {
	// A copy that lacks a change would have it refused by a queue that is gone (P7).
	if err := ch.conn.broker.awaitFresh(ctx); err != nil {
		return QueueOK{}, false, err
	}
	q := ch.conn.findQueue(name)
	if q == nil {
		return ch.createQueue(ctx, name, d)
	}
	if ok, done, err = ch.declareAgain(ctx, q, name, d); done || err != nil {
		err = ch.conn.broker.stands(ctx, err)
	}
	return ok, done, err
}

// declareAgain compares a queue that exists with what is declared.
func (ch *Channel) declareAgain(ctx context.Context, q *catalog.Queue, name string, d *QueueDeclare) (ok QueueOK, done bool, err error) {
	if q.Exclusive() != d.Exclusive {
		return QueueOK{}, false, locked(q)
	}
	if err := ch.conn.mayUse(q); err != nil {
		return QueueOK{}, false, err
	}
	if err := refusal(catalog.EquivalentQueue(q, addQueue(ch.conn.vhost.name, name, d))); err != nil {
		return QueueOK{}, false, err
	}
	if lookup(q.Arguments, expiresArgument) != nil {
		return ch.renew(ctx, q, d)
	}
	return ch.countsOf(ctx, q)
}

// renew answers for a queue that expires: declaring it again is a use of it, as far as its machine is concerned. One that has expired
// is not made again under its id, which somebody is about to take out of the catalog.
func (ch *Channel) renew(ctx context.Context, q *catalog.Queue, d *QueueDeclare) (QueueOK, bool, error) {
	c := ch.conn
	was := *d
	was.Arguments = q.Arguments
	result, err := c.call(ctx, q.ID.Shard(), func(b *queue.Batch) { b.Reconfigure(q.ID, queueSettings(q.VHost, q.Name, &was)) })
	if err == nil && result.Code == queue.Gone {
		return QueueOK{}, false, c.broker.reap(ctx, q.ID)
	}
	if err != nil || result.Code != queue.OK {
		return QueueOK{}, false, err
	}
	if now := c.findQueue(q.Name); now == nil || now.ID != q.ID { // somebody has deleted it meanwhile
		return QueueOK{}, false, nil
	}
	return QueueOK{Name: q.Name, Messages: clamp(result.Messages), Consumers: result.Consumers}, true, nil
}

// countsOf answers for a queue that exists; false when it is gone in its shard. What the connection has on its way there
// counts: so it is waited for.
func (ch *Channel) countsOf(ctx context.Context, q *catalog.Queue) (QueueOK, bool, error) {
	c := ch.conn
	if err := c.settled(ctx, q.ID.Shard()); err != nil {
		return QueueOK{}, false, err
	}
	n, exists, err := c.broker.replicator.Counts(ctx, q.ID)
	if err != nil {
		return QueueOK{}, false, err
	}
	if !exists {
		return QueueOK{}, false, c.broker.reap(ctx, q.ID)
	}
	return QueueOK{Name: q.Name, Messages: clamp(n.Ready), Consumers: n.Consumers}, true, nil
}

func clamp(n uint64) uint32 { return uint32(min(n, math.MaxUint32)) }

// settled waits until what the connection has sent to the shard has been applied.
func (c *Conn) settled(ctx context.Context, shard queue.ShardID) error {
	if err := c.flush(ctx); err != nil {
		return err
	}
	if c.underway.Load() == 0 {
		return nil
	}
	// A command that changes nothing: consumer 0 does not exist. Its answer comes after all before it.
	_, err := c.call(ctx, shard, func(b *queue.Batch) { b.Cancel(0) })
	return err
}

// createQueue makes the queue in a shard and then gives it its name.
func (ch *Channel) createQueue(ctx context.Context, name string, d *QueueDeclare) (ok QueueOK, done bool, err error) {
	settings, err := ch.newQueueSettings(name, d)
	if err != nil {
		return QueueOK{}, false, err
	}
	c := ch.conn
	r := c.broker.replicator
	add := addQueue(c.vhost.name, name, d)
	shard := r.PickShard()
	if d.Exclusive {
		self := r.Self()
		shard, add.OwnerSession, add.OwnerConnection = self.Local, uint64(self.Session), c.id
	}
	id := queue.MakeQueueID(shard, randomID())
	add.Id = uint64(id)
	result, err := c.call(ctx, shard, func(b *queue.Batch) { b.Configure(id, settings) })
	if err != nil { // it may come into being yet, without a name
		c.stage.batch(shard).Delete(id, false, false)
		return QueueOK{}, false, err
	}
	if result.Code != queue.OK {
		return QueueOK{}, false, nil // the id was taken
	}
	if d.Exclusive { // before the outcome, which may stay unknown
		c.own(name, id)
	}
	err = c.broker.propose(ctx, catalog.AddQueue(add))
	if err == nil && isOver(ctx) {
		return QueueOK{}, false, context.DeadlineExceeded
	}
	if err == nil {
		return QueueOK{Name: name}, true, nil
	}
	if isRefusal(err) {
		delete(c.exclusive, name)
		c.stage.batch(shard).Delete(id, false, false)
		if err := c.flush(ctx); err != nil {
			return QueueOK{}, false, err
		}
	}
	if isKind(err, Exists) {
		return QueueOK{}, false, nil
	}
	return QueueOK{}, false, err
}

// isOver tells whether the time of an operation is over, whether or not anybody has been told yet.
func isOver(ctx context.Context) bool {
	deadline, bounded := ctx.Deadline()
	return bounded && !time.Now().Before(deadline)
}

func addQueue(vhost, name string, d *QueueDeclare) *raftv1.AddQueue {
	return &raftv1.AddQueue{Vhost: vhost, Name: name, Durable: d.isDurable(), AutoDelete: d.AutoDelete, Arguments: d.Arguments}
}

// newQueueSettings checks the arguments of a new queue.
func (ch *Channel) newQueueSettings(name string, d *QueueDeclare) (*queue.Settings, error) {
	where := queueIn(name, ch.conn.vhost.name)
	if err := ch.checkDeadLetter(where, d.Arguments); err != nil {
		return nil, err
	}
	if err := checkQueueArguments(where, d); err != nil {
		return nil, err
	}
	return queueSettings(ch.conn.vhost.name, name, d), nil
}

// checkDeadLetter checks the dead letter exchange of a new queue and the permissions for it.
func (ch *Channel) checkDeadLetter(where resource, arguments *Table) error {
	v := lookup(arguments, deadLetterExchange)
	if v == nil {
		return nil
	}
	exchange, ok := text(v)
	if !ok {
		return errorf(PreconditionFailed, "invalid type '%s' for arg '%s' in %s", fieldTypeName(byte(v.GetWireType())), deadLetterExchange, where)
	}
	if err := ch.permissions.check(auth.Read, where); err != nil {
		return err
	}
	return ch.permissions.check(auth.Write, exchangeIn(exchange, ch.conn.vhost.name))
}

// PurgeQueue drops the ready messages and returns how many there were.
func (ch *Channel) PurgeQueue(ctx context.Context, name string) (uint64, error) {
	ctx, cancel := ch.conn.operation(ctx)
	defer cancel()
	return byName(name, func() (uint64, error) { return ch.purge(ctx, name) })
}

func (ch *Channel) purge(ctx context.Context, name string) (uint64, error) {
	q, err := ch.queueToRead(ctx, name)
	if err != nil {
		return 0, err
	}
	result, err := ch.conn.call(ctx, q.ID.Shard(), func(b *queue.Batch) { b.Purge(q.ID) })
	if err == nil && result.Code == queue.Gone {
		return 0, ch.conn.gone(ctx, q.Name, q.ID)
	}
	return result.Messages, explain(err, queueIn(q.Name, ch.conn.vhost.name).String())
}

// DeleteQueue removes a queue and returns how many ready messages it had. One that does not exist is no error.
func (ch *Channel) DeleteQueue(ctx context.Context, name string, ifUnused, ifEmpty bool) (uint64, error) {
	ctx, cancel := ch.conn.operation(ctx)
	defer cancel()
	name, err := ch.queueName(name)
	if err != nil {
		return 0, err
	}
	where := queueIn(name, ch.conn.vhost.name)
	if err := ch.permissions.check(auth.Configure, where); err != nil {
		return 0, err
	}
	return byName(name, func() (uint64, error) {
		q, err := ch.conn.lookupQueue(ctx, name)
		if isKind(err, NotFound) {
			return 0, ch.conn.broker.stands(ctx, nil)
		}
		if err != nil {
			return 0, err
		}
		if err := mayDeleteIf(q, where, ifUnused, ifEmpty); err != nil {
			return 0, err
		}
		n, err := ch.conn.deleteQueue(ctx, q, ifUnused, ifEmpty)
		return n, explain(err, where.String())
	})
}

// mayDeleteIf refuses the conditions that RabbitMQ's quorum queues do not support.
func mayDeleteIf(q *catalog.Queue, where resource, ifUnused, ifEmpty bool) error {
	if queueKind(q.Arguments) != quorumKind || !ifUnused && !ifEmpty {
		return nil
	}
	flag := "if-unused"
	if !ifUnused {
		flag = "if-empty"
	}
	return errorf(NotImplemented, "cannot delete %s. queue.delete operations with %s flag set are not supported by quorum queues", where, flag)
}

// deleteQueue removes the queue from its shard and then from the catalog.
func (c *Conn) deleteQueue(ctx context.Context, q *catalog.Queue, ifUnused, ifEmpty bool) (uint64, error) {
	where := queueIn(q.Name, c.vhost.name)
	result, err := c.call(ctx, q.ID.Shard(), func(b *queue.Batch) { b.Delete(q.ID, ifUnused, ifEmpty) })
	if err != nil {
		return 0, err
	}
	switch result.Code {
	case queue.OK:
		delete(c.exclusive, q.Name)
		return result.Messages, c.broker.reap(ctx, q.ID)
	case queue.Gone:
		delete(c.exclusive, q.Name)
		if err := c.gone(ctx, q.Name, q.ID); !isKind(err, NotFound) {
			return 0, err
		}
		return 0, nil
	case queue.InUse:
		return 0, errorf(PreconditionFailed, "%s in use", where)
	case queue.NotEmpty:
		return 0, errorf(PreconditionFailed, "%s not empty", where)
	}
	return 0, fmt.Errorf("delete %s: unexpected result %d", where, result.Code)
}
