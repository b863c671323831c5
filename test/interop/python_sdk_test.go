package interop

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warrenmq/warren/auth"
	"github.com/warrenmq/warren/test/process"
	"github.com/warrenmq/warren/tlsfiles"
)

// pythonSDK is where the Python SDK's package is.
const pythonSDK = "../../clients/python/src"

func needPythonSDK(t *testing.T) {
	t.Helper()
	if exec.Command(python, "-c", "import grpc, google.protobuf").Run() != nil {
		missing(t, "python3-grpcio or python3-protobuf")
	}
}

// pythonCommand is a program that sees the Python SDK.
func pythonCommand(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	sdk, err := filepath.Abs(pythonSDK)
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(python, args...)
	c.Env = append(process.CleanEnvironment(), "PYTHONPATH="+sdk, "PYTHONDONTWRITEBYTECODE=1")
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return c
}

// pythonRun runs a program to its end and returns what it printed. One that does not end says where it stands.
func pythonRun(t *testing.T, args ...string) string {
	t.Helper()
	c := pythonCommand(t, append([]string{"-X", "faulthandler"}, args...)...)
	hung := time.AfterFunc(10*patience, func() { _ = c.Process.Signal(syscall.SIGABRT) })
	defer hung.Stop()
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// TestPythonUnits runs the SDK's own tests, which need no broker.
func TestPythonUnits(t *testing.T) {
	needPythonSDK(t)
	pythonRun(t, "-m", "unittest", "discover", "-v", "-s", "../../clients/python/tests")
}

// TestPythonOneNode runs the tutorial's patterns by the Python SDK on a node alone, and crosses them with AMQP by pika.
func TestPythonOneNode(t *testing.T) {
	needPythonSDK(t)
	needPika(t)
	one := process.Start(t, 1).Nodes[0]
	pythonPatterns(t, "patterns.py", one, one)
	pythonPatterns(t, "patterns_aio.py", one, one)
}

// TestPythonCluster does the same with every pair of three nodes, and then kills the nodes under a program.
func TestPythonCluster(t *testing.T) {
	needPythonSDK(t)
	needPika(t)
	cluster := process.Start(t, 3)
	for _, near := range cluster.Nodes {
		for _, far := range cluster.Nodes {
			pythonPatterns(t, "patterns.py", near, far)
			pythonPatterns(t, "patterns_aio.py", near, far)
		}
	}
	kills, perSecond, least := 2, 1000, 5_000
	apis := []string{"plain"}
	if os.Getenv("WARREN_LARGE") != "" {
		kills, perSecond, least = 10, 2000, 100_000
		apis = []string{"plain", "aio"}
	}
	for _, api := range apis {
		t.Run("kills "+api, func(t *testing.T) { pythonSurvivesKills(t, cluster, api, kills, perSecond, least) })
	}
}

func pythonPatterns(t *testing.T, name string, near, far *process.Node) {
	t.Run(name+" "+near.Name+"-"+far.Name, func(t *testing.T) {
		out := pythonRun(t, "python/"+name, near.GRPCAddress(), far.GRPCAddress(), fmt.Sprint(far.AMQPPort), queueName(t))
		if !strings.HasSuffix(out, "done") { // the SDK may log that a starved node was passed over
			t.Fatal(out)
		}
	})
}

// pythonSurvivesKills runs a program that publishes numbers and consumes them by the Python SDK, while the node that it uses is
// killed again and again. Nothing is lost, nothing is in the queue twice, the order is kept, and the program never sees an
// error.
func pythonSurvivesKills(t *testing.T, cluster *process.Cluster, api string, kills, perSecond, least int) {
	args := []string{"python/kills.py", api, queueName(t), fmt.Sprint(perSecond), fmt.Sprint(least)}
	for _, n := range cluster.Nodes {
		args = append(args, n.GRPCAddress())
	}
	command := pythonCommand(t, args...)
	input, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	command.Stderr = command.Stdout
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	p := &pythonKills{t: t, input: input, answers: make(chan string, 1)}
	bounded := time.AfterFunc(15*time.Minute, func() { _ = command.Process.Kill() })
	defer bounded.Stop()
	read := make(chan struct{})
	go func() { defer close(read); p.read(output) }()
	t.Cleanup(func() { // it has ended already unless the test failed
		_ = command.Process.Kill()
		for range p.answers {
		}
		<-read
	})

	_, last := p.inUse()
	for i := range kills {
		name, consumed := p.inUse()
		for consumed < last+500 && !t.Failed() { // the program goes on after each kill before the next
			time.Sleep(50 * time.Millisecond)
			name, consumed = p.inUse()
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
	p.say("finish")
	report := ""
	for line := range p.answers {
		report = line
	}
	if err := command.Wait(); err != nil || !strings.HasPrefix(report, "published ") || !strings.HasSuffix(report, " lost 0 twice 0 disordered 0") {
		t.Fatalf("%v; its report: %q", err, report)
	}
	t.Log(report)
}

// pythonKills is a running kills.py.
type pythonKills struct {
	t       *testing.T
	input   io.Writer
	answers chan string // lines that are not of its log; closed at its end
}

func (p *pythonKills) read(output io.Reader) {
	defer close(p.answers)
	for lines := bufio.NewScanner(output); lines.Scan(); {
		if line := lines.Text(); strings.HasPrefix(line, "node ") || strings.HasPrefix(line, "published ") {
			p.answers <- line
		} else {
			p.t.Log(line)
		}
	}
}

func (p *pythonKills) say(what string) {
	p.t.Helper()
	if _, err := fmt.Fprintln(p.input, what); err != nil {
		p.t.Fatal(err)
	}
}

// inUse is the node that the program uses, and how much it has consumed.
func (p *pythonKills) inUse() (name string, consumed int) {
	p.t.Helper()
	p.say("node")
	line, ok := <-p.answers
	if _, err := fmt.Sscanf(line, "node %s %d", &name, &consumed); !ok || err != nil {
		p.t.Fatalf("the program answers %q, %v", line, err)
	}
	return name, consumed
}

// pythonReadme is the programs of the SDK's README, which run as they are written.
type pythonReadme struct {
	t        *testing.T
	dir      string
	address  string
	programs map[string]bool // by name: not used yet
}

// inPythonReadme finds programs, whose first line is their name.
var inPythonReadme = regexp.MustCompile("(?m)^```python\n((?s:.*?))^```$")

func newPythonReadme(t *testing.T, dir string) *pythonReadme {
	t.Helper()
	text, err := os.ReadFile(pythonSDK + "/../README.md")
	if err != nil {
		t.Fatal(err)
	}
	r := &pythonReadme{t: t, dir: dir, programs: map[string]bool{}}
	for _, found := range inPythonReadme.FindAllStringSubmatch(string(text), -1) {
		first, _, _ := strings.Cut(found[1], "\n")
		name, ok := strings.CutPrefix(first, "# ")
		if !ok || r.programs[name] {
			t.Fatalf("a program begins with %q, not with a name of its own", first)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(found[1]), 0o600); err != nil {
			t.Fatal(err)
		}
		r.programs[name] = true
	}
	return r
}

func (r *pythonReadme) begin(name string, args ...string) *program {
	r.t.Helper()
	delete(r.programs, name)
	runner, err := filepath.Abs("python/as_written.py")
	if err != nil {
		r.t.Fatal(err)
	}
	command := pythonCommand(r.t, append([]string{runner, r.address, name}, args...)...)
	command.Dir = r.dir
	return beginCommand(r.t, name, command)
}

// listen begins a program that says when it is ready to receive.
func (r *pythonReadme) listen(name string) *program {
	r.t.Helper()
	p := r.begin(name)
	p.waitFor(func(lines []string) bool { return contains(lines, "[*] Waiting") })
	return p
}

// expect runs a program to its end and compares what it prints.
func (r *pythonReadme) expect(program []string, lines ...string) {
	r.t.Helper()
	p := r.begin(program[0], program[1:]...)
	select {
	case <-p.done:
	case <-time.After(patience):
		r.t.Fatalf("%v does not end; it printed:\n%s", program, strings.Join(p.output(), "\n"))
	}
	want(r.t, p.output(), lines...)
}

// TestPythonReadme runs every program of the SDK's README as it is written.
func TestPythonReadme(t *testing.T) {
	needPythonSDK(t)
	dir := t.TempDir()
	password := filepath.Join(dir, "password")
	if err := errors.Join(os.WriteFile(password, []byte("password\n"), 0o600),
		tlsfiles.WriteDevelopment(dir, tlsfiles.Development{User: "user", Valid: time.Hour})); err != nil {
		t.Fatal(err)
	}
	key := bytes.Repeat([]byte("k"), 32)
	keys, err := auth.ParseTokenKeys([]byte(base64.StdEncoding.EncodeToString(key)))
	if err != nil {
		t.Fatal(err)
	}
	token, err := keys.Issue("user", time.Now(), time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	keyFile := filepath.Join(dir, "token.keys")
	if err := errors.Join(os.WriteFile(keyFile, []byte(base64.StdEncoding.EncodeToString(key)+"\n"), 0o600),
		os.WriteFile(filepath.Join(dir, "token"), []byte(token+"\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	user := []string{"--default-user", "user", "--default-password-file", password, "--token-key-file", keyFile}
	r := newPythonReadme(t, dir)
	r.address = process.Start(t, 1, user...).Nodes[0].GRPCAddress()

	receiver := r.listen("receive.py")
	r.expect([]string{"send.py"}, "[x] Sent 'Hello World!'")
	want(t, receiver.waitReceived(1), "Received Hello World!")

	worker := r.listen("worker.py")
	r.expect([]string{"new_task.py", "one", "two"}, "[x] Sent one", "[x] Sent two")
	want(t, worker.waitReceived(4), "Received one", "Done one", "Received two", "Done two")

	r.expect([]string{"emit_log.py", "early"}, "[x] Nobody listens")
	first, second := r.listen("receive_logs.py"), r.listen("receive_logs.py")
	r.expect([]string{"emit_log.py", "info: started"}, "[x] Sent info: started")
	want(t, first.waitReceived(1), "info: started")
	want(t, second.waitReceived(1), "info: started")

	r.listen("rpc_server.py")
	r.expect([]string{"rpc_client.py", "10"}, "[.] Got 55")
	r.expect([]string{"rpc_client.py"}, "[.] Got 832040")

	r.expect([]string{"hello_aio.py"}, "[x] Received 0", "[x] Received 1", "[x] Received 2")
	r.expect([]string{"import_log.py"}, "3 messages")
	r.expect([]string{"errors.py"}, "NOT_FOUND NOT_FOUND no queue 'no such queue' in vhost '/'", "QUEUE_FULL")
	r.expect([]string{"by_token.py"}, "[.] Connected to node1")

	r.address = process.Start(t, 1, append(user, nodeTLS(dir)...)...).Nodes[0].GRPCAddress()
	r.expect([]string{"secure.py"}, "[.] Connected to node1")
	for name := range r.programs {
		t.Errorf("%s was not run", name)
	}
}
