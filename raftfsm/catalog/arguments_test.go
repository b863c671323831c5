package catalog

import (
	"strings"
	"testing"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm"
	"github.com/warrenmq/warren/router"
)

func mustTable(t testing.TB, fields map[string]any) *raftv1.Table {
	table, err := TableFromGo(fields)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func checkRefusal(t *testing.T, err *raftfsm.Error, want string) {
	t.Helper()
	switch {
	case err == nil && want != "":
		t.Errorf("accepted, want %q", want)
	case err != nil && (err.Text != want || err.Kind != raftfsm.PreconditionFailed):
		t.Errorf("got  %q (kind %d)\nwant %q", err.Text, err.Kind, want)
	}
}

func TestEquivalentQueue(t *testing.T) {
	const of = " for queue 'q' in vhost '/': received "
	type properties = map[string]any
	for name, c := range map[string]struct {
		current, want properties
		refusal       string
	}{
		"same":              {properties{"x-max-length": int32(5)}, properties{"x-max-length": int32(5)}, ""},
		"other width":       {properties{"x-max-length": int32(5)}, properties{"x-max-length": int64(5)}, ""},
		"unknown differs":   {properties{"x-mine": int32(5)}, properties{"x-yours": "a"}, ""},
		"value":             {properties{"x-max-length": int32(5)}, properties{"x-max-length": int64(6)}, "inequivalent arg 'x-max-length'" + of + "'6' but current is '5'"},
		"absent":            {properties{"x-message-ttl": int64(1000)}, nil, "inequivalent arg 'x-message-ttl'" + of + "none but current is the value '1000' of type 'long'"},
		"added":             {nil, properties{"x-overflow": "drop-head"}, "inequivalent arg 'x-overflow'" + of + "the value 'drop-head' of type 'longstr' but current is none"},
		"type":              {nil, properties{"x-queue-type": "quorum"}, "inequivalent arg 'x-queue-type'" + of + "the value 'quorum' of type 'longstr' but current is none"},
		"classic":           {nil, properties{"x-queue-type": "classic"}, ""},
		"classic before":    {properties{"x-queue-type": "classic"}, nil, ""},
		"text":              {properties{"x-overflow": "a"}, properties{"x-overflow": []byte("a")}, ""},
		"bool":              {properties{"x-single-active-consumer": true}, properties{"x-single-active-consumer": false}, "inequivalent arg 'x-single-active-consumer'" + of + "'false' but current is 'true'"},
		"integer and float": {properties{"x-max-length": int32(5)}, properties{"x-max-length": float32(5)}, "inequivalent arg 'x-max-length'" + of + "'5.0' but current is '5'"},
		"order":             {properties{"x-max-length": int32(1), "x-expires": int32(1)}, nil, "inequivalent arg 'x-expires'" + of + "none but current is the value '1' of type 'signedint'"},
		"array": {properties{"x-queue-mode": []any{"a", int32(1)}}, properties{"x-queue-mode": []any{"a", int8(1)}},
			"inequivalent arg 'x-queue-mode'" + of + `'[{longstr,<<"a">>},{byte,1}]' but current is '[{longstr,<<"a">>},{signedint,1}]'`},
	} {
		t.Run(name, func(t *testing.T) {
			q := &Queue{VHost: "/", Name: "q", Arguments: mustTable(t, c.current)}
			checkRefusal(t, EquivalentQueue(q, &raftv1.AddQueue{Arguments: mustTable(t, c.want)}), c.refusal)
		})
	}
	q := &Queue{VHost: "/", Name: "q", Durable: true}
	checkRefusal(t, EquivalentQueue(q, &raftv1.AddQueue{AutoDelete: true}), "inequivalent arg 'durable'"+of+"'false' but current is 'true'")
	checkRefusal(t, EquivalentQueue(q, &raftv1.AddQueue{Durable: true, AutoDelete: true}), "inequivalent arg 'auto_delete'"+of+"'true' but current is 'false'")
}

func TestTableConversion(t *testing.T) {
	fields := map[string]any{
		"V": nil, "t": true, "b": int8(-8), "B": uint8(200), "s": int16(-300), "u": uint16(60000), "I": int32(-70000), "i": uint32(4e9),
		"l": int64(-5e12), "f": float32(1.5), "d": 2.25, "T": router.Timestamp(1e9), "D": router.Decimal{Scale: 2, Unscaled: 4e9},
		"S": "text", "S2": "\xff\xfe", "x": []byte{0, 255}, "A": []any{"a", int8(1), []any{}}, "F": map[string]any{"in": map[string]any{}},
	}
	table := mustTable(t, fields)
	for _, f := range table.Fields {
		if byte(f.Value.WireType) != f.Key[0] {
			t.Errorf("field %s has wire type %c", f.Key, f.Value.WireType)
		}
	}
	// The way of a table through the log.
	s := New()
	apply := func(cmd *Command) Reply {
		data, err := Encode(cmd)
		if err != nil {
			t.Fatal(err)
		}
		reply, _, err := s.Apply(s.Applied()+1, data)
		if err != nil || reply.Err != nil {
			t.Fatal(err, reply.Err)
		}
		return reply
	}
	apply(CreateCluster(&raftv1.CreateCluster{ClusterId: "c", Shards: 1}))
	q := apply(AddQueue(&raftv1.AddQueue{Vhost: "/", Name: "q", Id: 1, Arguments: table})).Queue
	// The same with long strings that a front door did not look at.
	table.Fields[fieldAt(table, "S2")].Value = &raftv1.Value{WireType: 'S', Value: &raftv1.Value_Text{Text: "\xff\xfe"}}
	apply(Bind(&raftv1.Bind{Vhost: "/", Source: "amq.topic", Destination: "q", RoutingKey: "\xf0.a", Arguments: table}))
	for b := range s.VHost("/").Bindings() {
		if b.Key != "\xf0.a" || tableIdentity(b.Arguments) != tableIdentity(q.Arguments) {
			t.Errorf("binding key %q, arguments %v", b.Key, b.Arguments)
		}
	}
	restored := checkRestored(t, s).VHost("/").Queue("q")
	if got := tableIdentity(mustTable(t, TableToGo(restored.Arguments))); got != tableIdentity(q.Arguments) {
		t.Errorf("got %v, want %v", TableToGo(restored.Arguments), fields)
	}
	apply(Unbind(&raftv1.Unbind{Vhost: "/", Source: "amq.topic", Destination: "q", RoutingKey: "\xf0.a", Arguments: table}))
	for b := range s.VHost("/").Bindings() {
		t.Errorf("binding %v is still there", b)
	}
}

func TestTableIdentity(t *testing.T) {
	nested := func(keys ...string) *raftv1.Table {
		inner := &raftv1.Table{}
		for _, key := range keys {
			inner.Fields = append(inner.Fields, &raftv1.Field{Key: key, Value: integerFromGo('I', 1)})
		}
		return &raftv1.Table{Fields: []*raftv1.Field{{Key: "t", Value: &raftv1.Value{WireType: 'F', Value: &raftv1.Value_Table{Table: inner}}}}}
	}
	one := func(v *raftv1.Value) *raftv1.Table {
		return &raftv1.Table{Fields: []*raftv1.Field{{Key: "k", Value: v}}}
	}
	text := &raftv1.Value{WireType: 'S', Value: &raftv1.Value_Text{Text: "a"}}
	for name, c := range map[string]struct {
		a, b *raftv1.Table
		same bool
	}{
		"order inside":    {nested("a", "b"), nested("b", "a"), true},
		"other keys":      {nested("a", "b"), nested("a"), false},
		"64 bits":         {one(integerFromGo('l', 1)), one(integerFromGo('L', 1)), true},
		"width":           {one(integerFromGo('l', 1)), one(integerFromGo('I', 1)), false},
		"text as octets":  {one(text), one(octetsFromGo('S', []byte("a"))), true},
		"text and binary": {one(text), one(octetsFromGo('x', []byte("a"))), false},
		"empty":           {nil, &raftv1.Table{}, true},
	} {
		if got := tableIdentity(c.a) == tableIdentity(c.b); got != c.same {
			t.Errorf("%s: the same: %v", name, got)
		}
	}
}

func fieldAt(t *raftv1.Table, key string) int {
	for i, f := range t.Fields {
		if f.Key == key {
			return i
		}
	}
	return -1
}

func TestTableRefusals(t *testing.T) {
	deep := map[string]any{}
	for range maxDepth {
		deep = map[string]any{"in": deep}
	}
	for _, fields := range []map[string]any{{"a": uint64(1)}, {"a": []any{struct{}{}}}, deep} {
		if _, err := TableFromGo(fields); err == nil {
			t.Errorf("%v is accepted", fields)
		}
	}
	nested := &raftv1.Table{}
	for range maxDepth {
		nested = &raftv1.Table{Fields: []*raftv1.Field{{Key: "in", Value: &raftv1.Value{WireType: 'F', Value: &raftv1.Value_Table{Table: nested}}}}}
	}
	for name, cmd := range map[string]*Command{
		"deep":  AddQueue(&raftv1.AddQueue{Vhost: "/", Name: "q", Id: 1, Arguments: nested}),
		"name":  AddQueue(&raftv1.AddQueue{Vhost: "/", Name: "\xff", Id: 1}),
		"large": PutUser(&raftv1.PutUser{Name: "u", PasswordHash: strings.Repeat("x", maxCommandSize)}),
	} {
		_, err := Encode(cmd)
		if refusal, ok := err.(*raftfsm.Error); !ok || refusal.Kind != raftfsm.PreconditionFailed {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Encode(&Command{}); err == nil {
		t.Error("an empty command is encoded")
	}
}
