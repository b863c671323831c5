package wire

import (
	"encoding/binary"
)

// reader takes values off the front of a payload. After the first fault everything reads as zero and err stays.
type reader struct {
	data []byte
	err  *Error
	bits uint8 // the octet of the bits being read
}

func (r *reader) fail(what string) {
	if r.err == nil {
		r.err = syntaxError("%s is cut short", what)
	}
	r.data = nil
}

func (r *reader) take(n int, what string) []byte {
	if n > len(r.data) {
		r.fail(what)
		return nil
	}
	taken := r.data[:n:n]
	r.data = r.data[n:]
	return taken
}

func (r *reader) octet() uint8 {
	if b := r.take(1, "octet"); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) short() uint16 {
	if b := r.take(2, "short"); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) long() uint32 {
	if b := r.take(4, "long"); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) longlong() uint64 {
	if b := r.take(8, "longlong"); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// shortBytes is a short string that points into the payload.
func (r *reader) shortBytes() []byte { return r.take(int(r.octet()), "short string") }

func (r *reader) shortstr() string { return string(r.shortBytes()) }

func (r *reader) longBytes() []byte {
	n := r.long()
	if uint64(n) > uint64(len(r.data)) {
		r.fail("long string")
		return nil
	}
	return r.take(int(n), "long string")
}

func (r *reader) longstr() string { return string(r.longBytes()) }

func (r *reader) table() Table {
	body := r.longBytes()
	if r.err != nil {
		return nil
	}
	t, err := ParseTableBody(body)
	if err != nil {
		r.err, r.data = err.(*Error), nil
	}
	return t
}

// encoder appends values to a buffer.
type encoder struct {
	buf  []byte
	bits uint8
}

func (w *encoder) octet(v uint8)     { w.buf = append(w.buf, v) }
func (w *encoder) short(v uint16)    { w.buf = binary.BigEndian.AppendUint16(w.buf, v) }
func (w *encoder) long(v uint32)     { w.buf = binary.BigEndian.AppendUint32(w.buf, v) }
func (w *encoder) longlong(v uint64) { w.buf = binary.BigEndian.AppendUint64(w.buf, v) }

func (w *encoder) shortstr(v string) { w.buf = appendShort(w.buf, v) }

func (w *encoder) longstr(v string) {
	w.long(uint32(len(v)))
	w.buf = append(w.buf, v...)
}

func (w *encoder) table(t Table) { w.buf = AppendTable(w.buf, t) }

func (w *encoder) bit(at int, v bool) {
	if v {
		w.bits |= 1 << at
	}
}

func (w *encoder) flushBits() {
	w.octet(w.bits)
	w.bits = 0
}

// appendShort appends a short string, cut to what fits.
func appendShort[S ~string | ~[]byte](dst []byte, v S) []byte {
	v = v[:min(len(v), maxShortStr)]
	dst = append(dst, byte(len(v)))
	return append(dst, v...)
}

func boolOctet(v bool) byte {
	if v {
		return 1
	}
	return 0
}
