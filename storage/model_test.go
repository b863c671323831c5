package storage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/warrenmq/warren/storage/vfs"
)

// machine drives two stores, of which the second one only sends snapshots, beside a plain model of each of their groups.
type machine struct {
	tb       testing.TB
	disks    [2]*vfs.Mem
	stores   [2]*Store
	promises [2]map[uint32]*promise
	term     uint64
}

func (m *machine) open(t *rapid.T, i int) {
	s, err := Open(Options{Dir: "d", FS: m.disks[i], WALFileSize: 4 << 10, SegmentSize: 2 << 10, CacheBytes: 2 << 10, KeepFiles: 1, OnFatal: func(err error) { m.tb.Errorf("fatal: %v", err) }})
	if err != nil {
		t.Fatal(err)
	}
	m.stores[i] = s
}

func (m *machine) pick(t *rapid.T) (int, *Group, *promise) {
	i := rapid.IntRange(0, 1).Draw(t, "store")
	id := rapid.Uint32Range(1, 2).Draw(t, "group")
	g, err := m.stores[i].Group(id)
	if err != nil {
		t.Fatal(err)
	}
	if m.promises[i][id] == nil {
		m.promises[i][id] = newPromise()
	}
	return i, g, m.promises[i][id]
}

func (m *machine) append(t *rapid.T) {
	_, g, p := m.pick(t)
	m.term++
	from := max(p.last, p.checkpoint) + 1
	list := entries(g.id, from, from+rapid.Uint64Range(0, 5).Draw(t, "more"), m.term, rapid.IntRange(0, 900).Draw(t, "size"))
	if err := g.Append(list); err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		p.entries[e.Index], p.last = e, e.Index
	}
}

// appendEarly appends a few times without waiting, and then waits, or does what waits by itself.
func (m *machine) appendEarly(t *rapid.T) {
	_, g, p := m.pick(t)
	for range rapid.IntRange(1, 3).Draw(t, "times") {
		m.term++
		from := max(p.last, p.checkpoint) + 1
		list := entries(g.id, from, from+rapid.Uint64Range(0, 3).Draw(t, "more"), m.term, rapid.IntRange(0, 400).Draw(t, "size"))
		if !g.AppendEarly(slices.Clone(list)) {
			if err := g.Append(list); err != nil {
				t.Fatal(err)
			}
		}
		for _, e := range list {
			if got, err := g.Entry(e.Index); err != nil || got.Term != e.Term || !bytes.Equal(got.Data, e.Data) {
				t.Fatalf("entry %d is not there at once: %v", e.Index, err)
			}
			p.entries[e.Index], p.last = e, e.Index
		}
	}
	var err error
	switch rapid.IntRange(0, 2).Draw(t, "then") {
	case 0:
		err = g.Settle()
	case 1:
		from := rapid.Uint64Range(p.checkpoint+1, p.last+1).Draw(t, "from")
		err = g.TruncateSuffix(from)
		p.last = min(p.last, from-1)
	case 2:
		err = g.WaitDurable(p.last)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (m *machine) truncate(t *rapid.T) {
	_, g, p := m.pick(t)
	if p.last <= p.checkpoint {
		return
	}
	from := rapid.Uint64Range(p.checkpoint+1, p.last+3).Draw(t, "from")
	if err := g.TruncateSuffix(from); err != nil {
		t.Fatal(err)
	}
	p.last = min(p.last, from-1)
}

// alive draws which bodies up to an index are alive.
func alive(t *rapid.T, p *promise, to uint64) map[uint64][]bodyPart {
	live := map[uint64][]bodyPart{}
	all := rapid.Bool().Draw(t, "all") // so that log files are kept as they are
	for _, i := range slices.Sorted(maps.Keys(p.live)) {
		if all || rapid.IntRange(0, 3).Draw(t, "keep") > 0 {
			live[i] = p.live[i]
		}
	}
	for i := p.checkpoint + 1; i <= to; i++ {
		if e, ok := p.entries[i]; ok && all {
			live[i] = []bodyPart{{offset: 0, size: uint32(len(e.Data))}}
		} else if ok && rapid.IntRange(0, 2).Draw(t, "alive") == 0 {
			n := uint32(len(e.Data))
			live[i] = []bodyPart{{offset: 0, size: n / 3}, {offset: n / 2, size: n / 4}}
		}
	}
	return live
}

func (m *machine) checkpoint(t *rapid.T) {
	_, g, p := m.pick(t)
	if p.last <= p.checkpoint {
		return
	}
	to := rapid.Uint64Range(p.checkpoint+1, p.last).Draw(t, "to")
	live := alive(t, p, to)
	state := bytes.Repeat([]byte{byte(to)}, rapid.IntRange(0, 2000).Draw(t, "state"))
	if err := g.SaveCheckpoint(Checkpoint{Index: to, Term: m.term}, func(w io.Writer) error { _, err := w.Write(state); return err }, refs(live)); err != nil {
		t.Fatal(err)
	}
	p.checkpoint, p.live, p.state = to, live, state
}

func (m *machine) discard(t *rapid.T) {
	_, g, p := m.pick(t)
	if err := g.Discard(); err != nil {
		t.Fatal(err)
	}
	*p = *newPromise()
}

// send installs a snapshot of a group of one store into the other, where it is further on.
func (m *machine) send(t *rapid.T) {
	i, g, p := m.pick(t)
	to, q := m.stores[1-i], m.promises[1-i][g.id]
	if q == nil {
		q = newPromise()
		m.promises[1-i][g.id] = q
	}
	if p.checkpoint == 0 || p.checkpoint <= max(q.last, q.checkpoint) {
		return
	}
	size, stream, err := g.OpenSnapshot(Checkpoint{Index: p.checkpoint, Term: m.term}, p.state, refs(p.live))
	if err != nil {
		t.Fatal(err)
	}
	wire, err := io.ReadAll(stream)
	if err = errors.Join(err, stream.Close()); err != nil || int64(len(wire)) != size {
		t.Fatal(len(wire), size, err)
	}
	h, err := to.Group(g.id)
	if err == nil {
		err = installAll(h, wire)
	}
	if err != nil {
		t.Fatal(err)
	}
	*q = *p.clone()
	q.last = 0
}

func (m *machine) reopen(t *rapid.T) {
	i := rapid.IntRange(0, 1).Draw(t, "store")
	if err := m.stores[i].Close(); err != nil {
		t.Fatal(err)
	}
	m.open(t, i)
}

func (m *machine) crash(t *rapid.T) {
	i := rapid.IntRange(0, 1).Draw(t, "store")
	keep := func(n int) int { return rapid.IntRange(0, n).Draw(t, "kept") }
	left := m.disks[i].CrashCloneNames(keep, keep)
	if err := m.stores[i].Close(); err != nil {
		t.Fatal(err)
	}
	m.disks[i] = left
	m.open(t, i)
}

func (m *machine) check(t *rapid.T) {
	for i, s := range m.stores {
		for id, p := range m.promises[i] {
			g, err := s.Group(id)
			if err == nil {
				err = p.verify(g)
			}
			if err != nil {
				t.Fatalf("store %d, group %d: %v", i, id, err)
			}
		}
	}
}

// TestModel does what it likes to two stores and compares them with a plain model after each step.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &machine{tb: t, disks: [2]*vfs.Mem{vfs.NewMem(), vfs.NewMem()}, promises: [2]map[uint32]*promise{{}, {}}}
		m.open(rt, 0)
		m.open(rt, 1)
		rt.Repeat(map[string]func(*rapid.T){
			"":           m.check,
			"append":     m.append,
			"append2":    m.append,
			"append3":    m.append,
			"early":      m.appendEarly,
			"early2":     m.appendEarly,
			"truncate":   m.truncate,
			"checkpoint": m.checkpoint,
			"discard":    m.discard,
			"send":       m.send,
			"reopen":     m.reopen,
			"crash":      m.crash,
		})
		for _, s := range m.stores {
			if err := s.Close(); err != nil {
				rt.Fatal(err)
			}
		}
		for i := range m.disks {
			var out bytes.Buffer
			if err := Dump(m.disks[i], "d", &out, false); err != nil {
				rt.Fatal(fmt.Errorf("%w\n%s", err, out.String()))
			}
		}
	})
}
