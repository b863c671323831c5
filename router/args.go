package router

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
)

// Args is the argument table of a binding. The values, here and in a message's headers, are AMQP's in these Go types:
//
//	void nil · bool · int8 … int64 · uint8 … uint64 · float32 · float64 · string (long string) · []byte (binary)
//	Timestamp · Decimal · []any (array) · map[string]any (table)
//
// Args is part of what tells bindings apart: two are the same when they have the same keys with the same values of the
// same Go types. A value of another type is carried along but matches nothing.
type Args map[string]any

// Timestamp is an AMQP timestamp in seconds since 1970.
type Timestamp int64

// Decimal is Unscaled divided by ten to the power of Scale.
type Decimal struct {
	Scale    uint8
	Unscaled uint32
}

// identity returns a string that is equal for the same arguments only; "" for none.
func (a Args) identity() string {
	if len(a) == 0 {
		return ""
	}
	return string(appendTable(nil, a))
}

// appendTable appends an unambiguous form of a table: count, then keys in order with their values.
func appendTable(b []byte, table map[string]any) []byte {
	b = binary.AppendUvarint(b, uint64(len(table)))
	for _, key := range slices.Sorted(maps.Keys(table)) {
		b = appendValue(appendText(b, key), table[key])
	}
	return b
}

func appendText[T string | []byte](b []byte, text T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// appendValue appends the letter of the type in RabbitMQ's field tables and the value. Which letter is of no matter, as
// long as no two types share one.
func appendValue(b []byte, value any) []byte {
	switch v := value.(type) {
	case nil:
		return append(b, 'V')
	case bool:
		if v {
			return append(b, 't', 1)
		}
		return append(b, 't', 0)
	case int8:
		return binary.AppendVarint(append(b, 'b'), int64(v))
	case int16:
		return binary.AppendVarint(append(b, 's'), int64(v))
	case int32:
		return binary.AppendVarint(append(b, 'I'), int64(v))
	case int64:
		return binary.AppendVarint(append(b, 'l'), v)
	case uint8:
		return binary.AppendUvarint(append(b, 'B'), uint64(v))
	case uint16:
		return binary.AppendUvarint(append(b, 'u'), uint64(v))
	case uint32:
		return binary.AppendUvarint(append(b, 'i'), uint64(v))
	case uint64:
		return binary.AppendUvarint(append(b, 'U'), v)
	case float32:
		return binary.BigEndian.AppendUint32(append(b, 'f'), math.Float32bits(v))
	case float64:
		return binary.BigEndian.AppendUint64(append(b, 'd'), math.Float64bits(v))
	case string:
		return appendText(append(b, 'S'), v)
	case []byte:
		return appendText(append(b, 'x'), v)
	case Timestamp:
		return binary.AppendVarint(append(b, 'T'), int64(v))
	case Decimal:
		return binary.BigEndian.AppendUint32(append(b, 'D', v.Scale), v.Unscaled)
	case []any:
		b = binary.AppendUvarint(append(b, 'A'), uint64(len(v)))
		for _, element := range v {
			b = appendValue(b, element)
		}
		return b
	case map[string]any:
		return appendTable(append(b, 'F'), v)
	default:
		return appendText(append(b, '?'), fmt.Sprintf("%T %v", v, v))
	}
}
