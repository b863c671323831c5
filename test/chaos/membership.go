package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/warrenmq/warren/test/chaos/check"
)

// Changes of the cluster's members, asked for over HTTP as an operator's tools do.

// leaveWithin bounds the wait until a node has given its replicas away, or others have made them anew.
const leaveWithin = 3 * time.Minute

// member is a node as an overview shows it.
type member struct {
	Name    string `json:"name"`
	ID      string `json:"id"`
	Leaving bool   `json:"leaving"`
}

// members asks a node who belongs to the cluster.
func (n *Node) members(ctx context.Context) ([]member, error) {
	status, body, err := n.ask(ctx, http.MethodGet, "/api/warren/overview")
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("%s: overview: status %d: %s", n.name, status, body)
	}
	var o struct {
		Nodes []member `json:"nodes"`
	}
	return o.Nodes, json.Unmarshal([]byte(body), &o)
}

// order has any node but the one concerned begin something with it. One that cannot do it now is asked again, or another is.
func (r *run) order(ctx context.Context, node *Node, what string) error {
	ctx, cancel := context.WithTimeout(ctx, leaveWithin)
	defer cancel()
	last := errors.New("no other node")
	for {
		for _, n := range r.cluster.nodes {
			if n == node {
				continue
			}
			status, body, err := n.ask(ctx, http.MethodPost, "/api/warren/nodes/"+node.name+"/"+what)
			if err == nil && status == http.StatusOK {
				return nil
			}
			last = errors.Join(fmt.Errorf("%s of %s: %s says %d: %s", what, node.name, n.name, status, body), err)
		}
		select {
		case <-ctx.Done():
			return last
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// forgotten waits until all other nodes say that a node, by its identity, is no member any more.
func (r *run) forgotten(ctx context.Context, node *Node, id string) error {
	ctx, cancel := context.WithTimeout(ctx, leaveWithin)
	defer cancel()
	for {
		left := ""
		for _, n := range r.cluster.nodes {
			if n == node {
				continue
			}
			members, err := n.members(ctx)
			if err != nil {
				left = err.Error()
			}
			for _, m := range members {
				if m.ID == id {
					left = n.name + " still counts it"
				}
			}
		}
		if left == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s has not left within %v: %s", node.name, leaveWithin, left)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// identity is what the cluster calls a node beside its name.
func (r *run) identity(ctx context.Context, node *Node) (string, error) {
	members, err := node.members(ctx)
	for _, m := range members {
		if m.Name == node.name && !m.Leaving {
			return m.ID, err
		}
	}
	return "", errors.Join(fmt.Errorf("%s does not see itself among the members; its threads: %s", node.name, node.threads()), err)
}

// judged makes a finding of an order that the cluster did not carry out.
func judged(inject func(context.Context, *run, *Action) error) func(context.Context, *run, *Action) error {
	return func(ctx context.Context, r *run, a *Action) error {
		err := inject(ctx, r, a)
		if err != nil && ctx.Err() == nil {
			r.ledger.Report(check.Finding{Kind: check.Membership, Detail: fmt.Sprintf("%v: %v", a, err)})
		}
		return err
	}
}

// left lets a node leave for good and waits until it has: its process ends by itself.
func left(ctx context.Context, r *run, a *Action) error {
	node := r.cluster.nodes[a.Victims[0]]
	id, err := r.identity(ctx, node)
	if err != nil {
		return err
	}
	node.expectEnd()
	if err := r.order(ctx, node, "leave?few"); err != nil {
		return err
	}
	if err := r.forgotten(ctx, node, id); err != nil {
		return err
	}
	for deadline := r.now() + stopPatience; node.running(); r.waitUntil(ctx, r.now()+20*time.Millisecond) {
		if r.now() > deadline {
			return fmt.Errorf("%s has left and does not end", node.name)
		}
	}
	return nil
}

// removed kills a node and has it removed.
func removed(ctx context.Context, r *run, a *Action) error {
	node := r.cluster.nodes[a.Victims[0]]
	id, err := r.identity(ctx, node)
	if err != nil {
		return err
	}
	node.kill()
	return errors.Join(r.order(ctx, node, "remove?few"), r.forgotten(ctx, node, id))
}

// joined starts a node that is no member any more with an empty directory: it comes back as a new one.
func joined(ctx context.Context, r *run, a *Action) error {
	return errors.Join(wiped(ctx, r, a), started(ctx, r, a))
}

func drained(ctx context.Context, r *run, a *Action) error {
	return r.order(ctx, r.cluster.nodes[a.Victims[0]], "drain")
}

func undrained(ctx context.Context, r *run, a *Action) error {
	return r.order(ctx, r.cluster.nodes[a.Victims[0]], "drain?off")
}
