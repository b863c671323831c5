package amqp

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmq/warren/amqp/wire"
	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/internal/amqptest"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// TestConsumerTimeout leaves a delivery unsettled: its channel is closed in its time and not before, with RabbitMQ's code
// and text, and the message is there again for others. Channels that settle, or that may take for ever, go on.
func TestConsumerTimeout(t *testing.T) {
	minutes := func(n int64) wire.Table { return wire.Table{"x-consumer-timeout": n * time.Minute.Milliseconds()} }
	for _, c := range []struct {
		name            string
		queue, consumer wire.Table
		get, settles    bool
		node, want      time.Duration // want 0: it stays open
	}{
		{name: "default", want: 30 * time.Minute},
		{name: "of the node", node: 10 * time.Minute, want: 10 * time.Minute},
		{name: "node without", node: -1},
		{name: "of the queue", queue: minutes(5), want: 5 * time.Minute},
		{name: "of the consumer", queue: minutes(5), consumer: minutes(50), want: 50 * time.Minute},
		{name: "consumer without", consumer: minutes(0)},
		{name: "get", get: true, want: 30 * time.Minute},
		{name: "settled", settles: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := start(t, Options{}, broker.Options{ConsumerTimeout: c.node})
				defer r.stop()
				k := r.open(amqptest.Login{})
				arguments := wire.Table{"x-queue-type": "quorum"}
				for key, value := range c.queue {
					arguments[key] = value
				}
				k.Methods(1, &wire.QueueDeclare{Queue: "q", Durable: true, Arguments: arguments})
				k.Method(1)
				k.Publish(1, "", "q", wire.Properties{}, []byte("hello"))
				if c.get {
					k.Methods(1, &wire.BasicGet{Queue: "q"})
				} else {
					k.Methods(1, &wire.BasicConsume{Queue: "q", ConsumerTag: "c", Arguments: c.consumer})
					k.Want(1, &wire.BasicConsumeOk{ConsumerTag: "c"})
				}
				k.Method(1)
				k.Message(1)
				if c.settles {
					k.Methods(1, &wire.BasicAck{DeliveryTag: 1})
				}

				begun := time.Now()
				pass := func(d time.Duration) {
					for end := time.Now().Add(d); time.Now().Before(end); {
						time.Sleep(time.Second)
						r.cluster.Broker.Tick()
					}
				}
				if c.want == 0 {
					pass(100 * time.Minute)
					k.Methods(1, &wire.BasicQos{PrefetchCount: 1})
					k.Want(1, &wire.BasicQosOk{}) // nothing came before, and the channel is there
					return
				}
				go pass(c.want + 10*time.Second)
				k.Want(1, &wire.ChannelClose{ReplyCode: wire.PreconditionFailed, ReplyText: fmt.Sprintf("PRECONDITION_FAILED - delivery "+
					"acknowledgement on channel 1 timed out. Timeout value used: %d ms. This timeout value can be configured, see "+
					"consumers doc guide to learn more", c.want.Milliseconds())})
				if took := time.Since(begun); took < c.want || took > c.want+5*time.Second {
					t.Errorf("closed after %v, want %v", took, c.want)
				}
				k.Methods(1, &wire.ChannelCloseOk{})
				k.OpenChannel(1)
				k.Methods(1, &wire.BasicGet{Queue: "q", NoAck: true})
				if m, ok := k.Method(1).(*wire.BasicGetOk); !ok || !m.Redelivered {
					t.Fatalf("got %+v", m)
				}
				k.Message(1)
				time.Sleep(20 * time.Second) // pass ends
			})
		})
	}
}

// TestConsumerTimeoutOfASilentClient leaves a delivery unsettled and says nothing more: the message goes back all the same, and none
// comes on the channel that is closed. The connection goes on, with its heartbeats watched as before.
func TestConsumerTimeoutOfASilentClient(t *testing.T) {
	for _, c := range []struct {
		name      string
		heartbeat uint16 // seconds
		reads     bool
		blocked   bool // by an alarm
	}{
		{"no heartbeats", 0, true, false},
		{"heartbeats", 600, true, false},
		{"does not read", 0, false, false},
		{"has published during an alarm", 0, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := start(t, Options{}, broker.Options{ConsumerTimeout: time.Minute})
				defer r.stop()
				other, k := r.open(amqptest.Login{}), r.open(amqptest.Login{Heartbeat: c.heartbeat})
				other.Methods(1, &wire.QueueDeclare{Queue: "q"})
				other.Method(1)
				other.Publish(1, "", "q", wire.Properties{}, []byte("one"))
				k.Methods(1, &wire.BasicConsume{Queue: "q", ConsumerTag: "c"})
				k.Method(1)
				k.Want(1, &wire.BasicDeliver{ConsumerTag: "c", DeliveryTag: 1, RoutingKey: "q"})
				k.Message(1)
				if !c.reads {
					other.Publish(1, "", "q", wire.Properties{}, []byte("stuck"))
				}
				if c.blocked {
					r.cluster.Broker.Alarm("low on memory")
					k.Publish(1, "", "nobody", wire.Properties{}, []byte("x"))
				}
				for range 90 {
					time.Sleep(time.Second)
					r.cluster.Broker.Tick()
				}
				synctest.Wait()
				holds := func() queue.Counts { return r.cluster.Holds(r.cluster.Find("q").ID) }
				if n := holds(); n.Unsettled != 0 || n.Consumers != 0 {
					t.Fatalf("%+v after the timeout", n)
				}
				r.cluster.Broker.Alarm("")
				other.Publish(1, "", "q", wire.Properties{}, []byte("two"))
				synctest.Wait()
				if n := holds(); n.Unsettled != 0 {
					t.Fatalf("%+v: handed to a channel that is closed", n)
				}
				if !c.reads {
					k.Method(1) // what was in the socket
					k.Message(1)
				}
				if m, ok := k.Method(1).(*wire.ChannelClose); !ok {
					t.Fatalf("got %+v", m)
				}
				k.Methods(1, &wire.ChannelCloseOk{})
				k.OpenChannel(1)
				if c.heartbeat > 0 { // it is silent from now on
					begun := time.Now()
					for err := error(nil); err == nil; { // past the server's heartbeats
						_, err = k.Frame()
					}
					if took, want := time.Since(begun), 2*time.Duration(c.heartbeat)*time.Second; took != want {
						t.Errorf("cut after %v, want %v", took, want)
					}
				}
			})
		})
	}
}
