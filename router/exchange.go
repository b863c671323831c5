package router

import "sync/atomic"

// Kind is an exchange type.
type Kind uint8

// The exchange types.
const (
	Direct Kind = iota
	Fanout
	Topic
	Headers
)

var kindNames = [...]string{"direct", "fanout", "topic", "headers"}

// String returns the name that AMQP has for the type.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown"
}

// ParseKind returns the type that has the name, and whether there is one.
func ParseKind(name string) (Kind, bool) {
	for k, n := range kindNames {
		if n == name {
			return Kind(k), true
		}
	}
	return 0, false
}

// Exchange is a handle on one exchange of a Table. It follows the exchange's changes by itself; once the exchange is
// removed it routes nowhere, so a caller that keeps it must look it up again before each batch of messages.
type Exchange struct {
	name  string
	kind  Kind
	id    uint64
	table *Table
	state atomic.Pointer[state] // never nil

	// The rest belongs to the writer.
	draft state // what will be published
	dirty bool  // draft differs from state
	from  bindingList
}

// state is all of an exchange that can change, immutable once published.
type state struct {
	index     index // nil when the exchange is removed
	alternate string
	internal  bool
}

// index is an immutable set of bindings laid out for matching by one exchange type. Besides these methods, which serve
// the writer, each has a method match that adds to a route what matches a message, and tells whether anything did.
type index interface {
	// with adds a target under a match key (see matchKey); false says that it was there.
	with(ed *editor, key string, args Args, to target) (index, bool)
	// without removes a target that is there.
	without(ed *editor, key string, to target) index
}

func newIndex(k Kind) index {
	switch k {
	case Fanout:
		return fanoutIndex{}
	case Topic:
		return topicIndex{}
	case Headers:
		return headersIndex{}
	}
	return directIndex{}
}

// Name returns the exchange's name; "" is the default exchange.
func (x *Exchange) Name() string { return x.name }

// Kind returns the exchange's type.
func (x *Exchange) Kind() Kind { return x.kind }

// Internal tells whether only other exchanges may publish to it; that is for the caller to enforce.
func (x *Exchange) Internal() bool { return x.state.Load().internal }

// Alternate returns the name of the alternate exchange, "" when there is none.
func (x *Exchange) Alternate() string { return x.state.Load().alternate }

func (x *Exchange) publish() {
	st := x.draft
	x.state.Store(&st)
	x.dirty = false
}

func (x *Exchange) hash() uint64          { return mix(x.id) }
func (x *Exchange) same(o *Exchange) bool { return x == o }
