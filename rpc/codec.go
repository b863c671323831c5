package rpc

import (
	"errors"
	"sync"
	"unicode/utf8"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	brokerv1 "github.com/warrenmq/warren/proto/broker/v1"
)

// codec is gRPC's codec of protobuf, and knows two messages by heart: those with the bodies of messages. What is published
// is read where it has arrived (publishRequest), what is delivered is written once (deliveries); with structs of generated
// code between, each message would cost half a dozen allocations.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2("proto")} }

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if d, ok := v.(*deliveries); ok {
		return d.take(), nil
	}
	return c.CodecV2.Marshal(v)
}

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if r, ok := v.(*publishRequest); ok {
		return r.read(data)
	}
	return c.CodecV2.Unmarshal(data, v)
}

// buffers is a pool that, unlike gRPC's own, does not clear what it hands out: all of it is overwritten. It has one pool for
// what fits into a frame of HTTP/2 and one for requests and responses.
type buffers struct{ small, large sync.Pool }

const (
	smallBuffer = 16 << 10
	largeBuffer = drainBytes + drainBytes/4
	// keptBuffer is the largest that goes back to the pool. All sizes are bytes.
	keptBuffer = 1 << 20
)

// Get implements mem.BufferPool.
func (b *buffers) Get(n int) *[]byte {
	pool, size := &b.large, largeBuffer
	if n <= smallBuffer {
		pool, size = &b.small, smallBuffer
	}
	if kept, ok := pool.Get().(*[]byte); ok && cap(*kept) >= n {
		*kept = (*kept)[:n]
		return kept
	}
	made := make([]byte, n, max(n, size))
	return &made
}

// Put implements mem.BufferPool.
func (b *buffers) Put(buffer *[]byte) {
	switch n := cap(*buffer); {
	case n >= largeBuffer && n <= keptBuffer:
		b.large.Put(buffer)
	case n >= smallBuffer && n < largeBuffer:
		b.small.Put(buffer)
	}
}

var messageBuffers = &buffers{}

// The numbers of fields in the API.
const (
	requestStart = 1 // PublishRequest
	requestBatch = 2

	batchFirst    = 1 // PublishBatch
	batchMessages = 2
	batchLowest   = 3

	messageExchange   = 1 // Message
	messageRoutingKey = 2
	messageProperties = 3
	messageBody       = 4

	responseDeliveries  = 2 // ConsumeResponse
	deliveriesOne       = 1 // Deliveries
	deliveryTag         = 1 // Delivery
	deliveryRedelivered = 2
	deliveryMessage     = 3
)

// publishRequest is a brokerv1.PublishRequest that is read in place: its texts and bodies are valid until the next.
type publishRequest struct {
	start    *brokerv1.PublishStart
	hasBatch bool
	first    uint64
	lowest   uint64
	messages []inbound
	data     mem.Buffer
	kept     *[]inbound // the memory of messages
}

// inbounds keeps the memory of lists of messages.
var inbounds = sync.Pool{New: func() any { return new([]inbound) }}

// inbound is a message in it; properties are a brokerv1.Properties.
type inbound struct{ exchange, routingKey, properties, body []byte }

// release lets go of the request's memory: streams that are idle hold none.
func (r *publishRequest) release() {
	if r.data != nil {
		r.data.Free()
	}
	if r.kept != nil {
		clear(r.messages)
		*r.kept = r.messages[:0]
		inbounds.Put(r.kept)
	}
	*r = publishRequest{}
}

// size is about how much memory it holds, in bytes: at least one.
func (r *publishRequest) size() int {
	if r.data == nil {
		return 1
	}
	return 1 + r.data.Len()
}

func (r *publishRequest) read(data mem.BufferSlice) error {
	r.release()
	r.data = data.MaterializeToBuffer(messageBuffers)
	r.kept = inbounds.Get().(*[]inbound)
	r.messages = *r.kept
	return eachField(r.data.ReadOnlyData(), func(field protowire.Number, kind protowire.Type, v value) error {
		switch {
		case field == requestStart && kind == protowire.BytesType:
			r.start = &brokerv1.PublishStart{}
			return proto.Unmarshal(v.bytes, r.start)
		case field == requestBatch && kind == protowire.BytesType:
			r.hasBatch = true
			return eachField(v.bytes, r.batch)
		}
		return nil
	})
}

func (r *publishRequest) batch(field protowire.Number, kind protowire.Type, v value) error {
	switch {
	case field == batchFirst && kind == protowire.VarintType:
		r.first = v.number
	case field == batchLowest && kind == protowire.VarintType:
		r.lowest = v.number
	case field == batchMessages && kind == protowire.BytesType:
		r.messages = append(r.messages, inbound{})
		return eachField(v.bytes, r.messages[len(r.messages)-1].field)
	}
	return nil
}

var errNoText = errors.New("a text is not UTF-8")

func (m *inbound) field(field protowire.Number, kind protowire.Type, v value) error {
	if kind != protowire.BytesType {
		return nil
	}
	switch field {
	case messageExchange:
		m.exchange = v.bytes
		return checkText(v.bytes)
	case messageRoutingKey:
		m.routingKey = v.bytes
		return checkText(v.bytes)
	case messageProperties:
		if m.properties != nil { // in two pieces: together they are what both say
			m.properties = append(m.properties[:len(m.properties):len(m.properties)], v.bytes...)
			return nil
		}
		m.properties = v.bytes
	case messageBody:
		m.body = v.bytes
	}
	return nil
}

func checkText(b []byte) error {
	if !utf8.Valid(b) {
		return errNoText
	}
	return nil
}

// value is what a field holds: a number, or bytes.
type value struct {
	number uint64
	bytes  []byte
}

// eachField calls f with the fields of an encoded message; those that are neither varints nor have a length have no value.
func eachField(data []byte, f func(field protowire.Number, kind protowire.Type, v value) error) error {
	for len(data) > 0 {
		field, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		var v value
		switch kind {
		case protowire.VarintType:
			v.number, n = protowire.ConsumeVarint(data)
		case protowire.BytesType:
			v.bytes, n = protowire.ConsumeBytes(data)
		default:
			n = protowire.ConsumeFieldValue(field, kind, data)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		if err := f(field, kind, v); err != nil {
			return err
		}
	}
	return nil
}

// keptProperties is how long properties may be that are remembered for more than one message.
const keptProperties = 4 << 10

// published turns properties of the API into AMQP's form. Publishers send the same again and again: the last are remembered.
type published struct {
	from    []byte // a brokerv1.Properties
	to      []byte
	scratch brokerv1.Properties
}

func (p *published) properties(raw []byte) ([]byte, error) {
	if len(p.to) > 0 && string(raw) == string(p.from) {
		return p.to, nil
	}
	if cap(p.to) > keptProperties {
		*p = published{}
	}
	p.from, p.to = append(p.from[:0], raw...), p.to[:0]
	proto.Reset(&p.scratch)
	if proto.Unmarshal(raw, &p.scratch) != nil {
		return nil, errMalformed
	}
	to, err := appendProperties(p.to, &p.scratch)
	if err != nil {
		return nil, err
	}
	p.to = to
	return to, nil
}

// deliveries is a brokerv1.ConsumeResponse with deliveries that is written as they come.
type deliveries struct {
	out   *[]byte // the entries of Deliveries.deliveries; nil: there are none
	count int     // of them

	exchange, routingKey interned
	from                 []byte // the last properties, in AMQP's form
	to                   []byte // the same as a brokerv1.Properties
	scratch              brokerv1.Properties
}

func (d *deliveries) empty() bool { return d.out == nil }

// add writes a delivery.
func (d *deliveries) add(tag uint64, redelivered bool, exchange, routingKey, properties, body []byte) {
	if d.out == nil {
		d.out = messageBuffers.Get(drainBytes)
		*d.out = (*d.out)[:0]
	}
	x, key := d.exchange.text(exchange), d.routingKey.text(routingKey)
	p := d.properties(properties)
	message := sizeOf(messageExchange, len(x)) + sizeOf(messageRoutingKey, len(key)) + sizeOf(messageBody, len(body)) +
		protowire.SizeTag(messageProperties) + protowire.SizeBytes(len(p))
	whole := protowire.SizeTag(deliveryTag) + protowire.SizeVarint(tag) + protowire.SizeTag(deliveryMessage) + protowire.SizeBytes(message)
	if redelivered {
		whole += protowire.SizeTag(deliveryRedelivered) + 1
	}
	out := protowire.AppendTag(*d.out, deliveriesOne, protowire.BytesType)
	out = protowire.AppendVarint(out, uint64(whole))
	out = protowire.AppendTag(out, deliveryTag, protowire.VarintType)
	out = protowire.AppendVarint(out, tag)
	if redelivered {
		out = protowire.AppendTag(out, deliveryRedelivered, protowire.VarintType)
		out = protowire.AppendVarint(out, 1)
	}
	out = protowire.AppendTag(out, deliveryMessage, protowire.BytesType)
	out = protowire.AppendVarint(out, uint64(message))
	if x != "" {
		out = protowire.AppendString(protowire.AppendTag(out, messageExchange, protowire.BytesType), x)
	}
	if key != "" {
		out = protowire.AppendString(protowire.AppendTag(out, messageRoutingKey, protowire.BytesType), key)
	}
	out = protowire.AppendBytes(protowire.AppendTag(out, messageProperties, protowire.BytesType), p)
	if len(body) > 0 {
		out = protowire.AppendBytes(protowire.AppendTag(out, messageBody, protowire.BytesType), body)
	}
	*d.out = out
	d.count++
}

// sizeOf is what a field with so many bytes takes: an empty one is left out.
func sizeOf(field protowire.Number, n int) int {
	if n == 0 {
		return 0
	}
	return protowire.SizeTag(field) + protowire.SizeBytes(n)
}

// properties turns properties of AMQP's form into those of the API. Those of the last delivery are remembered.
func (d *deliveries) properties(raw []byte) []byte {
	if len(d.from) > 0 && string(raw) == string(d.from) {
		return d.to
	}
	if cap(d.to) > keptProperties {
		d.from, d.to = nil, nil
	}
	d.from, d.to = append(d.from[:0], raw...), d.to[:0]
	proto.Reset(&d.scratch)
	if readProperties(&d.scratch, raw) != nil { // what was malformed at its publish shows no properties
		proto.Reset(&d.scratch)
	}
	to, err := proto.MarshalOptions{}.MarshalAppend(d.to, &d.scratch)
	if err != nil { // cannot be: all texts are UTF-8
		to = d.to
	}
	d.to = to
	return d.to
}

// take returns the whole response and begins the next.
func (d *deliveries) take() mem.BufferSlice {
	head := protowire.AppendTag(nil, responseDeliveries, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(len(*d.out)))
	entries := d.out
	d.out, d.count = nil, 0
	if mem.IsBelowBufferPoolingThreshold(len(*entries)) { // gRPC would not give it back
		defer messageBuffers.Put(entries)
		return mem.BufferSlice{mem.SliceBuffer(append(head, *entries...))}
	}
	return mem.BufferSlice{mem.SliceBuffer(head), mem.NewBuffer(entries, messageBuffers)}
}
