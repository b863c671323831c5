package backup

import (
	"fmt"
	"io"
)

// Writer writes a backup. Its methods are called in the order of the records; the first error stays. It is for one goroutine.
type Writer struct {
	w     io.Writer
	state State
	chunk []byte // the next one: room for its length, and octets
	head  []byte
	err   error
}

// State is how far a Writer has come: with it, what was written since can be taken back.
type State struct {
	Written int64 // octets that are in the file
	sum     uint32
	begin   *Begin // nil: not written yet
	total   End
	shard   Counts
}

// Begin is the first record, nil before it was written.
func (s *State) Begin() *Begin { return s.begin }

// Total is what has been written so far, without the shard that is not at its end yet.
func (s *State) Total() End { return s.total }

// NewWriter begins a backup with its header.
func NewWriter(w io.Writer) *Writer {
	out := &Writer{w: w, chunk: make([]byte, 4, 4+maxChunk+4)}
	h := append(make([]byte, 0, headerSize+4), magic...)
	h = append(h, version, 0, 0, 0)
	out.state.sum = chain(0, h)
	out.put(le.AppendUint32(h, out.state.sum))
	return out
}

func (w *Writer) put(b []byte) {
	if w.err != nil {
		return
	}
	n, err := w.w.Write(b)
	w.state.Written += int64(n)
	if err != nil {
		w.err = fmt.Errorf("write a backup: %w", err)
	}
}

// Flush ends the chunk at hand, so that all records so far are handed on, and tells how far the writer is.
func (w *Writer) Flush() (State, error) {
	if len(w.chunk) > 4 {
		w.endChunk()
	}
	return w.state, w.err
}

// Return takes back what was written after Flush told the state; the file behind it must have been cut off there.
func (w *Writer) Return(s State) { w.state, w.chunk, w.err = s, w.chunk[:4], nil }

func (w *Writer) endChunk() {
	le.PutUint32(w.chunk, uint32(len(w.chunk)-4))
	w.state.sum = chain(w.state.sum, w.chunk)
	w.put(le.AppendUint32(w.chunk, w.state.sum))
	w.chunk = w.chunk[:4]
}

func (w *Writer) record(kind byte, parts ...[]byte) error {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	if size > maxRecord {
		return fmt.Errorf("a record of %d octets is more than a backup can hold", size)
	}
	w.octets(le.AppendUint32([]byte{kind}, uint32(size)))
	for _, p := range parts {
		w.octets(p)
	}
	return w.err
}

func (w *Writer) octets(b []byte) {
	for len(b) > 0 {
		n := min(len(b), 4+maxChunk-len(w.chunk))
		w.chunk = append(w.chunk, b[:n]...)
		if b = b[n:]; len(w.chunk) == 4+maxChunk {
			w.endChunk()
		}
	}
}

func appendText(dst []byte, text string) []byte {
	text = text[:min(len(text), 1<<16-1)]
	return append(le.AppendUint16(dst, uint16(len(text))), text...)
}

// Begin writes the first record.
func (w *Writer) Begin(b *Begin) error {
	begin := *b
	w.state.begin = &begin
	p := le.AppendUint64(nil, uint64(b.TakenAtMillis))
	p = le.AppendUint32(p, b.Shards)
	return w.record(kindBegin, appendText(appendText(p, b.ClusterID), b.Version))
}

// Catalog writes a thing of the catalog.
func (w *Writer) Catalog(record Catalog) error {
	w.state.total.Catalog++
	return w.record(kindCatalog, record)
}

// Shard begins a shard.
func (w *Writer) Shard(s *Shard) error {
	w.state.shard = Counts{}
	p := le.AppendUint32(nil, s.ID)
	p = le.AppendUint64(p, s.Index)
	return w.record(kindShard, le.AppendUint64(p, uint64(s.TimeMillis)))
}

// Queue writes a queue of the shard.
func (w *Writer) Queue(q *Queue) error {
	w.state.shard.Queues++
	return w.record(kindQueue, le.AppendUint64(nil, q.ID), q.Settings)
}

// Message writes a message of the shard; its envelope follows by Piece.
func (w *Writer) Message(m *Message) error {
	if len(m.Places) == 0 || len(m.Places) > maxPlaces {
		return fmt.Errorf("a message in %d queues of a shard cannot be written", len(m.Places))
	}
	w.state.shard.add(Counts{Messages: 1, Places: uint64(len(m.Places)), Octets: m.Size})
	p := append(w.head[:0], 0, 0)
	if m.Persistent {
		p[0] = 1
	}
	p = le.AppendUint16(p, uint16(len(m.Places)))
	p = le.AppendUint64(p, m.Size)
	for i := range m.Places {
		pl := &m.Places[i]
		p = le.AppendUint64(p, pl.Queue)
		flags := byte(0)
		if pl.Out {
			flags = 1
		}
		p = append(p, pl.Priority, flags)
		p = le.AppendUint16(p, pl.Failed)
		p = le.AppendUint32(p, pl.Acquired)
		p = le.AppendUint64(p, uint64(pl.Expiry))
	}
	w.head = p
	return w.record(kindMessage, p)
}

// Piece writes octets of the message's envelope, cut up where they are more than a record may hold.
func (w *Writer) Piece(octets []byte) error {
	for len(octets) > 0 && w.err == nil {
		n := min(len(octets), MaxPiece)
		_ = w.record(kindPiece, octets[:n]) // the error is w.err
		octets = octets[n:]
	}
	return w.err
}

// ShardEnd ends the shard.
func (w *Writer) ShardEnd() error {
	w.state.total.add(w.state.shard)
	w.state.total.Shards++
	return w.record(kindShardEnd, w.state.shard.append(nil))
}

// Close writes the last record and the end. It does not close what is written to.
func (w *Writer) Close() (End, error) {
	total := w.state.total
	p := le.AppendUint64(nil, total.Shards)
	p = le.AppendUint64(p, total.Catalog)
	if err := w.record(kindEnd, total.Counts.append(p)); err != nil {
		return total, err
	}
	if _, err := w.Flush(); err != nil {
		return total, err
	}
	end := make([]byte, 4, 8)
	w.state.sum = chain(w.state.sum, end)
	w.put(le.AppendUint32(end, w.state.sum))
	return total, w.err
}

func (c *Counts) append(dst []byte) []byte {
	for _, n := range []uint64{c.Queues, c.Messages, c.Places, c.Octets} {
		dst = le.AppendUint64(dst, n)
	}
	return dst
}
