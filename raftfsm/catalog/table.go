package catalog

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"unicode/utf8"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm"
	"github.com/warrenmq/warren/router"
)

// maxDepth bounds tables and arrays in one another.
const maxDepth = 64

// field returns the value under a key, or nil.
func field(t *raftv1.Table, key string) *raftv1.Value {
	for _, f := range t.GetFields() {
		if f.GetKey() == key {
			return f.GetValue()
		}
	}
	return nil
}

// textOf returns the text of a long string.
func textOf(v *raftv1.Value) (string, bool) {
	switch x := v.GetValue().(type) {
	case *raftv1.Value_Text:
		return x.Text, true
	case *raftv1.Value_Binary:
		return string(x.Binary), v.GetWireType() == 'S'
	}
	return "", false
}

// checkTable refuses tables that are nested too deep.
func checkTable(t *raftv1.Table) *raftfsm.Error {
	if tableDepth(t, 0) > maxDepth {
		return raftfsm.Errorf(raftfsm.PreconditionFailed, "arguments are nested more than %d deep", maxDepth)
	}
	return nil
}

// tableDepth returns how deep a table is nested, or something above maxDepth.
func tableDepth(t *raftv1.Table, above int) int {
	depth := above + 1
	for _, f := range t.GetFields() {
		depth = max(depth, valueDepth(f.GetValue(), above+1))
	}
	return depth
}

func valueDepth(v *raftv1.Value, above int) int {
	if above > maxDepth {
		return above
	}
	switch x := v.GetValue().(type) {
	case *raftv1.Value_Table:
		return tableDepth(x.Table, above)
	case *raftv1.Value_Array:
		depth := above + 1
		for _, inner := range x.Array.GetValues() {
			depth = max(depth, valueDepth(inner, above+1))
		}
		return depth
	}
	return above
}

// canonical returns the table as the catalog keeps it: nil when empty, its fields sorted by key, and of a key that comes
// twice the first. Tables in it stay as they are: clients see them again in that order.
func canonical(t *raftv1.Table) *raftv1.Table {
	fields := t.GetFields()
	if len(fields) == 0 {
		return nil
	}
	byKey := func(a, b *raftv1.Field) int { return cmp.Compare(a.GetKey(), b.GetKey()) }
	sorted := slices.Clone(fields)
	slices.SortStableFunc(sorted, byKey)
	sorted = slices.CompactFunc(sorted, func(a, b *raftv1.Field) bool { return a.GetKey() == b.GetKey() })
	return &raftv1.Table{Fields: sorted}
}

// tableIdentity returns a string that is equal for the same tables only; "" for an empty one. Tables are the same when
// the router cannot tell them apart: whatever the order of keys, at any depth, and whichever of its two octets announced
// a 64-bit integer.
func tableIdentity(t *raftv1.Table) string {
	if len(t.GetFields()) == 0 {
		return ""
	}
	return string(appendTable(nil, t))
}

func appendTable(b []byte, t *raftv1.Table) []byte {
	t = canonical(t)
	b = binary.AppendUvarint(b, uint64(len(t.GetFields())))
	for _, f := range t.GetFields() {
		b = appendValue(appendBytes(b, f.GetKey()), f.GetValue())
	}
	return b
}

func appendBytes[T string | []byte](b []byte, text T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

func appendValue(b []byte, v *raftv1.Value) []byte {
	wireType := v.GetWireType()
	if wireType == 'L' {
		wireType = 'l'
	}
	b = binary.AppendUvarint(b, uint64(wireType))
	switch x := v.GetValue().(type) {
	case *raftv1.Value_Boolean:
		if x.Boolean {
			return append(b, 1, 1)
		}
		return append(b, 1, 0)
	case *raftv1.Value_Integer:
		return binary.AppendVarint(append(b, 2), x.Integer)
	case *raftv1.Value_Floating:
		return binary.BigEndian.AppendUint64(append(b, 3), math.Float64bits(x.Floating))
	case *raftv1.Value_Text:
		return appendBytes(append(b, 4), x.Text)
	case *raftv1.Value_Binary:
		return appendBytes(append(b, 4), x.Binary)
	case *raftv1.Value_Array:
		b = binary.AppendUvarint(append(b, 5), uint64(len(x.Array.GetValues())))
		for _, inner := range x.Array.GetValues() {
			b = appendValue(b, inner)
		}
		return b
	case *raftv1.Value_Table:
		return appendTable(append(b, 6), x.Table)
	}
	return append(b, 0)
}

// TableToGo turns a stored table into the router's Go types; an empty one is nil.
func TableToGo(t *raftv1.Table) router.Args {
	if len(t.GetFields()) == 0 {
		return nil
	}
	return fieldsToGo(t)
}

func fieldsToGo(t *raftv1.Table) map[string]any {
	out := make(map[string]any, len(t.GetFields()))
	for _, f := range t.GetFields() {
		out[f.GetKey()] = ValueToGo(f.GetValue())
	}
	return out
}

// ValueToGo turns a stored value into the router's Go types.
func ValueToGo(v *raftv1.Value) any {
	switch x := v.GetValue().(type) {
	case *raftv1.Value_Boolean:
		return x.Boolean
	case *raftv1.Value_Integer:
		return integerToGo(v.GetWireType(), x.Integer)
	case *raftv1.Value_Floating:
		if v.GetWireType() == 'f' {
			return float32(x.Floating)
		}
		return x.Floating
	case *raftv1.Value_Text:
		return x.Text
	case *raftv1.Value_Binary:
		return octetsToGo(v.GetWireType(), x.Binary)
	case *raftv1.Value_Array:
		values := make([]any, len(x.Array.GetValues()))
		for i, inner := range x.Array.GetValues() {
			values[i] = ValueToGo(inner)
		}
		return values
	case *raftv1.Value_Table:
		return fieldsToGo(x.Table)
	}
	return nil
}

func integerToGo(wireType uint32, n int64) any {
	switch wireType {
	case 'b':
		return int8(n)
	case 'B':
		return uint8(n)
	case 's':
		return int16(n)
	case 'u':
		return uint16(n)
	case 'I':
		return int32(n)
	case 'i':
		return uint32(n)
	case 'T':
		return router.Timestamp(n)
	}
	return n
}

// octetsToGo reads binary data, a long string that is not UTF-8, or the five octets of a decimal.
func octetsToGo(wireType uint32, octets []byte) any {
	switch {
	case wireType == 'S':
		return string(octets)
	case wireType == 'D' && len(octets) == 5:
		return router.Decimal{Scale: octets[0], Unscaled: binary.BigEndian.Uint32(octets[1:])}
	}
	return octets
}

// TableFromGo turns the router's Go types into a table as it is stored; an empty one is nil. Other types than
// router.Args names are errors, and so is uint64, which no field table has.
func TableFromGo(table map[string]any) (*raftv1.Table, error) {
	if len(table) == 0 {
		return nil, nil
	}
	return fieldsFromGo(table, 1)
}

func fieldsFromGo(table map[string]any, depth int) (*raftv1.Table, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("the table is nested more than %d deep", maxDepth)
	}
	out := &raftv1.Table{}
	for _, key := range slices.Sorted(maps.Keys(table)) {
		v, err := valueFromGo(table[key], depth)
		if err != nil {
			return nil, fmt.Errorf("field %q: %w", key, err)
		}
		out.Fields = append(out.Fields, &raftv1.Field{Key: key, Value: v})
	}
	return out, nil
}

func valueFromGo(value any, depth int) (*raftv1.Value, error) {
	switch v := value.(type) {
	case nil:
		return &raftv1.Value{WireType: 'V'}, nil
	case bool:
		return &raftv1.Value{WireType: 't', Value: &raftv1.Value_Boolean{Boolean: v}}, nil
	case int8:
		return integerFromGo('b', int64(v)), nil
	case uint8:
		return integerFromGo('B', int64(v)), nil
	case int16:
		return integerFromGo('s', int64(v)), nil
	case uint16:
		return integerFromGo('u', int64(v)), nil
	case int32:
		return integerFromGo('I', int64(v)), nil
	case uint32:
		return integerFromGo('i', int64(v)), nil
	case int64:
		return integerFromGo('l', v), nil
	case router.Timestamp:
		return integerFromGo('T', int64(v)), nil
	case float32:
		return &raftv1.Value{WireType: 'f', Value: &raftv1.Value_Floating{Floating: float64(v)}}, nil
	case float64:
		return &raftv1.Value{WireType: 'd', Value: &raftv1.Value_Floating{Floating: v}}, nil
	case string:
		return textFromGo(v), nil
	case []byte:
		return octetsFromGo('x', v), nil
	case router.Decimal:
		return octetsFromGo('D', binary.BigEndian.AppendUint32([]byte{v.Scale}, v.Unscaled)), nil
	case []any:
		return arrayFromGo(v, depth+1)
	case map[string]any:
		t, err := fieldsFromGo(v, depth+1)
		return &raftv1.Value{WireType: 'F', Value: &raftv1.Value_Table{Table: t}}, err
	}
	return nil, fmt.Errorf("%T is no type of a field", value)
}

func integerFromGo(wireType uint32, n int64) *raftv1.Value {
	return &raftv1.Value{WireType: wireType, Value: &raftv1.Value_Integer{Integer: n}}
}

func octetsFromGo(wireType uint32, octets []byte) *raftv1.Value {
	return &raftv1.Value{WireType: wireType, Value: &raftv1.Value_Binary{Binary: octets}}
}

// textFromGo makes a long string; one that is not UTF-8 is stored as octets.
func textFromGo(text string) *raftv1.Value {
	if !utf8.ValidString(text) {
		return octetsFromGo('S', []byte(text))
	}
	return &raftv1.Value{WireType: 'S', Value: &raftv1.Value_Text{Text: text}}
}

func arrayFromGo(values []any, depth int) (*raftv1.Value, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("the array is nested more than %d deep", maxDepth)
	}
	array := &raftv1.Array{}
	for i, inner := range values {
		v, err := valueFromGo(inner, depth)
		if err != nil {
			return nil, fmt.Errorf("element %d: %w", i, err)
		}
		array.Values = append(array.Values, v)
	}
	return &raftv1.Value{WireType: 'A', Value: &raftv1.Value_Array{Array: array}}, nil
}
