package broker_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/internal/amqptest"
)

// TestCloseIsNotForgotten closes a connection while its shards take nothing and the catalog has no majority: what it
// holds goes back and its exclusive queue goes when they are there again.
func TestCloseIsNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := amqptest.NewCluster(t, broker.Options{})
		d, ch := openDoor(t, c)
		for _, q := range []*broker.QueueDeclare{{Name: "mine", Exclusive: true}, {Name: "q"}} {
			if _, err := ch.DeclareQueue(t.Context(), q); err != nil {
				t.Fatal(err)
			}
		}
		publishOne(t, d, ch, "q")
		if _, ok, err := ch.Get(t.Context(), "q", false); !ok || err != nil {
			t.Fatal(ok, err)
		}
		id := c.Find("q").ID
		unblock := c.Block(id.Shard())
		c.SetCutOff(true)
		started := time.Now()
		d.conn.Close(context.Background())
		if waited := time.Since(started); waited != broker.CloseTimeout {
			t.Errorf("Close took %v", waited)
		}
		unblock()
		time.Sleep(2 * broker.CloseTimeout)
		if c.Find("mine") == nil {
			t.Error("the exclusive queue went without a majority")
		}
		c.SetCutOff(false)
		time.Sleep(2 * broker.CloseTimeout)
		synctest.Wait()
		if c.Find("mine") != nil {
			t.Error("the exclusive queue is still there")
		}
		if n := c.Holds(id); n.Ready != 1 || n.Unsettled != 0 {
			t.Errorf("after the end: %+v", n)
		}
	})
}

// TestCancelledBetweenAttachAndStart checks that a queue deleted before its new consumer is started cancels it after
// its consume-ok, and only then.
func TestCancelledBetweenAttachAndStart(t *testing.T) {
	c := amqptest.NewCluster(t, broker.Options{})
	d, ch := openDoor(t, c)
	if _, err := ch.DeclareQueue(t.Context(), &broker.QueueDeclare{Name: "q"}); err != nil {
		t.Fatal(err)
	}
	tag, err := ch.Consume(t.Context(), &broker.Consume{Queue: "q", Tag: "c"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ch.DeleteQueue(t.Context(), "q", false, false); err != nil {
		t.Fatal(err)
	}
	if frames := d.drain(); len(frames) != 0 {
		t.Fatalf("%q before the start", frames)
	}
	ch.Started(tag)
	if frames := d.drain(); len(frames) != 1 || frames[0] != "1 cancel c" {
		t.Fatalf("%q", frames)
	}
}

// TestCancelGivesBackWhatWaits checks that what was on its way to a cancelled consumer, and was not sent, is free again.
func TestCancelGivesBackWhatWaits(t *testing.T) {
	c := amqptest.NewCluster(t, broker.Options{})
	d, ch := openDoor(t, c)
	if _, err := ch.DeclareQueue(t.Context(), &broker.QueueDeclare{Name: "q"}); err != nil {
		t.Fatal(err)
	}
	tag, err := ch.Consume(t.Context(), &broker.Consume{Queue: "q"})
	if err != nil {
		t.Fatal(err)
	}
	ch.Started(tag)
	publishOne(t, d, ch, "q") // out, and not drained
	if err := ch.Cancel(t.Context(), tag); err != nil {
		t.Fatal(err)
	}
	if frames := d.drain(); len(frames) != 0 {
		t.Fatalf("%q after the cancel", frames)
	}
	if ok, err := ch.DeclareQueue(t.Context(), &broker.QueueDeclare{Name: "q", Passive: true}); err != nil || ok.Messages != 1 || ok.Consumers != 0 {
		t.Fatalf("%+v %v", ok, err)
	}
	if n := c.Holds(c.Find("q").ID); n.Unsettled != 0 {
		t.Errorf("after the cancel: %+v", n)
	}
}

// TestNoDeliveryAfterCancel cancels a consumer while its writer fetches a message: none comes afterwards.
func TestNoDeliveryAfterCancel(t *testing.T) {
	for _, name := range []string{"amq.rabbitmq.reply-to", "q"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := amqptest.NewAsyncCluster(t, broker.Options{})
				defer c.Stop()
				k := newClient(t, c)
				defer k.close()
				var ch *broker.Channel
				publish := func(key []byte, replyTo string) error {
					p := broker.EncodeProperties(map[string]string{"reply-to": replyTo}, nil)
					return ch.Publish(t.Context(), &broker.Publish{RoutingKey: key, Properties: p, Body: []byte("m")})
				}
				to := []byte(name)
				k.run(func() error {
					ch = k.conn.OpenChannel(1)
					for _, q := range []string{"q", "requests"} {
						if _, err := ch.DeclareQueue(t.Context(), &broker.QueueDeclare{Name: q}); err != nil {
							return err
						}
					}
					if _, err := ch.Consume(t.Context(), &broker.Consume{Queue: name, Tag: "t", NoAck: true}); err != nil {
						return err
					}
					ch.Started("t")
					if name == "q" {
						return nil
					}
					if err := publish([]byte("requests"), name); err != nil {
						return err
					}
					m, _, err := ch.Get(t.Context(), "requests", true)
					if err != nil {
						return err
					}
					var p broker.Properties
					err = p.Parse(m.Properties)
					to = p.ReplyTo
					return err
				})
				c.SetSlow(50 * time.Millisecond)
				k.run(func() error { return publish(to, "") })
				synctest.Wait()
				k.run(func() error { return ch.Cancel(t.Context(), "t") })
				synctest.Wait()
				before := len(k.got)
				time.Sleep(time.Second)
				if before > 0 || len(k.got) > 0 {
					t.Errorf("%d deliveries came before the answer to the cancel, %d after it", before, len(k.got)-before)
				}
			})
		})
	}
}
