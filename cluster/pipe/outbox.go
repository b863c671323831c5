package pipe

import (
	"errors"
	"slices"

	"github.com/warrenmq/warren/raftfsm/queue"
)

// outbox is what one shard has for the edge at the other end of a link: a stream. It holds facts, not frames: frames
// are made, and envelopes read, when the link takes them.
type outbox struct {
	link     *serverLink
	shard    queue.ShardID
	host     *Host  // nil: not on this node
	greeting hello  // the receiver's: a hello that comes in parts
	scratch  []byte // the sender's: an envelope being read

	// Guarded by the link's mu.
	generation uint32
	flowing    bool // welcomed: batches are taken
	listed     bool
	deliveries []queue.Delivery
	replies    []queue.Reply
	behind     bool
	cancels    []queue.ConsumerID
	welcomed   *welcome
	resetting  bool
}

var errSlowEdge = errors.New("the edge does not take what is for it")

// About what things take in an outbox, in bytes.
const (
	heldDelivery = 112
	heldReply    = 48
	heldResult   = 144
)

// begin starts a generation: what was left of the one before is dropped.
func (o *outbox) begin(generation uint32) {
	l := o.link
	l.mu.Lock()
	defer l.mu.Unlock()
	o.clear()
	o.generation = generation
}

func (o *outbox) clear() {
	o.link.held -= o.weigh()
	clear(o.deliveries)
	clear(o.replies)
	o.deliveries, o.replies, o.cancels = o.deliveries[:0], o.replies[:0], o.cancels[:0]
	o.welcomed, o.flowing, o.resetting = nil, false, false
}

// weigh is about the bytes that the outbox holds.
func (o *outbox) weigh() int {
	n := len(o.deliveries)*heldDelivery + len(o.replies)*heldReply + len(o.cancels)*8
	for i := range o.replies {
		n += len(o.replies[i].Results) * heldResult
	}
	return n
}

// propose gives a batch to the proposer, if batches of its generation flow; added: the proposer has taken it. Both under one lock: the reset
// by a newer hello of the session comes before that hello's SessionUp, and a batch of before must not get behind it, where its number may
// be that of another.
func (o *outbox) propose(b *batchItem, batch *queue.Batch) (flows, added bool) {
	o.link.mu.Lock()
	defer o.link.mu.Unlock()
	if !o.flowing || o.generation != b.generation {
		return false, false
	}
	return true, o.host.proposer.add(o.link.session, b.seq, b.acked, batch)
}

// effects implements stream.
func (o *outbox) effects(session queue.SessionID, generation uint32, e *queue.Effects, behind bool) {
	l := o.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if generation != o.generation || l.err != nil || l.overflow {
		return
	}
	before := l.held
	o.behind = behind
	for i := range e.Deliveries {
		if d := &e.Deliveries[i]; d.Session == session {
			o.deliveries = append(o.deliveries, cloneDelivery(d))
			l.held += heldDelivery
		}
	}
	for i := range e.Replies {
		if r := &e.Replies[i]; r.Session == session {
			o.reply(r)
		}
	}
	for _, c := range e.Cancels {
		if c.Session == session {
			o.cancels = append(o.cancels, c.Consumer)
			l.held += 8
		}
	}
	if l.held > before {
		o.ready()
	}
	if l.held > l.server.o.OutboxBytes {
		l.overflow = true
		go l.fail(errSlowEdge) // not here: closing may wait
	}
}

// reply adds a reply; one without results makes the one before it unnecessary, if that has none either.
func (o *outbox) reply(r *queue.Reply) {
	if n := len(o.replies); n > 0 && len(r.Results) == 0 && len(o.replies[n-1].Results) == 0 {
		o.replies[n-1].Seq = max(o.replies[n-1].Seq, r.Seq)
		o.ready()
		return
	}
	kept := queue.Reply{Session: r.Session, Seq: r.Seq, Results: slices.Clone(r.Results)}
	for i := range kept.Results {
		kept.Results[i].Delivery = cloneDelivery(&kept.Results[i].Delivery)
	}
	o.replies = append(o.replies, kept)
	o.link.held += heldReply + len(kept.Results)*heldResult
}

// welcome implements stream. It says that all before has been told, which is not so once something was dropped.
func (o *outbox) welcome(w welcome) {
	o.link.mu.Lock()
	defer o.link.mu.Unlock()
	if w.generation == o.generation && !o.link.overflow {
		o.welcomed, o.flowing = &w, true
		o.ready()
	}
}

// reset implements stream.
func (o *outbox) reset(generation uint32) {
	o.link.mu.Lock()
	defer o.link.mu.Unlock()
	if generation == o.generation {
		o.clear()
		o.resetting = true
		o.ready()
	}
}

// ready lists the outbox for the sender. The link's mu is held.
func (o *outbox) ready() {
	if !o.listed {
		o.listed = true
		o.link.waiting = append(o.link.waiting, o)
		o.link.signal()
	}
}
