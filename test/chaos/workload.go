package chaos

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/warrenmq/warren/test/chaos/check"
)

// workload declares what it needs over a link and adds its clients to the run. Share is the rate at which all its
// publishers together publish.
type workload func(r *run, l *link, share float64) error

// workloads by the name that the command line uses.
var workloads = map[string]workload{
	"work":      workQueues,
	"ordered":   orderedQueues,
	"fanout":    fanout,
	"topic":     topics,
	"get":       getters,
	"tx":        inTransactions,
	"requeue":   requeuers,
	"backlog":   backlogs,
	"rpc":       rpc,
	"exclusive": exclusives,
	"catalog":   catalogs,
}

func workloadNames() []string { return slices.Sorted(maps.Keys(workloads)) }

// clients of a run. Publishers end with the load; consumers go on until all is drained.
type clients struct {
	publishers []func(context.Context)
	consumers  []func(context.Context)
	queues     []*check.Queue
	seats      int // clients so far; each begins at another node
}

// queue declares a queue and adds it to the ledger.
func (r *run) queue(l *link, name string, single bool) (*check.Queue, error) {
	defer l.bound(patience)()
	if _, err := l.ch.QueueDeclare(name, true, false, false, false, nil); err != nil {
		return nil, fmt.Errorf("declare queue %s: %w", name, err)
	}
	q := r.ledger.Queue(name, single)
	r.queues = append(r.queues, q)
	return q, nil
}

// random is a client's own source of choices, from the run's seed and the client's name.
func (r *run) random(name string) *rand.Rand {
	seed := uint64(14695981039346656037) // FNV-1a
	for _, b := range []byte(name) {
		seed = (seed ^ uint64(b)) * 1099511628211
	}
	return rand.New(rand.NewPCG(r.o.Seed, seed))
}

func (r *run) seat() int {
	r.seats++
	return r.seats
}

// publish adds a publisher. Route says which queues a message reaches, target where it is sent.
func (r *run) publish(name string, rate float64, route func(uint32) []*check.Queue, target func(uint32) (string, string)) {
	p := &publisher{client: r.client(name, r.seat()), ledger: r.ledger.Publisher(name, route), waiter: r.series.waiter(name, false),
		rate: rate, target: target}
	r.publishers = append(r.publishers, p.run)
}

// consume adds a consumer.
func (r *run) consume(name string, q *check.Queue, prefetch int, edit func(*consumer)) {
	c := &consumer{client: r.client(name, r.seat()), queue: q, prefetch: prefetch, random: r.random(name)}
	if edit != nil {
		edit(c)
	}
	r.consumers = append(r.consumers, c.run)
}

// straight sends all messages to one queue by the default exchange.
func straight(q *check.Queue) (route func(uint32) []*check.Queue, target func(uint32) (string, string)) {
	list := []*check.Queue{q}
	return func(uint32) []*check.Queue { return list }, func(uint32) (string, string) { return "", q.Name() }
}

// workQueues: several queues, each with two publishers and three consumers that share the work.
func workQueues(r *run, l *link, share float64) error {
	const queues, publishers, consumers = 4, 2, 3
	for i := range queues {
		q, err := r.queue(l, fmt.Sprintf("work-%d", i), false)
		if err != nil {
			return err
		}
		route, target := straight(q)
		for j := range publishers {
			r.publish(fmt.Sprintf("publisher %d of work-%d", j, i), share/queues/publishers, route, target)
		}
		for j := range consumers {
			r.consume(fmt.Sprintf("consumer %d of work-%d", j, i), q, 50, nil)
		}
	}
	return nil
}

// orderedQueues: several queues with one consumer each, where order is seen across the consumer's lives.
func orderedQueues(r *run, l *link, share float64) error {
	const queues, publishers = 4, 2
	for i := range queues {
		q, err := r.queue(l, fmt.Sprintf("ordered-%d", i), true)
		if err != nil {
			return err
		}
		route, target := straight(q)
		for j := range publishers {
			r.publish(fmt.Sprintf("publisher %d of ordered-%d", j, i), share/queues/publishers, route, target)
		}
		r.consume(fmt.Sprintf("consumer of ordered-%d", i), q, 40, nil) // few enough to read ahead after a fault (docs/adr/0009)
	}
	return nil
}

// fanout: one exchange, three queues, every message in each.
func fanout(r *run, l *link, share float64) error {
	const exchange = "chaos-fanout"
	if err := r.exchange(l, exchange, "fanout"); err != nil {
		return err
	}
	var all []*check.Queue
	for i := range 3 {
		q, err := r.queue(l, fmt.Sprintf("fanout-%d", i), true)
		if err == nil {
			err = r.bind(l, q.Name(), "", exchange)
		}
		if err != nil {
			return err
		}
		all = append(all, q)
		r.consume("consumer of "+q.Name(), q, 100, nil)
	}
	for j := range 2 {
		r.publish(fmt.Sprintf("publisher %d of fanout", j), share/2, func(uint32) []*check.Queue { return all },
			func(uint32) (string, string) { return exchange, "" })
	}
	return nil
}

// topics: keys of two words; one queue for each second word, and one for all.
func topics(r *run, l *link, share float64) error {
	const exchange, words = "chaos-topic", 3
	if err := r.exchange(l, exchange, "topic"); err != nil {
		return err
	}
	var queues []*check.Queue
	for _, pattern := range []string{"*.0", "*.1", "#.2", "#"} {
		q, err := r.queue(l, "topic-"+pattern, true)
		if err == nil {
			err = r.bind(l, q.Name(), pattern, exchange)
		}
		if err != nil {
			return err
		}
		queues = append(queues, q)
		r.consume("consumer of "+q.Name(), q, 100, nil)
	}
	var routes [words][]*check.Queue
	for i := range routes {
		routes[i] = []*check.Queue{queues[i], queues[words]}
	}
	for j := range 2 {
		r.publish(fmt.Sprintf("publisher %d of topic", j), share/2, func(id uint32) []*check.Queue { return routes[id%words] },
			func(id uint32) (string, string) { return exchange, fmt.Sprintf("a.%d", id%words) })
	}
	return nil
}

// getters take with basic.get.
func getters(r *run, l *link, share float64) error {
	q, err := r.queue(l, "get", false)
	if err != nil {
		return err
	}
	route, target := straight(q)
	r.publish("publisher of get", min(share, 300), route, target)
	for j := range 3 {
		r.consume(fmt.Sprintf("getter %d", j), q, 20, func(c *consumer) { c.gets = true })
	}
	return nil
}

// inTransactions: publishers and a consumer that commit and roll back.
func inTransactions(r *run, l *link, share float64) error {
	q, err := r.queue(l, "tx", true)
	if err != nil {
		return err
	}
	route, target := straight(q)
	for j := range 2 {
		name := fmt.Sprintf("publisher %d of tx", j)
		p := &transactions{client: r.client(name, r.seat()), ledger: r.ledger.Publisher(name, route), waiter: r.series.waiter(name, true),
			rate: min(share, 200) / 2, target: target, random: r.random(name)}
		r.publishers = append(r.publishers, p.run)
	}
	r.consume("consumer of tx", q, 50, func(c *consumer) { c.inTx = true })
	return nil
}

// backlogs: queues whose consumer is away most of the time, so that messages outlive the log's files and are in segments.
func backlogs(r *run, l *link, share float64) error {
	const queues = 2
	for i := range queues {
		q, err := r.queue(l, fmt.Sprintf("backlog-%d", i), true)
		if err != nil {
			return err
		}
		route, target := straight(q)
		r.publish("publisher of "+q.Name(), share/queues, route, target)
		r.consume("consumer of "+q.Name(), q, 100, func(c *consumer) { c.rests = true })
	}
	return nil
}

// requeuers give messages back, one or many at once, before they take them in the end.
func requeuers(r *run, l *link, share float64) error {
	for i := range 2 {
		q, err := r.queue(l, fmt.Sprintf("requeue-%d", i), i == 0)
		if err != nil {
			return err
		}
		route, target := straight(q)
		r.publish("publisher of "+q.Name(), share/2, route, target)
		for j := range 1 + 2*i {
			r.consume(fmt.Sprintf("consumer %d of %s", j, q.Name()), q, 30, func(c *consumer) { c.requeues = true })
		}
	}
	return nil
}

func (r *run) exchange(l *link, name, kind string) error {
	defer l.bound(patience)()
	if err := l.ch.ExchangeDeclare(name, kind, true, false, false, false, nil); err != nil {
		return fmt.Errorf("declare exchange %s: %w", name, err)
	}
	return nil
}

func (r *run) bind(l *link, queue, key, exchange string) error {
	defer l.bound(patience)()
	if err := l.ch.QueueBind(queue, key, exchange, false, nil); err != nil {
		return fmt.Errorf("bind queue %s: %w", queue, err)
	}
	return nil
}
