package queue

import (
	"fmt"
	"slices"
)

// Apply advances the state by the entry at index and appends what it asks the world to do to out. An error means that
// this replica must stop: the entry cannot be read or the replica has diverged; the state is then as it was. Queues are
// served at the end of each batch, so that the commands of a batch take effect together.
func (s *State) Apply(index uint64, entry []byte, out *Effects) error {
	if index <= s.applied {
		return fmt.Errorf("apply entry %d: %w: %d is applied", index, ErrOrder, s.applied)
	}
	if err := Check(entry); err != nil {
		return fmt.Errorf("apply entry %d: %w", index, err)
	}
	if err := s.checkFormat(entry); err != nil {
		return fmt.Errorf("apply entry %d: %w", index, err)
	}
	if err := s.compareHashes(entry); err != nil {
		return fmt.Errorf("apply entry %d: %w", index, err)
	}
	s.now = max(s.now, int64(u64(entry[8:])))
	s.out = out
	s.passTime()
	at := EntryHeaderSize
	for n := u32(entry[4:]); n > 0; n-- {
		h := decodeBatch(entry[at:])
		at += BatchHeaderSize
		s.applyBatch(&h, index, entry[at:at+int(h.size)], at)
		at += int(h.size)
	}
	s.applied = index
	s.recent.remember(index, s.Hash())
	out.NextTick = 0
	if len(s.timers) > 0 {
		out.NextTick = s.timers[0].deadline
	}
	s.out = nil
	return nil
}

// applyBatch applies a batch that is the next of its session, and answers one that it has seen, or that comes too
// early, with how far the session has come.
func (s *State) applyBatch(h *batchHeader, index uint64, data []byte, at int) {
	if h.session == 0 {
		s.applyCommands(nil, h.commands, index, data, at)
		s.results = s.results[:0]
		return
	}
	ss := s.open(h.session)
	if ss == nil {
		return
	}
	s.forgetReplies(ss, h.acked)
	if h.seq != ss.last+1 {
		seq := min(h.seq, ss.last)
		s.out.reply(ss.id, seq, ss.keptResults(seq))
		s.serveTouched() // the session may have ended one before it
		return
	}
	if ss.state == SessionOver {
		s.setSessionState(ss, SessionActive)
	}
	s.applyCommands(ss, h.commands, index, data, at)
	ss.last = h.seq
	s.resum(&ss.meta, ss.hash())
	s.out.reply(ss.id, h.seq, s.keep(ss))
}

// keep stores the results of the batch until the session has them.
func (s *State) keep(ss *session) []Result {
	if len(s.results) == 0 {
		return nil
	}
	results := slices.Clone(s.results)
	clear(s.results)
	s.results = s.results[:0]
	k := keptOf(ss.last, results)
	s.octets += k.octets
	ss.kept = append(ss.kept, k)
	return results
}

func (s *State) applyCommands(ss *session, n uint32, index uint64, data []byte, at int) {
	for s.command = 0; s.command < n; s.command++ {
		size := CommandHeaderSize + int(u32(data[4:]))
		s.applyCommand(ss, Kind(data[0]), data[1], index, data[CommandHeaderSize:size], at+CommandHeaderSize)
		data, at = data[size:], at+size
	}
	s.serveTouched()
}

// applyCommand applies one command, whose payload p starts at the place at of the entry. ss is nil for the leader.
func (s *State) applyCommand(ss *session, k Kind, flags uint8, index uint64, p []byte, at int) {
	switch k {
	case KindEnqueue:
		c := decodeEnqueue(flags, p, index, at)
		s.applyEnqueue(ss, &c)
	case KindChunk:
		s.chunk(ss, u64(p), Ref{index, uint32(at + 8), uint32(len(p) - 8)})
	case KindConfigure:
		s.configure(QueueID(u64(p)), flags&ConfigureExisting != 0, p[8:])
	case KindDelete:
		s.delete(QueueID(u64(p)), flags&DeleteIfUnused != 0, flags&DeleteIfEmpty != 0)
	case KindPurge:
		s.purge(QueueID(u64(p)))
	case KindAttach:
		c := decodeAttach(flags, p)
		s.attach(ss, &c)
	case KindCredit:
		s.setCredit(ss, ConsumerID(u64(p)), u32(p[8:]))
	case KindCancel:
		s.cancel(ss, ConsumerID(u64(p)))
	case KindDetach:
		if c := ss.consumers[ConsumerID(u64(p))]; c != nil {
			s.detach(c, flags&DetachFailed != 0, u64(p[8:]))
		}
	case KindSettle:
		s.settle(ss, ConsumerID(u64(p)), Outcome(flags), 0, p[8:])
	case KindSettleLater:
		s.settle(ss, ConsumerID(u64(p)), Outcome(flags), s.due(u64(p[8:])), p[16:])
	case KindGiveBack:
		s.giveBackLast(ss, ConsumerID(u64(p)), u32(p[8:]), u64(p[12:]), u64(p[20:]))
	case KindGet:
		s.get(ss, QueueID(u64(p)), ConsumerID(u64(p[8:])))
	case KindSessionUp:
		s.sessionUp(SessionID(u64(p)))
	case KindSessionDown:
		s.sessionDown(SessionID(u64(p)))
	case KindSuspect:
		s.suspect(SessionID(u64(p)), flags&SuspectCleared != 0)
	case KindMachineVersion:
		s.version = max(s.version, u32(p))
	case KindPeek:
		s.peek(ss, QueueID(u64(p)), u32(p[8:]))
	case KindTick, KindHash: // done by the entry's time and before the entry
	}
}

// answer adds the result of the command at hand.
func (s *State) answer(code ResultCode, messages uint64, consumers uint32) {
	s.results = append(s.results, Result{Command: s.command, Code: code, Messages: messages, Consumers: consumers})
}

// applyEnqueue stores a message in its queues, unless its producer sends it again.
func (s *State) applyEnqueue(ss *session, c *enqueueCommand) {
	code := OK
	if c.flags&EnqueueProducer == 0 {
		code = s.store(ss, c)
	} else {
		p := s.producer(c.producer)
		p.raise(c.floor)
		code = s.storeOnce(ss, c, p)
		s.resum(&p.sum, p.hash())
	}
	if code != OK {
		s.answer(code, 0, 0)
	}
}

// storeOnce stores a message that its producer has not sent before, and answers one that it has. One that was Refused may
// come again.
func (s *State) storeOnce(ss *session, c *enqueueCommand, p *producer) ResultCode {
	if c.sequence >= p.floor && !p.has(p.seen, c.sequence) {
		code := s.store(ss, c)
		if code != Refused {
			p.note(c.sequence, code == Full)
		}
		return code
	}
	if c.flags&EnqueueChunked != 0 {
		s.finishUpload(ss, c.upload, c.envelope) // its pieces are not needed
	}
	switch {
	case c.sequence < p.floor:
		return Refused
	case p.has(p.full, c.sequence):
		return Full
	}
	return OK
}

// store puts a message in its queues. Those that are not here were deleted.
func (s *State) store(ss *session, c *enqueueCommand) ResultCode {
	r := record{index: c.envelope.Index, offset: c.envelope.Offset, size: c.envelope.Size, acquired: c.acquired, failed: c.failed}
	size := uint64(r.size)
	if c.flags&EnqueuePersistent != 0 {
		r.flags = recordPersistent
	}
	var l *large
	if c.flags&EnqueueChunked != 0 {
		if l = s.finishUpload(ss, c.upload, c.envelope); l == nil {
			return Refused
		}
		r.flags |= recordLarge
		s.large[r.place()] = l
		s.retain(&r) // by this command, so that a queue that drops it at once leaves it for the next
		size = l.size
	}
	code := OK
	for ids := c.queues; len(ids) > 0; ids = ids[8:] {
		q := s.queue(QueueID(u64(ids)))
		switch {
		case q == nil:
		case !s.admits(q, size):
			code = Full
		default:
			s.enqueueAs(q, r, c)
		}
	}
	if l != nil {
		s.release(&r)
	}
	return code
}

// enqueueAs stores a message with what depends on the queue.
func (s *State) enqueueAs(q *queue, r record, c *enqueueCommand) {
	if c.flags&EnqueuePriority != 0 {
		r.priority = min(c.priority, q.settings.MaxPriority)
	}
	if c.flags&EnqueueTTL != 0 || q.settings.HasMessageTTL {
		r.expiry = s.expiry(q, c.flags&EnqueueTTL != 0, c.ttl)
	}
	s.enqueue(q, &r)
}

// configure creates a queue, unless only one that exists is meant, or changes its settings.
func (s *State) configure(id QueueID, existing bool, data []byte) {
	settings, err := parseSettings(data)
	if err != nil {
		panic("queue: settings changed since they were checked: " + err.Error())
	}
	q := s.queue(id)
	switch {
	case q == nil && existing:
		s.answer(Gone, 0, 0)
		return
	case q == nil:
		q = newQueue(id, settings)
		s.queues[id] = q
	case !q.settings.sameQueue(settings):
		s.answer(IDTaken, 0, 0)
		return
	default:
		q.settings = settings
	}
	q.lastUsed = s.now
	s.resum(&q.meta, q.hash())
	s.touch(q)
	s.answer(OK, q.ready, uint32(q.attached))
}

// delete removes a queue, if the conditions hold.
func (s *State) delete(id QueueID, ifUnused, ifEmpty bool) {
	q := s.queue(id)
	switch {
	case q == nil:
		s.answer(Gone, 0, 0)
	case ifUnused && q.attached > 0:
		s.answer(InUse, 0, uint32(q.attached))
	case ifEmpty && q.ready > 0:
		s.answer(NotEmpty, q.ready, 0)
	default:
		s.answer(OK, q.ready, 0)
		s.remove(q)
	}
}

// peek shows a ready message.
func (s *State) peek(ss *session, id QueueID, skip uint32) {
	q := s.queue(id)
	if q == nil {
		s.answer(Gone, 0, 0)
		return
	}
	r := q.readyAt(uint64(skip))
	if r == nil {
		s.answer(Empty, 0, 0)
		return
	}
	s.answer(Message, q.ready, 0)
	d := &s.results[len(s.results)-1].Delivery
	s.fillRecord(d, id, r)
	d.Session = ss.id
}

// purge drops the ready messages of a queue.
func (s *State) purge(id QueueID) {
	q := s.queue(id)
	if q == nil {
		s.answer(Gone, 0, 0)
		return
	}
	s.answer(OK, s.dropReady(q), 0)
	s.touch(q)
}

// compareHashes compares what the leader says of its state with this one.
func (s *State) compareHashes(entry []byte) error {
	return eachBatch(entry, func(h batchHeader, data []byte, _ int) error {
		if h.session != 0 {
			return nil
		}
		for len(data) > 0 {
			size := CommandHeaderSize + int(u32(data[4:]))
			if Kind(data[0]) == KindHash {
				index, theirs := u64(data[CommandHeaderSize:]), u64(data[CommandHeaderSize+8:])
				if ours, ok := s.recent.at(index); ok && ours != theirs {
					return fmt.Errorf("%w: hash %#x after entry %d, the leader's is %#x", ErrDiverged, ours, index, theirs)
				}
			}
			data = data[size:]
		}
		return nil
	})
}
