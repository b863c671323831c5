package cluster

import (
	"context"
	"fmt"

	"github.com/warrenmq/warren/cluster/peer"
	"github.com/warrenmq/warren/cluster/pipe"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// links opens the pipes' connections; nodes have numbers there.
type links struct{ c *Cluster }

// Open implements pipe.Links.
func (l links) Open(ctx context.Context, node uint16) (pipe.Link, error) {
	current := l.c.follower.fresh() == nil // then the copy, from here on, has all that were let in
	uuid := l.c.uuidOf(node)
	switch {
	case uuid == "" && current:
		return nil, fmt.Errorf("node %d: %w", node, pipe.ErrNoNode)
	case uuid == "":
		return nil, fmt.Errorf("node %d is not known", node)
	}
	s, err := l.c.network.Open(ctx, uuid, peer.Links)
	if err != nil {
		return nil, err
	}
	return link{s}, nil
}

// Call implements pipe.Links.
func (l links) Call(ctx context.Context, node uint16, request []byte) ([]byte, error) {
	uuid := l.c.uuidOf(node)
	if uuid == "" {
		return nil, fmt.Errorf("node %d is not known", node)
	}
	return l.c.network.Call(ctx, uuid, request)
}

// link is a stream as the pipes want it.
type link struct{ peer.Stream }

// Send implements pipe.Link.
func (l link) Send(frame []byte) error { return l.Stream.Send(frame) }

// serveLink takes the edge of another node.
func (c *Cluster) serveLink(ctx context.Context, s peer.Stream) {
	select {
	case <-c.joined: // before that there are no shards here
	case <-ctx.Done():
		return
	case <-c.ctx.Done():
		return
	}
	if err := c.server.Serve(ctx, link{s}); err != nil && c.ctx.Err() == nil {
		c.log.Debug("link from a node has ended", "err", err)
	}
}

// hosts finds the shards on this node.
type hosts struct{ c *Cluster }

// Host implements pipe.Hosts.
func (h hosts) Host(id queue.ShardID) *pipe.Host {
	if id.IsLocal() {
		if id == h.c.Self().Local {
			return h.c.local
		}
		return nil
	}
	if s := h.c.shard(id); s != nil {
		return s.host
	}
	return nil
}
