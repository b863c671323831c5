package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/warrenmq/warren/internal/bench"
	"github.com/warrenmq/warren/internal/freeport"
)

// warren is three nodes of this broker.
type warren struct {
	amqpClient
	binary string
	told   string
	ports  [nodes]warrenPorts
}

type warrenPorts struct{ amqp, http, grpc, cluster, gossip int }

func newWarren(ctx context.Context, binary, dir string) (broker, error) {
	told, err := exec.CommandContext(ctx, binary, "version").Output()
	if err != nil {
		return nil, fmt.Errorf("%s version: %w", binary, err)
	}
	ports, err := freeport.Find(nodes * 5)
	if err != nil {
		return nil, err
	}
	w := &warren{amqpClient: amqpClient{cluster: cluster{dir: dir}}, binary: binary, told: strings.TrimSpace(string(told))}
	for i := range w.ports {
		p := ports[i*5:]
		w.ports[i] = warrenPorts{p[0], p[1], p[2], p[3], p[4]}
		w.addresses = append(w.addresses, "127.0.0.1:"+strconv.Itoa(p[0]))
	}
	return w, nil
}

func (w *warren) name() string    { return "warren" }
func (w *warren) version() string { return w.told }

func (w *warren) start(ctx context.Context) error {
	if err := os.MkdirAll(w.dir, 0o700); err != nil {
		return err
	}
	for i := range w.ports {
		if err := w.again(ctx, i); err != nil {
			return err
		}
	}
	for i, p := range w.ports {
		url := fmt.Sprintf("http://127.0.0.1:%d/health/ready", p.http)
		if err := w.until(ctx, "start", i, func(ctx context.Context) error { return healthy(ctx, url) }); err != nil {
			return err
		}
	}
	return w.begun(ctx)
}

func (w *warren) again(_ context.Context, i int) (err error) {
	var joins []string
	for _, p := range w.ports {
		joins = append(joins, "127.0.0.1:"+strconv.Itoa(p.gossip))
	}
	p, name := w.ports[i], fmt.Sprintf("node%d", i+1)
	w.procs[i], err = startProcess(w.log(i), os.Environ(), w.binary, "server", "--name", name, "--data-dir", filepath.Join(w.dir, name),
		"--host", "127.0.0.1", "--amqp-port", strconv.Itoa(p.amqp), "--http-port", strconv.Itoa(p.http), "--grpc-port", strconv.Itoa(p.grpc),
		"--cluster-port", strconv.Itoa(p.cluster), "--gossip-port", strconv.Itoa(p.gossip), "--join", strings.Join(joins, ","), "--expect", strconv.Itoa(nodes))
	return err
}

// measureLimit asks the binary what no broker can beat here. It runs as a process of its own, as the brokers do.
func measureLimit(ctx context.Context, binary, dir string, o *options) (map[string][]bench.LimitResult, error) {
	limits := map[string][]bench.LimitResult{}
	for name, args := range map[string][]string{limitWindow: nil, limitLone: {"--window", "1", "--size", "1024"}} {
		args = append([]string{"bench", "limit", "--json", "--dir", dir, "--warmup", o.warmup.String(), "--duration", o.duration.String()}, args...)
		out, err := exec.CommandContext(ctx, binary, args...).Output()
		if err != nil {
			return nil, fmt.Errorf("the limit: %w", err)
		}
		var results []bench.LimitResult
		if err := json.Unmarshal(out, &results); err != nil {
			return nil, fmt.Errorf("the limit: %w", err)
		}
		limits[name] = results
	}
	return limits, nil
}

// The two limits: a publisher's window, and one message at a time.
const (
	limitWindow = "window"
	limitLone   = "lone"
)
