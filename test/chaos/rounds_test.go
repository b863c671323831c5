package chaos

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMostLed(t *testing.T) {
	queues := []roundQueue{{"a", "1"}, {"b", "2"}, {"c", "3"}}
	node := func(shards ...string) *standings {
		s := &standings{leads: map[string]bool{}}
		for _, shard := range shards {
			s.leads[shard] = true
		}
		return s
	}
	for _, c := range []struct {
		name   string
		all    []*standings
		victim int
		shards []string
	}{
		{"one leads all", []*standings{node(), node("1", "2", "3"), node()}, 1, []string{"1", "2", "3"}},
		{"the spared node leads most", []*standings{node("1", "2"), node(), node("3")}, 2, []string{"3"}},
		{"the spared node leads all", []*standings{node("1", "2", "3"), node(), node()}, 0, nil},
		{"nobody leads one", []*standings{node(), node("1"), node("2")}, 0, nil},
		{"two claim one", []*standings{node(), node("1", "2"), node("2", "3")}, 0, nil},
		{"other shards do not count", []*standings{node(), node("4", "5", "1"), node("2", "3")}, 2, []string{"2", "3"}},
	} {
		if victim, shards := mostLed(c.all, queues, 0); victim != c.victim || !slices.Equal(shards, c.shards) {
			t.Errorf("%s: node %d, shards %v", c.name, victim, shards)
		}
	}
}

func TestSpread(t *testing.T) {
	var list []time.Duration
	for i := range 100 {
		list = append(list, time.Duration(100-i)*time.Millisecond)
	}
	if s := spreadOf(list); s != (spread{50 * time.Millisecond, 99 * time.Millisecond, 100 * time.Millisecond}) {
		t.Error(s)
	}
	if s := spreadOf(list[:1]); s.median != s.worst || s.worst != 100*time.Millisecond {
		t.Error(s)
	}
	if s := spreadOf(nil); s != (spread{}) {
		t.Error(s)
	}
}

// TestRoundsAreTold: the report has every round and the distribution of the gaps.
func TestRoundsAreTold(t *testing.T) {
	result := recordedResult(t, false)
	result.Options.Kills, result.Options.Cuts = 2, 1
	result.Rounds = []*Round{
		{Fault: "kill", Victim: 1, Led: []string{"7"}, Next: []string{"node3"}, Failover: 120 * time.Millisecond},
		{Fault: "kill", Victim: 2, Led: []string{"7", "9"}, Next: []string{"node2", "node1"}, Failover: 140 * time.Millisecond},
		{Fault: "cut", Victim: 1, Led: []string{"9"}, Next: []string{"node1"}, Failover: 3 * time.Second},
	}
	text := result.Markdown()
	for _, want := range []string{"2 × kill of the leader: longest gap between two confirms: median 120ms, p99 140ms, worst 140ms", "1 × cut of the leader",
		"| 2 | kill | 3 | 7 9 | node2 node1 | 140ms |", "-kills 2 -cuts 1"} {
		if !strings.Contains(text, want) {
			t.Errorf("the report does not tell %q:\n%s", want, text)
		}
	}
}
