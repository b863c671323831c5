package cluster

import (
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/warrenmq/warren/cluster/peer"
	nodev1 "github.com/warrenmq/warren/proto/node/v1"
)

// newCandidate makes what waits for others in a node: it is of no cluster and answers the other nodes, and knows only those that it is told of.
func newCandidate(t *testing.T, uuid string, expect int) *Cluster {
	t.Helper()
	c := &Cluster{o: Options{DataDir: t.TempDir(), Name: "n" + uuid, Expect: expect}, log: slog.New(slog.DiscardHandler), identity: identity{uuid}}
	c.ctx, c.end = t.Context(), func() {}
	c.strangers = newStrangers(c)
	c.restart(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	c.o.Advertise, c.o.ClusterPort = "127.0.0.1", listener.Addr().(*net.TCPAddr).Port
	c.network = peer.New(peer.Options{Address: c.address, Listener: listener, Logger: c.log})
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = c.network.Serve(peer.Handlers{Control: controlServer{c: c}})
	}()
	t.Cleanup(func() { c.network.Close(); <-served })
	return c
}

// restart reads what is on the disk, as another process does.
func (c *Cluster) restart(t *testing.T) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.founded.Store(nil)
	c.founds, c.begun = "", make(chan struct{})
	var f founding
	found, err := load(c.o.DataDir, foundingFile, &f)
	must(t, err)
	if found {
		c.founded.Store(&f)
	}
	must(t, c.readPromise())
}

// knows is what gossip tells of some nodes.
func (c *Cluster) knows(others ...*Cluster) (list []*nodev1.Member) {
	for _, other := range others {
		m := other.member()
		c.strangers.mu.Lock()
		c.strangers.known[m.Uuid] = &stranger{member: m}
		c.strangers.mu.Unlock()
		list = append(list, m)
	}
	return list
}

// asks is the request for a promise of one of these nodes, the first of which founds a cluster.
func asks(clusterID string, of *Cluster, first ...*Cluster) *nodev1.PromiseRequest {
	q := &nodev1.PromiseRequest{Uuid: of.identity.UUID, ClusterId: clusterID}
	for _, c := range first {
		q.Servers = append(q.Servers, &nodev1.Server{Uuid: c.identity.UUID, Address: c.member().Address})
	}
	return q
}

// TestOneClusterBegins: of five nodes that expect three, two know enough others each to found a cluster. At most one does, and one does in
// the end.
func TestOneClusterBegins(t *testing.T) {
	a, b, c, d, e := newCandidate(t, "a", 3), newCandidate(t, "b", 3), newCandidate(t, "c", 3), newCandidate(t, "d", 3), newCandidate(t, "e", 3)
	known := map[*Cluster][]*nodev1.Member{a: a.knows(c, d), c: c.knows(d, e)}
	var founding sync.WaitGroup
	for founder, others := range known {
		founding.Go(func() { _ = founder.beginWith(t.Context(), others) })
	}
	founding.Wait()
	if a.clusterID() != "" && c.clusterID() != "" {
		t.Fatalf("two clusters have begun: %+v and %+v", a.founded.Load().Servers, c.founded.Load().Servers)
	}
	for a.clusterID() == "" && c.clusterID() == "" { // by now all know of one another, and nobody has founded one
		for _, n := range []*Cluster{a, b, c, d, e} {
			n.review(t.Context())
		}
		_ = a.beginWith(t.Context(), a.knows(b, c, d, e))
	}
}

// TestPromises: a node has promised one founder at a time, a restart changes nothing in that, and it takes part in what it has promised alone.
func TestPromises(t *testing.T) {
	a, b, d := newCandidate(t, "a", 3), newCandidate(t, "b", 3), newCandidate(t, "d", 3)
	must(t, d.promiseTo(asks("b-1", d, b, a, d)))
	b.founds = "b-1"
	for range 2 {
		if d.promiseTo(asks("a-1", d, a, b, d)) == nil {
			t.Fatal("it has promised two founders")
		}
		if err := a.beginWith(t.Context(), a.knows(d, newCandidate(t, "e", 3))); !isPromised(err) || a.clusterID() != "" {
			t.Errorf("a cluster begins with a node that has promised another: %v", err)
		}
		d.restart(t)
	}
	first := []foundingNode{{"a", "x:1"}, {"b", "x:2"}, {"d", "x:3"}}
	if d.bootstrap(founding{ClusterID: "a-1", Servers: first}) == nil || d.clusterID() != "" {
		t.Error("it takes part in what it has not promised")
	}
	if d.review(t.Context()); d.promised.Load().ClusterID != "b-1" {
		t.Error("a promise ends while its founder asks the others")
	}
	b.restart(t)
	if d.review(t.Context()); d.promised.Load().ClusterID != "" {
		t.Error("a promise stays whose founder has been started anew and knows nothing of it")
	}
	must(t, a.beginWith(t.Context(), a.knows(b, d)))
	f := a.founded.Load()
	if f == nil {
		t.Fatal("nothing begins though all have promised")
	}
	if d.review(t.Context()); d.promised.Load().ClusterID != f.ClusterID {
		t.Error("a promise ends though its cluster has begun")
	}
	d.restart(t)
	must(t, d.bootstrap(*f))
	must(t, d.bootstrap(*f)) // told twice
	if !d.unregistered() || d.clusterID() != f.ClusterID {
		t.Errorf("it is in %s", d.clusterID())
	}
	must(t, d.promiseKept())
	if d.restart(t); d.unregistered() {
		t.Error("a node that is registered counts as one that is not")
	}
}

func isPromised(err error) bool {
	return err != nil && strings.Contains(err.Error(), errPromised.Error())
}

// TestPromiseToADeadFounder: it ends when so many have given the cluster up that it can do nothing, if it was founded; until then it stays.
func TestPromiseToADeadFounder(t *testing.T) {
	dead, p, q := newCandidate(t, "a", 3), newCandidate(t, "p", 3), newCandidate(t, "q", 3)
	must(t, p.promiseTo(asks("a-1", p, dead, p, q)))
	must(t, q.promiseTo(asks("a-1", q, dead, p, q)))
	dead.network.Close()
	p.knows(q)
	longAgo := time.Now().Add(-sessionGrace - time.Second)
	p.review(t.Context())
	if p.promised.Load().ClusterID == "" {
		t.Error("a founder is given up at once")
	}
	p.heard = longAgo
	p.review(t.Context())
	if p.promised.Load().ClusterID == "" {
		t.Fatal("a promise ends though another first member may still take part: with the founder it would be a majority")
	}
	q.heard = longAgo
	p.restart(t) // what it has given up it has given up for good
	p.heard = longAgo
	p.review(t.Context())
	if p.promised.Load().ClusterID != "" {
		t.Error("a promise stays though a majority of the first members has given the cluster up")
	}
	f := founding{ClusterID: "a-1", Servers: q.promised.Load().Servers}
	for _, n := range []*Cluster{p, q} {
		n.restart(t)
		if n.bootstrap(f) == nil || n.clusterID() != "" {
			t.Errorf("%s takes part in a cluster that it has given up", n.o.Name)
		}
	}
	if p.promiseTo(asks("a-1", p, dead, p, q)) == nil {
		t.Error("it promises again what it has given up")
	}
	must(t, p.promiseTo(asks("q-1", p, q, p, dead)))
}

// TestFormerRunIsNoNode: a machine that was emptied and killed twice while gossip takes its former runs for alive founds nothing with them:
// where they listened it answers itself, or nobody does.
func TestFormerRunIsNoNode(t *testing.T) {
	b := newCandidate(t, "b", 3)
	var others []*nodev1.Member
	for _, uuid := range []string{"former-1", "former-2"} {
		m := b.member()
		m.Uuid, m.Name = uuid, "na"
		b.strangers.known[uuid] = &stranger{member: m}
		others = append(others, m)
	}
	if err := b.beginWith(t.Context(), others); err == nil || !strings.Contains(err.Error(), "another node answers") || b.clusterID() != "" {
		t.Errorf("one machine alone has begun a cluster of three (%v): %+v", err, b.founded.Load())
	}
}
