package pipe

import (
	"time"

	"github.com/warrenmq/warren/raftfsm/queue"
)

// hello attaches a session's stream once an entry has said that the session is up. The stream is then told what the
// edge missed, and welcomed; or it is reset. A hello that was under way on a link that the edge has given up since is late: it
// must not take the place of a newer one. A host that led in an earlier term than the edge has been welcomed in since, and was not
// told yet, would take what it has not applied for what is gone.
func (h *Host) hello(s stream, hi *hello) {
	h.mu.Lock()
	if a := h.attached[hi.session]; h.leading && h.term >= hi.term && (a == nil || a.generation <= hi.generation) {
		if a != nil && a.stream != s {
			a.stream.reset(a.generation) // what still comes by the link before must not get behind this SessionUp
		}
		h.detachLocked(hi.session)
		h.attached[hi.session] = &attachment{s, hi.generation, hi}
		h.helloes++
		up := h.command(func(b *queue.Batch) {
			b.SessionUp(hi.session)
			b.Suspect(hi.session, true)
		})
		if !up {
			h.turnAway(hi.session)
		}
	} else {
		s.reset(hi.generation)
	}
	h.mu.Unlock()
	h.kick()
}

// admit welcomes the sessions that entries have brought up. What the entries did is in the state already, so it comes
// with what the edge missed.
func (h *Host) admit(entries []Entry) {
	for i := range entries {
		sessionsUp(entries[i].Data, func(s queue.SessionID) {
			if a := h.attached[s]; a != nil && a.hello != nil {
				h.admitOne(s, a)
			}
		})
	}
}

func (h *Host) admitOne(s queue.SessionID, a *attachment) {
	hi := a.hello
	a.hello = nil
	h.helloes--
	h.peers.alive(s)
	e := &h.resume
	last := h.state.Resume(s, func(c queue.ConsumerID) (uint64, bool) {
		seen, ok := hi.consumers[c]
		return seen, ok
	}, e)
	for c := range hi.consumers { // the edge knows which of them are still to come: see pipe.cancel
		if !h.state.HasConsumer(s, c) {
			e.Cancels = append(e.Cancels, queue.Cancel{Session: s, Consumer: c})
		}
	}
	a.stream.effects(s, a.generation, e, false)
	a.stream.welcome(welcome{a.generation, last, h.incarnation, h.term})
	e.Reset()
}

// detach ends a stream whose link is lost. The session lives on for a while.
func (h *Host) detach(session queue.SessionID, s stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if a := h.attached[session]; a != nil && a.stream == s {
		h.detachLocked(session)
		if h.leading {
			h.peers.grace(h, session)
		}
	}
}

func (h *Host) detachLocked(session queue.SessionID) {
	if a := h.attached[session]; a != nil {
		delete(h.attached, session)
		if a.hello != nil {
			h.helloes--
		}
	}
}

// turnAway resets a session's stream: its edge says hello again.
func (h *Host) turnAway(session queue.SessionID) {
	if a := h.attached[session]; a != nil {
		h.detachLocked(session)
		a.stream.reset(a.generation)
	}
}

// refuse turns a session's stream away because the proposer did not take a batch.
func (h *Host) refuse(session queue.SessionID, s stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if a := h.attached[session]; a != nil && a.stream == s {
		h.turnAway(session)
	}
}

// peers is what the host knows of the other nodes' runs, and which sessions are given time to come back.
type peers struct {
	dead        map[uint16]queue.SessionID // this run of the node and the ones before are over
	unreachable map[uint16]queue.SessionID
	timers      map[queue.SessionID]*time.Timer
}

func (p *peers) init() {
	p.dead, p.unreachable = map[uint16]queue.SessionID{}, map[uint16]queue.SessionID{}
	p.timers = map[queue.SessionID]*time.Timer{}
}

// Peer tells how a run of another node is. All hosts are to be told, leading or not. Of a node that is dead, the runs
// before the one named are dead as well.
func (h *Host) Peer(s queue.SessionID, state PeerState) {
	h.mu.Lock()
	p := &h.peers
	node := s.Node()
	switch state {
	case PeerDead:
		p.dead[node] = max(p.dead[node], s)
		if p.unreachable[node] <= s {
			delete(p.unreachable, node)
		}
	case PeerUnreachable:
		p.unreachable[node] = max(p.unreachable[node], s)
	case PeerAlive:
		delete(p.unreachable, node)
		if p.dead[node] == s {
			delete(p.dead, node)
		}
	}
	if h.leading {
		p.judgeNode(h, node, state)
	}
	h.mu.Unlock()
	h.kick()
}

// judge decides about all sessions when this host begins to lead.
func (p *peers) judge(h *Host) {
	for _, s := range liveSessions(h.state) {
		p.judgeSession(h, s)
	}
}

func (p *peers) judgeNode(h *Host, node uint16, state PeerState) {
	for _, s := range liveSessions(h.state) {
		switch {
		case s.Node() != node:
		case state == PeerAlive:
			h.command(func(b *queue.Batch) { b.Suspect(s, true) })
			if h.attached[s] != nil {
				p.back(s)
			}
		default:
			p.judgeSession(h, s)
		}
	}
}

func (p *peers) judgeSession(h *Host, s queue.SessionID) {
	switch {
	case s <= p.dead[s.Node()]:
		p.end(h, s)
	case s <= p.unreachable[s.Node()]:
		h.command(func(b *queue.Batch) { b.Suspect(s, false) })
		p.grace(h, s)
	case h.attached[s] == nil:
		p.grace(h, s)
	}
}

// end proposes that a session is over and turns its stream away, if it has one: should its node live, it says hello and
// learns what it has lost.
func (p *peers) end(h *Host, s queue.SessionID) {
	p.back(s)
	h.command(func(b *queue.Batch) { b.SessionDown(s) })
	h.turnAway(s)
}

// grace gives a session time to say hello (again).
func (p *peers) grace(h *Host, s queue.SessionID) {
	if p.timers[s] != nil {
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(h.o.Grace, func() {
		h.mu.Lock()
		if h.leading && p.timers[s] == timer {
			h.log().Warn("a node was away too long: its consumers are gone", "node", s.Node())
			p.end(h, s)
		}
		h.mu.Unlock()
		h.kick()
	})
	p.timers[s] = timer
}

// back ends a session's time of grace.
func (p *peers) back(s queue.SessionID) {
	if timer := p.timers[s]; timer != nil {
		timer.Stop()
		delete(p.timers, s)
	}
}

// alive notes that a session's edge has said hello.
func (p *peers) alive(s queue.SessionID) {
	p.back(s)
	if p.dead[s.Node()] == s {
		delete(p.dead, s.Node())
	}
	if p.unreachable[s.Node()] == s {
		delete(p.unreachable, s.Node())
	}
}

// stop ends all times of grace.
func (p *peers) stop() {
	for s := range p.timers {
		p.back(s)
	}
}
