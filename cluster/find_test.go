package cluster

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"

	"github.com/warrenmq/warren/cluster/peer"
	"github.com/warrenmq/warren/cluster/pipe"
	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm/catalog"
)

// TestFounderStartsAgain starts the first node of a cluster that has grown anew while two others run on. It knows no address of
// theirs until they find it by gossip, though their Raft log reaches it at once: that is no restart of the whole cluster.
func TestFounderStartsAgain(t *testing.T) {
	founder := startMembersOf(t, 1, 1)[0]
	members := []*member{founder}
	for i := 1; i < 3; i++ {
		m := newMember(t, []*member{founder}, i)
		must(t, m.start())
		members = append(members, m)
	}
	settled(t, members)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := members[1].Propose(ctx, catalog.DeclareExchange(&raftv1.DeclareExchange{Vhost: "/", Name: "transient", Type: "fanout"}))
	must(t, err)
	founder.stop()
	if !members[1].hasExchange("transient") {
		t.Fatal("what is transient is gone while nobody has started")
	}
	must(t, founder.start())
	if !members[1].hasExchange("transient") {
		t.Error("what only a restart of the whole cluster ends is gone, though two of three nodes ran on")
	}
}

// TestNoAddressIsNoTry: as long as it is not known where a node listens nothing is known of it, and what was known stays.
func TestNoAddressIsNoTry(t *testing.T) {
	c := &Cluster{identity: identity{UUID: "a"}, log: slog.New(slog.DiscardHandler)}
	c.founded.Store(&founding{})
	c.strangers = newStrangers(c)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	c.network = peer.New(peer.Options{Address: c.address, Listener: listener})
	defer c.network.Close()
	w := newWatcher(t.Context(), c)
	for uuid, is := range map[string]peerInfo{"new": {state: pipe.PeerUnreachable}, "dead": {state: pipe.PeerDead, tried: true}} {
		watched := is
		w.peers[uuid] = &watched
		w.lost(t.Context(), uuid, errors.New("the stream broke"), true)
		if now := w.info(uuid); now.state != is.state || now.tried != is.tried {
			t.Errorf("%s: state %v, tried: %v", uuid, now.state, now.tried)
		}
	}
}

// TestRegistersOnce: a node that registers again since no answer came does not begin another run by that: the first request may be committed
// late, after the one that was answered.
func TestRegistersOnce(t *testing.T) {
	c := &Cluster{change: make(chan struct{})}
	c.watcher, c.follower = newWatcher(t.Context(), c), newFollower(c)
	c.promised.Store(new(promise))
	var numbers []uint64
	answers := []error{unavailable("too late"), unavailable("too late"), errNoAnswer, nil}
	must(t, c.registerBy(t.Context(), func(_ context.Context, cmd *catalog.Command) (catalog.Reply, error) {
		numbers = append(numbers, cmd.Proposal)
		return catalog.Reply{Node: 1, Run: 1}, answers[len(numbers)-1]
	}))
	if numbers[0] == 0 || numbers[1] != numbers[0] || numbers[2] != numbers[0] {
		t.Errorf("the tries are not one command: %v", numbers)
	}
	if numbers[3] == numbers[0] {
		t.Error("a command whose answer is known to nobody is proposed without end")
	}
	m := startMembersOf(t, 1, 1)[0]
	for range 2 {
		cmd := catalog.DeclareExchange(&raftv1.DeclareExchange{Vhost: "/", Name: "x", Type: "fanout"})
		cmd.Proposal = numbers[0]
		m.propose(cmd)
	}
	m.catalog.mu.RLock()
	defer m.catalog.mu.RUnlock()
	times := 0
	for i := range m.catalog.recent {
		if m.catalog.recent[i].proposal == numbers[0] {
			times++
		}
	}
	if times != 1 {
		t.Errorf("a command was committed %d times under its number", times)
	}
}
