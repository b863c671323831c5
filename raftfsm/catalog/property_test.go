package catalog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"testing"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm"
	"github.com/warrenmq/warren/raftfsm/queue"
	"google.golang.org/protobuf/encoding/protowire"
	"pgregory.net/rapid"
)

// randomCommand draws commands over few names, so that they meet.
func randomCommand(t *rapid.T) *Command {
	small := rapid.Uint32Range(0, 3)
	name := func(names ...string) string { return rapid.SampledFrom(names).Draw(t, "name") }
	flag := func() bool { return rapid.Bool().Draw(t, "flag") }
	vhost := func() string { return name("/", "/", "/", "v") }
	exchange := func() string { return name("a", "b", "c", "d", "amq.topic", "") }
	id := func() uint64 {
		return uint64(queue.MakeQueueID(queue.ShardID(small.Draw(t, "shard")), uint64(small.Draw(t, "id"))+1))
	}
	session := func() uint64 {
		return uint64(queue.MakeSessionID(uint16(small.Draw(t, "node")), uint64(small.Draw(t, "run"))))
	}
	bind := func() *raftv1.Bind {
		m := &raftv1.Bind{Vhost: vhost(), Source: exchange(), ToExchange: flag(), RoutingKey: name("", "k", "#")}
		m.Destination = name("q", "r", "s")
		if m.ToExchange {
			m.Destination = exchange()
		}
		if flag() {
			m.Arguments = &raftv1.Table{Fields: []*raftv1.Field{{Key: "a", Value: integerFromGo('I', int64(small.Draw(t, "value")))}}}
		}
		return m
	}
	switch rapid.IntRange(0, 27).Draw(t, "command") {
	case 0:
		return RegisterNode(&raftv1.RegisterNode{Uuid: name("n1", "n2", "n3"), MachineVersion: LatestMachineVersion,
			Alive: rapid.SliceOf(small).Draw(t, "alive")})
	case 1:
		return RemoveNode(&raftv1.RemoveNode{Number: small.Draw(t, "node")})
	case 2:
		return SessionOver(&raftv1.SessionOver{Session: session(), Connection: uint64(small.Draw(t, "connection"))})
	case 3:
		return SetReplicas(&raftv1.SetReplicas{Shards: []*raftv1.ShardReplicas{{Shard: small.Draw(t, "shard"),
			Nodes: rapid.SliceOf(small).Draw(t, "nodes"), PreviousVersion: uint64(small.Draw(t, "version"))}}})
	case 4:
		return CreateVHost(&raftv1.CreateVHost{Name: vhost()})
	case 5:
		return DeleteVHost(&raftv1.DeleteVHost{Name: vhost()})
	case 6:
		return PutUser(&raftv1.PutUser{Name: name("u", "guest", ""), PasswordHash: name("h", "i")})
	case 7:
		return DeleteUser(&raftv1.DeleteUser{Name: name("u", "guest")})
	case 8:
		return SetPermission(&raftv1.SetPermission{Vhost: vhost(), User: name("u", "guest"), Read: name("", ".*")})
	case 9:
		return ClearPermission(&raftv1.ClearPermission{Vhost: vhost(), User: name("u", "guest")})
	case 10, 11, 12:
		return DeclareExchange(&raftv1.DeclareExchange{Vhost: vhost(), Name: exchange(), Type: name("direct", "topic", "x-no"), Durable: flag(), AutoDelete: flag()})
	case 13:
		return DeleteExchange(&raftv1.DeleteExchange{Vhost: vhost(), Name: exchange(), IfUnused: flag()})
	case 14, 15, 16, 17:
		m := &raftv1.AddQueue{Vhost: vhost(), Name: name("q", "r", "s"), Id: id(), Durable: flag()}
		if flag() {
			m.OwnerSession, m.OwnerConnection = session(), uint64(small.Draw(t, "connection"))
		}
		return AddQueue(m)
	case 18:
		return DeleteQueue(&raftv1.DeleteQueue{Ids: []uint64{id(), id()}})
	case 19:
		m := bind()
		return Unbind(&raftv1.Unbind{Vhost: m.Vhost, Source: m.Source, Destination: m.Destination, ToExchange: m.ToExchange,
			RoutingKey: m.RoutingKey, Arguments: m.Arguments})
	case 20:
		return AdmitNode(&raftv1.AdmitNode{Uuid: name("n1", "n3", "n4"), Name: name("a", "b"), MachineVersion: LatestMachineVersion, Replaces: small.Draw(t, "replaces")})
	case 21:
		return SetLeaving(&raftv1.SetLeaving{Number: small.Draw(t, "node"), Leaving: flag()})
	case 22:
		return RecoverCluster(&raftv1.RecoverCluster{FormerId: name("c", "c2"), ClusterId: name("c2", "c3"), Uuid: name("n5", "n6"), Name: "a",
			MachineVersion: LatestMachineVersion, LastNode: small.Draw(t, "last"), LostShards: []uint32{small.Draw(t, "lost")}})
	}
	return Bind(bind())
}

// mirror is what somebody knows who sees the changes alone.
type mirror struct {
	vhosts    map[string]bool
	exchanges map[string]*Exchange
	queues    map[string]*Queue
	bindings  map[string]*Binding
}

func newMirror() *mirror {
	return &mirror{map[string]bool{}, map[string]*Exchange{}, map[string]*Queue{}, map[string]*Binding{}}
}

// apply follows a change, and panics where an order could not be acted on: things come after what they need, and go
// before it.
func (m *mirror) apply(c Change) {
	must := func(ok bool) {
		if !ok {
			panic(fmt.Sprintf("change %d is out of order: %s", c.Kind, showChange(c)))
		}
	}
	at := func(name string) string { return c.VHost + "\x00" + name }
	ends := func(b *Binding) (source, destination bool) {
		destination = m.queues[at(b.Destination)] != nil
		if b.ToExchange {
			destination = m.exchanges[at(b.Destination)] != nil
		}
		return m.exchanges[at(b.Source)] != nil, destination
	}
	unbound := func(is func(*Binding) bool) {
		for _, b := range m.bindings {
			must(b.VHost != c.VHost || !is(b))
		}
	}
	switch c.Kind {
	case VHostAdded:
		must(!m.vhosts[c.VHost])
		m.vhosts[c.VHost] = true
	case VHostRemoved:
		must(m.vhosts[c.VHost])
		delete(m.vhosts, c.VHost)
		for _, x := range m.exchanges {
			must(x.VHost != c.VHost)
		}
		for _, q := range m.queues {
			must(q.VHost != c.VHost)
		}
	case ExchangeAdded:
		must(m.vhosts[c.VHost] && m.exchanges[at(c.Exchange.Name)] == nil)
		m.exchanges[at(c.Exchange.Name)] = c.Exchange
	case ExchangeRemoved:
		must(m.exchanges[at(c.Exchange.Name)] == c.Exchange)
		delete(m.exchanges, at(c.Exchange.Name))
		unbound(func(b *Binding) bool {
			return b.Source == c.Exchange.Name || b.ToExchange && b.Destination == c.Exchange.Name
		})
	case QueueAdded:
		must(m.vhosts[c.VHost] && m.queues[at(c.Queue.Name)] == nil)
		m.queues[at(c.Queue.Name)] = c.Queue
	case QueueRemoved:
		must(m.queues[at(c.Queue.Name)] == c.Queue)
		delete(m.queues, at(c.Queue.Name))
		unbound(func(b *Binding) bool { return !b.ToExchange && b.Destination == c.Queue.Name })
	case BindingAdded:
		source, destination := ends(c.Binding)
		must(source && destination && m.bindings[at(showBinding(c.Binding))] == nil)
		m.bindings[at(showBinding(c.Binding))] = c.Binding
	case BindingRemoved:
		source, destination := ends(c.Binding)
		must(source && destination && m.bindings[at(showBinding(c.Binding))] != nil)
		delete(m.bindings, at(showBinding(c.Binding)))
	}
}

func mirrorOf(changes []Change) *mirror {
	m := newMirror()
	for _, c := range changes {
		m.apply(c)
	}
	return m
}

func (m *mirror) String() string {
	var all []string
	for v := range m.vhosts {
		all = append(all, "vhost "+v)
	}
	for _, x := range m.exchanges {
		all = append(all, x.VHost+" exchange "+showExchange(x))
	}
	for _, q := range m.queues {
		all = append(all, q.VHost+" queue "+showQueue(q))
	}
	for _, b := range m.bindings {
		all = append(all, b.VHost+" binding "+showBinding(b))
	}
	slices.Sort(all)
	return fmt.Sprint(all)
}

// checkIndexes holds the state's indexes against one another.
func checkIndexes(t *rapid.T, s *State) {
	inShards, owned, queues := 0, 0, 0
	for _, set := range s.inShard {
		inShards += len(set)
	}
	for owner, set := range s.owned {
		owned += len(set)
		if s.isOver(owner) {
			t.Fatalf("run %x is over and owns queues", owner)
		}
	}
	for v := range s.VHosts() {
		from, to := 0, 0
		for x, set := range v.from {
			from += len(set)
			if v.exchanges[x] == nil || len(set) == 0 {
				t.Fatalf("bindings from %q, which is not there", x)
			}
		}
		for _, set := range v.to {
			to += len(set)
		}
		if from != len(v.bindings) || to != len(v.bindings) {
			t.Fatalf("%d bindings, %d by source, %d by destination", len(v.bindings), from, to)
		}
		for q := range v.Queues() {
			queues++
			if q.Exclusive() {
				owned--
			}
			if s.QueueByID(q.ID) != q || s.inShard[q.ID.Shard()][q.ID] != q {
				t.Fatalf("queue %q is not found by id", q.Name)
			}
		}
	}
	if inShards != queues || len(s.queues) != queues || owned != 0 {
		t.Fatalf("%d queues, %d by id, %d in shards, %d owned too many", queues, len(s.queues), inShards, owned)
	}
}

func TestProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		log := [][]byte{}
		s, seen := New(), newMirror()
		cut := rapid.IntRange(0, 60).Draw(t, "cut")
		var image []byte
		commands := append([]*Command{
			CreateCluster(&raftv1.CreateCluster{ClusterId: "c", Shards: 4, Replication: 3}),
			RegisterNode(&raftv1.RegisterNode{Uuid: "n1", MachineVersion: LatestMachineVersion}),
			RegisterNode(&raftv1.RegisterNode{Uuid: "n2", MachineVersion: LatestMachineVersion, Alive: []uint32{1}}),
		}, rapid.SliceOfN(rapid.Custom(randomCommand), 0, 60).Draw(t, "commands")...)
		for i, cmd := range commands {
			if i == cut {
				image = snapshotBytes(t, s)
			}
			data, err := Encode(cmd)
			if err != nil {
				t.Fatal(err)
			}
			log = append(log, data)
			before := snapshotBytes(t, s)
			reply, changes, err := s.Apply(uint64(i)+1, data)
			if err != nil {
				t.Fatal(err)
			}
			if reply.Err != nil || len(changes) == 0 {
				// The index alone has moved, and with it the checksum.
				after := snapshotBytes(t, s)
				if !bytes.Equal(before[headerSize:len(before)-4], after[headerSize:len(after)-4]) || len(changes) > 0 {
					t.Fatalf("refused (%v), and yet changed: %v", reply.Err, cmd)
				}
			}
			for _, c := range changes {
				seen.apply(c)
			}
			checkIndexes(t, s)
		}
		if got, want := seen.String(), mirrorOf(s.Changes()).String(); got != want {
			t.Fatalf("changes tell\n%s\nthe state is\n%s", got, want)
		}
		whole := snapshotBytes(t, s)
		if again := snapshotBytes(t, replay(t, New(), log)); !bytes.Equal(whole, again) {
			t.Fatal("a replay gives another state")
		}
		if image != nil {
			restored, err := Restore(bytes.NewReader(image))
			if err != nil {
				t.Fatal(err)
			}
			if tail := snapshotBytes(t, replay(t, restored, log[cut:])); !bytes.Equal(whole, tail) {
				t.Fatal("snapshot and tail give another state than the whole log")
			}
		}
	})
}

func snapshotBytes(t *rapid.T, s *State) []byte {
	var b bytes.Buffer
	if _, err := s.Snapshot().WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func replay(t *rapid.T, s *State, log [][]byte) *State {
	for _, data := range log {
		if _, _, err := s.Apply(s.Applied()+1, data); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// example returns a state with one thing of each kind, and the commands that made it.
func example(t testing.TB) (*State, [][]byte) {
	s := New()
	var log [][]byte
	for _, cmd := range []*Command{
		CreateCluster(&raftv1.CreateCluster{ClusterId: "c", Shards: 4, Replication: 3, GuestPasswordHash: "h"}),
		RegisterNode(&raftv1.RegisterNode{Uuid: "n", MachineVersion: LatestMachineVersion}),
		SetReplicas(&raftv1.SetReplicas{Shards: []*raftv1.ShardReplicas{{Nodes: []uint32{1}}}}),
		DeclareExchange(&raftv1.DeclareExchange{Vhost: "/", Name: "x", Type: "headers", AutoDelete: true}),
		AddQueue(&raftv1.AddQueue{Vhost: "/", Name: "q", Id: 1, OwnerSession: 1<<48 | 1, OwnerConnection: 3}),
		Bind(&raftv1.Bind{Vhost: "/", Source: "x", Destination: "q", RoutingKey: "\xff", Arguments: mustTable(t, map[string]any{"a": []any{"b"}})}),
	} {
		data, err := Encode(cmd)
		if err != nil {
			t.Fatal(err)
		}
		log = append(log, data)
		if reply, _, err := s.Apply(s.Applied()+1, data); err != nil || reply.Err != nil {
			t.Fatal(err, reply.Err)
		}
	}
	return s, log
}

func TestApplyStops(t *testing.T) {
	s, log := example(t)
	before := snapshotOf(t, s)
	unknownField := protowire.AppendVarint(protowire.AppendTag(slices.Clone(log[4]), 99, protowire.VarintType), 1)
	nested := protowire.AppendTag(nil, 22, protowire.BytesType) // AddQueue with a field 50
	nested = protowire.AppendBytes(nested, protowire.AppendVarint(protowire.AppendTag(nil, 50, protowire.VarintType), 1))
	for name, data := range map[string][]byte{"empty": {}, "garbage": {0xff, 0xff}, "unknown field": unknownField, "unknown nested field": nested} {
		if _, _, err := s.Apply(s.Applied()+1, data); err == nil {
			t.Errorf("%s is applied", name)
		}
	}
	if _, _, err := s.Apply(s.Applied(), log[0]); err == nil {
		t.Error("an index is applied twice")
	}
	later := New()
	data, err := Encode(SetMachineVersion(&raftv1.SetMachineVersion{Version: LatestMachineVersion + 1}))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := later.Apply(1, data); err == nil {
		t.Error("a machine version of the future is applied")
	}
	if !bytes.Equal(before, snapshotOf(t, s)) {
		t.Error("an error changed the state")
	}
}

func TestOldNodesStayOut(t *testing.T) {
	s := New()
	data, err := Encode(RegisterNode(&raftv1.RegisterNode{Uuid: "n", MachineVersion: MachineVersion1 - 1}))
	if err != nil {
		t.Fatal(err)
	}
	if reply, _, err := s.Apply(1, data); err != nil || reply.Err == nil || reply.Err.Kind != raftfsm.PreconditionFailed {
		t.Fatal(reply, err)
	}
}

func TestRestoreFindsDamage(t *testing.T) {
	s, _ := example(t)
	data := snapshotOf(t, s)
	for i := range data {
		if _, err := Restore(bytes.NewReader(data[:i])); err == nil {
			t.Fatalf("cut at %d of %d is restored", i, len(data))
		}
		damaged := slices.Clone(data)
		damaged[i] ^= 4
		if _, err := Restore(bytes.NewReader(damaged)); err == nil {
			t.Fatalf("a flipped bit at %d of %d is restored", i, len(data))
		}
	}
}

func TestSnapshotIsPinned(t *testing.T) {
	s, log := example(t)
	sn := s.Snapshot()
	before := snapshotOf(t, s)
	data, err := Encode(DeleteVHost(&raftv1.DeleteVHost{Name: "/"}))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Apply(uint64(len(log))+1, data); err != nil {
		t.Fatal(err)
	}
	var after bytes.Buffer
	if _, err := sn.WriteTo(&after); err != nil || !bytes.Equal(before, after.Bytes()) {
		t.Errorf("the snapshot moved on (%v)", err)
	}
}

func FuzzApply(f *testing.F) {
	_, log := example(f)
	for _, data := range log {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, _ := example(t)
		before := hashOf(t, s)
		reply, changes, err := s.Apply(100, data)
		if (err != nil || reply.Err != nil) && (hashOf(t, s) != before || len(changes) > 0) {
			t.Fatalf("changed in spite of %v %v", err, reply.Err)
		}
		checkRestored(t, s)
	})
}

func FuzzRestore(f *testing.F) {
	s, _ := example(f)
	data := snapshotOf(f, s)
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		// Give the input a right checksum, or nothing behind it would be reached.
		if len(data) > headerSize+8 {
			data = binary.LittleEndian.AppendUint32(data[:len(data)-4:len(data)-4], crc32.Checksum(data[:len(data)-4], castagnoli()))
		}
		if s, err := Restore(bytes.NewReader(data)); err == nil {
			checkRestored(t, s)
		}
	})
}

func BenchmarkSnapshot(b *testing.B) {
	s, _ := example(b)
	for i := range 100_000 {
		q := &Queue{VHost: "/", Name: fmt.Sprint("queue-", i), ID: queue.MakeQueueID(1, uint64(i)+10), Durable: true}
		v := s.VHost("/")
		s.putQueue(v, q)
		v.putBinding(newBinding(&raftv1.Bind{Vhost: "/", Source: "amq.topic", Destination: q.Name, RoutingKey: q.Name}))
	}
	b.Run("pin", func(b *testing.B) {
		for b.Loop() {
			s.Snapshot()
		}
	})
	b.Run("write", func(b *testing.B) {
		for b.Loop() {
			snapshotOf(b, s)
		}
	})
	data := snapshotOf(b, s)
	b.Run("restore", func(b *testing.B) {
		for b.Loop() {
			if _, err := Restore(bytes.NewReader(data)); err != nil {
				b.Fatal(err)
			}
		}
	})
}
