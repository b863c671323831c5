package cluster

import (
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// hangingLogs is a log store that hangs when told so.
type hangingLogs struct {
	raft.LogStore
	hang sync.RWMutex
}

func (l *hangingLogs) StoreLogs(logs []*raft.Log) error {
	l.hang.RLock()
	defer l.hang.RUnlock()
	return l.LogStore.StoreLogs(logs)
}

func (l *hangingLogs) StoreLog(log *raft.Log) error { return l.StoreLogs([]*raft.Log{log}) }

// refusingNet refuses the last step of a transfer when told so.
type refusingNet struct {
	*raft.InmemTransport
	refuses atomic.Bool
}

func (n *refusingNet) TimeoutNow(id raft.ServerID, to raft.ServerAddress, q *raft.TimeoutNowRequest, p *raft.TimeoutNowResponse) error {
	if n.refuses.Load() {
		return errors.New("not there")
	}
	return n.InmemTransport.TimeoutNow(id, to, q, p)
}

// TestTransferToAHangingSeat: the library's transfer to a seat whose disk hangs ends without an answer, and then that seat is not
// tried again for a while. A seat that cannot be reached any more at the last step has answered.
func TestTransferToAHangingSeat(t *testing.T) {
	ids := []raft.ServerID{"a", "b", "c"}
	var nodes []*raft.Raft
	var logs []*hangingLogs
	var nets []*refusingNet
	var first raft.Configuration
	for _, id := range ids {
		_, net := raft.NewInmemTransport(raft.ServerAddress(id))
		nets = append(nets, &refusingNet{InmemTransport: net})
		first.Servers = append(first.Servers, raft.Server{ID: id, Address: raft.ServerAddress(id)})
	}
	for i, id := range ids {
		for _, other := range nets {
			nets[i].Connect(other.LocalAddr(), other.InmemTransport)
		}
		parts := newCountingParts()
		close(parts.gate)
		config := baseConfig(slog.New(slog.DiscardHandler), string(id))
		config.LocalID = id
		config.LeaderLeaseTimeout = electionTimeout // two of three go on in any case
		store := &hangingLogs{LogStore: raft.NewInmemStore()}
		logs = append(logs, store)
		stable := raft.NewInmemStore()
		must(t, raft.BootstrapCluster(&config, store, stable, parts.store, nets[i], first))
		r, err := raft.NewRaft(&config, parts, store, stable, parts.store, nets[i])
		must(t, err)
		nodes = append(nodes, r)
		defer r.Shutdown()
	}
	leads := func() (leader, other int) {
		leader = -1
		eventually(t, "one leads", func() bool {
			leader = slices.IndexFunc(nodes, func(r *raft.Raft) bool { return r.State() == raft.Leader && r.Barrier(0).Error() == nil })
			return leader >= 0
		})
		return leader, (leader + 1) % len(nodes)
	}
	leader, target := leads()
	g := &group{}
	term := nodes[leader].CurrentTerm()
	to := first.Servers[target]
	if !g.mayHandTo(to.ID, term) {
		t.Fatal("it may not be tried at first")
	}
	logs[target].hang.Lock()
	for range 3 { // what it does not hold
		must(t, nodes[leader].Apply([]byte("x"), time.Minute).Error())
	}
	err := nodes[leader].LeadershipTransferToServer(to.ID, to.Address).Error()
	logs[target].hang.Unlock()
	if err == nil || transferAnswered(err) {
		t.Fatalf("the transfer to a seat that hangs ended with %v", err)
	}
	g.noteUnanswered(to.ID, term)
	if g.mayHandTo(to.ID, term) {
		t.Error("it is tried again at once")
	}
	for i := range nodes {
		if other := first.Servers[i].ID; other != to.ID && !g.mayHandTo(other, term) {
			t.Errorf("%s is not tried either", other)
		}
	}
	if !g.mayHandTo(to.ID, term+1) {
		t.Error("it is not tried in the next term")
	}
	g.unanswered[to.ID] = time.Now().Add(-unansweredPause - time.Second)
	if !g.mayHandTo(to.ID, term) {
		t.Error("it is not tried a while later")
	}

	// One that is not there for the last step.
	hung := target
	if leader, target = leads(); target == hung {
		target = len(nodes) - leader - target // the third
	}
	to = first.Servers[target]
	nets[leader].refuses.Store(true)
	if err := nodes[leader].LeadershipTransferToServer(to.ID, to.Address).Error(); err == nil || !transferAnswered(err) {
		t.Errorf("the transfer to a seat that is not there for the last step ended with %v", err)
	}
}

// TestTransferThatDoesNotEnd: a seat that leads and cannot be established, since the library refuses everything because of a transfer,
// is made anew; it takes no proposals, which would find out.
func TestTransferThatDoesNotEnd(t *testing.T) {
	observeWith(t, heartbeatTimeout, time.Hour, func(o *observed) { // the library gives a transfer up after an hour
		var hangs atomic.Bool // the other's log
		ended := make(chan struct{})
		defer close(ended)
		go func() {
			for {
				select {
				case rpc := <-o.other.Consumer():
					switch q := rpc.Command.(type) {
					case *raft.RequestPreVoteRequest:
						rpc.Respond(&raft.RequestPreVoteResponse{Term: q.Term, Granted: true}, nil)
					case *raft.RequestVoteRequest:
						rpc.Respond(&raft.RequestVoteResponse{Term: q.Term, Granted: true}, nil)
					case *raft.AppendEntriesRequest:
						if len(q.Entries) == 0 || !hangs.Load() {
							rpc.Respond(&raft.AppendEntriesResponse{Term: q.Term, LastLog: q.PrevLogEntry + uint64(len(q.Entries)), Success: true}, nil)
						}
					}
				case <-ended:
					return
				}
			}
		}()
		<-o.parts.led
		before := o.g.instance()
		hangs.Store(true)
		before.Apply([]byte("what the other has not got"), 0)
		if o.g.handTo(o.t.Context(), "b") {
			o.t.Error("the leadership was handed to a seat that hangs")
		}
		time.Sleep(2 * stuckTransfer)
		if o.g.instance() == before {
			o.t.Error("the instance is the one whose transfer does not end")
		}
	})
}

// TestLeadershipLostAfterATransfer: a seat that a transfer has left the leadership with loses it before it is established again. It does not lead
// when that is done.
func TestLeadershipLostAfterATransfer(t *testing.T) {
	observeWith(t, heartbeatTimeout, electionTimeout, func(o *observed) {
		var silent atomic.Bool
		ended := make(chan struct{})
		defer close(ended)
		go func() {
			for {
				select {
				case rpc := <-o.other.Consumer():
					switch q := rpc.Command.(type) {
					case *raft.TimeoutNowRequest:
						rpc.Respond(nil, errors.New("not now"))
					case *raft.RequestPreVoteRequest:
						rpc.Respond(&raft.RequestPreVoteResponse{Term: q.Term, Granted: !silent.Load()}, nil)
					case *raft.RequestVoteRequest:
						rpc.Respond(&raft.RequestVoteResponse{Term: q.Term, Granted: !silent.Load()}, nil)
					case *raft.AppendEntriesRequest:
						if !silent.Load() {
							rpc.Respond(&raft.AppendEntriesResponse{Term: q.Term, LastLog: q.PrevLogEntry + uint64(len(q.Entries)), Success: true}, nil)
						}
					}
				case <-ended:
					return
				}
			}
		}()
		<-o.parts.led
		o.parts.gate = make(chan struct{})
		r := o.g.instance()
		r.Apply([]byte("what the machine is slow with"), 0)
		time.Sleep(time.Second)
		go o.g.handTo(o.t.Context(), "b")
		time.Sleep(time.Second) // the barrier is committed, and waits for the machine
		silent.Store(true)
		time.Sleep(10 * time.Second)
		if r.State() == raft.Leader {
			o.t.Fatal("it is still the leader")
		}
		close(o.parts.gate)
		synctest.Wait()
		if len(o.parts.led) != 1 {
			o.t.Error("it was not established once more")
		}
		if term, leads := o.g.leading(); leads {
			o.t.Errorf("it leads in term %d, and the instance does not", term)
		}
	})
}
