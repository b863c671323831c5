package interop

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warrenmq/warren/test/process"
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

// TestPythonUnits runs the SDK's own tests, which need no broker.
func TestPythonUnits(t *testing.T) {
	needPythonSDK(t)
	if out, err := pythonCommand(t, "-m", "unittest", "discover", "-s", "../../clients/python/tests").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// TestPythonPatterns runs the tutorial's patterns by the Python SDK on a node alone and with every pair of three nodes, and
// crosses them with AMQP by pika.
func TestPythonPatterns(t *testing.T) {
	needPythonSDK(t)
	needPika(t)
	one := process.Start(t, 1).Nodes[0]
	pythonPatterns(t, "patterns.py", one, one)
	pythonPatterns(t, "patterns_aio.py", one, one)
	cluster := process.Start(t, 3)
	for _, near := range cluster.Nodes {
		for _, far := range cluster.Nodes {
			pythonPatterns(t, "patterns.py", near, far)
			pythonPatterns(t, "patterns_aio.py", near, far)
		}
	}
}

func pythonPatterns(t *testing.T, name string, near, far *process.Node) {
	t.Run(name+" "+near.Name+"-"+far.Name, func(t *testing.T) {
		out, err := pythonCommand(t, "python/"+name, near.GRPCAddress(), far.GRPCAddress(), fmt.Sprint(far.AMQPPort), queueName(t)).CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != "done" {
			t.Fatalf("%v\n%s", err, out)
		}
	})
}

// TestThePythonClientSurvivesKills runs programs that publish numbers and consume them by the Python SDK, while the node that
// they use is killed again and again. Nothing is lost, nothing is in the queue twice, the order is kept, and the program never
// sees an error.
func TestThePythonClientSurvivesKills(t *testing.T) {
	needPythonSDK(t)
	kills, perSecond, least := 2, 1000, 5_000
	apis := []string{"plain"}
	if os.Getenv("WARREN_LARGE") != "" {
		kills, perSecond, least = 10, 2000, 100_000
		apis = []string{"plain", "aio"}
	}
	for _, api := range apis {
		t.Run(api, func(t *testing.T) { pythonSurvivesKills(t, api, kills, perSecond, least) })
	}
}

func pythonSurvivesKills(t *testing.T, api string, kills, perSecond, least int) {
	cluster := process.Start(t, 3)
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
