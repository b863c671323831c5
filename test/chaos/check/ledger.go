package check

import (
	"fmt"
	"slices"
	"sort"
	"sync"
	"time"
)

// Ledger is what publishers and consumers saw: about two dozen bytes for each message and queue.
type Ledger struct {
	now func() time.Duration

	mu         sync.Mutex // guards what follows
	publishers []*Publisher
	queues     []*Queue
	channels   []*Consumer
	found      findings
}

// NewLedger makes an empty ledger; now is the time since the start of the run.
func NewLedger(now func() time.Duration) *Ledger { return &Ledger{now: now} }

// fate is what a publisher knows of a message.
type fate uint8

const (
	uncertain fate = iota // published, and no answer (yet)
	confirmed
	undone // rolled back, or returned as unroutable: it must not come out
)

// Publisher is one source of messages. Its methods are called from one goroutine, except Confirmed, Refused and Undone.
type Publisher struct {
	ledger *Ledger
	name   string
	number uint32
	route  func(id uint32) []*Queue

	mu      sync.Mutex // guards what follows
	fates   []fate
	epochs  []uint32   // the first message of each channel it published on; order holds within one
	seconds []uint32   // how many messages were published at the end of each second of the run
	commits [][]uint32 // messages of transactions whose commit had no answer
}

// Publisher adds a publisher. Route says which queues a message reaches; it is asked again when the run is judged.
func (l *Ledger) Publisher(name string, route func(id uint32) []*Queue) *Publisher {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := &Publisher{ledger: l, name: name, number: uint32(len(l.publishers)), route: route}
	l.publishers = append(l.publishers, p)
	return p
}

// Number is the publisher's in bodies.
func (p *Publisher) Number() uint32 { return p.number }

// Begin notes that a new channel publishes from now on.
func (p *Publisher) Begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.epochs = append(p.epochs, uint32(len(p.fates)))
}

// Next gives the number of the message that is published next.
func (p *Publisher) Next() uint32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	second := int(p.ledger.now() / time.Second)
	for len(p.seconds) <= second {
		p.seconds = append(p.seconds, uint32(len(p.fates)))
	}
	p.fates = append(p.fates, uncertain)
	p.seconds[second] = uint32(len(p.fates))
	return uint32(len(p.fates) - 1)
}

// Confirmed notes the broker's confirm, or the commit of its transaction.
func (p *Publisher) Confirmed(id uint32) { p.decide(id, confirmed) }

// Undone notes that the message was rolled back or returned as unroutable.
func (p *Publisher) Undone(id uint32) { p.decide(id, undone) }

// Together notes that the messages were published in one transaction whose commit had no answer: all of them come out, or none.
func (p *Publisher) Together(ids []uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.commits = append(p.commits, append([]uint32(nil), ids...))
}

func (p *Publisher) decide(id uint32, f fate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// A returned message is confirmed too; what was undone stays undone.
	if p.fates[id] == uncertain {
		p.fates[id] = f
	}
}

// count is the number of messages published so far.
func (p *Publisher) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.fates)
}

// publishedAt is when the message was published, to the second before.
func (p *Publisher) publishedAt(id uint32) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	second := sort.Search(len(p.seconds), func(i int) bool { return p.seconds[i] > id })
	return time.Duration(second) * time.Second
}

// publishedBefore says whether the message was published before a time, to the second.
func (p *Publisher) publishedBefore(id uint32, at time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	second := int(at / time.Second)
	return second >= len(p.seconds) || id < p.seconds[second]
}

// sameEpoch says whether two messages were published on one channel.
func (p *Publisher) sameEpoch(a, b uint32) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	epoch := func(id uint32) int {
		return sort.Search(len(p.epochs), func(i int) bool { return p.epochs[i] > id })
	}
	return epoch(a) == epoch(b)
}

// standing is where a message is, as far as consumers of the queue saw it.
type standing uint8

const (
	unseen standing = iota
	held            // delivered, not settled
	free            // came back: requeued, or its channel is gone
	acked
)

func (s standing) String() string { return [...]string{"unseen", "held", "free", "acked"}[s] }

// mark is what is known of one message in one queue.
type mark struct {
	standing standing
	acked    bool // at some time; standing may have moved on
	fresh    bool // it was delivered without the redelivered flag
	channel  uint32
	at       uint32 // when it got its standing, in milliseconds
	came     uint32 // when it was delivered last, in milliseconds
}

// Queue is one queue and what came out of it.
type Queue struct {
	ledger *Ledger
	name   string
	single bool

	mu       sync.Mutex // guards what follows
	marks    map[uint32][]mark
	last     map[uint32]uint32 // the last fresh message of each publisher, when the queue has one consumer at a time
	lastLoss time.Duration     // when a channel that consumed from it was lost; negative: never
	requeues bool              // consumers give messages back, which changes their order
}

// Queue adds a queue. A single queue has one consumer at a time, so that order can be seen across its consumers.
func (l *Ledger) Queue(name string, single bool) *Queue {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := &Queue{ledger: l, name: name, single: single, marks: map[uint32][]mark{}, last: map[uint32]uint32{}, lastLoss: -1}
	l.queues = append(l.queues, q)
	return q
}

// Name is the queue's.
func (q *Queue) Name() string { return q.name }

// Consumer is one channel that takes messages out of a queue. Its methods are called from one goroutine.
type Consumer struct {
	queue  *Queue
	number uint32
	before uint32 // the number of the queue's consumer before; of the first, its own
	node   int
	last   map[uint32]uint32 // the last fresh message of each publisher
	again  map[holding]round // the last of those that came again, by who had them before

	// When it ended, by a graceful close and otherwise; negative: it did not. Guarded by Ledger.mu.
	closed, lost time.Duration
}

// Consumer adds a channel to a node.
func (q *Queue) Consumer(node int) *Consumer {
	l := q.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &Consumer{queue: q, number: uint32(len(l.channels)), node: node, last: map[uint32]uint32{}, again: map[holding]round{}, closed: -1, lost: -1}
	c.before = c.number
	for _, other := range slices.Backward(l.channels) {
		if other.queue == q {
			c.before = other.number
			break
		}
	}
	l.channels = append(l.channels, c)
	return c
}

// holding is what one channel had of one publisher.
type holding struct{ channel, publisher uint32 }

// round is a return of what a channel had: it comes again in order.
type round struct {
	began uint32 // in milliseconds
	last  uint32 // message
}

// Delivered notes a delivery.
func (c *Consumer) Delivered(publisher, id uint32, redelivered bool) {
	q, l := c.queue, c.queue.ledger
	p := l.publisher(publisher)
	if p == nil || int(id) >= p.count() || !routes(p, id, q) {
		l.report(Finding{Kind: Phantom, Queue: q.name, Publisher: fmt.Sprint(publisher), Message: id, Detail: "was never published to this queue"})
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	m := q.mark(publisher, id)
	now := l.now()
	late := !redelivered && !m.fresh && m.standing != unseen
	if redelivered {
		c.redelivered(p, id, *m, now)
	} else {
		c.fresh(p, id, m, now)
	}
	if !late { // otherwise it is where it came with the flag
		m.standing, m.channel, m.at, m.came = held, c.number, millis(now), millis(now)
	}
}

// redelivered counts a redelivery with its reason, or puts it down to be judged at the end.
func (c *Consumer) redelivered(p *Publisher, id uint32, m mark, now time.Duration) {
	q, l := c.queue, c.queue.ledger
	c.returned(p, id, m, now)
	switch {
	case m.standing == free:
		l.explain("requeued, or the channel that held it was lost")
	case m.standing == unseen && q.lastLoss >= 0 && p.publishedBefore(id, q.lastLoss+noticing):
		l.explain("delivered to a channel that was lost before it was read")
	default:
		l.suspect(suspicion{queue: q, publisher: p, id: id, mark: m, to: c.number, at: now})
	}
}

// returned checks that what one channel had comes again in the order in which it was published, as long as nobody has given messages of the
// queue back. A queue with one consumer at a time shows it to the consumer that follows: one between may have been given a part of it, which
// comes back when that one's end is known, and that may be later. The caller holds q.mu.
func (c *Consumer) returned(p *Publisher, id uint32, m mark, now time.Duration) {
	q, l := c.queue, c.queue.ledger
	if !q.single || q.requeues || m.standing == unseen || m.channel != c.before && m.channel != c.number {
		return
	}
	h := holding{m.channel, p.number}
	r, some := c.again[h]
	if !some || m.came >= r.began { // it has come in this round: another begins
		r = round{began: millis(now), last: id}
	}
	if id < r.last && p.sameEpoch(id, r.last) {
		l.report(Finding{Kind: Order, Queue: q.name, Publisher: p.name, Message: id,
			Detail: fmt.Sprintf("came again at %v after %d of the same channel; channel %d had both", now.Round(time.Millisecond), r.last, m.channel)})
		return
	}
	r.last = id
	c.again[h] = r
}

// fresh checks a delivery without the redelivered flag: the first of its message, and in order. Two without it are never right.
// One that comes after others with it was read late: its channel held the message before them, and must have been lost.
func (c *Consumer) fresh(p *Publisher, id uint32, m *mark, now time.Duration) {
	q, l := c.queue, c.queue.ledger
	lasts := c.last
	switch {
	case m.fresh:
		l.report(Finding{Kind: Duplicate, Queue: q.name, Publisher: p.name, Message: id, Detail: fmt.Sprintf(
			"delivered twice without the redelivered flag: to channel %d (node%d) at %v; before, %v since %v, to channel %d (node%d)",
			c.number, c.node+1, now.Round(time.Millisecond), m.standing, time.Duration(m.at)*time.Millisecond, m.channel, l.nodeOf(m.channel)+1)})
	case m.standing != unseen:
		l.suspect(suspicion{queue: q, publisher: p, id: id, mark: *m, to: c.number, at: now, late: true})
		m.fresh = true
	default:
		m.fresh = true
		if q.single {
			lasts = q.last
		}
	}
	last, some := lasts[p.number]
	if some && id < last && p.sameEpoch(id, last) {
		l.report(Finding{Kind: Order, Queue: q.name, Publisher: p.name, Message: id, Detail: fmt.Sprintf("first delivered after %d of the same channel", last)})
		return
	}
	lasts[p.number] = id
}

// Acked notes an ack that was sent.
func (c *Consumer) Acked(publisher, id uint32) {
	c.settle(publisher, id, acked)
}

// Requeued notes that the message was given back.
func (c *Consumer) Requeued(publisher, id uint32) { c.settle(publisher, id, free) }

func (c *Consumer) settle(publisher, id uint32, s standing) {
	q := c.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	m := q.mark(publisher, id)
	m.acked = m.acked || s == acked
	q.requeues = q.requeues || s == free
	if m.channel == c.number && m.standing == held { // another channel may have it by now; it alone decides then
		m.standing, m.at = s, millis(q.ledger.now())
	}
}

// Lost notes that the channel ended other than by its close. What it held is free again.
func (c *Consumer) Lost() {
	q, l := c.queue, c.queue.ledger
	now := l.now()
	l.mu.Lock()
	c.lost = now
	l.mu.Unlock()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lastLoss = now
	q.release(c.number)
}

// Closed notes a graceful close. What was not settled, or on its way, comes back too.
func (c *Consumer) Closed() {
	q, l := c.queue, c.queue.ledger
	now := l.now()
	l.mu.Lock()
	c.closed = now
	l.mu.Unlock()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lastLoss = now
	q.release(c.number)
}

func (q *Queue) release(channel uint32) {
	for _, marks := range q.marks {
		for i := range marks {
			if m := &marks[i]; m.standing == held && m.channel == channel {
				m.standing = free
			}
		}
	}
}

// mark is the message's record, made when it is missing. The caller holds q.mu.
func (q *Queue) mark(publisher, id uint32) *mark {
	marks := q.marks[publisher]
	for len(marks) <= int(id) {
		marks = append(marks, mark{})
	}
	q.marks[publisher] = marks
	return &marks[id]
}

// Outstanding counts confirmed messages that were not acknowledged yet: what a drain waits for.
func (l *Ledger) Outstanding() int {
	n := 0
	l.eachConfirmed(func(_ *Publisher, _ uint32, _ *Queue, m mark) {
		if !m.acked {
			n++
		}
	})
	return n
}

// eachConfirmed visits every confirmed message in every queue that it reached.
func (l *Ledger) eachConfirmed(visit func(*Publisher, uint32, *Queue, mark)) {
	for _, p := range l.allPublishers() {
		p.mu.Lock()
		fates := append([]fate(nil), p.fates...)
		p.mu.Unlock()
		for id, f := range fates {
			if f != confirmed {
				continue
			}
			for _, q := range p.route(uint32(id)) {
				visit(p, uint32(id), q, q.look(p.number, uint32(id)))
			}
		}
	}
}

// look is a copy of the message's record.
func (q *Queue) look(publisher, id uint32) mark {
	q.mu.Lock()
	defer q.mu.Unlock()
	if marks := q.marks[publisher]; int(id) < len(marks) {
		return marks[id]
	}
	return mark{}
}

func (l *Ledger) allPublishers() []*Publisher {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*Publisher(nil), l.publishers...)
}

func (l *Ledger) publisher(number uint32) *Publisher {
	l.mu.Lock()
	defer l.mu.Unlock()
	if int(number) >= len(l.publishers) {
		return nil
	}
	return l.publishers[number]
}

// nodeOf is the node of a channel.
func (l *Ledger) nodeOf(channel uint32) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.channels[channel].node
}

func routes(p *Publisher, id uint32, q *Queue) bool {
	for _, to := range p.route(id) {
		if to == q {
			return true
		}
	}
	return false
}

func millis(d time.Duration) uint32 { return uint32(d / time.Millisecond) }
