package cluster

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/warrenmq/warren/cluster/raftnet"
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
