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
	"github.com/warrenmq/warren/test/chaos/switchboard"
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
	faults := flag.String("faults", "kill,stop,restart", "names or groups of faults, with commas; all; or none")
	workloads := flag.String("workloads", "", "names of workloads, with commas; default all")
	report := flag.String("report", "", "directory for report.md, report.json and timeline.svg; default below the work directory")
	work := flag.String("work", "", "directory for data and logs; default a temporary one, removed after a clean run")
	namespaces := flag.String("namespaces", "auto", "nodes in network namespaces: yes, no, or auto: when a fault needs them")
	flags := flag.String("node-flags", "", "further flags for every node, separated by spaces")
	list := flag.Bool("list", false, "list the faults and what they need, and do nothing")
	flag.DurationVar(&o.Duration, "duration", 10*time.Minute, "how long the load lasts")
	flag.IntVar(&o.Nodes, "nodes", 3, "nodes of the cluster")
	flag.StringVar(&o.Binary, "bin", "bin/warren", "the program under test")
	flag.IntVar(&o.Rate, "rate", 2000, "messages per second, over all publishers")
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
	if o.Namespaces, err = useNamespaces(*namespaces, *faults); err != nil {
		return false, err
	}
	if *list {
		o.Namespaces = o.Namespaces || switchboard.Missing() == ""
		fmt.Print(chaos.DescribeFaults(&o))
		return false, nil
	}
	if o.Binary, err = filepath.Abs(o.Binary); err != nil {
		return false, err
	}
	if _, err := os.Stat(o.Binary); err != nil {
		return false, fmt.Errorf("the program under test: %w (make build)", err)
	}
	temporary := *work == ""
	if temporary {
		if *work, err = os.MkdirTemp("", "warren-chaos-"); err != nil {
			return false, err
		}
	} else if err := os.MkdirAll(*work, 0o755); err != nil {
		return false, err
	}
	if o.Dir, err = filepath.Abs(*work); err != nil {
		return false, err
	}
	if *report == "" {
		*report = filepath.Join(o.Dir, "report")
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	fmt.Fprintf(os.Stderr, "seed %d, data and logs in %s\n", o.Seed, o.Dir)
	result, err := chaos.Run(ctx, o)
	if err != nil {
		return false, err
	}
	if err := result.Write(*report); err != nil {
		return false, err
	}
	printOutcome(result, *report)
	if temporary && !result.Failed() && !strings.HasPrefix(*report, o.Dir) {
		err = os.RemoveAll(o.Dir)
	}
	return result.Failed(), err
}

// printOutcome says in a few lines what the report says in full. A failure prints its seed and its whole schedule.
func printOutcome(r *chaos.Result, report string) {
	fmt.Printf("seed %d: %d confirmed, findings: %v; report in %s\n", r.Options.Seed, r.Verdict.Confirmed, r.Verdict.Counts, report)
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

func useNamespaces(flag, faults string) (bool, error) {
	missing := switchboard.Missing()
	switch flag {
	case "yes":
		if missing != "" {
			return false, errors.New(missing)
		}
		return true, nil
	case "no":
		return false, nil
	case "auto":
		needed := strings.Contains(faults, "partition") || strings.Contains(faults, "delay") || strings.Contains(faults, "loss") ||
			strings.Contains(faults, "slow") || strings.Contains(faults, "all") && !strings.Contains(faults, "kill-all")
		return needed && missing == "", nil
	}
	return false, fmt.Errorf("-namespaces %s: yes, no or auto", flag)
}

func split(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
}
