package cluster

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/crc64"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/warrenmq/warren/cluster/raftstore"
)

// snapshotStore keeps the catalog's snapshots: the library's store in files, with what that lacks.
//
// The library syncs what is in the files and the name of a whole snapshot's directory, but not the names in that. POSIX lets a power cut
// take those, after the log has been cut to what follows the snapshot.
//
// It believes whatever meta.json says: where the log goes on, who the members are, and, when older snapshots are removed, which directory
// is one. Here a checksum stands beside it, a snapshot is what its directory's name says, and one that is not is put aside.
type snapshotStore struct {
	*raft.FileSnapshotStore
	base string
	dir  string                 // of the snapshots' directories
	sync func(dir string) error // makes names in a directory durable
	log  hclog.Logger

	reaping sync.Mutex // held while snapshots are removed or put aside
}

const (
	metaFile  = "meta.json"
	stateFile = "state.bin"
	// sumFile has what metaSum gives. Versions before it have written none.
	sumFile = "meta.sum"
	// unfinished is what the library adds to the name of a snapshot that is not whole.
	unfinished = ".tmp"
)

func snapshotsIn(base string) string { return filepath.Join(base, "snapshots") }

// openSnapshots opens the snapshots below a directory, for an instance that is about to start: what others of before have not brought to
// an end is removed, and what is damaged put aside. If nothing is whole that is the error, and all stays as it is.
func openSnapshots(base string, log hclog.Logger) (*snapshotStore, error) {
	store, err := raft.NewFileSnapshotStoreWithLogger(base, math.MaxInt, log) // reap removes what is older, not the library
	if err != nil {
		return nil, err
	}
	s := &snapshotStore{FileSnapshotStore: store, base: base, dir: snapshotsIn(base), sync: syncDir, log: log}
	if err := s.tidy(); err != nil {
		return nil, err
	}
	_, damaged, err := surveySnapshots(base)
	if err != nil {
		return nil, err
	}
	for _, saved := range damaged {
		if err := s.putAside(saved); err != nil {
			return nil, err
		}
	}
	return s, errors.Join(s.sync(s.dir), s.sync(base), s.sync(filepath.Dir(base)))
}

// tidy removes directories that no snapshot can be read from: the library tells of them again and again, and leaves them.
func (s *snapshotStore) tidy() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(s.dir, e.Name())
		_, err := os.Lstat(filepath.Join(path, metaFile))
		if !e.IsDir() || !strings.HasSuffix(e.Name(), unfinished) && !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		s.log.Warn("an unfinished snapshot is removed", "path", path)
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// putAside takes a damaged snapshot out of the way of all that look for one.
func (s *snapshotStore) putAside(saved savedSnapshot) error {
	aside := filepath.Join(s.base, fmt.Sprintf("damaged-%s-%d", saved.name, time.Now().UnixNano()))
	s.log.Error("a damaged snapshot is put aside", "path", saved.path, "as", aside)
	return os.Rename(saved.path, aside)
}

// reap removes all whole snapshots but the newest, and puts aside what is none.
func (s *snapshotStore) reap() error {
	s.reaping.Lock()
	defer s.reaping.Unlock()
	list, err := savedSnapshots(s.base)
	if err != nil {
		return err
	}
	kept := 0
	for _, saved := range list {
		_, _, err := saved.meta()
		switch {
		case errors.Is(err, errUnfinished):
		case isDamage(err):
			err = s.putAside(saved)
			if err != nil {
				return err
			}
		case err != nil:
			return err
		case kept < snapshotsKept:
			kept++
		default:
			if err := saved.remove(); err != nil {
				return err
			}
		}
	}
	return nil
}

// List implements raft.SnapshotStore.
func (s *snapshotStore) List() (metas []*raft.SnapshotMeta, err error) {
	list, err := savedSnapshots(s.base)
	if err != nil {
		return nil, err
	}
	for _, saved := range list {
		m, _, err := saved.meta()
		switch {
		case isDamage(err), errors.Is(err, errUnfinished):
		case err != nil:
			return nil, err // an older one in its place would not be what the log goes on from
		case len(metas) < snapshotsKept:
			metas = append(metas, m)
		}
	}
	return metas, nil
}

// Open implements raft.SnapshotStore.
func (s *snapshotStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	saved, ok := savedAs(s.base, id)
	if !ok {
		return nil, nil, fmt.Errorf("%q is no snapshot's name", id)
	}
	return saved.open()
}

// Create implements raft.SnapshotStore.
func (s *snapshotStore) Create(version raft.SnapshotVersion, index, term uint64, members raft.Configuration, membersIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.FileSnapshotStore.Create(version, index, term, members, membersIndex, trans)
	if err != nil {
		return nil, err
	}
	m := raft.SnapshotMeta{Version: version, ID: sink.ID(), Index: index, Term: term, Configuration: members, ConfigurationIndex: membersIndex}
	if err := writeSynced(filepath.Join(s.dir, sink.ID()+unfinished, sumFile), metaSum(&m)); err != nil {
		return nil, errors.Join(fmt.Errorf("snapshot %s: %w", sink.ID(), err), sink.Cancel())
	}
	return &snapshotSink{sink, s}, nil
}

func writeSynced(path, text string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// snapshotSink is a snapshot that is being written.
type snapshotSink struct {
	raft.SnapshotSink
	store *snapshotStore
}

// Close ends a whole snapshot. All its files have their names since Create.
func (s *snapshotSink) Close() error {
	if err := s.store.sync(filepath.Join(s.store.dir, s.ID()+unfinished)); err != nil && !errors.Is(err, fs.ErrNotExist) { // it was closed before
		return errors.Join(fmt.Errorf("snapshot %s: %w", s.ID(), err), s.Cancel())
	}
	if err := s.SnapshotSink.Close(); err != nil {
		return err
	}
	return s.store.reap()
}

// savedSnapshot is a directory on the disk that has the name of a snapshot, <term>-<index>-<milliseconds since 1970>.
type savedSnapshot struct {
	path, name         string
	term, index, since uint64
	damage             error // of one that was surveyed; nil: it is whole
}

// errUnfinished tells that a directory of that name is no snapshot: its names were lost before anything relied on it.
var errUnfinished = errors.New("the snapshot was not finished")

func savedAs(base, name string) (saved savedSnapshot, ok bool) {
	saved = savedSnapshot{path: filepath.Join(snapshotsIn(base), name), name: name}
	parts := strings.Split(name, "-")
	if len(parts) != 3 {
		return saved, false
	}
	for i, number := range []*uint64{&saved.term, &saved.index, &saved.since} {
		var err error
		if *number, err = strconv.ParseUint(parts[i], 10, 64); err != nil {
			return saved, false
		}
	}
	return saved, true
}

// savedSnapshots are the snapshots below a directory, by their names, newest first. It changes nothing.
func savedSnapshots(base string) (list []savedSnapshot, err error) {
	entries, err := os.ReadDir(snapshotsIn(base))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if saved, ok := savedAs(base, e.Name()); ok && e.IsDir() {
			list = append(list, saved)
		}
	}
	slices.SortFunc(list, func(a, b savedSnapshot) int {
		return -cmp.Or(cmp.Compare(a.term, b.term), cmp.Compare(a.index, b.index), cmp.Compare(a.since, b.since))
	})
	return list, nil
}

// surveySnapshots reads all snapshots below a directory and tells which are whole, newest first, and which are not. If none is, though
// there are some, that is the error. It changes nothing.
func surveySnapshots(base string) (whole, damaged []savedSnapshot, err error) {
	list, err := savedSnapshots(base)
	if err != nil {
		return nil, nil, err
	}
	var damage []error
	for _, saved := range list {
		_, r, err := saved.open()
		switch {
		case err == nil:
			if err := r.Close(); err != nil {
				return nil, nil, err
			}
			whole = append(whole, saved)
		case isDamage(err):
			saved.damage = err
			damage, damaged = append(damage, err), append(damaged, saved)
		case !errors.Is(err, errUnfinished):
			return nil, nil, err
		}
	}
	if len(whole) == 0 {
		return nil, damaged, errors.Join(damage...)
	}
	return whole, damaged, nil
}

// remove removes a snapshot. Cut short, it leaves what is unfinished, not what is damaged.
func (s savedSnapshot) remove() error {
	if err := os.Rename(s.path, s.path+unfinished); err != nil {
		return err
	}
	return os.RemoveAll(s.path + unfinished)
}

// meta reads what is said of a snapshot, and the checksum of its state.
func (s savedSnapshot) meta() (*raft.SnapshotMeta, []byte, error) {
	data, err := os.ReadFile(filepath.Join(s.path, metaFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, errUnfinished
	} else if err != nil {
		return nil, nil, s.unread(err)
	}
	var m struct {
		raft.SnapshotMeta
		CRC []byte
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, nil, s.damaged(fmt.Errorf("%s: %w", metaFile, err))
	}
	if m.Version != 1 || m.ID != s.name || m.Index != s.index || m.Term != s.term {
		return nil, nil, s.damaged(fmt.Errorf("%s is not of this snapshot", metaFile))
	}
	m.Peers = nil // of a version that nobody reads; the checksum is not over it
	sum, err := os.ReadFile(filepath.Join(s.path, sumFile))
	switch {
	case errors.Is(err, fs.ErrNotExist): // of an earlier version: there are members in any case
		if len(m.Configuration.Servers) == 0 {
			return nil, nil, s.damaged(fmt.Errorf("%s has no members", metaFile))
		}
	case err != nil:
		return nil, nil, s.unread(err)
	case string(sum) != metaSum(&m.SnapshotMeta):
		return nil, nil, s.damaged(fmt.Errorf("%s has a wrong checksum", metaFile))
	}
	state, err := os.Stat(filepath.Join(s.path, stateFile))
	if err != nil {
		return nil, nil, s.unread(err)
	}
	if state.Size() != m.Size {
		return nil, nil, s.damaged(fmt.Errorf("%s has %d octets of %d", stateFile, state.Size(), m.Size))
	}
	return &m.SnapshotMeta, m.CRC, nil
}

// metaSum is a checksum (CRC32C) over what is said of a snapshot before its state is known; the state's own is over that. It does not
// depend on how the library writes it.
func metaSum(m *raft.SnapshotMeta) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%d %q %d %d %d", m.Version, m.ID, m.Index, m.Term, m.ConfigurationIndex)
	for _, s := range m.Configuration.Servers {
		fmt.Fprintf(&b, " %d %q %q", s.Suffrage, s.ID, s.Address)
	}
	return fmt.Sprintf("%08x\n", crc32.Checksum(b.Bytes(), crc32.MakeTable(crc32.Castagnoli)))
}

// open opens a snapshot's state, of which it has read and checked all.
func (s savedSnapshot) open() (*raft.SnapshotMeta, io.ReadCloser, error) {
	m, sum, err := s.meta()
	if err != nil {
		return nil, nil, err
	}
	f, err := os.Open(filepath.Join(s.path, stateFile))
	if err != nil {
		return nil, nil, s.unread(err)
	}
	state := crc64.New(crc64.MakeTable(crc64.ECMA)) // as the library has it
	_, err = io.Copy(state, f)
	switch {
	case err != nil:
		err = s.unread(err)
	case !bytes.Equal(sum, state.Sum(nil)):
		err = s.damaged(fmt.Errorf("%s has a wrong checksum", stateFile))
	default:
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return m, struct {
		io.Reader
		io.Closer
	}{bufio.NewReader(f), f}, nil
}

func (s savedSnapshot) damaged(err error) error {
	return fmt.Errorf("%w: snapshot %s of the catalog: %w", raftstore.ErrDamaged, s.name, err)
}

// unread is the error for a file that could not be read: it is damage if the file is gone or lies where the disk does not read any more,
// and not if this process may not, or cannot now.
func (s savedSnapshot) unread(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EIO) {
		return s.damaged(err)
	}
	return fmt.Errorf("snapshot %s of the catalog: %w", s.name, err)
}
