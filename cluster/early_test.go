package cluster

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/raftfsm/queue"
	"github.com/warrenmq/warren/storage/vfs"
)

// TestNotCommittedBeforeDurable: a leader sends its followers what its own disk has not taken yet. Though they have stored it, it is not
// committed: the leader does not apply it, they are not told, and nobody gets an answer, until it is on the leader's disk as well.
func TestNotCommittedBeforeDurable(t *testing.T) {
	members := newMembers(t, 3, 1)
	holds := map[*member]*atomic.Pointer[chan struct{}]{}
	for _, m := range members {
		hold := &atomic.Pointer[chan struct{}]{}
		holds[m] = hold
		m.fs = vfs.Inject(vfs.OS(), func(op vfs.Op) error {
			if wait := hold.Load(); wait != nil && op.Kind == "sync" && strings.HasSuffix(op.Name, ".wal") {
				<-*wait
			}
			return nil
		})
	}
	startAll(t, members)
	id := queue.MakeQueueID(0, 1)
	members[0].do(0, func(b *queue.Batch) { b.Configure(id, &queue.Settings{}) })
	var leader *member
	var followers []*member
	for _, m := range members {
		if m.shard(0).host.Leading() {
			leader = m
		} else {
			followers = append(followers, m)
		}
	}
	if leader == nil || len(followers) != 2 {
		t.Fatal("no leader")
	}
	eventually(t, "all replicas hold the same", func() bool {
		for _, f := range followers {
			if f.shard(0).host.Applied() != leader.shard(0).host.Applied() || f.shard(0).store.LastIndex() != leader.shard(0).store.LastIndex() {
				return false
			}
		}
		return true
	})
	before := leader.shard(0).host.Applied()
	held := make(chan struct{})
	release := sync.OnceFunc(func() { holds[leader].Store(nil); close(held) })
	t.Cleanup(release) // before the nodes are stopped
	holds[leader].Store(&held)

	done := make(chan struct{})
	b := &broker.Batch{Done: func(*broker.Batch, []queue.Result) { close(done) }}
	mark := b.BeginEnqueue([]queue.QueueID{id}, &queue.EnqueueOptions{Persistent: true})
	b.Data = append(b.Data, "message"...)
	b.EndEnqueue(mark)
	if err := leader.Submit(context.Background(), 0, b); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both followers have stored it", func() bool {
		return followers[0].shard(0).store.LastIndex() > before && followers[1].shard(0).store.LastIndex() > before
	})
	// The library tells followers what is committed within twice this time, also when there is nothing else to send.
	for end := time.Now().Add(5 * commitTimeout); time.Now().Before(end); time.Sleep(time.Millisecond) {
		for _, m := range members {
			if at := m.shard(0).host.Applied(); at > before {
				t.Fatalf("%s has applied entry %d; those after %d are not durable on the leader", m.o.Name, at, before)
			}
		}
	}
	select {
	case <-done:
		t.Fatal("a message that is not durable on the leader was answered")
	default:
	}
	if !leader.shard(0).host.Leading() {
		t.Fatal("the leader of before does not lead any more")
	}

	release()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("no answer")
	}
	eventually(t, "all have applied it", func() bool {
		for _, m := range members {
			if m.shard(0).host.Applied() < before+1 {
				return false
			}
		}
		return true
	})
}
