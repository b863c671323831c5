package cluster

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/warrenmq/warren/cluster/pipe"
	nodev1 "github.com/warrenmq/warren/proto/node/v1"
	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm/catalog"
)

// A node without data that finds a cluster asks a member to be let in. Its identity is new, so nothing that a former node
// had promised binds it or counts for it. Names are for people, and one name is one node: if the cluster has a node of the
// name, that one must be gone, or nobody could tell them apart. It is gone when its process is known to have ended, when the
// new node listens where it did, when it never began to run, or when it could not be reached for long. Then it leaves, and the planner gives its
// replicas to others, first of all to the new node, which has none.

// joinTimeout bounds a request to be let in, which waits for a commit.
const joinTimeout = 5 * time.Second

// join asks members that gossip knows, until one lets this node in. why is the last refusal.
func (c *Cluster) join(ctx context.Context) (why string) {
	for _, m := range c.gossip.Load().Members() {
		if m.ClusterId == "" {
			continue
		}
		response, err := c.askToJoin(ctx, m)
		switch {
		case err != nil:
			c.log.Debug("ask a member to be let in", "peer", m.Name, "err", err)
		case response.NotLeader:
		case response.Refusal != "":
			why = response.Refusal
		default:
			if err := c.found(foundingIn(response)); err != nil {
				c.log.Error("join a cluster", "err", err)
			}
			return ""
		}
	}
	return why
}

// foundingIn is what a node is to write down that has been let in.
func foundingIn(response *nodev1.JoinResponse) founding {
	return founding{ClusterID: response.ClusterId, Servers: foundingNodes(response.First), Members: foundingNodes(response.Members)}
}

// letInAgain asks a member to let this node in under the identity that it has, if it is a first member that has never registered: the cluster
// has begun without it, and has not removed it. False: it is no member.
func (c *Cluster) letInAgain(ctx context.Context, uuid string) bool {
	if !c.unregistered() {
		return false
	}
	response, err := c.askToJoin(ctx, &nodev1.Member{Uuid: uuid})
	switch {
	case err != nil:
		c.log.Debug("ask a member to be let in", "peer", uuid, "err", err)
	case response.Refusal != "":
		c.log.Warn("the cluster has begun without this node and does not let it in", "why", response.Refusal)
		return false
	}
	return true // it is, or asks again
}

func (c *Cluster) askToJoin(ctx context.Context, m *nodev1.Member) (*nodev1.JoinResponse, error) {
	control, err := c.network.Control(m.Uuid)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	self := c.member()
	return control.Join(ctx, &nodev1.JoinRequest{Uuid: self.Uuid, Name: self.Name, Address: self.Address,
		MachineVersion: catalog.LatestMachineVersion, Version: c.o.Version, Lost: c.lost})
}

// Join implements the Control service.
func (s controlServer) Join(ctx context.Context, q *nodev1.JoinRequest) (*nodev1.JoinResponse, error) {
	leader, leads := s.c.catalogLeader()
	switch {
	case leads:
		return s.c.admit(ctx, q)
	case leader == "" || q.Forwarded:
		return &nodev1.JoinResponse{NotLeader: true}, nil
	}
	control, err := s.c.network.Control(leader)
	if err != nil {
		return nil, err
	}
	q = proto.CloneOf(q)
	q.Forwarded = true
	return control.Join(ctx, q)
}

// catalogLeader tells whether this node leads the catalog, or who does as far as it knows; empty: nobody.
func (c *Cluster) catalogLeader() (uuid string, here bool) {
	if !c.hasCatalog() {
		return "", false
	}
	if _, ok := c.catalog.leading(); ok {
		return c.identity.UUID, true
	}
	if uuid, _ = c.catalog.leader(); uuid == c.identity.UUID {
		uuid = "" // elected, and not established yet
	}
	return uuid, false
}

// admit makes a node a member. This node leads the catalog.
func (c *Cluster) admit(ctx context.Context, q *nodev1.JoinRequest) (*nodev1.JoinResponse, error) {
	if q.Uuid == "" || q.Name == "" {
		return &nodev1.JoinResponse{Refusal: "a node without a name or an identity"}, nil
	}
	if err := c.admitting.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer c.admitting.Release(1)
	if !c.isMember(q.Uuid) {
		switch refusal, wait := c.refuse(q); {
		case wait:
			return &nodev1.JoinResponse{NotLeader: true}, nil
		case refusal != "":
			return &nodev1.JoinResponse{Refusal: refusal}, nil
		}
		m := &raftv1.AdmitNode{Uuid: q.Uuid, Name: q.Name, MachineVersion: q.MachineVersion, Version: q.Version}
		if old := c.namesake(q); old != nil {
			m.Replaces = uint32(old.Number)
			c.log.Warn("a node is replaced by a new one of its name", "peer", q.Name, "former", old.UUID, "new", q.Uuid)
		}
		if _, err := c.Propose(ctx, catalog.AdmitNode(m)); err != nil {
			if isUnavailable(err) {
				return nil, err
			}
			return &nodev1.JoinResponse{Refusal: err.Error()}, nil
		}
		c.log.Info("a node is let in", "peer", q.Name, "uuid", q.Uuid, "address", q.Address)
	}
	response := &nodev1.JoinResponse{ClusterId: c.clusterID()}
	if d := c.directory.Load(); !d.placed && c.founded.Load().first(q.Uuid) {
		response.First = servers(c.founded.Load().Servers) // it waits for them, too, if it comes to lead the catalog
	}
	for uuid := range c.directory.Load().byUUID {
		if address, err := c.address(uuid); err == nil && uuid != q.Uuid {
			response.Members = append(response.Members, &nodev1.Server{Uuid: uuid, Address: address})
		}
	}
	response.Members = append(response.Members, &nodev1.Server{Uuid: c.identity.UUID, Address: c.member().Address})
	return response, nil
}

// isMember tells whether a node is one, or will be when it registers.
func (c *Cluster) isMember(uuid string) bool {
	d := c.directory.Load()
	if d.byUUID[uuid] != nil {
		return true
	}
	return !d.placed && c.founded.Load().first(uuid)
}

// refuse says why a node cannot be let in; wait: not yet.
func (c *Cluster) refuse(q *nodev1.JoinRequest) (refusal string, wait bool) {
	if q.Lost {
		return fmt.Sprintf("node '%s' (%s) is no member of this cluster, but has data: put its %s back, or start it with an empty data directory",
			q.Name, q.Uuid, foundingFile), false
	}
	if !c.directory.Load().placed {
		return "", true
	}
	old := c.namesake(q)
	if old == nil {
		return "", false
	}
	p := c.watcher.info(old.UUID)
	switch {
	case old.UUID == c.identity.UUID || p.state == pipe.PeerAlive:
		return fmt.Sprintf("node '%s' is running already: start the new one with another --name, or stop the old one for good first", q.Name), false
	case p.state == pipe.PeerDead || old.Run == 0 || c.listensWhere(old.UUID, &p, q.Address) || time.Since(p.since) > sessionGrace:
		return "", false
	}
	return fmt.Sprintf("the former node '%s' cannot be reached, which does not say that it has ended: it is replaced %v from now, or at once after warren remove %s",
		q.Name, (sessionGrace - time.Since(p.since)).Round(time.Second), q.Name), false
}

// listensWhere tells whether an address is a member's that cannot be reached there. A leader that has been started since has no word
// of the member itself; then it goes by where it looks for it.
func (c *Cluster) listensWhere(uuid string, p *peerInfo, address string) bool {
	if p.status != nil {
		return p.status.Address == address
	}
	known, err := c.address(uuid)
	return err == nil && known == address && p.tried
}

// namesake is the member that has the name of a node that wants to be one, and stays; nil: there is none.
func (c *Cluster) namesake(q *nodev1.JoinRequest) *catalog.Node {
	for _, n := range c.directory.Load().byNumber {
		if n.Name == q.Name && n.UUID != q.Uuid && !n.Leaving {
			return n
		}
	}
	return nil
}
