package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	brokerv1 "github.com/warrenmq/warren/proto/broker/v1"
)

// ConsumeOption changes how a Consumer behaves.
type ConsumeOption func(*consumeOptions)

type consumeOptions struct {
	start   brokerv1.ConsumeStart
	workers int
	err     error
}

// WithCredit bounds how many deliveries may be unsettled, on their way or in the program's hands. Default 256; 1 is fair
// dispatch between slow workers.
func WithCredit(n int) ConsumeOption {
	return func(o *consumeOptions) { o.start.Credit = uint32(max(1, min(n, 1<<16-1))) }
}

// WithAutoSettle counts deliveries as settled when they are sent: those on their way are lost with the connection.
func WithAutoSettle() ConsumeOption { return func(o *consumeOptions) { o.start.AutoSettle = true } }

// WithExclusive lets nobody else consume the queue.
func WithExclusive() ConsumeOption { return func(o *consumeOptions) { o.start.Exclusive = true } }

// WithPriority gives the consumer a priority: of those that can take a message, the highest get it.
func WithPriority(n int32) ConsumeOption { return func(o *consumeOptions) { o.start.Priority = n } }

// WithTag names the consumer in listings.
func WithTag(tag string) ConsumeOption { return func(o *consumeOptions) { o.start.ConsumerTag = tag } }

// WithWorkers lets Handle run so many handlers at a time. Default 1.
func WithWorkers(n int) ConsumeOption { return func(o *consumeOptions) { o.workers = max(1, n) } }

// WithTemporaryQueue makes the queue for the consumer alone, with these bindings (whose Destination does not count). It goes
// with the consumer; after a lost connection it is another, and what was in it is gone. Give Consume an empty name, and the
// broker makes one, or a name.
func WithTemporaryQueue(bindings ...Binding) ConsumeOption {
	return func(o *consumeOptions) {
		o.start.Temporary = &brokerv1.TemporaryQueue{}
		for _, b := range bindings {
			bound, err := b.toProto()
			o.err = cmp.Or(o.err, err)
			o.start.Temporary.Bindings = append(o.start.Temporary.Bindings, bound)
		}
	}
}

const defaultCredit = 256

// Consumer receives a queue's messages. After a lost connection it goes on by another node; what was not settled comes
// again, marked as redelivered. So it does after a delivery that was out for longer than the consumer timeout.
type Consumer struct {
	client   *Client
	attempts attempts
	options  *consumeOptions
	name     string // asked for

	deliveries chan *Delivery
	quit       context.Context
	stop       context.CancelFunc
	ended      chan struct{} // closed when the work is over; err is set then
	err        error
	closing    chan struct{} // closed by Close
	closed     sync.Once

	started chan struct{} // closed when the first stream runs
	once    sync.Once
	locked  time.Time // since when the queue is said to be somebody else's, although it was this consumer's; only run uses it

	mu     sync.Mutex // guards what follows
	queue  string     // the present name
	stream *consumeStream
}

// Delivery is a message in the program's hands. One of Ack, Requeue, Fail and Discard, or those with a delay, settles it, unless the consumer
// settles by itself.
type Delivery struct {
	Message
	// Redelivered says that the message was handed out before.
	Redelivered bool

	tag     uint64
	settler settler // nil: settled already
}

var errSettled = errors.New("the delivery is settled already")

// settler settles the deliveries of one stream.
type settler interface {
	settle(tag uint64, s brokerv1.Settlement, delay time.Duration) error
	extend(tag uint64) error
}

// Ack settles the delivery as done: the message is gone.
func (d *Delivery) Ack() error { return d.settle(brokerv1.Settlement_SETTLEMENT_ACK, 0) }

// Requeue gives the message back to its place in the queue.
func (d *Delivery) Requeue() error { return d.settle(brokerv1.Settlement_SETTLEMENT_REQUEUE, 0) }

// RequeueAfter gives the message back to its place after a delay, of whole milliseconds up to a day: until then nobody gets
// it, and it takes nothing of the consumer's credit. The delay is kept by the cluster, whatever becomes of this program.
func (d *Delivery) RequeueAfter(delay time.Duration) error {
	return d.settle(brokerv1.Settlement_SETTLEMENT_REQUEUE, delay)
}

// Fail gives the message back and counts a failed delivery; a queue may have a limit for those.
func (d *Delivery) Fail() error { return d.settle(brokerv1.Settlement_SETTLEMENT_REQUEUE_FAILED, 0) }

// FailAfter is Fail with a delay, see RequeueAfter: the way to try again later.
func (d *Delivery) FailAfter(delay time.Duration) error {
	return d.settle(brokerv1.Settlement_SETTLEMENT_REQUEUE_FAILED, delay)
}

// Discard settles the delivery as one that can never be done: the message is dead-lettered or dropped.
func (d *Delivery) Discard() error { return d.settle(brokerv1.Settlement_SETTLEMENT_DISCARD, 0) }

// Extend says that the delivery is still being worked on: the time that it may be out, the queue's x-consumer-timeout or the
// node's, begins anew.
func (d *Delivery) Extend() error {
	if d.settler == nil {
		return nil
	}
	return d.settler.extend(d.tag)
}

// maxDelay is the longest that the broker takes.
const maxDelay = 24 * time.Hour

func (d *Delivery) settle(s brokerv1.Settlement, delay time.Duration) error {
	if delay < 0 || delay > maxDelay {
		return fmt.Errorf("a delay of %v is not from 0 to %v", delay, maxDelay)
	}
	if d.settler == nil {
		return nil
	}
	return d.settler.settle(d.tag, s, delay)
}

// delayMillis is a delay for the broker; one that is not 0 is at least a millisecond.
func delayMillis(delay time.Duration) uint64 {
	return uint64((delay + time.Millisecond - 1) / time.Millisecond)
}

// Consume starts a consumer and returns when it runs, or why it cannot. ctx bounds the start alone.
func (c *Client) Consume(ctx context.Context, queue string, opts ...ConsumeOption) (*Consumer, error) {
	o := &consumeOptions{workers: 1}
	for _, f := range opts {
		f(o)
	}
	if o.err != nil {
		return nil, fmt.Errorf("consume %q: %w", queue, o.err)
	}
	o.start.Queue, o.start.Credit = queue, cmp.Or(o.start.Credit, defaultCredit)
	k := &Consumer{client: c, attempts: attempts{client: c}, options: o, name: queue, deliveries: make(chan *Delivery, o.start.Credit), ended: make(chan struct{}),
		closing: make(chan struct{}), started: make(chan struct{})}
	k.quit, k.stop = context.WithCancel(c.ctx)
	if err := c.startConsumer(k); err != nil {
		k.stop()
		return nil, err
	}
	select {
	case <-k.started:
		return k, nil
	case <-k.ended:
		if k.hasStarted() { // and is over already: Next gives out what came
			return k, nil
		}
		return nil, fmt.Errorf("consume %q: %w", queue, k.err)
	case <-ctx.Done():
		k.Close()
		return nil, fmt.Errorf("consume %q: %w", queue, k.attempts.explain(ctx.Err()))
	}
}

// Queue is the name of the queue: of a temporary one, the present.
func (k *Consumer) Queue() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.queue
}

// closeTimeout bounds the wait for the broker when a consumer is closed.
const closeTimeout = 5 * time.Second

// Close ends the consumer, once the broker has what was settled, or after 5 seconds at the latest. What is not settled goes
// back to the queue.
func (k *Consumer) Close() {
	k.closed.Do(func() { close(k.closing) })
	if k.hasStream() {
		select {
		case <-k.ended:
		case <-time.After(closeTimeout):
		}
	}
	k.stop()
	<-k.ended
}

// hasStream tells whether there is a stream by which something may have been settled.
func (k *Consumer) hasStream() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.stream != nil && !k.stream.isOver()
}

func (k *Consumer) hasStarted() bool {
	select {
	case <-k.started:
		return true
	default:
		return false
	}
}

func (k *Consumer) isClosing() bool {
	select {
	case <-k.closing:
		return true
	default:
		return false
	}
}

// Messages yields deliveries until ctx ends, the loop is left, or the consumer ends; an error is the last that is yielded,
// with ctx's for one. Several loops share the deliveries.
func (k *Consumer) Messages(ctx context.Context) iter.Seq2[*Delivery, error] {
	return func(yield func(*Delivery, error) bool) {
		for {
			d, err := k.Next(ctx)
			if !yield(d, err) || err != nil {
				return
			}
		}
	}
}

// Next waits for a delivery.
func (k *Consumer) Next(ctx context.Context) (*Delivery, error) {
	for {
		select {
		case d := <-k.deliveries:
			if !d.stale() {
				return d, nil
			}
		case <-k.ended:
			return k.left()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// left takes what came before the consumer ended: what settles by itself comes by no other way.
func (k *Consumer) left() (*Delivery, error) {
	for {
		select {
		case d := <-k.deliveries:
			if !d.stale() {
				return d, nil
			}
		default:
			return nil, k.err
		}
	}
}

// stale tells that the delivery's stream is over, and that the message comes again.
func (d *Delivery) stale() bool {
	s, ok := d.settler.(*consumeStream)
	return ok && s.isOver()
}

// Handle consumes a queue until ctx ends or the consumer cannot go on, and returns why. Messages whose handler returns nil
// are settled as done, others as failed, unless the handler has settled them.
func (c *Client) Handle(ctx context.Context, queue string, handler func(ctx context.Context, d *Delivery) error, opts ...ConsumeOption) error {
	k, err := c.Consume(ctx, queue, opts...)
	if err != nil {
		return err
	}
	defer k.Close()
	var works sync.WaitGroup
	for range k.options.workers {
		works.Go(func() {
			for d, err := range k.Messages(ctx) {
				if err == nil {
					k.handle(ctx, d, handler)
				}
			}
		})
	}
	works.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return k.err
}

func (k *Consumer) handle(ctx context.Context, d *Delivery, handler func(ctx context.Context, d *Delivery) error) {
	settle := d.Ack
	if err := handler(ctx, d); err != nil {
		k.client.log.Info("handler failed", "queue", k.name, "err", err)
		settle = d.Fail
	}
	if err := settle(); err != nil && !errors.Is(err, errSettled) {
		k.client.log.Info("delivery not settled", "queue", k.name, "err", err)
	}
}

// work consumes until the consumer is closed or cannot go on.
func (k *Consumer) work() {
	defer close(k.ended)
	k.err = k.attempts.stream(k.quit, "consumer of "+k.name, k.run)
	if k.quit.Err() != nil || k.isClosing() {
		k.err = ErrClosed
	}
	k.stop()
}

// run consumes by one stream.
func (k *Consumer) run(ctx context.Context, node *grpc.ClientConn, up func()) error {
	if k.isClosing() {
		return ErrClosed
	}
	stream, response, err := k.open(ctx, node)
	switch {
	case k.isOwnLock(err):
		return errAgain
	case err != nil:
		return err
	}
	k.locked = time.Time{}
	up()
	s := &consumeStream{stream: stream, wake: make(chan struct{}, 1), automatic: k.options.start.AutoSettle}
	defer s.end()
	k.mu.Lock()
	k.queue, k.stream = response.GetStarted().GetQueue(), s
	k.mu.Unlock()
	k.once.Do(func() { close(k.started) })
	sender := make(chan struct{})
	sctx, cancel := context.WithCancel(ctx)
	go func() { defer close(sender); s.send(sctx, k.closing) }()
	err = k.receive(ctx, s)
	cancel()
	<-sender
	return err
}

// open opens a stream.
func (k *Consumer) open(ctx context.Context, node *grpc.ClientConn) (brokerv1.ConsumingService_ConsumeClient, *brokerv1.ConsumeResponse, error) {
	stream, err := brokerv1.NewConsumingServiceClient(node).Consume(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := stream.Send(&brokerv1.ConsumeRequest{Request: &brokerv1.ConsumeRequest_Start{Start: &k.options.start}}); err != nil {
		return nil, nil, receiveError(stream, err)
	}
	response, err := stream.Recv()
	if errors.Is(err, io.EOF) {
		err = errAgain
	}
	return stream, response, err
}

// lockTimeout is how long the exclusive hold of a lost stream may be in the way of the next: a node that a client has lost
// without a word, or that is lost itself, counts as its place for a minute and some.
const lockTimeout = 2 * time.Minute

// isOwnLock tells whether an error of opening a stream again may come from this consumer's own hold of the queue, by the
// stream before. The time begins anew with whatever else is in the way: while the cluster cannot decide anything, no hold passes.
func (k *Consumer) isOwnLock(err error) bool {
	if err == nil || !k.hasStarted() || !isLocked(err) {
		k.locked = time.Time{}
		return false
	}
	if k.locked.IsZero() {
		k.locked = time.Now()
		k.client.log.Info("the queue is still held by the stream before", "queue", k.name, "err", err)
	}
	return time.Since(k.locked) < lockTimeout
}

func (k *Consumer) receive(ctx context.Context, s *consumeStream) error {
	for {
		response, err := s.stream.Recv()
		switch {
		case err != nil && k.isClosing():
			return ErrClosed
		case errors.Is(err, io.EOF):
			return errAgain
		case err != nil && errors.Is(fromStatus(err), &Error{Reason: DeliveryTimeout}):
			k.client.log.Warn("a delivery was not settled in time; the consumer starts again", "queue", k.name, "err", err)
			return errAgain
		case err != nil:
			return err
		}
		if response.GetCancelled() != nil {
			return errAgain // a queue that is gone is found out then
		}
		for _, d := range response.GetDeliveries().GetDeliveries() {
			delivery := &Delivery{Message: fromProto(d.Message), Redelivered: d.Redelivered, tag: d.DeliveryTag, settler: s}
			if !s.automatic {
				s.got(d.DeliveryTag)
			} else {
				delivery.settler = nil
			}
			select {
			case k.deliveries <- delivery:
			case <-k.closing: // nobody takes it
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// consumeStream is one stream of deliveries. It collects what is settled and sends it together.
type consumeStream struct {
	stream    grpc.BidiStreamingClient[brokerv1.ConsumeRequest, brokerv1.ConsumeResponse]
	wake      chan struct{} // has room for one: there is something to send
	automatic bool

	mu      sync.Mutex // guards what follows
	over    bool
	held    []heldDelivery    // ascending; those that the broker knows of are gone from the front
	known   int               // of held, those that the broker knows of: at most half
	changed []uint64          // settled and not sent, in order of settling
	delays  map[uint64]uint64 // of changed: milliseconds
	extends []uint64          // to be extended, not sent
}

// heldDelivery is a delivery that the program has, or has settled.
type heldDelivery struct {
	tag   uint64
	state brokerv1.Settlement // unspecified: in the program's hands
	sent  bool                // the broker knows
}

// got notes a delivery. Their tags are ascending.
func (s *consumeStream) got(tag uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = append(s.held, heldDelivery{tag: tag})
}

// find returns a delivery, nil if it is not held any more. mu is held.
func (s *consumeStream) find(tag uint64) *heldDelivery {
	i, ok := slices.BinarySearchFunc(s.held, tag, func(h heldDelivery, tag uint64) int { return cmp.Compare(h.tag, tag) })
	if !ok {
		return nil
	}
	return &s.held[i]
}

func (s *consumeStream) settle(tag uint64, to brokerv1.Settlement, delay time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, err := s.inHands(tag)
	if err != nil {
		return err
	}
	h.state = to
	s.changed = append(s.changed, tag)
	if delay > 0 {
		if s.delays == nil {
			s.delays = map[uint64]uint64{}
		}
		s.delays[tag] = delayMillis(delay)
	}
	s.awake()
	return nil
}

func (s *consumeStream) extend(tag uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.inHands(tag); err != nil {
		return err
	}
	if !slices.Contains(s.extends, tag) {
		s.extends = append(s.extends, tag)
	}
	s.awake()
	return nil
}

// inHands returns a delivery, and fails unless the program has it. mu is held.
func (s *consumeStream) inHands(tag uint64) (*heldDelivery, error) {
	if s.over {
		return nil, ErrLost
	}
	h := s.find(tag)
	if h == nil || h.state != 0 {
		return nil, errSettled
	}
	return h, nil
}

func (s *consumeStream) awake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *consumeStream) isOver() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over
}

func (s *consumeStream) end() {
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
}

// send sends what was settled, until the consumer closes. An error shows in Recv as well, see halfClose.
func (s *consumeStream) send(ctx context.Context, closing <-chan struct{}) {
	for last := false; !last; {
		select {
		case <-s.wake:
		case <-closing:
			last = true
		case <-ctx.Done():
			return
		}
		settles, extends := s.take()
		if len(extends) > 0 { // first: what is settled cannot be extended
			request := &brokerv1.ConsumeRequest{Request: &brokerv1.ConsumeRequest_ExtendLeases{ExtendLeases: &brokerv1.ExtendLeases{DeliveryTags: extends}}}
			if s.stream.Send(request) != nil {
				break
			}
		}
		if len(settles) > 0 {
			request := &brokerv1.ConsumeRequest{Request: &brokerv1.ConsumeRequest_Settles{Settles: &brokerv1.Settles{Settles: settles}}}
			if s.stream.Send(request) != nil {
				break
			}
		}
	}
	halfClose(s.stream)
}

// take turns what was settled into as few settles as can be: what is done from the front on is one.
func (s *consumeStream) take() (settles []*brokerv1.Settle, extends []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, last := 0, uint64(0) // the front: acked, or known to the broker
	for n < len(s.held) && (s.held[n].sent || s.held[n].state == brokerv1.Settlement_SETTLEMENT_ACK) {
		if s.held[n].sent {
			s.known--
		} else {
			last = s.held[n].tag
		}
		n++
	}
	if last > 0 {
		settles = append(settles, &brokerv1.Settle{DeliveryTag: last, Multiple: true, Settlement: brokerv1.Settlement_SETTLEMENT_ACK})
	}
	s.held = s.held[n:]
	for _, tag := range s.changed {
		if h := s.find(tag); h != nil {
			settles = append(settles, &brokerv1.Settle{DeliveryTag: tag, Settlement: h.state, DelayMillis: s.delays[tag]})
			h.sent = true
			s.known++
		}
	}
	if 2*s.known > len(s.held) { // behind one that stays in the program's hands there may be any number
		s.held = slices.DeleteFunc(s.held, func(h heldDelivery) bool { return h.sent })
		s.known = 0
	}
	s.changed = s.changed[:0]
	clear(s.delays)
	extends, s.extends = s.extends, nil
	return settles, extends
}

// Get takes one message; ErrEmpty when there is none. Unless it settles by itself, the delivery must be settled, or the
// message goes back when ctx ends.
func (c *Client) Get(ctx context.Context, queue string, autoSettle bool) (*Delivery, error) {
	var d *Delivery
	err := c.call(ctx, func(ctx context.Context, node *grpc.ClientConn) error {
		stream, err := brokerv1.NewConsumingServiceClient(node).Get(ctx)
		if err != nil {
			return err
		}
		if err := stream.Send(&brokerv1.GetRequest{Request: &brokerv1.GetRequest_Fetch{Fetch: &brokerv1.Fetch{Queue: queue, AutoSettle: autoSettle}}}); err != nil {
			return receiveError(stream, err)
		}
		response, err := stream.Recv()
		if err != nil {
			return err
		}
		got := response.GetDelivery()
		if got == nil {
			return closeStream(stream)
		}
		d = &Delivery{Message: fromProto(got.Message), Redelivered: got.Redelivered, tag: got.DeliveryTag}
		if autoSettle {
			_ = closeStream(stream) // the message is here: whatever fails now, another must not be taken
		} else {
			d.settler = &getStream{stream: stream}
		}
		return nil
	})
	if err == nil && d == nil {
		err = ErrEmpty
	}
	if err != nil {
		return nil, err
	}
	return d, nil
}

// getStream holds one message.
type getStream struct {
	stream grpc.BidiStreamingClient[brokerv1.GetRequest, brokerv1.GetResponse]
	mu     sync.Mutex // held while something is sent
	once   sync.Once
	err    error
}

// settle settles the message and waits until the broker has done so.
func (g *getStream) settle(tag uint64, s brokerv1.Settlement, delay time.Duration) error {
	g.once.Do(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.err = g.stream.Send(&brokerv1.GetRequest{Request: &brokerv1.GetRequest_Settle{Settle: &brokerv1.Settle{DeliveryTag: tag, Settlement: s, DelayMillis: delayMillis(delay)}}})
		if g.err == nil {
			g.err = closeStream(g.stream)
		}
		if g.err != nil {
			g.err = fmt.Errorf("%w: %w", ErrLost, fromStatus(g.err))
		}
	})
	return g.err
}

func (g *getStream) extend(tag uint64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	err := g.stream.Send(&brokerv1.GetRequest{Request: &brokerv1.GetRequest_ExtendLeases{ExtendLeases: &brokerv1.ExtendLeases{DeliveryTags: []uint64{tag}}}})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLost, fromStatus(receiveError(g.stream, err)))
	}
	return nil
}

// closeStream half-closes and waits for the end.
func closeStream(stream grpc.BidiStreamingClient[brokerv1.GetRequest, brokerv1.GetResponse]) error {
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if _, err := stream.Recv(); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}
