package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// victims says which nodes a fault hits.
type victims uint8

const (
	one      victims = iota
	pair             // two
	minority         // fewer than half
	everyone
	same // the one node of a schedule whose data may be destroyed
)

// fault is a kind of harm.
type fault struct {
	name, group       string
	victims           victims
	leader            bool // the victim is the node that leads the catalog
	shortest, longest time.Duration
	// ends tells that the process may end by it.
	ends bool
	// damages is the kind of files that it does harm to, if it does; the action's detail tells which it hit.
	damages string
	inject  func(s *sim, a *action)
	heal    func(s *sim, a *action)
}

const second = time.Second

var faults = []*fault{
	{name: "kill", group: "kill", victims: minority, longest: 2 * second, ends: true, inject: killing(false), heal: starting},
	{name: "kill-leader", group: "kill", victims: one, leader: true, longest: 2 * second, ends: true, inject: killing(false), heal: starting},
	{name: "kill-all", group: "kill", victims: everyone, longest: second, ends: true, inject: killing(false), heal: starting},
	{name: "power", group: "power", victims: minority, longest: 3 * second, ends: true, inject: killing(true), heal: starting},
	{name: "power-leader", group: "power", victims: one, leader: true, longest: 3 * second, ends: true, inject: killing(true), heal: starting},
	{name: "power-all", group: "power", victims: everyone, longest: second, ends: true, inject: killing(true), heal: starting},
	{name: "restart", group: "restart", victims: one, longest: 500 * time.Millisecond, ends: true, inject: stopping, heal: starting},
	{name: "stop", group: "stop", victims: one, shortest: 200 * time.Millisecond, longest: 6 * second, inject: freezing, heal: thawing},
	{name: "stop-leader", group: "stop", victims: one, leader: true, shortest: 200 * time.Millisecond, longest: 6 * second, inject: freezing, heal: thawing},
	{name: "partition-halves", group: "partition", victims: minority, shortest: second, longest: 6 * second, inject: isolating, heal: healing},
	{name: "partition-leader", group: "partition", victims: one, leader: true, shortest: second, longest: 6 * second, inject: isolating, heal: healing},
	{name: "partition-oneway", group: "partition", victims: one, shortest: second, longest: 6 * second, inject: oneWay, heal: healing},
	{name: "partition-bridge", group: "partition", victims: pair, shortest: second, longest: 6 * second, inject: bridging, heal: healing},
	{name: "break", group: "break", victims: pair, inject: breaking, heal: nothing},
	{name: "delay", group: "slow", victims: one, shortest: second, longest: 4 * second, inject: delaying, heal: healing},
	{name: "loss", group: "slow", victims: one, shortest: second, longest: 4 * second, inject: losing, heal: healing},
	{name: "disk-slow", group: "disk", victims: one, shortest: second, longest: 4 * second, inject: slowing, heal: quickening},
	{name: "disk-hang", group: "disk", victims: one, shortest: 11 * second, longest: 13 * second, ends: true, inject: hanging, heal: reviving},
	{name: "disk-full", group: "disk", victims: one, shortest: second, longest: 5 * second, ends: true, inject: filling, heal: emptying},
	{name: "clock", group: "clock", victims: one, shortest: second, longest: 5 * second, inject: stepping, heal: unstepping},
	{name: "wipe", group: "damage", victims: same, longest: second, ends: true, inject: wiping, heal: starting},
	damaging("flip-log", "log", false), damaging("flip-segment", "segment", false), damaging("flip-checkpoint", "checkpoint", false),
	damaging("flip-votes", "votes", false), damaging("flip-catalog", "catalog", false),
	damaging("truncate-log", "log", true), damaging("truncate-segment", "segment", true), damaging("truncate-checkpoint", "checkpoint", true),
	damaging("truncate-votes", "votes", true), damaging("truncate-catalog", "catalog", true),
}

func damaging(name, kind string, cut bool) *fault {
	return &fault{name: name, group: "damage", damages: kind, victims: same, longest: second, ends: true, heal: starting, inject: func(s *sim, a *action) {
		n := s.nodes[a.victims[0]]
		for end := s.now() + insistsFor; a.insists && s.now() < end; time.Sleep(10 * time.Millisecond) {
			if r := n.present(); r != nil && r.mount.has(kind) {
				break
			}
		}
		n.repair.Lock()
		defer n.repair.Unlock()
		power := a.random().IntN(2) == 0 && !a.insists // what is not synced is lost with the power: there may be nothing left
		// Not synced is, too, the mark that the last write of the log is durable. Without it a flipped bit there looks like a write that was cut
		// short and never answered for: the one thing that a node may lose without noticing it (storage/DESIGN.md).
		killing(power && (kind != "log" || cut))(s, a)
		a.detail = n.disk.damage(kind, cut, a.random())
	}}
}

// insistsFor is how long damage waits at most until there is something to do harm to.
const insistsFor = 20 * second

func nothing(*sim, *action) {}

func killing(power bool) func(*sim, *action) {
	return func(s *sim, a *action) {
		for _, v := range a.victims {
			if r := s.nodes[v].present(); r != nil {
				s.nodes[v].kill(r, power)
			}
		}
	}
}

func wiping(s *sim, a *action) {
	n := s.nodes[a.victims[0]]
	n.repair.Lock()
	defer n.repair.Unlock()
	killing(false)(s, a)
	n.disk.wipe()
}

func starting(s *sim, a *action) {
	for _, v := range a.victims {
		s.nodes[v].start()
	}
}

func stopping(s *sim, a *action) {
	n := s.nodes[a.victims[0]]
	if r := n.present(); r != nil {
		if err := n.stop(r); err != nil {
			a.detail = err.Error()
			s.failed(fmt.Sprintf("stop %s at %v: %v", r.name, s.now(), err))
		}
	}
}

func freezing(s *sim, a *action) { s.network.freeze(a.victims[0], true) }
func thawing(s *sim, a *action)  { s.network.freeze(a.victims[0], false) }

// ways calls f with each way between a victim and another node.
func ways(s *sim, a *action, f func(from, to int, w *way)) {
	s.network.change(func(all map[[2]int]*way) {
		for k, w := range all {
			if slices.Contains(a.victims, k[0]) != slices.Contains(a.victims, k[1]) {
				f(k[0], k[1], w)
			}
		}
	})
}

func isolating(s *sim, a *action) { ways(s, a, func(_, _ int, w *way) { w.cut = true }) }

func oneWay(s *sim, a *action) {
	deaf := a.random().IntN(2) == 0
	if a.detail = "is not heard"; deaf {
		a.detail = "hears nothing"
	}
	ways(s, a, func(from, _ int, w *way) { w.cut = w.cut || slices.Contains(a.victims, from) != deaf })
}

func bridging(s *sim, a *action) {
	x, y := a.victims[0], a.victims[1]
	s.network.change(func(all map[[2]int]*way) { all[[2]int{x, y}].cut, all[[2]int{y, x}].cut = true, true })
}

// healing makes the ways as they were, also those that another fault has changed.
func healing(s *sim, _ *action) { s.healNetwork() }

func breaking(s *sim, a *action) { s.network.reset(a.victims[0], a.victims[1]) }

func delaying(s *sim, a *action) {
	late := spread(a.random(), 20*time.Millisecond, 200*time.Millisecond)
	a.detail = late.String()
	ways(s, a, func(_, _ int, w *way) { w.delay = late })
}

func losing(s *sim, a *action) {
	loss := 0.02 + 0.2*a.random().Float64()
	ways(s, a, func(_, _ int, w *way) { w.loss = loss })
}

func onDisk(s *sim, a *action, f func(m *mount)) {
	if r := s.nodes[a.victims[0]].present(); r != nil {
		f(r.mount)
	}
}

func slowing(s *sim, a *action) {
	slow := spread(a.random(), 50*time.Millisecond, 2*second)
	a.detail = slow.String()
	onDisk(s, a, func(m *mount) { m.slow(slow) })
}

func quickening(s *sim, a *action) { onDisk(s, a, func(m *mount) { m.slow(s.plan.sync) }) }

func hanging(s *sim, a *action) { onDisk(s, a, func(m *mount) { m.slow(40 * second) }) }

func reviving(s *sim, a *action) {
	quickening(s, a)
	starting(s, a)
}

func filling(s *sim, a *action) { onDisk(s, a, func(m *mount) { m.setFull(true) }) }

func emptying(s *sim, a *action) {
	onDisk(s, a, func(m *mount) { m.setFull(false) })
	starting(s, a)
}

func stepping(s *sim, a *action) {
	step := among(a.random(), -time.Hour, -10*second, 10*second, time.Hour)
	a.detail = step.String()
	s.step(a.victims[0], step)
}

func unstepping(s *sim, a *action) {
	if a.random().IntN(2) == 0 {
		s.step(a.victims[0], 0)
	}
}

// baseDelays gives the network its plan's delays.
func (s *sim) baseDelays(random *rand.Rand) {
	for from := range s.plan.nodes {
		for to := range s.plan.nodes {
			s.delays[[2]int{from, to}] = time.Duration(random.Int64N(int64(s.plan.delay)))
		}
	}
	s.healNetwork()
}

func (s *sim) healNetwork() {
	s.network.change(func(all map[[2]int]*way) {
		for k, w := range all {
			*w = way{delay: s.delays[k]}
		}
	})
}
