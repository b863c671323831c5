package pipe

import (
	"bytes"
	"maps"
	"reflect"
	"testing"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/raftfsm/queue"
)

func aDelivery() queue.Delivery {
	return queue.Delivery{
		Session: 7, Consumer: 5, ID: 9, Queue: queue.MakeQueueID(3, 44), Redelivered: true, Persistent: true,
		DeliveryCount: 2, AcquiredCount: 3,
		Body: queue.Body{First: queue.Ref{Index: 10, Offset: 20, Size: 30}, More: []queue.Ref{{Index: 11, Offset: 21, Size: 31}}},
	}
}

// payload takes the one item of a frame.
func payload(t *testing.T, frame []byte, kind byte, shard queue.ShardID) []byte {
	t.Helper()
	it, rest, err := cutItem(frame)
	if err != nil || len(rest) != 0 || it.kind != kind || it.shard != shard {
		t.Fatalf("item %+v, rest %d, %v", it, len(rest), err)
	}
	return it.payload
}

func TestItemsComeBack(t *testing.T) {
	g, rest, err := cutGreeting(greeting{5, 8 << 20}.append(nil))
	if err != nil || len(rest) != 0 || g != (greeting{5, 8 << 20}) {
		t.Errorf("greeting: %+v, %v", g, err)
	}
	b := batchItem{generation: 1, commands: 2, seq: 3, acked: 4, data: []byte("commands")}
	if got, err := decodeBatch(payload(t, b.append(nil, 6), itemBatch, 6)); err != nil || !reflect.DeepEqual(got, b) {
		t.Errorf("batch: %+v, %v", got, err)
	}
	w := welcome{generation: 1, last: 2, incarnation: 3, term: 4}
	if got, err := decodeWelcome(payload(t, w.append(nil, 6), itemWelcome, 6)); err != nil || got != w {
		t.Errorf("welcome: %+v, %v", got, err)
	}
}

func TestHelloOfManyPartsComesBack(t *testing.T) {
	for _, n := range []int{0, 1, 16_380, 16_381, 50_000} {
		h := hello{session: 4, generation: 3, term: 5, consumers: map[queue.ConsumerID]uint64{}}
		for i := range n {
			h.consumers[queue.ConsumerID(i)] = uint64(i)
		}
		frame := appendHello(nil, 8, &h)
		got, parts := hello{session: 4}, 0
		for last := false; !last; parts++ {
			it, rest, err := cutItem(frame)
			if err != nil || len(it.payload) > frameBytes {
				t.Fatalf("%d consumers: part of %d bytes, %v", n, len(it.payload), err)
			}
			if last, err = decodeHello(it.payload, &got); err != nil {
				t.Fatal(err)
			}
			frame = rest
		}
		if len(frame) != 0 || got.generation != 3 || got.term != 5 || !maps.Equal(got.consumers, h.consumers) {
			t.Errorf("%d consumers: %d parts, %d came, %d bytes left", n, parts, len(got.consumers), len(frame))
		}
	}
}

func TestDeliveryWithEnvelopeComesBack(t *testing.T) {
	d := aDelivery()
	b, mark := appendDelivery(nil, &d)
	b = append(b, "envelope"...)
	setInline(b, mark, 8)
	c := cursor{b: b}
	got := broker.Delivery{Delivery: queue.Delivery{Session: 7}}
	if c.delivery(&got); c.bad || len(c.b) != 0 || !reflect.DeepEqual(got, broker.Delivery{Delivery: d, Inline: []byte("envelope")}) {
		t.Errorf("got %+v, bad %v, left %d", got, c.bad, len(c.b))
	}
}

func TestReplyComesBack(t *testing.T) {
	r := queue.Reply{Session: 7, Seq: 12, Results: []queue.Result{
		{Command: 1, Code: queue.OK, Messages: 5, Consumers: 6},
		{Command: 2, Code: queue.Message, Messages: 1, Delivery: aDelivery()},
		{Command: 9, Code: queue.Gone},
	}}
	c := cursor{b: appendReply(nil, &r)}
	if got, _ := c.reply(7, nil); c.bad || len(c.b) != 0 || !reflect.DeepEqual(got, r) {
		t.Errorf("got %+v, bad %v", got, c.bad)
	}
}

func TestTruncatedItemsAreRefused(t *testing.T) {
	d, r := aDelivery(), queue.Reply{Seq: 1, Results: []queue.Result{{Code: queue.Message, Delivery: aDelivery()}}}
	delivery, mark := appendDelivery(nil, &d)
	delivery = append(delivery, "abc"...)
	setInline(delivery, mark, 3)
	reply := appendReply(nil, &r)
	for n := range len(delivery) {
		c := cursor{b: bytes.Clone(delivery[:n])}
		if c.delivery(&broker.Delivery{}); !c.bad {
			t.Errorf("delivery of %d bytes of %d was taken", n, len(delivery))
		}
	}
	for n := range len(reply) {
		c := cursor{b: bytes.Clone(reply[:n])}
		if c.reply(1, nil); !c.bad {
			t.Errorf("reply of %d bytes of %d was taken", n, len(reply))
		}
	}
	if _, err := decodeBatch(make([]byte, batchItemSize-1)); err == nil {
		t.Error("short batch was taken")
	}
	if _, err := decodeHello(make([]byte, 9), &hello{}); err == nil {
		t.Error("crooked hello was taken")
	}
	if _, _, err := cutItem(make([]byte, 7)); err == nil {
		t.Error("short item was taken")
	}
}

// FuzzFromServer feeds an edge's link whatever a server might send.
func FuzzFromServer(f *testing.F) {
	d := aDelivery()
	it, mark := beginItem(nil, itemDeliveries, 3)
	it = le.AppendUint32(le.AppendUint32(it, 1), 1)
	it, _ = appendDelivery(it, &d)
	endItem(it, mark)
	f.Add(it)
	it, mark = beginItem(nil, itemReplies, 3)
	it = le.AppendUint32(le.AppendUint32(it, 1), 1)
	it = appendReply(it, &queue.Reply{Seq: 1, Results: []queue.Result{{Code: queue.Message, Delivery: d}}})
	endItem(it, mark)
	f.Add(it)
	f.Add((&welcome{generation: 1}).append(nil, 3))
	f.Add(appendReset(nil, 3, 1))
	f.Fuzz(func(t *testing.T, frame []byte) {
		e := must(NewEdge(EdgeOptions{Session: 7, Links: nowhere{}, Leaders: nowhere{}, Hosts: nowhere{}, Logger: quiet}))
		defer e.Close()
		l := newEdgeLink(e, 2)
		if p := e.pipe(3); len(frame) > 0 && frame[0]&1 == 0 {
			p.subs[5] = &subscription{receiver: ignore{}}
			p.phase, p.link, p.attempt = saidHello, l, 1
		}
		l.take(frame, len(frame))
	})
}

// FuzzFromEdge feeds a server's link whatever an edge might send.
func FuzzFromEdge(f *testing.F) {
	f.Add(appendHello(nil, 3, &hello{generation: 1, consumers: map[queue.ConsumerID]uint64{1: 2}}))
	f.Add((&batchItem{generation: 1, seq: 1, data: []byte("x")}).append(nil, 3))
	f.Add(appendCredit(nil, 9))
	f.Fuzz(func(t *testing.T, frame []byte) {
		link, other := newLinkPair()
		defer other.Close()
		l := &serverLink{server: must(NewServer(ServerOptions{Hosts: nowhere{}, Logger: quiet})), link: link, wake: make(chan struct{}, 1), outboxes: map[queue.ShardID]*outbox{}}
		l.take(frame)
	})
}

// FuzzRequest feeds Server.Call whatever may come.
func FuzzRequest(f *testing.F) {
	f.Add(le.AppendUint64(appendRequest(nil, callCounts, queue.LocalShard|1), 5))
	f.Add(appendRef(appendRequest(nil, callFetch, queue.LocalShard|1), queue.Ref{Index: 1, Offset: 2, Size: 1 << 31}))
	h := must(NewLocalHost(LocalOptions{Shard: queue.LocalShard | 1, Logger: quiet}))
	s := must(NewServer(ServerOptions{Hosts: only{h}, Logger: quiet}))
	f.Fuzz(func(t *testing.T, request []byte) {
		if answer, err := s.Call(t.Context(), request); err == nil && len(answer) < callHeaderSize {
			t.Errorf("answer of %d bytes", len(answer))
		}
	})
}
