package storage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmq/warren/storage/vfs"
)

// promise is what a group has acknowledged, and what it is about to.
type promise struct {
	entries    map[uint64]Entry // by index: the last that was acknowledged under it
	last       uint64           // 0: none since the beginning or the last install
	checkpoint uint64           // index of the last completed checkpoint; 0: none
	state      []byte
	live       map[uint64][]bodyPart // what the last completed checkpoint refers to

	doing string // "", append, truncate, checkpoint, install, discard
	next  *promise
}

func newPromise() *promise {
	return &promise{entries: map[uint64]Entry{}, live: map[uint64][]bodyPart{}}
}

func (p *promise) clone() *promise {
	c := *p
	c.entries, c.live = maps.Clone(p.entries), maps.Clone(p.live)
	if p.next != nil {
		c.next = p.next.clone()
	}
	return &c
}

// verify says how a group that was opened after a crash differs from what it promised. complete is for promises that
// nothing is under way for.
func (p *promise) verify(g *Group) error {
	if err := g.Damaged(); err != nil {
		return err
	}
	errs := []error{p.exactly(g, p.last, p.last)}
	if n := p.next; n != nil {
		switch p.doing {
		case "append":
			// Any number of the entries in front may be there.
			errs = append(errs, n.exactly(g, p.last, n.last))
		default:
			errs = append(errs, n.exactly(g, n.last, n.last))
		}
	}
	if slices.Contains(errs, nil) {
		return nil
	}
	return fmt.Errorf("%s under way: %v", p.doing, errs)
}

// exactly compares; the last index may be in a range.
func (p *promise) exactly(g *Group, lastMin, lastMax uint64) error {
	c, ok := g.LatestCheckpoint()
	if c.Index != p.checkpoint || ok != (p.checkpoint > 0) {
		return fmt.Errorf("checkpoint %d, want %d", c.Index, p.checkpoint)
	}
	if ok {
		_, r, err := g.OpenCheckpoint()
		if err != nil {
			return err
		}
		state, err := io.ReadAll(r)
		if r.Close(); err != nil || !bytes.Equal(state, p.state) {
			return fmt.Errorf("state of %d octets, want %d: %v", len(state), len(p.state), err)
		}
	}
	first, last := g.FirstIndex(), g.LastIndex()
	if last == 0 {
		if lastMin > p.checkpoint {
			return fmt.Errorf("the log is empty, want up to %d after checkpoint %d", lastMin, p.checkpoint)
		}
	} else if last < lastMin || last > lastMax {
		return fmt.Errorf("the log ends at %d, want %d to %d", last, lastMin, lastMax)
	} else if first > p.checkpoint+1 && first > p.firstEver() {
		return fmt.Errorf("the log begins at %d, after checkpoint %d", first, p.checkpoint)
	}
	for i := first; i <= last && last > 0; i++ {
		e, err := g.Entry(i)
		if errors.Is(err, ErrNotFound) && i <= c.Index && (g.FirstIndex() > i || g.LastIndex() == 0) {
			continue // its file has retired meanwhile
		}
		if want := p.entries[i]; err != nil || !same(e, want) {
			return fmt.Errorf("entry %d (of %d to %d): %v", i, first, last, err)
		}
	}
	for index, parts := range p.live {
		for _, part := range parts {
			body, err := g.ReadBody(index, part.offset, part.size)
			if want := p.entries[index].Data[part.offset:][:part.size]; err != nil || !bytes.Equal(body, want) {
				return fmt.Errorf("body %d of entry %d under checkpoint %d: %v", part.offset, index, p.checkpoint, err)
			}
		}
	}
	return nil
}

func (p *promise) firstEver() uint64 {
	first := uint64(1)
	for i := range p.entries {
		if i <= p.last && (first == 1 || i < first) {
			first = i
		}
	}
	return first
}

func same(a, b Entry) bool {
	return a.Index == b.Index && a.Term == b.Term && a.Type == b.Type && a.AppendedAt == b.AppendedAt && bytes.Equal(a.Data, b.Data) && bytes.Equal(a.Extensions, b.Extensions)
}

// recorded is a store that calls a function at every operation that changes the disk.
type recorded struct {
	t        testing.TB
	mem      *vfs.Mem
	s        *Store
	mu       sync.Mutex // guards promises, and holds the disk still
	promises map[uint32]*promise
	random   *rand.Rand
	round    uint64
	all      bool // is alive, so that log files are kept as they are
	kept     int  // log files, by how many checkpoints
}

func smallFiles(o *Options) {
	o.WALFileSize, o.SegmentSize, o.CacheBytes = 8<<10, 3<<10, 4<<10
}

func newRecorded(t testing.TB, seed uint64, at func(op vfs.Op, disk *vfs.Mem, promises map[uint32]*promise)) *recorded {
	r := &recorded{t: t, mem: vfs.NewMem(), promises: map[uint32]*promise{}, random: rand.New(rand.NewPCG(seed, 0))}
	fs := vfs.Inject(r.mem, func(op vfs.Op) error {
		if at != nil && op.Kind != "read" && op.Kind != "open" {
			r.mu.Lock()
			defer r.mu.Unlock()
			at(op, r.mem, r.promises)
		}
		return nil
	})
	r.s = mustOpen(t, fs, func(o *Options) {
		smallFiles(o)
		o.SyncTimeout = time.Hour // at may take as long as the machine likes
	})
	for id := uint32(1); id <= 3; id++ {
		mustGroup(t, r.s, id)
		r.mu.Lock()
		r.promises[id] = newPromise()
		r.mu.Unlock()
	}
	return r
}

// do promises what a call will do, calls it, and takes it for done.
func (r *recorded) do(id uint32, what string, change func(p *promise), call func(g *Group) error) {
	r.t.Helper()
	r.mu.Lock()
	p := r.promises[id]
	next := p.clone()
	change(next)
	p.doing, p.next = what, next
	r.mu.Unlock()
	must(r.t, call(mustGroup(r.t, r.s, id)))
	r.mu.Lock()
	r.promises[id] = next
	r.mu.Unlock()
}

func (r *recorded) append(id uint32, count, size int) {
	r.t.Helper()
	r.round++
	from := max(r.promises[id].last, r.promises[id].checkpoint) + 1
	list := entries(id, from, from+uint64(count)-1, r.round, size)
	r.do(id, "append", func(p *promise) {
		for _, e := range list {
			p.entries[e.Index] = e
			p.last = e.Index
		}
	}, func(g *Group) error { return g.Append(list) })
}

func (r *recorded) truncate(id uint32, count uint64) {
	r.t.Helper()
	p := r.promises[id]
	if p.last <= p.checkpoint+count || p.last <= count {
		return
	}
	r.do(id, "truncate", func(p *promise) { p.last -= count }, func(g *Group) error { return g.TruncateSuffix(p.last - count + 1) })
}

// refs are references in the order and form of LiveRefs.
func refs(live map[uint64][]bodyPart) LiveRefs {
	return func(min, max uint64, yield func(uint64, uint32, uint32) bool) {
		for _, index := range slices.Sorted(maps.Keys(live)) {
			for _, p := range live[index] {
				if index >= min && index <= max && !yield(index, p.offset, p.size) {
					return
				}
			}
		}
	}
}

// age lets some of what is alive die and takes some of the newer entries for alive.
func (r *recorded) age(p *promise, to uint64) map[uint64][]bodyPart {
	live := map[uint64][]bodyPart{}
	for _, index := range slices.Sorted(maps.Keys(p.live)) {
		if r.random.IntN(4) > 0 {
			live[index] = p.live[index]
		}
	}
	for i := max(p.checkpoint, 1); i <= to; i++ {
		if e, ok := p.entries[i]; ok && i > p.checkpoint && r.all {
			live[i] = []bodyPart{{offset: 0, size: uint32(len(e.Data))}}
		} else if ok && i > p.checkpoint && r.random.IntN(3) == 0 {
			half := uint32(len(e.Data) / 2)
			live[i] = []bodyPart{{offset: 0, size: half / 2}, {offset: half, size: half}}[r.random.IntN(2):]
		}
	}
	return live
}

func (r *recorded) checkpoint(id uint32) {
	r.t.Helper()
	p := r.promises[id]
	if p.last <= p.checkpoint {
		return
	}
	live := r.age(p, p.last)
	state := bytes.Repeat([]byte{byte(p.last)}, int(100+p.last%7*100))
	r.do(id, "checkpoint", func(n *promise) { n.checkpoint, n.live, n.state = p.last, live, state }, func(g *Group) error {
		return g.SaveCheckpoint(Checkpoint{Index: p.last, Term: 1}, func(w io.Writer) error { _, err := w.Write(state); return err }, refs(live))
	})
	for _, seg := range mustGroup(r.t, r.s, id).segments {
		if seg.log != nil {
			r.kept++
		}
	}
}

// install sends a group of a store of its own, which is further on, to this one.
func (r *recorded) install(id uint32) {
	r.t.Helper()
	r.round++
	from := max(r.promises[id].last, r.promises[id].checkpoint) + 20
	list := entries(id, from, from+9, r.round, 150)
	other := mustOpen(r.t, vfs.NewMem(), smallFiles)
	source := mustGroup(r.t, other, id)
	must(r.t, source.Append(list))
	live := map[uint64][]bodyPart{from + 2: {{offset: 0, size: 70}}, from + 9: {{offset: 3, size: 9}, {offset: 20, size: 100}}}
	_, stream, err := source.OpenSnapshot(Checkpoint{Index: from + 9, Term: r.round}, []byte("installed"), refs(live))
	must(r.t, err)
	wire, err := io.ReadAll(stream)
	must(r.t, err)
	must(r.t, stream.Close())
	must(r.t, other.Close())
	r.do(id, "install", func(p *promise) {
		p.entries = map[uint64]Entry{}
		for _, e := range list {
			p.entries[e.Index] = e
		}
		p.last, p.checkpoint, p.live, p.state = 0, from+9, live, []byte("installed")
	}, func(g *Group) error {
		in, err := g.Install()
		if err != nil {
			return err
		}
		if _, err := in.Write(wire); err != nil {
			return err
		}
		_, err = in.Commit()
		return err
	})
}

func (r *recorded) discard(id uint32) {
	r.t.Helper()
	r.do(id, "discard", func(p *promise) { *p = *newPromise() }, (*Group).Discard)
}

// work does some of everything.
func (r *recorded) work(rounds int) {
	for i := range rounds {
		r.all = i/12%2 == 0
		for id := uint32(1); id <= 3; id++ {
			if id == 3 && i%5 != 0 {
				continue // mostly idle
			}
			r.append(id, 1+r.random.IntN(4), []int{60, 900}[r.random.IntN(2)])
		}
		switch r.random.IntN(6) {
		case 0:
			r.truncate(uint32(1+r.random.IntN(3)), 1+r.random.Uint64N(3))
		case 1:
			r.checkpoint(1)
		case 2:
			r.checkpoint(2)
		}
		select {
		case ids := <-r.s.NeedsCheckpoint():
			for _, id := range ids {
				r.checkpoint(id)
			}
		default:
		}
		switch {
		case i%23 == 17:
			r.install(uint32(1 + i/23%3))
		case i%23 == 22:
			r.discard(uint32(1 + i/23%3))
		}
	}
}

// reopened opens what a crash left, compares it, and goes on with it.
func reopened(t testing.TB, disk *vfs.Mem, promises map[uint32]*promise) error {
	s, err := Open(Options{Dir: "d", FS: disk, WALFileSize: 8 << 10, SegmentSize: 3 << 10, CacheBytes: 4 << 10, KeepFiles: 1, OnFatal: func(err error) { t.Errorf("fatal: %v", err) }})
	if err != nil {
		return err
	}
	more := map[uint32][]Entry{}
	for _, id := range slices.Sorted(maps.Keys(promises)) {
		g, err := s.Group(id)
		if err != nil {
			return err
		}
		if err := promises[id].verify(g); err != nil {
			return fmt.Errorf("group %d: %w", id, err)
		}
		c, _ := g.LatestCheckpoint()
		from := max(g.LastIndex(), c.Index) + 1
		more[id] = entries(id, from, from+4, 1000, 333)
		if err := g.Append(more[id]); err != nil {
			return fmt.Errorf("group %d: append afterwards: %w", id, err)
		}
	}
	if err := s.Close(); err != nil {
		return err
	}
	if s, err = Open(Options{Dir: "d", FS: disk, WALFileSize: 8 << 10, KeepFiles: 1}); err != nil {
		return fmt.Errorf("open again: %w", err)
	}
	for id, list := range more {
		g, err := s.Group(id)
		if err == nil {
			err = g.Damaged()
		}
		for _, e := range list {
			got, readErr := g.Entry(e.Index)
			if err == nil && (readErr != nil || !same(got, e)) {
				err = fmt.Errorf("entry %d of %d to %d: %v", e.Index, g.FirstIndex(), g.LastIndex(), readErr)
			}
		}
		if err != nil {
			return fmt.Errorf("group %d, appended after recovery: %w", id, err)
		}
	}
	return s.Close()
}

// visible is what a store shows after it was opened: all of it must be durable then.
func visible(disk *vfs.Mem, groups map[uint32]*promise) (map[uint32]*promise, error) {
	s, err := Open(Options{Dir: "d", FS: disk, WALFileSize: 8 << 10, KeepFiles: 1})
	if err != nil {
		return nil, err
	}
	shown := map[uint32]*promise{}
	for id := range groups {
		g, err := s.Group(id)
		if err != nil {
			return nil, err
		}
		p := newPromise()
		p.last = g.LastIndex()
		for i := g.FirstIndex(); i <= p.last && p.last > 0; i++ {
			if p.entries[i], err = g.Entry(i); err != nil {
				return nil, err
			}
		}
		c, ok := g.LatestCheckpoint()
		if ok {
			_, r, err := g.OpenCheckpoint()
			if err != nil {
				return nil, err
			}
			if p.state, err = io.ReadAll(r); err != nil {
				return nil, err
			}
		}
		p.checkpoint = c.Index
		shown[id] = p
	}
	return shown, nil
}

// TestCrash cuts the power at every operation of a run that does some of everything, in several ways, and kills the process
// there. Recovery is exact: what was acknowledged is there, nothing else is, nobody is damaged, and it goes on.
func TestCrash(t *testing.T) {
	rounds := 60
	if testing.Short() || racing {
		rounds = 25
	}
	for seed := range uint64(2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			crashRun(t, seed, rounds)
		})
	}
}

func crashRun(t *testing.T, seed uint64, rounds int) {
	cut := rand.New(rand.NewPCG(seed, 1))
	none, all := func(int) int { return 0 }, func(n int) int { return n }
	part := func(n int) int { return cut.IntN(n + 1) }
	some := func(n int) int { return []int{0, n, cut.IntN(n + 1)}[cut.IntN(3)] }
	points, failures := 0, 0
	r := newRecorded(t, seed, func(op vfs.Op, disk *vfs.Mem, promises map[uint32]*promise) {
		if len(promises) < 3 || failures > 3 {
			return
		}
		points++
		ways := map[string]*vfs.Mem{
			"nothing unsynced kept":       disk.CrashClone(none),
			"unsynced octets kept":        disk.CrashClone(all),
			"unsynced names kept":         disk.CrashCloneNames(none, all),
			"a random part kept":          disk.CrashCloneNames(part, part),
			"some writes and names kept":  disk.CrashCloneNames(some, part),
			"everything kept":             disk.Clone(),
			"killed, then nothing synced": disk.KillClone(),
		}
		for how, left := range ways {
			var err error
			expected := promises
			if how == "killed, then nothing synced" {
				if expected, err = visible(left, promises); err == nil {
					left = left.CrashClone(none)
				}
			}
			if err == nil {
				err = reopened(t, left, expected)
			}
			if err != nil {
				failures++
				t.Errorf("point %d, before %s %s, %s: %v", points, op.Kind, op.Name, how, err)
			}
		}
	})
	r.work(rounds)
	if r.kept == 0 {
		t.Error("no log file was kept")
	}
	must(t, r.s.Close())
	t.Logf("%d points, newest log file %d", points, r.s.wal.current().number)
}

// TestCrashInAWaitingInstall: an install over a longer log waits for room in the log. Meanwhile the former log's files retire, which nothing
// needs any more; then the process ends. The install is completed by the next one.
func TestCrashInAWaitingInstall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		s := mustOpen(t, mem, func(o *Options) { o.WALFileSize = 64 << 10 })
		g, other := mustGroup(t, s, 1), mustGroup(t, s, 2)
		must(t, other.Append(entries(2, 1, 1, 1, 100))) // which keeps all files
		must(t, g.Append(entries(1, 1, 300, 1, 1000)))
		for takes := int64(0); s.wal.newest.size-s.wal.tail >= takes; { // until there is no room for a record of the length of a reset's
			before := s.wal.tail
			must(t, other.TruncateSuffix(2))
			takes = s.wal.tail - before
		}
		wire := snapshotOf(t, 1, 5)
		noNextFile(t, s, mem)
		left, err := mem.Free("")
		must(t, err)
		mem.SetCapacity(1 - left + 8<<10)
		files := len(s.wal.files)
		installed := make(chan error, 1)
		go func() { installed <- installAll(g, wire) }()
		time.Sleep(time.Minute)
		must(t, other.SaveCheckpoint(Checkpoint{Index: 1, Term: 1}, func(io.Writer) error { return nil }, noRefs))
		if now := len(s.wal.files); now >= files {
			t.Errorf("%d files of %d", now, files)
		}
		crashed := mem.KillClone()
		must(t, <-installed) // a file that has retired is the next one; nobody can wait for a lock of whoever sleeps here
		must(t, s.Close())
		// The disk is as full as it was: what has retired is the room that the reset needs.
		s = mustOpen(t, crashed, func(o *Options) { o.WALFileSize = 64 << 10 })
		g = mustGroup(t, s, 1)
		if c, ok := g.LatestCheckpoint(); g.Damaged() != nil || !ok || c.Index != 5 || g.LastIndex() != 0 {
			t.Errorf("a checkpoint at %d (%v), last index %d; damage: %v", c.Index, ok, g.LastIndex(), g.Damaged())
		}
		must(t, s.Close())
	})
}
