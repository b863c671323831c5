package wire

import "encoding/binary"

// Properties are the 14 properties of class basic. An empty string, a nil table and zero stand for absent.
type Properties struct {
	ContentType     string
	ContentEncoding string
	Headers         Table
	DeliveryMode    uint8
	Priority        uint8
	CorrelationID   string
	ReplyTo         string
	Expiration      string
	MessageID       string
	Timestamp       Timestamp
	Type            string
	UserID          string
	AppID           string
	ClusterID       string
}

// The flags word has a bit for each property, from the highest down in the order of the list; the lowest says that
// another word follows, which class basic never needs (AMQP 0-9-1, 4.2.6.1).
//
//	properties  flags u16 | value…
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
	flagUnused
	flagMore
)

// Append appends the properties as flags and list.
func (p *Properties) Append(dst []byte) []byte {
	at := len(dst)
	dst = append(dst, 0, 0)
	var flags uint16
	text := func(flag uint16, v string) {
		if v != "" {
			flags |= flag
			dst = appendShort(dst, v)
		}
	}
	text(flagContentType, p.ContentType)
	text(flagContentEncoding, p.ContentEncoding)
	if p.Headers != nil {
		flags |= flagHeaders
		dst = AppendTable(dst, p.Headers)
	}
	if p.DeliveryMode != 0 {
		flags |= flagDeliveryMode
		dst = append(dst, p.DeliveryMode)
	}
	if p.Priority != 0 {
		flags |= flagPriority
		dst = append(dst, p.Priority)
	}
	text(flagCorrelationID, p.CorrelationID)
	text(flagReplyTo, p.ReplyTo)
	text(flagExpiration, p.Expiration)
	text(flagMessageID, p.MessageID)
	if p.Timestamp != 0 {
		flags |= flagTimestamp
		dst = binary.BigEndian.AppendUint64(dst, uint64(p.Timestamp))
	}
	text(flagType, p.Type)
	text(flagUserID, p.UserID)
	text(flagAppID, p.AppID)
	text(flagClusterID, p.ClusterID)
	binary.BigEndian.PutUint16(dst[at:], flags)
	return dst
}

// ParseProperties reads flags and list.
func ParseProperties(data []byte) (Properties, error) {
	var p Properties
	r := reader{data: data}
	flags := r.short()
	text := func(flag uint16, v *string) {
		if flags&flag != 0 {
			*v = r.shortstr()
		}
	}
	text(flagContentType, &p.ContentType)
	text(flagContentEncoding, &p.ContentEncoding)
	if flags&flagHeaders != 0 {
		p.Headers = r.table()
	}
	if flags&flagDeliveryMode != 0 {
		p.DeliveryMode = r.octet()
	}
	if flags&flagPriority != 0 {
		p.Priority = r.octet()
	}
	text(flagCorrelationID, &p.CorrelationID)
	text(flagReplyTo, &p.ReplyTo)
	text(flagExpiration, &p.Expiration)
	text(flagMessageID, &p.MessageID)
	if flags&flagTimestamp != 0 {
		p.Timestamp = Timestamp(r.longlong())
	}
	text(flagType, &p.Type)
	text(flagUserID, &p.UserID)
	text(flagAppID, &p.AppID)
	text(flagClusterID, &p.ClusterID)
	return p, r.endProperties(flags)
}

func (r *reader) endProperties(flags uint16) error {
	switch {
	case r.err != nil:
		return frameError("cannot decode properties: %s", r.err.Text)
	case flags&(flagUnused|flagMore) != 0:
		return frameError("cannot decode properties: unknown flags %#x", flags&(flagUnused|flagMore))
	case len(r.data) != 0:
		return frameError("cannot decode properties: %d octets are left", len(r.data))
	}
	return nil
}

// propertyKinds is how each property lies on the wire, from the highest flag down.
var propertyKinds = [14]byte{'s', 's', 'F', 'B', 'B', 's', 's', 's', 's', 'T', 's', 's', 's', 's'}

// CheckProperties checks flags and list, without allocation, down to the values of the headers.
func CheckProperties(data []byte) error {
	r := reader{data: data}
	flags := r.short()
	for i, kind := range propertyKinds {
		if flags&(1<<(15-i)) == 0 {
			continue
		}
		switch kind {
		case 's':
			r.shortBytes()
		case 'B':
			r.octet()
		case 'T':
			r.longlong()
		case 'F':
			r.skipFields(0)
		}
	}
	return r.endProperties(flags)
}

// skipFields passes over a table and checks its structure.
func (r *reader) skipFields(depth int) {
	r.nested(depth, func(inner *reader) {
		for len(inner.data) > 0 {
			inner.shortBytes()
			inner.skipValue(depth + 1)
		}
	})
}

// fixedSizes are the value types of one size.
var fixedSizes = [256]uint8{'t': 1, 'b': 1, 'B': 1, 's': 2, 'u': 2, 'I': 4, 'i': 4, 'l': 8, 'L': 8, 'T': 8, 'f': 4, 'd': 8, 'D': 5}

func (r *reader) skipValue(depth int) {
	kind := r.octet()
	switch {
	case r.err != nil || kind == 'V':
	case fixedSizes[kind] > 0:
		r.take(int(fixedSizes[kind]), "field value")
	case kind == 'S' || kind == 'x':
		r.longBytes()
	case kind == 'F':
		r.skipFields(depth)
	case kind == 'A':
		r.nested(depth, func(inner *reader) {
			for len(inner.data) > 0 {
				inner.skipValue(depth + 1)
			}
		})
	default:
		r.err, r.data = syntaxError("unknown field type %d", kind), nil
	}
}
