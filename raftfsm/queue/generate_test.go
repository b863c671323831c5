package queue

import (
	"fmt"
	"math"
	"math/bits"
	"regexp"
	"strings"

	"pgregory.net/rapid"
)

// step is one command, for the machine and for the model.
type step struct {
	kind          Kind
	queues        []QueueID
	queue         QueueID
	consumer      ConsumerID
	session       SessionID // of the leader's commands
	upload        uint64
	body          string
	first, second bool // the kind's flags, in order
	hasTTL        bool
	ttl           uint64
	hasPriority   bool
	priority      int32
	credit        uint32
	outcome       Outcome
	ranges        []Range
	settings      *Settings
	index, hash   uint64
	producer      ProducerID
	sequence      uint64
	behind        uint16
	acquired      uint32
	failed        uint16
	delay         uint64
	sent          uint64
}

// proposal is a batch.
type proposal struct {
	session    SessionID
	seq, acked uint64
	steps      []step
}

// String shows what is set, to be read in a counter-example.
func (c step) String() string {
	fields := regexp.MustCompile(`[a-zA-Z]+:(0|false|\[\]|<nil>)? ?`)
	type plain step
	text := fmt.Sprintf("%+v", plain(c))
	if c.kind == KindConfigure {
		text += fmt.Sprintf("%+v", *c.settings)
	}
	return fields.ReplaceAllStringFunc(text, func(f string) string {
		if strings.HasSuffix(f, ":") {
			return f
		}
		return ""
	})
}

func appendEntry(time int64, batches []proposal) []byte {
	entry := AppendEntryHeader(nil, time, uint32(len(batches)))
	for i := range batches {
		entry = batches[i].append(entry)
	}
	return entry
}

func (p *proposal) append(entry []byte) []byte {
	var b Batch
	for i := range p.steps {
		p.steps[i].append(&b)
	}
	return AppendBatch(entry, p.session, p.seq, p.acked, &b)
}

func (c *step) append(b *Batch) {
	switch c.kind {
	case KindEnqueue:
		mark := b.BeginEnqueue(c.queues, &EnqueueOptions{Persistent: c.first, HasPriority: c.hasPriority,
			Priority: uint8(c.priority), HasTTL: c.hasTTL, TTLMillis: c.ttl, Upload: c.upload,
			Producer: c.producer, Sequence: c.sequence, Behind: c.behind, Acquired: c.acquired, Failed: c.failed})
		b.Data = append(b.Data, c.body...)
		b.EndEnqueue(mark)
	case KindChunk:
		b.Chunk(c.upload, []byte(c.body))
	case KindConfigure:
		if c.first {
			b.Reconfigure(c.queue, c.settings)
		} else {
			b.Configure(c.queue, c.settings)
		}
	case KindDelete:
		b.Delete(c.queue, c.first, c.second)
	case KindPurge:
		b.Purge(c.queue)
	case KindAttach:
		b.Attach(c.queue, c.consumer, &AttachOptions{Credit: c.credit, Priority: c.priority, Exclusive: c.first, NoAck: c.second})
	case KindCredit:
		b.Credit(c.consumer, c.credit)
	case KindCancel:
		b.Cancel(c.consumer)
	case KindDetach:
		b.Detach(c.consumer, c.first, c.sent)
	case KindSettle:
		b.Settle(c.consumer, c.outcome, c.ranges...)
	case KindSettleLater:
		b.SettleLater(c.consumer, c.outcome, c.delay, c.ranges...)
	case KindGiveBack:
		b.GiveBack(c.consumer, c.credit, c.ranges[0].From, c.ranges[0].To)
	case KindGet:
		b.Get(c.queue, c.consumer)
	case KindPeek:
		b.Peek(c.queue, c.credit)
	case KindSessionUp:
		b.SessionUp(c.session)
	case KindSessionDown:
		b.SessionDown(c.session)
	case KindSuspect:
		b.Suspect(c.session, c.first)
	case KindTick:
		b.Tick()
	case KindHash:
		b.Hash(c.index, c.hash)
	}
}

// generator draws entries.
type generator struct {
	t      *rapid.T
	m      *model
	bodies int
	runs   [4]uint64                // by node
	sent   map[SessionID][]proposal // batches so far, by number
}

const generatedQueues, generatedConsumers = 4, 4

// sessionKinds lists commands as often as they shall come.
var sessionKinds = []Kind{
	KindEnqueue, KindEnqueue, KindEnqueue, KindEnqueue, KindEnqueue, KindEnqueue, KindChunk, KindChunk, KindConfigure, KindConfigure,
	KindDelete, KindPurge, KindAttach, KindAttach, KindAttach, KindCredit, KindCredit, KindCancel, KindDetach,
	KindSettle, KindSettle, KindSettle, KindSettle, KindSettleLater, KindSettleLater, KindGiveBack, KindGiveBack, KindGet, KindGet, KindPeek,
}

var leaderKinds = []Kind{KindSessionUp, KindSessionDown, KindSuspect, KindSuspect, KindTick, KindConfigure, KindDelete, KindPurge}

// number draws a number evenly, which rapid's own ranges do not: they prefer the ends.
func (g *generator) number(from, to int) int {
	n := 0
	for range bits.Len(uint(to-from)) + 1 {
		n <<= 1
		if rapid.Bool().Draw(g.t, "bit") {
			n++
		}
	}
	return from + n%(to-from+1)
}

// pick draws one of several values.
func pick[T any](g *generator, values ...T) T { return values[g.number(0, len(values)-1)] }

// chance is true once in n, and not when a failure is made small.
func (g *generator) chance(n int) bool { return g.number(0, n-1) == n-1 }

// batches draws the batches of one entry.
func (g *generator) batches() []proposal {
	batches := make([]proposal, g.number(1, 3))
	for i := range batches {
		batches[i] = g.batch()
	}
	return batches
}

// queues configures all queues but one, so that there is something to do.
func (g *generator) queues() (p proposal) {
	for n := range generatedQueues - 1 {
		id := MakeQueueID(3, uint64(n)+1)
		p.steps = append(p.steps, step{kind: KindConfigure, queue: id, settings: g.settings(id)})
	}
	return p
}

func (g *generator) batch() proposal {
	if g.chance(6) {
		return proposal{steps: g.steps(2, leaderKinds)}
	}
	id := g.sessionID()
	sent := g.sent[id]
	if len(sent) > 0 && g.chance(6) {
		p := sent[g.number(0, len(sent)-1)]
		p.acked = uint64(g.number(0, len(sent)))
		return p
	}
	p := proposal{session: id, seq: uint64(len(sent)) + 1, steps: g.steps(6, sessionKinds)}
	if g.chance(12) {
		p.seq += uint64(g.number(1, 3))
		return p
	}
	if len(sent) > 0 {
		p.acked = sent[len(sent)-1].acked
	}
	if g.chance(3) {
		p.acked = uint64(g.number(0, len(sent)+1))
	}
	g.sent[id] = append(sent, p)
	return p
}

// sessionID draws a session: mostly the present run of a node, sometimes its next or the one before.
func (g *generator) sessionID() SessionID {
	node := g.number(1, len(g.runs)-1)
	if g.chance(40) {
		g.runs[node]++
	}
	run := g.runs[node] + 1
	if run > 1 && g.chance(20) {
		run--
	}
	return MakeSessionID(uint16(node), run)
}

func (g *generator) steps(most int, kinds []Kind) []step {
	steps := make([]step, g.number(0, most))
	for i := range steps {
		steps[i] = g.step(pick(g, kinds...))
	}
	return steps
}

func (g *generator) step(k Kind) step {
	c := step{kind: k, first: g.chance(3), second: g.chance(3)}
	switch k {
	case KindEnqueue:
		g.enqueue(&c)
	case KindChunk:
		c.upload, c.body = uint64(g.number(1, 2)), g.body()
	case KindSessionUp, KindSessionDown, KindSuspect:
		c.session = g.sessionID()
	case KindSettle:
		c.consumer, c.outcome, c.ranges = g.consumer(), Outcome(g.number(0, int(Undelivered))), g.ranges()
	case KindSettleLater:
		c.consumer, c.outcome, c.ranges = g.consumer(), pick(g, Requeue, RejectRequeue), g.ranges()
		c.delay = pick[uint64](g, 1, 5, 20, 20, MaxDelay)
	case KindGiveBack:
		c.consumer, c.credit = g.consumer(), uint32(pick[int](g, 1, 2, 5, 100, 0))
		last := uint64(g.number(0, 12))
		if g.chance(2) {
			last = g.last(c.consumer)
		}
		c.ranges = []Range{{last - min(last, uint64(g.number(0, 3))), last}}
	default:
		c.queue, c.consumer = g.queue(), g.consumer()
		c.credit = uint32(pick[int](g, 1, 2, 5, 100, 0))
		c.priority = int32(pick[int](g, 0, 1, -7))
		c.first = g.chance(8)
		c.sent = pick[uint64](g, math.MaxUint64, 0, uint64(g.number(0, 12)))
		c.settings = g.settings(c.queue)
	}
	return c
}

func (g *generator) queue() QueueID { return MakeQueueID(3, uint64(g.number(1, generatedQueues))) }

// last is the last delivery of some consumer of that id, 0 if there is none.
func (g *generator) last(id ConsumerID) (last uint64) {
	for _, ss := range g.m.sessions {
		if k := ss.consumers[id]; k != nil {
			last = max(last, k.lastID)
		}
	}
	return last
}

func (g *generator) consumer() ConsumerID { return ConsumerID(g.number(1, generatedConsumers)) }

func (g *generator) enqueue(c *step) {
	for range g.number(1, 3) {
		c.queues = append(c.queues, g.queue())
	}
	c.body = g.body()
	c.hasPriority, c.priority = g.chance(2), int32(pick[int](g, 0, 1, 3, 4, 200))
	c.hasTTL, c.ttl = g.chance(5), pick[uint64](g, 0, 1, 10, 30, math.MaxUint64)
	if g.chance(6) {
		c.upload = uint64(g.number(1, 2))
	}
	if g.chance(8) {
		c.acquired, c.failed = pick[uint32](g, 0, 1, 5, 1000), pick[uint16](g, 0, 1, 5, 1000)
	}
	if g.chance(3) {
		c.producer[0], c.sequence = byte(g.number(1, 2)), uint64(g.number(1, 20))
		if g.chance(8) {
			c.sequence = uint64(g.number(1, 400))
		}
		c.behind = uint16(min(int(c.sequence)-1, g.number(0, 20)))
	}
}

// body returns a text that no other message has, or none.
func (g *generator) body() string {
	if g.chance(10) {
		return ""
	}
	g.bodies++
	return fmt.Sprintf("m%d%s", g.bodies, strings.Repeat(".", g.number(0, 5)))
}

func (g *generator) ranges() []Range {
	ranges := make([]Range, g.number(1, 2))
	for i := range ranges {
		from := uint64(g.number(0, 12))
		ranges[i] = Range{from, from + pick[uint64](g, 0, 1, 5, math.MaxUint64/2)}
	}
	return ranges
}

// settings draws settings; the first queues mostly have a kind of their own, so that they can be configured again.
func (g *generator) settings(id QueueID) *Settings {
	n := int(id & 3)
	s := &Settings{VHost: "/", Name: fmt.Sprint("q", n), SingleActive: n == 1, AutoDelete: n == 2}
	if n == 3 || g.chance(10) {
		s.MaxPriority = uint8(pick[int](g, 3, 200))
	}
	s.HasMessageTTL, s.MessageTTL = g.chance(8), uint64(g.number(0, 20))
	if g.chance(8) {
		s.Expires = uint64(g.number(1, 60))
	}
	s.HasMaxLength, s.MaxLength = g.chance(5), uint64(g.number(0, 4))
	s.HasMaxLengthBytes, s.MaxLengthBytes = g.chance(8), uint64(g.number(0, 40))
	s.RejectPublish = g.chance(3)
	s.HasDeliveryLimit, s.DeliveryLimit = g.chance(5), uint32(g.number(0, 2))
	return s
}
