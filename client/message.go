package client

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	brokerv1 "github.com/warrenmq/warren/proto/broker/v1"
)

// Message is what is published and delivered. Zero fields are absent properties.
type Message struct {
	Exchange   string // "" is the default exchange: the routing key is the queue's name
	RoutingKey string
	Body       []byte

	// Headers hold bool, string, Octets, []byte, time.Time, nil, all of Go's integers and floats, Decimal, []any and
	// map[string]any; int and uint are sent with 64 bits. Texts must be UTF-8, as all texts of a message.
	Headers         map[string]any
	ContentType     string
	ContentEncoding string
	// Transient asks for delivery mode 1. Replicated queues keep such messages like any other.
	Transient     bool
	Priority      uint8
	CorrelationID string
	ReplyTo       string
	// Expiration is how long the message may wait in a queue; milliseconds are its unit. 0: for ever.
	Expiration time.Duration
	MessageID  string
	Timestamp  time.Time // to the second
	Type       string
	UserID     string // checked by the broker
	AppID      string

	// received is what came, where the fields above cannot say all of it: a message that is passed on stays what it was.
	received *brokerv1.Properties
}

// Octets is a text that is not UTF-8, as other clients may send it. []byte is AMQP's type for octets that are no text.
type Octets []byte

// Decimal is AMQP's decimal: Unscaled / 10^Scale.
type Decimal struct {
	Scale    uint8
	Unscaled uint32
}

// Table is the arguments of a queue, exchange or binding, with the values that Message.Headers may have.
type Table map[string]any

const (
	persistent = 2
	transient  = 1
)

// toProto makes the message of the API.
func (m *Message) toProto() (*brokerv1.Message, error) {
	p, err := m.properties()
	if err != nil {
		return nil, err
	}
	if m.received != nil {
		p = m.passedOn(p)
	}
	out := &brokerv1.Message{Exchange: m.Exchange, RoutingKey: m.RoutingKey, Properties: p, Body: m.Body}
	return out, checkText("exchange", m.Exchange, "routing key", m.RoutingKey)
}

// properties makes those that the fields say.
func (m *Message) properties() (*brokerv1.Properties, error) {
	err := checkText("content type", m.ContentType, "content encoding", m.ContentEncoding, "correlation id", m.CorrelationID, "reply to", m.ReplyTo,
		"message id", m.MessageID, "type", m.Type, "user id", m.UserID, "app id", m.AppID)
	if err != nil {
		return nil, err
	}
	p := &brokerv1.Properties{ContentType: text(m.ContentType), ContentEncoding: text(m.ContentEncoding), CorrelationId: text(m.CorrelationID),
		ReplyTo: text(m.ReplyTo), MessageId: text(m.MessageID), Type: text(m.Type), UserId: text(m.UserID), AppId: text(m.AppID)}
	p.DeliveryMode = proto.Uint32(persistent)
	if m.Transient {
		p.DeliveryMode = proto.Uint32(transient)
	}
	if m.Priority > 0 {
		p.Priority = proto.Uint32(uint32(m.Priority))
	}
	if m.Expiration > 0 {
		p.Expiration = proto.String(strconv.FormatInt(max(1, m.Expiration.Milliseconds()), 10))
	}
	if !m.Timestamp.IsZero() {
		p.TimestampSeconds = proto.Uint64(uint64(m.Timestamp.Unix()))
	}
	if p.Headers, err = toFields(m.Headers); err != nil {
		return nil, fmt.Errorf("headers: %w", err)
	}
	return p, nil
}

// passedOn is what is sent of a received message, given what its fields say now: what came, unless they were changed.
func (m *Message) passedOn(p *brokerv1.Properties) *brokerv1.Properties {
	before := fromProto(&brokerv1.Message{Properties: m.received})
	if was, err := before.properties(); err == nil && proto.Equal(was, p) {
		return m.received
	}
	p.ClusterId = m.received.ClusterId
	if p.Priority == nil && m.received.GetPriority() == 0 {
		p.Priority = m.received.Priority
	}
	return p
}

// checkText fails for a text that is not UTF-8, which cannot be sent; before each is its name.
func checkText(list ...string) error {
	for i := 0; i+1 < len(list); i += 2 {
		if !utf8.ValidString(list[i+1]) {
			return fmt.Errorf("%s: %w", list[i], errNotUTF8)
		}
	}
	return nil
}

var errNotUTF8 = errors.New("the text is not UTF-8")

func text(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// fromProto reads a message of the API.
func fromProto(m *brokerv1.Message) Message {
	p := m.GetProperties()
	out := Message{Exchange: m.GetExchange(), RoutingKey: m.GetRoutingKey(), Body: m.GetBody(), ContentType: p.GetContentType(),
		ContentEncoding: p.GetContentEncoding(), Transient: p.GetDeliveryMode() != persistent, Priority: uint8(p.GetPriority()),
		CorrelationID: p.GetCorrelationId(), ReplyTo: p.GetReplyTo(), MessageID: p.GetMessageId(), Type: p.GetType(), UserID: p.GetUserId(), AppID: p.GetAppId()}
	if p.GetExpiration() != "" {
		if n, err := strconv.ParseInt(p.GetExpiration(), 10, 64); err == nil {
			out.Expiration = time.Duration(n) * time.Millisecond
		}
	}
	if p != nil && p.TimestampSeconds != nil {
		out.Timestamp = time.Unix(int64(*p.TimestampSeconds), 0)
	}
	out.Headers = fromFields(p.GetHeaders())
	if p != nil && !saysAll(&out, p) {
		out.received = p
	}
	return out
}

// saysAll tells whether a message's fields say all of the properties that they were read from, in a way that is cheap.
func saysAll(m *Message, p *brokerv1.Properties) bool {
	return len(p.AmqpEncoded) == 0 && p.ClusterId == nil && p.DeliveryMode != nil && (p.Priority == nil || m.Priority > 0) && (p.Expiration == nil || m.Expiration > 0) &&
		says(p.ContentType) && says(p.ContentEncoding) && says(p.CorrelationId) && says(p.ReplyTo) && says(p.MessageId) && says(p.Type) && says(p.UserId) && says(p.AppId)
}

// says is false for a text that is there and empty: a Message has no such.
func says(s *string) bool { return s == nil || *s != "" }

// toFields turns a Go map into fields.
func toFields[M ~map[string]any](m M) (map[string]*brokerv1.FieldValue, error) {
	if len(m) == 0 {
		return nil, nil
	}
	fields := make(map[string]*brokerv1.FieldValue, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if !utf8.ValidString(key) {
			return nil, fmt.Errorf("%q: %w", key, errNotUTF8)
		}
		v, err := toField(m[key])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		fields[key] = v
	}
	return fields, nil
}

func toField(v any) (*brokerv1.FieldValue, error) {
	f := &brokerv1.FieldValue{}
	switch v := v.(type) {
	case nil:
	case bool:
		f.Kind = &brokerv1.FieldValue_BoolValue{BoolValue: v}
	case string:
		if !utf8.ValidString(v) {
			return nil, errNotUTF8
		}
		f.Kind = &brokerv1.FieldValue_StringValue{StringValue: v}
	case Octets:
		f.Kind = &brokerv1.FieldValue_OctetsValue{OctetsValue: v}
	case []byte:
		f.Kind = &brokerv1.FieldValue_BytesValue{BytesValue: v}
	case int:
		f.Kind = &brokerv1.FieldValue_Int64Value{Int64Value: int64(v)}
	case int64:
		f.Kind = &brokerv1.FieldValue_Int64Value{Int64Value: v}
	case int32:
		f.Kind = &brokerv1.FieldValue_Int32Value{Int32Value: v}
	case int16:
		f.Kind = &brokerv1.FieldValue_Int16Value{Int16Value: int32(v)}
	case int8:
		f.Kind = &brokerv1.FieldValue_Int8Value{Int8Value: int32(v)}
	case uint32:
		f.Kind = &brokerv1.FieldValue_Uint32Value{Uint32Value: v}
	case uint16:
		f.Kind = &brokerv1.FieldValue_Uint16Value{Uint16Value: uint32(v)}
	case uint8:
		f.Kind = &brokerv1.FieldValue_Uint8Value{Uint8Value: uint32(v)}
	case uint:
		return toUnsigned(uint64(v))
	case uint64:
		return toUnsigned(v)
	case float64:
		f.Kind = &brokerv1.FieldValue_DoubleValue{DoubleValue: v}
	case float32:
		f.Kind = &brokerv1.FieldValue_FloatValue{FloatValue: v}
	case time.Time:
		f.Kind = &brokerv1.FieldValue_TimestampValue{TimestampValue: uint64(v.Unix())}
	case Decimal:
		f.Kind = &brokerv1.FieldValue_DecimalValue{DecimalValue: &brokerv1.Decimal{Scale: uint32(v.Scale), Unscaled: v.Unscaled}}
	case []any:
		return toArray(v)
	case map[string]any:
		return toTable(v)
	case Table:
		return toTable(v)
	default:
		return nil, fmt.Errorf("a value of type %T cannot be sent", v)
	}
	return f, nil
}

func toUnsigned(v uint64) (*brokerv1.FieldValue, error) {
	if v > 1<<63-1 {
		return nil, fmt.Errorf("%d is too large", v)
	}
	return &brokerv1.FieldValue{Kind: &brokerv1.FieldValue_Int64Value{Int64Value: int64(v)}}, nil
}

func toArray(values []any) (*brokerv1.FieldValue, error) {
	a := &brokerv1.FieldArray{Values: make([]*brokerv1.FieldValue, len(values))}
	for i, v := range values {
		var err error
		if a.Values[i], err = toField(v); err != nil {
			return nil, err
		}
	}
	return &brokerv1.FieldValue{Kind: &brokerv1.FieldValue_ArrayValue{ArrayValue: a}}, nil
}

func toTable(m map[string]any) (*brokerv1.FieldValue, error) {
	fields, err := toFields(m)
	return &brokerv1.FieldValue{Kind: &brokerv1.FieldValue_TableValue{TableValue: &brokerv1.FieldTable{Fields: fields}}}, err
}

// fromFields turns fields into a Go map.
func fromFields(fields map[string]*brokerv1.FieldValue) map[string]any {
	if len(fields) == 0 {
		return nil
	}
	m := make(map[string]any, len(fields))
	for key, v := range fields {
		m[key] = fromField(v)
	}
	return m
}

func fromField(v *brokerv1.FieldValue) any {
	switch k := v.GetKind().(type) {
	case *brokerv1.FieldValue_BoolValue:
		return k.BoolValue
	case *brokerv1.FieldValue_StringValue:
		return k.StringValue
	case *brokerv1.FieldValue_OctetsValue:
		return Octets(k.OctetsValue)
	case *brokerv1.FieldValue_BytesValue:
		return k.BytesValue
	case *brokerv1.FieldValue_Int64Value:
		return k.Int64Value
	case *brokerv1.FieldValue_Int32Value:
		return k.Int32Value
	case *brokerv1.FieldValue_Int16Value:
		return int16(k.Int16Value)
	case *brokerv1.FieldValue_Int8Value:
		return int8(k.Int8Value)
	case *brokerv1.FieldValue_Uint32Value:
		return k.Uint32Value
	case *brokerv1.FieldValue_Uint16Value:
		return uint16(k.Uint16Value)
	case *brokerv1.FieldValue_Uint8Value:
		return uint8(k.Uint8Value)
	case *brokerv1.FieldValue_DoubleValue:
		return k.DoubleValue
	case *brokerv1.FieldValue_FloatValue:
		return k.FloatValue
	case *brokerv1.FieldValue_TimestampValue:
		return time.Unix(int64(k.TimestampValue), 0)
	case *brokerv1.FieldValue_DecimalValue:
		return Decimal{uint8(k.DecimalValue.GetScale()), k.DecimalValue.GetUnscaled()}
	case *brokerv1.FieldValue_ArrayValue:
		a := make([]any, len(k.ArrayValue.GetValues()))
		for i, inner := range k.ArrayValue.GetValues() {
			a[i] = fromField(inner)
		}
		return a
	case *brokerv1.FieldValue_TableValue:
		return fromFields(k.TableValue.GetFields())
	}
	return nil
}
