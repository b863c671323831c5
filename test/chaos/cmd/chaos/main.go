// Command chaos runs Warren's fault suite: see test/chaos/README.md. It exits with status 1 when a checker found anything,
// and with 2 when it could not do its work.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/warrenmq/warren/test/chaos"
)

func main() {
	failed, err := run()
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(2)
	case failed:
		os.Exit(1)
	}
}

func run() (failed bool, err error) {
	o := chaos.Options{Progress: os.Stderr}
	seed := flag.Uint64("seed", 0, "seed of the schedule; 0: a random one, which is printed")
	seeds := flag.String("seeds", "", "instead of one seed many, one after the other, as in 1-50 or 3,8,20-29; a summary is written, and what belongs to failures is kept")
	faults := flag.String("faults", "kill,stop,restart", "names or groups of faults, with commas; all; or none")
	workloads := flag.String("workloads", "", "names of workloads, with commas; default all")
	report := flag.String("report", "", "directory for report.md, report.json and timeline.svg; default below the work directory")
	work := flag.String("work", "", "directory for data and logs; default a temporary one, removed after a clean run")
	level := flag.String("level", "auto", "what connects the nodes: loopback; switchboard: network namespaces and frames carried by the suite; netns: network namespaces connected by the kernel; auto: loopback, or switchboard when a fault needs it")
	flags := flag.String("node-flags", "", "further flags for every node, separated by spaces")
	list := flag.Bool("list", false, "list the faults and what they need, and do nothing")
	flag.DurationVar(&o.Duration, "duration", 10*time.Minute, "how long the load lasts")
	flag.IntVar(&o.Nodes, "nodes", 3, "nodes of the cluster")
	flag.StringVar(&o.Binary, "bin", "bin/warren", "the program under test")
	flag.IntVar(&o.Rate, "rate", 0, "messages per second, over all publishers; default 2000, 10000 with -kills or -cuts")
	flag.IntVar(&o.Kills, "kills", 0, "instead of a schedule: so many times SIGKILL of the node that leads the shard of a queue that is published to, clients on another node")
	flag.IntVar(&o.Cuts, "cuts", 0, "the same with silent partitions of that node")
	flag.BoolVar(&o.Stable, "stable", false, "clients use one node that no fault touches, and may notice nothing but pauses")
	flag.DurationVar(&o.MaxGap, "max-gap", 0, "with -stable: fail when a gap between two confirms is longer; 0: only report")
	flag.DurationVar(&o.PauseMin, "pause-min", 2*time.Second, "shortest pause between two faults")
	flag.DurationVar(&o.PauseMax, "pause-max", 6*time.Second, "longest pause between two faults")
	flag.Parse()
	if flag.NArg() > 0 {
		return false, fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	o.Seed = *seed
	if o.Seed == 0 {
		o.Seed = rand.Uint64N(1_000_000) + 1
	}
	if *faults != "none" {
		o.Faults = split(*faults)
	}
	o.Workloads, o.Flags = split(*workloads), strings.Fields(*flags)
	if o.Level, err = levelFor(*level, *faults, o.Cuts); err != nil {
		return false, err
	}
	if *list {
		if o.Level == chaos.Loopback && chaos.LevelMissing(chaos.Switchboard) == "" {
			o.Level = chaos.Switchboard
		}
		fmt.Print(chaos.DescribeFaults(&o))
		return false, nil
	}
	if o.Binary, err = filepath.Abs(o.Binary); err != nil {
		return false, err
	}
	if _, err := os.Stat(o.Binary); err != nil {
		return false, fmt.Errorf("the program under test: %w (make build)", err)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if *seeds != "" {
		list, err := parseSeeds(*seeds)
		if err != nil {
			return false, err
		}
		return runSeeds(ctx, o, list, *work, *report)
	}
	return runOne(ctx, o, *work, *report)
}

// runOne does one run and writes its report. A temporary work directory is removed after a clean run.
func runOne(ctx context.Context, o chaos.Options, work, report string) (failed bool, err error) {
	temporary := work == ""
	if o.Dir, err = workDir(work); err != nil {
		return false, err
	}
	if report == "" {
		report = filepath.Join(o.Dir, "report")
	}
	fmt.Fprintf(os.Stderr, "seed %d, data and logs in %s\n", o.Seed, o.Dir)
	result, err := chaos.Run(ctx, o)
	if err != nil {
		return false, err
	}
	if err := result.Write(report); err != nil {
		return false, err
	}
	printOutcome(result, report)
	if temporary && !result.Failed() && !strings.HasPrefix(report, o.Dir) {
		err = os.RemoveAll(o.Dir)
	}
	return result.Failed(), err
}

// workDir makes the directory for data and logs; without a name, a temporary one.
func workDir(name string) (string, error) {
	if name == "" {
		return os.MkdirTemp("", "warren-chaos-")
	}
	if err := os.MkdirAll(name, 0o755); err != nil {
		return "", err
	}
	return filepath.Abs(name)
}

// printOutcome says in a few lines what the report says in full. A failure prints its seed and its whole schedule.
func printOutcome(r *chaos.Result, report string) {
	fmt.Printf("seed %d: %d confirmed, findings: %v; report in %s\n", r.Options.Seed, r.Verdict.Confirmed, r.Verdict.Counts, report)
	fmt.Print(r.Gaps())
	fmt.Printf("longest gap between two confirms of one publisher in the whole run: %v: %s\n", r.Gap.Round(time.Millisecond), r.GapOf)
	if !r.Failed() {
		return
	}
	for _, f := range r.Verdict.Findings {
		fmt.Println(" ", f)
	}
	fmt.Printf("the schedule of seed %d:\n", r.Options.Seed)
	for _, a := range r.Schedule {
		fmt.Println(" ", a)
	}
}

// levelFor is the level asked for, or the least that the faults need.
func levelFor(asked, faults string, cuts int) (string, error) {
	if asked != "auto" {
		if why := chaos.LevelMissing(asked); why != "" {
			return "", errors.New(why)
		}
		return asked, nil
	}
	if cuts > 0 && chaos.LevelMissing(chaos.Netns) == "" {
		return chaos.Netns, nil
	}
	names, err := chaos.ExpandFaults(split(faults))
	if err != nil && faults != "none" {
		return "", err
	}
	if (cuts > 0 || chaos.NeedNetwork(names)) && chaos.LevelMissing(chaos.Switchboard) == "" {
		return chaos.Switchboard, nil
	}
	return chaos.Loopback, nil
}

func split(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
}
