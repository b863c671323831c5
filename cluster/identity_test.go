package cluster

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/warrenmq/warren/cluster/raftstore"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestSealedFile flips every bit of a file and cuts it at every place: what is read is what was written, or an error.
func TestSealedFile(t *testing.T) {
	dir := t.TempDir()
	want := founding{ClusterID: "c-1", Servers: []foundingNode{{"u-1", "host:1"}, {"u-2", "host:2"}}}
	var got founding
	if found, err := load(dir, foundingFile, &got); found || err != nil {
		t.Fatalf("a file that does not exist: %v, %v", found, err)
	}
	must(t, save(dir, foundingFile, want))
	path := filepath.Join(dir, foundingFile)
	data, err := os.ReadFile(path)
	must(t, err)
	read := func(what string, data []byte) (ok bool) {
		t.Helper()
		must(t, os.WriteFile(path, data, 0o600))
		var got founding
		found, err := load(dir, foundingFile, &got)
		if err == nil && (!found || !reflect.DeepEqual(got, want)) {
			t.Errorf("%s: read as %+v, %v", what, got, found)
		}
		return err == nil
	}
	if !read("the whole file", data) {
		t.Error("the whole file is refused")
	}
	for bit := range len(data) * 8 {
		damaged := bytes.Clone(data)
		damaged[bit/8] ^= 1 << (bit % 8)
		read("a flipped bit", damaged)
	}
	for cut := range len(data) - 1 { // the last octet is a line's end
		if read("a file that was cut", data[:cut]) {
			t.Errorf("the first %d of %d octets pass for the whole", cut, len(data))
		}
	}
	later := bytes.Replace(data, []byte(`"version":1`), []byte(`"version":2`), 1)
	must(t, os.WriteFile(path, later, 0o600))
	if _, err := load(dir, foundingFile, &got); err == nil || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("a file of a later version: %v", err)
	}
}

// TestIdentity takes away or damages what makes a directory this node's, and what it has promised.
func TestIdentity(t *testing.T) {
	flip := func(name string, at int) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, name)
			data, err := os.ReadFile(path)
			must(t, err)
			data[at] ^= 4
			must(t, os.WriteFile(path, data, 0o600))
		}
	}
	remove := func(name string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, name))) }
	}
	cut := func(size int64) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) { must(t, os.Truncate(filepath.Join(dir, "raft.db"), size)) }
	}
	// made makes the file of votes anew, as a start does that is cut short then.
	made := func(t *testing.T, dir string) {
		db, err := raftstore.OpenDB(dir)
		must(t, err)
		must(t, db.Close())
	}
	all := func(steps ...func(t *testing.T, dir string)) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			for _, step := range steps {
				step(t, dir)
			}
		}
	}
	for _, c := range []struct {
		name    string
		promise bool // the node has taken a seat before
		data    bool // there is something beside the votes
		damage  func(t *testing.T, dir string)
		refused string // part of the error; empty: it starts
		same    bool   // as the node that it was
		renewed bool   // knowing that its votes are gone
	}{
		{name: "nothing happened", promise: true, damage: func(*testing.T, string) {}, same: true},
		{name: "nothing happened, no seat yet", damage: func(*testing.T, string) {}, same: true},
		{name: "identity damaged", promise: true, damage: flip(identityFile, 40), refused: "damaged"},
		{name: "identity damaged, no seat yet", damage: flip(identityFile, 40), refused: "damaged"},
		{name: "identity gone", promise: true, damage: remove(identityFile), refused: "identity is lost"},
		{name: "identity and votes gone", promise: true, data: true, damage: all(remove(identityFile), remove("raft.db")), refused: "identity is lost"},
		{name: "a first start was cut short", damage: remove(identityFile)},
		{name: "a first start was cut short before the mark", damage: all(remove(identityFile), remove("raft.db"), made)},
		{name: "a first start was cut short in the first page", damage: all(remove(identityFile), cut(512))},
		{name: "a first start was cut short after the first page", damage: all(remove(identityFile), cut(4096))},
		{name: "a first start was cut short before the root", damage: all(remove(identityFile), cut(8192))},
		{name: "a first start was cut short before there was anything", damage: all(remove(identityFile), cut(0))},
		{name: "a first start was cut short before its pages were durable", damage: all(remove(identityFile), cut(0), cut(32<<10))},
		{name: "votes gone", promise: true, damage: remove("raft.db"), same: true, renewed: true},
		{name: "votes empty", promise: true, damage: cut(0), same: true, renewed: true},
		{name: "votes damaged", promise: true, damage: flip("raft.db", 40), same: true, renewed: true},
		{name: "votes gone, and a start that was cut short", promise: true, damage: all(remove("raft.db"), made), same: true, renewed: true},
		{name: "votes gone, and a start whose first pages are torn", promise: true, damage: cut(8192), same: true, renewed: true},
		{name: "identity gone, votes damaged", promise: true, data: true, damage: all(remove(identityFile), flip("raft.db", 40)), refused: "damaged"},
		{name: "identity gone after votes were gone", promise: true, refused: "identity is lost", damage: all(remove("raft.db"), func(t *testing.T, dir string) {
			_, db, err := openIdentity(dir, true, slog.New(slog.DiscardHandler))
			must(t, err)
			must(t, db.Close())
		}, remove(identityFile))},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			first, db, err := openIdentity(dir, false, slog.New(slog.DiscardHandler))
			must(t, err)
			if len(first.UUID) != 36 || db.Renewed() {
				t.Errorf("a new node is %q, renewed %v", first.UUID, db.Renewed())
			}
			if c.promise {
				must(t, db.Stable(raftstore.CatalogGroup).SaveSeat(raftstore.Seat{Incarnation: 1, Ready: true}))
			}
			must(t, db.Close())
			c.damage(t, dir)
			for start := range 2 { // what it decides holds at the next start
				id, db, err := openIdentity(dir, c.data, slog.New(slog.DiscardHandler))
				if c.refused != "" {
					if err == nil {
						t.Fatalf("start %d: it starts as %s: %v", start, id.UUID, db.Close())
					}
					if !strings.Contains(err.Error(), c.refused) {
						t.Errorf("start %d: refused because of: %v", start, err)
					}
					continue
				}
				must(t, err)
				if (id == first) != c.same || db.Renewed() != c.renewed || !db.Marked() {
					t.Errorf("start %d: it is %s after %s, renewed %v", start, id.UUID, first.UUID, db.Renewed())
				}
				must(t, db.Close())
				first, c.same = id, true // also a new node keeps its name
			}
		})
	}
}

// TestFirstMarkIsBeforeTheName: a start may be cut short anywhere. Where the name is, the file of votes says already that it is the first.
func TestFirstMarkIsBeforeTheName(t *testing.T) {
	dir := t.TempDir()
	aside := filepath.Join(dir, identityFile+".new")
	must(t, os.Mkdir(aside, 0o700)) // the name cannot be written
	if _, _, err := openIdentity(dir, false, slog.New(slog.DiscardHandler)); err == nil {
		t.Fatal("it starts without a name")
	}
	db, err := raftstore.OpenDB(dir)
	must(t, err)
	if !db.Marked() || db.Renewed() {
		t.Errorf("before the name the file is marked %v, renewed %v", db.Marked(), db.Renewed())
	}
	must(t, db.Close())
	must(t, os.Remove(aside))
	_, db, err = openIdentity(dir, false, slog.New(slog.DiscardHandler))
	must(t, err)
	must(t, db.Close())
}

// TestEmptyFileOfVotes: a node whose file of votes has no octets has lost them, also those of the catalog's seat, whose log was in the same
// file and has left no snapshot behind.
func TestEmptyFileOfVotes(t *testing.T) {
	members := startMembersOf(t, 3, 1)
	m := members[2]
	before := m.catalog.server()
	m.stop()
	must(t, os.Truncate(filepath.Join(m.o.DataDir, "raft.db"), 0))
	must(t, m.start())
	if now := m.catalog.server(); now == before {
		t.Errorf("it goes on as %s, which has promised what it does not know any more", now)
	}
	settled(t, members)
}

// TestFound: a node is in one cluster, of which it is told to be a first member, and it writes that down.
func TestFound(t *testing.T) {
	fresh := func() *Cluster {
		return &Cluster{o: Options{DataDir: t.TempDir(), Name: "n"}, log: slog.New(slog.DiscardHandler), identity: identity{"u-1"}, begun: make(chan struct{})}
	}
	ours := founding{ClusterID: "c-1", Servers: []foundingNode{{"u-1", "host:1"}, {"u-2", "host:2"}}}
	for name, f := range map[string]founding{
		"without an identity": {Servers: ours.Servers},
		"without this node":   {ClusterID: "c-1", Servers: ours.Servers[1:]},
	} {
		c := fresh()
		if c.found(f) == nil || c.clusterID() != "" {
			t.Errorf("a cluster %s is begun", name)
		}
		if found, err := load(c.o.DataDir, foundingFile, new(founding)); found || err != nil {
			t.Errorf("a cluster %s is written down: %v", name, err)
		}
	}
	c := fresh()
	must(t, c.found(ours))
	<-c.begun
	var got founding
	if _, err := load(c.o.DataDir, foundingFile, &got); err != nil || !reflect.DeepEqual(got, ours) {
		t.Errorf("%+v is written down: %v", got, err)
	}
	must(t, c.found(ours)) // told twice
	theirs := ours
	theirs.ClusterID = "c-2"
	if c.found(theirs) == nil || c.clusterID() != "c-1" {
		t.Errorf("it has changed to cluster %s", c.clusterID())
	}
	c.o.DataDir = filepath.Join(c.o.DataDir, "does not exist")
	c.founded.Store(nil)
	if c.found(ours) == nil || c.clusterID() != "" {
		t.Error("it acts on what it could not write down")
	}
}
