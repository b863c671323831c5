package queue

import (
	"bytes"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write what the scripts in testdata now give")

// A script is blocks of commands, "----" and what came of them. A block is one entry: lines of one session in a row are
// one batch. After each block the state is checked and taken through a snapshot. Lines:
//
//	n1 configure q [auto-delete] [single-active] [max-priority=n] [ttl=ms] [expires=ms] [max-length=n]
//	               [max-bytes=n] [reject] [delivery-limit=n] | n1 reconfigure q …
//	n1 enqueue q,r body [persistent] [priority=n] [ttl=ms] [upload=n] [times=n] [producer=p number=n [behind=n]]
//	             [acquired=n] [failed=n]
//	n1 chunk n bytes | n1 purge q | n1 delete q [if-unused] [if-empty] | n1 get q g | n1 peek q skip
//	n1 attach q c credit=n [priority=n] [exclusive] | n1 credit c n | n1 cancel c | n1 detach c [failed] [sent=id]
//	n1 settle c outcome from-to… | n1 settle-later c outcome ms from-to… | n1 give-back c credit first last
//	leader up|down|suspect|clear n1 | leader tick | leader version n | leader hash index [wrong]
//	time ms | repeat n1 seq | acked n1 seq | counts q… | resume n1 c=id… | restore | live min max | messages
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { runScript(t, file) })
	}
}

func runScript(t *testing.T, file string) {
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	var got strings.Builder
	for block := range strings.SplitSeq(strings.TrimSpace(string(data)), "\n\n") {
		input, _, _ := strings.Cut(block, "\n----")
		if got.Len() > 0 {
			got.WriteString("\n")
		}
		got.WriteString(strings.TrimRight(input, "\n") + "\n----\n" + w.block(input))
	}
	if *rewrite {
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got.String() != string(data) {
		t.Errorf("%s: got\n%s", file, diffLines(string(data), got.String()))
	}
}

// diffLines shows the first line that differs, with what is around it.
func diffLines(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	i := 0
	for i < len(w) && i < len(g) && w[i] == g[i] {
		i++
	}
	return fmt.Sprintf("line %d:\n%s\nwanted:\n%s", i+1, strings.Join(g[max(0, i-5):min(len(g), i+8)], "\n"),
		strings.Join(w[min(i, len(w)):min(len(w), i+8)], "\n"))
}

// world runs a State as a leader would and remembers its log.
type world struct {
	t       testing.TB
	s       *State
	log     map[uint64][]byte
	index   uint64
	time    int64
	names   map[string]uint64
	byID    map[uint64]string
	seq     map[SessionID]uint64
	acked   map[SessionID]uint64
	out     Effects
	batches []worldBatch
}

type worldBatch struct {
	session SessionID
	seq     uint64
	Batch
}

func newWorld(t testing.TB) *world {
	return &world{t: t, s: New(), log: map[uint64][]byte{}, names: map[string]uint64{}, byID: map[uint64]string{},
		seq: map[SessionID]uint64{}, acked: map[SessionID]uint64{}}
}

// name gives names numbers: queues, consumers and uploads share them.
func (w *world) name(name string) uint64 {
	id, ok := w.names[name]
	if !ok {
		id = uint64(MakeQueueID(1, uint64(len(w.names)+1)))
		w.names[name] = id
		w.byID[id] = name
	}
	return id
}

func (w *world) sessionID(name string) SessionID {
	node, run, ok := strings.Cut(strings.TrimPrefix(name, "n"), ".")
	if !ok {
		run = "1"
	}
	return MakeSessionID(uint16(w.number(node)), w.number(run))
}

func sessionName(id SessionID) string {
	if run := uint64(id) & (1<<48 - 1); run != 1 {
		return fmt.Sprintf("n%d.%d", id.Node(), run)
	}
	return fmt.Sprintf("n%d", id.Node())
}

func (w *world) number(v string) uint64 {
	n, err := strconv.ParseInt(v, 0, 64)
	if err != nil {
		w.t.Fatalf("not a number: %q", v)
	}
	return uint64(n)
}

// options splits words into flags and values.
type options map[string]string

func parseOptions(words []string) options {
	o := options{}
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		o[key] = value
	}
	return o
}

func (o options) has(key string) bool { _, ok := o[key]; return ok }

func (w *world) option(o options, key string) (uint64, bool) {
	if !o.has(key) {
		return 0, false
	}
	return w.number(o[key]), true
}

// batch returns the batch that a session's next command goes to.
func (w *world) batch(session SessionID, seq uint64) *Batch {
	if n := len(w.batches); n > 0 && w.batches[n-1].session == session && seq == 0 {
		return &w.batches[n-1].Batch
	}
	if seq == 0 && session != 0 {
		w.seq[session]++
		seq = w.seq[session]
	}
	w.batches = append(w.batches, worldBatch{session: session, seq: seq})
	return &w.batches[len(w.batches)-1].Batch
}

func (w *world) block(input string) string {
	var text strings.Builder
	var after []string
	w.batches = w.batches[:0]
	for line := range strings.SplitSeq(input, "\n") {
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		switch words[0] {
		case "counts", "resume", "restore", "live", "sessions", "messages":
			after = append(after, line)
		default:
			w.line(words)
		}
	}
	if len(w.batches) > 0 {
		w.commit(&text)
	}
	for _, line := range after {
		w.ask(&text, strings.Fields(line))
	}
	return text.String()
}

func (w *world) line(words []string) {
	switch words[0] {
	case "time":
		w.time = int64(w.number(words[1]))
	case "acked":
		w.acked[w.sessionID(words[1])] = w.number(words[2])
	case "repeat":
		w.batch(w.sessionID(words[1]), w.number(words[2]))
	case "leader":
		w.leader(w.batch(0, 0), words[1:])
	default:
		w.command(w.batch(w.sessionID(words[0]), 0), words[1:])
	}
}

func (w *world) leader(b *Batch, words []string) {
	switch words[0] {
	case "up":
		b.SessionUp(w.sessionID(words[1]))
	case "down":
		b.SessionDown(w.sessionID(words[1]))
	case "suspect", "clear":
		b.Suspect(w.sessionID(words[1]), words[0] == "clear")
	case "tick":
		b.Tick()
	case "version":
		b.MachineVersion(uint32(w.number(words[1])))
	case "hash":
		hash := w.s.Hash()
		if len(words) > 2 {
			hash++
		}
		b.Hash(w.number(words[1]), hash)
	default:
		w.command(b, words)
	}
}

func (w *world) command(b *Batch, words []string) {
	rest := words[min(len(words), 3):]
	switch words[0] {
	case "configure":
		b.Configure(QueueID(w.name(words[1])), w.settings(words[1], parseOptions(words[2:])))
	case "reconfigure":
		b.Reconfigure(QueueID(w.name(words[1])), w.settings(words[1], parseOptions(words[2:])))
	case "enqueue":
		w.enqueue(b, words[1], words[2], parseOptions(rest))
	case "chunk":
		b.Chunk(w.name(words[1]), []byte(words[2]))
	case "delete":
		o := parseOptions(words[2:])
		b.Delete(QueueID(w.name(words[1])), o.has("if-unused"), o.has("if-empty"))
	case "purge":
		b.Purge(QueueID(w.name(words[1])))
	case "attach":
		o := parseOptions(rest)
		credit, _ := w.option(o, "credit")
		priority, _ := w.option(o, "priority")
		b.Attach(QueueID(w.name(words[1])), ConsumerID(w.name(words[2])), &AttachOptions{
			Credit: uint32(credit), Priority: int32(priority), Exclusive: o.has("exclusive"), Tag: words[2]})
	case "credit":
		b.Credit(ConsumerID(w.name(words[1])), uint32(w.number(words[2])))
	case "cancel":
		b.Cancel(ConsumerID(w.name(words[1])))
	case "detach":
		o := parseOptions(words[2:])
		sent, given := w.option(o, "sent")
		if !given {
			sent = math.MaxUint64
		}
		b.Detach(ConsumerID(w.name(words[1])), o.has("failed"), sent)
	case "give-back":
		b.GiveBack(ConsumerID(w.name(words[1])), uint32(w.number(words[2])), w.number(words[3]), w.number(words[4]))
	case "settle":
		w.settle(b, words, 0)
	case "settle-later":
		w.settle(b, slices.Delete(slices.Clone(words), 3, 4), w.number(words[3]))
	case "get":
		b.Get(QueueID(w.name(words[1])), ConsumerID(w.name(words[2])))
	case "peek":
		b.Peek(QueueID(w.name(words[1])), uint32(w.number(words[2])))
	default:
		w.t.Fatalf("unknown command %q", words)
	}
}

func (w *world) settings(name string, o options) *Settings {
	s := &Settings{VHost: "/", Name: name, Durable: true}
	s.AutoDelete, s.SingleActive, s.RejectPublish = o.has("auto-delete"), o.has("single-active"), o.has("reject")
	priority, _ := w.option(o, "max-priority")
	s.MaxPriority = uint8(priority)
	s.MessageTTL, s.HasMessageTTL = w.option(o, "ttl")
	s.Expires, _ = w.option(o, "expires")
	s.MaxLength, s.HasMaxLength = w.option(o, "max-length")
	s.MaxLengthBytes, s.HasMaxLengthBytes = w.option(o, "max-bytes")
	limit, has := w.option(o, "delivery-limit")
	s.DeliveryLimit, s.HasDeliveryLimit = uint32(limit), has
	return s
}

func (w *world) enqueue(b *Batch, queues, body string, o options) {
	var ids []QueueID
	for name := range strings.SplitSeq(queues, ",") {
		if name != "-" {
			ids = append(ids, QueueID(w.name(name)))
		}
	}
	var eo EnqueueOptions
	var priority uint64
	priority, eo.HasPriority = w.option(o, "priority")
	eo.Priority, eo.Persistent = uint8(priority), o.has("persistent")
	eo.TTLMillis, eo.HasTTL = w.option(o, "ttl")
	if o.has("upload") {
		eo.Upload = w.name(o["upload"])
	}
	eo.Sequence, _ = w.option(o, "number")
	behind, _ := w.option(o, "behind")
	eo.Behind = uint16(behind)
	copy(eo.Producer[:], o["producer"])
	acquired, _ := w.option(o, "acquired")
	failed, _ := w.option(o, "failed")
	eo.Acquired, eo.Failed = uint32(acquired), uint16(failed)
	times := uint64(1)
	if n, ok := w.option(o, "times"); ok {
		times = n
	}
	for i := range times {
		mark := b.BeginEnqueue(ids, &eo)
		if text := strings.Trim(body, "_"); times > 1 {
			b.Data = fmt.Appendf(b.Data, "%s%d", text, i+1)
		} else {
			b.Data = append(b.Data, text...)
		}
		b.EndEnqueue(mark)
	}
}

func (w *world) settle(b *Batch, words []string, delay uint64) {
	o := slices.Index([]string{"ack", "requeue", "reject-requeue", "discard", "reject", "undelivered"}, words[2])
	if o < 0 {
		w.t.Fatalf("unknown outcome %q", words)
	}
	var ranges []Range
	for _, word := range words[3:] {
		from, to, ok := strings.Cut(word, "-")
		r := Range{From: w.number(from)}
		switch {
		case !ok:
			r.To = r.From
		case to == "max":
			r.To = 1<<64 - 1
		default:
			r.To = w.number(to)
		}
		ranges = append(ranges, r)
	}
	if delay > 0 {
		b.SettleLater(ConsumerID(w.name(words[1])), Outcome(o), delay, ranges...)
		return
	}
	b.Settle(ConsumerID(w.name(words[1])), Outcome(o), ranges...)
}

// commit applies the batches as one entry and tells what came of it.
func (w *world) commit(text *strings.Builder) {
	entry := AppendEntryHeader(nil, w.time, uint32(len(w.batches)))
	for i := range w.batches {
		b := &w.batches[i]
		entry = AppendBatch(entry, b.session, b.seq, w.acked[b.session], &b.Batch)
	}
	w.out.Reset()
	if err := w.s.Apply(w.index+1, entry, &w.out); err != nil {
		fmt.Fprintf(text, "error: %v\n", err)
		return
	}
	w.index++
	w.log[w.index] = entry
	w.effects(text)
	checkState(w.t, w.s)
	w.s = throughSnapshot(w.t, w.s)
}

func (w *world) effects(text *strings.Builder) {
	for _, r := range w.out.Replies {
		fmt.Fprintf(text, "reply %s %d", sessionName(r.Session), r.Seq)
		for _, res := range r.Results {
			fmt.Fprintf(text, " [%d %s", res.Command, resultNames[res.Code])
			if res.Messages > 0 || res.Consumers > 0 {
				fmt.Fprintf(text, " %d", res.Messages)
			}
			if res.Consumers > 0 {
				fmt.Fprintf(text, " consumers=%d", res.Consumers)
			}
			if res.Code == Message {
				text.WriteString(": " + w.delivery(&res.Delivery))
			}
			text.WriteString("]")
		}
		text.WriteString("\n")
	}
	for i := range w.out.Deliveries {
		text.WriteString("deliver " + w.delivery(&w.out.Deliveries[i]) + "\n")
	}
	for _, c := range w.out.Cancels {
		fmt.Fprintf(text, "cancel %s %s\n", sessionName(c.Session), w.byID[uint64(c.Consumer)])
	}
	for _, id := range w.out.Deleted {
		fmt.Fprintf(text, "deleted %s\n", w.byID[uint64(id)])
	}
	if w.out.NextTick != 0 {
		fmt.Fprintf(text, "next tick %d\n", w.out.NextTick)
	}
}

var resultNames = [...]string{"ok", "gone", "empty", "message", "full", "in-use", "not-empty", "id-taken", "single", "unknown", "refused", "later"}

func (w *world) delivery(d *Delivery) string {
	text := fmt.Sprintf("%s %s id=%d %s %q", sessionName(d.Session), w.byID[uint64(d.Consumer)], d.ID, w.byID[uint64(d.Queue)], w.body(&d.Body))
	if d.Redelivered {
		text += fmt.Sprintf(" redelivered acquired=%d failed=%d", d.AcquiredCount, d.DeliveryCount)
	}
	if d.Persistent {
		text += " persistent"
	}
	return text
}

// body reads an envelope from the log, as storage would.
func (w *world) body(b *Body) string {
	var text []byte
	for _, r := range append([]Ref{b.First}, b.More...) {
		text = append(text, w.log[r.Index][r.Offset:r.Offset+r.Size]...)
	}
	return string(text)
}

// ask answers a question about the state.
func (w *world) ask(text *strings.Builder, words []string) {
	switch words[0] {
	case "counts":
		for _, name := range words[1:] {
			c, ok := w.s.Counts(QueueID(w.name(name)))
			if !ok {
				fmt.Fprintf(text, "%s is gone\n", name)
				continue
			}
			fmt.Fprintf(text, "%s ready=%d bytes=%d unsettled=%d consumers=%d\n", name, c.Ready, c.ReadyBytes, c.Unsettled, c.Consumers)
		}
	case "sessions":
		for id, state := range w.s.Sessions() {
			fmt.Fprintf(text, "%s %s\n", sessionName(id), [...]string{"active", "suspect", "over"}[state])
		}
	case "resume":
		seen := parseOptions(words[2:])
		w.out.Reset()
		last := w.s.Resume(w.sessionID(words[1]), func(c ConsumerID) (uint64, bool) {
			return w.option(seen, w.byID[uint64(c)])
		}, &w.out)
		w.effects(text)
		fmt.Fprintf(text, "last %d\n", last)
	case "messages":
		for m := range w.s.Snapshot().Messages {
			fmt.Fprintf(text, "%q", w.body(&m.Body))
			for _, p := range m.Places {
				fmt.Fprintf(text, " %s priority=%d acquired=%d failed=%d expiry=%d", w.byID[uint64(p.Queue)], p.Priority, p.Acquired, p.Failed, p.Expiry)
				if p.Out {
					text.WriteString(" out")
				}
			}
			text.WriteString("\n")
		}
	case "live":
		w.s.Snapshot().LiveRefs(w.number(words[1]), w.number(words[2]), func(index uint64, offset, size uint32) bool {
			fmt.Fprintf(text, "%d %q\n", index, w.log[index][offset:offset+size])
			return true
		})
	}
}

// throughSnapshot returns the state restored from a snapshot of s, which must not differ from s.
func throughSnapshot(t tester, s *State) *State {
	t.Helper()
	data := snapshotBytes(t, s)
	r, err := Restore(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if r.Hash() != s.Hash() {
		t.Fatal("restored state has another hash")
	}
	if again := snapshotBytes(t, r); !bytes.Equal(again, data) {
		t.Fatal("restored state gives another snapshot")
	}
	checkState(t, r)
	return r
}

func snapshotBytes(t tester, s *State) []byte {
	t.Helper()
	return writeSnapshot(t, s.Snapshot())
}

func writeSnapshot(t tester, sn *Snapshot) []byte {
	t.Helper()
	var b bytes.Buffer
	if n, err := sn.WriteTo(&b); err != nil || n != int64(b.Len()) || n != sn.Size() {
		t.Fatalf("snapshot: %d bytes written, %d told, Size %d, %v", b.Len(), n, sn.Size(), err)
	}
	return b.Bytes()
}
