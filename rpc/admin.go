package rpc

import (
	"cmp"
	"context"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/warrenmq/warren/broker"
	brokerv1 "github.com/warrenmq/warren/proto/broker/v1"
)

// admin is the AdminService.
type admin struct {
	brokerv1.UnimplementedAdminServiceServer
	server *Server
}

const (
	defaultPage = 100
	maxPage     = 1000

	// countsTimeout bounds the wait for the counts of a page of queues, and countsAtOnce how many are asked for together.
	countsTimeout = 5 * time.Second
	countsAtOnce  = 16

	maxPeek      = 100
	maxPeekSkip  = 10000
	maxPeekBytes = 4 << 20
)

func pageSize(n uint32) int { return int(min(cmp.Or(n, defaultPage), maxPage)) }

// ListQueues lists queues. The token of a page is the last name on the page before.
func (a admin) ListQueues(ctx context.Context, r *brokerv1.ListQueuesRequest) (*brokerv1.ListQueuesResponse, error) {
	response := &brokerv1.ListQueuesResponse{}
	return response, a.server.call(ctx, func(ctx context.Context, n *session) error {
		queues, more := n.conn.Queues(r.PageToken, pageSize(r.PageSize))
		for _, q := range queues {
			response.Queues = append(response.Queues, &brokerv1.Queue{Name: q.Name, Durable: q.Durable, AutoDelete: q.AutoDelete,
				Exclusive: q.Exclusive(), Arguments: shownTable(q.Arguments), Shard: uint32(q.ID.Shard())})
		}
		if more {
			response.NextPageToken = queues[len(queues)-1].Name
		}
		if !r.WithoutCounts {
			a.count(ctx, n, queues, response.Queues)
		}
		return nil
	})
}

// count asks for the counts of queues. Those that do not come in time are left out.
func (a admin) count(ctx context.Context, n *session, queues []*broker.QueueInfo, shown []*brokerv1.Queue) {
	ctx, cancel := context.WithTimeout(ctx, countsTimeout)
	defer cancel()
	var asking errgroup.Group
	asking.SetLimit(countsAtOnce)
	for i, q := range queues {
		asking.Go(func() error {
			if c, ok, err := n.conn.CountsOf(ctx, q); ok && err == nil {
				shown[i].Counts = &brokerv1.QueueCounts{Ready: c.Ready, ReadyBytes: c.ReadyBytes, Unsettled: c.Unsettled, Consumers: c.Consumers}
			}
			return nil
		})
	}
	_ = asking.Wait() // there are no errors
}

// ListExchanges lists exchanges.
func (a admin) ListExchanges(ctx context.Context, r *brokerv1.ListExchangesRequest) (*brokerv1.ListExchangesResponse, error) {
	response := &brokerv1.ListExchangesResponse{}
	return response, a.server.call(ctx, func(_ context.Context, n *session) error {
		exchanges, more := n.conn.Exchanges(r.PageToken, pageSize(r.PageSize))
		for _, x := range exchanges {
			response.Exchanges = append(response.Exchanges, &brokerv1.Exchange{Name: x.Name, Type: x.Type, Durable: x.Durable,
				AutoDelete: x.AutoDelete, Internal: x.Internal, Arguments: shownTable(x.Arguments)})
		}
		if more {
			response.NextPageToken = exchanges[len(exchanges)-1].Name
		}
		return nil
	})
}

// ListBindings lists bindings. The token of a page is how many come before it.
func (a admin) ListBindings(ctx context.Context, r *brokerv1.ListBindingsRequest) (*brokerv1.ListBindingsResponse, error) {
	skip := 0
	if r.PageToken != "" {
		var err error
		if skip, err = strconv.Atoi(r.PageToken); err != nil || skip < 0 {
			return nil, invalid("not a page token: %q", r.PageToken)
		}
	}
	response := &brokerv1.ListBindingsResponse{}
	return response, a.server.call(ctx, func(_ context.Context, n *session) error {
		bindings, more := n.conn.Bindings(r.Source, r.Destination, skip, pageSize(r.PageSize))
		for _, b := range bindings {
			kind := brokerv1.DestinationType_DESTINATION_TYPE_QUEUE
			if b.ToExchange {
				kind = brokerv1.DestinationType_DESTINATION_TYPE_EXCHANGE
			}
			response.Bindings = append(response.Bindings, &brokerv1.Binding{Source: b.Source, Destination: b.Destination, DestinationType: kind,
				RoutingKey: (&octets{}).text([]byte(b.Key)), Arguments: shownTable(b.Arguments)})
		}
		if more {
			response.NextPageToken = strconv.Itoa(skip + len(bindings))
		}
		return nil
	})
}

// PurgeQueue drops the ready messages of a queue.
func (a admin) PurgeQueue(ctx context.Context, r *brokerv1.PurgeQueueRequest) (*brokerv1.PurgeQueueResponse, error) {
	if r.Name == "" {
		return nil, invalid("no name")
	}
	if err := checkNames(r.Name); err != nil {
		return nil, err
	}
	response := &brokerv1.PurgeQueueResponse{}
	return response, a.server.call(ctx, func(ctx context.Context, n *session) (err error) {
		response.Messages, err = n.channel.PurgeQueue(ctx, r.Name)
		return err
	})
}

// PeekQueue shows messages.
func (a admin) PeekQueue(ctx context.Context, r *brokerv1.PeekQueueRequest) (*brokerv1.PeekQueueResponse, error) {
	most := cmp.Or(r.MaxMessages, 1)
	switch {
	case r.Name == "":
		return nil, invalid("no name")
	case most > maxPeek:
		return nil, invalid("max_messages %d is greater than %d", most, maxPeek)
	case r.Skip > maxPeekSkip:
		return nil, invalid("skip %d is greater than %d", r.Skip, maxPeekSkip)
	}
	if err := checkNames(r.Name); err != nil {
		return nil, err
	}
	response := &brokerv1.PeekQueueResponse{}
	return response, a.server.call(ctx, func(ctx context.Context, n *session) (err error) {
		room := maxPeekBytes
		response.Ready, err = n.channel.Peek(ctx, r.Name, r.Skip, int(most), func(m *broker.Outgoing) bool {
			p := &brokerv1.PeekedMessage{Message: shownDelivery(m).Message, BodyBytes: uint64(len(m.Body)), Redelivered: m.Redelivered}
			if r.MaxBodyBytes > 0 && len(m.Body) > int(r.MaxBodyBytes) {
				p.Message.Body = m.Body[:r.MaxBodyBytes]
			}
			if room -= len(p.Message.Body); room < 0 && len(response.Messages) > 0 {
				return false
			}
			response.Messages = append(response.Messages, p)
			return true
		})
		return err
	})
}

// GetStatus tells of the node and its cluster.
func (a admin) GetStatus(context.Context, *brokerv1.GetStatusRequest) (*brokerv1.GetStatusResponse, error) {
	st := a.server.options.Broker.Status()
	response := &brokerv1.GetStatusResponse{Node: st.Node, Version: a.server.options.Version, ClusterId: st.ClusterID, Current: st.Current}
	for _, n := range st.Nodes {
		response.Nodes = append(response.Nodes, &brokerv1.Node{Name: n.Name, Number: uint32(n.Number), Version: n.Version, StartedAtMillis: n.StartedAt})
	}
	for _, sh := range st.Shards {
		shown := &brokerv1.Shard{Number: uint32(sh.ID), PreferredLeader: uint32(sh.Preferred)}
		for _, number := range sh.Nodes {
			shown.Nodes = append(shown.Nodes, uint32(number))
		}
		response.Shards = append(response.Shards, shown)
	}
	return response, nil
}
