package rpc

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	brokerv1 "github.com/warrenmq/warren/proto/broker/v1"
)

// The flags of AMQP 0-9-1's properties, in the order of the list that follows them (see broker.Properties).
const (
	flagContentType = 1 << (15 - iota)
	flagContentEncoding
	flagHeaders
	flagDeliveryMode
	flagPriority
	flagCorrelationID
	flagReplyTo
	flagExpiration
	flagMessageID
	flagTimestamp
	flagType
	flagUserID
	flagAppID
	flagClusterID
	flagsUnknown = 3
)

// appendProperties appends properties in AMQP's form.
func appendProperties(dst []byte, p *brokerv1.Properties) ([]byte, error) {
	if raw := p.GetAmqpEncoded(); len(raw) > 0 {
		if err := readProperties(&brokerv1.Properties{}, raw); err != nil {
			return dst, fmt.Errorf("amqp_encoded: %w", err)
		}
		return append(dst, raw...), nil
	}
	w := writing{dst: append(dst, 0, 0)}
	start := len(dst)
	if p != nil {
		w.properties(p)
	}
	binary.BigEndian.PutUint16(w.dst[start:], w.flags)
	return w.dst, w.err
}

// writing appends properties and collects their flags.
type writing struct {
	dst   []byte
	flags uint16
	err   error
}

func (w *writing) properties(p *brokerv1.Properties) {
	w.text(flagContentType, "content type", p.ContentType)
	w.text(flagContentEncoding, "content encoding", p.ContentEncoding)
	if len(p.Headers) > 0 && w.err == nil {
		w.flags |= flagHeaders
		w.dst, w.err = appendTable(w.dst, p.Headers, 0)
	}
	w.octet(flagDeliveryMode, "delivery mode", p.DeliveryMode)
	w.octet(flagPriority, "priority", p.Priority)
	w.text(flagCorrelationID, "correlation id", p.CorrelationId)
	w.text(flagReplyTo, "reply to", p.ReplyTo)
	w.text(flagExpiration, "expiration", p.Expiration)
	w.text(flagMessageID, "message id", p.MessageId)
	if p.TimestampSeconds != nil {
		w.flags |= flagTimestamp
		w.dst = binary.BigEndian.AppendUint64(w.dst, *p.TimestampSeconds)
	}
	w.text(flagType, "type", p.Type)
	w.text(flagUserID, "user id", p.UserId)
	w.text(flagAppID, "app id", p.AppId)
	w.text(flagClusterID, "cluster id", p.ClusterId)
}

func (w *writing) text(flag uint16, name string, v *string) {
	switch {
	case v == nil:
	case len(*v) > maxShort:
		w.err = fmt.Errorf("%s of %d bytes is longer than %d", name, len(*v), maxShort)
	default:
		w.flags |= flag
		w.dst = append(append(w.dst, byte(len(*v))), *v...)
	}
}

func (w *writing) octet(flag uint16, name string, v *uint32) {
	switch {
	case v == nil:
	case *v > math.MaxUint8:
		w.err = fmt.Errorf("%s of %d is greater than 255", name, *v)
	default:
		w.flags |= flag
		w.dst = append(w.dst, byte(*v))
	}
}

// readProperties fills p, which is empty, from AMQP's form. What fields cannot say is kept in amqp_encoded as well.
func readProperties(p *brokerv1.Properties, raw []byte) error {
	o := octets{rest: raw}
	flags := o.u16()
	if flags&flagsUnknown != 0 {
		return errMalformed
	}
	text := func(flag uint16) *string {
		if flags&flag == 0 {
			return nil
		}
		v := o.short()
		return &v
	}
	octet := func(flag uint16) *uint32 {
		if flags&flag == 0 {
			return nil
		}
		v := uint32(o.u8())
		return &v
	}
	p.ContentType = text(flagContentType)
	p.ContentEncoding = text(flagContentEncoding)
	if flags&flagHeaders != 0 {
		p.Headers = o.table(0)
		o.lossy = o.lossy || len(p.Headers) == 0
	}
	p.DeliveryMode = octet(flagDeliveryMode)
	p.Priority = octet(flagPriority)
	p.CorrelationId = text(flagCorrelationID)
	p.ReplyTo = text(flagReplyTo)
	p.Expiration = text(flagExpiration)
	p.MessageId = text(flagMessageID)
	if flags&flagTimestamp != 0 {
		v := o.u64()
		p.TimestampSeconds = &v
	}
	p.Type = text(flagType)
	p.UserId = text(flagUserID)
	p.AppId = text(flagAppID)
	p.ClusterId = text(flagClusterID)
	switch {
	case o.err != nil:
		return o.err
	case len(o.rest) > 0:
		return errMalformed
	case o.lossy:
		p.AmqpEncoded = slices.Clone(raw)
	}
	return nil
}
