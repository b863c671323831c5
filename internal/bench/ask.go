package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/warrenmq/warren/amqp/wire"
)

// Declare declares a durable queue through a server, where some brokers then put its leader.
func Declare(ctx context.Context, t Target, server, queue string) error {
	c, err := t.dial(ctx, server)
	if err != nil {
		return err
	}
	if _, err := ask[*wire.QueueDeclareOk](c, t.declare(queue)); err != nil {
		return errors.Join(fmt.Errorf("declare %s: %w", queue, err), c.socket.Close())
	}
	return c.goodbye()
}

// Answers publishes one persistent message to a queue through a server and waits for its confirm, for timeout at most: a node
// that does it serves.
func Answers(ctx context.Context, t Target, server, queue string, timeout time.Duration) error {
	c, err := t.dial(ctx, server)
	if err != nil {
		return err
	}
	return errors.Join(c.publishOne(queue, timeout), c.socket.Close())
}

func (c *client) publishOne(queue string, timeout time.Duration) error {
	if err := c.socket.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if _, err := ask[*wire.ConfirmSelectOk](c, &wire.ConfirmSelect{}); err != nil {
		return err
	}
	properties := (&wire.Properties{DeliveryMode: 2}).Append(nil)
	if _, err := c.socket.Write(wire.AppendPublish(nil, benchChannel, "", queue, false, false, properties, []byte("?"), c.frameMax)); err != nil {
		return err
	}
	_, err := expect[*wire.BasicAck](c)
	return err
}
