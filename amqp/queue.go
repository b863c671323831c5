package amqp

import (
	"math"

	"github.com/warrenmq/warren/amqp/wire"
	"github.com/warrenmq/warren/broker"
)

func (c *conn) queueDeclare(ch *channel, m *wire.QueueDeclare) error {
	ok, err := ch.broker.DeclareQueue(c.calls, &broker.QueueDeclare{Name: m.Queue, Passive: m.Passive, Durable: m.Durable,
		Exclusive: m.Exclusive, AutoDelete: m.AutoDelete, Arguments: storedTable(m.Arguments)})
	if err != nil {
		return err
	}
	c.answer(ch, m.NoWait, &wire.QueueDeclareOk{Queue: ok.Name, MessageCount: ok.Messages, ConsumerCount: ok.Consumers})
	return nil
}

func (c *conn) queueBind(ch *channel, m *wire.QueueBind) error {
	err := ch.broker.BindQueue(c.calls, &broker.Binding{Source: m.Exchange, Destination: m.Queue, RoutingKey: m.RoutingKey, Arguments: storedTable(m.Arguments)})
	if err != nil {
		return err
	}
	c.answer(ch, m.NoWait, &wire.QueueBindOk{})
	return nil
}

func (c *conn) queueUnbind(ch *channel, m *wire.QueueUnbind) error {
	err := ch.broker.UnbindQueue(c.calls, &broker.Binding{Source: m.Exchange, Destination: m.Queue, RoutingKey: m.RoutingKey, Arguments: storedTable(m.Arguments)})
	if err != nil {
		return err
	}
	c.answer(ch, false, &wire.QueueUnbindOk{})
	return nil
}

func (c *conn) queuePurge(ch *channel, m *wire.QueuePurge) error {
	n, err := ch.broker.PurgeQueue(c.calls, m.Queue)
	if err != nil {
		return err
	}
	c.answer(ch, m.NoWait, &wire.QueuePurgeOk{MessageCount: count(n)})
	return nil
}

func (c *conn) queueDelete(ch *channel, m *wire.QueueDelete) error {
	n, err := ch.broker.DeleteQueue(c.calls, m.Queue, m.IfUnused, m.IfEmpty)
	if err != nil {
		return err
	}
	c.answer(ch, m.NoWait, &wire.QueueDeleteOk{MessageCount: count(n)})
	return nil
}

// count fits a number of messages into the protocol's 32 bits.
func count(n uint64) uint32 { return uint32(min(n, math.MaxUint32)) }
