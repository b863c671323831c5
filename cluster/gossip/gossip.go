// Package gossip finds the other nodes and their addresses, by hashicorp/memberlist. It decides nothing: whoever has a
// connection to the gossip port could say anything. Who is a member of the cluster is left to the catalog.
package gossip

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"google.golang.org/protobuf/proto"

	nodev1 "github.com/warrenmq/warren/proto/node/v1"
)

// Options configure a Gossip.
type Options struct {
	Self      *nodev1.Member
	Bind      string // address to listen on, TCP and UDP
	Port      int
	Advertise string   // address that the others are told
	Seeds     []string // host:port of any members; a name stands for all its addresses
	// Changed is called when a member came, went or says something new. It must not block.
	Changed func()
	// Foreign is told of a node of another cluster, each time that it is met (default: nobody). It must not block.
	Foreign func(*nodev1.Member)
	Logger  *slog.Logger
	// Transport carries what is said (default: UDP and TCP).
	Transport Transport
	// KeyFile has the keys that encrypt (keys.go); it is read again when it changes. Empty: plain text.
	KeyFile string
}

// What another transport is made of, in memberlist's terms.
type (
	Transport = memberlist.Transport
	Packet    = memberlist.Packet
)

// Gossip is a running member.
type Gossip struct {
	o    Options
	list *memberlist.Memberlist
	end  context.CancelFunc
	work sync.WaitGroup

	mu    sync.Mutex // guards what follows
	self  *nodev1.Member
	known map[string]runs // by uuid; none is empty
}

// runs are a member's runs that are taken for alive, by their names in memberlist. One that crashed and runs again has two, until the
// first is found dead.
type runs map[string]*nodev1.Member

// latest is the run with the highest name: names tell when a run began. By a clock that was set back between two runs it is the
// former, for the seconds in which that is taken for alive.
func (r runs) latest() *nodev1.Member {
	return r[slices.Max(slices.Collect(maps.Keys(r)))]
}

const (
	// rejoinPeriod is how often the seeds are tried again: members that were cut off for long forget one another, and
	// addresses of names change.
	rejoinPeriod = 5 * time.Second
	// RejoinTime is the longest pause between two tries: within it, who runs and has seeds has told them where it listens.
	RejoinTime = rejoinPeriod + rejoinPeriod/4
	// firstJoin is the pause between tries while nobody else is known.
	firstJoin = 250 * time.Millisecond
	metaLimit = memberlist.MetaMaxSize
	// leaveTime and updateTime bound the wait until the others have been told.
	leaveTime  = time.Second
	updateTime = time.Second
)

// Start begins to gossip.
func Start(o Options) (*Gossip, error) {
	g := &Gossip{o: o, self: o.Self, known: map[string]runs{}}
	c := memberlist.DefaultLANConfig()
	// A run has a name of its own, so that a node that comes back under another address is not a conflict with itself.
	c.Name = fmt.Sprintf("%s/%016x", o.Self.Uuid, time.Now().UnixNano())
	c.BindAddr, c.BindPort = o.Bind, o.Port
	advertise, err := resolve(o.Advertise)
	if err != nil {
		return nil, fmt.Errorf("gossip: address to advertise: %w", err)
	}
	c.AdvertiseAddr, c.AdvertisePort = advertise, o.Port
	c.Delegate, c.Events, c.Alive = g, g, g
	c.DeadNodeReclaimTime = 10 * time.Second
	c.Transport = o.Transport
	c.LogOutput = logWriter{o.Logger}
	if o.KeyFile != "" {
		if c.Keyring, err = openKeys(o.KeyFile); err != nil {
			return nil, err
		}
	}
	if size := proto.Size(o.Self); size > metaLimit {
		return nil, fmt.Errorf("gossip: name and addresses take %d bytes, more than %d", size, metaLimit)
	}
	if g.list, err = memberlist.Create(c); err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	ctx, end := context.WithCancel(context.Background())
	g.end = end
	if c.Keyring != nil {
		g.work.Go(func() { watchKeys(ctx, o.KeyFile, c.Keyring, o.Logger) })
	}
	if len(o.Seeds) > 0 {
		g.work.Go(func() { g.keepJoined(ctx) })
	}
	return g, nil
}

// resolve turns a host name into an address, as memberlist wants it.
func resolve(host string) (string, error) {
	if host == "" || net.ParseIP(host) != nil {
		return host, nil
	}
	addresses, err := net.LookupHost(host)
	if err != nil {
		return "", err
	}
	return addresses[0], nil
}

// keepJoined tries the seeds for as long as the node runs.
func (g *Gossip) keepJoined(ctx context.Context) {
	for {
		// An error is usual: seeds may be down, or not up yet.
		if _, err := g.list.Join(g.o.Seeds); err != nil {
			g.o.Logger.Debug("gossip: join", "err", err)
		}
		pause := rejoinPeriod
		if len(g.Members()) == 0 {
			pause = firstJoin
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause + rand.N(pause/4)):
		}
	}
}

// Members are the other nodes that are taken for alive, by uuid.
func (g *Gossip) Members() []*nodev1.Member {
	g.mu.Lock()
	defer g.mu.Unlock()
	var list []*nodev1.Member
	for _, r := range g.known {
		list = append(list, r.latest())
	}
	slices.SortFunc(list, func(a, b *nodev1.Member) int { return strings.Compare(a.Uuid, b.Uuid) })
	return list
}

// Address returns where a node listens for others, as far as it is known; empty: it is not.
func (g *Gossip) Address(uuid string) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r := g.known[uuid]; r != nil {
		return r.latest().Address
	}
	return ""
}

// Update tells the others something new about this node.
func (g *Gossip) Update(self *nodev1.Member) {
	g.mu.Lock()
	g.self = self
	g.mu.Unlock()
	// Without a bound this would wait for ever for what a member that leaves does not send any more. What is not sent in
	// time goes with the next exchange of states.
	if err := g.list.UpdateNode(updateTime); err != nil {
		g.o.Logger.Debug("gossip: update", "err", err)
	}
}

// Leave tells the others that this node goes, and ends. Who does not hear of it in time finds out.
func (g *Gossip) Leave() error {
	g.end()
	if err := g.list.Leave(leaveTime); err != nil {
		g.o.Logger.Info("gossip: leave", "err", err)
	}
	err := g.list.Shutdown()
	g.work.Wait()
	if err != nil {
		return fmt.Errorf("gossip: shut down: %w", err)
	}
	return nil
}

// NodeMeta implements memberlist.Delegate.
func (g *Gossip) NodeMeta(limit int) []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	meta, err := proto.Marshal(g.self)
	if err != nil || len(meta) > limit {
		return nil
	}
	return meta
}

// NotifyMsg implements memberlist.Delegate: there are no messages.
func (g *Gossip) NotifyMsg([]byte) {}

// GetBroadcasts implements memberlist.Delegate.
func (g *Gossip) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState implements memberlist.Delegate.
func (g *Gossip) LocalState(bool) []byte { return nil }

// MergeRemoteState implements memberlist.Delegate.
func (g *Gossip) MergeRemoteState([]byte, bool) {}

// NotifyAlive implements memberlist.AliveDelegate: a node of another cluster is none of ours.
func (g *Gossip) NotifyAlive(n *memberlist.Node) error {
	m, err := decode(n)
	if err != nil {
		return err
	}
	g.mu.Lock()
	own := g.self.ClusterId
	g.mu.Unlock()
	if m.ClusterId == "" || own == "" || m.ClusterId == own {
		return nil
	}
	if g.o.Foreign != nil {
		g.o.Foreign(m)
	}
	return fmt.Errorf("node %s is of cluster %s, this one of %s", m.Name, m.ClusterId, own)
}

func decode(n *memberlist.Node) (*nodev1.Member, error) {
	m := new(nodev1.Member)
	if err := proto.Unmarshal(n.Meta, m); err != nil {
		return nil, fmt.Errorf("node %s: %w", n.Name, err)
	}
	if uuid, _, _ := strings.Cut(n.Name, "/"); m.Uuid == "" || uuid != m.Uuid {
		return nil, fmt.Errorf("node %s says that it is %q", n.Name, m.Uuid)
	}
	return m, nil
}

// NotifyJoin implements memberlist.EventDelegate.
func (g *Gossip) NotifyJoin(n *memberlist.Node) { g.notice(n) }

// NotifyUpdate implements memberlist.EventDelegate.
func (g *Gossip) NotifyUpdate(n *memberlist.Node) { g.notice(n) }

func (g *Gossip) notice(n *memberlist.Node) {
	m, err := decode(n)
	if err != nil || m.Uuid == g.o.Self.Uuid {
		return
	}
	g.mu.Lock()
	if g.known[m.Uuid] == nil {
		g.known[m.Uuid] = runs{}
	}
	g.known[m.Uuid][n.Name] = m
	g.mu.Unlock()
	g.o.Changed()
}

// NotifyLeave implements memberlist.EventDelegate.
func (g *Gossip) NotifyLeave(n *memberlist.Node) {
	uuid, _, _ := strings.Cut(n.Name, "/")
	g.mu.Lock()
	delete(g.known[uuid], n.Name)
	if len(g.known[uuid]) == 0 {
		delete(g.known, uuid)
	}
	g.mu.Unlock()
	g.o.Changed()
}

// Join makes a host and port one string.
func Join(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// logWriter gives memberlist's lines to the node's log. Most say that a node cannot be reached, which others tell better.
type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(p []byte) (int, error) {
	line := strings.TrimSpace(string(p))
	if _, text, ok := strings.Cut(line, "[ERR] "); ok {
		w.log.Info("gossip", "says", text)
	} else {
		w.log.Debug("gossip", "says", line)
	}
	return len(p), nil
}
