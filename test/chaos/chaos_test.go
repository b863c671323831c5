package chaos

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/warrenmq/warren/test/chaos/check"
	"github.com/warrenmq/warren/test/process"
)

// TestBoundedPass is the suite in small: three nodes on loopback, all workloads, and faults that need nothing special.
// WARREN_CHAOS_SEED repeats a failure.
func TestBoundedPass(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes half a minute")
	}
	seed := seedOf(t)
	result := runHere(t, Options{Duration: 16 * time.Second, Seed: seed, Faults: []string{"kill-one", "stop-short", "restart"},
		Rate: 500, PauseMin: time.Second, PauseMax: 2 * time.Second})
	if result.Verdict.Confirmed < 1000 {
		t.Errorf("only %d messages were confirmed: that was no load", result.Verdict.Confirmed)
	}
	done := 0
	for _, n := range result.Done() {
		done += n
	}
	if done < 2 {
		t.Errorf("only %d faults were injected", done)
	}
}

// TestTheCatalogsSnapshotIsDamaged: there is one within seconds, and the fault waits for it. NATS lost its streams to such harm
// (nats-io/nats-server#7556).
func TestTheCatalogsSnapshotIsDamaged(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts nodes")
	}
	result := runHere(t, Options{Duration: 8 * time.Second, Seed: seedOf(t), Faults: []string{"flip-catalog"}, Workloads: []string{"catalog", "work"},
		Rate: 200, PauseMin: 4 * time.Second, PauseMax: 5 * time.Second, Insists: true})
	if result.Done()["flip-catalog"] == 0 {
		t.Errorf("nothing was damaged: %v", result.Schedule)
	}
}

// runHere runs the suite on a binary made for this test and fails with everything that repeats and explains a finding.
func runHere(t *testing.T, o Options) *Result {
	t.Helper()
	binary, err := process.Binary()
	if err != nil {
		t.Fatal(err)
	}
	o.Binary, o.Dir, o.Progress = binary, memoryDir(t), testWriter{t}
	result, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if result.Failed() {
		t.Errorf("seed %d: %v", o.Seed, result.Verdict.Counts)
		for _, f := range result.Verdict.Findings {
			t.Log(f)
		}
		for _, a := range result.Schedule {
			t.Log(a)
		}
		for name, log := range result.Logs {
			t.Logf("the end of the log of %s:\n%s", name, log)
		}
	}
	return result
}

// memoryDir is a directory in memory, where there is one: kill -9 and the like lose nothing of it, and while other tests
// run at the same time, an fsync on a disk may take the 10 s after which a node rightly ends itself.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "warren-chaos-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestEndsOfNodes: a node that ended is a finding, unless it says that its fsync hangs and the suite's own did too.
func TestEndsOfNodes(t *testing.T) {
	for _, c := range []struct {
		name, tail string
		fsync      time.Duration
		finding    bool
	}{
		{"panic", "goroutine 1 [running]", 0, true},
		{"panic on a slow disk", "goroutine 1 [running]", 12 * time.Second, true},
		{"hanging fsync on a good disk", "ready\nwarren: stopped: write-ahead log: an fsync takes longer than 10s", 100 * time.Millisecond, true},
		{"hanging fsync on a hanging disk", "ready\nwarren: stopped: write-ahead log: an fsync takes longer than 10s", 12 * time.Second, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := machine{ends: []nodeEnd{{at: time.Minute, name: "node1", tail: c.tail}}}
			m.note(stall{time.Minute - c.fsync, time.Minute, true})
			found := false
			notes := m.judgeEnds(func(check.Finding) { found = true })
			if found != c.finding || (len(notes) > 0) == c.finding {
				t.Fatalf("finding %v, notes %q", found, notes)
			}
		})
	}
}

// TestLinkEndsBehindAConfirm: that the channel of returns is closed says nothing about the binding.
func TestLinkEndsBehindAConfirm(t *testing.T) {
	for _, c := range []struct {
		name                  string
		ack, returned, closed bool
		answer                check.Answer
	}{
		{"routed", true, false, false, check.OK},
		{"returned", true, true, false, check.Unroutable},
		{"refused", false, false, false, check.Unknown},
		{"routed, and the link ends", true, false, true, check.OK},
		{"returned, and the link ends", true, true, true, check.Unroutable},
		{"refused, and the link ends", false, false, true, check.Unknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			returns := make(chan amqp.Return, 1)
			if c.returned {
				returns <- amqp.Return{}
			}
			if c.closed {
				close(returns)
			}
			if answer := routed(amqp.Confirmation{Ack: c.ack}, returns); answer != c.answer {
				t.Fatal(answer)
			}
		})
	}
}

// seedOf is the seed of this run: another each day, so that the pass finds something new, and can be repeated.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := uint64(time.Now().Unix()) / 86400
	if text := os.Getenv("WARREN_CHAOS_SEED"); text != "" {
		var err error
		if seed, err = parseSeed(text); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d", seed)
	return seed
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(data []byte) (int, error) {
	w.t.Log(strings.TrimSuffix(string(data), "\n"))
	return len(data), nil
}

// TestPausesAreChecked: what would leave no pause is refused, not run.
func TestPausesAreChecked(t *testing.T) {
	for _, c := range []struct {
		low, high time.Duration
		good      bool
	}{{0, 0, true}, {10 * time.Second, 0, true}, {0, 3 * time.Second, true}, {time.Second, time.Second, true}, {10 * time.Second, 6 * time.Second, false}, {0, time.Second, false}} {
		o := &Options{Binary: "x", Dir: "x", PauseMin: c.low, PauseMax: c.high}
		if err := o.setDefaults(); (err == nil) != c.good {
			t.Errorf("%v to %v: %v", c.low, c.high, err)
		}
	}
}

// TestTheNodesDisksAreWatched: small disks of their own, where there are such.
func TestTheNodesDisksAreWatched(t *testing.T) {
	c := &cluster{dir: "/x", nodes: []*Node{{dataDir: "/x/node1/data"}, {dataDir: "/x/node2/data"}}}
	if list := c.disks(); !slices.Equal(list, []string{"/x"}) {
		t.Error(list)
	}
	c.small = true
	if list := c.disks(); !slices.Equal(list, []string{"/x/node1", "/x/node2"}) {
		t.Error(list)
	}
}

func TestScheduleIsSeeded(t *testing.T) {
	text := func(seed uint64) string {
		o := &Options{Binary: "x", Dir: "x", Duration: 10 * time.Minute, Seed: seed, Faults: []string{"kill", "stop", "restart", "damage", "wipe"}}
		if err := o.setDefaults(); err != nil {
			t.Fatal(err)
		}
		var lines []string
		for _, a := range Schedule(o) {
			lines = append(lines, a.String())
		}
		return strings.Join(lines, "\n")
	}
	if first, second := text(1), text(1); first != second {
		t.Error("one seed gives two schedules")
	}
	if text(1) == text(2) {
		t.Error("two seeds give one schedule")
	}
	if n := strings.Count(text(1), "\n"); n < 30 {
		t.Errorf("%d faults in ten minutes", n)
	}
}

// TestScheduleDestroysOneNode: data may be destroyed on one node of a run only, and never on the one that clients use in
// the stable mode, which nothing touches.
func TestScheduleDestroysOneNode(t *testing.T) {
	for seed := range uint64(60) {
		for _, stable := range []bool{false, true} {
			o := &Options{Binary: "x", Dir: "x", Nodes: 3 + int(seed%3), Duration: 20 * time.Minute, Seed: seed, Stable: stable, Faults: []string{"all"}}
			if err := o.setDefaults(); err != nil {
				t.Fatal(err)
			}
			destroyed := map[int]bool{}
			for _, a := range Schedule(o) {
				for both := a; both != nil; both = both.With {
					for _, v := range both.Victims {
						if f := faultNamed(both.Fault); f.group == "damage" || f.name == "leave" || f.name == "remove" {
							destroyed[v] = true
						}
						if stable && v == o.stableNode() {
							t.Fatalf("seed %d: %v touches the stable node", seed, a)
						}
					}
				}
				if a.With != nil {
					for _, v := range a.With.Victims {
						for _, u := range a.Victims {
							if u == v {
								t.Fatalf("seed %d: %v does two things to one node", seed, a)
							}
						}
					}
				}
			}
			if len(destroyed) != 1 {
				t.Fatalf("seed %d: data of %d nodes is destroyed", seed, len(destroyed))
			}
		}
	}
}

// TestMembersChangeUnderFaults: a node leaves or is removed while something happens to others, too.
func TestMembersChangeUnderFaults(t *testing.T) {
	met := map[string]bool{}
	for seed := range uint64(40) {
		o := &Options{Binary: "x", Dir: "x", Duration: 20 * time.Minute, Seed: seed, Faults: []string{"kill-one", "stop-long", "leave", "remove"}}
		if err := o.setDefaults(); err != nil {
			t.Fatal(err)
		}
		for _, a := range Schedule(o) {
			if a.With != nil {
				met[a.Fault+" "+a.With.Fault], met[a.With.Fault+" "+a.Fault] = true, true
			}
		}
	}
	for _, pair := range []string{"leave kill-one", "leave stop-long", "remove kill-one", "remove stop-long"} {
		if !met[pair] {
			t.Errorf("never: %s", pair)
		}
	}
}

func TestDamage(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(string) string
	}{
		{"flip", func(dir string) string {
			did, err := damageFiles(dir, "*.wal", (&Action{Seed: 7}).random(), flipBits)
			if err != nil {
				t.Fatal(err)
			}
			return did
		}},
		{"truncate", func(dir string) string {
			did, err := damageFiles(dir, "*.wal", (&Action{Seed: 7}).random(), truncate)
			if err != nil {
				t.Fatal(err)
			}
			return did
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "1.wal")
			data := append([]byte(strings.Repeat("record ", 100)), make([]byte, 4096)...)
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			did := c.damage(dir)
			after, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if string(after) == string(data) || !strings.Contains(did, "1.wal") {
				t.Fatalf("nothing was done: %s", did)
			}
			if c.name == "truncate" && len(after) >= 700 || c.name == "flip" && (len(after) != len(data) || string(after[700:]) != string(data[700:])) {
				t.Fatalf("the part that is not in use was damaged: %s", did)
			}
		})
	}
	dir := t.TempDir()
	for _, what := range []string{"no file", "a file with nothing in it"} {
		if did, err := damageFiles(dir, "*.wal", (&Action{}).random(), flipBits); !errors.Is(err, errNothing) {
			t.Fatalf("%s: %q, %v", what, did, err)
		}
		if err := os.WriteFile(filepath.Join(dir, "1.wal"), make([]byte, 100), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDoneCountsWhatWasDone: a fault that found nothing, or could not be injected, is not one of those that the cluster has stood.
func TestDoneCountsWhatWasDone(t *testing.T) {
	r := &Result{Schedule: []*Action{{Fault: "flip-catalog", Injected: 1, Skipped: errNothing.Error()}, {Fault: "kill-one", Injected: 2},
		{Fault: "kill-one", Injected: 3, Skipped: "signal", With: &Action{Fault: "flip-wal", Injected: 4}}, {Fault: "flip-segment"}}}
	if done := r.Done(); !maps.Equal(done, map[string]int{"kill-one": 1, "flip-wal": 1}) {
		t.Error(done)
	}
}

// TestReplaysHit: a replay of what broke another broker fails when one of its faults never did anything.
func TestReplaysHit(t *testing.T) {
	nothing := errNothing.Error()
	for _, c := range []struct {
		name     string
		schedule []*Action
		missed   []string
	}{
		{"all hit", []*Action{{Fault: "power-cut-all", Injected: 1}, {Fault: "power-cut", Injected: 2}}, nil},
		{"one hit at the second time", []*Action{{Fault: "power-cut-all", Injected: 1, Skipped: nothing}, {Fault: "power-cut", Injected: 2}, {Fault: "power-cut-all", Injected: 3}}, nil},
		{"one never hit", []*Action{{Fault: "power-cut-all", Injected: 1, Skipped: nothing}, {Fault: "power-cut", Injected: 2}}, []string{"power-cut-all"}},
		{"one had no time", []*Action{{Fault: "power-cut", Injected: 2}, {Fault: "power-cut-all", Skipped: "the time was over"}}, nil},
		{"none had time", nil, []string{"power-cut-all", "power-cut"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &Result{Options: Options{Replays: []string{"nats-7564"}}, Schedule: c.schedule}
			var missed []string
			r.judgeReplays(func(f check.Finding) { missed = append(missed, f.Detail) })
			if len(missed) != len(c.missed) {
				t.Fatalf("%q, want %q", missed, c.missed)
			}
			for i, name := range c.missed {
				if !strings.Contains(missed[i], name) {
					t.Errorf("%q, want %q", missed, c.missed)
				}
			}
		})
	}
	o := &Options{Binary: "x", Dir: "x", Faults: []string{"kill-one", "nats-7556"}}
	if err := o.setDefaults(); err != nil || !slices.Equal(o.Replays, []string{"nats-7556"}) {
		t.Errorf("%v: replays %v", err, o.Replays)
	}
}

func TestBodies(t *testing.T) {
	for _, size := range []int{0, 12, 13, 500} {
		body := encodeBody(3, 1<<20, size)
		if publisher, id, err := decodeBody(body); err != nil || publisher != 3 || id != 1<<20 {
			t.Fatalf("size %d: %d %d %v", size, publisher, id, err)
		}
		for i := range body {
			body[i] ^= 4
			if _, _, err := decodeBody(body); err == nil {
				t.Fatalf("size %d: a flipped bit in byte %d goes unnoticed", size, i)
			}
			body[i] ^= 4
		}
		if _, _, err := decodeBody(body[:len(body)-1]); err == nil {
			t.Fatal("a cut body goes unnoticed")
		}
	}
}

func TestReplies(t *testing.T) {
	r := newReplies()
	r.expect("1-1")
	if wrong := r.missing("1-1"); wrong != "" {
		t.Errorf("no server has answered: %s", wrong)
	}
	r.sent("1-1", true, false)
	if r.missing("1-1") == "" {
		t.Error("a confirmed reply that did not arrive goes unnoticed")
	}
	r.arrived("1-1")
	r.expect("1-2")
	r.sent("1-2", false, true)
	if r.missing("1-2") == "" {
		t.Error("a reply that was returned while its client waits goes unnoticed")
	}
	r.gone("1-")
	r.sent("1-2", false, true)
	if wrong := r.missing("1-2"); wrong != "" || r.returns != 1 {
		t.Errorf("the client is gone: %s", wrong)
	}
}

func TestQuantiles(t *testing.T) {
	var b bucket
	for i := range 100 {
		d := time.Millisecond
		if i >= 99 {
			d = time.Second
		}
		b.confirmed++
		b.latencies[latencyClass(d)]++
	}
	if p := b.quantile(0.5); p < time.Millisecond || p > 1200*time.Microsecond {
		t.Errorf("median %v", p)
	}
	if p := b.quantile(1); p < time.Second || p > 1200*time.Millisecond {
		t.Errorf("maximum %v", p)
	}
}

// TestReportTells: what was found, with its seed and schedule, is in the report; a clean run says so.
func TestReportTells(t *testing.T) {
	for _, failed := range []bool{false, true} {
		result := recordedResult(t, failed)
		dir := t.TempDir()
		if err := result.Write(dir); err != nil {
			t.Fatal(err)
		}
		for name, words := range map[string][2]string{"report.md": {"all checkers are clean", "FAILED"}, "timeline.svg": {"all checkers clean", "FAILED"}} {
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(data), words[0]) == failed || strings.Contains(string(data), words[1]) != failed {
				t.Errorf("failed %v: %s tells something else", failed, name)
			}
			for _, word := range []string{"seed 42", "kill-one"} {
				if !strings.Contains(string(data), word) {
					t.Errorf("%s does not tell %q", name, word)
				}
			}
			if failed && name == "report.md" && !strings.Contains(string(data), "confirmed and never delivered") {
				t.Error("report.md does not tell the finding")
			}
		}
	}
}

// TestAnInterruptedRunSaysNothing: what did not come out because nobody waited for it is not lost.
func TestAnInterruptedRunSaysNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts nodes")
	}
	binary, err := process.Binary()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	o := Options{Binary: binary, Dir: memoryDir(t), Duration: time.Minute, Rate: 200, Workloads: []string{"work"}}
	o.Progress = writerFunc(func() { cancel() }) // at the first word, which says that all nodes serve
	result, err := Run(ctx, o)
	if err == nil || !errors.Is(err, context.Canceled) || result != nil {
		t.Fatalf("result %v, error %v", result, err)
	}
}

type writerFunc func()

func (f writerFunc) Write(data []byte) (int, error) {
	f()
	return len(data), nil
}

// TestHistoriesName: every fault of another broker's report is one of ours.
func TestHistoriesName(t *testing.T) {
	for name, list := range histories {
		names, err := ExpandFaults([]string{name})
		if err != nil || len(names) != len(list) {
			t.Errorf("%s: %v, %v, want %v", name, names, err, list)
		}
	}
	if _, err := ExpandFaults([]string{"nats-0"}); err == nil {
		t.Error("an unknown name is taken")
	}
}
