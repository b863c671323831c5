package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/warrenmq/warren/node"
)

func TestRecoverTakesNoOtherFiles(t *testing.T) {
	c := recoverCommand()
	c.SetOut(&bytes.Buffer{})
	c.SetErr(&bytes.Buffer{})
	c.SilenceUsage, c.SilenceErrors = true, true
	dir := t.TempDir()
	c.SetArgs([]string{"--data-dir", dir})
	if err := c.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "no data directory of a node") {
		t.Errorf("an empty directory: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("it was changed: %v, %v", left, err)
	}
	for _, text := range []string{"no JSON", `{"cluster_id":"c"}`} {
		name := filepath.Join(t.TempDir(), "report")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readReports([]string{name}); err == nil || !strings.Contains(err.Error(), "is no report of") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestReportIsShown(t *testing.T) {
	r := &node.DataReport{ClusterID: "c-1", ID: "u-1", Node: "n1", Groups: []node.GroupReport{
		{Name: "catalog", Held: true, Votes: true, Term: 3, Index: 40, Members: []string{"n1", "n2"}},
		{Name: "0", Queues: 2}, {Name: "1", Held: true, Damage: "a flipped bit", Votes: true}, {Name: "2", Held: true, Nameless: 1}}}
	var out bytes.Buffer
	if err := printReport(&out, r); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"c-1", "n1 (u-1)", "NO: a part of its data directory", "NOT HERE", "DAMAGED: a flipped bit", "does not vote", "1 queues without a name", "n1 n2", "nothing tells how many"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing:\n%s", want, out.String())
		}
	}
}
