// Package switchboard is a small Ethernet in user space: every node lives in its own network namespace, and all frames
// between them pass through this process, which can drop, lose and delay them in each direction. It needs root and
// /dev/net/tun, and nothing else of the kernel: no bridge, no packet filter, no netem. Addresses exist only inside the
// namespaces; the kernel removes the devices when the process ends, and Close removes the namespaces.
package switchboard

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// frameSize is the largest frame. A large MTU lets TCP send large segments, which spares copies in user space.
const frameSize = 9000 + 14

// Switchboard connects n nodes.
type Switchboard struct {
	ports []*port
	links []link // from × n + to
	work  sync.WaitGroup
	done  chan struct{}
}

type port struct {
	namespace string
	device    *os.File
}

// link is one direction between two nodes.
type link struct {
	down  atomic.Bool
	loss  atomic.Uint32 // in a million
	delay atomic.Int64  // nanoseconds
	later chan delayed  // frames on their way, in order
}

type delayed struct {
	at    time.Time
	frame []byte
}

// Missing says why there can be no switchboard here, or nothing.
func Missing() string {
	if os.Geteuid() != 0 {
		return "network namespaces need root"
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return "network namespaces need the ip command"
	}
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return "virtual network devices: " + err.Error()
	}
	_ = f.Close() // only opened to see whether it can be
	return ""
}

// New makes n namespaces with one device each, connected with one another. Names begin with prefix.
func New(prefix string, n int) (_ *Switchboard, err error) {
	s := &Switchboard{links: make([]link, n*n), done: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	for i := range n {
		p, err := plug(fmt.Sprintf("%s%d", prefix, i+1), i, n)
		if p != nil {
			s.ports = append(s.ports, p)
		}
		if err != nil {
			return nil, err
		}
	}
	for i := range s.links {
		l := &s.links[i]
		l.later = make(chan delayed, 4096)
		to := s.ports[i%n]
		s.work.Go(func() { s.deliverLater(l, to) })
	}
	for i := range s.ports {
		s.work.Go(func() { s.forward(i) })
	}
	return s, nil
}

// Address is a node's, inside the namespaces.
func Address(node int) string { return fmt.Sprintf("10.177.0.%d", node+1) }

// hardware is the first byte of our hardware addresses: locally administered, for one receiver.
const hardware = 0x02

func hardwareAddress(node int) string { return fmt.Sprintf("%02x:00:00:00:00:%02x", hardware, node+1) }

// Namespace is the name of a node's network namespace.
func (s *Switchboard) Namespace(node int) string { return s.ports[node].namespace }

// plug makes a namespace with one device in it. What was made is returned even with an error.
func plug(namespace string, node, nodes int) (*port, error) {
	if err := ip("netns", "add", namespace); err != nil {
		return nil, err
	}
	p := &port{namespace: namespace}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return p, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(namespace)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	p.device = os.NewFile(uintptr(fd), namespace) // after the device is set, so that the poller can watch it
	if err != nil {
		return p, fmt.Errorf("make device %s: %w", namespace, err)
	}
	commands := [][]string{
		{"link", "set", namespace, "netns", namespace},
		{"-n", namespace, "link", "set", "lo", "up"},
		{"-n", namespace, "addr", "add", Address(node) + "/24", "dev", namespace},
		{"-n", namespace, "link", "set", namespace, "address", hardwareAddress(node), "mtu", fmt.Sprint(frameSize - 14), "up"},
	}
	for other := range nodes {
		if other != node {
			// Nobody asks for addresses: an answer could not come back over a link that is cut one way.
			commands = append(commands, []string{"-n", namespace, "neigh", "replace", Address(other), "lladdr", hardwareAddress(other),
				"dev", namespace, "nud", "permanent"})
		}
	}
	for _, command := range commands {
		if err := ip(command...); err != nil {
			return p, err
		}
	}
	return p, nil
}

func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %v: %w: %s", args, err, out)
	}
	return nil
}

// forward reads the frames of one node and passes them on.
func (s *Switchboard) forward(from int) {
	frame := make([]byte, frameSize)
	for {
		n, err := s.ports[from].device.Read(frame)
		if err != nil {
			return // closed
		}
		if n < 14 {
			continue
		}
		if to := int(frame[5]) - 1; frame[0] == hardware && to >= 0 && to < len(s.ports) && to != from {
			s.pass(&s.links[from*len(s.ports)+to], s.ports[to], frame[:n])
		}
	}
}

// pass sends a frame over one link, if it is up.
func (s *Switchboard) pass(l *link, to *port, frame []byte) {
	if l.down.Load() {
		return
	}
	if loss := l.loss.Load(); loss > 0 && rand.Uint32N(1_000_000) < loss {
		return
	}
	delay := time.Duration(l.delay.Load())
	if delay == 0 && len(l.later) == 0 {
		_, _ = to.device.Write(frame) // an Ethernet may lose frames
		return
	}
	select {
	case l.later <- delayed{time.Now().Add(delay), append([]byte(nil), frame...)}:
	default: // a full queue loses frames, as a router does
	}
}

func (s *Switchboard) deliverLater(l *link, to *port) {
	for {
		select {
		case d := <-l.later:
			select {
			case <-time.After(time.Until(d.at)):
			case <-s.done:
				return
			}
			if !l.down.Load() {
				_, _ = to.device.Write(d.frame) // an Ethernet may lose frames
			}
		case <-s.done:
			return
		}
	}
}

// Cut stops all frames from one node to another; the other direction stays.
func (s *Switchboard) Cut(from, to int) { s.links[from*len(s.ports)+to].down.Store(true) }

// Slow delays the frames from one node to another and loses a share of them.
func (s *Switchboard) Slow(from, to int, delay time.Duration, loss float64) {
	l := &s.links[from*len(s.ports)+to]
	l.delay.Store(int64(delay))
	l.loss.Store(uint32(loss * 1_000_000))
}

// Heal connects everybody with everybody again, at full speed.
func (s *Switchboard) Heal() {
	for i := range s.links {
		s.links[i].down.Store(false)
		s.links[i].loss.Store(0)
		s.links[i].delay.Store(0)
	}
}

// Dial connects to an address as seen from inside a node's namespace.
func (s *Switchboard) Dial(node int, address string, timeout time.Duration) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result, 1)
	go func() {
		// A socket belongs to the namespace of the thread that makes it. The thread is not given back: it ends with
		// this goroutine, since it is in a namespace where nobody else may find himself.
		runtime.LockOSThread()
		f, err := os.Open("/var/run/netns/" + s.ports[node].namespace)
		if err == nil {
			err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			results <- result{nil, fmt.Errorf("enter the namespace of node %d: %w", node+1, err)}
			return
		}
		conn, err := net.DialTimeout("tcp", address, timeout)
		results <- result{conn, err}
	}()
	r := <-results
	return r.conn, r.err
}

// Close removes the namespaces. The processes in them must have ended.
func (s *Switchboard) Close() error {
	close(s.done)
	var errs []error
	for _, p := range s.ports {
		if p.device != nil {
			errs = append(errs, p.device.Close())
		}
		errs = append(errs, ip("netns", "del", p.namespace))
	}
	s.work.Wait()
	return errors.Join(errs...)
}
