// Package docker tests the image and the compose file of deploy/docker on a real Docker engine: three nodes become healthy,
// pika's programs run against each, and nothing that was confirmed is lost when a container is killed, cut off from its
// network, or all are stopped and started.
//
// It takes minutes and an engine, so it runs when asked to: `make docker-test`. When no engine answers and this is root
// on a machine with dockerd, it starts one of its own and ends it.
package docker

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warrenmq/warren/internal/freeport"
	"github.com/warrenmq/warren/test/process"
)

const (
	python    = "/usr/bin/python3" // Debian's, the one that sees Debian's pika
	image     = "warren:docker-test"
	maxImage  = 40 << 20 // bytes
	healthyIn = 3 * time.Minute
)

// stack is the compose file's nodes, on ports of this test's own.
type stack struct {
	t       *testing.T
	root    string   // the repository
	env     []string // of docker and compose
	compose []string // the command
	project string
	ports   []int // AMQP, by node
}

func TestContainers(t *testing.T) {
	if os.Getenv("WARREN_DOCKER") == "" {
		t.Skip("takes minutes and a Docker engine: make docker-test")
	}
	if err := exec.Command(python, "-c", "import pika").Run(); err != nil {
		process.Missing(t, "python3-pika")
	}
	s := newStack(t)
	s.buildImage()
	s.up()

	dir := t.TempDir()
	var publishers []*publisher
	for i := range s.ports {
		// Each begins at a node of its own and goes to the next when its connection breaks.
		publishers = append(publishers, s.publish(fmt.Sprintf("load%d", i+1), dir, slices.Concat(s.ports[i:], s.ports[:i])))
	}
	s.flow(publishers, "three healthy nodes")

	s.docker("kill", s.container(1))
	s.flow(publishers[1:], "a container is killed")
	s.docker("start", s.container(1))
	s.awaitHealthy()
	s.flow(publishers, "the container is back")

	network := s.project + "_warren"
	s.docker("network", "disconnect", network, s.container(2))
	s.flow([]*publisher{publishers[0], publishers[2]}, "a container has no network")
	s.docker("network", "connect", "--alias", "warren2", network, s.container(2))
	s.awaitHealthy()
	s.flow(publishers, "the network is back")

	s.command(s.compose, "stop")
	s.command(s.compose, "start")
	s.awaitHealthy()
	s.flow(publishers, "the stack was stopped and started")

	for i, p := range publishers {
		confirmed := p.stop()
		s.drained(p.queue, filepath.Join(dir, p.queue+".out"), s.ports[(i+1)%len(s.ports)], confirmed)
	}
}

func newStack(t *testing.T) *stack {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	s := &stack{t: t, root: root, env: append(os.Environ(), "DOCKER_BUILDKIT=0"), project: fmt.Sprintf("warrentest%d", os.Getpid())}
	s.findEngine()
	ports, err := freeport.Find(6)
	if err != nil {
		t.Fatal(err)
	}
	s.ports = ports[:3]
	s.env = append(s.env, "WARREN_IMAGE="+image, "COMPOSE_PROJECT_NAME="+s.project)
	for i := range 3 {
		s.env = append(s.env, fmt.Sprintf("WARREN_PORT%d=%d", i+1, ports[i]), fmt.Sprintf("WARREN_HTTP%d=%d", i+1, ports[3+i]))
	}
	s.compose = []string{"docker-compose"}
	if s.try("docker", "compose", "version") == nil {
		s.compose = []string{"docker", "compose"}
	} else if _, err := exec.LookPath("docker-compose"); err != nil {
		process.Missing(t, "docker compose and docker-compose")
	}
	s.compose = append(s.compose, "-f", filepath.Join(root, "deploy/docker/compose.yaml"))
	return s
}

func (s *stack) try(name string, args ...string) error {
	c := exec.Command(name, args...)
	c.Env = s.env
	return c.Run()
}

// findEngine takes the engine that answers, or starts one that ends with the test.
func (s *stack) findEngine() {
	s.t.Helper()
	if s.try("docker", "version") == nil {
		return
	}
	if _, err := exec.LookPath("dockerd"); err != nil || os.Getuid() != 0 {
		process.Missing(s.t, "a Docker engine that answers, or root on a machine with dockerd (docker.io)")
	}
	// Not t.TempDir(): a socket's path must be short, and the kernel may hold mounts in it a little longer.
	dir, err := os.MkdirTemp("/var/tmp", "wd")
	if err != nil {
		s.t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		s.t.Fatal(err)
	}
	socket := "unix://" + filepath.Join(dir, "sock")
	engine := exec.Command("dockerd", "--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "pid"), "-H", socket)
	engine.Stdout, engine.Stderr = log, log
	if err := engine.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = engine.Wait(); close(ended) }()
	s.t.Cleanup(func() {
		_ = engine.Process.Signal(syscall.SIGTERM) // it ends what it has started
		<-ended
		if s.t.Failed() {
			text, _ := os.ReadFile(log.Name())
			s.t.Logf("the end of dockerd's log:\n%s", text[max(0, len(text)-4000):])
		}
		_ = log.Close()
		if err := os.RemoveAll(dir); err != nil {
			s.t.Log(err)
		}
	})
	s.env = append(s.env, "DOCKER_HOST="+socket)
	s.await("dockerd", time.Minute, func() bool {
		select {
		case <-ended:
			s.t.Fatal("dockerd does not run here")
		default:
		}
		return s.try("docker", "version") == nil
	})
}

// await waits for a condition.
func (s *stack) await(what string, within time.Duration, is func() bool) {
	s.t.Helper()
	for end := time.Now().Add(within); !is(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("%s: not within %v", what, within)
		}
	}
}

// command runs a program to its end and returns what it printed.
func (s *stack) command(name []string, args ...string) string {
	s.t.Helper()
	args = append(name[1:len(name):len(name)], args...)
	c := exec.Command(name[0], args...)
	c.Env, c.Dir = s.env, s.root
	out, err := c.CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s %s: %v\n%s", name[0], strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func (s *stack) docker(args ...string) string {
	s.t.Helper()
	return s.command([]string{"docker"}, args...)
}

// buildImage makes the image as `make image` does and looks at what came out.
func (s *stack) buildImage() {
	s.t.Helper()
	s.command([]string{"make"}, "image", "IMAGE="+image)
	s.t.Cleanup(func() { _ = s.try("docker", "image", "rm", image) })
	var info []struct {
		Size   int64
		Config struct{ User string }
	}
	if err := json.Unmarshal([]byte(s.docker("image", "inspect", image)), &info); err != nil {
		s.t.Fatal(err)
	}
	if info[0].Size >= maxImage || info[0].Config.User != "65532:65532" {
		s.t.Errorf("the image has %d bytes, want less than %d, and runs as %q", info[0].Size, maxImage, info[0].Config.User)
	}
	s.t.Logf("the image has %.1f MB", float64(info[0].Size)/1e6)
}

func (s *stack) up() {
	s.t.Helper()
	s.t.Cleanup(func() {
		if s.t.Failed() {
			s.t.Log(s.command(s.compose, "logs", "--tail", "60"))
		}
		s.command(s.compose, "down", "-v", "--timeout", "30")
	})
	s.command(s.compose, "up", "-d")
	s.awaitHealthy()
}

// container is the name of a node's container; compose's versions join the parts differently.
func (s *stack) container(node int) string {
	s.t.Helper()
	return s.command(s.compose, "ps", "-q", "-a", fmt.Sprintf("warren%d", node))
}

// awaitHealthy waits until the health checks of all three say so.
func (s *stack) awaitHealthy() {
	s.t.Helper()
	start := time.Now()
	for i := range s.ports {
		id := s.container(i + 1)
		s.await(fmt.Sprintf("health of node %d", i+1), healthyIn, func() bool {
			return s.docker("inspect", "-f", "{{.State.Health.Status}}", id) == "healthy"
		})
	}
	s.t.Logf("all healthy after %v", time.Since(start).Round(time.Millisecond))
}

// publisher is a program that publishes.
type publisher struct {
	t       *testing.T
	queue   string
	file    string // the numbers that were confirmed
	command *exec.Cmd
	end     func() error
	stderr  bytes.Buffer
}

func (s *stack) publish(queue, dir string, ports []int) *publisher {
	s.t.Helper()
	p := &publisher{t: s.t, queue: queue, file: filepath.Join(dir, queue+".in")}
	args := []string{"load.py", "publish", queue, p.file}
	for _, port := range ports {
		args = append(args, strconv.Itoa(port))
	}
	p.command = exec.Command(python, args...)
	p.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.command.Stderr = &p.stderr
	in, err := p.command.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	p.end = in.Close
	if err := p.command.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = p.command.Process.Kill() })
	return p
}

// stop ends the program and returns what was confirmed.
func (p *publisher) stop() map[string]bool {
	p.t.Helper()
	if err := p.end(); err != nil {
		p.t.Fatal(err)
	}
	if err := p.command.Wait(); err != nil {
		p.t.Fatalf("%s: %v\n%s", p.queue, err, p.stderr.String())
	}
	p.t.Logf("%s: the publisher saw\n%s", p.queue, p.stderr.String())
	confirmed := map[string]bool{}
	for _, number := range lines(p.t, p.file) {
		confirmed[number] = true
	}
	return confirmed
}

// flow waits until each publisher has a hundred more confirms, so that a stage is under load.
func (s *stack) flow(publishers []*publisher, stage string) {
	s.t.Helper()
	s.t.Log(stage)
	for _, p := range publishers {
		count := func() int { return len(lines(s.t, p.file)) }
		start := 0
		if _, err := os.Stat(p.file); err == nil {
			start = count()
		}
		s.await(fmt.Sprintf("%s: confirms of %s beyond %d", stage, p.queue, start), healthyIn, func() bool {
			_, err := os.Stat(p.file)
			return err == nil && count() >= start+100
		})
	}
}

func lines(t *testing.T, path string) (list []string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		list = append(list, in.Text())
	}
	return list
}

// drained takes everything out of a queue: what was confirmed must be there, and nothing twice.
func (s *stack) drained(queue, file string, port int, confirmed map[string]bool) {
	s.t.Helper()
	s.command([]string{python}, "test/docker/load.py", "drain", queue, file, strconv.Itoa(port))
	seen := map[string]bool{}
	for _, number := range lines(s.t, file) {
		if seen[number] {
			s.t.Errorf("%s: message %s came twice", queue, number)
		}
		seen[number] = true
	}
	lost := 0
	for number := range confirmed {
		if !seen[number] {
			lost++
		}
	}
	s.t.Logf("%s: %d confirmed, %d came, %d lost", queue, len(confirmed), len(seen), lost)
	if lost > 0 || len(confirmed) == 0 {
		s.t.Errorf("%s: %d of %d confirmed messages are lost", queue, lost, len(confirmed))
	}
}
