package cluster

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// data is where the member's data is, for inspection.
func (m *member) data() DataOptions { return DataOptions{Dir: m.o.DataDir, WALFileSize: 4 << 20} }

func inspected(t *testing.T, m *member) *DataReport {
	t.Helper()
	r, err := InspectData(m.data())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// recoverRefused wants a recovery to be refused, and everything to be as it was.
func recoverRefused(t *testing.T, want string, o RecoverOptions) {
	t.Helper()
	if _, err := Recover(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
	if exists(filepath.Join(o.Data.Dir, recoveryFile)) {
		t.Fatalf("refused, and begun: %+v", o)
	}
}

// lose takes a stopped member's data away and returns a member that has it, elsewhere.
func lose(t *testing.T, m *member, members []*member) *member {
	t.Helper()
	old := newMember(t, members, 0)
	old.o.Name, old.o.Expect = m.o.Name, m.o.Expect
	must(t, os.Rename(m.o.DataDir, old.o.DataDir))
	return old
}

// TestRecover loses two nodes of three. The third becomes a cluster with all that it held; the others join it empty; an old one
// that comes back is refused.
func TestRecover(t *testing.T) {
	members := startMembersOf(t, 3, 2)
	survivor := members[0]
	l := startTraffic(t, members[1])
	survivor.exchange("kept")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, id := range l.queues {
		if _, err := survivor.Propose(ctx, catalog.AddQueue(&raftv1.AddQueue{Vhost: "/", Name: "q" + string('0'+rune(id.Shard())), Id: uint64(id), Durable: true})); err != nil {
			t.Fatal(err)
		}
	}
	// A consumer of a node that is lost has what comes back to its queue.
	members[2].do(0, func(b *queue.Batch) { b.Get(l.queues[0], queue.ConsumerID(members[2].NewID())) })
	l.stop()
	for i, id := range l.queues {
		want := l.applied[i].Load()
		eventually(t, "the survivor holds everything", func() bool {
			c, ok := survivor.shard(id.Shard()).host.PeekCounts(id)
			return ok && c.Ready+c.Unsettled == want
		})
	}
	if _, err := InspectData(survivor.data()); err == nil || !strings.Contains(err.Error(), "must not run") {
		t.Errorf("a node that runs is looked into: %v", err)
	}
	recoverRefused(t, "must not run", RecoverOptions{Data: survivor.data()})
	for _, m := range members {
		m.stop()
	}

	r := inspected(t, survivor)
	if r.Node != "n0" || !r.Able || len(r.Members) != 3 || len(r.Groups) != 3 || r.Begun {
		t.Fatalf("%+v", r)
	}
	for i, g := range r.Groups[1:] {
		if !g.Held || !g.Votes || g.Damage != "" || len(g.Members) != 3 || g.Queues != 1 || g.Nameless != 0 || g.Messages != l.applied[i].Load() {
			t.Errorf("%+v", g)
		}
	}
	second := inspected(t, members[1])
	o := RecoverOptions{Data: survivor.data(), Confirm: r.ClusterID}
	recoverRefused(t, "say of every other node how it is, so that nobody recovers a cluster that lives: n1, n2", o)
	o.Lost = []string{"n2"}
	o.Others = []*DataReport{second}
	recoverRefused(t, "no recovery is needed: 2 of the 3 nodes that decide are there", o)
	o.Lost = []string{"n1", "n2"}
	recoverRefused(t, "cannot be lost and have a report", o)
	o.Others = nil
	o.Confirm = ""
	recoverRefused(t, "confirm with the id of the cluster that ends, "+r.ClusterID, o)

	lost := lose(t, members[2], members)
	must(t, os.RemoveAll(members[1].o.DataDir))
	o.Confirm = r.ClusterID
	done, err := Recover(t.Context(), o)
	if err != nil || done.FormerID != r.ClusterID || len(done.Emptied) != 0 {
		t.Fatalf("%+v, %v", done, err)
	}
	must(t, survivor.start())
	if id := survivor.clusterID(); id != done.ClusterID || id == r.ClusterID {
		t.Errorf("the cluster is %s, %+v", id, done)
	}
	if !survivor.hasExchange("kept") || survivor.hasExchange("lost") {
		t.Error("the catalog is not what it was")
	}
	for i, id := range l.queues {
		want := l.applied[i].Load()
		eventually(t, "everything is ready again", func() bool { return survivor.ready(id) == want })
	}

	// A node of the former cluster does not get in, and both sides say why.
	err = lost.start()
	if !errors.Is(err, ErrRecovered) || !strings.Contains(err.Error(), "recovered on") || !strings.Contains(err.Error(), done.ClusterID) {
		t.Errorf("a node of the former cluster: %v", err)
	}
	found := strings.Join(survivor.Overview().Problems, "\n")
	if !strings.Contains(found, "node 'n2'") || !strings.Contains(found, "from which this one was recovered") {
		t.Errorf("the recovered cluster says: %s", found)
	}

	// New ones get replicas, under the names that there were.
	fresh := []*member{survivor}
	for i := 1; i < 3; i++ {
		m := newMember(t, []*member{survivor}, i)
		must(t, m.start())
		fresh = append(fresh, m)
	}
	settled(t, fresh)
	survivor.enqueue(l.queues[1], 3, "after")
	l.applied[1].Add(3)
	l.check(t, fresh)
}

// TestRecoverCutShort ends a recovery after each of its steps: the node does not start before it is completed, and then has all.
func TestRecoverCutShort(t *testing.T) {
	members := startMembersOf(t, 1, 2)
	m := members[0]
	l := startTraffic(t, m)
	eventually(t, "some messages", func() bool { return l.applied[0].Load() > 30 && l.applied[1].Load() > 30 })
	l.stop()
	m.exchange("kept")
	m.stop()
	r := inspected(t, m)
	o := RecoverOptions{Data: m.data(), Confirm: r.ClusterID}
	recoverRefused(t, "no recovery is needed: 1 of the 1 nodes", o)

	// Without cluster.json the node does not start; that is one reason to recover it.
	must(t, os.Remove(filepath.Join(m.o.DataDir, foundingFile)))
	recoverRefused(t, "--accept-loss", o)
	o.AcceptLoss = true
	plan := func() *recoveryPlan {
		d, err := openData(m.data())
		must(t, err)
		p := d.plan(&o)
		must(t, save(m.o.DataDir, recoveryFile, p))
		must(t, d.recoverShard(&p, 0))
		must(t, d.close())
		return &p
	}()
	if err := m.start(); err == nil || !strings.Contains(err.Error(), "not completed: run it again") {
		t.Fatalf("a node starts in the middle of its recovery: %v", err)
	}
	if !inspected(t, m).Begun {
		t.Error("a recovery that was begun is not told")
	}
	wrong := o
	wrong.Confirm = "something else"
	if _, err := Recover(t.Context(), wrong); err == nil || !strings.Contains(err.Error(), "was begun here") {
		t.Errorf("goes on without a confirmation: %v", err)
	}
	// Once more, up to where only the plan's file is left.
	d, err := openData(m.data())
	must(t, err)
	for range 2 {
		must(t, d.carryOut(plan))
		must(t, save(m.o.DataDir, recoveryFile, plan))
	}
	must(t, d.close())
	done, err := Recover(t.Context(), o)
	if err != nil || done.ClusterID != plan.ClusterID {
		t.Fatalf("%+v, %v", done, err)
	}
	must(t, m.start())
	if !m.hasExchange("kept") {
		t.Error("the catalog is not what it was")
	}
	l.check(t, members)
}

// TestRecoverDamaged recovers a node one of whose shards is damaged: that shard begins anew, and its queues are forgotten.
func TestRecoverDamaged(t *testing.T) {
	members := startMembersOf(t, 1, 2)
	m := members[0]
	l := startTraffic(t, m)
	l.stop()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, name := range []string{"gone", "kept"} {
		id := l.queues[map[string]int{"gone": 0, "kept": 1}[name]]
		if _, err := m.Propose(ctx, catalog.AddQueue(&raftv1.AddQueue{Vhost: "/", Name: name, Id: uint64(id), Durable: true})); err != nil {
			t.Fatal(err)
		}
	}
	must(t, m.shard(0).checkpoint())
	m.stop()
	path := filepath.Join(m.o.DataDir, "store", "group-0", "checkpoint")
	info, err := os.Stat(path)
	must(t, err)
	must(t, os.Truncate(path, info.Size()/2))
	must(t, os.Remove(filepath.Join(m.o.DataDir, foundingFile)))
	r := inspected(t, m)
	if r.Groups[1].Damage == "" || r.Groups[2].Damage != "" {
		t.Fatalf("%+v", r.Groups)
	}
	o := RecoverOptions{Data: m.data(), Confirm: r.ClusterID}
	recoverRefused(t, "shard 0 is damaged", o)
	o.AcceptLoss = true
	done, err := Recover(t.Context(), o)
	if err != nil || len(done.Emptied) != 1 || done.Emptied[0] != "0" {
		t.Fatalf("%+v, %v", done, err)
	}
	must(t, m.start())
	has := func(name string) (is bool) {
		m.ReadCatalog(func(s *catalog.State) { is = s.VHost("/").Queue(name) != nil })
		return is
	}
	eventually(t, "the catalog forgets what is gone", func() bool { return !has("gone") })
	if n := m.ready(l.queues[1]); !has("kept") || n != l.applied[1].Load() {
		t.Errorf("%d messages, %d were applied", n, l.applied[1].Load())
	}
	m.do(0, func(b *queue.Batch) {
		b.Configure(l.queues[0], &queue.Settings{VHost: "/", Name: "gone", Durable: true})
	})
	m.enqueue(l.queues[0], 1, "again")
}

// TestRefuseRecovery: what an operator may get wrong is refused with a sentence.
func TestRefuseRecovery(t *testing.T) {
	members := []ReportedMember{{"a", "n0", true}, {"b", "n1", true}, {"c", "n2", true}, {"d", "n3", true}, {"e", "n4", true}}
	report := func(id, name string, index uint64) *DataReport {
		return &DataReport{ClusterID: "old", ID: id, Node: name, Able: true, Members: members, Groups: []GroupReport{
			{Name: "catalog", Held: true, Term: 3, Index: 10}, {Name: "0", Held: true, Term: 2, Index: index, Queues: 1}, {Name: "1", Queues: 2}}}
	}
	lost := []string{"n2", "n3", "n4"}
	for _, c := range []struct {
		name, want string
		change     func(r *DataReport, o *RecoverOptions)
	}{
		{"the other has newer entries", "shard 0 of n1 (2/9 against 2/7)", func(r *DataReport, o *RecoverOptions) {}},
		{"accepted", "shard 1 with 2 queues is not here", func(r *DataReport, o *RecoverOptions) { o.AcceptOlder = true }},
		{"the other has it", "shard 1 with 2 queues is not here, but on n1", func(r *DataReport, o *RecoverOptions) {
			o.AcceptOlder = true
			o.Others[0].Groups[2].Held = true
		}},
		{"accepted too", "", func(r *DataReport, o *RecoverOptions) { o.AcceptOlder, o.AcceptLoss = true, true }},
		{"a newer term counts more", "", func(r *DataReport, o *RecoverOptions) { r.Groups[1].Term, o.AcceptLoss = 3, true }},
		{"not confirmed", "confirm with the id", func(r *DataReport, o *RecoverOptions) {
			o.AcceptOlder, o.AcceptLoss, o.Confirm = true, true, "new"
		}},
		{"a name of nobody", "no node 'n9'", func(r *DataReport, o *RecoverOptions) { o.Lost = append(o.Lost, "n9") }},
		{"itself", "the one whose data this is", func(r *DataReport, o *RecoverOptions) { o.Lost = append(o.Lost, "n0") }},
		{"one is not spoken of", "how it is, so that nobody recovers a cluster that lives: n4", func(r *DataReport, o *RecoverOptions) { o.Lost = lost[:2] }},
		{"three of five are there", "no recovery is needed: 3 of the 5", func(r *DataReport, o *RecoverOptions) {
			o.Lost, o.Others = lost[1:], append(o.Others, report("c", "n2", 7))
		}},
		{"the other was recovered", "recovered from node 'n1' already, as new", func(r *DataReport, o *RecoverOptions) {
			o.Others[0].ClusterID, o.Others[0].Former = "new", []string{"old"}
		}},
		{"of another cluster", "of cluster foreign", func(r *DataReport, o *RecoverOptions) { o.Others[0].ClusterID = "foreign" }},
		{"the same report", "of this data directory", func(r *DataReport, o *RecoverOptions) { o.Others[0] = r }},
		{"no catalog", "the catalog is gone", func(r *DataReport, o *RecoverOptions) { r.ClusterID = "" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := report("a", "n0", 7)
			o := &RecoverOptions{Lost: lost, Others: []*DataReport{report("b", "n1", 9)}, Confirm: "old"}
			c.change(r, o)
			if got := refuseRecovery(r, o); c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("refused with %q, want %q", got, c.want)
			}
		})
	}
}

// TestSomethingAnswers: a lost member's address at which something listens is a reason to stop and look.
func TestSomethingAnswers(t *testing.T) {
	members := startMembersOf(t, 3, 1)
	for _, m := range members[:2] {
		m.stop()
	}
	r := inspected(t, members[0])
	o := RecoverOptions{Data: members[0].data(), Lost: []string{"n1", "n2"}, Confirm: r.ClusterID}
	recoverRefused(t, "something answers at 127.0.0.1:", o)
	// The one that is left says for what it waits when it starts again.
	members[2].stop()
	waits := make(chan string, 100)
	members[2].o.Waiting = func(why string) {
		select {
		case waits <- why:
		default:
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	go func() {
		for {
			select {
			case why := <-waits:
				if strings.Contains(why, "1 of the 3 nodes that decide are there, which is no majority: start the others, ") {
					cancel()
					return
				}
			case <-ctx.Done():
				return
			case <-time.After(patience):
				return
			}
		}
	}()
	if err := members[2].startUntil(ctx); err == nil || !errors.Is(ctx.Err(), context.Canceled) {
		t.Errorf("it does not say for what it waits: %v", err)
	}
	members[2].Cluster = nil
}

// TestGrownFounder takes its votes from the node that began a cluster alone, which has other members now. It does not start, says
// what to do instead, has nothing to recover from, and takes its own place when it comes back empty.
func TestGrownFounder(t *testing.T) {
	founder := startMembersOf(t, 1, 1)[0]
	members := []*member{founder}
	for i := 1; i < 3; i++ {
		m := newMember(t, []*member{founder}, i)
		must(t, m.start())
		members = append(members, m)
	}
	settled(t, members)
	l := startTraffic(t, members[1])
	eventually(t, "some messages", func() bool { return l.applied[0].Load() > 30 })
	founder.stop()
	must(t, os.Remove(filepath.Join(founder.o.DataDir, "raft.db")))
	if err := founder.start(); err == nil || !strings.Contains(err.Error(), "votes are gone") || !strings.Contains(err.Error(), "start with an empty data directory, under the same name") {
		t.Errorf("it starts, or does not say what to do: %v", err)
	}
	if r := inspected(t, founder); r.Able || r.ClusterID != "" {
		t.Errorf("%+v", r)
	}
	recoverRefused(t, "the catalog is gone", RecoverOptions{Data: founder.data(), Confirm: founder.o.Name})
	must(t, os.RemoveAll(founder.o.DataDir))
	founder.o.Join = members[1].o.Join[:0:0]
	for _, m := range members[1:] {
		founder.o.Join = append(founder.o.Join, net.JoinHostPort(m.o.Host, strconv.Itoa(m.o.GossipPort)))
	}
	must(t, founder.start())
	settled(t, members)
	l.check(t, members)
}
