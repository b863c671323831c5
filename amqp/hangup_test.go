package amqp

import (
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/warrenmq/warren/amqp/wire"
	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/internal/amqptest"
)

// TestHangUpDuringAlarm: a client without heartbeats goes while an alarm keeps it from being read: what it holds goes back, and does not wait for
// the end of the alarm, which may wait for just that.
func TestHangUpDuringAlarm(t *testing.T) {
	r := start(t, Options{}, broker.Options{})
	defer r.stop()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.serving.Go(func() { _ = r.server.Serve(l) })
	socket, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	k := amqptest.NewClient(t, socket)
	k.Open(amqptest.Login{Properties: wire.Table{"capabilities": wire.Table{"connection.blocked": true}}})
	k.OpenChannel(1)
	k.Methods(1, &wire.QueueDeclare{Queue: "q"})
	k.Method(1)
	k.Publish(1, "", "q", wire.Properties{}, []byte("hello"))
	k.Methods(1, &wire.BasicConsume{Queue: "q", ConsumerTag: "c"})
	k.Method(1)
	k.Method(1)
	k.Message(1)
	r.cluster.Broker.Alarm("low on memory")
	k.Publish(1, "", "nowhere", wire.Properties{}, []byte("blocks it"))
	k.Want(0, &wire.ConnectionBlocked{Reason: "low on memory"})
	k.Publish(1, "", "nowhere", wire.Properties{}, []byte("is not read"))
	id := r.cluster.Find("q").ID
	if n := r.cluster.Holds(id); n.Unsettled != 1 {
		t.Errorf("it is there, the queue holds %+v", n)
	}
	_ = socket.Close()
	for r.cluster.Holds(id).Unsettled > 0 { // for ever, if that is not noticed
		time.Sleep(10 * time.Millisecond)
	}
}

// TestHungUp: the end of a socket is seen behind bytes that nobody has read, and these are not taken for it.
func TestHungUp(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, secure := range []bool{false, true} {
		client, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		socket, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer socket.Close()
		if secure {
			socket = tls.Server(socket, &tls.Config{})
		}
		if hungUp(socket) {
			t.Error("a new socket is hung up")
		}
		if _, err := client.Write([]byte("AMQP")); err != nil {
			t.Fatal(err)
		}
		if hungUp(socket) {
			t.Error("a socket with bytes to read is hung up")
		}
		_ = client.Close()
		for !hungUp(socket) {
			time.Sleep(time.Millisecond)
		}
	}
}
