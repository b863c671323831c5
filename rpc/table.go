package rpc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/warrenmq/warren/broker"
	brokerv1 "github.com/warrenmq/warren/proto/broker/v1"
	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
)

// Field tables have three forms: fields of the API; the broker's stored form, for arguments of queues, exchanges and
// bindings; and AMQP's own octets, in the properties of messages.

const (
	// maxDepth bounds tables and arrays in one another, the outermost counted: as AMQP's front door and the catalog do.
	maxDepth = 64
	// shownDepth is how many of them clients are shown. Each is up to three messages of the API in one another, within another
	// six, and most implementations of protobuf read a hundred.
	shownDepth = 32
	// maxShort is the longest name or short text, in bytes.
	maxShort = 255
	// maxArguments is how long arguments may be as they are stored, in bytes: about what a frame of AMQP takes, and little for an
	// entry of the log.
	maxArguments = 64 << 10
)

var errTooDeep = fmt.Errorf("tables are nested more than %d deep", maxDepth)

// storedArguments turns arguments into the form in which the broker stores them; none are nil.
func storedArguments(fields map[string]*brokerv1.FieldValue) (*broker.Table, error) {
	t, err := storedTable(fields, 0)
	if err != nil {
		return nil, invalid("arguments: %v", err)
	}
	if n := proto.Size(t); n > maxArguments {
		return nil, invalid("arguments of %d bytes are longer than %d", n, maxArguments)
	}
	return t, nil
}

// checkNames refuses names that are too long for any queue, exchange or tag.
func checkNames(names ...string) error {
	for _, name := range names {
		if len(name) > maxShort {
			return invalid("a name of %d bytes is longer than %d", len(name), maxShort)
		}
	}
	return nil
}

func storedTable(fields map[string]*brokerv1.FieldValue, depth int) (*broker.Table, error) {
	if depth >= maxDepth {
		return nil, errTooDeep
	}
	if len(fields) == 0 {
		return nil, nil
	}
	t := &broker.Table{Fields: make([]*broker.Field, 0, len(fields))}
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		if len(key) > maxShort {
			return nil, fmt.Errorf("a name of %d bytes is longer than %d", len(key), maxShort)
		}
		v, err := storedValue(fields[key], depth)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		t.Fields = append(t.Fields, &broker.Field{Key: key, Value: v})
	}
	return t, nil
}

func storedValue(v *brokerv1.FieldValue, depth int) (*broker.Value, error) {
	switch k := v.GetKind().(type) {
	case *brokerv1.FieldValue_BoolValue:
		return broker.BoolValue('t', k.BoolValue), nil
	case *brokerv1.FieldValue_DoubleValue:
		return broker.FloatValue('d', k.DoubleValue), nil
	case *brokerv1.FieldValue_FloatValue:
		return broker.FloatValue('f', float64(k.FloatValue)), nil
	case *brokerv1.FieldValue_StringValue:
		return broker.TextValue('S', k.StringValue), nil
	case *brokerv1.FieldValue_OctetsValue:
		return broker.BytesValue('S', k.OctetsValue), nil
	case *brokerv1.FieldValue_BytesValue:
		return broker.BytesValue('x', k.BytesValue), nil
	case *brokerv1.FieldValue_DecimalValue:
		d, err := appendDecimal(nil, k.DecimalValue)
		return broker.BytesValue('D', d), err
	case *brokerv1.FieldValue_ArrayValue:
		return storedArray(k.ArrayValue.GetValues(), depth+1)
	case *brokerv1.FieldValue_TableValue:
		t, err := storedTable(k.TableValue.GetFields(), depth+1)
		if t == nil {
			t = &broker.Table{}
		}
		return broker.TableValue('F', t), err
	}
	kind, n, err := integer(v)
	if err != nil {
		return nil, err
	}
	if kind == 'V' {
		return broker.VoidValue('V'), nil
	}
	return broker.IntValue(kind, n), nil
}

func storedArray(values []*brokerv1.FieldValue, depth int) (*broker.Value, error) {
	if depth >= maxDepth {
		return nil, errTooDeep
	}
	stored := make([]*broker.Value, len(values))
	for i, v := range values {
		var err error
		if stored[i], err = storedValue(v, depth); err != nil {
			return nil, err
		}
	}
	return broker.ArrayValue('A', stored), nil
}

// integer returns the type octet and value of an integer or timestamp; 'V' for no value at all.
func integer(v *brokerv1.FieldValue) (kind byte, n int64, err error) {
	least, most := int64(math.MinInt64), int64(math.MaxInt64)
	switch k := v.GetKind().(type) {
	case *brokerv1.FieldValue_Int64Value:
		kind, n = 'l', k.Int64Value
	case *brokerv1.FieldValue_TimestampValue:
		kind, n = 'T', int64(k.TimestampValue)
	case *brokerv1.FieldValue_Int32Value:
		kind, n = 'I', int64(k.Int32Value)
	case *brokerv1.FieldValue_Int16Value:
		kind, n, least, most = 's', int64(k.Int16Value), math.MinInt16, math.MaxInt16
	case *brokerv1.FieldValue_Int8Value:
		kind, n, least, most = 'b', int64(k.Int8Value), math.MinInt8, math.MaxInt8
	case *brokerv1.FieldValue_Uint32Value:
		kind, n = 'i', int64(k.Uint32Value)
	case *brokerv1.FieldValue_Uint16Value:
		kind, n, least, most = 'u', int64(k.Uint16Value), 0, math.MaxUint16
	case *brokerv1.FieldValue_Uint8Value:
		kind, n, least, most = 'B', int64(k.Uint8Value), 0, math.MaxUint8
	default:
		return 'V', 0, nil
	}
	if n < least || n > most {
		return 0, 0, fmt.Errorf("%d is not from %d to %d", n, least, most)
	}
	return kind, n, nil
}

func appendDecimal(dst []byte, d *brokerv1.Decimal) ([]byte, error) {
	if d.GetScale() > math.MaxUint8 {
		return dst, fmt.Errorf("a decimal's scale of %d is greater than 255", d.GetScale())
	}
	return binary.BigEndian.AppendUint32(append(dst, byte(d.GetScale())), d.GetUnscaled()), nil
}

// shownTable turns stored arguments into fields.
func shownTable(t *broker.Table) map[string]*brokerv1.FieldValue { return shownFields(t, 0) }

func shownFields(t *broker.Table, depth int) map[string]*brokerv1.FieldValue {
	if len(t.GetFields()) == 0 {
		return nil
	}
	fields := make(map[string]*brokerv1.FieldValue, len(t.GetFields()))
	for _, f := range t.GetFields() {
		if _, twice := fields[f.GetKey()]; !twice {
			fields[f.GetKey()] = shownValue(f.GetValue(), depth)
		}
	}
	return fields
}

func shownValue(v *broker.Value, depth int) *brokerv1.FieldValue {
	switch x := v.GetValue().(type) {
	case *raftv1.Value_Boolean:
		return &brokerv1.FieldValue{Kind: &brokerv1.FieldValue_BoolValue{BoolValue: x.Boolean}}
	case *raftv1.Value_Integer:
		return shownInteger(byte(v.GetWireType()), x.Integer)
	case *raftv1.Value_Floating:
		if v.GetWireType() == 'f' {
			return &brokerv1.FieldValue{Kind: &brokerv1.FieldValue_FloatValue{FloatValue: float32(x.Floating)}}
		}
		return &brokerv1.FieldValue{Kind: &brokerv1.FieldValue_DoubleValue{DoubleValue: x.Floating}}
	case *raftv1.Value_Text:
		return &brokerv1.FieldValue{Kind: &brokerv1.FieldValue_StringValue{StringValue: x.Text}}
	case *raftv1.Value_Binary:
		return shownBinary(byte(v.GetWireType()), x.Binary)
	case *raftv1.Value_Array:
		if depth+1 >= shownDepth {
			break
		}
		a := &brokerv1.FieldArray{}
		for _, inner := range x.Array.GetValues() {
			a.Values = append(a.Values, shownValue(inner, depth+1))
		}
		return &brokerv1.FieldValue{Kind: &brokerv1.FieldValue_ArrayValue{ArrayValue: a}}
	case *raftv1.Value_Table:
		if depth+1 >= shownDepth {
			break
		}
		return &brokerv1.FieldValue{Kind: &brokerv1.FieldValue_TableValue{TableValue: &brokerv1.FieldTable{Fields: shownFields(x.Table, depth+1)}}}
	}
	return &brokerv1.FieldValue{}
}

func shownBinary(kind byte, b []byte) *brokerv1.FieldValue {
	switch {
	case kind == 'D' && len(b) == 5:
		return shownDecimal(b)
	case kind == 'S':
		return &brokerv1.FieldValue{Kind: &brokerv1.FieldValue_OctetsValue{OctetsValue: b}}
	}
	return &brokerv1.FieldValue{Kind: &brokerv1.FieldValue_BytesValue{BytesValue: b}}
}

func shownDecimal(b []byte) *brokerv1.FieldValue {
	return &brokerv1.FieldValue{Kind: &brokerv1.FieldValue_DecimalValue{DecimalValue: &brokerv1.Decimal{Scale: uint32(b[0]), Unscaled: binary.BigEndian.Uint32(b[1:])}}}
}

func shownInteger(kind byte, n int64) *brokerv1.FieldValue {
	v := &brokerv1.FieldValue{}
	switch kind {
	case 'T':
		v.Kind = &brokerv1.FieldValue_TimestampValue{TimestampValue: uint64(n)}
	case 'I':
		v.Kind = &brokerv1.FieldValue_Int32Value{Int32Value: int32(n)}
	case 's':
		v.Kind = &brokerv1.FieldValue_Int16Value{Int16Value: int32(n)}
	case 'b':
		v.Kind = &brokerv1.FieldValue_Int8Value{Int8Value: int32(n)}
	case 'i':
		v.Kind = &brokerv1.FieldValue_Uint32Value{Uint32Value: uint32(n)}
	case 'u':
		v.Kind = &brokerv1.FieldValue_Uint16Value{Uint16Value: uint32(n)}
	case 'B':
		v.Kind = &brokerv1.FieldValue_Uint8Value{Uint8Value: uint32(n)}
	default:
		v.Kind = &brokerv1.FieldValue_Int64Value{Int64Value: n}
	}
	return v
}

// appendTable appends fields in AMQP's form, with the length before them.
func appendTable(dst []byte, fields map[string]*brokerv1.FieldValue, depth int) ([]byte, error) {
	if depth >= maxDepth {
		return dst, errTooDeep
	}
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	for key, v := range fields {
		if len(key) > maxShort {
			return dst, fmt.Errorf("a header's name of %d bytes is longer than %d", len(key), maxShort)
		}
		dst = append(append(dst, byte(len(key))), key...)
		var err error
		if dst, err = appendValue(dst, v, depth); err != nil {
			return dst, fmt.Errorf("header %q: %w", key, err)
		}
	}
	binary.BigEndian.PutUint32(dst[start:], uint32(len(dst)-start-4))
	return dst, nil
}

// appendValue appends a value with its type octet.
func appendValue(dst []byte, v *brokerv1.FieldValue, depth int) ([]byte, error) {
	switch k := v.GetKind().(type) {
	case *brokerv1.FieldValue_StringValue:
		return appendLong(dst, 'S', k.StringValue), nil
	case *brokerv1.FieldValue_OctetsValue:
		return appendLong(dst, 'S', k.OctetsValue), nil
	case *brokerv1.FieldValue_BytesValue:
		return appendLong(dst, 'x', k.BytesValue), nil
	case *brokerv1.FieldValue_BoolValue:
		if k.BoolValue {
			return append(dst, 't', 1), nil
		}
		return append(dst, 't', 0), nil
	case *brokerv1.FieldValue_DoubleValue:
		return binary.BigEndian.AppendUint64(append(dst, 'd'), math.Float64bits(k.DoubleValue)), nil
	case *brokerv1.FieldValue_FloatValue:
		return binary.BigEndian.AppendUint32(append(dst, 'f'), math.Float32bits(k.FloatValue)), nil
	case *brokerv1.FieldValue_DecimalValue:
		return appendDecimal(append(dst, 'D'), k.DecimalValue)
	case *brokerv1.FieldValue_TableValue:
		return appendTable(append(dst, 'F'), k.TableValue.GetFields(), depth+1)
	case *brokerv1.FieldValue_ArrayValue:
		return appendArray(append(dst, 'A'), k.ArrayValue.GetValues(), depth+1)
	}
	kind, n, err := integer(v)
	dst = append(dst, kind)
	switch kind {
	case 'l', 'T':
		dst = binary.BigEndian.AppendUint64(dst, uint64(n))
	case 'I', 'i':
		dst = binary.BigEndian.AppendUint32(dst, uint32(n))
	case 's', 'u':
		dst = binary.BigEndian.AppendUint16(dst, uint16(n))
	case 'b', 'B':
		dst = append(dst, byte(n))
	}
	return dst, err
}

func appendLong[T string | []byte](dst []byte, kind byte, text T) []byte {
	dst = binary.BigEndian.AppendUint32(append(dst, kind), uint32(len(text)))
	return append(dst, text...)
}

func appendArray(dst []byte, values []*brokerv1.FieldValue, depth int) ([]byte, error) {
	if depth >= maxDepth {
		return dst, errTooDeep
	}
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	for _, v := range values {
		var err error
		if dst, err = appendValue(dst, v, depth); err != nil {
			return dst, err
		}
	}
	binary.BigEndian.PutUint32(dst[start:], uint32(len(dst)-start-4))
	return dst, nil
}

var errMalformed = errors.New("malformed properties")

// octets reads AMQP's form. After the first error it reads zeros. What fields cannot say makes it lossy.
type octets struct {
	rest  []byte
	err   error
	lossy bool
}

var zeros [8]byte

func (o *octets) take(n int) []byte {
	if o.err == nil && n > len(o.rest) {
		o.err = errMalformed
	}
	if o.err != nil {
		o.rest = nil
		return zeros[:min(n, len(zeros))]
	}
	b := o.rest[:n]
	o.rest = o.rest[n:]
	return b
}

func (o *octets) u8() byte    { return o.take(1)[0] }
func (o *octets) u16() uint16 { return binary.BigEndian.Uint16(o.take(2)) }
func (o *octets) u32() uint32 { return binary.BigEndian.Uint32(o.take(4)) }
func (o *octets) u64() uint64 { return binary.BigEndian.Uint64(o.take(8)) }

// long takes what has its length before it.
func (o *octets) long() []byte {
	n := o.u32()
	if uint64(n) > uint64(len(o.rest)) {
		o.err, o.rest = errMalformed, nil
		return nil
	}
	return o.take(int(n))
}

// short takes a short text.
func (o *octets) short() string {
	n := int(o.u8())
	if n > len(o.rest) {
		o.err, o.rest = errMalformed, nil
		return ""
	}
	return o.text(o.take(n))
}

// text makes valid UTF-8 of bytes.
func (o *octets) text(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	o.lossy = true
	return string([]rune(string(b)))
}

func (o *octets) table(depth int) map[string]*brokerv1.FieldValue {
	inner := octets{rest: o.long(), err: o.err}
	if depth >= maxDepth {
		inner.err = errTooDeep
	}
	var fields map[string]*brokerv1.FieldValue
	for len(inner.rest) > 0 && inner.err == nil {
		key := inner.short()
		v := inner.value(depth)
		if _, twice := fields[key]; twice {
			inner.lossy = true
			continue
		}
		if fields == nil {
			fields = map[string]*brokerv1.FieldValue{}
		}
		fields[key] = v
	}
	o.join(&inner)
	return fields
}

func (o *octets) array(depth int) *brokerv1.FieldArray {
	inner := octets{rest: o.long(), err: o.err}
	if depth >= maxDepth {
		inner.err = errTooDeep
	}
	a := &brokerv1.FieldArray{}
	for len(inner.rest) > 0 && inner.err == nil {
		a.Values = append(a.Values, inner.value(depth))
	}
	o.join(&inner)
	return a
}

func (o *octets) join(inner *octets) {
	o.lossy = o.lossy || inner.lossy
	if inner.err != nil && o.err == nil {
		o.err, o.rest = inner.err, nil
	}
}

func (o *octets) value(depth int) *brokerv1.FieldValue {
	switch kind := o.u8(); kind {
	case 'V':
		return &brokerv1.FieldValue{}
	case 't':
		b := o.u8()
		o.lossy = o.lossy || b > 1
		return &brokerv1.FieldValue{Kind: &brokerv1.FieldValue_BoolValue{BoolValue: b != 0}}
	case 'b':
		return shownInteger(kind, int64(int8(o.u8())))
	case 'B':
		return shownInteger(kind, int64(o.u8()))
	case 's':
		return shownInteger(kind, int64(int16(o.u16())))
	case 'u':
		return shownInteger(kind, int64(o.u16()))
	case 'I':
		return shownInteger(kind, int64(int32(o.u32())))
	case 'i':
		return shownInteger(kind, int64(o.u32()))
	case 'L':
		o.lossy = true
		return shownInteger('l', int64(o.u64()))
	case 'l', 'T':
		return shownInteger(kind, int64(o.u64()))
	case 'f':
		return &brokerv1.FieldValue{Kind: &brokerv1.FieldValue_FloatValue{FloatValue: math.Float32frombits(o.u32())}}
	case 'd':
		return &brokerv1.FieldValue{Kind: &brokerv1.FieldValue_DoubleValue{DoubleValue: math.Float64frombits(o.u64())}}
	case 'D':
		return shownDecimal(o.take(5))
	case 'S':
		b := o.long()
		if !utf8.Valid(b) {
			return &brokerv1.FieldValue{Kind: &brokerv1.FieldValue_OctetsValue{OctetsValue: slices.Clone(b)}}
		}
		return &brokerv1.FieldValue{Kind: &brokerv1.FieldValue_StringValue{StringValue: string(b)}}
	case 'x':
		return &brokerv1.FieldValue{Kind: &brokerv1.FieldValue_BytesValue{BytesValue: slices.Clone(o.long())}}
	case 'A':
		return o.shown(depth+1, &brokerv1.FieldValue{Kind: &brokerv1.FieldValue_ArrayValue{ArrayValue: o.array(depth + 1)}})
	case 'F':
		return o.shown(depth+1, &brokerv1.FieldValue{Kind: &brokerv1.FieldValue_TableValue{TableValue: &brokerv1.FieldTable{Fields: o.table(depth + 1)}}})
	}
	o.err, o.rest = errMalformed, nil
	return nil
}

// shown is the value, if it is not too deep to be shown.
func (o *octets) shown(depth int, v *brokerv1.FieldValue) *brokerv1.FieldValue {
	if depth >= shownDepth {
		o.lossy = true
		return &brokerv1.FieldValue{}
	}
	return v
}
