package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// plan is everything that a seed decides before a schedule runs.
type plan struct {
	nodes, shards int
	replicas      int           // of each shard
	snapshots     uint64        // commands between two snapshots of the catalog
	sync          time.Duration // about how long an fsync takes
	delay         time.Duration // of the network, at most
	pace          time.Duration // about what a publisher waits between two batches
	messages      int           // of each publisher
	lies          bool          // the disks say that they have synced, and have not: the checkers must find it
	actions       []*action
}

// action is one fault of a schedule.
type action struct {
	fault   *fault
	at      time.Duration // since the beginning of the load
	lasts   time.Duration
	victims []int  // nodes; the first is chosen anew if the fault looks for the leader
	seed    uint64 // of what the fault decides itself
	insists bool   // damage waits until there is something to do harm to
	detail  string // what it did
}

func (a *action) random() *rand.Rand { return rand.New(rand.NewPCG(a.seed, 1)) }

func (a *action) String() string {
	var names []string
	for _, v := range a.victims {
		names = append(names, fmt.Sprintf("n%d", v+1))
	}
	text := fmt.Sprintf("%7v +%-6v %s %s", a.at, a.lasts, a.fault.name, strings.Join(names, ","))
	if a.detail != "" {
		text += ": " + a.detail
	}
	return text
}

func (p *plan) String() string {
	text := fmt.Sprintf("%d nodes, %d shards, fsync about %v, network up to %v, %d messages of each publisher, about %v apart\n", p.nodes, p.shards,
		p.sync, p.delay, p.messages, p.pace)
	for _, a := range p.actions {
		text += a.String() + "\n"
	}
	return text
}

// among is a random element.
func among[T any](random *rand.Rand, list ...T) T { return list[random.IntN(len(list))] }

// newPlan makes a plan; names limits the faults, empty: all.
func newPlan(seed uint64, names []string) *plan {
	random := rand.New(rand.NewPCG(seed, 0))
	p := &plan{nodes: 3, replicas: 3, snapshots: among[uint64](random, 5, 20, 1000), shards: 1 + random.IntN(2), sync: among(random, 100*time.Microsecond, time.Millisecond, 10*time.Millisecond),
		delay: among(random, 200*time.Microsecond, 2*time.Millisecond, 20*time.Millisecond), messages: 30 + random.IntN(60)}
	if random.IntN(12) == 0 {
		p.nodes = 5
	}
	var pool []*fault
	for _, f := range faults {
		if len(names) == 0 || slices.Contains(names, f.name) || slices.Contains(names, f.group) {
			pool = append(pool, f)
		}
	}
	fragile := random.IntN(p.nodes) // the only node whose data is ever destroyed
	at := 300 * time.Millisecond
	for range 1 + random.IntN(4) {
		f := pool[random.IntN(len(pool))]
		a := &action{fault: f, at: at, lasts: spread(random, f.shortest, f.longest), seed: random.Uint64()}
		nodes := random.Perm(p.nodes)
		switch f.victims {
		case one:
			a.victims = nodes[:1]
		case pair:
			a.victims = nodes[:2]
		case minority:
			a.victims = nodes[:1+random.IntN((p.nodes-1)/2)]
		case everyone:
			a.victims = nodes
		case same:
			a.victims = []int{fragile}
		}
		slices.Sort(a.victims)
		p.actions = append(p.actions, a)
		if random.IntN(3) > 0 { // otherwise the next one comes while this one lasts
			at += a.lasts
		}
		at += spread(random, 0, 1500*time.Millisecond)
	}
	p.setPace()
	return p
}

// setPace lets the load last as long as the faults. There are two and a half messages in a batch, on average.
func (p *plan) setPace() {
	total := time.Duration(0)
	for _, a := range p.actions {
		total = max(total, a.at+a.lasts)
	}
	p.pace = total * 5 / 2 / time.Duration(p.messages)
}

func spread(random *rand.Rand, from, to time.Duration) time.Duration {
	if to <= from {
		return from
	}
	return (from + time.Duration(random.Int64N(int64(to-from)))).Round(time.Millisecond)
}
