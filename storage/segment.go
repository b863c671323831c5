package storage

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"sync/atomic"

	"github.com/warrenmq/warren/storage/vfs"
)

// A segment holds bodies that outlived their log file. It is written once, whole, and never changed:
//
//	segment  header | record… | index | trailer
//	header   magic "WRNSEG01" | version u32 | group u32 | store id u64 | number u64 | crc u32 | zero u32
//	record   crc u32 | parts u32 | index u64 | octets u32 | zero u32 | parts × (offset u32 | size u32) | octets | zeros to 8
//	index    records × (index u64 | offset in units of 8 u32 | size u32)
//	trailer  offset of the index u64 | records u32 | crc of the index u32 | magic "WRNSEGEN"
//
// A record is what is alive of one log entry: parts are ranges of the entry's data, by offset; octets are theirs, one after
// the other. The crc of a record covers everything behind it.
const (
	segmentMagic     = "WRNSEG01"
	segmentEnd       = "WRNSEGEN"
	segmentHeader    = 8 + 4 + 4 + 8 + 8 + 4 + 4
	segmentRecord    = 4 + 4 + 8 + 4 + 4
	segmentIndexItem = 16
	segmentTrailer   = 8 + 4 + 4 + 8
)

// segment is a complete segment.
type segment struct {
	number  uint64
	name    string
	f       vfs.File
	items   []segmentItem // by index
	size    int64
	log     *keptLog     // where the records are, if not in the segment's own file
	readers atomic.Int32 // 1 for the group itself, more for streams; closed at 0
}

// segmentItem is where a record lies: 16 octets in memory for each. The size is 0 in a kept log file.
type segmentItem struct {
	index uint64
	at    uint32 // in units of align
	size  uint32
}

func (seg *segment) acquire() { seg.readers.Add(1) }

func (seg *segment) release() error {
	if seg.readers.Add(-1) == 0 {
		return seg.f.Close()
	}
	return nil
}

func (seg *segment) find(index uint64) (segmentItem, bool) {
	i, found := slices.BinarySearchFunc(seg.items, index, compareItem)
	if !found {
		return segmentItem{}, false
	}
	return seg.items[i], true
}

func compareItem(it segmentItem, index uint64) int { return cmp.Compare(it.index, index) }

func (g *Group) segmentName(number uint64) string {
	return path.Join(g.dir, fmt.Sprintf("%016x.seg", number))
}

// appendSegmentRecord writes a record; parts have their sizes and octets are theirs in order.
func appendSegmentRecord(dst []byte, index uint64, parts []bodyPart, octets []byte) []byte {
	le := binary.LittleEndian
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = le.AppendUint32(dst, uint32(len(parts)))
	dst = le.AppendUint64(dst, index)
	dst = le.AppendUint32(dst, uint32(len(octets)))
	dst = append(dst, 0, 0, 0, 0)
	for _, p := range parts {
		dst = le.AppendUint32(dst, p.offset)
		dst = le.AppendUint32(dst, p.size)
	}
	dst = append(dst, octets...)
	for (len(dst)-start)%align != 0 {
		dst = append(dst, 0)
	}
	le.PutUint32(dst[start:], checksum(0, dst[start+4:]))
	return dst
}

// segmentRecordSize is the length of a record.
func segmentRecordSize(parts int, octets uint64) uint64 {
	return (segmentRecord + 8*uint64(parts) + octets + align - 1) &^ (align - 1)
}

// parseSegmentRecord reads a whole record.
func parseSegmentRecord(b []byte) (uint64, *piece, error) {
	le := binary.LittleEndian
	if len(b) < segmentRecord || le.Uint32(b) != checksum(0, b[4:]) {
		return 0, nil, fmt.Errorf("%w: wrong checksum", ErrCorrupt)
	}
	n, octets := uint64(le.Uint32(b[4:])), uint64(le.Uint32(b[16:]))
	if n > uint64(len(b)) || segmentRecordSize(int(n), octets) != uint64(len(b)) {
		return 0, nil, fmt.Errorf("%w: wrong length", ErrCorrupt)
	}
	p := &piece{parts: make([]bodyPart, n)}
	at := uint64(0)
	for i := range p.parts {
		field := b[segmentRecord+8*i:]
		p.parts[i] = bodyPart{le.Uint32(field), le.Uint32(field[4:]), uint32(at)}
		at += uint64(p.parts[i].size)
		if i > 0 && p.parts[i].offset <= p.parts[i-1].offset {
			return 0, nil, fmt.Errorf("%w: parts out of order", ErrCorrupt)
		}
	}
	if at != octets {
		return 0, nil, fmt.Errorf("%w: the parts are not the octets", ErrCorrupt)
	}
	start := segmentRecord + 8*n
	p.octets = b[start : start+octets : start+octets]
	return le.Uint64(b[8:]), p, nil
}

func (seg *segment) read(it segmentItem, group uint32) (*piece, error) {
	if seg.log != nil {
		return seg.readLogged(it, group)
	}
	buf := make([]byte, it.size)
	if n, err := seg.f.ReadAt(buf, int64(it.at)*align); n < len(buf) {
		return nil, fmt.Errorf("%s: %w: %w", seg.name, ErrCorrupt, err)
	}
	index, p, err := parseSegmentRecord(buf)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", seg.name, err)
	}
	if index != it.index {
		return nil, fmt.Errorf("%s: %w: another record is there", seg.name, ErrCorrupt)
	}
	return p, nil
}

// inSegments finds the segment that has the index.
func inSegments(segments []*segment, index uint64) (*segment, segmentItem, bool) {
	for i := len(segments) - 1; i >= 0; i-- {
		seg := segments[i]
		if len(seg.items) == 0 || index < seg.items[0].index || index > seg.items[len(seg.items)-1].index {
			continue
		}
		if it, ok := seg.find(index); ok {
			return seg, it, true
		}
	}
	return nil, segmentItem{}, false
}

// readSegments reads what is alive of an entry from a segment, and into the cache when it is to be kept.
func (g *Group) readSegments(index uint64, keep bool) (*piece, error) {
	g.mu.RLock()
	seg, it, ok := inSegments(g.segments, index)
	if ok {
		seg.acquire()
	}
	g.mu.RUnlock()
	if !ok {
		return nil, fmt.Errorf("entry %d of group %d: %w", index, g.id, ErrNotFound)
	}
	p, err := seg.read(it, g.id)
	if err = errors.Join(err, seg.release()); err != nil {
		return nil, err
	}
	if keep {
		g.keep(cached{g, index, p, p.size() + overhead}, func() bool {
			now, _, ok := inSegments(g.segments, index)
			return ok && now == seg
		})
	}
	return p, nil
}

// segmentWriter writes segments one after the other.
type segmentWriter struct {
	g      *Group
	next   uint64 // number of the next segment
	out    paced
	seg    *segment
	buf    []byte // goes to out
	octets []byte
	done   []*segment
	kept   []*segment // log files that have a name in the group's directory
}

// add writes the live parts of an entry.
func (w *segmentWriter) add(index uint64, parts []bodyPart, octets []byte) error {
	if w.seg != nil && w.out.at+int64(len(w.buf)) >= w.g.s.o.SegmentSize {
		if err := w.finish(); err != nil {
			return err
		}
	}
	if w.seg == nil {
		if err := w.begin(); err != nil {
			return err
		}
	}
	at := w.out.at + int64(len(w.buf))
	before := len(w.buf)
	w.buf = appendSegmentRecord(w.buf, index, parts, octets)
	w.seg.items = append(w.seg.items, segmentItem{index, uint32(at / align), uint32(len(w.buf) - before)})
	if len(w.buf) >= writeSize {
		return w.flush()
	}
	return nil
}

func (w *segmentWriter) begin() error {
	seg := &segment{number: w.next, name: w.g.segmentName(w.next)}
	w.next++
	f, err := w.g.s.fs.Create(seg.name)
	if err != nil {
		return err
	}
	seg.f = f
	seg.readers.Store(1)
	w.out, w.seg, w.buf = paced{f: f}, seg, appendSegmentHeader(w.buf[:0], segmentMagic, w.g.id, w.g.s.id, seg.number)
	return nil
}

func appendSegmentHeader(dst []byte, magic string, group uint32, storeID, number uint64) []byte {
	le := binary.LittleEndian
	start := len(dst)
	dst = append(dst, magic...)
	dst = le.AppendUint32(dst, formatVer)
	dst = le.AppendUint32(dst, group)
	dst = le.AppendUint64(dst, storeID)
	dst = le.AppendUint64(dst, number)
	return append(le.AppendUint32(dst, checksum(0, dst[start:])), 0, 0, 0, 0)
}

// appendSegmentIndex writes the index, which begins at an offset of the segment, and the trailer.
func appendSegmentIndex(dst []byte, at int64, items []segmentItem) []byte {
	le := binary.LittleEndian
	start := len(dst)
	for _, it := range items {
		dst = le.AppendUint64(dst, it.index)
		dst = le.AppendUint32(dst, it.at)
		dst = le.AppendUint32(dst, it.size)
	}
	crc := checksum(0, dst[start:])
	dst = le.AppendUint64(dst, uint64(at))
	dst = le.AppendUint32(dst, uint32(len(items)))
	dst = le.AppendUint32(dst, crc)
	return append(dst, segmentEnd...)
}

func (w *segmentWriter) flush() error {
	err := w.out.write(w.buf)
	w.buf = w.buf[:0]
	return err
}

// finish completes the segment under way.
func (w *segmentWriter) finish() error {
	if w.seg == nil {
		return nil
	}
	slices.SortFunc(w.seg.items, func(a, b segmentItem) int { return cmp.Compare(a.index, b.index) })
	w.buf = appendSegmentIndex(w.buf, w.out.at+int64(len(w.buf)), w.seg.items)
	if err := w.flush(); err != nil {
		return err
	}
	w.seg.size = w.out.at
	if err := w.out.f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", w.seg.name, err)
	}
	w.done = append(w.done, w.seg)
	w.seg, w.out = nil, paced{}
	return nil
}

// abandon removes what was written.
func (w *segmentWriter) abandon() error {
	all := w.done
	if w.seg != nil {
		all = append(all, w.seg)
	}
	var errs []error
	for _, seg := range all {
		errs = append(errs, seg.release(), w.g.s.fs.Remove(seg.name))
	}
	for _, seg := range w.kept {
		errs = append(errs, seg.release(), w.g.s.fs.Remove(seg.log.name))
		if seg.name != "" {
			errs = append(errs, w.g.s.fs.Remove(seg.name))
		}
	}
	return errors.Join(errs...)
}

// openSegment opens a complete segment and reads its index.
func openSegment(fs vfs.FS, name string, group uint32, storeID, number uint64) (*segment, error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	seg := &segment{number: number, name: name, f: f}
	seg.readers.Store(1)
	if err := seg.readIndex(fs, group, storeID); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), seg.f.Close())
	}
	return seg, nil
}

func (seg *segment) readIndex(fs vfs.FS, group uint32, storeID uint64) error {
	le := binary.LittleEndian
	size, err := seg.f.Size()
	if err != nil {
		return err
	}
	if size < segmentHeader+segmentTrailer {
		return fmt.Errorf("%w: cut short", ErrCorrupt)
	}
	header, trailer := make([]byte, segmentHeader), make([]byte, segmentTrailer)
	if err := errors.Join(readFull(seg.f, header, 0), readFull(seg.f, trailer, size-segmentTrailer)); err != nil {
		return err
	}
	logged := string(header) == string(appendSegmentHeader(nil, keptMagic, group, storeID, seg.number))
	if !logged && string(header) != string(appendSegmentHeader(nil, segmentMagic, group, storeID, seg.number)) {
		return fmt.Errorf("%w: wrong header", ErrCorrupt)
	}
	at, n := le.Uint64(trailer), int64(le.Uint32(trailer[8:]))
	if string(trailer[16:]) != segmentEnd || at > uint64(size) || int64(at)+n*segmentIndexItem+segmentTrailer != size {
		return fmt.Errorf("%w: wrong trailer", ErrCorrupt)
	}
	index := make([]byte, n*segmentIndexItem)
	if err := readFull(seg.f, index, int64(at)); err != nil {
		return err
	}
	if le.Uint32(trailer[12:]) != checksum(0, index) {
		return fmt.Errorf("%w: wrong checksum of the index", ErrCorrupt)
	}
	seg.size = size
	end := at // of the records
	if logged {
		if err := seg.openLog(fs, storeID); err != nil {
			return err
		}
		end = uint64(seg.log.size)
	}
	seg.items = make([]segmentItem, n)
	for i := range seg.items {
		b := index[i*segmentIndexItem:]
		seg.items[i] = segmentItem{le.Uint64(b), le.Uint32(b[8:]), le.Uint32(b[12:])}
		if it := seg.items[i]; uint64(it.at)*align+uint64(it.size) > end || i > 0 && it.index <= seg.items[i-1].index {
			return fmt.Errorf("%w: the index leads nowhere", ErrCorrupt)
		}
	}
	return nil
}

func readFull(f vfs.File, p []byte, at int64) error {
	n, err := f.ReadAt(p, at)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: %w", ErrCorrupt, err)
}
