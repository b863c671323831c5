package broker

import (
	"context"
	"fmt"
	"math"

	"github.com/warrenmq/warren/raftfsm/queue"
)

// Get takes one message; ok is false when the queue is empty.
func (ch *Channel) Get(ctx context.Context, queueName string, noAck bool) (m *Outgoing, ok bool, err error) {
	ctx, cancel := ch.conn.operation(ctx)
	defer cancel()
	if queueName == replyToName {
		return nil, false, errorf(NotImplemented, "basic.get not supported by volatile %s", queueIn(queueName, ch.conn.vhost.name))
	}
	m, err = byName(queueName, func() (*Outgoing, error) {
		m, ok, err = ch.get(ctx, queueName, noAck)
		return m, err
	})
	return m, ok, err
}

func (ch *Channel) get(ctx context.Context, queueName string, noAck bool) (m *Outgoing, ok bool, err error) {
	q, err := ch.queueToRead(ctx, queueName)
	if err != nil {
		return nil, false, err
	}
	where := queueIn(q.Name, ch.conn.vhost.name)
	getter := ch.getter(q.ID.Shard())
	result, err := ch.conn.call(ctx, getter.shard, func(b *queue.Batch) { b.Get(q.ID, getter.id) })
	if err != nil {
		return nil, false, explain(err, where.String())
	}
	switch result.Code {
	case queue.Message:
		m, err = ch.got(ctx, getter, &result, noAck)
		return m, err == nil, explain(err, where.String())
	case queue.Empty:
		return nil, false, nil
	case queue.Gone:
		return nil, false, ch.conn.gone(ctx, q.Name, q.ID)
	case queue.Single:
		return nil, false, errorf(ResourceLocked, "cannot obtain access to locked %s. basic.get operations are not supported by %s queues with single active consumer",
			where, queueKind(q.Arguments))
	}
	return nil, false, fmt.Errorf("get from %s: unexpected result %d", where, result.Code)
}

// getter returns the holder of what the channel gets from a shard's queues.
func (ch *Channel) getter(shard queue.ShardID) *consumer {
	for _, g := range ch.getters {
		if g.shard == shard {
			return g
		}
	}
	r := ch.conn.broker.replicator
	g := &consumer{channel: ch, id: queue.ConsumerID(r.NewID()), shard: shard, getter: true, sent: math.MaxUint64}
	ch.mu.Lock()
	ch.watch(g, ch.conn.broker.options.ConsumerTimeout)
	ch.mu.Unlock()
	r.Subscribe(shard, g.id, g)
	ch.getters = append(ch.getters, g)
	return g
}

// got turns the answer into a message with a tag.
func (ch *Channel) got(ctx context.Context, getter *consumer, result *queue.Result, noAck bool) (*Outgoing, error) {
	d := &Delivery{Delivery: result.Delivery}
	var e envelope
	err := e.read(ctx, ch.conn.broker.replicator, d)
	if err == nil && !ch.conn.broker.replicator.Attended(getter.shard) {
		err = errorf(Unavailable, "the shard's leader was not heard for long: the message may be another's by now")
	}
	if err != nil {
		ch.conn.stage.batch(getter.shard).giveBack(getter, []Delivery{*d})
		return nil, err
	}
	var w writing
	ch.mu.Lock()
	if noAck {
		w.fill(ch.unacked.skip(), d, &e)
		ch.conn.stage.batch(getter.shard).settle(getter.id, queue.Ack, queue.Range{From: d.ID, To: d.ID})
	} else {
		w.fill(ch.hold(getter, d.ID), d, &e)
		getter.unsettled++
	}
	ch.mu.Unlock()
	w.outgoing.MessageCount = uint32(min(result.Messages, math.MaxUint32))
	return &w.outgoing, nil
}
