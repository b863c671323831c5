package switchboard

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// listen opens a UDP socket in a node's namespace.
func listen(t *testing.T, s *Switchboard, node int) net.PacketConn {
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

func TestLinks(t *testing.T) {
	if why := Missing(); why != "" {
		t.Skip(why)
	}
	s, err := New(fmt.Sprintf("cht%d-", os.Getpid()%10000), 3)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	conns := []net.PacketConn{listen(t, s, 0), listen(t, s, 1), listen(t, s, 2)}
	expect := func(from, to int, want bool) {
		t.Helper()
		if got, _ := arrives(t, conns, from, to); got != want {
			t.Fatalf("from %d to %d: arrives %v, want %v", from+1, to+1, got, want)
		}
	}
	expect(0, 1, true)
	expect(1, 2, true)
	s.Cut(0, 1)
	expect(0, 1, false)
	expect(1, 0, true) // the address is known from before: one way is enough for a packet
	expect(0, 2, true)
	s.Heal()
	expect(0, 1, true)
	s.Slow(0, 1, 30*time.Millisecond, 0)
	if ok, took := arrives(t, conns, 0, 1); !ok || took < 30*time.Millisecond {
		t.Fatalf("delayed by 30 ms: arrives %v after %v", ok, took)
	}
	s.Heal()
	s.Slow(0, 1, 0, 1)
	expect(0, 1, false)
}
