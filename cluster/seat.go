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
	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/storage"
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
// member that its peers bring up to date. If it has none there is nobody to ask, and the damage is the error. So is what only keeps the
// seat's data from being read now: a seat that was given up for that could be one too many.
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
	if err == nil && !empty {
		err = g.votesStand()
	}
	switch {
	case err != nil:
	case seat.Ready && empty:
		err = errLost
	case seat.Incarnation == 0 && (!empty || votesLost):
		err = errVotesLost
	}
	switch {
	case err != nil && !isLost(err):
	case err != nil && !peers:
		return fmt.Errorf("%s: %w; as far as is known here no other node has a copy: put the missing file back; or, if the cluster has other members that run, start with an empty data directory, under the same name; or see warren recover --help",
			g.name, err)
	case err != nil:
		return g.rejoin(seat, err)
	case seat.Incarnation == 0:
		// A member that is let in later has promised nothing either; that it began is noted before it can promise anything.
		seat = raftstore.Seat{Incarnation: 1, Ready: first == nil}
		err = g.stable.SaveSeat(seat)
	case !seat.Ready && first == nil: // it was here before, and left
		seat.Ready = true
		err = g.stable.SaveSeat(seat)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", g.name, err)
	}
	g.setSeat(seat)
	err = g.begin(seat, first, empty)
	if damage := g.unreadable(err); damage != nil && peers {
		return g.rejoin(seat, damage)
	}
	return err
}

// votesStand tells whether the votes are at least as new as the log. A term is durable before any entry of it, so one below that of the log's
// last entry is that of an older file, which was put back, and the seat has forgotten for whom it voted since.
func (g *group) votesStand() error {
	last, err := g.logs.LastIndex()
	if err != nil || last == 0 {
		return err
	}
	var e raft.Log
	if err := g.logs.GetLog(last, &e); errors.Is(err, raft.ErrLogNotFound) { // the end of a snapshot, with no log behind it
		return nil
	} else if err != nil {
		return err
	}
	term, err := g.stable.Term()
	if err == nil && term < e.Term {
		err = fmt.Errorf("%w: they are of term %d, the log's last entry is of %d", errVotesLost, term, e.Term)
	}
	return err
}

// unreadable is the damage, if any, that has kept an instance from starting. The library does not tell all that it meets.
func (g *group) unreadable(err error) error {
	if err == nil || errors.Is(err, errEnded) {
		return nil
	}
	if isDamage(err) {
		return err
	}
	if damage := g.parts.reread(); isDamage(damage) {
		return fmt.Errorf("%w: %w", err, damage)
	}
	return nil
}

// isDamage tells whether an error says that the disk does not give back what was written, and not that it gives nothing now.
func isDamage(err error) bool {
	return errors.Is(err, storage.ErrCorrupt) || errors.Is(err, storage.ErrDamaged) || errors.Is(err, raftstore.ErrDamaged)
}

// isLost tells whether an error says that what a seat knew is gone, and will not come back.
func isLost(err error) bool {
	return isDamage(err) || errors.Is(err, errLost) || errors.Is(err, errVotesLost)
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
	next := g.next.Swap(0)
	if next == 0 {
		next = nextIncarnation(seat)
	}
	seat = raftstore.Seat{Incarnation: next, Ready: true}
	if err := errors.Join(g.stable.SaveSeat(seat), g.stable.Forget(), g.parts.discard()); err != nil {
		return fmt.Errorf("%s: rebuild: %w", g.name, err)
	}
	g.setSeat(seat)
	return g.start(nil)
}

// nextIncarnation is the number of a seat that takes another's place. It must be above all that were used; one that cannot be read any
// more was below the seconds since 1970.
func nextIncarnation(seat raftstore.Seat) uint64 {
	return max(seat.Incarnation+1, uint64(time.Now().Unix()))
}

const (
	// changeTimeout bounds one change of a group's members.
	changeTimeout = 5 * time.Second
	// maxVoters is how many members of the catalog vote; the others learn.
	maxVoters = 5
)

// exchangeSeats brings the members of the groups that this node leads to what they should be, one change at a time. It tells
// whether there is more to do.
func (c *Cluster) exchangeSeats() (more bool) {
	for _, g := range c.groups() {
		if _, ok := g.leading(); !ok {
			continue
		}
		wanted := c.wantedNodes(g.id)
		if len(wanted) == 0 {
			continue
		}
		done, err := c.exchange(g, wanted)
		if err != nil && c.ctx.Err() == nil {
			g.log.Info("the group's members could not be changed; trying again", "group", g.name, "err", err)
		}
		more = more || !done && err == nil
	}
	return more
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

// hasCome tells whether a node has, as it last said, what its group had committed a little while ago. For a voter it is not enough that it is
// close: to the end of a short log it is from the beginning, and a node that has died and is not missed yet would take the place of a
// replica that lives.
func (c *Cluster) hasCome(g *group, p peerInfo, committed uint64) bool {
	least := min(c.pace.before(g.id), committed)
	return slices.ContainsFunc(p.status.GetGroups(), func(s *nodev1.GroupStatus) bool { return s.Group == g.id && s.Committed >= least })
}

// exchange makes at most one change of a group's members, and tells whether they are what they should be, as far as they can.
// Seats that their nodes have given up, and those of dead nodes that are not wanted, go first: they only count against a
// majority. Then the wanted nodes come in, and only then do living ones go: a replica that moves is never missing meanwhile.
func (c *Cluster) exchange(g *group, wanted []string) (done bool, err error) {
	r := g.instance()
	if r == nil {
		return true, nil
	}
	f := r.GetConfiguration()
	if err := f.Error(); err != nil {
		return true, err
	}
	servers := f.Configuration().Servers
	remove := func(s raft.Server) error {
		g.log.Info("a seat is removed", "group", g.name, "server", s.ID)
		return c.changed(r.RemoveServer(s.ID, f.Index(), changeTimeout).Error())
	}
	for _, s := range servers {
		uuid := raftnet.NodeOf(string(s.ID))
		claimed, p := c.claim(g, uuid)
		gone := p.state != pipe.PeerAlive && !slices.Contains(wanted, uuid)
		if (gone || claimed != "" && claimed != string(s.ID)) && s.ID != g.server() && c.safeWithout(g, servers, s.ID) {
			return false, remove(s)
		}
	}
	learning, missing := false, false
	for _, uuid := range wanted {
		claimed, p := c.claim(g, uuid)
		if claimed == "" {
			// A node that votes does so again when it is back; one that does not yet is waited for, or a replica would go before there is
			// another in its place.
			missing = missing || g.id != catalogGroup && !hasVote(servers, uuid)
			continue
		}
		id := raft.ServerID(claimed)
		at := slices.IndexFunc(servers, func(s raft.Server) bool { return s.ID == id })
		switch {
		case at < 0:
			g.log.Info("a seat is added", "group", g.name, "server", id)
			return false, c.changed(r.AddNonvoter(id, raft.ServerAddress(id), f.Index(), changeTimeout).Error())
		case servers[at].Suffrage == raft.Voter || g.id == catalogGroup && voters(servers) >= maxVoters:
		case c.upToDate(g, p) && c.hasCome(g, p, r.CommitIndex()) && c.safeWith(g, servers):
			g.log.Info("a seat votes from now on", "group", g.name, "server", id)
			return false, c.changed(r.AddVoter(id, raft.ServerAddress(id), f.Index(), changeTimeout).Error())
		default:
			learning = true
		}
	}
	if learning || missing {
		return !learning, nil
	}
	for _, s := range servers {
		switch {
		case slices.Contains(wanted, raftnet.NodeOf(string(s.ID))):
		case s.ID == g.server():
			return !c.handOn(g, wanted), nil
		case c.safeWithout(g, servers, s.ID):
			return false, remove(s)
		}
	}
	return true, nil
}

// changed tells the other nodes of a change of a group's members.
func (c *Cluster) changed(err error) error {
	if err == nil {
		c.statusChanged()
	}
	return err
}

// handOn gives the leadership to one of the nodes that are wanted, since this one is not; false: none can take it now.
func (c *Cluster) handOn(g *group, wanted []string) bool {
	uuid := c.successor(g, wanted, anyClock)
	if uuid != "" {
		g.handTo(c.ctx, uuid)
	}
	return uuid != ""
}

// seatOf is a node's seat in a group; empty: it has none.
func (c *Cluster) seatOf(g *group, uuid string) raft.ServerID {
	for _, s := range g.members() {
		if raftnet.NodeOf(string(s.ID)) == uuid {
			return s.ID
		}
	}
	return ""
}

func hasVote(servers []raft.Server, uuid string) bool {
	return slices.ContainsFunc(servers, func(s raft.Server) bool { return s.Suffrage == raft.Voter && raftnet.NodeOf(string(s.ID)) == uuid })
}

func voters(servers []raft.Server) (n int) {
	for _, s := range servers {
		if s.Suffrage == raft.Voter {
			n++
		}
	}
	return n
}

// safeWith tells whether a group may have one voter more: should that one fail, the present voters that are well must be a
// majority all the same. Where that cannot be, from one voter to two, all must be well.
func (c *Cluster) safeWith(g *group, servers []raft.Server) bool {
	n, well := c.wellVoters(g, servers, "")
	return 2*well > n+1 || well == n
}

// safeWithout tells whether the voters that remain without a seat have a majority that lives and holds what it should.
func (c *Cluster) safeWithout(g *group, servers []raft.Server, without raft.ServerID) bool {
	remaining, well := c.wellVoters(g, servers, without)
	return 2*well > remaining
}

// wellVoters counts the voters but one, and those of them that live and claim the seats that they have.
func (c *Cluster) wellVoters(g *group, servers []raft.Server, but raft.ServerID) (voters, well int) {
	for _, s := range servers {
		if s.Suffrage != raft.Voter || s.ID == but {
			continue
		}
		voters++
		if claimed, _ := c.claim(g, raftnet.NodeOf(string(s.ID))); claimed == string(s.ID) {
			well++
		}
	}
	return voters, well
}

// wantedNodes are the nodes that should have a seat in a group.
func (c *Cluster) wantedNodes(group uint32) (uuids []string) {
	d := c.directory.Load()
	if group == catalogGroup {
		// One that is to go and has gone would only count against a majority until all that it held is copied. Should it come back before, it
		// is wanted again.
		for _, n := range d.byNumber {
			if !n.Leaving || !c.isGone(n, time.Now()) {
				uuids = append(uuids, n.UUID)
			}
		}
		// A first member that has not registered yet is one all the same.
		for _, s := range c.founded.Load().Servers {
			if !slices.Contains(uuids, s.UUID) && !d.placed {
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

// isGone tells whether a node's process has ended: it is known to, or the node could not be reached for long, or cannot be and another was let
// in in its place. What is merely slow or cut off is not gone.
func (c *Cluster) isGone(n *catalog.Node, now time.Time) bool {
	p := c.watcher.info(n.UUID)
	if n.UUID == c.identity.UUID || p.state == pipe.PeerAlive || p.since.IsZero() {
		return false
	}
	return p.state == pipe.PeerDead || now.Sub(p.since) > sessionGrace || n.Leaving && c.namesake(&nodev1.JoinRequest{Uuid: n.UUID, Name: n.Name}) != nil
}
