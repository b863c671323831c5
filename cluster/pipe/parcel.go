package pipe

import "github.com/warrenmq/warren/raftfsm/queue"

// parcel is what the sender of a link takes out of an outbox at once.
type parcel struct {
	generation uint32
	deliveries []queue.Delivery
	replies    []queue.Reply
	behind     bool
	cancels    []queue.ConsumerID
	welcomed   *welcome
	resetting  bool
}

// pickUp empties the outbox that is next into the parcel and gives it the parcel's memory; nil: nothing waits.
func (l *serverLink) pickUp(p *parcel) *outbox {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) == 0 {
		return nil
	}
	o := l.waiting[0]
	l.waiting[0] = nil
	l.waiting = l.waiting[1:]
	l.held -= o.weigh()
	clear(p.deliveries)
	clear(p.replies)
	p.deliveries, o.deliveries = o.deliveries, p.deliveries[:0]
	p.replies, o.replies = o.replies, p.replies[:0]
	p.cancels, o.cancels = o.cancels, p.cancels[:0]
	p.welcomed, p.resetting, p.generation, p.behind = o.welcomed, o.resetting, o.generation, o.behind
	o.welcomed, o.resetting, o.listed = nil, false, false
	return o
}

// drain sends all that waits in the outboxes, in as few frames as it takes.
func (l *serverLink) drain(out *frameBuilder) error {
	if !l.sentGreeting {
		l.sentGreeting = true
		out.b = greeting{}.append(out.b)
	}
	for {
		o := l.pickUp(&l.parcel)
		if o == nil {
			break
		}
		if err := l.pack(out, o, &l.parcel); err != nil {
			return err
		}
	}
	if len(out.b) == 0 {
		return nil
	}
	return l.link.Send(out.take())
}

// pack appends a parcel to the frame, sending frames that are full: deliveries, replies, cancels, and the welcome that
// ends the answer to a hello.
func (l *serverLink) pack(out *frameBuilder, o *outbox, p *parcel) error {
	if err := l.packDeliveries(out, o, p); err != nil {
		return err
	}
	flags := byte(0)
	if p.behind {
		flags = repliesBehind
	}
	err := l.packItems(out, itemReplies, flags, o.shard, p.generation, len(p.replies), func(i int) {
		out.b = appendReply(out.b, &p.replies[i])
	})
	if err != nil {
		return err
	}
	err = l.packItems(out, itemCancels, 0, o.shard, p.generation, len(p.cancels), func(i int) {
		out.b = le.AppendUint64(out.b, uint64(p.cancels[i]))
	})
	if err != nil {
		return err
	}
	if p.welcomed != nil {
		out.b = p.welcomed.append(out.b, o.shard)
	}
	if p.resetting {
		out.b = appendReset(out.b, o.shard, p.generation)
	}
	return nil
}

// packItems appends n things in items of one kind.
func (l *serverLink) packItems(out *frameBuilder, kind, flags byte, shard queue.ShardID, generation uint32, n int, put func(i int)) error {
	for i := 0; i < n; {
		var mark int
		out.b, mark = beginItem(out.b, kind, shard)
		setFlags(out.b, mark, flags)
		out.b = le.AppendUint32(out.b, generation)
		out.b = le.AppendUint32(out.b, 0)
		first := i
		for ; i < n && len(out.b) < frameBytes; i++ {
			put(i)
		}
		le.PutUint32(out.b[mark+4:], uint32(i-first))
		endItem(out.b, mark)
		if len(out.b) >= frameBytes {
			if err := l.link.Send(out.take()); err != nil {
				return err
			}
		}
	}
	return nil
}

// packDeliveries appends deliveries with their envelopes, as far as those may go along.
func (l *serverLink) packDeliveries(out *frameBuilder, o *outbox, p *parcel) error {
	room := l.takeRoom(p.deliveries)
	err := l.packItems(out, itemDeliveries, 0, o.shard, p.generation, len(p.deliveries), func(i int) {
		d := &p.deliveries[i]
		var mark int
		out.b, mark = appendDelivery(out.b, d)
		size := int(d.Body.Size())
		if size > inlineBytes || size > room {
			return
		}
		from := len(out.b)
		b, err := o.appendEnvelope(out.b, &d.Body)
		if err != nil {
			return // it goes without: perhaps it was settled meanwhile, otherwise its edge will ask for it
		}
		out.b = b
		setInline(out.b, mark, len(out.b)-from)
		room -= size
	})
	l.giveRoom(room)
	return err
}

// takeRoom takes as much of the inline window as the deliveries need.
func (l *serverLink) takeRoom(ds []queue.Delivery) int {
	need := 0
	for i := range ds {
		if n := ds[i].Body.Size(); n <= inlineBytes {
			need += int(n)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	room := min(need, l.inline)
	l.inline -= room
	return room
}

func (l *serverLink) giveRoom(room int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.inline += room
}

// appendEnvelope appends a message's envelope from this node's log.
func (o *outbox) appendEnvelope(dst []byte, b *queue.Body) ([]byte, error) {
	dst, err := o.appendPiece(dst, b.First)
	for _, r := range b.More {
		if err != nil {
			break
		}
		dst, err = o.appendPiece(dst, r)
	}
	return dst, err
}

func (o *outbox) appendPiece(dst []byte, r queue.Ref) ([]byte, error) {
	if cap(o.scratch) < int(r.Size) {
		o.scratch = make([]byte, inlineBytes)
	}
	piece, err := o.host.piece(r, o.scratch)
	return append(dst, piece...), err
}
