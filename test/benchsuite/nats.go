package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/warrenmq/warren/internal/bench"
	"github.com/warrenmq/warren/internal/freeport"
)

// natsModule is the module that pins nats-server and has the client, from the repository's root.
const natsModule = "test/benchsuite/natsclient"

// natsBroker is three nodes of NATS with JetStream, streams with three replicas.
type natsBroker struct {
	cluster
	always         bool // fsync before every acknowledgement; otherwise every two minutes, NATS's default
	server, client string
	told           string
	ports          []int // of each node: clients, cluster, monitoring
}

func newNATS(ctx context.Context, dir string, always bool) (broker, error) {
	n := &natsBroker{cluster: cluster{dir: dir}, always: always, server: filepath.Join(filepath.Dir(dir), "nats-server"), client: filepath.Join(filepath.Dir(dir), "nats-client")}
	for binary, pkg := range map[string]string{n.server: "github.com/nats-io/nats-server/v2", n.client: "."} {
		c := exec.CommandContext(ctx, "go", "build", "-o", binary, pkg)
		c.Dir = natsModule
		if out, err := c.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("go build %s: %w: %s", pkg, err, bytes.TrimSpace(out))
		}
	}
	out, err := exec.CommandContext(ctx, n.server, "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("nats-server --version: %w", err)
	}
	n.told = strings.TrimSpace(string(out))
	n.ports, err = freeport.Find(3 * nodes)
	return n, err
}

func (n *natsBroker) version() string { return n.told }

func (n *natsBroker) name() string {
	if n.always {
		return "nats-always"
	}
	return "nats"
}

func (n *natsBroker) address(i int) string { return "127.0.0.1:" + strconv.Itoa(n.ports[3*i]) }

func (n *natsBroker) start(ctx context.Context) error {
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		return err
	}
	for i := range nodes {
		if err := os.WriteFile(n.config(i), []byte(n.settings(i)), 0o600); err != nil {
			return err
		}
		if err := n.again(ctx, i); err != nil {
			return err
		}
	}
	for i := range nodes {
		if err := n.until(ctx, "start", i, func(ctx context.Context) error { return n.ready(ctx, i) }); err != nil {
			return err
		}
	}
	return nil
}

func (n *natsBroker) config(i int) string {
	return filepath.Join(n.dir, fmt.Sprintf("node%d.conf", i+1))
}

func (n *natsBroker) settings(i int) string {
	var routes []string
	for other := range nodes {
		if other != i {
			routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", n.ports[3*other+1]))
		}
	}
	sync := ""
	if n.always {
		sync = "sync_interval: always"
	}
	return fmt.Sprintf("server_name: node%d\nlisten: %q\nhttp: \"127.0.0.1:%d\"\njetstream { store_dir: %q\n%s }\ncluster { name: bench, listen: \"127.0.0.1:%d\", routes: [%s] }\n",
		i+1, n.address(i), n.ports[3*i+2], filepath.Join(n.dir, fmt.Sprintf("node%d", i+1)), sync, n.ports[3*i+1], strings.Join(routes, ", "))
}

func (n *natsBroker) again(_ context.Context, i int) (err error) {
	n.procs[i], err = startProcess(n.log(i), os.Environ(), n.server, "-c", n.config(i))
	return err
}

func (n *natsBroker) ready(ctx context.Context, i int) error {
	return healthy(ctx, fmt.Sprintf("http://127.0.0.1:%d/healthz", n.ports[3*i+2]))
}

// command is what the client is told; its own copy is in its module.
type command struct {
	What    string // run, churn, memory, declare
	Run     *bench.Options
	Churn   *bench.ChurnOptions
	Memory  *bench.MemoryOptions
	Queue   string // to be declared
	Servers []string
	PIDs    []int
}

// ask runs the client and decodes what it answers.
func (n *natsBroker) ask(ctx context.Context, c command, servers []string, answer any) error {
	for i := range nodes {
		if len(servers) == 0 || slices.Contains(servers, strconv.Itoa(i)) {
			c.Servers = append(c.Servers, "nats://"+n.address(i))
		}
	}
	c.PIDs = n.pids()
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	run := exec.CommandContext(ctx, n.client, string(text))
	var failure bytes.Buffer
	run.Stderr = &failure
	out, err := run.Output()
	if err != nil {
		return fmt.Errorf("NATS client: %w: %s", err, bytes.TrimSpace(failure.Bytes()))
	}
	return json.Unmarshal(out, answer)
}

func (n *natsBroker) run(ctx context.Context, o bench.Options) (*bench.Result, error) {
	var r bench.Result
	return &r, n.ask(ctx, command{What: "run", Run: &o}, o.Servers, &r)
}

func (n *natsBroker) churn(ctx context.Context, o bench.ChurnOptions) (*bench.ChurnResult, error) {
	if o.Kind == bench.ChurnExclusive {
		return nil, errNotThere
	}
	var r bench.ChurnResult
	return &r, n.ask(ctx, command{What: "churn", Churn: &o}, o.Servers, &r)
}

func (n *natsBroker) memory(ctx context.Context, o bench.MemoryOptions) (*bench.MemoryResult, error) {
	if o.Queues > 0 {
		return nil, fmt.Errorf("%w: each stream with three replicas is a Raft group of its own, thousands are beyond this machine", errNotThere)
	}
	var r bench.MemoryResult
	return &r, n.ask(ctx, command{What: "memory", Memory: &o}, o.Servers, &r)
}

func (n *natsBroker) declareAt(ctx context.Context, i int, queue string) error {
	var none struct{}
	return n.ask(ctx, command{What: "declare", Queue: queue}, []string{strconv.Itoa(i)}, &none)
}
