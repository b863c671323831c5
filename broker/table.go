package broker

import raftv1 "github.com/warrenmq/warren/proto/raft/v1"

// Table is an AMQP field table as it is stored: sorted by key, each value with the type octet it came with. Front doors
// build tables with the functions below and read them with Walk.
type (
	Table = raftv1.Table
	Field = raftv1.Field
	Value = raftv1.Value
)

// BoolValue is a boolean ('t').
func BoolValue(wireType byte, v bool) *Value {
	return &Value{WireType: uint32(wireType), Value: &raftv1.Value_Boolean{Boolean: v}}
}

// IntValue is an integer of any width ('b', 'B', 's', 'u', 'I', 'i', 'l', 'L') or a timestamp ('T').
func IntValue(wireType byte, v int64) *Value {
	return &Value{WireType: uint32(wireType), Value: &raftv1.Value_Integer{Integer: v}}
}

// FloatValue is a floating point number ('f', 'd').
func FloatValue(wireType byte, v float64) *Value {
	return &Value{WireType: uint32(wireType), Value: &raftv1.Value_Floating{Floating: v}}
}

// TextValue is a long string ('S').
func TextValue(wireType byte, v string) *Value {
	return &Value{WireType: uint32(wireType), Value: &raftv1.Value_Text{Text: v}}
}

// BytesValue is bytes ('x'), a long string ('S') that is not UTF-8, or the five octets of a decimal ('D').
func BytesValue(wireType byte, v []byte) *Value {
	return &Value{WireType: uint32(wireType), Value: &raftv1.Value_Binary{Binary: v}}
}

// ArrayValue is an array ('A').
func ArrayValue(wireType byte, vs []*Value) *Value {
	return &Value{WireType: uint32(wireType), Value: &raftv1.Value_Array{Array: &raftv1.Array{Values: vs}}}
}

// TableValue is a table in a table ('F').
func TableValue(wireType byte, t *Table) *Value {
	return &Value{WireType: uint32(wireType), Value: &raftv1.Value_Table{Table: t}}
}

// VoidValue is nothing ('V').
func VoidValue(wireType byte) *Value { return &Value{WireType: uint32(wireType)} }

// lookup returns the value of a key; nil when there is none.
func lookup(t *Table, key string) *Value {
	for _, f := range t.GetFields() {
		if f.GetKey() == key {
			return f.GetValue()
		}
	}
	return nil
}

// integer returns the number that a value is.
func integer(v *Value) (int64, bool) {
	switch v.GetWireType() {
	case 'b', 'B', 's', 'u', 'I', 'i', 'l', 'L':
		return v.GetInteger(), true
	}
	return 0, false
}

// text returns the string that a value is.
func text(v *Value) (string, bool) {
	if v.GetWireType() != 'S' {
		return "", false
	}
	if b, isBinary := v.GetValue().(*raftv1.Value_Binary); isBinary {
		return string(b.Binary), true
	}
	return v.GetText(), true
}
