package gossip

import (
	"fmt"
	"log/slog"
	"maps"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"google.golang.org/protobuf/proto"

	nodev1 "github.com/warrenmq/warren/proto/node/v1"

	"github.com/warrenmq/warren/internal/freeport"
)

// patience bounds what should happen soon; it is only ever waited out by a test that fails.
const patience = 30 * time.Second

// tester is a member of a test, on loopback.
type tester struct {
	*Gossip
	port    int
	changes atomic.Int64
}

func (m *tester) seed() string { return Join("127.0.0.1", m.port) }

// start runs a member on a free port.
func start(t *testing.T, self *nodev1.Member, seeds ...string) *tester {
	t.Helper()
	m := new(tester)
	for tries := 0; m.Gossip == nil; tries++ { // somebody may take the port before it is bound
		m.port = freePort(t)
		g, err := Start(Options{Self: self, Bind: "127.0.0.1", Port: m.port, Advertise: "127.0.0.1", Seeds: seeds,
			Changed: func() { m.changes.Add(1) }, Logger: slog.New(slog.DiscardHandler)})
		if err != nil && tries == 10 {
			t.Fatal(err)
		}
		m.Gossip = g
	}
	t.Cleanup(func() { m.crash(t) })
	return m
}

// crash ends the member without a word to the others.
func (m *tester) crash(t *testing.T) {
	m.end()
	if err := m.list.Shutdown(); err != nil { // nothing if it has ended already
		t.Error(err)
	}
	m.work.Wait()
}

func freePort(t *testing.T) int {
	t.Helper()
	ports, err := freeport.Find(1)
	if err != nil {
		t.Fatal(err)
	}
	return ports[0]
}

func named(uuid, address string) *nodev1.Member {
	return &nodev1.Member{Uuid: uuid, Name: "node " + uuid, Address: address, Expect: 3}
}

// knows tells whether a member knows exactly these others, in order.
func knows(m *tester, uuids ...string) bool {
	list := m.Members()
	for i, other := range list {
		if i >= len(uuids) || other.Uuid != uuids[i] {
			return false
		}
	}
	return len(list) == len(uuids)
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// Three members that know one seed find one another, with what each says of itself; each learns what another says anew, and
// that it leaves.
func TestThreeFindOneAnother(t *testing.T) {
	a := start(t, named("a", "host-a:1"))
	b := start(t, named("b", "host-b:2"), a.seed())
	c := start(t, named("c", "host-c:3"), a.seed())
	eventually(t, "each knows both others", func() bool {
		return knows(a, "b", "c") && knows(b, "a", "c") && knows(c, "a", "b")
	})
	if got := b.Members()[1]; !proto.Equal(got, named("c", "host-c:3")) {
		t.Errorf("b knows of c: %v", got)
	}
	if b.Address("c") != "host-c:3" || b.Address("b") != "" || b.Address("nobody") != "" {
		t.Errorf("addresses %q, %q, %q", b.Address("c"), b.Address("b"), b.Address("nobody"))
	}

	before := b.changes.Load()
	renewed := named("c", "host-c:3")
	renewed.ClusterId = "the cluster"
	c.Update(renewed)
	eventually(t, "the others know what is new", func() bool {
		return a.Members()[1].ClusterId == "the cluster" && b.Members()[1].ClusterId == "the cluster"
	})
	eventually(t, "they were told", func() bool { return b.changes.Load() > before })

	before = b.changes.Load()
	if err := c.Leave(); err != nil {
		t.Error(err)
	}
	eventually(t, "the others know that it has left", func() bool { return knows(a, "b") && knows(b, "a") })
	if b.Address("c") != "" {
		t.Error("the address is still known")
	}
	eventually(t, "they were told", func() bool { return b.changes.Load() > before })
}

// A member that starts before its seed finds it when it comes.
func TestSeedThatComesLater(t *testing.T) {
	seed := Join("127.0.0.1", freePort(t))
	a := start(t, named("a", "host-a:1"), seed)
	eventually(t, "it has tried", func() bool { return len(a.Members()) == 0 })
	_, port, _ := net.SplitHostPort(seed)
	number, _ := strconv.Atoi(port)
	g, err := Start(Options{Self: named("b", "host-b:2"), Bind: "127.0.0.1", Port: number, Advertise: "127.0.0.1", Changed: func() {},
		Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Skipf("somebody took the port: %v", err)
	}
	b := &tester{Gossip: g, port: number}
	defer b.crash(t)
	eventually(t, "both know each other", func() bool { return knows(a, "b") && knows(b, "a") })
}

// A node that crashed and comes back elsewhere is known there at once, though its old run is not yet taken for dead. When
// that is noticed, the new run stays.
func TestComesBackUnderAnotherAddress(t *testing.T) {
	a := start(t, named("a", "host-a:1"))
	old := start(t, named("b", "host-b:2"), a.seed())
	eventually(t, "the first run is known", func() bool { return a.Address("b") == "host-b:2" })
	a.mu.Lock()
	oldRun := slices.Collect(maps.Keys(a.known["b"]))[0]
	a.mu.Unlock()
	old.crash(t)

	b := start(t, named("b", "elsewhere:9"), a.seed())
	eventually(t, "the new address is known", func() bool { return a.Address("b") == "elsewhere:9" })
	if b.port == old.port {
		t.Skip("the same port by chance")
	}
	a.NotifyLeave(&memberlist.Node{Name: oldRun})
	if got := a.Address("b"); got != "elsewhere:9" {
		t.Errorf("after the old run's end the address is %q", got)
	}
	// What somebody still tells of the old run is not news.
	meta, err := proto.Marshal(named("b", "host-b:2"))
	if err != nil {
		t.Fatal(err)
	}
	a.NotifyUpdate(&memberlist.Node{Name: oldRun, Meta: meta})
	if got := a.Address("b"); got != "elsewhere:9" {
		t.Errorf("after old news the address is %q", got)
	}
	eventually(t, "the new run knows only the other", func() bool { return knows(b, "a") })
}

// A node is killed and started again after its clock was set back: the run that lives stays known when the former is found dead.
func TestClockSetBackBetweenTwoRuns(t *testing.T) {
	g := &Gossip{o: Options{Self: named("a", "host-a:1"), Changed: func() {}}, known: map[string]runs{}}
	run := func(name, address string) *memberlist.Node {
		meta, err := proto.Marshal(named("b", address))
		if err != nil {
			t.Fatal(err)
		}
		return &memberlist.Node{Name: name, Meta: meta}
	}
	was, is := run("b/0000000000000002", "host-b:2"), run("b/0000000000000001", "host-b:3")
	g.NotifyJoin(was)
	g.NotifyJoin(is)
	if list := g.Members(); len(list) != 1 {
		t.Errorf("one node with two runs is %v", list)
	}
	g.NotifyLeave(was)
	if got := g.Address("b"); got != "host-b:3" {
		t.Errorf("the node that runs has the address %q", got)
	}
	g.NotifyLeave(is)
	if got := g.Address("b"); got != "" || len(g.Members()) > 0 {
		t.Errorf("a node that does not run has the address %q", got)
	}
}

// A member of another cluster, or whose name is not its identity's, is none of ours; one without a cluster is let in.
func TestForeignMembers(t *testing.T) {
	in := func(uuid, cluster string) *nodev1.Member {
		m := named(uuid, "host:1")
		m.ClusterId = cluster
		return m
	}
	a := start(t, in("a", "ours"))
	foreign := start(t, in("f", "theirs"), a.seed())
	for range 3 { // states are exchanged whole, in both directions
		if _, err := foreign.list.Join([]string{a.seed()}); err != nil {
			t.Logf("join: %v", err)
		}
	}
	if !knows(foreign) || !knows(a) {
		t.Errorf("the foreign member knows %v, ours %v", foreign.Members(), a.Members())
	}
	alike, blank := start(t, in("g", "ours"), a.seed()), start(t, in("h", ""), a.seed())
	eventually(t, "those that belong together know each other", func() bool { return knows(a, "g", "h") && knows(alike, "a", "h") })
	eventually(t, "one that has no cluster knows them", func() bool { return blank.Address("a") != "" && blank.Address("g") != "" })

	liar, err := proto.Marshal(in("a", "ours"))
	if err != nil {
		t.Fatal(err)
	}
	for name, n := range map[string]*memberlist.Node{
		"another's name": {Name: "b/1", Meta: liar},
		"no identity":    {Name: "/1"},
		"not a message":  {Name: "a/1", Meta: []byte{0xff, 0xff}},
	} {
		if a.NotifyAlive(n) == nil {
			t.Errorf("%s: let in", name)
		}
	}
	a.NotifyJoin(&memberlist.Node{Name: "b/1", Meta: liar})
	if !knows(a, "g", "h") {
		t.Error("a member that lies is known")
	}
}

// Members say less than a packet holds: what would be cut is refused at the start.
func TestTooMuchToSay(t *testing.T) {
	m := named("a", "host:1")
	m.Name = strings.Repeat("x", metaLimit)
	if g, err := Start(Options{Self: m, Bind: "127.0.0.1", Port: freePort(t), Advertise: "127.0.0.1", Changed: func() {},
		Logger: slog.New(slog.DiscardHandler)}); err == nil {
		t.Errorf("it was started: %v", g.Leave())
	}
}

// Leave ends everything, also while the seeds are tried and something new is told.
func TestLeaveLeavesNothing(t *testing.T) {
	a := start(t, named("a", "host-a:1"))
	b := start(t, named("b", "host-b:2"), a.seed(), Join("127.0.0.1", freePort(t)))
	eventually(t, "both know each other", func() bool { return knows(a, "b") && knows(b, "a") })
	for i := range 10 {
		go b.Update(named("b", fmt.Sprintf("host-b:%d", i)))
	}
	if err := b.Leave(); err != nil {
		t.Error(err)
	}
	if err := a.Leave(); err != nil {
		t.Error(err)
	}
	stacks := ""
	defer func() {
		if t.Failed() {
			t.Log(stacks)
		}
	}()
	eventually(t, "no goroutine is left", func() bool {
		buffer := make([]byte, 1<<20)
		stacks = string(buffer[:runtime.Stack(buffer, true)])
		for s := range strings.SplitSeq(stacks, "\n\n") {
			if (strings.Contains(s, "gossip.") || strings.Contains(s, "hashicorp/memberlist")) && !strings.Contains(s, "testing.tRunner") {
				return false
			}
		}
		return true
	})
}
