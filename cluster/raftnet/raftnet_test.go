package raftnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// two gives the facades of a group on nodes "a" and "b".
func two(t *testing.T, n *network) (a, b *Group) {
	t.Helper()
	a, b = n.join("a").Group(7, "a.1"), n.join("b").Group(7, "b.1")
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func requestHeader(from string) raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(from), Addr: []byte(from)}
}

// A heartbeat on the library's fast path can raise the term while the main loop is stamping an entry with it: replicas
// diverge (hashicorp/raft#695). So it must reach the main loop in its turn, and the handler not at all.
func TestHeartbeatGoesThroughTheMainLoop(t *testing.T) {
	a, b := two(t, newNetwork(t))
	handled := make(chan raft.RPC, 1)
	b.SetHeartbeatHandler(func(rpc raft.RPC) {
		handled <- rpc
		rpc.Respond(&raft.AppendEntriesResponse{RPCHeader: requestHeader("b.1")}, nil)
	})
	answered := make(chan error, 1)
	var p raft.AppendEntriesResponse
	go func() {
		answered <- a.AppendEntries("b.1", "b.1", &raft.AppendEntriesRequest{RPCHeader: requestHeader("a.1"), Term: 5}, &p)
	}()
	rpc := next(t, b)
	q, ok := rpc.Command.(*raft.AppendEntriesRequest)
	if !ok || q.Term != 5 || len(q.Entries) != 0 || string(q.Addr) != "a.1" || string(q.ID) != "a.1" {
		t.Fatalf("out of Consumer came %+v", rpc.Command)
	}
	select {
	case err := <-answered:
		t.Fatalf("the heartbeat was answered before the main loop had seen it: %v", err)
	default:
	}
	rpc.Respond(&raft.AppendEntriesResponse{Term: 6, LastLog: 9, Success: true}, nil)
	if err := <-answered; err != nil || p.Term != 6 || p.LastLog != 9 || !p.Success {
		t.Fatalf("answer %+v, %v", p, err)
	}
	select {
	case <-handled:
		t.Fatal("the heartbeat handler was called")
	default:
	}
}

// A pipeline can stop for ever after one failed write of a follower (hashicorp/raft#612). See also
// TestFollowerCatchesUpAfterFailedWrites.
func TestThereIsNoPipeline(t *testing.T) {
	a, _ := two(t, newNetwork(t))
	p, err := a.AppendEntriesPipeline("b.1", "b.1")
	if p != nil || !errors.Is(err, raft.ErrPipelineReplicationNotSupported) {
		t.Fatalf("AppendEntriesPipeline gave %v, %v", p, err)
	}
}

// TestRequestsAreBounded: a request has only so many octets of entries, but at least one entry. What is left in it is what was sent.
func TestRequestsAreBounded(t *testing.T) {
	a, b := two(t, newNetwork(t))
	data := make([]byte, 5<<20)
	for _, c := range []struct {
		name    string
		entries []*raft.Log
		sent    int
	}{
		{"none", nil, 0},
		{"small", []*raft.Log{{Index: 1}, {Index: 2, Data: data}}, 2},
		{"as many as fit", []*raft.Log{{Index: 1, Data: data}, {Index: 2, Data: data}, {Index: 3, Data: data}, {Index: 4, Data: data}}, 3},
		{"extensions count", []*raft.Log{{Index: 1, Data: data, Extensions: data}, {Index: 2, Extensions: data}, {Index: 3, Extensions: data}}, 2},
		{"one that is too large", []*raft.Log{{Index: 1, Data: make([]byte, appendBytes+1)}, {Index: 2}}, 1},
		{"one that is too large, second", []*raft.Log{{Index: 1}, {Index: 2, Data: make([]byte, appendBytes+1)}}, 1},
	} {
		q := &raft.AppendEntriesRequest{RPCHeader: requestHeader("a.1"), Term: 1, PrevLogEntry: 7, Entries: c.entries}
		answered := make(chan error, 1)
		go func() { answered <- a.AppendEntries("b.1", "b.1", q, &raft.AppendEntriesResponse{}) }()
		rpc := next(t, b)
		came := rpc.Command.(*raft.AppendEntriesRequest).Entries
		rpc.Respond(&raft.AppendEntriesResponse{Term: 1, Success: true}, nil)
		if err := <-answered; err != nil || len(came) != c.sent || len(q.Entries) != c.sent {
			t.Errorf("%s: %d entries came, the library takes %d for sent, not %d, %v", c.name, len(came), len(q.Entries), c.sent, err)
		}
	}
}

// A replica that was made anew has forgotten its promises: what was meant for its predecessor must not reach it.
func TestAnotherIncarnationIsRefused(t *testing.T) {
	n := newNetwork(t)
	a := n.join("a").Group(7, "a.1")
	transport := n.join("b")
	old, renewed := transport.Group(7, "b.1"), transport.Group(7, "b.2")
	defer renewed.Close()
	a.Members(nobody)
	came := make(chan any, 100)
	go answerAll(renewed, func(rpc raft.RPC) (any, error) {
		came <- rpc.Command
		return &raft.RequestVoteResponse{Granted: true}, nil
	})
	for _, to := range []raft.ServerAddress{"b.1", "b.3", "b"} {
		for name, call := range requests(a, to) {
			if err := call(); !errors.Is(err, errAbsent) {
				t.Errorf("%s for seat %s, where b.2 sits: %v", name, to, err)
			}
		}
	}
	select {
	case command := <-came:
		t.Fatalf("a request for another incarnation came through: %+v", command)
	case rpc := <-old.Consumer():
		t.Fatalf("a facade that was replaced still gets requests: %+v", rpc.Command)
	default:
	}
	// The predecessor's late end must not take the seat from its successor.
	old.Close()
	var p raft.RequestVoteResponse
	if err := a.RequestVote("b.2", "b.2", &raft.RequestVoteRequest{}, &p); err != nil || !p.Granted {
		t.Fatalf("the vote of the present incarnation: %+v, %v", p, err)
	}
}

// nobody is a configuration without other seats: none is waited for.
func nobody(raft.ServerAddress) bool { return false }

// requests is one request of each kind.
func requests(g *Group, to raft.ServerAddress) map[string]func() error {
	return map[string]func() error{
		"append": func() error {
			return g.AppendEntries("", to, &raft.AppendEntriesRequest{}, &raft.AppendEntriesResponse{})
		},
		"vote": func() error { return g.RequestVote("", to, &raft.RequestVoteRequest{}, &raft.RequestVoteResponse{}) },
		"pre-vote": func() error {
			return g.RequestPreVote("", to, &raft.RequestPreVoteRequest{}, &raft.RequestPreVoteResponse{})
		},
		"timeout": func() error { return g.TimeoutNow("", to, &raft.TimeoutNowRequest{}, &raft.TimeoutNowResponse{}) },
		"snapshot": func() error {
			return g.InstallSnapshot("", to, &raft.InstallSnapshotRequest{}, &raft.InstallSnapshotResponse{}, strings.NewReader(""))
		},
	}
}

func TestUnknownGroupIsRefused(t *testing.T) {
	a, b := two(t, newNetwork(t))
	a.Members(nobody)
	b.Close()
	for name, call := range requests(a, "b.1") {
		if err := call(); !errors.Is(err, errAbsent) {
			t.Errorf("%s for a group that was closed: %v", name, err)
		}
	}
}

// An error of the main loop reaches the caller as such, and the stream goes on.
func TestErrorOfTheMainLoop(t *testing.T) {
	n := newNetwork(t)
	a, b := two(t, n)
	go answerAll(b, func(raft.RPC) (any, error) { return nil, errors.New("term is old") })
	for name, call := range requests(a, "b.1") {
		if err := call(); err == nil || !strings.Contains(err.Error(), "term is old") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n.opens() != 2 { // the requests', and the snapshot's
		t.Errorf("%d streams were opened", n.opens())
	}
}

// A pre-vote is carried, so NewRaft does not turn pre-votes off.
func TestPreVoteIsCarried(t *testing.T) {
	a, b := two(t, newNetwork(t))
	if _, ok := raft.Transport(a).(raft.WithPreVote); !ok {
		t.Fatal("the facade carries no pre-votes")
	}
	go answerAll(b, func(rpc raft.RPC) (any, error) {
		q := rpc.Command.(*raft.RequestPreVoteRequest)
		return &raft.RequestPreVoteResponse{Term: q.Term + q.LastLogIndex + q.LastLogTerm, Granted: true}, nil
	})
	var p raft.RequestPreVoteResponse
	if err := a.RequestPreVote("b.1", "b.1", &raft.RequestPreVoteRequest{Term: 1, LastLogIndex: 20, LastLogTerm: 300}, &p); err != nil || p.Term != 321 || !p.Granted {
		t.Fatalf("answer %+v, %v", p, err)
	}
}

// A seat may be told to campaign without the network.
func TestCampaign(t *testing.T) {
	a, _ := two(t, newNetwork(t))
	done := make(chan error, 1)
	go func() { done <- a.Campaign(0) }()
	rpc := next(t, a)
	if q, ok := rpc.Command.(*raft.TimeoutNowRequest); !ok || string(q.Addr) != "a.1" {
		t.Fatalf("out of Consumer came %+v", rpc.Command)
	}
	rpc.Respond(&raft.TimeoutNowResponse{}, nil)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	a.Close()
	if err := a.Campaign(0); !errors.Is(err, errGroupClosed) {
		t.Fatalf("a closed group campaigns: %v", err)
	}
}

// All groups share one stream, and an answer finds the request that it belongs to; a group whose main loop is busy holds
// up nobody else.
func TestManyGroupsShareAStream(t *testing.T) {
	const groups, rounds = 50, 20
	n := newNetwork(t)
	from, to := n.join("a"), n.join("b")
	busy := to.Group(groups, "b.1") // nobody takes its requests
	stuck := make(chan error, 1)
	go func() {
		stuck <- from.Group(groups, "a.1").TimeoutNow("b.1", "b.1", &raft.TimeoutNowRequest{}, &raft.TimeoutNowResponse{})
	}()
	var all sync.WaitGroup
	for i := range uint32(groups) {
		g := to.Group(i, "b.1")
		defer g.Close()
		go answerAll(g, func(rpc raft.RPC) (any, error) {
			q := rpc.Command.(*raft.AppendEntriesRequest)
			return &raft.AppendEntriesResponse{Term: uint64(g.group), LastLog: q.PrevLogEntry, Success: len(q.Entries) == 1 && len(q.Entries[0].Data) == int(q.PrevLogTerm)}, nil
		})
		near := from.Group(i, "a.1")
		all.Go(func() {
			for round := uint64(1); round <= rounds; round++ {
				size := int(i)*100 + int(round)
				q := &raft.AppendEntriesRequest{PrevLogEntry: round, PrevLogTerm: uint64(size), Entries: []*raft.Log{{Data: make([]byte, size)}}}
				var p raft.AppendEntriesResponse
				if err := near.AppendEntries("b.1", "b.1", q, &p); err != nil || p.Term != uint64(i) || p.LastLog != round || !p.Success {
					t.Errorf("group %d, round %d: %+v, %v", i, round, p, err)
				}
			}
		})
	}
	all.Wait()
	if n.opens() != 1 {
		t.Errorf("%d streams were opened for one pair of nodes", n.opens())
	}
	busy.Close()
	if err := <-stuck; err == nil {
		t.Error("a request that nobody took was answered")
	}
}

// A peer that takes requests and never answers fails the call in time.
func TestPeerThatNeverAnswers(t *testing.T) {
	n := newNetwork(t)
	n.timeout = 50 * time.Millisecond
	a, _ := two(t, n)
	err := a.RequestVote("b.1", "b.1", &raft.RequestVoteRequest{}, &raft.RequestVoteResponse{})
	if err == nil {
		t.Fatal("a request that nobody answers succeeded")
	}
}

// A request that is not answered in time costs the others of the link nothing, and its late answer is dropped.
func TestTimeoutCostsItsRequestAlone(t *testing.T) {
	n := newNetwork(t)
	a, b := two(t, n)
	other, far := a.t.Group(8, "a.1"), b.t.Group(8, "b.1")
	defer other.Close()
	defer far.Close()
	answered := make(chan error, 1)
	go func() {
		answered <- other.RequestVote("b.1", "b.1", &raft.RequestVoteRequest{}, &raft.RequestVoteResponse{})
	}()
	waits := next(t, far)
	ctx, cancel := context.WithCancelCause(t.Context())
	failed := make(chan error, 1)
	go func() {
		failed <- a.t.call(ctx, "b.1", 7, a.head(kindTimeout, "b.1", raft.RPCHeader{}, 0), nil, &raft.TimeoutNowResponse{})
	}()
	late := next(t, b)
	cancel(errTimeout)
	if err := <-failed; !errors.Is(err, errTimeout) {
		t.Errorf("the request that is not answered: %v", err)
	}
	late.Respond(&raft.TimeoutNowResponse{}, nil)
	waits.Respond(&raft.RequestVoteResponse{}, nil)
	if err := <-answered; err != nil {
		t.Errorf("the other request of the link: %v", err)
	}
	if n.opens() != 1 {
		t.Errorf("%d streams were opened", n.opens())
	}
}

// A stream that takes nothing for the whole of a request's time is given up.
func TestStreamThatTakesNothing(t *testing.T) {
	opened := 0
	transport := New(Options{Logger: slog.New(slog.DiscardHandler), Timeout: 20 * time.Millisecond, Open: func(context.Context, string, bool) (Stream, error) {
		opened++
		near, _ := streamPair() // nobody reads the far end
		return near, nil
	}})
	defer transport.Close()
	g := transport.Group(7, "a.1")
	defer g.Close()
	for range 20 {
		if err := g.RequestVote("b.1", "b.1", &raft.RequestVoteRequest{}, &raft.RequestVoteResponse{}); err == nil {
			t.Fatal("a request that nobody reads succeeded")
		}
	}
	transport.Close() // no link opens another stream from here on
	if opened < 2 {
		t.Error("the first stream was kept")
	}
}

// A request that its sender has given up is not handed to the main loop any more.
func TestStaleRequestsAreDropped(t *testing.T) {
	n := newNetwork(t)
	a := n.join("a").Group(7, "a.1")
	defer a.Close()
	n.timeout = 20 * time.Millisecond
	b := n.join("b").Group(7, "b.1")
	defer b.Close()
	if err := a.RequestVote("b.1", "b.1", &raft.RequestVoteRequest{Term: 1}, &raft.RequestVoteResponse{}); err == nil {
		t.Fatal("nobody took the request, and it succeeded")
	}
	b.t.o.Timeout = patience
	go func() {
		_ = a.RequestVote("b.1", "b.1", &raft.RequestVoteRequest{Term: 2}, &raft.RequestVoteResponse{})
	}()
	if q := next(t, b).Command.(*raft.RequestVoteRequest); q.Term != 2 {
		t.Errorf("the request of term %d was handed over", q.Term)
	}
}

// A stream's end ends Serve, also when nobody answers any of the requests that came over it.
func TestServeEndsWhileAllSlotsAreTaken(t *testing.T) {
	n := newNetwork(t)
	b := n.join("b").Group(7, "b.1")
	defer b.Close()
	near, far := streamPair()
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan struct{})
	go func() {
		defer close(served)
		b.t.Serve(ctx, far)
	}()
	h := header{kind: kindTimeout, group: 7}
	frame := (&address{from: "a.1", to: "b.1"}).append(h.append(nil))
	for range maxServing + 1 {
		if err := near.Send(frame); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all requests were read", func() bool { return len(near.out) == 0 })
	cancel()
	select {
	case <-served:
	case <-time.After(patience):
		t.Fatal("Serve goes on")
	}
}

// A stream that cannot be opened fails the requests that wait for it; the next one tries again.
func TestStreamThatCannotBeOpened(t *testing.T) {
	n := newNetwork(t)
	a, b := two(t, n)
	n.isolate("b")
	for range 3 {
		if err := a.RequestVote("b.1", "b.1", &raft.RequestVoteRequest{}, &raft.RequestVoteResponse{}); !errors.Is(err, errCut) {
			t.Fatalf("request over a network that is cut: %v", err)
		}
	}
	n.heal("b")
	go answerAll(b, func(raft.RPC) (any, error) { return &raft.RequestVoteResponse{Granted: true}, nil })
	if err := a.RequestVote("b.1", "b.1", &raft.RequestVoteRequest{}, &raft.RequestVoteResponse{}); err != nil {
		t.Fatal(err)
	}
}

// What makes no sense ends the stream: its sender and this node do not speak the same language.
func TestMalformedRequestClosesTheStream(t *testing.T) {
	for name, frame := range map[string][]byte{
		"empty":    {},
		"version":  (&header{kind: kindTimeout}).append(nil)[1:],
		"kind":     (&address{}).append((&header{kind: 77}).append(nil)),
		"too long": append((&address{}).append((&header{kind: kindTimeout}).append(nil)), 0),
		"snapshot": appendSnapshot((&address{}).append((&header{kind: kindSnapshot}).append(nil)), &raft.InstallSnapshotRequest{}),
	} {
		near, far := streamPair()
		served := make(chan struct{})
		go func() {
			defer close(served)
			newNetwork(t).join("b").Serve(context.Background(), far)
		}()
		if err := near.Send(frame); err != nil {
			t.Fatal(err)
		}
		if b, err := near.Recv(); err == nil {
			t.Errorf("%s: answered with %x", name, b)
		}
		<-served
	}
}

// The end of a group waits for the goroutine that sends a snapshot, which must not wait until the other node has made it its own.
func TestEndWhileASnapshotIsSent(t *testing.T) {
	a, b := two(t, newNetwork(t))
	sent := make(chan error, 1)
	go func() {
		sent <- a.InstallSnapshot("b.1", "b.1", &raft.InstallSnapshotRequest{Size: 10}, &raft.InstallSnapshotResponse{}, strings.NewReader("0123456789"))
	}()
	next(t, b) // it is busy with it
	a.Close()
	select {
	case err := <-sent:
		if err == nil {
			t.Error("what nobody has answered was sent")
		}
	case <-time.After(patience):
		t.Fatal("a group that has ended waits for another node")
	}
}

func TestSnapshotOfSeveralMebibytes(t *testing.T) {
	a, b := two(t, newNetwork(t))
	data := make([]byte, 5<<20+12345)
	for i := range data {
		data[i] = byte(i * 31 >> 3)
	}
	q := &raft.InstallSnapshotRequest{SnapshotVersion: 1, Term: 3, LastLogIndex: 100, LastLogTerm: 2, ConfigurationIndex: 9,
		Configuration: []byte("members"), Size: int64(len(data))}
	go answerAll(b, func(rpc raft.RPC) (any, error) {
		got, err := io.ReadAll(rpc.Reader)
		if err != nil || !bytes.Equal(got, data) {
			return nil, fmt.Errorf("%d octets came: %w", len(got), err)
		}
		r := rpc.Command.(*raft.InstallSnapshotRequest)
		same := r.SnapshotVersion == 1 && r.LastLogIndex == 100 && r.LastLogTerm == 2 && r.ConfigurationIndex == 9 && string(r.Configuration) == "members"
		return &raft.InstallSnapshotResponse{Term: r.Term, Success: same}, nil
	})
	var p raft.InstallSnapshotResponse
	if err := a.InstallSnapshot("b.1", "b.1", q, &p, bytes.NewReader(data)); err != nil || p.Term != 3 || !p.Success {
		t.Fatalf("answer %+v, %v", p, err)
	}
}

// A snapshot whose source breaks off must fail at both ends: no half of it may pass for the whole.
func TestSnapshotThatBreaksOff(t *testing.T) {
	a, b := two(t, newNetwork(t))
	received := make(chan error, 1)
	go answerAll(b, func(rpc raft.RPC) (any, error) {
		_, err := io.Copy(io.Discard, rpc.Reader)
		received <- err
		return nil, err
	})
	broken := io.MultiReader(bytes.NewReader(make([]byte, 1<<20)), errorReader{})
	err := a.InstallSnapshot("b.1", "b.1", &raft.InstallSnapshotRequest{Size: 2 << 20}, &raft.InstallSnapshotResponse{}, broken)
	if !errors.Is(err, errBroken) {
		t.Errorf("the sender: %v", err)
	}
	if err := <-received; err == nil {
		t.Error("the receiver took half a snapshot for the whole")
	}
}

// TestGroupEndsWhileASnapshotComes ends a group whose main loop still reads a snapshot: nobody else reads from that stream, and the loop
// comes to its end.
func TestGroupEndsWhileASnapshotComes(t *testing.T) {
	a, b := two(t, newNetwork(t))
	data, source := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		sent <- a.InstallSnapshot("b.1", "b.1", &raft.InstallSnapshotRequest{Size: 2 * chunk}, &raft.InstallSnapshotResponse{}, data)
	}()
	go source.Write(make([]byte, chunk))
	rpc := next(t, b)
	if _, err := io.ReadFull(rpc.Reader, make([]byte, chunk)); err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, rpc.Reader)
		read <- err
	}()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err == nil {
		t.Error("half a snapshot was taken for the whole")
	}
	_ = source.CloseWithError(errBroken)
	if err := <-sent; err == nil {
		t.Error("the sender was told that the snapshot was taken")
	}
}

var errBroken = errors.New("the disk is broken")

type errorReader struct{}

func (errorReader) Read([]byte) (int, error) { return 0, errBroken }

// A receiver that refuses without reading is heard, although the sender is still sending.
func TestSnapshotThatIsRefusedHalfWay(t *testing.T) {
	a, b := two(t, newNetwork(t))
	go answerAll(b, func(raft.RPC) (any, error) { return nil, errors.New("disk full") })
	err := a.InstallSnapshot("b.1", "b.1", &raft.InstallSnapshotRequest{Size: 3 << 20}, &raft.InstallSnapshotResponse{}, bytes.NewReader(make([]byte, 3<<20)))
	if err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Fatalf("the sender: %v", err)
	}
}

// TestSnapshotThatTakesLong: a node that is at work on a snapshot is waited for, however long it takes; not one that is silent, and not for
// ever. A sender that does not know the word for it gets the answer alone.
func TestSnapshotThatTakesLong(t *testing.T) {
	const size = 2*chunk + 1
	for name, test := range map[string]struct {
		takes, most time.Duration // the most that the sender waits
		silent      bool
	}{
		"at work":          {takes: 20 * stallTimeout, most: 20 * stallTimeout},
		"silent":           {takes: 20 * stallTimeout, most: stallTimeout, silent: true},
		"at work for ever": {takes: 2 * installTimeout, most: installTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				a, b := two(t, n)
				installed := make(chan error, 1)
				go func() {
					rpc := <-b.Consumer()
					_, err := io.Copy(io.Discard, rpc.Reader)
					if test.silent { // as a process that was stopped
						n.hush("b")
					}
					time.Sleep(test.takes)
					rpc.Respond(&raft.InstallSnapshotResponse{Term: 3, Success: true}, nil)
					installed <- err
				}()
				var p raft.InstallSnapshotResponse
				began := time.Now()
				err := a.InstallSnapshot("b.1", "b.1", &raft.InstallSnapshotRequest{Term: 3, Size: size}, &p, bytes.NewReader(make([]byte, size)))
				switch waited := time.Since(began); {
				case waited != test.most:
					t.Errorf("the sender has waited for %v, not %v: %v", waited, test.most, err)
				case test.takes == test.most && (err != nil || !p.Success || p.Term != 3):
					t.Errorf("it was installed after %v; the sender: %+v, %v", waited, p, err)
				case test.takes > test.most && err == nil:
					t.Errorf("the sender was told that it was installed when it was not: %+v", p)
				}
				if err := <-installed; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestWorkingIsNotSaid: a sender of a version that does not know the word gets the answer alone, also after long.
func TestWorkingIsNotSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		a, b := two(t, n)
		s, err := n.open("a", "b", true)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		q := &raft.InstallSnapshotRequest{Size: 1}
		for _, frame := range [][]byte{appendSnapshot(a.head(kindSnapshot, "b.1", requestHeader("a.1"), 0), q), {0}} {
			if err := s.Send(frame); err != nil {
				t.Fatal(err)
			}
		}
		rpc := <-b.Consumer()
		if _, err := io.Copy(io.Discard, rpc.Reader); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * workingPause)
		rpc.Respond(&raft.InstallSnapshotResponse{Success: true}, nil)
		frame, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		var p raft.InstallSnapshotResponse
		if err := readAnswer(frame, &p); err != nil || !p.Success {
			t.Errorf("answer %x: %v", frame, err)
		}
	})
}

// More octets than were announced are an error, not a longer snapshot.
func TestSnapshotLongerThanAnnounced(t *testing.T) {
	near, far := streamPair()
	if err := near.Send(make([]byte, 11)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(&snapshotReader{s: far, left: 10, taken: make(chan struct{})}); !errors.Is(err, errTooLong) {
		t.Fatal(err)
	}
}

// Close fails what is under way and what comes later, and leaves no goroutine.
func TestCloseLeavesNothing(t *testing.T) {
	n := newNetwork(t)
	a, b := two(t, n)
	failed := make(chan error, 10)
	for range cap(failed) {
		go func() {
			failed <- a.RequestVote("b.1", "b.1", &raft.RequestVoteRequest{}, &raft.RequestVoteResponse{})
		}()
	}
	first := next(t, b) // handed over, and never answered
	a.t.Close()
	for range cap(failed) {
		if err := <-failed; !errors.Is(err, raft.ErrTransportShutdown) {
			t.Errorf("request under way at the end: %v", err)
		}
	}
	if err := a.RequestVote("b.1", "b.1", &raft.RequestVoteRequest{}, &raft.RequestVoteResponse{}); !errors.Is(err, raft.ErrTransportShutdown) {
		t.Errorf("request after the end: %v", err)
	}
	first.Respond(nil, nil)
	b.Close()
	b.t.Close()
	noGoroutines(t)
}
