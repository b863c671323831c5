package router

import (
	"fmt"
	"slices"
	"testing"
)

// routed returns where a message published to an exchange goes, in order.
func routed(t *testing.T, table *Table, exchange, key string, cc ...string) []Dest {
	t.Helper()
	m := Message{RoutingKey: []byte(key)}
	for _, c := range cc {
		m.CC = append(m.CC, []byte(c))
	}
	return routedMessage(t, table, exchange, &m)
}

func routedMessage(t *testing.T, table *Table, exchange string, m *Message) []Dest {
	t.Helper()
	x := table.Exchange([]byte(exchange))
	if x == nil {
		t.Fatalf("no exchange %q", exchange)
	}
	var scratch Scratch
	got := x.Route(m, &scratch, nil)
	slices.Sort(got)
	if again := x.Route(m, &scratch, nil); len(again) != len(got) {
		t.Fatalf("the same scratch gives %v, then %v", got, again)
	}
	return got
}

func expect(t *testing.T, got []Dest, want ...Dest) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestDirect(t *testing.T) {
	table := NewTable()
	table.PutExchange("x", Direct, "", false)
	table.Bind("x", 1, "red", nil)
	table.Bind("x", 2, "red", nil)
	table.Bind("x", 2, "blue", nil)
	table.Bind("x", 3, "", nil)
	expect(t, routed(t, table, "x", "red"), 1, 2)
	expect(t, routed(t, table, "x", "blue"), 2)
	expect(t, routed(t, table, "x", ""), 3)
	expect(t, routed(t, table, "x", "green"))
	expect(t, routed(t, table, "x", "red", "blue", "", "green"), 1, 2, 3)
	table.Unbind("x", 2, "red", nil)
	table.Unbind("x", 9, "red", nil)
	expect(t, routed(t, table, "x", "red"), 1)
	expect(t, routed(t, table, "x", "blue"), 2)
}

func TestDefaultExchange(t *testing.T) {
	table := NewTable()
	table.BindDefault("orders", 1)
	table.BindDefault("bills", 2)
	expect(t, routed(t, table, "", "orders"), 1)
	expect(t, routed(t, table, "", "orders", "bills", "none"), 1, 2)

	table.BindDefault("orders", 3) // deleted and declared anew
	expect(t, routed(t, table, "", "orders"), 3)
	table.RemoveDest(2)
	expect(t, routed(t, table, "", "bills"))
	table.UnbindDefault("orders")
	table.UnbindDefault("never")
	expect(t, routed(t, table, "", "orders"))

	table.PutExchange("", Fanout, "", true)
	table.Bind("", 4, "key", nil)
	table.PutExchange("x", Fanout, "", false)
	table.BindExchange("", "x", "key", nil)
	table.BindExchange("x", "", "key", nil)
	table.RemoveExchange("")
	if x := table.Exchange(nil); x == nil || x.Kind() != Direct || x.Internal() {
		t.Errorf("the default exchange has changed: %+v", x)
	}
	expect(t, routed(t, table, "", "key"))
	expect(t, routed(t, table, "x", "key"))
}

func TestFanout(t *testing.T) {
	table := NewTable()
	table.PutExchange("x", Fanout, "", false)
	expect(t, routed(t, table, "x", "any"))
	table.Bind("x", 1, "a", nil)
	table.Bind("x", 1, "b", nil)
	table.Bind("x", 2, "", Args{"k": "v"})
	expect(t, routed(t, table, "x", "any", "more"), 1, 2)
	table.Unbind("x", 1, "a", nil)
	expect(t, routed(t, table, "x", "any"), 1, 2)
	table.Unbind("x", 1, "b", nil)
	expect(t, routed(t, table, "x", "any"), 2)
}

func TestTopic(t *testing.T) {
	cases := []struct {
		pattern string
		matches []string
		others  []string
	}{
		{"", []string{""}, []string{".", "a"}},
		{"a", []string{"a"}, []string{"", "a.", ".a", "a.a", "A"}},
		{"a.b", []string{"a.b"}, []string{"a", "a.", "a..b", "a.b.", "a.b.c"}},
		{"*", []string{"a", "word", "*", "#"}, []string{"", "a.b", "."}},
		{"*.", []string{".", "a."}, []string{"", "a", "a.b", ".."}},
		{"*.*", []string{".", "a.", ".a", "a.b"}, []string{"", "a", "a.b.c"}},
		{"a.*.b", []string{"a.x.b", "a..b"}, []string{"a.b", "a.x.y.b"}},
		{"#", []string{"", "a", "a.b", ".", "a..b"}, nil},
		{"a.#", []string{"a", "a.", "a.b", "a.b.c"}, []string{"", "b", "b.a", "ab"}},
		{"#.a", []string{"a", "b.a", ".a", "a.b.a"}, []string{"", "a.b", "a."}},
		{"a.#.b", []string{"a.b", "a..b", "a.x.y.b", "a.b.b"}, []string{"a", "b", "a.b.c", "b.a"}},
		{"#.a.#", []string{"a", "x.a", "a.x", "x.y.a.z", "a.a"}, []string{"", "b", "ab", "."}},
		{"#.#", []string{"", "a", "a.b.c"}, nil},
		{"#.*", []string{"a", "a.b", "."}, []string{""}},
		{"*.#.*", []string{"a.b", ".", "a.b.c"}, []string{"", "a"}},
		{"#.*.#", []string{"a", "a.b"}, []string{""}},
		{"a*.b", []string{"a*.b"}, []string{"ax.b"}},
		{"a.#b", []string{"a.#b"}, []string{"a.b", "a.x.b"}},
	}
	all := NewTable()
	all.PutExchange("x", Topic, "", false)
	for i, c := range cases {
		all.Bind("x", Dest(i), c.pattern, nil)
	}
	for i, c := range cases {
		one := NewTable()
		one.PutExchange("x", Topic, "", false)
		one.Bind("x", Dest(i), c.pattern, nil)
		check := func(key string, want bool) {
			for _, table := range []*Table{one, all} {
				if got := slices.Contains(routed(t, table, "x", key), Dest(i)); got != want {
					t.Errorf("pattern %q, key %q: got %v, want %v", c.pattern, key, got, want)
				}
			}
		}
		for _, key := range c.matches {
			check(key, true)
		}
		for _, key := range c.others {
			check(key, false)
		}
	}
	for i, c := range cases {
		all.Unbind("x", Dest(i), c.pattern, nil)
		if len(c.matches) > 0 && slices.Contains(routed(t, all, "x", c.matches[0]), Dest(i)) {
			t.Errorf("pattern %q matches after it was unbound", c.pattern)
		}
	}
	if ix := all.Exchange([]byte("x")).state.Load().index.(topicIndex); ix.patterns != nil || ix.literals.root != nil {
		t.Error("nodes are left of an exchange without bindings")
	}
}

func TestTopicCC(t *testing.T) {
	table := NewTable()
	table.PutExchange("x", Topic, "", false)
	table.Bind("x", 1, "a.*", nil)
	table.Bind("x", 2, "#.b", nil)
	table.Bind("x", 3, "c", nil)
	expect(t, routed(t, table, "x", "a.b", "a.c", "c"), 1, 2, 3)
}

func TestHeaders(t *testing.T) {
	cases := []struct {
		name    string
		args    Args
		headers map[string]any
		want    bool
	}{
		{"all is the default", Args{"a": "1", "b": int32(2)}, map[string]any{"a": "1", "b": int32(2), "c": true}, true},
		{"all lacks one", Args{"a": "1", "b": int32(2)}, map[string]any{"a": "1"}, false},
		{"all differs in one", Args{"x-match": "all", "a": "1", "b": "2"}, map[string]any{"a": "1", "b": "3"}, false},
		{"any has one", Args{"x-match": "any", "a": "1", "b": "2"}, map[string]any{"b": "2"}, true},
		{"any has none", Args{"x-match": "any", "a": "1", "b": "2"}, map[string]any{"a": "2"}, false},
		{"all of nothing", Args{"x-match": "all"}, nil, true},
		{"no arguments", nil, map[string]any{"a": "1"}, true},
		{"any of nothing", Args{"x-match": "any"}, map[string]any{"a": "1"}, false},
		{"all leaves out x-", Args{"a": "1", "x-b": "2"}, map[string]any{"a": "1"}, true},
		{"any leaves out x-", Args{"x-match": "any", "x-b": "2"}, map[string]any{"x-b": "2"}, false},
		{"all-with-x wants x-", Args{"x-match": "all-with-x", "x-b": "2"}, map[string]any{"a": "1"}, false},
		{"all-with-x has x-", Args{"x-match": "all-with-x", "x-b": "2"}, map[string]any{"x-b": "2"}, true},
		{"any-with-x has x-", Args{"x-match": "any-with-x", "a": "1", "x-b": "2"}, map[string]any{"x-b": "2"}, true},
		{"any-with-x of nothing", Args{"x-match": "any-with-x"}, map[string]any{"x-match": "any-with-x"}, false},
		{"void is presence", Args{"a": nil}, map[string]any{"a": []any{int8(1)}}, true},
		{"void is presence of void", Args{"a": nil}, map[string]any{"a": nil}, true},
		{"void of the absent", Args{"a": nil}, nil, false},
		{"a value is not void", Args{"a": "1"}, map[string]any{"a": nil}, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			table := NewTable()
			table.PutExchange("x", Headers, "", false)
			table.Bind("x", 1, "", c.args)
			calls := 0
			m := &Message{Headers: func() map[string]any { calls++; return c.headers }}
			var scratch Scratch
			got := table.ExchangeNamed("x").Route(m, &scratch, nil)
			if (len(got) == 1) != c.want || calls != 1 {
				t.Errorf("got %v after %d calls of Headers, want %v after 1", got, calls, c.want)
			}
		})
	}
}

func TestHeadersAreParsedOnceAndOnlyIfNeeded(t *testing.T) {
	table := NewTable()
	table.PutExchange("plain", Fanout, "", false)
	table.Bind("plain", 1, "", nil)
	for i := range 3 {
		name := fmt.Sprint("headers", i)
		table.PutExchange(name, Headers, "", false)
		for d := range Dest(3) {
			table.Bind(name, d, "", Args{"n": int64(d)})
		}
	}
	calls := 0
	m := &Message{Headers: func() map[string]any { calls++; return map[string]any{"n": uint8(2)} }}
	expect(t, routedMessage(t, table, "plain", m), 1)
	if calls != 0 {
		t.Errorf("a fanout exchange parsed the headers")
	}
	for i := range 3 {
		table.BindExchange("plain", fmt.Sprint("headers", i), "", nil)
	}
	var scratch Scratch
	if got := table.ExchangeNamed("plain").Route(m, &scratch, nil); len(got) != 2 || calls != 1 {
		t.Errorf("got %v after %d calls of Headers, want 2 destinations after 1", got, calls)
	}
	m.Headers = nil
	expect(t, routedMessage(t, table, "plain", m), 1)
}

func TestExchangeToExchange(t *testing.T) {
	table := NewTable()
	table.PutExchange("in", Topic, "", false)
	table.PutExchange("left", Direct, "", false)
	table.PutExchange("right", Fanout, "", true)
	table.BindExchange("in", "left", "a.#", nil)
	table.BindExchange("in", "right", "#.b", nil)
	table.BindExchange("right", "in", "", nil) // a loop
	table.BindExchange("left", "left", "a.b", nil)
	table.Bind("left", 1, "a.b", nil)
	table.Bind("right", 1, "", nil)
	table.Bind("right", 2, "", nil)
	table.Bind("in", 2, "a.b", nil)
	expect(t, routed(t, table, "in", "a.b"), 1, 2)
	expect(t, routed(t, table, "in", "b"), 1, 2)
	expect(t, routed(t, table, "in", "a.c"))
	expect(t, routed(t, table, "right", "a.b"), 1, 2)
	table.UnbindExchange("in", "right", "#.b", nil)
	expect(t, routed(t, table, "in", "b"))
	table.RemoveExchange("left")
	expect(t, routed(t, table, "in", "a.b"), 2)
}

func TestAlternateExchange(t *testing.T) {
	table := NewTable()
	table.PutExchange("a", Direct, "b", false)
	expect(t, routed(t, table, "a", "k")) // b is missing
	table.PutExchange("b", Direct, "c", false)
	table.PutExchange("c", Fanout, "a", false) // a cycle
	expect(t, routed(t, table, "a", "k"))
	table.Bind("c", 3, "", nil)
	expect(t, routed(t, table, "a", "k"), 3)
	table.Bind("b", 2, "k", nil)
	expect(t, routed(t, table, "a", "k"), 2)
	expect(t, routed(t, table, "a", "other"), 3)
	table.Bind("a", 1, "k", nil)
	expect(t, routed(t, table, "a", "k"), 1)
	expect(t, routed(t, table, "a", "other", "k"), 1) // a key that does match is enough

	table.PutExchange("a", Direct, "", false)
	expect(t, routed(t, table, "a", "other"))
	expect(t, routed(t, table, "a", "k"), 1)

	// A binding to an exchange counts as a match, though the message ends there.
	table.PutExchange("a", Direct, "c", false)
	table.PutExchange("empty", Fanout, "", false)
	table.BindExchange("a", "empty", "end", nil)
	expect(t, routed(t, table, "a", "end"))
}

func TestBindingIdentity(t *testing.T) {
	for _, kind := range []Kind{Direct, Fanout, Topic} {
		for _, key := range []string{"key", "#"} {
			table := NewTable()
			table.PutExchange("x", kind, "", false)
			table.PutExchange("to", Fanout, "", false)
			table.Bind("to", 2, "", nil)
			bind := func(args Args) {
				table.Bind("x", 1, key, args)
				table.BindExchange("x", "to", key, args)
			}
			unbind := func(args Args) {
				table.Unbind("x", 1, key, args)
				table.UnbindExchange("x", "to", key, args)
			}
			bind(nil)
			bind(Args{}) // the same
			bind(Args{"n": int32(1)})
			bind(Args{"n": int64(1)})
			bind(Args{"n": int64(1)}) // the same
			unbind(Args{})
			expect(t, routed(t, table, "x", key), 1, 2)
			unbind(Args{"n": int64(1)})
			expect(t, routed(t, table, "x", key), 1, 2)
			unbind(nil) // gone already
			expect(t, routed(t, table, "x", key), 1, 2)
			unbind(Args{"n": int32(1)})
			expect(t, routed(t, table, "x", key))
			if len(table.bindings)+len(table.more) != 1 || len(table.to) != 1 {
				t.Errorf("%v: left over: %v, %v, %v", kind, table.bindings, table.more, table.to)
			}
		}
	}
}

func TestRemoveDest(t *testing.T) {
	table := NewTable()
	for k := Direct; k <= Headers; k++ {
		table.PutExchange(k.String(), k, "", false)
		table.Bind(k.String(), 1, "k", nil)
		table.Bind(k.String(), 1, "k", Args{"a": nil})
		table.Bind(k.String(), 1, "#", nil)
		table.Bind(k.String(), 2, "k", nil)
	}
	table.BindDefault("k", 1)
	table.RemoveDest(1)
	for k := Direct; k <= Headers; k++ {
		expect(t, routed(t, table, k.String(), "k"), 2)
	}
	expect(t, routed(t, table, "", "k"))
	if len(table.bindings) != 4 || len(table.more) != 0 || len(table.to) != 1 {
		t.Errorf("left over: %v, %v, %v", table.bindings, table.more, table.to)
	}
}

func TestRemoveExchange(t *testing.T) {
	table := NewTable()
	table.PutExchange("x", Fanout, "", false)
	table.PutExchange("y", Fanout, "", false)
	table.Bind("x", 1, "a", nil)
	table.Bind("x", 1, "b", nil)
	table.BindExchange("x", "x", "", nil)
	table.BindExchange("x", "y", "", nil)
	table.BindExchange("y", "x", "", nil)
	old := table.ExchangeNamed("x")
	table.RemoveExchange("x")
	table.RemoveExchange("x")
	if table.ExchangeNamed("x") != nil {
		t.Error("a removed exchange is found")
	}
	if len(table.bindings)+len(table.more)+len(table.to) != 0 {
		t.Errorf("left over: %v, %v, %v", table.bindings, table.more, table.to)
	}
	var scratch Scratch
	expect(t, old.Route(&Message{}, &scratch, nil))
	table.PutExchange("x", Direct, "", false) // declared anew: no binding is back
	expect(t, routed(t, table, "y", ""))
	expect(t, routed(t, table, "x", "a"))
	table.Bind("absent", 1, "", nil)
	table.BindExchange("x", "absent", "", nil)
	table.Unbind("absent", 1, "", nil)
	if len(table.bindings) != 0 {
		t.Errorf("bindings without an exchange: %v", table.bindings)
	}
}

func TestPutExchange(t *testing.T) {
	table := NewTable()
	table.PutExchange("x", Direct, "", false)
	table.Bind("x", 1, "k", nil)
	x := table.ExchangeNamed("x")
	table.PutExchange("x", Direct, "y", true)
	if table.ExchangeNamed("x") != x || !x.Internal() || x.Alternate() != "y" || x.Name() != "x" {
		t.Errorf("not changed in place: %+v", x.state.Load())
	}
	expect(t, routed(t, table, "x", "k"), 1)
	table.PutExchange("x", Fanout, "", false)
	if got := table.ExchangeNamed("x").Kind(); got != Fanout {
		t.Errorf("kind is %v", got)
	}
	expect(t, routed(t, table, "x", "k"))
}

func TestRouteLeavesTheStartAlone(t *testing.T) {
	table := NewTable()
	table.PutExchange("x", Topic, "", false)
	table.Bind("x", 7, "k", nil)
	table.Bind("x", 7, "*", nil)
	table.Bind("x", 8, "*", nil)
	var scratch Scratch
	got := table.ExchangeNamed("x").Route(&Message{RoutingKey: []byte("k")}, &scratch, []Dest{7})
	slices.Sort(got[1:])
	expect(t, got, 7, 7, 8)
}

// TestManyTargets crosses the lengths at which lists give way to sets, and space is given back.
func TestManyTargets(t *testing.T) {
	const queues, exchanges = 100_000, 200
	table := NewTable()
	table.Update(func() {
		table.PutExchange("x", Topic, "", false)
		for i := range exchanges {
			name := fmt.Sprint(i)
			table.PutExchange(name, Fanout, "", false)
			table.BindExchange("x", name, "#", nil)
			table.BindExchange(name, "x", "", nil)
		}
		for d := range Dest(queues) {
			table.Bind("x", d, "#", nil)
			table.Bind("x", d, "a.#", nil)
			table.Bind(fmt.Sprint(d%exchanges), d+queues/2, "", nil)
		}
	})
	got := routed(t, table, "x", "a")
	if len(got) != queues*3/2 || len(slices.Compact(got)) != queues*3/2 {
		t.Errorf("%d destinations, %d of them different", len(got), len(slices.Compact(got)))
	}
	var scratch Scratch
	table.ExchangeNamed("x").Route(&Message{RoutingKey: []byte("a")}, &scratch, nil)
	if len(scratch.queues.slots) > keptSlots || cap(scratch.work) > keptNodes {
		t.Errorf("scratch keeps %d slots and %d nodes", len(scratch.queues.slots), cap(scratch.work))
	}
	table.Update(func() {
		for d := range Dest(queues * 2) {
			table.RemoveDest(d)
		}
	})
	expect(t, routed(t, table, "x", "a"))
}

func TestUpdateIsSeenAtItsEnd(t *testing.T) {
	table := NewTable()
	table.PutExchange("x", Topic, "", false)
	table.Bind("x", 1, "k", nil)
	table.Update(func() {
		table.Unbind("x", 1, "k", nil)
		table.Bind("x", 2, "*", nil)
		table.PutExchange("y", Direct, "", false)
		table.Update(func() { table.Bind("y", 3, "k", nil) })
		if table.ExchangeNamed("y") != nil {
			t.Error("an exchange is seen before the end")
		}
		expect(t, routed(t, table, "x", "k"), 1)
	})
	expect(t, routed(t, table, "x", "k"), 2)
	expect(t, routed(t, table, "y", "k"), 3)
}

func TestKinds(t *testing.T) {
	for _, name := range []string{"direct", "fanout", "topic", "headers"} {
		if k, ok := ParseKind(name); !ok || k.String() != name {
			t.Errorf("%q is parsed as %v, %v", name, k, ok)
		}
	}
	if _, ok := ParseKind("x-random"); ok {
		t.Error("an unknown type is parsed")
	}
}

// TestScratchForgets uses one scratch for routes long enough for sets, each with other destinations.
func TestScratchForgets(t *testing.T) {
	const width = 3 * scanLimit
	table := NewTable()
	table.PutExchange("x", Topic, "", false)
	for d := range Dest(width) {
		table.Bind("x", d, "a.#", nil)
		table.Bind("x", d+width/2, "#.b", nil)
		table.Bind("x", d+width, "#.c.#", nil)
	}
	var scratch Scratch
	for range 3 {
		for key, want := range map[string]int{"a.b": width * 3 / 2, "a.c": width * 2, "c.b": width * 3 / 2} {
			got := table.ExchangeNamed("x").Route(&Message{RoutingKey: []byte(key)}, &scratch, nil)
			slices.Sort(got)
			if len(slices.Compact(got)) != want {
				t.Errorf("key %q: %d destinations, want %d", key, len(got), want)
			}
		}
	}
}
