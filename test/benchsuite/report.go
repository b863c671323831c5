package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/warrenmq/warren/internal/bench"
)

// The marks between which the report stands in its document.
const (
	beginMark = "<!-- benchsuite: begin. What follows is written by `make bench`; changes are lost. -->"
	endMark   = "<!-- benchsuite: end -->"
)

// names are how brokers are called in the report.
var names = map[string]string{"warren": "Warren", "rabbitmq": "RabbitMQ", "nats": "JetStream", "nats-always": "JetStream, fsync always"}

// writeReport writes the plots and the document's part.
func writeReport(o *options, s *Suite) error {
	if o.report == "" {
		return nil
	}
	folder, err := filepath.Rel(filepath.Dir(o.report), o.pictures)
	if err != nil {
		return err
	}
	r := &report{Suite: s, folder: filepath.ToSlash(folder), pictures: map[string]string{}}
	text := r.text()
	if len(r.pictures) > 0 {
		if err := os.MkdirAll(o.pictures, 0o755); err != nil {
			return err
		}
	}
	for name, picture := range r.pictures {
		if err := os.WriteFile(filepath.Join(o.pictures, name), []byte(picture), 0o644); err != nil {
			return err
		}
	}
	old, err := os.ReadFile(o.report)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	return os.WriteFile(o.report, []byte(between(string(old), text)), 0o644)
}

// between puts text between the marks of a document, at its end if it has none.
func between(document, text string) string {
	before, rest, found := strings.Cut(document, beginMark)
	_, after, closed := strings.Cut(rest, endMark)
	if !found || !closed {
		before, after = strings.TrimRight(document, "\n")+"\n\n", "\n"
	}
	return before + beginMark + "\n\n" + text + "\n" + endMark + after
}

// report is the document's part in the making.
type report struct {
	*Suite
	strings.Builder
	folder   string            // of the pictures, as the document names it
	pictures map[string]string // SVG by file name
}

func (r *report) linef(format string, args ...any) { fmt.Fprintf(r, format+"\n", args...) }

func (r *report) text() string {
	r.linef("## Side by side\n")
	r.linef("%s, %d cores of %s, %.0f GiB, Linux %s. Three nodes of each broker and the client on this one machine; medians of %d, %v each after a warm-up;",
		r.Begin.UTC().Format("2006-01-02"), r.Machine.Cores, r.Machine.Processor, float64(r.Machine.MemoryBytes)/(1<<30), r.Machine.Kernel, r.Repeats, r.Duration)
	r.linef("the load average is that of the machine's last minute, before each measurement, what the suite itself had left behind included.")
	r.linef("A window of 2000 messages for each publisher but of 32 MiB in all, a prefetch of 256, an ack for every 64 (JetStream: each); at 1 MiB a prefetch of 32, an ack for every 8. CPU is microseconds of all processes of a")
	r.linef("broker for each message consumed (published, where nobody consumes). %s", r.scaleNote())
	r.linef("")
	for _, b := range r.Brokers {
		r.linef("- %s: %s (%s)", names[b.Name], b.Version, r.loads(b.Name))
	}
	for _, skip := range r.Skipped {
		r.linef("- %s was left out: %s", names[skip.Broker], strings.ReplaceAll(skip.Why, "\n", " "))
	}
	r.limitTable()
	r.throughputTable()
	r.group(backlogGroup, []column{{published, "filled/s"}, {fillCPU, "CPU filling"}, {consumed, "drained/s"}, {cpu, "CPU draining"}, {gapMillis, "longest confirm ms"}}, consumed)
	r.group(fanoutGroup, []column{{published, "published/s"}, {consumed, "delivered/s"}, {cpu, "CPU for each delivered"}}, consumed)
	r.group(latencyGroup, []column{{published, "published/s"}, {confirmP50, "confirm p50 ms"}, {confirmP99, "p99"}, {endP50, "end to end p50 ms"}, {endP99, "p99"}, {endP999, "p99.9"}, {cpu, "CPU"}}, "")
	r.group(churnGroup, []column{{cycles, "cycles/s"}, {cycleP99, "p99 ms"}, {cpu, "CPU"}}, cycles)
	r.group(memoryGroup, []column{{residentMB, "MiB for each node"}, {bytesEach, "bytes each, on each node that has it"}}, "")
	r.group(faultGroup, []column{{gapMillis, "longest confirm ms"}, {refused, "refused"}, {readyMs, "serves again after ms"}}, "")
	r.group(scaleGroup, []column{{madePerSec, "made/s"}, {bytesEach, "bytes each, on each node"}, {published, "published or filled/s"}, {consumed, "consumed or drained/s"}, {cpu, "CPU"},
		{gapMillis, "longest confirm ms"}, {residentMB, "MiB for each node"}, {peakMB, "at most"}}, "")
	r.failures()
	return r.String()
}

// loads tells how busy the machine was while a broker was measured: where it differs, so do the conditions.
func (r *report) loads(broker string) string {
	low, high := math.Inf(1), 0.0
	for _, s := range r.Samples {
		if s.Broker == broker {
			low, high = min(low, s.Load), max(high, s.Load)
		}
	}
	if high == 0 {
		return "load not known"
	}
	return fmt.Sprintf("load average %.1f to %.1f", low, high)
}

func (r *report) scaleNote() string {
	if r.Scale == 1 {
		return ""
	}
	return fmt.Sprintf("Backlogs, queues and connections were scaled by %g: the numbers in their titles are of the full suite.", r.Scale)
}

func (r *report) limitTable() {
	r.linef("\n### The limit\n")
	r.linef("The same bytes from one process to two others, each appending them to a file and syncing it (`warren bench limit`): entries of up to 256 KiB,")
	r.linef("four under way, a window of 2000 messages.\n")
	r.linef("| size | messages/s | MB/s | fsync/s of the leader, of a follower | commit p50 / p99 ms |")
	r.linef("|---|---|---|---|---|")
	row := func(title string, l bench.LimitResult) {
		r.linef("| %s | %s | %.1f | %.0f, %.0f | %s / %s |", title, figure(l.Messages), l.Bytes/1e6, l.LeaderSyncs, l.FollowerSyncs, figure(ms(l.CommitTime.P50)), figure(ms(l.CommitTime.P99)))
	}
	for _, l := range r.Limit[limitWindow] {
		row(sizeName(l.Size), l)
	}
	for _, l := range r.Limit[limitLone] {
		row(sizeName(l.Size)+", one at a time", l)
	}
}

// limitOf is what no broker can beat for a size, or 0.
func (r *report) limitOf(size int) float64 {
	for _, l := range r.Limit[limitWindow] {
		if l.Size == size {
			return l.Messages
		}
	}
	return 0
}

// throughputTable compares the pace that lasts: with consumers, what they consume.
func (r *report) throughputTable() {
	columns := []column{{published, "published/s"}, {consumed, "consumed/s"}, {cpu, "CPU"}, {confirmP50, "confirm p50 ms"}, {confirmP99, "p99"}}
	chosen := r.worksOf(throughputGroup)
	if len(chosen) == 0 {
		return
	}
	r.linef("\n### %s\n", throughputGroup)
	for _, kind := range []struct{ prefix, file, title, metric string }{
		{"publish-", "publish.svg", "Publish only, confirmed messages/s", published},
		{"both-", "both.svg", "In and out, messages consumed/s", consumed},
	} {
		r.plot(kind.file, kind.title, kind.metric, chosen, func(w work) bool { return strings.HasPrefix(w.name, kind.prefix) })
		r.plot("cpu-"+kind.file, kind.title+": broker CPU for each, µs", cpu, chosen, func(w work) bool { return strings.HasPrefix(w.name, kind.prefix) })
	}
	r.header(columns, "of RabbitMQ", "of the limit")
	for _, w := range chosen {
		metric := published
		if strings.HasPrefix(w.name, "both-") {
			metric = consumed
		}
		for _, b := range r.Brokers {
			extra := []string{r.ratio(w.name, b.Name, metric), ""}
			var size int
			for _, s := range []int{16, 1 << 10, 16 << 10, 1 << 20} {
				if strings.Contains(w.name, "-"+shortSize(s)+"-") {
					size = s
				}
			}
			if limit := r.limitOf(size); limit > 0 && metric == published {
				if v, ok := r.median(w.name, b.Name, metric); ok {
					extra[1] = fmt.Sprintf("%.0f %%", 100*v/limit)
				}
			}
			r.row(w, b.Name, columns, extra...)
		}
	}
}

// column is a metric and its title.
type column struct{ metric, title string }

func (r *report) header(columns []column, extra ...string) {
	r.Builder.WriteString("\n| work | broker |")
	for _, c := range columns {
		fmt.Fprintf(r, " %s |", c.title)
	}
	for _, e := range extra {
		fmt.Fprintf(r, " %s |", e)
	}
	r.linef("\n|---|---|%s", strings.Repeat("---|", len(columns)+len(extra)))
}

func (r *report) row(w work, broker string, columns []column, extra ...string) {
	fmt.Fprintf(r, "| %s | %s |", w.title, names[broker])
	for _, c := range columns {
		text := ""
		if v, ok := r.median(w.name, broker, c.metric); ok {
			text = figure(v)
		}
		fmt.Fprintf(r, " %s |", text)
	}
	for _, e := range extra {
		fmt.Fprintf(r, " %s |", e)
	}
	r.linef("")
}

// group is a table of one group, with the ratio to RabbitMQ of one metric.
func (r *report) group(group string, columns []column, compared string) {
	chosen := r.worksOf(group)
	if len(chosen) == 0 {
		return
	}
	r.linef("\n### %s", group)
	if group == latencyGroup {
		r.linef("")
		r.plot("latency.svg", "End to end, median, ms", endP50, chosen, func(w work) bool { return strings.HasPrefix(w.name, "rate-") })
		r.plot("latency-p99.svg", "End to end, 99th percentile, ms", endP99, chosen, func(w work) bool { return strings.HasPrefix(w.name, "rate-") })
	}
	var extra []string
	if compared != "" {
		extra = []string{"of RabbitMQ"}
	}
	r.header(columns, extra...)
	for _, w := range chosen {
		for _, b := range r.Brokers {
			if compared != "" {
				extra = []string{r.ratio(w.name, b.Name, compared)}
			}
			r.row(w, b.Name, columns, extra...)
		}
	}
}

// worksOf are the works of a group that were measured.
func (r *report) worksOf(group string) (chosen []work) {
	for _, w := range works(&options{scale: 1}) {
		if w.group == group && slices.ContainsFunc(r.Samples, func(s Sample) bool { return s.Work == w.name }) {
			chosen = append(chosen, w)
		}
	}
	return chosen
}

// median is that of all repeats that did not fail.
func (r *report) median(work, broker, metric string) (float64, bool) {
	var all []float64
	for _, s := range r.Samples {
		if v, ok := s.Values[metric]; ok && s.Work == work && s.Broker == broker {
			all = append(all, v)
		}
	}
	if len(all) == 0 {
		return 0, false
	}
	slices.Sort(all)
	middle := len(all) / 2
	if len(all)%2 == 0 {
		return (all[middle-1] + all[middle]) / 2, true
	}
	return all[middle], true
}

func (r *report) ratio(work, broker, metric string) string {
	v, ok := r.median(work, broker, metric)
	base, known := r.median(work, "rabbitmq", metric)
	if !ok || !known || base == 0 || broker == "rabbitmq" {
		return ""
	}
	return fmt.Sprintf("× %.1f", v/base)
}

// failures tells what did not come to an end.
func (r *report) failures() {
	var lines []string
	for _, s := range r.Samples {
		if s.Failed != "" {
			line := fmt.Sprintf("- %s, %s: %s", names[s.Broker], s.Work, strings.ReplaceAll(s.Failed, "\n", "; "))
			if !slices.Contains(lines, line) {
				lines = append(lines, line)
			}
		}
	}
	if len(lines) > 0 {
		r.linef("\n### Not measured\n\n%s", strings.Join(lines, "\n"))
	}
}

// plot draws a metric of the works that are wanted, one group of bars for each.
func (r *report) plot(file, title, metric string, all []work, wanted func(work) bool) {
	p := plot{title: title}
	for _, b := range r.Brokers {
		p.series = append(p.series, names[b.Name])
	}
	for _, w := range all {
		if !wanted(w) {
			continue
		}
		var bars []float64
		for _, b := range r.Brokers {
			v, ok := r.median(w.name, b.Name, metric)
			if !ok {
				v = math.NaN()
			}
			bars = append(bars, v)
		}
		label, _, _ := strings.Cut(w.title, ", publish")
		label, _, _ = strings.Cut(label, ", in and")
		p.add(label, bars)
	}
	if len(p.groups) == 0 {
		return
	}
	r.pictures[file] = p.svg()
	r.linef("![%s](%s/%s)", title, r.folder, file)
}

// figure writes a number with three digits that count, and thousands apart.
func figure(v float64) string {
	switch {
	case math.Abs(v) >= 1000:
		digits := math.Pow(10, math.Floor(math.Log10(math.Abs(v)))-2)
		return thousands(int64(math.Round(v/digits) * digits))
	case math.Abs(v) >= 100:
		return fmt.Sprintf("%.0f", v)
	case math.Abs(v) >= 10:
		return fmt.Sprintf("%.1f", v)
	case v == 0:
		return "0"
	}
	return fmt.Sprintf("%.2f", v)
}

func thousands(n int64) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
