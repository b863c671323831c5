// Package place decides where the replicas of the shards belong and who should lead them: a pure function of what there is,
// which yields one move at a time. Carrying it out, and knowing who lives, is left to package cluster.
package place

import (
	"cmp"
	"slices"
)

// Node is a member of the cluster.
type Node struct {
	Number  uint16
	Alive   bool // it can be reached now
	Leaving bool // it is to hold nothing
}

// Shard is a group of replicas.
type Shard struct {
	ID        uint16
	Nodes     []uint16 // that are to hold it
	Preferred uint16   // the one of them that should lead; 0: none
	// Healthy tells that the group has a leader and that a majority of its voters lives. A group without is never touched.
	Healthy bool
	// Settled tells that the group's voters are the replicas of Nodes and no others: the last move has ended.
	Settled bool
}

// Move is a shard's next placement. It changes at most one of the nodes.
type Move struct {
	Shard     uint16
	Nodes     []uint16
	Preferred uint16
	Why       string // for people
	// Repair tells that it makes up for a replica that is missing: others may be made beside it.
	Repair bool
}

// MaxRepairs bounds the moves that are under way when another is made beside them. While a replica is missing, one fault more makes its shard
// stand still; each move copies a state to the same node.
const MaxRepairs = 4

// Next returns the next move, if there is one to make: replicas leave the nodes that leave, then every shard gets as many as
// it should have, then the living nodes get equally many of them, and last equally many to lead; each within one. While a move
// is under way there is none, unless a node that it needs has died, or replicas are missing: these are made up for side by side.
//
// Nothing is moved for a node's absence alone: it may come back with all it had. Who is gone for good leaves.
func Next(nodes []Node, shards []Shard, replication int) (Move, bool) {
	p := newPlan(nodes, shards, replication)
	moving := p.moving()
	if moving < MaxRepairs {
		if m, ok := p.repair(); ok {
			m.Repair = true
			return m, true
		}
	}
	if moving > 0 {
		return Move{}, false
	}
	for _, step := range []func() (Move, bool){func() (Move, bool) { return p.vacate(p.leaves) }, p.reduce, p.even, p.lead} {
		if m, ok := step(); ok {
			return m, true
		}
	}
	return Move{}, false
}

// repair makes up for a replica that is gone, or that never was.
func (p *plan) repair() (Move, bool) {
	if m, ok := p.vacate(func(n uint16) bool { return p.leaves(n) && p.away(n) }); ok {
		return m, true
	}
	if _, ok := p.vacate(p.leaves); ok {
		return Move{}, false // that comes first
	}
	return p.complete()
}

// Remaining counts the moves that are still to be made if all goes well, up to a bound.
func Remaining(nodes []Node, shards []Shard, replication, most int) (moves int) {
	shards = slices.Clone(shards)
	for i := range shards {
		if !shards[i].Settled && shards[i].Healthy {
			shards[i].Settled = true
			moves++
		}
	}
	for moves < most {
		m, ok := Next(nodes, shards, replication)
		if !ok {
			break
		}
		moves++
		at := slices.IndexFunc(shards, func(s Shard) bool { return s.ID == m.Shard })
		shards[at].Nodes, shards[at].Preferred = m.Nodes, m.Preferred
	}
	return moves
}

// plan is what Next knows, sorted by number, so that the same situation always yields the same move.
type plan struct {
	nodes    map[uint16]Node
	usable   []uint16 // that live and stay
	staying  int      // that stay, alive or not
	shards   []Shard
	replicas map[uint16]int // by node
	leads    map[uint16]int // shards that it should lead, by node
	want     int            // replicas of each shard
}

func newPlan(nodes []Node, shards []Shard, replication int) *plan {
	p := &plan{nodes: map[uint16]Node{}, replicas: map[uint16]int{}, leads: map[uint16]int{}}
	for _, n := range nodes {
		p.nodes[n.Number] = n
		if !n.Leaving {
			p.staying++
			if n.Alive {
				p.usable = append(p.usable, n.Number)
			}
		}
	}
	slices.Sort(p.usable)
	p.shards = slices.SortedFunc(slices.Values(shards), func(a, b Shard) int { return cmp.Compare(a.ID, b.ID) })
	for _, s := range p.shards {
		for _, n := range s.Nodes {
			p.replicas[n]++
		}
		p.leads[s.Preferred]++
	}
	p.want = max(1, min(replication, p.staying))
	return p
}

// moving counts the moves under way that can end.
func (p *plan) moving() (n int) {
	for _, s := range p.shards {
		if p.moves(s) {
			n++
		}
	}
	return n
}

func (p *plan) moves(s Shard) bool {
	return s.Healthy && !s.Settled && !slices.ContainsFunc(s.Nodes, p.away)
}

func (p *plan) away(node uint16) bool { return !p.nodes[node].Alive }

// leaves tells whether a node is to hold nothing; one that is no member is such.
func (p *plan) leaves(node uint16) bool {
	n, known := p.nodes[node]
	return !known || n.Leaving
}

// vacate takes a replica from a node that leaves.
func (p *plan) vacate(leaves func(uint16) bool) (Move, bool) {
	for _, s := range p.shards {
		at := slices.IndexFunc(s.Nodes, leaves)
		if !s.Healthy || at < 0 {
			continue
		}
		nodes := slices.Delete(slices.Clone(s.Nodes), at, at+1)
		if len(nodes) < p.want {
			to, ok := p.emptiest(s.Nodes)
			if !ok {
				continue // one that stays is away, and may be needed
			}
			nodes = slices.Insert(nodes, at, to)
		}
		if m, ok := p.move(s, nodes, "a node leaves"); ok {
			return m, true
		}
	}
	return Move{}, false
}

// complete adds a replica to a shard that has too few.
func (p *plan) complete() (Move, bool) {
	for _, s := range p.shards {
		if !s.Healthy || len(s.Nodes) >= p.want || p.moves(s) {
			continue
		}
		if to, ok := p.emptiest(s.Nodes); ok {
			if m, ok := p.move(s, append(slices.Clone(s.Nodes), to), "too few replicas"); ok {
				return m, true
			}
		}
	}
	return Move{}, false
}

// reduce takes a replica from a shard that has too many.
func (p *plan) reduce() (Move, bool) {
	for _, s := range p.shards {
		if !s.Healthy || len(s.Nodes) <= p.want {
			continue
		}
		from := slices.MaxFunc(s.Nodes, func(a, b uint16) int {
			return cmp.Or(cmp.Compare(order(p.away(a)), order(p.away(b))), cmp.Compare(p.replicas[a], p.replicas[b]))
		})
		if m, ok := p.move(s, without(s.Nodes, from), "too many replicas"); ok {
			return m, true
		}
	}
	return Move{}, false
}

// even takes a replica from the fullest of the usable nodes to the emptiest.
func (p *plan) even() (Move, bool) {
	fewest, most := p.extremes(p.replicas)
	for _, from := range p.usable {
		if p.replicas[from] < most || most-fewest < 2 {
			continue
		}
		for _, to := range p.usable {
			if p.replicas[to] > fewest {
				continue
			}
			for _, s := range p.byLeader(from) {
				if !s.Healthy || !slices.Contains(s.Nodes, from) || slices.Contains(s.Nodes, to) || slices.ContainsFunc(s.Nodes, p.away) {
					continue // a group with a node that is away has no replica to spare
				}
				nodes := slices.Clone(s.Nodes)
				nodes[slices.Index(nodes, from)] = to
				if m, ok := p.move(s, nodes, "replicas are uneven"); ok {
					return m, true
				}
			}
		}
	}
	return Move{}, false
}

// byLeader are the shards, those last that a node should lead: to move these moves a leadership too.
func (p *plan) byLeader(node uint16) []Shard {
	return slices.SortedStableFunc(slices.Values(p.shards), func(a, b Shard) int {
		return cmp.Compare(order(a.Preferred == node), order(b.Preferred == node))
	})
}

// order makes false come before true.
func order(b bool) int {
	if b {
		return 1
	}
	return 0
}

// lead lets another node lead a shard. The node with the most may hold no shard that the one with the fewest holds; then the
// difference goes by way of others: the first step of the shortest such way is made, and what remains is a shorter one.
func (p *plan) lead() (best Move, found bool) {
	for _, s := range p.shards {
		m, ok := p.move(s, s.Nodes, "nobody should lead")
		if ok && s.Healthy && m.Preferred != s.Preferred && (!p.leaves(m.Preferred) || !slices.Contains(s.Nodes, s.Preferred)) {
			return m, true
		}
	}
	shortest := len(p.nodes) + 1
	for _, to := range p.usable {
		if m, steps, ok := p.leadWay(to); ok && steps < shortest {
			best, shortest, found = m, steps, true
		}
	}
	return best, found
}

// leadWay searches backwards from a node for the nearest one with at least two more to lead.
func (p *plan) leadWay(to uint16) (first Move, steps int, ok bool) {
	away := map[uint16]int{to: 0} // by node: steps to the target
	for queue := []uint16{to}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		for _, s := range p.shards {
			from := s.Preferred
			if _, seen := away[from]; seen || !s.Healthy || !slices.Contains(p.usable, from) || !slices.Contains(s.Nodes, at) {
				continue
			}
			away[from] = away[at] + 1
			if p.leads[from] >= p.leads[to]+2 {
				return Move{Shard: s.ID, Nodes: s.Nodes, Preferred: at, Why: "leaders are uneven"}, away[from], true
			}
			queue = append(queue, from)
		}
	}
	return Move{}, 0, false
}

// extremes are the least and the most of the usable nodes.
func (p *plan) extremes(count map[uint16]int) (fewest, most int) {
	for i, n := range p.usable {
		if i == 0 || count[n] < fewest {
			fewest = count[n]
		}
		most = max(most, count[n])
	}
	return fewest, most
}

// emptiest is the usable node with the fewest replicas that is not one of some.
func (p *plan) emptiest(but []uint16) (node uint16, ok bool) {
	for _, n := range p.usable {
		if !slices.Contains(but, n) && (!ok || p.replicas[n] < p.replicas[node]) {
			node, ok = n, true
		}
	}
	return node, ok
}

// move makes a move to a placement, if a majority there lives. Who should lead stays, if it can.
func (p *plan) move(s Shard, nodes []uint16, why string) (Move, bool) {
	alive := slices.DeleteFunc(slices.Clone(nodes), p.away)
	if 2*len(alive) <= len(nodes) {
		return Move{}, false
	}
	m := Move{Shard: s.ID, Nodes: nodes, Preferred: s.Preferred, Why: why}
	if !slices.Contains(nodes, s.Preferred) || p.leaves(s.Preferred) {
		m.Preferred = slices.MinFunc(alive, func(a, b uint16) int {
			return cmp.Or(cmp.Compare(order(p.leaves(a)), order(p.leaves(b))), cmp.Compare(p.leads[a], p.leads[b]), cmp.Compare(a, b))
		})
	}
	return m, true
}

func without(nodes []uint16, node uint16) []uint16 {
	return slices.DeleteFunc(slices.Clone(nodes), func(n uint16) bool { return n == node })
}
