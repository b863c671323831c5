package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/warrenmq/warren/client"
)

// asMain makes the test's binary be warren.
const asMain = "TEST_AS_WARREN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// notRun lists beginnings of examples that the test does not run, and why.
var notRun = map[string]string{
	"warren server --":        "needs three machines, or their addresses",
	"warren server\n":         "runs until it is stopped; startNode runs the same",
	"warren health":           "asks an HTTP port that is fixed; health_test.go",
	"warren storage dump":     "reads a node's directory; storage_test.go",
	"warren bench":            "takes ten seconds and more, some of it for AMQP's port; internal/bench has tests of what it does",
	"warren backup":           "asks an HTTP port; backup_test.go",
	"warren restore":          "asks an HTTP port; backup_test.go",
	"warren recover":          "works on nodes that have lost their majority; recover_test.go",
	"warren consume orders\n": "runs until it is interrupted; the same with --count is run",
	"make run":                "runs until it is stopped",
	"make test":               "is what runs this test",
	"make cluster":            "starts nodes on fixed ports; deploy/test does it",
}

// withoutExamples are commands whose help has none.
var withoutExamples = map[string]string{
	"help":   "cobra's own",
	"status": "takes no arguments", "members": "takes no arguments", "shards": "takes no arguments", "rebalance": "takes no arguments",
	"leave": "its usage says all", "remove": "its usage says all", "drain": "its usage says all",
}

// reasonNotToRun tells why a line is not run, empty if it is.
func reasonNotToRun(line string) string {
	for beginning, reason := range notRun {
		if strings.HasPrefix(line+"\n", beginning) && line != "warren server --print-config > warren.yaml" {
			return reason
		}
	}
	return ""
}

// examples runs lines of help as a shell does.
type examples struct {
	t      *testing.T
	client *client.Client
	dir    string
	env    []string
}

func newExamples(t *testing.T) *examples {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	e := &examples{t: t, dir: t.TempDir()}
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "warren"), fmt.Appendf(nil, "#!/bin/sh\n%s=1 exec '%s' \"$@\"\n", asMain, self), 0o700); err != nil {
		t.Fatal(err)
	}
	address := startNode(t)
	if e.client, err = client.New([]string{address}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.client.Close() })
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "WARREN_") {
			e.env = append(e.env, v)
		}
	}
	e.env = append(e.env, "PATH="+bin+":"+os.Getenv("PATH"), "WARREN_SERVER="+address, "HOME="+e.dir)
	if err := os.WriteFile(filepath.Join(e.dir, "errors.log"), []byte("one\ntwo\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return e
}

// run runs a line where what the examples speak of is there.
func (e *examples) run(line string) {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.t.Context(), 5*time.Minute)
	defer cancel()
	e.prepare(ctx, strings.Contains(line, "--if-empty"))
	c := exec.CommandContext(ctx, "sh", "-ec", line)
	c.Dir, c.Env = e.dir, append(e.env, "XDG_CONFIG_HOME="+filepath.Join(e.dir, "plain"))
	if strings.HasPrefix(line, "warren context") {
		c.Env = append(e.env, "XDG_CONFIG_HOME="+filepath.Join(e.dir, "contexts"))
	}
	if out, err := c.CombinedOutput(); err != nil {
		e.t.Errorf("%s: %v\n%s", line, err, out)
	}
}

func (e *examples) prepare(ctx context.Context, empty bool) {
	e.t.Helper()
	failed := func(err error) {
		e.t.Helper()
		if err != nil {
			e.t.Fatal(err)
		}
	}
	for _, q := range []string{"orders", "copies", "errors"} {
		_, err := e.client.DeclareQueue(ctx, client.Queue{Name: q, Durable: true})
		failed(err)
	}
	failed(e.client.DeclareExchange(ctx, client.Exchange{Name: "logs", Type: "topic", Durable: true}))
	failed(e.client.Bind(ctx, client.Binding{Source: "logs", Destination: "errors", RoutingKey: "*.error"}))
	if empty {
		_, err := e.client.PurgeQueue(ctx, "orders")
		failed(err)
		return
	}
	p, err := e.client.Publisher()
	failed(err)
	for range 110 {
		failed(p.PublishAsync(ctx, client.Message{RoutingKey: "orders", Body: []byte("order")}, nil))
	}
	failed(p.Close(ctx))
}

// lines are the commands in an indented text: without comments, with lines that end in \ joined.
func lines(text string) (list []string) {
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			list = append(list, line)
		}
	}
	return list
}

// TestExamples runs every example in the commands' help as it is written.
func TestExamples(t *testing.T) {
	e := newExamples(t)
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, below := range c.Commands() {
			walk(below)
		}
		if c.Hidden || !c.Runnable() || c.HasParent() && c.Parent().Name() == "completion" { // cobra's own help shows how
			return
		}
		if c.Example == "" && withoutExamples[c.Name()] == "" {
			t.Errorf("%s: its help has no example", c.CommandPath())
		}
		for _, line := range lines(c.Example) {
			if reason := reasonNotToRun(line); reason != "" {
				t.Logf("not run: %s (%s)", line, reason)
				continue
			}
			e.run(line)
		}
	}
	root := rootCommand()
	root.InitDefaultCompletionCmd()
	for _, command := range []string{"add", "list", "use", "remove"} { // in an order in which they work
		c, _, err := root.Find([]string{"context", command})
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range lines(c.Example) {
			e.run(line)
		}
		c.Parent().RemoveCommand(c)
	}
	walk(root)
}

// TestReadme runs the commands of the front page.
func TestReadme(t *testing.T) {
	data, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	e := newExamples(t)
	ran := 0
	for line := range bytes.Lines(data) {
		text := strings.TrimSpace(string(line))
		if !strings.HasPrefix(string(line), "    ") || !strings.HasPrefix(text, "warren ") && !strings.HasPrefix(text, "make ") {
			continue
		}
		text, _, _ = strings.Cut(text, "   ") // and what it does
		if reason := reasonNotToRun(text); reason != "" {
			t.Logf("not run: %s (%s)", text, reason)
			continue
		}
		e.run(text)
		ran++
	}
	if ran == 0 {
		t.Error("nothing was found to run")
	}
}
