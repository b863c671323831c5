package queue

import (
	"maps"
	"math"
	"slices"
)

// SessionState says what the machine holds of the node behind a session.
type SessionState uint8

// A session is active unless the leader said otherwise. A batch of a session that is over makes it active again: its
// node was cut off, not dead. Its consumers are gone all the same.
const (
	SessionActive  SessionState = iota
	SessionSuspect              // cannot be reached: its consumers keep what they have and get nothing new
	SessionOver                 // dead or away too long: its consumers are gone
)

// session is one run of one node.
type session struct {
	id        SessionID
	key       uint64 // see hash.go; odd
	state     SessionState
	meta      uint64
	last      uint64 // number of the last batch applied
	acked     uint64 // up to here the session has the replies
	kept      []kept // results of batches after acked, in order
	uploads   map[uint64]*upload
	consumers map[ConsumerID]*consumer
}

// kept is the results of a batch until the session has them.
type kept struct {
	seq     uint64
	results []Result // never changed
	octets  uint64   // of the messages in results
}

func keptOf(seq uint64, results []Result) kept {
	k := kept{seq: seq, results: results}
	for i := range results {
		if results[i].Code == Message {
			k.octets += results[i].Delivery.Body.Size()
		}
	}
	return k
}

func newSession(id SessionID) *session {
	return &session{
		id: id, key: fold(uint64(id), salt3) | 1,
		uploads: make(map[uint64]*upload), consumers: make(map[ConsumerID]*consumer),
	}
}

func (ss *session) hash() uint64 { return fold(ss.key+ss.last, uint64(ss.state)) }

// open returns the session, which ends earlier ones of its node; nil if it is itself over.
func (s *State) open(id SessionID) *session {
	ss := s.sessions[id.Node()]
	switch {
	case ss == nil:
	case ss.id == id:
		return ss
	case ss.id > id:
		return nil
	default:
		s.endSession(ss)
	}
	ss = newSession(id)
	s.sessions[id.Node()] = ss
	s.resum(&ss.meta, ss.hash())
	return ss
}

// sessionUp opens the session, or makes it active again.
func (s *State) sessionUp(id SessionID) {
	if ss := s.open(id); ss != nil {
		s.setSessionState(ss, SessionActive)
	}
}

func (s *State) setSessionState(ss *session, state SessionState) {
	if ss.state == state {
		return
	}
	ss.state = state
	s.resum(&ss.meta, ss.hash())
	for _, c := range ss.sortedConsumers() {
		if c.queue != nil && !c.cancelled {
			s.elect(c.queue)
			s.consider(c)
		}
	}
}

func (s *State) suspect(id SessionID, cleared bool) {
	ss := s.session(id)
	if ss == nil || ss.state == SessionOver {
		return
	}
	state := SessionSuspect
	if cleared {
		state = SessionActive
	}
	s.setSessionState(ss, state)
}

// sessionDown ends what the session has here, and keeps what tells its batches apart. Getters keep their numbers, so
// that what they get later has new ones.
func (s *State) sessionDown(id SessionID) {
	ss := s.session(id)
	if ss == nil || ss.state == SessionOver {
		return
	}
	s.setSessionState(ss, SessionOver)
	for _, c := range ss.sortedConsumers() {
		switch {
		case ss.consumers[c.id] != c: // gone with its queue, which said so
		case c.queue == nil:
			s.returnAll(c, true, math.MaxUint64)
		default:
			if !c.cancelled {
				s.out.Cancels = append(s.out.Cancels, Cancel{ss.id, c.id})
			}
			s.detach(c, true, math.MaxUint64) // what its client has seen is not known
		}
	}
	for id, u := range ss.uploads {
		s.refuseUpload(ss, id, u)
	}
	s.forgetGot(ss)
}

// forgetGot turns a kept answer to a get into one that nothing was there: if the session has not seen it yet, the message
// is back in its queue, and a node that never comes back would keep bodies alive for ever.
func (s *State) forgetGot(ss *session) {
	got := func(r Result) bool { return r.Code == Message }
	for i := range ss.kept {
		k := &ss.kept[i]
		if !slices.ContainsFunc(k.results, got) {
			continue
		}
		s.octets -= k.octets
		k.octets = 0
		k.results = slices.Clone(k.results) // somebody may be reading the old ones
		for n, r := range k.results {
			if got(r) {
				k.results[n] = Result{Command: r.Command, Code: Empty}
			}
		}
	}
}

// endSession is the end of all that is known of a session, as a later one of its node has begun.
func (s *State) endSession(ss *session) {
	s.setSessionState(ss, SessionOver)
	for _, c := range ss.sortedConsumers() {
		if ss.consumers[c.id] == c {
			s.detach(c, true, math.MaxUint64) // what its client has seen is not known
		}
	}
	for _, u := range ss.uploads {
		s.octets -= u.size
		s.resum(&u.sum, 0)
	}
	for i := range ss.kept {
		s.octets -= ss.kept[i].octets
	}
	s.resum(&ss.meta, 0)
}

func (ss *session) sortedConsumers() []*consumer {
	return slices.SortedFunc(maps.Values(ss.consumers), func(a, b *consumer) int {
		if a.id < b.id {
			return -1
		}
		return 1
	})
}

// forgetReplies drops the results that the session has.
func (s *State) forgetReplies(ss *session, acked uint64) {
	acked = min(acked, ss.last)
	if acked <= ss.acked {
		return
	}
	ss.acked = acked
	n := 0
	for n < len(ss.kept) && ss.kept[n].seq <= acked {
		s.octets -= ss.kept[n].octets
		n++
	}
	clear(ss.kept[:n])
	ss.kept = ss.kept[n:]
	if len(ss.kept) == 0 {
		ss.kept = nil
	}
}

// keptResults returns the results of a batch, if it had some and the session lacks them.
func (ss *session) keptResults(seq uint64) []Result {
	i, ok := slices.BinarySearchFunc(ss.kept, seq, func(k kept, seq uint64) int {
		switch {
		case k.seq < seq:
			return -1
		case k.seq > seq:
			return 1
		}
		return 0
	})
	if !ok {
		return nil
	}
	return ss.kept[i].results
}

// reply tells the session that a batch has been applied. One reply stands for those before it that had no results.
func (e *Effects) reply(id SessionID, seq uint64, results []Result) {
	if n := len(e.Replies); n > 0 {
		last := &e.Replies[n-1]
		if last.Session == id && last.Results == nil && last.Seq <= seq {
			last.Seq, last.Results = seq, results
			return
		}
	}
	e.Replies = append(e.Replies, Reply{Session: id, Seq: seq, Results: results})
}

// Resume repeats what a session may have lost with the leader before: the results that it has not acknowledged, and the
// unsettled deliveries of each consumer after the last one seen. Consumers that the session does not know are passed
// over, and so are getters, whose deliveries are results. It returns the number of the last batch applied, 0 for a
// session that is not known. Nothing in the state changes.
func (s *State) Resume(id SessionID, seen func(ConsumerID) (lastID uint64, known bool), out *Effects) (lastSeq uint64) {
	ss := s.session(id)
	if ss == nil {
		return 0
	}
	for _, k := range ss.kept {
		out.reply(id, k.seq, k.results)
	}
	if n := len(ss.kept); n == 0 || ss.kept[n-1].seq != ss.last {
		out.reply(id, ss.last, nil)
	}
	for _, c := range ss.sortedConsumers() {
		if c.queue == nil {
			continue
		}
		if lastID, known := seen(c.id); known {
			s.repeat(c, lastID, out)
		}
	}
	return ss.last
}

// repeat tells again what a consumer has after lastID.
func (s *State) repeat(c *consumer, lastID uint64, out *Effects) {
	for e := range c.out.all() {
		if e.id > lastID {
			out.Deliveries = append(out.Deliveries, Delivery{})
			s.fill(&out.Deliveries[len(out.Deliveries)-1], c, e)
		}
	}
}
