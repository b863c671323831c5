package pipe

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// Requests and answers of Links.Call; integers are little endian:
//
//	request  version u8 (1) | kind u8 | shard u16 | reserved u32 | what the kind needs
//	counts   queue u64
//	fetch    piece… (as in a delivery): the bytes wanted
//	attends  session u64 | generation u64: whether the shard's leader attends it
//
//	answer   version u8 (1) | status u8 | reserved u8 ×6 | what the kind gives, if the status is 0; a text if it is 2
//	counts   found u64 | ready u64 | ready bytes u64 | unsettled u64 | consumers u64
//	fetch    the bytes of the pieces, one after the other
//	attends  nothing: it does; otherwise the status is 1
const (
	callVersion    = 1
	callCounts     = 1
	callFetch      = 2
	callAttends    = 3
	callHeaderSize = 8

	statusOK        = 0
	statusNotLeader = 1
	statusFailed    = 2

	// fetchBytes is what one call may bring, unless a single piece is larger.
	fetchBytes = 1 << 20
)

func appendRequest(dst []byte, kind byte, shard queue.ShardID) []byte {
	return append(dst, callVersion, kind, byte(shard), byte(shard>>8), 0, 0, 0, 0)
}

// call asks a node and returns what its answer gives.
func (e *Edge) call(ctx context.Context, node uint16, request []byte) ([]byte, error) {
	answer, err := e.o.Links.Call(ctx, node, request)
	if err != nil {
		return nil, fmt.Errorf("call node %d: %w", node, err)
	}
	if len(answer) < callHeaderSize || answer[0] != callVersion {
		return nil, fmt.Errorf("answer of node %d: %w", node, errMalformed)
	}
	switch given := answer[callHeaderSize:]; answer[1] {
	case statusOK:
		return given, nil
	case statusNotLeader:
		return nil, ErrNotLeader
	default:
		return nil, fmt.Errorf("node %d: %s", node, given)
	}
}

// atLeader does something with the shard's leader until it succeeds, through the host when that is on this node.
func (e *Edge) atLeader(ctx context.Context, shard queue.ShardID, here func(*Host) error, there func(node uint16) error) error {
	pause := e.o.RetryMin
	for {
		err := ErrNotLeader
		if node, known := e.leader(shard); known {
			if node != e.node {
				err = there(node)
			} else if h := e.o.Hosts.Host(shard); h != nil {
				err = here(h)
			}
		}
		if err == nil {
			return nil
		}
		if e.ctx.Err() != nil {
			return ErrClosed
		}
		select {
		case <-time.After(pause/2 + rand.N(pause/2+1)):
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-e.ctx.Done():
			return ErrClosed
		}
		pause = min(2*pause, e.o.RetryMax)
	}
}

// Counts implements broker.Replicator: it reads a queue's counts through the leader, not stale; false: no such queue. It
// tries until ctx ends.
func (e *Edge) Counts(ctx context.Context, id queue.QueueID) (counts queue.Counts, found bool, err error) {
	err = e.atLeader(ctx, id.Shard(), func(h *Host) (err error) {
		counts, found, err = h.Counts(ctx, id)
		return err
	}, func(node uint16) error {
		request := le.AppendUint64(appendRequest(nil, callCounts, id.Shard()), uint64(id))
		answer, err := e.call(ctx, node, request)
		if err != nil {
			return err
		}
		c := cursor{b: answer}
		found = c.u64() == 1
		counts = queue.Counts{Ready: c.u64(), ReadyBytes: c.u64(), Unsettled: c.u64(), Consumers: uint32(c.u64())}
		return c.err("counts")
	})
	if err != nil {
		return queue.Counts{}, false, fmt.Errorf("counts of a queue in shard %d: %w", id.Shard(), err)
	}
	return counts, found, nil
}

// Replicas is what Leaders may know as well: the nodes that have a replica of a shard and can be reached.
type Replicas interface {
	Replicas(shard queue.ShardID) (nodes []uint16)
}

// Envelope implements broker.Replicator: what came along, or what this node's replica has, or what the leader sends, or, when
// neither can read it, what another replica sends. It tries until ctx ends. To be called once for each delivery, in the order of each consumer: with it an envelope that came
// along counts as consumed.
func (e *Edge) Envelope(ctx context.Context, d *broker.Delivery) ([]byte, error) {
	shard := d.Queue.Shard()
	if d.Inline != nil {
		e.pipe(shard).consume(d)
		return d.Inline, nil
	}
	if h := e.o.Hosts.Host(shard); h != nil && h.Applied() >= lastIndex(&d.Body) {
		if b, err := h.body(&d.Body); err == nil {
			return b, nil
		}
	}
	var envelope []byte
	err := e.atLeader(ctx, shard, func(h *Host) (err error) {
		if envelope, err = h.body(&d.Body); err != nil {
			envelope, err = e.elsewhere(ctx, e.node, shard, &d.Body, err)
		}
		return err
	}, func(node uint16) (err error) {
		if envelope, err = e.fetch(ctx, node, shard, &d.Body); err != nil && !errors.Is(err, ErrNotLeader) {
			envelope, err = e.elsewhere(ctx, node, shard, &d.Body, err)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("envelope of a message in shard %d: %w", shard, err)
	}
	return envelope, nil
}

// elsewhere gets an envelope from a replica that neither leads nor is on this node, which could not give it: why is the error if no
// other can. What has been committed is the same everywhere.
func (e *Edge) elsewhere(ctx context.Context, leader uint16, shard queue.ShardID, b *queue.Body, why error) ([]byte, error) {
	known, ok := e.o.Leaders.(Replicas)
	if !ok || shard.IsLocal() {
		return nil, why
	}
	for _, node := range known.Replicas(shard) {
		if node == leader || node == e.node {
			continue
		}
		if envelope, err := e.fetch(ctx, node, shard, b); err == nil {
			return envelope, nil
		}
	}
	return nil, why
}

// fetch gets an envelope from a node, in calls of bounded size.
func (e *Edge) fetch(ctx context.Context, node uint16, shard queue.ShardID, b *queue.Body) ([]byte, error) {
	pieces := append(make([]queue.Ref, 0, 1+len(b.More)), b.First)
	pieces = append(pieces, b.More...)
	var whole []byte
	for len(pieces) > 0 {
		request, bytes, n := appendRequest(nil, callFetch, shard), 0, 0
		for n < len(pieces) && (n == 0 || bytes+int(pieces[n].Size) <= fetchBytes) {
			request = appendRef(request, pieces[n])
			bytes += int(pieces[n].Size)
			n++
		}
		answer, err := e.call(ctx, node, request)
		if err != nil {
			return nil, err
		}
		if len(answer) != bytes {
			return nil, fmt.Errorf("%d bytes of a message from node %d, not %d: %w", len(answer), node, bytes, errMalformed)
		}
		if whole == nil && n == len(pieces) {
			return answer, nil
		}
		whole = append(whole, answer...)
		pieces = pieces[n:]
	}
	return whole, nil
}

// Call answers what an edge asked through Links.Call. It fails only if the request makes no sense.
func (s *Server) Call(ctx context.Context, request []byte) ([]byte, error) {
	given, err := s.answer(ctx, request)
	status := byte(statusOK)
	switch {
	case errors.Is(err, errMalformed):
		return nil, err
	case errors.Is(err, ErrNotLeader):
		status, given = statusNotLeader, nil
	case err != nil:
		status, given = statusFailed, []byte(err.Error())
	}
	answer := append(make([]byte, 0, callHeaderSize+len(given)), callVersion, status, 0, 0, 0, 0, 0, 0)
	return append(answer, given...), nil
}

func (s *Server) answer(ctx context.Context, request []byte) ([]byte, error) {
	if len(request) < callHeaderSize || request[0] != callVersion {
		return nil, fmt.Errorf("request: %w", errMalformed)
	}
	h := s.o.Hosts.Host(queue.ShardID(le.Uint16(request[2:])))
	if h == nil {
		return nil, ErrNotLeader
	}
	c := cursor{b: request[callHeaderSize:]}
	switch request[1] {
	case callCounts:
		return h.answerCounts(ctx, &c)
	case callFetch:
		return h.answerFetch(&c)
	case callAttends:
		return h.answerAttends(ctx, &c)
	default:
		return nil, fmt.Errorf("request of kind %d: %w", request[1], errMalformed)
	}
}

func (h *Host) answerCounts(ctx context.Context, c *cursor) ([]byte, error) {
	id := queue.QueueID(c.u64())
	if err := c.err("request for counts"); err != nil {
		return nil, err
	}
	counts, found, err := h.Counts(ctx, id)
	if err != nil {
		return nil, err
	}
	var given []byte
	present := uint64(0)
	if found {
		present = 1
	}
	for _, v := range []uint64{present, counts.Ready, counts.ReadyBytes, counts.Unsettled, uint64(counts.Consumers)} {
		given = le.AppendUint64(given, v)
	}
	return given, nil
}

func (h *Host) answerFetch(c *cursor) ([]byte, error) {
	var given []byte
	for n := 0; len(c.b) > 0; n++ {
		r := c.ref()
		if err := c.err("request for a message"); err != nil {
			return nil, err
		}
		if n > 0 && len(given)+int(r.Size) > fetchBytes {
			return nil, fmt.Errorf("request for more than %d bytes: %w", fetchBytes, errMalformed)
		}
		if r.Index > h.Applied() {
			return nil, ErrNotLeader
		}
		var err error
		if given, err = h.appendPiece(given, r); err != nil {
			return nil, err
		}
	}
	return given, nil
}
