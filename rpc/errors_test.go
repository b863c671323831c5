package rpc_test

import (
	"context"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/warrenmq/warren/broker"
	brokerv1 "github.com/warrenmq/warren/proto/broker/v1"
)

// errorCases makes each error that a user can cause by a call or a stream. Those of single messages are outcomes: see
// TestOutcomes; those of a broker that is not well have tests of their own.
type errorCases struct {
	*world
	background context.Context // without credentials
}

type errorCase struct {
	name, want, text string
	got              error
}

// ended sends requests on a stream and returns the error that ends it.
func ended[Q, R any](stream grpc.BidiStreamingClient[Q, R], err error, requests ...*Q) error {
	if err != nil {
		return err
	}
	for _, r := range requests {
		_ = stream.Send(r)
	}
	for err == nil {
		_, err = stream.Recv()
	}
	return err
}

func (c *errorCases) declare(ctx context.Context, r *brokerv1.DeclareQueueRequest) error {
	_, err := c.topology.DeclareQueue(ctx, r)
	return err
}

func (c *errorCases) named(ctx context.Context) error {
	return c.declare(ctx, &brokerv1.DeclareQueueRequest{Name: "a"})
}

func (c *errorCases) authorized(value string) error {
	return c.named(metadata.AppendToOutgoingContext(c.background, "authorization", value))
}

func (c *errorCases) arguments(name string, v *brokerv1.FieldValue) error {
	return c.declare(c.ctx, &brokerv1.DeclareQueueRequest{Name: "a", Arguments: map[string]*brokerv1.FieldValue{name: v}})
}

func (c *errorCases) bind(b *brokerv1.Binding) error {
	_, err := c.topology.Bind(c.ctx, &brokerv1.BindRequest{Binding: b})
	return err
}

func (c *errorCases) publish(requests ...*brokerv1.PublishRequest) error {
	stream, err := c.publishing.Publish(c.ctx)
	return ended(stream, err, requests...)
}

func (c *errorCases) consumed(start *brokerv1.ConsumeStart, requests ...*brokerv1.ConsumeRequest) error {
	stream, err := c.consuming.Consume(c.ctx)
	all := append([]*brokerv1.ConsumeRequest{{Request: &brokerv1.ConsumeRequest_Start{Start: start}}}, requests...)
	return ended(stream, err, all...)
}

func (c *errorCases) settle(s *brokerv1.Settle) error {
	return c.consumed(&brokerv1.ConsumeStart{Temporary: &brokerv1.TemporaryQueue{}},
		&brokerv1.ConsumeRequest{Request: &brokerv1.ConsumeRequest_Settles{Settles: &brokerv1.Settles{Settles: []*brokerv1.Settle{s}}}})
}

func (c *errorCases) fetch(r *brokerv1.GetRequest) error {
	stream, err := c.consuming.Get(c.ctx)
	return ended(stream, err, r)
}

func (c *errorCases) peek(r *brokerv1.PeekQueueRequest) error {
	_, err := c.admin.PeekQueue(c.ctx, r)
	return err
}

func start(producer string) *brokerv1.PublishRequest {
	return &brokerv1.PublishRequest{Request: &brokerv1.PublishRequest_Start{Start: &brokerv1.PublishStart{ProducerId: producer}}}
}

func batch(first, lowest uint64) *brokerv1.PublishRequest {
	return &brokerv1.PublishRequest{Request: &brokerv1.PublishRequest_Batch{Batch: &brokerv1.PublishBatch{FirstSequence: first, LowestUnconfirmed: lowest,
		Messages: []*brokerv1.Message{{RoutingKey: "q"}, {RoutingKey: "q"}}}}}
}

func textValue(s string) *brokerv1.FieldValue {
	return &brokerv1.FieldValue{Kind: &brokerv1.FieldValue_StringValue{StringValue: s}}
}

const (
	refusedLogin = "Unauthenticated LOGIN_REFUSED"
	senseless    = "InvalidArgument INVALID_ARGUMENT"
	failedCheck  = "FailedPrecondition PRECONDITION_FAILED"
	noAccess     = "PermissionDenied ACCESS_REFUSED"
	locked       = "FailedPrecondition RESOURCE_LOCKED"
	missing      = "NotFound NOT_FOUND"
)

func TestErrors(t *testing.T) {
	w := newWorld(t)
	w.declare("q", nil)
	w.cluster.PutUser("reader", "secret")
	w.cluster.Permit("reader", "^$", "^$", "^q$")
	w.cluster.PutUser("nobody", "secret")
	first, _, err := w.consume(&brokerv1.ConsumeStart{Queue: "q", Exclusive: true})
	if err != nil {
		t.Fatal(err)
	}
	w.declare("shared", nil)
	shared, _, err := w.consume(&brokerv1.ConsumeStart{Queue: "shared"})
	if err != nil {
		t.Fatal(err)
	}
	temporary, started, err := w.consume(&brokerv1.ConsumeStart{Temporary: &brokerv1.TemporaryQueue{}})
	if err != nil {
		t.Fatal(err)
	}
	background, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	c := &errorCases{w, background}
	reader := as(background, "reader", "secret")
	long := strings.Repeat("x", 256)
	_, purged := w.admin.PurgeQueue(w.ctx, &brokerv1.PurgeQueueRequest{})
	_, purgedNone := w.admin.PurgeQueue(w.ctx, &brokerv1.PurgeQueueRequest{Name: "none"})
	_, unnamed := w.topology.DeclareExchange(w.ctx, &brokerv1.DeclareExchangeRequest{Type: "topic"})
	_, noType := w.topology.DeclareExchange(w.ctx, &brokerv1.DeclareExchangeRequest{Name: "x", Type: "none"})
	_, unlike := w.topology.DeclareExchange(w.ctx, &brokerv1.DeclareExchangeRequest{Name: "amq.topic", Type: "fanout"})
	_, inUse := w.topology.DeleteQueue(w.ctx, &brokerv1.DeleteQueueRequest{Name: "q", IfUnused: true})
	_, token := w.admin.ListBindings(w.ctx, &brokerv1.ListBindingsRequest{PageToken: "x"})
	for _, e := range []errorCase{
		{"no credentials", refusedLogin, "no credentials: metadata must have authorization: Basic … or Bearer …", c.named(background)},
		{"wrong password", refusedLogin, "login was refused", c.named(as(background, "guest", "wrong"))},
		{"no such user", refusedLogin, "login was refused", c.named(as(background, "none", "wrong"))},
		{"unknown scheme", refusedLogin, "unknown scheme of authorization: only Basic and Bearer are known", c.authorized("Digest x")},
		{"malformed credentials", refusedLogin, "malformed credentials", c.authorized("Basic x")},
		{"no password", refusedLogin, "malformed credentials", c.authorized("Basic Z3Vlc3Q=")},
		{"token of a node that takes none", refusedLogin, "login was refused", c.authorized("Bearer x")},
		{"no permission for vhost", "PermissionDenied NOT_ALLOWED", "access to vhost '/' refused for user 'nobody'", c.named(as(background, "nobody", "secret"))},
		{"no such vhost", "PermissionDenied NOT_ALLOWED", "vhost none not found", c.named(metadata.AppendToOutgoingContext(w.ctx, "warren-vhost", "none"))},
		{"may not configure", noAccess, "configure access to queue 'a' in vhost '/' refused for user 'reader'", c.named(reader)},
		{"reserved name", noAccess, "queue name 'amq.x' contains reserved prefix 'amq.*'", c.declare(w.ctx, &brokerv1.DeclareQueueRequest{Name: "amq.x"})},
		{"no such queue", missing, "no queue 'none' in vhost '/'", c.declare(w.ctx, &brokerv1.DeclareQueueRequest{Name: "none", Passive: true})},
		{"another declaration", failedCheck, "inequivalent arg 'durable' for queue 'q' in vhost '/': received 'false' but current is 'true'", c.declare(w.ctx, &brokerv1.DeclareQueueRequest{Name: "q"})},
		{"wrong argument", failedCheck, `invalid arg 'x-max-length' for queue 'a' in vhost '/': "expected integer, got longstr"`, c.arguments("x-max-length", textValue("x"))},
		{"value out of range", senseless, "arguments: x: 200 is not from -128 to 127", c.arguments("x", &brokerv1.FieldValue{Kind: &brokerv1.FieldValue_Int8Value{Int8Value: 200}})},
		{"long argument", senseless, "arguments: a name of 256 bytes is longer than 255", c.arguments(long, textValue("x"))},
		{"long arguments", senseless, "arguments of 65553 bytes are longer than 65536", c.arguments("x", textValue(strings.Repeat("x", 65536)))},
		{"long arguments of a binding", senseless, "arguments of 65553 bytes are longer than 65536", c.bind(&brokerv1.Binding{Source: "amq.topic", Destination: "q",
			Arguments: map[string]*brokerv1.FieldValue{"x": textValue(strings.Repeat("x", 65536))}})},
		{"bind a long name", senseless, "a name of 256 bytes is longer than 255", c.bind(&brokerv1.Binding{Source: "amq.topic", Destination: long})},
		{"consume a long name", senseless, "a name of 256 bytes is longer than 255", c.consumed(&brokerv1.ConsumeStart{Queue: long})},
		{"make a temporary queue of a long name", senseless, "a name of 256 bytes is longer than 255", c.consumed(&brokerv1.ConsumeStart{Queue: long, Temporary: &brokerv1.TemporaryQueue{}})},
		{"long arguments of a temporary queue", senseless, "arguments of 65553 bytes are longer than 65536", c.consumed(&brokerv1.ConsumeStart{
			Temporary: &brokerv1.TemporaryQueue{Arguments: map[string]*brokerv1.FieldValue{"x": textValue(strings.Repeat("x", 65536))}}})},
		{"get of a long name", senseless, "a name of 256 bytes is longer than 255", c.fetch(&brokerv1.GetRequest{Request: &brokerv1.GetRequest_Fetch{Fetch: &brokerv1.Fetch{Queue: long}}})},
		{"long name", senseless, "a name of 256 bytes is longer than 255", c.declare(w.ctx, &brokerv1.DeclareQueueRequest{Name: long})},
		{"another's queue", locked, "cannot obtain exclusive access to locked queue '" + started.GetQueue() + "' in vhost '/'. It could be originally declared on another " +
			"connection or the exclusive property value does not match that of the original declaration.", c.declare(w.ctx, &brokerv1.DeclareQueueRequest{Name: started.GetQueue(), Passive: true})},
		{"delete in use", failedCheck, "queue 'q' in vhost '/' in use", inUse},
		{"exchange without a name", noAccess, "operation not permitted on the default exchange", unnamed},
		{"unknown type", failedCheck, "unknown exchange type 'none'", noType},
		{"another type", failedCheck, "inequivalent arg 'type' for exchange 'amq.topic' in vhost '/': received 'fanout' but current is 'topic'", unlike},
		{"bind to nothing", senseless, "no destination", c.bind(&brokerv1.Binding{Source: "amq.topic"})},
		{"bind no such exchange", missing, "no exchange 'none' in vhost '/'", c.bind(&brokerv1.Binding{Source: "none", Destination: "q"})},
		{"bind no such queue", missing, "no queue 'none' in vhost '/'", c.bind(&brokerv1.Binding{Source: "amq.topic", Destination: "none"})},
		{"bind the default", noAccess, "operation not permitted on the default exchange", c.bind(&brokerv1.Binding{Destination: "q"})},
		{"bind by a long key", senseless, "a routing key of 256 bytes is longer than 255", c.bind(&brokerv1.Binding{Source: "amq.topic", Destination: "q", RoutingKey: long})},
		{"publish too many at once", senseless, "a batch of more than 65536 messages", c.publish(start(""), &brokerv1.PublishRequest{Request: &brokerv1.PublishRequest_Batch{
			Batch: &brokerv1.PublishBatch{Messages: slices.Repeat([]*brokerv1.Message{{}}, 1<<16+1)}}})},
		{"publish without start", senseless, "the first request of a stream must have start", c.publish(batch(1, 0))},
		{"start twice", senseless, "a request without batch", c.publish(start(""), start(""))},
		{"long producer", senseless, "a producer id of 256 bytes is longer than 255", c.publish(start(long))},
		{"numbers that fall", senseless, "number 5 after 6: numbers must grow", c.publish(start(""), batch(5, 0), batch(5, 0))},
		{"number too large", senseless, "number 18446744073709551615 is too large", c.publish(start(""), batch(math.MaxUint64, 0))},
		{"number that ends too large", senseless, "number 9223372036854775808 is too large", c.publish(start(""), batch(1<<63, 0))},
		{"numbers below the lowest", senseless, "numbers 5 to 6 with 6 as the lowest unconfirmed: it must not be above them, nor 16384 or more below", c.publish(start("p"), batch(5, 6))},
		{"numbers too far apart", senseless, "numbers 16389 to 16390 with 5 as the lowest unconfirmed: it must not be above them, nor 16384 or more below", c.publish(start("p"), batch(5, 0), batch(5+16384, 0))},
		{"consume without start", senseless, "the first request of a stream must have start", func() error {
			stream, err := w.consuming.Consume(w.ctx)
			return ended(stream, err, &brokerv1.ConsumeRequest{Request: &brokerv1.ConsumeRequest_SetCredit{}})
		}()},
		{"consume no queue", senseless, "no queue", c.consumed(&brokerv1.ConsumeStart{})},
		{"consume no such queue", missing, "no queue 'none' in vhost '/'", c.consumed(&brokerv1.ConsumeStart{Queue: "none"})},
		{"in exclusive use", locked, "queue 'q' in vhost '/' in exclusive use", c.consumed(&brokerv1.ConsumeStart{Queue: "q"})},
		{"exclusive use of what others consume", locked, "queue 'shared' in vhost '/' in exclusive use", c.consumed(&brokerv1.ConsumeStart{Queue: "shared", Exclusive: true})},
		{"long consumer tag", senseless, "a consumer tag of 256 bytes is longer than 255", c.consumed(&brokerv1.ConsumeStart{Queue: "q", ConsumerTag: long})},
		{"start a consumer twice", senseless, "a request without settles, set_credit and extend_leases", c.consumed(&brokerv1.ConsumeStart{Temporary: &brokerv1.TemporaryQueue{}}, &brokerv1.ConsumeRequest{})},
		{"unknown delivery", failedCheck, "unknown delivery tag 7", c.settle(&brokerv1.Settle{DeliveryTag: 7, Settlement: brokerv1.Settlement_SETTLEMENT_ACK})},
		{"no settlement", senseless, "no settlement", c.settle(&brokerv1.Settle{DeliveryTag: 7})},
		{"no delivery", senseless, "no delivery tag", c.settle(&brokerv1.Settle{Settlement: brokerv1.Settlement_SETTLEMENT_ACK})},
		{"many failed", senseless, "only single deliveries can be settled as failed", c.settle(&brokerv1.Settle{Multiple: true, Settlement: brokerv1.Settlement_SETTLEMENT_REQUEUE_FAILED})},
		{"delayed ack", senseless, "delay_millis with a settlement that gives nothing back", c.settle(&brokerv1.Settle{DeliveryTag: 7, Settlement: brokerv1.Settlement_SETTLEMENT_ACK, DelayMillis: 1})},
		{"long delay", senseless, "delay_millis 86400001 is greater than 86400000", c.settle(&brokerv1.Settle{DeliveryTag: 7, Settlement: brokerv1.Settlement_SETTLEMENT_REQUEUE, DelayMillis: 86400001})},
		{"delay an unknown delivery", failedCheck, "unknown delivery tag 7", c.settle(&brokerv1.Settle{DeliveryTag: 7, Settlement: brokerv1.Settlement_SETTLEMENT_REQUEUE, DelayMillis: 1})},
		{"extend an unknown delivery", failedCheck, "unknown delivery tag 7", c.consumed(&brokerv1.ConsumeStart{Temporary: &brokerv1.TemporaryQueue{}},
			&brokerv1.ConsumeRequest{Request: &brokerv1.ConsumeRequest_ExtendLeases{ExtendLeases: &brokerv1.ExtendLeases{DeliveryTags: []uint64{7}}}})},
		{"get of no queue", senseless, "no queue", c.fetch(&brokerv1.GetRequest{Request: &brokerv1.GetRequest_Fetch{Fetch: &brokerv1.Fetch{}}})},
		{"get of no such queue", missing, "no queue 'none' in vhost '/'", c.fetch(&brokerv1.GetRequest{Request: &brokerv1.GetRequest_Fetch{Fetch: &brokerv1.Fetch{Queue: "none"}}})},
		{"get nothing", senseless, "a request without fetch, settle and extend_leases", c.fetch(&brokerv1.GetRequest{})},
		{"peek at nothing", missing, "no queue 'none' in vhost '/'", c.peek(&brokerv1.PeekQueueRequest{Name: "none"})},
		{"peek at too many", senseless, "max_messages 101 is greater than 100", c.peek(&brokerv1.PeekQueueRequest{Name: "q", MaxMessages: 101})},
		{"peek too far", senseless, "skip 10001 is greater than 10000", c.peek(&brokerv1.PeekQueueRequest{Name: "q", Skip: 10001})},
		{"peek without a name", senseless, "no name", c.peek(&brokerv1.PeekQueueRequest{})},
		{"purge without a name", senseless, "no name", purged},
		{"purge no such queue", missing, "no queue 'none' in vhost '/'", purgedNone},
		{"wrong page", senseless, `not a page token: "x"`, token},
	} {
		if got, text := reason(t, e.got), status.Convert(e.got).Message(); got != e.want || text != e.text {
			t.Errorf("%s: %s %q, want %s %q", e.name, got, text, e.want, e.text)
		}
	}
	for _, stream := range []io.Closer{closer(first.CloseSend), closer(shared.CloseSend), closer(temporary.CloseSend)} {
		if err := stream.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestDeliveryTimeout: a delivery that is out for too long ends its stream, with an error by which clients know it: one of
// single messages as well as one that consumes.
func TestDeliveryTimeout(t *testing.T) {
	w := newWorldWith(t, broker.Options{ConsumerTimeout: time.Millisecond})
	w.declare("q", nil)
	p := w.publisher("")
	p.batch(1, 0, "q", "q")
	consumed, _, err := w.consume(&brokerv1.ConsumeStart{Queue: "q", Credit: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := consumed.Recv(); err != nil {
		t.Fatal(err)
	}
	got, err := w.consuming.Get(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := got.Send(&brokerv1.GetRequest{Request: &brokerv1.GetRequest_Fetch{Fetch: &brokerv1.Fetch{Queue: "q"}}}); err != nil {
		t.Fatal(err)
	}
	if r, err := got.Recv(); err != nil || r.Delivery == nil {
		t.Fatal(r, err)
	}
	w.tick()
	for name, err := range map[string]error{"consume": ended(consumed, nil), "get": ended(got, nil)} {
		if got := reason(t, err); got != "Aborted DELIVERY_TIMEOUT" || !strings.Contains(status.Convert(err).Message(), "timed out. Timeout value used: 1 ms") {
			t.Errorf("%s: %s: %v", name, got, err)
		}
	}
}

// tick makes the broker look for deliveries that are out for too long, until the test's end.
func (w *world) tick() {
	ctx, cancel := context.WithCancel(w.ctx)
	w.t.Cleanup(cancel)
	go func() {
		for ticker := time.NewTicker(50 * time.Millisecond); ctx.Err() == nil; <-ticker.C {
			w.cluster.Broker.Tick()
		}
	}()
}

// TestAClientThatDoesNotReadKeepsNothing: what ends a stream ends it also while the client does not take what is sent to it.
func TestAClientThatDoesNotReadKeepsNothing(t *testing.T) {
	const count = 10
	deaf := func(t *testing.T, o broker.Options) *world {
		w := newWorldWith(t, o)
		w.declare("q", nil)
		p := w.publisher("")
		for range count {
			p.send(&brokerv1.PublishRequest{Request: &brokerv1.PublishRequest_Batch{Batch: &brokerv1.PublishBatch{Messages: []*brokerv1.Message{{RoutingKey: "q", Body: make([]byte, 200<<10)}}}}})
		}
		if outcomes, err := p.end(); err != nil || len(outcomes) != count {
			t.Fatal(outcomes, err)
		}
		if _, _, err := w.consume(&brokerv1.ConsumeStart{Queue: "q", Credit: 100}); err != nil {
			t.Fatal(err)
		}
		w.awaitReady("q", 0)
		return w
	}
	t.Run("delivery timeout", func(t *testing.T) {
		w := deaf(t, broker.Options{ConsumerTimeout: time.Millisecond})
		w.tick()
		w.awaitReady("q", count)
	})
	t.Run("closed by an operator", func(t *testing.T) {
		w := deaf(t, broker.Options{})
		w.cluster.Broker.CloseConnections("enough")
		w.awaitReady("q", count)
	})
}

// awaitReady waits until so many messages of a queue are ready.
func (w *world) awaitReady(queue string, n uint64) {
	w.t.Helper()
	for w.ready(queue) != n { // w.ctx ends it
	}
}

// longProperties are so long in AMQP's form, in bytes.
func longProperties(n int) *brokerv1.Properties {
	beside := len("..") + len("....") + len("\x04text") + len("S....") // flags, the table's length, the name, the text's length
	return &brokerv1.Properties{Headers: map[string]*brokerv1.FieldValue{"text": textValue(strings.Repeat("x", n-beside))}}
}

// TestRejections makes each reason for which a single message is rejected.
func TestRejections(t *testing.T) {
	w := newWorld(t)
	w.declare("q", nil)
	p := w.publisher("")
	long := strings.Repeat("x", 256)
	for _, m := range []*brokerv1.Message{
		{Exchange: "none", RoutingKey: "q"},
		{RoutingKey: long},
		{RoutingKey: "q", Body: make([]byte, 1<<20+1)},
		{RoutingKey: "q", Properties: &brokerv1.Properties{Type: proto.String(long)}},
		{RoutingKey: "q", Properties: &brokerv1.Properties{Priority: proto.Uint32(256)}},
		{RoutingKey: "q", Properties: &brokerv1.Properties{Expiration: proto.String("soon")}},
		{RoutingKey: "q", Properties: &brokerv1.Properties{UserId: proto.String("somebody")}},
		{RoutingKey: "q", Properties: &brokerv1.Properties{AmqpEncoded: []byte{1}}},
		{RoutingKey: "q", Properties: longProperties(broker.MaxProperties + 1)},
	} {
		p.send(&brokerv1.PublishRequest{Request: &brokerv1.PublishRequest_Batch{Batch: &brokerv1.PublishBatch{Messages: []*brokerv1.Message{m}}}})
	}
	if err := p.stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	got := map[uint64]string{}
	for {
		response, err := p.stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range response.GetConfirms().GetConfirms() {
			got[c.FirstSequence] = strings.TrimPrefix(c.Reason.String(), "ERROR_REASON_") + " " + c.Detail
		}
	}
	for i, want := range []string{
		"NOT_FOUND no exchange 'none' in vhost '/'",
		"PRECONDITION_FAILED routing key of 256 bytes is longer than 255",
		"PRECONDITION_FAILED message size 1048577 is larger than configured max size 1048576",
		"PRECONDITION_FAILED type of 256 bytes is longer than 255",
		"PRECONDITION_FAILED priority of 256 is greater than 255",
		"PRECONDITION_FAILED invalid expiration 'soon': no_integer",
		"PRECONDITION_FAILED user_id property set to 'somebody' but authenticated user was 'guest'",
		"PRECONDITION_FAILED amqp_encoded: malformed properties",
		"PRECONDITION_FAILED properties of 130049 bytes are longer than 130048",
	} {
		if got[uint64(i)+1] != want {
			t.Errorf("message %d: %q, want %q", i+1, got[uint64(i)+1], want)
		}
	}
}
