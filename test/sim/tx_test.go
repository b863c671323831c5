package sim

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warrenmq/warren/broker"
)

// TestCommitAfterTheSessionsEnd: a client's node was cut off for so long that the cluster has given the client's message to another. The
// client's transaction, which acknowledges that message and publishes what came of it, is not answered with success: the other's would be,
// too.
func TestCommitAfterTheSessionsEnd(t *testing.T) {
	t.Parallel()
	var w watch
	const victim = 2
	ctx := context.Background()
	var first, second *session
	tags := make(chan uint64, 10)
	var again atomic.Int32
	consume := func(s *session) error {
		tag, err := s.ch.Consume(ctx, &broker.Consume{Queue: "tx-in"})
		if err == nil {
			s.ch.Started(tag)
		}
		return err
	}
	cut := func(s *sim, a *action) {
		publisher, err := connect(ctx, s.nodes[0].serving(), &session{})
		for _, q := range []string{"tx-in", "tx-out"} {
			if err == nil {
				_, err = publisher.ch.DeclareQueue(ctx, &broker.QueueDeclare{Name: q, Durable: true})
			}
		}
		if err == nil {
			first, err = connect(ctx, s.nodes[victim].serving(), &session{delivered: func(m *broker.Outgoing) { tags <- m.Tag }})
		}
		if err == nil {
			err = consume(first)
		}
		if err == nil {
			err = first.ch.TxSelect()
		}
		if err == nil {
			err = publishNow(ctx, publisher, "tx-in", []byte{0, 0})
		}
		if err == nil {
			time.Sleep(time.Second)
			isolating(s, a)
			second, err = connect(ctx, s.nodes[0].serving(), &session{delivered: func(*broker.Outgoing) { again.Add(1) }})
		}
		if err == nil {
			err = consume(second)
		}
		if err != nil {
			w.errorf("%v", err)
		}
		publisher.close()
	}
	goOn := func(s *sim, a *action) {
		if len(tags) != 1 || again.Load() != 1 {
			w.errorf("%d deliveries, and %d to another", len(tags), again.Load())
			return
		}
		healing(s, a)
		err := first.ch.Ack(<-tags, false) // the client has worked for a while, and does not know
		if err == nil {
			err = first.ch.Publish(ctx, &broker.Publish{RoutingKey: []byte("tx-out"), Properties: []byte{0, 0}, Body: []byte{0, 0, 0, 1}})
		}
		if err == nil {
			err = first.ch.TxCommit(ctx)
		}
		if err == nil || !strings.Contains(err.Error(), "partial tx completion") {
			w.errorf("a commit whose acknowledgement is void is answered by %v", err)
		}
		first.close()
		second.close()
	}
	w.actions = []*action{{fault: &fault{name: "partition", inject: cut, heal: goOn}, victims: []int{victim}, at: 2 * time.Second, lasts: 80 * time.Second}}
	w.run(t)
}
