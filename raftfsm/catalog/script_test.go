package catalog

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm"
	"github.com/warrenmq/warren/raftfsm/queue"
)

var rewrite = flag.Bool("rewrite", false, "write what happens into testdata instead of comparing")

// TestScripts runs testdata/*.txt: blocks of a command, "----", and what comes of it. Every state on the way must
// survive a snapshot.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { runScript(t, file) })
	}
}

func runScript(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s, got := New(), strings.Builder{}
	for i, block := range strings.Split(strings.TrimSpace(string(text)), "\n\n") {
		input, want, _ := strings.Cut(block, "\n----\n")
		input = strings.TrimSuffix(input, "\n----")
		out := ""
		for line := range strings.Lines(input) {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				out += step(t, s, line)
			}
		}
		out = strings.TrimSpace(out)
		if strings.TrimSpace(want) != out && !*rewrite {
			t.Errorf("%s, block %d\n%s\n---- got\n%s\n---- want\n%s", file, i+1, input, out, want)
		}
		fmt.Fprintf(&got, "%s\n----\n%s\n\n", input, out)
		checkRestored(t, s)
	}
	if *rewrite {
		if err := os.WriteFile(file, []byte(strings.TrimSpace(got.String())+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func step(t *testing.T, s *State, line string) string {
	word, rest, _ := strings.Cut(line, " ")
	a := parseArguments(rest)
	switch word {
	case "bindings":
		return list(s.VHost(a.or("vhost", "/")).Bindings(), showBinding)
	case "queues":
		return list(s.VHost(a.or("vhost", "/")).Queues(), showQueue)
	case "exchanges":
		return list(s.VHost(a.or("vhost", "/")).Exchanges(), showExchange)
	}
	data, err := Encode(a.command(t, word))
	if err != nil {
		return fmt.Sprintf("not encodable: %v\n", err)
	}
	before := hashOf(t, s)
	reply, changes, err := s.Apply(s.Applied()+1, data)
	if err != nil {
		return fmt.Sprintf("stop: %v\n", err)
	}
	if reply.Err != nil {
		if len(changes) > 0 || hashOf(t, s) != before {
			t.Errorf("%s: a refusal changed the state", line)
		}
	}
	return showReply(reply) + "\n" + list(slices.Values(changes), showChange)
}

func list[T any](things func(func(T) bool), show func(T) string) string {
	out := ""
	for thing := range things {
		out += "  " + show(thing) + "\n"
	}
	return out
}

func hashOf(t testing.TB, s *State) [32]byte {
	h, err := s.Hash()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func snapshotOf(t testing.TB, s *State) []byte {
	var b bytes.Buffer
	if n, err := s.Snapshot().WriteTo(&b); err != nil || n != int64(b.Len()) {
		t.Fatalf("wrote %d of %d bytes: %v", n, b.Len(), err)
	}
	return b.Bytes()
}

func checkRestored(t testing.TB, s *State) *State {
	data := snapshotOf(t, s)
	restored, err := Restore(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(snapshotOf(t, restored), data) || restored.Applied() != s.Applied() || hashOf(t, restored) != hashOf(t, s) {
		t.Fatal("a restored state differs")
	}
	return restored
}

// arguments are the words of a command: key=value, or a flag.
type arguments map[string]string

func parseArguments(text string) arguments {
	a := arguments{}
	for _, word := range strings.Fields(text) {
		key, value, _ := strings.Cut(word, "=")
		a[key] = strings.NewReplacer("_", " ", "EMPTY", "", "LONG", strings.Repeat("n", 256)).Replace(value)
	}
	return a
}

func (a arguments) or(key, fallback string) string {
	if v, ok := a[key]; ok {
		return v
	}
	return fallback
}

func (a arguments) is(key string) bool { _, ok := a[key]; return ok }

func (a arguments) number(key string) uint64 {
	n, _ := strconv.ParseUint(a[key], 10, 64)
	return n
}

func (a arguments) numbers(key string) (ns []uint32) {
	for _, word := range strings.FieldsFunc(a[key], func(r rune) bool { return r == ',' }) {
		n, _ := strconv.ParseUint(word, 10, 32)
		ns = append(ns, uint32(n))
	}
	return ns
}

// pair reads "a.b".
func (a arguments) pair(key string) (uint64, uint64) {
	x, y, _ := strings.Cut(a[key], ".")
	m, _ := strconv.ParseUint(x, 10, 64)
	n, _ := strconv.ParseUint(y, 10, 64)
	return m, n
}

func (a arguments) session(key string) uint64 {
	if !a.is(key) {
		return 0
	}
	node, run := a.pair(key)
	return uint64(queue.MakeSessionID(uint16(node), run))
}

func (a arguments) id() uint64 {
	shard, n := a.pair("id")
	return uint64(queue.MakeQueueID(queue.ShardID(shard), n))
}

// table reads the words "@name:type=value".
func (a arguments) table() *raftv1.Table {
	t := &raftv1.Table{}
	for word, value := range a {
		name, kind, _ := strings.Cut(word, ":")
		if name[0] != '@' {
			continue
		}
		t.Fields = append(t.Fields, &raftv1.Field{Key: name[1:], Value: parseValue(kind, value)})
	}
	return canonical(t)
}

func parseValue(kind, text string) *raftv1.Value {
	switch kind {
	case "t":
		return &raftv1.Value{WireType: 't', Value: &raftv1.Value_Boolean{Boolean: text == "true"}}
	case "d":
		n, _ := strconv.ParseFloat(text, 64)
		return &raftv1.Value{WireType: 'd', Value: &raftv1.Value_Floating{Floating: n}}
	case "S":
		return textFromGo(text)
	case "A":
		v, _ := arrayFromGo([]any{text, int32(1)}, 1)
		return v
	}
	n, _ := strconv.ParseInt(text, 10, 64)
	return integerFromGo(uint32(kind[0]), n)
}

func (a arguments) command(t *testing.T, word string) *Command {
	vhost := a.or("vhost", "/")
	switch word {
	case "create-cluster":
		return CreateCluster(&raftv1.CreateCluster{ClusterId: a.or("id", "c"), Shards: uint32(a.number("shards")), Replication: 3, GuestPasswordHash: "hash"})
	case "register":
		c := RegisterNode(&raftv1.RegisterNode{Uuid: a["uuid"], Name: "node-" + a["uuid"], Alive: a.numbers("alive"), MachineVersion: LatestMachineVersion})
		c.TimeMillis = int64(a.number("time"))
		return c
	case "admit":
		return AdmitNode(&raftv1.AdmitNode{Uuid: a["uuid"], Name: a["name"], MachineVersion: LatestMachineVersion, Replaces: uint32(a.number("replaces"))})
	case "leaving":
		return SetLeaving(&raftv1.SetLeaving{Number: uint32(a.number("number")), Leaving: a.number("off") == 0, Others: uint32(a.number("others"))})
	case "remove-node":
		return RemoveNode(&raftv1.RemoveNode{Number: uint32(a.number("number"))})
	case "session-over":
		return SessionOver(&raftv1.SessionOver{Session: a.session("session"), Connection: a.number("connection")})
	case "place":
		return SetReplicas(&raftv1.SetReplicas{Shards: []*raftv1.ShardReplicas{{Shard: uint32(a.number("shard")), Nodes: a.numbers("nodes"),
			Preferred: uint32(a.number("preferred")), PreviousVersion: a.number("previous")}}})
	case "recover":
		m := &raftv1.RecoverCluster{FormerId: a["former"], ClusterId: a["id"], Uuid: a["uuid"], Name: "node-" + a["uuid"],
			MachineVersion: LatestMachineVersion, LastNode: uint32(a.number("last")), LostShards: a.numbers("lost")}
		c := RecoverCluster(m)
		c.TimeMillis = int64(a.number("time"))
		return c
	case "machine-version":
		return SetMachineVersion(&raftv1.SetMachineVersion{Version: uint32(a.number("version"))})
	case "create-vhost":
		return CreateVHost(&raftv1.CreateVHost{Name: a["name"]})
	case "delete-vhost":
		return DeleteVHost(&raftv1.DeleteVHost{Name: a["name"]})
	case "put-user":
		return PutUser(&raftv1.PutUser{Name: a["name"], PasswordHash: a["hash"], Tags: strings.Fields(a["tags"])})
	case "delete-user":
		return DeleteUser(&raftv1.DeleteUser{Name: a["name"]})
	case "set-permission":
		return SetPermission(&raftv1.SetPermission{Vhost: vhost, User: a["user"], Configure: a["configure"], Write: a["write"], Read: a["read"]})
	case "clear-permission":
		return ClearPermission(&raftv1.ClearPermission{Vhost: vhost, User: a["user"]})
	case "exchange":
		return DeclareExchange(&raftv1.DeclareExchange{Vhost: vhost, Name: a["name"], Type: a.or("type", "direct"), Durable: a.is("durable"),
			AutoDelete: a.is("auto"), Internal: a.is("internal"), Arguments: a.table()})
	case "delete-exchange":
		return DeleteExchange(&raftv1.DeleteExchange{Vhost: vhost, Name: a["name"], IfUnused: a.is("if-unused")})
	case "queue":
		return AddQueue(&raftv1.AddQueue{Vhost: vhost, Name: a["name"], Id: a.id(), Durable: a.is("durable"), AutoDelete: a.is("auto"),
			OwnerSession: a.session("owner"), OwnerConnection: a.number("connection"), Arguments: a.table()})
	case "delete-queue":
		return DeleteQueue(&raftv1.DeleteQueue{Ids: []uint64{a.id()}})
	case "bind":
		return Bind(&raftv1.Bind{Vhost: vhost, Source: a["source"], Destination: a["to"], ToExchange: a.is("exchange"), RoutingKey: a["key"], Arguments: a.table()})
	case "unbind":
		return Unbind(&raftv1.Unbind{Vhost: vhost, Source: a["source"], Destination: a["to"], ToExchange: a.is("exchange"), RoutingKey: a["key"], Arguments: a.table()})
	}
	t.Fatalf("unknown command %q", word)
	return nil
}

func showReply(r Reply) string {
	out := "ok"
	if r.Err != nil {
		out = kindName(r.Err.Kind) + ": " + r.Err.Text
	}
	if r.Node != 0 {
		out += fmt.Sprintf(" node=%d run=%d", r.Node, r.Run)
	}
	if r.Queue != nil {
		out += " has " + showQueue(r.Queue)
	}
	if r.Exchange != nil {
		out += " has " + showExchange(r.Exchange)
	}
	return out
}

func kindName(k raftfsm.Kind) string {
	return [...]string{"internal", "not found", "access refused", "locked", "precondition failed", "not allowed", "not implemented",
		"resource error", "unavailable", "exists"}[k]
}

func showChange(c Change) string {
	names := map[ChangeKind]string{ClusterChanged: "cluster", NodeChanged: "node", NodeRemoved: "-node", ShardChanged: "shard",
		VHostAdded: "+vhost", VHostRemoved: "-vhost", UserChanged: "user", PermissionChanged: "permission", ExchangeAdded: "+exchange",
		ExchangeRemoved: "-exchange", QueueAdded: "+queue", QueueRemoved: "-queue", BindingAdded: "+binding", BindingRemoved: "-binding"}
	out := names[c.Kind]
	if c.VHost != "" && c.VHost != "/" || c.Kind == VHostAdded {
		out += " " + c.VHost
	}
	switch {
	case c.Exchange != nil:
		return out + " " + showExchange(c.Exchange)
	case c.Queue != nil:
		return out + " " + showQueue(c.Queue)
	case c.Binding != nil:
		return out + " " + showBinding(c.Binding)
	case c.Node != nil:
		out += fmt.Sprintf(" %d %s run %d since %d", c.Node.Number, c.Node.Name, c.Node.Run, c.Node.StartedAt)
		if c.Node.Leaving {
			out += " leaving"
		}
		return out
	case c.Shard != nil:
		return out + fmt.Sprintf(" %d version %d on %v, %d preferred", c.Shard.ID, c.Shard.Version, c.Shard.Nodes, c.Shard.Preferred)
	}
	return strings.TrimSpace(out + " " + c.User)
}

func showExchange(x *Exchange) string {
	out := fmt.Sprintf("%q %s", x.Name, x.Kind)
	if x.Durable {
		out += " durable"
	}
	if x.AutoDelete {
		out += " auto"
	}
	if x.Internal {
		out += " internal"
	}
	if x.Alternate != "" {
		out += " else " + x.Alternate
	}
	return out
}

func showQueue(q *Queue) string {
	out := fmt.Sprintf("%q %d.%d", q.Name, q.ID.Shard(), uint64(q.ID)&(1<<48-1))
	if q.Durable {
		out += " durable"
	}
	if q.AutoDelete {
		out += " auto"
	}
	if q.Exclusive() {
		out += fmt.Sprintf(" of %d.%d/%d", q.OwnerSession.Node(), uint64(q.OwnerSession)&(1<<48-1), q.OwnerConnection)
	}
	return out
}

func showBinding(b *Binding) string {
	kind := "queue"
	if b.ToExchange {
		kind = "exchange"
	}
	out := fmt.Sprintf("%s -> %s %s key %q", b.Source, kind, b.Destination, b.Key)
	if b.Arguments != nil {
		out += " " + term(&raftv1.Value{Value: &raftv1.Value_Table{Table: b.Arguments}})
	}
	return out
}
