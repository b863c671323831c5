package queue

import (
	"encoding/binary"
	"fmt"
	"math"
)

func u16(b []byte) uint16 { return binary.LittleEndian.Uint16(b) }
func u32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
func u64(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }

// batchHeader is the decoded head of a batch.
type batchHeader struct {
	size     uint32 // of the commands
	commands uint32
	session  SessionID
	seq      uint64
	acked    uint64
}

func decodeBatch(b []byte) batchHeader {
	_ = b[BatchHeaderSize-1]
	return batchHeader{u32(b), u32(b[4:]), SessionID(u64(b[8:])), u64(b[16:]), u64(b[24:])}
}

// Check tells whether Apply could read the entry. A leader checks what it proposes: an entry that cannot be read stops
// every replica.
func Check(entry []byte) error { return eachBatch(entry, checkBatch) }

// CheckBatch does the same for the commands of one batch of a session.
func CheckBatch(session SessionID, b *Batch) error {
	if len(b.Data) > math.MaxUint32 {
		return fmt.Errorf("%w: batch of %d bytes", ErrMalformed, len(b.Data))
	}
	h := batchHeader{size: uint32(len(b.Data)), commands: b.Commands, session: session, seq: 1}
	return checkBatch(h, b.Data, 0)
}

// eachBatch calls f with every batch: its commands and where in the entry they start.
func eachBatch(entry []byte, f func(h batchHeader, data []byte, at int) error) error {
	if len(entry) < EntryHeaderSize || len(entry) > math.MaxUint32 {
		return fmt.Errorf("%w: %d bytes", ErrMalformed, len(entry))
	}
	if entry[0] < EntryVersion || entry[0] > EntryFormat(Version) {
		return fmt.Errorf("%w: entry version %d", ErrVersion, entry[0])
	}
	at := EntryHeaderSize
	for n := u32(entry[4:]); n > 0; n-- {
		if len(entry)-at < BatchHeaderSize {
			return fmt.Errorf("%w: batch header at %d of %d bytes", ErrMalformed, at, len(entry))
		}
		h := decodeBatch(entry[at:])
		at += BatchHeaderSize
		if int64(h.size) > int64(len(entry)-at) {
			return fmt.Errorf("%w: batch of %d bytes at %d of %d", ErrMalformed, h.size, at, len(entry))
		}
		if err := f(h, entry[at:at+int(h.size)], at); err != nil {
			return err
		}
		at += int(h.size)
	}
	if at != len(entry) || entry[1]|entry[2]|entry[3] != 0 {
		return fmt.Errorf("%w: %d bytes after the last batch, reserved bytes %x", ErrMalformed, len(entry)-at, entry[1:4])
	}
	return nil
}

// checkBatch checks every command, so that applying them cannot fail halfway.
func checkBatch(h batchHeader, data []byte, at int) error {
	if (h.session == 0) != (h.seq == 0) {
		return fmt.Errorf("%w: batch %d of session %d", ErrMalformed, h.seq, h.session)
	}
	rest := data
	for n := h.commands; n > 0; n-- {
		if len(rest) < CommandHeaderSize || uint64(u32(rest[4:])) > uint64(len(rest)-CommandHeaderSize) {
			return fmt.Errorf("%w: command cut short at %d", ErrMalformed, at+len(data)-len(rest))
		}
		size := CommandHeaderSize + int(u32(rest[4:]))
		if u16(rest[2:]) != 0 {
			return fmt.Errorf("%w: command %d with reserved bytes %x", ErrMalformed, rest[0], rest[2:4])
		}
		if err := checkCommand(Kind(rest[0]), rest[1], h.session == 0, rest[CommandHeaderSize:size]); err != nil {
			return err
		}
		rest = rest[size:]
	}
	if len(rest) != 0 {
		return fmt.Errorf("%w: %d bytes after the last command", ErrMalformed, len(rest))
	}
	return nil
}

// shape is what a command of a kind looks like.
type shape struct {
	flags           uint8
	size            int  // of the payload, at least
	open            bool // it may be longer
	leader, session bool // who sends it
}

var shapes = [...]shape{
	KindEnqueue:        {flags: EnqueuePersistent | EnqueueChunked | EnqueueTTL | EnqueuePriority | EnqueueProducer | EnqueueReturned, size: 4, open: true, session: true},
	KindChunk:          {size: 8, open: true, session: true},
	KindConfigure:      {flags: ConfigureExisting, size: 8, open: true, session: true, leader: true},
	KindDelete:         {flags: DeleteIfUnused | DeleteIfEmpty, size: 8, session: true, leader: true},
	KindPurge:          {size: 8, session: true, leader: true},
	KindAttach:         {flags: AttachExclusive | AttachNoAck, size: attachFixed, open: true, session: true},
	KindCredit:         {size: 12, session: true},
	KindCancel:         {size: 8, session: true},
	KindDetach:         {flags: DetachFailed, size: 16, session: true},
	KindSettle:         {flags: math.MaxUint8, size: 8, open: true, session: true},
	KindGet:            {size: 16, session: true},
	KindSessionUp:      {size: 8, leader: true},
	KindSessionDown:    {size: 8, leader: true},
	KindSuspect:        {flags: SuspectCleared, size: 8, leader: true},
	KindTick:           {leader: true},
	KindMachineVersion: {size: 4, leader: true},
	KindHash:           {size: 16, leader: true},
	KindPeek:           {size: 12, session: true},
	KindSettleLater:    {flags: math.MaxUint8, size: 16, open: true, session: true},
	KindGiveBack:       {size: 28, session: true},
}

func checkCommand(k Kind, flags uint8, leader bool, p []byte) error {
	if k == 0 || int(k) >= len(shapes) {
		return fmt.Errorf("%w: kind %d", ErrUnknownCommand, k)
	}
	sh := &shapes[k]
	switch {
	case flags&^sh.flags != 0:
		return fmt.Errorf("%w: kind %d with flags %#x", ErrUnknownCommand, k, flags)
	case leader && !sh.leader || !leader && !sh.session:
		return fmt.Errorf("%w: kind %d from the wrong sender", ErrMalformed, k)
	case len(p) < sh.size || len(p) > sh.size && !sh.open:
		return fmt.Errorf("%w: kind %d with %d bytes", ErrMalformed, k, len(p))
	}
	switch k {
	case KindEnqueue:
		return checkEnqueue(flags, p)
	case KindConfigure:
		_, err := parseSettings(p[8:])
		return err
	case KindAttach:
		if len(p)-attachFixed > maxSettingText {
			return fmt.Errorf("%w: consumer tag of %d bytes", ErrMalformed, len(p)-attachFixed)
		}
	case KindSettle:
		if Outcome(flags) > Undelivered {
			return fmt.Errorf("%w: outcome %d", ErrUnknownCommand, flags)
		}
		if len(p)%16 != 8 {
			return fmt.Errorf("%w: settle with %d bytes", ErrMalformed, len(p))
		}
	case KindSettleLater:
		if o := Outcome(flags); o != Requeue && o != RejectRequeue {
			return fmt.Errorf("%w: outcome %d later", ErrUnknownCommand, flags)
		}
		if delay := u64(p[8:]); len(p)%16 != 0 || delay == 0 || delay > MaxDelay {
			return fmt.Errorf("%w: settle with %d bytes after %d ms", ErrMalformed, len(p), delay)
		}
	case KindSessionUp, KindSessionDown, KindSuspect:
		if u64(p) == 0 {
			return fmt.Errorf("%w: kind %d for session 0", ErrMalformed, k)
		}
	case KindMachineVersion:
		if v := u32(p); v > Version {
			return fmt.Errorf("%w: machine version %d", ErrVersion, v)
		}
	}
	return nil
}

// producerSize is what an enqueue says of a producer.
const producerSize = len(ProducerID{}) + 8 + 2

// returnedSize is what it says of earlier deliveries.
const returnedSize = 4 + 2

func checkEnqueue(flags uint8, p []byte) error {
	size := 4 + 8*int(u16(p[2:]))
	if flags&EnqueueTTL != 0 {
		size += 8
	}
	if flags&EnqueueChunked != 0 {
		size += 8
	}
	producer := size - 8*int(u16(p[2:]))
	if flags&EnqueueProducer != 0 {
		size += producerSize
	}
	if flags&EnqueueReturned != 0 {
		size += returnedSize
	}
	if size > len(p) || p[1] != 0 {
		return fmt.Errorf("%w: enqueue with %d bytes, %d needed, reserved byte %d", ErrMalformed, len(p), size, p[1])
	}
	if flags&EnqueueProducer != 0 {
		sequence, behind := u64(p[producer+16:]), u16(p[producer+24:])
		if uint64(behind) >= sequence || behind > ProducerSpan {
			return fmt.Errorf("%w: enqueue with number %d of a producer, %d behind", ErrMalformed, sequence, behind)
		}
	}
	return nil
}

// enqueueCommand is a decoded Enqueue.
type enqueueCommand struct {
	queues   []byte
	envelope Ref
	ttl      uint64
	upload   uint64
	producer ProducerID
	sequence uint64
	floor    uint64 // the lowest number that may come again
	acquired uint32
	failed   uint16
	flags    uint8
	priority uint8
}

func decodeEnqueue(flags uint8, p []byte, index uint64, at int) enqueueCommand {
	c := enqueueCommand{flags: flags, priority: p[0]}
	queues := 8 * int(u16(p[2:]))
	head := 4
	if flags&EnqueueTTL != 0 {
		c.ttl = u64(p[head:])
		head += 8
	}
	if flags&EnqueueChunked != 0 {
		c.upload = u64(p[head:])
		head += 8
	}
	if flags&EnqueueProducer != 0 {
		head += copy(c.producer[:], p[head:])
		c.sequence = u64(p[head:])
		c.floor = c.sequence - uint64(u16(p[head+8:]))
		head += 10
	}
	if flags&EnqueueReturned != 0 {
		c.acquired, c.failed = u32(p[head:]), u16(p[head+4:])
		head += returnedSize
	}
	c.queues = p[head : head+queues]
	head += queues
	c.envelope = Ref{index, uint32(at + head), uint32(len(p) - head)}
	return c
}

// attachCommand is a decoded Attach.
type attachCommand struct {
	queue     QueueID
	consumer  ConsumerID
	credit    uint32
	priority  int32
	exclusive bool
	noAck     bool
	tag       []byte
}

const attachFixed = 24

func decodeAttach(flags uint8, p []byte) attachCommand {
	return attachCommand{
		queue: QueueID(u64(p)), consumer: ConsumerID(u64(p[8:])), credit: u32(p[16:]), priority: int32(u32(p[20:])),
		exclusive: flags&AttachExclusive != 0, noAck: flags&AttachNoAck != 0, tag: p[attachFixed:],
	}
}
