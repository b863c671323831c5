package amqp

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/warrenmq/warren/amqp/wire"
	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/internal/amqptest"
)

// stream is a socket whose client has said everything in advance: prologue, then a piece so many times, then it hangs up
// (or, with open, is silent until the server does).
type stream struct {
	prologue []byte
	piece    []byte
	times    int
	open     bool
	closed   chan struct{}
	once     sync.Once

	at     int // in piece
	reads  int
	writes int
	bytes  int
}

func (s *stream) Read(p []byte) (n int, err error) {
	s.reads++
	if len(s.prologue) > 0 {
		n = copy(p, s.prologue)
		s.prologue = s.prologue[n:]
		return n, nil
	}
	for s.times > 0 && n < len(p) {
		m := copy(p[n:], s.piece[s.at:])
		n, s.at = n+m, s.at+m
		if s.at == len(s.piece) {
			s.at = 0
			s.times--
		}
	}
	if n > 0 {
		return n, nil
	}
	if s.open {
		<-s.closed
	}
	return 0, io.EOF
}

func (s *stream) Write(p []byte) (int, error) {
	s.writes++
	s.bytes += len(p)
	return len(p), nil
}

func (s *stream) Close() error                     { s.once.Do(func() { close(s.closed) }); return nil }
func (s *stream) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (s *stream) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
func (s *stream) SetDeadline(time.Time) error      { return nil }
func (s *stream) SetReadDeadline(time.Time) error  { return nil }
func (s *stream) SetWriteDeadline(time.Time) error { return nil }

// newStream is a client that logs in, opens channel 1 and says methods on it.
func newStream(methods ...wire.Method) *stream {
	l := amqptest.Login{User: "guest", Password: "guest"}
	data := []byte(amqptest.Header)
	for _, m := range []wire.Method{&wire.ConnectionStartOk{Mechanism: "PLAIN", Response: l.Response(), Locale: "en_US"},
		&wire.ConnectionTuneOk{ChannelMax: channelMax, FrameMax: frameMax}, &wire.ConnectionOpen{VirtualHost: "/"}} {
		data = wire.AppendMethodFrame(data, 0, m)
	}
	for _, m := range append([]wire.Method{&wire.ChannelOpen{}}, methods...) {
		data = wire.AppendMethodFrame(data, 1, m)
	}
	return &stream{prologue: data, closed: make(chan struct{})}
}

// serve runs a connection to its end.
func serve(s *Server, socket net.Conn) { newConn(s, socket).serve() }

const benchBody = 1024

func publishes() []byte {
	p := wire.Properties{ContentType: "application/octet-stream", DeliveryMode: 2, MessageID: "4711"}
	return wire.AppendPublish(nil, 1, "", "q", false, false, p.Append(nil), make([]byte, benchBody), frameMax)
}

// benchServer is a server whose cluster costs nothing once free is called.
func benchServer(b *testing.B) (s *Server, cluster *amqptest.FreeCluster) {
	base := amqptest.NewCluster(b, broker.Options{})
	cluster = amqptest.NewFreeCluster(base)
	s = NewServer(Options{Broker: base.Broker})
	serve(s, newStream(&wire.QueueDeclare{Queue: "q"}))
	return s, cluster
}

// BenchmarkPublish is the cost of a confirmed message of 1 KiB, from the socket to the shard's batch and back.
func BenchmarkPublish(b *testing.B) {
	s, cluster := benchServer(b)
	cluster.Free("q")
	socket := newStream(&wire.ConfirmSelect{})
	socket.piece, socket.times = publishes(), b.N
	b.SetBytes(benchBody)
	b.ReportAllocs()
	b.ResetTimer()
	serve(s, socket)
	b.ReportMetric(float64(socket.reads)/float64(b.N), "reads/op")
	b.ReportMetric(float64(socket.writes)/float64(b.N), "writes/op")
}

// BenchmarkDeliver is the cost of a message of 1 KiB that one client publishes and another gets.
func BenchmarkDeliver(b *testing.B) {
	s, cluster := benchServer(b)
	cluster.MaxOut = 1000
	consumer := newStream(&wire.BasicConsume{Queue: "q", ConsumerTag: "c", NoAck: true})
	consumer.open = true
	var consuming sync.WaitGroup
	consuming.Go(func() { serve(s, consumer) })
	for cluster.Holds(cluster.Find("q").ID).Consumers == 0 {
		time.Sleep(time.Millisecond) // until the consumer is attached
	}
	cluster.Free("q")
	publisher := newStream()
	publisher.piece, publisher.times = publishes(), b.N
	b.SetBytes(benchBody)
	b.ReportAllocs()
	b.ResetTimer()
	serve(s, publisher)
	b.StopTimer()
	_ = consumer.Close() // the end of the silence
	consuming.Wait()
	b.ReportMetric(float64(consumer.writes)/float64(b.N), "writes/op")
	b.ReportMetric(float64(consumer.bytes)/float64(b.N), "bytes/op")
}
