package client_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/warrenmq/warren/client"
	"github.com/warrenmq/warren/config"
	"github.com/warrenmq/warren/internal/freeport"
	"github.com/warrenmq/warren/node"
)

// address is where the node of this package's tests and examples serves gRPC, amqpURL the same for AMQP.
var address, amqpURL string

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run runs the tests beside a node with its data in a temporary directory.
func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "warren-client-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	n, err := startNode(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	status := m.Run()
	if err := n.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return status
}

func startNode(dir string) (*node.Node, error) {
	found, err := freeport.Find(4)
	if err != nil {
		return nil, err
	}
	var ports []string
	for _, port := range found {
		ports = append(ports, strconv.Itoa(port))
	}
	flags := pflag.NewFlagSet("node", pflag.ContinueOnError)
	c := config.Register(flags)
	if err := flags.Parse([]string{"--name", "n", "--data-dir", dir, "--http-port", "0", "--amqp-port", ports[0], "--grpc-port", ports[1], "--cluster-port", ports[2],
		"--gossip-port", ports[3], "--shards", "4", "--memory-limit", "4GiB", "--disk-free-limit", "1MiB"}); err != nil {
		return nil, err
	}
	if err := c.Load(nil); err != nil {
		return nil, err
	}
	address, amqpURL = "127.0.0.1:"+ports[1], "amqp://guest:guest@127.0.0.1:"+ports[0]+"/"
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return node.Start(ctx, c, "test", slog.New(slog.DiscardHandler))
}

// connect returns a client of the node, by way of the addresses if there are any.
func connect(t testing.TB, addresses ...string) *client.Client {
	t.Helper()
	if len(addresses) == 0 {
		addresses = []string{address}
	}
	c, err := client.New(addresses)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// testContext bounds a test.
func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// relay is a way to the node whose connections can be cut.
type relay struct {
	t        testing.TB
	listener net.Listener

	mu    sync.Mutex
	conns map[net.Conn]bool
	cuts  int
}

func newRelay(t testing.TB) *relay {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{t: t, listener: l, conns: map[net.Conn]bool{}}
	t.Cleanup(func() { _ = l.Close(); r.cut() })
	go r.accept()
	return r
}

func (r *relay) accept() {
	for {
		in, err := r.listener.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", address)
		if err != nil {
			_ = in.Close()
			continue
		}
		r.mu.Lock()
		r.conns[in], r.conns[out] = true, true
		r.mu.Unlock()
		for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
			go func() {
				_, _ = io.Copy(way[0], way[1])
				r.drop(in)
				r.drop(out)
			}()
		}
	}
}

func (r *relay) drop(c net.Conn) {
	_ = c.Close()
	r.mu.Lock()
	delete(r.conns, c)
	r.mu.Unlock()
}

// cut cuts all connections; new ones may come.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // what is under way is lost
		}
		_ = c.Close()
	}
	if len(r.conns) > 0 {
		r.cuts++
	}
}

// taken is how many sides of connections there are.
func (r *relay) taken() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.conns)
}

func (r *relay) address() string { return r.listener.Addr().String() }

// name makes a queue's name that no other test has.
func name(t testing.TB) string {
	return strings.ReplaceAll(t.Name(), "/", ".") + "." + strconv.FormatInt(time.Now().UnixNano(), 36)
}
