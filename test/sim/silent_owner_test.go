package sim

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/warrenmq/warren/broker"
)

// TestExclusiveQueueOfASilentNode publishes to an exclusive queue while the node of its connection hangs. The cluster ends that node's
// session after a minute; the publisher hears of its message then, and not when the node goes on, if ever. When it does, its client hears
// that the queue has gone.
func TestExclusiveQueueOfASilentNode(t *testing.T) {
	t.Parallel()
	var w watch
	const victim = 2
	confirmed := make(chan bool, 1)
	var owner, publisher *session
	hang := func(s *sim, a *action) {
		ctx := context.Background()
		var err error
		if owner, err = connect(ctx, s.nodes[victim].serving(), &session{}); err != nil {
			w.errorf("connect the owner: %v", err)
			return
		}
		if _, err = owner.ch.DeclareQueue(ctx, &broker.QueueDeclare{Name: "mine", Exclusive: true}); err != nil {
			w.errorf("declare: %v", err)
			return
		}
		tag, err := owner.ch.Consume(ctx, &broker.Consume{Queue: "mine"})
		if err != nil {
			w.errorf("consume: %v", err)
			return
		}
		owner.ch.Started(tag)
		if publisher, err = connect(ctx, s.nodes[0].serving(), &session{confirmed: func(_ uint64, _, ack bool) { confirmed <- ack }}); err != nil {
			w.errorf("connect the publisher: %v", err)
			return
		}
		publisher.ch.ConfirmSelect()
		freezing(s, a)
		if err = publisher.ch.Publish(ctx, &broker.Publish{RoutingKey: []byte("mine"), Properties: []byte{0, 0}, Body: []byte("x")}); err == nil {
			err = publisher.conn.Flush(ctx)
		}
		if err != nil {
			w.errorf("publish: %v", err)
		}
	}
	goOn := func(s *sim, a *action) {
		select {
		case ack := <-confirmed:
			if !ack {
				w.errorf("refused")
			}
		default:
			w.errorf("not confirmed")
		}
		thawing(s, a)
		select {
		case <-owner.ctx.Done():
		case <-time.After(time.Minute): // of the bubble's
		}
		if err := owner.err(); !errors.Is(err, errCancelled) {
			w.errorf("the owner's consumer is not cancelled: %v", err)
		}
		for _, c := range []*session{owner, publisher} {
			if c != nil {
				c.close()
			}
		}
	}
	w.actions = []*action{{fault: &fault{name: "stop", inject: hang, heal: goOn}, victims: []int{victim}, at: 2 * time.Second, lasts: 90 * time.Second}}
	w.run(t)
}
