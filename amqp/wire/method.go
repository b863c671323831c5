package wire

import (
	"encoding/binary"
	"errors"
)

// unknownMethod is the error for ids that no method has.
type unknownMethod struct{ cause Error }

// Error returns the reply text.
func (u *unknownMethod) Error() string { return u.cause.Error() }

// IsUnknownMethod tells whether err says that no method has the ids read. RabbitMQ drops such a connection without a word.
func IsUnknownMethod(err error) bool {
	var unknown *unknownMethod
	return errors.As(err, &unknown)
}

// Unwrap gives the error with its reply code.
func (u *unknownMethod) Unwrap() error { return &u.cause }

// PeekMethod reads the ids at the front of a method frame's payload.
func PeekMethod(payload []byte) (MethodID, error) {
	if len(payload) < 4 {
		return 0, frameError("cannot decode %s", numbers(payload))
	}
	return MethodID(binary.BigEndian.Uint32(payload)), nil
}

// ParseMethod reads a method frame's payload.
func ParseMethod(payload []byte) (Method, error) {
	id, err := PeekMethod(payload)
	if err != nil {
		return nil, err
	}
	m := newMethod(id)
	if m == nil {
		return nil, &unknownMethod{cause: Error{Code: CommandInvalid, Text: "unimplemented method", Class: id.Class(), Method: id.Method()}}
	}
	r := reader{data: payload[4:]}
	m.read(&r)
	if err := r.end(id, payload); err != nil {
		return nil, err
	}
	return m, nil
}

// end checks that nothing was short and nothing is left.
func (r *reader) end(id MethodID, payload []byte) error {
	if r.err == nil && len(r.data) == 0 {
		return nil
	}
	e := frameError("cannot decode %s", numbers(payload[min(4, len(payload)):])) // the arguments
	e.Class, e.Method = id.Class(), id.Method()
	return e
}

// AppendMethod appends a method's ids and arguments, which is a method frame's payload.
func AppendMethod(dst []byte, m Method) []byte {
	class, method := m.ID()
	w := encoder{buf: dst}
	w.short(class)
	w.short(method)
	m.write(&w)
	return w.buf
}

// Publish is basic.publish read without allocation: its slices point into the payload.
type Publish struct {
	Exchange, RoutingKey []byte
	Mandatory, Immediate bool
}

// ParsePublish reads the payload of a basic.publish.
func ParsePublish(payload []byte) (Publish, error) {
	r := reader{data: payload[min(4, len(payload)):]}
	r.short()
	m := Publish{Exchange: r.shortBytes(), RoutingKey: r.shortBytes()}
	bits := r.octet()
	m.Mandatory, m.Immediate = bits&1 != 0, bits&2 != 0
	return m, r.end(BasicPublishID, payload)
}

// ParseAck reads the payload of a basic.ack.
func ParseAck(payload []byte) (BasicAck, error) {
	r := reader{data: payload[min(4, len(payload)):]}
	m := BasicAck{DeliveryTag: r.longlong()}
	m.Multiple = r.octet()&1 != 0
	return m, r.end(BasicAckID, payload)
}

// Deliver is basic.deliver read without allocation: its slices point into the payload.
type Deliver struct {
	ConsumerTag          []byte
	DeliveryTag          uint64
	Redelivered          bool
	Exchange, RoutingKey []byte
}

// ParseDeliver reads the payload of a basic.deliver.
func ParseDeliver(payload []byte) (Deliver, error) {
	r := reader{data: payload[min(4, len(payload)):]}
	m := Deliver{ConsumerTag: r.shortBytes(), DeliveryTag: r.longlong()}
	m.Redelivered = r.octet()&1 != 0
	m.Exchange, m.RoutingKey = r.shortBytes(), r.shortBytes()
	return m, r.end(BasicDeliverID, payload)
}
