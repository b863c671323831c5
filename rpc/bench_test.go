package rpc_test

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/internal/amqptest"
	brokerv1 "github.com/warrenmq/warren/proto/broker/v1"
	"github.com/warrenmq/warren/rpc"
)

const (
	benchBody = 1024
	// benchBatch is the messages of a request, about 112 KiB.
	benchBatch = 108
)

// raw is a codec for requests that are encoded already and for responses of which only the number of deliveries counts.
type raw struct{}

func (raw) Marshal(v any) (mem.BufferSlice, error) { return v.(mem.BufferSlice), nil }

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	whole := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer whole.Free()
	_, _, n := protowire.ConsumeTag(whole.ReadOnlyData())
	entries, _ := protowire.ConsumeBytes(whole.ReadOnlyData()[n:])
	count := v.(*int)
	for *count = 0; len(entries) > 0; *count++ {
		n := protowire.ConsumeFieldValue(1, protowire.BytesType, entries[1:])
		if n < 0 {
			return protowire.ParseError(n)
		}
		entries = entries[1+n:]
	}
	return nil
}

func (raw) Name() string { return "proto" }

// bench is a server over loopback whose cluster costs nothing once free is called, and a client that does as little as it can.
type bench struct {
	b       *testing.B
	cluster *amqptest.FreeCluster
	conn    *grpc.ClientConn
	ctx     context.Context
}

func newBench(b *testing.B) *bench {
	base := amqptest.NewCluster(b, broker.Options{})
	w := &bench{b: b, cluster: amqptest.NewFreeCluster(base)}
	server := rpc.NewServer(rpc.Options{Broker: base.Broker})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	const window = 4 << 20
	w.conn, err = grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithWriteBufferSize(128<<10), grpc.WithReadBufferSize(128<<10), grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)))
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.ctx = as(ctx, "guest", "guest")
	b.Cleanup(func() {
		cancel()
		stop, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := errors.Join(w.conn.Close(), server.Shutdown(stop), <-served); err != nil {
			b.Error(err)
		}
	})
	if _, err := brokerv1.NewTopologyServiceClient(w.conn).DeclareQueue(w.ctx, &brokerv1.DeclareQueueRequest{Name: "q", Durable: true}); err != nil {
		b.Fatal(err)
	}
	return w
}

func (w *bench) stream(method string, start proto.Message) grpc.ClientStream {
	w.b.Helper()
	s, err := w.conn.NewStream(w.ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method, grpc.ForceCodecV2(raw{}))
	if err != nil {
		w.b.Fatal(err)
	}
	if err := s.SendMsg(w.encoded(start)); err != nil {
		w.b.Fatal(err)
	}
	return s
}

func (w *bench) encoded(m proto.Message) mem.BufferSlice {
	w.b.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		w.b.Fatal(err)
	}
	return mem.BufferSlice{mem.SliceBuffer(data)}
}

func (w *bench) publisher() grpc.ClientStream {
	return w.stream(brokerv1.PublishingService_Publish_FullMethodName,
		&brokerv1.PublishRequest{Request: &brokerv1.PublishRequest_Start{Start: &brokerv1.PublishStart{}}})
}

func (w *bench) request(n int) mem.BufferSlice {
	batch := &brokerv1.PublishBatch{}
	for range n {
		batch.Messages = append(batch.Messages, &brokerv1.Message{RoutingKey: "q", Body: make([]byte, benchBody), Properties: &brokerv1.Properties{
			ContentType: proto.String("application/octet-stream"), DeliveryMode: proto.Uint32(2), MessageId: proto.String("4711")}})
	}
	return w.encoded(&brokerv1.PublishRequest{Request: &brokerv1.PublishRequest_Batch{Batch: batch}})
}

// publish sends so many messages and waits until the stream has confirmed them and ended.
func (w *bench) publish(s grpc.ClientStream, n int) error {
	ended := make(chan error, 1)
	go func() {
		var size int
		var err error
		for err == nil {
			err = s.RecvMsg(&size)
		}
		ended <- err
	}()
	full := w.request(benchBatch)
	for ; n > 0; n -= benchBatch {
		request := full
		if n < benchBatch {
			request = w.request(n)
		}
		if err := s.SendMsg(request); err != nil {
			return err
		}
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	if err := <-ended; !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// measure runs f and reports the CPU time of this process, client included: on a busy machine it says more than the clock.
func (w *bench) measure(f func() error) {
	w.b.SetBytes(benchBody)
	w.b.ReportAllocs()
	w.b.ResetTimer()
	before := cpuTime(w.b)
	if err := f(); err != nil {
		w.b.Fatal(err)
	}
	w.b.ReportMetric(float64(cpuTime(w.b)-before)/float64(w.b.N), "cpu-ns/op")
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkPublish is the cost of a confirmed message of 1 KiB, from the client's socket to the shard's batch and back.
func BenchmarkPublish(b *testing.B) {
	w := newBench(b)
	w.cluster.Free("q")
	s := w.publisher()
	w.measure(func() error { return w.publish(s, b.N) })
}

// BenchmarkDeliver is the cost of a message of 1 KiB that one client publishes and another gets.
func BenchmarkDeliver(b *testing.B) {
	w := newBench(b)
	w.cluster.MaxOut = 1000
	consumer := w.stream(brokerv1.ConsumingService_Consume_FullMethodName,
		&brokerv1.ConsumeRequest{Request: &brokerv1.ConsumeRequest_Start{Start: &brokerv1.ConsumeStart{Queue: "q", AutoSettle: true}}})
	var count int
	if err := consumer.RecvMsg(&count); err != nil { // started
		b.Fatal(err)
	}
	for w.cluster.Holds(w.cluster.Find("q").ID).Consumers == 0 {
		time.Sleep(time.Millisecond) // until the consumer is attached
	}
	w.cluster.Free("q")
	s := w.publisher()
	responses := 0
	w.measure(func() error {
		published := make(chan error, 1)
		go func() { published <- w.publish(s, b.N) }()
		for got := 0; got < b.N; got += count {
			if err := consumer.RecvMsg(&count); err != nil {
				return err
			}
			responses++
		}
		return <-published
	})
	b.ReportMetric(float64(b.N)/float64(responses), "messages/response")
}
