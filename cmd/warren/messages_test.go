package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/warrenmq/warren/client"
	"github.com/warrenmq/warren/config"
	"github.com/warrenmq/warren/internal/freeport"
	"github.com/warrenmq/warren/node"
)

// startNode runs a node for a test, with further flags, and returns its gRPC address.
func startNode(t *testing.T, more ...string) string {
	t.Helper()
	return launch(t, more...).grpc
}

// testNode is a node of a test.
type testNode struct {
	*node.Node
	amqp, grpc, http, gossip string // addresses
	dir                      string // its data
	stop                     func() // ends it, once
}

// launch runs a node for a test, with further flags.
func launch(t *testing.T, more ...string) *testNode {
	t.Helper()
	n, begun := launchLater(t, more...)
	if err := <-begun; err != nil {
		t.Fatal(err)
	}
	return n
}

// launchLater is launch that does not wait until the node has joined its cluster.
func launchLater(t *testing.T, more ...string) (*testNode, <-chan error) {
	t.Helper()
	found, err := freeport.Find(5)
	if err != nil {
		t.Fatal(err)
	}
	var ports []string
	for _, port := range found {
		ports = append(ports, strconv.Itoa(port))
	}
	flags := pflag.NewFlagSet("node", pflag.ContinueOnError)
	c := config.Register(flags)
	dir := t.TempDir()
	if err := flags.Parse(append([]string{"--name", "n", "--data-dir", dir, "--http-port", ports[4], "--amqp-port", ports[0], "--grpc-port", ports[1],
		"--cluster-port", ports[2], "--gossip-port", ports[3], "--shards", "2", "--memory-limit", "4GiB", "--disk-free-limit", "1MiB"}, more...)); err != nil {
		t.Fatal(err)
	}
	if err := c.Load(nil); err != nil {
		t.Fatal(err)
	}
	const host = "127.0.0.1:"
	n := &testNode{amqp: host + ports[0], grpc: host + ports[1], http: host + ports[4], gossip: host + ports[3], dir: dir}
	begun, started := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(started)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		var err error
		n.Node, err = node.Start(ctx, c, "test", slog.New(slog.DiscardHandler))
		begun <- err
	}()
	n.stop = sync.OnceFunc(func() {
		<-started
		if n.Node == nil {
			return
		}
		if err := n.Stop(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(n.stop)
	return n, begun
}

// shell runs commands against a node.
type shell struct {
	t      *testing.T
	server string
}

func (s shell) try(input string, words ...string) (string, error) {
	root := &cobra.Command{Use: "warren", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(messageCommands()...)
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetIn(strings.NewReader(input))
	root.SetArgs(append(words, "--server", s.server, "--timeout", "1m"))
	err := root.Execute()
	return out.String(), err
}

func (s shell) run(input string, words ...string) string {
	s.t.Helper()
	out, err := s.try(input, words...)
	if err != nil {
		s.t.Fatalf("warren %s: %v\n%s", strings.Join(words, " "), err, out)
	}
	return out
}

func (s shell) expect(want, input string, words ...string) {
	s.t.Helper()
	if got := s.run(input, words...); got != want {
		s.t.Errorf("warren %s printed\n%s\nwanted\n%s", strings.Join(words, " "), got, want)
	}
}

func (s shell) fails(text string, words ...string) {
	s.t.Helper()
	if out, err := s.try("", words...); err == nil || !strings.Contains(err.Error(), text) {
		s.t.Errorf("warren %s: %v\n%s\nwanted an error with %q", strings.Join(words, " "), err, out, text)
	}
}

func TestMessagesAndTopology(t *testing.T) {
	s := shell{t, startNode(t)}
	s.expect("queue orders: 0 messages, 0 consumers\n", "", "queue", "declare", "orders", "--argument", "x-max-length=100")
	s.expect("exchange logs\n", "", "exchange", "declare", "logs", "--type", "topic")
	s.expect("logs bound orders\n", "", "binding", "declare", "logs", "orders", "--key", "*.error")
	s.expect("1 confirmed\n", "", "publish", "--exchange", "logs", "--key", "app.error", "--header", "n=7", "--content-type", "text/plain", "hello")
	s.expect("3 confirmed\n", "a\nb\nc\n", "publish", "--key", "orders")
	s.expect(`{"confirmed":2}`+"\n", "", "publish", "--key", "orders", "--count", "2", "--json", "x")
	s.fails("no queue is bound", "publish", "--exchange", "logs", "--key", "app.info", "lost")
	s.fails("no exchange 'none'", "publish", "--exchange", "none", "lost")

	s.expect("hello\na\n", "", "peek", "orders", "--count", "2")
	if out := s.run("", "queue", "list"); !strings.HasPrefix(out, "NAME    READY  UNSETTLED  CONSUMERS  BYTES  FEATURES  ARGUMENTS\norders  6      0          0") ||
		!strings.HasSuffix(out, "durable   {\"x-max-length\":100}\n") {
		t.Error(out)
	}
	s.expect("a\n", "", "peek", "orders", "--skip", "1")
	var row messageRow
	if err := json.Unmarshal([]byte(s.run("", "get", "orders", "--json")), &row); err != nil {
		t.Fatal(err)
	}
	if row.Exchange != "logs" || row.RoutingKey != "app.error" || row.Headers["n"] != 7.0 || row.ContentType != "text/plain" || *row.Body != "hello" {
		t.Errorf("%+v", row)
	}
	s.expect("a\nb\nc\n", "", "consume", "orders", "--count", "3")
	s.expect("x\n", "", "get", "orders", "--requeue")
	copied := s.run("", "consume", "orders", "--count", "2", "--json")
	s.expect("2 confirmed\n", copied, "publish", "--json-input")
	s.expect("2 messages dropped\n", "", "queue", "purge", "orders")
	s.expect("", "", "get", "orders")

	s.expect("SOURCE  DESTINATION  TYPE   ROUTING KEY  ARGUMENTS\nlogs    orders       queue  *.error      \n", "", "binding", "list")
	if out := s.run("", "exchange", "list"); !strings.Contains(out, "logs                topic    durable") {
		t.Error(out)
	}
	s.expect("logs unbound orders\n", "", "binding", "delete", "logs", "orders", "--key", "*.error")
	s.expect("exchange logs deleted\n", "", "exchange", "delete", "logs")
	s.expect("queue orders deleted with 0 messages\n", "", "queue", "delete", "orders")
}

// begin starts warren as a process, whose error output is in says once it has ended.
func begin(t *testing.T, words ...string) (p *exec.Cmd, input io.Writer, says *bytes.Buffer) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p, says = exec.Command(self, words...), &bytes.Buffer{}
	p.Env = append(os.Environ(), asMain+"=1", "XDG_CONFIG_HOME="+t.TempDir())
	p.Stderr = says
	if input, err = p.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	return p, input, says
}

// interrupt sends SIGINT to a process and waits for its end, with one line of error output.
func interrupt(t *testing.T, p *exec.Cmd, says *bytes.Buffer, line string) {
	t.Helper()
	if err := p.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); p.ProcessState.ExitCode() != 1 || says.String() != line+"\n" {
		t.Errorf("it ended with %v, and says %q", err, says)
	}
}

// TestInterruptedPublish interrupts warren while it waits for more input: it ends, and what it has read is published.
func TestInterruptedPublish(t *testing.T) {
	server := startNode(t)
	s := shell{t, server}
	s.run("", "queue", "declare", "q")
	p, input, says := begin(t, "publish", "--key", "q", "--server", server)
	if _, err := io.WriteString(input, "a\n"); err != nil {
		t.Fatal(err)
	}
	s.expect("a\n", "", "consume", "q", "--count", "1") // it runs, and has read the line
	interrupt(t, p, says, "warren: 1 messages confirmed: interrupted")
}

// TestInterruptedBench interrupts a measurement: it ends, and its queue is gone.
func TestInterruptedBench(t *testing.T) {
	n := launch(t)
	c, err := client.New([]string{n.grpc})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for protocol, server := range map[string]string{"amqp": n.amqp, "grpc": n.grpc} {
		p, _, says := begin(t, "bench", "--protocol", protocol, "--server", server, "--queue", protocol, "--rate", "10", "--duration", "1h")
		for info, err := c.InspectQueue(t.Context(), protocol); info.Consumers == 0; info, err = c.InspectQueue(t.Context(), protocol) {
			if err != nil && !errors.Is(err, &client.Error{Reason: client.NotFound}) {
				t.Fatal(err)
			}
		}
		interrupt(t, p, says, "warren: interrupted")
		if _, err := c.InspectQueue(t.Context(), protocol); !errors.Is(err, &client.Error{Reason: client.NotFound}) {
			t.Errorf("the queue of the bench by %s is still there: %v", protocol, err)
		}
	}
}

func TestErrorsOfCommands(t *testing.T) {
	s := shell{t, startNode(t)}
	s.fails("no queue 'none' in vhost '/'", "get", "none")
	s.fails("no queue 'none' in vhost '/'", "consume", "none")
	s.fails("login was refused", "queue", "list", "--password", "wrong")
	s.fails("not NAME=VALUE", "queue", "declare", "q", "--argument", "x")
	s.fails("accepts 1 arg", "queue", "purge")
	s.fails("vhost none not found", "queue", "list", "--vhost", "none")
	secret := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(secret, []byte("guest\nnot this"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.run("", "queue", "list", "--password-file", secret)
	for input, text := range map[string]string{
		"{": "line 1: ", `{"body":"a"} {"body":"b"}`: "line 1: there is more than one object", `{"body":"a"} nonsense`: "line 1: there is more than one object",
	} {
		if _, err := s.try(input+"\n", "publish", "--json-input"); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", input, err)
		}
	}
	s.fails("[header json-input]", "publish", "--json-input", "--header", "a=1")
	s.fails("[json-input priority]", "publish", "--json-input", "--priority", "1")
	s.fails("there is no BODY", "publish", "--json-input", "body")
	s.fails("--count is for BODY", "publish", "--count", "2")
}

// TestJSONOfWhatItCannotSay prints messages with times and numbers that JSON has not.
func TestJSONOfWhatItCannotSay(t *testing.T) {
	server := startNode(t)
	s := shell{t, server}
	s.run("", "queue", "declare", "q")
	c, err := client.New([]string{server})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p, err := c.Publisher()
	if err != nil {
		t.Fatal(err)
	}
	inMillis := time.Unix(1700000000000, 0)
	m := client.Message{RoutingKey: "q", Timestamp: inMillis, Headers: map[string]any{"then": inMillis, "number": 1.5, "single": float32(0.1),
		"list": []any{math.NaN(), math.Inf(1), map[string]any{"inner": math.Inf(-1)}, float32(math.NaN())}}}
	if err := p.Publish(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	const want = `{"routing_key":"q",%s"headers":{"list":["NaN","+Inf",{"inner":"-Inf"},"NaN"],"number":1.5,"single":0.1,"then":"9999-12-31T23:59:59Z"},` +
		`"timestamp":"9999-12-31T23:59:59Z","body":""}` + "\n"
	s.expect(fmt.Sprintf(want, ""), "", "peek", "q", "--json")
	s.expect(fmt.Sprintf(want, ""), "", "get", "q", "--requeue", "--json")
	s.expect(fmt.Sprintf(want, `"redelivered":true,`), "", "consume", "q", "--count", "1", "--json")
}
