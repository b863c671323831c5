package pipe

import (
	"iter"

	"github.com/warrenmq/warren/raftfsm/queue"
)

// stream is where the effects for one session go: the pipe of this node's own edge, or the outbox of a link. Its
// methods are called with the host's lock held, in order; they neither block nor call the host.
//
// What comes in one call is told in this order: deliveries, replies, cancels. So a consumer gets nothing after the
// answer to its Cancel, and may get its first delivery before the answer to its Attach.
type stream interface {
	// effects takes what is for the session out of e, which is the host's again after the call. behind tells that consumers of
	// the shard wait for their settles, see broker.Batch.
	effects(session queue.SessionID, generation uint32, e *queue.Effects, behind bool)
	// welcome ends the answer to a hello: what the edge missed has come through effects.
	welcome(w welcome)
	// reset tells that the host does not serve this generation (any more).
	reset(generation uint32)
}

// attachment is a stream that has been welcomed, or waits to be.
type attachment struct {
	stream     stream
	generation uint32
	hello      *hello // not nil: waits for the entry that says that its session is up
}

// sessionsUp calls found with each session that an entry brings up.
func sessionsUp(entry []byte, found func(queue.SessionID)) {
	if len(entry) < queue.EntryHeaderSize {
		return
	}
	batches, b := le.Uint32(entry[4:]), entry[queue.EntryHeaderSize:]
	for ; batches > 0 && len(b) >= queue.BatchHeaderSize; batches-- {
		n := uint64(le.Uint32(b))
		session := le.Uint64(b[8:])
		if b = b[queue.BatchHeaderSize:]; n > uint64(len(b)) {
			return
		}
		if session == 0 {
			for c := range commands(b[:n]) {
				if c.kind == queue.KindSessionUp && len(c.payload) >= 8 {
					found(queue.SessionID(le.Uint64(c.payload)))
				}
			}
		}
		b = b[n:]
	}
}

// commands walks over the commands of a batch.
func commands(data []byte) iter.Seq[command] {
	return func(yield func(command) bool) {
		for ordinal := uint32(0); len(data) >= queue.CommandHeaderSize; ordinal++ {
			kind, n := queue.Kind(data[0]), uint64(le.Uint32(data[4:]))
			data = data[queue.CommandHeaderSize:]
			if n > uint64(len(data)) || !yield(command{kind, ordinal, data[:n]}) {
				return
			}
			data = data[n:]
		}
	}
}

// command is one command of a batch.
type command struct {
	kind    queue.Kind
	ordinal uint32
	payload []byte
}
