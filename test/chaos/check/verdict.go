package check

import (
	"fmt"
	"time"
)

// Kinds of findings: each is a promise that was broken.
const (
	Lost        = "lost"           // confirmed, and did not come out until it was acknowledged
	Duplicate   = "duplicate"      // came again without a reason that the protocol allows
	AfterAck    = "after ack"      // came again after an ack that was committed
	Order       = "order"          // a first delivery overtook an earlier message of its channel, or one that came again another that did
	Phantom     = "phantom"        // was never published, or not to this queue
	Corrupt     = "corrupt"        // the body's checksum is wrong
	Undo        = "undone"         // was rolled back or returned, and came out
	Torn        = "torn"           // a part of a transaction came out, and another did not
	NotDrained  = "not drained"    // a queue did not run empty
	ClientError = "client error"   // a client of an untouched node noticed more than a pause
	Catalog     = "catalog"        // the history of declares, binds and deletes is not linearizable
	Reply       = "reply"          // a reply of an RPC server did not arrive, or not where it belongs
	Exclusive   = "exclusive"      // an exclusive queue was open to others, or outlived its connection
	NodeEnded   = "node ended"     // a process ended that nothing had ended
	NotReady    = "not ready"      // a node did not serve again after a fault was healed
	Resource    = "resource"       // memory, goroutines or open files did not come back to their baseline
	LogLine     = "log"            // a node's log tells of a panic, a data race or a divergence
	StateHash   = "state hash"     // replicas differ
	WentOn      = "went on"        // a node whose fsync failed did not end
	Membership  = "membership"     // a change of the cluster's members was not carried out
	Missed      = "missed"         // the suite's fault did not hit whom it was meant for
	Stalled     = "stalled"        // no confirm for longer than the bound, though a majority was well
	samples     = 20               // findings of one kind that are kept word for word; all are counted
	noticing    = 60 * time.Second // how long a broker may take to notice that a client is gone
	committing  = 10 * time.Second // after so much quiet an ack on a healthy channel must be committed
	slack       = 5 * time.Second  // a client may hear of its lost channel after the broker gave its messages away
	maxSuspects = 200_000          // suspicions kept until the end; more are a finding of their own
)

// Finding is one broken promise.
type Finding struct {
	Kind      string
	Queue     string `json:",omitempty"`
	Publisher string `json:",omitempty"`
	Message   uint32 `json:",omitempty"`
	Detail    string
}

func (f Finding) String() string {
	if f.Queue == "" {
		return f.Kind + ": " + f.Detail
	}
	return fmt.Sprintf("%s: message %d of %s in queue %s: %s", f.Kind, f.Message, f.Publisher, f.Queue, f.Detail)
}

// findings are what was found so far. Guarded by Ledger.mu.
type findings struct {
	counts   map[string]int
	samples  []Finding
	reasons  map[string]int // redeliveries that the protocol allows, by reason
	suspects []suspicion
}

// suspicion is a redelivery whose reason can be told only at the end, when all losses of channels are known.
type suspicion struct {
	queue     *Queue
	publisher *Publisher
	id        uint32
	mark      mark   // as it was when it came again
	to        uint32 // the channel it came to
	at        time.Duration
	late      bool // it came without the flag, after it had come with it
}

// Report adds a finding.
func (l *Ledger) Report(f Finding) { l.report(f) }

func (l *Ledger) report(f Finding) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.found.add(f)
}

func (f *findings) add(found Finding) {
	if f.counts == nil {
		f.counts = map[string]int{}
	}
	f.counts[found.Kind]++
	if f.counts[found.Kind] <= samples {
		f.samples = append(f.samples, found)
	}
}

func (l *Ledger) explain(reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.found.explain(reason)
}

func (f *findings) explain(reason string) {
	if f.reasons == nil {
		f.reasons = map[string]int{}
	}
	f.reasons[reason]++
}

func (l *Ledger) suspect(s suspicion) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.found.suspects) == maxSuspects {
		l.found.add(Finding{Kind: Duplicate, Detail: "more redeliveries in question than are kept"})
		return
	}
	l.found.suspects = append(l.found.suspects, s)
}

// Verdict is the outcome of a run.
type Verdict struct {
	Published, Confirmed, Undone int
	Uncertain, UncertainCameOut  int            // no answer: lost with the connection; a client that repeats them makes duplicates of those that came out
	Deliveries                   int            // of confirmed messages, one for each queue it was routed to
	Redelivered                  map[string]int // by the reason that allows it
	Counts                       map[string]int // findings by kind
	Findings                     []Finding      // at most 20 of each kind
}

// Failed says whether any promise was broken.
func (v *Verdict) Failed() bool { return len(v.Counts) > 0 }

// Judge holds the whole ledger against the promises. No client may run any more.
func (l *Ledger) Judge(windows []Window) *Verdict {
	v := &Verdict{}
	l.judgeSuspects(windows)
	l.eachConfirmed(func(p *Publisher, id uint32, q *Queue, m mark) {
		v.Deliveries++
		switch {
		case m.acked:
		case m.standing == unseen:
			l.report(Finding{Kind: Lost, Queue: q.name, Publisher: p.name, Message: id, Detail: "confirmed and never delivered"})
		default:
			l.report(Finding{Kind: Lost, Queue: q.name, Publisher: p.name, Message: id, Detail: "confirmed, delivered, not acknowledged, and never delivered again"})
		}
	})
	for _, p := range l.allPublishers() {
		v.add(p)
		p.judgeCommits()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	v.Counts, v.Findings, v.Redelivered = l.found.counts, l.found.samples, l.found.reasons
	return v
}

// add counts a publisher's messages and looks for undone ones that came out.
func (v *Verdict) add(p *Publisher) {
	for id, f := range p.fates {
		v.Published++
		came := false
		for _, q := range p.route(uint32(id)) {
			m := q.look(p.number, uint32(id))
			came = came || m.standing != unseen
			if f == undone && m.standing != unseen {
				p.ledger.report(Finding{Kind: Undo, Queue: q.name, Publisher: p.name, Message: uint32(id), Detail: "was rolled back or returned, and came out"})
			}
		}
		switch f {
		case confirmed:
			v.Confirmed++
		case undone:
			v.Undone++
		case uncertain:
			v.Uncertain++
			if came {
				v.UncertainCameOut++
			}
		}
	}
}

// judgeCommits looks for transactions without an answer of which a part came out.
func (p *Publisher) judgeCommits() {
	for _, ids := range p.commits {
		came, missing := "", ""
		for _, id := range ids {
			for _, q := range p.route(id) {
				if q.look(p.number, id).standing == unseen {
					missing += fmt.Sprintf(" %d in %s", id, q.name)
				} else {
					came += fmt.Sprintf(" %d in %s", id, q.name)
				}
			}
		}
		if came != "" && missing != "" {
			p.ledger.report(Finding{Kind: Torn, Queue: p.route(ids[0])[0].name, Publisher: p.name, Message: ids[0],
				Detail: fmt.Sprintf("of a transaction came%s, and not%s", came, missing)})
		}
	}
}

// judgeSuspects decides on the redeliveries that had no reason when they came.
func (l *Ledger) judgeSuspects(windows []Window) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.found.suspects {
		if reason, kind, detail := l.judge(s, windows); kind == "" {
			l.found.explain(reason)
		} else {
			l.found.add(Finding{Kind: kind, Queue: s.queue.name, Publisher: s.publisher.name, Message: s.id,
				Detail: fmt.Sprintf("at %v to channel %d: %s", s.at.Round(time.Millisecond), s.to, detail)})
		}
	}
	l.found.suspects = nil
}

// judge gives the reason that allows a redelivery, or the kind of finding that it is. The caller holds l.mu.
func (l *Ledger) judge(s suspicion, windows []Window) (reason, kind, detail string) {
	if s.late {
		return l.readLate(s, windows)
	}
	if s.mark.standing == unseen {
		if reason := l.unread(s, windows); reason != "" {
			return reason, "", ""
		}
		return "", Duplicate, "flagged as redelivered, though no consumer's channel was lost since it was published"
	}
	holder := l.channels[s.mark.channel]
	since, came := time.Duration(s.mark.at)*time.Millisecond, time.Duration(s.mark.came)*time.Millisecond
	lost := holder.lost >= 0 && holder.lost <= s.at+slack
	if s.mark.standing == held {
		switch {
		case lost:
			return "the channel that held it was lost", "", ""
		case Severed(windows, holder.node, came-slack, s.at):
			return "the node of the channel that held it was under a fault", "", ""
		}
		return "", Duplicate, fmt.Sprintf("channel %d has it since %v, unsettled and healthy", holder.number, since)
	}
	switch {
	case lost && !quiet(windows, since, holder.lost, committing):
		return "acknowledged on a channel that was lost soon after", "", ""
	case Severed(windows, holder.node, came-slack, min(s.at, since+committing)):
		return "acknowledged on a node that was under a fault", "", ""
	case holder.closed >= 0:
		// An ack has no answer, and the close waits for none: the node goes on to have it committed, unless it is hit before that was possible.
		if hit, ok := firstSevered(windows, holder.node, since); ok && hit <= s.at && !quiet(windows, since, hit, committing) {
			return "acknowledged on a channel that was closed, and its node came under a fault before a majority was well for long", "", ""
		}
	}
	return "", AfterAck, fmt.Sprintf("channel %d acknowledged it at %v and stayed healthy", holder.number, since)
}

// readLate judges a message that came without the flag after it had come with it. The caller holds l.mu.
func (l *Ledger) readLate(s suspicion, windows []Window) (reason, kind, detail string) {
	reader, since, came := l.channels[s.to], time.Duration(s.mark.at)*time.Millisecond, time.Duration(s.mark.came)*time.Millisecond
	switch {
	case reader.lost >= 0 && reader.lost <= s.at+slack:
		return "read late on a channel that was lost", "", ""
	case Severed(windows, reader.node, came-slack, s.at):
		return "read late on a node that was under a fault", "", ""
	}
	return "", Duplicate, fmt.Sprintf("without the redelivered flag, to a healthy channel (node%d), though it had come with it: %v since %v, channel %d (node%d)",
		reader.node+1, s.mark.standing, since, s.mark.channel, l.channels[s.mark.channel].node+1)
}

// unread gives the reason for which a message may have been given to a channel that never read it. The caller holds l.mu.
func (l *Ledger) unread(s suspicion, windows []Window) string {
	for _, c := range l.channels {
		switch {
		case c.queue != s.queue:
		case c.lost >= 0 && c.lost <= s.at+slack && s.at <= c.lost+noticing && s.publisher.publishedBefore(s.id, c.lost+noticing):
			return "delivered to a channel that was lost before it was read"
		case Severed(windows, c.node, max(s.publisher.publishedAt(s.id), s.at-noticing), s.at) && (c.lost < 0 || c.lost >= s.publisher.publishedAt(s.id)):
			return "delivered to a node that was under a fault"
		}
	}
	return ""
}
