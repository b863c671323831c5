package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/warrenmq/warren/cluster/raftnet"
	"github.com/warrenmq/warren/cluster/raftstore"
)

func createSnapshot(t *testing.T, s *snapshotStore, index uint64, text string) raft.SnapshotSink {
	t.Helper()
	sink, err := s.Create(1, index, 1, *firstConfiguration([]string{"a"}), 1, raftnet.New(raftnet.Options{}).Group(1, "a.1"))
	must(t, err)
	_, err = io.WriteString(sink, text)
	must(t, err)
	return sink
}

// TestSnapshotNamesAreSynced: before a snapshot gets the name that the log is cut for, the names in it are durable; if they cannot be made so,
// there is no such snapshot.
func TestSnapshotNamesAreSynced(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "catalog")
	s, err := openSnapshots(dir, hclog.NewNullLogger())
	must(t, err)
	var synced []string
	failure := error(nil)
	s.sync = func(dir string) error {
		entries, err := os.ReadDir(dir)
		must(t, err)
		for _, e := range entries {
			synced = append(synced, e.Name())
		}
		if list, err := s.List(); err != nil || len(list) != 0 {
			t.Errorf("%d snapshots before its names are durable, %v", len(list), err)
		}
		return failure
	}
	failure = errors.New("the disk is broken")
	if err := createSnapshot(t, s, 3, "first").Close(); !errors.Is(err, failure) {
		t.Errorf("its names could not be synced: %v", err)
	}
	failure, synced = nil, nil
	sink := createSnapshot(t, s, 5, "second")
	must(t, sink.Close())
	if !slices.Contains(synced, "meta.json") || !slices.Contains(synced, "state.bin") {
		t.Errorf("synced %v", synced)
	}
	list, err := s.List()
	must(t, err)
	if len(list) != 1 || list[0].Index != 5 {
		t.Fatalf("the snapshots are %v", list)
	}
	_, r, err := s.Open(list[0].ID)
	must(t, err)
	if text, err := io.ReadAll(r); err != nil || string(text) != "second" {
		t.Errorf("it holds %q, %v", text, err)
	}
	must(t, r.Close())
}

// TestUnfinishedSnapshotsGo: a crash may leave a snapshot that was not finished, or, of an earlier version, one without its names.
func TestUnfinishedSnapshotsGo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "catalog")
	s, err := openSnapshots(dir, hclog.NewNullLogger())
	must(t, err)
	must(t, createSnapshot(t, s, 5, "whole").Close())
	createSnapshot(t, s, 7, "unfinished")
	must(t, createSnapshot(t, s, 9, "nameless").Close())
	list, err := s.List()
	must(t, err)
	if len(list) != 2 {
		t.Fatalf("the snapshots are %v", list)
	}
	must(t, os.Remove(filepath.Join(s.dir, list[0].ID, "meta.json")))
	s, err = openSnapshots(dir, hclog.NewNullLogger())
	must(t, err)
	entries, err := os.ReadDir(s.dir)
	must(t, err)
	if len(entries) != 1 || entries[0].Name() != list[1].ID {
		t.Errorf("what is left: %v", entries)
	}
}

// readSnapshot opens a snapshot as the library does, and reads all of it.
func readSnapshot(t *testing.T, s *snapshotStore, id string) (*raft.SnapshotMeta, string, error) {
	t.Helper()
	m, r, err := s.Open(id)
	if err != nil {
		return nil, "", err
	}
	text, err := io.ReadAll(r)
	must(t, errors.Join(err, r.Close()))
	return m, string(text), nil
}

// flips writes a file with each of its bits flipped, one after the other, and at last as it was.
func flips(t *testing.T, path string, look func(bit int)) {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	for bit := range len(data) * 8 {
		flipped := slices.Clone(data)
		flipped[bit/8] ^= 1 << (bit % 8)
		must(t, os.WriteFile(path, flipped, 0o600))
		look(bit)
	}
	must(t, os.WriteFile(path, data, 0o600))
}

// edit replaces a text in a file, which has it once.
func edit(t *testing.T, path, old, new string) {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	if bytes.Count(data, []byte(old)) != 1 {
		t.Fatalf("%s has %q not once: %s", path, old, data)
	}
	must(t, os.WriteFile(path, bytes.Replace(data, []byte(old), []byte(new), 1), 0o600))
}

// TestFlippedSnapshots: whichever bit of a snapshot is another, what is believed of it is what was written, or it is damaged, and all who
// read it find the same.
func TestFlippedSnapshots(t *testing.T) {
	base := filepath.Join(t.TempDir(), "catalog")
	s, err := openSnapshots(base, hclog.NewNullLogger())
	must(t, err)
	sink := createSnapshot(t, s, 8214, "state")
	must(t, sink.Close())
	want, _, err := readSnapshot(t, s, sink.ID())
	must(t, err)
	if want.Index != 8214 || want.Term != 1 || !reflect.DeepEqual(want.Configuration, *firstConfiguration([]string{"a"})) {
		t.Fatalf("it says %+v", want)
	}
	damaged := 0
	look := func(file string) func(bit int) {
		return func(bit int) {
			m, text, err := readSnapshot(t, s, sink.ID())
			list, listErr := s.List()
			_, _, surveyed := surveySnapshots(base)
			switch {
			case listErr != nil:
				t.Errorf("bit %d of %s: list: %v", bit, file, listErr)
			case len(list) > 0 && !reflect.DeepEqual(list[0], want):
				t.Errorf("bit %d of %s: the list has %+v", bit, file, list[0])
			case err == nil && (!reflect.DeepEqual(m, want) || text != "state"):
				t.Errorf("bit %d of %s is believed: %+v, %q", bit, file, m, text)
			case err != nil && !isDamage(err), isDamage(err) != isDamage(surveyed):
				t.Errorf("bit %d of %s: %v, surveyed: %v", bit, file, err, surveyed)
			case err != nil:
				damaged++
			}
		}
	}
	for _, file := range []string{metaFile, stateFile, sumFile} {
		damaged = 0
		flips(t, filepath.Join(s.dir, sink.ID(), file), look(file))
		if damaged == 0 {
			t.Errorf("no bit of %s matters", file)
		}
	}
	for _, file := range []string{stateFile, sumFile} {
		must(t, os.Remove(filepath.Join(s.dir, sink.ID(), file)))
		_, _, err := readSnapshot(t, s, sink.ID())
		if missing := file == stateFile; isDamage(err) != missing {
			t.Errorf("without %s: %v", file, err)
		}
		must(t, os.WriteFile(filepath.Join(s.dir, sink.ID(), stateFile), []byte("state"), 0o600))
	}
	// A version before this has written no checksum: what the directory's name tells is believed, and there are members.
	flips(t, filepath.Join(s.dir, sink.ID(), metaFile), func(bit int) {
		m, text, err := readSnapshot(t, s, sink.ID())
		if err == nil && (m.Version != 1 || m.ID != want.ID || m.Index != want.Index || m.Term != want.Term || m.Size != want.Size ||
			len(m.Configuration.Servers) == 0 || text != "state") {
			t.Errorf("bit %d is believed without a checksum: %+v, %q", bit, m, text)
		}
	})
	if m, _, err := readSnapshot(t, s, sink.ID()); err != nil || !reflect.DeepEqual(m, want) {
		t.Errorf("of an earlier version: %+v, %v", m, err)
	}
}

// TestDamagedSnapshotsArePutAside: a snapshot that does not know which it is is neither believed nor removed, and nothing else goes in its place.
func TestDamagedSnapshotsArePutAside(t *testing.T) {
	for _, opened := range []bool{false, true} {
		base := filepath.Join(t.TempDir(), "catalog")
		s, err := openSnapshots(base, hclog.NewNullLogger())
		must(t, err)
		first, second := createSnapshot(t, s, 10, "first"), createSnapshot(t, s, 20, "second")
		must(t, errors.Join(first.Close(), second.Close()))
		edit(t, filepath.Join(s.dir, first.ID(), metaFile), `"ID":"1-10-`, `"HD":"1-10-`)
		if opened {
			s, err = openSnapshots(base, hclog.NewNullLogger())
			must(t, err)
		}
		third, fourth := createSnapshot(t, s, 30, "third"), createSnapshot(t, s, 40, "fourth")
		must(t, third.Close())
		if m, text, err := readSnapshot(t, s, second.ID()); err != nil || m.Index != 20 || text != "second" {
			t.Errorf("of the second there is %+v, %q, %v", m, text, err)
		}
		must(t, fourth.Close())
		list, err := s.List()
		must(t, err)
		if len(list) != 2 || list[0].Index != 40 || list[1].Index != 30 {
			t.Errorf("the snapshots are %v", list)
		}
		entries, err := os.ReadDir(s.dir)
		must(t, err)
		if len(entries) != 2 {
			t.Errorf("what is left: %v", entries)
		}
		aside, err := filepath.Glob(filepath.Join(base, "damaged-"+first.ID()+"-*", stateFile))
		if must(t, err); len(aside) != 1 {
			t.Errorf("put aside: %v", aside)
		}
	}
}

// TestNoSnapshotIsWhole: where there are only damaged ones nothing begins, and all stays as it is.
func TestNoSnapshotIsWhole(t *testing.T) {
	base := filepath.Join(t.TempDir(), "catalog")
	s, err := openSnapshots(base, hclog.NewNullLogger())
	must(t, err)
	first, second := createSnapshot(t, s, 10, "first"), createSnapshot(t, s, 20, "second")
	must(t, errors.Join(first.Close(), second.Close()))
	edit(t, filepath.Join(s.dir, first.ID(), stateFile), "first", "f1rst")
	edit(t, filepath.Join(s.dir, second.ID(), metaFile), `"Index":20`, `"Index":30`)
	if _, err = openSnapshots(base, hclog.NewNullLogger()); !errors.Is(err, raftstore.ErrDamaged) {
		t.Errorf("it opens: %v", err)
	}
	if list, err := savedSnapshots(base); err != nil || len(list) != 2 {
		t.Errorf("what is left: %v, %v", list, err)
	}
}

// TestOlderSnapshotIsTaken: an older snapshot takes the place of a damaged one if the log continues it, and if it does not that is damage.
func TestOlderSnapshotIsTaken(t *testing.T) {
	root := t.TempDir()
	db, err := raftstore.OpenDB(root)
	must(t, err)
	defer db.Close()
	seat := &catalogSeat{c: &Cluster{db: db}, dir: filepath.Join(root, "catalog")}
	s, err := openSnapshots(seat.dir, hclog.NewNullLogger())
	must(t, err)
	first, second := createSnapshot(t, s, 10, "first"), createSnapshot(t, s, 20, "second")
	must(t, errors.Join(first.Close(), second.Close()))
	for index := uint64(11); index <= 25; index++ {
		must(t, db.CatalogLog().StoreLog(&raft.Log{Index: index, Term: 1, Type: raft.LogNoop}))
	}
	edit(t, filepath.Join(s.dir, second.ID(), metaFile), `"Term":1`, `"Term":3`)
	if index, damaged, err := seat.latestSnapshot(); err != nil || index != 10 || len(damaged) != 1 {
		t.Errorf("the newest ends at %d, damaged %v, %v", index, damaged, err)
	}
	must(t, seat.check())
	must(t, db.CatalogLog().DeleteRange(11, 15))
	if err := seat.check(); !isDamage(err) || !strings.Contains(err.Error(), "begins at 16, its snapshot ends at 10") || !strings.Contains(err.Error(), second.ID()) {
		t.Errorf("the log begins at 16: %v", err)
	}
}

// newestSnapshot is the newest snapshot of a node's catalog.
func newestSnapshot(t *testing.T, m *member) savedSnapshot {
	t.Helper()
	list, err := savedSnapshots(filepath.Join(m.o.DataDir, "catalog"))
	must(t, err)
	if len(list) == 0 {
		return savedSnapshot{}
	}
	return list[0]
}

// exchangesUntilSnapshot changes the catalog until a node has a snapshot of it, and returns how many changes there were, the exchanges x0, x1
// and so on.
func exchangesUntilSnapshot(t *testing.T, by, m *member) (n int) {
	t.Helper()
	eventually(t, "there is a snapshot", func() bool {
		by.exchange(fmt.Sprintf("x%d", n))
		n++
		return newestSnapshot(t, m).index > 0
	})
	return n
}

// TestSnapshotOfAnotherIndex: a flipped bit in where a snapshot says that the log goes on must not leave out what stands between. The node
// takes another seat and has everything from the others.
func TestSnapshotOfAnotherIndex(t *testing.T) {
	members := newMembers(t, 3, 1)
	for _, m := range members {
		m.o.Surroundings.SnapshotEvery = 20
	}
	startAll(t, members)
	m := members[2]
	n := exchangesUntilSnapshot(t, members[0], m)
	m.stop()
	m.o.Surroundings.SnapshotEvery = 0 // there will be no other
	must(t, m.start())
	for range 10 {
		members[0].exchange(fmt.Sprintf("x%d", n))
		n++
	}
	eventually(t, "the node has them in its log", func() bool { return m.catalog.instance().AppliedIndex() >= members[0].catalog.at() })
	before := m.catalog.server()
	m.stop()
	saved := newestSnapshot(t, m)
	edit(t, filepath.Join(saved.path, metaFile), fmt.Sprintf(`"Index":%d,`, saved.index), fmt.Sprintf(`"Index":%d,`, saved.index+4)) // as 0 to 3 become 4 to 7
	must(t, m.start())
	eventually(t, "it is current", func() bool { return m.Fresh() == nil })
	for i := range n {
		if name := fmt.Sprintf("x%d", i); !m.hasExchange(name) {
			t.Errorf("it says that it is current and lacks %s", name)
		}
	}
	if m.catalog.server() == before {
		t.Error("it takes part under the seat whose snapshot is damaged")
	}
}

// TestLoneSnapshotIsDamaged: a node that is alone, whose newest snapshot has lost the group's members, says so and keeps all it has.
func TestLoneSnapshotIsDamaged(t *testing.T) {
	m := newMembers(t, 1, 1)[0]
	m.o.Surroundings.SnapshotEvery = 5
	startAll(t, []*member{m})
	n := exchangesUntilSnapshot(t, m, m)
	m.stop()
	saved, err := savedSnapshots(filepath.Join(m.o.DataDir, "catalog"))
	must(t, err)
	for _, s := range saved {
		edit(t, filepath.Join(s.path, metaFile), `"Configuration":`, `"Bonfiguration":`)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := m.startUntil(ctx); err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "damaged data: snapshot "+saved[0].name) {
		t.Fatalf("it starts: %v", err)
	}
	if r := inspected(t, m); r.Able || r.Groups[0].Damage == "" {
		t.Errorf("it is taken for whole: %+v", r)
	}
	for _, s := range saved {
		edit(t, filepath.Join(s.path, metaFile), `"Bonfiguration":`, `"Configuration":`)
	}
	must(t, m.start())
	for i := range n {
		if name := fmt.Sprintf("x%d", i); !m.hasExchange(name) {
			t.Errorf("%s is gone", name)
		}
	}
}

// TestStartThatFailsGivesNoSeatUp: what keeps a node from reading its catalog, or from opening it, but is no damage, keeps it from starting,
// and that is all: nodes that took other seats for it, two of three, would have no majority of the old ones any more.
func TestStartThatFailsGivesNoSeatUp(t *testing.T) {
	members := startMembersOf(t, 3, 1)
	members[0].exchange("x")
	for _, m := range members {
		m.stop()
	}
	in := func(m *member, name ...string) string {
		return filepath.Join(append([]string{m.o.DataDir, "catalog", "snapshots"}, name...)...)
	}
	// Directories are in the way, as one without rights, inodes or descriptors finds it: of what the library's test of permissions
	// creates, and of what is to be read.
	obstacles := []string{in(members[0], "permTest"), in(members[1], "1-1-1")}
	must(t, os.MkdirAll(filepath.Join(obstacles[0], "x"), 0o700))
	must(t, os.MkdirAll(filepath.Join(obstacles[1], metaFile), 0o700))
	for i, m := range members[:2] {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := m.startUntil(ctx); err == nil || !strings.Contains(err.Error(), filepath.Base(obstacles[i])) {
			t.Errorf("%s starts: %v", m.o.Name, err)
		}
		m.Cluster = nil
		db, err := raftstore.OpenDB(m.o.DataDir)
		must(t, err)
		if seat, err := db.Stable(raftstore.CatalogGroup).Seat(); err != nil || seat.Incarnation != 1 {
			t.Errorf("%s has given up its seat for an error that is no damage: %+v, %v", m.o.Name, seat, err)
		}
		must(t, db.Close())
		must(t, os.RemoveAll(obstacles[i]))
	}
	startAll(t, members)
	for _, m := range members {
		if !m.hasExchange("x") {
			t.Errorf("%s has lost what the catalog held", m.o.Name)
		}
	}
}
