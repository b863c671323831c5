package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/test/chaos/check"
)

// consumer takes messages out of one queue, acknowledges them one by one or many at once, drops its socket now and then,
// and comes back.
type consumer struct {
	*client
	queue    *check.Queue
	prefetch int
	requeues bool // it gives some messages back
	gets     bool // it asks for each message with basic.get
	rests    bool // it comes for a few seconds and stays away for longer
	inTx     bool // it acknowledges in transactions, some of which it rolls back first
	random   *rand.Rand

	l       *link
	c       *check.Consumer
	pending []taken // deliveries that are not settled yet
}

type taken struct {
	tag           uint64
	publisher, id uint32
}

var errCrash = errors.New("the client crashed")

// run consumes until ctx ends, and then closes gracefully.
func (c *consumer) run(ctx context.Context) {
	for ctx.Err() == nil {
		c.rest(ctx)
		l, err := c.connect(ctx)
		if err != nil {
			return
		}
		c.l, c.c, c.pending = l, c.queue.Consumer(l.node), nil
		switch err := c.consumeOn(ctx); {
		case err == nil:
			if err := l.close(); err != nil {
				c.r.clientError(c.name, err)
			}
			c.c.Closed()
		case errors.Is(err, errCrash):
			l.crash()
			c.c.Lost()
			c.next++
		default:
			c.c.Lost()
			c.r.clientError(c.name, l.reason(err))
			l.crash()
			c.next++
		}
	}
}

// How long a consumer that rests stays, and the least that it is away; at most, twice as long.
const (
	stays = 4 * time.Second
	away  = 10 * time.Second
)

// rest is the time for which a consumer that rests is away. When the faults are over it rests no more.
func (c *consumer) rest(ctx context.Context) {
	if !c.rests {
		return
	}
	for end := c.r.now() + away + time.Duration(c.random.Int64N(int64(away))); c.r.now() < end && !c.r.calm.Load() && ctx.Err() == nil; {
		c.r.waitUntil(ctx, c.r.now()+100*time.Millisecond)
	}
}

// leaving fires when a consumer that rests has stayed long enough.
func (c *consumer) leaving() <-chan time.Time {
	if !c.rests {
		return nil
	}
	return time.After(stays)
}

// crashing fires when the client is to drop its socket; after the faults are over it does not any more.
func (c *consumer) crashing() <-chan time.Time {
	if c.r.o.Crashes < 0 {
		return nil
	}
	return time.After(c.r.o.Crashes/2 + time.Duration(c.random.Int64N(int64(c.r.o.Crashes))))
}

func (c *consumer) consumeOn(ctx context.Context) error {
	crash := c.crashing()
	if c.gets {
		return c.getOn(ctx, crash)
	}
	release := c.l.bound(patience)
	err := c.l.ch.Qos(c.prefetch, 0, false)
	if c.inTx && err == nil {
		err = c.l.ch.Tx()
	}
	var deliveries <-chan amqp.Delivery
	if err == nil {
		deliveries, err = c.l.ch.Consume(c.queue.Name(), "", false, false, false, false, nil)
	}
	release()
	if err != nil {
		return err
	}
	leaving := c.leaving()
	canceled := c.l.ch.NotifyCancel(make(chan string, 4))
	for {
		// What has arrived is taken first; a pause of the queue ends a batch.
		select {
		case d, open := <-deliveries:
			if err := c.took(d, open); err != nil {
				return err
			}
			continue
		default:
		}
		if err := c.settle(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-leaving:
			if !c.r.calm.Load() {
				return nil
			}
		case <-crash:
			if !c.r.calm.Load() {
				return errCrash
			}
		case tag, open := <-canceled:
			if open {
				return fmt.Errorf("the consumer was canceled: %s", tag)
			}
			canceled = nil
		case d, open := <-deliveries:
			if err := c.took(d, open); err != nil {
				return err
			}
			if c.random.IntN(4) > 0 && !c.r.calm.Load() {
				runtime.Gosched() // lets more arrive, so that batches have many sizes
			}
		}
	}
}

// took notes a delivery and ends a batch of random size.
func (c *consumer) took(d amqp.Delivery, open bool) error {
	if !open {
		return errLost
	}
	c.take(d)
	if len(c.pending) > c.random.IntN(c.prefetch) {
		return c.settle()
	}
	return nil
}

func (c *consumer) getOn(ctx context.Context, crash <-chan time.Time) error {
	idle := time.NewTicker(5 * time.Millisecond)
	defer idle.Stop()
	for {
		select {
		case <-ctx.Done():
			return c.settle()
		case <-crash:
			if !c.r.calm.Load() {
				return errCrash
			}
		default:
		}
		release := c.l.bound(patience)
		d, ok, err := c.l.ch.Get(c.queue.Name(), false)
		release()
		if err != nil {
			return err
		}
		if ok {
			c.take(d)
		}
		if !ok || len(c.pending) > c.random.IntN(c.prefetch) {
			if err := c.settle(); err != nil {
				return err
			}
		}
		if !ok {
			<-idle.C
		}
	}
}

// take notes a delivery.
func (c *consumer) take(d amqp.Delivery) {
	publisher, id, err := decodeBody(d.Body)
	if err != nil {
		c.r.ledger.Report(check.Finding{Kind: check.Corrupt, Queue: c.queue.Name(), Detail: fmt.Sprintf("%d bytes: %v", len(d.Body), err)})
		return
	}
	c.r.series.delivered()
	c.c.Delivered(publisher, id, d.Redelivered)
	c.pending = append(c.pending, taken{d.DeliveryTag, publisher, id})
}

// settle acknowledges what is pending, or gives some of it back first.
func (c *consumer) settle() error {
	defer c.l.bound(patience)()
	if c.requeues && !c.r.calm.Load() && c.random.IntN(4) == 0 {
		if err := c.giveBack(); err != nil {
			return err
		}
	}
	if len(c.pending) == 0 {
		return nil
	}
	if c.inTx {
		return c.commit()
	}
	if c.random.IntN(2) == 0 { // all at once
		if err := c.l.ch.Ack(c.pending[len(c.pending)-1].tag, true); err != nil {
			return err
		}
		for _, t := range c.pending {
			c.c.Acked(t.publisher, t.id)
		}
		c.pending = c.pending[:0]
		return nil
	}
	for _, t := range c.pending {
		if err := c.l.ch.Ack(t.tag, false); err != nil {
			return err
		}
		c.c.Acked(t.publisher, t.id)
	}
	c.pending = c.pending[:0]
	return nil
}

// commit acknowledges what is pending in a transaction. An ack that is rolled back was none: its message stays out, and is acknowledged anew.
func (c *consumer) commit() error {
	acks := func() (err error) {
		if c.random.IntN(2) == 0 {
			return c.l.ch.Ack(c.pending[len(c.pending)-1].tag, true)
		}
		for _, t := range c.pending {
			err = errors.Join(err, c.l.ch.Ack(t.tag, false))
		}
		return err
	}
	if c.random.IntN(5) == 0 {
		if err := errors.Join(acks(), c.l.ch.TxRollback()); err != nil {
			return err
		}
	}
	if err := acks(); err != nil {
		return err
	}
	for _, t := range c.pending { // from here on it may have been committed
		c.c.Acked(t.publisher, t.id)
	}
	c.pending = c.pending[:0]
	return c.l.ch.TxCommit()
}

// giveBack requeues a part of what is pending: one message, or all up to one.
func (c *consumer) giveBack() error {
	if len(c.pending) == 0 {
		return nil
	}
	n := 1 + c.random.IntN(len(c.pending))
	back := c.pending[n-1 : n]
	multiple := c.random.IntN(2) == 0
	if multiple {
		back = c.pending[:n]
	}
	// Noted before: it may come again at once, to another consumer.
	for _, t := range back {
		c.c.Requeued(t.publisher, t.id)
	}
	err := c.l.ch.Nack(back[len(back)-1].tag, multiple, true)
	if multiple {
		c.pending = append(c.pending[:0], c.pending[n:]...)
	} else {
		c.pending = append(c.pending[:n-1], c.pending[n:]...)
	}
	return err
}
