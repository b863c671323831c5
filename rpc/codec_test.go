package rpc

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	brokerv1 "github.com/warrenmq/warren/proto/broker/v1"
)

// encoded is what gRPC hands a codec: the octets of a message, in pieces.
func encoded(t *testing.T, m proto.Message) mem.BufferSlice {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	half := len(data) / 2
	return mem.BufferSlice{mem.SliceBuffer(data[:half]), mem.SliceBuffer(data[half:])}
}

func TestWhatIsPublishedIsReadAsGeneratedCodeReadsIt(t *testing.T) {
	messages := []*brokerv1.Message{
		{Exchange: "logs", RoutingKey: "a.b", Body: bytes.Repeat([]byte{7}, 70000),
			Properties: &brokerv1.Properties{DeliveryMode: proto.Uint32(2), MessageId: proto.String(""), Headers: map[string]*brokerv1.FieldValue{
				"n": {Kind: &brokerv1.FieldValue_Int64Value{Int64Value: -5}}}}},
		{RoutingKey: "q"},
		{},
		{Properties: &brokerv1.Properties{}, Body: []byte("x")},
	}
	batch := &brokerv1.PublishBatch{FirstSequence: 1 << 40, LowestUnconfirmed: 9, Messages: messages}
	var r publishRequest
	for range 2 { // the second time with the memory of the first
		if err := newCodec().Unmarshal(encoded(t, &brokerv1.PublishRequest{Request: &brokerv1.PublishRequest_Batch{Batch: batch}}), &r); err != nil {
			t.Fatal(err)
		}
		if !r.hasBatch || r.start != nil || r.first != 1<<40 || r.lowest != 9 || len(r.messages) != len(messages) {
			t.Fatalf("read %+v", r)
		}
		for i, m := range r.messages {
			got := &brokerv1.Message{Exchange: string(m.exchange), RoutingKey: string(m.routingKey), Body: m.body}
			if messages[i].Properties != nil {
				got.Properties = &brokerv1.Properties{}
				if err := proto.Unmarshal(m.properties, got.Properties); err != nil {
					t.Fatal(err)
				}
			}
			if !proto.Equal(messages[i], got) {
				t.Errorf("message %d: read %v", i, got)
			}
		}
		r.release()
	}
	start := &brokerv1.PublishStart{ProducerId: "p"}
	if err := newCodec().Unmarshal(encoded(t, &brokerv1.PublishRequest{Request: &brokerv1.PublishRequest_Start{Start: start}}), &r); err != nil {
		t.Fatal(err)
	}
	if r.hasBatch || !proto.Equal(start, r.start) {
		t.Errorf("read %+v", r)
	}
	for name, data := range map[string]string{"cut short": "\x12\x05\x0a", "not UTF-8": "\x12\x05\x12\x03\x0a\x01\xff", "no field": "\x00"} {
		if err := newCodec().Unmarshal(mem.BufferSlice{mem.SliceBuffer([]byte(data))}, &r); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestWhatIsDeliveredIsWrittenAsGeneratedCodeWritesIt(t *testing.T) {
	var d deliveries
	for _, size := range []int{1, 5000} { // within and beyond what gRPC pools
		want := &brokerv1.Deliveries{Deliveries: []*brokerv1.Delivery{
			{DeliveryTag: 1, Message: &brokerv1.Message{RoutingKey: "q", Properties: &brokerv1.Properties{}}},
			{DeliveryTag: 300, Redelivered: true, Message: &brokerv1.Message{Exchange: "x", RoutingKey: "k", Body: make([]byte, size),
				Properties: &brokerv1.Properties{DeliveryMode: proto.Uint32(2), Type: proto.String("t")}}},
			{DeliveryTag: 301, Message: &brokerv1.Message{Exchange: "x", RoutingKey: "k", Body: []byte("b"),
				Properties: &brokerv1.Properties{DeliveryMode: proto.Uint32(2), Type: proto.String("t")}}},
		}}
		for _, o := range want.Deliveries {
			properties, err := appendProperties(nil, o.Message.Properties)
			if err != nil {
				t.Fatal(err)
			}
			d.add(o.DeliveryTag, o.Redelivered, []byte(o.Message.Exchange), []byte(o.Message.RoutingKey), properties, o.Message.Body)
		}
		data, err := newCodec().Marshal(&d)
		if err != nil {
			t.Fatal(err)
		}
		got := &brokerv1.ConsumeResponse{}
		if err := proto.Unmarshal(data.Materialize(), got); err != nil {
			t.Fatal(err)
		}
		data.Free()
		if !proto.Equal(want, got.GetDeliveries()) || !d.empty() {
			t.Errorf("written: %v", got)
		}
	}
}

// inPieces cuts octets into pieces of a size.
func inPieces(data []byte, size int) (s mem.BufferSlice) {
	for piece := range slices.Chunk(data, size) {
		s = append(s, mem.SliceBuffer(piece))
	}
	return s
}

func TestPiecesAreCutAnywhere(t *testing.T) {
	batch := &brokerv1.PublishBatch{FirstSequence: 1 << 40, LowestUnconfirmed: 300, Messages: []*brokerv1.Message{
		{Exchange: "logs", RoutingKey: "a", Body: bytes.Repeat([]byte{7}, 200), Properties: &brokerv1.Properties{MessageId: proto.String("id")}},
		{}, {Body: []byte("x")}}}
	data, err := proto.Marshal(&brokerv1.PublishRequest{Request: &brokerv1.PublishRequest_Batch{Batch: batch}})
	if err != nil {
		t.Fatal(err)
	}
	for _, unknown := range []string{"", "\x3a\x02ab", "\x3d1234", "\x39\x31\x32\x33\x34\x35\x36\x37\x38", "\x38\x96\x01"} { // a later version's field
		data := append([]byte(unknown), data...)
		for size := 1; size <= len(data); size++ {
			var r publishRequest
			if err := r.read(inPieces(data, size)); err != nil {
				t.Fatalf("pieces of %d: %v", size, err)
			}
			if r.first != 1<<40 || r.lowest != 300 || len(r.messages) != 3 || r.size() != 1+len(data)+3*inboundSize {
				t.Fatalf("pieces of %d: read %+v", size, r)
			}
			for i, m := range batch.Messages {
				if got := r.messages[i]; m.Exchange != string(got.exchange) || m.RoutingKey != string(got.routingKey) || !bytes.Equal(m.Body, got.body) ||
					m.Properties != nil && !bytes.Contains(got.properties, []byte("id")) {
					t.Errorf("pieces of %d, message %d: read %+v", size, i, got)
				}
			}
			r.release()
			for cut := range len(data) { // what is cut short is seen to be, or is shorter
				if cut > len(unknown) && r.read(inPieces(data[:cut], size)) == nil {
					t.Fatalf("the first %d of %d octets, pieces of %d: no error", cut, len(data), size)
				}
			}
			r.release()
		}
	}
	var r publishRequest
	defer r.release()
	long := make([]byte, 2*mostInPieces)
	data, err = proto.Marshal(&brokerv1.PublishRequest{Request: &brokerv1.PublishRequest_Batch{Batch: &brokerv1.PublishBatch{Messages: []*brokerv1.Message{{Body: long}}}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.read(inPieces(data, smallBuffer)); err != nil || len(r.messages) != 1 || !bytes.Equal(r.messages[0].body, long) || len(r.data) != 1 {
		t.Errorf("a long message: %d in %d pieces, %v", len(r.messages), len(r.data), err)
	}
}

// TestPropertiesInManyPieces: what is said in pieces is the whole, and is not copied again for each piece.
func TestPropertiesInManyPieces(t *testing.T) {
	data := bytes.Repeat([]byte("\x1a\x02\x1a\x00"), 8000) // a message's properties with a header that has no name and no value
	copies := testing.AllocsPerRun(1, func() {
		var m inbound
		if err := m.read(data); err != nil || len(m.properties) != len(data)/2 {
			t.Fatalf("read %d octets: %v", len(m.properties), err)
		}
	})
	if copies > 100 { // each twice as long as the one before, or nearly
		t.Errorf("8000 pieces are copied %v times", copies)
	}
	one := inbound{}
	if err := one.read([]byte("\x1a\x03\x0a\x01a\x1a\x03\x12\x01b\x1a\x03\x22\x01c")); err != nil || string(one.properties) != "\x0a\x01a\x12\x01b\x22\x01c" {
		t.Errorf("three pieces are read as %q, %v", one.properties, err)
	}
}

// TestAListOfManyMessages: a request of many messages, however small, is not read to its end, and its list is not kept.
func TestAListOfManyMessages(t *testing.T) {
	many := func(n int) []byte {
		messages := bytes.Repeat([]byte{batchMessages<<3 | 2, 0}, n)
		return append(binary.AppendUvarint([]byte{requestBatch<<3 | 2}, uint64(len(messages))), messages...)
	}
	var r publishRequest
	for _, e := range []struct {
		messages, read int
		excess         bool
	}{{maxBatch, maxBatch, false}, {maxBatch + 1, maxBatch, true}, {2 << 20, maxBatch, true}} {
		if err := r.read(inPieces(many(e.messages), smallBuffer)); err != nil || len(r.messages) != e.read || r.excess != e.excess {
			t.Fatalf("%d messages: read %d, more %t, %v", e.messages, len(r.messages), r.excess, err)
		}
		if want := 1 + len(many(e.messages)) + inboundSize*maxBatch; r.size() != want {
			t.Errorf("%d messages hold %d bytes, want %d", e.messages, r.size(), want)
		}
		kept := r.kept
		r.release()
		if cap(*kept) > keptMessages {
			t.Errorf("a list of %d messages is kept", cap(*kept))
		}
	}
}

// FuzzPublishRequest compares what is read in place with what generated code reads.
func FuzzPublishRequest(f *testing.F) {
	f.Add([]byte("\x12\x0a\x08\x01\x12\x06\x0a\x01x\x22\x01b"), byte(200))
	f.Add([]byte("\x0a\x03\x0a\x01p"), byte(1))
	f.Fuzz(func(t *testing.T, data []byte, size byte) {
		var r publishRequest
		if r.read(inPieces(data, 1+int(size))) != nil {
			return
		}
		defer r.release()
		var want brokerv1.PublishRequest
		if proto.Unmarshal(data, &want) != nil || want.GetBatch() == nil || r.start != nil || r.excess {
			return // properties are read later
		}
		if len(want.GetBatch().Messages) != len(r.messages) || want.GetBatch().FirstSequence != r.first {
			t.Fatalf("read %+v, wanted %v", r, &want)
		}
		for i, m := range want.GetBatch().Messages {
			if got := &r.messages[i]; m.Exchange != string(got.exchange) || m.RoutingKey != string(got.routingKey) || !bytes.Equal(m.Body, got.body) {
				t.Errorf("message %d: read %+v, wanted %v", i, got, m)
			}
		}
	})
}
