package cluster

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warrenmq/warren/raftfsm/queue"
)

// movable gives nodes wall clocks that a test can set, before they start.
func movable(members []*member) (ahead []*atomic.Int64) {
	for _, m := range members {
		by := &atomic.Int64{}
		m.o.Surroundings.Now = func() time.Time { return time.Now().Add(time.Duration(by.Load())) }
		ahead = append(ahead, by)
	}
	return ahead
}

// leading counts the groups that a node leads, the catalog among them.
func (m *member) leading() (n int) {
	for _, g := range m.groups() {
		if _, ok := g.leading(); ok {
			n++
		}
	}
	return n
}

// sees tells whether a node finds a problem that contains words.
func (m *member) sees(words string) bool {
	return slices.ContainsFunc(m.Overview().Problems, func(p string) bool { return strings.Contains(p, words) })
}

// TestClockOff: a node whose clock is wrong leads nothing while others can, and the nodes that it finds wrong in its turn go on. What
// none of them can take it leads.
func TestClockOff(t *testing.T) {
	members := newMembers(t, 3, 3)
	ahead := movable(members)
	startAll(t, members)
	settled(t, members)
	l := startTraffic(t, members[0])
	begin(t, func(ctx context.Context) error { return members[0].Rebalance(ctx, func(*Overview) {}) })
	halfAnHour := lasting(members[0], 30*time.Minute)
	wrong, others := catalogLeader(t, members)
	name := wrong.o.Name
	ahead[slices.Index(members, wrong)].Store(int64(time.Hour))

	eventually(t, "it leads nothing", func() bool { return wrong.leading() == 0 })
	for _, m := range members {
		eventually(t, m.o.Name+" says so", func() bool {
			return m.sees("the clock of node '" + name + "' differs from those of a majority (it is 36000")
		})
		for _, n := range m.Members() {
			if n.ClockOff != (n.Name == name) {
				t.Errorf("%s takes the clock of %s for wrong: %v", m.o.Name, n.Name, n.ClockOff)
			}
		}
	}
	// Its shard stays where it is, though it should lead it, until its clock is right.
	begin(t, func(ctx context.Context) error { return others[0].Rebalance(ctx, func(*Overview) {}) })
	eventually(t, "the others lead everything", func() bool {
		return wrong.leading() == 0 && others[0].leading()+others[1].leading() == 4
	})

	for _, m := range others {
		begin(t, func(ctx context.Context) error { _, err := m.Drain(ctx, m.o.Name, false); return err })
	}
	eventually(t, "it leads everything when nobody else may", func() bool { return wrong.leading() == 4 })
	eventually(t, "that is told", func() bool { return others[0].sees("it leads on what no node with a right clock can take") })
	begin(t, func(ctx context.Context) error { _, err := others[0].Drain(ctx, others[0].o.Name, true); return err })
	eventually(t, "it leads nothing when another may", func() bool { return wrong.leading() == 0 })
	begin(t, func(ctx context.Context) error { _, err := others[1].Drain(ctx, others[1].o.Name, true); return err })

	ahead[slices.Index(members, wrong)].Store(0)
	eventually(t, "it leads its shard when its clock is right", func() bool { return wrong.leading() == 1 })
	for _, m := range members {
		eventually(t, m.o.Name+" sees no problem", func() bool { return len(m.Overview().Problems) == 0 })
	}
	l.check(t, members)
	// Its clock made nothing due while it led.
	for _, id := range halfAnHour {
		if n := members[0].ready(id); n != 3 {
			t.Errorf("%d of 3 messages that last for half an hour are in shard %d", n, id.Shard())
		}
	}
}

// lasting publishes three messages in each shard that expire after some time.
func lasting(m *member, ttl time.Duration) (queues []queue.QueueID) {
	for shard := range queue.ShardID(m.o.Shards) {
		id := queue.MakeQueueID(shard, 101)
		m.do(shard, func(b *queue.Batch) {
			b.Configure(id, &queue.Settings{VHost: "/", Name: "lasting", HasMessageTTL: true, MessageTTL: uint64(ttl.Milliseconds())})
		})
		m.enqueue(id, 3, "body")
		queues = append(queues, id)
	}
	return queues
}

// TestClocksOfTwo: of two nodes nobody can tell which is wrong. They lead on what they led, and say so.
func TestClocksOfTwo(t *testing.T) {
	members := newMembers(t, 2, 2)
	ahead := movable(members)
	startAll(t, members)
	settled(t, members)
	begin(t, func(ctx context.Context) error { return members[0].Rebalance(ctx, func(*Overview) {}) })
	ahead[1].Store(int64(-time.Hour))
	for _, m := range members {
		eventually(t, m.o.Name+" says so", func() bool { return m.sees("no majority of them agrees") })
	}
	for _, m := range members {
		v := m.clocks.view()
		for range 100 { // as long as it may last
			m.clocks.look(v)
		}
		if m.clocks.off.Load() || m.giveAwayForClock() || m.leading() == 0 {
			t.Errorf("%s gives way: off %v, leads %d", m.o.Name, m.clocks.off.Load(), m.leading())
		}
	}
}
