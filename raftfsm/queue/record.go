package queue

import "encoding/binary"

// record is all that the machine knows of one message in one queue. It is flat and has 40 bytes, since there may be
// very many.
type record struct {
	index    uint64 // of the entry with the Enqueue command
	order    uint64 // place in its queue: grows by one with each message enqueued
	expiry   int64  // milliseconds of the entries' clock; 0: never
	offset   uint32 // of the envelope (after chunks: of its rest) in the entry
	size     uint32 // of the same
	acquired uint32 // times handed out and returned; stops at its maximum
	failed   uint16 // of these, failed deliveries; stops at its maximum
	flags    uint8
	priority uint8 // the lane
}

const (
	recordPersistent = 1 << iota
	recordLarge      // its pieces are in State.large
	recordFlagsEnd
)

const recordSize = 40

func (r *record) hash() uint64 {
	a := fold(r.order, r.index)
	b := fold(uint64(r.offset)<<32|uint64(r.size), uint64(r.expiry))
	return fold(a+b, uint64(r.acquired)<<32|uint64(r.failed)<<16|uint64(r.flags)<<8|uint64(r.priority))
}

func (r *record) place() place { return place{r.index, r.offset} }

func (r *record) ref() Ref { return Ref{r.index, r.offset, r.size} }

func (r *record) expired(now int64) bool { return r.expiry != 0 && r.expiry <= now }

// returned counts one delivery that came back.
func (r *record) returned(failed bool) {
	if r.acquired++; r.acquired == 0 {
		r.acquired--
	}
	if !failed {
		return
	}
	if r.failed++; r.failed == 0 {
		r.failed--
	}
}

func (r *record) put(b []byte) {
	_ = b[recordSize-1]
	binary.LittleEndian.PutUint64(b, r.index)
	binary.LittleEndian.PutUint64(b[8:], r.order)
	binary.LittleEndian.PutUint64(b[16:], uint64(r.expiry))
	binary.LittleEndian.PutUint32(b[24:], r.offset)
	binary.LittleEndian.PutUint32(b[28:], r.size)
	binary.LittleEndian.PutUint32(b[32:], r.acquired)
	binary.LittleEndian.PutUint16(b[36:], r.failed)
	b[38], b[39] = r.flags, r.priority
}

func (r *record) get(b []byte) {
	_ = b[recordSize-1]
	r.index = binary.LittleEndian.Uint64(b)
	r.order = binary.LittleEndian.Uint64(b[8:])
	r.expiry = int64(binary.LittleEndian.Uint64(b[16:]))
	r.offset = binary.LittleEndian.Uint32(b[24:])
	r.size = binary.LittleEndian.Uint32(b[28:])
	r.acquired = binary.LittleEndian.Uint32(b[32:])
	r.failed = binary.LittleEndian.Uint16(b[36:])
	r.flags, r.priority = b[38], b[39]
}
