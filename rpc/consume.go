package rpc

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/warrenmq/warren/broker"
	brokerv1 "github.com/warrenmq/warren/proto/broker/v1"
)

// consuming is the ConsumingService.
type consuming struct {
	brokerv1.UnimplementedConsumingServiceServer
	server *Server
}

// Consume is a stream of deliveries and their settlement.
func (c consuming) Consume(stream grpc.BidiStreamingServer[brokerv1.ConsumeRequest, brokerv1.ConsumeResponse]) error {
	request, err := stream.Recv()
	if err != nil {
		return err
	}
	start := request.GetStart()
	switch {
	case start == nil:
		return invalid("the first request of a stream must have start")
	case start.Queue == "" && start.Temporary == nil:
		return invalid("no queue")
	case len(start.ConsumerTag) > maxShort:
		return invalid("a consumer tag of %d bytes is longer than %d", len(start.ConsumerTag), maxShort)
	}
	if err := checkNames(start.Queue); err != nil {
		return err
	}
	n, err := c.server.open(stream.Context())
	if err != nil {
		return err
	}
	s := &consumeStream{session: n, stream: stream}
	if err := s.begin(start); err != nil {
		n.close()
		return n.forced(err)
	}
	return n.converse(stream.Context(), s.read, s.write)
}

// consumeStream is one stream of deliveries.
type consumeStream struct {
	*session
	stream grpc.BidiStreamingServer[brokerv1.ConsumeRequest, brokerv1.ConsumeResponse]
	tag    string

	mu        sync.Mutex // guards what follows; the broker's lock while it drains
	out       deliveries // to be sent
	cancelled bool
}

// begin makes the queue, if it is temporary, and starts the consumer.
func (s *consumeStream) begin(start *brokerv1.ConsumeStart) error {
	name, err := s.temporary(start)
	if err != nil {
		return err
	}
	arguments := &broker.Table{Fields: []*broker.Field{{Key: "x-priority", Value: broker.IntValue('l', int64(start.Priority))}}}
	if start.Priority == 0 {
		arguments = nil
	}
	s.tag, err = s.channel.Consume(s.calls, &broker.Consume{Queue: name, Tag: start.ConsumerTag, NoAck: start.AutoSettle,
		Exclusive: start.Exclusive, Credit: start.Credit, Arguments: arguments})
	if err != nil {
		return err
	}
	if err := s.stream.Send(&brokerv1.ConsumeResponse{Response: &brokerv1.ConsumeResponse_Started{Started: &brokerv1.ConsumeStarted{Queue: name, ConsumerTag: s.tag}}}); err != nil {
		return err
	}
	s.channel.Started(s.tag)
	return nil
}

func (s *consumeStream) temporary(start *brokerv1.ConsumeStart) (name string, err error) {
	if start.Temporary == nil {
		return start.Queue, nil
	}
	arguments, err := storedArguments(start.Temporary.Arguments)
	if err != nil {
		return "", err
	}
	ok, err := s.channel.DeclareQueue(s.calls, &broker.QueueDeclare{Name: start.Queue, Exclusive: true, AutoDelete: true, Arguments: arguments})
	if err != nil {
		return "", err
	}
	for _, b := range start.Temporary.Bindings {
		bound, err := binding(b)
		if err != nil {
			return "", err
		}
		bound.Destination = ok.Name
		if err := s.channel.BindQueue(s.calls, bound); err != nil {
			return "", err
		}
	}
	return ok.Name, nil
}

func (s *consumeStream) read() error {
	for {
		request, err := s.stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.handle(request); err != nil {
			return err
		}
		if err := s.conn.Flush(s.calls); err != nil {
			return err
		}
	}
}

func (s *consumeStream) handle(request *brokerv1.ConsumeRequest) error {
	switch r := request.Request.(type) {
	case *brokerv1.ConsumeRequest_Settles:
		for _, m := range r.Settles.GetSettles() {
			if err := s.settle(m); err != nil {
				return err
			}
		}
		return nil
	case *brokerv1.ConsumeRequest_SetCredit:
		s.channel.SetCredit(s.tag, r.SetCredit.GetCredit())
		return nil
	case *brokerv1.ConsumeRequest_ExtendLeases:
		return s.extend(r.ExtendLeases)
	}
	return invalid("a request without settles, set_credit and extend_leases")
}

// extend begins the time of deliveries anew.
func (n *session) extend(m *brokerv1.ExtendLeases) error {
	for _, tag := range m.GetDeliveryTags() {
		if err := n.channel.Extend(tag, false); err != nil {
			return err
		}
	}
	return nil
}

// settle settles deliveries of a session.
func (n *session) settle(m *brokerv1.Settle) error {
	ch, tag := n.channel, m.GetDeliveryTag()
	if tag == 0 && !m.Multiple {
		return invalid("no delivery tag")
	}
	if m.DelayMillis > 0 {
		return n.settleLater(m)
	}
	switch m.GetSettlement() {
	case brokerv1.Settlement_SETTLEMENT_ACK:
		return ch.Ack(tag, m.Multiple)
	case brokerv1.Settlement_SETTLEMENT_REQUEUE:
		return ch.Nack(tag, m.Multiple, true)
	case brokerv1.Settlement_SETTLEMENT_DISCARD:
		return ch.Nack(tag, m.Multiple, false)
	case brokerv1.Settlement_SETTLEMENT_REQUEUE_FAILED:
		if m.Multiple {
			return invalid("only single deliveries can be settled as failed")
		}
		return ch.Reject(tag, true)
	}
	return invalid("no settlement")
}

// settleLater gives deliveries back after a delay.
func (n *session) settleLater(m *brokerv1.Settle) error {
	if most := uint64(broker.MaxDelay.Milliseconds()); m.DelayMillis > most {
		return invalid("delay_millis %d is greater than %d", m.DelayMillis, most)
	}
	delay := time.Duration(m.DelayMillis) * time.Millisecond
	switch m.GetSettlement() {
	case brokerv1.Settlement_SETTLEMENT_REQUEUE:
		return n.channel.GiveBackLater(m.DeliveryTag, m.Multiple, false, delay)
	case brokerv1.Settlement_SETTLEMENT_REQUEUE_FAILED:
		return n.channel.GiveBackLater(m.DeliveryTag, m.Multiple, true, delay)
	}
	return invalid("delay_millis with a settlement that gives nothing back")
}

// write sends what the broker has. A client that has half-closed has nothing to settle any more: the stream is done.
func (s *consumeStream) write() (done bool, err error) {
	for more := true; more; {
		if more, err = s.conn.Drain(s, drainBytes); err != nil {
			return false, err
		}
		if err := s.send(); err != nil {
			return false, err
		}
		s.conn.Written()
	}
	return true, nil
}

// send sends what Drain has left. The lock is not held meanwhile: nobody else drains.
func (s *consumeStream) send() error {
	s.mu.Lock()
	cancelled := s.cancelled
	s.cancelled = false
	s.mu.Unlock()
	if !s.out.empty() {
		s.server.metrics.sent.Add(uint64(s.out.count))
		if err := s.stream.SendMsg(&s.out); err != nil {
			return err
		}
	}
	if cancelled {
		if err := s.stream.Send(&brokerv1.ConsumeResponse{Response: &brokerv1.ConsumeResponse_Cancelled{Cancelled: &brokerv1.ConsumerCancelled{}}}); err != nil {
			return err
		}
	}
	return nil
}

// Lock implements broker.Writer, as do the methods below.
func (s *consumeStream) Lock() { s.mu.Lock() }

// Unlock ends what Lock began.
func (s *consumeStream) Unlock() { s.mu.Unlock() }

// Deliver takes a delivery into the next response.
func (s *consumeStream) Deliver(_ uint16, _ string, d *broker.Outgoing) {
	s.out.add(d.Tag, d.Redelivered, d.Exchange, d.RoutingKey, d.Properties, d.Body)
}

// Confirm does not come: nothing is published on the stream.
func (s *consumeStream) Confirm(uint16, uint64, bool, broker.Outcome) {}

// Return does not come.
func (s *consumeStream) Return(uint16, uint16, string, []byte, []byte, []byte, []byte) {}

// CancelConsumer tells that the broker has ended the consumer.
func (s *consumeStream) CancelConsumer(uint16, string) { s.cancelled = true }

// interned makes a text of bytes that are mostly those of the last time.
type interned struct{ last string }

func (i *interned) text(b []byte) string {
	if i.last != string(b) {
		i.last = (&octets{}).text(b)
	}
	return i.last
}

// Get is a stream of single messages.
func (c consuming) Get(stream grpc.BidiStreamingServer[brokerv1.GetRequest, brokerv1.GetResponse]) error {
	n, err := c.server.open(stream.Context())
	if err != nil {
		return err
	}
	s := &getStream{session: n, stream: stream}
	return n.converse(stream.Context(), s.read, func() (bool, error) { return true, nil })
}

type getStream struct {
	*session
	stream grpc.BidiStreamingServer[brokerv1.GetRequest, brokerv1.GetResponse]
}

func (s *getStream) read() error {
	for {
		request, err := s.stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch r := request.Request.(type) {
		case *brokerv1.GetRequest_Fetch:
			err = s.fetch(s.calls, r.Fetch)
		case *brokerv1.GetRequest_Settle:
			err = s.settle(r.Settle)
		case *brokerv1.GetRequest_ExtendLeases:
			err = s.extend(r.ExtendLeases)
		default:
			err = invalid("a request without fetch, settle and extend_leases")
		}
		if err != nil {
			return err
		}
		if err := s.conn.Flush(s.calls); err != nil {
			return err
		}
	}
}

func (s *getStream) fetch(ctx context.Context, f *brokerv1.Fetch) error {
	if f.GetQueue() == "" {
		return invalid("no queue")
	}
	if err := checkNames(f.GetQueue()); err != nil {
		return err
	}
	m, ok, err := s.channel.Get(ctx, f.GetQueue(), f.GetAutoSettle())
	if err != nil {
		return err
	}
	response := &brokerv1.GetResponse{}
	if ok {
		s.server.metrics.sent.Add(1)
		response.Delivery, response.MessagesLeft = shownDelivery(m), uint64(m.MessageCount)
	}
	return s.stream.Send(response)
}

// shownDelivery makes a delivery of the API.
func shownDelivery(d *broker.Outgoing) *brokerv1.Delivery {
	p := &brokerv1.Properties{}
	if readProperties(p, d.Properties) != nil { // what was malformed at its publish shows no properties
		p = &brokerv1.Properties{}
	}
	m := &brokerv1.Message{Exchange: (&octets{}).text(d.Exchange), RoutingKey: (&octets{}).text(d.RoutingKey), Properties: p, Body: d.Body}
	return &brokerv1.Delivery{DeliveryTag: d.Tag, Redelivered: d.Redelivered, Message: m}
}
