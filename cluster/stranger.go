package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/warrenmq/warren/cluster/pipe"
	"github.com/warrenmq/warren/cluster/raftnet"
	nodev1 "github.com/warrenmq/warren/proto/node/v1"
	"github.com/warrenmq/warren/raftfsm/catalog"
)

// Nodes of another cluster are never mixed in: gossip refuses them, and so does whoever they ask. Mostly somebody has mixed up
// addresses. But the other cluster may be this one as it was recovered from a survivor, or what it was recovered from; then
// both sides say so, since somebody must act.

// strangers knows the nodes of other clusters that this one has met.
type strangers struct {
	c    *Cluster
	wake chan struct{} // has room for one

	mu        sync.Mutex // guards what follows
	known     map[string]*stranger
	successor string // a sentence: this node's cluster was recovered without it; empty: nobody has said so
}

type stranger struct {
	member *nodev1.Member
	seen   time.Time // when it was met last
	asked  time.Time // when it was asked last what it is
	former bool      // it is of a cluster that this one was recovered from
}

const (
	// maxStrangers bounds how many are known: there should be none.
	maxStrangers = 16
	// askPeriod lies between two questions to the same one.
	askPeriod = 10 * time.Second
	// strangerStays is how long one counts as there after it was met: gossip tries its seeds every few seconds.
	strangerStays = time.Minute
)

func newStrangers(c *Cluster) *strangers {
	return &strangers{c: c, wake: make(chan struct{}, 1), known: map[string]*stranger{}}
}

// met implements gossip.Options.Foreign.
func (s *strangers) met(m *nodev1.Member) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.known[m.Uuid]
	if k == nil {
		for uuid, old := range s.known {
			if time.Since(old.seen) > strangerStays {
				delete(s.known, uuid)
			}
		}
		if len(s.known) >= maxStrangers {
			return
		}
		k = &stranger{}
		s.known[m.Uuid] = k
	}
	k.member, k.seen = m, time.Now()
	wake(s.wake)
}

// address is where a stranger listens; empty: it is none.
func (s *strangers) address(uuid string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.known[uuid]; k != nil {
		return k.member.Address
	}
	return ""
}

// meet asks the strangers what they are, until ctx ends.
func (s *strangers) meet(ctx context.Context) {
	for {
		select {
		case <-s.wake:
		case <-ctx.Done():
			return
		}
		s.mu.Lock()
		var ask []*nodev1.Member
		for _, k := range s.known {
			if time.Since(k.asked) > askPeriod {
				k.asked = time.Now()
				ask = append(ask, k.member)
			}
		}
		s.mu.Unlock()
		for _, m := range ask {
			if s.c.recoveredFrom(m.ClusterId) != "" {
				s.isFormer(m)
			} else if why := s.ask(ctx, m); why != "" {
				s.succeeded(why)
			}
		}
	}
}

// isFormer notes a node of the cluster that this one was recovered from.
func (s *strangers) isFormer(m *nodev1.Member) {
	s.mu.Lock()
	k := s.known[m.Uuid]
	first := k != nil && !k.former
	if first {
		k.former = true
	}
	s.mu.Unlock()
	if first {
		s.c.log.Error(formerRuns(m))
	}
}

func formerRuns(m *nodev1.Member) string {
	return fmt.Sprintf("node '%s' at %s runs as a member of cluster %s, from which this one was recovered without it: it is kept out; stop it, put its data directory aside, and start it with an empty one",
		m.Name, m.Address, m.ClusterId)
}

// ask wants to know whether a stranger's cluster is this one as it was recovered: the sentence that says so, or nothing.
func (s *strangers) ask(ctx context.Context, m *nodev1.Member) string {
	control, err := s.c.network.Control(m.Uuid)
	if err != nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	stream, err := control.Watch(ctx, &nodev1.WatchRequest{Uuid: s.c.identity.UUID, ClusterId: s.c.clusterID()})
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.FailedPrecondition {
		return ""
	}
	return status.Convert(err).Message()
}

// ErrRecovered tells that this node's cluster was recovered without it.
var ErrRecovered = errors.New("this node is of a cluster that was recovered without it")

// succeeded notes that this node's cluster lives on without it. What that means is decided by explain: a node whose cluster has
// its majority still is in the right, and goes on.
func (s *strangers) succeeded(why string) {
	s.mu.Lock()
	first := s.successor == ""
	s.successor = why
	s.mu.Unlock()
	if first {
		s.c.log.Error("another cluster claims to be this one, recovered", "says", why)
	}
}

func (s *strangers) success() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.successor
}

// problems says what somebody should look at.
func (s *strangers) problems() (list []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.known {
		if k.former && time.Since(k.seen) < strangerStays {
			list = append(list, formerRuns(k.member))
		}
	}
	slices.Sort(list)
	if s.successor != "" {
		list = append(list, "two clusters run: another one claims to be this one, recovered: "+s.successor)
	}
	return list
}

// recoveredFrom is what a node of another cluster is told if this one was recovered from it; empty: it was not.
func (c *Cluster) recoveredFrom(id string) (why string) {
	if !c.hasCatalog() {
		return ""
	}
	c.catalog.read(func(s *catalog.State) {
		for _, f := range s.Former() {
			if f.ClusterID == id {
				why = fmt.Sprintf("cluster %s lost its majority and was recovered on %s from the data of node '%s', as cluster %s: nodes of the former cluster are no members; put the data directory aside, in case anything in it is missed, and start with an empty one",
					id, time.UnixMilli(f.RecoveredAt).UTC().Format(time.RFC3339), f.Survivor, s.ClusterID())
			}
		}
	})
	return why
}

const (
	explainPeriod = time.Second
	// explainAfter is how long a start waits before it says for what.
	explainAfter = 5 * time.Second
	// explainAgain is how often it says the same in the log.
	explainAgain = time.Minute
)

// explain says for what a start waits, until ctx ends: in the log, and to Options.Waiting. It ends the start of a node whose
// cluster has been recovered without it, unless that has a leader all the same.
func (c *Cluster) explain(ctx context.Context) {
	ticker := time.NewTicker(explainPeriod)
	defer ticker.Stop()
	began, told, toldAt := time.Now(), "", time.Time{}
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		case <-c.ctx.Done():
			return
		}
		if time.Since(began) < explainAfter {
			continue
		}
		leader := ""
		if c.hasCatalog() {
			leader, _ = c.catalog.leader()
		}
		if why := c.strangers.success(); why != "" && leader == "" {
			c.giveUp(fmt.Errorf("%w: %s", ErrRecovered, why))
			return
		}
		why := c.waitsFor(leader)
		if c.o.Waiting != nil {
			c.o.Waiting(why)
		}
		if why != told || time.Since(toldAt) > explainAgain {
			told, toldAt = why, time.Now()
			c.log.Warn("still starting", "why", why)
		}
	}
}

// waitsFor says for what a start waits.
func (c *Cluster) waitsFor(leader string) string {
	switch {
	case c.founded.Load() == nil:
		return "this node is of no cluster yet: it waits for others, or for being let in"
	case leader == "" && c.hasCatalog():
		return c.missingMajority()
	}
	if err := c.Ready(); err != nil {
		return err.Error()
	}
	return "the cluster's answer"
}

// missingMajority says which nodes are missing.
func (c *Cluster) missingMajority() string {
	var missing []string
	voters, there := 0, 0
	for _, s := range c.catalog.members() {
		if s.Suffrage != raft.Voter {
			continue
		}
		voters++
		uuid := raftnet.NodeOf(string(s.ID))
		if uuid == c.identity.UUID || c.watcher.info(uuid).state == pipe.PeerAlive {
			there++
			continue
		}
		name := uuid
		if n := c.directory.Load().byUUID[uuid]; n != nil {
			name = n.Name
		}
		if address, err := c.address(uuid); err == nil {
			name += " (" + address + ")"
		}
		missing = append(missing, name)
	}
	if 2*there > voters {
		return "the catalog has no leader yet"
	}
	return fmt.Sprintf("%d of the %d nodes that decide are there, which is no majority: start the others, %s; if most are lost for good, see warren recover --help",
		there, voters, strings.Join(missing, ", "))
}
