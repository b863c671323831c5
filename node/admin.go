package node

import (
	"context"
	"errors"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/cluster"
)

// Overview is how the cluster is, as management shows it, with what is in it.
type (
	Overview = cluster.Overview
	Member   = cluster.Member
	Group    = cluster.Group
	Replica  = cluster.Replica
)

// operators is what management asks of the cluster, once this node serves.
type operators struct{ n *Node }

// starting is the error for what a node is asked before it serves: it says for what the start waits, if it has waited for a while.
func (n *Node) starting() error {
	text := "the node is starting"
	if why := n.waiting.Load(); why != nil {
		text += ": " + *why
	}
	return &broker.Error{Kind: broker.Unavailable, Text: text}
}

func (o operators) cluster() (*cluster.Cluster, error) {
	if !o.n.joined.Load() {
		return nil, o.n.starting()
	}
	return o.n.cluster, nil
}

// Overview implements management.Cluster.
func (o operators) Overview() (any, error) {
	c, err := o.cluster()
	if err != nil {
		return nil, err
	}
	return c.Overview(), nil
}

// Leave implements management.Cluster.
func (o operators) Leave(ctx context.Context, node string, few bool) error {
	c, err := o.cluster()
	if err != nil {
		return err
	}
	return c.Leave(ctx, node, cluster.LeaveOptions{Few: few})
}

// Remove implements management.Cluster.
func (o operators) Remove(ctx context.Context, node string, few bool) error {
	c, err := o.cluster()
	if err != nil {
		return err
	}
	return c.Remove(ctx, node, cluster.LeaveOptions{Few: few})
}

// Stay implements management.Cluster.
func (o operators) Stay(ctx context.Context, node string) error {
	c, err := o.cluster()
	if err != nil {
		return err
	}
	return c.Stay(ctx, node)
}

// Drain implements management.Cluster.
func (o operators) Drain(ctx context.Context, node string, off bool) (int, error) {
	c, err := o.cluster()
	if err != nil {
		return 0, err
	}
	return c.Drain(ctx, node, off)
}

// login implements management.Login.
func (n *Node) login(ctx context.Context, user, password string, loopback bool) ([]string, error) {
	if !n.joined.Load() {
		return nil, n.starting()
	}
	var id *broker.Identity
	var err error
	if user == "" {
		id, err = n.broker.LoginToken(ctx, password, loopback)
	} else {
		id, err = n.broker.Login(ctx, user, password, loopback)
	}
	if err != nil {
		return nil, err
	}
	return id.Tags, nil
}

// Left is closed when the node is no member of its cluster any more: it is to be stopped, and need not come back.
func (n *Node) Left() <-chan struct{} { return n.left }

// closeClients ends the connections of all clients, and lets no others in: the node leaves the cluster.
func (n *Node) closeClients() {
	select {
	case <-n.started:
	case <-n.quit:
		return
	}
	n.serving.Store(false)
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	err := n.amqp.Shutdown(ctx)
	if n.rpc != nil {
		err = errors.Join(err, n.rpc.Shutdown(ctx))
	}
	if err != nil {
		n.log.Warn("close clients", "err", err)
	}
}

// resources is what the other nodes are told of this one's machine.
func (n *Node) resources() cluster.Resources {
	r := cluster.Resources{Memory: uint64(usedMemory())}
	if free, total, err := diskSpace(n.config.DataDir); err == nil { // what is not known is not shown
		r.DiskFree, r.DiskTotal = uint64(free), uint64(total)
	}
	if reason := n.alarmed.Load(); reason != nil {
		r.Alarm = *reason
	}
	return r
}
