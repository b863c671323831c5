package raftstore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/warrenmq/warren/storage"
)

// ShardLog is a shard's raft.LogStore, in the node's shared log.
type ShardLog struct {
	Group *storage.Group
	// Leads tells, when StoreLogs is called, whether the instance leads. A leader's commands are taken early: its followers are sent
	// them while they are written here. The library then counts them as stored at once, so whoever uses it must hold back what it says
	// is committed until storage.Group.WaitDurable or Durable allows it (default: nothing is taken early).
	Leads func() bool
	// Misled is called when an instance believes in what could not be stored, as on a full disk; one that is made anew knows better. There
	// are two such cases. When the end of the log was cut off and nothing took its place, the library goes on believing in the old end: it
	// refuses all that follows, and votes by an entry that is gone. And a leader goes by a change of members from the moment in which it is
	// to be stored, also if that failed: a seat that believes itself alone would elect itself and commit what nobody else has. So the
	// main loop, which calls Misled, goes on in this case when what Misled returns is closed: when the instance reaches nobody any more
	// and is about to end. Misled itself must not wait for the main loop (default: nobody is told).
	Misled func() (over <-chan struct{})
	// Failed is told why an entry cannot be read (default: nobody is told).
	Failed func(error)

	cut bool // the last change was that the end was cut off; the main loop's
}

var (
	_ raft.LogStore          = (*ShardLog)(nil)
	_ raft.MonotonicLogStore = (*ShardLog)(nil)
)

// IsMonotonic implements raft.MonotonicLogStore: there are no gaps in the log.
func (l *ShardLog) IsMonotonic() bool { return true }

// FirstIndex implements raft.LogStore.
func (l *ShardLog) FirstIndex() (uint64, error) { return l.Group.FirstIndex(), nil }

// LastIndex implements raft.LogStore. An instance that begins asks for it: what the one before has left is durable first.
func (l *ShardLog) LastIndex() (uint64, error) {
	if err := l.Group.Settle(); err != nil {
		return 0, err
	}
	return l.Group.LastIndex(), nil
}

// GetLog implements raft.LogStore. The entry's data is shared: it must not be changed.
func (l *ShardLog) GetLog(index uint64, e *raft.Log) error {
	entry, err := l.Group.Entry(index)
	if errors.Is(err, storage.ErrNotFound) {
		return raft.ErrLogNotFound
	} else if err != nil {
		if l.Failed != nil {
			l.Failed(err)
		}
		return err
	}
	*e = raft.Log{Index: entry.Index, Term: entry.Term, Type: raft.LogType(entry.Type), Data: entry.Data, Extensions: entry.Extensions}
	if entry.AppendedAt != 0 {
		e.AppendedAt = time.Unix(0, entry.AppendedAt)
	}
	return nil
}

// StoreLog implements raft.LogStore.
func (l *ShardLog) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

// StoreLogs implements raft.LogStore. What the library itself acts on when it is committed, such as configurations, is never taken early.
func (l *ShardLog) StoreLogs(logs []*raft.Log) error {
	entries := make([]storage.Entry, len(logs))
	for i, e := range logs {
		entries[i] = storage.Entry{Index: e.Index, Term: e.Term, Type: uint8(e.Type), Data: e.Data, Extensions: e.Extensions}
		if !e.AppendedAt.IsZero() {
			entries[i].AppendedAt = e.AppendedAt.UnixNano()
		}
	}
	if l.Leads != nil && l.Leads() && onlyCommands(logs) && l.Group.AppendEarly(entries) {
		return nil
	}
	err := l.Group.Append(entries)
	if err != nil && l.Misled != nil && !errors.Is(err, storage.ErrClosed) {
		switch {
		case l.Leads != nil && l.Leads() && slices.ContainsFunc(logs, isConfiguration):
			<-l.Misled()
		case l.cut:
			l.Misled()
		}
	}
	l.cut = false
	return err
}

func isConfiguration(e *raft.Log) bool { return e.Type == raft.LogConfiguration }

func onlyCommands(logs []*raft.Log) bool {
	return !slices.ContainsFunc(logs, func(e *raft.Log) bool { return e.Type != raft.LogCommand })
}

// DeleteRange implements raft.LogStore: of the front of the log or of its end, nothing else occurs.
func (l *ShardLog) DeleteRange(min, max uint64) error {
	if err := l.Group.Settle(); err != nil {
		return err
	}
	first, last := l.Group.FirstIndex(), l.Group.LastIndex()
	if last == 0 {
		return nil
	}
	if min <= first {
		err := l.Group.TruncatePrefix(max)
		l.cut = err == nil && max >= last
		return err
	}
	if max < last {
		return fmt.Errorf("delete entries %d to %d: the log goes on to %d", min, max, last)
	}
	err := l.Group.TruncateSuffix(min)
	l.cut = err == nil
	return err
}

// Pinned is a shard's state at one moment, with where in the log that was.
type Pinned struct {
	Index, Term   uint64
	Configuration raft.Configuration
	ConfigIndex   uint64
	State         State
}

// State is a pinned state that can be written, and that knows which parts of the log it refers to.
type State interface {
	WriteTo(w io.Writer) (int64, error)
	Size() int64
	LiveRefs(min, max uint64, yield func(index uint64, offset, size uint32) bool)
}

// ShardSnapshots is a shard's raft.SnapshotStore. A local snapshot is a checkpoint: the state goes to a file, bodies stay
// where they are. What is sent to another node is the state as it is at that moment, with the live bodies.
type ShardSnapshots struct {
	Group *storage.Group
	Pin   func() Pinned // gives the present state
	// Failed is told why what another node is sent cannot be read (default: nobody is told).
	Failed func(error)

	live atomic.Bool
}

// Live tells that the machine runs: from then on its state is what other nodes are sent, not the checkpoint with which it
// began.
func (s *ShardSnapshots) Live() { s.live.Store(true) }

var _ raft.SnapshotStore = (*ShardSnapshots)(nil)

const (
	checkpointID = "checkpoint" // the state on disk, without bodies
	liveID       = "live"       // the state in memory, with bodies
)

// Create implements raft.SnapshotStore.
func (s *ShardSnapshots) Create(version raft.SnapshotVersion, index, term uint64, c raft.Configuration, configIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	if version != 1 {
		return nil, fmt.Errorf("snapshot of version %d; this program knows 1", version)
	}
	return &shardSink{group: s.Group, at: storage.Checkpoint{Index: index, Term: term, Extra: encodeExtra(c, configIndex)}}, nil
}

// List implements raft.SnapshotStore.
func (s *ShardSnapshots) List() ([]*raft.SnapshotMeta, error) {
	if s.live.Load() {
		return []*raft.SnapshotMeta{{ID: liveID}}, nil
	}
	c, ok := s.Group.LatestCheckpoint()
	if !ok {
		return nil, nil
	}
	m, err := meta(checkpointID, c)
	return []*raft.SnapshotMeta{m}, err
}

// Open implements raft.SnapshotStore.
func (s *ShardSnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	if id == liveID {
		return s.openLive()
	}
	c, r, err := s.Group.OpenCheckpoint()
	if err != nil {
		return nil, nil, fmt.Errorf("open checkpoint: %w", err)
	}
	m, err := meta(id, c)
	if err != nil {
		return nil, nil, errors.Join(err, r.Close())
	}
	return m, r, nil
}

// openLive holds what the state refers to before a checkpoint can give it up: the state takes a while to write.
func (s *ShardSnapshots) openLive() (*raft.SnapshotMeta, io.ReadCloser, error) {
	var p Pinned
	bodies, err := s.Group.OpenBodies(func() uint64 { p = s.Pin(); return p.Index })
	if err != nil {
		return nil, nil, fmt.Errorf("open snapshot: %w", err)
	}
	var state bytes.Buffer
	state.Grow(int(p.State.Size()))
	if _, err := p.State.WriteTo(&state); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("write the state: %w", err), bodies.Close())
	}
	c := storage.Checkpoint{Index: p.Index, Term: p.Term, Extra: encodeExtra(p.Configuration, p.ConfigIndex)}
	m, err := meta(liveID, c)
	if err != nil {
		return nil, nil, errors.Join(err, bodies.Close())
	}
	size, r, err := bodies.Snapshot(c, state.Bytes(), p.State.LiveRefs)
	if err != nil {
		return nil, nil, fmt.Errorf("open snapshot: %w", err)
	}
	m.Size = size
	return m, watchedReader{r, s.Failed}, nil
}

// watchedReader tells why what it reads from cannot be read.
type watchedReader struct {
	io.ReadCloser
	failed func(error)
}

func (r watchedReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if err != nil && err != io.EOF && r.failed != nil {
		r.failed(err)
	}
	return n, err
}

// A checkpoint's extra is: version u8 (1) | configuration index u64 | configuration as the library encodes it.
const extraVersion = 1

func encodeExtra(c raft.Configuration, index uint64) []byte {
	return append(le.AppendUint64([]byte{extraVersion}, index), raft.EncodeConfiguration(c)...)
}

func meta(id string, c storage.Checkpoint) (_ *raft.SnapshotMeta, err error) {
	if len(c.Extra) < 9 || c.Extra[0] != extraVersion {
		return nil, fmt.Errorf("%w: checkpoint without a configuration", ErrDamaged)
	}
	m := &raft.SnapshotMeta{Version: 1, ID: id, Index: c.Index, Term: c.Term, ConfigurationIndex: le.Uint64(c.Extra[1:])}
	defer func() {
		if p := recover(); p != nil { // the library panics on what it cannot decode
			err = fmt.Errorf("%w: configuration of a checkpoint: %v", ErrDamaged, p)
		}
	}()
	m.Configuration = raft.DecodeConfiguration(c.Extra[9:])
	return m, nil
}

// shardSink takes a snapshot: a local one through SaveState, one from another node through Write.
type shardSink struct {
	group   *storage.Group
	at      storage.Checkpoint
	install *storage.Installer
	saved   bool
}

// SaveState makes a state the checkpoint of the sink that the library made for it.
func SaveState(sink raft.SnapshotSink, state State) error {
	s, ok := sink.(*shardSink)
	if !ok {
		return fmt.Errorf("save a state to a %T", sink)
	}
	write := func(w io.Writer) error { _, err := state.WriteTo(w); return err }
	err := s.group.SaveCheckpoint(s.at, write, state.LiveRefs)
	s.saved = err == nil
	return err
}

// SaveAgain makes a checkpoint anew, of the state that it has, so that log files retire that had not been to retire when it was made: the
// library makes no snapshot when nothing was applied since its instance began, and a follower of an idle shard would keep them for ever.
// saved is false when there is no checkpoint, or another, which has just been installed.
func SaveAgain(g *storage.Group, p Pinned) (saved bool, err error) {
	if c, ok := g.LatestCheckpoint(); !ok || c.Index != p.Index {
		return false, nil
	}
	at := storage.Checkpoint{Index: p.Index, Term: p.Term, Extra: encodeExtra(p.Configuration, p.ConfigIndex)}
	err = SaveState(&shardSink{group: g, at: at}, p.State)
	return err == nil, err
}

// ID implements raft.SnapshotSink.
func (s *shardSink) ID() string { return checkpointID }

// Write implements raft.SnapshotSink.
func (s *shardSink) Write(p []byte) (n int, err error) {
	if s.install == nil {
		if s.install, err = s.group.Install(); err != nil {
			return 0, err
		}
	}
	return s.install.Write(p)
}

var errNoSnapshot = errors.New("a snapshot without a state")

// Close implements raft.SnapshotSink: the group then has what came, and nothing else.
func (s *shardSink) Close() error {
	switch {
	case s.saved:
		return nil
	case s.install == nil: // else the library would take the checkpoint that is here for what should have come
		return errNoSnapshot
	}
	c, err := s.install.Commit()
	s.install = nil
	if err == nil && (c.Index != s.at.Index || c.Term != s.at.Term) {
		err = fmt.Errorf("a snapshot of %d/%d came, announced as %d/%d", c.Index, c.Term, s.at.Index, s.at.Term)
	}
	return err
}

// Cancel implements raft.SnapshotSink.
func (s *shardSink) Cancel() error {
	if s.install == nil {
		return nil
	}
	err := s.install.Abort()
	s.install = nil
	return err
}

// CheckpointMeta tells where in the log a shard's checkpoint stands, and the configuration then.
func CheckpointMeta(g *storage.Group) (*raft.SnapshotMeta, error) {
	c, ok := g.LatestCheckpoint()
	if !ok {
		return nil, storage.ErrNotFound
	}
	return meta(checkpointID, c)
}
