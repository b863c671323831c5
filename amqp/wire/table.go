package wire

import (
	"encoding/binary"
	"math"
	"slices"
)

// Table is a decoded field table. Values are nil, bool, int8, uint8, int16, uint16, int32, uint32, int64, Timestamp,
// float32, float64, Decimal, string, []byte, []any and Table. Of a key that comes twice the last value counts.
type Table map[string]any

// Timestamp is seconds since 1970.
type Timestamp int64

// Decimal is Value / 10^Scale.
type Decimal struct {
	Scale uint8
	Value int32
}

// Bytes returns the five octets of the wire.
func (d Decimal) Bytes() []byte {
	return binary.BigEndian.AppendUint32([]byte{d.Scale}, uint32(d.Value))
}

// maxDepth bounds tables and arrays in one another; RabbitMQ's clients stay far below.
const maxDepth = 64

// A table is its length and its fields; RabbitMQ's type octets differ from the specification's for s, l and L:
//
//	table  length u32 | field…        field  key short string | value
//	value  type octet | bytes         array  length u32 | value…
//
//	t bool   b i8   B u8   s i16   u u16   I i32   i u32   l L i64   f f32   d f64
//	D scale u8, i32   S length u32, bytes   x likewise   T u64   A array   F table   V nothing

// ParseTableBody reads the fields of a table whose length has been read.
func ParseTableBody(body []byte) (Table, error) {
	r := reader{data: body}
	t := r.fields(0)
	if r.err != nil {
		return nil, r.err
	}
	return t, nil
}

func (r *reader) fields(depth int) Table {
	t := Table{}
	for len(r.data) > 0 {
		key := r.shortstr()
		value := r.value(depth)
		if r.err != nil {
			return nil
		}
		t[key] = value
	}
	return t
}

// nested reads what a length announces with f.
func (r *reader) nested(depth int, f func(inner *reader)) {
	if depth >= maxDepth {
		r.err, r.data = syntaxError("a table is nested more than %d deep", maxDepth), nil
		return
	}
	inner := reader{data: r.longBytes(), err: r.err}
	f(&inner)
	if r.err = inner.err; r.err != nil {
		r.data = nil
	}
}

func (r *reader) value(depth int) any {
	switch kind := r.octet(); kind {
	case 't':
		return r.octet() != 0
	case 'b':
		return int8(r.octet())
	case 'B':
		return r.octet()
	case 's':
		return int16(r.short())
	case 'u':
		return r.short()
	case 'I':
		return int32(r.long())
	case 'i':
		return r.long()
	case 'l', 'L':
		return int64(r.longlong())
	case 'T':
		return Timestamp(r.longlong())
	case 'f':
		return math.Float32frombits(r.long())
	case 'd':
		return math.Float64frombits(r.longlong())
	case 'D':
		return Decimal{Scale: r.octet(), Value: int32(r.long())}
	case 'S':
		return r.longstr()
	case 'x':
		return slices.Clone(r.longBytes())
	case 'V':
		return nil
	case 'A':
		values := []any{}
		r.nested(depth, func(inner *reader) {
			for len(inner.data) > 0 {
				values = append(values, inner.value(depth+1))
			}
		})
		return values
	case 'F':
		var t Table
		r.nested(depth, func(inner *reader) { t = inner.fields(depth + 1) })
		return t
	default:
		if r.err == nil {
			r.err, r.data = syntaxError("unknown field type %d", kind), nil
		}
		return nil
	}
}

// AppendTable appends a table with its length, its keys in sorted order. Values of other types than Table names are
// written as nothing.
func AppendTable(dst []byte, t Table) []byte {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	keys := make([]string, 0, len(t))
	for key := range t {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		dst = appendShort(dst, key)
		dst = appendValue(dst, t[key])
	}
	binary.BigEndian.PutUint32(dst[start:], uint32(len(dst)-start-4))
	return dst
}

func appendValue(dst []byte, v any) []byte {
	be := binary.BigEndian
	switch v := v.(type) {
	case bool:
		return append(dst, 't', boolOctet(v))
	case int8:
		return append(dst, 'b', byte(v))
	case uint8:
		return append(dst, 'B', v)
	case int16:
		return be.AppendUint16(append(dst, 's'), uint16(v))
	case uint16:
		return be.AppendUint16(append(dst, 'u'), v)
	case int32:
		return be.AppendUint32(append(dst, 'I'), uint32(v))
	case uint32:
		return be.AppendUint32(append(dst, 'i'), v)
	case int64:
		return be.AppendUint64(append(dst, 'l'), uint64(v))
	case int:
		return be.AppendUint64(append(dst, 'l'), uint64(v))
	case Timestamp:
		return be.AppendUint64(append(dst, 'T'), uint64(v))
	case float32:
		return be.AppendUint32(append(dst, 'f'), math.Float32bits(v))
	case float64:
		return be.AppendUint64(append(dst, 'd'), math.Float64bits(v))
	case Decimal:
		return append(append(dst, 'D'), v.Bytes()...)
	case string:
		dst = be.AppendUint32(append(dst, 'S'), uint32(len(v)))
		return append(dst, v...)
	case []byte:
		dst = be.AppendUint32(append(dst, 'x'), uint32(len(v)))
		return append(dst, v...)
	case []any:
		dst = append(dst, 'A', 0, 0, 0, 0)
		start := len(dst)
		for _, item := range v {
			dst = appendValue(dst, item)
		}
		be.PutUint32(dst[start-4:], uint32(len(dst)-start))
		return dst
	case Table:
		return AppendTable(append(dst, 'F'), v)
	}
	return append(dst, 'V')
}
