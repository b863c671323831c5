package interop

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/test/process"
	"github.com/warrenmq/warren/tlsfiles"
)

// typescriptSDK is where the TypeScript SDK is.
const typescriptSDK = "../../clients/typescript"

// buildTypeScript compiles the SDK and its tests, once for the package's run.
var buildTypeScript = sync.OnceValue(func() error {
	for _, args := range [][]string{{"node_modules/typescript/bin/tsc", "-p", "tsconfig.json"}, {"copy-protos.mjs"}, {"node_modules/typescript/bin/tsc", "-p", "tsconfig.test.json"}} {
		command := exec.Command("node", args...)
		command.Dir = typescriptSDK
		if out, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("node %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return nil
})

func needTypeScript(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("node"); err != nil {
		missing(t, "node")
	}
	if _, err := os.Stat(typescriptSDK + "/node_modules/typescript"); err != nil {
		missing(t, "the TypeScript SDK's packages (npm ci in clients/typescript)")
	}
	if err := buildTypeScript(); err != nil {
		t.Fatal(err)
	}
}

// nodeProgram is a program for Node.js in folder typescript.
func nodeProgram(name string, args ...string) *exec.Cmd {
	command := exec.Command("node", append([]string{"typescript/" + name}, args...)...)
	command.Env = process.CleanEnvironment()
	return command
}

// TestTypeScriptUnits runs the SDK's own tests, which need no broker.
func TestTypeScriptUnits(t *testing.T) {
	needTypeScript(t)
	files, err := filepath.Glob(typescriptSDK + "/build/*.test.js")
	if err != nil || len(files) == 0 {
		t.Fatalf("no tests: %v", err)
	}
	if out, err := exec.Command("node", append([]string{"--test"}, files...)...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// TestTypeScriptOneNode runs the programs of the SDK's README and the tutorial's patterns on a node alone.
func TestTypeScriptOneNode(t *testing.T) {
	needTypeScript(t)
	needPika(t)
	one := process.Start(t, 1).Nodes[0]
	typescriptReadme(t, one)
	typescriptPatterns(t, one, one)
	if os.Getenv("WARREN_LARGE") != "" {
		typescriptCrossing(t, one, one)
	}
}

// TestTypeScriptCluster runs the tutorial's patterns by the TypeScript SDK with pairs of three nodes, crosses them with AMQP by
// pika, and kills the nodes under a program.
func TestTypeScriptCluster(t *testing.T) {
	needTypeScript(t)
	needPika(t)
	cluster := process.Start(t, 3)
	large := os.Getenv("WARREN_LARGE") != ""
	for i, near := range cluster.Nodes {
		for j, far := range cluster.Nodes {
			if large || j == (i+1)%3 {
				typescriptPatterns(t, near, far)
			}
			if large || i == 0 && j == 1 {
				typescriptCrossing(t, near, far)
			}
		}
	}
	t.Run("kills", func(t *testing.T) { typescriptSurvivesKills(t, cluster) })
}

func typescriptPatterns(t *testing.T, near, far *process.Node) {
	t.Run("patterns "+near.Name+"-"+far.Name, func(t *testing.T) {
		if out, err := nodeProgram("patterns.mjs", queueName(t), near.GRPCAddress(), far.GRPCAddress()).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	})
}

// typescriptCrossing has the tutorial's programs, which use pika, and the SDK send to one another.
func typescriptCrossing(t *testing.T, pika, sdk *process.Node) {
	crossing := func(t *testing.T, side string) *program {
		command := nodeProgram("crossing.mjs", side, queueName(t))
		command.Env = append(command.Env, "ADDRESS="+sdk.GRPCAddress())
		return beginCommand(t, "crossing.mjs "+side, command)
	}
	t.Run("pika on "+pika.Name+" to SDK on "+sdk.Name, func(t *testing.T) {
		receiver := crossing(t, "receive")
		receiver.waitFor(func(lines []string) bool { return contains(lines, "[*] Waiting") })
		queue := queueName(t)
		channel := channelOf(t, dial(t, pika))
		if err := channel.PublishWithContext(t.Context(), "", queue, false, false, amqp.Publishing{Body: []byte("all"), Priority: 7, MessageId: "m",
			Headers: amqp.Table{"big": int64(1) << 60, "short": int16(5), "table": amqp.Table{"list": []any{"x", nil}}}}); err != nil {
			t.Fatal(err)
		}
		receiver.waitReceived(1)
		run(t, pika, "send.py")
		run(t, pika, "new_task.py", queue, "one", "two")
		run(t, pika, "emit_log.py", "info: hello")
		run(t, pika, "emit_log_keyed.py", "direct", "info", "fine")
		run(t, pika, "emit_log_keyed.py", "direct", "error", "broken")
		run(t, pika, "emit_log_keyed.py", "topic", "cron.info", "ran")
		run(t, pika, "emit_log_keyed.py", "topic", "kern.critical", "A critical kernel error")
		run(t, pika, "emit_headers.py", "a text report", "type=report", "format=text")
		run(t, pika, "emit_headers.py", "a report", "type=report", "format=pdf")
		want(t, run(t, pika, "rpc_client.py", "queue", "10"), "[.] Got 55")
		want(t, run(t, pika, "rpc_client.py", "direct", "30"), "[.] Got 832040")
		got := receiver.waitReceived(8)
		expected := []string{queue + ` all priority=7 m big=1152921504606846976n short=5 table={"list":["x",null]}`, queue + " one", queue + " two", "hello Hello World!", "logs info: hello", "direct_logs error broken",
			"topic_logs kern.critical A critical kernel error", "headers_logs a report format=pdf type=report"}
		slices.Sort(got) // each queue has its order, and no more
		slices.Sort(expected)
		want(t, got, expected...)
	})
	t.Run("SDK on "+sdk.Name+" to pika on "+pika.Name, func(t *testing.T) {
		receivers := map[*program][]string{
			listen(t, pika, "receive.py"):                                             {"Received 'Hello World!'"},
			listen(t, pika, "receive_logs.py"):                                        {"info: hello"},
			listen(t, pika, "receive_logs_keyed.py", "direct", "error"):               {"error:broken"},
			listen(t, pika, "receive_logs_keyed.py", "topic", "kern.*"):               {"kern.critical:A critical kernel error"},
			listen(t, pika, "receive_headers.py", "all", "type=report", "format=pdf"): {"a report"},
			listen(t, pika, "worker.py", queueName(t), "fair"): {"Received 'one' redelivered=False", "Done 'one'",
				"Received 'two' redelivered=False", "Done 'two'", "Received 'three' redelivered=False", "Done 'three'"},
		}
		listen(t, pika, "rpc_server.py")
		sender := crossing(t, "send")
		want(t, sender.waitReceived(1), "7 55")
		got, ok, err := channelOf(t, dial(t, pika)).Get(queueName(t)+".all", true)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		headers := amqp.Table{"big": int64(1) << 60, "short": int16(5), "n": int64(7), "half": 0.5, "table": amqp.Table{"list": []any{"x", nil}}}
		if string(got.Body) != "all" || got.Priority != 7 || got.MessageId != "m" || got.DeliveryMode != amqp.Persistent || got.Expiration != "60000" ||
			got.Timestamp.Unix() != 1_700_000_000 || !reflect.DeepEqual(got.Headers, headers) {
			t.Errorf("%+v", got)
		}
		for receiver, lines := range receivers {
			want(t, receiver.waitReceived(len(lines)), lines...)
		}
	})
}

// typescriptSurvivesKills runs a program that publishes numbers and consumes them by the TypeScript SDK, while the
// node that it uses is killed again and again. Nothing is lost, nothing is in the queue twice, the order is kept, and the
// program never sees an error.
func typescriptSurvivesKills(t *testing.T, cluster *process.Cluster) {
	kills, perSecond, least := 2, 1000, 5_000
	if os.Getenv("WARREN_LARGE") != "" {
		kills, perSecond, least = 10, 2000, 100_000
	}
	args := []string{queueName(t), fmt.Sprint(perSecond), fmt.Sprint(least)}
	for _, n := range cluster.Nodes {
		args = append(args, n.GRPCAddress())
	}
	command := nodeProgram("kills.mjs", args...)
	input, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := &typescriptKills{program: beginCommand(t, "kills.mjs", command), input: input}
	p.waitFor(func(lines []string) bool { return contains(lines, "[*] Waiting") })
	_, last := p.inUse()
	for i := range kills {
		name, consumed := p.inUse()
		for deadline := time.Now().Add(patience); consumed < last+500; name, consumed = p.inUse() { // it goes on after each kill before the next
			if time.Now().After(deadline) {
				t.Fatalf("it does not go on: %d consumed\n%s", consumed, strings.Join(p.output(), "\n"))
			}
			time.Sleep(50 * time.Millisecond)
		}
		for _, n := range cluster.Nodes {
			if n.Name == name {
				t.Logf("kill %d: %s, %d consumed", i+1, name, consumed)
				n.Kill()
				n.Restart()
			}
		}
		_, last = p.inUse()
	}
	p.say("enough")
	select {
	case <-p.done:
	case <-time.After(15 * time.Minute):
		t.Fatalf("it does not end:\n%s", strings.Join(p.output(), "\n"))
	}
	lines := p.output()
	if report := lines[len(lines)-1]; !strings.HasSuffix(report, " messages, 0 faults") {
		t.Fatal(strings.Join(lines, "\n"))
	}
	t.Log(lines[len(lines)-1])
}

// typescriptKills is a running kills.mjs.
type typescriptKills struct {
	*program
	input io.Writer
	asked int
}

func (p *typescriptKills) say(what string) {
	p.t.Helper()
	if _, err := fmt.Fprintln(p.input, what); err != nil {
		p.t.Fatalf("%v\n%s", err, strings.Join(p.output(), "\n"))
	}
}

// inUse is the node that the program uses, and how much it has consumed.
func (p *typescriptKills) inUse() (name string, consumed int) {
	p.t.Helper()
	p.say("?")
	p.asked++
	line := p.waitReceived(p.asked)[p.asked-1]
	if _, err := fmt.Sscanf(line, "%s %d", &name, &consumed); err != nil {
		p.t.Fatalf("the program answers %q: %v", line, err)
	}
	return name, consumed
}

// typescriptReadme compiles every program of the SDK's README as it is written, runs it, and compares what it prints with
// what the README says.
func typescriptReadme(t *testing.T, plain *process.Node) {
	text, err := os.ReadFile(typescriptSDK + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	programs := readmePrograms(string(text))
	if len(programs) == 0 {
		t.Fatal("no programs")
	}
	dir := t.TempDir()
	if err := errors.Join(writePrograms(dir, programs), tlsfiles.WriteDevelopment(dir, tlsfiles.Development{User: "guest", Valid: time.Hour})); err != nil {
		t.Fatal(err)
	}
	compile := exec.Command("node", filepath.Join(absolute(t, typescriptSDK), "node_modules/typescript/bin/tsc"), "-p", dir)
	if out, err := compile.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	secure := process.Start(t, 1, nodeTLS(dir)...).Nodes[0]
	for i, p := range programs {
		t.Run("README "+p.title, func(t *testing.T) {
			port := plain.GRPCPort
			if strings.Contains(p.source, "tls:") {
				port = secure.GRPCPort
			}
			command := exec.Command("node", "--import", "file://"+absolute(t, "typescript/port.mjs"), fmt.Sprintf("program%d.js", i))
			command.Dir = dir
			command.Env = append(process.CleanEnvironment(), fmt.Sprintf("GRPC_PORT=%d", port))
			program := beginCommand(t, p.title, command)
			select {
			case <-program.done:
			case <-time.After(patience):
				t.Fatalf("it does not end; it printed:\n%s", strings.Join(program.output(), "\n"))
			}
			if got := program.output(); !slices.Equal(got, p.output) {
				t.Fatalf("it printed:\n%s\nand not:\n%s", strings.Join(got, "\n"), strings.Join(p.output, "\n"))
			}
		})
	}
}

// readmeProgram is a program of a README.
type readmeProgram struct {
	title  string   // of its section
	source string   // as it stands there
	output []string // what stands indented behind it
}

// inReadme finds headings, and programs with what follows them.
var inReadme = regexp.MustCompile("(?m)^## (.*)$|^```ts\n((?s:.*?))^```\n\n((?:    .*\n)*)")

func readmePrograms(text string) (programs []readmeProgram) {
	title := ""
	for _, found := range inReadme.FindAllStringSubmatch(text, -1) {
		if found[1] != "" {
			title = found[1]
			continue
		}
		p := readmeProgram{title: title, source: found[2]}
		for line := range strings.Lines(found[3]) {
			p.output = append(p.output, strings.TrimSpace(line))
		}
		programs = append(programs, p)
	}
	return programs
}

// writePrograms makes a package of programs that sees the SDK as one that has installed it does.
func writePrograms(dir string, programs []readmeProgram) error {
	sdk, err := filepath.Abs(typescriptSDK)
	if err != nil {
		return err
	}
	modules := filepath.Join(dir, "node_modules", "@warrenmq")
	errs := []error{os.MkdirAll(modules, 0o755), os.Symlink(sdk, filepath.Join(modules, "client")),
		os.Symlink(filepath.Join(sdk, "node_modules", "@types"), filepath.Join(dir, "node_modules", "@types")),
		os.WriteFile(filepath.Join(dir, "package.json"), []byte(`{"type": "module", "private": true}`), 0o644),
		os.WriteFile(filepath.Join(dir, "tsconfig.json"), []byte(`{"compilerOptions": {"strict": true, "target": "es2022", "module": "nodenext", "types": ["node"]}}`), 0o644)}
	for i, p := range programs {
		errs = append(errs, os.WriteFile(filepath.Join(dir, fmt.Sprintf("program%d.ts", i)), []byte(p.source), 0o644))
	}
	return errors.Join(errs...)
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// nodeTLS is the flags of a node that uses the certificates in a directory everywhere.
func nodeTLS(dir string) []string {
	path := func(name string) string { return filepath.Join(dir, name) }
	cert, key, ca := path(tlsfiles.NodeCert), path(tlsfiles.NodeKey), path(tlsfiles.CACert)
	return []string{"--tls-cert", cert, "--tls-key", key, "--tls-ca", ca, "--cluster-tls-cert", cert, "--cluster-tls-key", key,
		"--cluster-tls-ca", ca, "--gossip-key-file", path(tlsfiles.GossipKeys)}
}
