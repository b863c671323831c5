package pipe

import (
	"testing"
	"time"

	"github.com/warrenmq/warren/raftfsm/queue"
)

// attendedWorld is three nodes with a consumer at the first one's edge, which has been left alone for long.
func attendedWorld(t *testing.T, w *world, leader int) *consumer {
	w.shards[0].elect(leader)
	c, e := newClients(t, queue.MakeQueueID(0, 1)), w.nodes[0].edge
	if e.Attended(0) {
		t.Error("attended by a leader that was never asked")
	}
	c.declare(w.ctx, e)
	k := c.consume(w.ctx, e, 7, 10)
	t.Cleanup(c.wg.Wait)
	for range 300 {
		time.Sleep(time.Second)
		if !e.Attended(0) {
			t.Fatal("not attended though nothing has happened")
		}
	}
	return k
}

// TestCutOffEdgeHandsNothingOn: a node that its shard's leader cannot hear knows it well before its session is over, by the time that
// has passed alone; and when it is back, not before it has heard which of its consumers are gone.
func TestCutOffEdgeHandsNothingOn(t *testing.T) {
	inBubble(t, worldOptions{nodes: 3, shards: 1, instant: true}, func(t *testing.T, w *world) {
		k := attendedWorld(t, w, 1)
		n, leader := w.nodes[0], w.nodes[1].hosts[0]
		over := func() bool {
			leader.mu.Lock()
			defer leader.mu.Unlock()
			return len(liveSessions(leader.state)) == 0
		}
		n.away.Store(true)
		cut := time.Now()
		n.cut(func(*worldLink) bool { return true })
		await(t, n.edge.o.Hold, "known not to be attended", func() bool { return !n.edge.Attended(0) })
		if knew := time.Since(cut); over() || knew < n.edge.o.Hold*3/4 {
			t.Errorf("not attended after %v; the session is over: %v", knew, over())
		}
		await(t, leader.o.Grace, "over", over)
		time.Sleep(time.Minute)
		if n.edge.Attended(0) {
			t.Error("attended after the session's end")
		}
		n.away.Store(false)
		await(t, 10*time.Second, "attended again", func() bool { return n.edge.Attended(0) })
		k.mu.Lock()
		defer k.mu.Unlock()
		if !k.cancelled {
			t.Error("attended again, and the consumer does not know that it is gone")
		}
	})
}

// TestDeposedLeaderHandsNothingOn: the consumers on a leader's own node get nothing for long after it was last confirmed.
func TestDeposedLeaderHandsNothingOn(t *testing.T) {
	inBubble(t, worldOptions{nodes: 3, shards: 1, instant: true}, func(t *testing.T, w *world) {
		attendedWorld(t, w, 0)
		s, e := w.shards[0], w.nodes[0].edge
		s.mu.Lock()
		s.leader = 2 // nobody tells the host
		s.mu.Unlock()
		await(t, e.o.Hold, "known not to be attended", func() bool { return !e.Attended(0) })
		if !w.nodes[0].hosts[0].Leading() {
			t.Error("the host was told")
		}
	})
}

// TestGraceIsNotAttended: a leader that gives a session time to come back does not say that it attends it, whose link is there or not.
func TestGraceIsNotAttended(t *testing.T) {
	inBubble(t, worldOptions{nodes: 3, shards: 1, instant: true}, func(t *testing.T, w *world) {
		attendedWorld(t, w, 1)
		session, generation := w.nodes[0].edge.o.Session, w.nodes[0].edge.pipe(0).attempt
		for _, test := range []struct {
			state PeerState
			want  bool
		}{{PeerAlive, true}, {PeerUnreachable, false}, {PeerAlive, true}} {
			w.nodes[1].hosts[0].Peer(session, test.state)
			if err := w.nodes[1].hosts[0].attends(w.ctx, session, generation); (err == nil) != test.want {
				t.Errorf("after state %d: %v", test.state, err)
			}
		}
		if w.nodes[1].hosts[0].attends(w.ctx, session, generation-1) == nil || w.nodes[2].hosts[0].attends(w.ctx, session, generation) == nil {
			t.Error("an earlier generation is attended, or a follower attends")
		}
	})
}
