package rpc

import (
	"encoding/binary"
	"errors"
	"io"
	"slices"
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

// publishRequest is a brokerv1.PublishRequest that is read in place: its texts and bodies are valid until release.
type publishRequest struct {
	start    *brokerv1.PublishStart
	hasBatch bool
	first    uint64
	lowest   uint64
	messages []inbound
	excess   bool            // there are more than maxBatch: some were not read
	bytes    int             // of the whole
	data     mem.BufferSlice // what the messages are in
	joined   []*[]byte       // those that are in more than one of its pieces
	kept     *[]inbound      // the memory of messages
}

// inbounds keeps the memory of lists of messages.
var inbounds = sync.Pool{New: func() any { return new([]inbound) }}

// inbound is a message in it; properties are a brokerv1.Properties.
type inbound struct{ exchange, routingKey, properties, body []byte }

// release lets go of the request's memory: streams that are idle hold none.
func (r *publishRequest) release() {
	r.data.Free()
	for _, b := range r.joined {
		messageBuffers.Put(b)
	}
	if r.kept != nil && cap(r.messages) <= keptMessages {
		clear(r.messages)
		*r.kept = r.messages[:0]
		inbounds.Put(r.kept)
	}
	*r = publishRequest{}
}

// mostInPieces is up to which size, in bytes, a request stays in the pieces that it has come in.
const mostInPieces = 256 << 10

const (
	// maxBatch is how many messages a batch may have.
	maxBatch = 1 << 16
	// keptMessages is the longest list of messages that goes back to the pool.
	keptMessages = 4 << 10
	// inboundSize is what a message in a list takes beside its octets, in bytes.
	inboundSize = 96
)

// size is about how much memory it holds, in bytes: at least one.
func (r *publishRequest) size() int { return 1 + r.bytes + inboundSize*len(r.messages) }

func (r *publishRequest) read(data mem.BufferSlice) error {
	r.release()
	if r.bytes = data.Len(); r.bytes > mostInPieces { // one long message, most likely: it would be held twice
		data = mem.BufferSlice{data.MaterializeToBuffer(messageBuffers)}
	} else {
		data.Ref()
	}
	r.data = data
	r.kept = inbounds.Get().(*[]inbound)
	r.messages = *r.kept
	p := pieces{rest: data, left: r.bytes}
	for p.left > 0 {
		field, kind, n, err := p.next()
		switch {
		case err != nil:
			return err
		case kind != protowire.BytesType:
		case field == requestStart:
			r.start = &brokerv1.PublishStart{}
			if err := proto.Unmarshal(r.take(&p, int(n)), r.start); err != nil {
				return err
			}
		case field == requestBatch:
			r.hasBatch = true
			after := p.left - int(n)
			p.left = int(n)
			if err := r.batch(&p); err != nil {
				return err
			}
			p.left = after
		default:
			p.skip(int(n))
		}
	}
	return nil
}

// batch reads a PublishBatch, which is all that is left.
func (r *publishRequest) batch(p *pieces) error {
	for p.left > 0 {
		field, kind, n, err := p.next()
		switch {
		case err != nil:
			return err
		case field == batchFirst && kind == protowire.VarintType:
			r.first = n
		case field == batchLowest && kind == protowire.VarintType:
			r.lowest = n
		case kind != protowire.BytesType:
		case field == batchMessages && len(r.messages) >= maxBatch:
			r.excess = true
			p.skip(int(n))
		case field == batchMessages:
			r.messages = append(r.messages, inbound{})
			if err := r.messages[len(r.messages)-1].read(r.take(p, int(n))); err != nil {
				return err
			}
		default:
			p.skip(int(n))
		}
	}
	return nil
}

// take returns the next n octets, which there are, in one piece.
func (r *publishRequest) take(p *pieces, n int) []byte {
	if b := p.inHead(); n <= len(b) {
		p.skip(n)
		return b[:n:n]
	}
	k := len(r.joined) - 1
	if k < 0 || cap(*r.joined[k])-len(*r.joined[k]) < n {
		b := messageBuffers.Get(n)
		*b = (*b)[:0]
		r.joined = append(r.joined, b)
		k++
	}
	b := r.joined[k]
	from := len(*b)
	for n > 0 {
		part := p.inHead()
		part = part[:min(n, len(part))]
		*b = append(*b, part...)
		p.skip(len(part))
		n -= len(part)
	}
	return (*b)[from:len(*b):len(*b)]
}

// pieces reads an encoded message where it has arrived.
type pieces struct {
	rest mem.BufferSlice // behind head
	head []byte
	left int // octets that may be read: of a message within it, what is left of that
}

// inHead returns octets that come next, in one piece: some, if any are left.
func (p *pieces) inHead() []byte {
	for len(p.head) == 0 && len(p.rest) > 0 {
		p.head, p.rest = p.rest[0].ReadOnlyData(), p.rest[1:]
	}
	return p.head[:min(len(p.head), p.left)]
}

// skip leaves out the next n octets, which there are.
func (p *pieces) skip(n int) {
	p.left -= n
	for n > len(p.head) {
		n -= len(p.head)
		p.head, p.rest = p.rest[0].ReadOnlyData(), p.rest[1:]
	}
	p.head = p.head[n:]
}

// next reads a field's tag, and its number or, of one with a length, that; its octets, which there are, are the caller's to read.
// Other fields are left out.
func (p *pieces) next() (field protowire.Number, kind protowire.Type, n uint64, err error) {
	tag, err := p.varint()
	if err != nil {
		return 0, 0, 0, err
	}
	if field, kind = protowire.DecodeTag(tag); field < protowire.MinValidNumber {
		return 0, 0, 0, errNoField
	}
	fixed := 0
	switch kind {
	case protowire.VarintType:
		n, err = p.varint()
	case protowire.BytesType:
		if n, err = p.varint(); err == nil && n > uint64(p.left) {
			err = io.ErrUnexpectedEOF
		}
	case protowire.Fixed32Type:
		fixed = 4
	case protowire.Fixed64Type:
		fixed = 8
	default: // groups, which no field of this API ever was
		err = errNoField
	}
	if fixed > p.left {
		err = io.ErrUnexpectedEOF
	}
	if err == nil {
		p.skip(fixed)
	}
	return field, kind, n, err
}

func (p *pieces) varint() (uint64, error) {
	b := p.inHead()
	if v, n := protowire.ConsumeVarint(b); n > 0 {
		p.skip(n)
		return v, nil
	}
	var joined []byte // it ends in another piece, or nowhere
	for len(joined) < binary.MaxVarintLen64 && p.left > 0 {
		joined = append(joined, p.inHead()[0])
		p.skip(1)
		if v, n := protowire.ConsumeVarint(joined); n > 0 {
			return v, nil
		}
	}
	_, n := protowire.ConsumeVarint(joined)
	return 0, protowire.ParseError(n)
}

var (
	errNoText  = errors.New("a text is not UTF-8")
	errNoField = errors.New("no field can be like that")
)

// read reads a brokerv1.Message.
func (m *inbound) read(data []byte) error {
	joined := false // properties are in memory of their own
	for len(data) > 0 {
		field, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		var v []byte
		if kind == protowire.BytesType {
			v, n = protowire.ConsumeBytes(data)
		} else {
			field, n = 0, protowire.ConsumeFieldValue(field, kind, data)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		switch field {
		case messageExchange:
			m.exchange = v
		case messageRoutingKey:
			m.routingKey = v
		case messageProperties:
			switch { // in several pieces: together they are what all say
			case m.properties == nil:
				m.properties = v
			case joined:
				m.properties = append(m.properties, v...)
			default:
				m.properties, joined = slices.Concat(m.properties, v), true
			}
		case messageBody:
			m.body = v
		}
	}
	if !utf8.Valid(m.exchange) || !utf8.Valid(m.routingKey) {
		return errNoText
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
