package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/warrenmq/warren/storage/vfs"
)

// writeCheckpoint writes the file aside and gives it its name. unknown says that it has its name, but that nobody knows
// whether for good: that is fatal.
func (g *Group) writeCheckpoint(c *checkpointFile, writeState func(io.Writer) error) (unknown bool, err error) {
	header := c.appendHeader(nil, g.s.id, g.id)
	if len(header) > maxHeader {
		return false, fmt.Errorf("a header of %d octets is more than %d", len(header), maxHeader)
	}
	aside := g.checkpointName() + ".new"
	f, err := g.s.fs.Create(aside)
	if err != nil {
		return false, diskFull(err)
	}
	c.bodyAt = int64(len(header))
	w := &blockWriter{out: paced{f: f}, buf: header}
	err = writeState(w)
	if err == nil {
		err = w.finish()
	}
	if err == nil {
		c.size = w.out.at
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return false, errors.Join(diskFull(err), g.s.fs.Remove(aside))
	}
	if err := g.s.fs.Rename(aside, g.checkpointName()); err != nil {
		return false, errors.Join(err, g.s.fs.Remove(aside))
	}
	if err := g.s.fs.SyncDir(g.dir); err != nil {
		g.s.wal.die(fmt.Errorf("sync the directory of group %d: %w", g.id, err))
		return true, err
	}
	return false, nil
}

// blockWriter cuts a stream into blocks with checksums.
type blockWriter struct {
	out   paced
	buf   []byte // to be written
	block []byte
	total uint64
}

func (w *blockWriter) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := min(blockSize-len(w.block), len(rest))
		w.block = append(w.block, rest[:n]...)
		rest = rest[n:]
		if len(w.block) == blockSize {
			if err := w.flush(); err != nil {
				return len(p) - len(rest), err
			}
		}
	}
	w.total += uint64(len(p))
	return len(p), nil
}

// flush ends a block; a few are gathered for one write.
func (w *blockWriter) flush() error {
	if len(w.block) > 0 {
		le := binary.LittleEndian
		w.buf = le.AppendUint32(w.buf, uint32(len(w.block)))
		w.buf = le.AppendUint32(w.buf, checksum(0, w.block))
		w.buf = append(w.buf, w.block...)
		w.block = w.block[:0]
	}
	if len(w.buf) < writeSize {
		return nil
	}
	return w.write()
}

func (w *blockWriter) write() error {
	err := w.out.write(w.buf)
	w.buf = w.buf[:0]
	return err
}

func (w *blockWriter) finish() error {
	if err := w.flush(); err != nil {
		return err
	}
	total := binary.LittleEndian.AppendUint64(nil, w.total)
	w.buf = binary.LittleEndian.AppendUint32(w.buf, 0)
	w.buf = binary.LittleEndian.AppendUint32(w.buf, checksum(0, total))
	w.buf = append(w.buf, total...)
	return w.write()
}

// blockReader reads what a blockWriter wrote.
type blockReader struct {
	f     vfs.File
	at    int64
	block []byte
	total uint64
	end   bool
}

func (r *blockReader) Read(p []byte) (int, error) {
	for len(r.block) == 0 {
		if r.end {
			return 0, io.EOF
		}
		if err := r.next(); err != nil {
			return 0, fmt.Errorf("checkpoint: %w", err)
		}
	}
	n := copy(p, r.block)
	r.block = r.block[n:]
	return n, nil
}

func (r *blockReader) next() error {
	le := binary.LittleEndian
	var head [8]byte
	if err := readFull(r.f, head[:], r.at); err != nil {
		return err
	}
	r.at += 8
	n, crc := le.Uint32(head[:]), le.Uint32(head[4:])
	if n > blockSize {
		return fmt.Errorf("%w: a block of %d octets", ErrCorrupt, n)
	}
	size := int(n)
	if n == 0 {
		size = 8
	}
	b := make([]byte, size)
	if err := readFull(r.f, b, r.at); err != nil {
		return err
	}
	r.at += int64(size)
	if checksum(0, b) != crc || n == 0 && le.Uint64(b) != r.total {
		return fmt.Errorf("%w: wrong checksum", ErrCorrupt)
	}
	if n == 0 {
		r.end = true
		return nil
	}
	r.total += uint64(n)
	r.block = b
	return nil
}

func (r *blockReader) Close() error { return r.f.Close() }
