package network

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// frameSize is the largest frame. A large MTU lets TCP send large segments, which spares copies in user space.
const frameSize = 9000 + 14

// Switchboard is a small Ethernet in user space: all frames between the nodes pass through this process, which can drop,
// lose and delay them in each direction. It needs /dev/net/tun, and nothing else of the kernel: no bridge, no packet filter,
// no netem. The kernel removes the devices when the process ends.
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

// SwitchboardMissing says why there can be no switchboard here, or nothing.
func SwitchboardMissing() string {
	if why := namespacesMissing(); why != "" {
		return why
	}
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return "virtual network devices: " + err.Error()
	}
	_ = f.Close() // only opened to see whether it can be
	return ""
}

// NewSwitchboard makes n namespaces with one device each, connected with one another.
func NewSwitchboard(n int) (_ *Switchboard, err error) {
	sweep()
	prefix := newPrefix()
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

// Namespace implements Network.
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
	if err := ip("link", "set", namespace, "netns", namespace); err != nil {
		return p, err
	}
	return p, furnish(namespace, namespace, node, nodes)
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

// Cut implements Network.
func (s *Switchboard) Cut(from, to int) error {
	s.links[from*len(s.ports)+to].down.Store(true)
	return nil
}

// Slow implements Network.
func (s *Switchboard) Slow(node int, delay time.Duration, loss float64) error {
	for other := range s.ports {
		for _, l := range []*link{&s.links[node*len(s.ports)+other], &s.links[other*len(s.ports)+node]} {
			l.delay.Store(int64(delay))
			l.loss.Store(uint32(loss * 1_000_000))
		}
	}
	return nil
}

// Heal implements Network.
func (s *Switchboard) Heal() error {
	for i := range s.links {
		s.links[i].down.Store(false)
		s.links[i].loss.Store(0)
		s.links[i].delay.Store(0)
	}
	return nil
}

// Dial implements Network.
func (s *Switchboard) Dial(node int, address string, timeout time.Duration) (net.Conn, error) {
	return dial(s.ports[node].namespace, address, timeout)
}

// Close implements Network.
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
