package rpc

import (
	"context"
	"io"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/internal/amqptest"
	brokerv1 "github.com/warrenmq/warren/proto/broker/v1"
)

// said is a stream whose client has said everything in advance; told is called before each request is received.
type said struct {
	grpc.BidiStreamingServer[brokerv1.PublishRequest, brokerv1.PublishResponse]
	ctx      context.Context
	requests []*brokerv1.PublishRequest
	next     int
	told     func(n int)
}

func (s *said) Context() context.Context { return s.ctx }

func (s *said) RecvMsg(m any) error {
	s.told(s.next)
	if s.next == len(s.requests) {
		return io.EOF
	}
	data, err := proto.Marshal(s.requests[s.next])
	if err != nil {
		return err
	}
	s.next++
	return m.(*publishRequest).read(mem.BufferSlice{mem.SliceBuffer(data)})
}

func (s *said) Send(*brokerv1.PublishResponse) error { return nil }

func batchOf(n int) *brokerv1.PublishRequest {
	b := &brokerv1.PublishBatch{}
	for range n {
		b.Messages = append(b.Messages, &brokerv1.Message{RoutingKey: "q", Body: make([]byte, 1024)})
	}
	return &brokerv1.PublishRequest{Request: &brokerv1.PublishRequest_Batch{Batch: b}}
}

// conversation publishes requests; the first batch goes when so many of them have been received.
func conversation(t *testing.T, received int, requests ...*brokerv1.PublishRequest) (messages []uint32, bytes []int) {
	t.Helper()
	c := amqptest.NewBatchCluster(amqptest.NewCluster(t, broker.Options{}))
	s := NewServer(Options{Broker: c.Broker})
	ctx := context.WithValue(t.Context(), callerKey{}, caller{identity: &broker.Identity{User: "guest"}, vhost: "/"})
	if err := s.call(ctx, func(ctx context.Context, n *session) error {
		_, err := n.channel.DeclareQueue(ctx, &broker.QueueDeclare{Name: "q", Durable: true})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	start := &brokerv1.PublishRequest{Request: &brokerv1.PublishRequest_Start{Start: &brokerv1.PublishStart{}}}
	if err := (publishing{server: s}).Publish(&said{ctx: ctx, requests: append([]*brokerv1.PublishRequest{start}, requests...), told: func(n int) {
		if n == 1+received { // which have been put where they are taken
			close(c.May)
		}
	}}); err != nil {
		t.Fatal(err)
	}
	messages, bytes = c.Batches()
	total := uint32(0)
	for _, n := range messages {
		total += n
	}
	want := 0
	for _, r := range requests {
		want += len(r.GetBatch().Messages)
	}
	if int(total) != want {
		t.Errorf("%d messages went to the shard, %d were published", total, want)
	}
	return messages, bytes
}

// TestWhatHasArrivedTravelsTogether: requests that came while one was under way are one batch.
func TestWhatHasArrivedTravelsTogether(t *testing.T) {
	const received = 100
	var requests []*brokerv1.PublishRequest
	for range 3 * received {
		requests = append(requests, batchOf(1))
	}
	messages, _ := conversation(t, received, requests...)
	if len(messages) < 2 || messages[0]+messages[1] < received {
		t.Errorf("%d messages had arrived, batches have %v", received, messages)
	}
}

// TestLargeRequestIsCutIntoWholeBatches: none is larger than what the broker sends by itself, which would leave small ones over.
func TestLargeRequestIsCutIntoWholeBatches(t *testing.T) {
	_, bytes := conversation(t, 0, batchOf(400))
	const most = 128 << 10
	for i, n := range bytes {
		if n >= most || i < len(bytes)-1 && n < most-most/8 {
			t.Errorf("batches of %v bytes: want all but the last just below %d", bytes, most)
		}
	}
}

// TestArrivalsAreBounded: who receives waits for who takes.
func TestArrivalsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newArrivals()
		large := &publishRequest{bytes: readAhead}
		if !a.put(large) {
			t.Fatal("refused")
		}
		put := make(chan bool, 1)
		go func() { put <- a.put(&publishRequest{}) }()
		synctest.Wait()
		if len(put) > 0 {
			t.Fatal("more than the bound was taken in")
		}
		if r, more, err := a.take(); r != large || more || err != nil {
			t.Fatal("took", r, more, err)
		}
		if !<-put {
			t.Fatal("refused though there is room")
		}
		a.stop()
		if a.put(large) {
			t.Fatal("taken in though nobody takes any more")
		}
	})
}
