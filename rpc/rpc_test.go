package rpc_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	amqp091 "github.com/rabbitmq/amqp091-go"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/warrenmq/warren/amqp"
	"github.com/warrenmq/warren/auth"
	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/internal/amqptest"
	brokerv1 "github.com/warrenmq/warren/proto/broker/v1"
	"github.com/warrenmq/warren/rpc"
)

// world is a cluster in memory with both front doors on loopback.
type world struct {
	t       *testing.T
	cluster *amqptest.Cluster
	server  *rpc.Server
	conn    *grpc.ClientConn
	amqp    string // its address
	ctx     context.Context

	publishing brokerv1.PublishingServiceClient
	consuming  brokerv1.ConsumingServiceClient
	topology   brokerv1.TopologyServiceClient
	admin      brokerv1.AdminServiceClient
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldWith(t, broker.Options{})
}

func newWorldWith(t *testing.T, o broker.Options) *world {
	t.Helper()
	o.MaxMessageSize = 1 << 20
	w := &world{t: t, cluster: amqptest.NewCluster(t, o)}
	w.server = rpc.NewServer(rpc.Options{Broker: w.cluster.Broker, Version: "test", MaxMessageSize: 1 << 20})
	door := amqp.NewServer(amqp.Options{Broker: w.cluster.Broker, MaxMessageSize: 1 << 20})
	w.amqp = w.serve(door.Serve)
	address := w.serve(w.server.Serve)
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	w.conn = conn
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute) // machines may be busy
	t.Cleanup(func() {
		_ = conn.Close()
		cancel()
		stop, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := errors.Join(w.server.Shutdown(stop), door.Shutdown(stop)); err != nil {
			t.Error(err)
		}
	})
	w.ctx = as(ctx, "guest", "guest")
	w.publishing, w.consuming = brokerv1.NewPublishingServiceClient(conn), brokerv1.NewConsumingServiceClient(conn)
	w.topology, w.admin = brokerv1.NewTopologyServiceClient(conn), brokerv1.NewAdminServiceClient(conn)
	return w
}

func (w *world) serve(f func(net.Listener) error) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- f(l) }()
	w.t.Cleanup(func() {
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	return l.Addr().String()
}

func as(ctx context.Context, user, password string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
}

func (w *world) declare(name string, arguments map[string]*brokerv1.FieldValue) {
	w.t.Helper()
	if _, err := w.topology.DeclareQueue(w.ctx, &brokerv1.DeclareQueueRequest{Name: name, Durable: true, Arguments: arguments}); err != nil {
		w.t.Fatal(err)
	}
}

// publisher is a stream of messages.
type publisher struct {
	w      *world
	stream grpc.BidiStreamingClient[brokerv1.PublishRequest, brokerv1.PublishResponse]
}

func (w *world) publisher(producer string) *publisher {
	w.t.Helper()
	stream, err := w.publishing.Publish(w.ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	p := &publisher{w, stream}
	p.send(&brokerv1.PublishRequest{Request: &brokerv1.PublishRequest_Start{Start: &brokerv1.PublishStart{ProducerId: producer}}})
	return p
}

func (p *publisher) send(r *brokerv1.PublishRequest) {
	p.w.t.Helper()
	if err := p.stream.Send(r); err != nil && !errors.Is(err, io.EOF) {
		p.w.t.Fatal(err)
	}
}

// batch publishes to queues by name, from a number on.
func (p *publisher) batch(first, lowest uint64, queues ...string) {
	b := &brokerv1.PublishBatch{FirstSequence: first, LowestUnconfirmed: lowest}
	for i, q := range queues {
		b.Messages = append(b.Messages, &brokerv1.Message{RoutingKey: q, Body: fmt.Appendf(nil, "%d", first+uint64(i))})
	}
	p.send(&brokerv1.PublishRequest{Request: &brokerv1.PublishRequest_Batch{Batch: b}})
}

// end half-closes and returns all outcomes, one for each number in order, and how the stream ended.
func (p *publisher) end() (outcomes []string, err error) {
	p.w.t.Helper()
	if err := p.stream.CloseSend(); err != nil {
		p.w.t.Fatal(err)
	}
	byNumber := map[uint64]string{}
	for {
		response, err := p.stream.Recv()
		if err != nil {
			var numbers []uint64
			for n := range byNumber {
				numbers = append(numbers, n)
			}
			slices.Sort(numbers)
			for _, n := range numbers {
				outcomes = append(outcomes, fmt.Sprintf("%d %s", n, byNumber[n]))
			}
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return outcomes, err
		}
		for _, c := range response.GetConfirms().GetConfirms() {
			for n := c.FirstSequence; n <= c.LastSequence; n++ {
				if byNumber[n] != "" {
					p.w.t.Errorf("%d was told twice", n)
				}
				byNumber[n] = strings.ToLower(strings.TrimPrefix(c.Outcome.String(), "OUTCOME_"))
				if c.Reason != 0 {
					byNumber[n] += " " + strings.ToLower(strings.TrimPrefix(c.Reason.String(), "ERROR_REASON_"))
				}
			}
		}
	}
}

func (w *world) ready(queue string) uint64 {
	w.t.Helper()
	r, err := w.topology.DeclareQueue(w.ctx, &brokerv1.DeclareQueueRequest{Name: queue, Passive: true})
	if err != nil {
		w.t.Fatal(err)
	}
	return r.Messages
}

func expect(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func number(n int64) map[string]*brokerv1.FieldValue {
	return map[string]*brokerv1.FieldValue{
		"x-max-length": {Kind: &brokerv1.FieldValue_Int64Value{Int64Value: n}},
		"x-overflow":   {Kind: &brokerv1.FieldValue_StringValue{StringValue: "reject-publish"}},
	}
}

func TestOutcomes(t *testing.T) {
	w := newWorld(t)
	w.declare("q", nil)
	w.declare("full", number(1))
	p := w.publisher("")
	p.batch(0, 0, "q", "nowhere", "full", "full", "q")
	p.send(&brokerv1.PublishRequest{Request: &brokerv1.PublishRequest_Batch{Batch: &brokerv1.PublishBatch{Messages: []*brokerv1.Message{
		{Exchange: "no such"}, {RoutingKey: "q"}, {RoutingKey: "q", Body: make([]byte, 1<<20+1)},
		{RoutingKey: "q", Properties: &brokerv1.Properties{Expiration: proto.String("soon")}},
		{RoutingKey: "q", Properties: &brokerv1.Properties{MessageId: proto.String(strings.Repeat("x", 256))}}, {RoutingKey: "q"}}}}})
	outcomes, err := p.end()
	if err != nil {
		t.Fatal(err)
	}
	expect(t, outcomes, "1 confirmed", "2 unroutable", "3 confirmed", "4 rejected queue_full", "5 confirmed", "6 rejected not_found", "7 confirmed",
		"8 rejected precondition_failed", "9 rejected precondition_failed", "10 rejected precondition_failed", "11 confirmed")
	if n := w.ready("q"); n != 4 {
		t.Errorf("%d messages in q", n)
	}
}

func TestAProducersMessagesAreStoredOnce(t *testing.T) {
	w := newWorld(t)
	w.declare("q", nil)
	w.declare("r", nil)
	w.declare("full", number(1))
	for range 3 {
		p := w.publisher("p")
		p.batch(1, 1, "q", "r", "full", "full", "q")
		p.batch(10, 0, "r", "nowhere")
		outcomes, err := p.end()
		if err != nil {
			t.Fatal(err)
		}
		expect(t, outcomes, "1 confirmed", "2 confirmed", "3 confirmed", "4 rejected queue_full", "5 confirmed", "10 confirmed", "11 unroutable")
	}
	other := w.publisher("o")
	other.batch(1, 0, "q")
	if outcomes, err := other.end(); err != nil || len(outcomes) != 1 {
		t.Fatal(outcomes, err)
	}
	if q, r := w.ready("q"), w.ready("r"); q != 3 || r != 2 {
		t.Errorf("%d messages in q, %d in r", q, r)
	}
	late := w.publisher("p")
	late.batch(20, 15, "q")
	if outcomes, err := late.end(); err != nil || len(outcomes) != 1 {
		t.Fatal(outcomes, err)
	}
	again := w.publisher("p")
	again.batch(1, 0, "q")
	outcomes, err := again.end()
	if err != nil {
		t.Fatal(err)
	}
	expect(t, outcomes, "1 rejected refused")
}

func withToken(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "bearer "+token)
}

// TestTokenKeysChange drops a token's key: what was begun with it ends, and what had only logged in does not begin.
func TestTokenKeysChange(t *testing.T) {
	key := func(letter string) []byte {
		return []byte(base64.StdEncoding.EncodeToString([]byte(strings.Repeat(letter, 32))) + "\n")
	}
	tokens, err := auth.ParseTokenKeys(key("a"))
	if err != nil {
		t.Fatal(err)
	}
	w := newWorldWith(t, broker.Options{Tokens: tokens})
	w.declare("q", nil)
	token, err := tokens.Issue("guest", time.Now(), time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	by, _, err := w.consume(&brokerv1.ConsumeStart{Queue: "q"}) // by a password
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	stream, err := w.consuming.Consume(withToken(ctx, token))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&brokerv1.ConsumeRequest{Request: &brokerv1.ConsumeRequest_Start{Start: &brokerv1.ConsumeStart{Queue: "q"}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	id, err := w.cluster.Broker.LoginToken(ctx, token, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tokens.Replace(append(key("b"), key("a")...)); err != nil {
		t.Fatal(err)
	}
	w.cluster.Broker.TokenKeysChanged() // both are good
	opened, err := w.cluster.Broker.Open(ctx, id, "/", broker.ConnOptions{Events: silent{}})
	if err != nil {
		t.Fatal(err)
	}
	opened.Close(ctx)
	if _, err := tokens.Replace(key("b")); err != nil {
		t.Fatal(err)
	}
	var refusal *broker.Error
	if _, err := w.cluster.Broker.Open(ctx, id, "/", broker.ConnOptions{Events: silent{}}); !errors.As(err, &refusal) || refusal.Kind != broker.AccessRefused {
		t.Errorf("a login from before the keys were replaced begins a connection: %v", err)
	}
	w.cluster.Broker.TokenKeysChanged()
	if err := ended(stream, nil); reason(t, err) != "Unavailable CLOSED" {
		t.Error(err)
	}
	p := w.publisher("")
	p.send(&brokerv1.PublishRequest{Request: &brokerv1.PublishRequest_Batch{Batch: &brokerv1.PublishBatch{Messages: []*brokerv1.Message{{RoutingKey: "q"}}}}})
	if _, err := by.Recv(); err != nil {
		t.Errorf("a consumer that logged in by a password: %v", err)
	}
}

// silent is a front door that nobody hears of.
type silent struct{}

func (silent) Wake()                                 {}
func (silent) Blocked(string)                        {}
func (silent) Unblocked()                            {}
func (silent) Closed(*broker.Error)                  {}
func (silent) Failed(*broker.Channel, *broker.Error) {}

// TestTokens logs in by bearer tokens: who shows one has the permissions of its user, and no others.
func TestTokens(t *testing.T) {
	key := func(b string) string { return base64.StdEncoding.EncodeToString([]byte(strings.Repeat(b, 32))) }
	tokens, err := auth.ParseTokenKeys([]byte(key("k")))
	if err != nil {
		t.Fatal(err)
	}
	others, err := auth.ParseTokenKeys([]byte(key("o")))
	if err != nil {
		t.Fatal(err)
	}
	w := newWorldWith(t, broker.Options{Tokens: tokens})
	w.cluster.PutUser("reader", "secret")
	w.cluster.Permit("reader", "^$", "^$", "^q$")
	w.declare("q", nil)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	issue := func(by *auth.Tokens, user string, began time.Time) string {
		token, err := by.Issue(user, began, began.Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	purge := func(token string) error {
		_, err := w.admin.PurgeQueue(withToken(ctx, token), &brokerv1.PurgeQueueRequest{Name: "q"})
		return err
	}
	now := time.Now()
	reader := issue(tokens, "reader", now)
	if err := purge(reader); err != nil {
		t.Errorf("what the user may do: %v", err)
	}
	if _, err := w.topology.DeleteQueue(withToken(ctx, reader), &brokerv1.DeleteQueueRequest{Name: "q"}); reason(t, err) != "PermissionDenied ACCESS_REFUSED" {
		t.Errorf("what the user may not do: %v", err)
	}
	refused := func(name, token string) {
		t.Helper()
		if err := purge(token); reason(t, err) != "Unauthenticated LOGIN_REFUSED" || status.Convert(err).Message() != "login was refused" {
			t.Errorf("%s: %v", name, err)
		}
	}
	refused("expired", issue(tokens, "reader", now.Add(-2*time.Hour)))
	refused("of another cluster", issue(others, "reader", now))
	refused("of nobody", issue(tokens, "nobody", now))
	refused("no token", "x")
	w.cluster.DeleteUser("reader")
	refused("of a user that was deleted", reader)
}

// TestMetrics counts what a stream of each kind and a call did.
func TestMetrics(t *testing.T) {
	w := newWorld(t)
	w.declare("q", nil)
	p := w.publisher("")
	p.batch(0, 0, "q", "q", "q")
	if _, err := p.end(); err != nil {
		t.Fatal(err)
	}
	stream, _, err := w.consume(&brokerv1.ConsumeStart{Queue: "q"})
	if err != nil {
		t.Fatal(err)
	}
	for got := 0; got < 3; {
		response, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		got += len(response.GetDeliveries().GetDeliveries())
	}
	if err := w.topologyError("none"); err == nil {
		t.Fatal("no error")
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(w.server.Metrics())
	want := map[string]float64{
		"warren_grpc_streams":                 1,
		"warren_grpc_messages_received_total": 3,
		"warren_grpc_messages_sent_total":     3,
		"warren_grpc_calls_total code=OK method=warren.broker.v1.TopologyService/DeclareQueue":       1,
		"warren_grpc_calls_total code=NotFound method=warren.broker.v1.TopologyService/DeclareQueue": 1,
		"warren_grpc_calls_total code=OK method=warren.broker.v1.PublishingService/Publish":          1,
	}
	for { // a stream's end is counted a moment after its client has heard of it
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, f := range families {
			for _, m := range f.Metric {
				name := f.GetName()
				for _, l := range m.Label {
					name += " " + l.GetName() + "=" + l.GetValue()
				}
				got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
		if maps.Equal(got, want) {
			return
		}
		if w.ctx.Err() != nil {
			t.Fatalf("metrics %v, want %v", got, want)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (w *world) topologyError(queue string) error {
	_, err := w.topology.DeclareQueue(w.ctx, &brokerv1.DeclareQueueRequest{Name: queue, Passive: true})
	return err
}

// TestAClientThatDoesNotReadConfirms is held up, and goes on when it reads.
func TestAClientThatDoesNotReadConfirms(t *testing.T) {
	w := newWorld(t)
	w.declare("q", nil)
	p := w.publisher("")
	const batches, size = 400, 500
	sent := make(chan struct{}, batches)
	go func() {
		queues := make([]string, size)
		for i := range queues {
			queues[i] = []string{"q", "nowhere"}[i%2]
		}
		for range batches {
			p.batch(0, 0, queues...)
			sent <- struct{}{}
		}
		close(sent)
	}()
	for range 50 {
		<-sent
	}
	// Read from here on; half-close once all is sent.
	go func() {
		for range sent {
		}
		if err := p.stream.CloseSend(); err != nil {
			t.Error(err)
		}
	}()
	counts := map[brokerv1.Outcome]uint64{}
	told := make([]bool, batches*size+1)
	for {
		response, err := p.stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range response.GetConfirms().GetConfirms() {
			counts[c.Outcome] += c.LastSequence - c.FirstSequence + 1
			for n := c.FirstSequence; n <= c.LastSequence; n++ {
				if told[n] {
					t.Fatalf("%d was told twice", n)
				}
				told[n] = true
			}
		}
	}
	if counts[brokerv1.Outcome_OUTCOME_CONFIRMED] != batches*size/2 || counts[brokerv1.Outcome_OUTCOME_UNROUTABLE] != batches*size/2 {
		t.Errorf("outcomes %v", counts)
	}
}

// reason returns the code and the reason of an error.
func reason(t *testing.T, err error) string {
	t.Helper()
	st := status.Convert(err)
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			if info.Domain != "warrenmq" {
				t.Errorf("domain %q", info.Domain)
			}
			return st.Code().String() + " " + info.Reason
		}
	}
	return st.Code().String()
}

func (w *world) consume(start *brokerv1.ConsumeStart) (grpc.BidiStreamingClient[brokerv1.ConsumeRequest, brokerv1.ConsumeResponse], *brokerv1.ConsumeStarted, error) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.ctx)
	w.t.Cleanup(cancel)
	stream, err := w.consuming.Consume(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := stream.Send(&brokerv1.ConsumeRequest{Request: &brokerv1.ConsumeRequest_Start{Start: start}}); err != nil {
		w.t.Fatal(err)
	}
	response, err := stream.Recv()
	return stream, response.GetStarted(), err
}

// TestErrors has every error that a user can cause.
type closer func() error

func (c closer) Close() error { return c() }

func TestANodeThatIsCutOffSaysSo(t *testing.T) {
	w := newWorld(t)
	w.declare("q", nil)
	w.cluster.SetCutOff(true)
	p := w.publisher("p")
	p.batch(1, 0, "q", "q")
	if _, err := p.end(); reason(t, err) != "Unavailable UNAVAILABLE" {
		t.Error(err)
	}
	w.cluster.SetCutOff(false)
	p = w.publisher("p")
	p.batch(1, 0, "q", "q")
	outcomes, err := p.end()
	if err != nil {
		t.Fatal(err)
	}
	expect(t, outcomes, "1 confirmed", "2 confirmed")
	if n := w.ready("q"); n != 2 {
		t.Errorf("%d messages", n)
	}
}

func TestConsume(t *testing.T) {
	w := newWorld(t)
	w.declare("q", nil)
	p := w.publisher("")
	p.batch(1, 0, "q", "q", "q", "q", "q")
	if _, err := p.end(); err != nil {
		t.Fatal(err)
	}
	stream, started, err := w.consume(&brokerv1.ConsumeStart{Queue: "q", Credit: 2})
	if err != nil || started.GetQueue() != "q" || started.GetConsumerTag() == "" {
		t.Fatal(started, err)
	}
	take := func(n int) (got []string) {
		for len(got) < n {
			response, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range response.GetDeliveries().GetDeliveries() {
				got = append(got, fmt.Sprintf("%d %s %t", d.DeliveryTag, d.Message.Body, d.Redelivered))
			}
		}
		return got
	}
	settle := func(tag uint64, multiple bool, s brokerv1.Settlement) {
		t.Helper()
		if err := stream.Send(&brokerv1.ConsumeRequest{Request: &brokerv1.ConsumeRequest_Settles{Settles: &brokerv1.Settles{Settles: []*brokerv1.Settle{{DeliveryTag: tag, Multiple: multiple, Settlement: s}}}}}); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, take(2), "1 1 false", "2 2 false")
	settle(2, false, brokerv1.Settlement_SETTLEMENT_REQUEUE)
	expect(t, take(1), "3 2 true")
	settle(3, true, brokerv1.Settlement_SETTLEMENT_ACK)
	expect(t, take(2), "4 3 false", "5 4 false")
	settle(4, false, brokerv1.Settlement_SETTLEMENT_DISCARD)
	expect(t, take(1), "6 5 false")
	if err := stream.Send(&brokerv1.ConsumeRequest{Request: &brokerv1.ConsumeRequest_SetCredit{SetCredit: &brokerv1.SetCredit{Credit: 0}}}); err != nil {
		t.Fatal(err)
	}
	settle(5, false, brokerv1.Settlement_SETTLEMENT_REQUEUE_FAILED)
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ended with %v", err)
	}
	// What was not settled is back before the stream's end.
	peeked, err := w.admin.PeekQueue(w.ctx, &brokerv1.PeekQueueRequest{Name: "q", MaxMessages: 10})
	if err != nil || peeked.Ready != 2 || len(peeked.Messages) != 2 || string(peeked.Messages[0].Message.Body) != "4" || !peeked.Messages[1].Redelivered {
		t.Errorf("%v, %v", peeked, err)
	}
}

func TestADeletedQueueCancelsItsConsumer(t *testing.T) {
	w := newWorld(t)
	w.declare("q", nil)
	stream, _, err := w.consume(&brokerv1.ConsumeStart{Queue: "q"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.topology.DeleteQueue(w.ctx, &brokerv1.DeleteQueueRequest{Name: "q"}); err != nil {
		t.Fatal(err)
	}
	response, err := stream.Recv()
	if err != nil || response.GetCancelled() == nil {
		t.Errorf("%v, %v", response, err)
	}
}

func TestGet(t *testing.T) {
	w := newWorld(t)
	w.declare("q", nil)
	p := w.publisher("")
	p.batch(1, 0, "q", "q")
	if _, err := p.end(); err != nil {
		t.Fatal(err)
	}
	stream, err := w.consuming.Get(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	get := func(auto bool) *brokerv1.GetResponse {
		t.Helper()
		if err := stream.Send(&brokerv1.GetRequest{Request: &brokerv1.GetRequest_Fetch{Fetch: &brokerv1.Fetch{Queue: "q", AutoSettle: auto}}}); err != nil {
			t.Fatal(err)
		}
		response, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return response
	}
	if r := get(false); string(r.GetDelivery().GetMessage().GetBody()) != "1" || r.MessagesLeft != 1 {
		t.Error(r)
	}
	if r := get(true); string(r.GetDelivery().GetMessage().GetBody()) != "2" || r.MessagesLeft != 0 {
		t.Error(r)
	}
	if r := get(true); r.Delivery != nil {
		t.Error(r)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if n := w.ready("q"); n != 1 {
		t.Errorf("%d messages after the end", n)
	}
}

func TestLists(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"a", "b", "c"} {
		w.declare(name, number(7))
	}
	if _, err := w.topology.DeclareExchange(w.ctx, &brokerv1.DeclareExchangeRequest{Name: "x", Type: "topic"}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		if _, err := w.topology.Bind(w.ctx, &brokerv1.BindRequest{Binding: &brokerv1.Binding{Source: "x", Destination: name, RoutingKey: "k.#"}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.topology.Bind(w.ctx, &brokerv1.BindRequest{Binding: &brokerv1.Binding{Source: "amq.topic", Destination: "x", RoutingKey: "#",
		DestinationType: brokerv1.DestinationType_DESTINATION_TYPE_EXCHANGE}}); err != nil {
		t.Fatal(err)
	}
	p := w.publisher("")
	p.send(&brokerv1.PublishRequest{Request: &brokerv1.PublishRequest_Batch{Batch: &brokerv1.PublishBatch{Messages: []*brokerv1.Message{{Exchange: "amq.topic", RoutingKey: "k.1", Body: []byte("12345")}}}}})
	if outcomes, err := p.end(); err != nil || len(outcomes) != 1 || outcomes[0] != "1 confirmed" {
		t.Fatal(outcomes, err)
	}
	var names []string
	token := ""
	for {
		page, err := w.admin.ListQueues(w.ctx, &brokerv1.ListQueuesRequest{PageSize: 2, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range page.Queues {
			names = append(names, fmt.Sprintf("%s %t %d %d", q.Name, q.Durable, q.Counts.Ready, q.Arguments["x-max-length"].GetInt64Value()))
		}
		if token = page.NextPageToken; token == "" {
			break
		}
	}
	expect(t, names, "a true 1 7", "b true 1 7", "c true 0 7")
	exchanges, err := w.admin.ListExchanges(w.ctx, &brokerv1.ListExchangesRequest{})
	if err != nil || len(exchanges.Exchanges) != 7 || exchanges.Exchanges[6].Name != "x" || exchanges.Exchanges[6].Type != "topic" {
		t.Errorf("%v, %v", exchanges, err)
	}
	bindings, err := w.admin.ListBindings(w.ctx, &brokerv1.ListBindingsRequest{PageSize: 1, PageToken: "1"})
	if err != nil || len(bindings.Bindings) != 1 || bindings.Bindings[0].Destination != "a" || bindings.NextPageToken != "2" {
		t.Errorf("%v, %v", bindings, err)
	}
	if all, err := w.admin.ListBindings(w.ctx, &brokerv1.ListBindingsRequest{Source: "x", Destination: "b"}); err != nil || len(all.Bindings) != 1 {
		t.Errorf("%v, %v", all, err)
	}
	w.cluster.PutUser("reader", "secret")
	w.cluster.Permit("reader", "^$", "^$", "^b$")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if page, err := w.admin.ListQueues(as(ctx, "reader", "secret"), &brokerv1.ListQueuesRequest{}); err != nil || len(page.Queues) != 1 {
		t.Errorf("%v, %v", page, err)
	}
	if r, err := w.admin.PurgeQueue(w.ctx, &brokerv1.PurgeQueueRequest{Name: "a"}); err != nil || r.Messages != 1 {
		t.Errorf("%v, %v", r, err)
	}
	if peeked, err := w.admin.PeekQueue(w.ctx, &brokerv1.PeekQueueRequest{Name: "b", MaxBodyBytes: 2}); err != nil || string(peeked.Messages[0].Message.Body) != "12" || peeked.Messages[0].BodyBytes != 5 {
		t.Errorf("%v, %v", peeked, err)
	}
	if st, err := w.admin.GetStatus(w.ctx, &brokerv1.GetStatusRequest{}); err != nil || st.Node != "n" || st.Version != "test" || !st.Current || len(st.Nodes) != 1 {
		t.Errorf("%v, %v", st, err)
	}
}

// TestCrossing sends a message by each door and reads it by the other.
func TestCrossing(t *testing.T) {
	w := newWorld(t)
	w.declare("q", nil)
	conn, err := amqp091.Dial("amqp://guest:guest@" + w.amqp + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	sent := amqp091.Publishing{Headers: amqp091.Table{"text": "t", "int": int32(-7), "long": int64(1) << 40, "byte": byte(200), "float": float32(1.5), "double": 2.5,
		"bytes": []byte{0, 0xff}, "bool": true, "nothing": nil, "time": time.Unix(1700000000, 0), "decimal": amqp091.Decimal{Scale: 2, Value: 314},
		"list": []any{"a", int16(1)}, "table": amqp091.Table{"k": "v"}},
		ContentType: "text/plain", ContentEncoding: "gzip", DeliveryMode: 2, Priority: 3, CorrelationId: "c\xff", ReplyTo: "r", Expiration: "60000",
		MessageId: "m", Timestamp: time.Unix(1700000001, 0), Type: "ty", UserId: "guest", AppId: "app", Body: []byte("body")}
	if err := ch.PublishWithContext(w.ctx, "", "q", false, false, sent); err != nil {
		t.Fatal(err)
	}
	stream, _, err := w.consume(&brokerv1.ConsumeStart{Queue: "q", AutoSettle: true})
	if err != nil {
		t.Fatal(err)
	}
	response, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	m := response.GetDeliveries().GetDeliveries()[0].GetMessage()
	if p := m.GetProperties(); p.GetContentType() != "text/plain" || p.GetDeliveryMode() != 2 || p.GetPriority() != 3 || p.GetTimestampSeconds() != 1700000001 ||
		p.GetHeaders()["int"].GetInt32Value() != -7 || p.GetHeaders()["table"].GetTableValue().GetFields()["k"].GetStringValue() != "v" || len(p.GetHeaders()) != 13 {
		t.Errorf("properties %v", p)
	}
	// Back by gRPC, read by AMQP.
	w.declare("back", nil)
	m.RoutingKey = "back"
	p := w.publisher("")
	p.send(&brokerv1.PublishRequest{Request: &brokerv1.PublishRequest_Batch{Batch: &brokerv1.PublishBatch{Messages: []*brokerv1.Message{m}}}})
	if outcomes, err := p.end(); err != nil || outcomes[0] != "1 confirmed" {
		t.Fatal(outcomes, err)
	}
	got, ok, err := ch.Get("back", true)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	for key, want := range sent.Headers {
		if fmt.Sprintf("%T %v", got.Headers[key], got.Headers[key]) != fmt.Sprintf("%T %v", want, want) {
			t.Errorf("header %s is %T %v, was %T %v", key, got.Headers[key], got.Headers[key], want, want)
		}
	}
	if got.ContentType != sent.ContentType || got.ContentEncoding != sent.ContentEncoding || got.DeliveryMode != 2 || got.Priority != 3 || got.CorrelationId != "c\xff" ||
		got.ReplyTo != "r" || got.Expiration != "60000" || got.MessageId != "m" || !got.Timestamp.Equal(sent.Timestamp) || got.Type != "ty" || got.UserId != "guest" ||
		got.AppId != "app" || string(got.Body) != "body" {
		t.Errorf("%+v", got)
	}
}

// TestTheLongestPropertiesFitIntoAFrameOfAMQP: what a client of gRPC publishes does not end the connection of one of AMQP that
// gets it, the first time or again.
func TestTheLongestPropertiesFitIntoAFrameOfAMQP(t *testing.T) {
	w := newWorld(t)
	w.declare("q", nil)
	p := w.publisher("")
	p.send(&brokerv1.PublishRequest{Request: &brokerv1.PublishRequest_Batch{Batch: &brokerv1.PublishBatch{Messages: []*brokerv1.Message{
		{RoutingKey: "q", Properties: longProperties(broker.MaxProperties)}, {RoutingKey: "q", Properties: longProperties(broker.MaxProperties + 1)}}}}})
	outcomes, err := p.end()
	if err != nil {
		t.Fatal(err)
	}
	expect(t, outcomes, "1 confirmed", "2 rejected precondition_failed")
	conn, err := amqp091.Dial("amqp://guest:guest@" + w.amqp + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	for again := range 2 {
		got, ok, err := ch.Get("q", false)
		if err != nil || !ok || got.Redelivered != (again > 0) || len(got.Headers["text"].(string)) < broker.MaxProperties-100 {
			t.Fatalf("got %t, redelivered %t: %v", ok, got.Redelivered, err)
		}
		if err := got.Reject(true); err != nil {
			t.Fatal(err)
		}
	}
}

// TestManyStreams: a client may have a thousand consumers on its one connection, and still make calls.
func TestManyStreams(t *testing.T) {
	w := newWorld(t)
	w.declare("q", nil)
	for range 1001 {
		if _, _, err := w.consume(&brokerv1.ConsumeStart{Queue: "q"}); err != nil {
			t.Fatal(err)
		}
	}
	r, err := w.topology.DeclareQueue(w.ctx, &brokerv1.DeclareQueueRequest{Name: "q", Passive: true})
	if err != nil || r.Consumers != 1001 {
		t.Errorf("%v, %v", r, err)
	}
}

func TestHealthAndReflection(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, service := range []string{"", "warren.broker.v1.PublishingService", "warren.broker.v1.ConsumingService", "warren.broker.v1.TopologyService", "warren.broker.v1.AdminService"} {
		r, err := grpc_health_v1.NewHealthClient(w.conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: service})
		if err != nil || r.Status != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Errorf("health of %q: %v, %v", service, r, err)
		}
	}
	if all, err := grpc_health_v1.NewHealthClient(w.conn).List(ctx, &grpc_health_v1.HealthListRequest{}); err != nil || len(all.Statuses) != 5 {
		t.Errorf("health of all: %v, %v", all, err)
	}
	stream, err := reflectionv1.NewServerReflectionClient(w.conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	response, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range response.GetListServicesResponse().GetService() {
		names = append(names, s.Name)
	}
	slices.Sort(names)
	if want := []string{"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection",
		"warren.broker.v1.AdminService", "warren.broker.v1.ConsumingService", "warren.broker.v1.PublishingService", "warren.broker.v1.TopologyService"}; !slices.Equal(names, want) {
		t.Errorf("reflection lists %q, want %q", names, want)
	}
	for _, name := range names { // and describes each, with all its methods
		if err := stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: name}}); err != nil {
			t.Fatal(err)
		}
		response, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if len(response.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
			t.Errorf("%s is not described: %v", name, response)
		}
	}
}

func TestShutdownEndsStreams(t *testing.T) {
	w := newWorld(t)
	w.declare("q", nil)
	stream, _, err := w.consume(&brokerv1.ConsumeStart{Queue: "q"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := w.server.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); reason(t, err) != "Unavailable CLOSED" {
		t.Error(err)
	}
}

// TestShutdownWaitsForNoSilentStream: a stream that has not said what it wants holds nothing up.
func TestShutdownWaitsForNoSilentStream(t *testing.T) {
	w := newWorld(t)
	publishing, err := w.publishing.Publish(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	consuming, err := w.consuming.Consume(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	w.declare("q", nil) // on the same connection: the server has the streams
	if err := w.server.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	for i, stream := range []grpc.ClientStream{publishing, consuming} {
		if err := stream.RecvMsg(&brokerv1.PublishResponse{}); status.Code(err) != codes.Unavailable {
			t.Errorf("stream %d: %v", i, err)
		}
	}
}

func TestPublishersAreToldThatTheyAreBlocked(t *testing.T) {
	w := newWorld(t)
	w.declare("q", nil)
	w.cluster.Broker.Alarm("low on memory")
	p := w.publisher("")
	p.batch(1, 0, "q")
	blocked := func() string {
		for {
			response, err := p.stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if b := response.GetBlocked(); b != nil {
				return b.Reason
			}
		}
	}
	if reason := blocked(); reason != "low on memory" {
		t.Errorf("blocked for %q", reason)
	}
	w.cluster.Broker.Alarm("")
	if reason := blocked(); reason != "" {
		t.Errorf("blocked for %q", reason)
	}
	if _, err := p.end(); err != nil {
		t.Error(err)
	}
}

func TestCallsOfHealthNeedNoCredentials(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := grpc_health_v1.NewHealthClient(w.conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Error(err)
	}
}
