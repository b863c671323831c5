package sim

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var (
	seedFlag      = flag.Uint64("seed", 0, "run the schedule of this seed alone, or -schedules from it on")
	schedulesFlag = flag.Int("schedules", 0, "how many schedules to run")
	logFlag       = flag.Bool("log", false, "with -v: the nodes' logs of schedules without a finding, too")
	logsFlag      = flag.String("logs", "", "a directory for what schedules with a finding say, with the whole of their nodes' logs; written as they end")
	nodesFlag     = flag.Int("nodes", 0, "only schedules with so many nodes (3 or 5); 0: all")
	faultsFlag    = flag.String("faults", "", "names or groups of faults, with commas; default all")
)

// TestSchedules runs schedules. A failure prints its seed and its plan; run it again with -run TestSchedules -seed N -v.
func TestSchedules(t *testing.T) {
	first, count := uint64(1), 8
	if *seedFlag != 0 {
		first, count = *seedFlag, 1
	}
	if *schedulesFlag != 0 {
		count = *schedulesFlag
	}
	var names []string
	if *faultsFlag != "" {
		names = strings.Split(*faultsFlag, ",")
	}
	if *nodesFlag != 0 && *nodesFlag != 3 && *nodesFlag != 5 {
		t.Fatalf("no schedule has %d nodes", *nodesFlag)
	}
	began := time.Now()
	for seed, n := first, 0; n < count; seed++ {
		p := newPlan(seed, names)
		if *nodesFlag != 0 && p.nodes != *nodesFlag {
			continue
		}
		n++
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			runSchedule(t, seed, p)
		})
	}
	t.Cleanup(func() { t.Logf("%d schedules in %v", count, time.Since(began)) })
}

// runSchedule plays a schedule and judges it.
func runSchedule(t *testing.T, seed uint64, p *plan) {
	t.Helper()
	tell(t, seed, playPlan(t, seed, p))
}

// tell fails the test by an outcome that has a finding, with all that repeats and explains it.
func tell(t *testing.T, seed uint64, o *outcome) {
	t.Helper()
	switch {
	case o.failed():
		test, _, _ := strings.Cut(t.Name(), "/")
		if *logsFlag != "" {
			whole := []byte(fmt.Sprintf("%v\n%s\n", o, strings.Join(o.lines, "\n")))
			if err := os.WriteFile(filepath.Join(*logsFlag, fmt.Sprintf("%s-%d.log", test, seed)), whole, 0o644); err != nil {
				t.Error(err)
			}
		}
		t.Errorf("%v\nthe end of the log:\n%s\nagain: go test ./test/sim -run %s -seed %d -v", o, tail(o.lines, 150), test, seed)
	case testing.Verbose():
		t.Log(o)
		if *logFlag {
			t.Log("the log:\n" + strings.Join(o.lines, "\n"))
		}
	}
}

// playPlan plays a schedule in a bubble of its own.
func playPlan(t *testing.T, seed uint64, p *plan) (o *outcome) {
	t.Helper()
	root, err := os.MkdirTemp(memoryDir(), "warren-sim-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	synctest.Test(t, func(*testing.T) { o = play(seed, p, root) })
	o.judge()
	return o
}

func tail(lines []string, n int) string { return strings.Join(lines[max(0, len(lines)-n):], "\n") }

// memoryDir is a directory in memory, if there is one.
func memoryDir() string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		return "/dev/shm"
	}
	return ""
}
