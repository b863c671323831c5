package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/test/chaos/check"
)

const (
	catalogExchange = "chaos-catalog"
	catalogClients  = 5
	// A queue name is used for so many operations, or unknown answers, and then the next takes its place: checking for
	// linearizability takes exponential time, most of all with operations whose effect may come at any later time.
	operationsPerQueue = 120
	unknownPerQueue    = 6
	// The broker may wait for a majority before it answers; a client waits so long for it.
	catalogPatience = 30 * time.Second
)

// catalogs: clients on all nodes that declare, bind, unbind, delete, look at and route to the same few queues.
func catalogs(r *run, l *link, _ float64) error {
	if err := r.exchange(l, catalogExchange, "direct"); err != nil {
		return err
	}
	for i := range catalogClients {
		name := fmt.Sprintf("catalog client %d", i)
		c := &catalogClient{client: r.client(name, r.seat()), number: i, random: r.random(name)}
		r.publishers = append(r.publishers, c.run)
	}
	return nil
}

// history is what clients asked of the catalog and what they heard.
type history struct {
	mu      sync.Mutex // guards what follows
	ops     []check.CatalogOp
	names   [3]int // how often each of the names in use was replaced
	count   [3]int // operations on it
	unknown [3]int
}

// name gives a queue name that is in use.
func (h *history) name(slot int) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.count[slot] >= operationsPerQueue || h.unknown[slot] >= unknownPerQueue {
		h.names[slot]++
		h.count[slot], h.unknown[slot] = 0, 0
	}
	h.count[slot]++
	return fmt.Sprintf("catalog-%d-%d", slot, h.names[slot])
}

func (h *history) add(slot int, o check.CatalogOp) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, o)
	if o.Answer == check.Unknown {
		h.unknown[slot]++
	}
}

type catalogClient struct {
	*client
	number int
	random *rand.Rand

	confirms chan amqp.Confirmation
	returns  chan amqp.Return
}

func (c *catalogClient) run(ctx context.Context) {
	var l *link
	ticker := time.NewTicker(30 * time.Millisecond)
	defer ticker.Stop()
	for ctx.Err() == nil {
		<-ticker.C
		if l == nil || !alive(l) {
			if l != nil {
				l.crash()
			}
			var err error
			if l, err = c.connect(ctx); err != nil {
				return
			}
			if err := c.prepare(l); err != nil {
				c.r.clientError(c.name, l.reason(err))
				c.next++
				continue
			}
		}
		if err := c.operate(l); err != nil {
			c.r.clientError(c.name, l.reason(err))
			l.crash()
			c.next++
		}
	}
	if l != nil {
		_ = l.close() // all answers are in
	}
}

func (c *catalogClient) prepare(l *link) error {
	defer l.bound(catalogPatience)()
	c.confirms = l.ch.NotifyPublish(make(chan amqp.Confirmation, 4))
	c.returns = l.ch.NotifyReturn(make(chan amqp.Return, 4))
	return l.ch.Confirm(false)
}

// operate does one operation and records its answer. An answer that closes the channel opens the next.
func (c *catalogClient) operate(l *link) error {
	slot := c.random.IntN(3)
	o := check.CatalogOp{Client: c.number, Queue: c.r.history.name(slot), Verb: c.verb(), Variant: uint8(c.random.IntN(8) / 7)}
	o.Begin = c.r.now()
	release := l.bound(catalogPatience)
	answer, err := c.ask(l, o)
	release()
	o.Answer, o.Finish = answer, c.r.now()
	c.r.history.add(slot, o)
	if err != nil {
		return err
	}
	if l.ch.IsClosed() && !l.conn.IsClosed() {
		defer l.bound(catalogPatience)()
		ch, err := l.conn.Channel()
		if err != nil {
			return err
		}
		l.ch = ch
		l.closed = ch.NotifyClose(make(chan *amqp.Error, 4))
		return c.prepare(l)
	}
	return nil
}

func (c *catalogClient) verb() check.Verb {
	return []check.Verb{check.Declare, check.Declare, check.Declare, check.Bind, check.Bind, check.Delete, check.Unbind,
		check.Passive, check.Passive, check.Route, check.Route}[c.random.IntN(11)]
}

// ask gives the answer, and an error when the connection is of no use any more.
func (c *catalogClient) ask(l *link, o check.CatalogOp) (check.Answer, error) {
	var err error
	switch o.Verb {
	case check.Declare:
		_, err = l.ch.QueueDeclare(o.Queue, true, false, false, false, amqp.Table{"x-max-length": int32(100 + o.Variant)})
	case check.Delete:
		_, err = l.ch.QueueDelete(o.Queue, false, false, false)
	case check.Passive:
		_, err = l.ch.QueueDeclarePassive(o.Queue, true, false, false, false, nil)
	case check.Bind:
		err = l.ch.QueueBind(o.Queue, o.Queue, catalogExchange, false, nil)
	case check.Unbind:
		err = l.ch.QueueUnbind(o.Queue, o.Queue, catalogExchange, nil)
	case check.Route:
		return c.route(l, o.Queue)
	}
	switch codeOf(err) {
	case 0:
		return check.OK, nil
	case amqp.NotFound:
		if !isMissing(err) {
			return check.Unknown, nil
		}
		return check.Missing, nil
	case amqp.PreconditionFailed:
		return check.Inequivalent, nil
	}
	return check.Unknown, err
}

// isMissing says that a 404 means what it says. The code alone says little: as in RabbitMQ, a queue that exists and cannot be reached
// has it too.
func isMissing(err error) bool { return strings.Contains(err.Error(), "no queue") }

// routed is what a confirm says about the binding.
func routed(confirm amqp.Confirmation, returns <-chan amqp.Return) check.Answer {
	switch {
	case wasReturned(returns):
		return check.Unroutable
	case !confirm.Ack:
		return check.Unknown // a queue that is being deleted, or a node that does not know
	}
	return check.OK
}

// wasReturned tells whether a message was returned before its confirm. The channel of returns is closed when the link ends, perhaps
// between the confirm and this question: that is no return.
func wasReturned(returns <-chan amqp.Return) bool {
	select {
	case _, returned := <-returns:
		return returned
	default:
		return false
	}
}

// route publishes with the mandatory flag: what is not returned before its confirm was routed.
func (c *catalogClient) route(l *link, key string) (check.Answer, error) {
	if err := l.ch.PublishWithContext(context.Background(), catalogExchange, key, true, false, amqp.Publishing{}); err != nil {
		return check.Unknown, err
	}
	select {
	case confirm, open := <-c.confirms:
		if !open {
			return check.Unknown, errLost
		}
		return routed(confirm, c.returns), nil
	case <-time.After(catalogPatience):
		return check.Unknown, errors.New("no confirm from the catalog's exchange")
	}
}
