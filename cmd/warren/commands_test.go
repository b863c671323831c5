package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// eachCommand calls f with every command that does something by itself, and its words.
func eachCommand(f func(c *cobra.Command, words []string)) {
	root := rootCommand()
	root.InitDefaultCompletionCmd()
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, below := range c.Commands() {
			walk(below)
		}
		if !isLibrarys(c) && (!c.HasSubCommands() || c.Example != "") {
			f(c, strings.Fields(c.CommandPath())[1:])
		}
	}
	walk(root)
}

// execute runs a command line in this process.
func execute(t *testing.T, words ...string) (out string, err error) {
	t.Helper()
	root := rootCommand()
	var b bytes.Buffer
	root.SetOut(&b)
	root.SetErr(&b)
	root.SetIn(strings.NewReader("a line\n"))
	root.SetArgs(words)
	err = root.ExecuteContext(t.Context())
	return b.String(), err
}

// withoutJSON are the commands whose --json is looked at elsewhere, or that have none.
var withoutJSON = map[string]string{
	"server":  "prints its log",
	"leave":   "changes the cluster; admin_test.go",
	"remove":  "changes the cluster; the same code as leave",
	"drain":   "there is no other node to lead; --off is run",
	"restore": "needs an empty cluster; backup_test.go",
}

// TestJSON runs every command with --json: it prints JSON and nothing else, one value a line.
func TestJSON(t *testing.T) {
	n, stopped := launch(t), launch(t)
	stopped.stop()
	n.awaitHealth(t, 1)
	for _, v := range n.variables() {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	if out, err := execute(t, "token", "key"); err != nil || os.WriteFile(path("keys"), []byte(out), 0o600) != nil {
		t.Fatal(err)
	}
	ran := map[string]bool{}
	for _, line := range [][]string{
		{"version"}, {"health"}, {"health", "--live"},
		{"status"}, {"members"}, {"shards"}, {"rebalance"}, {"drain", "n", "--off"},
		{"tls", "dev", path("certs")}, {"token", "key"}, {"token", "create", "--user", "u", "--key-file", path("keys")},
		{"queue", "declare", "q"}, {"queue", "list"}, {"exchange", "declare", "x", "--type", "topic"}, {"exchange", "list"},
		{"binding", "declare", "x", "q", "--key", "#"}, {"binding", "list"},
		{"publish", "--exchange", "x", "a message"}, {"publish", "--key", "q"}, {"publish", "--key", "q", "\xff"}, {"peek", "q", "--count", "3"},
		{"get", "q"}, {"consume", "q", "--count", "1"},
		{"backup", path("backup")}, {"backup", "--verify", path("backup")},
		{"binding", "delete", "x", "q", "--key", "#"}, {"exchange", "delete", "x"}, {"queue", "purge", "q"}, {"queue", "delete", "q"},
		{"storage", "dump", stopped.dir}, {"recover", "--data-dir", stopped.dir, "--inspect"},
		{"bench", "--warmup", "0s", "--duration", "100ms"}, {"bench", "--protocol", "grpc", "--warmup", "0s", "--duration", "100ms"},
		{"bench", "churn", "--warmup", "0s", "--duration", "100ms"}, {"bench", "memory", "--queues", "1", "--settle", "0s"},
		{"bench", "limit", "--dir", dir, "--size", "16", "--warmup", "0s", "--duration", "100ms"},
		{"context", "add", "a", "--server", n.grpc}, {"context", "list"}, {"context", "use", "a"}, {"context", "remove", "a"},
	} {
		t.Setenv(asMain, "1") // for bench limit, which starts this program again
		out, err := execute(t, append(line, "--json")...)
		if err != nil {
			t.Errorf("%q: %v\n%s", line, err, out)
			continue
		}
		c, _, err := rootCommand().Find(line)
		if err != nil {
			t.Fatal(err)
		}
		ran[strings.Join(strings.Fields(c.CommandPath())[1:], " ")] = true
		if out == "" {
			t.Errorf("%q prints nothing", line)
		}
		for text := range strings.Lines(out) {
			if !json.Valid([]byte(text)) {
				t.Errorf("%q prints %q", line, text)
			}
		}
	}
	eachCommand(func(c *cobra.Command, words []string) {
		name := strings.Join(words, " ")
		if !ran[name] && withoutJSON[name] == "" {
			t.Errorf("%s was not run", name)
		}
		if c.Flags().Lookup("json") == nil && name != "server" {
			t.Errorf("%s has no --json", name)
		}
	})
}

// TestWrongArguments gives every command what it does not take: an error of one line, and no output.
func TestWrongArguments(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	eachCommand(func(c *cobra.Command, words []string) {
		for _, more := range [][]string{{"--nonsense"}, {"a", "b", "c", "d"}} {
			out, err := execute(t, append(words, more...)...)
			if err == nil || out != "" || strings.Contains(oneLine(err), "\n") {
				t.Errorf("%q %q: %v\n%s", words, more, err, out)
			}
		}
	})
}

// TestNobodyAnswers lets every command that has a --server speak to nobody: an error of one line that says whom it has asked for, and
// that the connection was refused.
func TestNobodyAnswers(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	const nobody = "127.0.0.1:1"
	arguments := map[string][]string{
		"publish": {"--key", "q", "body"}, "get": {"q"}, "consume": {"q"}, "peek": {"q"}, "leave": {"n"}, "remove": {"n"}, "drain": {"n"},
		"queue declare": {"q"}, "queue delete": {"q"}, "queue purge": {"q"}, "exchange declare": {"x"}, "exchange delete": {"x"},
		"binding declare": {"x", "q"}, "binding delete": {"x", "q"}, "bench memory": {"--queues", "1"},
	}
	patient := map[string]string{
		"rebalance": "goes on for 15 seconds, as a node may start again", "backup": "tries again for half a minute; backup_test.go",
		"restore": "looks at its file first; backup_test.go", "context add": "saves the address",
	}
	eachCommand(func(c *cobra.Command, words []string) {
		name := strings.Join(words, " ")
		if c.Flags().Lookup("server") == nil || patient[name] != "" {
			return
		}
		line := append(append(words, arguments[name]...), "--server", nobody)
		if c.Flags().Lookup("timeout") != nil {
			line = append(line, "--timeout", "200ms")
		}
		says := "refused"
		if name == "bench memory" {
			says = "no process of the broker"
		}
		out, err := execute(t, line...)
		if err == nil || out != "" || strings.Contains(oneLine(err), "\n") || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v\n%s", line, err, out)
		}
	})
}

func TestOneLine(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{errors.New("simple"), "simple"},
		{errors.Join(errors.New("one"), errors.New("two\n")), "one; two"},
		{errors.New("unknown command\n\nDid you mean this?\n\tstatus\n\n"), "unknown command; Did you mean this? status"},
		{errors.New("list:\n a\r\n b"), "list: a; b"},
	} {
		if got := oneLine(c.err); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

// TestExitStatus runs the program itself.
func TestExitStatus(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		line   string
		status int
		says   string // on the error output; empty: nothing
	}{
		{"version", 0, ""}, {"", 0, ""}, {"queue", 0, ""}, {"help queue", 0, ""}, {"queue list --help", 0, ""},
		{"stauts", 1, `warren: unknown command "stauts" for "warren"; Did you mean this? status`},
		{"queue lst", 1, `warren: unknown command "lst" for "warren queue"`},
		{"queue purge", 1, "warren: accepts 1 arg(s), received 0"},
		{"bench --protocol none", 1, `warren: protocol "none": neither amqp nor grpc`},
		{"status --server 127.0.0.1:1", 1, "warren: ask 127.0.0.1:1: "},
		{"queue list --context none", 1, `warren: there is no context "none": `},
	} {
		p := exec.Command(self, strings.Fields(c.line)...)
		p.Env = append(os.Environ(), asMain+"=1", "XDG_CONFIG_HOME="+t.TempDir())
		var out, failed bytes.Buffer
		p.Stdout, p.Stderr = &out, &failed
		_ = p.Run() // its status is asked for below
		if status := p.ProcessState.ExitCode(); status != c.status {
			t.Errorf("warren %s: status %d\n%s", c.line, status, failed.String())
		}
		if text := failed.String(); !strings.HasPrefix(text, c.says) || strings.Count(text, "\n") != min(1, c.status) || (out.Len() == 0) != (c.status == 1) {
			t.Errorf("warren %s says %q, and prints %d bytes", c.line, text, out.Len())
		}
	}
}

// TestCompletion makes the scripts for every shell, and lets one ask.
func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if out, err := execute(t, "completion", shell); err != nil || !strings.Contains(out, "warren") {
			t.Errorf("%s: %v\n%s", shell, err, out)
		}
	}
	for _, c := range []struct{ typed, offered string }{
		{"", "publish"}, {"queue ", "declare"}, {"queue list --ser", "--server"}, {"bench ch", "churn"},
	} {
		out, err := execute(t, append([]string{cobra.ShellCompNoDescRequestCmd}, strings.Split(c.typed, " ")...)...)
		if err != nil || !strings.Contains("\n"+out, "\n"+c.offered+"\n") {
			t.Errorf("after %q: %v\n%s", c.typed, err, out)
		}
	}
}
