package queue

import (
	"cmp"
	"container/heap"
	"slices"
)

// StoredMessage is a message in a snapshot: where its envelope lies, and which queues of the shard have it.
type StoredMessage struct {
	Body       Body
	Persistent bool
	Places     []Place // in order of the queues' ids
}

// Place is what a queue knows of a message.
type Place struct {
	Queue    QueueID
	Priority uint8
	Out      bool   // it is out with a consumer or getter
	Failed   uint16 // failed deliveries
	Acquired uint32 // times handed out and returned
	Expiry   int64  // milliseconds of the entries' clock; 0: never
}

// Time is the machine's time, in milliseconds: the highest of all entries.
func (sn *Snapshot) Time() int64 { return int64(u64(sn.meta[20:])) }

// Queues yields the queues in order of their ids. The settings must not be changed.
func (sn *Snapshot) Queues(yield func(QueueID, *Settings) bool) {
	for _, q := range sn.queues {
		if !yield(q.id, q.settings) {
			return
		}
	}
}

// Messages yields all messages, ready or out, each once, in the order in which they were enqueued: so in the order of each of
// their queues, within a priority, where those that are out belong before what came after them. What is yielded is only lent.
func (sn *Snapshot) Messages(yield func(*StoredMessage) bool) {
	h := &storedHeap{}
	h.add(&stored{out: sn.outRecords()})
	for i := range sn.parts {
		if p := &sn.parts[i]; p.bare {
			h.add(&stored{queue: p.queue, lane: source{pages: p.pages, span: p.span}})
		}
	}
	heap.Init(h)
	var m StoredMessage
	for len(*h) > 0 {
		at := (*h)[0].record.place()
		m = StoredMessage{Body: sn.bodyOf((*h)[0].record), Persistent: (*h)[0].record.flags&recordPersistent != 0, Places: m.Places[:0]}
		for len(*h) > 0 && (*h)[0].record.place() == at {
			src := (*h)[0]
			r := src.record
			m.Places = append(m.Places, Place{Queue: src.queue, Priority: r.priority, Out: src.isOut, Failed: r.failed, Acquired: r.acquired, Expiry: r.expiry})
			if src.next() {
				heap.Fix(h, 0)
			} else {
				heap.Pop(h)
			}
		}
		if !yield(&m) {
			return
		}
	}
}

// outRecords are the messages that are out, in the order of Messages. It takes memory for each of them: consumers' credit bounds it.
func (sn *Snapshot) outRecords() []entry {
	var out []entry
	for i := range sn.parts {
		if p := &sn.parts[i]; !p.bare {
			for _, pg := range p.pages {
				out = append(out, pg.live()...)
			}
		}
	}
	slices.SortFunc(out, func(a, b entry) int { return compareStored(&a.record, a.queue, &b.record, b.queue) })
	return out
}

func (sn *Snapshot) bodyOf(r *record) Body {
	if r.flags&recordLarge == 0 {
		return Body{First: r.ref()}
	}
	i, _ := slices.BinarySearchFunc(sn.larges, r.place(), func(l placedLarge, at place) int { return comparePlaces(l.at, at) })
	return sn.larges[i].body
}

// compareStored compares by the order of Messages; an Enqueue may have put its message into a queue twice.
func compareStored(a *record, aq QueueID, b *record, bq QueueID) int {
	return cmp.Or(comparePlaces(a.place(), b.place()), cmp.Compare(aq, bq), cmp.Compare(a.order, b.order))
}

// stored is a run of messages with the next one at hand: a lane, or all that is out.
type stored struct {
	record *record
	queue  QueueID // of the record
	isOut  bool
	lane   source
	out    []entry
}

func (s *stored) next() bool {
	if len(s.out) > 0 {
		e := &s.out[0]
		s.record, s.queue, s.isOut, s.out = &e.record, e.queue, true, s.out[1:]
		return true
	}
	if s.isOut {
		return false
	}
	s.record = s.lane.record()
	return s.record != nil
}

// storedHeap has the run with the first message in front.
type storedHeap []*stored

func (h *storedHeap) add(s *stored) {
	if s.next() {
		*h = append(*h, s)
	}
}

func (h storedHeap) Len() int { return len(h) }
func (h storedHeap) Less(i, j int) bool {
	return compareStored(h[i].record, h[i].queue, h[j].record, h[j].queue) < 0
}
func (h storedHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *storedHeap) Push(x any)   { *h = append(*h, x.(*stored)) }
func (h *storedHeap) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return x
}

// AppendSettings adds settings in their binary form; ParseSettings reads them back, from exactly their octets.
func AppendSettings(dst []byte, s *Settings) []byte { return s.append(dst) }

// ParseSettings reads what AppendSettings wrote. The error is ErrMalformed or, for what a later program wrote, ErrVersion.
func ParseSettings(data []byte) (*Settings, error) { return parseSettings(data) }
