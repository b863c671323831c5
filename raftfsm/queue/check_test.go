package queue

// tester is what a testing.T and a rapid.T have in common.
type tester interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// checkState recounts what a State keeps counted and checks what must hold between entries.
func checkState(t tester, s *State) {
	t.Helper()
	var sum, messages, octets uint64
	users := map[place]int{}
	held := map[QueueID]map[uint64]bool{} // orders by queue: nobody has a message twice
	hold := func(q *queue, r *record) {
		if held[q.id] == nil {
			held[q.id] = map[uint64]bool{}
		}
		if held[q.id][r.order] || r.order > q.lastOrder {
			t.Fatalf("queue %#x: message %d is in two places or not yet there", q.id, r.order)
		}
		held[q.id][r.order] = true
		messages++
		octets += s.bodySize(r)
		if r.flags&recordLarge != 0 {
			users[place{r.index, r.offset}]++
		}
	}
	for id, q := range s.queues {
		if q.id != id || q.deleted || q.dirty {
			t.Fatalf("queue %#x: id %#x, deleted %t, dirty %t", id, q.id, q.deleted, q.dirty)
		}
		sum += q.meta
		var ready, size, expiring, larges, qsum uint64
		for i := range q.lanes {
			l := q.lanes[i]
			if l == nil {
				l = &lane{}
			}
			if (q.occupied[i>>6]>>(i&63)&1 == 1) != (l.len() > 0) {
				t.Fatalf("queue %#x: lane %d has %d messages, occupied %b", id, i, l.len(), q.occupied)
			}
			last := uint64(0)
			n := 0
			for r := range l.all() {
				n++
				if r.order <= last || int(r.priority) != i {
					t.Fatalf("queue %#x, lane %d: order %d after %d, priority %d", id, i, r.order, last, r.priority)
				}
				last = r.order
				hold(q, r)
				ready++
				size += s.bodySize(r)
				if r.expiry != 0 {
					expiring++
				}
				if r.flags&recordLarge != 0 {
					larges++
				}
				qsum += r.hash()
			}
			if n != l.len() {
				t.Fatalf("queue %#x, lane %d: %d messages, counted %d", id, i, n, l.len())
			}
			checkPages(t, &l.back)
		}
		sum += q.key * qsum
		if ready != q.ready || size != q.bytes || expiring != q.expiring || larges != q.larges || qsum != q.sum {
			t.Fatalf("queue %#x: counts %+v, counted %d %d %d %d", id, q, ready, size, expiring, larges)
		}
		checkPages(t, &q.delayed)
		for e := range q.delayed.all() {
			if e.queue != id || dueTime(e.id) <= s.now {
				t.Fatalf("queue %#x: delayed message %#x of queue %#x at %d", id, e.id, e.queue, s.now)
			}
			hold(q, &e.record)
			sum += q.waitKey() * fold(e.id, e.record.hash())
		}
		if q.deadline != 0 && q.deadline <= s.now {
			t.Fatalf("queue %#x: deadline %d is over at %d", id, q.deadline, s.now)
		}
		if q.deadline != q.nextDeadline() || q.deadline != 0 && s.timers[q.timer] != q {
			t.Fatalf("queue %#x: deadline %d, should be %d", id, q.deadline, q.nextDeadline())
		}
		checkConsumers(t, q)
	}
	sum += checkProducers(t, s)
	unsettled, gotten := map[QueueID]uint64{}, map[QueueID]uint64{}
	for node, ss := range s.sessions {
		if ss.id.Node() != node || ss.meta != ss.hash() {
			t.Fatalf("session %#x of node %d", ss.id, node)
		}
		sum += ss.meta
		for id, u := range ss.uploads {
			if u.sum != u.hash(ss, id) {
				t.Fatalf("upload %d: sum %#x", id, u.sum)
			}
			sum += u.sum
			for _, r := range u.pieces {
				octets += uint64(r.Size)
			}
		}
		for _, k := range ss.kept {
			for _, r := range k.results {
				octets += r.Delivery.Body.Size()
			}
		}
		for id, c := range ss.consumers {
			if c.id != id || c.session != ss || c.meta != c.hash() || c.cancelled && c.out.n == 0 {
				t.Fatalf("consumer %#x: %+v", id, c)
			}
			sum += c.meta
			checkPages(t, &c.out)
			for e := range c.out.all() {
				if e.id > c.lastID || c.queue != nil && c.queue.id != e.queue {
					t.Fatalf("consumer %#x: delivery %d of queue %#x", id, e.id, e.queue)
				}
				hold(s.queues[e.queue], &e.record)
				sum += c.key * fold(e.id, e.record.hash())
				unsettled[e.queue]++
				if c.queue == nil {
					gotten[e.queue]++
				}
			}
		}
	}
	for id, q := range s.queues {
		if q.unsettled != unsettled[id] || q.gotten != gotten[id] {
			t.Fatalf("queue %#x: unsettled %d, gotten %d, counted %d, %d", id, q.unsettled, q.gotten, unsettled[id], gotten[id])
		}
	}
	if len(users) != len(s.large) {
		t.Fatalf("%d large messages, %d of them used", len(s.large), len(users))
	}
	for at, l := range s.large {
		if l.users != users[at] || l.size != l.body.Size() {
			t.Fatalf("large message %v: users %d, counted %d", at, l.users, users[at])
		}
	}
	if m, o := s.Contents(); m != messages || o != octets {
		t.Fatalf("contents of %d messages, %d octets, recounted %d, %d", m, o, messages, octets)
	}
	if sum != s.sum {
		t.Fatalf("sum %#x, recounted %#x", s.sum, sum)
	}
	if len(s.dirty)+len(s.results) > 0 {
		t.Fatal("something was left undone")
	}
}

// checkConsumers checks that the queue serves just those consumers that may be served, and has no work left.
func checkConsumers(t tester, q *queue) {
	attached, ring := 0, 0
	for _, c := range q.consumers {
		if c.queue != q || c.session.consumers[c.id] != c {
			t.Fatalf("queue %#x: stray consumer %#x", q.id, c.id)
		}
		if !c.cancelled {
			attached++
		}
		if c.inRing != c.eligible() {
			t.Fatalf("queue %#x: consumer %#x in ring %t, eligible %t", q.id, c.id, c.inRing, c.eligible())
		}
		if c.inRing {
			ring++
		}
	}
	inLevels := 0
	for i, l := range q.levels {
		if i > 0 && q.levels[i-1].priority <= l.priority || l.attached == 0 {
			t.Fatalf("queue %#x: level %d of priority %d with %d", q.id, i, l.priority, l.attached)
		}
		for c := l.head; c != nil; c = c.next {
			inLevels++
		}
	}
	if attached != q.attached || ring != inLevels || q.ready > 0 && ring > 0 {
		t.Fatalf("queue %#x: %d attached, counted %d; %d served, in levels %d; %d ready", q.id, q.attached, attached, ring, inLevels, q.ready)
	}
	if !q.settings.RejectPublish && q.over(0, 0) {
		t.Fatalf("queue %#x is over its limit with %d", q.id, q.ready)
	}
}

func checkProducers(t tester, s *State) (sum uint64) {
	n, last := 0, int64(0)
	for p := s.producers.oldest; p != nil; p = p.newer {
		if s.producers.byID[p.id] != p || p.lastUsed < last || p.floor == 0 || p.sum != p.hash() || p.newer == nil && s.producers.newest != p {
			t.Fatalf("producer %x: %+v", p.id, p)
		}
		if later(p.lastUsed, ProducerWindow) <= s.now {
			t.Fatalf("producer %x is remembered since %d at %d", p.id, p.lastUsed, s.now)
		}
		sum += p.sum
		last = p.lastUsed
		n++
	}
	if n != len(s.producers.byID) || n > MaxProducers {
		t.Fatalf("%d producers in order, %d by id", n, len(s.producers.byID))
	}
	return sum
}

func checkPages(t tester, ps *pages) {
	n, last := 0, uint64(0)
	for i, pg := range ps.list {
		if len(pg.live()) == 0 && len(ps.list) > 1 {
			t.Fatalf("page %d is empty", i)
		}
		for _, e := range pg.live() {
			if n > 0 && e.id <= last {
				t.Fatalf("page %d: id %d after %d", i, e.id, last)
			}
			n, last = n+1, e.id
		}
	}
	if n != ps.n {
		t.Fatalf("%d entries, counted %d", ps.n, n)
	}
}
