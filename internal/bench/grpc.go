package bench

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	brokerv1 "github.com/warrenmq/warren/proto/broker/v1"
)

// grpcDoor is Warren's gRPC API. Topology goes by the generated client; messages are encoded and decoded here, in place.
type grpcDoor struct{}

// bufferPool keeps buffers of a size; unlike gRPC's own it does not clear them.
type bufferPool struct{ pool sync.Pool }

var buffers = &bufferPool{}

// Get implements mem.BufferPool.
func (p *bufferPool) Get(n int) *[]byte {
	if kept, ok := p.pool.Get().(*[]byte); ok && cap(*kept) >= n {
		*kept = (*kept)[:n]
		return kept
	}
	made := make([]byte, n, max(n, 2*grpcBuffer))
	return &made
}

// Put implements mem.BufferPool.
func (p *bufferPool) Put(b *[]byte) { p.pool.Put(b) }

// grpcWindow is how much the server may send ahead of what has been read, in bytes.
const grpcWindow = 4 << 20

// dial opens a connection, and a context with the login and the virtual host for its calls.
func (grpcDoor) dial(ctx context.Context, r *run, server string) (context.Context, *grpc.ClientConn, error) {
	transport := insecure.NewCredentials()
	if r.o.TLS != nil {
		transport = credentials.NewTLS(r.o.TLS)
	}
	conn, err := grpc.NewClient("passthrough:///"+server, grpc.WithTransportCredentials(transport),
		grpc.WithWriteBufferSize(grpcBuffer), grpc.WithReadBufferSize(grpcBuffer), experimental.WithBufferPool(buffers),
		grpc.WithInitialWindowSize(grpcWindow), grpc.WithInitialConnWindowSize(grpcWindow), grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)))
	return metadata.AppendToOutgoingContext(ctx, append(r.o.authorization(), "warren-vhost", r.o.VHost)...), conn, err
}

// authorization is the login in a call's metadata; none with a certificate.
func (t *Target) authorization() []string {
	switch {
	case t.Token != "":
		return []string{"authorization", "Bearer " + t.Token}
	case t.User != "":
		return []string{"authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(t.User+":"+t.Password))}
	}
	return nil
}

// topology calls f with a client.
func (d grpcDoor) topology(ctx context.Context, r *run, f func(context.Context, brokerv1.TopologyServiceClient) error) error {
	ctx, conn, err := d.dial(ctx, r, r.o.Servers[0])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	return errors.Join(f(ctx, brokerv1.NewTopologyServiceClient(conn)), conn.Close())
}

func (d grpcDoor) declare(ctx context.Context, r *run) error {
	arguments := map[string]*brokerv1.FieldValue{}
	if r.o.QueueType != "" {
		arguments["x-queue-type"] = &brokerv1.FieldValue{Kind: &brokerv1.FieldValue_StringValue{StringValue: r.o.QueueType}}
	}
	return d.topology(ctx, r, func(ctx context.Context, t brokerv1.TopologyServiceClient) error {
		if r.o.Fanout {
			if _, err := t.DeclareExchange(ctx, &brokerv1.DeclareExchangeRequest{Name: r.exchange(), Type: "fanout", Durable: true}); err != nil {
				return fmt.Errorf("declare exchange %s: %w", r.exchange(), err)
			}
		}
		for i := range r.o.Queues {
			queue := r.queueName(i)
			if _, err := t.DeclareQueue(ctx, &brokerv1.DeclareQueueRequest{Name: queue, Durable: true, Arguments: arguments}); err != nil {
				return fmt.Errorf("declare %s: %w", queue, err)
			}
			if !r.o.Fanout {
				continue
			}
			if _, err := t.Bind(ctx, &brokerv1.BindRequest{Binding: &brokerv1.Binding{Source: r.exchange(), Destination: queue}}); err != nil {
				return fmt.Errorf("bind %s: %w", queue, err)
			}
		}
		return nil
	})
}

func (d grpcDoor) remove(ctx context.Context, r *run) {
	_ = d.topology(ctx, r, func(ctx context.Context, t brokerv1.TopologyServiceClient) (err error) {
		for i := range r.o.Queues {
			_, failed := t.DeleteQueue(ctx, &brokerv1.DeleteQueueRequest{Name: r.queueName(i)})
			err = errors.Join(err, failed)
		}
		if r.o.Fanout {
			_, failed := t.DeleteExchange(ctx, &brokerv1.DeleteExchangeRequest{Name: r.exchange()})
			err = errors.Join(err, failed)
		}
		return err
	})
}

func (d grpcDoor) publisher(ctx context.Context, r *run, server, queue string, e events) (conversation, error) {
	c, err := d.begin(ctx, r, server, brokerv1.PublishingService_Publish_FullMethodName, e,
		&brokerv1.PublishRequest{Request: &brokerv1.PublishRequest_Start{Start: &brokerv1.PublishStart{}}})
	if err != nil {
		return nil, err
	}
	m := &brokerv1.Message{Exchange: r.exchange(), RoutingKey: queue}
	if r.o.Persistent {
		m.Properties = &brokerv1.Properties{DeliveryMode: proto.Uint32(persistent)}
	}
	if c.head, err = proto.Marshal(m); err != nil {
		return nil, err
	}
	if r.o.Confirm == 0 {
		c.events.confirm = func(uint64, uint64, bool) {} // the API confirms in any case
	}
	go c.read(c.confirms)
	return c, nil
}

func (d grpcDoor) consumer(ctx context.Context, r *run, server, queue string, e events) (conversation, error) {
	c, err := d.begin(ctx, r, server, brokerv1.ConsumingService_Consume_FullMethodName, e,
		&brokerv1.ConsumeRequest{Request: &brokerv1.ConsumeRequest_Start{Start: &brokerv1.ConsumeStart{Queue: queue,
			Credit: uint32(r.o.Prefetch), AutoSettle: r.o.AckEvery == 0}}})
	if err != nil {
		return nil, err
	}
	go c.read(c.deliveries)
	return c, nil
}

// begin opens a stream and sends its first request.
func (d grpcDoor) begin(ctx context.Context, r *run, server, method string, e events, start proto.Message) (*grpcConversation, error) {
	first, err := proto.Marshal(start)
	if err != nil {
		return nil, err
	}
	ctx, conn, err := d.dial(ctx, r, server)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	c := &grpcConversation{conn: conn, cancel: cancel, events: e, gone: make(chan struct{})}
	c.stream, err = conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method, grpc.ForceCodecV2(octets{}))
	if err == nil {
		err = c.send(mem.BufferSlice{mem.SliceBuffer(first)})
	}
	if err != nil {
		cancel()
		return nil, errors.Join(fmt.Errorf("call %s: %w", server, err), conn.Close())
	}
	return c, nil
}

// grpcConversation is a connection with one stream. A goroutine reads; another publishes, or the reading one acks.
type grpcConversation struct {
	conn   *grpc.ClientConn
	stream grpc.ClientStream
	cancel context.CancelFunc
	events events
	gone   chan struct{}
	err    error

	head []byte  // a message without its body
	out  *[]byte // what is gathered, out of the pool
}

const (
	// grpcBuffer is how much is gathered for one write or read, and grpcBatchBytes at which size a batch is sent without more:
	// with its frames it fits into one write, and in the broker into one batch. A little more would be two of each.
	grpcBuffer     = 128 << 10
	grpcBatchBytes = 120 << 10
	// bodyField is Message.body.
	bodyField = 4
)

// publish implements conversation, as do the methods below. It appends an entry of PublishBatch.messages.
func (c *grpcConversation) publish(body []byte) error {
	size := len(c.head) + protowire.SizeTag(bodyField) + protowire.SizeBytes(len(body))
	if c.out == nil {
		c.out = buffers.Get(grpcBatchBytes + 2*size)
		*c.out = (*c.out)[:0]
	}
	out := *c.out
	out = protowire.AppendTag(out, 2, protowire.BytesType)
	out = protowire.AppendVarint(out, uint64(size))
	out = append(out, c.head...)
	out = protowire.AppendTag(out, bodyField, protowire.BytesType)
	*c.out = protowire.AppendBytes(out, body)
	if len(*c.out) < grpcBatchBytes {
		return nil
	}
	return c.flush()
}

// ack appends an entry of Settles.settles.
func (c *grpcConversation) ack(tag uint64) error {
	if c.out == nil {
		c.out = buffers.Get(1 << 10)
		*c.out = (*c.out)[:0]
	}
	const rest = 4 // the fields multiple and settlement
	out := protowire.AppendTag(*c.out, 1, protowire.BytesType)
	out = protowire.AppendVarint(out, uint64(protowire.SizeTag(1)+protowire.SizeVarint(tag)+rest))
	out = protowire.AppendVarint(protowire.AppendTag(out, 1, protowire.VarintType), tag)
	out = protowire.AppendVarint(protowire.AppendTag(out, 2, protowire.VarintType), 1)
	out = protowire.AppendVarint(protowire.AppendTag(out, 3, protowire.VarintType), uint64(brokerv1.Settlement_SETTLEMENT_ACK))
	*c.out = out
	return nil
}

// flush sends what is gathered, a batch or settles: both are field 2 of their requests.
func (c *grpcConversation) flush() error {
	if c.out == nil {
		return nil
	}
	header := protowire.AppendTag(nil, 2, protowire.BytesType)
	header = protowire.AppendVarint(header, uint64(len(*c.out)))
	whole := mem.BufferSlice{mem.SliceBuffer(header), mem.NewBuffer(c.out, buffers)}
	c.out = nil
	return c.send(whole)
}

func (c *grpcConversation) send(data mem.BufferSlice) error {
	if err := c.stream.SendMsg(data); !errors.Is(err, io.EOF) {
		return err
	}
	return nil // the stream has ended: reading tells why
}

func (c *grpcConversation) ended() <-chan struct{} { return c.gone }

func (c *grpcConversation) cause() error { return c.err }

func (c *grpcConversation) hangUp() {
	c.cancel()
	_ = c.conn.Close() // the measurement is over
}

// read handles responses until the stream ends.
func (c *grpcConversation) read(handle func(data []byte) error) {
	defer close(c.gone)
	for {
		err := c.stream.RecvMsg(&response{handle})
		if err == nil && c.events.batch != nil {
			err = c.events.batch(c)
		}
		if err != nil {
			c.err = err
			return
		}
	}
}

// confirms handles a PublishResponse.
func (c *grpcConversation) confirms(data []byte) error {
	return eachField(data, func(field protowire.Number, _ uint64, confirms []byte) error {
		if field != 1 { // blocked
			return nil
		}
		return eachField(confirms, func(_ protowire.Number, _ uint64, confirm []byte) error {
			var numbers [4]uint64 // first, last, outcome
			err := eachField(confirm, func(field protowire.Number, n uint64, _ []byte) error {
				if field < protowire.Number(len(numbers)) {
					numbers[field] = n
				}
				return nil
			})
			c.events.confirm(numbers[1], numbers[2], brokerv1.Outcome(numbers[3]) == brokerv1.Outcome_OUTCOME_CONFIRMED)
			return err
		})
	})
}

var errCancelled = errors.New("the broker has ended the consumer")

// deliveries handles a ConsumeResponse.
func (c *grpcConversation) deliveries(data []byte) error {
	return eachField(data, func(field protowire.Number, _ uint64, deliveries []byte) error {
		switch field {
		case 2:
		case 3:
			return errCancelled
		default:
			return nil
		}
		return eachField(deliveries, func(_ protowire.Number, _ uint64, delivery []byte) error {
			var tag uint64
			var body []byte
			if err := eachField(delivery, func(field protowire.Number, n uint64, message []byte) error {
				switch field {
				case 1:
					tag = n
				case 3:
					return eachField(message, func(field protowire.Number, _ uint64, b []byte) error {
						if field == bodyField {
							body = b
						}
						return nil
					})
				}
				return nil
			}); err != nil {
				return err
			}
			return c.events.deliver(c, tag, body)
		})
	})
}

// eachField calls f with the fields of a message: with the number of one that is a varint, or the bytes of one that has a
// length.
func eachField(data []byte, f func(field protowire.Number, n uint64, bytes []byte) error) error {
	for len(data) > 0 {
		field, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		var number uint64
		var bytes []byte
		switch kind {
		case protowire.VarintType:
			number, n = protowire.ConsumeVarint(data)
		case protowire.BytesType:
			bytes, n = protowire.ConsumeBytes(data)
		default:
			n = protowire.ConsumeFieldValue(field, kind, data)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		if err := f(field, number, bytes); err != nil {
			return err
		}
	}
	return nil
}

// octets is a codec that leaves requests as they are and hands responses over while they are in gRPC's buffers.
type octets struct{}

// response takes the octets of a response.
type response struct{ handle func(data []byte) error }

// Marshal implements encoding.CodecV2, as do the methods below.
func (octets) Marshal(v any) (mem.BufferSlice, error) { return v.(mem.BufferSlice), nil }

// Unmarshal hands a response over.
func (octets) Unmarshal(data mem.BufferSlice, v any) error {
	whole := data.MaterializeToBuffer(buffers)
	defer whole.Free()
	return v.(*response).handle(whole.ReadOnlyData())
}

// Name is what stands in the content type: the octets are those of protobuf.
func (octets) Name() string { return "proto" }
