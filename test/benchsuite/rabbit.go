package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/warrenmq/warren/internal/freeport"
)

// rabbitHome is where Debian's package has RabbitMQ's own scripts. Those in the search path would run them as another user.
const rabbitHome = "/usr/lib/rabbitmq/bin"

// rabbit is three nodes of RabbitMQ with quorum queues, and the daemon in which Erlang's nodes look one another up.
type rabbit struct {
	amqpClient
	told  string
	epmd  *child
	ports []int // epmd's, then two of each node: AMQP, Erlang's distribution
}

func newRabbit(ctx context.Context, dir string) (broker, error) {
	if _, err := os.Stat(filepath.Join(rabbitHome, "rabbitmq-server")); err != nil {
		return nil, fmt.Errorf("RabbitMQ is not installed (Debian's package rabbitmq-server): %w", err)
	}
	if _, err := exec.LookPath("epmd"); err != nil {
		return nil, err
	}
	ports, err := freeport.Find(1 + 2*nodes)
	if err != nil {
		return nil, err
	}
	r := &rabbit{amqpClient: amqpClient{cluster: cluster{dir: dir}, queueType: "quorum"}, ports: ports, told: "unknown"}
	for i := range nodes {
		r.addresses = append(r.addresses, "127.0.0.1:"+strconv.Itoa(r.amqp(i)))
	}
	if out, err := exec.CommandContext(ctx, "dpkg-query", "-W", "-f", "${Version}", "rabbitmq-server").Output(); err == nil {
		r.told = "RabbitMQ " + strings.TrimSpace(string(out))
	}
	return r, nil
}

func (r *rabbit) name() string           { return "rabbitmq" }
func (r *rabbit) version() string        { return r.told }
func (r *rabbit) amqp(i int) int         { return r.ports[1+2*i] }
func (r *rabbit) distribution(i int) int { return r.ports[2+2*i] }
func (r *rabbit) node(i int) string      { return fmt.Sprintf("bench%d@localhost", i+1) }
func (r *rabbit) folder(i int) string    { return filepath.Join(r.dir, fmt.Sprintf("node%d", i+1)) }

func (r *rabbit) start(ctx context.Context) error {
	if err := r.prepare(); err != nil {
		return err
	}
	var err error
	// In the foreground, so that it ends with the suite and not with the machine.
	if r.epmd, err = startProcess(filepath.Join(r.dir, "epmd.log"), r.environment(0), "epmd", "-port", strconv.Itoa(r.ports[0]), "-address", "127.0.0.1"); err != nil {
		return err
	}
	// One after another: a node that finds none of the others begins a cluster of its own.
	for i := range nodes {
		if err := r.again(ctx, i); err != nil {
			return err
		}
		if err := r.until(ctx, "start", i, func(ctx context.Context) error { return r.connects(ctx, i) }); err != nil {
			return err
		}
	}
	if err := r.await(ctx); err != nil {
		return err
	}
	return r.begun(ctx)
}

// prepare writes what the nodes read.
func (r *rabbit) prepare() error {
	config := "cluster_formation.peer_discovery_backend = classic_config\nlog.file.level = warning\nlog.console = false\n"
	for i := range nodes {
		config += fmt.Sprintf("cluster_formation.classic_config.nodes.%d = %s\n", i+1, r.node(i))
	}
	for i := range nodes {
		if err := os.MkdirAll(r.folder(i), 0o700); err != nil {
			return err
		}
		own := config + fmt.Sprintf("listeners.tcp.1 = 127.0.0.1:%d\n", r.amqp(i))
		for name, text := range map[string]string{"rabbitmq.conf": own, "enabled_plugins": "[].\n", "rabbitmq-env.conf": ""} {
			if err := os.WriteFile(filepath.Join(r.folder(i), name), []byte(text), 0o600); err != nil {
				return err
			}
		}
	}
	cookie := filepath.Join(r.dir, ".erlang.cookie")
	if _, err := os.Stat(cookie); err == nil {
		return nil
	}
	// It keeps out nodes of others on this machine, nobody else: all listens on loopback.
	return os.WriteFile(cookie, []byte("WARRENBENCH"), 0o400)
}

func (r *rabbit) environment(i int) []string {
	dir := r.folder(i)
	return append(os.Environ(), "HOME="+r.dir, "ERL_EPMD_PORT="+strconv.Itoa(r.ports[0]), "ERL_EPMD_ADDRESS=127.0.0.1", "RABBITMQ_NODENAME="+r.node(i),
		"RABBITMQ_NODE_PORT="+strconv.Itoa(r.amqp(i)), "RABBITMQ_DIST_PORT="+strconv.Itoa(r.distribution(i)), "RABBITMQ_MNESIA_BASE="+filepath.Join(dir, "data"),
		"RABBITMQ_LOG_BASE="+filepath.Join(dir, "log"), "RABBITMQ_CONFIG_FILE="+filepath.Join(dir, "rabbitmq.conf"), "RABBITMQ_CONF_ENV_FILE="+filepath.Join(dir, "rabbitmq-env.conf"),
		"RABBITMQ_ENABLED_PLUGINS_FILE="+filepath.Join(dir, "enabled_plugins"), "RABBITMQ_PID_FILE="+filepath.Join(dir, "pid"), "RABBITMQ_ADVANCED_CONFIG_FILE="+filepath.Join(dir, "advanced"),
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1}",
		// The script then becomes the node instead of waiting for it.
		"RUNNING_UNDER_SYSTEMD=true")
}

func (r *rabbit) again(_ context.Context, i int) (err error) {
	r.procs[i], err = startProcess(r.log(i), r.environment(i), filepath.Join(rabbitHome, "rabbitmq-server"))
	return err
}

func (r *rabbit) connects(ctx context.Context, i int) error {
	socket, err := (&net.Dialer{}).DialContext(ctx, "tcp", r.addresses[i])
	if err != nil {
		return err
	}
	return socket.Close()
}

// await waits until all nodes are in one cluster; three clusters of one node each would be measured otherwise.
func (r *rabbit) await(ctx context.Context) error {
	c := exec.CommandContext(ctx, filepath.Join(rabbitHome, "rabbitmqctl"), "-n", r.node(0), "await_online_nodes", strconv.Itoa(nodes), "--timeout", "120")
	c.Env = r.environment(0)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("the nodes do not come together: %w: %s", err, out)
	}
	return nil
}

func (r *rabbit) stop() error {
	err := r.cluster.stop()
	if r.epmd != nil {
		r.epmd.kill()
		r.epmd = nil
	}
	return errors.Join(err, os.RemoveAll(filepath.Join(r.dir, ".erlang.cookie")))
}
