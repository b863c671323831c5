package cluster

import (
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/warrenmq/warren/raftfsm/queue"
	"github.com/warrenmq/warren/storage/vfs"
)

// hangs lets the writes of a node's disk wait, once it is told to.
type hangs struct{ until atomic.Pointer[chan struct{}] }

func (h *hangs) wait() {
	if until := h.until.Load(); until != nil {
		<-*until
	}
}

func (h *hangs) begin() (end func()) {
	until := make(chan struct{})
	h.until.Store(&until)
	return sync.OnceFunc(func() { h.until.Store(nil); close(until) })
}

// hangingMembers are three nodes whose disks can hang, and a queue.
func hangingMembers(t *testing.T) (members []*member, disks map[*member]*hangs, id queue.QueueID) {
	members, disks = newMembers(t, 3, 1), map[*member]*hangs{}
	for _, m := range members {
		h := &hangs{}
		disks[m] = h
		m.fs = vfs.Inject(vfs.OS(), func(op vfs.Op) error {
			if op.Kind == "sync" || op.Kind == "write" {
				h.wait()
			}
			return nil
		})
		m.o.Surroundings.VoteWrite = func(write func() error) error { h.wait(); return write() }
	}
	startAll(t, members)
	id = queue.MakeQueueID(0, 1)
	members[0].do(0, func(b *queue.Batch) { b.Configure(id, &queue.Settings{VHost: "/", Name: "q", Durable: true}) })
	return members, disks, id
}

// leaderOf is the node that leads the shard.
func leaderOf(t *testing.T, members []*member) (leader *member) {
	t.Helper()
	eventually(t, "one leads", func() bool {
		for _, m := range members {
			if _, ok := m.shard(0).leading(); ok {
				leader = m
			}
		}
		return leader != nil
	})
	return leader
}

// TestHangingDiskHandsOver: nobody waits until the process with a hanging disk is ended, neither clients of other nodes nor its own.
func TestHangingDiskHandsOver(t *testing.T) {
	members, disks, id := hangingMembers(t)
	first := leaderOf(t, members)
	end := disks[first].begin()
	t.Cleanup(end) // before the nodes are stopped
	for _, m := range members {
		m.enqueue(id, 1, "message")
	}
	var next *member
	for _, m := range members {
		if _, ok := m.shard(0).leading(); ok && m != first {
			next = m
		}
	}
	if next == nil {
		t.Fatal("no other node leads")
	}
	eventually(t, "the node is said to be slow", func() bool { return next.watcher.info(first.identity.UUID).status.GetDiskSlow() })
	if next.successor(next.shard(0).group, []string{first.identity.UUID}, anyClock) != "" {
		t.Error("the leadership would be given back while the disk hangs")
	}
	end()
	for _, m := range members {
		eventually(t, m.o.Name+" has all messages", func() bool { return m.ready(id) == 3 })
	}
}

// TestProbe: a node that hears of another's hanging disk may have the same one, and does not stand before it knows better.
func TestProbe(t *testing.T) {
	members, disks, _ := hangingMembers(t)
	m, other := members[0], members[1].identity.UUID
	end := disks[m].begin()
	t.Cleanup(end)
	status := proto.CloneOf(members[1].status())
	status.DiskHangs = true
	m.watcher.heard(other, status)
	if !m.watcher.hangs(m.identity.UUID) {
		t.Error("it would stand")
	}
	end()
	eventually(t, "it knows that its disk writes", func() bool { return !m.watcher.hangs(m.identity.UUID) })
}
