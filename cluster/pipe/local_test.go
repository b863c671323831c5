package pipe

import (
	"reflect"
	"testing"
	"testing/synctest"

	"github.com/warrenmq/warren/raftfsm/queue"
)

const localShard = queue.LocalShard | 1

// local is a local host with an edge and some queues; what lives in it is out with consumer 7 of the first, or ready in the others.
type local struct {
	t    *testing.T
	h    *Host
	edge *Edge
	ids  []queue.QueueID
}

func newLocal(t *testing.T, queues int) *local {
	h := must(NewLocalHost(LocalOptions{Shard: localShard, Logger: quiet}))
	n := &loopNode{host: h}
	l := &local{t: t, h: h, edge: must(NewEdge(EdgeOptions{Session: queue.MakeSessionID(1, 1), Links: n, Leaders: n, Hosts: n, Logger: quiet}))}
	for i := range queues {
		id := queue.MakeQueueID(localShard, uint64(i+1))
		l.ids = append(l.ids, id)
		l.do(func(b *queue.Batch) { b.Configure(id, &queue.Settings{}) })
	}
	l.edge.Subscribe(localShard, 7, ignore{})
	l.do(func(b *queue.Batch) { b.Attach(l.ids[0], 7, &queue.AttachOptions{Credit: 1 << 20}) })
	return l
}

func (l *local) close() {
	l.edge.Close()
	l.h.Close()
}

// do has a batch applied, and returns when all that follows has been done.
func (l *local) do(f func(b *queue.Batch)) {
	l.t.Helper()
	if _, err := do(l.t.Context(), l.edge, localShard, f); err != nil {
		l.t.Fatal(err)
	}
	synctest.Wait()
}

func (l *local) publish(octets int, ids ...queue.QueueID) {
	l.t.Helper()
	l.do(func(b *queue.Batch) {
		mark := b.BeginEnqueue(ids, &queue.EnqueueOptions{})
		b.Data = append(b.Data, make([]byte, octets)...)
		b.EndEnqueue(mark)
	})
}

// get takes a message, the getter's nth, and settles it.
func (l *local) get(id queue.QueueID, n uint64) {
	l.t.Helper()
	l.do(func(b *queue.Batch) { b.Get(id, 8) })
	l.do(func(b *queue.Batch) { b.Settle(8, queue.Ack, queue.Range{From: n, To: n}) })
}

// TestLocalMemoryIsGivenBack: what is gone from a node's own queues leaves its memory though nothing new comes, as with a memory alarm.
func TestLocalMemoryIsGivenBack(t *testing.T) {
	const messages, octets = 512, 128 << 10
	for name, end := range map[string]func(l *local){
		"purged":  func(l *local) { l.do(func(b *queue.Batch) { b.Purge(l.ids[1]) }) },
		"deleted": func(l *local) { l.do(func(b *queue.Batch) { b.Delete(l.ids[1], false, false) }) },
		"consumed": func(l *local) {
			for id := uint64(1); id <= messages; id++ {
				l.do(func(b *queue.Batch) { b.Settle(7, queue.Ack, queue.Range{From: id, To: id}) })
			}
		},
		"got": func(l *local) {
			for id := uint64(1); id <= messages; id++ {
				l.get(l.ids[1], id)
			}
		},
		"given up with its upload": func(l *local) {
			l.do(func(b *queue.Batch) {
				b.EndEnqueue(b.BeginEnqueue([]queue.QueueID{queue.MakeQueueID(localShard, 0)}, &queue.EnqueueOptions{Upload: 5}))
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLocal(t, 2)
				defer l.close()
				for range messages {
					switch name {
					case "consumed":
						l.publish(octets, l.ids[0])
					case "given up with its upload":
						l.do(func(b *queue.Batch) { b.Chunk(5, make([]byte, octets)) })
					default:
						l.publish(octets, l.ids[1])
					}
				}
				if held := l.h.Held(); held < messages*octets {
					t.Fatalf("%d octets are held", held)
				}
				end(l)
				if held := l.h.Held(); held > sweepAtLeast {
					t.Errorf("%d octets are held at the end", held)
				}
			})
		})
	}
}

// TestLocalSweepsAreFew: a backlog that goes one by one is swept a few times, though more than half of each entry lives until its last
// message is gone; also when that is in several queues.
func TestLocalSweepsAreFew(t *testing.T) {
	const entries, octets = 512, 64 << 10
	for name, others := range map[string]uint64{"one queue": 1, "several queues": 4} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLocal(t, 1+int(others))
				defer l.close()
				for range entries {
					l.do(func(b *queue.Batch) {
						for i, ids := range [][]queue.QueueID{l.ids[:1], l.ids[1:]} {
							mark := b.BeginEnqueue(ids, &queue.EnqueueOptions{})
							b.Data = append(b.Data, make([]byte, (1+i)*octets)...)
							b.EndEnqueue(mark)
						}
					})
				}
				l.do(func(b *queue.Batch) { b.Settle(7, queue.Ack, queue.Range{From: 1, To: entries}) })
				sweeps, last := 0, reflect.ValueOf(l.h.local.entries).Pointer()
				for n := range others * entries {
					l.get(l.ids[1+n/entries], n+1)
					if now := reflect.ValueOf(l.h.local.entries).Pointer(); now != last { // each makes another map
						sweeps, last = sweeps+1, now
					}
				}
				if sweeps > 10 {
					t.Errorf("swept %d times", sweeps)
				}
				if held := l.h.Held(); held > sweepAtLeast {
					t.Errorf("%d octets are held at the end", held)
				}
			})
		})
	}
}
