package amqp

import (
	"slices"

	"github.com/warrenmq/warren/amqp/wire"
	"github.com/warrenmq/warren/broker"
)

// storedTable turns a field table into the form in which the broker stores one; an empty table is nil.
func storedTable(t wire.Table) *broker.Table {
	if len(t) == 0 {
		return nil
	}
	names := make([]string, 0, len(t))
	for name := range t {
		names = append(names, name)
	}
	slices.Sort(names)
	out := &broker.Table{Fields: make([]*broker.Field, len(names))}
	for i, name := range names {
		out.Fields[i] = &broker.Field{Key: name, Value: storedValue(t[name])}
	}
	return out
}

// storedValue keeps the type octet of RabbitMQ's dialect with each value (reference: features.md 2).
func storedValue(v any) *broker.Value {
	switch v := v.(type) {
	case bool:
		return broker.BoolValue('t', v)
	case int8:
		return broker.IntValue('b', int64(v))
	case uint8:
		return broker.IntValue('B', int64(v))
	case int16:
		return broker.IntValue('s', int64(v))
	case uint16:
		return broker.IntValue('u', int64(v))
	case int32:
		return broker.IntValue('I', int64(v))
	case uint32:
		return broker.IntValue('i', int64(v))
	case int64:
		return broker.IntValue('l', v)
	case wire.Timestamp:
		return broker.IntValue('T', int64(v))
	case float32:
		return broker.FloatValue('f', float64(v))
	case float64:
		return broker.FloatValue('d', v)
	case wire.Decimal:
		return broker.BytesValue('D', v.Bytes())
	case string:
		return broker.TextValue('S', v)
	case []byte:
		return broker.BytesValue('x', v)
	case []any:
		values := make([]*broker.Value, len(v))
		for i := range v {
			values[i] = storedValue(v[i])
		}
		return broker.ArrayValue('A', values)
	case wire.Table:
		t := storedTable(v)
		if t == nil {
			t = &broker.Table{}
		}
		return broker.TableValue('F', t)
	}
	return broker.VoidValue('V')
}
