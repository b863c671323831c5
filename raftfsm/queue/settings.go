package queue

import (
	"encoding/binary"
	"fmt"
)

// Settings is what a queue was declared with, after policies. The machine acts on all of it but the dead-letter
// exchange and the consumer timeout, which it stores: a message that would be dead-lettered is dropped.
type Settings struct {
	VHost, Name string

	// These five, with the names, are the queue's identity: Configure cannot change them.
	Durable, AutoDelete, Exclusive, SingleActive bool
	MaxPriority                                  uint8 // 0: priorities are ignored

	// Times are milliseconds. A field with a Has field beside it counts only if that is set, since 0 has a meaning.
	HasMessageTTL     bool
	MessageTTL        uint64
	Expires           uint64 // the queue goes when unused for so long; 0: never
	HasMaxLength      bool
	MaxLength         uint64 // ready messages
	HasMaxLengthBytes bool
	MaxLengthBytes    uint64 // envelopes of ready messages
	RejectPublish     bool   // at a limit refuse what is new (Result Full) instead of dropping the oldest
	DeadLetterRefused bool   // what is refused is dead-lettered (reject-publish-dlx)
	HasDeliveryLimit  bool
	DeliveryLimit     uint32 // failed deliveries that a message survives; counts stop at 65,535

	HasDeadLetter    bool
	DeadLetterXchg   string // the exchange; empty is the default exchange
	HasDeadLetterKey bool
	DeadLetterKey    string
	ConsumerTimeout  uint64 // 0: none

	Restoring bool // a restore is filling the queue, and will name it in the catalog when it has: nobody else takes it for left over
}

// Settings in a command or snapshot:
//
//	version u8 (1) | max priority u8 | reserved u16 | flags u32 | message ttl u64 | expires u64 |
//	max length u64 | max length bytes u64 | delivery limit u32 | consumer timeout u64 |
//	vhost, name, dead-letter exchange, dead-letter key: each length u16, bytes
//
// What a Has flag leaves out is 0 or empty.
const (
	settingsVersion = 1
	settingsFixed   = 8 + 4*8 + 4 + 8
	settingsFlags   = 13
	maxSettingText  = 1<<16 - 1
)

// flags lists the booleans in the order of their bits.
func (s *Settings) flags() [settingsFlags]*bool {
	return [...]*bool{
		&s.Durable, &s.AutoDelete, &s.Exclusive, &s.SingleActive, &s.HasMessageTTL, &s.HasMaxLength,
		&s.HasMaxLengthBytes, &s.RejectPublish, &s.DeadLetterRefused, &s.HasDeliveryLimit, &s.HasDeadLetter,
		&s.HasDeadLetterKey, &s.Restoring,
	}
}

func (s *Settings) texts() [4]*string {
	return [...]*string{&s.VHost, &s.Name, &s.DeadLetterXchg, &s.DeadLetterKey}
}

// normal returns the settings with what a Has field leaves out set to zero and texts cut to what the form can hold, so
// that equal meanings have equal bytes.
func (s *Settings) normal() Settings {
	n := *s
	clearUnless(n.HasMessageTTL, &n.MessageTTL)
	clearUnless(n.HasMaxLength, &n.MaxLength)
	clearUnless(n.HasMaxLengthBytes, &n.MaxLengthBytes)
	clearUnless(n.HasDeliveryLimit, &n.DeliveryLimit)
	clearUnless(n.HasDeadLetter, &n.DeadLetterXchg)
	clearUnless(n.HasDeadLetterKey, &n.DeadLetterKey)
	for _, text := range n.texts() {
		*text = (*text)[:min(len(*text), maxSettingText)]
	}
	return n
}

func clearUnless[T any](has bool, v *T) {
	if !has {
		var zero T
		*v = zero
	}
}

// append adds the settings in their binary form.
func (s *Settings) append(dst []byte) []byte {
	n := s.normal()
	return n.appendNormal(dst)
}

// appendNormal is append for settings that are normal, as parsed ones are.
func (n *Settings) appendNormal(dst []byte) []byte {
	var flags uint32
	for i, set := range n.flags() {
		if *set {
			flags |= 1 << i
		}
	}
	dst = append(dst, settingsVersion, n.MaxPriority, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, flags)
	dst = binary.LittleEndian.AppendUint64(dst, n.MessageTTL)
	dst = binary.LittleEndian.AppendUint64(dst, n.Expires)
	dst = binary.LittleEndian.AppendUint64(dst, n.MaxLength)
	dst = binary.LittleEndian.AppendUint64(dst, n.MaxLengthBytes)
	dst = binary.LittleEndian.AppendUint32(dst, n.DeliveryLimit)
	dst = binary.LittleEndian.AppendUint64(dst, n.ConsumerTimeout)
	for _, text := range n.texts() {
		dst = binary.LittleEndian.AppendUint16(dst, uint16(len(*text)))
		dst = append(dst, *text...)
	}
	return dst
}

// parseSettings reads settings that fill data exactly.
func parseSettings(data []byte) (*Settings, error) {
	if len(data) < settingsFixed {
		return nil, fmt.Errorf("%w: settings of %d bytes", ErrMalformed, len(data))
	}
	if data[0] != settingsVersion {
		return nil, fmt.Errorf("%w: settings version %d", ErrVersion, data[0])
	}
	flags := u32(data[4:])
	if flags >= 1<<settingsFlags || u16(data[2:]) != 0 {
		return nil, fmt.Errorf("%w: settings with flags %#x, reserved bytes %x", ErrVersion, flags, data[2:4])
	}
	s := &Settings{
		MaxPriority: data[1], MessageTTL: u64(data[8:]), Expires: u64(data[16:]),
		MaxLength: u64(data[24:]), MaxLengthBytes: u64(data[32:]),
		DeliveryLimit: u32(data[40:]), ConsumerTimeout: u64(data[44:]),
	}
	for i, set := range s.flags() {
		*set = flags&(1<<i) != 0
	}
	rest := data[settingsFixed:]
	for _, text := range s.texts() {
		if len(rest) < 2 || len(rest)-2 < int(u16(rest)) {
			return nil, fmt.Errorf("%w: settings cut short", ErrMalformed)
		}
		n := int(u16(rest))
		*text, rest = string(rest[2:2+n]), rest[2+n:]
	}
	if len(rest) != 0 || s.normal() != *s {
		return nil, fmt.Errorf("%w: settings with %d bytes too many or values without their flags", ErrMalformed, len(rest))
	}
	return s, nil
}

// sameQueue tells whether the settings can belong to the same queue: what differs may be reconfigured.
func (s *Settings) sameQueue(o *Settings) bool {
	return s.VHost == o.VHost && s.Name == o.Name && s.Durable == o.Durable && s.AutoDelete == o.AutoDelete &&
		s.Exclusive == o.Exclusive && s.SingleActive == o.SingleActive && s.MaxPriority == o.MaxPriority
}
