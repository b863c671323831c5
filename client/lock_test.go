package client_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

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

func refused(t *testing.T, code codes.Code, reason client.Reason, text string) error {
	t.Helper()
	st, err := status.New(code, text).WithDetails(&errdetails.ErrorInfo{Reason: string(reason), Domain: "warrenmq"})
	if err != nil {
		t.Fatal(err)
	}
	return st.Err()
}

type consumeServer = grpc.BidiStreamingServer[brokerv1.ConsumeRequest, brokerv1.ConsumeResponse]

// TestOwnLock: an exclusive consumer, or one with a named temporary queue, that has lost its node is told that the queue is
// held by somebody, which is itself. It waits for that to pass, but not for ever.
func TestOwnLock(t *testing.T) {
	started := &brokerv1.ConsumeResponse{Response: &brokerv1.ConsumeResponse_Started{Started: &brokerv1.ConsumeStarted{Queue: "q"}}}
	lost := func(stream consumeServer) error {
		if err := stream.Send(started); err != nil {
			return err
		}
		return status.Error(codes.Unavailable, "lost")
	}
	delivering := func(stream consumeServer) error {
		deliveries := &brokerv1.Deliveries{Deliveries: []*brokerv1.Delivery{{DeliveryTag: 1, Message: &brokerv1.Message{Body: []byte("hello")}}}}
		if err := errors.Join(stream.Send(started), stream.Send(&brokerv1.ConsumeResponse{Response: &brokerv1.ConsumeResponse_Deliveries{Deliveries: deliveries}})); err != nil {
			return err
		}
		<-stream.Context().Done()
		return nil
	}
	for name, locked := range map[string]error{
		"locked":        refused(t, codes.FailedPrecondition, client.ResourceLocked, "queue 'q' in vhost '/' in exclusive use"),
		"of old":        refused(t, codes.PermissionDenied, client.AccessRefused, "queue 'q' in vhost '/' in exclusive use"),
		"no permission": refused(t, codes.PermissionDenied, client.AccessRefused, "read access to queue 'q' in vhost '/' refused for user 'u'"),
	} {
		passes := name != "no permission"
		refusing := func(consumeServer) error { return locked }
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k, err := serveScript(t, &scriptedConsuming{script: []func(consumeServer) error{lost, refusing, refusing, refusing, delivering}}).Consume(t.Context(), "q", client.WithExclusive())
				if err != nil {
					t.Fatal(err)
				}
				if d, err := k.Next(t.Context()); (err == nil) != passes || passes && string(d.Body) != "hello" {
					t.Errorf("came %v, %v", d, err)
				}
			})
		})
		t.Run(name+" for ever", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := serveScript(t, &scriptedConsuming{script: []func(consumeServer) error{lost, refusing}})
				k, err := c.Consume(t.Context(), "q", client.WithExclusive())
				if err != nil {
					t.Fatal(err)
				}
				begun := time.Now()
				var refusal *client.Error
				if _, err := k.Next(t.Context()); !errors.As(err, &refusal) || refusal.Text != status.Convert(locked).Message() {
					t.Errorf("it ended with %v", err)
				}
				if took := time.Since(begun); passes != (took >= time.Minute) || took > 3*time.Minute {
					t.Errorf("it ended after %v", took)
				}
				begun = time.Now()
				if _, err := c.Consume(t.Context(), "q", client.WithExclusive()); !errors.As(err, &refusal) || time.Since(begun) > time.Second {
					t.Errorf("one that never had the queue was told %v after %v", err, time.Since(begun))
				}
			})
		})
	}
}
