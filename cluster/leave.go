package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/cluster/pipe"
	nodev1 "github.com/warrenmq/warren/proto/node/v1"
	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm"
	"github.com/warrenmq/warren/raftfsm/catalog"
)

// A node that is to go, alive or dead, is marked in the catalog as leaving. The rest follows from that, whoever leads meanwhile
// and however often it changes: the planner gives its replicas to others, one at a time and only in groups whose majority is
// well; when it holds nothing, its clients are closed; then it is removed. So what may be refused is refused at the beginning.

// LeaveOptions say what an operator accepts.
type LeaveOptions struct {
	// Few lets fewer nodes stay than a shard should have replicas.
	Few bool
}

// Leave begins that a member that lives leaves for good; Overview shows how far it is. The node is named by its name, number or
// identity. A refusal says what to do instead.
func (c *Cluster) Leave(ctx context.Context, node string, o LeaveOptions) error {
	return c.setLeaving(ctx, node, &nodev1.SetLeavingRequest{Leaving: true, Few: o.Few})
}

// Remove begins that a member that is dead is removed, as Leave.
func (c *Cluster) Remove(ctx context.Context, node string, o LeaveOptions) error {
	return c.setLeaving(ctx, node, &nodev1.SetLeavingRequest{Leaving: true, Dead: true, Few: o.Few})
}

// Stay calls off that a node leaves, unless it holds nothing any more. What it has handed over comes back by and by.
func (c *Cluster) Stay(ctx context.Context, node string) error {
	return c.setLeaving(ctx, node, &nodev1.SetLeavingRequest{})
}

// leavePause lies between two tries to find the catalog's leader.
const leavePause = 100 * time.Millisecond

func (c *Cluster) setLeaving(ctx context.Context, node string, q *nodev1.SetLeavingRequest) error {
	n, err := c.nodeNamed(node)
	if err != nil {
		return err
	}
	q.Node = uint32(n.Number)
	for {
		response, err := controlServer{c: c}.SetLeaving(ctx, q)
		switch {
		case err == nil && response.Refusal != "":
			return raftfsm.Errorf(broker.PreconditionFailed, "%s", response.Refusal)
		case err == nil && !response.NotLeader:
			return nil
		}
		select {
		case <-time.After(leavePause):
		case <-ctx.Done():
			return unavailable("the cluster has no majority, or is too busy")
		}
	}
}

// nodeNamed finds a member by its name, number or identity. Of two of one name it is the one that stays.
func (c *Cluster) nodeNamed(node string) (found *catalog.Node, err error) {
	d := c.directory.Load()
	if n := d.byUUID[node]; n != nil {
		return n, nil
	}
	for _, n := range d.byNumber {
		if n.Name == node && (found == nil || found.Leaving) {
			found = n
		}
	}
	if found != nil {
		return found, nil
	}
	if number, err := strconv.ParseUint(node, 10, 16); err == nil && d.byNumber[uint16(number)] != nil {
		return d.byNumber[uint16(number)], nil
	}
	return nil, raftfsm.Errorf(broker.NotFound, "the cluster has no node '%s'", node)
}

// SetLeaving implements the Control service.
func (s controlServer) SetLeaving(ctx context.Context, q *nodev1.SetLeavingRequest) (*nodev1.SetLeavingResponse, error) {
	c := s.c
	leader, leads := c.catalogLeader()
	switch {
	case leads:
		return c.leaveHere(ctx, q)
	case leader == "" || q.Forwarded:
		return &nodev1.SetLeavingResponse{NotLeader: true}, nil
	}
	control, err := c.network.Control(leader)
	if err != nil {
		return nil, err
	}
	q = proto.CloneOf(q)
	q.Forwarded = true
	return control.SetLeaving(ctx, q)
}

// leaveHere decides whether a node may leave. This node leads the catalog.
func (c *Cluster) leaveHere(ctx context.Context, q *nodev1.SetLeavingRequest) (*nodev1.SetLeavingResponse, error) {
	if err := c.admitting.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer c.admitting.Release(1)
	n := c.directory.Load().byNumber[uint16(q.Node)]
	switch {
	case n == nil || q.Node > maxNodeNumber:
		return &nodev1.SetLeavingResponse{Refusal: fmt.Sprintf("the cluster has no node %d", q.Node)}, nil
	case q.Leaving:
		if refusal := c.refuseLeave(ctx, n, q); refusal != "" {
			return &nodev1.SetLeavingResponse{Refusal: refusal}, nil
		}
	case n.Leaving && c.situation().holdsNothing(n.Number, n.UUID):
		return &nodev1.SetLeavingResponse{Refusal: fmt.Sprintf("node '%s' holds nothing any more, and its clients are closed: it is removed as soon as it has none, and can join again with an empty data directory",
			n.Name)}, nil
	}
	if n.Leaving == q.Leaving {
		return &nodev1.SetLeavingResponse{}, nil
	}
	_, err := c.Propose(ctx, c.leaveCommand(q))
	var refusal *broker.Error
	if errors.As(err, &refusal) && refusal.Kind != broker.Unavailable {
		return &nodev1.SetLeavingResponse{Refusal: refusal.Error()}, nil
	}
	if err == nil {
		c.log.Info("a node leaves", "peer", n.Name, "number", n.Number, "leaves", q.Leaving, "dead", q.Dead)
	}
	return &nodev1.SetLeavingResponse{}, err
}

// leaveCommand makes the change that leaveHere has decided on. It may be committed by a later leader of the catalog, who has decided about
// another node meanwhile: so the catalog judges once more whether enough nodes stay.
func (c *Cluster) leaveCommand(q *nodev1.SetLeavingRequest) *catalog.Command {
	m := &raftv1.SetLeaving{Number: q.Node, Leaving: q.Leaving}
	if q.Leaving && !q.Few {
		c.catalog.read(func(s *catalog.State) { m.Others = uint32(s.Replication()) })
	}
	return catalog.SetLeaving(m)
}

// refuseLeave says why a node may not leave, and what to do; empty: it may.
func (c *Cluster) refuseLeave(ctx context.Context, n *catalog.Node, q *nodev1.SetLeavingRequest) string {
	now := c.situation()
	alive := c.watcher.alive(n.UUID)
	staying, living := 0, 0
	for _, other := range now.nodes {
		if other.Number != n.Number && !other.Leaving {
			staying++
			if other.Alive {
				living++
			}
		}
	}
	switch {
	case q.Dead && alive:
		return fmt.Sprintf("node '%s' is running: let it hand over what it holds with warren leave %s, or stop it first", n.Name, n.Name)
	case !q.Dead && !alive && !n.Leaving:
		return fmt.Sprintf("node '%s' cannot be reached, so it cannot hand over what it holds: start it, or if it is gone for good use warren remove %s", n.Name, n.Name)
	case staying == 0:
		return fmt.Sprintf("node '%s' is the last one that stays: add a node first, or stop it if the cluster is to end", n.Name)
	case 2*living <= staying:
		return fmt.Sprintf("of the %d nodes that would stay only %d can be reached, which is no majority: bring the others back first", staying, living)
	case staying < now.replication && !q.Few && q.Dead:
		return fmt.Sprintf("%d nodes would stay for %d replicas of each shard: start a new node first, which takes the place of '%s' by itself if it has its name, or accept fewer replicas with --few",
			staying, now.replication, n.Name)
	case staying < now.replication && !q.Few:
		return fmt.Sprintf("%d nodes would stay for %d replicas of each shard: add a node first, or accept fewer replicas with --few", staying, now.replication)
	}
	// A leadership that moves just now, or a seat that is being exchanged, is no trouble: it is waited for.
	for end := time.Now().Add(healthPatience); ; now = c.situation() {
		refusal := c.refuseWithout(n, now)
		if refusal == "" || time.Now().After(end) || ctx.Err() != nil {
			return refusal
		}
		time.Sleep(leavePause)
	}
}

// healthPatience is how long a group may have no healthy majority before a node may not leave for that.
const healthPatience = 3 * time.Second

// refuseWithout says which group would have no healthy majority without a node.
func (c *Cluster) refuseWithout(n *catalog.Node, now *situation) string {
	if voters, well := c.wellVoters(c.catalog.group, c.catalog.members(), c.seatOf(c.catalog.group, n.UUID)); 2*well <= voters {
		return fmt.Sprintf("only %d of the %d nodes that would decide about the catalog are well, which is no majority: bring the others back first", well, voters)
	}
	for _, sh := range now.shards {
		if !sh.Healthy {
			return fmt.Sprintf("shard %d has no healthy majority now: bring its nodes back first (warren shards shows them)", sh.ID)
		}
		alive := 0
		others := slices.DeleteFunc(slices.Clone(sh.Nodes), func(number uint16) bool { return number == n.Number })
		for _, number := range others {
			if c.watcher.alive(c.uuidOf(number)) {
				alive++
			}
		}
		if len(others) > 0 && 2*alive <= len(others) {
			return fmt.Sprintf("only %d of the %d other replicas of shard %d are well, which is no majority: bring their nodes back first", alive, len(others), sh.ID)
		}
	}
	return ""
}

// Drain moves the leaderships away from a member and keeps them away, until it is called off or the node starts again: for its
// maintenance. It tells how many groups the node still leads; they go by and by, as other nodes can take them.
func (c *Cluster) Drain(ctx context.Context, node string, off bool) (leads int, err error) {
	n, err := c.nodeNamed(node)
	if err != nil {
		return 0, err
	}
	if n.UUID == c.identity.UUID {
		return c.drain(off), nil
	}
	if p := c.watcher.info(n.UUID); p.state != pipe.PeerAlive {
		return 0, unavailable("node '%s' cannot be reached", n.Name)
	}
	control, err := c.network.Control(n.UUID)
	if err != nil {
		return 0, err
	}
	response, err := control.Drain(ctx, &nodev1.DrainRequest{Off: off})
	if err != nil {
		return 0, unavailable("node '%s' does not answer", n.Name)
	}
	return int(response.Leads), nil
}

// Drain implements the Control service.
func (s controlServer) Drain(_ context.Context, q *nodev1.DrainRequest) (*nodev1.DrainResponse, error) {
	return &nodev1.DrainResponse{Leads: uint32(s.c.drain(q.Off))}, nil
}

func (c *Cluster) drain(off bool) (leads int) {
	if c.draining.Swap(!off) == off {
		c.log.Info("this node gives its leaderships away", "off", off)
	}
	c.statusChanged()
	c.wakeSupervisor()
	if !c.hasCatalog() {
		return 0
	}
	for _, g := range c.groups() {
		// Not leading: a transfer is under way then, and may fail. By the library this seat leads until another does.
		if r := g.instance(); r != nil && r.State() == raft.Leader {
			leads++
		}
	}
	return leads
}

// giveAway moves one of the leaderships of this node to another, if it drains; more: it has others.
func (c *Cluster) giveAway() (more bool) {
	if !c.draining.Load() {
		return false
	}
	for _, g := range c.groups() {
		if _, ok := g.leading(); ok && c.handOn(g, c.otherNodes()) {
			return true
		}
	}
	return false
}

// otherNodes are the members but this node.
func (c *Cluster) otherNodes() (uuids []string) {
	for uuid := range c.directory.Load().byUUID {
		if uuid != c.identity.UUID {
			uuids = append(uuids, uuid)
		}
	}
	slices.Sort(uuids)
	return uuids
}
