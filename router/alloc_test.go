package router

import (
	"fmt"
	"testing"
)

// TestRouteDoesNotAllocate routes through every kind of exchange, with a message that lives on the stack. Most of the
// work is done by one goroutine per connection, so what it allocates per message is the collector's whole load.
func TestRouteDoesNotAllocate(t *testing.T) {
	table := NewTable()
	table.Update(func() {
		for kind := Direct; kind <= Headers; kind++ {
			table.PutExchange(kind.String(), kind, "alternate", false)
			for i := range 2000 {
				key, args := bindingFor(kind, i)
				table.Bind(kind.String(), Dest(i), key, args)
				table.Bind(kind.String(), Dest(i+1), key, args)
			}
		}
		table.PutExchange("alternate", Topic, "", false)
		for i := range 2000 {
			table.Bind("alternate", Dest(i), fmt.Sprint("#.", i%2, ".#"), nil)
			table.Bind("alternate", Dest(i), "*.1.#", nil)
		}
		table.PutExchange("all", Fanout, "", false)
		for kind := Direct; kind <= Headers; kind++ {
			table.BindExchange("all", kind.String(), "", nil)
		}
	})
	headers := map[string]any{"n": uint16(3)}
	for _, name := range []string{"direct", "fanout", "topic", "headers", "alternate", "all", ""} {
		var scratch Scratch
		dst := make([]Dest, 0, 4000)
		exchange, key, other := []byte(name), []byte("k.3"), []byte("0.1")
		cc := [][]byte{other}
		allocations := testing.AllocsPerRun(10, func() {
			x := table.Exchange(exchange)
			m := Message{RoutingKey: key, CC: cc, Headers: func() map[string]any { return headers }}
			x.Route(&m, &scratch, dst)
			one := Message{RoutingKey: key}
			x.Route(&one, &scratch, dst)
		})
		if allocations != 0 {
			t.Errorf("exchange %q: %v allocations", name, allocations)
		}
	}
}
