package cluster

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/warrenmq/warren/cluster/pipe"
	"github.com/warrenmq/warren/cluster/raftstore"
	"github.com/warrenmq/warren/raftfsm/queue"
	"github.com/warrenmq/warren/storage"
)

// shard is this node's replica of a shard: the Raft group, and the host of its machine.
type shard struct {
	*group
	id    queue.ShardID
	store *storage.Group
	host  *pipe.Host
	c     *Cluster

	snaps *raftstore.ShardSnapshots // of the running instance

	agreed atomic.Pointer[agreement] // nil: not known yet

	damage error                   // why what is on disk is to be had from the others again when the replica opens; nil: it is not
	found  atomic.Pointer[finding] // damage that was met while the replica runs; nil: none
	starve atomic.Bool             // it is where an entry of the log is, so that followers may not get what they need

	mu              sync.Mutex // guards what follows; held while entries are applied
	index, term     uint64     // of the last entry applied
	configuration   raft.Configuration
	configurationAt uint64
	entries         []pipe.Entry
	lost            bool   // the log has failed: nothing is applied any more
	saved           volume // the least that a state had whose checkpoint had this floor: what came later is in the log
	savedFloor      uint64 // of the checkpoint on the disk: see storage.Group.Floor

	tidyAfter time.Time     // no checkpoint is made for tidiness before; Cluster.checkpoint's
	tidyPause time.Duration // until then, since one has failed or found no room; 0: the last one has not
}

// volume is what a state holds: messages and octets, those of uploads too.
type volume struct{ messages, octets uint64 }

// mostlyGone tells whether less than half is left.
func (v volume) mostlyGone(now volume) bool {
	return 2*now.messages < v.messages || 2*now.octets < v.octets
}

func volumeOf(state interface {
	Contents() (messages, octets uint64)
}) (c volume) {
	c.messages, c.octets = state.Contents()
	return c
}

// agreement is the members of a group that a majority has agreed on last, as far as the replica has applied the log.
type agreement struct {
	configuration raft.Configuration
	index         uint64
}

func newShard(c *Cluster, id queue.ShardID) (*shard, error) {
	store, err := c.o.Store.Group(uint32(id))
	if err != nil {
		return nil, fmt.Errorf("shard %d: %w", id, err)
	}
	s := &shard{id: id, store: store, c: c}
	name := fmt.Sprintf("shard-%d", id)
	log := c.log.With("shard", id)
	s.group = &group{id: uint32(id), name: name, log: log, net: c.raftnet, uuid: c.identity.UUID, stable: c.db.Stable(uint32(id)),
		logs: &raftstore.ShardLog{Group: store, Leads: s.leadsNow, Misled: s.misled, Failed: s.cannotSend}, durable: store.Durable, parts: s, config: baseConfig(c.log, name), fatal: c.o.OnFatal}
	// The library's own snapshots by count and time are off: checkpoints follow the log's files, and Cluster.checkpoint. Logs go with their files.
	s.config.SnapshotThreshold, s.config.TrailingLogs = 1<<62, 1<<62
	s.host, err = pipe.NewHost(pipe.HostOptions{Shard: id, State: queue.New(), Bodies: bodies{s}, Log: s, Logger: c.log,
		VerifyRead: s.verify, QueuesDeleted: c.forgetter.forget, Grace: sessionGrace, Now: c.clocks.entryTime, HashEvery: c.o.Surroundings.HashEvery,
		EntryBytes: c.o.Surroundings.EntryBytes})
	if err != nil {
		return nil, fmt.Errorf("shard %d: %w", id, err)
	}
	return s, nil
}

// leadsNow tells whether the instance is the leader. Only its main loop changes that, which is also what stores entries.
func (s *shard) leadsNow() bool {
	r := s.instance()
	return r != nil && r.State() == raft.Leader
}

// misled makes the instance anew when it believes in what could not be stored: see raftstore.ShardLog.
func (s *shard) misled() (over <-chan struct{}) {
	go s.restart("it goes by what could not be stored")
	s.group.mu.Lock()
	defer s.group.mu.Unlock()
	if s.facade == nil { // it has just begun, and does not lead
		return nil
	}
	return s.facade.Closed()
}

// bodies reads bodies from the node's log and segments.
type bodies struct{ s *shard }

// ReadBody implements pipe.BodyReader.
func (b bodies) ReadBody(index uint64, offset, size uint32, _ []byte) ([]byte, error) {
	body, err := b.s.store.ReadBody(index, offset, size)
	b.s.met(err)
	return body, err
}

// check implements groupParts.
func (s *shard) check() error {
	if s.damage != nil {
		return s.damage
	}
	return s.store.Damaged()
}

// empty implements groupParts.
func (s *shard) empty() (bool, error) {
	_, checkpointed := s.store.LatestCheckpoint()
	return s.store.LastIndex() == 0 && !checkpointed, nil
}

// reread implements groupParts: check has not read the checkpoint's body.
func (s *shard) reread() error {
	_, r, err := s.store.OpenCheckpoint()
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return errors.Join(err, r.Close())
}

// discard implements groupParts.
func (s *shard) discard() error { return s.store.Discard() }

// fsm implements groupParts.
func (s *shard) fsm() raft.FSM { return shardMachine{s} }

// snapshots implements groupParts.
func (s *shard) snapshots() (raft.SnapshotStore, error) {
	s.snaps = &raftstore.ShardSnapshots{Group: s.store, Pin: s.pin, Failed: s.met}
	return s.snaps, nil
}

// started implements groupParts.
func (s *shard) started() { s.snaps.Live() }

// lead implements groupParts.
func (s *shard) lead(term, index uint64) {
	s.host.Lead(term, index)
	s.c.work.Go(func() { // it waits for a majority
		if err := s.c.forgetMissing(s.c.ctx, s); err != nil {
			s.c.log.Debug("names without a queue are looked for again in a while", "shard", s.id, "err", err)
		}
	})
}

// follow implements groupParts.
func (s *shard) follow() { s.host.Follow() }

// changed implements groupParts.
func (s *shard) changed() { s.c.leadershipChanged(s) }

// Propose implements pipe.Log. It never blocks: the host has fewer entries in flight than the library has room for.
func (s *shard) Propose(term uint64, entry []byte) error {
	r, over := s.present()
	if r == nil {
		return raft.ErrRaftShutdown
	}
	f := r.Apply(entry, 0)
	go func() {
		err := answer(f, over)
		if err != nil {
			s.host.ProposalFailed(term, err)
		}
		s.transferBlocked(err)
	}()
	return nil
}

// pin gives the present state, for a snapshot that goes to another node.
func (s *shard) pin() raftstore.Pinned {
	p, _ := s.pinned()
	return p
}

func (s *shard) pinned() (raftstore.Pinned, volume) {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := s.host.Snapshot()
	p := raftstore.Pinned{Index: s.index, Term: s.term, Configuration: s.configuration, ConfigIndex: s.configurationAt, State: state}
	// The library counts its barriers and no-ops, which the machine does not see. Behind what was applied the checkpoint's index stands
	// for the same state: the log may begin there, and whoever is sent the state goes on behind its index.
	if c, ok := s.store.LatestCheckpoint(); ok && c.Index > p.Index {
		p.Index, p.Term = c.Index, c.Term
	}
	return p, volumeOf(state)
}

// wasteful tells whether a checkpoint would give back much of the disk though the log does not ask for one, which it does when a file
// begins: what was purged or consumed would stay for as long as nobody publishes, and with a resource alarm nobody can. There are four such
// cases: more than half of what the state had when it was saved has gone; other shards have given up most of a file that it keeps with them; the
// last checkpoint left something for want of room; and it came before the entries were applied for which the group keeps a log file.
func (s *shard) wasteful() bool {
	if s.store.KeepsLog(s.host.Applied()) || s.store.Postponed() || s.store.Wasteful() {
		return true
	}
	if s.store.SegmentBytes() == 0 {
		return false
	}
	now := volumeOf(s.host)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.saved.mostlyGone(now)
}

// save makes a state the one on the disk.
func (s *shard) save(sink raft.SnapshotSink, state *queue.Snapshot) error {
	err := raftstore.SaveState(sink, state)
	s.noteSaved(volumeOf(state), err)
	return err
}

func (s *shard) noteSaved(c volume, err error) {
	s.met(err)
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.count(c, s.store.Floor())
	}
}

// count notes what a checkpoint holds. It counts anew when bodies from the log came into segments with it, which moves the floor. Otherwise it
// counts downwards alone: where what there is goes up and down, each checkpoint would be a reason for the next. mu is held.
func (s *shard) count(c volume, floor uint64) {
	if floor == s.savedFloor {
		c = volume{min(c.messages, s.saved.messages), min(c.octets, s.saved.octets)}
	}
	s.saved, s.savedFloor = c, floor
}

// checkpoint makes the state durable, so that log files can retire.
func (s *shard) checkpoint() error {
	r := s.instance()
	if r == nil {
		return nil
	}
	switch err := r.Snapshot().Error(); {
	case errors.Is(err, raft.ErrNothingNewToSnapshot): // nothing was applied since the start: the checkpoint is of this state
		p, c := s.pinned()
		saved, err := raftstore.SaveAgain(s.store, p)
		if saved || err != nil {
			s.noteSaved(c, err)
		}
		return err
	case errors.Is(err, raft.ErrRaftShutdown):
		return nil
	default:
		return err
	}
}

// shardMachine is the machine as the library drives it.
type shardMachine struct{ s *shard }

var (
	_ raft.BatchingFSM        = shardMachine{}
	_ raft.ConfigurationStore = shardMachine{}
)

// ApplyBatch implements raft.BatchingFSM. A replica that cannot apply what was committed stops the node.
//
// A leader's entries may be stored by a majority of the others before they are here (raftstore.ShardLog), and the library counts them as
// stored here all along. What it says is committed is so when it is durable here, too: it is not applied, and clients are not answered,
// before.
func (m shardMachine) ApplyBatch(logs []*raft.Log) []any {
	s := m.s
	err := s.store.WaitDurable(logs[len(logs)-1].Index)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && !s.lost {
		s.lost = true
		s.c.o.OnFatal(fmt.Errorf("shard %d: %w", s.id, err))
	}
	if s.lost {
		return make([]any, len(logs))
	}
	s.entries = s.entries[:0]
	for _, l := range logs {
		e := pipe.Entry{Index: l.Index}
		switch l.Type {
		case raft.LogCommand:
			e.Data = l.Data
		case raft.LogConfiguration:
			s.configuration, s.configurationAt = raft.DecodeConfiguration(l.Data), l.Index
			s.agreed.Store(&agreement{s.configuration, l.Index})
		}
		s.entries = append(s.entries, e)
	}
	last := logs[len(logs)-1]
	if err := s.host.ApplyBatch(s.entries); err != nil {
		s.c.o.OnFatal(fmt.Errorf("shard %d: %w", s.id, err))
		select {} // nothing more may be applied; the process ends
	}
	s.index, s.term = last.Index, last.Term
	clear(s.entries)
	return make([]any, len(logs))
}

// Apply implements raft.FSM; the library uses ApplyBatch.
func (m shardMachine) Apply(l *raft.Log) any { return m.ApplyBatch([]*raft.Log{l})[0] }

// StoreConfiguration implements raft.ConfigurationStore; with ApplyBatch, configurations come there.
func (m shardMachine) StoreConfiguration(uint64, raft.Configuration) {}

var errLogFailed = errors.New("the log has failed")

// Snapshot implements raft.FSM.
func (m shardMachine) Snapshot() (raft.FSMSnapshot, error) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	if m.s.lost { // the library believes that more was applied
		return nil, errLogFailed
	}
	return pinnedShard{m.s, m.s.host.Snapshot()}, nil
}

// pinnedShard is a state on its way to disk.
type pinnedShard struct {
	s     *shard
	state *queue.Snapshot
}

// Persist implements raft.FSMSnapshot. The library does not tell of the error more than its words.
func (p pinnedShard) Persist(sink raft.SnapshotSink) error {
	return p.s.save(sink, p.state)
}

// Release implements raft.FSMSnapshot.
func (p pinnedShard) Release() {}

// Restore implements raft.FSM: from the checkpoint on disk, at a start or after a snapshot from the leader was installed.
func (m shardMachine) Restore(r io.ReadCloser) error {
	s := m.s
	state, err := queue.Restore(r)
	if err = errors.Join(err, r.Close()); err != nil {
		return fmt.Errorf("shard %d: %w", s.id, err)
	}
	meta, err := raftstore.CheckpointMeta(s.store)
	if err != nil {
		return fmt.Errorf("shard %d: %w", s.id, err)
	}
	s.mu.Lock()
	s.index, s.term, s.configuration, s.configurationAt = meta.Index, meta.Term, meta.Configuration, meta.ConfigurationIndex
	s.agreed.Store(&agreement{meta.Configuration, meta.ConfigurationIndex})
	s.saved, s.savedFloor = volumeOf(state), s.store.Floor()
	s.host.Restore(state)
	s.mu.Unlock()
	// The library goes on from the end of the log that it had, not from the snapshot's, and would refuse all that follows
	// (hashicorp/raft#697).
	if i := s.instance(); i != nil && i.LastIndex() > meta.Index {
		go s.restart("a snapshot replaced a longer log")
	}
	return nil
}
