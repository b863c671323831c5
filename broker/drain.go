package broker

import (
	"context"
	"errors"
	"time"

	"github.com/warrenmq/warren/raftfsm/queue"
)

// writing is working space of the writer goroutine.
type writing struct {
	// busy has one place, for who uses what follows: the writer while it does, or who does its work while it is held up by its client.
	// No mutex, since a full pipe may be waited for meanwhile.
	busy chan struct{}

	stage      staging // settles of what consumers without acknowledgements got, and what slows consumers
	retrying   bool    // settleAgain will be called
	channels   []*Channel
	frames     []told
	of         []*Channel // beside frames
	taken      []Delivery
	messages   []envelope
	outgoing   Outgoing
	properties Properties
	edited     []byte
	settling   []*consumer
	slowing    []*consumer
}

func (s *writing) begin() { s.busy <- struct{}{} }
func (s *writing) end()   { <-s.busy }

const (
	// readTimeout bounds how long Drain waits for messages that must be read or fetched: what takes longer is fetched
	// beside it, for so long, so that the client gets its other answers and its heartbeats.
	readTimeout  = 100 * time.Millisecond
	fetchTimeout = 5 * time.Second
	// stallTime is how long a consumer waits after that, times the failures in a row.
	stallTime = 100 * time.Millisecond
	// settleTimeout bounds how long the writer waits for a full pipe at a time.
	settleTimeout = 100 * time.Millisecond
)

// noRoute is what basic.return says.
const (
	noRouteCode = 312
	noRouteText = "NO_ROUTE"
)

// Drain hands what waits for the client to w, about maxBytes of it, and assigns the delivery tags in that order. more
// tells that there is more at once. It is called by the writer goroutine and may block to fetch messages.
func (c *Conn) Drain(w Writer, maxBytes int) (more bool, err error) {
	c.writing.begin()
	defer c.writing.end()
	c.out.woken.Store(false)
	if c.ended.Err() != nil {
		return false, nil
	}
	if len(c.writing.stage.open) > 0 {
		c.settleWritten()
	}
	c.slowDown(false)
	c.drainConfirms(w)
	c.drainEnds(w)
	for maxBytes > 0 {
		n := c.drainDeliveries(w, maxBytes)
		if n == 0 {
			break
		}
		maxBytes -= n
	}
	return c.out.more(), nil
}

// DrainConfirms is the part of Drain that writes returns and confirms.
func (c *Conn) DrainConfirms(w Writer) {
	c.writing.begin()
	defer c.writing.end()
	c.drainConfirms(w)
}

// drainConfirms collects the confirms first: then each message that was returned has its return among those written before.
func (c *Conn) drainConfirms(w Writer) {
	s := &c.writing
	s.channels = c.out.takeConfirming(s.channels[:0])
	s.frames, s.of = s.frames[:0], s.of[:0]
	for _, ch := range s.channels {
		before := len(s.frames)
		s.frames = ch.confirms.drain(s.frames)
		for range len(s.frames) - before {
			s.of = append(s.of, ch)
		}
	}
	w.Lock()
	defer w.Unlock()
	c.DrainReturns(w)
	for i, f := range s.frames {
		if !s.of[i].isClosed() {
			w.Confirm(s.of[i].number, f.tag, f.multiple, f.outcome)
		}
	}
	clear(s.of)
	clear(s.channels)
}

// DrainReturns is the part of Drain that writes the returned messages: a front door calls it before it writes an answer,
// so that the messages published before are returned before. The caller, the reader or Drain, holds the writer's lock.
func (c *Conn) DrainReturns(w Writer) {
	for _, r := range c.out.takeReturns() {
		if !r.channel.isClosed() {
			w.Return(r.channel.number, noRouteCode, noRouteText, r.message.exchange, r.message.routingKey, r.message.properties, r.message.body)
		}
	}
}

// drainEnds writes what the broker ended by itself.
func (c *Conn) drainEnds(w Writer) {
	cancels := c.out.takeEnds()
	if len(cancels) == 0 {
		return
	}
	w.Lock()
	defer w.Unlock()
	for _, gone := range cancels {
		c.broker.replicator.Unsubscribe(gone.shard, gone.id)
		if gone.channel.forget(gone) {
			w.CancelConsumer(gone.channel.number, gone.tag)
		}
	}
}

// drainDeliveries writes deliveries of one consumer and returns about how many bytes they are; 0 when none waits.
func (c *Conn) drainDeliveries(w Writer, maxBytes int) (bytes int) {
	s := &c.writing
	var to *consumer
	to, s.taken = c.out.take(s.taken[:0], maxBytes)
	if to == nil {
		return 0
	}
	defer clear(s.taken)
	for i := range s.taken {
		bytes += int(s.taken[i].Body.Size()) + deliverOverhead
	}
	ready := c.read(to, s.taken)
	if ready == 0 {
		return bytes
	}
	if c.hand(w, to, s.taken[:ready]) {
		to.stalls = 0
		if to.noAck {
			c.handedOver(to, s.taken[:ready])
		}
	} else { // its end came meanwhile
		to.channel.release(to, ready)
		to.channel.resumeHeld()
		s.stage.batch(to.shard).giveBack(to, s.taken[:ready])
		c.settleWritten()
	}
	clear(s.messages)
	return bytes
}

// hand writes deliveries whose messages have been read, unless the consumer is at its end.
func (c *Conn) hand(w Writer, to *consumer, ds []Delivery) bool {
	w.Lock()
	defer w.Unlock()
	tag, ok := to.channel.handOver(to, ds)
	if !ok {
		return false
	}
	s := &c.writing
	for i := range ds {
		s.fill(tag+uint64(i), &ds[i], &s.messages[i])
		w.Deliver(to.channel.number, to.tag, &s.outgoing)
	}
	return true
}

// read gets the envelopes of deliveries and returns how many it got. What cannot be read now goes back to the outbox.
func (c *Conn) read(to *consumer, ds []Delivery) (ready int) {
	ctx, cancel := context.WithTimeout(c.ended, readTimeout)
	defer cancel()
	s := &c.writing
	s.messages = s.messages[:0]
	for i := range ds {
		e, err := c.readOne(ctx, to, &ds[i])
		if err != nil {
			to.channel.release(to, len(ds)-i)
			to.channel.resumeHeld()
			c.unreadable(to, ds[i:], err)
			break
		}
		s.messages = append(s.messages, e)
	}
	return len(s.messages)
}

func (c *Conn) readOne(ctx context.Context, to *consumer, d *Delivery) (e envelope, err error) {
	if to.fetched != nil && to.fetchedID == d.ID {
		err = e.decode(to.fetched)
		to.fetched = nil
		return e, err
	}
	return e, e.read(ctx, c.broker.replicator, d)
}

// fetch gets a message that Drain cannot wait for; the consumer is stalled meanwhile.
func (c *Conn) fetch(to *consumer, d Delivery) {
	ctx, cancel := context.WithTimeout(c.ended, fetchTimeout)
	defer cancel()
	data, err := c.broker.replicator.Envelope(ctx, &d)
	c.out.update(to, func() {
		to.stalled = false
		if err == nil {
			to.fetched, to.fetchedID = data, d.ID
		} // otherwise Drain tries again
	})
}

// unreadable lets a consumer wait when the cluster cannot give a message now, and ends the channel when it never will.
func (c *Conn) unreadable(to *consumer, ds []Delivery, err error) {
	var refusal *Error
	later := errors.As(err, &refusal) && refusal.Kind == Unavailable || errors.Is(err, context.DeadlineExceeded)
	if c.ended.Err() != nil {
		return
	}
	log := c.broker.log.With("connection", c.name, "channel", to.channel.number, "queue", to.name, "vhost", c.vhost.name, "err", err)
	if !later {
		log.Error("message cannot be read")
		c.out.drop(to)
		c.fail(to.channel, errorf(Internal, ""))
		return
	}
	if to.stalls == 1 { // not for one that merely takes its time
		log.Warn("message cannot be read now")
	}
	to.stalls++
	if !c.out.putBack(to, ds) {
		c.writing.stage.batch(to.shard).giveBack(to, ds)
		c.settleWritten()
		return
	}
	if errors.Is(err, context.DeadlineExceeded) {
		go c.fetch(to, ds[0])
		return
	}
	time.AfterFunc(min(time.Duration(to.stalls)*stallTime, fetchTimeout), func() {
		c.out.update(to, func() { to.stalled = false })
	})
}

// fill makes the outgoing form of a delivery.
func (s *writing) fill(tag uint64, d *Delivery, m *envelope) {
	properties := m.properties
	if d.DeliveryCount > 0 && s.properties.Parse(properties) == nil {
		s.edited = s.properties.AppendWithCount(s.edited[:0], deliveryCountHeader, uint64(d.DeliveryCount))
		properties = s.edited
	}
	s.outgoing = Outgoing{Tag: tag, Redelivered: d.Redelivered, Exchange: m.exchange, RoutingKey: m.routingKey,
		Properties: properties, Body: m.body}
}

// deliveryCountHeader tells a consumer how often a message has come back.
const deliveryCountHeader = "x-delivery-count"

// handOver gives deliveries tags, from the one returned on; false when the channel or the consumer is at its
// end and wants nothing more.
func (ch *Channel) handOver(to *consumer, ds []Delivery) (first uint64, ok bool) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.closed || to.ended {
		return 0, false
	}
	to.unsettled += len(ds)
	to.sent = ds[len(ds)-1].ID
	first = ch.unacked.last + 1
	for i := range ds {
		if to.noAck {
			ch.unacked.skip()
		} else {
			ch.hold(to, ds[i].ID)
		}
	}
	return first, true
}

// handedOver notes deliveries that are settled once they are in the socket.
func (c *Conn) handedOver(to *consumer, ds []Delivery) {
	if to.unsettledFrom == 0 {
		to.unsettledFrom = ds[0].ID
		c.writing.settling = append(c.writing.settling, to)
	}
	to.unsettledTo = ds[len(ds)-1].ID
}

// Written tells that everything drained so far is in the socket. It is called by the writer goroutine.
func (c *Conn) Written() {
	s := &c.writing
	s.begin()
	defer s.end()
	if len(s.settling) == 0 {
		return
	}
	for i, of := range s.settling {
		s.stage.batch(of.shard).settle(of.id, queue.Ack, queue.Range{From: of.unsettledFrom, To: of.unsettledTo})
		of.channel.settledAll(&s.stage, of, int(of.unsettledTo-of.unsettledFrom)+1)
		of.unsettledFrom, of.unsettledTo = 0, 0
		s.settling[i] = nil
	}
	s.settling = s.settling[:0]
	c.settleWritten()
}

// settleWritten submits what is staged. When the pipe stays full, it is tried again, whatever the writer is held up by. It is called between begin and end.
func (c *Conn) settleWritten() {
	s := &c.writing
	ctx, cancel := context.WithTimeout(c.ended, settleTimeout)
	defer cancel()
	if err := s.stage.flush(ctx); err != nil && c.ended.Err() == nil && !s.retrying {
		s.retrying = true
		time.AfterFunc(settleTimeout, c.settleAgain)
	}
}

func (c *Conn) settleAgain() {
	c.writing.begin()
	defer c.writing.end()
	c.writing.retrying = false
	c.settleWritten()
}

// settledAll counts deliveries as settled that the client does not settle.
func (ch *Channel) settledAll(stage *staging, c *consumer, n int) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	c.unsettled -= n
	if c.ended && c.unsettled == 0 && !ch.closed {
		delete(ch.ended, c)
		stage.detach(c, false)
	}
}

func (ch *Channel) isClosed() bool {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	return ch.closed
}

// forget takes a consumer out of the channel and tells whether it was there.
func (ch *Channel) forget(c *consumer) bool {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.closed || ch.consumers[c.tag] != c {
		return false
	}
	delete(ch.consumers, c.tag)
	return true
}
