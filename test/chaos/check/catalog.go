package check

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// Verbs of catalog operations.
type Verb uint8

const (
	Declare Verb = iota // of a queue, with one of two sets of arguments that are not equivalent
	Delete              // of a queue; deleting one that is missing is no error
	Passive             // passive declare of a queue
	Bind                // of the queue to the exchange under its name
	Unbind
	Route // a mandatory publish to the exchange under the queue's name
)

func (v Verb) String() string {
	return [...]string{"declare", "delete", "passive declare", "bind", "unbind", "route"}[v]
}

// Answer is what the broker said.
type Answer uint8

const (
	Unknown      Answer = iota // no answer, or one that says nothing (connection lost, internal error)
	OK                         // done, exists, routed
	Missing                    // 404
	Inequivalent               // 406
	Unroutable                 // basic.return
)

func (a Answer) String() string {
	return [...]string{"unknown", "ok", "missing", "inequivalent", "unroutable"}[a]
}

// CatalogOp is one operation on one queue name and its outcome.
type CatalogOp struct {
	Client        int
	Queue         string
	Verb          Verb
	Variant       uint8 // of the arguments of a declare
	Answer        Answer
	Begin, Finish time.Duration
}

func (o CatalogOp) String() string {
	return fmt.Sprintf("%v–%v client %d: %v(%d) %s = %v", o.Begin, o.Finish, o.Client, o.Verb, o.Variant, o.Queue, o.Answer)
}

// state is one queue name in the model.
type state struct {
	exists  bool
	bound   bool
	variant uint8
}

// steps gives the states after the operation that agree with its answer; an unknown answer agrees with all of them.
func (s state) steps(o CatalogOp) []state {
	after, answer := s.step(o)
	switch {
	case o.Answer == answer:
		return []state{after}
	case o.Answer == Unknown && after != s:
		return []state{s, after}
	case o.Answer == Unknown:
		return []state{s}
	}
	return nil
}

func (s state) step(o CatalogOp) (state, Answer) {
	switch o.Verb {
	case Declare:
		if s.exists && s.variant != o.Variant {
			return s, Inequivalent
		}
		return state{exists: true, bound: s.bound, variant: o.Variant}, OK
	case Delete:
		return state{}, OK
	case Passive:
		return s, found(s.exists)
	case Bind:
		return state{exists: s.exists, bound: s.exists, variant: s.variant}, found(s.exists)
	case Unbind:
		return state{exists: s.exists, variant: s.variant}, OK
	case Route:
		if s.bound {
			return s, OK
		}
		return s, Unroutable
	}
	panic("unknown verb")
}

func found(exists bool) Answer {
	if exists {
		return OK
	}
	return Missing
}

var catalogModel = (&porcupine.NondeterministicModel{
	Init: func() []interface{} { return []interface{}{state{}} },
	Step: func(s, input, _ interface{}) []interface{} {
		var list []interface{}
		for _, after := range s.(state).steps(input.(CatalogOp)) {
			list = append(list, after)
		}
		return list
	},
	Equal: func(a, b interface{}) bool { return a == b },
}).ToModel()

// CatalogVerdict is the outcome of the linearizability check.
type CatalogVerdict struct {
	Queues, Operations, Unknown int
	Undecided                   int // queues whose history took too long to check
	Findings                    []Finding
}

// Undecidable says that most histories took too long to check: then the check has said nothing.
func (v *CatalogVerdict) Undecidable() bool { return 2*v.Undecided > v.Queues }

// Linearizable checks the history of each queue name by itself, which is enough: linearizability is local.
func Linearizable(ops []CatalogOp, timeout time.Duration) CatalogVerdict {
	v := CatalogVerdict{Operations: len(ops)}
	var last time.Duration
	byQueue := map[string][]CatalogOp{}
	var names []string
	for _, o := range ops {
		if byQueue[o.Queue] == nil {
			names = append(names, o.Queue)
		}
		byQueue[o.Queue] = append(byQueue[o.Queue], o)
		last = max(last, o.Finish)
		if o.Answer == Unknown {
			v.Unknown++
		}
	}
	v.Queues = len(names)
	for _, name := range names {
		switch porcupine.CheckOperationsTimeout(catalogModel, operations(byQueue[name], last), timeout) {
		case porcupine.Ok:
		case porcupine.Unknown:
			v.Undecided++
		case porcupine.Illegal:
			v.Findings = append(v.Findings, Finding{Kind: Catalog, Queue: name, Detail: "not linearizable:" + shortest(byQueue[name], last, timeout)})
		}
	}
	return v
}

// operations turns a history into porcupine's; an operation without an answer may take effect until the end.
func operations(ops []CatalogOp, last time.Duration) []porcupine.Operation {
	var list []porcupine.Operation
	for _, o := range ops {
		if o.Answer == Unknown {
			if o.Verb == Passive || o.Verb == Route {
				continue // it changed nothing and said nothing
			}
			o.Finish = last + 1
		}
		list = append(list, porcupine.Operation{ClientId: o.Client, Input: o, Call: int64(o.Begin), Return: int64(o.Finish)})
	}
	return list
}

// shortest gives the history up to the operation that cannot be explained: its shortest illegal beginning.
func shortest(ops []CatalogOp, last, timeout time.Duration) string {
	ops = slices.SortedStableFunc(slices.Values(ops), func(a, b CatalogOp) int { return cmp.Compare(a.Finish, b.Finish) })
	low, high := 1, len(ops) // ops[:high] is illegal
	for low < high {
		middle := (low + high) / 2
		if porcupine.CheckOperationsTimeout(catalogModel, operations(beginning(ops, middle), last), timeout) == porcupine.Illegal {
			high = middle
		} else {
			low = middle + 1
		}
	}
	text := ""
	for _, o := range beginning(ops, high)[max(0, high-told):] {
		text += "\n    " + o.String()
	}
	return text
}

// told is how many operations before the one that cannot be explained are told.
const told = 30

// beginning is the history up to the end of its nth operation: those that were under way then have no answer yet, and may
// have had their effect.
func beginning(ops []CatalogOp, n int) []CatalogOp {
	list := slices.Clone(ops[:n])
	for _, o := range ops[n:] {
		if o.Begin < ops[n-1].Finish {
			o.Answer = Unknown
			list = append(list, o)
		}
	}
	return list
}
