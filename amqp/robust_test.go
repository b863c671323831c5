package amqp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmq/warren/amqp/wire"
	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/internal/amqptest"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// running is a server with its cluster and a listener in memory.
type running struct {
	t        testing.TB
	server   *Server
	cluster  *amqptest.Cluster
	listener *amqptest.Listener
	serving  sync.WaitGroup
}

func start(t testing.TB, o Options, bo broker.Options) *running {
	r := &running{t: t, cluster: amqptest.NewCluster(t, bo), listener: amqptest.NewListener()}
	o.Broker = r.cluster.Broker
	r.server = NewServer(o)
	r.serving.Go(func() {
		if err := r.server.Serve(r.listener); err != nil {
			t.Error(err)
		}
	})
	return r
}

// stop ends the server; clients that do not answer are cut at once.
func (r *running) stop() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.server.Shutdown(ctx); err != nil {
		r.t.Error(err)
	}
	r.serving.Wait()
}

func (r *running) dial() net.Conn {
	socket, err := r.listener.Dial(net.IPv4(127, 0, 0, 1))
	if err != nil {
		r.t.Fatal(err)
	}
	return socket
}

// open returns a client with an open channel 1.
func (r *running) open(l amqptest.Login) *amqptest.Client {
	r.t.Helper()
	k := amqptest.NewClient(r.t, r.dial())
	k.Open(l)
	k.OpenChannel(1)
	return k
}

// exchange publishes a message and gets it back.
func (r *running) exchange(k *amqptest.Client, body string) {
	r.t.Helper()
	k.Methods(1, &wire.QueueDeclare{Queue: "check"})
	k.Method(1)
	k.Publish(1, "", "check", wire.Properties{}, []byte(body))
	k.Methods(1, &wire.BasicGet{Queue: "check", NoAck: true})
	if m, ok := k.Method(1).(*wire.BasicGetOk); !ok {
		r.t.Fatalf("got %+v", m)
	}
	if _, got := k.Message(1); string(got) != body {
		r.t.Fatalf("got %q", got)
	}
}

const (
	silentConnections = 2000
	bytesPerSilent    = 20 << 10 // goroutine and all; 16 KiB with the race detector, give or take
)

// TestSilentConnections opens many connections that say nothing, or half a header: they cost little, others are served,
// and after the time for a handshake they are gone.
func TestSilentConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, Options{}, broker.Options{})
		defer r.stop()
		before := memory()
		for i := range silentConnections {
			socket := r.dial()
			defer socket.Close()
			if i%2 == 0 {
				go func() { _, _ = io.WriteString(socket, "AMQP") }()
			}
		}
		synctest.Wait()
		if n := r.server.Connections(); n != silentConnections {
			t.Fatalf("%d connections", n)
		}
		if each := (memory() - before) / silentConnections; each > bytesPerSilent {
			t.Errorf("a silent connection takes %d bytes", each)
		} else {
			t.Logf("a silent connection takes %d bytes", each)
		}
		k := r.open(amqptest.Login{})
		r.exchange(k, "hello")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := r.server.Connections(); n != 1 {
			t.Fatalf("%d connections after the handshake's time", n)
		}
	})
}

// TestSocketsAreBounded has few sockets to give: connections that say nothing get three quarters of them, so that there is
// room to open connections, and those are refused beyond the whole.
func TestSocketsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, Options{MaxSockets: 8}, broker.Options{})
		defer r.stop()
		closed := func(socket net.Conn) bool {
			_ = socket.SetReadDeadline(time.Now().Add(time.Second))
			_, err := socket.Read(make([]byte, 1))
			return errors.Is(err, io.EOF)
		}
		for range 3 {
			r.open(amqptest.Login{})
		}
		for range 5 { // of eight
			if closed(r.dial()) {
				t.Fatal("a connection was refused while there was room")
			}
		}
		if !closed(r.dial()) {
			t.Fatal("a connection beyond the bound was not refused")
		}
		time.Sleep(10 * time.Second) // the silent ones go
		synctest.Wait()
		for range 6 {
			if r.dial(); r.server.Connections() > 8 {
				t.Fatalf("%d connections", r.server.Connections())
			}
		}
	})
	synctest.Test(t, func(t *testing.T) {
		r := start(t, Options{MaxSockets: 8}, broker.Options{})
		defer r.stop()
		for range 8 {
			r.dial()
		}
		synctest.Wait()
		if n := r.server.Connections(); n != 6 {
			t.Fatalf("%d connections in their handshake, want three quarters of 8", n)
		}
	})
}

// bytesPerIdle bounds an open connection with a channel that does nothing, in bytes: two goroutines, both ends' buffers.
const bytesPerIdle = 32 << 10

// TestIdleConnections opens connections that do nothing: each costs little.
func TestIdleConnections(t *testing.T) {
	const idle = 500
	synctest.Test(t, func(t *testing.T) {
		r := start(t, Options{}, broker.Options{})
		defer r.stop()
		before := memory()
		for range idle {
			r.open(amqptest.Login{})
		}
		synctest.Wait()
		each := (memory() - before) / idle
		if t.Logf("an idle connection takes %d bytes", each); each > bytesPerIdle {
			t.Error("that is too much")
		}
	})
}

// memory returns what heap and stacks take.
func memory() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// flood writes the same bytes until the server takes no more, and returns how many it took.
func flood(socket net.Conn, data []byte) func() int {
	taken, done := 0, make(chan struct{})
	go func() {
		defer close(done)
		for {
			n, err := socket.Write(data)
			taken += n
			if err != nil {
				return
			}
		}
	}()
	return func() int {
		synctest.Wait()
		_ = socket.SetWriteDeadline(time.Unix(1, 0)) // ends the loop
		<-done
		return taken
	}
}

// TestClientThatNeverReads sends without end and reads nothing: the server stops reading it after a bounded amount, and
// serves others meanwhile. At a shutdown it is cut.
func TestClientThatNeverReads(t *testing.T) {
	method := func(m wire.Method) []byte { return wire.AppendMethodFrame(nil, 1, m) }
	body := make([]byte, 8000)
	for _, c := range []struct {
		name  string
		data  []byte
		limit int
	}{
		{"methods that are answered", method(&wire.QueueDeclare{Queue: "q"}), 4 << 20},
		{"returned messages", wire.AppendPublish(nil, 1, "", "nowhere", true, false, nil, body, 8192), 4 << 20},
		{"gets of a large message", method(&wire.BasicGet{Queue: "large"}), 1 << 20},
		{"heartbeats", wire.AppendHeartbeat(nil), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := start(t, Options{}, broker.Options{})
				other := r.open(amqptest.Login{})
				other.Methods(1, &wire.QueueDeclare{Queue: "large"})
				other.Method(1)
				for range 10 {
					other.Publish(1, "", "large", wire.Properties{}, make([]byte, 1<<20))
				}
				k := r.open(amqptest.Login{})
				before := memory()
				if c.limit > 0 {
					stop := flood(k.Socket, c.data)
					synctest.Wait()
					r.exchange(other, "hello")
					if n := stop(); n == 0 || n > c.limit {
						t.Errorf("the server took %d bytes", n)
					}
					if grown := int64(memory() - before); grown > 16<<20 {
						t.Errorf("the server took %d bytes of memory", grown)
					}
				}
				// An operator closes it; it does not read that either.
				begun := time.Now()
				r.cluster.Broker.CloseConnections("enough")
				go other.WantClosed()
				for r.server.Connections() > 0 && time.Since(begun) < time.Minute {
					time.Sleep(time.Second)
				}
				if took := time.Since(begun); took > 20*time.Second {
					t.Errorf("the connection was there for %v", took)
				}
				r.stop()
			})
		})
	}
}

// TestFrozenClient sends more than it reads the answers of, and then nothing, not even heartbeats, which the server does not wait for while it
// waits for the client to read: what the client holds goes back all the same.
func TestFrozenClient(t *testing.T) {
	for name, data := range map[string][]byte{
		"methods that are answered": wire.AppendMethodFrame(nil, 1, &wire.QueueDeclare{Queue: "q"}),
		"returned messages":         wire.AppendPublish(nil, 1, "", "nowhere", true, false, nil, make([]byte, 8000), 8192),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := start(t, Options{}, broker.Options{})
				defer r.stop()
				other, k := r.open(amqptest.Login{}), r.open(amqptest.Login{Heartbeat: 10})
				other.Methods(1, &wire.QueueDeclare{Queue: "q"})
				other.Method(1)
				other.Publish(1, "", "q", wire.Properties{}, []byte("hello"))
				k.Methods(1, &wire.BasicConsume{Queue: "q", ConsumerTag: "c"})
				k.Method(1)
				k.Method(1)
				k.Message(1)
				stop := flood(k.Socket, data)
				time.Sleep(time.Minute)
				synctest.Wait()
				if n := r.cluster.Holds(r.cluster.Find("q").ID); n.Ready != 1 || n.Unsettled != 0 {
					t.Errorf("the queue holds %+v", n)
				}
				stop()
			})
		})
	}
}

// TestConsumerThatNeverReads gets more messages than any buffer holds: what it is not sent stays in the queue.
func TestConsumerThatNeverReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, Options{}, broker.Options{})
		defer r.stop()
		other := r.open(amqptest.Login{})
		k := r.open(amqptest.Login{})
		other.Methods(1, &wire.QueueDeclare{Queue: "q"})
		other.Method(1)
		k.Methods(1, &wire.BasicConsume{Queue: "q", ConsumerTag: "c", NoAck: true})
		k.Method(1)
		for range 1000 {
			other.Publish(1, "", "q", wire.Properties{}, make([]byte, 10_000))
		}
		r.exchange(other, "hello")
		synctest.Wait()
		if n := r.cluster.Holds(r.cluster.Find("q").ID); n.Unsettled < 900 {
			t.Errorf("%+v: what was not written counts as delivered", n)
		}
		_ = k.Socket.Close() // the test's end of the pipe
		synctest.Wait()
		if n := r.cluster.Holds(r.cluster.Find("q").ID); n.Ready < 900 || n.Unsettled != 0 {
			t.Errorf("%+v after its end", n)
		}
	})
}

// TestBodyThatNeverComes announces messages and sends nothing, or little: no memory is set aside for what did not come,
// and what did come is bounded for all channels together, whatever was completed on channels before them.
func TestBodyThatNeverComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, Options{MaxMessageSize: 16 << 20}, broker.Options{})
		defer r.stop()
		k := r.open(amqptest.Login{Heartbeat: 10})
		for range 10 {
			k.Publish(1, "", "q", wire.Properties{}, make([]byte, 4<<20))
			k.Methods(1, &wire.ChannelClose{})
			k.Want(1, &wire.ChannelCloseOk{})
			k.OpenChannel(1)
		}
		before := memory()
		for channel := range uint16(1000) {
			channel += 2
			k.OpenChannel(channel)
			var begin []byte
			begin = wire.AppendMethodFrame(begin, channel, &wire.BasicPublish{RoutingKey: "q"})
			begin = amqptest.AppendFrame(begin, wire.FrameHeader, channel, []byte("\x00\x3c\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00")) // 16 MiB
			k.Send(string(amqptest.AppendFrame(begin, wire.FrameBody, channel, []byte("x"))))
		}
		synctest.Wait()
		if each := (memory() - before) / 1000; each > firstBody+10<<10 {
			t.Errorf("a channel takes %d bytes", each)
		}
		piece := make([]byte, 100_000)
		go func() {
			for i := range 1000 {
				frame := amqptest.AppendFrame(nil, wire.FrameBody, uint16(2+i), piece)
				if _, err := k.Socket.Write(frame); err != nil {
					return
				}
			}
		}()
		want := &wire.ConnectionClose{ReplyCode: 506, ReplyText: "RESOURCE_ERROR - incomplete messages of more than 67108864 bytes"}
		k.Want(0, want)
	})
}

// TestHalfAFrame begins a frame and falls silent: the heartbeat ends it, and until then it costs no more than the frame.
func TestHalfAFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, Options{}, broker.Options{})
		defer r.stop()
		k := r.open(amqptest.Login{Heartbeat: 5})
		k.Send("\x03\x00\x01\x00\x02\x00\x00abc")
		begun := time.Now()
		k.WantClosed()
		if took := time.Since(begun); took != 10*time.Second {
			t.Errorf("closed after %v", took)
		}
	})
}

// TestGarbage sends what is no AMQP at each stage of a connection: it ends, and the server goes on.
func TestGarbage(t *testing.T) {
	garbage := []string{"\x00", "\xff", "AMQP\x00\x00\x09\x01", "GET / HTTP/1.1\r\n\r\n", "\x01\x00\x01\xff\xff\xff\xff"}
	for i := range garbage {
		garbage[i] = strings.Repeat(garbage[i], 200)
	}
	synctest.Test(t, func(t *testing.T) {
		r := start(t, Options{}, broker.Options{})
		defer r.stop()
		stages := []func() *amqptest.Client{
			func() *amqptest.Client { return amqptest.NewClient(t, r.dial()) },
			func() *amqptest.Client {
				k := amqptest.NewClient(t, r.dial())
				k.Send(amqptest.Header)
				k.Method(0)
				return k
			},
			func() *amqptest.Client {
				k := amqptest.NewClient(t, r.dial())
				k.Send(amqptest.Header)
				k.Method(0)
				l := amqptest.Login{User: "guest", Password: "guest"}
				k.Methods(0, &wire.ConnectionStartOk{Mechanism: "PLAIN", Response: l.Response(), Locale: "en_US"})
				k.Method(0)
				return k
			},
			func() *amqptest.Client { return r.open(amqptest.Login{}) },
			func() *amqptest.Client {
				k := r.open(amqptest.Login{})
				k.Methods(1, &wire.BasicPublish{RoutingKey: "q"})
				return k
			},
		}
		for i, stage := range stages {
			for _, data := range garbage {
				k := stage()
				go func() { _, _ = k.Socket.Write([]byte(data)) }()
				k.WantClosed()
				_ = k.Socket.Close() // the test's end
				synctest.Wait()
				if n := r.server.Connections(); n != 0 {
					t.Fatalf("stage %d, %.10q: the connection is still there", i, data)
				}
			}
		}
		r.exchange(r.open(amqptest.Login{}), "hello")
	})
}

// TestCloseOkComesLast checks that a client that has seen the end of its connection finds nothing of it: its exclusive
// queues are gone, its messages are back.
func TestCloseOkComesLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, Options{}, broker.Options{})
		defer r.stop()
		k := r.open(amqptest.Login{})
		k.Methods(1, &wire.QueueDeclare{Queue: "mine", Exclusive: true})
		k.Method(1)
		unblock := r.cluster.Block(r.cluster.Self().Local)
		k.Methods(0, &wire.ConnectionClose{ReplyCode: 200})
		answered := make(chan wire.Method, 1)
		go func() { answered <- k.Method(0) }()
		synctest.Wait()
		select {
		case m := <-answered:
			t.Fatalf("%T before the queue was deleted", m)
		default:
		}
		unblock()
		if m, ok := (<-answered).(*wire.ConnectionCloseOk); !ok {
			t.Fatalf("got %T", m)
		}
		if r.cluster.Find("mine") != nil {
			t.Error("the exclusive queue is still there")
		}
	})
}

// TestNoMessageAfterItIsBack ends a channel, or its connection, while a message for it waits for the socket: the message goes back
// to its queue after it was written, so that nobody else has it before this client. One that does not read is not waited for.
func TestNoMessageAfterItIsBack(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(r *running, k *amqptest.Client)
	}{
		{"shutdown", func(r *running, _ *amqptest.Client) {
			r.serving.Go(func() {
				if err := r.server.Shutdown(context.Background()); err != nil {
					t.Error(err)
				}
			})
		}},
		{"error of the channel", func(_ *running, k *amqptest.Client) { k.Methods(1, &wire.BasicAck{DeliveryTag: 99}) }},
		{"error of the connection", func(_ *running, k *amqptest.Client) { k.Methods(0, &wire.BasicAck{}) }},
	} {
		for _, how := range []string{"get", "consume"} {
			for _, reads := range []bool{true, false} {
				t.Run(fmt.Sprint(c.name, " ", how, " ", reads), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						r := start(t, Options{}, broker.Options{})
						defer r.stop()
						k := r.open(amqptest.Login{})
						k.Methods(1, &wire.QueueDeclare{Queue: "q"})
						k.Method(1)
						if how == "consume" {
							k.Methods(1, &wire.BasicConsume{Queue: "q", ConsumerTag: "c"})
							k.Method(1)
						}
						k.Publish(1, "", "q", wire.Properties{}, []byte("hello"))
						if how == "get" {
							k.Methods(1, &wire.BasicGet{Queue: "q"})
						}
						synctest.Wait() // the message is on its way into a socket that nobody reads
						c.end(r, k)
						synctest.Wait()
						holds := func() queue.Counts { return r.cluster.Holds(r.cluster.Find("q").ID) }
						if n := holds(); n.Ready != 0 || n.Unsettled != 1 {
							t.Fatalf("%+v before the message was written", n)
						}
						if reads {
							k.Method(1)
							k.Message(1)
						} else {
							time.Sleep(2 * closeTimeout)
						}
						synctest.Wait()
						if n := holds(); n.Ready != 1 || n.Unsettled != 0 {
							t.Fatalf("%+v after the end", n)
						}
						_ = k.Socket.Close() // the test's end of the pipe
					})
				})
			}
		}
	}
}

// TestLargeBodyInSmallFrames checks a body byte by byte through the smallest frames.
func TestLargeBodyInSmallFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, Options{}, broker.Options{})
		defer r.stop()
		k := r.open(amqptest.Login{FrameMax: frameMinSize})
		k.Methods(1, &wire.QueueDeclare{Queue: "q"})
		k.Method(1)
		body := make([]byte, 1<<20+17)
		for i := range body {
			body[i] = byte(i * 7 >> 3)
		}
		k.Publish(1, "", "q", wire.Properties{ContentType: "x"}, body)
		k.Methods(1, &wire.BasicGet{Queue: "q", NoAck: true})
		want := &wire.BasicGetOk{DeliveryTag: 1, RoutingKey: "q"}
		k.Want(1, want)
		if p, got := k.Message(1); p.ContentType != "x" || !bytes.Equal(got, body) {
			t.Error("the body is another one")
		}
	})
}

// TestManyClients has clients come and go at once, each with channels of its own.
func TestManyClients(t *testing.T) {
	r := start(t, Options{HandshakeTimeout: time.Hour}, broker.Options{})
	var work sync.WaitGroup
	for i := range 20 {
		work.Go(func() {
			for j := range 5 {
				socket := r.dial()
				k := amqptest.NewClient(t, socket)
				k.Open(amqptest.Login{})
				k.OpenChannel(1)
				name := fmt.Sprintf("q%d-%d", i, j)
				k.Methods(1, &wire.QueueDeclare{Queue: name, Exclusive: true}, &wire.BasicConsume{Queue: name, ConsumerTag: "c", NoAck: true})
				k.Method(1)
				k.Method(1)
				k.Publish(1, "", name, wire.Properties{}, []byte(name))
				if _, ok := k.Method(1).(*wire.BasicDeliver); !ok {
					t.Error("no delivery")
				}
				k.Message(1)
				if j%2 == 0 {
					_ = socket.Close() // without a word
				} else {
					k.Methods(0, &wire.ConnectionClose{ReplyCode: 200})
					k.Want(0, &wire.ConnectionCloseOk{})
				}
			}
		})
	}
	work.Wait()
	r.stop()
	if n := r.server.Connections(); n != 0 {
		t.Errorf("%d connections are left", n)
	}
}

// TestPanicEndsOneConnection breaks an invariant under the reader, and under the writer: only that connection ends, and
// what it held is given back.
func TestPanicEndsOneConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, Options{}, broker.Options{})
		defer r.stop()
		other := r.open(amqptest.Login{})
		other.Methods(1, &wire.QueueDeclare{Queue: "q"})
		other.Method(1)
		for _, breaking := range []func(k *amqptest.Client){
			func(k *amqptest.Client) {
				r.cluster.PanicOnSubmit()
				k.Publish(1, "", "q", wire.Properties{}, []byte("m"))
			},
			func(k *amqptest.Client) {
				r.cluster.PanicOnEnvelope()
				other.Publish(1, "", "q", wire.Properties{}, []byte("m"))
			},
		} {
			k := r.open(amqptest.Login{})
			k.Methods(1, &wire.QueueDeclare{Queue: "mine", Exclusive: true}, &wire.BasicConsume{Queue: "q", ConsumerTag: "c"})
			k.Method(1)
			k.Method(1)
			breaking(k)
			k.WantClosed()
			synctest.Wait()
			if n := r.server.Connections(); n != 1 {
				t.Fatalf("%d connections", n)
			}
			if r.cluster.Find("mine") != nil {
				t.Error("the exclusive queue is still there")
			}
			if n := r.cluster.Holds(r.cluster.Find("q").ID); n.Consumers != 0 || n.Unsettled != 0 {
				t.Errorf("%+v", n)
			}
		}
		r.exchange(other, "hello")
	})
}
