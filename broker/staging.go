package broker

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/warrenmq/warren/raftfsm/queue"
)

const (
	// flushSize is the size at which a batch is sent without waiting for Flush, and the longest envelope that goes in one
	// piece: half of what the proposers send at once.
	flushSize = 128 << 10
	// keptSize is the largest buffer that goes back to the pool.
	keptSize = 4 * flushSize
)

// batch is the commands of one connection for one shard, and what is to happen when they have been applied.
type batch struct {
	Batch
	conn  *Conn
	shard queue.ShardID

	runs     []publishRun
	calls    []*call
	settles  []settle // the first used of them are open: not appended yet
	used     int
	unsealed int // about what the open settles take, in bytes
	bytes    int // what it holds in the connection's window
	messages int
	slowed   []slowed
	commit   *commit // of the transaction that the batch belongs to
}

// publishRun is consecutive publishes of a channel in consecutive commands.
type publishRun struct {
	channel *Channel // nil: not in confirm mode
	from    uint64
	command uint32
	count   uint32
}

// call waits for the answer to a command.
type call struct {
	command uint32
	done    chan struct{}
	result  queue.Result // OK without counts when the machine has nothing to say
}

// settle is settled deliveries of one consumer with one outcome, collected until the batch goes.
type settle struct {
	consumer queue.ConsumerID
	outcome  queue.Outcome
	delay    uint64 // milliseconds until what goes back does so
	ranges   []queue.Range
}

// maxOpenSettles bounds the list that each settled delivery is looked up in.
const maxOpenSettles = 16

// batches keeps memory between uses.
type batches struct{ pool sync.Pool }

func (p *batches) get(c *Conn, shard queue.ShardID) *batch {
	b, _ := p.pool.Get().(*batch)
	if b == nil {
		b = &batch{}
		b.Done = b.applied
	}
	b.conn, b.shard = c, shard
	return b
}

func (p *batches) put(b *batch) {
	if cap(b.Data) > keptSize || cap(b.runs) > 4096 {
		return
	}
	clear(b.runs)
	clear(b.calls)
	clear(b.slowed)
	b.Reset()
	b.Behind = false
	b.conn, b.commit, b.runs, b.calls, b.slowed = nil, nil, b.runs[:0], b.calls[:0], b.slowed[:0]
	b.used, b.unsealed, b.bytes, b.messages = 0, 0, 0, 0
	p.pool.Put(b)
}

// published notes the publish that the last command was, as number seq of the channel (nil: not to be confirmed).
func (b *batch) published(ch *Channel, seq uint64) {
	b.messages++
	if n := len(b.runs); n > 0 {
		last := &b.runs[n-1]
		if last.channel == ch && last.from+uint64(last.count) == seq && last.command+last.count == b.Commands-1 {
			last.count++
			return
		}
	}
	if ch != nil {
		b.runs = append(b.runs, publishRun{ch, seq, b.Commands - 1, 1})
	}
}

// settle notes a settled delivery.
func (b *batch) settle(c queue.ConsumerID, o queue.Outcome, r queue.Range) { b.settleLater(c, o, 0, r) }

// settleLater notes one that goes back after a delay, in milliseconds.
func (b *batch) settleLater(c queue.ConsumerID, o queue.Outcome, delay uint64, r queue.Range) {
	for i := b.used - 1; i >= 0; i-- {
		if s := &b.settles[i]; s.consumer == c && s.outcome == o && s.delay == delay {
			if s.add(r) {
				b.unsealed += rangeBytes
			}
			return
		}
	}
	if b.used == maxOpenSettles {
		b.seal()
	}
	if b.used == len(b.settles) {
		b.settles = append(b.settles, settle{})
	}
	s := &b.settles[b.used]
	s.consumer, s.outcome, s.delay, s.ranges = c, o, delay, append(s.ranges[:0], r)
	b.used++
	b.unsealed += settledBytes
}

// add takes a range; more: it is not one with the last.
func (s *settle) add(r queue.Range) (more bool) {
	last := &s.ranges[len(s.ranges)-1]
	if last.To+1 == r.From {
		last.To = r.To
		return false
	}
	s.ranges = append(s.ranges, r)
	return true
}

// seal appends the open settles: what comes after must see them.
func (b *batch) seal() {
	for i := range b.used {
		s := &b.settles[i]
		if s.delay > 0 {
			b.SettleLater(s.consumer, s.outcome, s.delay, s.ranges...)
		} else {
			b.Settle(s.consumer, s.outcome, s.ranges...)
		}
	}
	b.used, b.unsealed = 0, 0
}

// full tells whether the next command belongs into another batch: see staging.
func (b *batch) full() bool { return len(b.Data)+b.unsealed >= flushSize }

// empty tells whether there is nothing to send.
func (b *batch) empty() bool { return b.Commands == 0 && b.used == 0 }

// applied is Batch.Done.
func (b *batch) applied(_ *Batch, results []queue.Result) {
	c := b.conn
	c.underway.Add(-1) // before the calls go on
	b.answer(results)
	b.confirm(results)
	if b.commit != nil {
		b.commit.applied(results)
	}
	if b.messages > 0 {
		c.window.done(b.bytes, b.messages, b.Behind)
	}
	c.broker.batches.put(b)
}

// answer wakes the calls, and lets the consumers that were slowed go on.
func (b *batch) answer(results []queue.Result) {
	for _, w := range b.calls {
		if r := resultOf(results, w.command); r != nil {
			w.result = *r
		}
		close(w.done)
	}
	for i := range b.slowed {
		code := queue.OK
		if r := resultOf(results, b.slowed[i].command); r != nil {
			code = r.Code
		}
		b.conn.out.slowedDown(&b.slowed[i], code)
	}
}

// resultOf is what the machine says of a command, nil when it says nothing.
func resultOf(results []queue.Result, command uint32) *queue.Result {
	i, found := slices.BinarySearchFunc(results, command, func(r queue.Result, n uint32) int { return int(r.Command) - int(n) })
	if !found {
		return nil
	}
	return &results[i]
}

// confirm counts the publishes as applied; those that a queue refused become nacks.
func (b *batch) confirm(results []queue.Result) {
	for i := range results {
		if o := outcomeOf(results[i].Code); o != Confirmed {
			b.refuse(results[i].Command, o)
		}
	}
	for _, r := range b.runs {
		if r.channel.confirms.finish(r.from, r.count) {
			b.conn.out.confirm(r.channel)
		}
	}
}

// outcomeOf is what the answer to an enqueue means.
func outcomeOf(c queue.ResultCode) Outcome {
	switch c {
	case queue.Full:
		return QueueFull
	case queue.Refused:
		return Refused
	}
	return Confirmed
}

func (b *batch) refuse(command uint32, o Outcome) {
	i, found := slices.BinarySearchFunc(b.runs, command, func(r publishRun, n uint32) int {
		switch {
		case n < r.command:
			return 1
		case n >= r.command+r.count:
			return -1
		}
		return 0
	})
	if found {
		r := b.runs[i]
		r.channel.confirms.refuse(r.from+uint64(command-r.command), o)
	}
}

// staging is the batches under construction of one goroutine, in the order in which they are submitted: for each shard one to which more may
// come, behind others that are full. A batch stands in one entry of the shard's log, and what a log cannot take would hold up the whole
// shard; and much can be staged at once, as by an acknowledgement of all that a channel has.
type staging struct {
	conn  *Conn
	open  []*batch
	last  bool // the connection is at its end: its window holds nothing back
	whole bool // a transaction's: one batch for each shard, bounded by who fills it
}

// batch returns the batch for the shard. What is appended before the next call must be little, or one message.
func (s *staging) batch(shard queue.ShardID) *batch {
	for _, b := range slices.Backward(s.open) {
		if b.shard == shard {
			if b.full() && !s.whole {
				break
			}
			return b
		}
	}
	b := s.conn.broker.batches.get(s.conn, shard)
	s.open = append(s.open, b)
	return b
}

// has tells whether there is a batch for the shard.
func (s *staging) has(shard queue.ShardID) bool {
	return slices.ContainsFunc(s.open, func(b *batch) bool { return b.shard == shard })
}

// flush submits all batches. What could not be submitted stays.
func (s *staging) flush(ctx context.Context) error {
	for len(s.open) > 0 {
		if err := s.submitAt(ctx, 0); err != nil {
			return err
		}
	}
	return nil
}

// submit sends what is staged for the shard.
func (s *staging) submit(ctx context.Context, shard queue.ShardID) error {
	for i := 0; i < len(s.open); {
		if s.open[i].shard != shard {
			i++
		} else if err := s.submitAt(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

func (s *staging) submitAt(ctx context.Context, i int) error {
	b := s.open[i]
	if b.empty() {
		s.remove(i)
		s.conn.broker.batches.put(b)
		return nil
	}
	b.seal()
	if b.messages > 0 {
		b.bytes = len(b.Data)
		if s.last {
			s.conn.window.force(b.bytes, b.messages)
		} else if err := s.conn.window.enter(ctx, b.bytes, b.messages); err != nil {
			return err
		}
	}
	messages, bytes := b.messages, b.bytes
	s.conn.underway.Add(1)
	if err := s.conn.broker.replicator.Submit(ctx, b.shard, &b.Batch); err != nil {
		if messages > 0 {
			s.conn.window.leave(bytes, messages)
		}
		s.conn.underway.Add(-1)
		if errors.Is(err, ErrLargeBatch) { // the connection ends, and what follows then is taken
			s.remove(i)
		}
		return err
	}
	s.remove(i)
	return nil
}

func (s *staging) remove(i int) {
	s.open = slices.Delete(s.open, i, i+1)
}

// drop forgets what is staged.
func (s *staging) drop() {
	for i, b := range s.open {
		s.conn.broker.batches.put(b)
		s.open[i] = nil
	}
	s.open = s.open[:0]
}
