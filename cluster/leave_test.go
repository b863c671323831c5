package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	nodev1 "github.com/warrenmq/warren/proto/node/v1"
	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// begin calls a function that begins something, which must succeed.
func begin(t *testing.T, f func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := f(ctx); err != nil {
		t.Fatal(err)
	}
}

// refused calls a function that must be refused with a sentence.
func refused(t *testing.T, want string, f func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := f(ctx); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
}

// even tells how evenly replicas and leaders are spread.
func even(o *Overview) (replicas, leads int) {
	low, high := o.Nodes[0], o.Nodes[0]
	for _, m := range o.Nodes {
		low.Replicas, high.Replicas = min(low.Replicas, m.Replicas), max(high.Replicas, m.Replicas)
		low.Leads, high.Leads = min(low.Leads, m.Leads), max(high.Leads, m.Leads)
	}
	return high.Replicas - low.Replicas, high.Leads - low.Leads
}

// TestGrowAndShrink goes from three nodes to five and back to three under load, one of the first members among those that leave.
func TestGrowAndShrink(t *testing.T) {
	members := startMembersOf(t, 3, 10)
	l := startTraffic(t, members[0])
	for i := 3; i < 5; i++ {
		m := newMember(t, members, i)
		if err := m.start(); err != nil {
			t.Fatal(err)
		}
		members = append(members, m)
	}
	settled(t, members)
	balance := func(m *member) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := m.Rebalance(ctx, func(*Overview) {}); err != nil {
			t.Fatalf("%s: %v", m.o.Name, err)
		}
	}
	for _, m := range members {
		balance(m)
		o := m.Overview()
		if replicas, leads := even(o); replicas > 1 || leads > 1 || len(o.Nodes) != 5 || len(o.Groups) != 11 {
			t.Errorf("%s: replicas differ by %d, leaders by %d: %+v", m.o.Name, replicas, leads, o.Nodes)
		}
		eventually(t, m.o.Name+" sees no problem", func() bool { return len(m.Overview().Problems) == 0 })
	}
	for _, leaving := range []int{4, 1} {
		victim := members[leaving]
		begin(t, func(ctx context.Context) error { return members[2].Leave(ctx, victim.o.Name, LeaveOptions{}) })
		left(t, victim, members[0])
		if n := len(victim.shards()); n != 0 {
			t.Errorf("%s still has %d replicas", victim.o.Name, n)
		}
		victim.stop()
		members = append(members[:leaving:leaving], members[leaving+1:]...)
		settled(t, members)
	}
	balance(members[0])
	if replicas, leads := even(members[0].Overview()); replicas > 1 || leads > 1 {
		t.Errorf("replicas differ by %d, leaders by %d", replicas, leads)
	}
	l.check(t, members)
}

// seen is what a node knows of another.
func seen(by *member, name string) Member {
	for _, m := range by.Members() {
		if m.Name == name {
			return m
		}
	}
	return Member{}
}

// left waits until a node is no member any more.
func left(t *testing.T, m, other *member) {
	t.Helper()
	select {
	case <-m.gone:
	case <-time.After(patience):
		t.Fatalf("%s does not get away:\n%s", m.o.Name, show(other.Overview()))
	}
}

func show(o *Overview) string {
	data, err := json.MarshalIndent(o, "", " ")
	return fmt.Sprintf("%s %v", data, err)
}

// TestRefusals: what would cost a healthy majority, or leave too few, is refused with a sentence that says what to do.
func TestRefusals(t *testing.T) {
	members := startMembers(t, 3)
	a, b, c := members[0], members[1], members[2]
	leave := func(m *member, node string, o LeaveOptions) func(context.Context) error {
		return func(ctx context.Context) error { return m.Leave(ctx, node, o) }
	}
	remove := func(m *member, node string, o LeaveOptions) func(context.Context) error {
		return func(ctx context.Context) error { return m.Remove(ctx, node, o) }
	}
	refused(t, "no node 'x'", leave(a, "x", LeaveOptions{}))
	refused(t, "add a node first", leave(a, "n2", LeaveOptions{}))
	refused(t, "warren leave n2", remove(b, "n2", LeaveOptions{}))
	c.stop()
	eventually(t, "the others see that it ended", func() bool { // whoever of them leads the catalog decides
		return seen(a, "n2").State == MemberDown && seen(b, "n2").State == MemberDown
	})
	refused(t, "warren remove n2", leave(a, "n2", LeaveOptions{}))
	refused(t, "start a new node first", remove(a, "n2", LeaveOptions{}))
	refused(t, "no majority", leave(a, "n1", LeaveOptions{Few: true}))
	eventually(t, "that it is down is the only problem", func() bool { // shards that it led have another leader first
		p := a.Overview().Problems
		return len(p) == 1 && strings.Contains(p[0], "'n2' is down")
	})
	// With fewer replicas accepted it goes, and the two that stay are a cluster.
	begin(t, remove(b, "n2", LeaveOptions{Few: true}))
	settled(t, members[:2])
	a.exchange("without it")
	// Its directory is of no use any more, and it is told so.
	if err := c.start(); err == nil || !strings.Contains(err.Error(), "removed from the cluster") {
		t.Errorf("a removed node starts: %v", err)
	}
	begin(t, leave(a, "n1", LeaveOptions{Few: true}))
	left(t, b, a)
	b.stop()
	settled(t, members[:1])
	refused(t, "the last one", leave(a, "n0", LeaveOptions{Few: true}))
	a.exchange("alone")
}

// TestCalledOffTooLate: that a node leaves cannot be called off any more when it closes its clients: it would stay and serve none.
func TestCalledOffTooLate(t *testing.T) {
	members := newMembers(t, 4, 1)
	entered, release := make(chan struct{}), make(chan struct{})
	for _, m := range members {
		m.o.OnEmptied = func() { close(entered); <-release }
	}
	startAll(t, members)
	settled(t, members)
	leader, others := catalogLeader(t, members)
	victim := others[slices.IndexFunc(others, func(m *member) bool { return m.shard(0) == nil || leader.shard(0) == nil })]
	begin(t, func(ctx context.Context) error { return leader.Leave(ctx, victim.o.Name, LeaveOptions{}) })
	select {
	case <-entered:
	case <-time.After(patience):
		t.Fatal("its clients are not closed")
	}
	refused(t, "holds nothing any more", func(ctx context.Context) error { return leader.Stay(ctx, victim.o.Name) })
	close(release)
	if !t.Failed() {
		left(t, victim, leader)
	}
}

// TestEmptiedAndStays: a node that has closed its clients and hears that it stays after all ends for a new start.
func TestEmptiedAndStays(t *testing.T) {
	for _, test := range []struct{ emptied, leaving, ends bool }{{true, false, true}, {true, true, false}, {false, false, false}} {
		var why error
		c := &Cluster{identity: identity{UUID: "a"}, emptied: test.emptied, o: Options{OnFatal: func(err error) { why = err }}}
		c.directory.Store(&directory{byUUID: map[string]*catalog.Node{"a": {UUID: "a", Leaving: test.leaving}}})
		c.replicas.Store(&map[queue.ShardID]*shard{0: nil}) // it has got one again
		c.leaveWhenEmpty()
		if errors.Is(why, errEmptied) != test.ends {
			t.Errorf("%+v: it ends: %v", test, why)
		}
	}
}

// TestDrain: a node that drains leads nothing, and may lead again afterwards.
func TestDrain(t *testing.T) {
	members := startMembers(t, 3)
	a, b := members[0], members[1]
	leads := func() (n int) {
		for _, g := range b.groups() {
			if _, ok := g.leading(); ok {
				n++
			}
		}
		return n
	}
	begin(t, func(ctx context.Context) error { _, err := a.Drain(ctx, "n1", false); return err })
	eventually(t, "it leads nothing", func() bool { return leads() == 0 })
	eventually(t, "others see that it drains", func() bool { return seen(a, "n1").Draining })
	begin(t, func(ctx context.Context) error { _, err := a.Drain(ctx, "n1", true); return err })
	eventually(t, "it leads again", func() bool { return leads() > 0 })
}

// TestDrainDuringATransfer: a group whose leadership is being handed over still counts, as it may stay.
func TestDrainDuringATransfer(t *testing.T) {
	m := startMembersOf(t, 1, 1)[0]
	if n := m.drain(false); n != 2 { // the catalog, and there is nobody else
		t.Fatalf("it leads %d groups", n)
	}
	m.shard(0).setLeads(false, 0) // as handTo begins
	if n := m.drain(false); n != 2 {
		t.Errorf("during a transfer it leads %d groups", n)
	}
}

// TestNewAddress: a node that comes back under other ports is the node that it was.
func TestNewAddress(t *testing.T) {
	members := startMembers(t, 3)
	l := startTraffic(t, members[0])
	m := members[2]
	number := m.Self().Node
	m.stop()
	ports := freePorts(t, 2)
	m.o.ClusterPort, m.o.GossipPort = ports[0], ports[1]
	if err := m.start(); err != nil {
		t.Fatal(err)
	}
	if m.Self().Node != number {
		t.Errorf("it is node %d now, was %d", m.Self().Node, number)
	}
	settled(t, members)
	for _, s := range m.shards() {
		for _, server := range s.members() {
			if server.Suffrage != raft.Voter {
				t.Errorf("%s does not vote", server.ID)
			}
		}
	}
	l.check(t, members)
}

// TestFromOne grows a node that began alone to a cluster of three with three replicas of each shard.
func TestFromOne(t *testing.T) {
	members := startMembers(t, 1)
	l := startTraffic(t, members[0])
	for i := 1; i < 3; i++ {
		m := newMember(t, members, i)
		if err := m.start(); err != nil {
			t.Fatal(err)
		}
		members = append(members, m)
		settled(t, members)
	}
	for _, s := range members[2].shards() { // a follower hears a little later that there are three
		eventually(t, fmt.Sprintf("shard %d has three voters", s.id), func() bool { return voters(s.members()) == 3 })
	}
	l.check(t, members)
}

// TestSevenNodes: of seven nodes five decide about the catalog, and another does when one of those leaves or is gone.
func TestSevenNodes(t *testing.T) {
	members := startMembersOf(t, 3, 4)
	l := startTraffic(t, members[0])
	for i := 3; i < 7; i++ {
		m := newMember(t, members, i)
		if err := m.start(); err != nil {
			t.Fatal(err)
		}
		members = append(members, m)
	}
	decide := func(nodes, deciding int) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d of %d nodes decide about the catalog", deciding, nodes), func() bool {
			servers := members[0].catalog.members()
			return len(servers) == nodes && voters(servers) == deciding
		})
	}
	settled(t, members)
	decide(7, 5)
	begin(t, func(ctx context.Context) error { return members[4].Rebalance(ctx, func(*Overview) {}) })
	if replicas, leads := even(members[0].Overview()); replicas > 1 || leads > 1 {
		t.Errorf("replicas differ by %d, leaders by %d", replicas, leads)
	}
	begin(t, func(ctx context.Context) error { return members[6].Leave(ctx, "n1", LeaveOptions{}) })
	left(t, members[1], members[0])
	members[1].stop()
	members = append(members[:1:1], members[2:]...)
	settled(t, members)
	decide(6, 5)
	dead := members[1]
	dead.stop()
	members = append(members[:1:1], members[2:]...)
	for _, m := range members { // whoever leads the catalog decides
		eventually(t, "its end is seen", func() bool { return seen(m, "n2").State == MemberDown })
	}
	begin(t, func(ctx context.Context) error { return members[2].Remove(ctx, "n2", LeaveOptions{}) })
	settled(t, members)
	decide(5, 5)
	l.check(t, members)
}

// TestTwoLeavesAtOnce: one leader of the catalog has found that a node may leave, and before that is committed the next one lets another leave.
func TestTwoLeavesAtOnce(t *testing.T) {
	members := newMembers(t, 3, 1)
	for _, m := range members {
		m.o.Replicas = 2
	}
	startAll(t, members)
	settled(t, members)
	leader, _ := catalogLeader(t, members)
	q := func(m *member, few bool) *nodev1.SetLeavingRequest {
		return &nodev1.SetLeavingRequest{Node: uint32(m.Self().Node), Leaving: true, Few: few}
	}
	var first, second *member
	for _, m := range members {
		if m != leader {
			first, second = m, first
		}
	}
	allowed := leader.refuseLeave(t.Context(), leader.directory.Load().byNumber[first.Self().Node], q(first, false))
	if allowed != "" {
		t.Fatal(allowed)
	}
	decided := leader.leaveCommand(q(first, false)) // and is on its way
	begin(t, func(ctx context.Context) error { return leader.Leave(ctx, second.o.Name, LeaveOptions{}) })
	refused(t, "only 1 would stay", func(ctx context.Context) error { _, err := leader.Propose(ctx, decided); return err })
	leader.propose(leader.leaveCommand(q(first, true)))
}
