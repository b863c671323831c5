package raftstore

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/warrenmq/warren/storage"
	"github.com/warrenmq/warren/storage/vfs"
)

// openGroup opens a store in memory and gives its group 1.
func openGroup(t *testing.T, fs vfs.FS) (*storage.Group, *storage.Store) {
	t.Helper()
	store, err := storage.Open(storage.Options{Dir: "data", FS: fs, WALFileSize: 1 << 20, SegmentSize: 1 << 20, CacheBytes: 1 << 16,
		Logger: slog.New(slog.DiscardHandler), OnFatal: func(err error) { t.Errorf("fatal: %v", err) }})
	set(t, err)
	t.Cleanup(func() { _ = store.Close() }) // some tests close it themselves
	g, err := store.Group(1)
	set(t, err)
	return g, store
}

func shardEntries(from, to, term uint64) []*raft.Log {
	all := catalogEntries(from, to)
	for _, e := range all {
		e.Term, e.AppendedAt = term, time.Unix(100, int64(e.Index))
	}
	return all
}

func TestShardLog(t *testing.T) {
	fs := vfs.NewMem()
	g, store := openGroup(t, fs)
	l := &ShardLog{Group: g}
	wantRange(t, l, 0, 0)
	set(t, l.DeleteRange(1, 9)) // of an empty log
	var none raft.Log
	if err := l.GetLog(1, &none); !errors.Is(err, raft.ErrLogNotFound) {
		t.Errorf("an entry of an empty log: %v", err)
	}
	entries := shardEntries(1, 30, 2)
	set(t, l.StoreLogs(entries[:29]))
	set(t, l.StoreLog(entries[29]))
	set(t, store.Close())
	g, _ = openGroup(t, fs)
	l = &ShardLog{Group: g}
	wantRange(t, l, 1, 30)
	for _, e := range entries {
		wantEntry(t, l, e)
	}
	var e raft.Log
	if err := l.GetLog(3, &e); err != nil || !e.AppendedAt.Equal(entries[2].AppendedAt) {
		t.Errorf("entry 3 was appended at %v: %v", e.AppendedAt, err)
	}

	set(t, l.DeleteRange(1, 10))
	wantRange(t, l, 11, 30)
	if err := l.GetLog(10, &e); !errors.Is(err, raft.ErrLogNotFound) {
		t.Errorf("an entry that was deleted: %v", err)
	}
	set(t, l.DeleteRange(25, 30))
	wantRange(t, l, 11, 24)
	if err := l.DeleteRange(15, 20); err == nil {
		t.Error("the middle of the log could be deleted")
	}
	wantRange(t, l, 11, 24)
	set(t, l.StoreLogs(shardEntries(25, 26, 3)))
	wantEntry(t, l, shardEntries(25, 25, 3)[0])
	set(t, l.DeleteRange(11, 26))
	wantRange(t, l, 0, 0)
}

// testState is a state that refers to the whole data of some entries.
type testState struct {
	text string
	refs map[uint64]uint32 // index to the size of its data
}

func (s testState) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, s.text)
	return int64(n), err
}

func (s testState) Size() int64 { return int64(len(s.text)) }

func (s testState) LiveRefs(min, max uint64, yield func(index uint64, offset, size uint32) bool) {
	for i := min; i <= max && i < 1000; i++ {
		if size, ok := s.refs[i]; ok && !yield(i, 0, size) {
			return
		}
	}
}

var testMembers = raft.Configuration{Servers: []raft.Server{{ID: "a.1", Address: "a.1"}, {Suffrage: raft.Nonvoter, ID: "b.2", Address: "b.2"}}}

// filled is a group with entries up to 30, of which a state at 20 refers to two.
func filled(t *testing.T) (*storage.Group, *ShardSnapshots, testState) {
	t.Helper()
	g, _ := openGroup(t, vfs.NewMem())
	set(t, (&ShardLog{Group: g}).StoreLogs(shardEntries(1, 30, 2)))
	state := testState{"the state at 20", map[uint64]uint32{5: 50, 17: 170}}
	return g, &ShardSnapshots{Group: g, Pin: func() Pinned {
		return Pinned{Index: 20, Term: 2, Configuration: testMembers, ConfigIndex: 3, State: state}
	}}, state
}

func wantMeta(t *testing.T, m *raft.SnapshotMeta, id string, index uint64) {
	t.Helper()
	if m == nil || m.ID != id || m.Index != index || m.Term != 2 || m.ConfigurationIndex != 3 || !reflect.DeepEqual(m.Configuration, testMembers) {
		t.Errorf("the snapshot is %+v", m)
	}
}

func TestLocalCheckpoint(t *testing.T) {
	g, snaps, state := filled(t)
	if all, err := snaps.List(); err != nil || len(all) != 0 {
		t.Errorf("snapshots of a new group: %v, %v", all, err)
	}
	if _, _, err := snaps.Open(checkpointID); err == nil {
		t.Error("a checkpoint that does not exist was opened")
	}
	sink, err := snaps.Create(1, 20, 2, testMembers, 3, nil)
	set(t, err)
	set(t, SaveState(sink, state))
	set(t, sink.Close())
	all, err := snaps.List()
	set(t, err)
	if len(all) != 1 {
		t.Fatalf("%d snapshots", len(all))
	}
	wantMeta(t, all[0], checkpointID, 20)
	m, r, err := snaps.Open(all[0].ID)
	set(t, err)
	wantMeta(t, m, checkpointID, 20)
	text, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil || string(text) != state.text {
		t.Errorf("the checkpoint reads %q: %v", text, err)
	}
	m, err = CheckpointMeta(g)
	set(t, err)
	wantMeta(t, m, checkpointID, 20)
	if _, err := snaps.Create(2, 20, 2, testMembers, 3, nil); err == nil {
		t.Error("a snapshot of an unknown version was begun")
	}
}

// Once the machine runs, its present state is what another node gets, with the bodies.
func TestSnapshotFromOneStoreToAnother(t *testing.T) {
	_, snaps, state := filled(t)
	snaps.Live()
	all, err := snaps.List()
	if err != nil || len(all) != 1 || all[0].ID != liveID {
		t.Fatalf("snapshots of a machine that runs: %v, %v", all, err)
	}
	m, r, err := snaps.Open(all[0].ID)
	set(t, err)
	wantMeta(t, m, liveID, 20)
	stream, err := io.ReadAll(r)
	set(t, errors.Join(err, r.Close()))
	if int64(len(stream)) != m.Size {
		t.Errorf("%d octets came, %d were announced", len(stream), m.Size)
	}

	other, _ := openGroup(t, vfs.NewMem())
	set(t, (&ShardLog{Group: other}).StoreLogs(shardEntries(1, 40, 1))) // longer, and of an older term
	install(t, other, stream, m.Index)
	wantRange(t, &ShardLog{Group: other}, 0, 0)
	set(t, (&ShardLog{Group: other}).StoreLogs(shardEntries(21, 22, 2)))
	m, r, err = (&ShardSnapshots{Group: other}).Open(checkpointID)
	set(t, err)
	wantMeta(t, m, checkpointID, 20)
	text, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil || string(text) != state.text {
		t.Errorf("the state that came reads %q: %v", text, err)
	}
	body, err := other.ReadBody(17, 0, 170)
	if err != nil || !bytes.Equal(body, bytes.Repeat([]byte{17}, 170)) {
		t.Errorf("the body that came: %x, %v", body, err)
	}
}

// install writes a stream as the library does, in pieces.
func install(t *testing.T, g *storage.Group, stream []byte, index uint64) {
	t.Helper()
	sink, err := (&ShardSnapshots{Group: g}).Create(1, index, 2, testMembers, 3, nil)
	set(t, err)
	for len(stream) > 0 {
		n, err := sink.Write(stream[:min(37, len(stream))])
		set(t, err)
		stream = stream[n:]
	}
	set(t, sink.Close())
}

// A stream that does not arrive whole changes nothing, whether the library cancels it or closes it.
func TestStreamThatWasCutChangesNothing(t *testing.T) {
	_, snaps, _ := filled(t)
	snaps.Live()
	_, r, err := snaps.Open(liveID)
	set(t, err)
	stream, err := io.ReadAll(r)
	set(t, errors.Join(err, r.Close()))
	other, _ := openGroup(t, vfs.NewMem())
	before := shardEntries(1, 7, 1)
	set(t, (&ShardLog{Group: other}).StoreLogs(before))
	for cut := 0; cut < len(stream); cut += 13 {
		for _, closes := range []bool{false, true} {
			sink, err := (&ShardSnapshots{Group: other}).Create(1, 20, 2, testMembers, 3, nil)
			set(t, err)
			_, err = sink.Write(stream[:cut])
			switch {
			case !closes:
				set(t, sink.Cancel())
			case err == nil && sink.Close() == nil:
				t.Errorf("the first %d of %d octets passed for the whole", cut, len(stream))
			}
		}
	}
	wantRange(t, &ShardLog{Group: other}, 1, 7)
	wantEntry(t, &ShardLog{Group: other}, before[6])
	if _, ok := other.LatestCheckpoint(); ok {
		t.Error("half a stream has become a checkpoint")
	}
	install(t, other, stream, 20)
}

// TestSaveAgain: a group that applies nothing more lets log files go that were not to retire yet when its checkpoint was made.
func TestSaveAgain(t *testing.T) {
	fs := vfs.NewMem()
	idle, store := openGroup(t, fs)
	busy, err := store.Group(2)
	set(t, err)
	save := func(g *storage.Group, index uint64) {
		t.Helper()
		sink, err := (&ShardSnapshots{Group: g}).Create(1, index, 2, testMembers, 3, nil)
		set(t, err)
		set(t, SaveState(sink, testState{text: "a state"}))
	}
	files := func() (n int) {
		t.Helper()
		names, err := fs.ReadDir("data/wal")
		set(t, err)
		for _, name := range names {
			if strings.HasSuffix(name, ".wal") && !strings.HasPrefix(name, "spare-") {
				n++
			}
		}
		return n
	}
	set(t, (&ShardLog{Group: idle}).StoreLogs(shardEntries(1, 30, 2)))
	save(idle, 30)
	const last = 100
	for i := uint64(1); i <= last; i++ {
		set(t, (&ShardLog{Group: busy}).StoreLog(&raft.Log{Index: i, Term: 2, Type: raft.LogCommand, Data: make([]byte, 100<<10)}))
	}
	save(busy, last)
	before := files()
	if before < 8 {
		t.Fatalf("%d log files, of %d entries of 100 KiB", before, last)
	}
	if needs := <-store.NeedsCheckpoint(); len(needs) != 1 || needs[0] != 1 {
		t.Errorf("groups %v keep the oldest file", needs)
	}
	again := Pinned{Index: 30, Term: 2, Configuration: testMembers, ConfigIndex: 3, State: testState{text: "a state"}}
	older := again
	older.Index = 29
	saved, err := SaveAgain(idle, older) // not what the checkpoint is of: nothing happens
	set(t, err)
	if n := files(); saved || n != before {
		t.Errorf("saved: %v; %d log files, were %d", saved, n, before)
	}
	saved, err = SaveAgain(idle, again)
	set(t, err)
	if n := files(); !saved || n > 4 {
		t.Errorf("saved: %v; %d log files are left of %d", saved, n, before)
	}
	m, err := CheckpointMeta(idle)
	set(t, err)
	wantMeta(t, m, checkpointID, 30)
}

// slowState is a state during whose writing something happens.
type slowState struct {
	testState
	meanwhile func()
}

func (s slowState) WriteTo(w io.Writer) (int64, error) {
	s.meanwhile()
	return s.testState.WriteTo(w)
}

// TestCheckpointWhileASnapshotBegins: a checkpoint is made while the state that goes to another node is written: it gives up what
// only that state needs, and the log's files retire.
func TestCheckpointWhileASnapshotBegins(t *testing.T) {
	g, store := openGroup(t, vfs.NewMem())
	const last = 60
	var entries []*raft.Log
	for i := uint64(1); i <= last; i++ {
		entries = append(entries, &raft.Log{Index: i, Term: 2, Type: raft.LogCommand, Data: bytes.Repeat([]byte{byte(i)}, 100<<10)})
	}
	set(t, (&ShardLog{Group: g}).StoreLogs(entries))
	checkpoint := func() {
		<-store.NeedsCheckpoint()
		sink, err := (&ShardSnapshots{Group: g}).Create(1, last, 2, testMembers, 3, nil)
		set(t, err)
		set(t, SaveState(sink, testState{text: "nothing is alive"}))
		if first := g.FirstIndex(); first < 20 {
			t.Errorf("the log begins at %d", first)
		}
	}
	snaps := &ShardSnapshots{Group: g, Pin: func() Pinned {
		return Pinned{Index: last, Term: 2, Configuration: testMembers, ConfigIndex: 3,
			State: slowState{testState{"a state", map[uint64]uint32{5: 50, 17: 170}}, checkpoint}}
	}}
	m, r, err := snaps.Open(liveID)
	set(t, err)
	stream, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil || int64(len(stream)) != m.Size {
		t.Errorf("%d octets of %d: %v", len(stream), m.Size, err)
	}
	for _, i := range []int{5, 17} {
		if !bytes.Contains(stream, bytes.Repeat([]byte{byte(i)}, 10*i)) {
			t.Errorf("the body in entry %d is not in the stream", i)
		}
	}
}
