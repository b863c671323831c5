package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A snapshot on its way to another node is
//
//	stream  header | state | crc of the state u32 | record…
//	header  magic "WRNSNAP1" | version u32 | extra length u32 | index u64 | term u64 | state length u64 | records u64 | extra | crc u32
//	record  length u32 | a record as in a segment
const (
	snapshotMagic = "WRNSNAP1"
	snapshotFixed = 8 + 4 + 4 + 8 + 8 + 8 + 8
)

// snapshotReader reads a snapshot stream. What it is to read takes sixteen octets for each entry and eight for each part of
// one: a queue may be deep.
type snapshotReader struct {
	held    *held
	buf     []byte   // what comes next
	pending [][]byte // and then: the state and its crc
	out     []byte   // the room for a record
	entries []liveEntry
	ranges  []bodyRange // the entries' parts, one entry after the other
	parts   []bodyPart  // of the entry under way
	octets  []byte
}

// liveEntry is an entry of which something is alive, and of how many parts.
type liveEntry struct {
	index uint64
	parts uint32
}

type bodyRange struct{ offset, size uint32 }

// OpenSnapshot begins a stream of a state and the bodies that it refers to, for Install on another node. The size is the
// stream's, exactly. Files that retire meanwhile stay readable to the stream until it is closed; the log stays from the index on until
// then, and for a while after it if all was read. The state must be the newest checkpoint's or a later one; of one that checkpoints may
// have overtaken, see OpenBodies.
func (g *Group) OpenSnapshot(c Checkpoint, state []byte, live LiveRefs) (size int64, _ io.ReadCloser, err error) {
	if err := g.Damaged(); err != nil {
		return 0, nil, err
	}
	return (&Bodies{held: g.hold(c.Index)}).Snapshot(c, state, live)
}

// Snapshot is OpenSnapshot of the state with which the bodies were opened. The stream has the files from then on, also if this fails.
func (b *Bodies) Snapshot(c Checkpoint, state []byte, live LiveRefs) (size int64, _ io.ReadCloser, err error) {
	r := &snapshotReader{held: b.held}
	bodies, err := r.collect(c.Index, live)
	if err != nil {
		return 0, nil, errors.Join(err, r.held.release())
	}
	le := binary.LittleEndian
	h := append([]byte(nil), snapshotMagic...)
	h = le.AppendUint32(h, formatVer)
	h = le.AppendUint32(h, uint32(len(c.Extra)))
	for _, n := range []uint64{c.Index, c.Term, uint64(len(state)), uint64(len(r.entries))} {
		h = le.AppendUint64(h, n)
	}
	h = append(h, c.Extra...)
	r.buf = le.AppendUint32(h, checksum(0, h))
	r.pending = [][]byte{state, le.AppendUint32(nil, checksum(0, state))}
	return int64(len(r.buf)+len(state)+4) + bodies, r, nil
}

// collect lists every live entry and tells how long they are in the stream.
func (r *snapshotReader) collect(to uint64, live LiveRefs) (size int64, err error) {
	live.entries(to, func(index uint64, parts []bodyPart, octets uint64) bool {
		if !r.held.has(index) {
			err = fmt.Errorf("entry %d of group %d: %w", index, r.held.g.id, ErrNotFound)
			return false
		}
		r.entries = append(r.entries, liveEntry{index, uint32(len(parts))})
		for _, p := range parts {
			r.ranges = append(r.ranges, bodyRange{p.offset, p.size})
		}
		size += 4 + int64(segmentRecordSize(len(parts), octets))
		return true
	})
	return size, err
}

func (r *snapshotReader) Read(p []byte) (int, error) {
	for len(r.buf) == 0 {
		switch {
		case len(r.pending) > 0:
			r.buf, r.pending = r.pending[0], r.pending[1:]
		case len(r.entries) == 0:
			return 0, io.EOF
		default:
			if err := r.record(); err != nil {
				return 0, err
			}
		}
	}
	n := copy(p, r.buf)
	r.buf = r.buf[n:]
	return n, nil
}

// record reads the live parts of the next entry.
func (r *snapshotReader) record() error {
	e := r.entries[0]
	piece, err := r.held.read(e.index)
	if err != nil {
		return fmt.Errorf("entry %d of group %d: %w", e.index, r.held.g.id, err)
	}
	r.octets, r.parts = r.octets[:0], r.parts[:0]
	for _, part := range r.ranges[:e.parts] {
		body, ok := piece.body(part.offset, part.size)
		if !ok {
			return fmt.Errorf("octets at %d of entry %d of group %d: %w", part.offset, e.index, r.held.g.id, ErrNotFound)
		}
		r.parts = append(r.parts, bodyPart{offset: part.offset, size: part.size})
		r.octets = append(r.octets, body...)
	}
	size := segmentRecordSize(len(r.parts), uint64(len(r.octets)))
	r.out = binary.LittleEndian.AppendUint32(r.out[:0], uint32(size))
	r.out = appendSegmentRecord(r.out, e.index, r.parts, r.octets)
	r.buf = r.out
	r.entries, r.ranges = r.entries[1:], r.ranges[e.parts:]
	return nil
}

// Close gives the files back.
func (r *snapshotReader) Close() error {
	r.held.unfollow(len(r.buf) == 0 && len(r.pending) == 0 && len(r.entries) == 0)
	r.entries, r.ranges, r.buf, r.pending = nil, nil, nil, nil
	return r.held.release()
}
