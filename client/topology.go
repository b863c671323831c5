package client

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc"

	brokerv1 "github.com/warrenmq/warren/proto/broker/v1"
)

// Queue describes a queue. Zero is a classic, transient one.
type Queue struct {
	Name       string // empty: the broker makes one
	Durable    bool   // survives a restart of the whole cluster
	AutoDelete bool   // goes with its last consumer
	Arguments  Table
}

// QueueInfo is a queue as it was when it was declared.
type QueueInfo struct {
	Name      string
	Messages  uint64 // ready
	Consumers uint32
}

// DeclareQueue makes sure that a queue is there as described, now and after every lost connection.
func (c *Client) DeclareQueue(ctx context.Context, q Queue) (QueueInfo, error) {
	arguments, err := toFields(q.Arguments)
	if err != nil {
		return QueueInfo{}, fmt.Errorf("declare queue %q: %w", q.Name, err)
	}
	r := &brokerv1.DeclareQueueRequest{Name: q.Name, Durable: q.Durable, AutoDelete: q.AutoDelete, Arguments: arguments}
	var response *brokerv1.DeclareQueueResponse
	err = c.call(ctx, func(ctx context.Context, node *grpc.ClientConn) error {
		response, err = c.topology(node).DeclareQueue(ctx, r)
		return err
	})
	if err != nil {
		return QueueInfo{}, fmt.Errorf("declare queue %q: %w", q.Name, err)
	}
	info := QueueInfo{Name: response.Name, Messages: response.Messages, Consumers: response.Consumers}
	if strings.HasPrefix(response.Name, "amq.") {
		return info, nil // nobody may declare such a name
	}
	c.remember(queueKey(response.Name), func(ctx context.Context, node *grpc.ClientConn) error {
		_, err := c.topology(node).DeclareQueue(ctx, r)
		return err
	})
	return info, nil
}

// InspectQueue returns what a queue holds; the error has reason NotFound when it is not there.
func (c *Client) InspectQueue(ctx context.Context, name string) (QueueInfo, error) {
	var info QueueInfo
	err := c.call(ctx, func(ctx context.Context, node *grpc.ClientConn) error {
		response, err := c.topology(node).DeclareQueue(ctx, &brokerv1.DeclareQueueRequest{Name: name, Passive: true})
		info = QueueInfo{Name: response.GetName(), Messages: response.GetMessages(), Consumers: response.GetConsumers()}
		return err
	})
	return info, err
}

// DeleteQueue removes a queue and returns how many ready messages it had. One that is not there is no error.
func (c *Client) DeleteQueue(ctx context.Context, name string, opts ...DeleteOption) (messages uint64, err error) {
	r := &brokerv1.DeleteQueueRequest{Name: name}
	for _, o := range opts {
		r.IfUnused, r.IfEmpty = r.IfUnused || o == IfUnused, r.IfEmpty || o == IfEmpty
	}
	err = c.call(ctx, func(ctx context.Context, node *grpc.ClientConn) error {
		response, err := c.topology(node).DeleteQueue(ctx, r)
		messages = response.GetMessages()
		return err
	})
	if err == nil {
		c.forget(func(key string) bool {
			return key == queueKey(name) || strings.HasSuffix(key, bindingSuffix(name, false))
		})
	}
	return messages, err
}

// DeleteOption is a condition for a deletion.
type DeleteOption int

// The conditions.
const (
	IfUnused DeleteOption = iota + 1 // only without consumers, or without bindings
	IfEmpty                          // only without ready messages
)

// Exchange describes an exchange.
type Exchange struct {
	Name       string
	Type       string // direct, fanout, topic, headers
	Durable    bool   // survives a restart of the whole cluster
	AutoDelete bool   // goes with its last binding
	Internal   bool   // clients cannot publish to it
	Arguments  Table
}

// DeclareExchange makes sure that an exchange is there as described, now and after every lost connection.
func (c *Client) DeclareExchange(ctx context.Context, x Exchange) error {
	arguments, err := toFields(x.Arguments)
	if err != nil {
		return fmt.Errorf("declare exchange %q: %w", x.Name, err)
	}
	r := &brokerv1.DeclareExchangeRequest{Name: x.Name, Type: x.Type, Durable: x.Durable, AutoDelete: x.AutoDelete, Internal: x.Internal, Arguments: arguments}
	declare := func(ctx context.Context, node *grpc.ClientConn) error {
		_, err := c.topology(node).DeclareExchange(ctx, r)
		return err
	}
	if err := c.call(ctx, declare); err != nil {
		return fmt.Errorf("declare exchange %q: %w", x.Name, err)
	}
	c.remember(exchangeKey(x.Name), declare)
	return nil
}

// DeleteExchange removes an exchange and its bindings. One that is not there is no error.
func (c *Client) DeleteExchange(ctx context.Context, name string, opts ...DeleteOption) error {
	r := &brokerv1.DeleteExchangeRequest{Name: name}
	for _, o := range opts {
		r.IfUnused = r.IfUnused || o == IfUnused
	}
	err := c.call(ctx, func(ctx context.Context, node *grpc.ClientConn) error {
		_, err := c.topology(node).DeleteExchange(ctx, r)
		return err
	})
	if err == nil {
		c.forget(func(key string) bool {
			return key == exchangeKey(name) || strings.HasSuffix(key, bindingSuffix(name, true)) || strings.HasPrefix(key, bindingPrefix(name))
		})
	}
	return err
}

// Binding is a way from an exchange to a queue or, with ToExchange, another exchange.
type Binding struct {
	Source      string
	Destination string
	ToExchange  bool
	RoutingKey  string
	Arguments   Table // of a headers exchange
}

func (b *Binding) toProto() (*brokerv1.Binding, error) {
	arguments, err := toFields(b.Arguments)
	kind := brokerv1.DestinationType_DESTINATION_TYPE_QUEUE
	if b.ToExchange {
		kind = brokerv1.DestinationType_DESTINATION_TYPE_EXCHANGE
	}
	return &brokerv1.Binding{Source: b.Source, Destination: b.Destination, DestinationType: kind, RoutingKey: b.RoutingKey, Arguments: arguments}, err
}

// Bind adds a binding, now and after every lost connection.
func (c *Client) Bind(ctx context.Context, b Binding) error {
	bound, err := b.toProto()
	if err != nil {
		return fmt.Errorf("bind %q: %w", b.Destination, err)
	}
	bind := func(ctx context.Context, node *grpc.ClientConn) error {
		_, err := c.topology(node).Bind(ctx, &brokerv1.BindRequest{Binding: bound})
		return err
	}
	if err := c.call(ctx, bind); err != nil {
		return fmt.Errorf("bind %q to %q: %w", b.Destination, b.Source, err)
	}
	c.remember(b.key(), bind)
	return nil
}

// Unbind removes a binding. One that is not there is no error.
func (c *Client) Unbind(ctx context.Context, b Binding) error {
	bound, err := b.toProto()
	if err != nil {
		return fmt.Errorf("unbind %q: %w", b.Destination, err)
	}
	err = c.call(ctx, func(ctx context.Context, node *grpc.ClientConn) error {
		_, err := c.topology(node).Unbind(ctx, &brokerv1.UnbindRequest{Binding: bound})
		return err
	})
	if err != nil {
		return fmt.Errorf("unbind %q from %q: %w", b.Destination, b.Source, err)
	}
	c.forget(func(key string) bool { return key == b.key() })
	return nil
}

// Names cannot have a NUL in a key that means something else.
func queueKey(name string) string            { return "queue\x00" + name }
func exchangeKey(name string) string         { return "exchange\x00" + name }
func bindingPrefix(source string) string     { return "binding\x00" + source + "\x00" }
func bindingSuffix(to string, x bool) string { return fmt.Sprintf("\x00%t\x00%s", x, to) }

func (b *Binding) key() string {
	return bindingPrefix(b.Source) + b.RoutingKey + fmt.Sprint(b.Arguments) + bindingSuffix(b.Destination, b.ToExchange)
}
