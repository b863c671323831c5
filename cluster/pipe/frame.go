package pipe

import (
	"encoding/binary"
	"fmt"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// A frame between an edge and a server is a run of items; all integers are little endian:
//
//	item  kind u8 | flags u8 | shard u16 | length u32 of the payload | payload
//
// The first item of a link, in both directions, is a greeting. The generation numbers an edge's attempts to talk to a
// shard: what belongs to an earlier one is dropped.
//
//	greeting    version u32 | reserved u32 | session u64 (from the server: 0) | inline window u64, bytes (from the server: 0)
//	hello       generation u32 | last u32 (1: the last part) | term u64 | consumer…
//	  consumer  consumer u64 | id seen last u64
//	batch       generation u32 | commands u32 | seq u64 | acked u64 | commands
//	credit      bytes u64: envelopes that came along and are consumed
//	welcome     generation u32 | reserved u32 | last batch applied u64 | incarnation u64 | term u64
//	reset       generation u32: not the leader, or not any more
//	deliveries  generation u32 | count u32 | delivery…
//	  delivery  flags u8 | reserved u8 ×3 | pieces u32 | inline u32, bytes | delivery count u32 | acquired count u32 |
//	            reserved u32 | consumer u64 | id u64 | queue u64 | piece… | envelope, if inline
//	  piece     index u64 | offset u32 | size u32
//	replies     generation u32 | count u32 | reply… (flags: 1 if consumers of the shard are behind)
//	  reply     seq u64 | results u32 | reserved u32 | result…
//	  result    command u32 | code u8 | reserved u8 ×3 | messages u64 | consumers u32 | reserved u32 |
//	            delivery, if the code is Message
//	cancels     generation u32 | count u32 | consumer u64 …
const (
	frameVersion = 2

	itemGreeting   = 1
	itemHello      = 2
	itemBatch      = 3
	itemCredit     = 4
	itemWelcome    = 5
	itemReset      = 6
	itemDeliveries = 7
	itemReplies    = 8
	itemCancels    = 9

	itemHeaderSize     = 8
	greetingSize       = 24
	helloConsumerSize  = 16
	batchItemSize      = 24
	welcomeSize        = 32
	deliverySize       = 48
	pieceSize          = 16
	replySize          = 16
	resultSize         = 24
	deliveryRedeliver  = 1 << 0
	deliveryPersistent = 1 << 1
	deliveryInline     = 1 << 2
	repliesBehind      = 1 << 0

	// frameBytes is the size at which a frame is sent; it may be exceeded by the last thing in it.
	frameBytes = 256 << 10
	// inlineBytes is the largest envelope that goes along with its delivery.
	inlineBytes = 128 << 10
)

var le = binary.LittleEndian

// beginItem appends an item's header and returns a mark for endItem.
func beginItem(dst []byte, kind byte, shard queue.ShardID) ([]byte, int) {
	dst = append(dst, kind, 0, byte(shard), byte(shard>>8), 0, 0, 0, 0)
	return dst, len(dst)
}

func setFlags(dst []byte, mark int, flags byte) { dst[mark-itemHeaderSize+1] = flags }

func endItem(dst []byte, mark int) { le.PutUint32(dst[mark-4:], uint32(len(dst)-mark)) }

// item is one item of a frame.
type item struct {
	kind    byte
	flags   byte
	shard   queue.ShardID
	payload []byte
}

// cutItem takes the first item off a frame.
func cutItem(frame []byte) (it item, rest []byte, err error) {
	if len(frame) < itemHeaderSize {
		return it, nil, fmt.Errorf("item header of %d bytes: %w", len(frame), errMalformed)
	}
	n := le.Uint32(frame[4:])
	rest = frame[itemHeaderSize:]
	if uint64(n) > uint64(len(rest)) {
		return it, nil, fmt.Errorf("item of %d bytes in %d: %w", n, len(rest), errMalformed)
	}
	return item{frame[0], frame[1], queue.ShardID(le.Uint16(frame[2:])), rest[:n:n]}, rest[n:], nil
}

// cursor reads a payload; after the first thing that is missing everything is zero and bad is set.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) take(n int) []byte {
	if n > len(c.b) {
		c.b, c.bad = nil, true
		return nil
	}
	taken := c.b[:n:n]
	c.b = c.b[n:]
	return taken
}

func (c *cursor) u32() uint32 {
	if b := c.take(4); b != nil {
		return le.Uint32(b)
	}
	return 0
}

func (c *cursor) u64() uint64 {
	if b := c.take(8); b != nil {
		return le.Uint64(b)
	}
	return 0
}

// count reads a number of things that take at least size bytes each.
func (c *cursor) count(size int) int {
	n := c.u32()
	if uint64(n)*uint64(size) > uint64(len(c.b)) {
		c.b, c.bad = nil, true
		return 0
	}
	return int(n)
}

func (c *cursor) err(what string) error {
	if c.bad {
		return fmt.Errorf("%s: %w", what, errMalformed)
	}
	return nil
}

// greeting opens a link.
type greeting struct {
	session queue.SessionID
	window  uint64
}

func (g greeting) append(dst []byte) []byte {
	dst, mark := beginItem(dst, itemGreeting, 0)
	dst = le.AppendUint32(dst, frameVersion)
	dst = le.AppendUint32(dst, 0)
	dst = le.AppendUint64(dst, uint64(g.session))
	dst = le.AppendUint64(dst, g.window)
	endItem(dst, mark)
	return dst
}

// cutGreeting takes the greeting off the first frame of a link.
func cutGreeting(frame []byte) (g greeting, rest []byte, err error) {
	it, rest, err := cutItem(frame)
	if err != nil {
		return g, nil, err
	}
	if it.kind != itemGreeting || len(it.payload) < greetingSize {
		return g, nil, fmt.Errorf("greeting: %w", errMalformed)
	}
	if v := le.Uint32(it.payload); v != frameVersion {
		return g, nil, fmt.Errorf("link of version %d, this node speaks %d", v, frameVersion)
	}
	return greeting{queue.SessionID(le.Uint64(it.payload[8:])), le.Uint64(it.payload[16:])}, rest, nil
}

// hello is an edge's wish to talk to a shard.
type hello struct {
	session    queue.SessionID
	generation uint32
	term       uint64                      // the latest that a leader has welcomed this edge in: the leader of an earlier one knows too little
	consumers  map[queue.ConsumerID]uint64 // the delivery that was seen last
}

// appendHello appends a hello in as many items as it takes for each to stay below frameBytes.
func appendHello(dst []byte, shard queue.ShardID, h *hello) []byte {
	const perItem = (frameBytes - 64) / helloConsumerSize
	left := len(h.consumers)
	var mark int
	begin := func() {
		dst, mark = beginItem(dst, itemHello, shard)
		dst = le.AppendUint32(dst, h.generation)
		last := uint32(0)
		if left <= perItem {
			last = 1
		}
		dst = le.AppendUint32(dst, last)
		dst = le.AppendUint64(dst, h.term)
	}
	begin()
	inItem := 0
	for id, seen := range h.consumers {
		if inItem == perItem {
			endItem(dst, mark)
			left -= inItem
			inItem = 0
			begin()
		}
		dst = le.AppendUint64(dst, uint64(id))
		dst = le.AppendUint64(dst, seen)
		inItem++
	}
	endItem(dst, mark)
	return dst
}

// decodeHello adds a part of a hello to what came before of the same generation; another generation begins anew.
func decodeHello(p []byte, into *hello) (last bool, err error) {
	c := cursor{b: p}
	generation := c.u32()
	last = c.u32() == 1
	term := c.u64()
	if c.bad || len(c.b)%helloConsumerSize != 0 {
		return false, fmt.Errorf("hello: %w", errMalformed)
	}
	if into.consumers == nil || into.generation != generation {
		into.generation, into.term = generation, term
		into.consumers = make(map[queue.ConsumerID]uint64, len(c.b)/helloConsumerSize)
	}
	for len(c.b) > 0 {
		id := queue.ConsumerID(c.u64())
		into.consumers[id] = c.u64()
	}
	return last, nil
}

// batchItem is a batch on its way to the shard. data aliases the frame.
type batchItem struct {
	generation uint32
	commands   uint32
	seq, acked uint64
	data       []byte
}

func (b *batchItem) append(dst []byte, shard queue.ShardID) []byte {
	dst, mark := beginItem(dst, itemBatch, shard)
	dst = le.AppendUint32(dst, b.generation)
	dst = le.AppendUint32(dst, b.commands)
	dst = le.AppendUint64(dst, b.seq)
	dst = le.AppendUint64(dst, b.acked)
	dst = append(dst, b.data...)
	endItem(dst, mark)
	return dst
}

func decodeBatch(p []byte) (b batchItem, err error) {
	if len(p) < batchItemSize {
		return b, fmt.Errorf("batch: %w", errMalformed)
	}
	return batchItem{le.Uint32(p), le.Uint32(p[4:]), le.Uint64(p[8:]), le.Uint64(p[16:]), p[batchItemSize:]}, nil
}

func appendCredit(dst []byte, bytes uint64) []byte {
	dst, mark := beginItem(dst, itemCredit, 0)
	dst = le.AppendUint64(dst, bytes)
	endItem(dst, mark)
	return dst
}

// welcome is a shard's answer to a hello, after everything that the edge has missed.
type welcome struct {
	generation  uint32
	last        uint64 // the session's last batch applied
	incarnation uint64 // another one than before: a machine that knows nothing of the batches before
	term        uint64 // that the host leads in
}

func (w *welcome) append(dst []byte, shard queue.ShardID) []byte {
	dst, mark := beginItem(dst, itemWelcome, shard)
	dst = le.AppendUint32(dst, w.generation)
	dst = le.AppendUint32(dst, 0)
	dst = le.AppendUint64(dst, w.last)
	dst = le.AppendUint64(dst, w.incarnation)
	dst = le.AppendUint64(dst, w.term)
	endItem(dst, mark)
	return dst
}

func decodeWelcome(p []byte) (w welcome, err error) {
	if len(p) < welcomeSize {
		return w, fmt.Errorf("welcome: %w", errMalformed)
	}
	return welcome{le.Uint32(p), le.Uint64(p[8:]), le.Uint64(p[16:]), le.Uint64(p[24:])}, nil
}

func appendReset(dst []byte, shard queue.ShardID, generation uint32) []byte {
	dst, mark := beginItem(dst, itemReset, shard)
	dst = le.AppendUint32(dst, generation)
	endItem(dst, mark)
	return dst
}

// appendDelivery appends a delivery without an envelope and returns where the mark of one is to be set.
func appendDelivery(dst []byte, d *queue.Delivery) (_ []byte, mark int) {
	var flags byte
	if d.Redelivered {
		flags |= deliveryRedeliver
	}
	if d.Persistent {
		flags |= deliveryPersistent
	}
	mark = len(dst)
	dst = append(dst, flags, 0, 0, 0)
	dst = le.AppendUint32(dst, uint32(1+len(d.Body.More)))
	dst = le.AppendUint32(dst, 0)
	dst = le.AppendUint32(dst, d.DeliveryCount)
	dst = le.AppendUint32(dst, d.AcquiredCount)
	dst = le.AppendUint32(dst, 0)
	dst = le.AppendUint64(dst, uint64(d.Consumer))
	dst = le.AppendUint64(dst, d.ID)
	dst = le.AppendUint64(dst, uint64(d.Queue))
	dst = appendRef(dst, d.Body.First)
	for _, r := range d.Body.More {
		dst = appendRef(dst, r)
	}
	return dst, mark
}

// setInline tells the delivery at mark that so many bytes after it are its envelope.
func setInline(dst []byte, mark, bytes int) {
	dst[mark] |= deliveryInline
	le.PutUint32(dst[mark+8:], uint32(bytes))
}

func appendRef(dst []byte, r queue.Ref) []byte {
	dst = le.AppendUint64(dst, r.Index)
	dst = le.AppendUint32(dst, r.Offset)
	return le.AppendUint32(dst, r.Size)
}

func (c *cursor) ref() queue.Ref { return queue.Ref{Index: c.u64(), Offset: c.u32(), Size: c.u32()} }

// delivery reads a delivery; an envelope aliases the payload.
func (c *cursor) delivery(d *broker.Delivery) {
	head := c.take(deliverySize)
	if head == nil {
		return
	}
	flags := head[0]
	pieces, inline := le.Uint32(head[4:]), le.Uint32(head[8:])
	d.Redelivered = flags&deliveryRedeliver != 0
	d.Persistent = flags&deliveryPersistent != 0
	d.DeliveryCount, d.AcquiredCount = le.Uint32(head[12:]), le.Uint32(head[16:])
	d.Consumer, d.ID = queue.ConsumerID(le.Uint64(head[24:])), le.Uint64(head[32:])
	d.Queue = queue.QueueID(le.Uint64(head[40:]))
	if pieces == 0 || uint64(pieces)*pieceSize > uint64(len(c.b)) {
		c.b, c.bad = nil, true
		return
	}
	d.Body.First = c.ref()
	if pieces > 1 {
		d.Body.More = make([]queue.Ref, pieces-1)
		for i := range d.Body.More {
			d.Body.More[i] = c.ref()
		}
	}
	if flags&deliveryInline != 0 {
		if uint64(inline) > uint64(len(c.b)) {
			c.b, c.bad = nil, true
			return
		}
		d.Inline = c.take(int(inline))
	}
}

func appendReply(dst []byte, r *queue.Reply) []byte {
	dst = le.AppendUint64(dst, r.Seq)
	dst = le.AppendUint32(dst, uint32(len(r.Results)))
	dst = le.AppendUint32(dst, 0)
	for i := range r.Results {
		dst = appendResult(dst, &r.Results[i])
	}
	return dst
}

func appendResult(dst []byte, r *queue.Result) []byte {
	dst = le.AppendUint32(dst, r.Command)
	dst = append(dst, byte(r.Code), 0, 0, 0)
	dst = le.AppendUint64(dst, r.Messages)
	dst = le.AppendUint32(dst, r.Consumers)
	dst = le.AppendUint32(dst, 0)
	if r.Code == queue.Message {
		dst, _ = appendDelivery(dst, &r.Delivery)
	}
	return dst
}

// reply reads a reply; its results are appended to room.
func (c *cursor) reply(session queue.SessionID, room []queue.Result) (queue.Reply, []queue.Result) {
	r := queue.Reply{Session: session, Seq: c.u64()}
	n := c.count(resultSize)
	c.u32()
	from := len(room)
	for range n {
		room = append(room, queue.Result{})
		c.result(session, &room[len(room)-1])
		if c.bad {
			return r, room[:from]
		}
	}
	r.Results = room[from:len(room):len(room)]
	return r, room
}

func (c *cursor) result(session queue.SessionID, r *queue.Result) {
	head := c.take(resultSize)
	if head == nil {
		return
	}
	r.Command, r.Code = le.Uint32(head), queue.ResultCode(head[4])
	r.Messages, r.Consumers = le.Uint64(head[8:]), le.Uint32(head[16:])
	if r.Code == queue.Message {
		var d broker.Delivery
		c.delivery(&d)
		r.Delivery = d.Delivery
		r.Delivery.Session = session
	}
}
