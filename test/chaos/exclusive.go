package chaos

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/test/chaos/check"
)

// exclusives: connections with exclusive queues that others try to use meanwhile and must find gone afterwards.
func exclusives(r *run, _ *link, _ float64) error {
	for i := range 2 {
		e := &exclusive{client: r.client(fmt.Sprintf("owner %d of exclusive queues", i), r.seat()), number: i}
		r.publishers = append(r.publishers, e.run)
	}
	return nil
}

// exclusive owns one queue after the other.
type exclusive struct {
	*client
	number, round int
}

func (e *exclusive) run(ctx context.Context) {
	for ctx.Err() == nil {
		e.round++
		name := fmt.Sprintf("exclusive-%d-%d", e.number, e.round)
		l, err := e.connect(ctx)
		if err != nil {
			return
		}
		if err := e.own(ctx, l, name); err != nil {
			e.r.clientError(e.name, l.reason(err))
			l.crash()
			e.next++
		} else if e.round%2 == 0 && !e.r.o.Stable {
			l.crash() // the queue must go with a lost connection as with a closed one
		} else if err := l.close(); err != nil {
			e.r.clientError(e.name, err)
			continue
		}
		e.expectGone(ctx, name)
	}
}

// own declares the queue, has it refuse a stranger, and sends a few messages through it.
func (e *exclusive) own(ctx context.Context, l *link, name string) error {
	defer l.bound(3 * patience)()
	declared := e.r.now()
	if _, err := l.ch.QueueDeclare(name, false, false, true, false, nil); err != nil {
		return err
	}
	elsewhere := *e.client
	elsewhere.next = l.node + e.round%e.r.o.Nodes
	stranger, err := elsewhere.connect(ctx)
	if err != nil {
		return nil // the load has ended
	}
	defer stranger.crash()
	wrong := strangersAnswer(passive(stranger, name))
	// Others may take the owner's node for dead, and the queue with it, though the owner does not know yet.
	given := check.Severed(e.r.windows.All(), l.node, declared, e.r.now())
	if wrong != "" && !given && alive(l) {
		e.r.ledger.Report(check.Finding{Kind: check.Exclusive, Detail: fmt.Sprintf("at %v: %s: a stranger on node %d %s, its owner is on node %d",
			e.r.now().Round(time.Millisecond), name, stranger.node+1, wrong, l.node+1)})
	}
	deliveries, err := l.ch.Consume(name, "", true, true, false, false, nil)
	if err != nil {
		return err
	}
	for i := range uint32(20) {
		if err := l.ch.PublishWithContext(context.Background(), "", name, true, false, amqp.Publishing{Body: encodeBody(uint32(e.number), i, 0)}); err != nil {
			return err
		}
	}
	timeout := time.After(patience)
	for i := range uint32(20) {
		select {
		case d, open := <-deliveries:
			if !open {
				return errLost
			}
			if _, id, err := decodeBody(d.Body); err != nil || id != i {
				e.r.ledger.Report(check.Finding{Kind: check.Exclusive, Detail: fmt.Sprintf("%s gave message %d (%v), expected %d", name, id, err, i)})
			}
		case <-timeout:
			return fmt.Errorf("message %d did not come out of %s within %v", i, name, patience)
		}
	}
	return nil
}

// expectGone waits until the queue is missing on any node. A node under a fault is asked again, and may answer late.
func (e *exclusive) expectGone(ctx context.Context, name string) {
	deadline := time.Now().Add(2 * patience)
	code := 0
	for ctx.Err() == nil {
		l, err := e.connect(ctx)
		if err != nil {
			return
		}
		code = codeOf(passive(l, name))
		l.crash()
		if code == amqp.NotFound {
			return
		}
		e.next++
		if time.Now().After(deadline) {
			e.r.ledger.Report(check.Finding{Kind: check.Exclusive, Detail: fmt.Sprintf("%s outlives its connection by %v: code %d", name, 2*patience, code)})
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// passive asks for the queue.
func passive(l *link, name string) error {
	defer l.bound(patience)()
	_, err := l.ch.QueueDeclarePassive(name, false, false, false, false, nil)
	return err
}

// strangersAnswer says what is wrong with the answer to a stranger who asks for an exclusive queue while its owner lives. RabbitMQ's is
// RESOURCE_LOCKED, wherever the two are. A stranger whose connection is lost, or closed, has no answer.
func strangersAnswer(err error) string {
	switch code := codeOf(err); {
	case code == amqp.ResourceLocked || code == -1 || code == amqp.ConnectionForced:
		return ""
	case code == 0:
		return "found it open"
	case code == amqp.NotFound && !isMissing(err):
		return "" // it exists and cannot be reached
	}
	return fmt.Sprintf("was told %q", err)
}

// codeOf is the code with which the broker refused: 0 for success, -1 for an error of another kind.
func codeOf(err error) int {
	var refusal *amqp.Error
	switch {
	case err == nil:
		return 0
	case errors.As(err, &refusal) && refusal.Server:
		return refusal.Code
	}
	return -1
}

// alive says whether the connection was not lost so far.
func alive(l *link) bool { return !l.conn.IsClosed() && !l.ch.IsClosed() }
