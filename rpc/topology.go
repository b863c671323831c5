package rpc

import (
	"context"

	"github.com/warrenmq/warren/broker"
	brokerv1 "github.com/warrenmq/warren/proto/broker/v1"
)

// topology is the TopologyService.
type topology struct {
	brokerv1.UnimplementedTopologyServiceServer
	server *Server
}

// DeclareQueue makes sure that a queue is there.
func (t topology) DeclareQueue(ctx context.Context, r *brokerv1.DeclareQueueRequest) (*brokerv1.DeclareQueueResponse, error) {
	if r.Passive && r.Name == "" {
		return nil, invalid("no name")
	}
	if err := checkNames(r.Name); err != nil {
		return nil, err
	}
	arguments, err := storedArguments(r.Arguments)
	if err != nil {
		return nil, err
	}
	var ok broker.QueueOK
	err = t.server.call(ctx, func(ctx context.Context, n *session) (err error) {
		ok, err = n.channel.DeclareQueue(ctx, &broker.QueueDeclare{Name: r.Name, Passive: r.Passive, Durable: r.Durable, AutoDelete: r.AutoDelete, Arguments: arguments})
		return err
	})
	return &brokerv1.DeclareQueueResponse{Name: ok.Name, Messages: uint64(ok.Messages), Consumers: ok.Consumers}, err
}

// DeleteQueue removes a queue.
func (t topology) DeleteQueue(ctx context.Context, r *brokerv1.DeleteQueueRequest) (*brokerv1.DeleteQueueResponse, error) {
	if r.Name == "" {
		return nil, invalid("no name")
	}
	if err := checkNames(r.Name); err != nil {
		return nil, err
	}
	response := &brokerv1.DeleteQueueResponse{}
	err := t.server.call(ctx, func(ctx context.Context, n *session) (err error) {
		response.Messages, err = n.channel.DeleteQueue(ctx, r.Name, r.IfUnused, r.IfEmpty)
		return err
	})
	return response, err
}

// DeclareExchange makes sure that an exchange is there.
func (t topology) DeclareExchange(ctx context.Context, r *brokerv1.DeclareExchangeRequest) (*brokerv1.DeclareExchangeResponse, error) {
	if err := checkNames(r.Name, r.Type); err != nil {
		return nil, err
	}
	arguments, err := storedArguments(r.Arguments)
	if err != nil {
		return nil, err
	}
	return &brokerv1.DeclareExchangeResponse{}, t.server.call(ctx, func(ctx context.Context, n *session) error {
		return n.channel.DeclareExchange(ctx, &broker.ExchangeDeclare{Name: r.Name, Type: r.Type, Passive: r.Passive, Durable: r.Durable,
			AutoDelete: r.AutoDelete, Internal: r.Internal, Arguments: arguments})
	})
}

// DeleteExchange removes an exchange.
func (t topology) DeleteExchange(ctx context.Context, r *brokerv1.DeleteExchangeRequest) (*brokerv1.DeleteExchangeResponse, error) {
	if err := checkNames(r.Name); err != nil {
		return nil, err
	}
	return &brokerv1.DeleteExchangeResponse{}, t.server.call(ctx, func(ctx context.Context, n *session) error {
		return n.channel.DeleteExchange(ctx, r.Name, r.IfUnused)
	})
}

// Bind adds a binding.
func (t topology) Bind(ctx context.Context, r *brokerv1.BindRequest) (*brokerv1.BindResponse, error) {
	return &brokerv1.BindResponse{}, t.bind(ctx, r.Binding, (*broker.Channel).BindQueue, (*broker.Channel).BindExchange)
}

// Unbind removes a binding.
func (t topology) Unbind(ctx context.Context, r *brokerv1.UnbindRequest) (*brokerv1.UnbindResponse, error) {
	return &brokerv1.UnbindResponse{}, t.bind(ctx, r.Binding, (*broker.Channel).UnbindQueue, (*broker.Channel).UnbindExchange)
}

func (t topology) bind(ctx context.Context, b *brokerv1.Binding, queue, exchange func(*broker.Channel, context.Context, *broker.Binding) error) error {
	bound, err := binding(b)
	if err != nil {
		return err
	}
	if bound.Destination == "" {
		return invalid("no destination")
	}
	change := queue
	if b.DestinationType == brokerv1.DestinationType_DESTINATION_TYPE_EXCHANGE {
		change = exchange
	}
	return t.server.call(ctx, func(ctx context.Context, n *session) error { return change(n.channel, ctx, bound) })
}

// binding reads a binding.
func binding(b *brokerv1.Binding) (*broker.Binding, error) {
	if len(b.GetRoutingKey()) > maxShort {
		return nil, invalid("a routing key of %d bytes is longer than %d", len(b.GetRoutingKey()), maxShort)
	}
	if err := checkNames(b.GetSource(), b.GetDestination()); err != nil {
		return nil, err
	}
	arguments, err := storedArguments(b.GetArguments())
	if err != nil {
		return nil, err
	}
	return &broker.Binding{Source: b.GetSource(), Destination: b.GetDestination(), RoutingKey: b.GetRoutingKey(), Arguments: arguments}, nil
}
