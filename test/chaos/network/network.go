// Package network puts every node into a network namespace of its own and does harm to the links between them: cuts in one
// direction or both, delay and loss. There are two kinds: Bridge is the kernel's own network (virtual Ethernet pairs, a
// bridge, packet filters, netem where the kernel has it); Switchboard carries all frames through this process and needs
// nothing of that. Both need root. Addresses exist only inside the namespaces. Close removes the namespaces; those of a
// process that ended without it are removed by the next one that makes a network.
package network

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Network connects nodes, which are numbered from 0.
type Network interface {
	// Namespace is the name of a node's network namespace.
	Namespace(node int) string
	// Cut stops everything from one node to another without a word; the other direction stays.
	Cut(from, to int) error
	// Slow delays what passes between a node and the others, and loses a share of it, in both directions.
	Slow(node int, delay time.Duration, loss float64) error
	// Heal connects everybody with everybody again, at full speed.
	Heal() error
	// Dial connects to an address as seen from inside a node's namespace.
	Dial(node int, address string, timeout time.Duration) (net.Conn, error)
	// Close removes what was made. The processes in the namespaces must have ended.
	Close() error
}

// Address is a node's, inside the namespaces.
func Address(node int) string { return fmt.Sprintf("10.177.0.%d", node+1) }

// hardware is the first byte of our hardware addresses: locally administered, for one receiver.
const hardware = 0x02

func hardwareAddress(node int) string { return fmt.Sprintf("%02x:00:00:00:00:%02x", hardware, node+1) }

func namespacesMissing() string {
	if os.Geteuid() != 0 {
		return "network namespaces need root"
	}
	for _, program := range []string{"ip", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			return "network namespaces need the " + program + " command"
		}
	}
	return ""
}

const namespaceDir = "/var/run/netns/"

var (
	networks atomic.Int32
	ours     = regexp.MustCompile(`^ch([0-9]+)-`)
)

// newPrefix begins the names of one network's namespaces: of this process, so that a later one can tell whose they were.
// Names of devices are limited to 15 bytes.
func newPrefix() string { return fmt.Sprintf("ch%d-%c", os.Getpid(), 'a'+rune(networks.Add(1)-1)%26) }

// sweep removes the namespaces of processes that have ended without doing so.
func sweep() {
	entries, err := os.ReadDir(namespaceDir)
	if err != nil {
		return // there are none
	}
	for _, e := range entries {
		match := ours.FindStringSubmatch(e.Name())
		if match == nil {
			continue
		}
		if pid, err := strconv.Atoi(match[1]); err == nil && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			_ = ip("netns", "del", e.Name()) // another process may do the same
		}
	}
}

// furnish sets up a node's device inside its namespace.
func furnish(namespace, device string, node, nodes int) error {
	commands := [][]string{
		{"link", "set", "lo", "up"},
		{"addr", "add", Address(node) + "/24", "dev", device},
		{"link", "set", device, "address", hardwareAddress(node), "mtu", fmt.Sprint(frameSize - 14), "up"},
	}
	for other := range nodes {
		if other != node {
			// Nobody asks for addresses: an answer could not come back over a link that is cut one way.
			commands = append(commands, []string{"neigh", "replace", Address(other), "lladdr", hardwareAddress(other), "dev", device, "nud", "permanent"})
		}
	}
	for _, command := range commands {
		if err := ip(append([]string{"-n", namespace}, command...)...); err != nil {
			return err
		}
	}
	return nil
}

// Inside is what to put before a command line to run it in a namespace. It is not `ip netns exec`, which makes a namespace of
// mounts as well: what is mounted at that time would stay mounted there, whatever is taken off elsewhere.
func Inside(namespace string) []string {
	return []string{"nsenter", "--net=" + namespaceDir + namespace}
}

func ip(args ...string) error { return command("ip", args...) }

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %v: %w: %s", name, args, err, out)
	}
	return nil
}

// dial connects from inside a namespace.
func dial(namespace, address string, timeout time.Duration) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result, 1)
	go func() {
		// A socket belongs to the namespace of the thread that makes it. The thread is not given back: it ends with
		// this goroutine, since it is in a namespace where nobody else may find himself.
		runtime.LockOSThread()
		f, err := os.Open(namespaceDir + namespace)
		if err == nil {
			err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			results <- result{nil, fmt.Errorf("enter namespace %s: %w", namespace, err)}
			return
		}
		conn, err := net.DialTimeout("tcp", address, timeout)
		results <- result{conn, err}
	}()
	r := <-results
	return r.conn, r.err
}
