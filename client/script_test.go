package client_test

import (
	"context"
	"errors"
	"net"
	"strconv"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/warrenmq/warren/client"
	brokerv1 "github.com/warrenmq/warren/proto/broker/v1"
)

// scriptedConsuming answers each Consume by the next of its functions, and by the last of them from then on.
type scriptedConsuming struct {
	brokerv1.UnimplementedConsumingServiceServer
	script []func(consumeServer) error
	calls  int // streams come one after another
}

func (s *scriptedConsuming) Consume(stream consumeServer) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	answer := s.script[min(s.calls, len(s.script)-1)]
	s.calls++
	return answer(stream)
}

// Get gives out message after message, and ends the first stream with an error.
func (s *scriptedConsuming) Get(stream grpc.BidiStreamingServer[brokerv1.GetRequest, brokerv1.GetResponse]) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	s.calls++
	body := []byte(strconv.Itoa(s.calls))
	if err := stream.Send(&brokerv1.GetResponse{Delivery: &brokerv1.Delivery{DeliveryTag: 1, Message: &brokerv1.Message{Body: body}}}); err != nil {
		return err
	}
	if s.calls > 1 {
		return nil
	}
	return status.Error(codes.Unavailable, "lost")
}

// serveScript returns a client of a server with a script, all in memory.
func serveScript(t *testing.T, consuming brokerv1.ConsumingServiceServer) *client.Client {
	t.Helper()
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	brokerv1.RegisterConsumingServiceServer(server, consuming)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	c, err := client.New([]string{"scripted:1"}, client.WithDialOptions(grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return listener.DialContext(ctx)
	})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return c
}

// refused is an error as the broker makes it.
func refused(t *testing.T, code codes.Code, reason client.Reason, text string) error {
	t.Helper()
	st, err := status.New(code, text).WithDetails(&errdetails.ErrorInfo{Reason: string(reason), Domain: "warrenmq"})
	if err != nil {
		t.Fatal(err)
	}
	return st.Err()
}

type consumeServer = grpc.BidiStreamingServer[brokerv1.ConsumeRequest, brokerv1.ConsumeResponse]

// startedResponse begins every stream of a script.
var startedResponse = &brokerv1.ConsumeResponse{Response: &brokerv1.ConsumeResponse_Started{Started: &brokerv1.ConsumeStarted{Queue: "q"}}}

// deliver starts a consumer and sends it messages, from delivery 1 on.
func deliver(stream consumeServer, bodies ...string) error {
	deliveries := &brokerv1.Deliveries{}
	for i, body := range bodies {
		deliveries.Deliveries = append(deliveries.Deliveries, &brokerv1.Delivery{DeliveryTag: uint64(i + 1), Message: &brokerv1.Message{Body: []byte(body)}})
	}
	return errors.Join(stream.Send(startedResponse), stream.Send(&brokerv1.ConsumeResponse{Response: &brokerv1.ConsumeResponse_Deliveries{Deliveries: deliveries}}))
}
