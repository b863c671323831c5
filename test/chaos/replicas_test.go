package chaos

import (
	"testing"
)

func TestStandings(t *testing.T) {
	s, err := parseStandings("# HELP warren_shard_leader x\nwarren_catalog_leader 1\nwarren_shard_leader{shard=\"3\"} 1\nwarren_shard_leader{shard=\"4\"} 0\n" +
		"warren_shard_applied_index{shard=\"3\"} 1.234567e+06\n")
	if err != nil {
		t.Fatal(err)
	}
	if !s.leadsCatalog || !s.leads["3"] || s.leads["4"] || s.applied["3"] != 1234567 {
		t.Fatalf("%+v", s)
	}
	other := &standings{applied: map[string]float64{"3": 2e6, "4": 7}}
	if goal := furthest([]*standings{s, other}); goal["3"] != 2e6 || goal["4"] != 7 {
		t.Fatal(goal)
	}
}

// TestDigestsCompare: replicas that differ at the same index are found, others are asked again.
func TestDigestsCompare(t *testing.T) {
	c := comparison{replicas: 2, equal: map[string]bool{}, different: map[string]string{}}
	sample := func(a, b digest) []map[string]digest {
		return []map[string]digest{{"catalog": {5, "x"}, "shard-1": a}, {"catalog": {5, "x"}, "shard-1": b}}
	}
	if c.compare([]map[string]digest{{}, {}}) {
		t.Error("nothing was compared")
	}
	if c.compare(sample(digest{7, "a"}, digest{8, "b"})) || len(c.pending) != 1 || !c.equal["catalog"] {
		t.Errorf("different indexes say nothing: %+v", c)
	}
	if !c.compare(sample(digest{8, "b"}, digest{8, "b"})) || !c.equal["shard-1"] || len(c.different) > 0 {
		t.Errorf("equal ones: %+v", c)
	}
	if c = (comparison{replicas: 3, equal: map[string]bool{}, different: map[string]string{}}); c.compare(sample(digest{8, "b"}, digest{8, "b"})) {
		t.Errorf("a replica is missing: %+v", c)
	}
	c = comparison{replicas: 2, equal: map[string]bool{}, different: map[string]string{}}
	if !c.compare(sample(digest{8, "b"}, digest{8, "c"})) || c.different["shard-1"] == "" {
		t.Errorf("a difference goes unnoticed: %+v", c)
	}
}
