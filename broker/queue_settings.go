package broker

import "github.com/warrenmq/warren/raftfsm/queue"

// defaultDeliveryLimit is how many failed deliveries a queue of type quorum allows when it does not say.
const defaultDeliveryLimit = 20

// queueSettings turns a declaration whose arguments have been checked into what the machine acts on.
func queueSettings(vhost, name string, d *QueueDeclare) *queue.Settings {
	a := d.Arguments
	s := &queue.Settings{VHost: vhost, Name: name, Durable: d.isDurable(), AutoDelete: d.AutoDelete, Exclusive: d.Exclusive}
	s.SingleActive = lookup(a, "x-single-active-consumer").GetBoolean()
	s.MessageTTL, s.HasMessageTTL = natural(a, "x-message-ttl")
	s.Expires, _ = natural(a, expiresArgument)
	s.MaxLength, s.HasMaxLength = natural(a, "x-max-length")
	s.MaxLengthBytes, s.HasMaxLengthBytes = natural(a, "x-max-length-bytes")
	s.ConsumerTimeout, _ = natural(a, consumerTimeout)
	priority, _ := natural(a, "x-max-priority")
	s.MaxPriority = uint8(min(priority, 255))
	overflow, _ := text(lookup(a, "x-overflow"))
	s.DeadLetterRefused = overflow == "reject-publish-dlx"
	s.RejectPublish = s.DeadLetterRefused || overflow == "reject-publish"
	s.DeadLetterXchg, s.HasDeadLetter = text(lookup(a, deadLetterExchange))
	s.DeadLetterKey, s.HasDeadLetterKey = text(lookup(a, deadLetterRoutingKey))
	s.DeliveryLimit, s.HasDeliveryLimit = deliveryLimit(a)
	return s
}

// isDurable tells whether a queue counts as durable: as in RabbitMQ, an exclusive one never does.
func (d *QueueDeclare) isDurable() bool { return d.Durable && !d.Exclusive }

// deliveryLimit reads x-delivery-limit; a negative one is none.
func deliveryLimit(arguments *Table) (limit uint32, limited bool) {
	if queueKind(arguments) != quorumKind {
		return 0, false
	}
	n, ok := integer(lookup(arguments, "x-delivery-limit"))
	switch {
	case !ok:
		return defaultDeliveryLimit, true
	case n < 0:
		return 0, false
	}
	return uint32(min(n, 1<<32-1)), true
}

// natural reads an argument that has been checked to be no negative number.
func natural(arguments *Table, key string) (uint64, bool) {
	n, ok := integer(lookup(arguments, key))
	return uint64(max(n, 0)), ok
}

// replySettings are those of the queue behind a reply consumer.
func replySettings() *queue.Settings { return &queue.Settings{Name: replyToName, Exclusive: true} }
