package broker

import (
	"encoding/binary"
	"errors"
)

// Properties is what the broker acts on in a message's properties. They stay in the form of an AMQP 0-9-1 content
// header all the way, since that is what clients send and get; a front door with another form converts at its edge:
//
//	flags u16, big endian | for each flag that is set, from the highest:
//	content-type str | content-encoding str | headers table | delivery-mode u8 | priority u8 | correlation-id str |
//	reply-to str | expiration str | message-id str | timestamp u64 | type str | user-id str | app-id str | cluster-id str
//
// where str is u8 length and bytes, table is u32 length and fields of (str key, u8 type, value).
type Properties struct {
	DeliveryMode uint8
	HasPriority  bool
	Priority     uint8
	Headers      []byte // the fields, without the table's length
	ReplyTo      []byte
	Expiration   []byte
	UserID       []byte

	hasExpiration, hasUserID bool
	raw                      []byte
	headersAt, headersEnd    int // the table with its length; both where it would go when there is none
	replyToAt                int // 0: none
}

const (
	flagContentType = 1 << (15 - iota)
	flagContentEncoding
	flagHeaders
	flagDeliveryMode
	flagPriority
	flagCorrelationID
	flagReplyTo
	flagExpiration
	flagMessageID
	flagTimestamp
	flagType
	flagUserID
	flagAppID
	flagClusterID
)

const flagsUnknown = 1<<2 - 1 // beyond cluster-id; the lowest announces more flags, which no client sends

var errMalformedProperties = errors.New("malformed properties")

// Parse reads raw, which p then aliases.
func (p *Properties) Parse(raw []byte) error {
	*p = Properties{raw: raw}
	if len(raw) < 2 {
		return errMalformedProperties
	}
	flags := binary.BigEndian.Uint16(raw)
	if flags&flagsUnknown != 0 {
		return errMalformedProperties
	}
	r := propertyReader{raw: raw, at: 2}
	r.skipText(flags & flagContentType)
	r.skipText(flags & flagContentEncoding)
	p.headersAt = r.at
	p.Headers = r.table(flags & flagHeaders)
	p.headersEnd = r.at
	p.DeliveryMode = r.octet(flags & flagDeliveryMode)
	p.HasPriority = flags&flagPriority != 0
	p.Priority = r.octet(flags & flagPriority)
	r.skipText(flags & flagCorrelationID)
	if flags&flagReplyTo != 0 {
		p.replyToAt = r.at
	}
	p.ReplyTo = r.text(flags & flagReplyTo)
	p.hasExpiration = flags&flagExpiration != 0
	p.Expiration = r.text(flags & flagExpiration)
	r.skipText(flags & flagMessageID)
	r.skip(flags&flagTimestamp, 8)
	r.skipText(flags & flagType)
	p.hasUserID = flags&flagUserID != 0
	p.UserID = r.text(flags & flagUserID)
	r.skipText(flags & flagAppID)
	r.skipText(flags & flagClusterID)
	if r.failed || r.at != len(raw) {
		return errMalformedProperties
	}
	return nil
}

// propertyReader walks the list; each method does nothing when its flag is not set.
type propertyReader struct {
	raw    []byte
	at     int
	failed bool
}

func (r *propertyReader) take(n int) []byte {
	if r.failed || n > len(r.raw)-r.at {
		r.failed = true
		return nil
	}
	b := r.raw[r.at : r.at+n : r.at+n]
	r.at += n
	return b
}

func (r *propertyReader) skip(flag uint16, n int) {
	if flag != 0 {
		r.take(n)
	}
}

func (r *propertyReader) octet(flag uint16) uint8 {
	if flag == 0 {
		return 0
	}
	if b := r.take(1); len(b) == 1 {
		return b[0]
	}
	return 0
}

func (r *propertyReader) text(flag uint16) []byte {
	if flag == 0 {
		return nil
	}
	return r.take(int(r.octet(1)))
}

func (r *propertyReader) skipText(flag uint16) { r.text(flag) }

func (r *propertyReader) table(flag uint16) []byte {
	if flag == 0 {
		return nil
	}
	n := r.take(4)
	if len(n) < 4 || binary.BigEndian.Uint32(n) > uint32(len(r.raw)) {
		r.failed = true
		return nil
	}
	return r.take(int(binary.BigEndian.Uint32(n)))
}

// AppendEdited appends the properties to dst with another reply-to (nil: the same) and without the headers that drop
// names.
func (p *Properties) AppendEdited(dst, replyTo []byte, drop func(key []byte) bool) []byte {
	dst = append(dst, p.raw[:p.headersAt]...)
	if p.headersEnd > p.headersAt {
		dst = appendHeaders(dst, p.Headers, drop, nil)
	}
	if replyTo == nil || p.replyToAt == 0 {
		return append(dst, p.raw[p.headersEnd:]...)
	}
	dst = append(dst, p.raw[p.headersEnd:p.replyToAt]...)
	dst = append(append(dst, byte(len(replyTo))), replyTo...)
	return append(dst, p.raw[p.replyToAt+1+len(p.ReplyTo):]...)
}

// AppendWithCount appends the properties to dst with the header key set to a long integer.
func (p *Properties) AppendWithCount(dst []byte, key string, n uint64) []byte {
	start := len(dst)
	dst = append(dst, p.raw[:p.headersAt]...)
	binary.BigEndian.PutUint16(dst[start:], binary.BigEndian.Uint16(p.raw)|flagHeaders)
	field := make([]byte, 0, len(key)+10)
	field = append(append(field, byte(len(key))), key...)
	field = binary.BigEndian.AppendUint64(append(field, 'l'), n)
	dst = appendHeaders(dst, p.Headers, func(k []byte) bool { return string(k) == key }, field)
	return append(dst, p.raw[p.headersEnd:]...)
}

// appendHeaders appends a table: the fields that drop does not name, then more.
func appendHeaders(dst, fields []byte, drop func(key []byte) bool, more []byte) []byte {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	for f := (fieldReader{rest: fields}); f.next(); {
		if drop == nil || !drop(f.key) {
			dst = append(dst, f.whole...)
		}
	}
	dst = append(dst, more...)
	binary.BigEndian.PutUint32(dst[start:], uint32(len(dst)-start-4))
	return dst
}
