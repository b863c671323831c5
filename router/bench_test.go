package router

import (
	"fmt"
	"testing"
)

// topicBinding returns the i-th of many binding keys as an installation might have them: events of sensors in sites,
// most bound one by one, some with a wildcard in the middle or at the end, few at the start.
func topicBinding(i int) string {
	site, device, metric := i/1000, i%1000, i%7
	switch i % 10 {
	case 0:
		return fmt.Sprintf("site%d.device%d.#", site, device)
	case 1:
		return fmt.Sprintf("site%d.*.metric%d.alarm%d", site, metric, device)
	case 2:
		return fmt.Sprintf("*.device%d.metric%d.site%d", device, metric, site)
	case 3:
		return fmt.Sprintf("#.metric%d.unit%d", metric, i)
	}
	return fmt.Sprintf("site%d.device%d.metric%d.value", site, device, metric)
}

func topicTable(bindings int) *Table {
	table := NewTable()
	table.Update(func() {
		table.PutExchange("x", Topic, "", false)
		for i := range bindings {
			table.Bind("x", Dest(i), topicBinding(i), nil)
		}
	})
	return table
}

// benchmarkRoute routes with each of the keys in turn.
func benchmarkRoute(b *testing.B, x *Exchange, keys []string, m Message) {
	var scratch Scratch
	var dst []Dest
	texts := make([][]byte, len(keys))
	for i, key := range keys {
		texts[i] = []byte(key)
	}
	destinations, i := 0, 0
	b.ReportAllocs()
	for b.Loop() {
		m.RoutingKey = texts[i%len(texts)]
		i++
		dst = x.Route(&m, &scratch, dst[:0])
		destinations += len(dst)
	}
	b.ReportMetric(float64(destinations)/float64(b.N), "dests/op")
}

func BenchmarkRouteDefault(b *testing.B) {
	table := NewTable()
	table.BindDefault("orders", 1)
	benchmarkRoute(b, table.Exchange(nil), []string{"orders"}, Message{})
}

func BenchmarkRouteDirect100k(b *testing.B) {
	table := NewTable()
	var keys []string
	table.Update(func() {
		table.PutExchange("x", Direct, "", false)
		for i := range 100_000 {
			key := fmt.Sprintf("customer.%d.order", i)
			table.Bind("x", Dest(i), key, nil)
			if i%10 == 0 {
				keys = append(keys, key)
			}
		}
	})
	benchmarkRoute(b, table.ExchangeNamed("x"), keys, Message{})
}

func BenchmarkRouteTopic100k(b *testing.B) {
	const bindings = 100_000
	table := topicTable(bindings)
	var literal, wild []string
	for i := 0; i < bindings; i += 10 {
		literal = append(literal, topicBinding(i+4))
		wild = append(wild, fmt.Sprintf("site%d.device%d.metric%d.alarm%d", i/1000, i%1000, (i+1)%7, (i+1)%1000))
	}
	b.Run("literal", func(b *testing.B) { benchmarkRoute(b, table.ExchangeNamed("x"), literal, Message{}) })
	b.Run("wildcards", func(b *testing.B) { benchmarkRoute(b, table.ExchangeNamed("x"), wild, Message{}) })
	b.Run("none", func(b *testing.B) {
		benchmarkRoute(b, table.ExchangeNamed("x"), []string{"some.thing.else.entirely"}, Message{})
	})
}

// BenchmarkRouteTopicWorst is a long key of nothing but dots and many patterns that could match in many ways.
func BenchmarkRouteTopicWorst(b *testing.B) {
	table := NewTable()
	table.PutExchange("x", Topic, "", false)
	for i := range 100 {
		table.Bind("x", Dest(i), fmt.Sprintf("#.*.#.%d", i), nil)
		table.Bind("x", Dest(i), fmt.Sprintf("#..#.*.%d", i), nil)
	}
	key := make([]byte, 255)
	for i := range key {
		key[i] = '.'
	}
	benchmarkRoute(b, table.ExchangeNamed("x"), []string{string(key)}, Message{})
}

func BenchmarkRouteFanout(b *testing.B) {
	for _, n := range []int{10, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			table := NewTable()
			table.Update(func() {
				table.PutExchange("x", Fanout, "", false)
				for i := range n {
					table.Bind("x", Dest(i), "", nil)
				}
			})
			benchmarkRoute(b, table.ExchangeNamed("x"), []string{"k"}, Message{})
		})
	}
}

func BenchmarkRouteHeaders10(b *testing.B) {
	table := NewTable()
	table.PutExchange("x", Headers, "", false)
	for i := range 10 {
		table.Bind("x", Dest(i), "", Args{"x-match": "all", "format": "pdf", "pages": int32(i)})
	}
	headers := map[string]any{"format": "pdf", "pages": int64(3), "type": "report"}
	benchmarkRoute(b, table.ExchangeNamed("x"), []string{"k"}, Message{Headers: func() map[string]any { return headers }})
}

// BenchmarkRouteThroughExchanges goes through two more exchanges and an alternate one, with a second key.
func BenchmarkRouteThroughExchanges(b *testing.B) {
	table := NewTable()
	table.PutExchange("x", Topic, "", false)
	table.PutExchange("y", Fanout, "", false)
	table.PutExchange("z", Direct, "last", false)
	table.PutExchange("last", Fanout, "", false)
	table.BindExchange("x", "y", "a.*", nil)
	table.BindExchange("y", "z", "", nil)
	for d := range Dest(4) {
		table.Bind("x", d, "#", nil)
		table.Bind("y", d+2, "", nil)
		table.Bind("last", d+4, "", nil)
	}
	benchmarkRoute(b, table.ExchangeNamed("x"), []string{"a.b"}, Message{CC: [][]byte{[]byte("c.d")}})
}

func BenchmarkExchange(b *testing.B) {
	table := NewTable()
	for i := range 1000 {
		table.PutExchange(fmt.Sprint("exchange", i), Direct, "", false)
	}
	name := []byte("exchange500")
	b.ReportAllocs()
	for b.Loop() {
		if table.Exchange(name) == nil {
			b.Fatal("not found")
		}
	}
}

// BenchmarkBindTopic100k binds into, and unbinds from, an exchange with 100,000 bindings; one op is both.
func BenchmarkBindTopic100k(b *testing.B) {
	table := topicTable(100_000)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		key := topicBinding(i % 100_000)
		table.Bind("x", 1_000_000, key, nil)
		table.Unbind("x", 1_000_000, key, nil)
		i++
	}
}

func BenchmarkBindFanout100k(b *testing.B) {
	table := NewTable()
	table.Update(func() {
		table.PutExchange("x", Fanout, "", false)
		for i := range 100_000 {
			table.Bind("x", Dest(i), "", nil)
		}
	})
	b.ReportAllocs()
	i := 100_000
	for b.Loop() {
		table.Bind("x", Dest(i), "", nil)
		table.Unbind("x", Dest(i), "", nil)
		i++
	}
}

// BenchmarkBuildTopic100k builds an exchange of 100,000 bindings, binding by binding or in one Update.
func BenchmarkBuildTopic100k(b *testing.B) {
	keys := make([]string, 100_000)
	for i := range keys {
		keys[i] = topicBinding(i)
	}
	build := func(table *Table) {
		for i, key := range keys {
			table.Bind("x", Dest(i), key, nil)
		}
	}
	for _, way := range []string{"single", "update"} {
		b.Run(way, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				table := NewTable()
				table.PutExchange("x", Topic, "", false)
				if way == "single" {
					build(table)
				} else {
					table.Update(func() { build(table) })
				}
			}
		})
	}
}
