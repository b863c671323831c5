package router

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// bindingFor returns a binding key and arguments that make an exchange of any kind send the message keyed(i) to i.
func bindingFor(kind Kind, i int) (key string, args Args) {
	switch {
	case kind == Topic && i%3 == 0:
		key = fmt.Sprintf("k.%d.#", i)
	case kind == Topic && i%3 == 1:
		key = fmt.Sprintf("*.%d", i)
	default:
		key = fmt.Sprintf("k.%d", i)
	}
	return key, Args{"n": int64(i)}
}

func keyed(i int) *Message {
	return &Message{RoutingKey: fmt.Appendf(nil, "k.%d", i), Headers: func() map[string]any { return map[string]any{"n": int32(i)} }}
}

// TestReadersSeeEachBind has readers route while a writer binds and unbinds. done counts up when a change has returned:
// binding i is there once done > i, and gone once done > bindings + i.
func TestReadersSeeEachBind(t *testing.T) {
	for kind := Direct; kind <= Headers; kind++ {
		t.Run(kind.String(), func(t *testing.T) {
			bindings := 1000
			if kind == Headers {
				bindings = 200 // each message is compared with all
			}
			table := NewTable()
			table.PutExchange("in", kind, "", false)
			var done atomic.Int64
			var readers sync.WaitGroup
			for reader := range 3 {
				readers.Go(func() {
					var scratch Scratch
					for i := reader; int(done.Load()) < 2*bindings; i = (i + 7) % bindings {
						before := int(done.Load())
						got := table.Exchange([]byte("in")).Route(keyed(i), &scratch, nil)
						after := int(done.Load())
						found := slices.Contains(got, Dest(i))
						if !found && before > i && after < bindings+i || found && before > bindings+i {
							t.Errorf("binding %d: found %v, between change %d and %d", i, found, before, after)
							return
						}
					}
				})
			}
			for i := range bindings {
				key, args := bindingFor(kind, i)
				table.Bind("in", Dest(i), key, args)
				done.Add(1)
			}
			for i := range bindings {
				key, args := bindingFor(kind, i)
				table.Unbind("in", Dest(i), key, args)
				done.Add(1)
			}
			readers.Wait()
		})
	}
}

// TestSwitchLosesNothing moves a binding from one queue, and from one pattern, to another, the new one first. A reader
// must find at least one at any time, which holds only if it sees the exchange's bindings as of one moment.
func TestSwitchLosesNothing(t *testing.T) {
	table := NewTable()
	table.PutExchange("x", Topic, "", false)
	for d := range Dest(500) {
		table.Bind("x", d, "other.#", nil)
	}
	patterns := []string{"a.b", "a.*", "#.b", "a.#", "*.b"}
	table.Bind("x", 0, patterns[0], nil)
	var over atomic.Bool
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			var scratch Scratch
			x, m := table.ExchangeNamed("x"), &Message{RoutingKey: []byte("a.b")}
			for !over.Load() {
				if len(x.Route(m, &scratch, nil)) == 0 {
					t.Error("a message found no queue")
					return
				}
			}
		})
	}
	for i := range 20_000 {
		table.Bind("x", Dest(i+1), patterns[(i+1)%len(patterns)], nil)
		table.Unbind("x", Dest(i), patterns[i%len(patterns)], nil)
	}
	over.Store(true)
	readers.Wait()
}

// TestExchangesComeAndGo has readers look up exchanges that appear with all their bindings in one Update.
func TestExchangesComeAndGo(t *testing.T) {
	table := NewTable()
	table.PutExchange("source", Fanout, "", false)
	var over atomic.Bool
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			var scratch Scratch
			for !over.Load() {
				x := table.ExchangeNamed("x")
				if x == nil {
					continue
				}
				if n := len(x.Route(&Message{}, &scratch, nil)); n != 0 && n != 100 {
					t.Errorf("an exchange has %d of 100 bindings", n)
					return
				}
				table.ExchangeNamed("source").Route(&Message{}, &scratch, nil)
			}
		})
	}
	for range 500 {
		table.Update(func() {
			table.PutExchange("x", Fanout, "source", false)
			table.BindExchange("source", "x", "", nil)
			for d := range Dest(100) {
				table.Bind("x", d, "", nil)
			}
		})
		table.RemoveExchange("x")
	}
	over.Store(true)
	readers.Wait()
}
