package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/warrenmq/warren/test/chaos"
	"github.com/warrenmq/warren/test/chaos/check"
)

// maxSeeds bounds a list of seeds: more is a slip of the keyboard.
const maxSeeds = 100_000

// keptData is how many failed runs keep their data; the others keep their logs and reports.
const keptData = 10

// parseSeeds reads a list of numbers and ranges such as "3,8,20-29".
func parseSeeds(text string) ([]uint64, error) {
	var list []uint64
	for _, part := range split(text) {
		low, high, isRange := strings.Cut(part, "-")
		if !isRange {
			high = low
		}
		first, err := strconv.ParseUint(low, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("-seeds %s: %w", text, err)
		}
		last, err := strconv.ParseUint(high, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("-seeds %s: %w", text, err)
		}
		if first == 0 || last < first || last-first >= maxSeeds || len(list) >= maxSeeds {
			return nil, fmt.Errorf("-seeds %s: seeds are from 1 on, in rising ranges, and at most %d", text, maxSeeds)
		}
		for seed := first; seed <= last; seed++ {
			list = append(list, seed)
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("-seeds %q names none", text)
	}
	return list, nil
}

// outcome is one line of the summary.
type outcome struct {
	seed   uint64
	result *chaos.Result // nil: the suite could not do its work
	err    error
	kept   string // where its report is
}

func (o *outcome) clean() bool { return o.err == nil && !o.result.Failed() }

// runSeeds runs one seed after the other and stops for nothing but the end of ctx. After each one it writes the summary. Every run
// keeps its report; a failed one keeps its logs and data too.
func runSeeds(ctx context.Context, o chaos.Options, seeds []uint64, work, report string) (failed bool, err error) {
	work, err = workDir(work)
	if err != nil {
		return false, err
	}
	if report == "" {
		report = filepath.Join(work, "report")
	}
	if err := os.MkdirAll(report, 0o755); err != nil {
		return false, err
	}
	var list []outcome
	var undone error
	for _, seed := range seeds {
		if ctx.Err() != nil {
			undone = errors.Join(undone, fmt.Errorf("interrupted before seed %d", seed))
			break
		}
		one := runSeed(ctx, o, seed, work, report, countFailed(list) < keptData)
		if one.err != nil {
			undone = errors.Join(undone, one.err)
		}
		list = append(list, one)
		if err := os.WriteFile(filepath.Join(report, "summary.md"), []byte(summary(&o, list)), 0o644); err != nil {
			return true, err
		}
		fmt.Println(row(&one))
	}
	fmt.Printf("%d of %d runs are clean; summary in %s\n", len(list)-countFailed(list), len(list), filepath.Join(report, "summary.md"))
	return countFailed(list) > 0, undone
}

// runSeed does one run in directories of its own.
func runSeed(ctx context.Context, o chaos.Options, seed uint64, work, report string, keepData bool) outcome {
	name := fmt.Sprintf("seed-%d", seed)
	o.Seed, o.Dir, o.Stable = seed, filepath.Join(work, name), o.Stable || calm(seed)
	one := outcome{seed: seed}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		one.err = err
		return one
	}
	fmt.Fprintf(os.Stderr, "\nseed %d, data and logs in %s\n", seed, o.Dir)
	one.result, one.err = chaos.Run(ctx, o)
	if one.err == nil {
		one.kept = filepath.Join(report, name)
		one.err = one.result.Write(one.kept)
		if one.result.Failed() {
			printOutcome(one.result, one.kept)
		}
	}
	switch {
	case one.clean():
		one.err = os.RemoveAll(o.Dir)
	case !keepData:
		for i := range o.Nodes {
			one.err = errors.Join(one.err, os.RemoveAll(filepath.Join(o.Dir, fmt.Sprintf("node%d", i+1))))
		}
	}
	return one
}

// calm says that a seed is run in the stable mode: every third one. There consumers keep their channels, so that every redelivery is one that
// the broker must answer for; in the other runs most have a lost channel for an excuse.
func calm(seed uint64) bool { return seed%3 == 0 }

func countFailed(list []outcome) (n int) {
	for i := range list {
		if !list[i].clean() {
			n++
		}
	}
	return n
}

const header = "| seed | faults | confirmed | lost | duplicate | after ack | reordered | errors seen by clients | worst gap | verdict |\n|---|---|---|---|---|---|---|---|---|---|"

// summary is the table of all runs so far.
func summary(o *chaos.Options, list []outcome) string {
	var b strings.Builder
	load, confirmed := time.Duration(0), 0
	faults := map[string]int{}
	for i := range list {
		if r := list[i].result; r != nil {
			o = &r.Options // with the defaults
			load += r.Load
			confirmed += r.Verdict.Confirmed
			for name, n := range r.Done() {
				faults[name] += n
			}
		}
	}
	fmt.Fprintf(&b, "# Chaos runs, %d seeds: %d clean, %d not\n\n", len(list), len(list)-countFailed(list), countFailed(list))
	fmt.Fprintf(&b, "%d nodes, level %s, %d messages/s; load for %v in total, %d messages confirmed. Faults injected: %s.\n\n%s\n",
		o.Nodes, o.Level, o.Rate, load.Round(time.Second), confirmed, counted(faults), header)
	for i := range list {
		b.WriteString(row(&list[i]) + "\n")
	}
	return b.String()
}

// row is one run's line of the summary.
func row(o *outcome) string {
	if o.result == nil {
		return fmt.Sprintf("| %d | | | | | | | | | not done: %s |", o.seed, oneLine(o.err))
	}
	v := o.result.Verdict
	verdict := "clean"
	if o.result.Options.Stable {
		verdict = "clean (stable)"
	}
	if !o.clean() {
		verdict = "**" + counted(v.Counts) + "** in " + o.kept
		if o.err != nil {
			verdict += "; " + oneLine(o.err)
		}
	}
	if n := o.result.Catalog.Undecided; n > 0 {
		verdict += fmt.Sprintf(", %d of %d histories of the catalog undecided", n, o.result.Catalog.Queues)
	}
	return fmt.Sprintf("| %d | %s | %d | %d | %d | %d | %d | %d | %v | %s |", o.seed, counted(o.result.Done()), v.Confirmed, v.Counts[check.Lost],
		v.Counts[check.Duplicate], v.Counts[check.AfterAck], v.Counts[check.Order], o.result.Errors, o.result.Gap.Round(time.Millisecond), verdict)
}

func oneLine(err error) string { return strings.Join(strings.Fields(fmt.Sprint(err)), " ") }

// counted lists names with their numbers, those that occur once without.
func counted(counts map[string]int) string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		if counts[name] == 1 {
			list = append(list, name)
		} else {
			list = append(list, fmt.Sprintf("%d × %s", counts[name], name))
		}
	}
	return strings.Join(list, ", ")
}
