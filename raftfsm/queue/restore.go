package queue

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
)

// Restore reads the state that a snapshot was taken of. It reads r to the end of the snapshot (and may read ahead),
// allocates in proportion to what it has read, and refuses what a State could not go on from or would write otherwise.
func Restore(r io.Reader) (*State, error) {
	d := &decoder{r: bufio.NewReaderSize(r, 64<<10), s: New()}
	d.state()
	if d.err != nil {
		return nil, fmt.Errorf("restore: %w", d.err)
	}
	return d.s, nil
}

// decoder reads a snapshot. After the first error it reads zeros, and every loop ends.
type decoder struct {
	r      *bufio.Reader
	s      *State
	format uint16
	err    error
}

var zeros [entrySize]byte

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrSnapshot, fmt.Sprintf(format, args...))
	}
}

// demand fails unless what must hold does.
func (d *decoder) demand(ok bool, what string) {
	if !ok {
		d.fail("%s", what)
	}
}

// bytes returns the next n bytes, at most entrySize, until the next call.
func (d *decoder) bytes(n int) []byte {
	if d.err != nil {
		return zeros[:n]
	}
	b, err := d.r.Peek(n)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		d.err = fmt.Errorf("%w: %w", ErrSnapshot, err)
		return zeros[:n]
	}
	d.r.Discard(n) // cannot fail after Peek
	return b
}

func (d *decoder) u8() uint8   { return d.bytes(1)[0] }
func (d *decoder) u16() uint16 { return u16(d.bytes(2)) }
func (d *decoder) u32() uint32 { return u32(d.bytes(4)) }
func (d *decoder) u64() uint64 { return u64(d.bytes(8)) }

func (d *decoder) flag() bool {
	v := d.u8()
	d.demand(v <= 1, "flag above 1")
	return v == 1
}

// time reads milliseconds, which are not negative.
func (d *decoder) time() int64 {
	t := int64(d.u64())
	d.demand(t >= 0, "negative time")
	return t
}

// text reads bytes after their number, which may be up to limit.
func (d *decoder) text(limit uint32) []byte {
	n := d.u32()
	if n > limit {
		d.fail("text of %d bytes", n)
	}
	if d.err != nil {
		return nil
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(d.r, b); err != nil {
		d.err = fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	return b
}

func (d *decoder) refs() []Ref {
	n := d.u32()
	if n > maxUploadPieces+1 {
		d.fail("%d pieces", n)
	}
	var refs []Ref
	for ; n > 0 && d.err == nil; n-- {
		refs = append(refs, Ref{d.u64(), d.u32(), d.u32()})
	}
	return refs
}

func (d *decoder) body() Body {
	refs := d.refs()
	if len(refs) == 0 {
		d.fail("message without a piece")
		return Body{}
	}
	b := Body{First: refs[0]}
	if len(refs) > 1 {
		b.More = refs[1:]
	}
	return b
}

func (d *decoder) state() {
	s := d.s
	if magic := string(d.bytes(4)); magic != snapshotMagic {
		d.fail("begins with %q", magic)
		return
	}
	d.format = d.u16()
	if d.format == 0 || d.format > snapshotFormat {
		d.err = fmt.Errorf("%w: snapshot format %d", ErrVersion, d.format)
		return
	}
	d.demand(d.u16() == 0, "reserved bytes set")
	s.version = d.u32()
	if s.version > Version {
		d.err = fmt.Errorf("%w: machine version %d", ErrVersion, s.version)
		return
	}
	s.applied, s.now = d.u64(), d.time()
	larges, queues, sessions := d.u32(), d.u32(), d.u32()
	inOrder(d, larges, comparePlaces, d.large)
	inOrder(d, queues, cmp.Compare, d.queue)
	inOrder(d, sessions, cmp.Compare, d.session)
	for q := range s.sortedQueues() {
		if d.err == nil {
			d.turns(q)
		}
	}
	if d.format > 1 {
		d.producers(d.u32())
	}
	d.finish()
}

// inOrder reads n parts, whose keys must ascend.
func inOrder[K comparable](d *decoder, n uint32, compare func(a, b K) int, read func() K) {
	var last K
	for i := uint32(0); i < n && d.err == nil; i++ {
		key := read()
		d.demand(i == 0 || compare(last, key) < 0, "parts out of order")
		last = key
	}
}

// finish checks the whole and sets what follows from it.
func (d *decoder) finish() {
	s := d.s
	for _, l := range s.large {
		d.demand(l.users > 0, "large message that nobody has")
	}
	for _, ss := range s.sessions {
		for _, c := range ss.consumers {
			d.demand(c.queue == nil || c.ordinal > 0, "consumer that its queue does not know")
		}
	}
	hash := d.u64()
	if d.err == nil && hash != s.Hash() {
		d.fail("digest %#x, the end says %#x", s.Hash(), hash)
	}
	if d.err != nil {
		return
	}
	for q := range s.sortedQueues() {
		q.dirty = false
		s.schedule(q)
	}
	s.dirty = s.dirty[:0]
	s.recent.remember(s.applied, hash)
}

func (d *decoder) large() place {
	at := place{d.u64(), d.u32()}
	l := &large{body: d.body()}
	l.size = l.body.Size()
	d.s.large[at] = l
	return at
}

func (d *decoder) queue() QueueID {
	s := d.s
	id := QueueID(d.u64())
	settings, err := parseSettings(d.text(settingsFixed + 4*(2+maxSettingText)))
	if err != nil || d.err != nil {
		d.fail("queue %#x: %v", id, err)
		return id
	}
	q := newQueue(id, settings)
	q.lastOrder, q.lastUsed = d.u64(), d.time()
	s.queues[id] = q
	s.resum(&q.meta, q.hash())
	lowest := 0
	for n := d.u16(); n > 0 && d.err == nil; n-- {
		priority := d.u8()
		if int(priority) < lowest || priority > settings.MaxPriority {
			d.fail("lane of priority %d", priority)
			return id
		}
		lowest = int(priority) + 1
		d.lane(q, priority)
	}
	if d.format > 2 {
		last := uint64(0)
		for n := d.u64(); n > 0 && d.err == nil; n-- {
			last = d.delayed(q, last)
		}
	}
	return id
}

func (d *decoder) delayed(q *queue, last uint64) (number uint64) {
	number = d.u64()
	id := QueueID(d.u64())
	var r record
	d.record(&r)
	d.demand(id == q.id && number > last && number>>63 == 0 && r.order <= q.lastOrder && r.priority <= q.settings.MaxPriority,
		"delayed message out of its place")
	if d.err != nil {
		return number
	}
	d.s.retain(&r)
	e := q.delayed.push(&d.s.pool, number)
	e.queue, e.record = q.id, r
	d.s.sum += q.waitKey() * fold(number, r.hash())
	return number
}

func (d *decoder) lane(q *queue, priority uint8) {
	s := d.s
	l := q.lane(priority)
	back, fresh := d.u64(), d.u64()
	d.demand(back+fresh > 0, "empty lane")
	var last record
	read := func() (r record) {
		d.record(&r)
		d.demand(r.order > last.order && r.order <= q.lastOrder && r.priority == priority &&
			comparePlaces(last.place(), r.place()) <= 0, "record out of its place")
		last = r
		return r
	}
	for ; back > 0 && d.err == nil; back-- {
		r := read()
		if d.err == nil {
			s.retain(&r)
			s.putBack(q, &r)
		}
	}
	for ; fresh > 0 && d.err == nil; fresh-- {
		r := read()
		if d.err == nil {
			s.retain(&r)
			*l.push(&s.pool) = r
			s.joined(q, &r)
		}
	}
}

func (d *decoder) record(r *record) {
	r.get(d.bytes(recordSize))
	d.demand(r.flags < recordFlagsEnd && r.expiry >= 0 && r.index <= d.s.applied, "record with unknown flags, time or entry")
	if r.flags&recordLarge != 0 {
		d.demand(d.s.large[r.place()] != nil, "record without its large message")
	}
}

func (d *decoder) session() uint16 {
	s := d.s
	ss := newSession(SessionID(d.u64()))
	d.demand(ss.id != 0, "session 0")
	ss.state = SessionState(d.u8())
	d.demand(ss.state <= SessionOver, "unknown session state")
	ss.last, ss.acked = d.u64(), d.u64()
	d.demand(ss.acked <= ss.last, "acknowledged more than was done")
	s.sessions[ss.id.Node()] = ss
	s.resum(&ss.meta, ss.hash())
	for n := d.u32(); n > 0 && d.err == nil; n-- {
		d.kept(ss)
	}
	inOrder(d, d.u32(), cmp.Compare, func() uint64 { return d.upload(ss) })
	inOrder(d, d.u32(), cmp.Compare, func() ConsumerID { return d.consumer(ss) })
	return ss.id.Node()
}

func (d *decoder) kept(ss *session) {
	seq := d.u64()
	after := ss.acked
	if n := len(ss.kept); n > 0 {
		after = ss.kept[n-1].seq
	}
	n := d.u32()
	d.demand(seq > after && seq <= ss.last && n > 0, "results out of order")
	var results []Result
	for ; n > 0 && d.err == nil; n-- {
		results = append(results, d.result(ss))
	}
	k := keptOf(seq, results)
	d.s.octets += k.octets
	ss.kept = append(ss.kept, k)
}

func (d *decoder) result(ss *session) Result {
	r := Result{Command: d.u32(), Code: ResultCode(d.u8()), Messages: d.u64(), Consumers: d.u32()}
	d.demand(r.Code <= Later, "unknown result")
	if r.Code != Message {
		return r
	}
	r.Delivery = Delivery{
		Session: ss.id, Consumer: ConsumerID(d.u64()), ID: d.u64(), Queue: QueueID(d.u64()),
		Redelivered: d.flag(), Persistent: d.flag(), DeliveryCount: d.u32(), AcquiredCount: d.u32(),
	}
	r.Delivery.Body = d.body()
	return r
}

func (d *decoder) upload(ss *session) uint64 {
	id := d.u64()
	u := &upload{refused: d.flag(), pieces: d.refs()}
	d.demand(u.refused == (len(u.pieces) == 0) && len(u.pieces) <= maxUploadPieces, "upload with too few pieces or too many")
	if d.err != nil {
		return id
	}
	for _, r := range u.pieces {
		u.size += uint64(r.Size)
	}
	ss.uploads[id] = u
	d.s.octets += u.size
	d.s.resum(&u.sum, u.hash(ss, id))
	return id
}

func (d *decoder) consumer(ss *session) ConsumerID {
	c := newConsumer(ss, ConsumerID(d.u64()))
	flags, id := d.u8(), QueueID(d.u64())
	d.demand(flags < consumerFlagsEnd, "consumer with unknown flags")
	c.exclusive, c.noAck = flags&consumerExclusive != 0, flags&consumerNoAck != 0
	c.cancelled = flags&consumerCancelled != 0
	c.credit, c.priority = d.u32(), int32(d.u32())
	c.tag = string(d.text(maxSettingText))
	c.lastID = d.u64()
	if flags&consumerGetter == 0 {
		c.queue = d.s.queues[id]
		d.demand(c.queue != nil && (ss.state != SessionOver), "consumer of no queue or of a session that is over")
	} else {
		d.demand(flags == consumerGetter && id == 0 && c.credit == 0 && c.priority == 0 && c.tag == "", "getter with more than a getter has")
	}
	n := d.u64()
	d.demand(!c.cancelled || n > 0, "cancelled consumer that has nothing")
	if d.err != nil {
		return c.id
	}
	ss.consumers[c.id] = c
	d.s.resum(&c.meta, c.hash())
	for last := uint64(0); n > 0 && d.err == nil; n-- {
		last = d.unsettled(c, last)
	}
	return c.id
}

func (d *decoder) unsettled(c *consumer, last uint64) (id uint64) {
	id = d.u64()
	q := d.s.queues[QueueID(d.u64())]
	var r record
	d.record(&r)
	if q == nil || c.queue != nil && c.queue != q {
		d.fail("unsettled message of another queue or none")
		return id
	}
	d.demand(id > last && id <= c.lastID && r.order <= q.lastOrder && r.priority <= q.settings.MaxPriority,
		"unsettled message out of its place")
	if d.err != nil {
		return id
	}
	d.s.retain(&r)
	e := c.out.push(&d.s.pool, id)
	e.queue, e.record = q.id, r
	d.s.sum += c.key * fold(id, r.hash())
	q.unsettled++
	if c.queue == nil {
		q.gotten++
	}
	return id
}

// turns reads whose turn it is in a queue.
func (d *decoder) turns(q *queue) {
	for n := d.u32(); n > 0 && d.err == nil; n-- {
		d.member(q)
	}
	var last *consumer
	for n := d.u32(); n > 0 && d.err == nil; n-- {
		i := int(d.u32())
		if i >= len(q.consumers) || q.consumers[i].inRing || q.consumers[i].cancelled ||
			last != nil && last.priority < q.consumers[i].priority {
			d.fail("queue %#x serves a consumer that cannot take a message, or not yet", q.id)
			return
		}
		last = q.consumers[i]
		last.level.join(last)
	}
	active := int(d.u32())
	if active > len(q.consumers) || active > 0 && (q.consumers[active-1].cancelled || !q.settings.SingleActive) {
		d.fail("queue %#x has a wrong active consumer", q.id)
		return
	}
	if active > 0 {
		q.active = q.consumers[active-1]
	}
	d.settleTurns(q)
}

// member reads the next consumer of a queue in order of Attach.
func (d *decoder) member(q *queue) {
	ss := d.s.session(SessionID(d.u64()))
	id := ConsumerID(d.u64())
	if ss == nil || ss.consumers[id] == nil || ss.consumers[id].queue != q || ss.consumers[id].ordinal > 0 {
		d.fail("queue %#x has a consumer twice or one that is elsewhere", q.id)
		return
	}
	c := ss.consumers[id]
	q.consumers = append(q.consumers, c)
	c.ordinal = uint32(len(q.consumers))
	if !c.cancelled {
		q.attached++
		c.level = q.levelOf(c.priority)
	}
}

// settleTurns checks that the state is one that a queue comes to rest in.
func (d *decoder) settleTurns(q *queue) {
	active, served := q.active, 0
	for _, c := range q.consumers {
		if c.inRing {
			served++
		}
	}
	d.s.elect(q)
	d.demand(q.active == active, "another consumer should be active")
	for _, c := range q.consumers {
		d.demand(c.inRing == c.eligible(), "a consumer is served that should not be, or the reverse")
		if c.inRing {
			served--
		}
	}
	d.demand(served == 0, "consumers change places")
}
