package backup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// Reader reads a backup and finds damage: it returns no octet whose checksum was not right, and no End before the last one
// was. It is for one goroutine.
type Reader struct {
	r     *bufio.Reader
	sum   uint32
	chunk []byte // memory of the present one
	rest  []byte // of it, what has not been read
	last  bool   // the end was read
	begun bool   // the header was
	read  int64
	buf   []byte // a record
	err   error

	after   byte   // kind of the record before; 0: none
	shard   Counts // of the shard at hand
	total   End
	queues  map[uint64]bool // of the shard at hand
	missing uint64          // octets of the message at hand

	begin   Begin
	inShard Shard
	queue   Queue
	message Message
}

// NewReader makes a reader.
func NewReader(r io.Reader) *Reader { return &Reader{r: bufio.NewReaderSize(r, 64<<10)} }

// Octets is how much of the backup has been read.
func (r *Reader) Octets() int64 { return r.read }

// Next returns the next record: a *Begin, Catalog, *Shard, *Queue, *Message, Piece, *ShardEnd or *End, valid until the call
// after; or io.EOF when the End has been returned. Any other error is ErrDamaged, ErrFormat or that of what is read from.
func (r *Reader) Next() (any, error) {
	if r.err != nil {
		return nil, r.err
	}
	record, err := r.next()
	if err != nil {
		r.err = err
	}
	return record, err
}

func (r *Reader) next() (any, error) {
	if r.after == kindEnd {
		return nil, io.EOF
	}
	var head [recordHead]byte
	if err := r.fill(head[:]); err != nil {
		return nil, err
	}
	size := le.Uint32(head[1:])
	if size > maxRecord {
		return nil, damaged("a record of %d octets", size)
	}
	if int(size) > cap(r.buf) {
		r.buf = make([]byte, size)
	}
	r.buf = r.buf[:size]
	if err := r.fill(r.buf); err != nil {
		return nil, err
	}
	if !follows(r.after, head[0]) {
		return nil, damaged("a record of kind %d after one of kind %d", head[0], r.after)
	}
	if r.missing > 0 && head[0] != kindPiece {
		return nil, damaged("%d octets of a message are missing", r.missing)
	}
	r.after = head[0]
	p := fields{b: r.buf}
	record, err := r.decode(head[0], &p)
	if err == nil && (p.short || len(p.b) > 0) {
		err = damaged("a record of kind %d with %d octets", head[0], size)
	}
	return record, err
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}

// predecessors says which kinds may stand before a kind, as bits; bit 0: nothing.
var predecessors = [...]uint16{
	kindBegin:    1 << 0,
	kindCatalog:  1<<kindBegin | 1<<kindCatalog,
	kindShard:    1<<kindBegin | 1<<kindCatalog | 1<<kindShardEnd,
	kindQueue:    1<<kindShard | 1<<kindQueue,
	kindMessage:  1<<kindShard | 1<<kindQueue | 1<<kindMessage | 1<<kindPiece,
	kindPiece:    1<<kindMessage | 1<<kindPiece,
	kindShardEnd: 1<<kindShard | 1<<kindQueue | 1<<kindMessage | 1<<kindPiece,
	kindEnd:      1<<kindBegin | 1<<kindCatalog | 1<<kindShardEnd,
}

func follows(before, kind byte) bool {
	return int(kind) < len(predecessors) && predecessors[kind]&(1<<before) != 0
}

func (r *Reader) decode(kind byte, p *fields) (any, error) {
	switch kind {
	case kindBegin:
		r.begin = Begin{TakenAtMillis: int64(p.u64()), Shards: p.u32(), ClusterID: p.text(), Version: p.text()}
		return &r.begin, nil
	case kindCatalog:
		r.total.Catalog++
		return Catalog(p.all()), nil
	case kindShard:
		r.shard, r.queues = Counts{}, map[uint64]bool{}
		r.inShard = Shard{ID: p.u32(), Index: p.u64(), TimeMillis: int64(p.u64())}
		return &r.inShard, nil
	case kindQueue:
		r.shard.Queues++
		r.queue = Queue{ID: p.u64(), Settings: p.all()}
		r.queues[r.queue.ID] = true
		return &r.queue, nil
	case kindMessage:
		return r.decodeMessage(p)
	case kindPiece:
		octets := p.all()
		if len(octets) == 0 || uint64(len(octets)) > r.missing {
			return nil, damaged("a piece of %d octets where %d are missing", len(octets), r.missing)
		}
		r.missing -= uint64(len(octets))
		return Piece(octets), nil
	case kindShardEnd:
		end := ShardEnd{p.counts()}
		if end.Counts != r.shard {
			return nil, damaged("a shard has %+v and says %+v", r.shard, end.Counts)
		}
		r.total.add(r.shard)
		r.total.Shards++
		return &end, nil
	default:
		end := End{Shards: p.u64(), Catalog: p.u64(), Counts: p.counts()}
		if end != r.total {
			return nil, damaged("it has %+v and says %+v", r.total, end)
		}
		return &end, r.finish()
	}
}

func (r *Reader) decodeMessage(p *fields) (*Message, error) {
	m := &r.message
	persistent, reserved := p.u8(), p.u8()
	m.Persistent, m.Places = persistent == 1, m.Places[:0]
	places := int(p.u16())
	m.Size = p.u64()
	if persistent > 1 || reserved != 0 || places == 0 || len(p.b) != places*placeSize {
		return nil, damaged("a message in %d queues with %d octets", places, len(r.buf))
	}
	for range places {
		pl := Place{Queue: p.u64(), Priority: p.u8()}
		flags := p.u8()
		pl.Out, pl.Failed, pl.Acquired, pl.Expiry = flags == 1, p.u16(), p.u32(), int64(p.u64())
		if flags > 1 || pl.Expiry < 0 || !r.queues[pl.Queue] {
			return nil, damaged("a message in queue %#x, which its shard does not have", pl.Queue)
		}
		m.Places = append(m.Places, pl)
	}
	r.shard.add(Counts{Messages: 1, Places: uint64(places), Octets: m.Size})
	r.missing = m.Size
	return m, nil
}

// fill reads the next octets of the records.
func (r *Reader) fill(b []byte) error {
	for len(b) > 0 {
		if len(r.rest) == 0 {
			if err := r.nextChunk(); err != nil {
				return err
			}
			if r.last {
				return damaged("it ends without its last record")
			}
		}
		n := copy(b, r.rest)
		b, r.rest = b[n:], r.rest[n:]
	}
	return nil
}

// finish reads the end, and that nothing follows.
func (r *Reader) finish() error {
	if len(r.rest) > 0 {
		return damaged("something follows its last record")
	}
	if err := r.nextChunk(); err != nil {
		return err
	}
	if !r.last {
		return damaged("something follows its last record")
	}
	switch _, err := r.r.ReadByte(); {
	case err == nil:
		return damaged("something follows its end")
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("read a backup: %w", err)
	}
	return nil
}

// get reads octets of the file.
func (r *Reader) get(b []byte) error {
	n, err := io.ReadFull(r.r, b)
	r.read += int64(n)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return damaged("it is cut off after %d octets", r.read)
	case err != nil:
		return fmt.Errorf("read a backup: %w", err)
	}
	return nil
}

func (r *Reader) header() error {
	var h [headerSize + 4]byte
	if err := r.get(h[:]); err != nil {
		return err
	}
	if string(h[:len(magic)]) != magic {
		return fmt.Errorf("%w: it begins with %q", ErrFormat, h[:len(magic)])
	}
	r.sum = chain(0, h[:headerSize])
	if le.Uint32(h[headerSize:]) != r.sum {
		return damaged("the checksum of its header is wrong")
	}
	if v := le.Uint16(h[len(magic):]); v != version || le.Uint16(h[len(magic)+2:]) != 0 {
		return fmt.Errorf("%w: it has version %d, this program knows %d", ErrFormat, v, version)
	}
	r.begun = true
	return nil
}

func (r *Reader) nextChunk() error {
	if !r.begun {
		if err := r.header(); err != nil {
			return err
		}
	}
	at := r.read
	var length [4]byte
	if err := r.get(length[:]); err != nil {
		return err
	}
	size := le.Uint32(length[:])
	if size > maxChunk {
		return damaged("a chunk of %d octets at %d", size, at)
	}
	if cap(r.chunk) < int(size)+4 {
		r.chunk = make([]byte, size+4)
	}
	b := r.chunk[:size+4]
	if err := r.get(b); err != nil {
		return err
	}
	r.rest, r.last = b[:size], size == 0
	r.sum = chain(r.sum, length[:], r.rest)
	if le.Uint32(b[size:]) != r.sum {
		return damaged("the checksum of the chunk at %d is wrong", at)
	}
	return nil
}

// fields reads what a record needs; where there is too little, zeros.
type fields struct {
	b     []byte
	short bool
}

func (f *fields) take(n int) []byte {
	if len(f.b) < n {
		f.short, f.b = true, nil
		return make([]byte, n)
	}
	b := f.b[:n]
	f.b = f.b[n:]
	return b
}

func (f *fields) u8() uint8   { return f.take(1)[0] }
func (f *fields) u16() uint16 { return le.Uint16(f.take(2)) }
func (f *fields) u32() uint32 { return le.Uint32(f.take(4)) }
func (f *fields) u64() uint64 { return le.Uint64(f.take(8)) }

func (f *fields) text() string { return string(f.take(int(f.u16()))) }

func (f *fields) all() []byte { return f.take(len(f.b)) }

func (f *fields) counts() Counts {
	return Counts{Queues: f.u64(), Messages: f.u64(), Places: f.u64(), Octets: f.u64()}
}

// Verify reads a whole backup from its first octet to its last and tells what is in it.
func Verify(r io.Reader) (Begin, End, error) {
	in := NewReader(r)
	var begin Begin
	shards := uint64(0)
	for {
		record, err := in.Next()
		if err != nil {
			return begin, End{}, err
		}
		switch record := record.(type) {
		case *Begin:
			begin = *record
		case *Shard:
			if uint64(record.ID) != shards {
				return begin, End{}, damaged("shard %d stands where %d should", record.ID, shards)
			}
			shards++
		case *End:
			if shards != uint64(begin.Shards) {
				return begin, End{}, damaged("it has %d shards of %d", shards, begin.Shards)
			}
			return begin, *record, nil
		}
	}
}
