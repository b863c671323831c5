package broker

import "github.com/warrenmq/warren/raftfsm/queue"

// MaxBehind bounds how far apart the numbers of a producer are that may be published again.
const MaxBehind = queue.ProducerSpan

// MaxProperties is how long a message's properties may be, in AMQP's form, in bytes. A content header is one frame, which cannot
// be cut, of the 128 KiB that AMQP clients agree on unless they ask for less (as with RabbitMQ: who asks for less must not be sent
// longer headers than that). The last KiB is room for what the broker adds: x-delivery-count, a longer reply-to, the frame's own.
const MaxProperties = 127 << 10

// Publish is a message on its way in. Its slices alias the front door's buffer: Channel.Publish copies what it needs
// before it returns.
type Publish struct {
	Exchange   []byte
	RoutingKey []byte
	Mandatory  bool
	Immediate  bool
	Properties []byte // property flags and list as AMQP 0-9-1 writes them in a content header: at most MaxProperties
	Body       []byte
	Sequence   uint64 // the message's number of the channel's producer; 0: none
	Behind     uint16 // how far below it the lowest number is that may be published again (at most MaxBehind)
}

// Outgoing is a message on its way out. Its slices are read-only and valid until the call that got it returns, except
// those of Channel.Get, which stay valid.
type Outgoing struct {
	Tag          uint64 // delivery tag of the channel
	Redelivered  bool
	Exchange     []byte
	RoutingKey   []byte
	Properties   []byte
	Body         []byte
	MessageCount uint32 // basic.get: messages left in the queue
}

// ExchangeDeclare is exchange.declare.
type ExchangeDeclare struct {
	Name       string
	Type       string
	Passive    bool
	Durable    bool
	AutoDelete bool
	Internal   bool
	Arguments  *Table
}

// Binding is what queue.bind, exchange.bind and their opposites say. Destination is a queue (empty: the channel's last)
// or an exchange, as the method called says.
type Binding struct {
	Source      string
	Destination string
	RoutingKey  string
	Arguments   *Table
}

// QueueDeclare is queue.declare.
type QueueDeclare struct {
	Name       string
	Passive    bool
	Durable    bool
	Exclusive  bool
	AutoDelete bool
	Arguments  *Table
}

// QueueOK answers queue.declare.
type QueueOK struct {
	Name      string
	Messages  uint32 // ready
	Consumers uint32
}

// Consume is basic.consume.
type Consume struct {
	Queue     string // empty: the channel's last
	Tag       string // empty: the broker makes one
	NoLocal   bool   // ignored
	NoAck     bool
	Exclusive bool
	Credit    uint32 // unsettled deliveries allowed; 0: what Qos says
	Arguments *Table
}
