package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/cluster/raftstore"
	"github.com/warrenmq/warren/raftfsm"
	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"
)

const catalogGroup = raftstore.CatalogGroup

// catalogSeat is this node's copy of the catalog and its seat in the catalog's group.
//
// A copy is moved on by two hands: the Raft log, and the leader's feed of what it has committed (follow.go), which comes
// sooner. What is committed is final whoever tells it, so the copy may be ahead of the log that this node has.
type catalogSeat struct {
	*group
	c   *Cluster
	dir string

	appliedTo atomic.Uint64 // index of the last command applied: for who cannot wait for mu

	mu        sync.RWMutex // guards what follows
	state     *catalog.State
	recent    [recentCommands]command // by index, modulo the length
	proposals map[uint64]uint64       // indices of the recent commands, by what tells them apart
	underway  map[uint64]*proposal    // what this seat has handed to the log and has no answer for
	applied   chan struct{}           // closed and replaced when a command was applied
}

// proposal is a command on its way through the log.
type proposal struct {
	ended chan struct{} // closed when the rest is set
	index uint64
	err   error
}

// command is a command that has been applied.
type command struct {
	previous, index uint64
	proposal        uint64 // 0: nothing tells it apart
	data            []byte
	reply           catalog.Reply
}

const (
	// recentCommands are kept for those who wait for their answer, and for copies that are a little behind.
	recentCommands = 4096
	// A catalog's snapshot is taken after so many commands; the log keeps as many for members that lag.
	snapshotCommands = 8192
	snapshotPeriod   = 30 * time.Second
	snapshotsKept    = 2
)

func newCatalogSeat(c *Cluster) *catalogSeat {
	s := &catalogSeat{c: c, dir: filepath.Join(c.o.DataDir, "catalog"), state: catalog.New(), applied: make(chan struct{}),
		proposals: map[uint64]uint64{}, underway: map[uint64]*proposal{}}
	s.group = &group{id: catalogGroup, name: "catalog", log: c.log, net: c.raftnet, uuid: c.identity.UUID,
		stable: c.db.Stable(catalogGroup), logs: c.db.CatalogLog(), parts: s, config: baseConfig(c.log, "catalog"), fatal: c.o.OnFatal}
	every := snapshotEvery(c.o.Surroundings.SnapshotEvery, os.Getenv(snapshotVariable))
	s.config.SnapshotThreshold, s.config.TrailingLogs, s.config.SnapshotInterval = every, every, snapshotPeriod
	if every < snapshotCommands {
		s.config.SnapshotInterval = time.Second
	}
	return s
}

// snapshotVariable sets Surroundings.SnapshotEvery of a process from outside. It is for the fault suite alone, which has minutes for what
// takes a cluster days, and no setting.
const snapshotVariable = "_WARREN_CATALOG_SNAPSHOT_EVERY"

// snapshotEvery is how many commands lie between two snapshots: what the variable says, if it says something.
func snapshotEvery(every uint64, variable string) uint64 {
	if n, err := strconv.ParseUint(variable, 10, 64); err == nil && n > 0 {
		return n
	}
	return every
}

// check implements groupParts.
func (s *catalogSeat) check() error {
	index, damaged, err := s.latestSnapshot()
	if err != nil {
		return err
	}
	if err = s.c.db.CatalogLog().Check(index); isDamage(err) {
		for _, saved := range damaged { // it may be one of these that the log continues
			err = fmt.Errorf("%w; %w", err, saved.damage)
		}
	}
	return err
}

// empty implements groupParts.
func (s *catalogSeat) empty() (bool, error) {
	last, err := s.c.db.CatalogLog().LastIndex()
	if err != nil {
		return false, err
	}
	snapshot, _, err := s.latestSnapshot()
	return last == 0 && snapshot == 0, err
}

// discard implements groupParts. Snapshots are put aside, not deleted.
func (s *catalogSeat) discard() error {
	aside, err := os.MkdirTemp(filepath.Dir(s.dir), filepath.Base(s.dir)+"-damaged-*")
	if err == nil {
		err = os.Remove(aside) // Rename does not replace a directory
	}
	if err != nil {
		return err
	}
	if err = os.Rename(s.dir, aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.c.db.CatalogLog().Forget()
}

// reread implements groupParts: check has read everything.
func (s *catalogSeat) reread() error { return nil }

// latestSnapshot is the index of the newest snapshot that is whole, 0 when there is none, and those that are damaged. The library takes
// the same one.
func (s *catalogSeat) latestSnapshot() (index uint64, damaged []savedSnapshot, err error) {
	whole, damaged, err := surveySnapshots(s.dir)
	if err != nil || len(whole) == 0 {
		return 0, damaged, err
	}
	return whole[0].index, damaged, nil
}

// fsm implements groupParts.
func (s *catalogSeat) fsm() raft.FSM { return catalogMachine{s} }

// snapshots implements groupParts.
func (s *catalogSeat) snapshots() (raft.SnapshotStore, error) {
	store, err := openSnapshots(s.dir, raftLogger(s.c.log, "catalog"))
	if err != nil {
		return nil, fmt.Errorf("the catalog's snapshots: %w", err)
	}
	return store, nil
}

// started implements groupParts.
func (s *catalogSeat) started() {}

// lead implements groupParts.
func (s *catalogSeat) lead(uint64, uint64) { s.c.leases.lead(time.Now()) }

// follow implements groupParts.
func (s *catalogSeat) follow() { s.c.leases.follow() }

// changed implements groupParts.
func (s *catalogSeat) changed() { s.c.follower.lookAgain(); s.c.statusChanged() }

// read calls f with the state, under the lock.
func (s *catalogSeat) read(f func(*catalog.State)) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	f(s.state)
}

// at is the index of the last command applied.
func (s *catalogSeat) at() (index uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.state.Applied()
}

// reached is the index up to which this copy holds everything: beyond the last command, too, since elections leave entries that are none.
// What the library has handed over and the copy is about to take counts; who comes to lead waits for it (group.establish).
func (s *catalogSeat) reached() uint64 {
	index := s.at() // the feed may be ahead of the log
	if r := s.instance(); r != nil {
		index = max(index, r.AppliedIndex())
	}
	return index
}

// position is the index of the last command applied, and a channel that is closed when there is another.
func (s *catalogSeat) position() (index uint64, applied <-chan struct{}) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.state.Applied(), s.applied
}

// waitFor waits until the copy holds a command.
func (s *catalogSeat) waitFor(ctx context.Context, index uint64) error {
	for {
		at, applied := s.position()
		if at >= index {
			return nil
		}
		select {
		case <-applied:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// replyTo returns the answer to a command that has been applied here, if it is still known.
func (s *catalogSeat) replyTo(index uint64) (catalog.Reply, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c := &s.recent[index%recentCommands]
	return c.reply, c.index == index
}

// after returns the commands that follow index, as far as they are still known; nil: there are none, or the copy must
// catch up by the log. more is closed when there may be others.
func (s *catalogSeat) after(index uint64) (commands []command, more <-chan struct{}) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for at := s.state.Applied(); at > index; {
		c := &s.recent[at%recentCommands]
		if c.index != at {
			return nil, s.applied
		}
		commands = append(commands, *c)
		at = c.previous
	}
	for i, j := 0, len(commands)-1; i < j; i, j = i+1, j-1 {
		commands[i], commands[j] = commands[j], commands[i]
	}
	if len(commands) > 0 && commands[0].previous != index {
		return nil, s.applied
	}
	return commands, s.applied
}

// apply applies a command, from whichever hand, once. The caller knows that it was committed at the index and that the
// copy holds the one before.
func (s *catalogSeat) apply(index uint64, data []byte) (catalog.Reply, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.applyLocked(index, data)
}

func (s *catalogSeat) applyLocked(index uint64, data []byte) (catalog.Reply, error) {
	previous := s.state.Applied()
	if index <= previous {
		if c := &s.recent[index%recentCommands]; c.index == index {
			return c.reply, nil
		}
		return catalog.Reply{}, nil
	}
	reply, changes, err := s.state.Apply(index, data)
	if err != nil {
		return catalog.Reply{}, err
	}
	s.remember(command{previous, index, catalog.ProposalOf(data), data, reply})
	s.c.o.Observer.CatalogChanged(s.state, changes)
	s.c.catalogChanged(s.state, changes)
	s.appliedTo.Store(index)
	close(s.applied)
	s.applied = make(chan struct{})
	return reply, nil
}

// remember keeps a command among the recent ones. mu is held.
func (s *catalogSeat) remember(c command) {
	at := &s.recent[c.index%recentCommands]
	if s.proposals[at.proposal] == at.index {
		delete(s.proposals, at.proposal)
	}
	*at = c
	if c.proposal != 0 {
		s.proposals[c.proposal] = c.index
	}
}

// feed applies commands that the leader told of, as far as they follow what the copy holds.
func (s *catalogSeat) feed(previous, index uint64, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.Applied() != previous {
		return nil // known already, or the log must bring what is between
	}
	_, err := s.applyLocked(index, data)
	return err
}

// restore replaces the copy, unless it is ahead.
func (s *catalogSeat) restore(state *catalog.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state.Applied() < s.state.Applied() {
		return
	}
	var had []queue.QueueID
	for q := range s.state.QueuesIn(s.c.Self().Local) {
		had = append(had, q.ID)
	}
	s.c.deleteHere(state.Unnamed(had))
	s.state = state
	s.c.o.Observer.CatalogRestored(state)
	s.c.catalogRestored(state)
	s.appliedTo.Store(state.Applied())
	close(s.applied)
	s.applied = make(chan struct{})
}

// commit commits a command through this seat, which must lead, and returns its index. One that comes again, because its answer was
// lost, is not committed again: an established leader holds everything that was committed before, and knows what is under way.
func (s *catalogSeat) commit(ctx context.Context, data []byte) (uint64, error) {
	r, over := s.present()
	if _, ok := s.leading(); !ok || r == nil {
		return 0, raft.ErrNotLeader
	}
	number := catalog.ProposalOf(data)
	s.mu.Lock()
	index, done := s.proposals[number]
	p := s.underway[number]
	first := !done && p == nil
	if first {
		p = &proposal{ended: make(chan struct{})}
		if number != 0 {
			s.underway[number] = p
		}
	}
	s.mu.Unlock()
	if done {
		return index, nil
	}
	if first {
		f := r.Apply(data, 0)
		go func() {
			if p.err = answer(f, over); p.err == nil {
				p.index = f.Index()
			}
			s.transferBlocked(p.err)
			s.mu.Lock()
			if s.underway[number] == p {
				delete(s.underway, number)
			}
			s.mu.Unlock()
			close(p.ended)
		}()
	}
	select {
	case <-p.ended:
		return p.index, p.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// catalogMachine is the copy as the Raft library drives it.
type catalogMachine struct{ s *catalogSeat }

// Apply implements raft.FSM. A copy that cannot apply what was committed stops the node.
func (m catalogMachine) Apply(l *raft.Log) any {
	reply, err := m.s.apply(l.Index, l.Data)
	if err != nil {
		m.s.c.o.OnFatal(fmt.Errorf("catalog: %w", err))
		select {} // nothing more may be applied; the process ends
	}
	return reply
}

// Snapshot implements raft.FSM. It may hold more than the log up to the index that the library notes: what comes again is
// passed over.
func (m catalogMachine) Snapshot() (raft.FSMSnapshot, error) {
	var pinned pinnedCatalog
	m.s.read(func(state *catalog.State) { pinned.state = state.Snapshot() })
	return pinned, nil
}

// Restore implements raft.FSM.
func (m catalogMachine) Restore(r io.ReadCloser) error {
	state, err := catalog.Restore(r)
	if err = errors.Join(err, r.Close()); err != nil {
		return err
	}
	if m.s.instance() != nil { // else it begins with a snapshot of its own
		if err := m.s.forgetOlder(); err != nil {
			return fmt.Errorf("entries of the catalog's log that a snapshot stands for: %w", err)
		}
	}
	m.s.restore(state)
	return nil
}

// forgetOlder removes the entries that a snapshot from the leader stands for. Of those that this seat had before, the last ones may be an
// earlier leader's and never have been committed: if they stayed, as the library has it (TrailingLogs), this seat could lead, and send
// them to one whose log ends there.
func (s *catalogSeat) forgetOlder() error {
	snapshot, _, err := s.latestSnapshot()
	if err != nil {
		return err
	}
	log := s.c.db.CatalogLog()
	first, err := log.FirstIndex()
	if err != nil || first == 0 || first > snapshot {
		return err
	}
	return log.DeleteRange(first, snapshot)
}

type pinnedCatalog struct{ state *catalog.Snapshot }

// Persist implements raft.FSMSnapshot.
func (p pinnedCatalog) Persist(sink raft.SnapshotSink) error {
	if _, err := p.state.WriteTo(sink); err != nil {
		return err
	}
	return nil
}

// Release implements raft.FSMSnapshot.
func (p pinnedCatalog) Release() {}

// unavailable is the error for what could not be done in time.
func unavailable(format string, args ...any) *broker.Error {
	return raftfsm.Errorf(broker.Unavailable, format, args...)
}
