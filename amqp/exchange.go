package amqp

import (
	"github.com/warrenmq/warren/amqp/wire"
	"github.com/warrenmq/warren/broker"
)

func (c *conn) exchangeDeclare(ch *channel, m *wire.ExchangeDeclare) error {
	err := ch.broker.DeclareExchange(c.calls, &broker.ExchangeDeclare{Name: m.Exchange, Type: m.Type, Passive: m.Passive,
		Durable: m.Durable, AutoDelete: m.AutoDelete, Internal: m.Internal, Arguments: storedTable(m.Arguments)})
	if err != nil {
		return err
	}
	c.answer(ch, m.NoWait, &wire.ExchangeDeclareOk{})
	return nil
}

func (c *conn) exchangeDelete(ch *channel, m *wire.ExchangeDelete) error {
	if err := ch.broker.DeleteExchange(c.calls, m.Exchange, m.IfUnused); err != nil {
		return err
	}
	c.answer(ch, m.NoWait, &wire.ExchangeDeleteOk{})
	return nil
}

func (c *conn) exchangeBind(ch *channel, m *wire.ExchangeBind) error {
	err := ch.broker.BindExchange(c.calls, &broker.Binding{Source: m.Source, Destination: m.Destination, RoutingKey: m.RoutingKey, Arguments: storedTable(m.Arguments)})
	if err != nil {
		return err
	}
	c.answer(ch, m.NoWait, &wire.ExchangeBindOk{})
	return nil
}

func (c *conn) exchangeUnbind(ch *channel, m *wire.ExchangeUnbind) error {
	err := ch.broker.UnbindExchange(c.calls, &broker.Binding{Source: m.Source, Destination: m.Destination, RoutingKey: m.RoutingKey, Arguments: storedTable(m.Arguments)})
	if err != nil {
		return err
	}
	c.answer(ch, m.NoWait, &wire.ExchangeUnbindOk{})
	return nil
}
