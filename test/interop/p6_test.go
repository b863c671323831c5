package interop

import (
	"fmt"
	"os"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/test/process"
)

// TestDeclaredHereRoutesThere is P6: after declare-ok or bind-ok from one node, a publish on another routes at once. A
// publish that does not is returned, since all are mandatory.
func TestDeclaredHereRoutesThere(t *testing.T) {
	rounds := 600
	if os.Getenv("WARREN_LARGE") != "" {
		rounds = 10_000
	}
	c := process.Start(t, 3)
	var declarers, publishers []*amqp.Channel
	for _, node := range c.Nodes {
		declarers = append(declarers, channelOf(t, dial(t, node)))
		publisher := channelOf(t, dial(t, node))
		if err := publisher.Confirm(false); err != nil {
			t.Fatal(err)
		}
		publishers = append(publishers, publisher)
	}
	returned := make([]chan amqp.Return, len(publishers))
	for i, p := range publishers {
		returned[i] = p.NotifyReturn(make(chan amqp.Return, rounds))
	}
	for i := range rounds {
		here, there := i%3, (i+1+i/3%2)%3
		queue := fmt.Sprintf("p6-%d", i)
		exclusive := i%4 == 3
		if _, err := declarers[here].QueueDeclare(queue, !exclusive, false, exclusive, false, nil); err != nil {
			t.Fatal(err)
		}
		exchange, key := "", queue
		if i%2 == 1 {
			exchange, key = "amq.topic", "p6."+queue
			if err := declarers[here].QueueBind(queue, key, exchange, false, nil); err != nil {
				t.Fatal(err)
			}
		}
		confirm, err := publishers[there].PublishWithDeferredConfirmWithContext(within(t), exchange, key, true, false, amqp.Publishing{})
		if err != nil {
			t.Fatal(err)
		}
		if err := confirmed(within(t), []*amqp.DeferredConfirmation{confirm}); err != nil {
			t.Fatal(err)
		}
		select {
		case r := <-returned[there]:
			t.Fatalf("round %d: declared on %d, published on %d: returned %s", i, here+1, there+1, r.ReplyText)
		default:
		}
		if m, ok, err := declarers[here].Get(queue, true); err != nil || !ok {
			t.Fatalf("round %d: the message is not there: %v %v %v", i, m, ok, err)
		}
		if _, err := declarers[here].QueueDelete(queue, false, false, false); err != nil {
			t.Fatal(err)
		}
	}
}
