package broker

import (
	"fmt"
	"slices"
	"strconv"
)

// The types of queue that clients ask for. All are the same machine; the names decide which arguments are accepted.
const (
	classicKind = "classic"
	quorumKind  = "quorum"
	streamKind  = "stream"
)

const (
	deadLetterExchange   = "x-dead-letter-exchange"
	deadLetterRoutingKey = "x-dead-letter-routing-key"
	queueTypeArgument    = "x-queue-type"
	expiresArgument      = "x-expires"
)

// queueKind returns the type that arguments ask for.
func queueKind(arguments *Table) string {
	if kind, ok := text(lookup(arguments, queueTypeArgument)); ok {
		return kind
	}
	return classicKind
}

// queueArgument is an argument that some type of queue knows.
type queueArgument struct {
	name  string
	kinds []string
	check func(v *Value, all *Table) string // returns what is wrong, as an Erlang term, or ""
}

// queueArguments are the arguments that RabbitMQ's types of queue know (reference: features.md 4.2), see also catalog.EquivalentQueue; others are kept
// and mean nothing.
func queueArguments() []queueArgument {
	both, classic, quorum, stream := []string{classicKind, quorumKind}, []string{classicKind}, []string{quorumKind}, []string{streamKind}
	return []queueArgument{
		{expiresArgument, both, checkExpires},
		{"x-message-ttl", both, checkTTL},
		{deadLetterExchange, both, nil}, // its type was checked with the permissions
		{deadLetterRoutingKey, both, checkDeadLetterKey},
		{"x-dead-letter-strategy", quorum, checkStrategy},
		{"x-max-length", both, checkNatural},
		{"x-max-length-bytes", []string{classicKind, quorumKind, streamKind}, checkNatural},
		{"x-overflow", both, checkOverflow},
		{"x-max-priority", classic, checkMaxPriority},
		{"x-single-active-consumer", both, checkBool},
		{"x-delivery-limit", quorum, nil},
		{"x-queue-mode", classic, nil},
		{"x-queue-version", classic, checkVersion},
		{"x-quorum-initial-group-size", quorum, checkPositive},
		{"x-max-in-memory-length", quorum, checkNatural},
		{"x-max-in-memory-bytes", quorum, checkNatural},
		{"x-consumer-timeout", quorum, checkNatural},
		{"x-consumer-disconnected-timeout", quorum, checkNatural},
		{"x-delayed-retry-type", quorum, nil},
		{"x-delayed-retry-min", quorum, checkNatural},
		{"x-delayed-retry-max", quorum, checkNatural},
		{"x-queue-leader-locator", []string{classicKind, quorumKind, streamKind}, checkLocator},
		{"x-max-age", stream, nil},
		{"x-stream-max-segment-size-bytes", stream, nil},
		{"x-stream-filter-size-bytes", stream, nil},
		{"x-initial-cluster-size", stream, nil},
	}
}

// checkQueueArguments refuses what RabbitMQ refuses of a new queue, the arguments before the properties.
func checkQueueArguments(where resource, d *QueueDeclare) error {
	kind := queueKind(d.Arguments)
	if v := lookup(d.Arguments, queueTypeArgument); v != nil {
		if _, ok := text(v); !ok {
			return errorf(PreconditionFailed, "invalid arg '%s' for %s: %s", queueTypeArgument, where, unacceptable(v))
		}
	}
	if kind != classicKind && kind != quorumKind {
		return errorf(PreconditionFailed, "invalid arg '%s' for %s: \"unsupported queue type '%s'\"", queueTypeArgument, where, kind)
	}
	if err := checkArguments(queueArguments(), where, kind, d.Arguments); err != nil {
		return err
	}
	if kind == quorumKind {
		if property := notForQuorum(d); property != "" {
			return errorf(PreconditionFailed, "invalid property '%s' for %s", property, where)
		}
	}
	return nil
}

// checkArguments refuses arguments that a queue of the kind does not know, but another one does, and wrong values.
func checkArguments(known []queueArgument, where resource, kind string, arguments *Table) error {
	for i := range known {
		a := &known[i]
		v := lookup(arguments, a.name)
		if v == nil {
			continue
		}
		if !slices.Contains(a.kinds, kind) {
			return errorf(PreconditionFailed, "invalid arg '%s' for %s of queue type rabbit_%s_queue", a.name, where, kind)
		}
		if a.check == nil {
			continue
		}
		if term := a.check(v, arguments); term != "" {
			return errorf(PreconditionFailed, "invalid arg '%s' for %s: %s", a.name, where, term)
		}
	}
	return nil
}

// notForQuorum is the first property that is not for queues of type quorum (reference: errors.md 4.5).
func notForQuorum(d *QueueDeclare) string {
	switch {
	case d.AutoDelete:
		return "auto-delete"
	case d.Exclusive:
		return "exclusive-owner"
	case !d.Durable:
		return "non-durable"
	}
	return ""
}

func checkInteger(v *Value) (int64, string) {
	n, ok := integer(v)
	if !ok {
		return 0, fmt.Sprintf("\"expected integer, got %s\"", fieldTypeName(byte(v.GetWireType())))
	}
	return n, ""
}

func checkNumber(v *Value, _ *Table) string {
	_, wrong := checkInteger(v)
	return wrong
}

func checkNatural(v *Value, _ *Table) string {
	n, wrong := checkInteger(v)
	if wrong == "" && n < 0 {
		return term("value_negative", n)
	}
	return wrong
}

func term(atom string, n int64) string { return "{" + atom + "," + strconv.FormatInt(n, 10) + "}" }

func checkTTL(v *Value, all *Table) string {
	if wrong := checkNatural(v, all); wrong != "" {
		return wrong
	}
	if n, _ := integer(v); n > maxExpirationMillis {
		return term("value_too_large", n)
	}
	return ""
}

func checkPositive(v *Value, all *Table) string {
	if n, ok := integer(v); ok && n == 0 {
		return term("value_zero", 0)
	}
	return checkNatural(v, all)
}

func checkExpires(v *Value, all *Table) string {
	if wrong := checkPositive(v, all); wrong != "" {
		return wrong
	}
	return checkTTL(v, all)
}

// checkVersion lets pass the one version of classic queues that is left.
func checkVersion(v *Value, all *Table) string {
	if wrong := checkNatural(v, all); wrong != "" {
		return wrong
	}
	if n, _ := integer(v); n != 2 {
		return fmt.Sprintf("\"unsupported queue version '%d'\"", n)
	}
	return ""
}

func checkMaxPriority(v *Value, all *Table) string {
	if wrong := checkNatural(v, all); wrong != "" {
		return wrong
	}
	if n, _ := integer(v); n > 255 {
		return term("max_value_exceeded", n)
	}
	return ""
}

func unacceptable(v *Value) string {
	return "{unacceptable_type," + fieldTypeName(byte(v.GetWireType())) + "}"
}

func checkBool(v *Value, _ *Table) string {
	if v.GetWireType() != 't' {
		return unacceptable(v)
	}
	return ""
}

func checkDeadLetterKey(v *Value, all *Table) string {
	if _, ok := text(v); !ok {
		return unacceptable(v)
	}
	if lookup(all, deadLetterExchange) == nil {
		return "routing_key_but_no_dlx_defined"
	}
	return ""
}

func checkOneOf(v *Value, otherwise string, values ...string) string {
	s, ok := text(v)
	switch {
	case !ok:
		return unacceptable(v)
	case !slices.Contains(values, s):
		return otherwise
	}
	return ""
}

func checkStrategy(v *Value, _ *Table) string {
	return checkOneOf(v, "invalid_dlx_strategy", "at-most-once", "at-least-once")
}

func checkLocator(v *Value, _ *Table) string {
	return checkOneOf(v, "invalid_queue_locator_arg", "client-local", "balanced")
}

func checkOverflow(v *Value, all *Table) string {
	if queueKind(all) == quorumKind {
		return checkOneOf(v, "invalid_overflow", "drop-head", "reject-publish")
	}
	return checkOneOf(v, "invalid_overflow", "drop-head", "reject-publish", "reject-publish-dlx")
}
