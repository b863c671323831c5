package check

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// story is a ledger with a clock that the test sets.
type story struct {
	*Ledger
	now     time.Duration
	windows Windows
	queue   *Queue
	pub     *Publisher
}

func newStory(single bool) *story {
	s := &story{}
	s.Ledger = NewLedger(func() time.Duration { return s.now })
	s.queue = s.Queue("q", single)
	s.pub = s.Publisher("p", func(uint32) []*Queue { return []*Queue{s.queue} })
	s.pub.Begin()
	return s
}

// publish publishes messages and has them confirmed.
func (s *story) publish(n int) {
	for range n {
		s.pub.Confirmed(s.pub.Next())
	}
}

func (s *story) deliver(c *Consumer, ids ...uint32) {
	for _, id := range ids {
		c.Delivered(0, id, false)
	}
}

func (s *story) again(c *Consumer, ids ...uint32) {
	for _, id := range ids {
		c.Delivered(0, id, true)
	}
}

func (s *story) ack(c *Consumer, ids ...uint32) {
	for _, id := range ids {
		c.Acked(0, id)
	}
}

// ackAndClose has node 0's channel acknowledge message 0 and close, and lets a minute pass. It returns a channel of node 1.
func (s *story) ackAndClose() *Consumer {
	s.publish(1)
	a, b := s.queue.Consumer(0), s.queue.Consumer(1)
	s.deliver(a, 0)
	s.ack(a, 0)
	s.now += time.Second
	a.Closed()
	s.now += time.Minute
	return b
}

// againLater has message 0 come again a second later.
func (s *story) againLater(c *Consumer) {
	s.now += time.Second
	s.again(c, 0)
	s.ack(c, 0)
}

// TestVerdicts tells histories and the kinds of findings that they must lead to, and no others.
func TestVerdicts(t *testing.T) {
	for _, c := range []struct {
		name   string
		single bool
		tell   func(s *story)
		want   []string
	}{
		{name: "everything in order", tell: func(s *story) {
			a := s.queue.Consumer(0)
			s.publish(3)
			s.deliver(a, 0, 1, 2)
			s.ack(a, 0, 1, 2)
		}},
		{name: "a confirmed message never comes", want: []string{Lost}, tell: func(s *story) {
			a := s.queue.Consumer(0)
			s.publish(3)
			s.deliver(a, 0, 2)
			s.ack(a, 0, 2)
		}},
		{name: "a message without an answer never comes", tell: func(s *story) {
			s.pub.Next()
		}},
		{name: "a message without an answer comes", tell: func(s *story) {
			s.pub.Next()
			a := s.queue.Consumer(0)
			s.deliver(a, 0)
			s.ack(a, 0)
		}},
		{name: "a message that was delivered to a lost channel never comes again", want: []string{Lost}, tell: func(s *story) {
			s.publish(1)
			a := s.queue.Consumer(0)
			s.deliver(a, 0)
			a.Lost()
		}},
		{name: "a message that was delivered to a lost channel comes again", tell: func(s *story) {
			s.publish(1)
			a, b := s.queue.Consumer(0), s.queue.Consumer(1)
			s.deliver(a, 0)
			a.Lost()
			s.again(b, 0)
			s.ack(b, 0)
		}},
		{name: "it comes again without the flag", want: []string{Duplicate}, tell: func(s *story) {
			s.publish(1)
			a, b := s.queue.Consumer(0), s.queue.Consumer(1)
			s.deliver(a, 0)
			a.Lost()
			s.deliver(b, 0)
			s.ack(b, 0)
		}},
		{name: "delivered twice without the flag", want: []string{Duplicate}, tell: func(s *story) {
			s.publish(1)
			a := s.queue.Consumer(0)
			s.deliver(a, 0, 0)
			s.ack(a, 0)
		}},
		{name: "it comes again, with the flag, before the lost channel is read", tell: func(s *story) {
			s.publish(2)
			a, b := s.queue.Consumer(0), s.queue.Consumer(1)
			s.deliver(a, 0)
			s.again(b, 1)
			s.deliver(a, 1)
			a.Lost()
			s.again(b, 0)
			s.ack(b, 0, 1)
		}},
		{name: "it comes again, with the flag, and then without to a healthy channel", want: []string{Duplicate}, tell: func(s *story) {
			s.publish(1)
			a, b := s.queue.Consumer(0), s.queue.Consumer(1)
			s.queue.Consumer(2).Lost()
			s.again(b, 0)
			s.ack(b, 0)
			s.deliver(a, 0)
			s.ack(a, 0)
		}},
		{name: "it comes again, with the flag, is read late, and comes without the flag once more", want: []string{Duplicate}, tell: func(s *story) {
			s.publish(1)
			a, b, c := s.queue.Consumer(0), s.queue.Consumer(1), s.queue.Consumer(1)
			s.again(b, 0)
			s.deliver(a, 0)
			a.Lost()
			s.ack(b, 0)
			s.deliver(c, 0)
		}},
		{name: "out with two healthy consumers", want: []string{Duplicate}, tell: func(s *story) {
			s.publish(1)
			a, b := s.queue.Consumer(0), s.queue.Consumer(1)
			s.deliver(a, 0)
			s.again(b, 0)
			s.ack(b, 0)
		}},
		{name: "out with two consumers, the first hears of its end a moment later", tell: func(s *story) {
			s.publish(1)
			a, b := s.queue.Consumer(0), s.queue.Consumer(1)
			s.deliver(a, 0)
			s.again(b, 0)
			s.ack(b, 0)
			s.now += slack / 2
			a.Lost()
		}},
		{name: "out with two consumers, the first loses its channel long after", want: []string{Duplicate}, tell: func(s *story) {
			s.publish(1)
			a, b := s.queue.Consumer(0), s.queue.Consumer(1)
			s.deliver(a, 0)
			s.again(b, 0)
			s.ack(b, 0)
			s.now += 2 * slack
			a.Lost()
		}},
		{name: "out with two consumers, the first on a paused node", tell: func(s *story) {
			s.publish(1)
			a, b := s.queue.Consumer(0), s.queue.Consumer(1)
			s.deliver(a, 0)
			s.windows.Open("stop", 0, s.now, true)
			s.now += 20 * time.Second
			s.again(b, 0)
			s.windows.Close("stop", 0, s.now)
			s.ack(b, 0)
		}},
		{name: "out with two consumers, another node paused", want: []string{Duplicate}, tell: func(s *story) {
			s.publish(1)
			a, b := s.queue.Consumer(0), s.queue.Consumer(1)
			s.deliver(a, 0)
			s.windows.Open("stop", 2, s.now, true)
			s.now += 20 * time.Second
			s.again(b, 0)
			s.windows.Close("stop", 2, s.now)
			s.ack(b, 0)
		}},
		{name: "out with two consumers, the first on a node that was paused long before", want: []string{Duplicate}, tell: func(s *story) {
			s.publish(1)
			a, b := s.queue.Consumer(0), s.queue.Consumer(1)
			s.windows.Open("stop", 0, s.now, true)
			s.now += 10 * time.Second
			s.windows.Close("stop", 0, s.now)
			s.now += 2 * slack
			s.deliver(a, 0)
			s.now += time.Second
			s.again(b, 0)
			s.ack(b, 0)
		}},
		{name: "out with two consumers, the first on a node with a slow disk", want: []string{Duplicate}, tell: func(s *story) {
			s.publish(1)
			a, b := s.queue.Consumer(0), s.queue.Consumer(1)
			s.windows.Open("sync-slow", 0, s.now, false)
			s.deliver(a, 0)
			s.again(b, 0)
			s.ack(b, 0)
		}},
		{name: "again after an ack on a node that was paused long before", want: []string{AfterAck}, tell: func(s *story) {
			s.publish(1)
			a := s.queue.Consumer(0)
			s.windows.Open("stop", 0, s.now, true)
			s.now += 10 * time.Second
			s.windows.Close("stop", 0, s.now)
			s.now += 2 * slack
			s.deliver(a, 0)
			s.ack(a, 0)
			s.again(a, 0)
		}},
		{name: "again after an ack that was long before its node was paused", want: []string{AfterAck}, tell: func(s *story) {
			s.publish(1)
			a := s.queue.Consumer(0)
			s.deliver(a, 0)
			s.ack(a, 0)
			s.now += 2 * committing
			s.windows.Open("stop", 0, s.now, true)
			s.now += 10 * time.Second
			s.again(a, 0)
		}},
		{name: "again after an ack on a paused node", tell: func(s *story) {
			s.publish(1)
			a, b := s.queue.Consumer(0), s.queue.Consumer(1)
			s.deliver(a, 0)
			s.windows.Open("stop", 0, s.now, true)
			s.ack(a, 0)
			s.now += 10 * time.Second
			s.again(b, 0)
			s.ack(b, 0)
		}},
		{name: "flagged as redelivered the first time, published after its node was paused", want: []string{Duplicate}, tell: func(s *story) {
			s.queue.Consumer(0)
			s.windows.Open("stop", 0, s.now, true)
			s.now += 10 * time.Second
			s.windows.Close("stop", 0, s.now)
			s.now += 10 * time.Second
			s.publish(1)
			b := s.queue.Consumer(1)
			s.again(b, 0)
			s.ack(b, 0)
		}},
		{name: "flagged as redelivered the first time, a node with a consumer is paused", tell: func(s *story) {
			s.queue.Consumer(0)
			s.publish(1)
			s.windows.Open("stop", 0, s.now, true)
			s.now += 10 * time.Second
			b := s.queue.Consumer(1)
			s.again(b, 0)
			s.ack(b, 0)
		}},
		{name: "again after an ack on a healthy channel", want: []string{AfterAck}, tell: func(s *story) {
			s.publish(1)
			a := s.queue.Consumer(0)
			s.deliver(a, 0)
			s.ack(a, 0)
			s.again(a, 0)
		}},
		{name: "again after an ack whose channel was lost at once", tell: func(s *story) {
			s.publish(1)
			a, b := s.queue.Consumer(0), s.queue.Consumer(1)
			s.deliver(a, 0)
			s.ack(a, 0)
			s.now += time.Second
			a.Lost()
			s.again(b, 0)
			s.ack(b, 0)
		}},
		{name: "again after an ack whose channel was lost after a quiet minute", want: []string{AfterAck}, tell: func(s *story) {
			s.publish(1)
			a, b := s.queue.Consumer(0), s.queue.Consumer(1)
			s.deliver(a, 0)
			s.ack(a, 0)
			s.now += time.Minute
			a.Lost()
			s.again(b, 0)
			s.ack(b, 0)
		}},
		{name: "again after an ack whose channel was lost after a minute of faults", tell: func(s *story) {
			s.publish(1)
			a, b := s.queue.Consumer(0), s.queue.Consumer(1)
			s.windows.Open("partition", 2, s.now, true)
			s.deliver(a, 0)
			s.ack(a, 0)
			s.now += time.Minute
			a.Lost()
			s.again(b, 0)
			s.ack(b, 0)
		}},
		{name: "again after an ack on a channel that was closed, a minute of faults elsewhere and then one of its node", tell: func(s *story) {
			s.windows.Open("disk-hang", 2, s.now, true)
			b := s.ackAndClose()
			s.windows.Open("power-all", 0, s.now, true)
			s.againLater(b)
		}},
		{name: "again after an ack on a channel that was closed, a quiet minute and then a fault of its node", want: []string{AfterAck}, tell: func(s *story) {
			b := s.ackAndClose()
			s.windows.Open("power-all", 0, s.now, true)
			s.againLater(b)
		}},
		{name: "again after an ack on a channel that was closed, a minute of faults of other nodes", want: []string{AfterAck}, tell: func(s *story) {
			s.windows.Open("disk-hang", 2, s.now, true)
			s.againLater(s.ackAndClose())
		}},
		{name: "again after an ack on a channel that was closed, before a fault of its node", want: []string{AfterAck}, tell: func(s *story) {
			s.windows.Open("disk-hang", 2, s.now, true)
			s.againLater(s.ackAndClose())
			s.now += time.Second
			s.windows.Open("power-all", 0, s.now, true)
		}},
		{name: "flagged as redelivered the first time, no channel lost", want: []string{Duplicate}, tell: func(s *story) {
			s.publish(1)
			a := s.queue.Consumer(0)
			s.again(a, 0)
			s.ack(a, 0)
		}},
		{name: "flagged as redelivered the first time, a channel lost just before", tell: func(s *story) {
			s.publish(1)
			a, b := s.queue.Consumer(0), s.queue.Consumer(1)
			a.Lost()
			s.again(b, 0)
			s.ack(b, 0)
		}},
		{name: "flagged as redelivered, published long after the last loss", want: []string{Duplicate}, tell: func(s *story) {
			a, b := s.queue.Consumer(0), s.queue.Consumer(1)
			a.Lost()
			s.now += noticing + 2*time.Second
			s.publish(1)
			s.again(b, 0)
			s.ack(b, 0)
		}},
		{name: "requeued and back", tell: func(s *story) {
			s.publish(2)
			a := s.queue.Consumer(0)
			s.deliver(a, 0, 1)
			a.Requeued(0, 0)
			s.again(a, 0)
			s.ack(a, 1, 0)
		}},
		{name: "requeued and never back", want: []string{Lost}, tell: func(s *story) {
			s.publish(1)
			a := s.queue.Consumer(0)
			s.deliver(a, 0)
			a.Requeued(0, 0)
		}},
		{name: "out of order on one channel", want: []string{Order}, tell: func(s *story) {
			s.publish(3)
			a := s.queue.Consumer(0)
			s.deliver(a, 0, 2, 1)
			s.ack(a, 0, 1, 2)
		}},
		{name: "out of order across two consumers of one queue cannot be seen", tell: func(s *story) {
			s.publish(2)
			a, b := s.queue.Consumer(0), s.queue.Consumer(1)
			s.deliver(b, 1)
			s.deliver(a, 0)
			s.ack(a, 0)
			s.ack(b, 1)
		}},
		{name: "out of order across the consumers of a queue with one at a time", single: true, want: []string{Order}, tell: func(s *story) {
			s.publish(2)
			a := s.queue.Consumer(0)
			s.deliver(a, 1)
			s.ack(a, 1)
			a.Closed()
			b := s.queue.Consumer(1)
			s.deliver(b, 0)
			s.ack(b, 0)
		}},
		{name: "out of order between two channels of the publisher", single: true, tell: func(s *story) {
			s.publish(1)
			s.pub.Begin()
			s.publish(1)
			a := s.queue.Consumer(0)
			s.deliver(a, 1, 0)
			s.ack(a, 1, 0)
		}},
		{name: "what a lost channel had comes again in order", single: true, tell: func(s *story) {
			s.publish(3)
			a := s.queue.Consumer(0)
			s.deliver(a, 0, 1, 2)
			s.now += time.Second
			a.Lost()
			b := s.queue.Consumer(1)
			s.again(b, 0, 1, 2)
			s.ack(b, 0, 1, 2)
		}},
		{name: "what a lost channel had comes again out of order", single: true, want: []string{Order}, tell: func(s *story) {
			s.publish(3)
			a := s.queue.Consumer(0)
			s.deliver(a, 0, 1, 2)
			s.now += time.Second
			a.Lost()
			b := s.queue.Consumer(1)
			s.again(b, 0, 2, 1)
			s.ack(b, 0, 1, 2)
		}},
		{name: "what a lost channel had comes again and again, each time in order", single: true, tell: func(s *story) {
			s.publish(3)
			a := s.queue.Consumer(0)
			s.deliver(a, 0, 1, 2)
			for range 3 {
				s.now += time.Second
				a.Lost()
				a = s.queue.Consumer(1)
				s.again(a, 0, 1, 2)
			}
			s.ack(a, 0, 1, 2)
		}},
		{name: "the first part of what a lost channel had is read by the next, which is lost, and all comes again", single: true, tell: func(s *story) {
			s.publish(4)
			a := s.queue.Consumer(0)
			s.deliver(a, 0, 1, 2, 3)
			s.now += time.Second
			a.Lost()
			b := s.queue.Consumer(1)
			s.again(b, 0, 1)
			s.ack(b, 0)
			s.now += time.Second
			b.Lost()
			c := s.queue.Consumer(2)
			s.again(c, 1, 2, 3)
			s.ack(c, 1, 2, 3)
		}},
		{name: "a part of what a lost channel had was on its way to the next, whose end is known later", single: true, tell: func(s *story) {
			s.publish(3)
			a := s.queue.Consumer(0)
			s.deliver(a, 0, 1, 2)
			s.now += time.Second
			a.Lost()
			s.queue.Consumer(1).Lost()
			c := s.queue.Consumer(2)
			s.again(c, 2, 0, 1)
			s.ack(c, 0, 1, 2)
		}},
		{name: "what was given back comes again out of order", single: true, tell: func(s *story) {
			s.publish(3)
			a := s.queue.Consumer(0)
			s.deliver(a, 0, 1, 2)
			a.Requeued(0, 2)
			a.Requeued(0, 1)
			s.again(a, 2, 1)
			s.ack(a, 0, 1, 2)
		}},
		{name: "what a lost channel had comes again out of order, of two channels of the publisher", single: true, tell: func(s *story) {
			s.publish(1)
			s.pub.Begin()
			s.publish(1)
			a := s.queue.Consumer(0)
			s.deliver(a, 1, 0)
			s.now += time.Second
			a.Lost()
			b := s.queue.Consumer(1)
			s.again(b, 1, 0)
			s.ack(b, 0, 1)
		}},
		{name: "a commit without an answer comes out as a whole", tell: func(s *story) {
			s.pub.Together([]uint32{s.pub.Next(), s.pub.Next()})
			a := s.queue.Consumer(0)
			s.deliver(a, 0, 1)
			s.ack(a, 0, 1)
		}},
		{name: "a commit without an answer comes not at all", tell: func(s *story) {
			s.pub.Together([]uint32{s.pub.Next(), s.pub.Next()})
		}},
		{name: "a commit without an answer comes out in part", want: []string{Torn}, tell: func(s *story) {
			s.pub.Together([]uint32{s.pub.Next(), s.pub.Next(), s.pub.Next()})
			a := s.queue.Consumer(0)
			s.deliver(a, 0, 2)
			s.ack(a, 0, 2)
		}},
		{name: "never published", want: []string{Phantom}, tell: func(s *story) {
			s.publish(1)
			a := s.queue.Consumer(0)
			s.deliver(a, 0, 1)
			s.ack(a, 0)
		}},
		{name: "of an unknown publisher", want: []string{Phantom}, tell: func(s *story) {
			s.queue.Consumer(0).Delivered(7, 0, false)
		}},
		{name: "in a queue it was not routed to", want: []string{Phantom}, tell: func(s *story) {
			s.publish(1)
			other := s.Queue("other", false)
			other.Consumer(0).Delivered(0, 0, false)
			a := s.queue.Consumer(0)
			s.deliver(a, 0)
			s.ack(a, 0)
		}},
		{name: "rolled back and came", want: []string{Undo}, tell: func(s *story) {
			s.pub.Undone(s.pub.Next())
			a := s.queue.Consumer(0)
			s.deliver(a, 0)
			s.ack(a, 0)
		}},
		{name: "rolled back", tell: func(s *story) { s.pub.Undone(s.pub.Next()) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStory(c.single)
			c.tell(s)
			v := s.Judge(s.windows.All())
			var kinds []string
			for kind := range v.Counts {
				kinds = append(kinds, kind)
			}
			if !slices.Equal(kinds, c.want) {
				t.Fatalf("found %v, want %v: %v", kinds, c.want, v.Findings)
			}
			if v.Failed() != (len(c.want) > 0) {
				t.Fatal("the verdict does not agree with its findings")
			}
		})
	}
}

// TestFanoutLosesOneCopy: a message that one of two queues never gave out is lost, and the drain waits for it.
func TestFanoutLosesOneCopy(t *testing.T) {
	l := NewLedger(func() time.Duration { return 0 })
	queues := []*Queue{l.Queue("a", false), l.Queue("b", false)}
	p := l.Publisher("p", func(uint32) []*Queue { return queues })
	p.Begin()
	p.Confirmed(p.Next())
	c := queues[0].Consumer(0)
	c.Delivered(0, 0, false)
	c.Acked(0, 0)
	if n := l.Outstanding(); n != 1 {
		t.Fatalf("%d outstanding, want 1", n)
	}
	if v := l.Judge(nil); v.Counts[Lost] != 1 || v.Findings[0].Queue != "b" {
		t.Fatalf("%+v", v)
	}
}

func TestFindingsAreCountedAndSampled(t *testing.T) {
	s := newStory(false)
	s.publish(3 * samples)
	v := s.Judge(nil)
	if v.Counts[Lost] != 3*samples || len(v.Findings) != samples {
		t.Fatalf("%d counted, %d kept", v.Counts[Lost], len(v.Findings))
	}
}

func TestLinearizable(t *testing.T) {
	op := func(begin, finish int, client int, verb Verb, variant uint8, answer Answer) CatalogOp {
		return CatalogOp{Client: client, Queue: "q", Verb: verb, Variant: variant, Answer: answer,
			Begin: time.Duration(begin), Finish: time.Duration(finish)}
	}
	for _, c := range []struct {
		name string
		ops  []CatalogOp
		good bool
	}{
		{"declare, seen, deleted, gone", []CatalogOp{op(0, 1, 0, Declare, 0, OK), op(2, 3, 1, Passive, 0, OK),
			op(4, 5, 0, Delete, 0, OK), op(6, 7, 1, Passive, 0, Missing)}, true},
		{"declared here, missing there", []CatalogOp{op(0, 1, 0, Declare, 0, OK), op(2, 3, 1, Passive, 0, Missing)}, false},
		{"missing while the declare runs", []CatalogOp{op(0, 5, 0, Declare, 0, OK), op(1, 2, 1, Passive, 0, Missing)}, true},
		{"seen, then missing, while one declare runs", []CatalogOp{op(0, 9, 0, Declare, 0, OK), op(1, 2, 1, Passive, 0, OK),
			op(3, 4, 2, Passive, 0, Missing)}, false},
		{"deleted and still there", []CatalogOp{op(0, 1, 0, Declare, 0, OK), op(2, 3, 0, Delete, 0, OK), op(4, 5, 1, Passive, 0, OK)}, false},
		{"a lost declare takes effect late", []CatalogOp{op(0, 1, 0, Declare, 0, Unknown), op(2, 3, 1, Passive, 0, Missing),
			op(4, 5, 1, Passive, 0, OK)}, true},
		{"a lost declare takes effect and is undone by nobody", []CatalogOp{op(0, 1, 0, Declare, 0, Unknown),
			op(2, 3, 1, Passive, 0, OK), op(4, 5, 1, Passive, 0, Missing)}, false},
		{"two variants both declared", []CatalogOp{op(0, 1, 0, Declare, 0, OK), op(2, 3, 1, Declare, 1, OK)}, false},
		{"the second variant is refused", []CatalogOp{op(0, 1, 0, Declare, 0, OK), op(2, 3, 1, Declare, 1, Inequivalent)}, true},
		{"bound here, routed there", []CatalogOp{op(0, 1, 0, Declare, 0, OK), op(2, 3, 0, Bind, 0, OK), op(4, 5, 1, Route, 0, OK)}, true},
		{"bound here, unroutable there", []CatalogOp{op(0, 1, 0, Declare, 0, OK), op(2, 3, 0, Bind, 0, OK), op(4, 5, 1, Route, 0, Unroutable)}, false},
		{"unbound and still routed", []CatalogOp{op(0, 1, 0, Declare, 0, OK), op(2, 3, 0, Bind, 0, OK), op(4, 5, 0, Unbind, 0, OK),
			op(6, 7, 1, Route, 0, OK)}, false},
		{"the binding outlives its queue", []CatalogOp{op(0, 1, 0, Declare, 0, OK), op(2, 3, 0, Bind, 0, OK), op(4, 5, 0, Delete, 0, OK),
			op(6, 7, 0, Declare, 0, OK), op(8, 9, 1, Route, 0, OK)}, false},
		{"bound though missing", []CatalogOp{op(0, 1, 0, Bind, 0, OK)}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := Linearizable(c.ops, time.Minute)
			if good := len(v.Findings) == 0; good != c.good || v.Undecided != 0 {
				t.Fatalf("%+v", v)
			}
		})
	}
}

func TestUndecidable(t *testing.T) {
	for _, c := range []struct {
		queues, undecided int
		want              bool
	}{{0, 0, false}, {4, 2, false}, {4, 3, true}, {1, 1, true}} {
		if v := (CatalogVerdict{Queues: c.queues, Undecided: c.undecided}); v.Undecidable() != c.want {
			t.Errorf("%+v: %v", v, v.Undecidable())
		}
	}
}

func TestQuiet(t *testing.T) {
	list := []Window{{Node: 0, From: 10, To: 20}, {Node: 1, From: 25, To: 40}}
	for _, c := range []struct {
		from, to, length time.Duration
		want             bool
	}{{0, 9, 5, true}, {0, 5, 9, false}, {8, 23, 4, false}, {8, 26, 4, true}, {10, 44, 6, false}, {10, 47, 6, true}} {
		if got := quiet(list, c.from, c.to, c.length); got != c.want {
			t.Errorf("quiet from %d to %d for %d: %v", c.from, c.to, c.length, got)
		}
	}
	if quiet([]Window{{From: 5}}, 6, 1000, 10) {
		t.Error("quiet under a fault that goes on")
	}
}

// TestTheViolationIsTold: an operation that is explained by one that ends later is not taken for the violation.
func TestTheViolationIsTold(t *testing.T) {
	op := func(begin, finish int, client int, verb Verb, answer Answer) CatalogOp {
		return CatalogOp{Client: client, Queue: "q", Verb: verb, Answer: answer, Begin: time.Duration(begin), Finish: time.Duration(finish)}
	}
	v := Linearizable([]CatalogOp{op(0, 1, 0, Declare, OK), op(4, 5, 1, Passive, Missing), op(3, 9, 2, Delete, OK), op(10, 11, 1, Passive, Missing),
		op(12, 13, 1, Declare, OK), op(14, 15, 2, Passive, Missing), op(14, 20, 0, Passive, OK)}, time.Minute)
	if len(v.Findings) != 1 || !strings.Contains(v.Findings[0].Detail, "14ns–15ns client 2") {
		t.Fatalf("%+v", v)
	}
}
