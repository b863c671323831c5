package queue

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"slices"
)

// A snapshot, all integers little endian:
//
//	header    "WrnQ" | format u16 (3) | reserved u16 | machine version u32 | applied u64 | time i64 |
//	          large messages u32 | queues u32 | sessions u32
//	large     index u64 | offset u32 | refs                                       by index, offset
//	queue     id u64 | settings u32, bytes | last order u64 | last used i64 |     by id
//	          lanes u16, each: priority u8, returned u64, fresh u64, records of both in order |
//	          delayed u64, each: number u64, queue u64, record                      by number
//	session   id u64 | state u8 | last seq u64 | acked u64 | kept u32 … | uploads u32 … | consumers u32 …
//	kept      seq u64 | results u32, each: command u32, code u8, messages u64, consumers u32,
//	          with code Message also: consumer u64, id u64, queue u64, redelivered u8, persistent u8,
//	          delivery count u32, acquired count u32, refs
//	upload    number u64 | refused u8 | refs                                      by number
//	consumer  id u64 | flags u8 | queue u64 | credit u32 | priority i32 |         by id
//	          tag u32, bytes | last id u64 | unsettled u64, each: id u64, queue u64, record
//	turns     for each queue in order: consumers u32 (in order of Attach), each: session u64, id u64;
//	          ring u32 (in order of service), each: ordinal u32 in that list; active u32: ordinal + 1 or 0
//	producers u32, in order of their last use, each: id 16 bytes | floor u64 | last used i64 |
//	          seen u16, each 64 numbers from floor/64*64 on | full u16, likewise
//	end       digest u64 of the state
//
//	refs      u32, each: index u64, offset u32, size u32
//	record    index u64, order u64, expiry i64, offset u32, size u32, acquired u32, failed u16, flags u8, priority u8
//
// What follows from the rest (counts, timers, hashes, the current lane) is not in it. The bytes depend on the state
// alone, not on how it came about. Format 1 had no producers, format 2 no delayed
// messages.
const (
	snapshotMagic  = "WrnQ"
	snapshotFormat = 3
	describedQueue = 160 // bytes that most queues need, beside their messages
)

// Snapshot is the state at an index. It stays as it is while the State goes on, and may be used by another goroutine.
// It holds on to the memory of the messages that were there; drop it when it is written.
type Snapshot struct {
	index uint64
	meta  []byte // all but the records
	parts []part
	size  int64
	refs  []Ref // that lie elsewhere than in a record without pieces

	messages, octets uint64

	queues []queueSettings // by id
	larges []placedLarge   // by place
}

// queueSettings and placedLarge point at what never changes once it is there.
type queueSettings struct {
	id       QueueID
	settings *Settings
}

type placedLarge struct {
	at place
	*large
}

// part is records that come after meta[:at].
type part struct {
	at    int
	span  span
	pages []*page
	bare  bool    // of the pages' entries, only the records: the part is a lane
	queue QueueID // of a lane
}

// Snapshot takes a view of the state. It costs in proportion to queues, consumers, sessions and a hundredth of the
// messages.
func (s *State) Snapshot() *Snapshot {
	s.pool.epoch++ // from here on nothing that is in use changes in place
	sn := &Snapshot{index: s.applied, meta: make([]byte, 0, 4<<10+len(s.queues)*describedQueue)}
	s.describe(sn)
	sn.messages, sn.octets = s.Contents()
	sn.size += int64(len(sn.meta))
	slices.SortFunc(sn.refs, compareRefs)
	sn.refs = slices.CompactFunc(sn.refs, func(a, b Ref) bool { return compareRefs(a, b) == 0 })
	return sn
}

// Index is that of the last entry applied.
func (sn *Snapshot) Index() uint64 { return sn.index }

// Contents is State.Contents of the state.
func (sn *Snapshot) Contents() (messages, octets uint64) { return sn.messages, sn.octets }

// Size is how many bytes WriteTo writes.
func (sn *Snapshot) Size() int64 { return sn.size }

// WriteTo writes the snapshot. Equal states give equal bytes.
func (sn *Snapshot) WriteTo(w io.Writer) (int64, error) {
	cw := &countingWriter{w: w}
	bw := bufio.NewWriterSize(cw, 64<<10)
	at := 0
	for i := range sn.parts {
		p := &sn.parts[i]
		bw.Write(sn.meta[at:p.at]) // an error stays with bw until Flush
		at = p.at
		p.writeTo(bw)
	}
	bw.Write(sn.meta[at:])
	if err := bw.Flush(); err != nil {
		return cw.n, fmt.Errorf("write snapshot at %d: %w", sn.index, err)
	}
	return cw.n, nil
}

func (p *part) writeTo(w *bufio.Writer) {
	var b [entrySize]byte
	for _, pg := range p.pages {
		for i := range pg.live() {
			e := &pg.live()[i]
			binary.LittleEndian.PutUint64(b[:], e.id)
			binary.LittleEndian.PutUint64(b[8:], uint64(e.queue))
			e.record.put(b[16:])
			if p.bare {
				w.Write(b[16:])
			} else {
				w.Write(b[:])
			}
		}
	}
	for records := range p.span.parts() {
		for i := range records {
			records[i].put(b[:])
			w.Write(b[:recordSize])
		}
	}
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

func (sn *Snapshot) u8(v uint8)   { sn.meta = append(sn.meta, v) }
func (sn *Snapshot) u16(v uint16) { sn.meta = binary.LittleEndian.AppendUint16(sn.meta, v) }
func (sn *Snapshot) u32(v uint32) { sn.meta = binary.LittleEndian.AppendUint32(sn.meta, v) }
func (sn *Snapshot) u64(v uint64) { sn.meta = binary.LittleEndian.AppendUint64(sn.meta, v) }

func (sn *Snapshot) flag(v bool) {
	if v {
		sn.u8(1)
	} else {
		sn.u8(0)
	}
}

func (sn *Snapshot) text(v string) {
	sn.u32(uint32(len(v)))
	sn.meta = append(sn.meta, v...)
}

// listRefs writes references and notes that they are alive.
func (sn *Snapshot) listRefs(refs ...[]Ref) {
	n := 0
	for _, rs := range refs {
		n += len(rs)
	}
	sn.u32(uint32(n))
	for _, rs := range refs {
		for _, r := range rs {
			sn.u64(r.Index)
			sn.u32(r.Offset)
			sn.u32(r.Size)
			if r.Size > 0 {
				sn.refs = append(sn.refs, r)
			}
		}
	}
}

func (sn *Snapshot) body(b *Body) { sn.listRefs([]Ref{b.First}, b.More) }

// describe writes the state.
func (s *State) describe(sn *Snapshot) {
	sn.meta = append(sn.meta, snapshotMagic...)
	sn.u16(snapshotFormat)
	sn.u16(0)
	sn.u32(s.version)
	sn.u64(s.applied)
	sn.u64(uint64(s.now))
	sn.u32(uint32(len(s.large)))
	sn.u32(uint32(len(s.queues)))
	sn.u32(uint32(len(s.sessions)))
	for _, at := range sortedKeys(s.large, comparePlaces) {
		sn.u64(at.index)
		sn.u32(at.offset)
		sn.body(&s.large[at].body)
		sn.larges = append(sn.larges, placedLarge{at, s.large[at]})
	}
	queues := slices.Collect(s.sortedQueues())
	for _, q := range queues {
		q.describe(sn)
	}
	for ss := range s.sortedSessions() {
		ss.describe(sn)
	}
	for _, q := range queues {
		q.describeTurns(sn)
	}
	sn.u32(uint32(len(s.producers.byID)))
	for p := s.producers.oldest; p != nil; p = p.newer {
		p.describe(sn)
	}
	sn.u64(s.Hash())
}

func (q *queue) describe(sn *Snapshot) {
	sn.u64(uint64(q.id))
	sn.u32(0)
	start := len(sn.meta)
	sn.meta = q.settings.appendNormal(sn.meta)
	binary.LittleEndian.PutUint32(sn.meta[start-4:], uint32(len(sn.meta)-start))
	sn.u64(q.lastOrder)
	sn.u64(uint64(q.lastUsed))
	lanes := 0
	for _, set := range q.occupied {
		lanes += bits.OnesCount64(set)
	}
	sn.u16(uint16(lanes))
	for i := range q.filled() {
		q.lanes[i].describe(sn, q.id, i)
	}
	sn.u64(uint64(q.delayed.n))
	sn.size += int64(q.delayed.n) * entrySize
	sn.parts = append(sn.parts, part{at: len(sn.meta), pages: q.delayed.pin()})
	sn.queues = append(sn.queues, queueSettings{q.id, q.settings})
}

func (l *lane) describe(sn *Snapshot, id QueueID, priority uint8) {
	sn.u8(priority)
	sn.u64(uint64(l.back.n))
	sn.u64(uint64(l.fresh))
	sn.size += int64(l.len()) * recordSize
	sn.parts = append(sn.parts, part{at: len(sn.meta), span: l.pin(), pages: l.back.pin(), bare: true, queue: id})
}

func (ss *session) describe(sn *Snapshot) {
	sn.u64(uint64(ss.id))
	sn.u8(uint8(ss.state))
	sn.u64(ss.last)
	sn.u64(ss.acked)
	sn.u32(uint32(len(ss.kept)))
	for _, k := range ss.kept {
		sn.u64(k.seq)
		sn.u32(uint32(len(k.results)))
		for i := range k.results {
			sn.result(&k.results[i])
		}
	}
	sn.u32(uint32(len(ss.uploads)))
	for _, id := range sortedKeys(ss.uploads, cmp.Compare) {
		sn.u64(id)
		sn.flag(ss.uploads[id].refused)
		sn.listRefs(ss.uploads[id].pieces)
	}
	sn.u32(uint32(len(ss.consumers)))
	for _, c := range ss.sortedConsumers() {
		c.describe(sn)
	}
}

func (sn *Snapshot) result(r *Result) {
	sn.u32(r.Command)
	sn.u8(uint8(r.Code))
	sn.u64(r.Messages)
	sn.u32(r.Consumers)
	if r.Code != Message {
		return
	}
	d := &r.Delivery
	sn.u64(uint64(d.Consumer))
	sn.u64(d.ID)
	sn.u64(uint64(d.Queue))
	sn.flag(d.Redelivered)
	sn.flag(d.Persistent)
	sn.u32(d.DeliveryCount)
	sn.u32(d.AcquiredCount)
	sn.body(&d.Body)
}

func (c *consumer) describe(sn *Snapshot) {
	sn.u64(uint64(c.id))
	sn.u8(c.flags())
	if c.queue != nil {
		sn.u64(uint64(c.queue.id))
	} else {
		sn.u64(0)
	}
	sn.u32(c.credit)
	sn.u32(uint32(c.priority))
	sn.text(c.tag)
	sn.u64(c.lastID)
	sn.u64(uint64(c.out.n))
	sn.size += int64(c.out.n) * entrySize
	sn.parts = append(sn.parts, part{at: len(sn.meta), pages: c.out.pin()})
}

// describeTurns writes whose turn it is: the order of consumers and of those that can take a message.
func (q *queue) describeTurns(sn *Snapshot) {
	sn.u32(uint32(len(q.consumers)))
	for i, c := range q.consumers {
		c.ordinal = uint32(i) + 1
		sn.u64(uint64(c.session.id))
		sn.u64(uint64(c.id))
	}
	count := len(sn.meta)
	sn.u32(0)
	ring := uint32(0)
	for _, l := range q.levels {
		for c := l.head; c != nil; c = c.next {
			sn.u32(c.ordinal - 1)
			ring++
		}
	}
	binary.LittleEndian.PutUint32(sn.meta[count:], ring)
	if q.active != nil {
		sn.u32(q.active.ordinal)
	} else {
		sn.u32(0)
	}
}

func sortedKeys[K comparable, V any](m map[K]V, compare func(a, b K) int) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, compare)
	return keys
}

func comparePlaces(a, b place) int {
	return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(a.offset, b.offset))
}

func compareRefs(a, b Ref) int {
	return cmp.Or(cmp.Compare(a.Index, b.Index), cmp.Compare(a.Offset, b.Offset))
}
