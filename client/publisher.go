package client

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	brokerv1 "github.com/warrenmq/warren/proto/broker/v1"
)

// PublisherOption changes how a Publisher behaves.
type PublisherOption func(*publisherOptions)

type publisherOptions struct {
	producer    string
	next        uint64
	maxMessages int
	maxBytes    int
}

// WithProducer names the publisher's series of messages instead of a random name. next is the number of the next message:
// number n of a producer must always be the same message, also when the program runs again, such as the offset in what it
// reads from. A program that runs again begins with the first message that it has not seen confirmed; numbers below that
// are Rejected with reason Refused. The broker forgets a producer after an hour without messages.
func WithProducer(id string, next uint64) PublisherOption {
	return func(o *publisherOptions) { o.producer, o.next = id, next }
}

// WithMaxUnconfirmed bounds what may be on its way; beyond, publishing waits. Defaults 4096 messages (at most 16,000) and
// 16 MiB, as they are sent.
func WithMaxUnconfirmed(messages, bytes int) PublisherOption {
	return func(o *publisherOptions) { o.maxMessages, o.maxBytes = messages, bytes }
}

const (
	defaultUnconfirmed      = 4096
	mostUnconfirmed         = 16000 // the broker takes numbers that are less than 16,384 apart
	defaultUnconfirmedBytes = 16 << 20
	// batchBytes and batchMessages are at which size a batch is sent without more: as much as the broker hands on at once.
	batchBytes    = 120 << 10
	batchMessages = 1024
	// messageOverhead is about what a message costs beside its encoded form, in bytes.
	messageOverhead = 24
	// certainBytes is what any node takes in one request: gRPC's own default, without what a request adds to a message.
	certainBytes = 4<<20 - 1<<10
)

// Publisher publishes messages in order, in batches, and tells the outcome of each. Messages that were not confirmed when a
// connection was lost are published again by another node and stored once. It is for use by many goroutines.
type Publisher struct {
	client   *Client
	attempts attempts
	options  publisherOptions
	wake     chan struct{} // has room for one: there is something to send, or to end for
	quit     context.Context
	stop     context.CancelFunc
	ended    chan struct{} // closed when the work is over

	mu      sync.Mutex // guards what follows
	changed sync.Cond  // told when something was confirmed, and at the end
	ring    []pending  // unconfirmed messages by number, modulo the length
	first   uint64     // the lowest number that is not confirmed
	next    uint64     // the number after the last
	unsent  uint64     // the lowest number that has not been sent on the present stream
	bytes   int        // of what is not confirmed
	alone   uint64     // what was sent last: nothing else is under way beside it, as a node may refuse it; or 0
	// Outcomes come in groups: how many have begun to be told, and how many have been.
	tellings, told uint64
	closing        bool  // nothing more is taken
	err            error // why nothing more is sent
}

// pending is a message on its way.
type pending struct {
	message *brokerv1.Message
	size    int // in bytes, as it is sent
	done    func(error)
	settled bool
}

// Publisher returns a new publisher.
func (c *Client) Publisher(opts ...PublisherOption) (*Publisher, error) {
	o := publisherOptions{next: 1, producer: rand.Text()}
	for _, f := range opts {
		f(&o)
	}
	o.maxMessages = min(cmp.Or(o.maxMessages, defaultUnconfirmed), mostUnconfirmed)
	o.maxBytes = cmp.Or(o.maxBytes, defaultUnconfirmedBytes)
	if o.next == 0 || o.producer == "" || !utf8.ValidString(o.producer) {
		return nil, errors.New("a producer needs a name, in UTF-8, and numbers from 1 on")
	}
	p := &Publisher{client: c, attempts: attempts{client: c}, options: o, wake: make(chan struct{}, 1), ended: make(chan struct{}), first: o.next, next: o.next, unsent: o.next}
	p.changed.L = &p.mu
	p.quit, p.stop = context.WithCancel(c.ctx)
	p.ring = make([]pending, 64)
	if err := c.start(p.work); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// Publish publishes a message and waits for its outcome: nil when it is stored, ErrUnroutable, a *Rejected, or why it is not
// known, with ctx's error for one.
func (p *Publisher) Publish(ctx context.Context, m Message) error {
	outcome := make(chan error, 1)
	if err := p.PublishAsync(ctx, m, func(err error) { outcome <- err }); err != nil {
		return err
	}
	select {
	case err := <-outcome:
		return err
	case <-ctx.Done():
		return fmt.Errorf("the message's outcome is not known yet: %w", p.attempts.explain(ctx.Err()))
	}
}

// PublishAsync publishes a message and returns when there is room for it; done is called with the outcome, see Publish,
// unless PublishAsync fails. It must not block, and call neither Flush nor Close. The body belongs to the publisher until then.
func (p *Publisher) PublishAsync(ctx context.Context, m Message, done func(error)) error {
	converted, err := m.toProto()
	if err != nil {
		return err
	}
	size := proto.Size(converted) + messageOverhead
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.waitForRoom(ctx); err != nil {
		return err
	}
	if int(p.next-p.first) == len(p.ring) {
		p.grow()
	}
	*p.at(p.next) = pending{message: converted, size: size, done: done}
	p.next++
	p.bytes += size
	if p.unsent == p.next-1 {
		p.awake()
	}
	return nil
}

// waitForRoom waits below the bounds. mu is held.
func (p *Publisher) waitForRoom(ctx context.Context) error {
	full := func() bool {
		return int(p.next-p.first) >= p.options.maxMessages || p.bytes >= p.options.maxBytes
	}
	if full() && ctx.Done() != nil {
		defer context.AfterFunc(ctx, func() {
			p.mu.Lock()
			p.changed.Broadcast()
			p.mu.Unlock()
		})()
	}
	for full() && p.err == nil && !p.closing && ctx.Err() == nil {
		p.changed.Wait()
	}
	switch {
	case p.err != nil:
		return p.err
	case p.closing:
		return ErrClosed
	}
	return p.attempts.explain(ctx.Err())
}

func (p *Publisher) at(number uint64) *pending { return &p.ring[number&uint64(len(p.ring)-1)] }

func (p *Publisher) grow() {
	old := p.ring
	p.ring = make([]pending, 2*len(old))
	for n := p.first; n < p.next; n++ {
		*p.at(n) = old[n&uint64(len(old)-1)]
	}
}

func (p *Publisher) awake() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Flush waits until everything published so far has its outcome, and has been told.
func (p *Publisher) Flush(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := p.next
	defer context.AfterFunc(ctx, func() {
		p.mu.Lock()
		p.changed.Broadcast()
		p.mu.Unlock()
	})()
	for p.first < last && p.err == nil && ctx.Err() == nil {
		p.changed.Wait()
	}
	if p.first < last {
		return cmp.Or(p.err, p.attempts.explain(ctx.Err()))
	}
	for begun := p.tellings; p.told < begun && ctx.Err() == nil; {
		p.changed.Wait()
	}
	return ctx.Err()
}

// Close takes nothing more, waits until everything has its outcome, and ends the publisher. What has none when ctx ends
// gets its error.
func (p *Publisher) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closing = true
	p.changed.Broadcast()
	p.mu.Unlock()
	err := p.Flush(ctx)
	p.stop()
	<-p.ended
	return err
}

// work sends until the publisher is closed or cannot go on.
func (p *Publisher) work() {
	defer close(p.ended)
	err := p.attempts.stream(p.quit, "publisher", p.run)
	if p.quit.Err() != nil {
		err = ErrClosed
	}
	p.mu.Lock()
	p.err = err
	var left []func(error)
	for n := p.first; n < p.next; n++ {
		if m := p.at(n); !m.settled && m.done != nil {
			left = append(left, m.done)
		}
	}
	p.changed.Broadcast()
	p.mu.Unlock()
	err = p.attempts.explain(err)
	for _, done := range left {
		done(fmt.Errorf("the message's outcome is not known: %w", err))
	}
}

// run sends on one stream.
func (p *Publisher) run(ctx context.Context, node *grpc.ClientConn, up func()) error {
	if err := p.waitForWork(ctx); err != nil {
		return err
	}
	stream, err := brokerv1.NewPublishingServiceClient(node).Publish(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&brokerv1.PublishRequest{Request: &brokerv1.PublishRequest_Start{Start: &brokerv1.PublishStart{ProducerId: p.options.producer}}}); err != nil {
		return receiveError(stream, err)
	}
	failed := make(chan error, 1)
	go func() { failed <- p.receive(stream, up) }()
	p.mu.Lock()
	p.unsent, p.alone = p.first, 0
	p.mu.Unlock()
	err = p.send(ctx, stream, failed)
	if errors.Is(err, io.EOF) {
		halfClose(stream)
		err = <-failed
	}
	if refused := (*Error)(nil); errors.As(fromStatus(err), &refused) && refused.Code == codes.ResourceExhausted && refused.Reason == "" &&
		strings.Contains(refused.Text, "larger than max") && p.tooLarge(refused.Text) { // gRPC's own words; a proxy may mean something else
		return errAgain
	}
	return err
}

// tooLarge settles the message that was under way alone when gRPC, and not the broker, refused a request for its size. It
// returns false when there was none.
func (p *Publisher) tooLarge(text string) bool {
	p.mu.Lock()
	number := p.alone
	found := number >= p.first && number < p.next
	p.mu.Unlock()
	if found {
		p.settle([]*brokerv1.Confirm{{FirstSequence: number, LastSequence: number, Outcome: brokerv1.Outcome_OUTCOME_REJECTED,
			Reason: brokerv1.ErrorReason_ERROR_REASON_PRECONDITION_FAILED, Detail: "too large: " + text}})
	}
	return found
}

// waitForWork waits until there is something to send: an idle publisher needs no stream.
func (p *Publisher) waitForWork(ctx context.Context) error {
	for {
		p.mu.Lock()
		idle := p.first == p.next
		p.mu.Unlock()
		if !idle {
			return nil
		}
		select {
		case <-p.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// halfClose says that nothing more will be sent on a stream that has failed to send. It may not be at its end: gRPC opens a
// stream that the node has not seen yet anew by itself, when it receives, and what had failed is sent by that
// (grpc/grpc-go#4691). The node would wait for more, and the receiver for the node.
func halfClose(stream interface{ CloseSend() error }) {
	_ = stream.CloseSend() // it fails on a stream that is at its end, and Recv tells why
}

// receiveError returns what a stream really failed for.
func receiveError[R any](stream interface {
	CloseSend() error
	Recv() (R, error)
}, err error) error {
	if errors.Is(err, io.EOF) {
		halfClose(stream)
	}
	for errors.Is(err, io.EOF) {
		if _, e := stream.Recv(); e != nil {
			if errors.Is(e, io.EOF) {
				return errAgain
			}
			return e
		}
	}
	return err
}

// send sends batches until the stream fails.
func (p *Publisher) send(ctx context.Context, stream grpc.BidiStreamingClient[brokerv1.PublishRequest, brokerv1.PublishResponse], failed <-chan error) error {
	batch := &brokerv1.PublishBatch{}
	request := &brokerv1.PublishRequest{Request: &brokerv1.PublishRequest_Batch{Batch: batch}}
	for {
		for p.fill(batch) {
			if err := stream.Send(request); err != nil {
				return err // EOF: the receiver knows more
			}
		}
		select {
		case <-p.wake:
		case err := <-failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// fill takes the next messages to send, with consecutive numbers. Together they are what any node takes. A message that is
// more by itself waits until all before it are settled, and those after it wait for it: if the node refuses the request,
// it is known which message that was.
func (p *Publisher) fill(b *brokerv1.PublishBatch) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(b.Messages)
	b.Messages = b.Messages[:0]
	p.unsent = max(p.unsent, p.first)
	for p.unsent < p.next && p.at(p.unsent).settled { // confirmed out of turn, before the stream
		p.unsent++
	}
	if p.alone >= p.first {
		return false
	}
	b.FirstSequence, b.LowestUnconfirmed, p.alone = p.unsent, p.first, 0
	for bytes := 0; p.unsent < p.next && bytes < batchBytes && len(b.Messages) < batchMessages; p.unsent++ {
		m := p.at(p.unsent)
		if m.settled || len(b.Messages) > 0 && bytes+m.size > certainBytes {
			break
		}
		if m.size > certainBytes {
			if p.unsent > p.first {
				break
			}
			p.alone = p.unsent
		}
		b.Messages = append(b.Messages, m.message)
		bytes += m.size
	}
	return len(b.Messages) > 0
}

// receive takes outcomes until the stream ends.
func (p *Publisher) receive(stream grpc.BidiStreamingClient[brokerv1.PublishRequest, brokerv1.PublishResponse], up func()) error {
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return errAgain
		}
		if err != nil {
			return err
		}
		switch r := response.Response.(type) {
		case *brokerv1.PublishResponse_Confirms:
			up()
			p.settle(r.Confirms.GetConfirms())
		case *brokerv1.PublishResponse_Blocked:
			if reason := r.Blocked.GetReason(); reason != "" {
				p.client.log.Warn("publishers are blocked", "reason", reason)
			} else {
				p.client.log.Info("publishers are not blocked any more")
			}
		}
	}
}

// outcome is a message's end.
type outcome struct {
	done func(error)
	err  error
}

// settle notes outcomes and tells them.
func (p *Publisher) settle(confirms []*brokerv1.Confirm) {
	var told []outcome
	p.mu.Lock()
	for _, c := range confirms {
		err := outcomeOf(c)
		for n := max(c.FirstSequence, p.first); n <= c.LastSequence && n < p.next; n++ {
			m := p.at(n)
			if m.settled {
				continue
			}
			if m.done != nil {
				told = append(told, outcome{m.done, err})
			}
			p.bytes -= m.size
			*m = pending{settled: true}
		}
	}
	for p.first < p.next && p.at(p.first).settled {
		*p.at(p.first) = pending{}
		p.first++
	}
	if p.unsent < p.next {
		p.awake() // something may have waited for these
	}
	p.tellings++
	p.changed.Broadcast()
	p.mu.Unlock()
	for _, t := range told {
		t.done(t.err)
	}
	p.mu.Lock()
	p.told++
	p.changed.Broadcast()
	p.mu.Unlock()
}

func outcomeOf(c *brokerv1.Confirm) error {
	switch c.Outcome {
	case brokerv1.Outcome_OUTCOME_CONFIRMED:
		return nil
	case brokerv1.Outcome_OUTCOME_UNROUTABLE:
		return ErrUnroutable
	}
	return &Rejected{Reason: reasonOf(c.Reason), Text: c.Detail}
}
