package cluster

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/warrenmq/warren/cluster/pipe"
	"github.com/warrenmq/warren/cluster/skew"
	nodev1 "github.com/warrenmq/warren/proto/node/v1"
)

// A node whose clock differs from those of a majority hands its leaderships to nodes whose clocks are right, since the time in a
// group's entries is its leader's. It judges itself, by what it has measured: so nobody whose own clock is wrong, or who measures
// badly, can push another out. The others take its word, and what they have measured of it, for a reason not to make it a leader.

const (
	// clockPeriod lies between two measurements of a node's clock, and between two looks at all of them.
	clockPeriod = time.Second
	// maxClockWait is how long an answer may take to be of use: it is as sure as it was quick. A slower one is passed over, and what
	// was measured before stands until it is too old.
	maxClockWait = 500 * time.Millisecond
	maxClockAge  = 5 * clockPeriod
	// clockRetry lies between two tries to hand over leaderships for the clock's sake, after one that failed: nothing is written
	// while a leadership is handed over, and a leader with a wrong clock is better than none.
	clockRetry = 10 * time.Second
)

// clocks compares this node's clock with the others'.
type clocks struct {
	c     *Cluster
	began time.Time    // of the monotonic clock that readings go by
	off   atomic.Bool  // this node's clock differs from those of a majority
	retry atomic.Int64 // when a leadership may be handed over again, after began

	mu       sync.Mutex // guards what follows
	verdict  skew.Verdict
	disagree bool          // nobody can tell which clocks are right
	entries  skew.Steady   // what entries are written by
	follows  time.Duration // what it follows, when the monotonic clock began; 0: this node's own clock
}

func newClocks(c *Cluster) *clocks {
	k := &clocks{c: c, began: time.Now()}
	k.entries.Set(time.Duration(c.o.Surroundings.Now().UnixNano()), k.now())
	return k
}

// now is the monotonic clock.
func (k *clocks) now() time.Duration { return time.Since(k.began) }

// measure asks a node for its time, again and again until ctx ends.
func (k *clocks) measure(ctx context.Context, uuid string, control nodev1.ControlClient) {
	ticker := time.NewTicker(clockPeriod)
	defer ticker.Stop()
	for ctx.Err() == nil {
		asking, cancel := context.WithTimeout(ctx, maxClockWait)
		asked := k.now()
		r, err := control.Clock(asking, &nodev1.ClockRequest{})
		answered := k.now()
		cancel()
		switch {
		case status.Code(err) == codes.Unimplemented: // an older program: its clock is not known
			return
		case err == nil && r.Uuid == uuid && answered-asked <= maxClockWait:
			k.c.watcher.clockIs(uuid, skew.Read(time.Unix(0, r.UnixNanos), asked, answered), answered)
			k.refer(k.view()) // at once: a node that has just started may be elected next
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// entryTime is the time for entries that this node writes. It is not the wall clock, which somebody may set: what is due would
// be so at once, or not for long. It goes on with the monotonic clock and follows the wall clock slowly, and only while that is not
// off; it makes a step when clocks of a majority agree that it is wrong.
func (k *clocks) entryTime() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	return time.Unix(0, int64(k.entryTimeAt(now)))
}

// entryTimeAt is entryTime at a time of the monotonic clock. mu is held.
func (k *clocks) entryTimeAt(now time.Duration) time.Duration {
	follows := k.follows + now
	if k.follows == 0 {
		follows = time.Duration(k.c.o.Surroundings.Now().UnixNano())
	}
	return k.entries.Time(follows, now)
}

// refer lets entries go by the clock that is right, as far as a view tells.
func (k *clocks) refer(v skew.View) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r, own, attested := v.Reference(k.c.identity.UUID)
	if k.follows = r.Middle(); own {
		k.follows = 0
	}
	now := k.now()
	right := r.Middle() + now
	if behind := right - k.entryTimeAt(now); attested && max(behind, -behind) > v.Bound {
		k.c.log.Warn("the time of entries is set right by the clocks of a majority", "by", behind.Round(time.Millisecond))
		k.entries.Set(right, now)
	}
}

// Clock implements the Control service.
func (s controlServer) Clock(context.Context, *nodev1.ClockRequest) (*nodev1.ClockResponse, error) {
	return &nodev1.ClockResponse{Uuid: s.c.identity.UUID, UnixNanos: s.c.o.Surroundings.Now().UnixNano()}, nil
}

// view is all clocks as they were measured last.
func (k *clocks) view() skew.View {
	v := skew.View{Clocks: map[string]skew.Reading{k.c.identity.UUID: k.own()}, Nodes: 1, Bound: k.c.o.MaxClockSkew}
	now := k.now()
	for uuid, p := range k.c.watcher.all() {
		if p.state != pipe.PeerAlive {
			continue
		}
		v.Nodes++
		if p.measured != 0 && now-p.measured <= maxClockAge {
			v.Clocks[uuid] = p.clock
		}
	}
	return v
}

// own is this node's own clock.
func (k *clocks) own() skew.Reading {
	asked := k.now()
	shown := k.c.o.Surroundings.Now()
	return skew.Read(shown, asked, k.now())
}

// compare judges this node's clock, again and again until ctx ends.
func (k *clocks) compare(ctx context.Context) {
	ticker := time.NewTicker(clockPeriod)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			k.look(k.view())
		case <-ctx.Done():
			return
		}
	}
}

// look takes a view.
func (k *clocks) look(v skew.View) {
	self, log := k.c.identity.UUID, k.c.log
	k.mu.Lock()
	off, disagree := k.verdict.Look(v, self), v.Disagree()
	undecided := disagree && !k.disagree
	k.disagree = disagree
	k.mu.Unlock()
	k.refer(v)
	if undecided {
		log.Warn("the nodes' clocks differ and no majority of them agrees: leaders stay where they are", "bound", v.Bound)
	}
	if k.off.Swap(off) == off {
		return
	}
	if off {
		log.Warn("this node's clock differs from those of a majority: it gives its leaderships to nodes whose clocks are right, and leads on what none of them can take",
			"ahead", v.Ahead(self).Round(time.Millisecond), "bound", v.Bound)
	} else {
		log.Info("this node's clock is right again: it may lead")
	}
	k.c.statusChanged()
	k.c.wakeSupervisor()
}

// The clocks that a node may have to be given a leadership.
type clockRule int

const (
	anyClock      clockRule = iota // one that is not known to be off, if there is such a node, and a disk that has not just hung rather than one that has
	measuredRight                  // only one that was measured and is right
)

// successor finds one of some nodes that can take a group's leadership; empty: none can now.
func (c *Cluster) successor(g *group, among []string, rule clockRule) string {
	view, second := c.clocks.view(), ""
	for _, uuid := range among {
		p := c.watcher.info(uuid)
		if uuid == c.identity.UUID || !g.mayTake(uuid) || p.state != pipe.PeerAlive || p.status.GetDraining() || p.status.GetDiskHangs() || !c.upToDate(g, p) {
			continue
		}
		switch off := p.status.GetClockOff() || view.Off(uuid, view.Bound); {
		case rule == measuredRight && (off || !view.Right(uuid)):
		case !off && !p.status.GetDiskSlow():
			return uuid
		case second == "" || !off:
			second = uuid
		}
	}
	return second
}

// giveAwayForClock moves one of the leaderships of this node to a node whose clock is right, if this node's is not; more: it has
// others.
func (c *Cluster) giveAwayForClock() (more bool) {
	k := c.clocks
	if !k.off.Load() || int64(k.now()) < k.retry.Load() {
		return false
	}
	for _, g := range c.groups() {
		if _, ok := g.leading(); !ok {
			continue
		}
		if uuid := c.successor(g, c.otherNodes(), measuredRight); uuid != "" {
			if !g.handTo(c.ctx, uuid) {
				k.retry.Store(int64(k.now() + clockRetry))
				return false
			}
			return true
		}
	}
	return false
}

// clockProblems says what is wrong with the members' clocks.
func (c *Cluster) clockProblems(members []Member, add func(format string, args ...any)) {
	v := c.clocks.view()
	if v.Disagree() {
		add("the nodes' clocks differ by more than %v and no majority of them agrees, so nobody can tell which are right: leaders stay where they are; set the clocks", v.Bound)
	}
	for _, m := range members {
		ahead := v.Ahead(m.ID).Milliseconds()
		switch {
		case m.State != MemberRunning:
		case m.ClockOff && m.Leads == 0 && m.Catalog != RoleLeader:
			add("the clock of node '%s' differs from those of a majority (it is %d ms ahead): it leads nothing until it is set", m.Name, ahead)
		case m.ClockOff:
			add("the clock of node '%s' differs from those of a majority (it is %d ms ahead): it leads on what no node with a right clock can take, until one can or it is set", m.Name, ahead)
		case !c.clocks.off.Load() && max(m.SkewMillis, -m.SkewMillis) > maxSkew.Milliseconds():
			add("the clock of node '%s' differs by %d ms", m.Name, m.SkewMillis)
		}
	}
}
