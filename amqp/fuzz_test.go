package amqp

import (
	"encoding/binary"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmq/warren/amqp/wire"
	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/internal/amqptest"
)

// FuzzConnection throws bytes at a server: from the first byte on, or (opened) at a connection with an open channel and
// a queue; as they are, or (framed) cut into frames that are well formed around whatever they hold. Whatever comes, the
// server answers with frames, forgets the connection when the client goes, and serves others.
func FuzzConnection(f *testing.F) {
	for _, seed := range conversations() {
		f.Add(seed, true, false)
		f.Add(deframed(seed), true, true)
		f.Add(append([]byte(amqptest.Header), seed...), false, false)
	}
	f.Fuzz(func(t *testing.T, data []byte, opened, framed bool) {
		synctest.Test(t, func(t *testing.T) {
			r := start(t, Options{MaxMessageSize: 1 << 20}, broker.Options{OperationTimeout: time.Second})
			defer r.stop()
			k := amqptest.NewClient(t, r.dial())
			if opened {
				k.Open(amqptest.Login{})
				k.OpenChannel(1)
				k.Methods(1, &wire.QueueDeclare{Queue: "q"})
				k.Want(1, &wire.QueueDeclareOk{Queue: "q"})
			}
			answers := make(chan error, 1)
			go func() { answers <- readAll(k, opened) }()
			if framed {
				data = framedOf(data)
			}
			_ = k.Socket.SetWriteDeadline(time.Now().Add(time.Minute)) // a pipe can
			if _, err := k.Socket.Write(data); err == nil {
				synctest.Wait()
			}
			_ = k.Socket.Close() // the end of the client, whatever the server did
			if err := <-answers; err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			if n := r.server.Connections(); n != 0 {
				t.Fatalf("%d connections are left", n)
			}
			other := r.open(amqptest.Login{})
			r.exchange(other, "hello")
			_ = other.Socket.Close()
		})
	})
}

// readAll reads frames up to the end; the error says that something was none.
func readAll(k *amqptest.Client, opened bool) error {
	if !opened {
		_, _ = io.Copy(io.Discard, k.Socket)
		return nil
	}
	for {
		f, err := k.Frame()
		if _, bad := err.(*wire.Error); bad {
			return err
		}
		if err != nil {
			return nil
		}
		if f.Type == wire.FrameMethod {
			if _, err := wire.ParseMethod(f.Payload); err != nil {
				return err
			}
		}
	}
}

// framedOf makes frames of bytes: kind, channel, length (two octets) and payload each.
func framedOf(data []byte) (out []byte) {
	kinds := [...]byte{wire.FrameMethod, wire.FrameHeader, wire.FrameBody, wire.FrameHeartbeat}
	for len(data) >= 4 {
		n := min(int(binary.BigEndian.Uint16(data[2:])), len(data)-4)
		out = amqptest.AppendFrame(out, kinds[data[0]%4], uint16(data[1]%3), data[4:4+n])
		data = data[4+n:]
	}
	return out
}

// deframed is what framedOf makes frames of.
func deframed(frames []byte) (out []byte) {
	for len(frames) > 0 {
		n := int(binary.BigEndian.Uint32(frames[3:]))
		out = append(out, frames[0]-1, frames[2], byte(n>>8), byte(n))
		out = append(out, frames[7:7+n]...)
		frames = frames[8+n:]
	}
	return out
}

// conversations are seeds that reach most of what a client can do.
func conversations() [][]byte {
	say := func(methods ...wire.Method) (out []byte) {
		for _, m := range methods {
			out = wire.AppendMethodFrame(out, 1, m)
		}
		return out
	}
	p := wire.Properties{ContentType: "t", Headers: wire.Table{"CC": []any{"q"}, "BCC": []any{"x"}}, DeliveryMode: 2, Expiration: "100", ReplyTo: "r", UserID: "guest"}
	publish := func(key string, mandatory bool) []byte {
		return wire.AppendPublish(nil, 1, "", key, mandatory, false, p.Append(nil), []byte("body"), 8192)
	}
	join := func(parts ...[]byte) (out []byte) {
		for _, part := range parts {
			out = append(out, part...)
		}
		return out
	}
	return [][]byte{
		join(say(&wire.BasicQos{PrefetchCount: 2}, &wire.BasicConsume{Queue: "q", ConsumerTag: "c"}), publish("q", false),
			say(&wire.BasicAck{DeliveryTag: 1}, &wire.BasicNack{DeliveryTag: 2, Multiple: true, Requeue: true}, &wire.BasicReject{DeliveryTag: 3}, &wire.BasicCancel{ConsumerTag: "c"})),
		join(say(&wire.ConfirmSelect{}), publish("q", true), publish("nowhere", true), say(&wire.BasicGet{Queue: "q", NoAck: true}, &wire.QueuePurge{Queue: "q"})),
		join(say(&wire.TxSelect{}), publish("q", false), say(&wire.BasicGet{Queue: "q"}, &wire.TxCommit{}, &wire.TxRollback{}, &wire.BasicRecover{Requeue: true})),
		say(&wire.ExchangeDeclare{Exchange: "x", Type: "topic", AutoDelete: true, Arguments: wire.Table{"alternate-exchange": "amq.fanout"}},
			&wire.QueueDeclare{Queue: "", Exclusive: true, Arguments: wire.Table{"x-max-length": int32(1), "x-message-ttl": int64(10)}},
			&wire.QueueBind{Exchange: "x", RoutingKey: "a.#", Arguments: wire.Table{"x-match": "any"}}, &wire.ExchangeBind{Source: "x", Destination: "amq.direct"},
			&wire.QueueUnbind{Exchange: "x", RoutingKey: "a.#"}, &wire.ExchangeDelete{Exchange: "x"}, &wire.QueueDelete{IfEmpty: true}),
		join(say(&wire.BasicConsume{Queue: "amq.rabbitmq.reply-to", NoAck: true}), wire.AppendPublish(nil, 1, "", "q", false, false, (&wire.Properties{ReplyTo: "amq.rabbitmq.reply-to"}).Append(nil), nil, 8192),
			say(&wire.ChannelFlow{Active: true}, &wire.ChannelClose{ReplyCode: 200}, &wire.ChannelOpen{}),
			wire.AppendMethodFrame(nil, 0, &wire.ConnectionUpdateSecret{NewSecret: "guest"}), wire.AppendMethodFrame(nil, 2, &wire.ChannelOpen{}),
			wire.AppendHeartbeat(nil), wire.AppendMethodFrame(nil, 0, &wire.ConnectionClose{ReplyCode: 200})),
	}
}
