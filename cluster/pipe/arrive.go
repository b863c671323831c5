package pipe

import (
	"slices"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// subscription is a consumer or getter of this node. The pipe's mu guards it, but for what says otherwise.
type subscription struct {
	receiver    broker.Receiver
	seen        uint64 // last delivery handed to the receiver, or got
	established bool   // its Attach was answered with OK
	cancelled   bool   // the receiver was told that it is gone

	link     *edgeLink // where the bytes came from
	inline   int       // bytes of envelopes that came along and are not consumed
	consumed uint64    // deliveries up to this one are

	arrived []broker.Delivery // belongs to the holder of handing
	bytes   int               // of the envelopes in arrived; belongs to the holder of handing
}

// finished is a batch with its answer.
type finished struct {
	batch   *broker.Batch
	results []queue.Result
}

func (p *pipe) subscribe(id queue.ConsumerID, r broker.Receiver) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.subs[id] = &subscription{receiver: r}
	if p.phase == down {
		p.wake()
	}
}

func (p *pipe) unsubscribe(id queue.ConsumerID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.subs[id]; s != nil {
		delete(p.subs, id)
		s.credit(s.inline)
	}
}

// credit gives the leader back the room of envelopes. The pipe's mu is held.
func (s *subscription) credit(bytes int) {
	if bytes = min(bytes, s.inline); bytes > 0 {
		s.inline -= bytes
		s.link.credit(bytes)
	}
}

// consume notes that the envelope that came along with a delivery has been fetched by who needs it.
func (p *pipe) consume(d *broker.Delivery) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.subs[d.Consumer]; s != nil && d.ID > s.consumed {
		s.consumed = d.ID
		s.credit(len(d.Inline))
	}
}

// effects implements stream: what the machine on this node has for this edge.
func (p *pipe) effects(session queue.SessionID, generation uint32, e *queue.Effects, behind bool) {
	p.handing.Lock()
	defer p.handing.Unlock()
	p.mu.Lock()
	if !p.current(generation) {
		p.mu.Unlock()
		return
	}
	var last *subscription
	var of queue.ConsumerID
	for i := range e.Deliveries {
		d := &e.Deliveries[i]
		if d.Session != session {
			continue
		}
		if last == nil || d.Consumer != of {
			last, of = p.subs[d.Consumer], d.Consumer
		}
		if last.wants(d.ID) {
			p.touch(last)
			last.arrived = append(last.arrived, broker.Delivery{Delivery: cloneDelivery(d)})
		}
	}
	p.behind = behind
	for i := range e.Replies {
		if r := &e.Replies[i]; r.Session == session {
			p.answer(r.Seq, r.Results)
		}
	}
	for _, c := range e.Cancels {
		if c.Session == session {
			p.cancel(c.Consumer)
		}
	}
	p.mu.Unlock()
	p.finish()
}

// arrivals is what came over a link for one shard in one frame.
type arrivals struct {
	deliveries []broker.Delivery
	replies    []queue.Reply
	behind     bool // of the replies
	cancels    []queue.ConsumerID
}

// arrive takes what came over a link. Envelopes alias the frame of so many bytes.
func (p *pipe) arrive(l *edgeLink, generation uint32, a *arrivals, frame int) {
	p.handing.Lock()
	defer p.handing.Unlock()
	p.mu.Lock()
	if !p.current(generation) || p.link != l {
		p.mu.Unlock()
		for i := range a.deliveries {
			l.credit(len(a.deliveries[i].Inline))
		}
		return
	}
	for i := range a.deliveries {
		p.takeIn(l, &a.deliveries[i])
	}
	if len(a.replies) > 0 {
		p.behind = a.behind
	}
	for i := range a.replies {
		p.answer(a.replies[i].Seq, a.replies[i].Results)
	}
	for _, c := range a.cancels {
		p.cancel(c)
	}
	p.mu.Unlock()
	for _, s := range p.touched {
		s.own(frame)
	}
	p.finish()
}

// takeIn notes a delivery for its subscription. handing and mu are held.
func (p *pipe) takeIn(l *edgeLink, d *broker.Delivery) {
	s := p.subs[d.Consumer]
	if !s.wants(d.ID) {
		l.credit(len(d.Inline))
		return
	}
	if s.link != l {
		s.link, s.inline = l, 0
	}
	s.inline += len(d.Inline)
	p.touch(s)
	d.Session = p.edge.o.Session
	s.bytes += len(d.Inline)
	s.arrived = append(s.arrived, *d)
}

// wants notes a delivery as seen; false: it was before, or nobody waits for it.
func (s *subscription) wants(id uint64) bool {
	if s == nil || id <= s.seen {
		return false
	}
	s.seen = id
	return true
}

// touch lists a subscription that something has arrived for. handing is held.
func (p *pipe) touch(s *subscription) {
	if len(s.arrived) == 0 {
		p.touched = append(p.touched, s)
	}
}

// own gives the envelopes memory of their own unless they are most of the frame: an idle consumer must not keep frames
// in memory for the little that is its. handing is held.
func (s *subscription) own(frame int) {
	if s.bytes > 0 && s.bytes < frame/2 {
		room := make([]byte, 0, s.bytes)
		for i := range s.arrived {
			if d := &s.arrived[i]; d.Inline != nil {
				from := len(room)
				room = append(room, d.Inline...)
				d.Inline = room[from:len(room):len(room)]
			}
		}
	}
	s.bytes = 0
}

// answer notes that the batches up to seq are done, the one at seq with results. handing and mu are held.
func (p *pipe) answer(seq uint64, results []queue.Result) {
	for p.window.len() > 0 && p.window.first <= seq {
		f := finished{batch: p.window.pop()}
		f.batch.Behind = p.behind
		if p.window.first == seq+1 && len(results) > 0 {
			f.results = results
			p.learn(f)
		}
		p.done = append(p.done, f)
	}
	p.sent = max(p.sent, p.window.first-1)
	p.window.open()
}

// learn notes what answers mean for subscriptions. Answers are few: what flows has none.
func (p *pipe) learn(f finished) {
	for i := range f.results {
		r := &f.results[i]
		if s := p.subs[r.Delivery.Consumer]; r.Code == queue.Message && s != nil {
			s.seen = max(s.seen, r.Delivery.ID)
		}
	}
	results := f.results
	for c := range commands(f.batch.Data) {
		for len(results) > 0 && results[0].Command < c.ordinal {
			results = results[1:]
		}
		if len(results) == 0 {
			return
		}
		if c.kind != queue.KindAttach || results[0].Command != c.ordinal || results[0].Code != queue.OK || len(c.payload) < 16 {
			continue
		}
		if s := p.subs[queue.ConsumerID(le.Uint64(c.payload[8:]))]; s != nil {
			s.established = true
		}
	}
}

// cancel notes that a consumer is gone. One whose Attach was not answered is still to come, or was refused, and a getter has none: a leader
// that answers a hello names those too, as it does not have them. What comes with a cancel has been taken by then, the answer that
// established the consumer included. handing and mu are held.
func (p *pipe) cancel(id queue.ConsumerID) {
	if s := p.subs[id]; s != nil && s.established && !s.cancelled {
		s.cancelled = true
		p.cancelled = append(p.cancelled, s.receiver)
	}
}

// finish hands on what has been noted. handing is held, mu is not.
func (p *pipe) finish() {
	for i, s := range p.touched {
		s.receiver.Deliver(s.arrived)
		clear(s.arrived)
		s.arrived = s.arrived[:0]
		p.touched[i] = nil
	}
	for i, f := range p.done {
		f.batch.Done(f.batch, f.results)
		p.done[i] = finished{}
	}
	for i, r := range p.cancelled {
		r.Cancelled()
		p.cancelled[i] = nil
	}
	p.touched, p.done, p.cancelled = p.touched[:0], p.done[:0], p.cancelled[:0]
}

// abandon answers everything as if all queues were deleted: the node whose memory held them is gone for good.
func (p *pipe) abandon() {
	p.handing.Lock()
	defer p.handing.Unlock()
	p.mu.Lock()
	for p.window.len() > 0 {
		b := p.window.pop()
		p.done = append(p.done, finished{b, goneResults(b.Data)})
	}
	for id := range p.subs {
		p.cancel(id)
	}
	p.window.open()
	p.mu.Unlock()
	p.finish()
}

// goneResults is what a machine that knows none of the queues answers.
func goneResults(data []byte) []queue.Result {
	var results []queue.Result
	for c := range commands(data) {
		switch c.kind {
		case queue.KindConfigure, queue.KindDelete, queue.KindPurge, queue.KindAttach, queue.KindGet:
			results = append(results, queue.Result{Command: c.ordinal, Code: queue.Gone})
		case queue.KindCancel:
			results = append(results, queue.Result{Command: c.ordinal, Code: queue.Unknown})
		}
	}
	return results
}

// cloneDelivery makes a delivery independent of the effects that it came in.
func cloneDelivery(d *queue.Delivery) queue.Delivery {
	c := *d
	c.Body.More = slices.Clone(d.Body.More)
	return c
}
