package pipe

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// oneWay leads an edge to the one host, over links if they are on different nodes.
type oneWay struct {
	nowhere
	h      *Host
	leader uint16
	server *Server
	links  []*worldLink
}

func (o *oneWay) Host(queue.ShardID) *Host            { return o.h }
func (o *oneWay) Leader(queue.ShardID) (uint16, bool) { return o.leader, true }

func (o *oneWay) Open(ctx context.Context, _ uint16) (Link, error) {
	edge, server := newLinkPair()
	o.links = append(o.links, edge)
	go o.server.Serve(context.WithoutCancel(ctx), server)
	return edge, nil
}

// TestConsumerGoneBeforeItsAnswer: an Attach is applied, the answer is lost, and the queue is deleted before the edge says hello again. The
// edge is told that the Attach went well, and that the consumer is gone; of a consumer whose Attach has not come, and of a getter, it is
// told nothing like that.
func TestConsumerGoneBeforeItsAnswer(t *testing.T) {
	for name, leader := range map[string]uint16{"on this node": 1, "on another node": 2} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { goneBeforeItsAnswer(t, leader) })
		})
	}
}

func goneBeforeItsAnswer(t *testing.T, leader uint16) {
	log := &immediate{}
	h := hostFor(t, log)
	defer h.Close()
	apply := func() {
		t.Helper()
		synctest.Wait()
		for entries := log.after(h.Applied()); len(entries) > 0; entries = log.after(h.Applied()) {
			if err := h.ApplyBatch(entries); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
	}
	way := &oneWay{h: h, leader: leader}
	way.server = must(NewServer(ServerOptions{Hosts: way, Logger: quiet}))
	e := must(NewEdge(EdgeOptions{Session: queue.MakeSessionID(1, 1), Links: way, Leaders: way, Hosts: way, Logger: quiet}))
	defer e.Close()
	submit := func(fill func(b *queue.Batch)) *[]queue.Result {
		t.Helper()
		var results []queue.Result
		b := &broker.Batch{Done: func(_ *broker.Batch, r []queue.Result) { results = slices.Clone(r) }}
		fill(&b.Batch)
		if err := e.Submit(t.Context(), 0, b); err != nil {
			t.Fatal(err)
		}
		return &results
	}
	h.Lead(1, 0)
	doomed, kept := queue.MakeQueueID(0, 9), queue.MakeQueueID(0, 10)
	submit(func(b *queue.Batch) {
		b.Configure(doomed, &queue.Settings{Name: "doomed"})
		b.Configure(kept, &queue.Settings{Name: "kept"})
	})
	apply()
	gone, late, getter := &consumer{c: newClients(t, doomed)}, &consumer{c: newClients(t, kept)}, &consumer{c: newClients(t, kept)}
	e.Subscribe(0, 7, gone)
	e.Subscribe(0, 9, getter)
	attached := submit(func(b *queue.Batch) { b.Attach(doomed, 7, &queue.AttachOptions{Credit: 1}) })
	synctest.Wait() // it is in the log
	if leader == 1 {
		h.Follow()
	} else {
		way.links[0].Close()
	}
	apply()
	if len(*attached) != 0 {
		t.Fatal("the answer has arrived")
	}
	e.Subscribe(0, 8, late)
	submit(func(b *queue.Batch) { b.Attach(kept, 8, &queue.AttachOptions{Credit: 1}) })
	if leader == 1 {
		h.Lead(2, h.Applied())
	}
	var d queue.Batch
	d.Delete(doomed, false, false)
	if err := h.Command(&d); err != nil {
		t.Fatal(err)
	}
	apply()
	for range 3 { // the hello, and what follows
		time.Sleep(time.Second)
		apply()
	}
	if len(*attached) != 1 || (*attached)[0].Code != queue.OK || !gone.cancelled {
		t.Errorf("of the consumer that is gone its edge knows %+v, cancelled: %v", *attached, gone.cancelled)
	}
	submit(func(b *queue.Batch) { b.EndEnqueue(b.BeginEnqueue([]queue.QueueID{kept}, &queue.EnqueueOptions{})) })
	apply()
	if late.cancelled || len(late.inbox) != 1 {
		t.Errorf("the consumer that came later: cancelled %v, %d deliveries", late.cancelled, len(late.inbox))
	}
	if getter.cancelled {
		t.Error("the getter was cancelled")
	}
}
