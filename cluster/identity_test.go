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
	for _, c := range []struct {
		name    string
		promise bool // the node has taken a seat before
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
		{name: "a first start was cut short", damage: remove(identityFile)},
		{name: "votes gone", promise: true, damage: remove("raft.db"), same: true, renewed: true},
		{name: "votes damaged", promise: true, damage: flip("raft.db", 40), same: true, renewed: true},
		{name: "identity gone, votes damaged", promise: true, refused: "damaged", damage: func(t *testing.T, dir string) {
			flip("raft.db", 40)(t, dir)
			remove(identityFile)(t, dir)
		}},
		{name: "identity gone after votes were gone", promise: true, refused: "identity is lost", damage: func(t *testing.T, dir string) {
			remove("raft.db")(t, dir)
			_, db, err := openIdentity(dir, slog.New(slog.DiscardHandler))
			must(t, err)
			must(t, db.Close())
			remove(identityFile)(t, dir)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			first, db, err := openIdentity(dir, slog.New(slog.DiscardHandler))
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
				id, db, err := openIdentity(dir, slog.New(slog.DiscardHandler))
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
				if (id == first) != c.same || db.Renewed() != c.renewed {
					t.Errorf("start %d: it is %s after %s, renewed %v", start, id.UUID, first.UUID, db.Renewed())
				}
				must(t, db.Close())
			}
		})
	}
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
