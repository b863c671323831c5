package network

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// Bridge is the kernel's own network: a virtual Ethernet pair for each node, whose far ends are ports of a bridge that lives
// in a namespace as well. Packet filters inside the nodes' namespaces drop what arrives over a link that is cut or lossy;
// netem delays.
type Bridge struct {
	nodes []string // namespaces
	hub   string   // the namespace of the bridge

	mu      sync.Mutex // guards what follows
	delayed bool       // there are queueing disciplines to remove
}

// device is a node's network device inside its namespace.
const device = "eth0"

// BridgeMissing says why there can be no such network here, or nothing.
func BridgeMissing() string {
	if why := namespacesMissing(); why != "" {
		return why
	}
	if _, err := exec.LookPath("iptables"); err != nil {
		return "packet filters need the iptables command"
	}
	return bridgeTried()
}

// bridgeTried makes a network of two nodes, to see whether the kernel has what it takes.
var bridgeTried = sync.OnceValue(func() string {
	b, err := NewBridge(2)
	if err == nil {
		err = errors.Join(b.Cut(0, 1), b.Close())
	}
	if err != nil {
		return "virtual Ethernet, bridge or packet filter: " + strings.TrimSpace(err.Error())
	}
	return ""
})

// NetemMissing says why a Bridge cannot delay here, or nothing.
var NetemMissing = sync.OnceValue(func() string {
	if why := namespacesMissing(); why != "" {
		return why
	}
	if _, err := exec.LookPath("tc"); err != nil {
		return "delay needs the tc command"
	}
	probe := newPrefix() + "p"
	err := ip("netns", "add", probe)
	if err == nil {
		err = command("tc", "-n", probe, "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms")
		err = errors.Join(err, ip("netns", "del", probe))
	}
	if err != nil {
		return "this kernel has no netem to delay with (level switchboard delays without it)"
	}
	return ""
})

// NewBridge makes n namespaces, connected with one another.
func NewBridge(n int) (_ *Bridge, err error) {
	sweep()
	prefix := newPrefix()
	b := &Bridge{hub: prefix + "h"}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	for _, c := range [][]string{
		{"netns", "add", b.hub},
		{"-n", b.hub, "link", "add", "hub", "type", "bridge", "mcast_snooping", "0"},
		{"-n", b.hub, "link", "set", "hub", "mtu", fmt.Sprint(frameSize - 14), "up"},
	} {
		if err := ip(c...); err != nil {
			return nil, err
		}
	}
	for i := range n {
		namespace := fmt.Sprintf("%s%d", prefix, i+1)
		if err := ip("netns", "add", namespace); err != nil {
			return nil, err
		}
		b.nodes = append(b.nodes, namespace)
		if err := ip("-n", namespace, "link", "add", device, "type", "veth", "peer", "name", hubPort(i), "netns", b.hub); err != nil {
			return nil, err
		}
		if err := ip("-n", b.hub, "link", "set", hubPort(i), "master", "hub", "mtu", fmt.Sprint(frameSize-14), "up"); err != nil {
			return nil, err
		}
		if err := furnish(namespace, device, i, n); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// hubPort is the bridge's end of a node's pair.
func hubPort(node int) string { return fmt.Sprintf("port%d", node+1) }

// Namespace implements Network.
func (b *Bridge) Namespace(node int) string { return b.nodes[node] }

// filter adds a rule on what a node receives. Rules on what it sends would tell the sender of the loss.
func (b *Bridge) filter(node int, rule ...string) error {
	return b.iptables(node, append([]string{"-A", "INPUT", "-i", device}, append(rule, "-j", "DROP")...)...)
}

func (b *Bridge) iptables(node int, args ...string) error {
	line := append(Inside(b.nodes[node]), "iptables", "-w", "10")
	return command(line[0], append(line[1:], args...)...)
}

// Cut implements Network.
func (b *Bridge) Cut(from, to int) error { return b.filter(to, "-s", Address(from)) }

// Slow implements Network.
func (b *Bridge) Slow(node int, delay time.Duration, loss float64) error {
	if loss > 0 {
		random := []string{"-m", "statistic", "--mode", "random", "--probability", fmt.Sprintf("%.6f", min(loss, 1))}
		if err := b.filter(node, random...); err != nil {
			return err
		}
		for other := range b.nodes {
			if other == node {
				continue
			}
			if err := b.filter(other, append([]string{"-s", Address(node)}, random...)...); err != nil {
				return err
			}
		}
	}
	if delay == 0 {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.delayed = true
	milliseconds := fmt.Sprintf("%dms", delay.Milliseconds())
	return errors.Join(command("tc", "-n", b.nodes[node], "qdisc", "add", "dev", device, "root", "netem", "delay", milliseconds),
		command("tc", "-n", b.hub, "qdisc", "add", "dev", hubPort(node), "root", "netem", "delay", milliseconds))
}

// Heal implements Network.
func (b *Bridge) Heal() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var errs []error
	for node, namespace := range b.nodes {
		errs = append(errs, b.iptables(node, "-F", "INPUT"))
		if b.delayed {
			_ = command("tc", "-n", namespace, "qdisc", "del", "dev", device, "root") // those without one refuse
			_ = command("tc", "-n", b.hub, "qdisc", "del", "dev", hubPort(node), "root")
		}
	}
	b.delayed = false
	return errors.Join(errs...)
}

// Dial implements Network.
func (b *Bridge) Dial(node int, address string, timeout time.Duration) (net.Conn, error) {
	return dial(b.nodes[node], address, timeout)
}

// Close implements Network. The devices go with their namespaces.
func (b *Bridge) Close() error {
	var errs []error
	for _, namespace := range append(b.nodes, b.hub) {
		if _, err := os.Stat(namespaceDir + namespace); err == nil {
			errs = append(errs, ip("netns", "del", namespace))
		}
	}
	return errors.Join(errs...)
}
