package amqp

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warrenmq/warren/amqp/wire"
	"github.com/warrenmq/warren/broker"
)

// writer owns what goes out. The reader appends replies, the writer's goroutine drains the broker behind them and writes to
// the socket; both append under one lock, so that what was decided first leaves first. The buffer that is written is
// borrowed for the time: a connection that was busy once holds none.
type writer struct {
	c     *conn
	awake chan struct{} // has room for one
	quit  chan struct{}
	holds atomic.Bool   // nothing but confirms is drained
	parts atomic.Uint64 // that have been written

	mu      sync.Mutex // guards what follows
	room    sync.Cond  // told when replies were taken
	replies []byte
	target  *[]byte // where frames appends
	stopped bool

	urgentMu sync.Mutex    // guards what follows, for a short time
	urgent   []wire.Method // from goroutines that may not wait: blocked and unblocked
	asking   chan struct{} // to be closed when all that was queued before is in the socket; nil: nobody asks

	out *[]byte // the writer goroutine's: what it is about to write
}

const (
	// drainBytes is about what is taken from the broker for one write.
	drainBytes = 256 << 10
	// maxReplies bounds the replies that wait for a client that sends and does not read; its reader waits beyond.
	maxReplies = 1 << 20
	// keepReplies is the largest buffer for replies that a connection keeps.
	keepReplies = 4 << 10
	// newBuffer and keepBuffer are the sizes with which a buffer that is written begins, and up to which it is kept for
	// reuse; larger ones were for a large message.
	newBuffer  = 16 << 10
	keepBuffer = 512 << 10
)

// buffers lends what is written.
type buffers struct{ pool sync.Pool }

func (p *buffers) get() *[]byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 0, newBuffer)
	return &b
}

func (p *buffers) put(b *[]byte) {
	if cap(*b) <= keepBuffer {
		*b = (*b)[:0]
		p.pool.Put(b)
	}
}

func newWriter(c *conn) *writer {
	w := &writer{c: c, awake: make(chan struct{}, 1), quit: make(chan struct{})}
	w.room.L = &w.mu
	return w
}

func (w *writer) wake() {
	select {
	case w.awake <- struct{}{}:
	default:
	}
}

// method queues a method from the reader. It waits while too much waits already.
func (w *writer) method(channel uint16, m wire.Method) {
	w.append(func(buf []byte) []byte { return wire.AppendMethodFrame(buf, channel, m) })
}

// append queues whatever f adds to the buffer, behind the messages that were returned before.
func (w *writer) append(f func([]byte) []byte) {
	w.mu.Lock()
	if w.full() {
		w.waitForRoom()
	}
	w.target = &w.replies
	w.c.broker.DrainReturns((*frames)(w))
	w.replies = f(w.replies)
	w.mu.Unlock()
	w.wake()
}

// full tells whether the reader is to wait. mu is held.
func (w *writer) full() bool { return len(w.replies) > maxReplies && !w.stopped }

// waitForRoom waits until the client has read what is being written. The reader sees no heartbeats meanwhile: a client that does not read
// for as long as it may show no life is taken for dead. mu is held.
func (w *writer) waitForRoom() {
	defer w.patience().Watch(func() { w.c.end(hard(wire.ConnectionForced, "the client does not read the answers")) })()
	for w.full() {
		w.room.Wait()
	}
}

// patience is for how long a client may read nothing.
func (w *writer) patience() broker.Patience {
	return broker.Patience{Limit: w.c.patience(), Progress: w.parts.Load}
}

// write writes the buffer, in parts: by those it is seen whether the client reads.
func (w *writer) write() error {
	for part := range slices.Chunk(*w.out, maxPart) {
		if _, err := w.c.socket.Write(part); err != nil {
			return err
		}
		w.parts.Add(1)
	}
	return nil
}

// maxPart is larger than most of what is written at once, and small enough for a slow client to read it in the time that a client may show no
// life.
const maxPart = 1 << 20

// returns queues the messages that have been returned, for a channel that is about to end.
func (w *writer) returns() {
	w.append(func(buf []byte) []byte { return buf })
}

// heartbeat queues a heartbeat.
func (w *writer) heartbeat() {
	w.mu.Lock()
	w.replies = wire.AppendHeartbeat(w.replies)
	w.mu.Unlock()
}

// later queues a method for channel 0 from a goroutine that must not wait. There are at most a few: one for each change
// of an alarm.
func (w *writer) later(m wire.Method) {
	w.urgentMu.Lock()
	w.urgent = append(w.urgent, m)
	w.urgentMu.Unlock()
	w.wake()
}

// run writes until stop, or until the socket fails. What was queued before stop is written.
func (w *writer) run() {
	defer func() { // when it gives up
		w.mu.Lock()
		w.stopped = true
		w.room.Broadcast()
		w.mu.Unlock()
	}()
	defer w.c.contain("writer")
	var beat <-chan time.Time
	if w.c.heartbeat > 0 {
		ticker := time.NewTicker(max(w.c.heartbeat/2, time.Second/2))
		defer ticker.Stop()
		beat = ticker.C
	}
	for {
		if err := w.writeAll(); err != nil {
			w.c.cut()
			return
		}
		select {
		case <-w.awake:
		case <-beat:
			w.heartbeat()
		case <-w.hangUps():
			if hungUp(w.c.socket) {
				w.c.log.Info("client is gone while it is blocked")
				w.c.cut()
				return
			}
		case <-w.c.ctx.Done():
			return
		case <-w.quit:
			if err := w.writeAll(); err != nil {
				w.c.cut()
			}
			return
		}
	}
}

// hangUps tells when to look whether the client is there: while it is blocked and there are no heartbeats, neither a read nor a write would
// find that out.
func (w *writer) hangUps() <-chan time.Time {
	if w.c.heartbeat > 0 || !w.c.suspended.Load() {
		return nil
	}
	return time.After(hangUpPeriod)
}

// writeAll writes what waits, and what comes meanwhile.
func (w *writer) writeAll() error {
	w.out = w.c.server.buffers.get()
	defer func() {
		w.c.server.buffers.put(w.out)
		w.out = nil
	}()
	for more := true; more; {
		*w.out = (*w.out)[:0]
		asking := w.takeUrgent()
		if more = !w.holds.Load(); more {
			var err error
			if more, err = w.c.broker.Drain((*frames)(w), drainBytes); err != nil {
				return err
			}
		} else {
			w.c.broker.DrainConfirms((*frames)(w))
		}
		w.takeReplies()
		if len(*w.out) > 0 {
			if err := w.write(); err != nil {
				return err
			}
			w.c.broker.Written()
		} else {
			more = false
		}
		if asking != nil {
			close(asking)
		}
	}
	return nil
}

// takeUrgent moves what is urgent to what is written, and returns who asks.
func (w *writer) takeUrgent() (asking chan struct{}) {
	w.urgentMu.Lock()
	defer w.urgentMu.Unlock()
	for _, m := range w.urgent {
		*w.out = wire.AppendMethodFrame(*w.out, 0, m)
	}
	asking, w.urgent, w.asking = w.asking, nil, nil
	return asking
}

// takeReplies moves what the reader has queued to what is written.
func (w *writer) takeReplies() {
	w.mu.Lock()
	w.moveReplies()
	w.mu.Unlock()
}

// moveReplies is takeReplies under the lock.
func (w *writer) moveReplies() {
	if len(w.replies) == 0 {
		return
	}
	if *w.out = append(*w.out, w.replies...); cap(w.replies) > keepReplies {
		w.replies = nil
	}
	w.replies = w.replies[:0]
	w.room.Broadcast()
}

// settle waits until what was queued or drained before, and the confirms of what is applied, is in the socket, or never will be,
// for closeTimeout at most; until goOn nothing but confirms is drained. What a channel holds is given back between the two: a message that still waited here would reach this
// client when the next one has it already.
func (w *writer) settle() {
	w.holds.Store(true)
	written := make(chan struct{})
	w.urgentMu.Lock()
	w.asking = written
	w.urgentMu.Unlock()
	w.wake()
	limit := time.NewTimer(closeTimeout)
	defer limit.Stop()
	select {
	case <-written:
	case <-w.c.ctx.Done():
	case <-limit.C:
	}
}

// goOn has the broker drained again after settle.
func (w *writer) goOn() {
	w.holds.Store(false)
	w.wake()
}

// stop lets run write what waits and end; a client that does not read is cut after closeTimeout.
func (w *writer) stop() {
	_ = w.c.socket.SetWriteDeadline(time.Now().Add(closeTimeout)) // a closed socket fails the write anyway
	w.mu.Lock()
	w.stopped = true
	w.room.Broadcast()
	w.mu.Unlock()
	close(w.quit)
}

// frames is the writer as the broker sees it during Drain: it appends frames to target, whose lock is held.
type frames writer

// Lock lets Drain write behind what the reader has queued so far.
func (f *frames) Lock() {
	w := (*writer)(f)
	w.mu.Lock()
	w.moveReplies()
	w.target = w.out
}

// Unlock lets the reader queue more.
func (f *frames) Unlock() {
	f.target = nil
	f.mu.Unlock()
}

// Deliver appends basic.deliver with its content.
func (f *frames) Deliver(channel uint16, consumerTag string, d *broker.Outgoing) {
	*f.target = wire.AppendDeliver(*f.target, channel, consumerTag, d.Tag, d.Redelivered, d.Exchange, d.RoutingKey, d.Properties, d.Body, f.c.frameMax)
}

// Return appends basic.return with its content.
func (f *frames) Return(channel uint16, code uint16, text string, exchange, routingKey, properties, body []byte) {
	*f.target = wire.AppendReturn(*f.target, channel, code, text, exchange, routingKey, properties, body, f.c.frameMax)
}

// Confirm appends basic.ack or basic.nack.
func (f *frames) Confirm(channel uint16, tag uint64, multiple bool, o broker.Outcome) {
	if o.Acked() {
		*f.target = wire.AppendAck(*f.target, channel, tag, multiple)
		return
	}
	*f.target = wire.AppendNack(*f.target, channel, tag, multiple, false)
}

// CancelConsumer appends basic.cancel for clients that understand it.
func (f *frames) CancelConsumer(channel uint16, consumerTag string) {
	if f.c.client.cancelNotify {
		*f.target = wire.AppendMethodFrame(*f.target, channel, &wire.BasicCancel{ConsumerTag: consumerTag, NoWait: true})
	}
}
