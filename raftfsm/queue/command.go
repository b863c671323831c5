package queue

import "encoding/binary"

// A shard's log entry is a header and the batches that waited for it:
//
//	entry    version u8 (1) | reserved u8 ×3 | batches u32 | time i64, ms | batch…
//	batch    length u32 of its commands | commands u32 | session u64 | seq u64 | acked u64 | command…
//	command  kind u8 | flags u8 | reserved u16 | length u32 of its payload | payload
//
// All integers are little endian. A session's batches are numbered from 1 without gaps, and a batch repeated after a
// lost leader is the same bytes under the same number: that is how a retry is known. acked says up to which batch the
// session has the replies, so that the machine forgets the results that it keeps for a repetition. Batches of session 0
// come from the shard's leader and have no number.
const (
	EntryVersion      = 1
	EntryHeaderSize   = 16
	BatchHeaderSize   = 32
	CommandHeaderSize = 8
)

// Kind says what a command is.
type Kind uint8

// All commands. What a payload holds stands beside the Append function of the kind.
const (
	KindEnqueue        Kind = 1  // a message for one or more queues of the shard
	KindChunk          Kind = 2  // a piece of an envelope too large for one entry
	KindConfigure      Kind = 3  // create a queue, or give it new settings
	KindDelete         Kind = 4  // delete a queue, perhaps only if unused or empty
	KindPurge          Kind = 5  // drop a queue's ready messages
	KindAttach         Kind = 6  // start a consumer
	KindCredit         Kind = 7  // change how many unsettled deliveries a consumer may have
	KindCancel         Kind = 8  // stop a consumer; what it has stays out until settled or detached
	KindDetach         Kind = 9  // forget a consumer or getter; what it has goes back to its queue
	KindSettle         Kind = 10 // ack, nack, reject
	KindGet            Kind = 11 // basic.get
	KindSessionUp      Kind = 12 // leader: a node's run begins; its earlier runs are over
	KindSessionDown    Kind = 13 // leader: a node's run is over (process dead, or away too long)
	KindSuspect        Kind = 14 // leader: a node cannot be reached: nothing new for its consumers
	KindTick           Kind = 15 // leader: let time pass
	KindMachineVersion Kind = 16 // leader: from here on entries mean what this version says
	KindHash           Kind = 17 // leader: the hash of its state after the entry before; replicas compare
	KindPeek           Kind = 18 // look at a ready message
	KindSettleLater    Kind = 19 // nack and reject with requeue, after a delay
	KindGiveBack       Kind = 20 // change a consumer's credit and take back its last deliveries, which its client was never sent
)

// Flags of commands; each belongs to the kinds in its name.
const (
	EnqueuePersistent = 1 << 0 // delivery mode 2
	EnqueueChunked    = 1 << 1 // the envelope ends here, its beginning came in Chunk commands
	EnqueueTTL        = 1 << 2 // the message has an expiration
	EnqueuePriority   = 1 << 3 // the message has a priority
	EnqueueProducer   = 1 << 4 // the message has a number of a producer: it is stored once, however often it comes
	EnqueueReturned   = 1 << 5 // the message was out before, in the cluster that it is restored from
	ConfigureExisting = 1 << 0 // a queue that is not there is not made
	DeleteIfUnused    = 1 << 0
	DeleteIfEmpty     = 1 << 1
	AttachExclusive   = 1 << 0
	AttachNoAck       = 1 << 1 // the edge settles what it has sent; told here for listings only
	DetachFailed      = 1 << 0 // the channel or connection died: delivery counts rise
	SuspectCleared    = 1 << 0 // the node is back
)

// Batch collects commands of one session for one shard. The zero value is ready.
type Batch struct {
	Data     []byte // the commands, without the batch header
	Commands uint32
}

// Reset empties the batch and keeps its memory.
func (b *Batch) Reset() { b.Data, b.Commands = b.Data[:0], 0 }

// begin appends a command header and returns where its payload starts; end fills in the length.
func (b *Batch) begin(k Kind, flags uint8) int {
	b.Data = append(b.Data, byte(k), flags, 0, 0, 0, 0, 0, 0)
	b.Commands++
	return len(b.Data)
}

func (b *Batch) end(start int) {
	binary.LittleEndian.PutUint32(b.Data[start-4:], uint32(len(b.Data)-start))
}

// EnqueueOptions is what an Enqueue says of a message beside its envelope.
type EnqueueOptions struct {
	Persistent  bool
	HasPriority bool
	Priority    uint8
	HasTTL      bool
	TTLMillis   uint64 // the message's own expiration
	Upload      uint64 // not 0: the pieces sent with this number come before the envelope's rest given here
	// Sequence, not 0, is the message's number of Producer: one that came before is answered as it was then, and not stored
	// again. Behind is how far the lowest number that may come again is below it, at most ProducerSpan and less than
	// Sequence: what is lower still is forgotten.
	Sequence uint64
	Behind   uint16
	Producer ProducerID
	// Acquired is how often it was handed out and returned before, in the cluster that it is restored from; Failed, how many of
	// these deliveries failed.
	Acquired uint32
	Failed   uint16
}

// BeginEnqueue starts an enqueue to the queues, all of this shard, and returns a mark for EndEnqueue. The caller
// appends the envelope (or, after chunks, the rest of it) to b.Data in between, so that a body is copied once.
//
//	enqueue  priority u8 | reserved u8 | queues u16 | [ttl u64 if EnqueueTTL] | [upload u64 if EnqueueChunked] |
//	         [producer 16 bytes, sequence u64, behind u16 if EnqueueProducer] |
//	         [acquired u32, failed u16 if EnqueueReturned] | queue u64 … | envelope to the end
//
// There may be 1 to 65,535 queues; a message for more is several enqueues, and cannot have a number of a producer.
func (b *Batch) BeginEnqueue(queues []QueueID, o *EnqueueOptions) (mark int) {
	var flags uint8
	if o.Persistent {
		flags |= EnqueuePersistent
	}
	if o.HasPriority {
		flags |= EnqueuePriority
	}
	if o.HasTTL {
		flags |= EnqueueTTL
	}
	if o.Upload != 0 {
		flags |= EnqueueChunked
	}
	if o.Sequence != 0 {
		flags |= EnqueueProducer
	}
	if o.Acquired != 0 || o.Failed != 0 {
		flags |= EnqueueReturned
	}
	mark = b.begin(KindEnqueue, flags)
	b.Data = append(b.Data, o.Priority, 0)
	b.Data = binary.LittleEndian.AppendUint16(b.Data, uint16(len(queues)))
	if o.HasTTL {
		b.Data = binary.LittleEndian.AppendUint64(b.Data, o.TTLMillis)
	}
	if o.Upload != 0 {
		b.Data = binary.LittleEndian.AppendUint64(b.Data, o.Upload)
	}
	if o.Sequence != 0 {
		b.Data = append(b.Data, o.Producer[:]...)
		b.Data = binary.LittleEndian.AppendUint64(b.Data, o.Sequence)
		b.Data = binary.LittleEndian.AppendUint16(b.Data, o.Behind)
	}
	if flags&EnqueueReturned != 0 {
		b.Data = binary.LittleEndian.AppendUint32(b.Data, o.Acquired)
		b.Data = binary.LittleEndian.AppendUint16(b.Data, o.Failed)
	}
	for _, q := range queues {
		b.Data = binary.LittleEndian.AppendUint64(b.Data, uint64(q))
	}
	return mark
}

// EndEnqueue closes the command begun at mark.
func (b *Batch) EndEnqueue(mark int) { b.end(mark) }

// Chunk sends a piece of a large envelope under a number that the session gives each such message once.
//
//	chunk  upload u64 | bytes
func (b *Batch) Chunk(upload uint64, piece []byte) {
	start := b.begin(KindChunk, 0)
	b.Data = binary.LittleEndian.AppendUint64(b.Data, upload)
	b.Data = append(b.Data, piece...)
	b.end(start)
}

// Configure creates the queue or gives it new settings; the answer is always a Result (OK with counts, or IDTaken).
//
//	configure  queue u64 | settings (see Settings)
func (b *Batch) Configure(id QueueID, s *Settings) { b.configure(0, id, s) }

// Reconfigure gives the queue new settings, and does not make it if it is not there: the answer is Gone then.
func (b *Batch) Reconfigure(id QueueID, s *Settings) { b.configure(ConfigureExisting, id, s) }

func (b *Batch) configure(flags uint8, id QueueID, s *Settings) {
	start := b.begin(KindConfigure, flags)
	b.Data = binary.LittleEndian.AppendUint64(b.Data, uint64(id))
	b.Data = s.append(b.Data)
	b.end(start)
}

// Delete removes the queue; the answer is always a Result (OK with the messages removed, Gone, InUse or NotEmpty).
//
//	delete  queue u64
func (b *Batch) Delete(id QueueID, ifUnused, ifEmpty bool) {
	var flags uint8
	if ifUnused {
		flags |= DeleteIfUnused
	}
	if ifEmpty {
		flags |= DeleteIfEmpty
	}
	start := b.begin(KindDelete, flags)
	b.Data = binary.LittleEndian.AppendUint64(b.Data, uint64(id))
	b.end(start)
}

// Purge drops the ready messages; the answer is always a Result (OK with their number, or Gone).
//
//	purge  queue u64
func (b *Batch) Purge(id QueueID) {
	start := b.begin(KindPurge, 0)
	b.Data = binary.LittleEndian.AppendUint64(b.Data, uint64(id))
	b.end(start)
}

// AttachOptions says how a consumer consumes.
type AttachOptions struct {
	Credit    uint32 // unsettled deliveries allowed, at least 1; the edge turns "unlimited" into its own bound
	Priority  int32  // x-priority
	Exclusive bool
	NoAck     bool
	Tag       string // for listings
}

// Attach starts a consumer; the answer is always a Result (OK with counts, Gone or InUse) and comes before its first
// delivery.
//
//	attach  queue u64 | consumer u64 | credit u32 | priority i32 | tag to the end
func (b *Batch) Attach(id QueueID, c ConsumerID, o *AttachOptions) {
	var flags uint8
	if o.Exclusive {
		flags |= AttachExclusive
	}
	if o.NoAck {
		flags |= AttachNoAck
	}
	start := b.begin(KindAttach, flags)
	b.Data = binary.LittleEndian.AppendUint64(b.Data, uint64(id))
	b.Data = binary.LittleEndian.AppendUint64(b.Data, uint64(c))
	b.Data = binary.LittleEndian.AppendUint32(b.Data, o.Credit)
	b.Data = binary.LittleEndian.AppendUint32(b.Data, uint32(o.Priority))
	b.Data = append(b.Data, o.Tag...)
	b.end(start)
}

// Credit sets how many unsettled deliveries the consumer may have; 0 pauses it.
//
//	credit  consumer u64 | credit u32
func (b *Batch) Credit(c ConsumerID, credit uint32) {
	start := b.begin(KindCredit, 0)
	b.Data = binary.LittleEndian.AppendUint64(b.Data, uint64(c))
	b.Data = binary.LittleEndian.AppendUint32(b.Data, credit)
	b.end(start)
}

// Cancel stops the consumer; the answer is always a Result, after which no delivery follows.
//
//	cancel  consumer u64
func (b *Batch) Cancel(c ConsumerID) {
	start := b.begin(KindCancel, 0)
	b.Data = binary.LittleEndian.AppendUint64(b.Data, uint64(c))
	b.end(start)
}

// Detach forgets the consumer or getter and returns what it holds: deliveries up to sent, the last one that its client was sent,
// as failed ones if failed; later ones as Undelivered.
//
//	detach  consumer u64 | sent u64
func (b *Batch) Detach(c ConsumerID, failed bool, sent uint64) {
	var flags uint8
	if failed {
		flags |= DetachFailed
	}
	start := b.begin(KindDetach, flags)
	b.Data = binary.LittleEndian.AppendUint64(b.Data, uint64(c))
	b.Data = binary.LittleEndian.AppendUint64(b.Data, sent)
	b.end(start)
}

// Settle settles deliveries of a consumer or getter; ids that are not out are passed over. The command's flags hold the
// outcome.
//
//	settle  consumer u64 | ranges, each from u64, to u64
func (b *Batch) Settle(c ConsumerID, o Outcome, ranges ...Range) {
	start := b.begin(KindSettle, uint8(o))
	b.Data = binary.LittleEndian.AppendUint64(b.Data, uint64(c))
	for _, r := range ranges {
		b.Data = binary.LittleEndian.AppendUint64(b.Data, r.From)
		b.Data = binary.LittleEndian.AppendUint64(b.Data, r.To)
	}
	b.end(start)
}

// SettleLater gives deliveries back like Settle with Requeue or RejectRequeue, but so many milliseconds (1 to MaxDelay)
// later, by the entries' clock. Until then they are with nobody; the consumer's credit is free at once.
//
//	settle-later  consumer u64 | delay u64 | ranges, each from u64, to u64
func (b *Batch) SettleLater(c ConsumerID, o Outcome, delayMillis uint64, ranges ...Range) {
	start := b.begin(KindSettleLater, uint8(o))
	b.Data = binary.LittleEndian.AppendUint64(b.Data, uint64(c))
	b.Data = binary.LittleEndian.AppendUint64(b.Data, delayMillis)
	for _, r := range ranges {
		b.Data = binary.LittleEndian.AppendUint64(b.Data, r.From)
		b.Data = binary.LittleEndian.AppendUint64(b.Data, r.To)
	}
	b.end(start)
}

// GiveBack is Credit together with a Settle, as Undelivered, of the deliveries from first to last, if last is the consumer's last
// one: otherwise a message would come to the client before those that go back. The answer is always a Result: OK; Later when
// only the credit was changed; Unknown.
//
//	give-back  consumer u64 | credit u32 | first u64 | last u64
func (b *Batch) GiveBack(c ConsumerID, credit uint32, first, last uint64) {
	start := b.begin(KindGiveBack, 0)
	b.Data = binary.LittleEndian.AppendUint64(b.Data, uint64(c))
	b.Data = binary.LittleEndian.AppendUint32(b.Data, credit)
	b.Data = binary.LittleEndian.AppendUint64(b.Data, first)
	b.Data = binary.LittleEndian.AppendUint64(b.Data, last)
	b.end(start)
}

// Get takes one message for the getter c, which needs no Attach and may get from many queues; the answer is always a
// Result (Message, Empty, Gone or Single).
//
//	get  queue u64 | consumer u64
func (b *Batch) Get(id QueueID, c ConsumerID) {
	start := b.begin(KindGet, 0)
	b.Data = binary.LittleEndian.AppendUint64(b.Data, uint64(id))
	b.Data = binary.LittleEndian.AppendUint64(b.Data, uint64(c))
	b.end(start)
}

// Peek looks at a queue's ready message behind skip others and changes nothing; the answer is always a Result (Message,
// with a delivery that no consumer has, Empty or Gone).
//
//	peek  queue u64 | skip u32
func (b *Batch) Peek(id QueueID, skip uint32) {
	start := b.begin(KindPeek, 0)
	b.Data = binary.LittleEndian.AppendUint64(b.Data, uint64(id))
	b.Data = binary.LittleEndian.AppendUint32(b.Data, skip)
	b.end(start)
}

// SessionUp, from the leader: the session's node runs; earlier sessions of the same node are over.
//
//	session-up, session-down, suspect  session u64
func (b *Batch) SessionUp(s SessionID) { b.session(KindSessionUp, 0, s) }

// SessionDown, from the leader: the session is over. Its consumers go, what they hold returns. What tells repeated
// batches apart stays until a later session of the node comes up.
func (b *Batch) SessionDown(s SessionID) { b.session(KindSessionDown, 0, s) }

// Suspect, from the leader: the session's node cannot be reached (or, cleared, can be again). Its consumers get nothing
// new and keep what they have.
func (b *Batch) Suspect(s SessionID, cleared bool) {
	var flags uint8
	if cleared {
		flags = SuspectCleared
	}
	b.session(KindSuspect, flags, s)
}

func (b *Batch) session(k Kind, flags uint8, s SessionID) {
	start := b.begin(k, flags)
	b.Data = binary.LittleEndian.AppendUint64(b.Data, uint64(s))
	b.end(start)
}

// Tick, from the leader: nothing but the entry's time.
func (b *Batch) Tick() { b.end(b.begin(KindTick, 0)) }

// MachineVersion, from the leader: raises the version of the machine.
//
//	machine-version  version u32
func (b *Batch) MachineVersion(v uint32) {
	start := b.begin(KindMachineVersion, 0)
	b.Data = binary.LittleEndian.AppendUint32(b.Data, v)
	b.end(start)
}

// Hash, from the leader: the hash of its state after the entry at index.
//
//	hash  index u64 | hash u64
func (b *Batch) Hash(index, hash uint64) {
	start := b.begin(KindHash, 0)
	b.Data = binary.LittleEndian.AppendUint64(b.Data, index)
	b.Data = binary.LittleEndian.AppendUint64(b.Data, hash)
	b.end(start)
}

// AppendEntryHeader starts an entry of so many batches.
func AppendEntryHeader(dst []byte, timeMillis int64, batches uint32) []byte {
	dst = append(dst, EntryVersion, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, batches)
	return binary.LittleEndian.AppendUint64(dst, uint64(timeMillis))
}

// AppendBatch adds a batch to an entry.
func AppendBatch(dst []byte, s SessionID, seq, acked uint64, b *Batch) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(b.Data)))
	dst = binary.LittleEndian.AppendUint32(dst, b.Commands)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(s))
	dst = binary.LittleEndian.AppendUint64(dst, seq)
	dst = binary.LittleEndian.AppendUint64(dst, acked)
	return append(dst, b.Data...)
}
