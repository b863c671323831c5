package cluster

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmq/warren/broker"
	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm/catalog"
)

// bareLeases is the leader's side of the leases with a catalog of two nodes and nothing else.
func bareLeases(t *testing.T) *leases {
	t.Helper()
	state := catalog.New()
	for i, uuid := range []string{"a", "b"} {
		data, err := catalog.Encode(catalog.RegisterNode(&raftv1.RegisterNode{Uuid: uuid, Name: uuid, MachineVersion: catalog.LatestMachineVersion}))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := state.Apply(uint64(i+1), data); err != nil {
			t.Fatal(err)
		}
	}
	c := &Cluster{}
	c.catalog = &catalogSeat{c: c, state: state, applied: make(chan struct{})}
	return newLeases(c)
}

// settling tells how long settle took for a command at 10.
func settling(t *testing.T, l *leases, meanwhile func()) time.Duration {
	t.Helper()
	began := time.Now()
	if meanwhile != nil {
		go meanwhile()
	}
	if err := l.settle(t.Context(), 10); err != nil {
		t.Fatal(err)
	}
	return time.Since(began)
}

// TestSettle holds the rule of leases.go: a change answers when every node holds it or has no lease from before it.
func TestSettle(t *testing.T) {
	for _, c := range []struct {
		name  string
		nodes map[uint16]lease // ends are times from now
		holds time.Duration    // when node 1 says that it holds the command; 0: never
		want  time.Duration
	}{
		{"no leases", nil, 0, 0},
		{"all hold it", map[uint16]lease{1: {holds: 10, until: in(time.Second)}, 2: {holds: 11, until: in(time.Second)}}, 0, 0},
		{"a lease is over", map[uint16]lease{1: {holds: 9, until: in(-time.Second)}}, 0, 0},
		{"a node says so", map[uint16]lease{1: {holds: 9, until: in(time.Second)}}, 300 * time.Millisecond, 300 * time.Millisecond},
		{"a lease ends", map[uint16]lease{1: {holds: 9, until: in(time.Second)}}, 0, time.Second},
		{"the last lease counts", map[uint16]lease{1: {holds: 9, until: in(time.Second)}, 2: {until: in(2 * time.Second)}}, 300 * time.Millisecond, 2 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := bareLeases(t)
				for node, n := range c.nodes {
					n.until = time.Now().Add(n.until.Sub(epoch))
					l.nodes[node] = n
				}
				got := settling(t, l, func() {
					if c.holds > 0 {
						time.Sleep(c.holds)
						l.holds(1, 10)
					}
				})
				if got != c.want {
					t.Errorf("settled after %v, want %v", got, c.want)
				}
			})
		})
	}
}

// in is a time that the test moves to its own beginning.
func in(d time.Duration) time.Time { return epoch.Add(d) }

var epoch = time.Unix(0, 0)

// TestLaterLeasesDoNotDelay: a lease given after the change binds the node to hold it.
func TestLaterLeasesDoNotDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := bareLeases(t)
		l.nodes[1] = lease{until: time.Now().Add(time.Second)}
		got := settling(t, l, func() {
			time.Sleep(900 * time.Millisecond)
			l.mu.Lock()
			l.nodes[1] = lease{until: time.Now().Add(leaseTime)}
			l.mu.Unlock()
		})
		if got != time.Second {
			t.Errorf("settled after %v", got)
		}
	})
}

// TestNewLeaderWaits: leases of the leader before are waited for.
func TestNewLeaderWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := bareLeases(t)
		l.lead(time.Now())
		if got := settling(t, l, nil); got != leaseTime {
			t.Errorf("settled after %v", got)
		}
	})
}

// TestNoLeaseBeforeRegistration: the next leader would not know of the lease of a node that leads and is not in the catalog yet.
func TestNoLeaseBeforeRegistration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := bareLeases(t)
		f := newFollower(l.c)
		f.confirmed(time.Now())
		if f.fresh() == nil {
			t.Error("a node without a number takes a lease")
		}
		l.c.self.Store(&broker.Self{Node: 1})
		f.confirmed(time.Now())
		if err := f.fresh(); err != nil {
			t.Error(err)
		}
	})
}

// TestFresh: a lease begins when the copy holds what it must, and ends leaseTime after it was asked for.
func TestFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := bareLeases(t)
		f := newFollower(l.c)
		if f.fresh() == nil {
			t.Error("fresh without a lease")
		}
		f.renew(grant{index: 3, until: time.Now().Add(leaseTime)})
		if f.fresh() == nil {
			t.Error("fresh before the copy holds the command")
		}
		data, err := catalog.Encode(catalog.CreateVHost(&raftv1.CreateVHost{Name: "v"}))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := l.c.catalog.state.Apply(3, data); err != nil {
			t.Fatal(err)
		}
		time.Sleep(leaseTime / 2)
		f.caughtUp()
		if err := f.fresh(); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := f.waitFresh(ctx); err != nil {
			t.Error(err)
		}
		time.Sleep(leaseTime / 2)
		if !errors.Is(f.fresh(), errStale) {
			t.Error("fresh after the lease's end")
		}
	})
}
