package cluster

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/hashicorp/raft"

	"github.com/warrenmq/warren/cluster/raftnet"
	"github.com/warrenmq/warren/cluster/raftstore"
	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"
	"github.com/warrenmq/warren/storage"
)

// DataReport is what the data directory of a node that does not run holds.
type DataReport struct {
	ClusterID string `json:"cluster_id"` // empty: the catalog is gone, and with it what there is to recover
	Node      string `json:"node"`       // its name; empty: the catalog here does not know it
	ID        string `json:"id"`         // its identity
	// Able tells that nothing is missing from what the node needs to start: its votes, the catalog's log, the cluster's id.
	Able    bool             `json:"able"`
	Members []ReportedMember `json:"members"` // of the cluster, as the catalog here knows them
	Former  []string         `json:"former"`  // ids of the clusters that this one was recovered from
	Groups  []GroupReport    `json:"groups"`  // the catalog, then the shards
	// Begun tells that a recovery was begun here and not completed: only it can go on.
	Begun bool `json:"begun"`
}

// ReportedMember is a node of the cluster.
type ReportedMember struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Votes bool   `json:"votes"` // on changes of the catalog
}

// GroupReport is what a data directory holds of a Raft group.
type GroupReport struct {
	Name    string   `json:"name"` // catalog, or the shard's number
	Held    bool     `json:"held"` // there is something here
	Damage  string   `json:"damage,omitempty"`
	Term    uint64   `json:"term"`    // of the last entry
	Index   uint64   `json:"index"`   // of the last entry
	Members []string `json:"members"` // names of the nodes that have a part, as far as is known here
	Votes   bool     `json:"votes"`   // this node's part votes; one that does not may have a copy that is not complete
	// Queues is how many queues the catalog has in the shard, Nameless how many the shard has that the catalog does not know:
	// what is in those cannot be reached.
	Queues   int    `json:"queues"`
	Nameless int    `json:"nameless"`
	Messages uint64 `json:"messages"` // in the shard's queues
}

// newer tells whether one copy of a group holds more of its log than another: the rule by which Raft elects.
func (g *GroupReport) newer(than *GroupReport) bool {
	return g.Held && g.Damage == "" && (g.Term > than.Term || g.Term == than.Term && g.Index > than.Index)
}

// DataOptions say where a stopped node's data is.
type DataOptions struct {
	Dir         string
	WALFileSize int64 // as the node has it; default storage's
	Logger      *slog.Logger
}

// InspectData tells what a stopped node's data directory holds. It opens the data as a start would, and changes nothing else.
// It fails when the node runs.
func InspectData(o DataOptions) (*DataReport, error) {
	d, err := openData(o)
	if err != nil {
		return nil, err
	}
	return d.report, d.close()
}

// data is the open data directory of a node that does not run.
type data struct {
	o        DataOptions
	identity identity
	store    *storage.Store
	db       *raftstore.DB // nil: it is missing, or damaged
	state    *catalog.State
	report   *DataReport

	catalogCut uint64 // entry of the catalog's log from which on it is damaged; 0: it is whole
	lastNode   uint16 // highest number of a node that is known
}

func openData(o DataOptions) (_ *data, err error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	d := &data{o: o, report: &DataReport{Able: true, Members: []ReportedMember{}, Former: []string{}}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("look into %s: %w", o.Dir, err), d.close())
		}
	}()
	store := filepath.Join(o.Dir, "store")
	if _, err := os.Stat(store); err != nil {
		return nil, fmt.Errorf("this is no data directory of a node: %w", err)
	}
	if d.store, err = storage.Open(storage.Options{Dir: store, WALFileSize: o.WALFileSize, Logger: o.Logger}); err != nil {
		return nil, fmt.Errorf("the node must not run: %w", err)
	}
	if err := d.readFiles(); err != nil {
		return nil, err
	}
	if err := d.readCatalog(); err != nil {
		return nil, err
	}
	if d.report.ClusterID = d.state.ClusterID(); d.report.ClusterID == "" {
		return d, nil
	}
	return d, d.readShards()
}

func (d *data) close() error {
	var errs []error
	if d.db != nil {
		errs = append(errs, d.db.Close())
	}
	if d.store != nil {
		errs = append(errs, d.store.Close())
	}
	d.db, d.store = nil, nil
	return errors.Join(errs...)
}

// readFiles reads everything that stands beside the store.
func (d *data) readFiles() error {
	if found, err := load(d.o.Dir, identityFile, &d.identity); err != nil || !found {
		d.report.Able = false
	}
	var f founding
	if found, err := load(d.o.Dir, foundingFile, &f); err != nil || !found {
		d.report.Able = false
	}
	d.report.ID = d.identity.UUID
	var plan recoveryPlan
	begun, err := load(d.o.Dir, recoveryFile, &plan)
	if err != nil {
		return err
	}
	d.report.Begun = begun
	if !raftstore.Exists(d.o.Dir) {
		d.report.Able = false
		return nil
	}
	if d.db, err = raftstore.OpenDB(d.o.Dir); errors.Is(err, raftstore.ErrDamaged) {
		d.report.Able = false
		return nil
	}
	if err == nil && d.db.Renewed() {
		d.report.Able = false
	}
	return err
}

// readCatalog applies what there is of the catalog: a snapshot, and the log behind it up to the first damage.
func (d *data) readCatalog() error {
	d.state = catalog.New()
	g := GroupReport{Name: "catalog", Members: []string{}}
	var members raft.Configuration
	list, err := savedSnapshots(filepath.Join(d.o.Dir, "catalog"))
	if err != nil {
		return err
	}
	for _, saved := range list {
		m, r, err := saved.open()
		switch {
		case errors.Is(err, errUnfinished):
			continue
		case err != nil && !isDamage(err):
			return err
		case err == nil:
			err = d.readSnapshot(r)
		}
		if err == nil {
			g.Index, g.Term, members = m.Index, m.Term, m.Configuration
			break
		}
		g.Damage, d.report.Able = err.Error(), false
	}
	if err := d.readCatalogLog(&g, &members); err != nil {
		return err
	}
	g.Held = g.Index > 0
	if g.Damage != "" || !g.Held || d.db == nil {
		d.report.Able = false
	}
	d.lastNode = d.state.LastNode()
	for n := range d.state.Nodes() {
		if n.UUID == d.identity.UUID {
			d.report.Node = n.Name
		}
		d.report.Members = append(d.report.Members, ReportedMember{ID: n.UUID, Name: n.Name, Votes: votes(members, n.UUID)})
	}
	for _, f := range d.state.Former() {
		d.report.Former = append(d.report.Former, f.ClusterID)
	}
	d.report.Groups = append(d.report.Groups, g)
	d.describe(&d.report.Groups[0], members)
	return nil
}

func (d *data) readSnapshot(r io.ReadCloser) error {
	state, err := catalog.Restore(r)
	if err = errors.Join(err, r.Close()); err == nil {
		d.state = state
	}
	return err
}

// readCatalogLog applies the log. Commands that the snapshot holds already are passed over.
func (d *data) readCatalogLog(g *GroupReport, members *raft.Configuration) error {
	if d.db == nil {
		return nil
	}
	log := d.db.CatalogLog()
	first, err := log.FirstIndex()
	if err != nil {
		return err
	}
	last, err := log.LastIndex()
	if err != nil {
		return err
	}
	cut := func(index uint64, err error) {
		g.Damage, d.catalogCut = err.Error(), index
	}
	if last > 0 && first > g.Index+1 {
		cut(first, fmt.Errorf("the log begins at %d, its snapshot ends at %d", first, g.Index))
		return nil
	}
	for index := first; index <= last && index > 0; index++ {
		var e raft.Log
		if err := log.GetLog(index, &e); err != nil {
			cut(index, err)
			return nil
		}
		switch {
		case e.Type == raft.LogConfiguration:
			*members = raft.DecodeConfiguration(e.Data)
		case e.Type == raft.LogCommand && index > d.state.Applied():
			if _, _, err := d.state.Apply(index, e.Data); err != nil {
				return err
			}
		}
		if index > g.Index {
			g.Index, g.Term = index, e.Term
		}
	}
	return nil
}

func votes(members raft.Configuration, uuid string) bool {
	return slices.ContainsFunc(members.Servers, func(s raft.Server) bool {
		return s.Suffrage == raft.Voter && raftnet.NodeOf(string(s.ID)) == uuid
	})
}

// describe names a group's members.
func (d *data) describe(g *GroupReport, members raft.Configuration) {
	for _, s := range members.Servers {
		name := raftnet.NodeOf(string(s.ID))
		if n := d.state.NodeByUUID(name); n != nil {
			name = n.Name
		}
		g.Members = append(g.Members, name)
	}
	g.Votes = votes(members, d.identity.UUID)
}

// readShards applies what there is of each shard: so it is known that it can be, and how much it is.
func (d *data) readShards() error {
	there := map[uint32]bool{}
	for _, g := range d.store.Groups() {
		there[g.ID] = true
	}
	for id := range queue.ShardID(d.state.ShardCount()) {
		g := GroupReport{Name: fmt.Sprint(id), Members: []string{}, Queues: d.state.QueueCountIn(id)}
		if there[uint32(id)] {
			store, err := d.store.Group(uint32(id))
			if err != nil {
				return err
			}
			if err := d.readShard(&g, store, id); errors.Is(err, queue.ErrVersion) {
				return err
			} else if err != nil {
				g.Damage = err.Error()
			}
		}
		d.report.Groups = append(d.report.Groups, g)
	}
	return nil
}

func (d *data) readShard(g *GroupReport, store *storage.Group, id queue.ShardID) error {
	if err := store.Damaged(); err != nil {
		g.Held = true
		return err
	}
	state := queue.New()
	var members raft.Configuration
	meta, r, err := (&raftstore.ShardSnapshots{Group: store}).Open("")
	switch {
	case errors.Is(err, storage.ErrNotFound):
	case err != nil:
		return err
	default:
		g.Held = true
		if state, err = queue.Restore(r); err != nil {
			return errors.Join(err, r.Close())
		}
		if _, err := io.Copy(io.Discard, r); err != nil { // the end has the checksum of all
			return errors.Join(err, r.Close())
		}
		if err := r.Close(); err != nil {
			return err
		}
		g.Index, g.Term, members = meta.Index, meta.Term, meta.Configuration
	}
	log := &raftstore.ShardLog{Group: store}
	var effects queue.Effects
	for index := max(store.FirstIndex(), g.Index+1); index <= store.LastIndex() && store.FirstIndex() > 0; index++ {
		var e raft.Log
		if err := log.GetLog(index, &e); err != nil {
			return err
		}
		switch {
		case e.Type == raft.LogConfiguration:
			members = raft.DecodeConfiguration(e.Data)
		case e.Type == raft.LogCommand && len(e.Data) > 0:
			if err := state.Apply(index, e.Data, &effects); err != nil {
				return err
			}
			effects.Reset()
		}
		g.Held, g.Index, g.Term = true, index, e.Term
	}
	for session := range state.Sessions() {
		d.lastNode = max(d.lastNode, session.Node())
	}
	d.count(g, state, id)
	d.describe(g, members)
	return nil
}

func (d *data) count(g *GroupReport, state *queue.State, id queue.ShardID) {
	named := map[queue.QueueID]bool{}
	for q := range d.state.QueuesIn(id) {
		named[q.ID] = true
	}
	for id := range state.Queues() {
		if counts, ok := state.Counts(id); ok {
			g.Messages += counts.Ready + counts.Unsettled
		}
		if !named[id] {
			g.Nameless++
		}
	}
}
