package client_test

import (
	"context"
	"errors"
	"io"
	"strconv"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"

	"github.com/warrenmq/warren/client"
)

// TestStreamsThatGRPCOpensAnew: gRPC may say that a stream has ended when it fails to send, and then open it anew by itself
// and send what had failed (grpc/grpc-go#4691). Nobody must wait for the end of such a stream.
func TestStreamsThatGRPCOpensAnew(t *testing.T) {
	ctx, q := testContext(t), name(t)
	declare(t, connect(t), client.Queue{Name: q, Durable: true})
	for failing := range 2 { // the first that is sent on a stream, and the second
		var streams atomic.Int64
		c, err := client.New([]string{address}, client.WithDialOptions(grpc.WithStreamInterceptor(
			func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
				s, err := open(ctx, desc, cc, method, opts...)
				if err != nil || streams.Add(1) > 1 {
					return s, err
				}
				return &failingStream{ClientStream: s, fails: failing}, nil
			})))
		if err != nil {
			t.Fatal(err)
		}
		p := publisher(t, c)
		for i := range 10 {
			if err := p.Publish(ctx, client.Message{RoutingKey: q, Body: []byte(strconv.Itoa(i))}); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Close(ctx); err != nil {
			t.Fatal(err)
		}
		if n := streams.Load(); n < 2 {
			t.Errorf("%d streams", n)
		}
		streams.Store(0)
		k, err := c.Consume(ctx, q, client.WithCredit(2))
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for len(seen) < 10 {
			d, err := k.Next(ctx)
			if err != nil {
				t.Fatalf("after %d: %v", len(seen), err)
			}
			if seen[string(d.Body)] && !d.Redelivered {
				t.Fatalf("message %s is in the queue twice", d.Body)
			}
			seen[string(d.Body)] = true
			if err := d.Ack(); err != nil && !errors.Is(err, client.ErrLost) {
				t.Fatal(err)
			}
		}
		k.Close()
		awaitEmpty(t, c, q)
		if n := streams.Load(); n < 2 {
			t.Errorf("%d streams of the consumer", n)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCallsThatCannotBeSent: gRPC ends such a call with io.EOF, for the same reason; it is made again.
func TestCallsThatCannotBeSent(t *testing.T) {
	var calls atomic.Int64
	c, err := client.New([]string{address}, client.WithDialOptions(grpc.WithUnaryInterceptor(
		func(ctx context.Context, method string, request, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			if calls.Add(1) == 1 {
				return io.EOF
			}
			return invoke(ctx, method, request, reply, cc, opts...)
		})))
	if err != nil {
		t.Fatal(err)
	}
	declare(t, c, client.Queue{Name: name(t), Durable: true})
	if n := calls.Load(); n != 2 {
		t.Errorf("%d calls", n)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// failingStream sends everything, and says of one request, and all that follow, that the stream has ended.
type failingStream struct {
	grpc.ClientStream
	fails, sent int
}

func (s *failingStream) SendMsg(m any) error {
	s.sent++
	if err := s.ClientStream.SendMsg(m); err != nil || s.sent <= s.fails {
		return err
	}
	return io.EOF
}
