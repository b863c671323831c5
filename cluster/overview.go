package cluster

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/warrenmq/warren/cluster/pipe"
	"github.com/warrenmq/warren/cluster/place"
	"github.com/warrenmq/warren/cluster/raftnet"
	"github.com/warrenmq/warren/cluster/skew"
	nodev1 "github.com/warrenmq/warren/proto/node/v1"
	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// Overview is how the cluster is, as one of its nodes knows it: from what the others tell it, not older than a second while
// they can be reached.
type Overview struct {
	ClusterID string    `json:"cluster_id"`
	Node      string    `json:"node"` // whose view it is
	Time      time.Time `json:"time"`
	// MachineVersion is the one in force: what commands mean. HeldBack says why it is not the latest that a node knows; empty:
	// it is.
	MachineVersion uint32   `json:"machine_version"`
	HeldBack       string   `json:"held_back,omitempty"`
	Nodes          []Member `json:"nodes"`
	Groups         []Group  `json:"groups"` // the catalog, then the shards
	// Moves is how many changes of placement are still to be made, and LeadersAway how many shards another node leads than
	// should and could. Both are 0 when nothing is to be done.
	Moves       int `json:"moves"`
	LeadersAway int `json:"leaders_away"`
	// Problems is what somebody should look at, in sentences; empty: the cluster is healthy.
	Problems []string `json:"problems"`
}

// The states of a member.
const (
	MemberRunning     = "running"
	MemberUnreachable = "unreachable" // it may run
	MemberDown        = "down"        // its process has ended
	MemberJoining     = "joining"     // it was let in and has not served yet
)

// Member is a node of the cluster.
type Member struct {
	Number   uint16 `json:"number"`
	ID       string `json:"id"`
	Name     string `json:"name"`
	Address  string `json:"address"` // for the other nodes; empty: not known
	State    string `json:"state"`
	Since    string `json:"since,omitempty"` // when the state began, as far as the viewing node has seen; RFC 3339
	Leaving  bool   `json:"leaving"`
	Draining bool   `json:"draining"`
	Version  string `json:"version"`
	// MachineVersion is the latest that its program knows.
	MachineVersion uint32 `json:"machine_version"`
	Started        string `json:"started,omitempty"` // RFC 3339
	Replicas       int    `json:"replicas"`          // of shards, that it is to hold
	Leads          int    `json:"leads"`             // shards
	Catalog        string `json:"catalog"`           // leader, voter, learner, or empty: no seat

	MemoryBytes    uint64 `json:"memory_bytes"`
	DiskFreeBytes  uint64 `json:"disk_free_bytes"`
	DiskTotalBytes uint64 `json:"disk_total_bytes"`
	Alarm          string `json:"alarm"`
	SkewMillis     int64  `json:"clock_skew_ms"` // how far its clock is ahead of the viewing node's, about; 0: or not known
	ClockOff       bool   `json:"clock_off"`     // it differs from those of a majority: the node is to lead nothing
	DiskSlow       bool   `json:"disk_slow"`     // a write to it takes seconds, or did so in the last half minute: others are preferred to lead
}

// Group is a Raft group: the catalog or a shard.
type Group struct {
	Name      string    `json:"name"` // catalog, or the shard's number
	Leader    string    `json:"leader"`
	Preferred string    `json:"preferred,omitempty"` // who should lead
	Term      uint64    `json:"term"`
	Committed uint64    `json:"committed"` // index
	Queues    int       `json:"queues"`
	Healthy   bool      `json:"healthy"` // it has a leader, and a majority of its voters is well
	Settled   bool      `json:"settled"` // its members are those that it should have
	Replicas  []Replica `json:"replicas"`
}

// replicaDamaged is the state of a replica that does not take part.
const replicaDamaged = "damaged"

// The roles of a replica.
const (
	RoleLeader   = "leader"
	RoleVoter    = "voter"
	RoleLearner  = "learner"
	RoleStarting = "starting" // it is to become a member
	RoleFormer   = "former"   // a seat that its node has given up, or that is to go
)

// Replica is a node's part in a group.
type Replica struct {
	Node    string `json:"node"`
	Seat    string `json:"seat"` // empty: none yet
	Role    string `json:"role"`
	State   string `json:"state"`            // its node's, or damaged
	Applied uint64 `json:"applied"`          // index; 0: not known
	Lag     uint64 `json:"lag"`              // entries behind what is committed
	Damage  string `json:"damage,omitempty"` // unless the state is damaged it takes part, and is to be rebuilt from the others
}

// Overview tells how the cluster is. Any member can.
func (c *Cluster) Overview() *Overview {
	v := &viewer{c: c, peers: c.watcher.all(), directory: c.directory.Load(), clocks: c.clocks.view()}
	own := c.status()
	v.peers[c.identity.UUID] = peerInfo{state: pipe.PeerAlive, status: own}
	o := &Overview{ClusterID: c.clusterID(), Node: c.o.Name, Time: time.Now().UTC().Truncate(time.Millisecond), Problems: []string{}}
	now := c.situation()
	o.Groups = append(o.Groups, v.catalog())
	var shards []*catalog.Shard
	queues := map[queue.ShardID]int{}
	c.catalog.read(func(s *catalog.State) {
		o.MachineVersion = s.MachineVersion()
		for sh := range s.Shards() {
			shards = append(shards, sh)
			queues[sh.ID] = s.QueueCountIn(sh.ID)
		}
	})
	for _, sh := range shards {
		g := v.shard(sh)
		g.Queues = queues[sh.ID]
		if at := slices.IndexFunc(now.shards, func(s place.Shard) bool { return s.ID == uint16(sh.ID) }); at >= 0 {
			g.Healthy, g.Settled = now.shards[at].Healthy, now.shards[at].Settled
		}
		if n := v.directory.byNumber[sh.Preferred]; n != nil && g.Leader != g.Preferred && v.state(n.UUID) == MemberRunning &&
			!v.peers[n.UUID].status.GetDraining() && !v.peers[n.UUID].status.GetClockOff() && !v.peers[n.UUID].status.GetDiskSlow() {
			o.LeadersAway++
		}
		o.Groups = append(o.Groups, g)
	}
	o.Nodes = v.members(o.Groups, shards)
	o.HeldBack = heldBack(o)
	o.Moves = place.Remaining(now.nodes, now.shards, now.replication, maxMoves)
	o.Problems = append(o.Problems, c.problems(o)...)
	return o
}

// maxMoves bounds the count of moves that remain.
const maxMoves = 10_000

// Members tells of the nodes alone.
func (c *Cluster) Members() []Member { return c.Overview().Nodes }

// Rebalance waits until the shards and their leaders are where they should be, and tells now and then how much there is to be
// done. They go there by themselves, one by one.
func (c *Cluster) Rebalance(ctx context.Context, progress func(*Overview)) error {
	ticker := time.NewTicker(supervisePeriod)
	defer ticker.Stop()
	for {
		o := c.Overview()
		progress(o)
		if o.Moves == 0 && o.LeadersAway == 0 {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return unavailable("%d moves and %d leaders remain", o.Moves, o.LeadersAway)
		}
	}
}

// viewer makes an overview from what was known at one moment.
type viewer struct {
	c         *Cluster
	peers     map[string]peerInfo
	directory *directory
	clocks    skew.View
}

// name is how people call a node.
func (v *viewer) name(uuid string) string {
	if n := v.directory.byUUID[uuid]; n != nil {
		return n.Name
	}
	return uuid
}

func (v *viewer) state(uuid string) string {
	p := v.peers[uuid]
	n := v.directory.byUUID[uuid]
	switch {
	case n != nil && n.Run == 0:
		return MemberJoining
	case p.state == pipe.PeerAlive && p.status != nil:
		return MemberRunning
	case p.state == pipe.PeerDead:
		return MemberDown
	}
	return MemberUnreachable
}

// says is what a node says of its seat in a group; nil: nothing.
func (v *viewer) says(uuid string, group uint32) *nodev1.GroupStatus {
	p := v.peers[uuid]
	if p.state != pipe.PeerAlive {
		return nil
	}
	for _, g := range p.status.GetGroups() {
		if g.Group == group {
			return g
		}
	}
	return nil
}

// group shows a Raft group, with replicas for its seats and for the nodes that are to hold it and have none.
func (v *viewer) group(id uint32, name string, wanted []string) Group {
	g := Group{Name: name, Replicas: []Replica{}}
	var leader *nodev1.GroupStatus
	for uuid := range v.peers {
		if s := v.says(uuid, id); s != nil && s.Leads && (leader == nil || s.Term > leader.Term) {
			leader = s
		}
	}
	if leader != nil {
		g.Leader, g.Term, g.Committed = v.name(raftnet.NodeOf(leader.Server)), leader.Term, leader.Committed
		for _, seat := range leader.Seats {
			uuid := raftnet.NodeOf(seat.Server)
			role := RoleLearner
			switch {
			case seat.Server == leader.Server:
				role = RoleLeader
			case !slices.Contains(wanted, uuid):
				role = RoleFormer
			case seat.Votes:
				role = RoleVoter
			}
			g.Replicas = append(g.Replicas, v.replica(id, uuid, seat.Server, role, leader.Committed))
		}
	}
	for _, uuid := range wanted {
		if !slices.ContainsFunc(g.Replicas, func(r Replica) bool { return raftnet.NodeOf(r.Seat) == uuid }) {
			role := RoleStarting
			if leader == nil {
				role = RoleVoter // as far as is known
			}
			seat := ""
			if s := v.says(uuid, id); s != nil {
				seat = s.Server
			}
			g.Replicas = append(g.Replicas, v.replica(id, uuid, seat, role, g.Committed))
		}
	}
	slices.SortFunc(g.Replicas, func(a, b Replica) int { return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Seat, b.Seat)) })
	return g
}

func (v *viewer) replica(group uint32, uuid, seat, role string, committed uint64) Replica {
	r := Replica{Node: v.name(uuid), Seat: seat, Role: role, State: v.state(uuid)}
	s := v.says(uuid, group)
	switch {
	case s == nil:
	case s.Damage != "":
		r.State, r.Damage = replicaDamaged, s.Damage
	case s.Found != "":
		r.Damage = s.Found
	case s.Server != seat:
		r.Role = RoleFormer
	default:
		r.Applied = s.Applied
		r.Lag = committed - min(committed, s.Applied)
	}
	return r
}

func (v *viewer) catalog() Group {
	g := v.group(catalogGroup, "catalog", v.c.wantedNodes(catalogGroup))
	voters, well := 0, 0
	for _, r := range g.Replicas {
		if r.Role == RoleLearner || r.Role == RoleStarting {
			continue
		}
		voters++
		if r.State == MemberRunning && r.Role != RoleFormer {
			well++
		}
	}
	g.Healthy = g.Leader != "" && 2*well > voters
	g.Settled = !slices.ContainsFunc(g.Replicas, func(r Replica) bool { return r.Role == RoleFormer || r.Role == RoleStarting })
	return g
}

func (v *viewer) shard(sh *catalog.Shard) Group {
	var wanted []string
	for _, number := range sh.Nodes {
		if n := v.directory.byNumber[number]; n != nil {
			wanted = append(wanted, n.UUID)
		}
	}
	g := v.group(uint32(sh.ID), fmt.Sprint(sh.ID), wanted)
	if n := v.directory.byNumber[sh.Preferred]; n != nil {
		g.Preferred = n.Name
	}
	return g
}

// members shows the nodes by number.
func (v *viewer) members(groups []Group, shards []*catalog.Shard) []Member {
	list := []Member{}
	for _, number := range slices.Sorted(maps.Keys(v.directory.byNumber)) {
		n := v.directory.byNumber[number]
		p := v.peers[n.UUID]
		m := Member{Number: number, ID: n.UUID, Name: n.Name, State: v.state(n.UUID), Leaving: n.Leaving, Version: n.Version,
			MachineVersion: n.MachineVersion}
		if n.StartedAt != 0 {
			m.Started = time.UnixMilli(n.StartedAt).UTC().Format(time.RFC3339)
		}
		if n.UUID == v.c.identity.UUID {
			m.Since = m.Started
		} else if !p.since.IsZero() {
			m.Since = p.since.UTC().Format(time.RFC3339)
		}
		if s := p.status; s != nil {
			m.Address = s.Address
			if m.State == MemberRunning {
				m.Draining, m.Alarm, m.ClockOff, m.SkewMillis = s.Draining, s.Alarm, s.ClockOff, v.skew(n.UUID)
				m.DiskSlow = s.DiskSlow
				m.MemoryBytes, m.DiskFreeBytes, m.DiskTotalBytes = s.MemoryBytes, s.DiskFreeBytes, s.DiskTotalBytes
			}
		}
		if m.Address == "" {
			m.Address, _ = v.c.address(n.UUID) // empty is as much as an error
		}
		for _, sh := range shards {
			if slices.Contains(sh.Nodes, number) {
				m.Replicas++
			}
		}
		for i, g := range groups {
			for _, r := range g.Replicas {
				switch {
				case raftnet.NodeOf(r.Seat) != n.UUID:
				case i == 0:
					m.Catalog = r.Role
				case r.Role == RoleLeader:
					m.Leads++
				}
			}
		}
		list = append(list, m)
	}
	return list
}

// skew is how far a node's clock is ahead of this node's, in milliseconds.
func (v *viewer) skew(uuid string) int64 {
	own, other := v.clocks.Clocks[v.c.identity.UUID], v.clocks.Clocks[uuid]
	if other == (skew.Reading{}) {
		return 0 // it was not measured
	}
	return other.Ahead(own).Milliseconds()
}

// maxSkew is how far clocks may differ before somebody should look.
const maxSkew = time.Second

// problems says what somebody should look at.
func (c *Cluster) problems(o *Overview) (list []string) {
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	if err := c.Fresh(); err != nil {
		add("node '%s' is cut off from the majority: what follows may be old (if the majority is lost for good: warren recover --help)", c.o.Name)
	}
	list = append(list, c.strangers.problems()...)
	for _, m := range o.Nodes {
		switch {
		case m.State == MemberDown || m.State == MemberUnreachable:
			add("node '%s' is %s since %s", m.Name, m.State, m.Since)
		case m.State == MemberJoining:
			add("node '%s' was let in and does not serve yet", m.Name)
		case m.Alarm != "":
			add("node '%s' blocks publishers: %s", m.Name, m.Alarm)
		}
		if m.Leaving {
			add("node '%s' leaves, and is to hold %d replicas still", m.Name, m.Replicas)
		}
	}
	c.clockProblems(o.Nodes, add)
	c.diskProblems(o.Nodes, add)
	for i, g := range o.Groups {
		what := "shard " + g.Name
		if i == 0 {
			what = "the catalog"
		}
		switch {
		case g.Leader == "" && i > 0: // entries that are not committed are in no checkpoint
			add("%s has no leader: until it has one, its queues stand still and the nodes that hold it keep log files for it", what)
		case g.Leader == "":
			add("%s has no leader", what)
		case !g.Healthy:
			add("%s has no healthy majority", what)
		}
		for _, r := range g.Replicas {
			switch {
			case r.State == replicaDamaged:
				add("%s: the replica of node '%s' does not take part: %s", what, r.Node, r.Damage)
			case r.Damage != "" && len(g.Replicas) == 1:
				add("%s: damage was found in the only replica, of node '%s': %s", what, r.Node, r.Damage)
			case r.Damage != "":
				add("%s: damage was found in the replica of node '%s', which is to be rebuilt from the others: %s", what, r.Node, r.Damage)
			}
		}
	}
	return list
}
