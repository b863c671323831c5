package broker

import "sync"

// confirms tracks what a channel in confirm mode has published: how many commands each message still waits for. Shards
// answer in any order; what is complete from the front is told with multiple, what completes before an earlier message
// is told singly, so that a slow shard holds back only its own.
type confirms struct {
	mu    sync.Mutex
	slots []publishSlot // ring by sequence number
	head  uint64        // the first number that is not complete
	next  uint64        // the number after the last one begun
	front []verdict     // complete from the front, not told yet
	early []uint64      // complete before an earlier one, not told yet
	// listed says that the channel is in the outbox's list: only one entry at a time.
	listed bool
}

type publishSlot struct {
	pending uint16
	outcome Outcome
	told    bool
}

// Outcome is what became of a message published on a channel in confirm mode.
type Outcome uint8

// The outcomes. Where a message has several, as it goes to several shards, the highest is told.
const (
	Confirmed  Outcome = iota // every queue it was routed to has it; a channel without outcomes (AMQP) also confirms what goes nowhere
	Unroutable                // no queue is bound for it; told on channels with outcomes alone
	QueueFull                 // a queue with a limit refused it
	Refused                   // its pieces were lost while this node was cut off, or its producer's number is too low
	CutOff                    // this node does not know whether its routes are current; never told on channels with outcomes
)

// Acked tells whether the message is where it should be, as far as AMQP's ack and nack go.
func (o Outcome) Acked() bool { return o <= Unroutable }

// verdict is a run of messages up to a number with the same answer.
type verdict struct {
	to      uint64
	count   uint32 // messages that have not been told singly
	outcome Outcome
	open    bool // more may join
}

// told is a frame to write.
type told struct {
	tag      uint64
	multiple bool
	outcome  Outcome
}

// In a count of pending commands, with no command: the outcome that the message has from the start.
const (
	refused    = 1 << 15 // CutOff
	unroutable = 1 << 14
)

// publishSlotOf reads a count.
func publishSlotOf(count uint16) publishSlot {
	switch count {
	case refused:
		return publishSlot{outcome: CutOff}
	case unroutable:
		return publishSlot{outcome: Unroutable}
	}
	return publishSlot{pending: count}
}

// begin starts the numbers from c.next on, each waiting for so many commands; 0 is complete at once. It tells whether
// something became ready to be told.
func (c *confirms) begin(counts []uint16) (ready bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range counts {
		c.room()
		s := c.slot(c.next)
		*s = publishSlotOf(n)
		c.next++
		if s.pending == 0 {
			c.complete(c.next - 1)
			ready = true
		}
	}
	return ready && c.list()
}

// finish counts one command of each of the numbers [from, from+count) as applied.
func (c *confirms) finish(from uint64, count uint32) (ready bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for seq := from; seq < from+uint64(count); seq++ {
		s := c.slot(seq)
		if s.pending--; s.pending == 0 {
			c.complete(seq)
			ready = true
		}
	}
	return ready && c.list()
}

// refuse makes the answer for a number, not complete yet, a refusal.
func (c *confirms) refuse(seq uint64, o Outcome) {
	c.mu.Lock()
	s := c.slot(seq)
	s.outcome = max(s.outcome, o)
	c.mu.Unlock()
}

func (c *confirms) list() (first bool) {
	first = !c.listed
	c.listed = true
	return first
}

func (c *confirms) slot(seq uint64) *publishSlot { return &c.slots[seq&uint64(len(c.slots)-1)] }

// room makes place for one more number.
func (c *confirms) room() {
	if c.next-c.head < uint64(len(c.slots)) {
		return
	}
	old := c.slots
	c.slots = make([]publishSlot, max(64, 2*len(old)))
	for seq := c.head; seq < c.next; seq++ {
		*c.slot(seq) = old[seq&uint64(len(old)-1)]
	}
}

func (c *confirms) complete(seq uint64) {
	if seq != c.head {
		c.early = append(c.early, seq)
		return
	}
	for c.head < c.next && c.slot(c.head).pending == 0 {
		c.join(c.slot(c.head), c.head)
		c.head++
	}
}

// join adds the number at the front to the verdicts. An answer that was told singly must not be covered by a later
// frame with multiple that says otherwise, which some clients would believe: so it ends the run before it.
func (c *confirms) join(s *publishSlot, seq uint64) {
	var last *verdict
	if n := len(c.front); n > 0 && c.front[n-1].open {
		last = &c.front[n-1]
	}
	same := last != nil && last.outcome == s.outcome
	switch {
	case s.told:
		if last != nil {
			last.open = same
		}
	case same:
		last.to = seq
		last.count++
	default:
		c.front = append(c.front, verdict{to: seq, count: 1, outcome: s.outcome, open: true})
	}
}

// drain appends what is to be told.
func (c *confirms) drain(frames []told) []told {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listed = false
	for _, v := range c.front {
		frames = append(frames, told{tag: v.to, multiple: v.count > 1, outcome: v.outcome})
	}
	for _, seq := range c.early {
		if seq < c.head {
			continue // the front has caught up
		}
		s := c.slot(seq)
		s.told = true
		frames = append(frames, told{tag: seq, outcome: s.outcome})
	}
	c.front, c.early = c.front[:0], c.early[:0]
	return frames
}

// start is called once, before anything else.
func (c *confirms) start() { c.head, c.next = 1, 1 }
