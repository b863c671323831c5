package chaos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warrenmq/warren/test/chaos/check"
	"github.com/warrenmq/warren/test/chaos/clock"
	"github.com/warrenmq/warren/test/chaos/disk"
	"github.com/warrenmq/warren/test/chaos/network"
)

// fault is one way to do harm. It is injected, lasts a while, and is healed; then the suite waits until all nodes serve.
type fault struct {
	name  string
	about string
	group string // faults are asked for by name or by group

	// needs says why it cannot be done here, or nothing. Nil: it always can.
	needs func(o *Options) string
	// leader says that it looks for the leader when its time has come; its victims are for when that is not known.
	leader bool
	// victims are the nodes it touches, out of those it may touch.
	victims func(p *planner) []int
	alone   bool // it touches or takes all nodes, and gets no company
	// shortest and longest bound the time it lasts.
	shortest, longest time.Duration

	inject func(ctx context.Context, r *run, a *Action) error
	heal   func(ctx context.Context, r *run, a *Action) error
}

// onDisk says that it is done by a disk whose faults are at will.
func (f *fault) onDisk() bool { return f.group == "power" || strings.HasPrefix(f.name, "sync-") }

// severe says that it may cost clients of its nodes their sessions: see check.Window. A short pause, a slow disk or network, a wrong clock
// and a node that leads no more may not. A full disk may end the node, as a hanging one does.
func (f *fault) severe() bool {
	switch f.group {
	case "kill", "restart", "partition", "power", "damage":
		return true
	}
	return slices.Contains([]string{"stop-long", "stop-leader", "disk-full", "sync-hang", "sync-hang-long", "sync-fail", "leave", "remove"}, f.name)
}

// faults is the table of all faults, in the order of the README.
var faults = []*fault{
	{name: "kill-one", group: "kill", about: "SIGKILL of one node, started again", victims: one, shortest: 500 * time.Millisecond, longest: 6 * time.Second,
		inject: killed, heal: started},
	{name: "kill-leader", group: "kill", about: "SIGKILL of the node that leads the catalog, if known; of any node otherwise", leader: true, victims: one,
		shortest: 500 * time.Millisecond, longest: 6 * time.Second, inject: killed, heal: started},
	{name: "kill-all", group: "kill", about: "SIGKILL of all nodes at once", needs: notStable, victims: everyone, alone: true, shortest: 100 * time.Millisecond, longest: time.Second,
		inject: killed, heal: started},
	{name: "stop-short", group: "stop", about: "SIGSTOP for less than a second", victims: one, shortest: 200 * time.Millisecond, longest: time.Second,
		inject: paused, heal: resumed},
	{name: "stop-long", group: "stop", about: "SIGSTOP for longer than any timeout", victims: one, shortest: 5 * time.Second, longest: 15 * time.Second,
		inject: paused, heal: resumed},
	{name: "stop-leader", group: "stop", about: "SIGSTOP of the node that leads the catalog for longer than any timeout", leader: true, victims: one,
		shortest: 5 * time.Second, longest: 15 * time.Second, inject: paused, heal: resumed},
	{name: "restart", group: "restart", about: "SIGTERM, and a start once it has ended", victims: one, shortest: 0, longest: 2 * time.Second,
		inject: terminated, heal: started},
	{name: "partition-halves", group: "partition", about: "a minority apart from a majority", needs: links, victims: minority, shortest: 3 * time.Second, longest: 15 * time.Second,
		inject: isolated, heal: reconnected},
	{name: "partition-one", group: "partition", about: "one node alone", needs: links, victims: one, shortest: 3 * time.Second, longest: 15 * time.Second,
		inject: isolated, heal: reconnected},
	{name: "partition-leader", group: "partition", about: "the node that leads the catalog alone", needs: links, leader: true, victims: one,
		shortest: 3 * time.Second, longest: 15 * time.Second, inject: isolated, heal: reconnected},
	{name: "partition-oneway", group: "partition", about: "one node sends and hears nothing, or hears and cannot send", needs: links, victims: one,
		shortest: 3 * time.Second, longest: 15 * time.Second, inject: oneWay, heal: reconnected},
	{name: "partition-bridge", group: "partition", about: "two nodes that reach one another only by way of the others", needs: links, victims: pair,
		shortest: 3 * time.Second, longest: 15 * time.Second, inject: bridged, heal: reconnected},
	{name: "delay", group: "slow", about: "20 to 200 ms on all links of one node", needs: delays, victims: one, shortest: 3 * time.Second, longest: 10 * time.Second,
		inject: delayedLinks, heal: reconnected},
	{name: "loss", group: "slow", about: "2 to 20 % of the frames of one node are lost", needs: links, victims: one, shortest: 3 * time.Second, longest: 10 * time.Second,
		inject: lossyLinks, heal: reconnected},
	{name: "disk-full", group: "disk", about: "the disk of one node is filled to the last byte", needs: smallDisk, victims: one, shortest: 3 * time.Second, longest: 10 * time.Second,
		inject: filled, heal: emptied},
	{name: "sync-slow", group: "disk", about: "every fsync of one node takes 20 to 500 ms longer", needs: disks, victims: one, shortest: 3 * time.Second, longest: 10 * time.Second,
		inject: syncsSlow, heal: syncsGoOn},
	{name: "sync-hang", group: "disk", about: "no fsync of one node ends for a while, shorter than it waits before it gives up", needs: disks, victims: one,
		shortest: 2 * time.Second, longest: 7 * time.Second, inject: syncsHang, heal: syncsGoOn},
	{name: "sync-hang-long", group: "disk", about: "no fsync of one node ends, until it has given up", needs: disks, victims: one,
		shortest: 13 * time.Second, longest: 18 * time.Second, inject: syncsHang, heal: syncsGoOn},
	{name: "sync-fail", group: "disk", about: "every fsync of one node fails, which must end it; what they were to write is lost", needs: disks, victims: one,
		shortest: 500 * time.Millisecond, longest: 2 * time.Second, inject: syncsFail, heal: syncsFailed},
	{name: "power-cut", group: "power", about: "SIGKILL of one node, and what it had not synced is lost", needs: disks, victims: one,
		shortest: 200 * time.Millisecond, longest: 4 * time.Second, inject: powerCut, heal: started},
	{name: "power-cut-all", group: "power", about: "the same of all nodes at once", needs: disksNotStable, victims: everyone, alone: true,
		shortest: 100 * time.Millisecond, longest: time.Second, inject: powerCut, heal: started},
	{name: "wipe", group: "damage", about: "one node loses its whole data directory while it is down", victims: fragile, shortest: 500 * time.Millisecond, longest: 3 * time.Second,
		inject: wiped, heal: started},
	{name: "leave", group: "membership", about: "one node leaves for good, and a new one of its name joins", victims: fragile,
		shortest: 500 * time.Millisecond, longest: 3 * time.Second, inject: judged(left), heal: joined},
	{name: "remove", group: "membership", about: "SIGKILL of one node, which is then removed, and a new one of its name joins", victims: fragile,
		shortest: 500 * time.Millisecond, longest: 3 * time.Second, inject: judged(removed), heal: joined},
	{name: "drain", group: "membership", about: "one node gives its leaderships away, and may lead again later", victims: one,
		shortest: 2 * time.Second, longest: 8 * time.Second, inject: judged(drained), heal: undrained},
	damaging("flip-wal", "bits of write-ahead log files flip while the node is down", "store/wal/[0-9a-f]*.wal", flipBits),
	damaging("flip-segment", "bits of segments, or of log files that are kept as such, flip while the node is down", "store/group-*/*.[sw][ea][gl]", flipBits),
	damaging("flip-checkpoint", "bits of checkpoints flip while the node is down", "store/group-*/checkpoint", flipBits),
	damaging("flip-stable", "bits of the stable store (terms, votes, the catalog's log) flip while the node is down", "*.db", flipBits),
	damaging("flip-catalog", "bits of the catalog's snapshot flip while the node is down", "catalog/*/*/*", flipBits),
	damaging("truncate-wal", "write-ahead log files are cut while the node is down", "store/wal/[0-9a-f]*.wal", truncate),
	damaging("truncate-segment", "segments, or log files that are kept as such, are cut while the node is down", "store/group-*/*.[sw][ea][gl]", truncate),
	damaging("truncate-checkpoint", "checkpoints are cut while the node is down", "store/group-*/checkpoint", truncate),
	damaging("truncate-stable", "the stable store is cut while the node is down", "*.db", truncate),
	{name: "clock-one", group: "clock", about: "the wall clock of one node jumps by up to an hour, forward or back, and later back to right", needs: clocks, victims: one,
		shortest: 3 * time.Second, longest: 10 * time.Second, inject: clockMoved, heal: clockRight},
	{name: "clock-leader", group: "clock", about: "the wall clock of the node that leads the catalog jumps", needs: clocks, leader: true, victims: one,
		shortest: 3 * time.Second, longest: 10 * time.Second, inject: clockMoved, heal: clockRight},
}

func damaging(name, about, pattern string, damage func(path string, random *rand.Rand) (string, error)) *fault {
	return &fault{name: name, group: "damage", about: about, victims: fragile, shortest: 500 * time.Millisecond, longest: 3 * time.Second,
		inject: func(ctx context.Context, r *run, a *Action) error {
			victim := r.cluster.nodes[a.Victims[0]]
			if r.o.Insists {
				awaitFile(ctx, victim.dataDir, pattern)
			}
			victim.kill()
			did, err := damageFiles(victim.dataDir, pattern, a.random(), damage)
			a.Detail = did
			return err
		}, heal: started}
}

// histories are sets of faults that broke other brokers: names of their reports.
var histories = map[string][]string{
	"nats-7549": {"flip-wal", "flip-segment", "truncate-wal", "truncate-segment"},
	"nats-7556": {"flip-catalog", "flip-checkpoint", "flip-stable", "truncate-checkpoint", "truncate-stable"},
	"nats-7564": {"power-cut-all", "power-cut"},
	"nats-7567": {"power-cut", "stop-short", "stop-long", "stop-leader"},
	"nats-6888": {"kill-one", "kill-leader", "kill-all"},
	"redpanda":  {"stop-long", "kill-one"},
}

// ExpandFaults turns names, groups and histories into names.
func ExpandFaults(asked []string) ([]string, error) {
	var names []string
	for _, ask := range asked {
		found := false
		for _, f := range faults {
			if ask == f.name || ask == f.group || ask == "all" || slices.Contains(histories[ask], f.name) {
				found = true
				if !slices.Contains(names, f.name) {
					names = append(names, f.name)
				}
			}
		}
		if !found {
			return nil, fmt.Errorf("unknown fault %q; see -list", ask)
		}
	}
	return names, nil
}

// NeedNetwork says whether any of the faults is one of the network.
func NeedNetwork(names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return onNetwork(faultNamed(name)) })
}

func faultNamed(name string) *fault {
	for _, f := range faults {
		if f.name == name {
			return f
		}
	}
	return nil
}

// DescribeFaults lists the faults with what they need and whether that is there.
func DescribeFaults(o *Options) string {
	var b strings.Builder
	for _, f := range faults {
		fmt.Fprintf(&b, "%-20s %-10s %s", f.name, f.group, f.about)
		if f.needs != nil {
			if why := f.needs(o); why != "" {
				fmt.Fprintf(&b, " [not here: %s]", why)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// What faults need.

func notStable(o *Options) string {
	if o.Stable {
		return "it would touch the node that the clients use"
	}
	return ""
}

func links(o *Options) string {
	if o.Level == Loopback {
		return "the nodes are not in namespaces of their own: -level " + Switchboard + " or " + Netns
	}
	return LevelMissing(o.Level)
}

func delays(o *Options) string {
	if o.Level == Netns {
		return network.NetemMissing()
	}
	return links(o)
}

func smallDisk(*Options) string {
	if os.Geteuid() != 0 {
		return "a small disk to fill needs root, to mount a tmpfs"
	}
	return ""
}

func disks(*Options) string { return disk.Missing() }

func disksNotStable(o *Options) string { return cmp.Or(notStable(o), disks(o)) }

func clocks(*Options) string { return clock.Missing() }

// Injections and healings.

func killed(_ context.Context, r *run, a *Action) error {
	for _, v := range a.Victims {
		r.cluster.nodes[v].kill()
	}
	return nil
}

func started(_ context.Context, r *run, a *Action) error {
	for _, v := range a.Victims {
		if err := r.cluster.nodes[v].start(r.ended); err != nil {
			return err
		}
	}
	return nil
}

func paused(_ context.Context, r *run, a *Action) error {
	return r.cluster.nodes[a.Victims[0]].signal(syscall.SIGSTOP)
}

func resumed(_ context.Context, r *run, a *Action) error {
	return r.cluster.nodes[a.Victims[0]].signal(syscall.SIGCONT)
}

// stopPatience is how long a node may take to end gracefully.
const stopPatience = 60 * time.Second

func terminated(_ context.Context, r *run, a *Action) error {
	if err := r.cluster.nodes[a.Victims[0]].end(syscall.SIGTERM, stopPatience); err != nil {
		r.ledger.Report(check.Finding{Kind: check.NodeEnded, Detail: err.Error()})
	}
	return nil
}

func isolated(_ context.Context, r *run, a *Action) (err error) {
	for i := range r.cluster.nodes {
		for _, v := range a.Victims {
			if !slices.Contains(a.Victims, i) {
				err = errors.Join(err, r.cut(i, v))
			}
		}
	}
	return err
}

// cut stops everything between two nodes.
func (r *run) cut(a, b int) error {
	return errors.Join(r.cluster.network.Cut(a, b), r.cluster.network.Cut(b, a))
}

func oneWay(_ context.Context, r *run, a *Action) (err error) {
	deaf := a.random().IntN(2) == 0
	v := a.Victims[0]
	for i := range r.cluster.nodes {
		switch {
		case i == v:
		case deaf:
			err = errors.Join(err, r.cluster.network.Cut(i, v))
			a.Detail = "hears nothing"
		default:
			err = errors.Join(err, r.cluster.network.Cut(v, i))
			a.Detail = "is not heard"
		}
	}
	return err
}

func bridged(_ context.Context, r *run, a *Action) error { return r.cut(a.Victims[0], a.Victims[1]) }

func delayedLinks(_ context.Context, r *run, a *Action) error {
	delay := time.Duration(20+a.random().IntN(180)) * time.Millisecond
	a.Detail = "by " + delay.String()
	return r.cluster.network.Slow(a.Victims[0], delay, 0)
}

func lossyLinks(_ context.Context, r *run, a *Action) error {
	loss := 0.02 + 0.18*a.random().Float64()
	a.Detail = fmt.Sprintf("%.0f %%", loss*100)
	return r.cluster.network.Slow(a.Victims[0], 0, loss)
}

func reconnected(_ context.Context, r *run, _ *Action) error { return r.cluster.network.Heal() }

// clockSteps are those that matter: within what nodes may differ, beyond it, and what an administrator does by mistake.
var clockSteps = []time.Duration{5 * time.Second, 45 * time.Second, 5 * time.Minute, time.Hour}

func clockMoved(ctx context.Context, r *run, a *Action) error {
	random := a.random()
	by := clockSteps[random.IntN(len(clockSteps))]
	if random.IntN(2) == 0 {
		by = -by
	}
	a.Detail = "by " + by.String()
	return r.setClock(ctx, a.Victims[0], by)
}

func clockRight(ctx context.Context, r *run, a *Action) error {
	return r.setClock(ctx, a.Victims[0], 0)
}

// setClock moves a node's wall clock against the machine's.
func (r *run) setClock(ctx context.Context, node int, by time.Duration) error {
	n := r.cluster.nodes[node]
	for {
		if err := n.signal(syscall.SIGSTOP); err != nil {
			return err
		}
		err := clock.Shift(n.pid(), by)
		err = errors.Join(err, n.signal(syscall.SIGCONT))
		if !errors.Is(err, clock.ErrBusy) || ctx.Err() != nil {
			return err
		}
	}
}

// filler is the file that takes all space beside a node's data.
func filler(r *run, a *Action) string {
	return filepath.Join(filepath.Dir(r.cluster.nodes[a.Victims[0]].dataDir), "filler")
}

func filled(_ context.Context, r *run, a *Action) (err error) {
	r.sick[a.Victims[0]].Store(true)
	f, err := os.Create(filler(r, a))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for size, step := int64(0), int64(64<<20); step >= 4096; {
		switch err := unix.Fallocate(int(f.Fd()), 0, size, step); {
		case err == nil:
			size += step
		case errors.Is(err, unix.ENOSPC):
			step /= 2
		default:
			return fmt.Errorf("fill the disk: %w", err)
		}
	}
	return nil
}

// emptied gives the space back. A node that ended on its full disk is started again: what counts is what it kept.
func emptied(_ context.Context, r *run, a *Action) error {
	if err := os.Remove(filler(r, a)); err != nil {
		return err
	}
	node := r.cluster.nodes[a.Victims[0]]
	if !node.running() {
		a.Detail = "the node ended on its full disk and was started again"
		if err := node.start(r.ended); err != nil {
			return err
		}
	}
	r.sick[a.Victims[0]].Store(false)
	return nil
}

func syncsSlow(_ context.Context, r *run, a *Action) error {
	by := time.Duration(20+a.random().IntN(480)) * time.Millisecond
	a.Detail = "by " + by.String()
	r.cluster.nodes[a.Victims[0]].disk.SlowSync(by)
	return nil
}

func syncsHang(_ context.Context, r *run, a *Action) error {
	r.sick[a.Victims[0]].Store(true)
	r.cluster.nodes[a.Victims[0]].disk.Hang()
	return nil
}

// syncsGoOn ends a slow or hanging disk. A node that had given up ends now that its last fsync returns, and is started again.
func syncsGoOn(ctx context.Context, r *run, a *Action) error {
	node := r.cluster.nodes[a.Victims[0]]
	node.disk.SlowSync(0)
	node.disk.Release()
	defer r.sick[node.index].Store(false)
	ctx, cancel := context.WithTimeout(ctx, stopPatience)
	defer cancel()
	for ctx.Err() == nil {
		if !node.running() {
			a.Detail += " the node ended and was started again"
			return node.start(r.ended)
		}
		if _, _, err := node.get(ctx, "/health/live"); err == nil {
			return nil
		}
		r.waitUntil(ctx, r.now()+20*time.Millisecond)
	}
	return fmt.Errorf("%s neither ends nor answers", node.name)
}

func syncsFail(_ context.Context, r *run, a *Action) error {
	r.sick[a.Victims[0]].Store(true)
	r.cluster.nodes[a.Victims[0]].disk.FailSync(true)
	return nil
}

// syncsFailed ends a failing disk. A node that saw an fsync fail must have ended: nobody knows what is on its disk. It finds
// the worst when it comes back.
func syncsFailed(ctx context.Context, r *run, a *Action) error {
	node := r.cluster.nodes[a.Victims[0]]
	failed := node.disk.FailSync(false)
	a.Detail = fmt.Sprintf("%d failed;", failed)
	var nothing error
	if failed == 0 {
		nothing = errNothing
	}
	if failed > 0 && !node.endsByItself(ctx, r) {
		r.ledger.Report(check.Finding{Kind: check.WentOn, Detail: fmt.Sprintf("%s after %d failed fsyncs", node.name, failed)})
	}
	defer r.sick[node.index].Store(false)
	return errors.Join(nothing, r.cutPower(node, a), node.start(r.ended))
}

// endPatience is how long a node may take to end once an fsync has failed.
const endPatience = 10 * time.Second

// endsByItself waits for that: the fsync may have failed just now.
func (n *Node) endsByItself(ctx context.Context, r *run) bool {
	ctx, cancel := context.WithTimeout(ctx, endPatience)
	defer cancel()
	for n.running() && ctx.Err() == nil {
		r.waitUntil(ctx, r.now()+20*time.Millisecond)
	}
	return !n.running()
}

func powerCut(_ context.Context, r *run, a *Action) error {
	var errs []error
	for _, v := range a.Victims { // all processes first: the others must not see a single one go
		errs = append(errs, r.cluster.nodes[v].signalKill())
	}
	for _, v := range a.Victims {
		errs = append(errs, r.cutPower(r.cluster.nodes[v], a))
	}
	return errors.Join(errs...)
}

// cutPower ends a node and loses what it had not synced.
func (r *run) cutPower(node *Node, a *Action) error {
	node.kill()
	told, err := node.disk.PowerCut(a.random())
	if told != "" {
		a.Detail = strings.TrimSpace(a.Detail + " " + told)
	}
	return err
}

// wiped empties the directory and leaves it, since a disk may be mounted there.
func wiped(_ context.Context, r *run, a *Action) error {
	node := r.cluster.nodes[a.Victims[0]]
	node.kill()
	entries, err := os.ReadDir(node.dataDir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(node.dataDir, e.Name())))
	}
	return err
}
