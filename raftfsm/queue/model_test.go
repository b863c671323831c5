package queue

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// model is what the machine should be, written as plainly as can be: slices and maps, and nothing is kept that can be
// counted. Bodies are texts here, each used once, so that references are compared by what they lead to.
type model struct {
	now      int64
	queues   map[QueueID]*modelQueue
	sessions map[uint16]*modelSession
	series   map[ProducerID]*modelProducer
	stamps   int
	effects  modelEffects
	results  []string
	held     []string // bodies that results hold
	command  int
}

type modelMessage struct {
	queue            *modelQueue
	pieces           []string
	order            uint64
	back             bool // it was out
	priority         uint8
	persistent       bool
	expiry           int64
	due              int64 // of a delayed message
	acquired, failed uint32
}

type modelQueue struct {
	id          QueueID
	set         Settings
	ready       []*modelMessage // by order
	delayed     []*modelMessage
	consumers   []*modelConsumer
	active      *modelConsumer
	total, gone uint64
	lastUsed    int64
}

type modelConsumer struct {
	id        ConsumerID
	session   *modelSession
	queue     *modelQueue // nil: a getter
	credit    uint32
	priority  int32
	exclusive bool
	cancelled bool
	lastID    uint64
	out       []modelOut
	since     int // when it joined the line for messages; 0: it cannot take one
}

type modelOut struct {
	id uint64
	m  *modelMessage
}

type modelSession struct {
	id          SessionID
	state       SessionState
	last, acked uint64
	kept        map[uint64]modelKept
	uploads     map[uint64]*modelUpload
	consumers   map[ConsumerID]*modelConsumer
}

// modelProducer is a producer with each of its numbers that was seen, and whether a queue was full.
type modelProducer struct {
	floor    uint64
	full     map[uint64]bool
	lastUsed int64
}

type modelKept struct{ results, bodies []string }

type modelUpload struct {
	pieces  []string
	refused bool
}

// modelEffects is what an entry gives, as texts. Across consumers the order of deliveries is the machine's own affair.
type modelEffects struct {
	replies    []string
	deliveries map[string][]string // by session and consumer
	cancels    []string
	deleted    []QueueID
	nextTick   int64
}

func newModel() *model {
	return &model{queues: map[QueueID]*modelQueue{}, sessions: map[uint16]*modelSession{},
		series: map[ProducerID]*modelProducer{}}
}

func (m *model) apply(time int64, batches []proposal) {
	m.effects = modelEffects{deliveries: map[string][]string{}}
	m.now = max(m.now, time)
	m.passTime()
	for i := range batches {
		m.batch(&batches[i])
		m.rest()
	}
	slices.Sort(m.effects.cancels)
	slices.Sort(m.effects.deleted)
	m.effects.nextTick = m.nextTick()
}

func (m *model) batch(p *proposal) {
	if p.session == 0 {
		m.commands(nil, p.steps)
		m.results, m.held = nil, nil
		return
	}
	ss := m.open(p.session)
	if ss == nil {
		return
	}
	ss.acked = max(ss.acked, min(p.acked, ss.last))
	for seq := range ss.kept {
		if seq <= ss.acked {
			delete(ss.kept, seq)
		}
	}
	if p.seq != ss.last+1 {
		seq := min(p.seq, ss.last)
		m.reply(ss.id, seq, ss.kept[seq].results)
		return
	}
	if ss.state == SessionOver {
		ss.state = SessionActive
	}
	m.commands(ss, p.steps)
	ss.last = p.seq
	m.reply(ss.id, ss.last, m.results)
	if len(m.results) > 0 {
		ss.kept[ss.last] = modelKept{m.results, m.held}
	}
	m.results, m.held = nil, nil
}

func (m *model) reply(id SessionID, seq uint64, results []string) {
	m.effects.replies = appendReply(m.effects.replies, id, seq, results)
}

// appendReply adds a reply; one stands for those of the session just before it that had no results.
func appendReply(replies []string, id SessionID, seq uint64, results []string) []string {
	text := fmt.Sprintf("%#x %d %v", uint64(id), seq, results)
	if n := len(replies); n > 0 {
		var before, beforeSeq uint64
		fmt.Sscanf(replies[n-1], "%v %d", &before, &beforeSeq)
		if SessionID(before) == id && beforeSeq <= seq && strings.HasSuffix(replies[n-1], " []") {
			replies[n-1] = text
			return replies
		}
	}
	return append(replies, text)
}

func (m *model) commands(ss *modelSession, steps []step) {
	for i := range steps {
		m.command = i
		m.step(ss, &steps[i])
		m.lineUp()
	}
}

// rest serves every queue at the end of a batch.
func (m *model) rest() {
	for _, q := range m.sortedQueues() {
		m.serve(q)
		for !q.set.RejectPublish && len(q.ready) > 0 && q.over(0, 0) {
			q.drop(q.first())
			m.expire(q)
		}
	}
}

func (m *model) answer(code ResultCode, messages, consumers int) {
	m.results = append(m.results, fmt.Sprintf("%d %d %d %d", m.command, code, messages, consumers))
}

func (m *model) sortedQueues() []*modelQueue {
	return slices.SortedFunc(maps.Values(m.queues), func(a, b *modelQueue) int { return cmp.Compare(a.id, b.id) })
}

func (m *model) open(id SessionID) *modelSession {
	ss := m.sessions[id.Node()]
	if ss != nil && ss.id >= id {
		if ss.id > id {
			return nil
		}
		return ss
	}
	if ss != nil {
		ss.state = SessionOver
		for _, c := range ss.sorted() {
			m.detach(c, true, math.MaxUint64)
		}
		m.lineUp()
	}
	ss = &modelSession{id: id, kept: map[uint64]modelKept{}, uploads: map[uint64]*modelUpload{},
		consumers: map[ConsumerID]*modelConsumer{}}
	m.sessions[id.Node()] = ss
	return ss
}

func (ss *modelSession) sorted() []*modelConsumer {
	return slices.SortedFunc(maps.Values(ss.consumers), func(a, b *modelConsumer) int { return cmp.Compare(a.id, b.id) })
}

func (m *model) step(ss *modelSession, c *step) {
	switch c.kind {
	case KindEnqueue:
		m.enqueue(ss, c)
	case KindChunk:
		if ss.uploads[c.upload] == nil {
			ss.uploads[c.upload] = &modelUpload{}
		}
		if u := ss.uploads[c.upload]; !u.refused {
			u.pieces = append(u.pieces, c.body)
		}
	case KindConfigure:
		m.configure(c)
	case KindDelete:
		m.delete(c)
	case KindPurge:
		m.purge(c)
	case KindAttach:
		m.attach(ss, c)
	case KindCredit:
		if k := ss.consumers[c.consumer]; k == nil || k.queue == nil {
			m.answer(Unknown, 0, 0)
		} else {
			k.credit = c.credit
		}
	case KindCancel:
		m.cancel(ss, c)
	case KindDetach:
		if k := ss.consumers[c.consumer]; k != nil {
			m.detach(k, c.first, c.sent)
		}
	case KindSettle, KindSettleLater:
		m.settle(ss, c)
	case KindGiveBack:
		m.giveBackLast(ss, c)
	case KindGet:
		m.get(ss, c)
	case KindPeek:
		m.peek(ss, c)
	case KindSessionUp:
		if opened := m.open(c.session); opened != nil {
			opened.state = SessionActive
		}
	case KindSessionDown:
		m.sessionDown(c)
	case KindSuspect:
		m.suspect(c)
	}
}

func (m *model) enqueue(ss *modelSession, c *step) {
	if c.sequence == 0 {
		m.answerUnlessOK(m.store(ss, c))
		return
	}
	p := m.series[c.producer]
	if p == nil {
		p = &modelProducer{full: map[uint64]bool{}}
		m.series[c.producer] = p
	}
	p.lastUsed, p.floor = m.now, max(p.floor, c.sequence-uint64(c.behind))
	maps.DeleteFunc(p.full, func(n uint64, _ bool) bool { return n < p.floor })
	full, seen := p.full[c.sequence]
	if c.sequence >= p.floor && !seen {
		code := m.store(ss, c)
		if code != Refused {
			p.full[c.sequence] = code == Full
		}
		m.answerUnlessOK(code)
		return
	}
	delete(ss.uploads, c.upload)
	switch {
	case c.sequence < p.floor:
		m.answer(Refused, 0, 0)
	case full:
		m.answer(Full, 0, 0)
	}
}

func (m *model) answerUnlessOK(code ResultCode) {
	if code != OK {
		m.answer(code, 0, 0)
	}
}

func (m *model) peek(ss *modelSession, c *step) {
	q := m.queues[c.queue]
	if q == nil {
		m.answer(Gone, 0, 0)
		return
	}
	ready := slices.Clone(q.ready)
	slices.SortStableFunc(ready, func(a, b *modelMessage) int { return int(b.priority) - int(a.priority) })
	if int(c.credit) >= len(ready) {
		m.answer(Empty, 0, 0)
		return
	}
	msg := ready[c.credit]
	m.answer(Message, len(ready), 0)
	m.results[len(m.results)-1] += ": " + deliveryText(&Delivery{Session: ss.id, Queue: q.id, Redelivered: msg.acquired > 0,
		Persistent: msg.persistent, DeliveryCount: msg.failed, AcquiredCount: msg.acquired}, strings.Join(msg.pieces, ""))
	m.held = append(m.held, msg.pieces...)
}

func (m *model) store(ss *modelSession, c *step) ResultCode {
	pieces := []string{c.body}
	if c.upload != 0 {
		u := ss.uploads[c.upload]
		delete(ss.uploads, c.upload)
		if u == nil || u.refused {
			return Refused
		}
		pieces = append(slices.Clone(u.pieces), c.body)
	}
	full := false
	for _, id := range c.queues {
		q := m.queues[id]
		if q == nil {
			continue
		}
		msg := &modelMessage{queue: q, pieces: pieces, persistent: c.first, acquired: c.acquired, failed: uint32(c.failed)}
		if q.set.RejectPublish && q.over(1, msg.size()) {
			m.serve(q)
		}
		if q.set.RejectPublish && q.over(1, msg.size()) {
			full = true
			continue
		}
		q.total++
		msg.order = q.total
		if c.hasPriority {
			msg.priority = min(uint8(c.priority), q.set.MaxPriority)
		}
		msg.expiry = m.expiry(q, c)
		q.ready = append(q.ready, msg)
	}
	if full {
		return Full
	}
	return OK
}

func (m *model) expiry(q *modelQueue, c *step) int64 {
	ttl := uint64(math.MaxUint64)
	if !c.hasTTL && !q.set.HasMessageTTL {
		return 0
	}
	if c.hasTTL {
		ttl = c.ttl
	}
	if q.set.HasMessageTTL {
		ttl = min(ttl, q.set.MessageTTL)
	}
	ttl = max(ttl, 1)
	if ttl > uint64(math.MaxInt64-m.now) {
		return math.MaxInt64
	}
	return m.now + int64(ttl)
}

func (m *model) configure(c *step) {
	q, n := m.queues[c.queue], c.settings.normal()
	if q == nil {
		if c.first {
			m.answer(Gone, 0, 0)
			return
		}
		q = &modelQueue{id: c.queue}
		m.queues[c.queue] = q
	} else if q.set.AutoDelete != n.AutoDelete || q.set.SingleActive != n.SingleActive || q.set.MaxPriority != n.MaxPriority {
		m.answer(IDTaken, 0, 0)
		return
	}
	q.set, q.lastUsed = n, m.now
	m.answer(OK, len(q.ready), len(q.consumers))
}

func (m *model) delete(c *step) {
	q := m.queues[c.queue]
	switch {
	case q == nil:
		m.answer(Gone, 0, 0)
	case c.first && len(q.consumers) > 0:
		m.answer(InUse, 0, len(q.consumers))
	case c.second && len(q.ready) > 0:
		m.answer(NotEmpty, len(q.ready), 0)
	default:
		m.answer(OK, len(q.ready), 0)
		m.remove(q)
	}
}

func (m *model) purge(c *step) {
	q := m.queues[c.queue]
	if q == nil {
		m.answer(Gone, 0, 0)
		return
	}
	m.answer(OK, len(q.ready), 0)
	q.gone += uint64(len(q.ready))
	q.ready = nil
}

// remove is the end of a queue and of all that anybody has of it.
func (m *model) remove(q *modelQueue) {
	delete(m.queues, q.id)
	for _, ss := range m.sessions {
		for id, c := range ss.consumers {
			switch c.queue {
			case nil:
				c.out = slices.DeleteFunc(c.out, func(o modelOut) bool { return o.m.queue == q })
			case q:
				delete(ss.consumers, id)
				if !c.cancelled {
					m.effects.cancels = append(m.effects.cancels, cancelText(ss.id, id))
				}
			}
		}
	}
}

func cancelText(ss SessionID, c ConsumerID) string { return fmt.Sprintf("%#x %d", uint64(ss), c) }

func (m *model) sessionDown(c *step) {
	ss := m.sessions[c.session.Node()]
	if ss == nil || ss.id != c.session || ss.state == SessionOver {
		return
	}
	ss.state = SessionOver
	for _, k := range ss.sorted() {
		switch {
		case k.queue == nil:
			m.returnAll(k, true, math.MaxUint64)
		case ss.consumers[k.id] == k:
			if !k.cancelled {
				m.effects.cancels = append(m.effects.cancels, cancelText(ss.id, k.id))
			}
			m.detach(k, true, math.MaxUint64)
		}
	}
	for _, u := range ss.uploads {
		u.pieces, u.refused = nil, true
	}
	for seq, k := range ss.kept {
		ss.kept[seq] = modelKept{results: withoutGot(k.results)}
	}
}

// withoutGot says of each get that got something that it got nothing.
func withoutGot(results []string) []string {
	results = slices.Clone(results)
	for i, r := range results {
		var command int
		var code ResultCode
		fmt.Sscan(r, &command, &code)
		if code == Message {
			results[i] = fmt.Sprintf("%d %d 0 0", command, Empty)
		}
	}
	return results
}

func (m *model) suspect(c *step) {
	ss := m.sessions[c.session.Node()]
	if ss == nil || ss.id != c.session || ss.state == SessionOver {
		return
	}
	ss.state = SessionSuspect
	if c.first {
		ss.state = SessionActive
	}
}

func (msg *modelMessage) size() (n uint64) { return uint64(len(strings.Join(msg.pieces, ""))) }

func (msg *modelMessage) expired(now int64) bool { return msg.expiry != 0 && msg.expiry <= now }
