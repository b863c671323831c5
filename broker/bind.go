package broker

import (
	"context"

	"github.com/warrenmq/warren/auth"
	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm/catalog"
)

// BindQueue binds a queue to an exchange.
func (ch *Channel) BindQueue(ctx context.Context, b *Binding) error {
	return ch.binding(ctx, b, false, true)
}

// UnbindQueue removes a binding of a queue. One that does not exist is no error.
func (ch *Channel) UnbindQueue(ctx context.Context, b *Binding) error {
	return ch.binding(ctx, b, false, false)
}

// BindExchange binds an exchange (the destination) to another (the source).
func (ch *Channel) BindExchange(ctx context.Context, b *Binding) error {
	return ch.binding(ctx, b, true, true)
}

// UnbindExchange removes a binding between exchanges. One that does not exist is no error.
func (ch *Channel) UnbindExchange(ctx context.Context, b *Binding) error {
	return ch.binding(ctx, b, true, false)
}

func (ch *Channel) binding(ctx context.Context, b *Binding, toExchange, bind bool) error {
	ctx, cancel := ch.conn.operation(ctx)
	defer cancel()
	if isReplyTo(b.Destination) && !toExchange {
		return errorf(AccessRefused, "cannot bind or unbind to a volatile (direct reply-to) queue")
	}
	full, err := ch.completeBinding(b, toExchange)
	if err != nil {
		return err
	}
	if err := ch.mayBind(full, toExchange); err != nil {
		return err
	}
	if err := ch.endsExist(ctx, full, toExchange); err != nil {
		if !bind && isKind(err, NotFound) {
			err = nil
		}
		return ch.conn.broker.stands(ctx, err)
	}
	err = ch.conn.broker.propose(ctx, full.command(ch.conn.vhost.name, toExchange, bind))
	if !bind && isKind(err, NotFound) {
		return nil
	}
	return explain(err, exchangeIn(full.Source, ch.conn.vhost.name).String())
}

// completeBinding fills in what is left out: the queue declared last, and as its routing key its name.
func (ch *Channel) completeBinding(b *Binding, toExchange bool) (*Binding, error) {
	full := *b
	full.Source, full.Destination = cleanName(b.Source), cleanName(b.Destination)
	if toExchange {
		return &full, nil
	}
	name, err := ch.queueName(b.Destination)
	if err != nil {
		return nil, err
	}
	if full.Destination == "" && full.RoutingKey == "" {
		full.RoutingKey = name
	}
	full.Destination = name
	return &full, nil
}

// mayBind refuses those without permission and the default exchange, in RabbitMQ's order.
func (ch *Channel) mayBind(b *Binding, toExchange bool) error {
	vhost := ch.conn.vhost.name
	destination := queueIn(b.Destination, vhost)
	if toExchange {
		destination = exchangeIn(b.Destination, vhost)
	}
	if err := ch.permissions.check(auth.Write, destination); err != nil {
		return err
	}
	if toExchange {
		if err := notDefault(b.Destination); err != nil {
			return err
		}
	}
	if err := notDefault(b.Source); err != nil {
		return err
	}
	return ch.permissions.check(auth.Read, exchangeIn(b.Source, vhost))
}

// endsExist looks both ends up; a queue of another connection is refused.
func (ch *Channel) endsExist(ctx context.Context, b *Binding, toExchange bool) error {
	if _, err := ch.conn.lookupExchange(ctx, b.Source); err != nil {
		return err
	}
	if toExchange {
		_, err := ch.conn.lookupExchange(ctx, b.Destination)
		return err
	}
	_, err := ch.conn.lookupQueue(ctx, b.Destination)
	return err
}

func (b *Binding) command(vhost string, toExchange, bind bool) *catalog.Command {
	if bind {
		return catalog.Bind(&raftv1.Bind{Vhost: vhost, Source: b.Source, Destination: b.Destination, ToExchange: toExchange,
			RoutingKey: b.RoutingKey, Arguments: b.Arguments})
	}
	return catalog.Unbind(&raftv1.Unbind{Vhost: vhost, Source: b.Source, Destination: b.Destination, ToExchange: toExchange,
		RoutingKey: b.RoutingKey, Arguments: b.Arguments})
}
