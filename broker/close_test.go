package broker

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestCloseIsNotForgotten closes a connection while its shards take nothing and the catalog has no majority: what it
// holds goes back and its exclusive queue goes when they are there again.
func TestCloseIsNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, Options{})
		d, ch := openDoor(t, c)
		for _, q := range []*QueueDeclare{{Name: "mine", Exclusive: true}, {Name: "q"}} {
			if _, err := ch.DeclareQueue(t.Context(), q); err != nil {
				t.Fatal(err)
			}
		}
		publishOne(t, d, ch, "q")
		if _, ok, err := ch.Get(t.Context(), "q", false); !ok || err != nil {
			t.Fatal(ok, err)
		}
		p := c.pipe(c.find("q").ID.Shard())
		p.full = make(chan struct{})
		c.setCutOff(true)
		started := time.Now()
		d.conn.Close(context.Background())
		if waited := time.Since(started); waited != closeTimeout {
			t.Errorf("Close took %v", waited)
		}
		close(p.full)
		time.Sleep(2 * closeTimeout)
		if c.find("mine") == nil {
			t.Error("the exclusive queue went without a majority")
		}
		c.setCutOff(false)
		time.Sleep(2 * closeTimeout)
		synctest.Wait()
		if c.find("mine") != nil {
			t.Error("the exclusive queue is still there")
		}
		if n := p.machine.counts(c.find("q").ID); n.Ready != 1 || n.Unsettled != 0 {
			t.Errorf("after the end: %+v", n)
		}
	})
}

// TestCancelledBetweenAttachAndStart checks that a queue deleted before its new consumer is started cancels it after
// its consume-ok, and only then.
func TestCancelledBetweenAttachAndStart(t *testing.T) {
	c := newCluster(t, Options{})
	d, ch := openDoor(t, c)
	if _, err := ch.DeclareQueue(t.Context(), &QueueDeclare{Name: "q"}); err != nil {
		t.Fatal(err)
	}
	tag, err := ch.Consume(t.Context(), &Consume{Queue: "q", Tag: "c"})
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
	c := newCluster(t, Options{})
	d, ch := openDoor(t, c)
	if _, err := ch.DeclareQueue(t.Context(), &QueueDeclare{Name: "q"}); err != nil {
		t.Fatal(err)
	}
	tag, err := ch.Consume(t.Context(), &Consume{Queue: "q"})
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
	if ok, err := ch.DeclareQueue(t.Context(), &QueueDeclare{Name: "q", Passive: true}); err != nil || ok.Messages != 1 || ok.Consumers != 0 {
		t.Fatalf("%+v %v", ok, err)
	}
	if n := c.pipe(c.find("q").ID.Shard()).machine.counts(c.find("q").ID); n.Unsettled != 0 {
		t.Errorf("after the cancel: %+v", n)
	}
}
