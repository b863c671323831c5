package pipe

import (
	"context"
	"sync"
	"testing"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// loopLog commits what it is given at once, on a goroutine of its own, and keeps the latest entries for reading.
type loopLog struct {
	host     *Host
	proposed chan []byte

	mu   sync.Mutex
	last uint64
	kept [1 << 14][]byte
	tail uint64 // the oldest kept
	held int
}

func newLoop(edgeNode uint16) (*loopLog, *Host) {
	l := &loopLog{proposed: make(chan []byte, 16)}
	h := must(NewHost(HostOptions{Shard: 1, State: queue.New(), Bodies: l, Log: l, Logger: quiet,
		VerifyRead: func(context.Context) (uint64, error) { return 0, nil }}))
	l.host = h
	go l.run()
	h.Lead(1, 0)
	return l, h
}

func (l *loopLog) run() {
	var entries []Entry
	for e := range l.proposed {
		entries = entries[:0]
		l.mu.Lock()
		for {
			l.last++
			l.keep(e)
			entries = append(entries, Entry{l.last, e})
			if len(l.proposed) == 0 {
				break
			}
			e = <-l.proposed
		}
		l.mu.Unlock()
		if err := l.host.ApplyBatch(entries); err != nil {
			panic(err)
		}
	}
}

// keep keeps the entry and forgets what is older than the last 32 MiB.
func (l *loopLog) keep(e []byte) {
	l.kept[l.last%uint64(len(l.kept))] = e
	for l.held += len(e); l.held > 32<<20; l.tail++ {
		old := &l.kept[l.tail%uint64(len(l.kept))]
		l.held -= len(*old)
		*old = nil
	}
}

func (l *loopLog) Propose(_ uint64, entry []byte) error {
	l.proposed <- entry
	return nil
}

func (l *loopLog) ReadBody(index uint64, offset, size uint32, _ []byte) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.kept[index%uint64(len(l.kept))][offset : offset+size], nil
}

// loopNode is Links, Leaders and Hosts for one or two nodes in this process; the host is on node 1.
type loopNode struct {
	host   *Host
	server *Server
}

func (n *loopNode) Leader(queue.ShardID) (uint16, bool) { return 1, true }
func (n *loopNode) Host(queue.ShardID) *Host            { return n.host }
func (n *loopNode) Open(context.Context, uint16) (Link, error) {
	edge, server := newLinkPair()
	go n.server.Serve(context.Background(), moving{server})
	return moving{edge}, nil
}
func (n *loopNode) Call(ctx context.Context, _ uint16, request []byte) ([]byte, error) {
	return n.server.Call(ctx, request)
}

// moving is a link that does not copy frames.
type moving struct{ *worldLink }

func (m moving) Send(frame []byte) error {
	select {
	case m.out <- frame:
		return nil
	case <-m.closed:
		return errCut
	}
}

func BenchmarkLoopback(b *testing.B) {
	_, h := newLoop(1)
	n := &loopNode{host: h}
	edge := must(NewEdge(EdgeOptions{Session: queue.MakeSessionID(1, 1), Links: n, Leaders: n, Hosts: n, Logger: quiet}))
	benchmarkEdge(b, edge)
	edge.Close()
	h.Close()
}

func BenchmarkLink(b *testing.B) {
	_, h := newLoop(2)
	far := &loopNode{host: h}
	near := &loopNode{server: must(NewServer(ServerOptions{Hosts: far, Logger: quiet}))}
	edge := must(NewEdge(EdgeOptions{Session: queue.MakeSessionID(2, 1), Links: near, Leaders: near, Hosts: near, Logger: quiet}))
	benchmarkEdge(b, edge)
	edge.Close()
	h.Close()
}

func BenchmarkLocalShard(b *testing.B) {
	const shard = queue.LocalShard | 1
	h := must(NewLocalHost(LocalOptions{Shard: shard, Logger: quiet}))
	n := &loopNode{host: h}
	edge := must(NewEdge(EdgeOptions{Session: queue.MakeSessionID(1, 1), Links: n, Leaders: n, Hosts: n, Logger: quiet}))
	benchmarkShard(b, edge, shard)
	edge.Close()
	h.Close()
}

func benchmarkEdge(b *testing.B, edge *Edge) { benchmarkShard(b, edge, 1) }

// benchmarkShard publishes messages of 1 KiB in batches of 32 and consumes them, reading their envelopes.
func benchmarkShard(b *testing.B, edge *Edge, shard queue.ShardID) {
	const size, perBatch = 1024, 32
	ctx := b.Context()
	c := newClients(b, queue.MakeQueueID(shard, 1))
	c.declare(ctx, edge)
	k := &counting{edge: edge, shard: shard, id: 7, inbox: make(chan []broker.Delivery, 1024), ahead: make(chan struct{}, 128)}
	edge.Subscribe(shard, 7, k)
	if _, err := do(ctx, edge, shard, func(b *queue.Batch) { b.Attach(c.id, 7, &queue.AttachOptions{Credit: 2000}) }); err != nil {
		b.Fatal(err)
	}
	body := make([]byte, size)
	var pool sync.Pool
	var wg sync.WaitGroup
	total := (b.N + perBatch - 1) / perBatch * perBatch
	wg.Go(func() { k.run(ctx, total) })
	b.ReportAllocs()
	b.SetBytes(size)
	b.ResetTimer()
	for range total / perBatch {
		k.ahead <- struct{}{}
		batch, _ := pool.Get().(*broker.Batch)
		if batch == nil {
			batch = &broker.Batch{Done: func(b *broker.Batch, _ []queue.Result) { b.Reset(); pool.Put(b) }}
		}
		for range perBatch {
			mark := batch.BeginEnqueue([]queue.QueueID{c.id}, &queue.EnqueueOptions{})
			batch.Data = append(batch.Data, body...)
			batch.EndEnqueue(mark)
		}
		if err := edge.Submit(ctx, shard, batch); err != nil {
			b.Fatal(err)
		}
	}
	wg.Wait()
}

// counting is a consumer that reads and acknowledges runs of deliveries.
type counting struct {
	edge  *Edge
	shard queue.ShardID
	id    queue.ConsumerID
	inbox chan []broker.Delivery
	ahead chan struct{} // one for each batch published and not consumed
}

func (k *counting) Deliver(ds []broker.Delivery) {
	k.inbox <- append([]broker.Delivery(nil), ds...)
}

func (k *counting) Cancelled() { panic("cancelled") }

func (k *counting) run(ctx context.Context, total int) {
	for got := 0; got < total; {
		ds := <-k.inbox
		for i := range ds {
			if b, err := k.edge.Envelope(ctx, &ds[i]); err != nil || len(b) != 1024 {
				panic(err)
			}
		}
		for before := got / 32; before < (got+len(ds))/32; before++ {
			<-k.ahead
		}
		got += len(ds)
		b := &broker.Batch{Done: func(*broker.Batch, []queue.Result) {}}
		b.Settle(k.id, queue.Ack, queue.Range{From: ds[0].ID, To: ds[len(ds)-1].ID})
		if err := k.edge.Submit(ctx, k.shard, b); err != nil {
			panic(err)
		}
	}
}
