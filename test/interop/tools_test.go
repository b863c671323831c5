package interop

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/warrenmq/warren/test/process"
)

// patience bounds every wait for a program of the tutorial.
const patience = 60 * time.Second

// python is Debian's interpreter, the one that sees Debian's packages.
const python = "/usr/bin/python3"

// missing skips the test, or fails it on CI, where nothing may be skipped silently.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing; test/setup should have installed it", what)
	}
	t.Skipf("%s is missing", what)
}

func needPika(t *testing.T) {
	t.Helper()
	if exec.Command(python, "-c", "import pika").Run() != nil {
		missing(t, "python3-pika")
	}
}

func needAmqplib(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("node"); err != nil {
		missing(t, "node")
	}
	if _, err := os.Stat("node/node_modules/amqplib"); err != nil {
		missing(t, "amqplib (npm ci in test/interop/node)")
	}
}

// program is a running program of the tutorial.
type program struct {
	t       *testing.T
	name    string
	command *exec.Cmd
	mu      sync.Mutex // guards lines
	lines   []string
	changed chan struct{} // has room for one; told when lines grew or the program ended
	done    chan struct{}
}

func begin(t *testing.T, node *process.Node, name string, args ...string) *program {
	t.Helper()
	command := exec.Command(python, append([]string{"tutorial/" + name}, args...)...)
	command.Env = append(os.Environ(), fmt.Sprintf("BROKER_PORT=%d", node.AMQPPort))
	return beginCommand(t, name, command)
}

func beginCommand(t *testing.T, name string, command *exec.Cmd) *program {
	t.Helper()
	p := &program{t: t, name: name, command: command, changed: make(chan struct{}, 1), done: make(chan struct{})}
	p.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := p.command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.command.Stderr = p.command.Stdout
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	go p.read(bufio.NewScanner(out))
	t.Cleanup(p.kill)
	return p
}

// listen begins a program that says when it is ready to receive.
func listen(t *testing.T, node *process.Node, name string, args ...string) *program {
	t.Helper()
	p := begin(t, node, name, args...)
	p.waitFor(func(lines []string) bool { return contains(lines, "[*] Waiting") })
	return p
}

// run runs a program to its end and returns what it printed.
func run(t *testing.T, node *process.Node, name string, args ...string) []string {
	t.Helper()
	p := begin(t, node, name, args...)
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatalf("%s %v did not end; it printed %q", name, args, p.output())
	}
	if err := p.command.Wait(); err != nil {
		t.Fatalf("%s %v: %v; it printed:\n%s", name, args, err, strings.Join(p.output(), "\n"))
	}
	return p.output()
}

func (p *program) read(scanner *bufio.Scanner) {
	for scanner.Scan() {
		p.mu.Lock()
		p.lines = append(p.lines, strings.TrimSpace(scanner.Text()))
		p.mu.Unlock()
		p.tell()
	}
	close(p.done)
	p.tell()
}

func (p *program) tell() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

func (p *program) output() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.lines...)
}

// received is what the program printed after the line that says it waits.
func (p *program) received() []string {
	var lines []string
	for _, line := range p.output() {
		if rest, ok := strings.CutPrefix(line, "[x] "); ok {
			lines = append(lines, rest)
		}
	}
	return lines
}

func (p *program) waitFor(enough func([]string) bool) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		ended := false
		select {
		case <-p.done:
			ended = true
		default:
		}
		if enough(p.output()) {
			return
		}
		if ended {
			p.t.Fatalf("%s ended early; it printed:\n%s", p.name, strings.Join(p.output(), "\n"))
		}
		select {
		case <-p.changed:
		case <-ctx.Done():
			p.t.Fatalf("%s: waited in vain; it printed:\n%s", p.name, strings.Join(p.output(), "\n"))
		}
	}
}

// waitReceived waits until the program printed so many messages.
func (p *program) waitReceived(count int) []string {
	p.t.Helper()
	p.waitFor(func([]string) bool { return len(p.received()) >= count })
	return p.received()
}

func (p *program) kill() {
	_ = p.command.Process.Signal(syscall.SIGKILL) // it may have ended already
	<-p.done
	_ = p.command.Wait()
}

func contains(lines []string, want string) bool {
	for _, line := range lines {
		if strings.Contains(line, want) {
			return true
		}
	}
	return false
}
