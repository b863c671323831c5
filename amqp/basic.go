package amqp

import (
	"github.com/warrenmq/warren/amqp/wire"
	"github.com/warrenmq/warren/broker"
)

func (c *conn) basicQos(ch *channel, m *wire.BasicQos) error {
	if err := ch.broker.Qos(m.PrefetchSize, m.PrefetchCount, m.Global); err != nil {
		return err
	}
	c.answer(ch, false, &wire.BasicQosOk{})
	return nil
}

// basicConsume queues consume-ok before the broker may deliver.
func (c *conn) basicConsume(ch *channel, m *wire.BasicConsume) error {
	tag, err := ch.broker.Consume(c.calls, &broker.Consume{Queue: m.Queue, Tag: m.ConsumerTag, NoLocal: m.NoLocal, NoAck: m.NoAck,
		Exclusive: m.Exclusive, Arguments: storedTable(m.Arguments)})
	if err != nil {
		return err
	}
	c.answer(ch, m.NoWait, &wire.BasicConsumeOk{ConsumerTag: tag})
	ch.broker.Started(tag)
	return nil
}

func (c *conn) basicCancel(ch *channel, m *wire.BasicCancel) error {
	if err := ch.broker.Cancel(c.calls, m.ConsumerTag); err != nil {
		return err
	}
	c.answer(ch, m.NoWait, &wire.BasicCancelOk{ConsumerTag: m.ConsumerTag})
	return nil
}

func (c *conn) basicGet(ch *channel, m *wire.BasicGet) error {
	got, ok, err := ch.broker.Get(c.calls, m.Queue, m.NoAck)
	if err != nil {
		return err
	}
	if !ok {
		c.answer(ch, false, &wire.BasicGetEmpty{})
		return nil
	}
	c.out.append(func(buf []byte) []byte {
		return wire.AppendGetOk(buf, ch.number, got.Tag, got.Redelivered, got.Exchange, got.RoutingKey, got.MessageCount, got.Properties, got.Body, c.frameMax)
	})
	return nil
}

// basicRecover queues recover-ok before the messages can come again.
func (c *conn) basicRecover(ch *channel, requeue, answer bool) error {
	if err := ch.broker.Recover(requeue); err != nil {
		return err
	}
	c.answer(ch, !answer, &wire.BasicRecoverOk{})
	return nil
}

func (c *conn) confirmSelect(ch *channel, m *wire.ConfirmSelect) error {
	if err := ch.broker.ConfirmSelect(); err != nil {
		return err
	}
	c.answer(ch, m.NoWait, &wire.ConfirmSelectOk{})
	return nil
}

func (c *conn) txSelect(ch *channel) error {
	if err := ch.broker.TxSelect(); err != nil {
		return err
	}
	c.answer(ch, false, &wire.TxSelectOk{})
	return nil
}

func (c *conn) txCommit(ch *channel) error {
	if err := ch.broker.TxCommit(c.calls); err != nil {
		return err
	}
	c.answer(ch, false, &wire.TxCommitOk{})
	return nil
}

func (c *conn) txRollback(ch *channel) error {
	if err := ch.broker.TxRollback(c.calls); err != nil {
		return err
	}
	c.answer(ch, false, &wire.TxRollbackOk{})
	return nil
}
