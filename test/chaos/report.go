package chaos

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/warrenmq/warren/test/chaos/check"
)

// Point is one step of the time line.
type Point struct {
	At                                      time.Duration
	Published, Confirmed, Delivered, Errors float64 // per second
	P50, P99                                time.Duration
}

// points are the time line of the run.
func (s *series) points() []Point {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Point, len(s.buckets))
	perSecond := float64(time.Second / bucketLength)
	for i := range s.buckets {
		b := &s.buckets[i]
		list[i] = Point{At: time.Duration(i) * bucketLength, Published: float64(b.published) * perSecond, Confirmed: float64(b.confirmed) * perSecond,
			Delivered: float64(b.delivered) * perSecond, Errors: float64(b.failed) * perSecond, P50: b.quantile(0.5), P99: b.quantile(0.99)}
	}
	return list
}

// Write puts the report into a directory: report.json, report.md and timeline.svg.
func (r *Result) Write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	write := func(name string, content []byte) error {
		return os.WriteFile(filepath.Join(dir, name), content, 0o644)
	}
	return errors.Join(write("report.json", data), write("report.md", []byte(r.Markdown())), write("timeline.svg", []byte(r.SVG())))
}

// Markdown is the report for people.
func (r *Result) Markdown() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	v := r.Verdict
	outcome := "all checkers are clean"
	if r.Failed() {
		outcome = "**FAILED**"
	}
	line("# Chaos run, seed %d: %s\n", r.Options.Seed, outcome)
	line("%s, %d nodes, load for %v at %d messages/s, drained in %v. Again: `%s`\n", r.Started.Format(time.DateTime), r.Options.Nodes,
		r.Load.Round(time.Second), r.Options.Rate, r.Drain.Round(100*time.Millisecond), r.command())
	line("![time line](timeline.svg)\n")
	line("| | |\n|---|---|")
	line("| published | %d |", v.Published)
	line("| confirmed | %d (to be delivered %d times, to all queues together) |", v.Confirmed, v.Deliveries)
	for _, kind := range []string{"lost", "duplicate", "after ack", "order", "phantom", "corrupt", "undone", "torn"} {
		line("| %s | %d |", kind, v.Counts[kind])
	}
	line("| rolled back | %d |", v.Undone)
	line("| without an answer | %d, of which %d came out: a client that repeats them makes that many duplicates |", v.Uncertain, v.UncertainCameOut)
	for _, reason := range slices.Sorted(maps.Keys(v.Redelivered)) {
		line("| redelivered: %s | %d |", reason, v.Redelivered[reason])
	}
	line("| errors seen by clients | %d |", r.Errors)
	line("| negative confirms | %d |", r.Refused)
	line("| confirm latency | p50 %v, p99 %v, p99.9 %v, max %v |", round(r.Latency["p50"]), round(r.Latency["p99"]), round(r.Latency["p99.9"]), round(r.Latency["max"]))
	line("| longest gap between two confirms of one publisher, in the whole run | %v: %s |", round(r.Gap), r.GapOf)
	line("| RPC | %s |", r.Replies)
	line("| catalog | %d operations on %d queues, %d without an answer, %d queues undecided, %d not linearizable |", r.Catalog.Operations,
		r.Catalog.Queues, r.Catalog.Unknown, r.Catalog.Undecided, len(r.Catalog.Findings))
	line("| state hashes | %s |", r.Hashes)
	for i := range r.After {
		line("| node%d before and after | %s; %s |", i+1, r.Baseline[i], r.After[i])
	}
	r.findings(line)
	r.rounds(line)
	r.faults(line)
	for _, note := range r.Notes {
		line("* %s", note)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Logs)) {
		line("\n## The end of the log of %s\n\n```\n%s\n```", name, r.Logs[name])
	}
	return b.String()
}

func (r *Result) findings(line func(string, ...any)) {
	if !r.Failed() {
		return
	}
	line("\n## Findings\n")
	for _, kind := range slices.Sorted(maps.Keys(r.Verdict.Counts)) {
		line("* %s: %d", kind, r.Verdict.Counts[kind])
	}
	line("")
	for _, f := range r.Verdict.Findings {
		line("```\n%s\n```", f.String())
	}
}

func (r *Result) rounds(line func(string, ...any)) {
	if len(r.Rounds) == 0 {
		return
	}
	line("\n## Rounds\n\n%s", r.Gaps())
	line("| | fault | node | led shards | led next by | longest gap | after its return | caught up after | machine: timers late, slowest fsync |\n|---|---|---|---|---|---|---|---|---|")
	for i, o := range r.Rounds {
		line("| %d | %s | %d | %s | %s | %v | %v | %v | %v, %v |", i+1, o.Fault, o.Victim+1, strings.Join(o.Led, " "), strings.Join(o.Next, " "),
			round(o.Failover), round(o.Return), round(o.CaughtUp), round(o.TimerLate), round(o.SlowestFsync))
	}
}

func (r *Result) faults(line func(string, ...any)) {
	line("\n## Faults\n")
	line("| at | fault | nodes | lasted | recovered after | longest gap between two confirms | machine: timers late, slowest fsync | |\n|---|---|---|---|---|---|---|---|")
	var gaps []time.Duration
	for _, a := range r.Schedule {
		for ; a != nil; a = a.With {
			nodes := ""
			for _, v := range a.Victims {
				nodes += fmt.Sprintf(" %d", v+1)
			}
			what := a.Detail
			if a.Skipped != "" {
				what = strings.TrimSpace(what + " **not done:** " + a.Skipped)
			}
			if a.Injected == 0 {
				line("| %v | %s |%s | | | | | not done: %s |", round(a.At), a.Fault, nodes, a.Skipped)
				continue
			}
			gaps = append(gaps, a.LongestGap)
			line("| %v | %s |%s | %v | %v | %v | %v, %v | %s |", round(a.Injected), a.Fault, nodes, round(a.Healed-a.Injected), round(a.Recovered-a.Healed),
				round(a.LongestGap), round(a.TimerLate), round(a.SlowestFsync), strings.Join(strings.Fields(what), " "))
		}
	}
	if len(gaps) > 0 {
		slices.Sort(gaps)
		line("\nLongest gap between two confirms of one publisher, per fault: median %v, worst %v.", round(gaps[len(gaps)/2]), round(gaps[len(gaps)-1]))
	}
}

func round(d time.Duration) time.Duration {
	if d < 10*time.Millisecond {
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(time.Millisecond)
}

// command starts the same run again.
func (r *Result) command() string {
	o := r.Options
	text := fmt.Sprintf("go run ./test/chaos/cmd/chaos -seed %d -duration %v -nodes %d -rate %d", o.Seed, o.Duration, o.Nodes, o.Rate)
	if len(o.Faults) > 0 {
		text += " -faults " + strings.Join(o.Faults, ",")
	}
	if o.inRounds() {
		return text + fmt.Sprintf(" -kills %d -cuts %d -level %s", o.Kills, o.Cuts, o.Level)
	}
	if len(o.Workloads) < len(workloads) {
		text += " -workloads " + strings.Join(o.Workloads, ",")
	}
	if o.Stable {
		text += " -stable"
	}
	if o.Level != "" && o.Level != Loopback {
		text += " -level " + o.Level
	}
	return text
}

// Done counts the faults that did what they are to do, by name.
func (r *Result) Done() map[string]int {
	done := map[string]int{}
	r.eachFault(func(a *Action) { done[a.Fault]++ })
	return done
}

// measureGaps finds the longest gap between two confirms of one publisher, for each fault and round and for the whole load. A fault's time
// goes from its injection to the next one's, or to the end: a gap may begin when all nodes serve again, and is known when it ends.
func (r *Result) measureGaps(s *series) {
	const end = time.Duration(math.MaxInt64)
	next := end
	for i := len(r.Schedule) - 1; i >= 0; i-- {
		begin := next
		for a := r.Schedule[i]; a != nil; a = a.With {
			if a.Injected > 0 {
				a.LongestGap = s.longestGap(a.Injected, next, next)
				begin = min(begin, a.Injected)
			}
		}
		if a := r.Schedule[i]; i < len(r.Rounds) && a.Injected > 0 {
			healed := min(cmp.Or(a.Healed, next), next)
			r.Rounds[i].Failover, r.Rounds[i].Return = s.longestGap(a.Injected, healed, next), s.longestGap(healed, next, next)
		}
		next = begin
	}
	r.Gap, r.GapOf = s.longestGap(0, end, end), s.worstGap()
}

// judgeReplays makes findings of the faults of replays that did nothing whenever they were tried, and of a replay of which nothing was done.
func (r *Result) judgeReplays(report func(check.Finding)) {
	done, tried := r.Done(), map[string]string{}
	for _, a := range r.Schedule {
		for ; a != nil; a = a.With {
			if a.Injected > 0 {
				tried[a.Fault] = a.Skipped
			}
		}
	}
	for _, replay := range r.Options.Replays {
		any := slices.ContainsFunc(histories[replay], func(name string) bool { return done[name] > 0 })
		for _, name := range histories[replay] {
			why, was := tried[name]
			switch {
			case done[name] > 0 || any && !was:
				continue
			case !was:
				why = "it was never tried"
			}
			report(check.Finding{Kind: check.Missed, Detail: fmt.Sprintf("%s: %s did nothing: %s", replay, name, why)})
		}
	}
}

// eachFault visits the faults that did what they are to do.
func (r *Result) eachFault(visit func(*Action)) {
	for _, a := range r.Schedule {
		for ; a != nil; a = a.With {
			if a.Injected > 0 && a.Skipped == "" {
				visit(a)
			}
		}
	}
}
