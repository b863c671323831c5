package rpc

import (
	"errors"
	"io"
	"slices"
	"sync"

	"google.golang.org/grpc"

	"github.com/warrenmq/warren/broker"
	brokerv1 "github.com/warrenmq/warren/proto/broker/v1"
)

// publishing is the PublishingService.
type publishing struct {
	brokerv1.UnimplementedPublishingServiceServer
	server *Server
}

// drainBytes is about what is taken from the broker for one response.
const drainBytes = 256 << 10

// Publish is a stream of messages and their confirms.
func (p publishing) Publish(stream grpc.BidiStreamingServer[brokerv1.PublishRequest, brokerv1.PublishResponse]) error {
	request := &publishRequest{}
	if err := stream.RecvMsg(request); err != nil {
		return err
	}
	start := request.start
	request.release()
	if start == nil {
		return invalid("the first request of a stream must have start")
	}
	if len(start.ProducerId) > maxShort {
		return invalid("a producer id of %d bytes is longer than %d", len(start.ProducerId), maxShort)
	}
	n, err := p.server.open(stream.Context())
	if err != nil {
		return err
	}
	n.owes = true
	n.channel.ConfirmOutcomes(start.ProducerId)
	s := &publishStream{session: n, stream: stream, producer: start.ProducerId != ""}
	s.room.L = &s.mu
	defer s.stop()
	return n.converse(stream.Context(), s.read, s.write)
}

// publishStream is one stream of messages. Its reader numbers them, its writer tells what became of them.
type publishStream struct {
	*session
	stream   grpc.BidiStreamingServer[brokerv1.PublishRequest, brokerv1.PublishResponse]
	producer bool

	// The reader's.
	last       uint64 // the last number
	lowest     uint64 // the lowest that may be published again
	lastTag    uint64 // the broker's number of the last message that it took
	staged     int    // bytes of messages since the last Flush
	publish    broker.Publish
	properties published

	mu        sync.Mutex // guards what follows; the broker's lock while it drains
	room      sync.Cond  // told when outcomes were sent
	numbers   numbers
	confirms  []*brokerv1.Confirm // to be sent
	rejected  int                 // of them, those that the reader has added
	stopped   bool
	toldBlock string // the writer's
}

// maxRejected and maxUntold bound the rejections, and the messages altogether, whose outcome waits for a client that does
// not read. The broker's own window is much smaller: who reads is never held up.
const (
	maxRejected = 8192
	maxUntold   = 1 << 16
)

// stagedBytes is how much is handed on at once, in bytes: with what the broker adds it is one of its batches, not one and a
// small one behind it.
const (
	stagedBytes = 120 << 10
	// stagedOverhead is about what a message has beside its body, in bytes.
	stagedOverhead = 40
)

// read publishes what the client sends. A goroutine receives ahead of it.
func (s *publishStream) read() error {
	arrived := newArrivals()
	defer arrived.stop()
	go s.receive(arrived)
	for {
		request, more, err := arrived.take()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		err = s.take(request)
		request.release()
		if err != nil {
			// What was staged before the message that failed goes out, and its confirms come back if they can.
			if err := s.flush(); err != nil {
				s.server.log.Debug("end of a publisher", "err", err)
			}
			return err
		}
		if more {
			continue
		}
		if err := s.flush(); err != nil {
			return err
		}
	}
}

// receive receives requests until the stream ends, or nobody takes them any more.
func (s *publishStream) receive(to *arrivals) {
	var err error
	defer func() { to.end(err) }()
	defer s.contain(&err)
	for {
		request := &publishRequest{}
		if err = s.stream.RecvMsg(request); err == nil && to.put(request) {
			continue
		}
		request.release()
		return
	}
}

func (s *publishStream) take(request *publishRequest) error {
	if !request.hasBatch {
		return invalid("a request without batch")
	}
	if request.excess {
		return invalid("a batch of more than %d messages", maxBatch)
	}
	s.server.metrics.received.Add(uint64(len(request.messages)))
	return s.batch(request)
}

// flush hands on what is staged.
func (s *publishStream) flush() error {
	s.staged = 0
	return s.conn.Flush(s.calls)
}

// batch publishes messages.
func (s *publishStream) batch(b *publishRequest) error {
	first, err := s.number(b)
	if err != nil || len(b.messages) == 0 {
		return err
	}
	if !s.expect(first, len(b.messages)) {
		return s.calls.Err()
	}
	for i := range b.messages {
		sequence := first + uint64(i)
		err := s.message(sequence, &b.messages[i])
		if err == nil {
			s.lastTag++
			if err := s.flushFull(len(b.messages[i].body), len(b.messages)-i-1); err != nil {
				return err
			}
			continue
		}
		reason, detail, ok := ofMessage(err)
		if !ok {
			s.giveUp(len(b.messages) - i)
			return err
		}
		if !s.reject(sequence, len(b.messages)-i-1, reason, detail) {
			return s.calls.Err()
		}
	}
	return nil
}

// flushFull notes that a message was staged and hands on what is, if it is enough; so many after it are still expected.
func (s *publishStream) flushFull(body, after int) error {
	if s.staged += body + stagedOverhead; s.staged < stagedBytes {
		return nil
	}
	err := s.flush()
	if err != nil && after > 0 {
		s.giveUp(after)
	}
	return err
}

// maxSequence is the highest number of a message: the machines do their sums with room above it.
const maxSequence = 1 << 63

// number checks the numbers of a batch.
func (s *publishStream) number(b *publishRequest) (first uint64, err error) {
	first = b.first
	if first == 0 {
		first = s.last + 1
	}
	count := uint64(len(b.messages))
	switch {
	case count == 0:
		return first, nil
	case first <= s.last:
		return 0, invalid("number %d after %d: numbers must grow", first, s.last)
	case first > maxSequence || count-1 > maxSequence-first:
		return 0, invalid("number %d is too large", first)
	}
	last := first + count - 1
	if s.lowest == 0 {
		s.lowest = first
	}
	s.lowest = max(s.lowest, b.lowest)
	if s.producer && (s.lowest > first || last-s.lowest >= broker.MaxBehind) {
		return 0, invalid("numbers %d to %d with %d as the lowest unconfirmed: it must not be above them, nor %d or more below", first, last, s.lowest, broker.MaxBehind)
	}
	s.last = last
	return first, nil
}

// message publishes one.
func (s *publishStream) message(sequence uint64, m *inbound) error {
	properties, err := s.properties.properties(m.properties)
	if err != nil {
		return &broker.Error{Kind: broker.PreconditionFailed, Text: err.Error()}
	}
	p := &s.publish
	*p = broker.Publish{Exchange: m.exchange, RoutingKey: m.routingKey, Properties: properties, Body: m.body}
	if s.producer {
		p.Sequence, p.Behind = sequence, uint16(sequence-s.lowest)
	}
	return s.channel.Publish(s.calls, p)
}

// expect notes the numbers of messages that the broker is about to take. It waits while too many have not been told, and
// returns false when the stream has ended meanwhile.
func (s *publishStream) expect(first uint64, count int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.lastTag-s.numbers.front >= maxUntold && !s.stopped {
		s.room.Wait()
	}
	s.numbers.add(s.lastTag+1, first, count)
	return !s.stopped
}

// giveUp takes back the last count numbers that were expected.
func (s *publishStream) giveUp(count int) {
	s.mu.Lock()
	s.numbers.shorten(count)
	s.mu.Unlock()
}

// reject tells the outcome of a message that the broker has not taken; so many after it are still expected. It waits while
// too many rejections wait, and returns false when the stream has ended meanwhile.
func (s *publishStream) reject(sequence uint64, after int, reason brokerv1.ErrorReason, detail string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.numbers.shorten(after + 1)
	if after > 0 {
		s.numbers.add(s.lastTag+1, sequence+1, after)
	}
	for s.rejected >= maxRejected && !s.stopped {
		s.Wake()
		s.room.Wait()
	}
	s.rejected++
	s.confirms = append(s.confirms, &brokerv1.Confirm{FirstSequence: sequence, LastSequence: sequence,
		Outcome: brokerv1.Outcome_OUTCOME_REJECTED, Reason: reason, Detail: detail})
	s.Wake()
	return !s.stopped
}

// stop lets a reader go on that waits for room.
func (s *publishStream) stop() {
	s.mu.Lock()
	s.stopped = true
	s.room.Broadcast()
	s.mu.Unlock()
}

// write sends what the broker has to tell.
func (s *publishStream) write() (done bool, err error) {
	for more := true; more; {
		if more, err = s.conn.Drain(s, drainBytes); err != nil {
			return false, err
		}
		if err := s.send(); err != nil {
			return false, err
		}
		s.conn.Written()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.numbers.empty(), nil
}

func (s *publishStream) send() error {
	if reason := s.isBlocked(); reason != s.toldBlock {
		s.toldBlock = reason
		if err := s.stream.Send(&brokerv1.PublishResponse{Response: &brokerv1.PublishResponse_Blocked{Blocked: &brokerv1.Blocked{Reason: reason}}}); err != nil {
			return err
		}
	}
	s.mu.Lock()
	confirms := s.confirms
	s.confirms, s.rejected = nil, 0
	s.room.Broadcast()
	s.mu.Unlock()
	if len(confirms) == 0 {
		return nil
	}
	return s.stream.Send(&brokerv1.PublishResponse{Response: &brokerv1.PublishResponse_Confirms{Confirms: &brokerv1.Confirms{Confirms: confirms}}})
}

// Lock implements broker.Writer, as do the methods below.
func (s *publishStream) Lock() { s.mu.Lock() }

// Unlock ends what Lock began.
func (s *publishStream) Unlock() { s.mu.Unlock() }

// outcomes maps the broker's.
var outcomes = map[broker.Outcome]struct {
	outcome brokerv1.Outcome
	reason  brokerv1.ErrorReason
	detail  string
}{
	broker.Confirmed:  {outcome: brokerv1.Outcome_OUTCOME_CONFIRMED},
	broker.Unroutable: {outcome: brokerv1.Outcome_OUTCOME_UNROUTABLE},
	broker.QueueFull:  {brokerv1.Outcome_OUTCOME_REJECTED, brokerv1.ErrorReason_ERROR_REASON_QUEUE_FULL, "a queue is full"},
	broker.Refused:    {brokerv1.Outcome_OUTCOME_REJECTED, brokerv1.ErrorReason_ERROR_REASON_REFUSED, "the number is too low, or pieces of the message were lost on the way"},
}

// Confirm notes the outcome of one message, or of all up to it that have not been told.
func (s *publishStream) Confirm(_ uint16, tag uint64, multiple bool, o broker.Outcome) {
	told := outcomes[o]
	s.numbers.take(tag, multiple, func(first, last uint64) {
		if n := len(s.confirms); n > 0 {
			before := s.confirms[n-1]
			if before.LastSequence+1 == first && told.outcome == before.Outcome && told.reason == before.Reason {
				before.LastSequence = last
				return
			}
		}
		s.confirms = append(s.confirms, &brokerv1.Confirm{FirstSequence: first, LastSequence: last, Outcome: told.outcome, Reason: told.reason, Detail: told.detail})
	})
}

// Deliver, Return and CancelConsumer do not come: the stream has no consumers, and asks for no returns.
func (s *publishStream) Deliver(uint16, string, *broker.Outgoing) {}

// Return does not come.
func (s *publishStream) Return(uint16, uint16, string, []byte, []byte, []byte, []byte) {}

// CancelConsumer does not come.
func (s *publishStream) CancelConsumer(uint16, string) {}

// numbers says which of the client's numbers belong to the broker's, which count the messages that it took.
type numbers struct {
	runs  []numberRun // in order; those told are gone from the front
	front uint64      // the broker's numbers up to it are told
	early []uint64    // told before an earlier one, ascending
}

type numberRun struct {
	tag, sequence uint64
	count         int
}

func (n *numbers) empty() bool { return len(n.runs) == 0 }

func (n *numbers) add(tag, sequence uint64, count int) {
	if k := len(n.runs); k > 0 {
		if r := &n.runs[k-1]; r.tag+uint64(r.count) == tag && r.sequence+uint64(r.count) == sequence {
			r.count += count
			return
		}
	}
	n.runs = append(n.runs, numberRun{tag, sequence, count})
}

// shorten takes back the last count numbers.
func (n *numbers) shorten(count int) {
	r := &n.runs[len(n.runs)-1]
	if r.count -= count; r.count == 0 {
		n.runs = n.runs[:len(n.runs)-1]
	}
}

// take calls f with the client's numbers of a broker's number, or of all up to it that have not been told.
func (n *numbers) take(tag uint64, multiple bool, f func(first, last uint64)) {
	if !multiple && tag != n.front+1 {
		i, _ := slices.BinarySearch(n.early, tag)
		n.early = slices.Insert(n.early, i, tag)
		n.tell(tag, tag, f)
		return
	}
	from := n.front + 1
	told := 0
	for ; told < len(n.early) && n.early[told] <= tag; told++ {
		n.tell(from, n.early[told]-1, f)
		from = n.early[told] + 1
	}
	n.tell(from, tag, f)
	n.front = tag
	for ; told < len(n.early) && n.early[told] == n.front+1; told++ {
		n.front++
	}
	n.early = slices.Delete(n.early, 0, told)
	n.drop()
}

// tell finds the client's numbers.
func (n *numbers) tell(from, to uint64, f func(first, last uint64)) {
	i, found := slices.BinarySearchFunc(n.runs, from, func(r numberRun, tag uint64) int {
		switch {
		case r.tag+uint64(r.count) <= tag:
			return -1
		case r.tag > tag:
			return 1
		}
		return 0
	})
	for ; found && from <= to; i++ {
		r := n.runs[i]
		last := min(to, r.tag+uint64(r.count)-1)
		f(r.sequence+from-r.tag, r.sequence+last-r.tag)
		from = last + 1
	}
}

// drop forgets the runs up to the front.
func (n *numbers) drop() {
	gone := 0
	for gone < len(n.runs) && n.runs[gone].tag+uint64(n.runs[gone].count) <= n.front+1 {
		gone++
	}
	n.runs = slices.Delete(n.runs, 0, gone)
}
