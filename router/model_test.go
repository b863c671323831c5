package router

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// model is a table as the rules tell it: lists that are gone through from end to end.
type model struct {
	exchanges map[string]modelExchange
	bindings  []modelBinding
	names     map[string]Dest
}

type modelExchange struct {
	kind      Kind
	alternate string
}

type modelBinding struct {
	source, exchange string // exchange is "" for a queue
	queue            Dest
	key              string
	args             Args
}

func (b modelBinding) same(o modelBinding) bool {
	alike := reflect.DeepEqual(b.args, o.args) || len(b.args)+len(o.args) == 0
	b.args, o.args = nil, nil
	return alike && reflect.DeepEqual(b, o)
}

func (m *model) bind(b modelBinding) {
	_, source := m.exchanges[b.source]
	_, exchange := m.exchanges[b.exchange]
	if source && (exchange || b.exchange == "") && !slices.ContainsFunc(m.bindings, b.same) {
		m.bindings = append(m.bindings, b)
	}
}

func (m *model) remove(which func(modelBinding) bool) {
	m.bindings = slices.DeleteFunc(m.bindings, which)
}

func (m *model) route(name string, keys []string, headers map[string]any) []Dest {
	found := map[Dest]bool{}
	m.reach(name, keys, headers, map[string]bool{}, found)
	return slices.Sorted(maps.Keys(found))
}

func (m *model) reach(name string, keys []string, headers map[string]any, visited map[string]bool, found map[Dest]bool) {
	x, ok := m.exchanges[name]
	if !ok || visited[name] {
		return
	}
	visited[name] = true
	matched := false
	for _, b := range m.bindings {
		if b.source != name || !m.matches(x.kind, b, keys, headers) {
			continue
		}
		matched = true
		if b.exchange != "" {
			m.reach(b.exchange, keys, headers, visited, found)
		} else {
			found[b.queue] = true
		}
	}
	if !matched {
		m.reach(x.alternate, keys, headers, visited, found)
	}
}

func (m *model) matches(kind Kind, b modelBinding, keys []string, headers map[string]any) bool {
	switch kind {
	case Direct:
		return slices.Contains(keys, b.key)
	case Topic:
		return slices.ContainsFunc(keys, func(key string) bool { return matchTopic(b.key, key) })
	case Headers:
		return matchHeaders(b.args, headers)
	}
	return true
}

// matchTopic follows the definition of the wildcards, trying all that "#" can stand for.
func matchTopic(pattern, key string) bool {
	return matchWords(words(pattern), words(key))
}

func words(key string) []string {
	if key == "" {
		return nil
	}
	return strings.Split(key, ".")
}

func matchWords(pattern, key []string) bool {
	if len(pattern) == 0 {
		return len(key) == 0
	}
	if pattern[0] == "#" {
		return matchWords(pattern[1:], key) || len(key) > 0 && matchWords(pattern, key[1:])
	}
	return len(key) > 0 && (pattern[0] == "*" || pattern[0] == key[0]) && matchWords(pattern[1:], key[1:])
}

func matchHeaders(args Args, headers map[string]any) bool {
	mode, _ := args["x-match"].(string)
	hits, pairs := 0, 0
	for k, want := range args {
		if k == "x-match" || strings.HasPrefix(k, "x-") && !strings.HasSuffix(mode, "-with-x") {
			continue
		}
		pairs++
		if got, ok := headers[k]; ok && (want == nil || fmt.Sprint(want) == fmt.Sprint(got)) {
			hits++
		}
	}
	if strings.HasPrefix(mode, "any") {
		return hits > 0
	}
	return hits == pairs
}

var (
	exchangeNames = rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"})
	someQueue     = rapid.Custom(func(t *rapid.T) Dest { return Dest(rapid.IntRange(1, 12).Draw(t, "queue")) })
	topicWord     = rapid.SampledFrom([]string{"x", "y", "", "*", "#"})
	someKey       = rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(topicWord, 0, 4).Draw(t, "words"), ".")
	})
	someHeaders = rapid.MapOfN(rapid.SampledFrom([]string{"h", "i", "x-h"}), rapid.SampledFrom([]any{"1", int8(2), true}), 0, 3)
	someArgs    = rapid.Custom(func(t *rapid.T) Args {
		args := Args{}
		for key, value := range someHeaders.Draw(t, "arguments") {
			args[key] = value
			if rapid.IntRange(0, 3).Draw(t, "void") == 0 {
				args[key] = nil
			}
		}
		if mode := rapid.SampledFrom([]string{"", "all", "any", "all-with-x", "any-with-x"}).Draw(t, "mode"); mode != "" {
			args["x-match"] = mode
		}
		return args
	})
)

// machine runs the same changes on a table and on the model.
type machine struct {
	table   *Table
	model   model
	scratch Scratch
	pending []func() // changes to be made in one Update
}

func (mc *machine) do(t *rapid.T, change func()) {
	mc.pending = append(mc.pending, change)
	if rapid.IntRange(0, 3).Draw(t, "gather") == 0 {
		mc.flush()
	}
}

func (mc *machine) flush() {
	switch len(mc.pending) {
	case 0:
	case 1:
		mc.pending[0]()
	default:
		mc.table.Update(func() {
			for _, change := range mc.pending {
				change()
			}
		})
	}
	mc.pending = nil
}

func (mc *machine) PutExchange(t *rapid.T) {
	name, kind := exchangeNames.Draw(t, "name"), Kind(rapid.IntRange(0, 3).Draw(t, "kind"))
	alternate := rapid.SampledFrom([]string{"", "", "a", "b", "c", "none"}).Draw(t, "alternate")
	if old, ok := mc.model.exchanges[name]; ok && old.kind != kind {
		if rapid.IntRange(0, 4).Draw(t, "replace") > 0 {
			kind = old.kind
		} else {
			mc.model.remove(func(b modelBinding) bool { return b.source == name || b.exchange == name })
		}
	}
	mc.model.exchanges[name] = modelExchange{kind, alternate}
	mc.do(t, func() { mc.table.PutExchange(name, kind, alternate, false) })
}

func (mc *machine) RemoveExchange(t *rapid.T) {
	name := exchangeNames.Draw(t, "name")
	delete(mc.model.exchanges, name)
	mc.model.remove(func(b modelBinding) bool { return b.source == name || b.exchange == name })
	mc.do(t, func() { mc.table.RemoveExchange(name) })
}

func (mc *machine) Bind(t *rapid.T) {
	b := modelBinding{source: exchangeNames.Draw(t, "source"), queue: someQueue.Draw(t, "queue"), key: someKey.Draw(t, "key"), args: someArgs.Draw(t, "args")}
	mc.model.bind(b)
	mc.do(t, func() { mc.table.Bind(b.source, b.queue, b.key, b.args) })
}

func (mc *machine) BindMore(t *rapid.T) { mc.Bind(t) }

func (mc *machine) BindExchange(t *rapid.T) {
	b := modelBinding{source: exchangeNames.Draw(t, "source"), exchange: exchangeNames.Draw(t, "destination"), key: someKey.Draw(t, "key"), args: someArgs.Draw(t, "args")}
	mc.model.bind(b)
	mc.do(t, func() { mc.table.BindExchange(b.source, b.exchange, b.key, b.args) })
}

func (mc *machine) BindWithOtherArgs(t *rapid.T) {
	if len(mc.model.bindings) == 0 {
		t.Skip()
	}
	b := rapid.SampledFrom(mc.model.bindings).Draw(t, "binding")
	b.args = someArgs.Draw(t, "args")
	mc.model.bind(b)
	if b.exchange != "" {
		mc.do(t, func() { mc.table.BindExchange(b.source, b.exchange, b.key, b.args) })
	} else {
		mc.do(t, func() { mc.table.Bind(b.source, b.queue, b.key, b.args) })
	}
}

func (mc *machine) Unbind(t *rapid.T) {
	if len(mc.model.bindings) == 0 {
		t.Skip()
	}
	b := rapid.SampledFrom(mc.model.bindings).Draw(t, "binding")
	mc.model.remove(b.same)
	if b.exchange != "" {
		mc.do(t, func() { mc.table.UnbindExchange(b.source, b.exchange, b.key, b.args) })
	} else {
		mc.do(t, func() { mc.table.Unbind(b.source, b.queue, b.key, b.args) })
	}
}

func (mc *machine) RemoveDest(t *rapid.T) {
	queue := someQueue.Draw(t, "queue")
	mc.model.remove(func(b modelBinding) bool { return b.exchange == "" && b.queue == queue })
	maps.DeleteFunc(mc.model.names, func(_ string, named Dest) bool { return named == queue })
	mc.do(t, func() { mc.table.RemoveDest(queue) })
}

func (mc *machine) BindDefault(t *rapid.T) {
	name, queue := someKey.Draw(t, "name"), someQueue.Draw(t, "queue")
	mc.model.names[name] = queue
	mc.do(t, func() { mc.table.BindDefault(name, queue) })
}

func (mc *machine) UnbindDefault(t *rapid.T) {
	name := someKey.Draw(t, "name")
	delete(mc.model.names, name)
	mc.do(t, func() { mc.table.UnbindDefault(name) })
}

// Check compares routes through every exchange.
func (mc *machine) Check(t *rapid.T) {
	mc.flush()
	keys := rapid.SliceOfN(someKey, 1, 3).Draw(t, "keys")
	headers := someHeaders.Draw(t, "headers")
	m := &Message{RoutingKey: []byte(keys[0]), Headers: func() map[string]any { return headers }}
	for _, key := range keys[1:] {
		m.CC = append(m.CC, []byte(key))
	}
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		x := mc.table.Exchange([]byte(name))
		if _, ok := mc.model.exchanges[name]; ok != (x != nil) {
			t.Fatalf("exchange %q: %v, want %v", name, x, ok)
		}
		if x != nil {
			mc.compare(t, x, m, mc.model.route(name, keys, headers))
		}
	}
	named := map[Dest]bool{}
	for _, key := range keys {
		if d, ok := mc.model.names[key]; ok {
			named[d] = true
		}
	}
	mc.compare(t, mc.table.Exchange(nil), m, slices.Sorted(maps.Keys(named)))
}

func (mc *machine) compare(t *rapid.T, x *Exchange, m *Message, want []Dest) {
	got := x.Route(m, &mc.scratch, nil)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Fatalf("exchange %q (%v), key %q, CC %q: got %v, want %v", x.Name(), x.Kind(), m.RoutingKey, m.CC, got, want)
	}
}

func TestTableAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mc := &machine{table: NewTable(), model: model{exchanges: map[string]modelExchange{}, names: map[string]Dest{}}}
		for name := range strings.SplitSeq("abcdef", "") {
			kind := Kind(rapid.IntRange(0, 3).Draw(t, "kind"))
			mc.model.exchanges[name] = modelExchange{kind: kind}
			mc.table.PutExchange(name, kind, "", false)
		}
		actions := rapid.StateMachineActions(mc)
		actions["Route"] = mc.Check
		delete(actions, "")
		t.Repeat(actions)
		mc.Check(t)
		mc.emptyOut(t)
	})
}

// emptyOut removes everything and looks for what is left in the writer's notes.
func (mc *machine) emptyOut(t *rapid.T) {
	for d := range Dest(13) {
		mc.table.RemoveDest(d)
	}
	for name := range mc.model.exchanges {
		mc.table.RemoveExchange(name)
	}
	if len(mc.table.bindings)+len(mc.table.more)+len(mc.table.to) != 0 || mc.table.names.Load().count != 1 {
		t.Fatalf("left over: %v, %v, %v", mc.table.bindings, mc.table.more, mc.table.to)
	}
}

// FuzzTopic compares a table of patterns with the definition, for any pattern and key that AMQP can carry.
func FuzzTopic(f *testing.F) {
	f.Add("a.*.#,#.b,*.*", "a.x.b")
	f.Add("#.#.a,..,.", "..")
	f.Add("*.#.*,#.*.#,a,,#", "")
	f.Add("#.a.#,#.a.a.#,a.#.a", "a.a.a.a")
	f.Fuzz(func(t *testing.T, list, key string) {
		patterns := strings.Split(list, ",")
		if len(list) > 60 || len(key) > 24 {
			return // the definition takes exponential time
		}
		table := NewTable()
		table.PutExchange("x", Topic, "", false)
		for i, pattern := range patterns {
			table.Bind("x", Dest(i), pattern, nil)
		}
		for len(patterns) > 0 {
			var want []Dest
			for i, pattern := range patterns {
				if matchTopic(pattern, key) {
					want = append(want, Dest(i))
				}
			}
			if got := routed(t, table, "x", key); !slices.Equal(got, want) {
				t.Fatalf("patterns %q, key %q: got %v, want %v", patterns, key, got, want)
			}
			last := len(patterns) - 1
			table.Unbind("x", Dest(last), patterns[last], nil)
			patterns = patterns[:last]
		}
	})
}
