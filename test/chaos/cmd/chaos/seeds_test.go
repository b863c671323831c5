package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warrenmq/warren/test/chaos"
	"github.com/warrenmq/warren/test/chaos/check"
)

func TestParseSeeds(t *testing.T) {
	for text, want := range map[string][]uint64{"7": {7}, "3,8,20-22": {3, 8, 20, 21, 22}, "1-1": {1}} {
		if got, err := parseSeeds(text); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0", "5-3", "1-", "x", "1-999999999"} {
		if got, err := parseSeeds(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// TestSomeSeedsAreCalm: a third of the seeds is run with clients that nothing touches.
func TestSomeSeedsAreCalm(t *testing.T) {
	n := 0
	for seed := range uint64(30) {
		if calm(seed + 1) {
			n++
		}
	}
	if n != 10 {
		t.Errorf("%d of 30", n)
	}
}

// TestSummary: every run has its line, clean, failed, or not done; none hides another.
func TestSummary(t *testing.T) {
	run := func(counts map[string]int) *chaos.Result {
		return &chaos.Result{Verdict: &check.Verdict{Confirmed: 1000, Counts: counts}, Load: time.Minute, Gap: 250 * time.Millisecond,
			Schedule: []*chaos.Action{{Fault: "kill-one", Injected: 1, With: &chaos.Action{Fault: "stop-short", Injected: 2}},
				{Fault: "kill-one", Injected: 3}, {Fault: "wipe"}}}
	}
	undecided := run(nil)
	undecided.Catalog = check.CatalogVerdict{Queues: 9, Undecided: 2}
	if text := row(&outcome{result: undecided}); !strings.Contains(text, "clean, 2 of 9 histories") {
		t.Errorf("it does not tell what is undecided: %s", text)
	}
	list := []outcome{{seed: 1, result: run(nil)}, {seed: 2, result: run(map[string]int{check.Lost: 3}), kept: "/r/seed-2"}, {seed: 3, err: errors.New("no\nnode")}}
	text := summary(&chaos.Options{Nodes: 3, Level: chaos.Loopback}, list)
	for _, want := range []string{"1 clean, 2 not", "2m0s in total, 2000 messages confirmed", "4 × kill-one, 2 × stop-short.",
		"| 1 | 2 × kill-one, stop-short | 1000 | 0 | 0 | 0 | 0 | 0 | 250ms | clean |", "| 2 | 2 × kill-one, stop-short | 1000 | 3 |", "**3 × lost** in /r/seed-2",
		"| 3 | | | | | | | | | not done: no node |"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	if n := strings.Count(header, "|"); strings.Count(row(&list[0]), "|")*2 != n || strings.Count(row(&list[2]), "|")*2 != n {
		t.Error(fmt.Sprint("rows and header differ in their columns: ", n))
	}
}
