package pipe

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// TestBehind: what is published while a consumer waits for its settles is answered with Behind, here and over a link, and
// without it a while later.
func TestBehind(t *testing.T) {
	const shard = queue.LocalShard | 1
	var clock atomic.Int64
	clock.Store(time.Now().UnixMilli())
	h := must(NewLocalHost(LocalOptions{Shard: shard, Logger: quiet, Now: func() time.Time { return time.UnixMilli(clock.Load()) }}))
	defer h.Close()
	here := &loopNode{host: h}
	there := &loopNode{server: must(NewServer(ServerOptions{Hosts: here, Logger: quiet}))}
	edges := []*Edge{
		must(NewEdge(EdgeOptions{Session: queue.MakeSessionID(1, 1), Links: here, Leaders: here, Hosts: here, Logger: quiet})),
		must(NewEdge(EdgeOptions{Session: queue.MakeSessionID(2, 1), Links: there, Leaders: there, Hosts: there, Logger: quiet})),
	}
	for _, e := range edges {
		defer e.Close()
	}
	c := newClients(t, queue.MakeQueueID(shard, 1))
	c.declare(t.Context(), edges[0])
	submit := func(e *Edge, f func(b *queue.Batch)) (behind bool) {
		t.Helper()
		done := make(chan bool, 1)
		b := &broker.Batch{Done: func(b *broker.Batch, _ []queue.Result) { done <- b.Behind }}
		f(&b.Batch)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := e.Submit(ctx, shard, b); err != nil {
			t.Fatal(err)
		}
		select {
		case behind := <-done:
			return behind
		case <-ctx.Done():
			t.Fatal("no answer")
			return false
		}
	}
	publish := func(b *queue.Batch) { b.EndEnqueue(b.BeginEnqueue([]queue.QueueID{c.id}, &queue.EnqueueOptions{})) }
	settle := func(id uint64) func(b *queue.Batch) {
		return func(b *queue.Batch) { b.Settle(7, queue.Ack, queue.Range{From: id, To: id}) }
	}
	edges[0].Subscribe(shard, 7, ignore{})
	submit(edges[0], func(b *queue.Batch) { b.Attach(c.id, 7, &queue.AttachOptions{Credit: 1}) })
	want := func(what string, behind bool) {
		t.Helper()
		for i, e := range edges {
			if submit(e, publish) != behind {
				t.Errorf("%s: node %d is not told %v", what, i+1, behind)
			}
		}
	}
	want("a queue that fills", false)
	submit(edges[0], settle(1)) // three are ready
	want("a consumer that waited", true)
	clock.Add(behindFor)
	want("a while later", false)
	for id := uint64(2); id <= 6; id++ {
		submit(edges[0], settle(id))
	}
	clock.Add(behindFor)
	submit(edges[0], settle(7))
	submit(edges[0], settle(8)) // the last one: nothing was ready
	clock.Add(behindFor)
	submit(edges[0], publish)
	submit(edges[0], settle(9))
	want("a consumer that keeps up", false)
}
