package router

import (
	"math"
	"testing"
)

func TestEqual(t *testing.T) {
	// Values of one group equal each other and none of another group.
	groups := [][]any{
		{nil},
		{true},
		{false},
		{int8(1), int16(1), int32(1), int64(1), uint8(1), uint16(1), uint32(1), uint64(1)},
		{int8(-1), int16(-1), int32(-1), int64(-1)},
		{uint64(math.MaxUint64)},
		{float32(1), float64(1)},
		{float64(1.1)},
		{"1", []byte("1")},
		{"", []byte{}},
		{"true"},
		{Timestamp(1)},
		{Decimal{0, 1}},
		{Decimal{1, 10}},
		{[]any{int8(1), "a"}, []any{uint64(1), []byte("a")}},
		{[]any{int8(1)}},
		{[]any{}},
		{map[string]any{"a": int8(1)}, map[string]any{"a": int64(1)}},
		{map[string]any{"a": int8(2)}},
		{map[string]any{"b": int8(1)}},
		{map[string]any{}},
	}
	for i, group := range groups {
		for _, a := range group {
			for j, other := range groups {
				for _, b := range other {
					if got := equal(a, b); got != (i == j) {
						t.Errorf("equal(%T %v, %T %v) = %v", a, a, b, b, got)
					}
				}
			}
		}
	}
	type unknown struct{}
	if equal(unknown{}, unknown{}) {
		t.Error("a type that is not AMQP's matches")
	}
}

func TestArgsIdentity(t *testing.T) {
	different := []Args{
		nil,
		{"a": nil}, {"b": nil},
		{"a": true}, {"a": false},
		{"a": int8(1)}, {"a": int16(1)}, {"a": int32(1)}, {"a": int64(1)}, {"a": int64(-1)},
		{"a": uint8(1)}, {"a": uint16(1)}, {"a": uint32(1)}, {"a": uint64(1)},
		{"a": float32(1)}, {"a": float64(1)},
		{"a": "1"}, {"a": []byte("1")}, {"a": ""},
		{"a": Timestamp(1)}, {"a": Decimal{0, 1}}, {"a": Decimal{1, 0}},
		{"a": []any{}}, {"a": []any{"b", "c"}}, {"a": []any{"bc"}}, {"a": []any{[]any{"b"}, "c"}}, {"a": []any{[]any{"b", "c"}}},
		{"a": map[string]any{}}, {"a": map[string]any{"b": "c"}}, {"a": map[string]any{"b": "c", "d": nil}},
		{"a": "b", "c": "d"}, {"a": "d", "c": "b"},
		{"a": struct{ X int }{1}}, {"a": struct{ X int }{2}},
	}
	seen := map[string]Args{}
	for _, args := range different {
		id := args.identity()
		if other, ok := seen[id]; ok {
			t.Errorf("%v and %v are the same", args, other)
		}
		seen[id] = args
	}
	if (Args{}).identity() != Args(nil).identity() {
		t.Error("an empty table differs from none")
	}
	nan := Args{"a": math.NaN(), "b": map[string]any{"y": int8(1), "x": []any{nil}}}
	again := Args{"b": map[string]any{"x": []any{nil}, "y": int8(1)}, "a": math.NaN()}
	if nan.identity() != again.identity() {
		t.Error("the same arguments differ")
	}
}

func TestValidateBinding(t *testing.T) {
	cases := []struct {
		kind Kind
		key  string
		args Args
		want string
	}{
		{Direct, "#.#.#", Args{"x-match": "what"}, ""},
		{Topic, "#.a.#", nil, ""},
		{Topic, "a#.#b.#c.##", nil, ""},
		{Topic, "#.a.#.#", nil, "Topic binding key '#.a.#.#' uses 3 '#' wildcards, at most 2 are allowed"},
		{Headers, "#.#.#", nil, ""},
		{Headers, "", Args{"x-match": "all"}, ""},
		{Headers, "", Args{"x-match": "any"}, ""},
		{Headers, "", Args{"x-match": "all-with-x"}, ""},
		{Headers, "", Args{"x-match": "any-with-x"}, ""},
		{Headers, "", Args{"x-match": "some"}, `Invalid x-match field value <<"some">>; expected all, any, all-with-x, or any-with-x`},
		{Headers, "", Args{"x-match": ""}, `Invalid x-match field value <<>>; expected all, any, all-with-x, or any-with-x`},
		{Headers, "", Args{"x-match": "é"}, `Invalid x-match field value <<195,169>>; expected all, any, all-with-x, or any-with-x`},
		{Headers, "", Args{"x-match": int32(5)}, `Invalid x-match field type signedint (value 5); expected longstr`},
		{Headers, "", Args{"x-match": nil}, `Invalid x-match field type void (value undefined); expected longstr`},
		{Headers, "", Args{"x-match": []any{true, 1.0, Decimal{1, 2}}}, `Invalid x-match field type array (value [{bool,true},{double,1.0},{decimal,{1,2}}]); expected longstr`},
		{Headers, "", Args{"x-match": map[string]any{"k": "v"}}, `Invalid x-match field type table (value [{<<"k">>,longstr,<<"v">>}]); expected longstr`},
	}
	for _, c := range cases {
		got := ""
		if err := ValidateBinding(c.kind, c.key, c.args); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%v %q %v:\n got %s\nwant %s", c.kind, c.key, c.args, got, c.want)
		}
	}
}
