package amqp

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmq/warren/amqp/wire"
	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/internal/amqptest"
)

// TestConfirmsAreCoalesced checks that what a shard answers together is confirmed with one frame, and what it refuses
// with one of its own.
func TestConfirmsAreCoalesced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, Options{}, broker.Options{})
		defer r.stop()
		k := r.open(amqptest.Login{})
		r.cluster.PickNext(1)
		k.Methods(1, &wire.QueueDeclare{Queue: "q"}, &wire.ConfirmSelect{})
		k.Method(1)
		k.Method(1)
		one := wire.AppendPublish(nil, 1, "", "q", false, false, nil, []byte("m"), frameMax)
		send := func(times int) {
			r.cluster.Hold(1)
			var data []byte
			for range times {
				data = append(data, one...)
			}
			k.Send(string(data))
			synctest.Wait()
			r.cluster.Release(1)
		}
		send(3)
		k.Want(1, &wire.BasicAck{DeliveryTag: 3, Multiple: true})
		send(1)
		k.Want(1, &wire.BasicAck{DeliveryTag: 4})
		send(20)
		k.Want(1, &wire.BasicAck{DeliveryTag: 24, Multiple: true})
		r.cluster.Refuse(r.cluster.Find("q").ID)
		send(2)
		k.Want(1, &wire.BasicNack{DeliveryTag: 26, Multiple: true})
	})
}

// TestReturnBeforeConfirm publishes messages with and without a queue, in turns and pieces of all sizes: each that is
// returned is returned before its confirm.
func TestReturnBeforeConfirm(t *testing.T) {
	r := start(t, Options{HandshakeTimeout: time.Hour}, broker.Options{})
	defer r.stop()
	k := r.open(amqptest.Login{})
	k.Methods(1, &wire.QueueDeclare{Queue: "q"}, &wire.QueueDeclare{Queue: "q2"}, &wire.ConfirmSelect{})
	for range 3 {
		k.Method(1)
	}
	const messages = 3000
	go func() {
		var data []byte
		for i := range messages {
			key := []string{"q", "q2", "nowhere"}[i%3]
			p := wire.Properties{MessageID: key}
			data = wire.AppendPublish(data, 1, "", key, true, false, p.Append(nil), []byte("m"), frameMax)
			if i%7 == 0 || i == messages-1 {
				if _, err := k.Socket.Write(data); err != nil {
					t.Error(err)
					return
				}
				data = data[:0]
			}
		}
	}()
	returned, confirmed := 0, map[uint64]bool{}
	for through := uint64(0); len(confirmed) < messages; {
		switch m := k.Method(1).(type) {
		case *wire.BasicReturn:
			k.Message(1)
			returned++
		case *wire.BasicAck:
			first := m.DeliveryTag
			if m.Multiple {
				first, through = through+1, max(through, m.DeliveryTag)
			}
			for tag := first; tag <= m.DeliveryTag; tag++ {
				confirmed[tag] = true
				if tag%3 == 0 && uint64(returned) < tag/3 {
					t.Fatalf("message %d was confirmed, %d have been returned", tag, returned)
				}
			}
		default:
			t.Fatalf("got %+v", m)
		}
	}
	if returned != messages/3 {
		t.Errorf("%d messages were returned", returned)
	}
}
