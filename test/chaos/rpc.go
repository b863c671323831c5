package chaos

import (
	"context"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/test/chaos/check"
)

const rpcQueue = "rpc"

// replyPatience is how long an RPC client waits: longer than any fault and the recovery from it.
const replyPatience = 40 * time.Second

// rpc: clients that declare an exclusive reply queue and wait for their answers, servers on other nodes that answer where
// reply_to says. A reply that was confirmed must arrive while the client's connection lives (P6 for the reply queue).
func rpc(r *run, l *link, _ float64) error {
	release := l.bound(patience)
	_, err := l.ch.QueueDeclare(rpcQueue, true, false, false, false, nil)
	release()
	if err != nil {
		return fmt.Errorf("declare queue %s: %w", rpcQueue, err)
	}
	for i := range 2 {
		s := &rpcServer{client: r.client(fmt.Sprintf("RPC server %d", i), r.seat())}
		r.consumers = append(r.consumers, s.run)
	}
	for i := range 3 {
		c := &rpcClient{client: r.client(fmt.Sprintf("RPC client %d", i), r.seat()), number: uint32(i)}
		r.publishers = append(r.publishers, c.run)
	}
	return nil
}

// rpcServer answers requests: the reply is the request's body.
type rpcServer struct{ *client }

func (s *rpcServer) run(ctx context.Context) {
	for ctx.Err() == nil {
		l, err := s.connect(ctx)
		if err != nil {
			return
		}
		if err := s.serve(ctx, l); err != nil {
			s.r.clientError(s.name, l.reason(err))
			l.crash()
			s.next++
		} else if err := l.close(); err != nil {
			s.r.clientError(s.name, err)
		}
	}
}

func (s *rpcServer) serve(ctx context.Context, l *link) error {
	release := l.bound(patience)
	err := l.ch.Confirm(false)
	if err == nil {
		err = l.ch.Qos(10, 0, false)
	}
	var requests <-chan amqp.Delivery
	if err == nil {
		requests, err = l.ch.Consume(rpcQueue, "", false, false, false, false, nil)
	}
	release()
	if err != nil {
		return err
	}
	returns := l.ch.NotifyReturn(make(chan amqp.Return, 16))
	for {
		select {
		case <-ctx.Done():
			return nil
		case d, open := <-requests:
			if !open {
				return errLost
			}
			if err := s.answer(l, d, returns); err != nil {
				return err
			}
		}
	}
}

func (s *rpcServer) answer(l *link, d amqp.Delivery, returns chan amqp.Return) error {
	defer l.bound(patience)()
	wait, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	confirm, err := l.ch.PublishWithDeferredConfirmWithContext(wait, "", d.ReplyTo, true, false,
		amqp.Publishing{CorrelationId: d.CorrelationId, Body: d.Body})
	if err != nil {
		return err
	}
	select {
	case <-confirm.Done():
	case <-wait.Done():
		return errStalled
	case <-l.closed:
		return errLost
	}
	unroutable := wasReturned(returns)
	s.r.replies.sent(d.CorrelationId, confirm.Acked() && !unroutable, unroutable)
	return d.Ack(false)
}

// rpcClient asks one question after the other.
type rpcClient struct {
	*client
	number uint32
	asked  uint32
}

func (c *rpcClient) run(ctx context.Context) {
	for ctx.Err() == nil {
		l, err := c.connect(ctx)
		if err != nil {
			return
		}
		if err := c.ask(ctx, l); err != nil {
			c.r.clientError(c.name, l.reason(err))
			l.crash()
			c.next++
		} else if err := l.close(); err != nil {
			c.r.clientError(c.name, err)
		}
	}
}

func (c *rpcClient) ask(ctx context.Context, l *link) error {
	release := l.bound(patience)
	queue, err := l.ch.QueueDeclare("", false, false, true, false, nil)
	var replies <-chan amqp.Delivery
	if err == nil {
		replies, err = l.ch.Consume(queue.Name, "", true, true, false, false, nil)
	}
	release()
	if err != nil {
		return err
	}
	defer c.r.replies.gone(fmt.Sprintf("%d-", c.number))
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if err := c.question(l, queue.Name, replies); err != nil {
			return err
		}
	}
}

// question sends a request and waits for its reply. One that stays away is a finding when its server has a confirm for it,
// and ends the connection in any case.
func (c *rpcClient) question(l *link, replyTo string, replies <-chan amqp.Delivery) error {
	defer l.bound(2 * patience)()
	c.asked++
	correlation := fmt.Sprintf("%d-%d", c.number, c.asked)
	body := encodeBody(c.number, c.asked, 64)
	c.r.replies.expect(correlation)
	if err := l.ch.PublishWithContext(context.Background(), "", rpcQueue, true, false,
		amqp.Publishing{ReplyTo: replyTo, CorrelationId: correlation, Body: body}); err != nil {
		return err
	}
	timeout := time.After(replyPatience)
	for {
		select {
		case d, open := <-replies:
			if !open {
				return errLost
			}
			if string(d.Body) == string(body) && d.CorrelationId == correlation {
				c.r.replies.arrived(correlation)
				return nil
			}
			// An answer given twice, by a server that lost its channel before its ack, is no wonder.
			if number, asked, err := decodeBody(d.Body); err != nil || number != c.number || asked > c.asked {
				c.r.ledger.Report(check.Finding{Kind: check.Reply, Detail: fmt.Sprintf("%s got the answer to %s", c.name, d.CorrelationId)})
			}
		case <-timeout:
			if wrong := c.r.replies.missing(correlation); wrong != "" {
				_, err := l.ch.QueueDeclarePassive(replyTo, false, false, true, false, nil)
				c.r.ledger.Report(check.Finding{Kind: check.Reply, Detail: fmt.Sprintf("at %v: %s within %v; its client, on node%d, now looks at its queue: %v",
					c.r.now().Round(time.Millisecond), wrong, replyPatience, l.node+1, err)})
			}
			return fmt.Errorf("no reply to %s within %v", correlation, replyPatience)
		}
	}
}
