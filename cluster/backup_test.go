package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warrenmq/warren/backup"
	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm/catalog"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// propose makes changes of the catalog.
func (m *member) propose(cmds ...*catalog.Command) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	for _, cmd := range cmds {
		if _, err := m.Propose(ctx, cmd); err != nil {
			m.t.Fatal(err)
		}
	}
}

// declare makes a queue with its name.
func (m *member) declare(id queue.QueueID, s queue.Settings) {
	m.t.Helper()
	s.VHost, s.Durable = "/", true
	m.do(id.Shard(), func(b *queue.Batch) { b.Configure(id, &s) })
	m.propose(catalog.AddQueue(&raftv1.AddQueue{Vhost: "/", Name: s.Name, Id: uint64(id), Durable: true}))
}

// publish puts one message into queues of a shard.
func (m *member) publish(body string, o queue.EnqueueOptions, ids ...queue.QueueID) {
	m.t.Helper()
	m.do(ids[0].Shard(), func(b *queue.Batch) {
		mark := b.BeginEnqueue(ids, &o)
		b.Data = append(b.Data, body...)
		b.EndEnqueue(mark)
	})
}

// takeBackup takes a backup through a node, a shard again when its part broke off.
func takeBackup(t *testing.T, m *member, on func(shard queue.ShardID, octets int64)) (data []byte, tries int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	var f bytes.Buffer
	w := backup.NewWriter(&f)
	var shards int
	m.ReadCatalog(func(s *catalog.State) { shards = s.ShardCount() })
	for part := -1; part < shards; part++ {
		at, err := w.Flush()
		must(t, err)
		for {
			tries++
			reader, writer := io.Pipe()
			go func() {
				if part < 0 {
					writer.CloseWithError(m.BackupCatalog(ctx, writer))
				} else {
					writer.CloseWithError(m.BackupShard(ctx, queue.ShardID(part), &watched{w: writer, on: func(n int64) {
						if on != nil {
							on(queue.ShardID(part), n)
						}
					}}))
				}
			}()
			err := w.Append(reader, nil)
			reader.Close()
			if err == nil {
				break
			}
			if tries > 20 {
				t.Fatal(err)
			}
			t.Logf("part %d: %v", part, err)
			f.Truncate(int(at.Written))
			w.Return(at)
		}
	}
	_, err := w.Close()
	must(t, err)
	return f.Bytes(), tries
}

type watched struct {
	w  io.Writer
	n  int64
	on func(n int64)
}

func (w *watched) Write(b []byte) (int, error) {
	w.n += int64(len(b))
	w.on(w.n)
	return w.w.Write(b)
}

// kept is a message in a backup.
type kept struct {
	body       string
	persistent bool
	backup.Place
}

// contents is a backup by the names of its queues.
type contents struct {
	messages map[string][]kept
	settings map[string]queue.Settings
	catalog  []string
}

func read(t *testing.T, data []byte) contents {
	t.Helper()
	c := contents{map[string][]kept{}, map[string]queue.Settings{}, nil}
	names := map[uint64]string{}
	r := backup.NewReader(bytes.NewReader(data))
	var message backup.Message
	var body []byte
	end := func() {
		for _, p := range message.Places {
			name := names[p.Queue]
			p.Queue = 0
			c.messages[name] = append(c.messages[name], kept{string(body), message.Persistent, p})
		}
		message, body = backup.Message{}, nil
	}
	for {
		record, err := r.Next()
		if errors.Is(err, io.EOF) {
			slices.Sort(c.catalog)
			return c
		}
		must(t, err)
		switch record := record.(type) {
		case backup.Catalog:
			cmd, err := catalog.RestoreCommand(record)
			must(t, err)
			if q := cmd.GetAddQueue(); q != nil {
				names[q.Id] = q.Name
				q.Id = 0
			}
			c.catalog = append(c.catalog, strings.ReplaceAll(cmd.String(), "  ", " ")) // protobuf's texts have random spaces
		case *backup.Queue:
			settings, err := queue.ParseSettings(record.Settings)
			must(t, err)
			if names[record.ID] != "" {
				c.settings[names[record.ID]] = *settings
			}
		case *backup.Message:
			end()
			message = *record
			message.Places = slices.Clone(record.Places)
		case backup.Piece:
			body = append(body, record...)
		case *backup.ShardEnd:
			end()
		}
	}
}

// numbers are the bodies of a queue that are numbers, which must come in their order; the rest of a body is passed over.
func numbers(t *testing.T, list []kept) (n []int) {
	t.Helper()
	for _, m := range list {
		var i int
		if _, err := fmt.Sscanf(m.body, "%d", &i); err == nil {
			if len(n) > 0 && n[len(n)-1]+1 != i {
				t.Fatalf("%d follows %d", i, n[len(n)-1])
			}
			n = append(n, i)
		}
	}
	return n
}

// TestBackup backs three nodes up while clients publish and settle, and a leader is lost in the middle of its shard; what was
// confirmed before is in it, in order, and comes back in a cluster of one node and in one of three with other shards.
func TestBackup(t *testing.T) {
	const shards, first = 3, 1000
	members := startMembersOf(t, 3, shards)
	m := members[0]
	filler := strings.Repeat("x", 6000) // a shard is more than a connection has under way
	var flow []queue.QueueID
	for shard := range queue.ShardID(shards) {
		id := queue.MakeQueueID(shard, 1)
		m.declare(id, queue.Settings{Name: fmt.Sprintf("flow-%d", shard)})
		flow = append(flow, id)
	}
	var confirmed [shards]atomic.Int64
	publish := func(i, n int) {
		m.do(flow[i].Shard(), func(b *queue.Batch) {
			for range n {
				mark := b.BeginEnqueue([]queue.QueueID{flow[i]}, &queue.EnqueueOptions{Persistent: true})
				b.Data = fmt.Appendf(b.Data, "%d %s", confirmed[i].Load(), filler)
				b.EndEnqueue(mark)
				confirmed[i].Add(1)
			}
		})
	}
	for i := range flow {
		for range first / 100 {
			publish(i, 100)
		}
	}
	others(t, m)
	stop, work := make(chan struct{}), sync.WaitGroup{}
	for i := range flow {
		work.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
					publish(i, 5)
				}
			}
		})
	}
	var before [shards]int64
	for i := range flow { // publish has answered for at least these
		before[i] = confirmed[i].Load() - 5
	}
	// The first shard that another node leads loses its leader; wait until there is one.
	eventually(t, "another node leads a shard", func() bool {
		return slices.ContainsFunc(flow, func(id queue.QueueID) bool { n, ok := m.leaders.Leader(id.Shard()); return ok && n != m.Self().Node })
	})
	var losing sync.Once
	stopped := make(chan struct{})
	data, tries := takeBackup(t, m, func(shard queue.ShardID, n int64) {
		leader, _ := m.leaders.Leader(shard)
		if n < 200<<10 || leader == m.Self().Node {
			return
		}
		losing.Do(func() {
			for _, other := range members[1:] {
				if other.Self().Node == leader {
					other.stop()
				}
			}
			close(stopped)
		})
	})
	<-stopped
	close(stop)
	work.Wait()
	if tries <= shards+1 {
		t.Errorf("%d octets in %d parts: none broke off", len(data), tries)
	}
	got := read(t, data)
	for i := range flow {
		n := numbers(t, got.messages[fmt.Sprintf("flow-%d", i)])
		if len(n) < int(before[i]) || n[0] != 0 {
			t.Errorf("shard %d: %d messages, %d were confirmed before", i, len(n), before[i])
		}
	}
	_, _, err := backup.Verify(bytes.NewReader(data))
	must(t, err)
	for _, nodes := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d nodes", nodes), func(t *testing.T) { restoreInto(t, nodes, data, got) })
	}
}

// others makes one of everything that a backup has.
func others(t *testing.T, m *member) {
	t.Helper()
	m.propose(
		catalog.CreateVHost(&raftv1.CreateVHost{Name: "other", Description: "another vhost"}),
		catalog.PutUser(&raftv1.PutUser{Name: "anna", PasswordHash: "a hash", Tags: []string{"administrator"}}),
		catalog.SetPermission(&raftv1.SetPermission{Vhost: "other", User: "anna", Configure: ".*", Write: "w", Read: "r"}),
		catalog.DeclareExchange(&raftv1.DeclareExchange{Vhost: "/", Name: "topics", Type: "topic", Durable: true}),
		catalog.DeclareExchange(&raftv1.DeclareExchange{Vhost: "/", Name: "fan", Type: "fanout", Durable: true}),
		catalog.DeleteUser(&raftv1.DeleteUser{Name: "guest"}),
	)
	id := func(n uint64) queue.QueueID { return queue.MakeQueueID(2, n) }
	m.declare(id(10), queue.Settings{Name: "priorities", MaxPriority: 5})
	m.declare(id(11), queue.Settings{Name: "full", HasMaxLength: true, MaxLength: 2, RejectPublish: true, HasDeliveryLimit: true, DeliveryLimit: 20})
	m.declare(id(12), queue.Settings{Name: "brief", HasMessageTTL: true, MessageTTL: 3_600_000, Expires: 7_200_000})
	m.declare(id(13), queue.Settings{Name: "empty"})
	m.propose(
		catalog.Bind(&raftv1.Bind{Vhost: "/", Source: "topics", Destination: "full", RoutingKey: "a.*"}),
		catalog.Bind(&raftv1.Bind{Vhost: "/", Source: "topics", Destination: "fan", ToExchange: true, RoutingKey: "#"}),
		catalog.AddQueue(&raftv1.AddQueue{Vhost: "/", Name: "gone", Id: uint64(id(99)), Durable: true}), // its shard does not have it
		catalog.Bind(&raftv1.Bind{Vhost: "/", Source: "fan", Destination: "gone"}),
	)
	m.do(2, func(b *queue.Batch) { b.Configure(id(98), &queue.Settings{VHost: "/", Name: "without a name"}) })
	m.publish("nobody's", queue.EnqueueOptions{}, id(98))
	m.publish("low", queue.EnqueueOptions{}, id(10))
	m.publish("high", queue.EnqueueOptions{HasPriority: true, Priority: 5, Persistent: true}, id(10))
	m.publish("both", queue.EnqueueOptions{HasPriority: true, Priority: 2}, id(10), id(11), id(98))
	m.publish(strings.Repeat("middling", 20_000), queue.EnqueueOptions{}, id(10)) // longer than a batch
	m.do(2, func(b *queue.Batch) {
		for i := range 5 {
			b.Chunk(777, bytes.Repeat([]byte{'a' + byte(i)}, 100_000))
		}
		b.EndEnqueue(b.BeginEnqueue([]queue.QueueID{id(10), id(12)}, &queue.EnqueueOptions{Upload: 777}))
	})
	m.publish("expiring", queue.EnqueueOptions{HasTTL: true, TTLMillis: 1_800_000}, id(12))
	// Two are out, one of them for the second time, and two are ready: more than the limit when the first come back.
	m.publish("second", queue.EnqueueOptions{}, id(11))
	m.do(2, func(b *queue.Batch) { b.Get(id(11), 55) })
	m.do(2, func(b *queue.Batch) { b.Settle(55, queue.RejectRequeue, queue.Range{From: 1, To: 1}) })
	m.do(2, func(b *queue.Batch) { b.Get(id(11), 55); b.Get(id(11), 55) })
	m.publish("third", queue.EnqueueOptions{}, id(11))
	m.publish("fourth", queue.EnqueueOptions{}, id(11))
}

// restoreInto restores into a cluster that begins, and compares what that has with the backup.
func restoreInto(t *testing.T, nodes int, data []byte, want contents) {
	shards := 3
	if nodes > 1 {
		shards = 5
	}
	members := startMembersOf(t, nodes, shards)
	m := members[len(members)-1]
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	damaged := bytes.Clone(data)
	damaged[len(damaged)-100] ^= 1
	if _, err := m.Restore(ctx, bytes.NewReader(damaged)); err == nil || !strings.Contains(err.Error(), "nothing was restored; it can be tried again") {
		t.Fatalf("a damaged backup: %v", err)
	}
	if err := m.CheckEmpty(); err != nil {
		t.Fatal(err)
	}
	for _, s := range m.shards() {
		eventually(t, "what a failed restore made is gone", func() bool { return len(s.host.Queues()) == 0 })
	}
	done, err := m.Restore(ctx, bytes.NewReader(data))
	must(t, err)
	total := uint64(0)
	for name, list := range want.messages {
		if name != "" {
			total += uint64(len(list))
		}
	}
	if want := (Restored{Queues: 7, Messages: total, Out: 2, Deleted: 1, Later: 1}); done != want {
		t.Errorf("restored %+v, wanted %+v", done, want)
	}
	if _, err := m.Restore(ctx, bytes.NewReader(data)); err == nil || !strings.Contains(err.Error(), "this one holds") {
		t.Errorf("a second restore: %v", err)
	}
	again, _ := takeBackup(t, members[0], nil)
	got := read(t, again)
	delete(want.messages, "")
	if len(got.messages) != len(want.messages) {
		t.Errorf("%d queues with messages, wanted %d", len(got.messages), len(want.messages))
	}
	for name, list := range want.messages {
		compareMessages(t, name, got.messages[name], list)
	}
	delete(want.settings, "")
	if !reflect.DeepEqual(got.settings, want.settings) {
		t.Errorf("settings %+v\nwanted %+v", got.settings, want.settings)
	}
	left := slices.DeleteFunc(slices.Clone(want.catalog), func(line string) bool { return strings.Contains(line, `"gone"`) })
	if !slices.Equal(got.catalog, left) {
		t.Errorf("catalog\n%s\nwanted\n%s", strings.Join(got.catalog, "\n"), strings.Join(left, "\n"))
	}
}

// compareMessages compares what a queue has with what it had: what was out is ready and redelivered, and expires when it would have.
func compareMessages(t *testing.T, name string, got, want []kept) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s has %d messages, wanted %d", name, len(got), len(want))
		return
	}
	for i := range got {
		g, w := got[i], want[i]
		if w.Out {
			w.Out = false
			w.Acquired++
		}
		if late := g.Expiry - w.Expiry; w.Expiry != 0 && late > -1000 && late < time.Minute.Milliseconds() {
			g.Expiry = w.Expiry
		}
		if g != w {
			t.Errorf("%s, message %d: %.40q %+v, wanted %.40q %+v", name, i, g.body, g.Place, w.body, w.Place)
		}
	}
}

// TestRestoreAfterACutOffOne finds queues that a restore made which its node did not survive.
func TestRestoreAfterACutOffOne(t *testing.T) {
	m := startMembersOf(t, 1, 2)[0]
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	data, _ := takeBackup(t, m, nil)
	for shard := range queue.ShardID(2) {
		id := queue.MakeQueueID(shard, 5)
		m.do(shard, func(b *queue.Batch) { b.Configure(id, &queue.Settings{VHost: "/", Name: "left over"}) })
		m.enqueue(id, 3, "left over")
	}
	r := newRestorer(m.Cluster, ctx)
	r.orphanPause = time.Millisecond
	if _, err := r.run(bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	for _, s := range m.shards() {
		if n := len(s.host.Queues()); n != 0 {
			t.Errorf("shard %d still has %d queues", s.id, n)
		}
	}
}

// TestRestoreWaitsForRoom: an alarm holds a restore up, and ends it when it lasts.
func TestRestoreWaitsForRoom(t *testing.T) {
	source := startMembersOf(t, 1, 1)[0]
	source.declare(queue.MakeQueueID(0, 3), queue.Settings{Name: "q"})
	source.enqueue(queue.MakeQueueID(0, 3), 3, "body")
	data, _ := takeBackup(t, source, nil)
	members := newMembers(t, 1, 1)
	m := members[0]
	var left atomic.Int64 // how often the answer is that there is an alarm
	m.o.Resources = func() Resources {
		if left.Add(-1) >= 0 {
			return Resources{Alarm: "low on disk"}
		}
		return Resources{}
	}
	startAll(t, members)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	left.Store(1 << 40)
	r := newRestorer(m.Cluster, ctx)
	r.patience = time.Millisecond
	if _, err := r.run(bytes.NewReader(data)); err == nil || !strings.Contains(err.Error(), "low on disk; nothing was restored; it can be tried again") {
		t.Fatalf("%v", err)
	}
	if n := len(m.shards()[0].host.Queues()); n != 0 {
		t.Errorf("%d queues are left", n)
	}
	left.Store(5)
	if done, err := m.Restore(ctx, bytes.NewReader(data)); err != nil || done.Messages != 3 {
		t.Errorf("%+v, %v", done, err)
	}
}

// TestRestoreRefuses: whatever a backup could bring is in the way.
func TestRestoreRefuses(t *testing.T) {
	m := startMembersOf(t, 1, 1)[0]
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	m.exchange("x")
	if _, err := m.Restore(ctx, os.Stdin); err == nil || !strings.Contains(err.Error(), "exchange 'x' in vhost '/'") {
		t.Errorf("%v", err)
	}
	m.propose(catalog.DeleteExchange(&raftv1.DeleteExchange{Vhost: "/", Name: "x"}))
	m.declare(queue.MakeQueueID(0, 3), queue.Settings{Name: "q"})
	if _, err := m.Restore(ctx, os.Stdin); err == nil || !strings.Contains(err.Error(), "queue 'q' in vhost '/'") {
		t.Errorf("%v", err)
	}
}

// held is a backup that stops in its middle until it is released.
type held struct {
	parts   [2]*bytes.Reader
	reached chan struct{} // closed when all of the first part was read
	release chan struct{}
}

func hold(data []byte, at int) *held {
	return &held{[2]*bytes.Reader{bytes.NewReader(data[:at]), bytes.NewReader(data[at:])}, make(chan struct{}), make(chan struct{})}
}

func (h *held) Read(b []byte) (int, error) {
	if n, err := h.parts[0].Read(b); err == nil {
		return n, nil
	}
	select {
	case <-h.reached:
	default:
		close(h.reached)
	}
	<-h.release
	return h.parts[1].Read(b)
}

// small is a backup of one queue with messages of random octets, which no reader has before the end is near.
func small(t *testing.T, messages int) []byte {
	source := startMembersOf(t, 1, 1)[0]
	source.declare(queue.MakeQueueID(0, 3), queue.Settings{Name: "q"})
	for range messages {
		body := make([]byte, 60_000)
		rand.Read(body)
		source.publish(string(body), queue.EnqueueOptions{Persistent: true}, queue.MakeQueueID(0, 3))
	}
	data, _ := takeBackup(t, source, nil)
	source.stop()
	return data
}

// restoring is a restore that is under way, and has put a part of a backup into the shards.
func (m *member) restoring(ctx context.Context, data []byte) (release chan struct{}, end func() (Restored, error)) {
	h := hold(data, len(data)*3/4)
	ended := make(chan struct{})
	var done Restored
	var err error
	go func() {
		done, err = m.Restore(ctx, h)
		close(ended)
	}()
	select {
	case <-h.reached:
	case <-ended:
		m.t.Fatalf("a restore ended before its backup: %+v, %v", done, err)
	}
	return h.release, func() (Restored, error) { <-ended; return done, err }
}

// messagesNamed is how many messages the queue has that the catalog names "q".
func messagesNamed(t *testing.T, m *member) uint64 {
	t.Helper()
	data, _ := takeBackup(t, m, nil)
	return uint64(len(read(t, data).messages["q"]))
}

// TestOneRestoreInACluster has a second restore ask through another node while one is under way, and after one whose node was started again.
func TestOneRestoreInACluster(t *testing.T) {
	const messages = 20
	data := small(t, messages)
	members := startMembersOf(t, 2, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	again := func() error {
		r := newRestorer(members[1].Cluster, ctx)
		r.orphanPause = time.Millisecond
		_, err := r.run(bytes.NewReader(data))
		return err
	}
	release, first := members[0].restoring(ctx, data)
	if err := again(); err == nil || !strings.Contains(err.Error(), "another restore is under way, through node ") {
		t.Errorf("a second restore: %v", err)
	}
	members[0].stop()
	must(t, members[0].start())
	must(t, again())
	close(release)
	if done, err := first(); err == nil {
		t.Errorf("a restore whose node has stopped: %+v", done)
	}
	if n := messagesNamed(t, members[0]); n != messages {
		t.Errorf("%d messages of %d", n, messages)
	}
}

// TestRestoreThatLostItsClaim: while a restore is under way, its node is away for so long that the others end what is exclusive to it. Another
// restore may have begun, and is about to remove what this one made.
func TestRestoreThatLostItsClaim(t *testing.T) {
	const messages = 20
	data := small(t, messages)
	members := startMembersOf(t, 2, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	release, first := members[0].restoring(ctx, data)
	members[1].propose(catalog.SessionOver(&raftv1.SessionOver{Session: uint64(members[0].Self().Session)})) // as the catalog's leader does
	close(release)
	if done, err := first(); err == nil || !strings.Contains(err.Error(), "another restore could begin; nothing was restored; it can be tried again") {
		t.Fatalf("a restore without its claim: %+v, %v", done, err)
	}
	if _, err := members[1].Restore(ctx, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	if n := messagesNamed(t, members[0]); n != messages {
		t.Errorf("%d messages of %d", n, messages)
	}
}

// TestRestoreOfAQueueThatGoes removes a restore's queue while it is filled: it must not come back without what it had.
func TestRestoreOfAQueueThatGoes(t *testing.T) {
	data := small(t, 20)
	m := startMembersOf(t, 1, 1)[0]
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	release, end := m.restoring(ctx, data)
	eventually(t, "it makes its queue", func() bool { return len(m.shard(0).host.Queues()) == 1 })
	id := m.shard(0).host.Queues()[0]
	m.do(0, func(b *queue.Batch) { b.Delete(id, false, false) })
	close(release)
	if done, err := end(); err == nil || !strings.Contains(err.Error(), "a queue was removed while it was filled; nothing was restored") {
		t.Errorf("%+v, %v", done, err)
	}
}
