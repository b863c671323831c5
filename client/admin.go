package client

import (
	"context"
	"iter"
	"time"

	"google.golang.org/grpc"

	brokerv1 "github.com/warrenmq/warren/proto/broker/v1"
)

// QueueStatus is a queue with its counts.
type QueueStatus struct {
	Queue
	Exclusive bool
	Shard     uint32
	Counted   bool // the counts below were asked for, and came in time
	Ready     uint64
	Bytes     uint64 // of the ready messages, with their properties
	Unsettled uint64
	Consumers uint32
}

// Queues yields the queues of the virtual host that the user may see, by name, with their counts.
func (c *Client) Queues(ctx context.Context) iter.Seq2[QueueStatus, error] {
	return pages(func(token string) ([]*brokerv1.Queue, string, error) {
		var r *brokerv1.ListQueuesResponse
		err := c.call(ctx, func(ctx context.Context, node *grpc.ClientConn) (err error) {
			r, err = c.admin(node).ListQueues(ctx, &brokerv1.ListQueuesRequest{PageToken: token})
			return err
		})
		return r.GetQueues(), r.GetNextPageToken(), err
	}, func(q *brokerv1.Queue) QueueStatus {
		n := q.GetCounts()
		return QueueStatus{Queue: Queue{Name: q.Name, Durable: q.Durable, AutoDelete: q.AutoDelete, Arguments: fromFields(q.Arguments)}, Exclusive: q.Exclusive,
			Shard: q.Shard, Counted: n != nil, Ready: n.GetReady(), Bytes: n.GetReadyBytes(), Unsettled: n.GetUnsettled(), Consumers: n.GetConsumers()}
	})
}

// Exchanges yields the exchanges of the virtual host that the user may see, by name.
func (c *Client) Exchanges(ctx context.Context) iter.Seq2[Exchange, error] {
	return pages(func(token string) ([]*brokerv1.Exchange, string, error) {
		var r *brokerv1.ListExchangesResponse
		err := c.call(ctx, func(ctx context.Context, node *grpc.ClientConn) (err error) {
			r, err = c.admin(node).ListExchanges(ctx, &brokerv1.ListExchangesRequest{PageToken: token})
			return err
		})
		return r.GetExchanges(), r.GetNextPageToken(), err
	}, func(x *brokerv1.Exchange) Exchange {
		return Exchange{Name: x.Name, Type: x.Type, Durable: x.Durable, AutoDelete: x.AutoDelete, Internal: x.Internal, Arguments: fromFields(x.Arguments)}
	})
}

// Bindings yields the bindings of the virtual host that the user may see, from an exchange and to a queue or exchange;
// empty names are any.
func (c *Client) Bindings(ctx context.Context, source, destination string) iter.Seq2[Binding, error] {
	return pages(func(token string) ([]*brokerv1.Binding, string, error) {
		var r *brokerv1.ListBindingsResponse
		err := c.call(ctx, func(ctx context.Context, node *grpc.ClientConn) (err error) {
			r, err = c.admin(node).ListBindings(ctx, &brokerv1.ListBindingsRequest{Source: source, Destination: destination, PageToken: token})
			return err
		})
		return r.GetBindings(), r.GetNextPageToken(), err
	}, func(b *brokerv1.Binding) Binding {
		return Binding{Source: b.Source, Destination: b.Destination, ToExchange: b.DestinationType == brokerv1.DestinationType_DESTINATION_TYPE_EXCHANGE,
			RoutingKey: b.RoutingKey, Arguments: fromFields(b.Arguments)}
	})
}

// pages yields the elements of a list that comes in pages.
func pages[P, E any](page func(token string) ([]P, string, error), element func(P) E) iter.Seq2[E, error] {
	return func(yield func(E, error) bool) {
		for token := ""; ; {
			list, next, err := page(token)
			if err != nil {
				var none E
				yield(none, err)
				return
			}
			for _, p := range list {
				if !yield(element(p), nil) {
					return
				}
			}
			if token = next; token == "" {
				return
			}
		}
	}
}

// PurgeQueue drops the ready messages of a queue and returns how many there were.
func (c *Client) PurgeQueue(ctx context.Context, name string) (messages uint64, err error) {
	err = c.call(ctx, func(ctx context.Context, node *grpc.ClientConn) error {
		r, err := c.admin(node).PurgeQueue(ctx, &brokerv1.PurgeQueueRequest{Name: name})
		messages = r.GetMessages()
		return err
	})
	return messages, err
}

// PeekedMessage is a message that stays in its queue.
type PeekedMessage struct {
	Message
	Redelivered bool
	BodyBytes   uint64 // of the whole body
}

// Peek returns up to most ready messages behind the first skip, without consuming them. Bodies are cut after maxBody bytes;
// 0: not at all.
func (c *Client) Peek(ctx context.Context, queue string, skip, most, maxBody uint32) (messages []PeekedMessage, err error) {
	err = c.call(ctx, func(ctx context.Context, node *grpc.ClientConn) error {
		r, err := c.admin(node).PeekQueue(ctx, &brokerv1.PeekQueueRequest{Name: queue, Skip: skip, MaxMessages: most, MaxBodyBytes: maxBody})
		messages = nil
		for _, m := range r.GetMessages() {
			messages = append(messages, PeekedMessage{Message: fromProto(m.Message), Redelivered: m.Redelivered, BodyBytes: m.BodyBytes})
		}
		return err
	})
	return messages, err
}

// Status is what a node knows of its cluster.
type Status struct {
	Node, Version, ClusterID string
	Current                  bool // the node is not cut off
	Nodes                    []NodeStatus
}

// NodeStatus is a node of the cluster.
type NodeStatus struct {
	Name, Version string
	Number        uint32
	StartedAt     time.Time
}

// Status asks the node in use.
func (c *Client) Status(ctx context.Context) (st Status, err error) {
	err = c.call(ctx, func(ctx context.Context, node *grpc.ClientConn) error {
		r, err := c.admin(node).GetStatus(ctx, &brokerv1.GetStatusRequest{})
		st = Status{Node: r.GetNode(), Version: r.GetVersion(), ClusterID: r.GetClusterId(), Current: r.GetCurrent()}
		for _, n := range r.GetNodes() {
			st.Nodes = append(st.Nodes, NodeStatus{Name: n.Name, Version: n.Version, Number: n.Number, StartedAt: time.UnixMilli(n.StartedAtMillis)})
		}
		return err
	})
	return st, err
}
