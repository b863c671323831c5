package cluster

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/warrenmq/warren/cluster/raftstore"
)

// TestADamagedCatalogIsPutAside: each time under a name of its own, with all that is in it, also when there is none any more.
func TestADamagedCatalogIsPutAside(t *testing.T) {
	root := t.TempDir()
	db, err := raftstore.OpenDB(root)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	s := &catalogSeat{c: &Cluster{db: db}, dir: filepath.Join(root, "catalog")}
	for range 2 {
		if err := os.MkdirAll(filepath.Join(s.dir, "snapshots"), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := s.discard(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.discard(); err != nil {
		t.Errorf("without any: %v", err)
	}
	kept, err := filepath.Glob(s.dir + "-damaged-*/snapshots")
	if err != nil || len(kept) != 2 {
		t.Errorf("kept %v, %v", kept, err)
	}
	if _, err := os.Stat(s.dir); !os.IsNotExist(err) {
		t.Errorf("the damaged one is still there: %v", err)
	}
}

// TestLeadershipAfterManyElections: elections leave entries in the catalog's log that are no commands. However many there are, a node that
// is drained finds another that holds everything.
func TestLeadershipAfterManyElections(t *testing.T) {
	members := startMembersOf(t, 3, 1)
	lead := func() *member {
		var found *member
		eventually(t, "one leads the catalog", func() bool {
			for _, m := range members {
				if _, ok := m.catalog.leading(); ok {
					found = m
				}
			}
			return found != nil
		})
		return found
	}
	m := lead()
	far := func() bool { // of a long log, whether or not m's instance is being made anew
		r := m.catalog.instance()
		return r != nil && r.LastIndex() >= m.catalog.at()+2*maxLag
	}
	for !far() {
		to := members[0]
		if to == m {
			to = members[1]
		}
		if !m.catalog.handTo(t.Context(), to.identity.UUID) {
			time.Sleep(10 * time.Millisecond) // it may have to wait: see mayHandTo
		}
		m = lead()
	}
	if _, err := m.Drain(t.Context(), m.o.Name, false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another node leads the catalog", func() bool {
		for _, other := range members {
			if _, ok := other.catalog.leading(); ok && other != m {
				return true
			}
		}
		return false
	})
}

// TestSnapshotFromTheLeaderReplacesTheLog: of the entries that a snapshot from the leader stands for none stays. They may never have been
// committed, and this seat could send them to others.
func TestSnapshotFromTheLeaderReplacesTheLog(t *testing.T) {
	m := startMembersOf(t, 1, 1)[0]
	seat := m.catalog
	m.exchange("before")
	must(t, seat.instance().Snapshot().Error())
	at, _, err := seat.latestSnapshot()
	must(t, err)
	log := m.db.CatalogLog()
	if first, err := log.FirstIndex(); err != nil || first == 0 || first > at {
		t.Fatalf("the log begins at %d, the snapshot is at %d, %v: nothing is to be seen", first, at, err)
	}
	m.exchange("behind it")
	last := seat.instance().LastIndex()
	store, err := seat.snapshots()
	must(t, err)
	list, err := store.List()
	must(t, err)
	_, r, err := store.Open(list[0].ID)
	must(t, err)
	must(t, catalogMachine{seat}.Restore(r)) // as when it has come from the leader
	if first, err := log.FirstIndex(); err != nil || first != at+1 {
		t.Errorf("the log begins at %d behind a snapshot at %d, %v", first, at, err)
	}
	if now, err := log.LastIndex(); err != nil || now != last {
		t.Errorf("the log ends at %d, not at %d, %v", now, last, err)
	}
	m.exchange("after all")
	m.stop()
	must(t, m.start())
	for _, name := range []string{"before", "behind it", "after all"} {
		if !m.hasExchange(name) {
			t.Errorf("exchange %q is gone", name)
		}
	}
}
