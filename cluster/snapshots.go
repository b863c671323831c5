package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// snapshotStore keeps the catalog's snapshots: the library's store in files, which syncs what is in the files and the name of a whole
// snapshot's directory, but not the names in that. POSIX lets a power cut take those, after the log has been cut to what follows the
// snapshot.
type snapshotStore struct {
	*raft.FileSnapshotStore
	dir  string                 // of the snapshots' directories
	sync func(dir string) error // makes names in a directory durable
}

// openSnapshots opens the snapshots below a directory, for an instance that is about to start: what others of before have not brought to
// an end is removed.
func openSnapshots(dir string, log hclog.Logger) (*snapshotStore, error) {
	store, err := raft.NewFileSnapshotStoreWithLogger(dir, snapshotsKept, log)
	if err != nil {
		return nil, err
	}
	s := &snapshotStore{store, filepath.Join(dir, "snapshots"), syncDir}
	if err := s.tidy(log); err != nil {
		return nil, err
	}
	return s, errors.Join(s.sync(s.dir), s.sync(dir), s.sync(filepath.Dir(dir)))
}

// unfinished is what the library adds to the name of a snapshot that is not whole.
const unfinished = ".tmp"

// tidy removes directories that no snapshot can be read from: the library tells of them again and again, and leaves them.
func (s *snapshotStore) tidy(log hclog.Logger) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(s.dir, e.Name())
		_, err := os.Lstat(filepath.Join(path, "meta.json"))
		if !e.IsDir() || !strings.HasSuffix(e.Name(), unfinished) && !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		log.Warn("an unfinished snapshot is removed", "path", path)
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// Create implements raft.SnapshotStore.
func (s *snapshotStore) Create(version raft.SnapshotVersion, index, term uint64, members raft.Configuration, membersIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.FileSnapshotStore.Create(version, index, term, members, membersIndex, trans)
	if err != nil {
		return nil, err
	}
	return &snapshotSink{sink, s}, nil
}

// snapshotSink is a snapshot that is being written.
type snapshotSink struct {
	raft.SnapshotSink
	store *snapshotStore
}

// Close ends a whole snapshot. Both files have their names since Create.
func (s *snapshotSink) Close() error {
	if err := s.store.sync(filepath.Join(s.store.dir, s.ID()+unfinished)); err != nil && !errors.Is(err, fs.ErrNotExist) { // it was closed before
		return errors.Join(fmt.Errorf("snapshot %s: %w", s.ID(), err), s.Cancel())
	}
	return s.SnapshotSink.Close()
}
