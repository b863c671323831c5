package catalog

import (
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

// comparedArguments are the arguments that some type of RabbitMQ's queues knows (reference: features.md 4.2), without those of streams, in
// the order in which they are compared. Others are stored and mean nothing.
var comparedArguments = []string{
	"x-expires",
	"x-message-ttl",
	deadLetterExchange,
	"x-dead-letter-routing-key",
	"x-dead-letter-strategy",
	"x-max-length",
	"x-max-length-bytes",
	"x-max-in-memory-length",
	"x-max-in-memory-bytes",
	"x-max-priority",
	"x-overflow",
	"x-queue-mode",
	"x-queue-version",
	"x-single-active-consumer",
	queueType,
	"x-quorum-initial-group-size",
	"x-queue-leader-locator",
	"x-delivery-limit",
	"x-consumer-timeout",
	"x-consumer-disconnected-timeout",
	"x-delayed-retry-type",
	"x-delayed-retry-min",
	"x-delayed-retry-max",
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
