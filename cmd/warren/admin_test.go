package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/warrenmq/warren/node"
)

// view is a cluster of two nodes of which one is down.
func view() *node.Overview {
	return &node.Overview{ClusterID: "c-1", Node: "n1", Time: time.Unix(1_700_000_000, 0).UTC(), Moves: 2, LeadersAway: 1,
		Nodes: []node.Member{
			{Number: 1, ID: "u-1", Name: "n1", State: "running", Address: "h:1", Replicas: 2, Leads: 1, Catalog: "leader", MemoryBytes: 50 << 20, DiskFreeBytes: 20 << 30, Version: "1"},
			{Number: 2, ID: "u-2", Name: "n2", State: "down", Since: "2026-01-01T00:00:00Z", Replicas: 1, Leaving: true, Catalog: "voter"},
		},
		Groups: []node.Group{
			{Name: "catalog", Leader: "n1", Healthy: true, Settled: true, Replicas: []node.Replica{{Node: "n1", Seat: "u-1.1", Role: "leader", State: "running"}}},
			{Name: "0", Leader: "n1", Preferred: "n2", Term: 3, Committed: 70, Queues: 4, Healthy: true, Replicas: []node.Replica{
				{Node: "n1", Seat: "u-1.1", Role: "leader", State: "running"}, {Node: "n2", Seat: "u-2.1", Role: "former", State: "down"},
				{Node: "n3", Seat: "u-3.1", Role: "learner", State: "running", Lag: 9}}},
		},
		Problems: []string{"node 'n2' is down"},
	}
}

// run runs a command against a server and returns what it prints.
func runAdmin(t *testing.T, c *cobra.Command, server *httptest.Server, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	c.SetOut(&out)
	c.SetErr(&out)
	c.SilenceUsage, c.SilenceErrors = true, true
	c.SetArgs(append(args, "--server", strings.TrimPrefix(server.URL, "http://"), "--user", "u", "--password", "p"))
	err := c.ExecuteContext(t.Context())
	return out.String(), err
}

func TestShow(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "u" || password != "p" || r.URL.Path != "/api/warren/overview" {
			t.Errorf("%s by %s", r.URL, user)
		}
		_ = json.NewEncoder(w).Encode(view())
	}))
	defer server.Close()
	out, err := runAdmin(t, statusCommand(), server)
	if !errors.Is(err, errUnhealthy) {
		t.Errorf("the exit status does not tell: %v", err)
	}
	for _, want := range []string{"NOT HEALTHY", "2, 1 running", "1, 1 healthy, 0 settled", "2 moves, 1 leaders elsewhere", "! node 'n2' is down", "50 MiB", "20 GiB"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if out, err = runAdmin(t, membersCommand(), server); err != nil || !strings.Contains(out, "leaving") || strings.Count(out, "\n") != 3 {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err = runAdmin(t, shardsCommand(), server); err != nil || !strings.Contains(out, "changing") || !strings.Contains(out, "*n1 xn2(down) -n3(9)") {
		t.Errorf("%v\n%s", err, out)
	}
	out, err = runAdmin(t, shardsCommand(), server, "--json")
	var groups []node.Group
	if err != nil || json.Unmarshal([]byte(out), &groups) != nil || len(groups) != 2 || groups[1].Committed != 70 {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestLeaveShowsProgress lets a node leave in three steps, and one that is refused.
func TestLeaveShowsProgress(t *testing.T) {
	begun, looked := false, 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/api/warren/nodes/u-1/leave":
			w.WriteHeader(http.StatusConflict)
			fmt.Fprint(w, `{"reason":"add a node first"}`)
		case r.Method == http.MethodPost:
			if r.URL.Path != "/api/warren/nodes/u-2/leave" || !r.URL.Query().Has("few") {
				t.Errorf("%s", r.URL)
			}
			begun = true
			fmt.Fprint(w, "{}")
		default:
			v := view()
			if begun {
				looked++
				v.Nodes[1].Replicas = max(0, 2-looked)
			}
			if looked > 2 {
				v.Nodes = v.Nodes[:1]
			}
			_ = json.NewEncoder(w).Encode(v)
		}
	}))
	defer server.Close()
	if _, err := runAdmin(t, leaveCommand(), server, "n1"); err == nil || err.Error() != "add a node first" {
		t.Errorf("error %v", err)
	}
	out, err := runAdmin(t, leaveCommand(), server, "n2", "--few")
	want := "node 'n2' is to hold 1 replicas still\nnode 'n2' is to hold 0 replicas still\nnode 'n2' is no member any more\n"
	if err != nil || out != want {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestNodeByNumber: a command waits for the node that its number means, and refuses what is no member.
func TestNodeByNumber(t *testing.T) {
	asked := ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v := view()
		if r.Method == http.MethodPost {
			asked = r.URL.Path
			fmt.Fprint(w, "{}")
			return
		}
		if asked != "" && v.Nodes[1].Replicas == 1 { // it has left at once
			v.Nodes = v.Nodes[:1]
			v.Groups[0].Leader, v.Groups[1].Leader = "n3", "n3"
			v.Groups[0].Replicas[0].Role, v.Groups[1].Replicas[0].Role = "voter", "voter"
		}
		_ = json.NewEncoder(w).Encode(v)
	}))
	defer server.Close()
	for _, c := range []struct{ node, path, says string }{{"2", "u-2", "node '2' is no member any more\n"}, {"u-2", "u-2", "node 'u-2' is no member any more\n"}} {
		asked = ""
		out, err := runAdmin(t, leaveCommand(), server, c.node)
		if err != nil || out != c.says || asked != "/api/warren/nodes/"+c.path+"/leave" {
			t.Errorf("leave %s: %s, %q, %v", c.node, asked, out, err)
		}
	}
	asked = ""
	if out, err := runAdmin(t, drainCommand(), server, "1"); err != nil || out != "node '1' leads 0 groups\n" || asked != "/api/warren/nodes/u-1/drain" {
		t.Errorf("drain 1: %s, %q, %v", asked, out, err)
	}
	asked = ""
	for _, command := range []func() *cobra.Command{leaveCommand, removeCommand, drainCommand} {
		if out, err := runAdmin(t, command(), server, "7"); err == nil || asked != "" {
			t.Errorf("a node that is no member: %s, %q, %v", asked, out, err)
		}
	}
}

func TestBar(t *testing.T) {
	for _, c := range []struct {
		done, all, full int
	}{{0, 4, 0}, {1, 2, barWidth / 2}, {4, 4, barWidth}, {0, 0, barWidth}} {
		if bar := drawBar(c.done, c.all); strings.Count(bar, "=") != c.full || len(bar) != barWidth+2 {
			t.Errorf("%d of %d: %q", c.done, c.all, bar)
		}
	}
}

// TestDrainWaitsForATransfer: in the overview a group has no leader while its leadership is handed over, and keeps its old one then.
func TestDrainWaitsForATransfer(t *testing.T) {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v := view()
		if r.Method == http.MethodPost {
			asked++
			fmt.Fprintf(w, `{"leads":%d}`, max(0, 3-asked))
			return
		}
		for i := range v.Groups {
			v.Groups[i].Leader, v.Groups[i].Replicas[0].Role = "", "voter"
		}
		_ = json.NewEncoder(w).Encode(v)
	}))
	defer server.Close()
	out, err := runAdmin(t, drainCommand(), server, "1")
	if want := "node '1' leads 1 groups\nnode '1' leads 0 groups\n"; err != nil || out != want {
		t.Errorf("%q, wanted %q, %v", out, want, err)
	}
}
