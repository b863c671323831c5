package rpc

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/warrenmq/warren/internal/amqptest"
)

// strange runs a server without a broker, and a client of this machine without credentials, in a bubble.
func strange(t *testing.T, f func(t *testing.T, s *Server, c *grpc.ClientConn)) {
	strangeFrom(t, net.IPv4(127, 0, 0, 1), f)
}

func strangeFrom(t *testing.T, address net.IP, f func(t *testing.T, s *Server, c *grpc.ClientConn)) {
	synctest.Test(t, func(t *testing.T) {
		l := amqptest.NewListener()
		s := NewServer(Options{})
		served := make(chan error, 1)
		go func() { served <- s.Serve(l) }()
		c, err := grpc.NewClient("passthrough:///node", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return l.Dial(address) }))
		if err != nil {
			t.Fatal(err)
		}
		f(t, s, c)
		_ = c.Close()
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

func check(t *testing.T, c *grpc.ClientConn, service string) codes.Code {
	_, err := grpc_health_v1.NewHealthClient(c).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: service})
	return status.Code(err)
}

// begin opens a stream of any method.
func begin(t *testing.T, c *grpc.ClientConn, method string) grpc.ClientStream {
	stream, err := c.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	return stream
}

// TestStrangersFromAfar: of those that are not on this machine, reflection needs credentials.
func TestStrangersFromAfar(t *testing.T) {
	strangeFrom(t, net.IPv4(10, 0, 0, 1), func(t *testing.T, _ *Server, c *grpc.ClientConn) {
		if code := check(t, c, ""); code != codes.OK {
			t.Errorf("health: %v", code)
		}
		stream, err := reflectionv1.NewServerReflectionClient(c).ServerReflectionInfo(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); status.Code(err) != codes.Unauthenticated {
			t.Errorf("reflection: %v", err)
		}
	})
}

// TestStrangersAskShortQuestions: of a long one no more is taken than there is room for on its way.
func TestStrangersAskShortQuestions(t *testing.T) {
	strange(t, func(t *testing.T, _ *Server, c *grpc.ClientConn) {
		long := strings.Repeat("x", maxQuestion)
		if code := check(t, c, long[:maxQuestion-3]); code != codes.NotFound { // three octets announce it
			t.Errorf("a request as long as may be: %v", code)
		}
		if code := check(t, c, long); code != codes.ResourceExhausted {
			t.Errorf("a longer one: %v", code)
		}
		watch, err := grpc_health_v1.NewHealthClient(c).Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: long})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := watch.Recv(); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("a longer one, to watch: %v", err)
		}
		reflection, err := reflectionv1.NewServerReflectionClient(c).ServerReflectionInfo(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range []struct {
			name string
			want codes.Code
		}{{"warren.broker.v1.AdminService", codes.OK}, {long, codes.ResourceExhausted}} {
			if err := reflection.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: e.name}}); err != nil {
				t.Fatal(err)
			}
			if _, err := reflection.Recv(); status.Code(err) != e.want {
				t.Errorf("reflection about %.30q: %v", e.name, err)
			}
		}
		two := begin(t, c, "/grpc.health.v1.Health/Watch")
		for range 2 {
			if err := two.SendMsg(&grpc_health_v1.HealthCheckRequest{}); err != nil && err != io.EOF {
				t.Fatal(err)
			}
		}
		if err := two.RecvMsg(&grpc_health_v1.HealthCheckResponse{}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("two requests to watch: %v", err)
		}
	})
}

// TestStrangersAreFewAndSoonGone: who does not ask for what it came for makes room for others; who watches may stay.
func TestStrangersAreFewAndSoonGone(t *testing.T) {
	strange(t, func(t *testing.T, s *Server, c *grpc.ClientConn) {
		watching := make([]grpc.ServerStreamingClient[grpc_health_v1.HealthCheckResponse], 2*maxAsking)
		for i := range watching {
			var err error
			if watching[i], err = grpc_health_v1.NewHealthClient(c).Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
				t.Fatal(err)
			}
			if _, err := watching[i].Recv(); err != nil {
				t.Fatal(err)
			}
		}
		silent := make([]grpc.ClientStream, maxAsking)
		for i := range silent {
			silent[i] = begin(t, c, []string{"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"}[i%3])
		}
		if code := check(t, c, ""); code != codes.ResourceExhausted {
			t.Errorf("one too many: %v", code)
		}
		time.Sleep(askingTime)
		for i, stream := range silent {
			if err := stream.RecvMsg(&grpc_health_v1.HealthCheckResponse{}); status.Code(err) != codes.DeadlineExceeded {
				t.Errorf("silent stream %d: %v", i, err)
			}
		}
		if code := check(t, c, ""); code != codes.OK {
			t.Errorf("after the silent ones: %v", code)
		}
		s.health.SetServingStatus("", grpc_health_v1.HealthCheckResponse_UNKNOWN)
		for i, stream := range watching {
			if r, err := stream.Recv(); err != nil || r.Status != grpc_health_v1.HealthCheckResponse_UNKNOWN {
				t.Fatalf("watcher %d: %v, %v", i, r, err)
			}
		}
		_ = c.Close()
		synctest.Wait()
		if s.strangers.asking != 0 || s.strangers.watching != 0 {
			t.Errorf("%d ask and %d watch when all are gone", s.strangers.asking, s.strangers.watching)
		}
	})
}

// TestWatchersKeepNobodyFromAsking: a single question is answered, however many watch.
func TestWatchersKeepNobodyFromAsking(t *testing.T) {
	strange(t, func(t *testing.T, s *Server, c *grpc.ClientConn) {
		crowd := func(n int) {
			s.strangers.mu.Lock()
			defer s.strangers.mu.Unlock()
			s.strangers.watching += n
		}
		crowd(maxWatching)
		if code := check(t, c, ""); code != codes.OK {
			t.Errorf("a single question: %v", code)
		}
		one := begin(t, c, "/grpc.health.v1.Health/Watch")
		if err := one.SendMsg(&grpc_health_v1.HealthCheckRequest{}); err != nil {
			t.Fatal(err)
		}
		if err := one.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if err := one.RecvMsg(&grpc_health_v1.HealthCheckResponse{}); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("one more who watches: %v", err)
		}
		crowd(-maxWatching)
	})
}

// TestShutdownWaitsForNoStranger: nor for a stream that has not said what it wants.
func TestShutdownWaitsForNoStranger(t *testing.T) {
	strange(t, func(t *testing.T, s *Server, c *grpc.ClientConn) {
		watch, err := grpc_health_v1.NewHealthClient(c).Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := watch.Recv(); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if waited := time.Since(began); waited > 0 {
			t.Errorf("shutdown took %v", waited)
		}
		for err == nil { // it may hear first that the node does not serve
			_, err = watch.Recv()
		}
		if status.Code(err) != codes.Unavailable || status.Convert(err).Message() != shutdownText {
			t.Errorf("the watcher's end: %v", err)
		}
	})
}
