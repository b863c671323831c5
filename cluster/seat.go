package cluster

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/warrenmq/warren/cluster/pipe"
	"github.com/warrenmq/warren/cluster/raftnet"
	"github.com/warrenmq/warren/cluster/raftstore"
	nodev1 "github.com/warrenmq/warren/proto/node/v1"
)

// A replica that has lost what it knew (a damaged file, an emptied directory, its votes) must neither vote nor count as
// holding anything: the others rely on what it had promised. It takes a seat under a new id, which has promised nothing,
// and the group's leader exchanges the seats: the old one is removed, the new one learns, and votes when it has caught up.
// The same exchange moves replicas to other nodes.

var (
	errLost      = errors.New("the replica's data is gone")
	errVotesLost = errors.New("the replica's votes are gone")
)

// open starts the seat: as it was left; or as a first member, if first names those; or, if what it knew is lost, as a new
// member that its peers bring up to date. If it has none there is nobody to ask, and the damage is the error.
func (g *group) open(first []string, peers bool, votesLost bool) error {
	seat, err := g.stable.Seat()
	if err == nil {
		err = g.stable.Check()
	}
	if err == nil {
		err = g.parts.check()
	}
	empty := false
	if err == nil {
		empty, err = g.parts.empty()
	}
	switch {
	case err != nil:
	case seat.Ready && empty:
		err = errLost
	case seat.Incarnation == 0 && (!empty || votesLost):
		err = errVotesLost
	}
	switch {
	case err != nil && !peers:
		return fmt.Errorf("%s: %w; no other node has a copy", g.name, err)
	case err != nil:
		return g.rejoin(seat, err)
	case seat.Incarnation == 0:
		// A member that is let in later has promised nothing either; that it began is noted before it can promise anything.
		seat = raftstore.Seat{Incarnation: 1, Ready: first == nil}
		err = g.stable.SaveSeat(seat)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", g.name, err)
	}
	g.setSeat(seat)
	return g.begin(seat, first, empty)
}

func (g *group) setSeat(seat raftstore.Seat) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seat = seat
}

// begin starts the instance, with the group's first configuration if it has none yet.
func (g *group) begin(seat raftstore.Seat, first []string, empty bool) error {
	var configuration *raft.Configuration
	if !seat.Ready && empty && first != nil {
		// A start that was cut short may have left a term behind, with which the library would not begin.
		if err := g.stable.Forget(); err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
		configuration = firstConfiguration(first)
	}
	if err := g.start(configuration); err != nil {
		return err
	}
	if seat.Ready {
		return nil
	}
	seat.Ready = true
	g.setSeat(seat)
	return g.stable.SaveSeat(seat)
}

// firstConfiguration makes the nodes' first seats the voters of a new group.
func firstConfiguration(nodes []string) *raft.Configuration {
	c := new(raft.Configuration)
	for _, uuid := range nodes {
		id := raftnet.ServerID(uuid, 1)
		c.Servers = append(c.Servers, raft.Server{Suffrage: raft.Voter, ID: id, Address: raft.ServerAddress(id)})
	}
	return c
}

// rejoin begins anew under another id.
func (g *group) rejoin(seat raftstore.Seat, why error) error {
	g.log.Error("this replica's data cannot be trusted: it is rebuilt from the others", "group", g.name, "why", why)
	// The number must be above all that were used; one that cannot be read any more was below the seconds since 1970.
	seat = raftstore.Seat{Incarnation: max(seat.Incarnation+1, uint64(time.Now().Unix())), Ready: true}
	if err := errors.Join(g.stable.SaveSeat(seat), g.stable.Forget(), g.parts.discard()); err != nil {
		return fmt.Errorf("%s: rebuild: %w", g.name, err)
	}
	g.setSeat(seat)
	return g.start(nil)
}

const (
	// changeTimeout bounds one change of a group's members.
	changeTimeout = 5 * time.Second
	// maxVoters is how many members of the catalog vote; the others learn.
	maxVoters = 5
)

// exchangeSeats brings the members of the groups that this node leads to what they should be, one change at a time.
func (c *Cluster) exchangeSeats() {
	for _, g := range c.groups() {
		if _, ok := g.leading(); !ok {
			continue
		}
		wanted := c.wantedNodes(g.id)
		if len(wanted) == 0 {
			continue
		}
		if err := c.exchange(g, wanted); err != nil && c.ctx.Err() == nil {
			g.log.Info("the group's members could not be changed; trying again", "group", g.name, "err", err)
		}
	}
}

// claim is the seat that a node says it has in a group; empty: it is not known.
func (c *Cluster) claim(g *group, uuid string) (server string, p peerInfo) {
	if uuid == c.identity.UUID {
		return string(g.server()), peerInfo{state: pipe.PeerAlive, status: &nodev1.Status{}}
	}
	p = c.watcher.info(uuid)
	if p.state != pipe.PeerAlive || p.status == nil {
		return "", p
	}
	for _, s := range p.status.Groups {
		if s.Group == g.id && s.Damage == "" {
			return s.Server, p
		}
	}
	return "", p
}

// exchange makes at most one change of a group's members.
func (c *Cluster) exchange(g *group, wanted []string) error {
	r := g.instance()
	if r == nil {
		return nil
	}
	f := r.GetConfiguration()
	if err := f.Error(); err != nil {
		return err
	}
	servers := f.Configuration().Servers
	for _, s := range servers {
		uuid := raftnet.NodeOf(string(s.ID))
		claimed, _ := c.claim(g, uuid)
		gone := !slices.Contains(wanted, uuid)
		if (gone || claimed != "" && claimed != string(s.ID)) && s.ID != g.server() && c.safeWithout(g, servers, s.ID) {
			g.log.Info("a seat is removed", "group", g.name, "server", s.ID)
			return r.RemoveServer(s.ID, f.Index(), changeTimeout).Error()
		}
	}
	for _, uuid := range wanted {
		claimed, p := c.claim(g, uuid)
		if claimed == "" {
			continue
		}
		id := raft.ServerID(claimed)
		at := slices.IndexFunc(servers, func(s raft.Server) bool { return s.ID == id })
		switch {
		case at < 0:
			g.log.Info("a seat is added", "group", g.name, "server", id)
			return r.AddNonvoter(id, raft.ServerAddress(id), f.Index(), changeTimeout).Error()
		case servers[at].Suffrage != raft.Voter && g.upToDate(p) && (g.id != catalogGroup || voters(servers) < maxVoters):
			g.log.Info("a seat votes from now on", "group", g.name, "server", id)
			return r.AddVoter(id, raft.ServerAddress(id), f.Index(), changeTimeout).Error()
		}
	}
	return nil
}

func voters(servers []raft.Server) (n int) {
	for _, s := range servers {
		if s.Suffrage == raft.Voter {
			n++
		}
	}
	return n
}

// safeWithout tells whether the voters that remain without a seat have a majority that lives and holds what it should.
func (c *Cluster) safeWithout(g *group, servers []raft.Server, without raft.ServerID) bool {
	remaining, well := 0, 0
	for _, s := range servers {
		if s.Suffrage != raft.Voter || s.ID == without {
			continue
		}
		remaining++
		if claimed, _ := c.claim(g, raftnet.NodeOf(string(s.ID))); claimed == string(s.ID) {
			well++
		}
	}
	return 2*well > remaining
}

// wantedNodes are the nodes that should have a seat in a group.
func (c *Cluster) wantedNodes(group uint32) (uuids []string) {
	d := c.directory.Load()
	if group == catalogGroup {
		for _, n := range d.byNumber {
			uuids = append(uuids, n.UUID)
		}
		// A first member that has not registered yet is one all the same.
		for _, s := range c.founded.Load().Servers {
			if !slices.Contains(uuids, s.UUID) && len(d.byNumber) < len(c.founded.Load().Servers) {
				uuids = append(uuids, s.UUID)
			}
		}
		slices.Sort(uuids)
		return uuids
	}
	for _, number := range c.placementOf(group) {
		if uuid := c.uuidOf(number); uuid != "" {
			uuids = append(uuids, uuid)
		}
	}
	return uuids
}
