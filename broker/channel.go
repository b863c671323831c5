package broker

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warrenmq/warren/raftfsm/queue"
)

// Channel is an AMQP channel of a connection (a gRPC stream has one as well). Errors of kinds NotAllowed,
// NotImplemented, ResourceError and Internal close the connection, the others the channel; the front door then calls
// Close.
type Channel struct {
	conn      *Conn
	number    uint16
	confirms  confirms
	lastQueue string // declared last
	tx        *transaction

	confirming   bool
	outcomes     bool             // see ConfirmOutcomes
	producer     queue.ProducerID // of what is published with a Sequence
	counts       []uint16         // of commands of the publishes staged since confirms.begin
	lastSequence uint64
	prefetch     uint16 // of consumers to come
	permissions  permissions
	getters      []*consumer
	replies      *consumer // of direct reply-to
	replyTo      string    // its address

	mu        sync.Mutex // guards what follows
	consumers map[string]*consumer
	ended     map[*consumer]bool // cancelled, with deliveries out
	unacked   unacked
	fast      *consumer // has shown to be fast by what is being settled
	closed    bool
	shortest  time.Duration // the least timeout of its consumers, 0: none has one
	timedOut  bool          // a delivery was out for too long
	extended  bool          // a delivery's time began anew: the oldest is not the first that is late any more

	// The limit that the channel's consumers share (qos with global), 0: none, and how much of it is used.
	limit       atomic.Int64
	outstanding atomic.Int64
	anyHeld     atomic.Bool

	// Guarded by the outbox.
	held   []*consumer // wait for room below the limit or their own
	asking []*consumer // see turns.go
	turns  uint64      // deliveries taken below the limit
}

// Number returns the number given to OpenChannel.
func (ch *Channel) Number() uint16 { return ch.number }

// ConfirmSelect makes the channel confirm what it publishes from now on.
func (ch *Channel) ConfirmSelect() error {
	if ch.tx != nil {
		return errorf(PreconditionFailed, "cannot switch from tx to confirm mode")
	}
	if !ch.confirming {
		ch.confirming = true
		ch.confirms.start()
	}
	return nil
}

// ConfirmOutcomes is ConfirmSelect for a front door that tells outcomes: Unroutable is told apart from Confirmed, and what
// may be tried again (CutOff) is an error of Publish instead. producer, if not empty, names the producer of the numbers in
// Publish.Sequence (docs/adr/0004).
func (ch *Channel) ConfirmOutcomes(producer string) {
	ch.outcomes, ch.confirming = true, true
	ch.confirms.start()
	if producer != "" {
		ch.producer = ch.conn.producerID(producer)
	}
}

// producerID is the machines' name for a producer of the user.
func (c *Conn) producerID(name string) queue.ProducerID {
	h := sha256.New()
	for _, part := range []string{c.vhost.name, c.user, name} {
		h.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(part))))
		h.Write([]byte(part))
	}
	return queue.ProducerID(h.Sum(nil)[:len(queue.ProducerID{})])
}

// SetCredit changes how many unsettled deliveries a consumer may have; 0 pauses it. An unknown tag is no error.
func (ch *Channel) SetCredit(tag string, credit uint32) {
	ch.mu.Lock()
	c := ch.consumers[tag]
	ch.mu.Unlock()
	if c != nil {
		c.credit.Store(min(credit, maxCredit))
		ch.stageCredit(c)
		ch.resumeHeld() // it may have been held at a lower bound, with nothing left to settle
	}
}

// maxCredit is the most that a consumer can ask for: as much as AMQP's prefetch count can say.
const maxCredit = 1<<16 - 1

// Qos bounds how many unsettled deliveries there may be: for each consumer started later, and no more for all together, or,
// global, for all consumers of the channel together. 0: no bound.
func (ch *Channel) Qos(prefetchSize uint32, count uint16, global bool) error {
	if prefetchSize != 0 {
		return errorf(NotImplemented, "prefetch_size!=0 (%d)", prefetchSize)
	}
	if !global {
		ch.prefetch = count
		if ch.limit.Load() == 0 {
			return nil
		}
		count = 0 // as in RabbitMQ, it ends what is shared
	}
	ch.limit.Store(int64(count))
	ch.mu.Lock()
	for _, c := range ch.consumers {
		if !c.noAck {
			ch.stageCredit(c)
		}
	}
	ch.mu.Unlock()
	ch.conn.out.resume(ch)
	return nil
}

// creditOf returns how much a consumer may have in hand: its own bound or the channel's.
func (ch *Channel) creditOf(c *consumer) uint32 {
	if limit := ch.limit.Load(); limit > 0 && !c.noAck {
		return min(c.credit.Load(), uint32(limit))
	}
	return c.credit.Load()
}

// reserve takes up to n places below the channel's limit, and below its own, for a consumer and returns how many it got. The
// outbox is locked.
func (ch *Channel) reserve(c *consumer, n int) int {
	if c.noAck {
		return n
	}
	most := n
	if n = ch.places(c, most); n == 0 {
		// held is set before the counts are read, and settling counts before it looks at held: so one sees the other.
		ch.anyHeld.Store(true)
		n = ch.places(c, most)
	}
	ch.outstanding.Add(int64(n))
	c.out.Add(int64(n))
	c.handed += n
	return n
}

// places is how many of n more deliveries the limits let the client have.
func (ch *Channel) places(c *consumer, n int) int {
	n = min(n, c.room())
	if limit := ch.limit.Load(); limit > 0 {
		n = min(n, int(max(0, limit-ch.outstanding.Load())))
	}
	return n
}

// release gives places back that were reserved or have been settled.
func (ch *Channel) release(c *consumer, n int) {
	if !c.noAck && !c.getter {
		ch.outstanding.Add(-int64(n))
		c.out.Add(-int64(n))
	}
}

// Close ends the channel: what it holds goes back to its queues.
func (ch *Channel) Close(ctx context.Context) {
	if ch.conn.channels[ch.number] != ch {
		return
	}
	ch.conn.channelsMu.Lock()
	delete(ch.conn.channels, ch.number)
	ch.conn.channelsMu.Unlock()
	ch.abandon()
	if err := ch.conn.flush(ctx); err != nil {
		ch.conn.broker.log.Warn("channel's end could not be sent", "connection", ch.conn.name, "channel", ch.number, "err", err)
	}
}

// abandon stages the channel's end.
func (ch *Channel) abandon() {
	ch.mu.Lock()
	ch.closed = true
	all := slices.Concat(ch.getters)
	for _, c := range ch.consumers {
		all = append(all, c)
	}
	for c := range ch.ended {
		all = append(all, c)
	}
	clear(ch.consumers)
	clear(ch.ended)
	ch.unacked = unacked{last: ch.unacked.last}
	ch.mu.Unlock()
	if ch.tx != nil {
		ch.tx.release(ch.conn)
		ch.tx = nil
	}
	for _, c := range all {
		ch.conn.out.drop(c)
		ch.conn.detach(c)
	}
	ch.getters, ch.replies = nil, nil
}

// detach ends a consumer or getter whose channel is at its end.
func (c *Conn) detach(of *consumer) {
	c.stage.detach(of, true)
	if of.channel.replies == of {
		c.stage.batch(of.shard).Delete(of.queue, false, false)
	}
	c.broker.replicator.Unsubscribe(of.shard, of.id)
}

// detach stages the end of a consumer.
func (s *staging) detach(of *consumer, failed bool) {
	b := s.batch(of.shard)
	b.seal()
	b.Detach(of.id, failed, of.sent)
}

// credit stages a change of a consumer's credit.
func (s *staging) credit(shard queue.ShardID, c queue.ConsumerID, credit uint32) {
	b := s.batch(shard)
	b.seal()
	b.Credit(c, credit)
}
