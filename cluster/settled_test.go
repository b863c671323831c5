package cluster

import (
	"context"
	"testing"
	"time"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm/catalog"
)

// catalogLeader is the member that leads the catalog, and the others.
func catalogLeader(t *testing.T, members []*member) (leader *member, others []*member) {
	t.Helper()
	eventually(t, "somebody leads the catalog", func() bool {
		leader, others = nil, nil
		for _, m := range members {
			if m.Cluster != nil && m.LeadsCatalog() {
				leader = m
			} else if m.Cluster != nil {
				others = append(others, m)
			}
		}
		return leader != nil
	})
	return leader, others
}

func declaration(t *testing.T, name string, number uint64) []byte {
	t.Helper()
	cmd := catalog.DeclareExchange(&raftv1.DeclareExchange{Vhost: "/", Name: name, Type: "fanout", Durable: true})
	cmd.Proposal = number
	data, err := catalog.Encode(cmd)
	must(t, err)
	return data
}

// TestCommandsTakeEffectOnce: a command whose answer was lost, perhaps with the leader, is repeated; it must not take effect again,
// since another client may have undone it meanwhile and been told so.
func TestCommandsTakeEffectOnce(t *testing.T) {
	members := startMembers(t, 3)
	leader, others := catalogLeader(t, members)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	data := declaration(t, "x", 77)
	first, err := others[0].commit(ctx, data)
	must(t, err)
	other, err := others[0].commit(ctx, declaration(t, "x", 78))
	must(t, err)
	if other == first {
		t.Errorf("another command is taken for it, at %d", first)
	}
	if again, err := others[1].commit(ctx, data); err != nil || again != first {
		t.Errorf("repeated to the same leader it is at %d, %v; first at %d", again, err, first)
	}
	leader.stop()
	if again, err := others[1].commit(ctx, data); err != nil || again != first {
		t.Errorf("repeated to the next leader it is at %d, %v; first at %d", again, err, first)
	}
}

// TestAnswersWaitForOtherCopies: a node whose copy holds a change before another's does not count it as settled until the other
// holds it or knows that it is stale; clients of the one would be told of what clients of the other are told the opposite of.
func TestAnswersWaitForOtherCopies(t *testing.T) {
	members := startMembers(t, 3)
	leader, others := catalogLeader(t, members)
	near, far := others[0], others[1]
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, far.follower.waitFresh(ctx))
	far.catalog.mu.RLock() // its copy stands still
	held := true
	defer func() {
		if held {
			far.catalog.mu.RUnlock()
		}
	}()
	proposed := make(chan error, 1)
	go func() {
		_, err := leader.Propose(ctx, catalog.DeclareExchange(&raftv1.DeclareExchange{Vhost: "/", Name: "x", Type: "fanout"}))
		proposed <- err
	}()
	eventually(t, "the change has come to one of the others", func() bool { return near.hasExchange("x") })
	ahead := near.catalog.appliedTo.Load()
	contradicts := func() bool { return far.Fresh() == nil && far.catalog.appliedTo.Load() < ahead }
	if near.Settled() && contradicts() {
		t.Error("it counts as settled at once")
	}
	must(t, near.Settle(ctx))
	if contradicts() {
		t.Error("it is settled while another copy that counts as current lacks it")
	}
	far.catalog.mu.RUnlock()
	held = false
	must(t, <-proposed)
	eventually(t, "nothing is to be waited for any more", func() bool {
		settling, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		return near.Settle(settling) == nil && near.Settled()
	})
}
