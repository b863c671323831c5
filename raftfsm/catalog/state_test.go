package catalog

import (
	"slices"
	"testing"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
)

func TestReading(t *testing.T) {
	s, _ := example(t)
	v := s.VHost(DefaultVHost)
	node, shard, q, x := s.NodeByUUID("n"), s.Shard(0), v.Queue("q"), v.Exchange("x")
	if node == nil || s.Node(1) != node || node.Session() != q.OwnerSession || s.NodeByUUID("m") != nil {
		t.Errorf("node %+v", node)
	}
	if !slices.Equal(shard.Nodes, []uint16{1}) || len(slices.Collect(s.Shards())) != 1 || len(slices.Collect(s.Nodes())) != 1 {
		t.Errorf("shard %+v", shard)
	}
	if s.QueueByID(1) != q || !slices.Equal(slices.Collect(s.QueuesIn(0)), []*Queue{q}) || s.QueueCountIn(0) != 1 || s.QueueCountIn(1) != 0 || s.QueueCount() != 1 {
		t.Error("the queue is not found everywhere")
	}
	bindings := slices.Collect(v.Bindings())
	for name, got := range map[string][]*Binding{
		"from":    slices.Collect(v.BindingsFrom("x")),
		"to":      slices.Collect(v.BindingsToQueue("q")),
		"between": slices.Collect(v.BindingsBetween("x", "q", false)),
	} {
		if len(bindings) != 1 || !slices.Equal(got, bindings) {
			t.Errorf("bindings %s: %v, all: %v", name, got, bindings)
		}
	}
	if len(slices.Collect(v.BindingsBetween("amq.topic", "q", false)))+len(slices.Collect(v.BindingsBetween("x", "q", true)))+
		len(slices.Collect(v.BindingsToExchange("q"))) != 0 {
		t.Error("bindings that are not there")
	}
	p := s.Permission(DefaultUser, DefaultVHost)
	if p == nil || p.Configure != ".*" || s.Permission("u", DefaultVHost) != nil || s.Permission(DefaultUser, "v") != nil {
		t.Errorf("permission %+v", p)
	}
	if u := s.User(DefaultUser); u.PasswordHash != "h" || !slices.Equal(u.Tags, []string{"administrator"}) {
		t.Errorf("user %+v", u)
	}
	if s.ClusterID() != "c" || s.ShardCount() != 4 || s.Replication() != 3 || s.MachineVersion() != MachineVersion1 || s.Applied() != 6 {
		t.Error("the cluster is another")
	}

	// What was read before a change stays as it was.
	data, err := Encode(DeleteExchange(&raftv1.DeleteExchange{Vhost: "/", Name: "x"}))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Apply(s.Applied()+1, data); err != nil || v.Exchange("x") != nil {
		t.Fatal("the exchange is still there", err)
	}
	if x.Name != "x" || !x.AutoDelete || bindings[0].Source != "x" || len(slices.Collect(v.Bindings())) != 0 {
		t.Error("published things were changed")
	}
}
