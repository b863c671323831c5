package broker

import (
	"context"
	"fmt"

	"github.com/warrenmq/warren/raftfsm/queue"
)

// Direct reply-to. A channel that consumes amq.rabbitmq.reply-to gets a queue in the memory of its node which the catalog
// does not know. Its id is in the address that the channel's requests carry in reply-to, and a publish to the default
// exchange with that address goes to the id: so replies come from any node, in order and bounded like everything else.
// Who knows the address may reply; nobody can guess one.

// consumeReplies starts the channel's reply consumer.
func (ch *Channel) consumeReplies(ctx context.Context, p *Consume, tag string) (string, error) {
	if err := ch.checkConsumers(); err != nil {
		return "", err
	}
	if !p.NoAck {
		return "", errorf(PreconditionFailed, "reply consumer cannot acknowledge")
	}
	if ch.replies != nil {
		return "", errorf(PreconditionFailed, "reply consumer already set")
	}
	if err := ch.checkTag(tag); err != nil {
		return "", err
	}
	shard := ch.conn.broker.replicator.Self().Local
	id, err := ch.createReplies(ctx, shard)
	if err != nil {
		return "", explain(err, queueIn(replyToName, ch.conn.vhost.name).String())
	}
	c := &consumer{channel: ch, tag: tag, queue: id, name: replyToName, shard: shard, noAck: true}
	c.credit.Store(ch.newCredit(p))
	ch.replies, ch.replyTo = c, replyToAddress(id)
	if err := ch.attach(ctx, c, &queue.AttachOptions{NoAck: true, Tag: tag}); err != nil {
		ch.replies, ch.replyTo = nil, ""
		return "", err
	}
	return tag, nil
}

// createReplies makes the queue.
func (ch *Channel) createReplies(ctx context.Context, shard queue.ShardID) (queue.QueueID, error) {
	ctx, cancel := ch.conn.operation(ctx)
	defer cancel()
	for range maxAttempts {
		id := queue.MakeQueueID(shard, randomID())
		result, err := ch.conn.call(ctx, shard, func(b *queue.Batch) { b.Configure(id, replySettings()) })
		if err != nil || result.Code == queue.OK {
			return id, err
		}
	}
	return 0, fmt.Errorf("no free queue id found")
}

// stopReplies ends the reply consumer and its queue.
func (ch *Channel) stopReplies(ctx context.Context, c *consumer) error {
	ch.mu.Lock()
	c.ended = true
	ch.mu.Unlock()
	ch.conn.out.drop(c)
	ch.conn.detach(c)
	ch.replies, ch.replyTo = nil, ""
	return ch.conn.flush(ctx)
}

// declareReplies answers queue.declare of the pseudo queue or of an address: it is there while its consumer is.
func (ch *Channel) declareReplies(ctx context.Context, name string) (QueueOK, error) {
	if name == replyToName {
		return QueueOK{Name: name, Consumers: 1}, nil
	}
	id, ok := parseReplyTo([]byte(name))
	if ok {
		ctx, cancel := ch.conn.operation(ctx)
		defer cancel()
		if _, exists, err := ch.conn.broker.replicator.Counts(ctx, id); err != nil {
			return QueueOK{}, explain(err, queueIn(name, ch.conn.vhost.name).String())
		} else if exists {
			return QueueOK{Name: name, Consumers: 1}, nil
		}
	}
	return QueueOK{}, noQueue(name, ch.conn.vhost.name)
}
