package place

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// world is a cluster whose moves succeed at once.
type world struct {
	nodes       []Node
	shards      []Shard
	replication int
}

func (w *world) String() string {
	return fmt.Sprintf("nodes %+v\nshards %+v\nreplication %d", w.nodes, w.shards, w.replication)
}

func (w *world) node(number uint16) Node {
	for _, n := range w.nodes {
		if n.Number == number {
			return n
		}
	}
	return Node{}
}

func drawWorld(t *rapid.T) *world {
	w := &world{replication: rapid.IntRange(1, 5).Draw(t, "replication")}
	count := rapid.IntRange(1, 7).Draw(t, "nodes")
	for i := range count {
		w.nodes = append(w.nodes, Node{Number: uint16(i + 1), Alive: rapid.IntRange(0, 4).Draw(t, "alive") > 0, Leaving: rapid.IntRange(0, 3).Draw(t, "leaving") == 0})
	}
	for i := range rapid.IntRange(1, 20).Draw(t, "shards") {
		holders := rapid.Permutation(w.nodes).Draw(t, "holders")[:rapid.IntRange(1, count).Draw(t, "holders of it")]
		s := Shard{ID: uint16(i), Settled: true}
		for _, n := range holders {
			s.Nodes = append(s.Nodes, n.Number)
		}
		s.Preferred = rapid.SampledFrom(append([]uint16{0}, s.Nodes...)).Draw(t, "preferred")
		s.Healthy = w.majorityLives(s.Nodes) && rapid.IntRange(0, 9).Draw(t, "healthy") > 0
		w.shards = append(w.shards, s)
	}
	return w
}

func (w *world) majorityLives(nodes []uint16) bool {
	alive := 0
	for _, n := range nodes {
		if w.node(n).Alive {
			alive++
		}
	}
	return 2*alive > len(nodes)
}

// run makes moves until there are none, and checks each.
func (w *world) run(t interface {
	Fatalf(string, ...any)
}) (moves []Move) {
	most := 4*len(w.shards)*len(w.nodes) + 10
	for {
		m, ok := Next(w.nodes, w.shards, w.replication)
		if again, okAgain := Next(w.nodes, w.shards, w.replication); okAgain != ok || !slices.Equal(again.Nodes, m.Nodes) || again.Shard != m.Shard {
			t.Fatalf("another move in the same situation: %+v, %+v", m, again)
		}
		if !ok {
			return moves
		}
		if moves = append(moves, m); len(moves) > most {
			t.Fatalf("no end after %d moves, the last %+v\n%v", most, moves[most-5:], w)
		}
		s := &w.shards[m.Shard]
		w.check(t, *s, m)
		s.Nodes, s.Preferred = m.Nodes, m.Preferred
	}
}

func (w *world) check(t interface{ Fatalf(string, ...any) }, s Shard, m Move) {
	came, went := 0, 0
	for _, n := range m.Nodes {
		if !slices.Contains(s.Nodes, n) {
			came++
			if node := w.node(n); !node.Alive || node.Leaving {
				t.Fatalf("a replica goes to node %d: %+v", n, m)
			}
		}
	}
	for _, n := range s.Nodes {
		if !slices.Contains(m.Nodes, n) {
			went++
		}
	}
	switch {
	case !s.Healthy:
		t.Fatalf("a group without a healthy majority is moved: %+v", m)
	case came > 1 || went > 1:
		t.Fatalf("%d come and %d go: %v to %+v", came, went, s.Nodes, m)
	case came+went == 0 && m.Preferred == s.Preferred:
		t.Fatalf("nothing changes: %+v", m)
	case !w.majorityLives(m.Nodes):
		t.Fatalf("no majority lives: %+v", m)
	case !slices.Contains(m.Nodes, m.Preferred):
		t.Fatalf("the preferred leader holds nothing: %+v", m)
	}
	seen := map[uint16]bool{}
	for _, n := range m.Nodes {
		if seen[n] {
			t.Fatalf("node %d twice: %+v", n, m)
		}
		seen[n] = true
	}
}

// spread is how uneven the staying nodes are.
func (w *world) spread() (replicas, leads int) {
	r, l := map[uint16]int{}, map[uint16]int{}
	for _, s := range w.shards {
		for _, n := range s.Nodes {
			r[n]++
		}
		l[s.Preferred]++
	}
	p := newPlan(w.nodes, w.shards, w.replication)
	fewest, most := p.extremes(r)
	replicas = most - fewest
	fewest, most = p.extremes(l)
	return replicas, most - fewest
}

// TestMovesEnd: whatever the situation, the moves end, and each is one that may be made.
func TestMovesEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		w.run(t)
	})
}

// TestMovesArrive: while all live, the end is what it should be.
func TestMovesArrive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		staying := 0
		for i := range w.nodes {
			w.nodes[i].Alive = true
			if !w.nodes[i].Leaving {
				staying++
			}
		}
		if staying == 0 {
			w.nodes[0].Leaving, staying = false, 1
		}
		for i := range w.shards {
			w.shards[i].Healthy = true
		}
		want := Remaining(w.nodes, w.shards, w.replication, 10_000)
		if moves := w.run(t); len(moves) != want {
			t.Fatalf("%d moves remained, %d were made", want, len(moves))
		}
		for _, s := range w.shards {
			if len(s.Nodes) != min(w.replication, staying) {
				t.Fatalf("shard %d has %v\n%v", s.ID, s.Nodes, w)
			}
			if slices.ContainsFunc(s.Nodes, func(n uint16) bool { return w.node(n).Leaving }) {
				t.Fatalf("a node that leaves holds something\n%v", w)
			}
		}
		if replicas, leads := w.spread(); replicas > 1 || leads > 1 {
			t.Fatalf("replicas differ by %d, leaders by %d\n%v", replicas, leads, w)
		}
		// Hysteresis: what is even stays as it is, also while somebody is away for a while.
		w.nodes[rapid.IntRange(0, len(w.nodes)-1).Draw(t, "away")].Alive = false
		for i := range w.shards {
			w.shards[i].Healthy = w.majorityLives(w.shards[i].Nodes)
		}
		for _, m := range w.run(t) {
			if m.Why != "leaders are uneven" && m.Why != "replicas are uneven" {
				t.Fatalf("a node's absence alone moves replicas: %+v", m)
			}
			if m.Why == "replicas are uneven" && slices.ContainsFunc(m.Nodes, func(n uint16) bool { return !w.node(n).Alive }) {
				t.Fatalf("a group that misses a node is moved: %+v", m)
			}
		}
	})
}

func numbers(n int) (nodes []Node) {
	for i := range n {
		nodes = append(nodes, Node{Number: uint16(i + 1), Alive: true})
	}
	return nodes
}

func sixteen() (shards []Shard) {
	for i := range 16 {
		s := Shard{ID: uint16(i), Healthy: true, Settled: true}
		for k := range 3 {
			s.Nodes = append(s.Nodes, uint16((i+k)%3+1))
		}
		s.Preferred = s.Nodes[0]
		shards = append(shards, s)
	}
	return shards
}

// TestNodesComeAndGo walks the usual way: three nodes, two more, and three again.
func TestNodesComeAndGo(t *testing.T) {
	w := &world{nodes: numbers(3), shards: sixteen(), replication: 3}
	if m := w.run(t); len(m) > 0 {
		t.Fatalf("an even cluster moves: %+v", m)
	}
	w.nodes = numbers(5)
	grown := w.run(t)
	if replicas, leads := w.spread(); replicas > 1 || leads > 1 || len(grown) > 40 {
		t.Errorf("%d moves to five nodes; replicas differ by %d, leaders by %d", len(grown), replicas, leads)
	}
	w.nodes[0].Leaving, w.nodes[3].Leaving = true, true
	w.run(t)
	if replicas, leads := w.spread(); replicas > 1 || leads > 1 {
		t.Errorf("replicas differ by %d, leaders by %d", replicas, leads)
	}
}

// TestReplacement: a dead node's replicas go to the one that takes its place, shard by shard, and no other moves.
func TestReplacement(t *testing.T) {
	w := &world{nodes: numbers(4), shards: sixteen(), replication: 3}
	w.nodes[1].Alive, w.nodes[1].Leaving = false, true
	w.shards[3].Settled = false // still on its way
	if m, ok := Next(w.nodes, w.shards, 3); !ok || m.Shard != 0 {
		t.Errorf("a move that waits for a dead node holds up the others: %+v, %v", m, ok)
	}
	w.shards[3].Settled = true
	for _, m := range w.run(t) {
		if slices.Contains(m.Nodes, 2) || !slices.Contains(m.Nodes, 4) {
			t.Errorf("%+v", m)
		}
	}
	w.shards[0].Settled = false
	w.nodes = append(w.nodes, Node{Number: 5, Alive: true})
	if m, ok := Next(w.nodes, w.shards, 3); ok {
		t.Errorf("two moves at once: %+v", m)
	}
}

// TestRepairsGoSideBySide: replicas that are gone for good are made up for in several shards at the same time; all else is moved shard by shard.
func TestRepairsGoSideBySide(t *testing.T) {
	w := &world{nodes: numbers(5), shards: sixteen(), replication: 3}
	next := func() (Move, bool) {
		m, ok := Next(w.nodes, w.shards, w.replication)
		if ok {
			w.shards[m.Shard].Nodes, w.shards[m.Shard].Preferred, w.shards[m.Shard].Settled = m.Nodes, m.Preferred, false
		}
		return m, ok
	}
	w.nodes[1].Leaving = true // and lives: nothing is missing
	if m, ok := next(); !ok || m.Repair {
		t.Fatalf("%+v, %v", m, ok)
	}
	if m, ok := next(); ok {
		t.Fatalf("beside a move: %+v", m)
	}
	w.nodes[1].Alive = false
	for i := 1; i < MaxRepairs; i++ { // beside the one that is under way
		if m, ok := next(); !ok || !m.Repair || slices.Contains(m.Nodes, 2) {
			t.Fatalf("repair %d: %+v, %v", i, m, ok)
		}
	}
	if m, ok := next(); ok {
		t.Fatalf("beside %d moves: %+v", MaxRepairs, m)
	}
	missing := func() bool {
		return slices.ContainsFunc(w.shards, func(s Shard) bool { return slices.Contains(s.Nodes, 2) })
	}
	for round := 0; missing(); round++ {
		for i := range w.shards {
			w.shards[i].Settled = true
		}
		for m, ok := next(); ok; m, ok = next() {
			if !m.Repair {
				t.Fatalf("while replicas are missing: %+v", m)
			}
		}
		if round > len(w.shards)/MaxRepairs {
			t.Fatalf("replicas are missing after round %d", round)
		}
	}
}

// TestMissingReplicasComeSideBySide: so do those of shards that have too few, as all have when a node has gone and another comes.
func TestMissingReplicasComeSideBySide(t *testing.T) {
	w := &world{nodes: numbers(3), shards: sixteen(), replication: 3}
	for i := range w.shards {
		w.shards[i].Nodes, w.shards[i].Preferred = []uint16{1, 2}, 1
	}
	seen := map[uint16]bool{}
	for i := range MaxRepairs {
		m, ok := Next(w.nodes, w.shards, w.replication)
		if !ok || !m.Repair || len(m.Nodes) != 3 || seen[m.Shard] {
			t.Fatalf("repair %d: %+v, %v", i, m, ok)
		}
		seen[m.Shard] = true
		w.shards[m.Shard].Nodes, w.shards[m.Shard].Settled = m.Nodes, false
	}
	if m, ok := Next(w.nodes, w.shards, w.replication); ok {
		t.Fatalf("beside %d moves: %+v", MaxRepairs, m)
	}
	w.shards[0].Nodes = []uint16{1, 2} // its last move is under way yet
	w.shards[9].Settled = true
	for id := range seen {
		w.shards[id].Settled = id != 0
	}
	if m, ok := Next(w.nodes, w.shards, w.replication); !ok || m.Shard == 0 {
		t.Fatalf("a shard whose last move is under way: %+v, %v", m, ok)
	}
}
