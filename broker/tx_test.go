package broker_test

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/warrenmq/warren/broker"
	"github.com/warrenmq/warren/internal/amqptest"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// watched is a cluster that knows what was sent ahead and has no end, and the largest batch.
type watched struct {
	*amqptest.Cluster

	mu      sync.Mutex // guards what follows
	uploads map[uint64]queue.ShardID
	largest int
}

func watch(c *amqptest.Cluster) *watched {
	w := &watched{Cluster: c, uploads: map[uint64]queue.ShardID{}}
	c.Broker.Start(w)
	return w
}

func (w *watched) Submit(ctx context.Context, shard queue.ShardID, b *broker.Batch) error {
	data := append([]byte(nil), b.Data...) // b is not the caller's any more when it was submitted
	if err := w.Cluster.Submit(ctx, shard, b); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.largest = max(w.largest, len(data))
	for len(data) > 0 {
		payload := data[queue.CommandHeaderSize:][:binary.LittleEndian.Uint32(data[4:])]
		switch {
		case queue.Kind(data[0]) == queue.KindChunk:
			w.uploads[binary.LittleEndian.Uint64(payload)] = shard
		case queue.Kind(data[0]) == queue.KindEnqueue && data[1]&queue.EnqueueChunked != 0:
			delete(w.uploads, binary.LittleEndian.Uint64(payload[4:]))
		}
		data = data[queue.CommandHeaderSize+len(payload):]
	}
	return nil
}

func (w *watched) uploading() (n int, largest int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.uploads), w.largest
}

func declare(t *testing.T, ch *broker.Channel, name string) {
	t.Helper()
	if _, err := ch.DeclareQueue(t.Context(), &broker.QueueDeclare{Name: name}); err != nil {
		t.Fatal(err)
	}
}

func publishSize(ch *broker.Channel, name string, size int) error {
	return ch.Publish(context.Background(), &broker.Publish{RoutingKey: []byte(name), Properties: []byte{0, 0}, Body: make([]byte, size)})
}

// TestCommitThatFailsLeavesNoUploads: of two shards, one takes nothing while a transaction is committed. What was sent ahead for it
// has its end when the channel is closed; the other shard has its part.
func TestCommitThatFailsLeavesNoUploads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := amqptest.NewCluster(t, broker.Options{})
		w := watch(c)
		d, ch := openDoor(t, c)
		for _, name := range []string{"taken", "blocked"} {
			declare(t, ch, name)
		}
		if err := ch.TxSelect(); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			for _, name := range []string{"taken", "blocked"} {
				if err := publishSize(ch, name, 100_000); err != nil {
					t.Fatal(err)
				}
			}
		}
		if n, _ := w.uploading(); n != 4 {
			t.Fatalf("%d messages were sent ahead", n)
		}
		unblock := c.Block(c.Find("blocked").ID.Shard())
		if err := ch.TxCommit(t.Context()); !broker.IsKind(err, broker.Unavailable) {
			t.Fatalf("commit: %v", err)
		}
		unblock()
		ch.Close(t.Context())
		if n, _ := w.uploading(); n != 0 {
			t.Errorf("%d messages that were sent ahead have no end", n)
		}
		taken, blocked := c.Holds(c.Find("taken").ID), c.Holds(c.Find("blocked").ID)
		if taken.Ready != 3 || blocked.Ready != 0 {
			t.Errorf("%d messages in the shard that took its part, %d in the other", taken.Ready, blocked.Ready)
		}
		d.conn.Close(t.Context())
	})
}

// TestTransactionsAreBounded: what one commit makes an entry of is bounded.
func TestTransactionsAreBounded(t *testing.T) {
	for _, most := range []int{0, 1 << 20} {
		transactionsAreBounded(t, broker.Options{MaxTransactionBytes: most}, cmp.Or(most, 16<<20))
	}
}

func transactionsAreBounded(t *testing.T, o broker.Options, most int) {
	c := amqptest.NewCluster(t, o)
	w := watch(c)
	_, ch := openDoor(t, c)
	declare(t, ch, "q")
	if err := ch.TxSelect(); err != nil {
		t.Fatal(err)
	}
	published := uint64(0)
	publish := func(until int) (err error) {
		for sum := 0; sum < until && err == nil; sum += 4000 {
			err = publishSize(ch, "q", 4000)
			published++
		}
		return err
	}
	if err := publish(most * 9 / 10); err != nil {
		t.Fatal(err)
	}
	if err := ch.TxCommit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := c.Holds(c.Find("q").ID); n.Ready != published {
		t.Errorf("%d messages of %d", n.Ready, published)
	}
	if err := publish(2 * most); !broker.IsKind(err, broker.PreconditionFailed) || !strings.Contains(err.Error(), fmt.Sprintf("transaction holds more than %d bytes", most)) {
		t.Errorf("too large, and: %v", err)
	}
	if _, largest := w.uploading(); largest > most {
		t.Errorf("a batch of %d bytes", largest)
	}
}
