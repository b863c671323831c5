// Package queue is the state machine of one shard: its queues, their messages, the consumers and the sessions of the
// nodes that use them. One committed log entry goes in ([State.Apply]); new state and a list of [Effects] come out. The
// machine decides who gets which message and does nothing: it reads no clock, knows no connection, and holds no bodies,
// only where in which log entry each one lies. Keeping the log, reading bodies, taking effects to the nodes and knowing
// which node lives is left to others.
//
// Equal entries make equal states and equal effects on every replica. Whatever order a map has never shows.
package queue

import (
	"iter"
	"maps"
	"slices"
)

// State is the machine. It is for one goroutine at a time.
type State struct {
	applied uint64
	now     int64 // milliseconds: the highest time of all entries
	version uint32

	queues   map[QueueID]*queue
	sessions map[uint16]*session // the last of each node
	large    map[place]*large
	timers   timers

	producers producers

	// What all of it refers to, each place by itself; an envelope in two queues is there twice. See Contents.
	messages uint64 // ready, out and delayed
	octets   uint64 // of their envelopes, and of uploads and kept answers

	sum    uint64 // see hash.go
	recent hashes

	// What lasts for one entry or batch at most.
	out     *Effects
	results []Result
	command uint32   // ordinal in the batch
	dirty   []*queue // to be served at the end of the batch
	latest  *queue   // last one looked up

	pool pool
}

// New returns the state before the first entry.
func New() *State {
	return &State{
		version:   FirstVersion,
		queues:    make(map[QueueID]*queue),
		sessions:  make(map[uint16]*session),
		large:     make(map[place]*large),
		producers: producers{byID: make(map[ProducerID]*producer)},
	}
}

// Applied returns the index of the last entry applied and the machine's time, in milliseconds.
func (s *State) Applied() (index uint64, timeMillis int64) { return s.applied, s.now }

// Counts returns what a queue holds. What was given back with a delay is unsettled until it is due.
func (s *State) Counts(id QueueID) (Counts, bool) {
	q := s.queues[id]
	if q == nil {
		return Counts{}, false
	}
	return Counts{Ready: q.ready, ReadyBytes: q.bytes, Unsettled: q.unsettled + uint64(q.delayed.n), Consumers: uint32(q.attached)}, true
}

// Contents returns what all queues together hold: messages, ready or not, and the octets of all that the state refers to: the envelopes
// of the messages, what came of uploads, and messages in answers that are kept. What is in several places counts in each.
func (s *State) Contents() (messages, octets uint64) { return s.messages, s.octets }

// QueueIDs lists the ids of all queues, in no order.
func (s *State) QueueIDs() []QueueID {
	return slices.AppendSeq(make([]QueueID, 0, len(s.queues)), maps.Keys(s.queues))
}

// Settings returns a queue's settings, which must not be changed; nil: no such queue.
func (s *State) Settings(id QueueID) *Settings {
	if q := s.queues[id]; q != nil {
		return q.settings
	}
	return nil
}

// Queues yields all queues in order of their ids. The settings must not be changed.
func (s *State) Queues() iter.Seq2[QueueID, *Settings] {
	return func(yield func(QueueID, *Settings) bool) {
		for q := range s.sortedQueues() {
			if !yield(q.id, q.settings) {
				return
			}
		}
	}
}

func (s *State) sortedQueues() iter.Seq[*queue] {
	return func(yield func(*queue) bool) {
		for _, id := range slices.Sorted(maps.Keys(s.queues)) {
			if !yield(s.queues[id]) {
				return
			}
		}
	}
}

// Sessions yields the last session of each node in order of their ids.
func (s *State) Sessions() iter.Seq2[SessionID, SessionState] {
	return func(yield func(SessionID, SessionState) bool) {
		for ss := range s.sortedSessions() {
			if !yield(ss.id, ss.state) {
				return
			}
		}
	}
}

func (s *State) sortedSessions() iter.Seq[*session] {
	return func(yield func(*session) bool) {
		for _, node := range slices.Sorted(maps.Keys(s.sessions)) {
			if !yield(s.sessions[node]) {
				return
			}
		}
	}
}

// HasConsumer tells whether the session has such a consumer or getter here. One that its edge has and that is not here
// went with its queue, or while the edge was cut off.
func (s *State) HasConsumer(id SessionID, c ConsumerID) bool {
	ss := s.session(id)
	return ss != nil && ss.consumers[c] != nil
}

// session returns the session if it is the last of its node.
func (s *State) session(id SessionID) *session {
	if ss := s.sessions[id.Node()]; ss != nil && ss.id == id {
		return ss
	}
	return nil
}

// queue returns the queue with the id, or nil: commands in a row mostly name the same.
func (s *State) queue(id QueueID) *queue {
	if s.latest != nil && s.latest.id == id {
		return s.latest
	}
	q := s.queues[id]
	if q != nil {
		s.latest = q
	}
	return q
}
