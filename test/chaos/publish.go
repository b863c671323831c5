package chaos

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/test/chaos/check"
)

// window is how many messages of one publisher wait for their confirms.
const window = 1000

// publisher publishes at a steady rate with confirms. It never repeats a message: one whose answer was lost with its
// connection stays uncertain.
type publisher struct {
	*client
	ledger *check.Publisher
	waiter *waiter
	rate   float64
	target func(id uint32) (exchange, key string)

	first    uint32 // the number of the channel's first message
	sent     uint32 // messages published on the channel
	answered uint32 // confirms that came
	times    [window]time.Time
}

func (p *publisher) run(ctx context.Context) {
	for ctx.Err() == nil {
		l, err := p.connect(ctx)
		if err != nil {
			return
		}
		if err := p.publishOn(ctx, l); err != nil {
			p.r.clientError(p.name, l.reason(err))
			l.crash()
			p.next++
			continue
		}
		if err := l.close(); err != nil {
			p.r.clientError(p.name, err)
		}
	}
}

var errStalled = errors.New("no confirm for a minute")

// publishOn publishes until ctx ends and all is confirmed, or the channel is lost.
func (p *publisher) publishOn(ctx context.Context, l *link) error {
	release := l.bound(patience)
	err := l.ch.Confirm(false)
	release()
	if err != nil {
		return err
	}
	confirms := l.ch.NotifyPublish(make(chan amqp.Confirmation, window))
	returns := l.ch.NotifyReturn(make(chan amqp.Return, window))
	blocks := l.conn.NotifyBlocked(make(chan amqp.Blocking, 16))
	p.ledger.Begin()
	p.sent, p.answered = 0, 0
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	last, progress := time.Now(), time.Now()
	credit, blocked := 0.0, false
	for ctx.Err() == nil || p.sent != p.answered {
		select {
		case now := <-ticker.C:
			credit = min(credit+p.rate*now.Sub(last).Seconds(), window)
			last = now
			if blocked || p.sent == p.answered {
				progress = now
			}
			if now.Sub(progress) > patience {
				return errStalled
			}
			for ; ctx.Err() == nil && credit >= 1 && p.sent-p.answered < window && !blocked; credit-- {
				if err := p.publish(l); err != nil {
					p.drain(l, confirms, returns)
					return err
				}
			}
		case c, open := <-confirms:
			if !open {
				return errLost
			}
			progress = time.Now()
			p.confirm(l, c, returns)
		case b := <-blocks:
			blocked = b.Active
		}
	}
	return nil
}

func (p *publisher) publish(l *link) error {
	defer l.bound(patience)()
	id := p.ledger.Next()
	if p.sent == 0 {
		p.first = id
	}
	p.times[p.sent%window] = time.Now()
	p.sent++
	exchange, key := p.target(id)
	p.r.series.published()
	p.r.series.begins(p.waiter)
	return l.ch.PublishWithContext(context.Background(), exchange, key, true, false,
		amqp.Publishing{DeliveryMode: amqp.Persistent, Body: encodeBody(p.ledger.Number(), id, int(id%7)*40)})
}

// confirm notes a confirm. A message that was returned was returned before; delivery tags have no gaps.
func (p *publisher) confirm(l *link, c amqp.Confirmation, returns chan amqp.Return) {
	for {
		select {
		case r, open := <-returns:
			if !open {
				returns = nil
				continue
			}
			p.returned(r)
			continue
		default:
		}
		break
	}
	p.answered++
	if !c.Ack {
		p.r.refused(p.name, l.node)
		return
	}
	p.ledger.Confirmed(p.first + uint32(c.DeliveryTag) - 1)
	p.r.series.confirmed(time.Since(p.times[(uint32(c.DeliveryTag)-1)%window]))
	p.r.series.answered(p.waiter)
}

// returned notes a message that the broker could not route. All queues exist, so that is never right.
func (p *publisher) returned(r amqp.Return) {
	if _, id, err := decodeBody(r.Body); err == nil {
		p.ledger.Undone(id)
		p.r.ledger.Report(check.Finding{Kind: check.Undo, Publisher: p.name, Message: id, Queue: r.RoutingKey, Detail: "was returned: " + r.ReplyText})
	}
}

// drain takes the confirms that came before the channel was lost.
func (p *publisher) drain(l *link, confirms chan amqp.Confirmation, returns chan amqp.Return) {
	deadline := time.After(5 * time.Second)
	for {
		select {
		case c, open := <-confirms:
			if !open {
				return
			}
			p.confirm(l, c, returns)
		case <-deadline:
			return
		}
	}
}

// transactions publishes in transactions, some of which it rolls back.
type transactions struct {
	*client
	ledger *check.Publisher
	waiter *waiter
	rate   float64
	target func(id uint32) (exchange, key string)
	random *rand.Rand
}

func (p *transactions) run(ctx context.Context) {
	for ctx.Err() == nil {
		l, err := p.connect(ctx)
		if err != nil {
			return
		}
		release := l.bound(patience)
		err = l.ch.Tx()
		release()
		p.ledger.Begin()
		ticker := time.NewTicker(time.Duration(float64(5*time.Second) / p.rate)) // five messages each, on the average
		for err == nil && ctx.Err() == nil {
			<-ticker.C
			err = p.transaction(l)
		}
		ticker.Stop()
		if err != nil {
			p.r.clientError(p.name, l.reason(err))
			l.crash()
			p.next++
		} else if err := l.close(); err != nil {
			p.r.clientError(p.name, err)
		}
	}
}

func (p *transactions) transaction(l *link) error {
	defer l.bound(patience)()
	var ids []uint32
	for range 1 + p.random.IntN(9) {
		id := p.ledger.Next()
		ids = append(ids, id)
		exchange, key := p.target(id)
		p.r.series.published()
		if err := l.ch.PublishWithContext(context.Background(), exchange, key, true, false,
			amqp.Publishing{DeliveryMode: amqp.Persistent, Body: encodeBody(p.ledger.Number(), id, 0)}); err != nil {
			p.undo(ids) // never committed
			return err
		}
	}
	if p.random.IntN(5) == 0 {
		p.undo(ids)
		return l.ch.TxRollback()
	}
	begin := time.Now()
	if err := l.ch.TxCommit(); err != nil {
		p.ledger.Together(ids) // whether it was committed is unknown
		return err
	}
	for _, id := range ids {
		p.ledger.Confirmed(id)
		p.r.series.confirmed(time.Since(begin))
	}
	p.r.series.answered(p.waiter)
	return nil
}

func (p *transactions) undo(ids []uint32) {
	for _, id := range ids {
		p.ledger.Undone(id)
	}
}
