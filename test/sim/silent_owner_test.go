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
		if err = publishNow(ctx, publisher, "mine", []byte{0, 0}); err != nil {
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

// TestRepliesToASilentNode answers requests whose clients wait on a node that hangs. Their reply queues have no names, and nothing else of
// that node is in the catalog; who answers hears of it all the same when the cluster ends the node's session, and goes on.
func TestRepliesToASilentNode(t *testing.T) {
	t.Parallel()
	var w watch
	const victim = 2
	ctx := context.Background()
	confirmed := make(chan bool, 1)
	var client, server *session
	hang := func(s *sim, a *action) {
		addresses := make(chan string, 1) // of the bubble, since it is waited for
		var err error
		if client, err = connect(ctx, s.nodes[victim].serving(), &session{}); err != nil {
			w.errorf("connect the client: %v", err)
			return
		}
		if server, err = connect(ctx, s.nodes[0].serving(), &session{
			delivered: func(m *broker.Outgoing) { addresses <- string(m.Properties[3 : 3+m.Properties[2]]) },
			confirmed: func(_ uint64, _, ack bool) { confirmed <- ack },
		}); err != nil {
			w.errorf("connect the server: %v", err)
			return
		}
		server.ch.ConfirmSelect()
		_, err = server.ch.DeclareQueue(ctx, &broker.QueueDeclare{Name: "requests", Durable: true})
		for c, p := range map[*session]*broker.Consume{server: {Queue: "requests", NoAck: true}, client: {Queue: replyTo, NoAck: true}} {
			var tag string
			if err == nil {
				tag, err = c.ch.Consume(ctx, p)
			}
			c.ch.Started(tag)
		}
		if err == nil {
			properties := append([]byte{2, 0, byte(len(replyTo))}, replyTo...) // it alone
			err = publishNow(ctx, client, "requests", properties)
		}
		if err != nil {
			w.errorf("request: %v", err)
			return
		}
		address := <-addresses
		freezing(s, a)
		if err = publishNow(ctx, server, address, []byte{0, 0}); err != nil {
			w.errorf("reply: %v", err)
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
		for _, c := range []*session{client, server} {
			if c != nil {
				c.close()
			}
		}
	}
	w.actions = []*action{{fault: &fault{name: "stop", inject: hang, heal: goOn}, victims: []int{victim}, at: 2 * time.Second, lasts: 90 * time.Second}}
	w.run(t)
}

const replyTo = "amq.rabbitmq.reply-to"

func publishNow(ctx context.Context, s *session, key string, properties []byte) error {
	if err := s.ch.Publish(ctx, &broker.Publish{RoutingKey: []byte(key), Properties: properties, Body: []byte("x")}); err != nil {
		return err
	}
	return s.conn.Flush(ctx)
}

// TestExclusiveQueueOfANodeThatStaysAway: two machines lose their power and one of them comes back, which leads the catalog then and has
// never heard the other. The session of that one ends all the same.
func TestExclusiveQueueOfANodeThatStaysAway(t *testing.T) {
	t.Parallel()
	var w watch
	const back, stays, away = 0, 1, 2
	ctx := context.Background()
	confirmed := make(chan bool, 1)
	var owner, publisher *session
	drain := func(s *sim, off bool) {
		if _, err := s.nodes[stays].serving().member().Drain(ctx, "n2", off); err != nil {
			w.errorf("drain: %v", err)
		}
	}
	cut := func(s *sim, a *action) {
		var err error
		if owner, err = connect(ctx, s.nodes[away].serving(), &session{}); err == nil {
			_, err = owner.ch.DeclareQueue(ctx, &broker.QueueDeclare{Name: "mine", Exclusive: true})
		}
		if err == nil {
			publisher, err = connect(ctx, s.nodes[stays].serving(), &session{confirmed: func(_ uint64, _, ack bool) { confirmed <- ack }})
		}
		if err != nil {
			w.errorf("declare: %v", err)
			return
		}
		publisher.ch.ConfirmSelect()
		killing(true)(s, a)
		s.nodes[back].start()
		if err := s.until(time.Minute, "the node is back", func() string {
			if s.nodes[back].serving() == nil {
				return "it does not serve"
			}
			return ""
		}); err != nil {
			w.errorf("%v", err)
			return
		}
		drain(s, false)
		if err := s.until(time.Minute, "it leads the catalog", func() string {
			if leader := groups(s)["catalog"].Leader; leader != "n1" {
				return leader + " leads"
			}
			return ""
		}); err != nil {
			w.errorf("%v", err)
			return
		}
		if err = publishNow(ctx, publisher, "mine", []byte{0, 0}); err != nil {
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
		drain(s, true)
		starting(s, a)
		for _, c := range []*session{owner, publisher} {
			if c != nil {
				c.close()
			}
		}
	}
	w.actions = []*action{{fault: &fault{name: "power", ends: true, inject: cut, heal: goOn}, victims: []int{back, away}, at: 2 * time.Second, lasts: 120 * time.Second}}
	w.run(t)
}
