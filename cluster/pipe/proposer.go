package pipe

import (
	"bytes"
	"sync"

	"github.com/warrenmq/warren/raftfsm/queue"
)

// proposer packs the batches of all sessions into entries. It sends at once when nothing is in flight and otherwise
// waits for an entry to be full, with few in flight: small entries at once when there is little to do, large ones when
// there is much.
type proposer struct {
	log        Log
	now        func() int64 // milliseconds
	entryBytes int
	inFlight   int // at most
	maxPending int // bytes

	mu       sync.Mutex // guards what follows; taken last
	open     bool
	term     uint64
	version  uint32   // of the machine that applied last
	flying   int      // entries in flight
	sealed   [][]byte // full, waiting to be sent
	building []byte   // header and batches so far; empty: none
	batches  uint32
	pending  int // bytes in sealed and building

	last  int64 // time that was told, or of an entry that was applied
	ahead int64 // how far the machine's time is ahead of now
	read  int64 // now, when ahead was made smaller
}

// lead opens the proposer for a term, empty, with the machine's time.
func (p *proposer) lead(term uint64, time int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	p.open, p.term, p.last, p.ahead = true, term, max(p.last, time), 0
}

// catchUp is which part of the time that passes a machine that is ahead of its leader's clock gives up.
const catchUp = 16

// time is that of the machine. It never runs backwards. Where an earlier leader's clock was ahead of this one's it does not stand
// still either, or nothing would be due until this one has caught up: it goes on a little slower.
func (p *proposer) time() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stamp()
}

// stamp is time under the lock.
func (p *proposer) stamp() int64 {
	now := p.now()
	if p.ahead == 0 || now < p.read {
		p.read = now
	}
	less := (now - p.read) / catchUp
	p.read += less * catchUp
	p.last = max(p.last, now+max(0, p.ahead-less))
	p.ahead = p.last - now
	return p.last
}

// machine notes the version of the machine, for which entries are written from then on.
func (p *proposer) machine(version uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.version = version
}

// follow closes it and forgets what waits: the edges keep it.
func (p *proposer) follow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
}

func (p *proposer) clear() {
	clear(p.sealed)
	p.open, p.flying, p.sealed, p.pending = false, 0, p.sealed[:0], 0
	p.building, p.batches = p.building[:0], 0
}

// add takes a copy of a batch; false: this host does not lead or has too much waiting.
func (p *proposer) add(s queue.SessionID, seq, acked uint64, b *queue.Batch) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.put(s, seq, acked, b)
}

// addAndFlush is add and flush under one lock.
func (p *proposer) addAndFlush(s queue.SessionID, seq, acked uint64, b *queue.Batch) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.put(s, seq, acked, b) {
		return false, nil
	}
	return true, p.send()
}

func (p *proposer) put(s queue.SessionID, seq, acked uint64, b *queue.Batch) bool {
	size := queue.BatchHeaderSize + len(b.Data)
	if !p.open || p.pending+size > p.maxPending {
		return false
	}
	if p.batches > 0 && len(p.building)+size > p.entryBytes {
		p.seal()
	}
	if len(p.building) == 0 {
		p.building = queue.AppendEntryHeader(p.building, 0, 0)
	}
	p.building = queue.AppendBatch(p.building, s, seq, acked, b)
	p.batches++
	p.pending += size
	return true
}

// seal closes the entry that is being built. The log keeps the bytes, so a buffer much too large for them is not given
// away but used again.
func (p *proposer) seal() {
	entry := p.building
	queue.SealEntry(entry, p.batches, p.version)
	if cap(entry) > 2*len(entry) {
		p.sealed = append(p.sealed, bytes.Clone(entry))
		p.building = entry[:0]
	} else {
		p.sealed = append(p.sealed, entry)
		p.building = make([]byte, 0, min(cap(entry), p.entryBytes+4096))
	}
	p.batches = 0
}

// flush sends what may be sent.
func (p *proposer) flush() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.send()
}

func (p *proposer) send() error {
	for p.open && p.flying < p.inFlight {
		if len(p.sealed) == 0 {
			if p.batches == 0 || p.flying > 0 && len(p.building) < p.entryBytes {
				return nil
			}
			p.seal()
		}
		entry := p.sealed[0]
		p.sealed[0] = nil
		if p.sealed = p.sealed[1:]; len(p.sealed) == 0 {
			p.sealed = nil
		}
		p.pending -= len(entry) - queue.EntryHeaderSize
		le.PutUint64(entry[8:], uint64(p.stamp()))
		p.flying++
		if err := p.log.Propose(p.term, entry); err != nil {
			p.flying--
			return err
		}
	}
	return nil
}

// applied counts entries out of flight and sends what may be sent then. last is the entries' latest time.
func (p *proposer) applied(entries int, last int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flying = max(0, p.flying-entries)
	p.last = max(p.last, last)
	return p.send()
}

// failed counts an entry of the term out of flight; false: the term is over anyway.
func (p *proposer) failed(term uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.open || p.term != term {
		return false
	}
	p.flying = max(0, p.flying-1)
	return true
}

// waiting is the bytes that wait for their entry.
func (p *proposer) waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pending
}
