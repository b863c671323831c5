package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warrenmq/warren/internal/bench"
)

// nodes is how many each broker has.
const nodes = 3

// broker is three nodes of one kind, and the client that drives them.
type broker interface {
	name() string
	version() string
	home() string                           // folder of all data and logs
	start(ctx context.Context) error        // with empty directories; ready when it returns
	stop() error                            // all nodes, wherever they are
	kill(i int) error                       // one node, as by kill -9
	again(ctx context.Context, i int) error // starts a node that was killed; does not wait for it
	ready(ctx context.Context, i int) error // whether a node serves clients and the queue of keep
	pids() []int                            // all processes of all nodes
	resident() int64                        // bytes of all of them
	peak() int64                            // the most that each of them ever had, together
	run(context.Context, bench.Options) (*bench.Result, error)
	churn(context.Context, bench.ChurnOptions) (*bench.ChurnResult, error)
	memory(context.Context, bench.MemoryOptions) (*bench.MemoryResult, error)
	declareAt(ctx context.Context, i int, queue string) error // a queue whose leader is at a node, where the broker can be told
}

// errNotThere is for what a broker has no counterpart of.
var errNotThere = errors.New("no counterpart")

func brokerNames() []string { return []string{"warren", "rabbitmq", "nats", "nats-always"} }

func newBroker(ctx context.Context, name, warren, dir string) (broker, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	switch name {
	case "warren":
		return newWarren(ctx, warren, dir)
	case "rabbitmq":
		return newRabbit(ctx, dir)
	}
	return newNATS(ctx, dir, name == "nats-always")
}

// child is one node: the process that was started and its children.
type child struct {
	command *exec.Cmd
	ended   chan struct{}
}

// startProcess starts a node in a process group of its own, with its output in a file.
func startProcess(log string, env []string, name string, args ...string) (*child, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	c := exec.Command(name, args...)
	c.Stdout, c.Stderr, c.Env = out, out, env
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.Start(); err != nil {
		return nil, err
	}
	p := &child{c, make(chan struct{})}
	go func() {
		_ = c.Wait() // how it ended is in its log
		close(p.ended)
	}()
	return p, nil
}

// stopTimeout is how long a node may take to stop before it is killed.
const stopTimeout = time.Minute

func (p *child) stop() {
	_ = p.command.Process.Signal(syscall.SIGTERM) // fails when it has ended, which is what is wanted
	select {
	case <-p.ended:
	case <-time.After(stopTimeout):
	}
	p.kill()
}

// kill ends the whole group, which is this node's alone.
func (p *child) kill() {
	_ = syscall.Kill(-p.command.Process.Pid, syscall.SIGKILL)
	<-p.ended
}

func (p *child) alive() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// cluster is the processes of a broker, for all kinds.
type cluster struct {
	dir   string
	procs [nodes]*child
}

func (c *cluster) home() string { return c.dir }

func (c *cluster) stop() error {
	for _, p := range c.procs {
		if p != nil {
			p.stop()
		}
	}
	c.procs = [nodes]*child{}
	return nil
}

func (c *cluster) kill(i int) error {
	c.procs[i].kill()
	return nil
}

func (c *cluster) pids() []int {
	var all []int
	for _, p := range c.procs {
		if p != nil && p.alive() {
			all = append(all, withChildren(p.command.Process.Pid)...)
		}
	}
	return all
}

func (c *cluster) resident() int64 {
	total := int64(0)
	for _, pid := range c.pids() {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if err != nil {
			continue
		}
		if f := strings.Fields(string(data)); len(f) > 1 {
			pages, _ := strconv.ParseInt(f[1], 10, 64)
			total += pages * int64(os.Getpagesize())
		}
	}
	return total
}

func (c *cluster) peak() int64 {
	total := int64(0)
	for _, pid := range c.pids() {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			if f := strings.Fields(line); len(f) == 3 && f[0] == "VmHWM:" {
				kibi, _ := strconv.ParseInt(f[1], 10, 64)
				total += kibi << 10
			}
		}
	}
	return total
}

// freeBytes is what is free on the disk of a folder; 0 where that cannot be told.
func freeBytes(dir string) int64 {
	var s unix.Statfs_t
	if unix.Statfs(dir, &s) != nil {
		return 0
	}
	return int64(s.Bavail) * s.Bsize
}

// withChildren is a process and all that came from it.
func withChildren(root int) []int {
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is well-formed
	for _, path := range stats {
		data, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if f := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:])); len(f) > 1 {
			parent, _ := strconv.Atoi(f[1])
			children[parent] = append(children[parent], pid)
		}
	}
	all := []int{root}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// startTimeout bounds how long a node may take until it serves.
const startTimeout = 5 * time.Minute

// until asks again and again until there is no error, or a node ends, or the time is over.
func (c *cluster) until(ctx context.Context, what string, i int, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-c.procs[i].ended:
			return fmt.Errorf("%s: node %d ended; see its log: %s", what, i+1, tail(filepath.Join(c.dir, fmt.Sprintf("node%d.log", i+1))))
		case <-ctx.Done():
			return fmt.Errorf("%s: %w; last: %w", what, ctx.Err(), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func tail(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-600):])
}

func (c *cluster) log(i int) string { return filepath.Join(c.dir, fmt.Sprintf("node%d.log", i+1)) }

// healthy asks a page for status 200.
func healthy(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	return nil
}

// amqpClient drives any broker that speaks AMQP.
type amqpClient struct {
	cluster
	addresses []string // of the nodes
	queueType string
}

func (c *amqpClient) target() bench.Target {
	return bench.Target{Servers: c.addresses, User: "guest", Password: "guest", VHost: "/", QueueType: c.queueType, PIDs: c.pids()}
}

// keepQueue is what ready publishes to.
const keepQueue = "suite-keep"

func (c *amqpClient) ready(ctx context.Context, i int) error {
	return bench.Answers(ctx, c.target(), c.addresses[i], keepQueue, 5*time.Second)
}

// begun declares the queue of ready once the nodes are there.
func (c *amqpClient) begun(ctx context.Context) error {
	return c.until(ctx, "declare the first queue", 0, func(ctx context.Context) error {
		return bench.Declare(ctx, c.target(), c.addresses[0], keepQueue)
	})
}

// servers are the ones that the options name by number, or all.
func (c *amqpClient) fill(t *bench.Target) {
	servers := t.Servers
	*t = c.target()
	if len(servers) > 0 {
		t.Servers = c.named(servers)
	}
}

// named gives the addresses of nodes by their numbers, from "0".
func (c *amqpClient) named(numbers []string) (addresses []string) {
	for _, n := range numbers {
		i, _ := strconv.Atoi(n) // the works' own numbers
		addresses = append(addresses, c.addresses[i])
	}
	return addresses
}

func (c *amqpClient) run(ctx context.Context, o bench.Options) (*bench.Result, error) {
	c.fill(&o.Target)
	return bench.Run(ctx, o)
}

func (c *amqpClient) churn(ctx context.Context, o bench.ChurnOptions) (*bench.ChurnResult, error) {
	c.fill(&o.Target)
	return bench.Churn(ctx, o)
}

func (c *amqpClient) memory(ctx context.Context, o bench.MemoryOptions) (*bench.MemoryResult, error) {
	c.fill(&o.Target)
	return bench.Memory(ctx, o)
}

func (c *amqpClient) declareAt(ctx context.Context, i int, queue string) error {
	return bench.Declare(ctx, c.target(), c.addresses[i], queue)
}
