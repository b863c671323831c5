package broker

import (
	"cmp"
	"time"

	"github.com/warrenmq/warren/raftfsm/queue"
)

// Reading ahead (docs/adr/0009). What a client acknowledges frees its place in the shard only when the acknowledgement has gone
// through the shard's log. So that a fast client does not wait for that, its consumers are given more than the client may have:
// the rest waits in the outbox, and goes to the client as it acknowledges. The client never has more than its prefetch limit, and
// when it gets slow, what waits goes back to the queue as if it had never been out, so that other consumers get it.

// ReadAhead says which consumers read ahead, and how far. The zero value of a field means its default.
type ReadAhead struct {
	// Messages is what a consumer is given beyond its limit: what the fastest take while their settles go through a busy log.
	// Default 1024.
	Messages uint32
	// MinLimit is the least prefetch limit with which to read ahead. Who asks for fewer wants messages spread fairly, and one by one
	// rather than fast. Default 32.
	MinLimit uint32
	// A consumer is fast when it settles as many deliveries as it may have within Fast, some times what a settle takes; it is slow
	// when it takes fewer than that within Slow, for about twice of which its messages wait at most, and once more when its client does
	// not even read. Defaults 20 ms, 50 ms.
	Fast, Slow time.Duration
}

func (r *ReadAhead) setDefaults() {
	r.Messages = cmp.Or(r.Messages, 1024)
	r.MinLimit = cmp.Or(r.MinLimit, 32)
	r.Fast, r.Slow = cmp.Or(r.Fast, 20*time.Millisecond), cmp.Or(r.Slow, 50*time.Millisecond)
}

// reading is the part of a consumer that reads ahead, guarded by the outbox unless said otherwise.
type reading struct {
	limited bool   // the outbox keeps its limit: it has once read ahead
	ahead   uint32 // what the shard lets it have beyond its limit
	handed  int    // deliveries taken for the client since the last look
	watched bool   // look will be called
	slow    bool   // listed to be slowed; watched until that is done
	// returning is set while the shard is asked to take back what is in retained, the last deliveries: the client gets nothing
	// meanwhile, since they come before whatever follows.
	returning bool
	retained  []Delivery

	// Guarded by the channel: settled since began.
	round int
	began time.Time
}

func (c *consumer) options() *ReadAhead { return &c.channel.conn.broker.options.ReadAhead }

// room is how many more deliveries the client may have.
func (c *consumer) room() int {
	if !c.limited {
		return takenAtOnce
	}
	return max(0, int(c.channel.creditOf(c))-int(c.out.Load()))
}

// countSettled counts a settled delivery and tells whether the consumer is fast, if it may read ahead at all; a getter, whose limit is 0, may
// not. The channel's mu is held.
func (c *consumer) countSettled() (fast bool) {
	credit := c.credit.Load()
	if credit < c.options().MinLimit {
		return false
	}
	c.round++
	if c.round < int(credit) {
		return false
	}
	now := time.Now()
	fast = now.Sub(c.began) <= c.options().Fast
	c.round, c.began = 0, now
	return fast
}

// readAhead lets a fast consumer have more, unless it has. It is called by the reader.
func (ch *Channel) readAhead(c *consumer) {
	if ch.limit.Load() > 0 {
		return
	}
	o := &ch.conn.out
	o.mu.Lock()
	begins := c.ahead == 0 && !c.gone && !c.returning && !c.slow
	if begins {
		c.limited, c.ahead = true, c.options().Messages
		c.watch()
	}
	o.mu.Unlock()
	if begins {
		ch.stageCredit(c)
	}
}

// stageCredit tells the shard what a consumer may have. It is called by the reader. What a barred one may have is the writer's to say, who
// lets it go: it has none until then, and what the reader stages may reach the shard after that.
func (ch *Channel) stageCredit(c *consumer) {
	ch.conn.out.mu.Lock()
	barred, credit := c.barred, c.wanted()+c.ahead
	ch.conn.out.mu.Unlock()
	if !barred {
		ch.conn.stage.credit(c.shard, c.id, credit)
	}
}

// watch has look called after a while. The outbox is locked.
func (c *consumer) watch() {
	if !c.watched {
		c.watched = true
		time.AfterFunc(c.options().Slow, c.look)
	}
}

// look finds out whether a consumer still takes what waits for it.
func (c *consumer) look() {
	conn, o := c.channel.conn, &c.channel.conn.out
	o.mu.Lock()
	late := c.slow        // the writer has had its time
	wake := o.answered(c) // and what was asked about
	handed := c.handed
	c.watched, c.handed = false, 0
	fast := c.ahead > 0 && handed >= max(1, int(c.credit.Load())) && c.channel.limit.Load() == 0
	shares := c.held && c.channel.limit.Load() > 0
	switch waits := shares && c.waiting.len() > 0 || c.limited && c.waiting.len() > c.room(); {
	case c.gone, conn.ended.Err() != nil, c.ahead == 0 && !waits && !c.returning && !c.slow:
	case shares && handed > 0 && c.ahead == 0: // it has its turns
		c.watch()
	case !fast && !c.returning && !c.slow && !c.stalled:
		o.slow(c)
		fallthrough
	default:
		c.watch()
		wake = wake || c.slow
	}
	o.mu.Unlock()
	if wake {
		o.wake()
	}
	if late {
		conn.slowDownBeside()
	}
}

// slowDownBeside does the writer's slowDown while the client keeps it waiting: who does not read is not to keep what others could have. A
// writer that is in Drain comes to it again.
func (c *Conn) slowDownBeside() {
	select {
	case c.writing.busy <- struct{}{}:
		defer c.writing.end()
		c.slowDown(true)
	default:
	}
}

// slowDown ends the reading ahead of consumers that are slow, and asks their shards to take back what waits for them: when the writer is
// stuck, all of it. It is called between begin and end.
func (c *Conn) slowDown(stuck bool) {
	s := &c.writing
	s.slowing = c.out.takeSlowing(s.slowing[:0])
	for i, of := range s.slowing {
		s.stage.slowDown(of, stuck)
		s.slowing[i] = nil
	}
	if len(s.slowing) > 0 {
		c.settleWritten()
	}
}

// slow lists a consumer to be slowed, and has look see to it that this is done. mu is held.
func (o *outbox) slow(c *consumer) {
	if !c.slow {
		o.slowing = append(o.slowing, c)
		c.slow = true
		c.watch()
	}
}

// takeSlowing appends to cs the consumers that are to be slowed.
func (o *outbox) takeSlowing(cs []*consumer) []*consumer {
	o.mu.Lock()
	defer o.mu.Unlock()
	cs = append(cs, o.slowing...)
	clear(o.slowing)
	o.slowing = o.slowing[:0]
	return cs
}

// slowed is a command with which a consumer was slowed.
type slowed struct {
	consumer *consumer
	command  uint32
	credit   uint32 // what it said
	returns  bool   // it asked for what is retained
}

// slowDown stages that the shard gives a consumer no more than the client may have, and takes back what waits.
func (s *staging) slowDown(c *consumer, stuck bool) {
	o := &s.conn.out
	o.mu.Lock()
	if stuck && c.channel.limit.Load() > 0 && c.waiting.len() == 0 {
		o.slowing = append(o.slowing, c) // what it would be given stayed with it: nobody counts what waits against a limit that is shared
		o.mu.Unlock()
		return
	}
	c.slow, c.ahead = false, 0
	if c.gone || c.returning {
		o.mu.Unlock()
		return
	}
	c.barred = c.held && c.channel.free() == 0
	if c.room() == 0 || c.barred || stuck { // otherwise the client gets it now
		c.retained = c.waiting.all()
		c.returning = len(c.retained) > 0
	}
	retained, credit := c.retained, c.wanted()
	o.mu.Unlock()
	s.conn.leaveUnread(retained)
	b := s.batch(c.shard)
	b.seal()
	b.slowed = append(b.slowed, slowed{c, b.Commands, credit, len(retained) > 0})
	if n := len(retained); n > 0 {
		b.GiveBack(c.id, credit, retained[0].ID, retained[n-1].ID)
	} else {
		b.Credit(c.id, credit)
	}
}

// leaveUnread frees the room of the envelopes that came along with deliveries which go back: their consumer goes on, and nobody else asks for
// them.
func (c *Conn) leaveUnread(ds []Delivery) {
	for i := range ds {
		if ds[i].Inline != nil {
			_, _ = c.broker.replicator.Envelope(c.ended, &ds[i]) // it is there
		}
	}
}

// slowedDown is the answer to slowDown. When the shard did not take back what was retained, since it had given more, then the
// client has acknowledged something meanwhile, and gets it.
func (o *outbox) slowedDown(s *slowed, code queue.ResultCode) {
	c := s.consumer
	o.mu.Lock()
	if s.returns {
		if code == queue.Later && !c.gone {
			c.waiting.unpop(c.retained)
		}
		c.returning, c.retained = false, nil
	}
	wake := o.list(c)
	if c.gone || c.wanted() == s.credit {
		wake = o.answered(c) || wake
	} else { // changed meanwhile, and what was said last may not be what the shard has heard last
		o.slow(c)
	}
	wake = wake || c.slow
	o.mu.Unlock()
	if wake {
		o.wake()
	}
}
