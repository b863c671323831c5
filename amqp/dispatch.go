package amqp

import (
	"github.com/warrenmq/warren/amqp/wire"
)

// failing notes in an error which method it ends.
func (c *conn) failing(id wire.MethodID, err error) error {
	p := c.toProtocol(err)
	p.class, p.method = id.Class(), id.Method()
	return p
}

// methodFrame handles a method on an open channel. The frequent ones are read without allocation.
func (c *conn) methodFrame(ch *channel, payload []byte) error {
	id, err := wire.PeekMethod(payload)
	if err != nil {
		return err
	}
	switch id {
	case wire.BasicPublishID:
		m, err := wire.ParsePublish(payload)
		if err != nil {
			return err
		}
		c.beginContent(ch, m)
		return nil
	case wire.BasicAckID:
		m, err := wire.ParseAck(payload)
		if err != nil {
			return err
		}
		if err := ch.broker.Ack(m.DeliveryTag, m.Multiple); err != nil {
			return c.failing(id, err)
		}
		return nil
	}
	m, err := wire.ParseMethod(payload)
	if err != nil {
		return methodError(err)
	}
	if err := c.dispatch(ch, m); err != nil {
		return c.failing(id, err)
	}
	return nil
}

// dispatch calls the handler of a method; the handlers stand in files by class.
func (c *conn) dispatch(ch *channel, m wire.Method) error {
	switch m := m.(type) {
	case *wire.ChannelOpen:
		return hard(wire.ChannelError, "second 'channel.open' seen")
	case *wire.ChannelClose:
		return c.clientCloses(ch)
	case *wire.ChannelCloseOk:
		return nil
	case *wire.ChannelFlow:
		return c.channelFlow(ch, m)
	case *wire.AccessRequest:
		return c.accessRequest(ch)

	case *wire.ExchangeDeclare:
		return c.exchangeDeclare(ch, m)
	case *wire.ExchangeDelete:
		return c.exchangeDelete(ch, m)
	case *wire.ExchangeBind:
		return c.exchangeBind(ch, m)
	case *wire.ExchangeUnbind:
		return c.exchangeUnbind(ch, m)

	case *wire.QueueDeclare:
		return c.queueDeclare(ch, m)
	case *wire.QueueBind:
		return c.queueBind(ch, m)
	case *wire.QueueUnbind:
		return c.queueUnbind(ch, m)
	case *wire.QueuePurge:
		return c.queuePurge(ch, m)
	case *wire.QueueDelete:
		return c.queueDelete(ch, m)

	case *wire.BasicQos:
		return c.basicQos(ch, m)
	case *wire.BasicConsume:
		return c.basicConsume(ch, m)
	case *wire.BasicCancel:
		return c.basicCancel(ch, m)
	case *wire.BasicCancelOk:
		return nil // some clients answer a cancel notification
	case *wire.BasicGet:
		return c.basicGet(ch, m)
	case *wire.BasicNack:
		return ch.broker.Nack(m.DeliveryTag, m.Multiple, m.Requeue)
	case *wire.BasicReject:
		return ch.broker.Reject(m.DeliveryTag, m.Requeue)
	case *wire.BasicRecover:
		return c.basicRecover(ch, m.Requeue, true)
	case *wire.BasicRecoverAsync:
		return c.basicRecover(ch, m.Requeue, false)

	case *wire.ConfirmSelect:
		return c.confirmSelect(ch, m)
	case *wire.TxSelect:
		return c.txSelect(ch)
	case *wire.TxCommit:
		return c.txCommit(ch)
	case *wire.TxRollback:
		return c.txRollback(ch)
	}
	return hard(wire.CommandInvalid, "unimplemented method")
}

// answer queues a reply unless the client wants none.
func (c *conn) answer(ch *channel, noWait bool, m wire.Method) {
	if !noWait {
		c.out.method(ch.number, m)
	}
}

func (c *conn) channelFlow(ch *channel, m *wire.ChannelFlow) error {
	if !m.Active {
		return hard(wire.NotImplemented, "active=false")
	}
	c.answer(ch, false, &wire.ChannelFlowOk{Active: true})
	return nil
}

// accessRequest answers what RabbitMQ always answers: tickets are a thing of the past.
func (c *conn) accessRequest(ch *channel) error {
	c.answer(ch, false, &wire.AccessRequestOk{Ticket: 1})
	return nil
}
