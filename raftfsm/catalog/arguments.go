package catalog

import (
	"fmt"
	"slices"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm"
	"github.com/warrenmq/warren/router"
)

// Names of arguments that mean something here.
const (
	alternateExchange  = "alternate-exchange"
	deadLetterExchange = "x-dead-letter-exchange"
	queueType          = "x-queue-type"
	classicType        = "classic"
)

// maxMillis is the longest time in an argument: ten years of 365 days.
const maxMillis = 315_360_000_000

// queueArgument is an argument that some type of RabbitMQ's queues knows. Others are stored and mean nothing.
type queueArgument struct {
	name       string
	check      argumentCheck // nil: any value will do
	streamOnly bool          // refused: Warren's queues are no streams
}

// argumentCheck returns "" or what RabbitMQ has to say against a value, printed as an Erlang term.
type argumentCheck func(v *raftv1.Value, all *raftv1.Table) string

// queueArguments are the arguments of classic, quorum and stream queues (reference: features.md 4.2) in the order in
// which RabbitMQ checks them. Warren has one type of queue, which takes what classic and quorum queues take.
func queueArguments() []queueArgument {
	return []queueArgument{
		{name: "x-expires", check: checkExpires},
		{name: "x-message-ttl", check: checkMillis},
		{name: deadLetterExchange, check: checkText},
		{name: "x-dead-letter-routing-key", check: checkDeadLetterKey},
		{name: "x-dead-letter-strategy", check: checkOneOf("invalid_dlx_strategy", "at-most-once", "at-least-once")},
		{name: "x-max-length", check: checkNatural},
		{name: "x-max-length-bytes", check: checkNatural},
		{name: "x-max-in-memory-length", check: checkNatural},
		{name: "x-max-in-memory-bytes", check: checkNatural},
		{name: "x-max-priority", check: checkPriority},
		{name: "x-overflow", check: checkOneOf("invalid_overflow", "drop-head", "reject-publish", "reject-publish-dlx")},
		{name: "x-queue-mode"},
		{name: "x-queue-version", check: checkVersion},
		{name: "x-single-active-consumer", check: checkBool},
		{name: queueType, check: checkQueueType},
		{name: "x-quorum-initial-group-size", check: checkPositive},
		{name: "x-queue-leader-locator", check: checkOneOf("invalid_queue_locator_arg", "client-local", "balanced")},
		{name: "x-delivery-limit"},
		{name: "x-consumer-timeout", check: checkNatural},
		{name: "x-consumer-disconnected-timeout", check: checkNatural},
		{name: "x-delayed-retry-type"},
		{name: "x-delayed-retry-min", check: checkNatural},
		{name: "x-delayed-retry-max", check: checkNatural},
		{name: "x-max-age", streamOnly: true},
		{name: "x-stream-max-segment-size-bytes", streamOnly: true},
		{name: "x-stream-filter-size-bytes", streamOnly: true},
		{name: "x-initial-cluster-size", streamOnly: true},
	}
}

// ValidateQueueArguments checks the arguments of queue.declare, in RabbitMQ's order and words (reference: errors.md 4.5).
func ValidateQueueArguments(vhost, name string, arguments *raftv1.Table) *raftfsm.Error {
	resource := queueResource(vhost, name)
	if err := checkTextArgument(deadLetterExchange, resource, arguments); err != nil {
		return err
	}
	known := queueArguments()
	isType := func(a queueArgument) bool { return a.name == queueType }
	first := known[slices.IndexFunc(known, isType)]
	for _, argument := range append([]queueArgument{first}, slices.DeleteFunc(known, isType)...) {
		v := field(arguments, argument.name)
		if v == nil {
			continue
		}
		if argument.streamOnly {
			return raftfsm.Errorf(raftfsm.PreconditionFailed, "invalid arg '%s' for %s of queue type rabbit_%s_queue",
				argument.name, resource, QueueType(arguments))
		}
		if argument.check == nil {
			continue
		}
		if term := argument.check(v, arguments); term != "" {
			return raftfsm.Errorf(raftfsm.PreconditionFailed, "invalid arg '%s' for %s: %s", argument.name, resource, term)
		}
	}
	return nil
}

// QueueType returns the type that arguments ask for: "classic" when they do not say.
func QueueType(arguments *raftv1.Table) string {
	if text, ok := textOf(field(arguments, queueType)); ok {
		return text
	}
	return classicType
}

// ValidateExchange checks the type and the arguments of exchange.declare, and returns the type.
func ValidateExchange(m *raftv1.DeclareExchange) (router.Kind, *raftfsm.Error) {
	kind, err := exchangeKind(m.GetType())
	if err != nil {
		return 0, err
	}
	return kind, checkTextArgument(alternateExchange, exchangeResource(m.GetVhost(), m.GetName()), m.GetArguments())
}

// checkTextArgument refuses an argument that names an exchange and is no text.
func checkTextArgument(key, resource string, arguments *raftv1.Table) *raftfsm.Error {
	v := field(arguments, key)
	if _, ok := textOf(v); v != nil && !ok {
		return raftfsm.Errorf(raftfsm.PreconditionFailed, "invalid type '%s' for arg '%s' in %s", typeName(v), key, resource)
	}
	return nil
}

func unacceptable(v *raftv1.Value) string { return fmt.Sprintf("{unacceptable_type,%s}", typeName(v)) }

func checkText(v *raftv1.Value, _ *raftv1.Table) string {
	if _, ok := textOf(v); !ok {
		return unacceptable(v)
	}
	return ""
}

func checkBool(v *raftv1.Value, _ *raftv1.Table) string {
	if _, ok := v.GetValue().(*raftv1.Value_Boolean); !ok {
		return unacceptable(v)
	}
	return ""
}

func checkNatural(v *raftv1.Value, _ *raftv1.Table) string {
	n, ok := integerOf(v)
	switch {
	case !ok || v.GetWireType() == 'T':
		return fmt.Sprintf(`"expected integer, got %s"`, typeName(v))
	case n < 0:
		return fmt.Sprintf("{value_negative,%d}", n)
	}
	return ""
}

func checkMillis(v *raftv1.Value, all *raftv1.Table) string {
	if term := checkNatural(v, all); term != "" {
		return term
	}
	return checkAtMost(v, maxMillis, "value_too_large")
}

func checkPriority(v *raftv1.Value, all *raftv1.Table) string {
	if term := checkNatural(v, all); term != "" {
		return term
	}
	return checkAtMost(v, 255, "max_value_exceeded")
}

// checkAtMost compares an integer with a bound.
func checkAtMost(v *raftv1.Value, bound int64, complaint string) string {
	if n, _ := integerOf(v); n > bound {
		return fmt.Sprintf("{%s,%d}", complaint, n)
	}
	return ""
}

func checkPositive(v *raftv1.Value, all *raftv1.Table) string {
	if term := checkNatural(v, all); term != "" {
		return term
	}
	if n, _ := integerOf(v); n == 0 {
		return "{value_zero,0}"
	}
	return ""
}

func checkExpires(v *raftv1.Value, all *raftv1.Table) string {
	if term := checkPositive(v, all); term != "" {
		return term
	}
	return checkMillis(v, all)
}

// checkVersion lets pass the one version of classic queues that is left.
func checkVersion(v *raftv1.Value, all *raftv1.Table) string {
	if term := checkNatural(v, all); term != "" {
		return term
	}
	if n, _ := integerOf(v); n != 2 {
		return fmt.Sprintf(`"unsupported queue version '%d'"`, n)
	}
	return ""
}

func checkOneOf(complaint string, allowed ...string) argumentCheck {
	return func(v *raftv1.Value, _ *raftv1.Table) string {
		text, ok := textOf(v)
		switch {
		case !ok:
			return unacceptable(v)
		case !slices.Contains(allowed, text):
			return complaint
		}
		return ""
	}
}

func checkDeadLetterKey(v *raftv1.Value, all *raftv1.Table) string {
	if term := checkText(v, all); term != "" {
		return term
	}
	if field(all, deadLetterExchange) == nil {
		return "routing_key_but_no_dlx_defined"
	}
	return ""
}

func checkQueueType(v *raftv1.Value, _ *raftv1.Table) string {
	text, ok := textOf(v)
	switch {
	case !ok:
		return unacceptable(v)
	case text != classicType && text != "quorum":
		return fmt.Sprintf(`"unsupported queue type '%s'"`, text)
	}
	return ""
}
