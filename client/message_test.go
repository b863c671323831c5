package client_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	amqp091 "github.com/rabbitmq/amqp091-go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/warrenmq/warren/client"
	brokerv1 "github.com/warrenmq/warren/proto/broker/v1"
)

// TestMessagesThatCannotBeSent: such a message has an error, and what is published before and after it does not.
func TestMessagesThatCannotBeSent(t *testing.T) {
	ctx, c, q := testContext(t), connect(t), name(t)
	declare(t, c, client.Queue{Name: q, Durable: true})
	p := publisher(t, c)
	for _, bad := range []client.Message{
		{Exchange: "\xff"}, {RoutingKey: "\xff"}, {RoutingKey: q, CorrelationID: "\xff"}, {RoutingKey: q, Headers: map[string]any{"h": "\xff"}},
		{RoutingKey: q, Headers: map[string]any{"\xff": 1}}, {RoutingKey: q, Headers: map[string]any{"h": []any{map[string]any{"in": "\xff"}}}},
	} {
		if err := p.Publish(ctx, bad); err == nil {
			t.Errorf("%+v was published", bad)
		}
		if err := p.Publish(ctx, client.Message{RoutingKey: q}); err != nil {
			t.Fatalf("after %+v: %v", bad, err)
		}
	}
	if _, err := c.Publisher(client.WithProducer("\xff", 1)); err == nil {
		t.Error("a producer whose name cannot be sent")
	}
	if err := p.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

// TestTooLargeForARequest publishes what gRPC itself refuses, among messages that are under way: it alone is rejected.
func TestTooLargeForARequest(t *testing.T) {
	ctx, c, q := testContext(t), connect(t), name(t)
	declare(t, c, client.Queue{Name: q, Durable: true})
	p := publisher(t, c)
	small, large := client.Message{RoutingKey: q, Body: []byte("small")}, client.Message{RoutingKey: q, Body: make([]byte, 21<<20)}
	outcomes := make([]error, 30)
	for i := range outcomes {
		m := small
		if i%10 == 5 {
			m = large
		}
		if err := p.PublishAsync(ctx, m, func(err error) { outcomes[i] = err }); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Close(ctx); err != nil {
		t.Fatal(err)
	}
	for i, err := range outcomes {
		var rejected *client.Rejected
		switch large := i%10 == 5; {
		case large && (!errors.As(err, &rejected) || rejected.Reason != client.PreconditionFailed || !strings.Contains(rejected.Text, "too large")):
			t.Errorf("the large message %d: %v", i, err)
		case !large && err != nil:
			t.Errorf("message %d: %v", i, err)
		}
	}
	if info, err := c.InspectQueue(ctx, q); err != nil || info.Messages != 27 {
		t.Errorf("%+v, %v", info, err)
	}
}

// TestLargeHeaders: what a request may have is not a matter of bodies alone.
func TestLargeHeaders(t *testing.T) {
	ctx, c, q := testContext(t), connect(t), name(t)
	declare(t, c, client.Queue{Name: q, Durable: true})
	p := publisher(t, c)
	m := client.Message{RoutingKey: q, Headers: map[string]any{"h": strings.Repeat("x", 40<<10)}}
	var confirmed atomic.Int64
	for range 1500 {
		if err := p.PublishAsync(ctx, m, func(err error) {
			if err != nil {
				t.Error(err)
			}
			confirmed.Add(1)
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if n := confirmed.Load(); n != 1500 {
		t.Errorf("%d confirmed", n)
	}
}

// TestPassingOn publishes what was received: it stays what it was, but for what was changed.
func TestPassingOn(t *testing.T) {
	ctx, c, q := testContext(t), connect(t), name(t)
	declare(t, c, client.Queue{Name: q, Durable: true})
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw := metadata.AppendToOutgoingContext(ctx, "authorization", "Basic Z3Vlc3Q6Z3Vlc3Q=") // guest:guest
	p := publisher(t, c)
	pass := func(change func(*client.Message)) *brokerv1.Properties {
		t.Helper()
		d, err := c.Get(ctx, q, true)
		if err != nil {
			t.Fatal(err)
		}
		change(&d.Message)
		if err := p.Publish(ctx, d.Message); err != nil {
			t.Fatal(err)
		}
		return rawGet(t, raw, conn, q)
	}
	unchanged := func(*client.Message) {}
	sent := &brokerv1.Properties{ClusterId: proto.String("c"), Priority: proto.Uint32(0), Type: proto.String(""), Expiration: proto.String("86400000")}
	rawPublish(t, raw, conn, q, sent)
	if got := pass(unchanged); !proto.Equal(got, sent) {
		t.Errorf("%v came back as %v", sent, got)
	}
	rawPublish(t, raw, conn, q, sent)
	got := pass(func(m *client.Message) { m.AppID = "a" })
	if got.GetClusterId() != "c" || got.Priority == nil || got.GetAppId() != "a" {
		t.Errorf("%v came back as %v", sent, got)
	}
	// Texts that are not UTF-8, of a client that may.
	other, err := amqp091.Dial(amqpURL)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	ch, err := other.Channel()
	if err != nil {
		t.Fatal(err)
	}
	confirms := ch.NotifyPublish(make(chan amqp091.Confirmation, 1))
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	publish := func() {
		if err := ch.PublishWithContext(ctx, "", q, false, false, amqp091.Publishing{CorrelationId: "\xff", Headers: amqp091.Table{"h": "\xfe"}}); err != nil {
			t.Fatal(err)
		}
		if c := <-confirms; !c.Ack {
			t.Fatal("not confirmed")
		}
	}
	publish()
	if got := pass(unchanged); !bytes.Contains(got.GetAmqpEncoded(), []byte("\xff")) || !bytes.Contains(got.GetAmqpEncoded(), []byte("\xfe")) {
		t.Errorf("what is not UTF-8 came back as %v", got)
	}
	publish()
	got = pass(func(m *client.Message) {
		if h, ok := m.Headers["h"].(client.Octets); !ok || string(h) != "\xfe" {
			t.Errorf("the header is %#v", m.Headers["h"])
		}
		m.CorrelationID = "mended"
	})
	if got.GetCorrelationId() != "mended" || string(got.GetHeaders()["h"].GetOctetsValue()) != "\xfe" {
		t.Errorf("with another correlation id it came back as %v", got)
	}
}

func rawPublish(t *testing.T, ctx context.Context, conn *grpc.ClientConn, queue string, p *brokerv1.Properties) {
	t.Helper()
	stream, err := brokerv1.NewPublishingServiceClient(conn).Publish(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []*brokerv1.PublishRequest{
		{Request: &brokerv1.PublishRequest_Start{Start: &brokerv1.PublishStart{}}},
		{Request: &brokerv1.PublishRequest_Batch{Batch: &brokerv1.PublishBatch{Messages: []*brokerv1.Message{{RoutingKey: queue, Properties: p}}}}},
	} {
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
	}
	r, err := stream.Recv()
	if err != nil || len(r.GetConfirms().GetConfirms()) != 1 || r.GetConfirms().GetConfirms()[0].Outcome != brokerv1.Outcome_OUTCOME_CONFIRMED {
		t.Fatal(r, err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
}

func rawGet(t *testing.T, ctx context.Context, conn *grpc.ClientConn, queue string) *brokerv1.Properties {
	t.Helper()
	stream, err := brokerv1.NewConsumingServiceClient(conn).Get(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&brokerv1.GetRequest{Request: &brokerv1.GetRequest_Fetch{Fetch: &brokerv1.Fetch{Queue: queue, AutoSettle: true}}}); err != nil {
		t.Fatal(err)
	}
	r, err := stream.Recv()
	if err != nil || r.GetDelivery() == nil {
		t.Fatal(r, err)
	}
	return r.GetDelivery().GetMessage().GetProperties()
}
