package pipe

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/warrenmq/warren/raftfsm/queue"
)

// A shard's leader that hears nothing of this node for HostOptions.Grace gives what its consumers have to others. What has come here and
// waits, as for a client that reads slowly, is not to be handed on then, and nobody can tell a node that is cut off, or whose process
// was stopped. So the edge notes for each pipe when it asked what the leader has answered last, be it a hello or the question
// whether this session is attended: the grace, which may have begun since, has not ended when it began no earlier. What waits is handed
// on for EdgeOptions.Hold after that, which is half as long, and then not before the next answer. What a hello finds gone has been
// cancelled by the time that it is answered.

// Attended implements broker.Replicator.
func (e *Edge) Attended(shard queue.ShardID) bool {
	if shard == queue.LocalShard|queue.ShardID(e.node) {
		return true
	}
	p := (*e.pipes.Load())[shard]
	if p == nil {
		return false
	}
	asked := p.asked.Load()
	return asked != 0 && e.now()-asked < int64(e.o.Hold)
}

// now is the monotonic clock, which goes on while the process is stopped; not 0.
func (e *Edge) now() int64 { return int64(time.Since(e.began)) + 1 }

// asksPerHold is how often a leader is asked before what waits is not handed on any more.
const asksPerHold = 10

// keepAsking asks the leaders of all shards that this edge talks to whether its session is attended, until the edge ends.
func (e *Edge) keepAsking() {
	period := max(e.o.Hold/asksPerHold, time.Millisecond)
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-e.ctx.Done():
			return
		}
		ctx, cancel := context.WithTimeout(e.ctx, period)
		var asking sync.WaitGroup
		for _, p := range *e.pipes.Load() {
			asking.Go(func() { p.ask(ctx) })
		}
		asking.Wait()
		cancel()
	}
}

// ask asks the leader that the pipe talks to.
func (p *pipe) ask(ctx context.Context) {
	p.mu.Lock()
	asks, node, host, generation := p.phase == up, p.node, p.host, p.attempt
	p.mu.Unlock()
	if !asks {
		return
	}
	asked := p.edge.now()
	var err error
	if host != nil {
		err = host.attends(ctx, p.edge.o.Session, generation)
	} else {
		request := le.AppendUint64(appendRequest(nil, callAttends, p.shard), uint64(p.edge.o.Session))
		_, err = p.edge.call(ctx, node, le.AppendUint64(request, uint64(generation)))
	}
	if err != nil {
		p.edge.o.Logger.Debug("the shard's leader does not say that it attends this node", "shard", p.shard, "node", node, "err", err)
		return
	}
	p.answered(asked)
}

// answered notes that what was asked at a time has been answered.
func (p *pipe) answered(asked int64) {
	for before := p.asked.Load(); before < asked; before = p.asked.Load() {
		if p.asked.CompareAndSwap(before, asked) {
			return
		}
	}
}

// attends returns nil while this host leads, as a majority has confirmed since it was asked, and nothing that ends the session is under way:
// its stream of the generation is attached, and no grace runs. The error is ErrNotLeader, ctx's or VerifyRead's.
func (h *Host) attends(ctx context.Context, session queue.SessionID, generation uint32) error {
	if _, err := h.o.VerifyRead(ctx); err != nil {
		return fmt.Errorf("confirm leadership of shard %d: %w", h.o.Shard, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.attached[session]
	if !h.leading || a == nil || a.generation != generation || a.hello != nil || h.peers.timers[session] != nil {
		return ErrNotLeader
	}
	return nil
}

func (h *Host) answerAttends(ctx context.Context, c *cursor) ([]byte, error) {
	session, generation := queue.SessionID(c.u64()), uint32(c.u64())
	if err := c.err("question whether a session is attended"); err != nil {
		return nil, err
	}
	return nil, h.attends(ctx, session, generation)
}
