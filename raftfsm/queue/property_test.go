package queue

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestRandomCommands runs machines through random entries: one as it comes, one that snapshots are taken of, one that is
// restored again and again. After each entry they must be as the model says, and alike.
func TestRandomCommands(t *testing.T) {
	for i := range 3 { // rapid's number of trials is small
		t.Run(fmt.Sprint(i), func(t *testing.T) { rapid.Check(t, runTrial) })
	}
}

func runTrial(t *rapid.T) {
	tr := newTrial(t)
	for range tr.g.number(1, 60) {
		tr.entry()
		tr.disturb()
	}
	tr.finish()
}

type trial struct {
	t     *rapid.T
	g     *generator
	m     *model
	log   map[uint64][]byte
	index uint64
	time  int64

	plain, pinned, restored *State
	effects                 map[uint64]Effects
	held                    []heldSnapshot
}

// heldSnapshot is a snapshot and what it was when it was taken.
type heldSnapshot struct {
	sn   *Snapshot
	data []byte
	refs []Ref
}

func newTrial(t *rapid.T) *trial {
	m := newModel()
	return &trial{t: t, m: m, g: &generator{t: t, m: m, sent: map[SessionID][]proposal{}},
		log: map[uint64][]byte{}, plain: New(), pinned: New(), restored: New(), effects: map[uint64]Effects{}}
}

// entry draws an entry and applies it everywhere.
func (tr *trial) entry() {
	tr.time += pick[int64](tr.g, 0, 0, 1, 5, 50, -3)
	if tr.g.chance(30) {
		tr.time += ProducerWindow - int64(tr.g.number(0, 60))
	}
	batches := tr.g.batches()
	switch {
	case len(tr.log) == 0:
		batches = slices.Insert(batches, 0, tr.g.queues())
	case tr.g.chance(5):
		batches = append(batches, tr.hash(tr.plain.Hash()))
	}
	tr.index += pick[uint64](tr.g, 1, 1, 1, 3)
	entry := appendEntry(tr.time, batches)
	tr.log[tr.index] = entry
	for i := range batches {
		tr.t.Logf("entry %d at %d: %v", tr.index, tr.time, batches[i])
	}
	tr.m.apply(tr.time, batches)
	var out [3]Effects
	for i, s := range []*State{tr.plain, tr.pinned, tr.restored} {
		if err := s.Apply(tr.index, entry, &out[i]); err != nil {
			tr.t.Fatal(err)
		}
		if s.Hash() != tr.plain.Hash() || !reflect.DeepEqual(out[i], out[0]) {
			tr.t.Fatalf("entry %d: replica %d differs:\n%+v\n%+v", tr.index, i, out[i], out[0])
		}
	}
	tr.effects[tr.index] = out[0]
	tr.compareEffects(&out[0])
	tr.compareState(tr.plain)
	checkState(tr.t, tr.plain)
	checkState(tr.t, tr.pinned)
	checkState(tr.t, tr.restored)
}

func (tr *trial) body(b *Body) string {
	var text strings.Builder
	for _, r := range append([]Ref{b.First}, b.More...) {
		text.Write(tr.log[r.Index][r.Offset : r.Offset+r.Size])
	}
	return text.String()
}

func (tr *trial) delivery(d *Delivery) string { return deliveryText(d, tr.body(&d.Body)) }

// told turns effects into the model's texts.
func (tr *trial) told(out *Effects) modelEffects {
	e := modelEffects{deliveries: map[string][]string{}, nextTick: out.NextTick}
	for i := range out.Replies {
		r := &out.Replies[i]
		var results []string
		for k := range r.Results {
			res := &r.Results[k]
			text := fmt.Sprintf("%d %d %d %d", res.Command, res.Code, res.Messages, res.Consumers)
			if res.Code == Message {
				text += ": " + tr.delivery(&res.Delivery)
			}
			results = append(results, text)
		}
		e.replies = append(e.replies, fmt.Sprintf("%#x %d %v", uint64(r.Session), r.Seq, results))
	}
	for i := range out.Deliveries {
		d := &out.Deliveries[i]
		at := cancelText(d.Session, d.Consumer)
		e.deliveries[at] = append(e.deliveries[at], tr.delivery(d))
	}
	for _, c := range out.Cancels {
		e.cancels = append(e.cancels, cancelText(c.Session, c.Consumer))
	}
	e.deleted = append(e.deleted, out.Deleted...)
	slices.Sort(e.cancels)
	slices.Sort(e.deleted)
	return e
}

func (tr *trial) compareEffects(out *Effects) {
	if got, want := fmt.Sprintf("%+v", tr.told(out)), fmt.Sprintf("%+v", tr.m.effects); got != want {
		tr.t.Fatalf("entry %d gives\n%s\nwanted\n%s", tr.index, got, want)
	}
}

// compareState compares all that a state holds with the model, and checks that no message is lost or there twice.
func (tr *trial) compareState(s *State) {
	if len(s.queues) != len(tr.m.queues) || len(s.sessions) != len(tr.m.sessions) {
		tr.t.Fatalf("%d queues, %d sessions, wanted %d, %d", len(s.queues), len(s.sessions), len(tr.m.queues), len(tr.m.sessions))
	}
	tr.compareProducers(s)
	out := map[QueueID]uint64{}
	for _, ss := range tr.m.sessions {
		tr.compareSession(s, ss, out)
	}
	for _, q := range tr.m.sortedQueues() {
		tr.compareQueue(s, q, out[q.id])
	}
}

func (tr *trial) compareProducers(s *State) {
	if len(s.producers.byID) != len(tr.m.series) {
		tr.t.Fatalf("%d producers, wanted %d", len(s.producers.byID), len(tr.m.series))
	}
	for id, want := range tr.m.series {
		p := s.producers.byID[id]
		if p == nil || p.floor != want.floor || p.lastUsed != want.lastUsed {
			tr.t.Fatalf("producer %x: %+v, wanted %+v", id, p, want)
		}
		seen := map[uint64]bool{}
		for n := range p.all {
			seen[n] = p.has(p.full, n)
		}
		if !maps.Equal(seen, want.full) {
			tr.t.Fatalf("producer %x has seen %v, wanted %v", id, seen, want.full)
		}
	}
}

func (tr *trial) compareQueue(s *State, q *modelQueue, unsettled uint64) {
	counts, ok := s.Counts(q.id)
	want := Counts{uint64(len(q.ready)), q.bytes(), unsettled + uint64(len(q.delayed)), uint32(len(q.consumers))}
	if !ok || counts != want {
		tr.t.Fatalf("queue %#x: %+v, wanted %+v", q.id, counts, want)
	}
	real := s.queues[q.id]
	if total := counts.Ready + counts.Unsettled + q.gone; total != q.total || q.total != real.lastOrder {
		tr.t.Fatalf("queue %#x: %d ready + %d unsettled + %d gone are not %d enqueued, or %d",
			q.id, counts.Ready, counts.Unsettled, q.gone, q.total, real.lastOrder)
	}
	var got, wanted []string
	for i := range real.filled() {
		for r := range real.lanes[i].all() {
			got = append(got, tr.recordText(s, r))
		}
	}
	slices.SortStableFunc(q.ready, func(a, b *modelMessage) int { return int(a.priority) - int(b.priority) })
	for _, msg := range q.ready {
		wanted = append(wanted, msg.text())
	}
	slices.SortFunc(q.ready, func(a, b *modelMessage) int { return int(a.order) - int(b.order) })
	if !slices.Equal(got, wanted) {
		tr.t.Fatalf("queue %#x holds\n%q\nwanted\n%q", q.id, got, wanted)
	}
}

func (tr *trial) recordText(s *State, r *record) string {
	body := s.body(r)
	return fmt.Sprint(r.order, r.priority, r.flags&recordPersistent != 0, r.expiry, r.acquired, r.failed, tr.body(&body))
}

func (msg *modelMessage) text() string {
	return fmt.Sprint(msg.order, msg.priority, msg.persistent, msg.expiry, msg.acquired, msg.failed, strings.Join(msg.pieces, ""))
}

// compareSession compares a session's consumers, and counts what they have by queue.
func (tr *trial) compareSession(s *State, ss *modelSession, out map[QueueID]uint64) {
	real := s.session(ss.id)
	if real == nil || real.state != ss.state || real.last != ss.last || len(real.consumers) != len(ss.consumers) ||
		len(real.uploads) != len(ss.uploads) || len(real.kept) != len(ss.kept) {
		tr.t.Fatalf("session %#x: %+v, wanted %+v", ss.id, real, ss)
	}
	for _, c := range ss.consumers {
		var got, wanted []string
		for e := range real.consumers[c.id].out.all() {
			got = append(got, fmt.Sprint(e.id, " ", e.queue, " ", tr.recordText(s, &e.record)))
		}
		for _, o := range c.out {
			wanted = append(wanted, fmt.Sprint(o.id, " ", o.m.queue.id, " ", o.m.text()))
			out[o.m.queue.id]++
		}
		if !slices.Equal(got, wanted) {
			tr.t.Fatalf("consumer %d of %#x has\n%q\nwanted\n%q", c.id, ss.id, got, wanted)
		}
	}
}

// disturb does what must not change anything, or asks.
func (tr *trial) disturb() {
	switch tr.g.number(0, 8) {
	case 1, 2:
		tr.hold()
	case 3:
		tr.restored = throughSnapshot(tr.t, tr.restored)
	case 4:
		tr.resume(tr.restored)
	case 5:
		tr.liveRefs()
	case 6:
		tr.refuse()
	case 7:
		tr.messages()
	}
}

// messages compares what a snapshot lists with the model: of each queue, what is ready and what is out, in order.
func (tr *trial) messages() {
	got, wanted := map[QueueID][]string{}, map[QueueID][]string{}
	sn := tr.restored.Snapshot()
	seen := map[string]bool{}
	for m := range sn.Messages {
		body := tr.body(&m.Body)
		if body != "" && seen[body] {
			tr.t.Fatalf("message %q is listed twice", body)
		}
		seen[body] = true
		for _, p := range m.Places {
			got[p.Queue] = append(got[p.Queue], fmt.Sprint(p.Priority, m.Persistent, p.Expiry, p.Acquired, p.Failed, p.Out, body))
		}
	}
	out := map[*modelMessage]bool{}
	all := map[QueueID][]*modelMessage{}
	for _, ss := range tr.m.sessions {
		for _, c := range ss.consumers {
			for _, o := range c.out {
				out[o.m] = true
				all[o.m.queue.id] = append(all[o.m.queue.id], o.m)
			}
		}
	}
	for id, q := range tr.m.queues {
		list := append(append(all[id], q.ready...), q.delayed...)
		for _, msg := range q.delayed {
			out[msg] = true
		}
		slices.SortFunc(list, func(a, b *modelMessage) int { return int(a.order) - int(b.order) })
		for _, msg := range list {
			wanted[id] = append(wanted[id], fmt.Sprint(msg.priority, msg.persistent, msg.expiry, msg.acquired, msg.failed, out[msg], strings.Join(msg.pieces, "")))
		}
	}
	if !reflect.DeepEqual(got, wanted) {
		tr.t.Fatalf("messages\n%v\nwanted\n%v", got, wanted)
	}
	n := 0
	for id, settings := range sn.Queues {
		n++
		if q := tr.m.queues[id]; q == nil || q.set.normal() != *settings {
			tr.t.Fatalf("queue %#x: %+v", id, settings)
		}
		if back, err := ParseSettings(AppendSettings(nil, settings)); err != nil || *back != *settings {
			tr.t.Fatalf("settings of queue %#x: %+v, %v", id, back, err)
		}
	}
	if _, now := tr.restored.Applied(); n != len(tr.m.queues) || sn.Time() != now {
		tr.t.Fatalf("%d queues at %d, wanted %d at %d", n, sn.Time(), len(tr.m.queues), now)
	}
}

// refuse offers entries that no replica may apply, and that must leave no trace.
func (tr *trial) refuse() {
	s := tr.restored
	before := snapshotBytes(tr.t, s)
	sent, runs := maps.Clone(tr.g.sent), tr.g.runs // what is drawn here is never sent
	batches := append(tr.g.batches(), tr.hash(s.Hash()+1))
	entry := appendEntry(tr.time+100, batches)
	var out Effects
	if err := s.Apply(tr.index+1, entry, &out); !errors.Is(err, ErrDiverged) {
		tr.t.Fatalf("entry with a wrong hash: %v", err)
	}
	cut := entry[:tr.g.number(0, len(entry)-1)]
	if err := s.Apply(tr.index+1, cut, &out); err == nil {
		tr.t.Fatalf("%d of %d bytes of an entry were applied", len(cut), len(entry))
	}
	if err := s.Apply(tr.index, appendEntry(tr.time, nil), &out); !errors.Is(err, ErrOrder) {
		tr.t.Fatalf("entry again: %v", err)
	}
	if !reflect.DeepEqual(out, Effects{}) || !bytes.Equal(snapshotBytes(tr.t, s), before) {
		tr.t.Fatal("a refused entry left something")
	}
	tr.g.sent, tr.g.runs = sent, runs
}

// hash is a batch of the leader that tells the hash after the last entry.
func (tr *trial) hash(hash uint64) proposal {
	return proposal{steps: []step{{kind: KindHash, index: tr.index, hash: hash}}}
}

// hold takes a snapshot that must stay as it is.
func (tr *trial) hold() {
	sn := tr.pinned.Snapshot()
	var b bytes.Buffer
	if _, err := sn.WriteTo(&b); err != nil {
		tr.t.Fatal(err)
	}
	tr.held = append(tr.held, heldSnapshot{sn, b.Bytes(), collectRefs(sn, 0, math.MaxUint64)})
}

func collectRefs(sn *Snapshot, low, high uint64) (refs []Ref) {
	sn.LiveRefs(low, high, func(index uint64, offset, size uint32) bool {
		refs = append(refs, Ref{index, offset, size})
		return true
	})
	return refs
}

// liveRefs compares the live references with the bodies that the model holds.
func (tr *trial) liveRefs() {
	sn := tr.plain.Snapshot()
	refs := collectRefs(sn, 0, math.MaxUint64)
	if !slices.IsSortedFunc(refs, compareRefs) {
		tr.t.Fatalf("references out of order: %v", refs)
	}
	got := map[string]int{}
	for _, r := range refs {
		got[tr.body(&Body{First: r})]++
	}
	if wanted := tr.m.live(); !maps.Equal(got, wanted) {
		tr.t.Fatalf("live: %v, wanted %v", got, wanted)
	}
	low := uint64(tr.g.number(0, int(tr.index)))
	high := uint64(tr.g.number(int(low), int(tr.index)+1))
	within := slices.DeleteFunc(refs, func(r Ref) bool { return r.Index < low || r.Index > high })
	if part := collectRefs(sn, low, high); !slices.Equal(part, within) {
		tr.t.Fatalf("live from %d to %d: %v, wanted %v", low, high, part, within)
	}
}

// live returns the pieces that somebody may still want to read, each once.
func (m *model) live() map[string]int {
	live := map[string]int{}
	add := func(pieces []string) {
		for _, piece := range pieces {
			if piece != "" {
				live[piece] = 1
			}
		}
	}
	for _, q := range m.queues {
		for _, msg := range q.ready {
			add(msg.pieces)
		}
		for _, msg := range q.delayed {
			add(msg.pieces)
		}
	}
	for _, ss := range m.sessions {
		for _, k := range ss.kept {
			add(k.bodies)
		}
		for _, u := range ss.uploads {
			add(u.pieces)
		}
		for _, c := range ss.consumers {
			for _, o := range c.out {
				add(o.m.pieces)
			}
		}
	}
	return live
}

// resume asks for what a session may have lost; its edge has seen some of what each consumer was given.
func (tr *trial) resume(s *State) {
	id := tr.g.sessionID()
	want := modelEffects{deliveries: map[string][]string{}}
	seen := map[ConsumerID]uint64{}
	last := uint64(0)
	if ss := tr.m.sessions[id.Node()]; ss != nil && ss.id == id {
		last = ss.last
		tr.wantResumed(ss, seen, &want)
	}
	before := snapshotBytes(tr.t, s)
	var out Effects
	got := s.Resume(id, func(c ConsumerID) (uint64, bool) { n, ok := seen[c]; return n, ok }, &out)
	if told := tr.told(&out); got != last || fmt.Sprint(told) != fmt.Sprint(want) {
		tr.t.Fatalf("resume %#x after %v gives %d\n%+v\nwanted %d\n%+v", id, seen, got, told, last, want)
	}
	if !bytes.Equal(snapshotBytes(tr.t, s), before) {
		tr.t.Fatal("resume changed the state")
	}
}

func (tr *trial) wantResumed(ss *modelSession, seen map[ConsumerID]uint64, want *modelEffects) {
	for _, seq := range slices.Sorted(maps.Keys(ss.kept)) {
		want.replies = appendReply(want.replies, ss.id, seq, ss.kept[seq].results)
	}
	if _, ok := ss.kept[ss.last]; !ok {
		want.replies = appendReply(want.replies, ss.id, ss.last, nil)
	}
	for _, c := range ss.sorted() {
		if tr.g.chance(5) {
			continue // the edge does not know it
		}
		seen[c.id] = uint64(tr.g.number(0, int(c.lastID)))
		for _, o := range c.out {
			if at := cancelText(ss.id, c.id); c.queue != nil && o.id > seen[c.id] {
				want.deliveries[at] = append(want.deliveries[at], c.describe(o))
			}
		}
	}
}

// finish replays the log from its beginning and from each snapshot.
func (tr *trial) finish() {
	end := snapshotBytes(tr.t, tr.plain)
	if !bytes.Equal(snapshotBytes(tr.t, tr.pinned), end) || !bytes.Equal(snapshotBytes(tr.t, tr.restored), end) {
		tr.t.Fatal("replicas end with different snapshots")
	}
	tr.replay(New(), end)
	for _, h := range tr.held {
		if data := writeSnapshot(tr.t, h.sn); !bytes.Equal(data, h.data) {
			tr.t.Fatalf("snapshot at %d changed as the state went on", h.sn.Index())
		}
		if !slices.Equal(collectRefs(h.sn, 0, math.MaxUint64), h.refs) {
			tr.t.Fatalf("references of the snapshot at %d changed as the state went on", h.sn.Index())
		}
		s, err := Restore(bytes.NewReader(h.data))
		if err != nil {
			tr.t.Fatal(err)
		}
		tr.replay(s, end)
	}
}

// replay applies what of the log the state has not, and compares effects and end.
func (tr *trial) replay(s *State, end []byte) {
	var out Effects
	first, _ := s.Applied()
	for _, index := range slices.Sorted(maps.Keys(tr.log)) {
		if index <= first {
			continue
		}
		out.Reset()
		if err := s.Apply(index, tr.log[index], &out); err != nil {
			tr.t.Fatal(err)
		}
		then := tr.effects[index]
		if got, want := tr.told(&out), tr.told(&then); !reflect.DeepEqual(got, want) {
			tr.t.Fatalf("replay of entry %d gives\n%+v\nfirst it gave\n%+v", index, got, want)
		}
	}
	if s.Hash() != tr.plain.Hash() || !bytes.Equal(snapshotBytes(tr.t, s), end) {
		tr.t.Fatalf("replay after %d ends in another state", first)
	}
}
