package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/warrenmq/warren/cluster/gossip"
	nodev1 "github.com/warrenmq/warren/proto/node/v1"
	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"

	"github.com/warrenmq/warren/broker"
	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
)

// findPeriod is how often a node without data looks whether a cluster can begin.
const findPeriod = 100 * time.Millisecond

// refusedPeriod is the same for one that a cluster has refused: what it waits for there takes seconds.
const refusedPeriod = time.Second

// find makes this node a member of a cluster: of the one that it is in already, of one that it begins alone, of one that
// lets it in, or of one that begins when as many nodes as expected have found one another. Then the one with the lowest
// identity decides who is in it, has all promise to be in no other (promise.go), and tells them, who write it down before they act on it.
// Nothing begins where any data exists: of that data's cluster only the members can tell, when the file that named it is lost.
func (c *Cluster) find(ctx context.Context) error {
	switch {
	case c.founded.Load() != nil:
		return nil
	case c.lost && len(c.o.Join) == 0:
		return fmt.Errorf("%s is missing from %s or damaged, but this node is of a cluster: put it back, or name members of the cluster with --join", foundingFile, c.o.DataDir)
	case c.lost:
		c.log.Error("the file that names the cluster is lost: asking the members", "file", foundingFile)
	case len(c.o.Join) == 0 && c.o.Expect <= 1:
		return c.found(founding{ClusterID: newUUID(), Servers: []foundingNode{{c.identity.UUID, c.member().Address}}})
	default:
		c.log.Info("waiting for other nodes", "expect", c.o.Expect)
	}
	ticker := time.NewTicker(findPeriod)
	defer ticker.Stop()
	told := ""
	for {
		select {
		case <-c.begun:
			return nil
		case <-ticker.C:
			if why := c.join(ctx); why != "" && why != told {
				c.log.Warn("the cluster does not let this node in; trying again", "why", why)
				told = why
				ticker.Reset(refusedPeriod)
			}
			if !c.lost {
				c.review(ctx)
				c.begin(ctx)
			}
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("wait for %d nodes: %w", c.o.Expect, ctx.Err()), refusedWith(told))
		}
	}
}

func refusedWith(why string) error {
	if why == "" {
		return nil
	}
	return errors.New(why)
}

// hasData tells whether this node has had a seat in a group, or has anything in its store. Where the votes are lost, the catalog's
// directory tells: a seat has it before it votes.
func (c *Cluster) hasData() bool {
	if c.db.Renewed() {
		return c.holdsData()
	}
	return len(c.o.Store.Groups()) > 0 || !c.db.Blank()
}

// holdsData tells whether there is anything in the store or the catalog's directory.
func (c *Cluster) holdsData() bool {
	return len(c.o.Store.Groups()) > 0 || exists(filepath.Join(c.o.DataDir, "catalog"))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// begin decides who is in the new cluster, if that is for this node to do and enough are there.
func (c *Cluster) begin(ctx context.Context) {
	if c.o.Expect < 1 {
		return // somebody lets this node in
	}
	if err := c.beginWith(ctx, c.gossip.Load().Members()); err != nil {
		c.log.Debug("begin a cluster", "err", err)
		return
	}
	c.tellFounding(ctx)
}

// beginWith is begin among the nodes that are known.
func (c *Cluster) beginWith(ctx context.Context, others []*nodev1.Member) error {
	nodes := []*nodev1.Member{c.member()}
	for _, m := range others {
		if m.ClusterId != "" {
			return nil // there is a cluster already
		}
		if int(m.Expect) == c.o.Expect {
			nodes = append(nodes, m)
		}
	}
	slices.SortFunc(nodes, func(a, b *nodev1.Member) int { return strings.Compare(a.Uuid, b.Uuid) })
	if len(nodes) < c.o.Expect || nodes[0].Uuid != c.identity.UUID {
		return nil
	}
	f := founding{ClusterID: newUUID()}
	for _, m := range nodes[:c.o.Expect] {
		f.Servers = append(f.Servers, foundingNode{m.Uuid, m.Address})
	}
	return c.foundWith(ctx, f, nodes[1:])
}

// found writes down which cluster this node is in.
func (c *Cluster) found(f founding) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.foundLocked(f)
}

// foundLocked is found; c.mu is held.
func (c *Cluster) foundLocked(f founding) error {
	if is := c.founded.Load(); is != nil {
		if is.ClusterID != f.ClusterID {
			return fmt.Errorf("node %s is in cluster %s", c.o.Name, is.ClusterID)
		}
		return nil
	}
	if f.ClusterID == "" || len(f.Servers) > 0 && !f.first(c.identity.UUID) {
		return fmt.Errorf("node %s is not among the first members", c.o.Name)
	}
	if err := save(c.o.DataDir, foundingFile, f); err != nil {
		return fmt.Errorf("write down the cluster: %w", err)
	}
	c.founded.Store(&f)
	close(c.begun)
	if len(f.Servers) > 0 {
		c.log.Info("the cluster begins", "cluster", f.ClusterID, "nodes", len(f.Servers))
	} else {
		c.log.Info("this node is let in", "cluster", f.ClusterID)
	}
	if g := c.gossip.Load(); g != nil {
		go g.Update(c.member())
	}
	return nil
}

// tellFounding tells first members that have not heard of it yet that the cluster has begun.
func (c *Cluster) tellFounding(ctx context.Context) {
	f := c.founded.Load()
	if f == nil || len(f.Servers) < 2 {
		return
	}
	q := &nodev1.BootstrapRequest{ClusterId: f.ClusterID, Servers: servers(f.Servers)}
	for _, m := range c.gossip.Load().Members() {
		if m.ClusterId != "" || m.Expect == 0 || !f.first(m.Uuid) { // one that has lost its cluster.json asks itself
			continue
		}
		control, err := c.network.Control(m.Uuid)
		if err != nil {
			continue // the next round tries again
		}
		telling, cancel := context.WithTimeout(ctx, probeTimeout)
		response, err := control.Bootstrap(telling, q)
		cancel()
		if err != nil {
			c.log.Debug("tell a first member", "peer", m.Name, "err", err)
		} else if response.Refusal != "" {
			c.log.Error("a first member refuses", "peer", m.Name, "why", response.Refusal)
		}
	}
}

// membersChanged is called by gossip.
func (c *Cluster) membersChanged() { c.wakeSupervisor() }

// register begins this node's run: it gets its number and its session.
func (c *Cluster) register(ctx context.Context) error {
	for {
		at, changed := c.catalog.position()
		var created bool
		c.catalog.read(func(s *catalog.State) { created = s.ClusterID() != "" })
		if created {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for the catalog (at %d): %w", at, ctx.Err())
		}
	}
	c.lookAround(ctx)
	return c.registerBy(ctx, c.Propose)
}

// registerBy registers this node through propose, until that has an answer. All tries are one command, by its number: one whose answer was
// lost may be committed after a later one, and would be another run. Of one whose answer is known to nobody here another has to be asked for.
func (c *Cluster) registerBy(ctx context.Context, propose func(context.Context, *catalog.Command) (catalog.Reply, error)) error {
	for number := rand.Uint64() | 1; ; {
		cmd := catalog.RegisterNode(&raftv1.RegisterNode{Uuid: c.identity.UUID, Name: c.o.Name,
			Alive: c.aliveNumbers(), MachineVersion: catalog.LatestMachineVersion, Version: c.o.Version})
		cmd.Proposal = number
		trying, cancel := context.WithTimeout(ctx, registerTimeout)
		reply, err := propose(trying, cmd)
		cancel()
		if err == nil {
			c.self.Store(&broker.Self{Node: reply.Node, Name: c.o.Name, Session: queue.MakeSessionID(reply.Node, reply.Run),
				Local: queue.LocalShard | queue.ShardID(reply.Node)})
			c.follower.lookAgain()
			c.statusChanged()
			return c.promiseKept()
		}
		switch {
		case isKind(err, broker.AccessRefused) && c.begunWithout(ctx):
		case isKind(err, broker.AccessRefused):
			return fmt.Errorf("register this node: %w", ErrRemoved)
		case ctx.Err() != nil || !isUnavailable(err):
			return fmt.Errorf("register this node: %w", err)
		case errors.Is(err, errNoAnswer):
			number = rand.Uint64() | 1
		}
	}
}

// begunWithout tells whether the cluster has begun without this node, which is asked for anew then.
func (c *Cluster) begunWithout(ctx context.Context) bool {
	select {
	case <-time.After(findPeriod):
	case <-ctx.Done():
	}
	leader, _ := c.catalog.leader()
	return c.unregistered() && (leader == "" || leader == c.identity.UUID || c.letInAgain(ctx, leader))
}

// lookAround waits until a member is known to have run on, or of every one that it is not known to, for a while: whether any did
// decides whether the whole cluster was restarted. Where the others listen may be known here last of all, while their log comes in
// already; so who leads is waited for: it has run on, unless it says itself that it has just started.
func (c *Cluster) lookAround(ctx context.Context) {
	late := time.Now().Add(lookTimeout)
	for ctx.Err() == nil {
		nodes := c.directory.Load().byUUID
		for uuid := range nodes {
			c.watcher.add(uuid)
		}
		leader, _ := c.catalog.leader()
		heard := leader == c.identity.UUID || leader != "" && c.watcher.info(leader).status != nil
		if len(c.watcher.sessions()) > 0 || heard && (c.watcher.knows() || time.Now().After(late)) {
			return
		}
		select {
		case <-time.After(findPeriod / 10):
		case <-ctx.Done():
		}
	}
}

// lookTimeout bounds the wait for members that cannot be reached, or of which nobody says where they listen: they tell by gossip within
// the first part, and are heard or not in the rest.
const lookTimeout = gossip.RejoinTime + probeTimeout + silenceLimit

// registerTimeout bounds a try to register.
const registerTimeout = 10 * time.Second

func isUnavailable(err error) bool { return isKind(err, broker.Unavailable) }

func isKind(err error, kind broker.Kind) bool {
	var refusal *broker.Error
	return errors.As(err, &refusal) && refusal.Kind == kind
}

// aliveNumbers are the nodes whose present run is known to be alive, as they say themselves: this node's copy of the catalog may
// still be on its way.
func (c *Cluster) aliveNumbers() (list []uint32) {
	for _, session := range c.watcher.sessions() {
		list = append(list, uint32(session.Node()))
	}
	slices.Sort(list)
	return list
}
