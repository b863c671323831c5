package cluster

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/warrenmq/warren/cluster/raftstore"
)

// TestADamagedCatalogIsPutAside: each time under a name of its own, with all that is in it, also when there is none any more.
func TestADamagedCatalogIsPutAside(t *testing.T) {
	root := t.TempDir()
	db, _, err := raftstore.OpenDB(root)
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
