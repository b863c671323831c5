package catalog

import (
	"bytes"
	"fmt"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm"
)

func queueResource(vhost, name string) string {
	return fmt.Sprintf("queue '%s' in vhost '%s'", name, vhost)
}

func exchangeResource(vhost, name string) string {
	return fmt.Sprintf("exchange '%s' in vhost '%s'", name, vhost)
}

// EquivalentQueue compares a declaration with the queue that has the name: durable, auto_delete, then those arguments
// one by one that some type of queue knows (reference: errors.md 4.4). Exclusivity, which comes before, is its caller's.
func EquivalentQueue(current *Queue, want *raftv1.AddQueue) *raftfsm.Error {
	resource := queueResource(current.VHost, current.Name)
	if err := sameProperty("durable", resource, want.GetDurable(), current.Durable); err != nil {
		return err
	}
	if err := sameProperty("auto_delete", resource, want.GetAutoDelete(), current.AutoDelete); err != nil {
		return err
	}
	for _, argument := range comparedArguments {
		if err := sameArgument(argument, resource, want.GetArguments(), current.Arguments); err != nil {
			return err
		}
	}
	return nil
}

// EquivalentExchange compares a declaration with the exchange that has the name: type, durable, auto_delete, internal,
// alternate-exchange.
func EquivalentExchange(current *Exchange, want *raftv1.DeclareExchange) *raftfsm.Error {
	resource := exchangeResource(current.VHost, current.Name)
	if err := sameProperty("type", resource, want.GetType(), current.Type); err != nil {
		return err
	}
	if err := sameProperty("durable", resource, want.GetDurable(), current.Durable); err != nil {
		return err
	}
	if err := sameProperty("auto_delete", resource, want.GetAutoDelete(), current.AutoDelete); err != nil {
		return err
	}
	if err := sameProperty("internal", resource, want.GetInternal(), current.Internal); err != nil {
		return err
	}
	return sameArgument(alternateExchange, resource, want.GetArguments(), current.Arguments)
}

func inequivalent(key, resource, received, current string) *raftfsm.Error {
	return raftfsm.Errorf(raftfsm.PreconditionFailed, "inequivalent arg '%s' for %s: received %s but current is %s", key, resource, received, current)
}

func sameProperty[T comparable](key, resource string, received, current T) *raftfsm.Error {
	if received == current {
		return nil
	}
	return inequivalent(key, resource, fmt.Sprintf("'%v'", received), fmt.Sprintf("'%v'", current))
}

// sameArgument compares an argument. As in RabbitMQ's rabbit_misc, the text has the types only where one of the two is
// absent.
func sameArgument(key, resource string, received, current *raftv1.Table) *raftfsm.Error {
	a, b := field(received, key), field(current, key)
	switch {
	case a == nil && b == nil, a != nil && b != nil && sameValue(a, b):
		return nil
	case a != nil && b != nil:
		return inequivalent(key, resource, "'"+plain(a)+"'", "'"+plain(b)+"'")
	case key == queueType && isClassic(a) && isClassic(b):
		return nil
	}
	return inequivalent(key, resource, typed(a), typed(b))
}

// isClassic tells whether a queue type is classic, the default.
func isClassic(v *raftv1.Value) bool {
	text, ok := textOf(v)
	return v == nil || ok && text == classicType
}

func typed(v *raftv1.Value) string {
	if v == nil {
		return "none"
	}
	return fmt.Sprintf("the value '%s' of type '%s'", plain(v), typeName(v))
}

// sameValue compares values without the width of their types: integers by number, text and binary by octets.
func sameValue(a, b *raftv1.Value) bool {
	if x, ok := integerOf(a); ok {
		y, ok := integerOf(b)
		return ok && x == y
	}
	x, isOctets := octetsOf(a)
	if y, ok := octetsOf(b); isOctets || ok {
		return isOctets && ok && x == y
	}
	if x, ok := a.GetValue().(*raftv1.Value_Floating); ok {
		y, ok := b.GetValue().(*raftv1.Value_Floating)
		return ok && x.Floating == y.Floating
	}
	return bytes.Equal(appendValue(nil, a), appendValue(nil, b))
}

func integerOf(v *raftv1.Value) (int64, bool) {
	n, ok := v.GetValue().(*raftv1.Value_Integer)
	if !ok {
		return 0, false
	}
	return n.Integer, true
}

// octetsOf returns the octets of text and binary data.
func octetsOf(v *raftv1.Value) (string, bool) {
	switch x := v.GetValue().(type) {
	case *raftv1.Value_Text:
		return x.Text, true
	case *raftv1.Value_Binary:
		return string(x.Binary), v.GetWireType() != 'D'
	}
	return "", false
}
