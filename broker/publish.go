package broker

import (
	"bytes"
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/warrenmq/warren/raftfsm/queue"
	"github.com/warrenmq/warren/router"
)

// Publish stages a message; Conn.Flush sends it. In steady state it allocates nothing: the body is copied once, into the
// batch of the shard.
func (ch *Channel) Publish(ctx context.Context, p *Publish) error {
	if p.Immediate {
		return errorf(NotImplemented, "immediate=true")
	}
	c := ch.conn
	if int64(len(p.Body)) > c.broker.options.MaxMessageSize {
		return errorf(PreconditionFailed, "message size %d is larger than configured max size %d", len(p.Body), c.broker.options.MaxMessageSize)
	}
	if len(p.RoutingKey) > maxShort {
		return errorf(PreconditionFailed, "routing key of %d bytes is longer than %d", len(p.RoutingKey), maxShort)
	}
	if len(p.Properties) > MaxProperties {
		return errorf(PreconditionFailed, "properties of %d bytes are longer than %d", len(p.Properties), MaxProperties)
	}
	x, err := ch.publishTo(ctx, p.Exchange)
	if err != nil {
		return err
	}
	m := envelope{exchange: p.Exchange, routingKey: p.RoutingKey, properties: p.Properties, body: p.Body}
	o := queue.EnqueueOptions{Producer: ch.producer, Sequence: p.Sequence, Behind: p.Behind}
	if err := ch.examine(x, &m, &o); err != nil {
		return err
	}
	if !c.published {
		c.published = true
		c.stale = c.broker.awaitFresh(ctx) != nil
	}
	dests, err := ch.route(ctx, x, &m)
	if err != nil {
		return err
	}
	if (p.Mandatory || ch.outcomes) && !c.stale { // whether it is routed will be told
		c.stale = c.broker.awaitSettled(ctx) != nil
	}
	if ch.tx != nil {
		return ch.tx.publish(ctx, ch, &m, &o, dests, p.Mandatory)
	}
	return ch.send(ctx, &m, &o, dests, p.Mandatory)
}

// publishTo returns the exchange, once the user may write to it and clients may publish to it.
func (ch *Channel) publishTo(ctx context.Context, name []byte) (*router.Exchange, error) {
	if err := ch.permissions.publish(name); err != nil {
		return nil, err
	}
	v := ch.conn.vhost
	x := v.table.Load().Exchange(name)
	if x == nil {
		if err := ch.conn.broker.awaitFresh(ctx); err != nil {
			return nil, err
		}
		if x = v.table.Load().Exchange(name); x == nil {
			return nil, noExchange(string(name), v.name)
		}
	}
	if x.Internal() {
		return nil, errorf(AccessRefused, "cannot publish to internal %s", exchangeIn(string(name), v.name))
	}
	return x, nil
}

// examine reads the properties, refuses what is wrong with them, and changes those that the broker changes.
func (ch *Channel) examine(x *router.Exchange, m *envelope, o *queue.EnqueueOptions) error {
	r := &ch.conn.routing
	p := &r.properties
	if err := p.Parse(m.properties); err != nil {
		return errorf(Internal, "%v", err)
	}
	r.copies = r.copies[:0]
	o.Persistent, o.HasPriority, o.Priority = p.DeliveryMode == 2, p.HasPriority, p.Priority
	var replyTo []byte
	if string(p.ReplyTo) == replyToName {
		if ch.replies == nil {
			return errorf(PreconditionFailed, "fast reply consumer does not exist")
		}
		r.replyTo = append(r.replyTo[:0], ch.replyTo...)
		replyTo = r.replyTo
	}
	if p.hasExpiration {
		ttl, err := parseExpiration(p.Expiration)
		if err != nil {
			return err
		}
		o.HasTTL, o.TTLMillis = true, ttl
	}
	hidden := false
	if len(p.Headers) > 0 {
		var err error
		if r.copies, hidden, err = carbonCopies(p.Headers, r.copies); err != nil {
			return err
		}
	}
	if p.hasUserID && string(p.UserID) != ch.conn.user && !slices.Contains(ch.conn.tags, "impersonator") {
		return errorf(PreconditionFailed, "user_id property set to '%s' but authenticated user was '%s'", p.UserID, ch.conn.user)
	}
	if replyTo != nil || hidden {
		m.properties = ch.edit(replyTo, hidden)
	}
	return nil
}

// edit returns the properties with another reply-to, and without BCC.
func (ch *Channel) edit(replyTo []byte, hidden bool) []byte {
	r := &ch.conn.routing
	var drop func([]byte) bool
	if hidden {
		drop = func(key []byte) bool { return string(key) == "BCC" }
	}
	r.edited = r.properties.AppendEdited(r.edited[:0], replyTo, drop)
	return r.edited
}

// maxExpirationMillis is the longest time to live (ten years), in milliseconds.
const maxExpirationMillis = 315_360_000_000

// parseExpiration reads the expiration property: milliseconds as decimal digits.
func parseExpiration(text []byte) (uint64, error) {
	digits := len(text)
	for i, b := range text {
		if b < '0' || b > '9' {
			if i == 0 && (b == '-' || b == '+') && len(text) > 1 {
				continue
			}
			digits = i
			break
		}
	}
	invalid := func(term string) error {
		return errorf(PreconditionFailed, "invalid expiration '%s': %s", text, term)
	}
	if digits == 0 {
		return 0, invalid("no_integer")
	}
	n, err := strconv.ParseInt(string(text[:digits]), 10, 64)
	switch {
	case err != nil && text[0] != '-':
		return 0, invalid("{value_too_large," + string(text[:digits]) + "}")
	case err != nil:
		return 0, invalid("no_integer")
	case digits < len(text):
		return 0, invalid("{leftover_string,\"" + string(text[digits:]) + "\"}")
	case n < 0:
		return 0, invalid("{value_negative," + strconv.FormatInt(n, 10) + "}")
	case n > maxExpirationMillis:
		return 0, invalid("{value_too_large," + strconv.FormatInt(n, 10) + "}")
	}
	return uint64(n), nil
}

// route returns where the message goes; the slice is working space.
func (ch *Channel) route(ctx context.Context, x *router.Exchange, m *envelope) ([]router.Dest, error) {
	r := &ch.conn.routing
	if len(m.exchange) == 0 {
		if id, ok := parseReplyTo(m.routingKey); ok {
			r.dests = append(r.dests[:0], router.Dest(id))
			return r.dests, nil
		}
	}
	r.message.RoutingKey, r.message.CC = m.routingKey, r.copies
	r.dests = x.Route(&r.message, &r.scratch, r.dests[:0])
	if len(r.dests) == 0 && !ch.conn.stale && ch.conn.broker.replicator.Fresh() != nil {
		ch.conn.stale = ch.conn.broker.awaitFresh(ctx) != nil
		r.dests = x.Route(&r.message, &r.scratch, r.dests[:0])
	}
	return r.dests, nil
}

// send stages the message for its queues, and its confirm.
func (ch *Channel) send(ctx context.Context, m *envelope, o *queue.EnqueueOptions, dests []router.Dest, mandatory bool) error {
	c := ch.conn
	if c.stale {
		return ch.sendStale(ctx, m, o, dests, mandatory)
	}
	if len(dests) == 0 {
		if mandatory {
			c.out.sendBack(ch, m)
		}
		if ch.outcomes {
			ch.count(unroutable)
		} else {
			ch.count(0)
		}
		return c.out.waitForRoom(ctx)
	}
	return ch.stage(ctx, m, o, dests)
}

// sendStale sends a message while this node does not know whether its routes are current: it goes where they say, and
// nothing is confirmed or returned that depends on there being no other.
func (ch *Channel) sendStale(ctx context.Context, m *envelope, o *queue.EnqueueOptions, dests []router.Dest, mandatory bool) error {
	if ch.confirming && !ch.outcomes {
		ch.count(refused)
		return nil
	}
	if ch.outcomes || mandatory && len(dests) == 0 {
		return errorf(Unavailable, "this node is cut off from the cluster: whether %s routes the message is not known", exchangeIn(string(m.exchange), ch.conn.vhost.name))
	}
	if len(dests) == 0 {
		return nil
	}
	return ch.stage(ctx, m, o, dests)
}

// count takes the next number for a message with so many commands.
func (ch *Channel) count(commands uint16) (seq uint64) {
	if !ch.confirming {
		return 0
	}
	if len(ch.counts) == 0 {
		ch.conn.publishing = append(ch.conn.publishing, ch)
	}
	ch.counts = append(ch.counts, commands)
	return ch.sequence()
}

// sequence is the number of the publish counted last.
func (ch *Channel) sequence() uint64 {
	ch.lastSequence++
	return ch.lastSequence
}

// stage stages the message for its queues: one command for each shard, and for each queuesAtOnce queues of one.
func (ch *Channel) stage(ctx context.Context, m *envelope, o *queue.EnqueueOptions, dests []router.Dest) error {
	c := ch.conn
	of, seq := ch, uint64(0)
	if !ch.confirming {
		of = nil
	}
	if len(dests) == 1 { // nearly always
		seq = ch.count(1)
		c.routing.queues = append(c.routing.queues[:0], queue.QueueID(dests[0]))
		return c.enqueue(ctx, c.routing.queues, m, o, of, seq)
	}
	if o.Sequence != 0 && len(dests) > maxQueues {
		return errorf(PreconditionFailed, "a message for %d queues cannot have a producer's number: at most %d", len(dests), maxQueues)
	}
	most := queuesAtOnce
	if o.Sequence != 0 { // it counts once for each shard
		most = maxQueues
	}
	slices.Sort(dests)
	groups := uint16(0)
	eachShard(dests, most, func([]router.Dest) bool { groups++; return true })
	seq = ch.count(groups)
	var err error
	eachShard(dests, most, func(group []router.Dest) bool {
		c.routing.queues = c.routing.queues[:0]
		for _, d := range group {
			c.routing.queues = append(c.routing.queues, queue.QueueID(d))
		}
		err = c.enqueue(ctx, c.routing.queues, m, o, of, seq)
		return err == nil
	})
	return err
}

const (
	// maxQueues is how many queues one command can name.
	maxQueues = 1<<16 - 1
	// queuesAtOnce is how many it does name if it need not name more: their ids and the message are to fit in the smallest log.
	queuesAtOnce = flushSize / 8
)

// eachShard calls f with the destinations of each shard, so many at most at a time, in order; they are sorted.
func eachShard(dests []router.Dest, most int, f func(group []router.Dest) bool) {
	for len(dests) > 0 {
		n := 1
		for n < len(dests) && n < most && queue.QueueID(dests[n]).Shard() == queue.QueueID(dests[0]).Shard() {
			n++
		}
		if !f(dests[:n]) {
			return
		}
		dests = dests[n:]
	}
}

// enqueue stages the message for queues of one shard.
func (c *Conn) enqueue(ctx context.Context, queues []queue.QueueID, m *envelope, o *queue.EnqueueOptions, of *Channel, seq uint64) error {
	shard := queues[0].Shard()
	if m.size() > flushSize {
		return c.enqueueLarge(ctx, queues, m, o, of, seq)
	}
	b := c.stage.batch(shard)
	b.enqueue(queues, m, o)
	b.published(of, seq)
	if len(b.Data) >= flushSize {
		return c.submit(ctx, shard)
	}
	return nil
}

// enqueue appends the command for an envelope in one piece.
func (b *batch) enqueue(queues []queue.QueueID, m *envelope, o *queue.EnqueueOptions) {
	b.Data = slices.Grow(b.Data, m.size()+8*len(queues)+enqueueOverhead)
	mark := b.BeginEnqueue(queues, o)
	b.Data = m.append(b.Data)
	b.EndEnqueue(mark)
}

// enqueueOverhead is at least what an enqueue takes beside queues and envelope, in bytes.
const enqueueOverhead = 64

// enqueueLarge sends a long envelope in pieces, each in a batch of its own; the message counts with the last command.
func (c *Conn) enqueueLarge(ctx context.Context, queues []queue.QueueID, m *envelope, o *queue.EnqueueOptions, of *Channel, seq uint64) error {
	shard := queues[0].Shard()
	if err := c.submit(ctx, shard); err != nil {
		return err
	}
	upload, err := c.upload(ctx, shard, m)
	if err != nil {
		return err
	}
	last := *o
	last.Upload = upload
	b := c.stage.batch(shard)
	b.EndEnqueue(b.BeginEnqueue(queues, &last))
	b.published(of, seq)
	return nil
}

// upload sends an envelope ahead of the command that makes it a message.
func (c *Conn) upload(ctx context.Context, shard queue.ShardID, m *envelope) (upload uint64, err error) {
	upload = c.broker.replicator.NewID()
	head := m.appendHead(make([]byte, 0, m.headSize()))
	for piece := range pieces(head, m.body) {
		b := c.stage.batch(shard)
		b.seal()
		b.Chunk(upload, piece)
		b.messages++ // so that it takes room in the connection's window
		if err := c.submit(ctx, shard); err != nil {
			c.discardUpload(shard, upload)
			return 0, err
		}
	}
	return upload, nil
}

// discardUpload stages the end of an upload that no message will use: a queue that does not exist takes it.
func (c *Conn) discardUpload(shard queue.ShardID, upload uint64) {
	b := c.stage.batch(shard)
	b.EndEnqueue(b.BeginEnqueue([]queue.QueueID{queue.MakeQueueID(shard, 0)}, &queue.EnqueueOptions{Upload: upload}))
}

// pieces cuts head and body into pieces of at most flushSize; the first is head and the beginning of body.
func pieces(head, body []byte) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		n := min(len(body), max(0, flushSize-len(head)))
		if !yield(append(bytes.Clone(head), body[:n]...)) {
			return
		}
		for body = body[n:]; len(body) > 0; body = body[n:] {
			n = min(len(body), flushSize)
			if !yield(body[:n]) {
				return
			}
		}
	}
}

// awaitFresh waits, not long, until this node knows that its copy of the catalog is current.
func (b *Broker) awaitFresh(ctx context.Context) error {
	err := b.replicator.Fresh()
	if err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, b.options.FreshTimeout)
	defer cancel()
	for err != nil {
		select {
		case <-ctx.Done():
			return err
		case <-time.After(freshPoll):
			err = b.replicator.Fresh()
		}
	}
	return nil
}

// awaitSettled waits, not long, until every node that can be reached routes as this one does.
func (b *Broker) awaitSettled(ctx context.Context) error {
	if b.replicator.Settled() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, b.options.FreshTimeout)
	defer cancel()
	return b.replicator.Settle(ctx)
}

// freshPoll is how often Fresh is asked while waiting for it.
const freshPoll = 20 * time.Millisecond
