package broker

import (
	"context"
	"fmt"

	"github.com/warrenmq/warren/auth"
	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// Consume starts a consumer and returns its tag. Its deliveries flow in Drain once Started(tag) was called, so that the
// front door can queue consume-ok first.
func (ch *Channel) Consume(ctx context.Context, p *Consume) (tag string, err error) {
	tag = p.Tag
	if tag == "" {
		tag = generate(generatedTag)
	}
	if p.Queue == replyToName {
		return ch.consumeReplies(ctx, p, tag)
	}
	if err := ch.checkTag(tag); err != nil {
		return "", err
	}
	if err := ch.checkConsumers(); err != nil {
		return "", err
	}
	return byName(p.Queue, func() (string, error) { return ch.consume(ctx, p, tag) })
}

func (ch *Channel) consume(ctx context.Context, p *Consume, tag string) (string, error) {
	q, err := ch.queueToRead(ctx, p.Queue)
	if err != nil {
		return "", err
	}
	if err := checkConsumerArguments(queueIn(q.Name, ch.conn.vhost.name), queueKind(q.Arguments), p.Arguments); err != nil {
		return "", err
	}
	c := &consumer{channel: ch, tag: tag, queue: q.ID, name: q.Name, shard: q.ID.Shard(), noAck: p.NoAck}
	c.credit.Store(ch.newCredit(p))
	ch.mu.Lock()
	ch.watch(c, ch.conn.broker.timeoutOf(p.Arguments, q.Arguments))
	ch.mu.Unlock()
	return tag, ch.attach(ctx, c, &queue.AttachOptions{Priority: priority(p.Arguments), Exclusive: p.Exclusive, NoAck: p.NoAck, Tag: tag})
}

func (ch *Channel) checkTag(tag string) error {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.consumers[tag] != nil {
		return errorf(NotAllowed, "attempt to reuse consumer tag '%s'", tag)
	}
	return nil
}

func (ch *Channel) checkConsumers() error {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if limit := ch.conn.broker.options.MaxChannelConsumers; limit > 0 && len(ch.consumers) >= limit {
		return errorf(NotAllowed, "reached maximum (%d) of consumers per channel", limit)
	}
	return nil
}

// queueToRead resolves the name of a queue to consume or get from, and checks that the user may.
func (ch *Channel) queueToRead(ctx context.Context, name string) (*catalog.Queue, error) {
	name, err := ch.queueName(name)
	if err != nil {
		return nil, err
	}
	if err := ch.permissions.check(auth.Read, queueIn(name, ch.conn.vhost.name)); err != nil {
		return nil, err
	}
	return ch.conn.lookupQueue(ctx, name)
}

// queueName returns the name, or if it is empty that of the queue declared last on the channel.
func (ch *Channel) queueName(name string) (string, error) {
	if name = cleanName(name); name != "" {
		return name, nil
	}
	if ch.lastQueue == "" {
		return "", errorf(NotFound, "no previously declared queue")
	}
	return ch.lastQueue, nil
}

func (ch *Channel) newCredit(p *Consume) uint32 {
	switch {
	case p.NoAck:
		return ch.conn.broker.options.NoAckCredit
	case p.Credit > 0:
		return min(p.Credit, maxCredit)
	case ch.prefetch > 0:
		return uint32(ch.prefetch)
	}
	return ch.conn.broker.options.UnlimitedCredit
}

// consumerArguments are the arguments of a consumer that some type of queue of RabbitMQ knows.
var consumerArguments = []queueArgument{
	{consumerPriority, []string{classicKind, quorumKind}, checkNumber},
	{consumerTimeout, []string{quorumKind}, checkNatural},
	{"x-stream-offset", []string{streamKind}, nil},
	{"x-stream-filter", []string{streamKind}, nil},
	{"x-stream-match-unfiltered", []string{streamKind}, nil},
}

const consumerPriority = "x-priority"

func checkConsumerArguments(where resource, kind string, arguments *Table) error {
	return checkArguments(consumerArguments, where, kind, arguments)
}

// priority reads x-priority, which has been checked.
func priority(arguments *Table) int32 {
	const limit = 1<<31 - 1
	n, _ := integer(lookup(arguments, consumerPriority))
	return int32(max(-limit, min(limit, n)))
}

// attach starts the consumer in its queue's shard.
func (ch *Channel) attach(ctx context.Context, c *consumer, o *queue.AttachOptions) error {
	conn := ch.conn
	ctx, cancel := conn.operation(ctx)
	defer cancel()
	where := queueIn(c.name, conn.vhost.name)
	c.id = queue.ConsumerID(conn.broker.replicator.NewID())
	o.Credit = ch.creditOf(c)
	conn.broker.replicator.Subscribe(c.shard, c.id, c)
	ch.mu.Lock()
	ch.consumers[c.tag] = c
	ch.mu.Unlock()
	result, err := conn.call(ctx, c.shard, func(b *queue.Batch) { b.Attach(c.queue, c.id, o) })
	if err == nil && result.Code == queue.OK {
		return nil
	}
	ch.forget(c)
	conn.out.drop(c)
	if err != nil { // the outcome is unknown
		conn.stage.detach(c, false)
		conn.broker.replicator.Unsubscribe(c.shard, c.id)
		return explain(err, where.String())
	}
	conn.broker.replicator.Unsubscribe(c.shard, c.id)
	switch result.Code {
	case queue.Gone:
		return explain(conn.gone(ctx, c.name, c.queue), where.String())
	case queue.InUse:
		return &InUse{errorf(AccessRefused, "%s in exclusive use", where)}
	}
	return fmt.Errorf("attach to %s: unexpected result %d", where, result.Code)
}

// Started lets the deliveries of a new consumer flow.
func (ch *Channel) Started(tag string) {
	ch.mu.Lock()
	c := ch.consumers[tag]
	ch.mu.Unlock()
	if c != nil {
		ch.conn.out.start(c)
	}
}

// Cancel stops a consumer; what it has stays unsettled. An unknown tag is no error.
func (ch *Channel) Cancel(ctx context.Context, tag string) error {
	ch.mu.Lock()
	c := ch.consumers[tag]
	delete(ch.consumers, tag)
	ch.mu.Unlock()
	if c == nil {
		return nil
	}
	ctx, cancel := ch.conn.operation(ctx)
	defer cancel()
	return explain(ch.stop(ctx, c), queueIn(c.name, ch.conn.vhost.name).String())
}

// stop ends a consumer and gives back what the client has not been sent.
func (ch *Channel) stop(ctx context.Context, c *consumer) error {
	conn := ch.conn
	conn.out.update(c, func() { c.started = false })
	if c == ch.replies {
		return ch.stopReplies(ctx, c)
	}
	_, err := conn.call(ctx, c.shard, func(b *queue.Batch) { b.Cancel(c.id) })
	if waiting := conn.out.drop(c); len(waiting) > 0 {
		conn.stage.batch(c.shard).giveBack(c, waiting)
	}
	ch.mu.Lock()
	c.ended = true
	if c.unsettled > 0 {
		ch.ended[c] = true
	} else {
		conn.stage.detach(c, false)
	}
	ch.mu.Unlock()
	conn.broker.replicator.Unsubscribe(c.shard, c.id)
	if err != nil {
		return err
	}
	return conn.flush(ctx)
}

// giveBack stages the return of deliveries that the client has not seen.
func (b *batch) giveBack(c *consumer, ds []Delivery) {
	for i := range ds {
		b.settle(c.id, queue.Undelivered, queue.Range{From: ds[i].ID, To: ds[i].ID})
	}
}
