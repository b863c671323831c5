package interop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"golang.org/x/sys/unix"

	"github.com/warrenmq/warren/test/process"
)

const (
	// hostile connections are open at once; a test process and a node need a descriptor for each.
	hostile = 10_000
	// dialers open them side by side.
	dialers = 32
	// perHostile bounds what a node's memory may grow by for each, in bytes (without the race detector).
	perHostile = 32 << 10
)

// attacks are what hostile clients send after they have connected.
var attacks = []struct {
	name string
	data []byte
}{
	{"silence", nil},
	{"half a protocol header", []byte("AMQP")},
	{"garbage", []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03GET / HTTP/1.1\r\n\r\n")},
	{"a header and half a frame", []byte("AMQP\x00\x00\x09\x01\x01\x00\x00\x00\x00\x00\x10\x00")},
	{"a header and a frame of 4 GiB", []byte("AMQP\x00\x00\x09\x01\x01\x00\x00\xff\xff\xff\xff\x00\x0a\x00\x0b")},
	{"a header and a frame of an unknown type", []byte("AMQP\x00\x00\x09\x01\x7f\x00\x00\x00\x00\x00\x00\xce")},
}

// TestHostileConnections has thousands of clients that connect and send nothing, or what is no AMQP, all at once: a
// client that was there goes on, message for message, new ones are let in, and afterwards nothing is left of the others.
func TestHostileConnections(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	count := min(hostile, int(limit.Cur)/2)
	if count < hostile {
		t.Logf("%d connections, not %d: this process may open %d files", count, hostile, limit.Cur)
	}
	node := process.Start(t, 1).Nodes[0]
	before, files := node.RSS(), openFiles(t, node)

	ctx, stop := context.WithCancel(context.Background())
	var through atomic.Int64
	var steady sync.WaitGroup
	steady.Go(func() { exchangeSteadily(ctx, t, dial(t, node), &through) })
	defer func() { stop(); steady.Wait() }()
	process.Await(t, "the first messages", func() bool { return through.Load() > 100 })

	begun, already := time.Now(), through.Load()
	sockets := connectAll(t, node, count)
	t.Logf("%d connections opened in %v; the node has %d files open (%d before)", count, time.Since(begun), openFiles(t, node), files)
	for i, socket := range sockets {
		// The node may have closed it by now: the time for a handshake has passed on a slow machine.
		_, _ = socket.Write(attacks[i%len(attacks)].data)
	}
	grown := node.RSS() - before
	mark := through.Load()
	process.Await(t, "messages while the others are there", func() bool { return through.Load() > mark+100 })
	for range 5 {
		welcome(t, node)
	}
	t.Logf("%d messages went through meanwhile; the node's memory grew by %d KiB, %d bytes a connection",
		through.Load()-already, grown>>10, grown/int64(count))
	if !process.RaceDetector && grown > int64(count)*perHostile {
		t.Errorf("the node's memory grew by %d bytes a connection", grown/int64(count))
	}

	for i, socket := range sockets {
		wantEnd(t, socket, attacks[i%len(attacks)].name)
	}
	// The steady client's socket is there; files of the log may have come.
	process.Await(t, "the node to close them all", func() bool { return openFiles(t, node) < files+50 })
	welcome(t, node)
}

// connectAll opens connections until all are open at once.
func connectAll(t *testing.T, node *process.Node, count int) []net.Conn {
	t.Helper()
	sockets := make([]net.Conn, count)
	errs := make([]error, dialers)
	var all sync.WaitGroup
	for d := range dialers {
		all.Go(func() {
			for i := d; i < count && errs[d] == nil; i += dialers {
				sockets[i], errs[d] = net.DialTimeout("tcp", node.AMQPAddress(), patience)
			}
		})
	}
	all.Wait()
	t.Cleanup(func() {
		for _, socket := range sockets {
			if socket != nil {
				_ = socket.Close()
			}
		}
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return sockets
}

// exchangeSteadily publishes with a confirm and consumes, one message after the other, until ctx ends.
func exchangeSteadily(ctx context.Context, t *testing.T, conn *amqp.Connection, through *atomic.Int64) {
	ch, err := conn.Channel()
	if err == nil {
		err = ch.Confirm(false)
	}
	if err == nil {
		_, err = ch.QueueDeclare("steady", true, false, false, false, nil)
	}
	if err != nil {
		t.Error(err)
		return
	}
	deliveries, err := ch.Consume("steady", "", true, false, false, false, nil)
	if err != nil {
		t.Error(err)
		return
	}
	for i := 0; ctx.Err() == nil; i++ {
		want := strconv.Itoa(i)
		sent, err := ch.PublishWithDeferredConfirmWithContext(ctx, "", "steady", false, false, amqp.Publishing{Body: []byte(want)})
		if err != nil {
			t.Errorf("message %d: %v", i, err)
			return
		}
		if ok, err := sent.WaitContext(ctx); ctx.Err() == nil && (err != nil || !ok) {
			t.Errorf("message %d: confirmed %v, %v", i, ok, err)
			return
		}
		select {
		case d, open := <-deliveries:
			if !open || string(d.Body) != want {
				t.Errorf("message %d came as %q (channel open: %v)", i, d.Body, open)
				return
			}
			through.Add(1)
		case <-ctx.Done():
		}
	}
}

// welcome is a new client, which must be served.
func welcome(t *testing.T, node *process.Node) {
	t.Helper()
	conn, err := amqp.Dial(node.URL())
	if err != nil {
		t.Fatalf("a new client: %v", err)
	}
	ch := channelOf(t, conn)
	if _, err := ch.QueueDeclare("", false, false, true, false, nil); err != nil {
		t.Fatalf("a new client: %v", err)
	}
	if err := conn.Close(); err != nil {
		t.Errorf("a new client: %v", err)
	}
}

// wantEnd reads until the node ends the connection.
func wantEnd(t *testing.T, socket net.Conn, attack string) {
	t.Helper()
	_ = socket.SetReadDeadline(time.Now().Add(patience))
	_, err := io.Copy(io.Discard, socket)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Fatalf("the node did not end a connection that sent %s", attack)
	}
}

// openFiles is how many files and sockets a node has open.
func openFiles(t *testing.T, node *process.Node) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", node.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
