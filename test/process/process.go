// Package process runs real Warren nodes as processes for system tests: it builds the binary once, picks free loopback
// ports, starts, kills and restarts nodes, and stops what it started. What the nodes are asked to do is left to the tests.
package process

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/warrenmq/warren/internal/freeport"
)

// readyWithin bounds the wait for a node to serve; a busy machine with the race detector needs seconds.
const readyWithin = 90 * time.Second

// build makes the binary once for all tests of a package's run, in bin/test of the module. Packages are tested side by side:
// each puts a whole binary in place of the last one, which nodes that run keep.
var build = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("WARREN_BIN"); path != "" {
		return path, nil
	}
	mod, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	dir := filepath.Join(filepath.Dir(strings.TrimSpace(string(mod))), "bin", "test")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	scratch, err := os.MkdirTemp(dir, "build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(scratch)
	name, args := "warren", []string{"build"}
	if RaceDetector {
		name, args = "warren-race", append(args, "-race")
	}
	made, path := filepath.Join(scratch, name), filepath.Join(dir, name)
	out, err := exec.Command("go", append(args, "-o", made, "github.com/warrenmq/warren/cmd/warren")...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build warren: %w\n%s", err, out)
	}
	return path, os.Rename(made, path)
})

// Binary makes the binary, once for a package's run, and says where it is: for tests that start nodes themselves.
func Binary() (string, error) { return build() }

// Cluster is nodes that were started together.
type Cluster struct {
	Nodes []*Node

	t      testing.TB
	binary string
	dir    string
	flags  []string
	made   int // nodes that were ever made
}

// Node is one process and its data directory.
type Node struct {
	Name     string
	DataDir  string
	AMQPPort int
	HTTPPort int
	GRPCPort int
	Flags    []string // every flag it is started with

	t       testing.TB
	binary  string
	logFile string
	gossip  string // its address
	command *exec.Cmd
	exited  chan struct{}    // closed when the process has ended
	state   *os.ProcessState // how; known then
	asked   bool             // it was told to end, or must: see AwaitEnd
}

// Start runs n nodes, waits until all serve, and stops them when the test ends. Flags are added to each node's own.
func Start(t testing.TB, n int, flags ...string) *Cluster {
	t.Helper()
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{t: t, binary: binary, dir: t.TempDir(), flags: flags}
	for range n {
		c.Nodes = append(c.Nodes, c.node())
	}
	if n > 1 {
		c.join()
	}
	for _, node := range c.Nodes {
		if n > 1 {
			node.Flags = append(node.Flags, "--expect", strconv.Itoa(n))
		}
		node.start()
	}
	t.Cleanup(c.stop)
	for _, node := range c.Nodes {
		node.WaitReady()
	}
	return c
}

// node makes the next node, which is not started.
func (c *Cluster) node() *Node {
	c.t.Helper()
	ports := freePorts(c.t, 3)
	c.made++
	n := &Node{Name: fmt.Sprintf("node%d", c.made), AMQPPort: ports[0], HTTPPort: ports[1], GRPCPort: ports[2], t: c.t, binary: c.binary}
	n.DataDir = filepath.Join(c.dir, n.Name)
	n.logFile = filepath.Join(c.dir, n.Name+".log")
	n.Flags = append([]string{"server", "--name", n.Name, "--data-dir", n.DataDir,
		"--http-port", strconv.Itoa(ports[1]), "--grpc-port", strconv.Itoa(ports[2])}, c.flags...)
	if slices.Contains(c.flags, "--tls-cert") { // then AMQPPort is over TLS
		n.Flags = append(n.Flags, "--amqp-port", "0", "--amqps-port", strconv.Itoa(ports[0]))
	} else {
		n.Flags = append(n.Flags, "--amqp-port", strconv.Itoa(ports[0]))
	}
	n.moveTo(freePorts(c.t, 2))
	return n
}

// moveTo has the node listen for other nodes on these ports from its next start on.
func (n *Node) moveTo(ports []int) {
	n.set("--cluster-port", strconv.Itoa(ports[0]))
	n.set("--gossip-port", strconv.Itoa(ports[1]))
	n.gossip = "127.0.0.1:" + strconv.Itoa(ports[1])
}

// set gives a flag its value.
func (n *Node) set(flag, value string) {
	if i := slices.Index(n.Flags, flag); i >= 0 {
		n.Flags[i+1] = value
		return
	}
	n.Flags = append(n.Flags, flag, value)
}

// join tells every node where the others are, for its next start.
func (c *Cluster) join() {
	var gossip []string
	for _, n := range c.Nodes {
		gossip = append(gossip, n.gossip)
	}
	for _, n := range c.Nodes {
		n.set("--join", strings.Join(gossip, ","))
	}
}

// Grow starts so many new nodes, which join, and waits until they serve.
func (c *Cluster) Grow(n int) {
	c.t.Helper()
	for range n {
		c.Nodes = append(c.Nodes, c.node())
	}
	c.join()
	added := c.Nodes[len(c.Nodes)-n:]
	for _, node := range added {
		node.start()
	}
	for _, node := range added {
		node.WaitReady()
	}
}

// Move gives every node other ports for the others, from its next start on. All must have ended.
func (c *Cluster) Move() {
	c.t.Helper()
	ports := freePorts(c.t, 2*len(c.Nodes))
	for i, n := range c.Nodes {
		n.moveTo(ports[2*i:])
	}
	c.join()
}

func (c *Cluster) stop() {
	for _, node := range c.Nodes {
		node.end(syscall.SIGKILL)
		if report := node.badReport(); report != "" {
			c.t.Errorf("%s: its log has what must not be there:\n%s", node.Name, report)
		}
		if c.t.Failed() {
			node.printLog()
		}
	}
}

func (n *Node) start() {
	n.t.Helper()
	log, err := os.OpenFile(n.logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		n.t.Fatal(err)
	}
	defer log.Close()
	n.command = exec.Command(n.binary, n.Flags...)
	n.command.Stdout, n.command.Stderr = log, log
	n.command.Env = CleanEnvironment()
	// A test that dies must not leave brokers behind.
	n.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := n.command.Start(); err != nil {
		n.t.Fatalf("start %s: %v", n.Name, err)
	}
	n.exited, n.asked = make(chan struct{}), false
	go func(command *exec.Cmd, exited chan struct{}) {
		_ = command.Wait() // killed nodes end with an error by design
		n.state = command.ProcessState
		close(exited)
	}(n.command, n.exited)
}

// CleanEnvironment is this process's environment without what a node would take for its settings.
func CleanEnvironment() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "WARREN_") })
}

// Kill ends the node with SIGKILL and waits until it is gone.
func (n *Node) Kill() { n.end(syscall.SIGKILL) }

// Stop ends the node with SIGTERM and waits until it is gone. It must say that it ended well.
func (n *Node) Stop() { n.end(syscall.SIGTERM) }

// Signal sends a signal, such as SIGSTOP.
func (n *Node) Signal(s syscall.Signal) {
	n.t.Helper()
	if err := n.command.Process.Signal(s); err != nil {
		n.t.Fatalf("signal %s: %v", n.Name, err)
	}
}

// AwaitEnd waits until the node has ended by itself, as it must.
func (n *Node) AwaitEnd(what string) {
	n.t.Helper()
	n.asked = true
	Await(n.t, what, n.ended)
}

// ended says whether the process is gone.
func (n *Node) ended() bool {
	select {
	case <-n.exited:
		return true
	default:
		return false
	}
}

func (n *Node) end(s syscall.Signal) {
	n.t.Helper()
	if n.command == nil || n.command.Process == nil {
		return
	}
	if n.ended() {
		if !n.asked {
			n.t.Errorf("%s had ended by itself: %v", n.Name, n.state)
		}
		n.asked = true
		return
	}
	n.asked = true
	if err := n.command.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		n.t.Errorf("signal %s: %v", n.Name, err)
	}
	select {
	case <-n.exited:
		if s == syscall.SIGTERM && !n.state.Success() {
			n.t.Errorf("%s ended with %v after signal %v", n.Name, n.state, s)
		}
	case <-time.After(60 * time.Second):
		n.t.Errorf("%s did not stop within a minute of signal %v", n.Name, s)
		_ = n.command.Process.Kill()
		<-n.exited
	}
}

// Restart starts a node that has ended, with the same flags and data, and waits until it serves.
func (n *Node) Restart() {
	n.t.Helper()
	n.start()
	n.WaitReady()
}

// StartAgain starts a node that has ended and does not wait.
func (n *Node) StartAgain() { n.start() }

// Pid is the process's number.
func (n *Node) Pid() int { return n.command.Process.Pid }

// AMQPAddress is host:port for AMQP clients.
func (n *Node) AMQPAddress() string { return "127.0.0.1:" + strconv.Itoa(n.AMQPPort) }

// GRPCAddress is host:port for gRPC clients.
func (n *Node) GRPCAddress() string { return "127.0.0.1:" + strconv.Itoa(n.GRPCPort) }

// URL is the node's AMQP URL with the default credentials.
func (n *Node) URL() string { return "amqp://guest:guest@" + n.AMQPAddress() + "/" }

// WaitReady waits until the node says that it serves.
func (n *Node) WaitReady() {
	n.t.Helper()
	deadline := time.Now().Add(readyWithin)
	for {
		status, err := n.ready()
		if err == nil && status == http.StatusOK {
			return
		}
		select {
		case <-n.exited:
			n.printLog()
			n.t.Fatalf("%s ended before it was ready", n.Name)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			n.printLog()
			n.t.Fatalf("%s is not ready after %v: status %d, %v", n.Name, readyWithin, status, err)
		}
	}
}

// probes asks for health; the certificate of a node with TLS is of no interest.
var probes = http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}

func (n *Node) scheme() string {
	if slices.Contains(n.Flags, "--tls-cert") {
		return "https"
	}
	return "http"
}

func (n *Node) ready() (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s://127.0.0.1:%d/health/ready", n.scheme(), n.HTTPPort), nil)
	if err != nil {
		return 0, err
	}
	response, err := probes.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(response.Body, 1<<16))
	return response.StatusCode, err
}

// RSS is the node's resident memory in bytes.
func (n *Node) RSS() int64 {
	n.t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.Pid()))
	if err != nil {
		n.t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err != nil {
				n.t.Fatal(err)
			}
			return kib << 10
		}
	}
	n.t.Fatal("no VmRSS")
	return 0
}

// Log is what the node has written so far.
func (n *Node) Log() string {
	data, err := os.ReadFile(n.logFile)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// badReport is the part of the log from the first race, panic or the like on, or nothing.
func (n *Node) badReport() string {
	log := n.Log()
	first := len(log)
	for _, bad := range []string{"WARNING: DATA RACE", "panic:", "panic=", "fatal error:"} {
		if at := strings.Index(log, bad); at >= 0 {
			first = min(first, at)
		}
	}
	return log[first:min(len(log), first+8000)]
}

// printLog shows the end of the node's log.
func (n *Node) printLog() {
	log := n.Log()
	n.t.Logf("the end of the log of %s:\n%s", n.Name, log[max(0, len(log)-6000):])
}

// Await waits for a condition; the bound is for a machine that is busy.
func Await(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: did not come", what)
		}
	}
}

func freePorts(t testing.TB, count int) []int {
	t.Helper()
	ports, err := freeport.Find(count)
	if err != nil {
		t.Fatal(err)
	}
	return ports
}

// Missing skips a test that needs what is not here, and says what. On CI, which has everything, that fails.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("missing: %s", what)
	}
	t.Skipf("missing: %s", what)
}
