package broker

import (
	"context"
	"encoding/binary"
	"errors"
)

// An envelope is what the queue machines keep of a message, opaque to them:
//
//	exchange length u8 | exchange | key length u8 | routing key | properties length u32, little endian | properties | body
//
// BCC is not in the properties any more. Exchange and routing key are those of the publish.
type envelope struct {
	exchange, routingKey, properties, body []byte
}

var errMalformedEnvelope = errors.New("malformed envelope")

// maxShort is the longest exchange name or routing key, in bytes.
const maxShort = 255

func (e *envelope) headSize() int {
	return 1 + len(e.exchange) + 1 + len(e.routingKey) + 4 + len(e.properties)
}

func (e *envelope) size() int { return e.headSize() + len(e.body) }

func (e *envelope) appendHead(dst []byte) []byte {
	dst = append(append(dst, byte(len(e.exchange))), e.exchange...)
	dst = append(append(dst, byte(len(e.routingKey))), e.routingKey...)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(e.properties)))
	return append(dst, e.properties...)
}

func (e *envelope) append(dst []byte) []byte {
	return append(e.appendHead(dst), e.body...)
}

// clone returns a copy that shares nothing.
func (e *envelope) clone() envelope {
	b := make([]byte, 0, len(e.exchange)+len(e.routingKey)+len(e.properties)+len(e.body))
	part := func(p []byte) []byte {
		start := len(b)
		b = append(b, p...)
		return b[start:]
	}
	return envelope{part(e.exchange), part(e.routingKey), part(e.properties), part(e.body)}
}

// read gets a delivery's envelope. What came along is asked for as well: so the cluster knows that it was taken.
func (e *envelope) read(ctx context.Context, r Replicator, d *Delivery) error {
	data, err := r.Envelope(ctx, d)
	if err != nil {
		return err
	}
	return e.decode(data)
}

// decode makes e alias b.
func (e *envelope) decode(b []byte) error {
	var ok bool
	if e.exchange, b, ok = cutShort(b); !ok {
		return errMalformedEnvelope
	}
	if e.routingKey, b, ok = cutShort(b); !ok || len(b) < 4 {
		return errMalformedEnvelope
	}
	n := binary.LittleEndian.Uint32(b)
	if b = b[4:]; uint64(n) > uint64(len(b)) {
		return errMalformedEnvelope
	}
	e.properties, e.body = b[:n:n], b[n:]
	return nil
}

func cutShort(b []byte) (short, rest []byte, ok bool) {
	if len(b) == 0 || len(b) <= int(b[0]) {
		return nil, nil, false
	}
	n := 1 + int(b[0])
	return b[1:n:n], b[n:], true
}
