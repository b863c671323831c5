// Package chaos runs a cluster of real Warren nodes under load, does harm to it on a schedule that a seed makes, and holds
// what clients saw against what Warren promises (P1 to P8 of the design). The judging is in package check, the network
// that can be cut in package network; README.md says how to run it and how to read its reports.
package chaos

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/warrenmq/warren/test/chaos/disk"
	"github.com/warrenmq/warren/test/chaos/network"
)

// Options say what to run. The zero value of a field stands for its default.
type Options struct {
	Binary    string        // the program under test
	Dir       string        // for data and logs; must exist
	Nodes     int           // default 3
	Duration  time.Duration // of the load with faults; default 1 minute. Start, drain and checks come on top.
	Seed      uint64        // of the schedule and of the clients' choices
	Faults    []string      // names of faults or of groups of faults; empty: none
	Replays   []string      // those of Faults that name what broke another broker; set from there
	Workloads []string      // default: all
	Rate      int           // messages published per second, over all publishers; default 2000
	Stable    bool          // clients use one node only, which no fault touches, and must notice nothing but pauses
	Level     string        // what connects the nodes: Loopback (the default), Switchboard or Netns; faults of the network need one of the last two
	Flags     []string      // further flags for every node
	Progress  io.Writer     `json:"-"` // what happens as it happens; default: nowhere
	MaxGap    time.Duration // with Stable: a longer gap between two confirms is a finding; 0: gaps are only reported
	PauseMin  time.Duration // between the recovery from a fault and the next; default 2 s
	PauseMax  time.Duration // default 6 s
	Combined  float64       // share of faults that get company; default 0.25
	Kills     int           // rounds of SIGKILL of the node that leads a queue's shard, instead of a schedule; sets Stable
	Cuts      int           // and of silent partitions of it; needs a level with links
	Insists   bool          // damage waits for a while until there is a file to do harm to, rather than be left out
	Crashes   time.Duration // a consumer drops its socket about so often; default 15 s; negative: never
}

// Levels.
const (
	Loopback    = "loopback"    // all nodes share this machine's loopback
	Switchboard = "switchboard" // each in a network namespace; this process carries the frames, and can do everything to them
	Netns       = "netns"       // each in a network namespace, connected by the kernel
)

// LevelMissing says why a level cannot be had here, or nothing.
func LevelMissing(level string) string {
	switch level {
	case Loopback:
		return ""
	case Switchboard:
		return network.SwitchboardMissing()
	case Netns:
		return network.BridgeMissing()
	}
	return fmt.Sprintf("there is no level %q; there are %s, %s and %s", level, Loopback, Switchboard, Netns)
}

func (o *Options) setDefaults() error {
	if o.Level == "" {
		o.Level = Loopback
	}
	if why := LevelMissing(o.Level); why != "" {
		return errors.New(why)
	}
	if o.Nodes == 0 {
		o.Nodes = 3
	}
	if o.Nodes < 2 {
		return errors.New("chaos needs two nodes at least")
	}
	if o.Duration == 0 {
		o.Duration = time.Minute
	}
	if o.inRounds() {
		o.Stable, o.Workloads, o.Faults = true, []string{rounds}, nil
	}
	if o.Cuts > 0 && o.Level == Loopback {
		return errors.New("cuts need a level with links: " + Switchboard + " or " + Netns)
	}
	if o.Rate == 0 && o.inRounds() {
		o.Rate = 10_000
	}
	if o.Rate == 0 {
		o.Rate = 2000
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	if o.PauseMin == 0 {
		o.PauseMin = 2 * time.Second
	}
	if o.PauseMax == 0 {
		o.PauseMax = max(6*time.Second, o.PauseMin)
	}
	if o.PauseMin < 0 || o.PauseMax < o.PauseMin {
		return fmt.Errorf("pauses from %v to %v: the longest must not be shorter than the shortest", o.PauseMin, o.PauseMax)
	}
	if o.Combined == 0 {
		o.Combined = 0.25
	}
	if o.Crashes == 0 {
		o.Crashes = 15 * time.Second
	}
	if o.Stable {
		o.Crashes, o.Combined = -1, -1
	}
	if len(o.Workloads) == 0 {
		o.Workloads = workloadNames()
	}
	for _, name := range o.Workloads {
		if workloads[name] == nil && name != rounds {
			return fmt.Errorf("unknown workload %q; there are %s", name, strings.Join(workloadNames(), ", "))
		}
	}
	for _, name := range o.Faults {
		if histories[name] != nil {
			o.Replays = append(o.Replays, name)
		}
	}
	faults, err := ExpandFaults(o.Faults)
	if err != nil {
		return err
	}
	o.Faults = faults
	if o.Binary == "" || o.Dir == "" {
		return errors.New("the binary and a directory must be given")
	}
	return nil
}

// wants says whether a fault is among those asked for.
func (o *Options) wants(fault string) bool { return slices.Contains(o.Faults, fault) }

// wantsDisks says whether a fault needs the disks whose faults are at will, and they can be had.
func (o *Options) wantsDisks() bool {
	return disk.Missing() == "" && slices.ContainsFunc(o.Faults, func(name string) bool { return faultNamed(name).onDisk() })
}

// stableNode is the node that clients use and faults spare, in the stable mode.
func (o *Options) stableNode() int { return int(o.Seed % uint64(o.Nodes)) }
