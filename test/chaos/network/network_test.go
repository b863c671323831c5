package network

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warrenmq/warren/test/process"
)

// listen opens a UDP socket in a node's namespace.
func listen(t *testing.T, s Network, node int) net.PacketConn {
	t.Helper()
	type result struct {
		conn net.PacketConn
		err  error
	}
	results := make(chan result)
	go func() {
		runtime.LockOSThread() // and never given back, as in Dial
		f, err := os.Open("/var/run/netns/" + s.Namespace(node))
		if err == nil {
			err = errors.Join(unix.Setns(int(f.Fd()), unix.CLONE_NEWNET), f.Close())
		}
		if err != nil {
			results <- result{nil, err}
			return
		}
		conn, err := net.ListenPacket("udp", Address(node)+":7000")
		results <- result{conn, err}
	}()
	r := <-results
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { _ = r.conn.Close() })
	return r.conn
}

// arrives says whether one of many packets from one node to another arrives, and how long the fastest took.
func arrives(t *testing.T, conns []net.PacketConn, from, to int) (bool, time.Duration) {
	t.Helper()
	target, err := net.ResolveUDPAddr("udp", Address(to)+":7000")
	if err != nil {
		t.Fatal(err)
	}
	mark := fmt.Sprint(time.Now().UnixNano())
	buffer := make([]byte, 100)
	for range 20 {
		begin := time.Now()
		if _, err := conns[from].WriteTo([]byte(mark), target); err != nil {
			t.Fatal(err)
		}
		if err := conns[to].SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		for {
			n, _, err := conns[to].ReadFrom(buffer)
			if err != nil {
				break
			}
			if strings.HasPrefix(string(buffer[:n]), mark) {
				return true, time.Since(begin)
			}
		}
	}
	return false, 0
}

func TestSwitchboard(t *testing.T) {
	if why := SwitchboardMissing(); why != "" {
		process.Missing(t, why)
	}
	s, err := NewSwitchboard(3)
	if err != nil {
		t.Fatal(err)
	}
	testNetwork(t, s, true)
}

func TestBridge(t *testing.T) {
	if why := BridgeMissing(); why != "" {
		process.Missing(t, why)
	}
	b, err := NewBridge(3)
	if err != nil {
		t.Fatal(err)
	}
	netem := NetemMissing()
	if netem != "" {
		t.Logf("delays are not tested: %s", netem)
	}
	testNetwork(t, b, netem == "")
}

// testNetwork tries everything that can be done to the links of three nodes, and closes the network.
func testNetwork(t *testing.T, n Network, delays bool) {
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		for node := range 3 {
			if _, err := os.Stat("/var/run/netns/" + n.Namespace(node)); err == nil {
				t.Errorf("namespace %s is still there", n.Namespace(node))
			}
		}
	})
	conns := []net.PacketConn{listen(t, n, 0), listen(t, n, 1), listen(t, n, 2)}
	expect := func(from, to int, want bool) {
		t.Helper()
		if got, _ := arrives(t, conns, from, to); got != want {
			t.Fatalf("from %d to %d: arrives %v, want %v", from+1, to+1, got, want)
		}
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	expect(0, 1, true)
	expect(1, 2, true)
	do(n.Cut(0, 1))
	expect(0, 1, false)
	expect(1, 0, true) // the address is known from before: one way is enough for a packet
	expect(0, 2, true)
	do(n.Heal())
	expect(0, 1, true)
	if delays {
		do(n.Slow(0, 30*time.Millisecond, 0))
		for _, way := range [][2]int{{0, 1}, {1, 0}} {
			if ok, took := arrives(t, conns, way[0], way[1]); !ok || took < 30*time.Millisecond {
				t.Fatalf("delayed by 30 ms: arrives %v after %v", ok, took)
			}
		}
		do(n.Heal())
	}
	do(n.Slow(0, 0, 1))
	expect(0, 1, false)
	expect(1, 0, false)
	expect(1, 2, true)
	do(n.Heal())
	expect(1, 0, true)
}

// TestSweep: what a run left that was ended by SIGKILL is removed; what a living one uses stays.
func TestSweep(t *testing.T) {
	if why := namespacesMissing(); why != "" {
		process.Missing(t, why)
	}
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	left, mine := fmt.Sprintf("ch%d-9", ended.Process.Pid), newPrefix()+"9"
	for _, name := range []string{left, mine} {
		if err := ip("netns", "add", name); err != nil {
			t.Fatal(err)
		}
	}
	sweep()
	if _, err := os.Stat(namespaceDir + mine); err != nil {
		t.Errorf("a living run's: %v", err)
	}
	if _, err := os.Stat(namespaceDir + left); err == nil {
		t.Error("a dead run's is still there")
	}
	if err := ip("netns", "del", mine); err != nil {
		t.Error(err)
	}
}
