package cluster

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/warrenmq/warren/cluster/raftnet"
	"github.com/warrenmq/warren/cluster/raftstore"
)

// electorate is a group of several seats in a bubble. A message takes a millisecond, the write of a vote two. It implements nodesView.
type electorate struct {
	ids    []string
	groups map[string]*group
	nets   map[string]*raftnet.Transport

	mu   sync.Mutex // guards what follows
	down map[string]bool
	hang map[string]bool             // their disks, as they have told
	open map[string][]raftnet.Stream // by the nodes at both ends
}

// lateStream is a stream on which what comes takes a millisecond.
type lateStream struct{ raftnet.Stream }

func (s lateStream) Recv() ([]byte, error) {
	frame, err := s.Stream.Recv()
	time.Sleep(time.Millisecond)
	return frame, err
}

// withElectorate plays with seats of which the first leads.
func withElectorate(t *testing.T, ids []string, play func(*testing.T, *electorate)) {
	stables := map[string]*raftstore.Stable{}
	for _, id := range ids {
		db, err := raftstore.OpenDB(t.TempDir())
		must(t, err)
		defer db.Close()
		db.Around(func(do func() error) error { time.Sleep(2 * time.Millisecond); return do() })
		stables[id] = db.Stable(1)
	}
	synctest.Test(t, func(t *testing.T) {
		defer time.Sleep(time.Minute) // until what is under way has come to its end
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		e := &electorate{ids: ids, groups: map[string]*group{}, nets: map[string]*raftnet.Transport{}, down: map[string]bool{}, hang: map[string]bool{}, open: map[string][]raftnet.Stream{}}
		log := slog.New(slog.DiscardHandler)
		for _, id := range ids {
			e.nets[id] = raftnet.New(raftnet.Options{Logger: log, Open: func(_ context.Context, to string, _ bool) (raftnet.Stream, error) {
				return e.connect(ctx, id, to)
			}})
			defer e.nets[id].Close()
		}
		var led chan int64
		for _, id := range ids {
			parts, config := newCountingParts(), baseConfig(log, id)
			close(parts.gate)
			if led == nil {
				led = parts.led
				config.HeartbeatTimeout, config.ElectionTimeout, config.LeaderLeaseTimeout = time.Second/2, time.Second/2, time.Second/2
			}
			g := &group{id: 1, name: id, log: log, net: e.nets[id], uuid: id, stable: stables[id], logs: raft.NewInmemStore(), config: config,
				seat: raftstore.Seat{Incarnation: 1}, parts: parts}
			must(t, g.start(firstConfiguration(ids)))
			defer g.stop()
			e.groups[id] = g
		}
		<-led
		time.Sleep(time.Second) // all have heard of it
		e.look()
		play(t, e)
		for _, id := range ids {
			e.cut(id)
		}
	})
}

func (e *electorate) connect(ctx context.Context, from, to string) (raftnet.Stream, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.down[from] || e.down[to] {
		return nil, errors.New("cut off")
	}
	near, far := memoryStreams()
	e.open[from], e.open[to] = append(e.open[from], near), append(e.open[to], near)
	go e.nets[to].Serve(ctx, lateStream{far})
	return lateStream{near}, nil
}

// cut cuts a node off.
func (e *electorate) cut(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.down[id] = true
	for _, s := range e.open[id] {
		s.Close()
	}
	e.open[id] = nil
}

func (e *electorate) heal(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.down[id] = false
}

func (e *electorate) alive(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.down[id]
}

func (e *electorate) maybeLeads(id string) bool   { return e.alive(id) }
func (e *electorate) leaderElsewhere(uint32) bool { return false }
func (e *electorate) yields() bool                { return false }

func (e *electorate) hangs(id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.hang[id]
}

// look lets the seats that are there look around once.
func (e *electorate) look() {
	for _, id := range e.ids {
		if e.alive(id) {
			go e.groups[id].consider(time.Now(), e)
		}
	}
	synctest.Wait()
}

// elect lets the seats look around as often as campaign does until one that is there is established, and says which, and how long that
// took.
func (e *electorate) elect() (leader string, took time.Duration) {
	for began := time.Now(); ; time.Sleep(campaignPeriod) {
		e.look()
		at := slices.IndexFunc(e.ids, func(id string) bool { _, leads := e.groups[id].leading(); return leads && e.alive(id) })
		if at >= 0 {
			return e.ids[at], time.Since(began)
		}
	}
}

// behind lets a seat miss an entry that the others hold.
func (e *electorate) behind(t *testing.T, id string) {
	t.Helper()
	e.cut(id)
	must(t, e.groups[e.ids[0]].instance().Apply([]byte("x"), 0).Error())
	time.Sleep(time.Second) // all others have it
}

// TestSplitVotes: two seats stand at the same moment, and none has a majority. Both know which of them is to stand once more: the one
// whose log is newer, or the first. The library would choose timeouts above electionTimeout.
func TestSplitVotes(t *testing.T) {
	for name, newer := range map[string]string{"equal logs": "b", "the second's log is newer": "c"} {
		t.Run(name, func(t *testing.T) {
			withElectorate(t, []string{"a", "b", "c"}, func(t *testing.T, e *electorate) {
				if newer == "c" {
					e.behind(t, "b")
				}
				e.cut("a")
				e.heal("b")
				for _, id := range e.ids[1:] {
					g := e.groups[id]
					g.mu.Lock()
					g.mayStand(time.Now())
					g.mu.Unlock()
					go g.stand(g.instance(), g.facade)
				}
				leader, took := e.elect()
				if leader != newer || took >= electionTimeout/2 {
					t.Errorf("%s leads, after %v", leader, took)
				}
			})
		})
	}
}

// TestDeposedByOneThatIsBehind: a seat that has voted for another stands all the same, as it had begun to, and deposes it before it has
// got what that has written as the leader. It cannot win; the one that it has deposed stands again though it has just stood.
func TestDeposedByOneThatIsBehind(t *testing.T) {
	withElectorate(t, []string{"a", "b", "c"}, func(t *testing.T, e *electorate) {
		e.cut("a")
		e.look()
		for b := e.groups["b"].instance(); b.State() != raft.Leader; {
			time.Sleep(time.Millisecond)
		}
		c := e.groups["c"]
		c.mu.Lock()
		c.mayStand(time.Now())
		c.mu.Unlock()
		go c.stand(c.instance(), c.facade)
		for c.instance().State() != raft.Candidate {
			time.Sleep(time.Millisecond)
		}
		leader, took := e.elect()
		if leader != "b" || took >= electionTimeout/2 {
			t.Errorf("%s leads, after %v", leader, took)
		}
	})
}

// TestRefusersTakeTurns: all who refuse a candidate since it is behind do so at the same moment. They do not split the votes.
func TestRefusersTakeTurns(t *testing.T) {
	withElectorate(t, []string{"a", "b", "c", "d", "e"}, func(t *testing.T, e *electorate) {
		e.behind(t, "b")
		e.cut("a")
		e.heal("b")
		before := e.groups["c"].instance().CurrentTerm()
		leader, _ := e.elect()
		if terms := e.groups[leader].instance().CurrentTerm() - before; leader != "c" || terms != 2 {
			t.Errorf("%s leads, after %d terms: that of the seat that is behind, which has its turn first, and the next", leader, terms)
		}
	})
}

// TestHangingDisks: a leader whose disk hangs is deposed though it is heard; nobody stands whose own does, or where no majority could
// note a vote.
func TestHangingDisks(t *testing.T) {
	ids := []string{"a", "b", "c"}
	for _, test := range []struct {
		hanging string
		next    string // empty: nobody
	}{
		{"a", "b"},
		{"b", ""},
		{"ab", ""},
		{"abc", ""},
	} {
		t.Run(test.hanging, func(t *testing.T) {
			withElectorate(t, ids, func(t *testing.T, e *electorate) {
				e.mu.Lock()
				for _, id := range test.hanging {
					e.hang[string(id)] = true
				}
				e.mu.Unlock()
				next, began := "", time.Now()
				for next == "" && time.Since(began) < 10*time.Second {
					e.look()
					time.Sleep(campaignPeriod)
					for _, id := range ids {
						if _, leads := e.groups[id].leading(); leads && id != "a" {
							next = id
						}
					}
				}
				took := time.Since(began)
				if next != test.next || next != "" && (took < hangDelay || took > hangDelay+2*rankDelay) {
					t.Errorf("%q leads after %v", next, took)
				}
				if _, leads := e.groups["a"].leading(); test.next == "" && !leads {
					t.Error("the leader does not lead any more")
				}
			})
		})
	}
}
