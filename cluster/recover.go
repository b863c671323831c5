package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/warrenmq/warren/cluster/raftstore"
	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"
	"github.com/warrenmq/warren/storage"
)

// A cluster that has lost its majority for good can be had again from one survivor's data, which becomes a cluster of one
// node; the others join it empty. Two log entries in each group do it: the group's members are the survivor alone, and, in the
// catalog, so are the cluster's. So everything that the survivor's logs hold is kept, and what it holds beyond what had been
// committed counts as committed.
//
// The recovered cluster has another id, and the survivor another identity: nothing that a node of the former one sends can
// reach it, and it can answer to nothing that was promised. A node of the former cluster that comes back is refused
// (stranger.go), and so is not mixed in.

// RecoverOptions say what an operator knows and accepts.
type RecoverOptions struct {
	Data DataOptions
	// Lost names the members that are gone for good. Every member but this node and the Others must be among them.
	Lost []string
	// Others is what the other survivors hold.
	Others []*DataReport
	// Confirm is the id of the cluster that ends.
	Confirm string
	// AcceptOlder takes this node's data though another survivor has newer.
	AcceptOlder bool
	// AcceptLoss takes it though parts are missing or damaged: those begin anew, empty.
	AcceptLoss bool
	// AcceptAnswers takes it though something answers where a lost member has listened.
	AcceptAnswers bool

	Version string // of this program
	// Dial tries whether somebody listens (default: TCP).
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// Recovered tells what a recovery has made.
type Recovered struct {
	ClusterID string   `json:"cluster_id"`
	FormerID  string   `json:"former_id"`
	Node      string   `json:"node"`
	Emptied   []string `json:"emptied"` // shards that begin anew
}

// recoveryPlan is written down before the first change, so that a recovery that was cut short goes on and does nothing else.
type recoveryPlan struct {
	FormerID       string `json:"former_id"`
	ClusterID      string `json:"cluster_id"`
	UUID           string `json:"uuid"`
	Node           string `json:"node"`
	LastNode       uint32 `json:"last_node"`
	MachineVersion uint32 `json:"machine_version"`
	Version        string `json:"version"`
	At             int64  `json:"at"` // milliseconds since 1970
	// Groups is where each group's log ends that goes on, by its number; Emptied the shards that begin anew.
	Groups     map[uint32]logEnd `json:"groups"`
	Emptied    []uint32          `json:"emptied"`
	CatalogCut uint64            `json:"catalog_cut"` // from this entry on the catalog's log is given up; 0: nowhere
}

// logEnd is the last entry of a log.
type logEnd struct {
	Index uint64 `json:"index"`
	Term  uint64 `json:"term"`
}

const recoveryFile = "recovery.json"

// Recover makes the node whose data directory it is the only member of a cluster that has the data there, or says why not, in
// a sentence. The node must not run. What was begun and cut short is completed.
func Recover(ctx context.Context, o RecoverOptions) (*Recovered, error) {
	d, err := openData(o.Data)
	if err != nil {
		return nil, err
	}
	done, err := d.recover(ctx, &o)
	if err = errors.Join(err, d.close()); err != nil {
		return nil, err
	}
	return done, nil
}

func (d *data) recover(ctx context.Context, o *RecoverOptions) (*Recovered, error) {
	var plan recoveryPlan
	switch begun, err := load(d.o.Dir, recoveryFile, &plan); {
	case err != nil:
		return nil, err
	case begun && o.Confirm != plan.FormerID:
		return nil, fmt.Errorf("a recovery of cluster %s was begun here and must be completed: confirm it with that id", plan.FormerID)
	case !begun:
		if refusal := refuseRecovery(d.report, o); refusal != "" {
			return nil, errors.New(refusal)
		}
		if err := d.nobodyAnswers(ctx, o); err != nil {
			return nil, err
		}
		plan = d.plan(o)
		if err := save(d.o.Dir, recoveryFile, plan); err != nil {
			return nil, err
		}
	}
	if err := d.carryOut(&plan); err != nil {
		return nil, fmt.Errorf("the recovery is not complete: mend the cause and run it again: %w", err)
	}
	done := &Recovered{ClusterID: plan.ClusterID, FormerID: plan.FormerID, Node: plan.Node, Emptied: []string{}}
	for _, id := range plan.Emptied {
		done.Emptied = append(done.Emptied, fmt.Sprint(id))
	}
	return done, nil
}

// refuseRecovery says why a data directory may not become a cluster, and what to do instead; empty: it may.
func refuseRecovery(r *DataReport, o *RecoverOptions) string {
	if r.ClusterID == "" {
		return "the catalog is gone from this data directory, and with it the names of all queues: there is nothing to go on from"
	}
	for _, check := range []func(*DataReport, *RecoverOptions) string{refuseUnaccounted, refuseMajority, refuseOlder, refuseLoss} {
		if refusal := check(r, o); refusal != "" {
			return refusal
		}
	}
	if o.Confirm != r.ClusterID {
		return fmt.Sprintf("confirm with the id of the cluster that ends, %s", r.ClusterID)
	}
	return ""
}

// refuseUnaccounted wants to know of every member how it is.
func refuseUnaccounted(r *DataReport, o *RecoverOptions) string {
	for _, name := range o.Lost {
		switch at := slices.IndexFunc(r.Members, func(m ReportedMember) bool { return m.Name == name || m.ID == name }); {
		case at < 0:
			return fmt.Sprintf("the cluster has no node '%s'", name)
		case r.Members[at].ID == r.ID:
			return fmt.Sprintf("node '%s' is the one whose data this is: it is not lost", name)
		}
	}
	for _, other := range o.Others {
		switch {
		case other.ID == r.ID:
			return fmt.Sprintf("the report of node '%s' is of this data directory: name the others'", other.Node)
		case slices.Contains(other.Former, r.ClusterID):
			return fmt.Sprintf("the cluster was recovered from node '%s' already, as %s: let this node join that one with an empty data directory", other.Node, other.ClusterID)
		case other.ClusterID != r.ClusterID:
			return fmt.Sprintf("node '%s' (%s) is of cluster %s, this one of %s", other.Node, other.ID, other.ClusterID, r.ClusterID)
		}
	}
	var unknown []string
	for _, m := range r.Members {
		lost := slices.Contains(o.Lost, m.Name) || slices.Contains(o.Lost, m.ID)
		survives := slices.ContainsFunc(o.Others, func(other *DataReport) bool { return other.ID == m.ID })
		switch {
		case m.ID == r.ID:
		case lost && survives:
			return fmt.Sprintf("node '%s' cannot be lost and have a report", m.Name)
		case !lost && !survives:
			unknown = append(unknown, m.Name)
		}
	}
	slices.Sort(unknown)
	if len(unknown) > 0 {
		return fmt.Sprintf("say of every other node how it is, so that nobody recovers a cluster that lives: %s destroyed for good (--lost), or stopped, with a report of what it holds (--survivor)",
			strings.Join(unknown, ", "))
	}
	return ""
}

// refuseMajority finds a cluster that needs no recovery.
func refuseMajority(r *DataReport, o *RecoverOptions) string {
	able := map[string]bool{r.ID: r.Able}
	for _, other := range o.Others {
		able[other.ID] = other.Able
	}
	voters, there := 0, []string{}
	for _, m := range r.Members {
		if m.Votes {
			voters++
			if able[m.ID] {
				there = append(there, m.Name)
			}
		}
	}
	if 2*len(there) > voters {
		return fmt.Sprintf("no recovery is needed: %d of the %d nodes that decide are there (%s): start them, and nothing is lost", len(there), voters, strings.Join(there, ", "))
	}
	return ""
}

// refuseOlder finds survivors with newer data.
func refuseOlder(r *DataReport, o *RecoverOptions) string {
	if o.AcceptOlder {
		return ""
	}
	var newer []string
	for _, other := range o.Others {
		for _, theirs := range other.Groups {
			if mine := r.group(theirs.Name); mine.Held && mine.Damage == "" && theirs.newer(mine) {
				newer = append(newer, fmt.Sprintf("%s of %s (%d/%d against %d/%d)", theirs.what(), other.Node, theirs.Term, theirs.Index, mine.Term, mine.Index))
			}
		}
	}
	if len(newer) > 0 {
		return fmt.Sprintf("another survivor has newer data: %s: recover that one, or accept what this one lacks as lost (--accept-older)", strings.Join(newer, ", "))
	}
	return ""
}

// refuseLoss finds what is missing or damaged here.
func refuseLoss(r *DataReport, o *RecoverOptions) string {
	if o.AcceptLoss {
		return ""
	}
	var lost []string
	for i := range r.Groups {
		g := &r.Groups[i]
		switch {
		case g.Damage != "":
			lost = append(lost, fmt.Sprintf("%s is damaged", g.what()))
		case !g.Held && g.Queues > 0:
			where := ""
			for _, other := range o.Others {
				if theirs := other.group(g.Name); theirs.Held && theirs.Damage == "" {
					where = ", but on " + other.Node
				}
			}
			lost = append(lost, fmt.Sprintf("%s with %d queues is not here%s", g.what(), g.Queues, where))
		}
	}
	if !r.Able && len(lost) == 0 {
		return "a part of this data directory is missing: the catalog may be older than it was when the node stopped; accept that with --accept-loss"
	}
	if len(lost) > 0 {
		return fmt.Sprintf("not everything is here: %s: accept that as lost with --accept-loss", strings.Join(lost, ", "))
	}
	return ""
}

func (g *GroupReport) what() string {
	if g.Name == "catalog" {
		return "the catalog"
	}
	return "shard " + g.Name
}

func (r *DataReport) group(name string) *GroupReport {
	if at := slices.IndexFunc(r.Groups, func(g GroupReport) bool { return g.Name == name }); at >= 0 {
		return &r.Groups[at]
	}
	return &GroupReport{Name: name}
}

// answerTimeout bounds a try to connect to where a lost member has listened.
const answerTimeout = 2 * time.Second

// nobodyAnswers tries where the other members listened when this node became one. What answers may be a lost node that lives.
func (d *data) nobodyAnswers(ctx context.Context, o *RecoverOptions) error {
	var f founding
	if _, err := load(d.o.Dir, foundingFile, &f); err != nil || o.AcceptAnswers {
		return nil // without the file no address is known
	}
	dial := o.Dial
	if dial == nil {
		dial = func(ctx context.Context, address string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}
	}
	for _, s := range f.known() {
		member := slices.ContainsFunc(d.report.Members, func(m ReportedMember) bool { return m.ID == s.UUID })
		if !member || s.UUID == d.identity.UUID || s.Address == "" {
			continue
		}
		trying, cancel := context.WithTimeout(ctx, answerTimeout)
		conn, err := dial(trying, s.Address)
		cancel()
		if err != nil {
			continue
		}
		_ = conn.Close() // that it was opened is the answer
		name := s.UUID
		if n := d.state.NodeByUUID(s.UUID); n != nil {
			name = n.Name
		}
		return fmt.Errorf("something answers at %s, where node '%s' listened: if it is that node it is not lost, and must be stopped for good first; if it is something else, go on with --accept-answers", s.Address, name)
	}
	return nil
}

// plan decides what is done.
func (d *data) plan(o *RecoverOptions) recoveryPlan {
	name := d.report.Node
	if name == "" {
		name = "survivor"
	}
	p := recoveryPlan{FormerID: d.report.ClusterID, ClusterID: newUUID(), UUID: newUUID(), Node: name, LastNode: uint32(d.lastNode),
		MachineVersion: catalog.LatestMachineVersion, Version: o.Version, At: time.Now().UnixMilli(), CatalogCut: d.catalogCut, Groups: map[uint32]logEnd{}}
	p.Groups[catalogGroup] = logEnd{d.report.Groups[0].Index, d.report.Groups[0].Term}
	for i, g := range d.report.Groups[1:] {
		if g.Held && g.Damage == "" {
			p.Groups[uint32(i)] = logEnd{g.Index, g.Term}
		} else {
			p.Emptied = append(p.Emptied, uint32(i))
		}
	}
	return p
}

// carryOut does what was planned, as far as it is not done: the shards, the catalog, and at last who this node is. Until that is
// complete the node does not start.
func (d *data) carryOut(p *recoveryPlan) (err error) {
	if d.db == nil {
		if raftstore.Exists(d.o.Dir) {
			err = raftstore.PutAside(d.o.Dir)
		}
		if err == nil {
			d.db, err = raftstore.OpenDB(d.o.Dir)
		}
		if err != nil {
			return err
		}
	}
	for id := range queue.ShardID(d.state.ShardCount()) {
		if err := d.recoverShard(p, uint32(id)); err != nil {
			return fmt.Errorf("shard %d: %w", id, err)
		}
	}
	if err := d.recoverCatalog(p); err != nil {
		return fmt.Errorf("catalog: %w", err)
	}
	if err := d.db.ClearRenewed(); err != nil {
		return err
	}
	err = save(d.o.Dir, identityFile, identity{UUID: p.UUID})
	if err == nil {
		err = save(d.o.Dir, foundingFile, founding{ClusterID: p.ClusterID, Servers: []foundingNode{{UUID: p.UUID}}})
	}
	if err == nil {
		err = os.Remove(filepath.Join(d.o.Dir, recoveryFile))
	}
	return errors.Join(err, syncDir(d.o.Dir))
}

func (d *data) recoverShard(p *recoveryPlan, id uint32) error {
	store, err := d.store.Group(id)
	if err != nil {
		return err
	}
	stable := d.db.Stable(id)
	end, kept := p.Groups[id]
	if !kept { // its first seat is yet to come
		return errors.Join(store.Discard(), stable.Forget(), stable.SaveSeat(raftstore.Seat{}))
	}
	if store.LastIndex() <= end.Index {
		alone := soleMember(p, end)
		err := store.Append([]storage.Entry{{Index: alone.Index, Term: alone.Term, Type: uint8(alone.Type), Data: alone.Data, AppendedAt: alone.AppendedAt.UnixNano()}})
		if err != nil {
			return err
		}
	}
	return errors.Join(stable.Succeed(end.Term), stable.SaveSeat(raftstore.Seat{Incarnation: 1, Ready: true}))
}

// soleMember is the entry behind a log's end by which the survivor's first seat is the group's only member.
func soleMember(p *recoveryPlan, end logEnd) *raft.Log {
	return &raft.Log{Index: end.Index + 1, Term: end.Term, Type: raft.LogConfiguration, AppendedAt: time.UnixMilli(p.At),
		Data: raft.EncodeConfiguration(*firstConfiguration([]string{p.UUID}))}
}

func (d *data) recoverCatalog(p *recoveryPlan) error {
	log, stable, end := d.db.CatalogLog(), d.db.Stable(catalogGroup), p.Groups[catalogGroup]
	last, err := log.LastIndex()
	if err != nil {
		return err
	}
	if d.state.ClusterID() == p.FormerID {
		if p.CatalogCut != 0 && last >= p.CatalogCut {
			if err := log.DeleteRange(p.CatalogCut, last); err != nil {
				return err
			}
			last = p.CatalogCut - 1
		}
		if last < end.Index { // the snapshot goes further: what follows must follow it
			if err := log.Forget(); err != nil {
				return err
			}
		}
		command := catalog.RecoverCluster(&raftv1.RecoverCluster{FormerId: p.FormerID, ClusterId: p.ClusterID, Uuid: p.UUID, Name: p.Node,
			MachineVersion: p.MachineVersion, Version: p.Version, LastNode: p.LastNode, LostShards: p.Emptied})
		command.TimeMillis = p.At
		data, err := catalog.Encode(command)
		if err != nil {
			return err
		}
		alone := soleMember(p, end)
		err = log.StoreLogs([]*raft.Log{alone, {Index: alone.Index + 1, Term: end.Term, Type: raft.LogCommand, Data: data, AppendedAt: alone.AppendedAt}})
		if err != nil {
			return err
		}
	}
	return errors.Join(stable.Succeed(end.Term), stable.SaveSeat(raftstore.Seat{Incarnation: 1, Ready: true}))
}

// refuseHalfRecovered keeps a node from starting in the middle of a recovery.
func refuseHalfRecovered(dir string) error {
	var plan recoveryPlan
	begun, err := load(dir, recoveryFile, &plan)
	if err == nil && begun {
		err = fmt.Errorf("a recovery of cluster %s was begun here and not completed: run it again: warren recover --data-dir %s --confirm %s", plan.FormerID, dir, plan.FormerID)
	}
	return err
}
