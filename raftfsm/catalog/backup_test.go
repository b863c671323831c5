package catalog

import (
	"slices"
	"strings"
	"testing"

	raftv1 "github.com/warrenmq/warren/proto/raft/v1"
	"github.com/warrenmq/warren/raftfsm/queue"
)

// applied makes a state of commands, none of which may be refused.
func applied(t *testing.T, s *State, cmds ...*Command) *State {
	t.Helper()
	for _, cmd := range cmds {
		data, err := Encode(cmd)
		if err != nil {
			t.Fatal(err)
		}
		reply, _, err := s.Apply(s.Applied()+1, data)
		if err != nil {
			t.Fatal(err)
		}
		if reply.Err != nil {
			t.Fatalf("%v: %v", cmd, reply.Err)
		}
	}
	return s
}

// TestBackup takes a catalog through a backup into another cluster's: what belongs to the cluster or to a connection stays behind.
func TestBackup(t *testing.T) {
	begin := []*Command{
		CreateCluster(&raftv1.CreateCluster{ClusterId: "c", Shards: 2, Replication: 3, GuestPasswordHash: "x"}),
		RegisterNode(&raftv1.RegisterNode{Uuid: "u", Name: "n", MachineVersion: 1}),
	}
	s := applied(t, New(), begin...)
	if what := s.Occupied(); what != "" {
		t.Errorf("a cluster that begins holds %s", what)
	}
	owner := uint64(queue.MakeSessionID(1, 1))
	applied(t, s,
		CreateVHost(&raftv1.CreateVHost{Name: "other"}),
		PutUser(&raftv1.PutUser{Name: "anna", PasswordHash: "y", Tags: []string{"administrator"}}),
		SetPermission(&raftv1.SetPermission{Vhost: "other", User: "anna", Configure: "c", Write: "w", Read: "r"}),
		DeclareExchange(&raftv1.DeclareExchange{Vhost: "/", Name: "x", Type: "fanout"}),
		AddQueue(&raftv1.AddQueue{Vhost: "/", Name: "kept", Id: 7}),
		AddQueue(&raftv1.AddQueue{Vhost: "/", Name: "own", Id: uint64(queue.MakeQueueID(queue.LocalShard|1, 8)), OwnerSession: owner, OwnerConnection: 1}),
		Bind(&raftv1.Bind{Vhost: "/", Source: "x", Destination: "kept"}),
		Bind(&raftv1.Bind{Vhost: "/", Source: "x", Destination: "own"}),
		Bind(&raftv1.Bind{Vhost: "/", Source: "amq.topic", Destination: "x", ToExchange: true, RoutingKey: "#"}),
	)
	list := func(s *State) (records []string) {
		if err := s.Snapshot().Backup(func(r []byte) error { records = append(records, string(r)); return nil }); err != nil {
			t.Fatal(err)
		}
		return records
	}
	records := list(s)
	other := applied(t, New(), begin...)
	for _, r := range records {
		cmd, err := RestoreCommand([]byte(r))
		if err != nil {
			t.Fatal(err)
		}
		if v := cmd.GetCreateVhost(); v == nil || v.Name != DefaultVHost {
			applied(t, other, cmd)
		}
	}
	if got := list(other); !slices.Equal(got, records) {
		t.Errorf("%q\nwanted\n%q", got, records)
	}
	if text := strings.Join(records, "|"); strings.Contains(text, "own") || !strings.Contains(text, "kept") {
		t.Errorf("%q", records)
	}
	if got := other.Unnamed([]queue.QueueID{7, 9}); !slices.Equal(got, []queue.QueueID{9}) {
		t.Errorf("unnamed: %v", got)
	}
	applied(t, other, AddQueue(&raftv1.AddQueue{Vhost: "/", Name: RestoreClaim, Id: uint64(queue.MakeQueueID(queue.LocalShard|1, 9)), OwnerSession: owner}))
	for _, want := range []string{"queue 'kept' in vhost '/'", "exchange 'x' in vhost '/'", "a binding from exchange 'amq.topic' in vhost '/'", "vhost 'other'", ""} {
		if got := other.Occupied(); got != want {
			t.Errorf("occupied by %q, wanted %q", got, want)
		}
		switch {
		case strings.HasPrefix(want, "queue"):
			applied(t, other, DeleteQueue(&raftv1.DeleteQueue{Ids: []uint64{7}}))
		case strings.HasPrefix(want, "exchange"):
			applied(t, other, DeleteExchange(&raftv1.DeleteExchange{Vhost: "/", Name: "x"}), DeclareExchange(&raftv1.DeclareExchange{Vhost: "/", Name: "y", Type: "fanout"}),
				Bind(&raftv1.Bind{Vhost: "/", Source: "amq.topic", Destination: "amq.fanout", ToExchange: true}), DeleteExchange(&raftv1.DeleteExchange{Vhost: "/", Name: "y"}))
		case strings.HasPrefix(want, "a binding"):
			applied(t, other, Unbind(&raftv1.Unbind{Vhost: "/", Source: "amq.topic", Destination: "amq.fanout", ToExchange: true}))
		case want != "":
			applied(t, other, DeleteVHost(&raftv1.DeleteVHost{Name: "other"}))
		}
	}
	for _, bad := range []string{"\xff", "", string([]byte{0x0a, 0})} { // no protobuf, no record, the cluster's own
		if cmd, err := RestoreCommand([]byte(bad)); err == nil {
			t.Errorf("%q is %v", bad, cmd)
		}
	}
}
