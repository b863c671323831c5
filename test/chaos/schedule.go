package chaos

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Action is one fault of a schedule. With is its company: it begins a little later, on other nodes.
type Action struct {
	Fault   string
	At      time.Duration // not before, since the start of the load
	Hold    time.Duration // between injection and healing
	Victims []int
	Detail  string  `json:",omitempty"` // what exactly was done; known afterwards
	With    *Action `json:",omitempty"`
	Seed    uint64  // of its own choices
	company bool    // it is another action's

	Injected, Healed, Recovered time.Duration // since the start of the run
	LongestGap                  time.Duration // between two confirms of one publisher while it lasted
	TimerLate, SlowestFsync     time.Duration // what the machine itself did meanwhile: see machine
	Skipped                     string        `json:",omitempty"` // why it was not done
}

func (a *Action) random() *rand.Rand { return rand.New(rand.NewPCG(a.Seed, 0x5eed)) }

func (a *Action) String() string {
	nodes := make([]string, len(a.Victims))
	for i, v := range a.Victims {
		nodes[i] = fmt.Sprintf("node%d", v+1)
	}
	text := fmt.Sprintf("%v %s on %s for %v", a.At.Round(time.Millisecond), a.Fault, strings.Join(nodes, " "), a.Hold.Round(time.Millisecond))
	if a.Detail != "" {
		text += " (" + a.Detail + ")"
	}
	if a.Skipped != "" {
		text += " (not done: " + a.Skipped + ")"
	}
	if a.With != nil {
		text += " with " + a.With.String()
	}
	return text
}

// planner makes a schedule.
type planner struct {
	o      *Options
	random *rand.Rand
	taken  []int // nodes that the action's company must leave alone
}

// Schedule makes the faults of a run from its seed: the same options give the same schedule.
func Schedule(o *Options) []*Action {
	p := &planner{o: o, random: rand.New(rand.NewPCG(o.Seed, 1))}
	var able []*fault
	for _, name := range o.Faults {
		if f := faultNamed(name); f.needs == nil || f.needs(o) == "" {
			able = append(able, f)
		}
	}
	var list []*Action
	if len(able) == 0 {
		return nil
	}
	var deck []*fault
	idle := 0 // faults in turn that found no node
	for at := p.between(o.PauseMin, o.PauseMax); at < o.Duration && idle <= len(able); {
		if len(deck) == 0 { // every fault once before any comes again
			deck = slices.Clone(able)
			p.random.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		}
		p.taken = nil
		a := p.action(deck[0], at)
		deck = deck[1:]
		if a == nil {
			idle++
			continue
		}
		idle = 0
		if p.random.Float64() < o.Combined {
			a.With = p.company(able, a)
		}
		list = append(list, a)
		at += a.Hold + p.between(o.PauseMin, o.PauseMax)
	}
	return list
}

// action plans one fault; nil when it finds no node that it may touch.
func (p *planner) action(f *fault, at time.Duration) *Action {
	victims := f.victims(p)
	if len(victims) == 0 {
		return nil
	}
	return &Action{Fault: f.name, At: at, Hold: p.between(f.shortest, f.longest), Victims: victims, Seed: p.random.Uint64()}
}

// company plans a second fault at the same time: on other nodes, and not of the same kind.
func (p *planner) company(able []*fault, a *Action) *Action {
	p.taken = a.Victims
	first := faultNamed(a.Fault)
	second := able[p.random.IntN(len(able))]
	if second.group == first.group || onNetwork(first) && onNetwork(second) || first.alone || second.alone {
		return nil
	}
	return p.action(second, p.between(0, a.Hold))
}

func onNetwork(f *fault) bool { return f.group == "partition" || f.group == "slow" }

func (p *planner) between(low, high time.Duration) time.Duration {
	if high <= low {
		return low
	}
	return low + time.Duration(p.random.Int64N(int64(high-low)))
}

// candidates are the nodes that a fault may touch, in random order.
func (p *planner) candidates() []int {
	var list []int
	for _, i := range p.random.Perm(p.o.Nodes) {
		if !slices.Contains(p.taken, i) && (!p.o.Stable || i != p.o.stableNode()) {
			list = append(list, i)
		}
	}
	return list
}

// Victims of faults.

func one(p *planner) []int {
	list := p.candidates()
	return list[:min(1, len(list))]
}

func pair(p *planner) []int {
	if list := p.candidates(); len(list) >= 2 {
		return list[:2]
	}
	return nil
}

func minority(p *planner) []int {
	list := p.candidates()
	return list[:min((p.o.Nodes-1)/2, len(list))]
}

func everyone(p *planner) []int { return p.candidates() }

// fragile is the one node of the run whose data may be destroyed. Always the same, so that never more than a minority of
// copies is gone, however long a rebuilt node takes to have them all again.
func fragile(p *planner) []int {
	node := int((p.o.Seed + 1 + p.o.Seed/uint64(p.o.Nodes)%uint64(p.o.Nodes-1)) % uint64(p.o.Nodes))
	if slices.Contains(p.taken, node) || p.o.Stable && node == p.o.stableNode() {
		return nil
	}
	return []int{node}
}
