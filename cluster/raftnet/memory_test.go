package raftnet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// patience bounds what should happen at once; it is only ever waited out by a test that fails.
const patience = 30 * time.Second

// largestFrame is what a stream takes at most, as package peer has it.
const largestFrame = 64 << 20

var (
	errCut   = errors.New("the network is cut")
	errLarge = errors.New("the frame is too large")
)

// memoryStream is one end of a stream in memory, with a small buffer as a connection has.
type memoryStream struct {
	in, out chan []byte
	ended   chan struct{} // shared by both ends
	once    *sync.Once
	mute    *atomic.Bool // shared; what is sent is lost
	reading atomic.Bool  // Recv is for one goroutine at a time
	sending atomic.Bool  // and so is Send
}

func streamPair() (*memoryStream, *memoryStream) {
	a, b, ended, once, mute := make(chan []byte, 4), make(chan []byte, 4), make(chan struct{}), new(sync.Once), new(atomic.Bool)
	return &memoryStream{in: a, out: b, ended: ended, once: once, mute: mute}, &memoryStream{in: b, out: a, ended: ended, once: once, mute: mute}
}

func (s *memoryStream) Send(parts ...[]byte) error {
	if s.sending.Swap(true) {
		panic("two goroutines send to one stream")
	}
	defer s.sending.Store(false)
	select {
	case <-s.ended:
		return io.ErrClosedPipe
	default:
	}
	frame := bytes.Join(parts, nil)
	if len(frame) > largestFrame {
		s.Close()
		return errLarge
	}
	if s.mute.Load() {
		return nil
	}
	select {
	case s.out <- frame:
		return nil
	case <-s.ended:
		return io.ErrClosedPipe
	}
}

func (s *memoryStream) Recv() ([]byte, error) {
	if s.reading.Swap(true) {
		panic("two goroutines receive from one stream")
	}
	defer s.reading.Store(false)
	select {
	case b := <-s.in:
		return b, nil
	case <-s.ended:
		return nil, io.EOF
	}
}

func (s *memoryStream) Close() { s.once.Do(func() { close(s.ended) }) }

// network joins the transports of several nodes in memory.
type network struct {
	t       *testing.T
	timeout time.Duration
	ctx     context.Context
	serving sync.WaitGroup

	mu      sync.Mutex // guards what follows
	nodes   map[string]*Transport
	cut     map[string]bool
	streams map[string][]Stream // by the nodes at both ends
	opened  int                 // streams opened
	refused map[string]int      // attempts to open a stream to or from a node that is cut off
}

func newNetwork(t *testing.T) *network {
	ctx, cancel := context.WithCancel(context.Background())
	n := &network{t: t, timeout: patience, ctx: ctx, nodes: map[string]*Transport{}, cut: map[string]bool{}, streams: map[string][]Stream{}, refused: map[string]int{}}
	t.Cleanup(func() {
		n.mu.Lock()
		nodes := n.nodes
		n.mu.Unlock()
		for _, node := range nodes {
			node.Close()
		}
		cancel()
		n.serving.Wait()
	})
	return n
}

// join makes the transport of a node.
func (n *network) join(uuid string) *Transport {
	t := New(Options{Logger: slog.New(slog.DiscardHandler), Timeout: n.timeout, Open: func(_ context.Context, to string, bulk bool) (Stream, error) {
		return n.open(uuid, to, bulk)
	}})
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nodes[uuid] = t
	return t
}

func (n *network) open(from, to string, bulk bool) (Stream, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cut[from] || n.cut[to] {
		n.refused[from]++
		return nil, errCut
	}
	node := n.nodes[to]
	if node == nil {
		return nil, errors.New("no such node")
	}
	n.opened++
	near, far := streamPair()
	n.streams[from] = append(n.streams[from], near)
	n.streams[to] = append(n.streams[to], near)
	n.serving.Go(func() {
		if bulk {
			node.ServeBulk(n.ctx, far)
		} else {
			node.Serve(n.ctx, far)
		}
	})
	return near, nil
}

// isolate cuts a node off, with all streams that it has.
func (n *network) isolate(uuid string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[uuid], n.refused[uuid] = true, 0
	for _, s := range n.streams[uuid] {
		s.Close()
	}
	n.streams[uuid] = nil
}

// hush loses what is sent on the newest stream from here on.
func (n *network) hush(uuid string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.streams[uuid][len(n.streams[uuid])-1].(*memoryStream).mute.Store(true)
}

func (n *network) heal(uuid string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[uuid] = false
}

// attempts tells how often a node that is cut off has tried to reach another.
func (n *network) attempts(uuid string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.refused[uuid]
}

func (n *network) opens() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.opened
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

// noGoroutines waits until none runs in this package's code any more but the tests themselves.
func noGoroutines(t *testing.T) {
	t.Helper()
	stacks := ""
	defer func() {
		if t.Failed() {
			t.Log(stacks)
		}
	}()
	eventually(t, "no goroutine is left", func() bool {
		b := make([]byte, 1<<20)
		stacks = string(b[:runtime.Stack(b, true)])
		for _, s := range strings.Split(stacks, "\n\n") {
			if strings.Contains(s, "raftnet.") && !strings.Contains(s, "testing.tRunner") && !strings.Contains(s, "testing.(*M)") {
				return false
			}
		}
		return true
	})
}

// next gives the next request of a group, as its main loop would take it.
func next(t *testing.T, g *Group) raft.RPC {
	t.Helper()
	select {
	case rpc := <-g.Consumer():
		return rpc
	case <-time.After(patience):
		t.Fatal("no request came out of Consumer")
		return raft.RPC{}
	}
}

// answerAll answers the requests of a group until it is closed.
func answerAll(g *Group, answer func(raft.RPC) (any, error)) {
	for {
		select {
		case rpc := <-g.Consumer():
			rpc.Respond(answer(rpc))
		case <-g.life.Done():
			return
		}
	}
}
