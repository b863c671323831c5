package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/warrenmq/warren/client"
	"github.com/warrenmq/warren/node"
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

// notRun lists beginnings of examples that the test does not run, and why. Those of warren must be understood by their commands.
var notRun = map[string]string{
	"warren server --":                      "needs three machines, or their addresses",
	"warren server\n":                       "runs until it is stopped; launch runs the same",
	"warren health --live":                  "asks an HTTP port that is fixed; health_test.go",
	"warren bench":                          "takes ten seconds and more; commands_test.go runs all of them for a short time",
	"warren status --server warren1:":       "asks another machine",
	"warren backup --server warren1:":       "asks another machine",
	"warren restore --server warren1:":      "asks another machine",
	"warren recover --data-dir DIR --lost ": "works on nodes that have lost their majority; test/process",
	"warren leave":                          "changes the cluster; TestOperatorsExamples",
	"warren remove":                         "changes the cluster; TestOperatorsExamples",
	"warren drain":                          "changes the cluster; TestOperatorsExamples",
	"warren consume orders\n":               "runs until it is interrupted; the same with --count is run",
	"make run":                              "runs until it is stopped",
	"make test":                             "is what runs this test",
	"make cluster":                          "starts nodes on fixed ports; deploy/test does it",
}

// dataDir is the data directory in the examples, in whose place a test has one of its own.
const dataDir = "/var/lib/warren"

// reasonNotToRun tells why a line is not run, empty if it is.
func reasonNotToRun(line string) string {
	line = strings.ReplaceAll(line, dataDir, "DIR")
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
	data   string // of a node that does not run
}

func newExamples(t *testing.T) *examples {
	t.Helper()
	n, stopped := launch(t), launch(t)
	stopped.stop()
	n.awaitHealth(t, 1)
	e := newExamplesOf(t, n)
	e.data = stopped.dir
	var err error
	if e.client, err = client.New([]string{n.grpc}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.client.Close() })
	return e
}

// newExamplesOf is for examples that speak to a node, and of none of its queues.
func newExamplesOf(t *testing.T, n *testNode) *examples {
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
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "WARREN_") {
			e.env = append(e.env, v)
		}
	}
	e.env = append(e.env, "PATH="+bin+":"+os.Getenv("PATH"), "HOME="+e.dir)
	e.env = append(e.env, n.variables()...)
	if err := os.WriteFile(filepath.Join(e.dir, "errors.log"), []byte("one\ntwo\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return e
}

// variables are those by which commands find a node. The last is the node's own setting, by which warren health finds it.
func (n *testNode) variables() []string {
	_, port, _ := strings.Cut(n.http, ":")
	return []string{"WARREN_SERVER=" + n.grpc, "WARREN_AMQP_SERVER=" + n.amqp, "WARREN_HTTP_SERVER=" + n.http, "WARREN_HTTP_PORT=" + port}
}

// awaitHealth waits until a node sees so many nodes in its cluster, and nothing wrong with it.
func (n *testNode) awaitHealth(t *testing.T, nodes int) {
	t.Helper()
	n.await(t, fmt.Sprint(nodes, " nodes that are well"), func(o *node.Overview) bool {
		return len(o.Nodes) == nodes && len(o.Problems) == 0 && o.Moves+o.LeadersAway == 0
	})
}

// await waits until a node's view of the cluster is as wanted.
func (n *testNode) await(t *testing.T, what string, is func(*node.Overview) bool) {
	t.Helper()
	a := &admin{server: n.http, user: "guest", password: "guest"}
	var o *node.Overview
	var err error
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if o, err = a.overview(t.Context()); err == nil && is(o) {
			return
		}
	}
	t.Fatalf("waited for %s: %+v, %v", what, o, err)
}

// understood fails unless the command takes a line's flags and arguments. The line is not run.
func (e *examples) understood(line string) {
	e.t.Helper()
	c := exec.Command("sh", "-ec", line) // with a warren that tells its arguments
	c.Dir, c.Env = e.t.TempDir(), []string{"PATH=" + e.telling() + ":" + os.Getenv("PATH")}
	out, err := c.Output()
	if err != nil {
		e.t.Errorf("%s: %v", line, err)
		return
	}
	words := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	command, rest, err := rootCommand().Find(words)
	if err == nil {
		err = command.ParseFlags(rest)
	}
	if err == nil {
		err = command.ValidateArgs(command.Flags().Args())
	}
	if err != nil {
		e.t.Errorf("%s: %v", line, err)
	}
}

// telling makes a folder with a program warren that prints its arguments, one a line.
func (e *examples) telling() string {
	dir := e.t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "warren"), []byte("#!/bin/sh\nprintf '%s\\n' \"$@\"\n"), 0o700); err != nil {
		e.t.Fatal(err)
	}
	return dir
}

// skip looks at a line that is not run, and why.
func (e *examples) skip(line, reason string) {
	e.t.Helper()
	e.t.Logf("not run: %s (%s)", line, reason)
	if strings.HasPrefix(line, "warren ") {
		e.understood(line)
	}
}

// run runs a line where what the examples speak of is there.
func (e *examples) run(line string) {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.t.Context(), 5*time.Minute)
	defer cancel()
	if e.client != nil {
		e.prepare(ctx, strings.Contains(line, "--if-empty"))
	}
	c := exec.CommandContext(ctx, "sh", "-ec", strings.ReplaceAll(line, dataDir, e.data))
	c.Dir, c.Env = e.dir, append(e.env, "XDG_CONFIG_HOME="+filepath.Join(e.dir, "plain"))
	if strings.HasPrefix(line, "warren context") {
		c.Env = append(e.env, "XDG_CONFIG_HOME="+filepath.Join(e.dir, "contexts"))
	}
	if strings.HasPrefix(line, "warren restore") {
		empty := launch(e.t)
		defer empty.stop()
		c.Env = append(c.Env, empty.variables()...)
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
		if isLibrarys(c) || c.HasSubCommands() && c.Example == "" {
			return
		}
		if c.Example == "" {
			t.Errorf("%s: its help has no example", c.CommandPath())
		}
		for _, line := range lines(c.Example) {
			if reason := reasonNotToRun(line); reason != "" {
				e.skip(line, reason)
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
		contexts := c.Parent()
		if contexts.RemoveCommand(c); !contexts.HasSubCommands() {
			root.RemoveCommand(contexts)
		}
	}
	walk(root)
}

// isLibrarys tells whether a command is cobra's own, whose help shows how it is used, or hidden.
func isLibrarys(c *cobra.Command) bool {
	return c.Hidden || c.Name() == "help" || c.Name() == "completion" || c.HasParent() && c.Parent().Name() == "completion"
}

// TestOperatorsExamples runs the examples of the commands that change a cluster against one of three nodes. It is bound to know
// each of them.
func TestOperatorsExamples(t *testing.T) {
	nodes := []*testNode{}
	var begun []<-chan error
	for i := range 3 {
		more := []string{"--name", fmt.Sprint("warren", i+1), "--expect", "3"}
		if i > 0 {
			more = append(more, "--join", nodes[0].gossip)
		}
		n, b := launchLater(t, more...)
		nodes, begun = append(nodes, n), append(begun, b)
	}
	for _, b := range begun {
		if err := <-b; err != nil {
			t.Fatal(err)
		}
	}
	nodes[0].awaitHealth(t, 3)
	e := newExamplesOf(t, nodes[0])
	unknown := map[string]bool{"warren leave warren4": true, "warren remove warren4": true} // there is none
	for _, name := range []string{"leave", "remove", "drain"} {
		c, _, err := rootCommand().Find([]string{name})
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range lines(c.Example) {
			unknown[line] = true
		}
	}
	run := func(line string) {
		t.Helper()
		if !unknown[line] {
			t.Errorf("%s: no example, or it was run", line)
		}
		delete(unknown, line)
		e.run(line)
	}
	run("warren drain warren2")
	run("warren drain warren2 --off")
	run("warren leave warren2 --cancel") // before it has begun: nothing is to be undone
	nodes[0].awaitHealth(t, 3)
	nodes[2].stop()
	for _, n := range nodes[:2] { // either may be the one that removes it
		n.await(t, "the end of warren3", func(o *node.Overview) bool {
			return slices.ContainsFunc(o.Nodes, func(m node.Member) bool { return m.Name == "warren3" && m.State == "down" })
		})
	}
	run("warren remove warren3 --few")
	nodes[0].awaitHealth(t, 2)
	run("warren leave warren2 --few")
	nodes[0].awaitHealth(t, 1)
	for line := range unknown {
		if !strings.HasSuffix(line, " warren4") {
			t.Errorf("not run: %s", line)
		}
		e.understood(line)
	}
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
			e.skip(text, reason)
			continue
		}
		e.run(text)
		ran++
	}
	if ran == 0 {
		t.Error("nothing was found to run")
	}
}
