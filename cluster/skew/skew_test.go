package skew

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const bound = 5 * time.Second

// view is of clocks that are measured exactly, named a, b, …; more nodes can be reached without a measurement.
func view(more int, ahead ...time.Duration) View {
	v := View{Clocks: map[string]Reading{}, Nodes: len(ahead) + more, Bound: bound}
	for i, d := range ahead {
		v.Clocks[string(rune('a'+i))] = Reading{d, d}
	}
	return v
}

func TestView(t *testing.T) {
	const s, hour = time.Second, time.Hour
	for _, c := range []struct {
		name     string
		v        View
		right    string
		off      string
		disagree bool
	}{
		{"alone", view(0, 0), "a", "", false},
		{"two that agree", view(0, 0, 3*s), "ab", "", false},
		{"two that differ", view(0, 0, hour), "", "", true},
		{"one of three ahead", view(0, 0, hour, s), "ac", "b", false},
		{"one of three behind", view(0, -hour, 0, s), "bc", "a", false},
		{"just within", view(0, 0, 0, 5*s), "abc", "", false},
		{"just beyond", view(0, 0, 0, 5*s+1), "ab", "c", false},
		{"beyond one of two only", view(0, 0, 3*s, 6*s), "abc", "", false},
		{"three that all differ", view(0, 0, hour, 2*hour), "", "", true},
		{"two of four", view(0, 0, 0, hour, hour), "", "", true},
		{"two of five, together", view(0, 0, 0, 0, hour, hour), "abc", "de", false},
		{"two of five, apart", view(0, 0, 0, 0, hour, -hour), "abc", "de", false},
		{"a chain of five", view(0, 0, 4*s, 8*s, 12*s, 16*s), "bcd", "ae", false},
		{"one of three, and two that were not measured", view(2, 0, 0, hour), "", "", true},
		{"one of four, and one that was not measured", view(1, 0, 0, 0, hour), "abc", "d", false},
		{"nobody was measured but oneself", view(2, 0), "", "", false},
	} {
		right, off := "", ""
		for i := range len(c.v.Clocks) {
			node := string(rune('a' + i))
			if c.v.Right(node) {
				right += node
			}
			if c.v.Off(node, c.v.Bound) {
				off += node
			}
		}
		if right != c.right || off != c.off || c.v.Disagree() != c.disagree {
			t.Errorf("%s: right %q, off %q, disagree %v; want %q, %q, %v", c.name, right, off, c.v.Disagree(), c.right, c.off, c.disagree)
		}
	}
	if v := view(0, 0, 0, 0); v.Right("z") || v.Off("z", bound) {
		t.Error("a clock that was not measured is right, or off")
	}
}

// TestWideReadings: what a slow answer leaves open decides nothing.
func TestWideReadings(t *testing.T) {
	v := view(0, 0, 0, 0)
	v.Clocks["a"] = Reading{-20 * time.Second, 20 * time.Second}
	if v.Right("a") || v.Off("a", bound) || !v.Right("b") {
		t.Error("a wide reading says something of its clock, or takes the others theirs")
	}
	v.Clocks["b"] = v.Clocks["a"]
	if v.AnyRight() || v.Off("c", bound) || v.Disagree() {
		t.Error("wide readings make a majority, or a disagreement")
	}
}

// TestReadingsHoldTheTruth: whatever holds up question, answer or the process itself, and whenever its own wall clock is set, the
// truth lies within the reading.
func TestReadingsHoldTheTruth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		began := time.Unix(1_800_000_000, 0) // when the monotonic clock began
		ahead := time.Duration(rapid.Int64Range(-int64(time.Hour), int64(time.Hour)).Draw(t, "ahead"))
		at := time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "at"))
		there := time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "there"))
		back := time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "back"))
		r := Read(began.Add(at+there+ahead), at, at+there+back)
		truth := time.Duration(began.Add(ahead).UnixNano())
		if r.Low > truth || r.High < truth || r.High-r.Low != there+back {
			t.Fatalf("%v is not within %+v", truth, r)
		}
		exact := Reading{truth - ahead, truth - ahead}
		if d := r.Ahead(exact) - ahead; max(d, -d) > (there+back)/2+1 {
			t.Fatalf("%v ahead, taken for %v", ahead, r.Ahead(exact))
		}
		if r.apart(exact, max(ahead, -ahead)) {
			t.Fatalf("%+v is apart by more than %v", r, ahead)
		}
	})
}

// TestVerdict runs a node's clock through views; the letters say what it counts as after each.
func TestVerdict(t *testing.T) {
	const s = time.Second
	repeat := func(n int, ahead time.Duration) (list []time.Duration) {
		for range n {
			list = append(list, ahead)
		}
		return list
	}
	join := func(lists ...[]time.Duration) (all []time.Duration) {
		for _, l := range lists {
			all = append(all, l...)
		}
		return all
	}
	for _, c := range []struct {
		name  string
		ahead []time.Duration
		want  string
	}{
		{"one measurement is none", join(repeat(2, time.Hour), repeat(1, 0), repeat(2, time.Hour)), "....."},
		{"it jumps and stays", repeat(5, time.Hour), "..OOO"},
		{"it jumps and comes back", join(repeat(4, -time.Hour), repeat(11, 0)), "..OOOOOOOOOOO.."},
		{"it comes back for a moment", join(repeat(3, time.Hour), repeat(9, 0), repeat(1, time.Hour), repeat(9, 0)), "..OOOOOOOOOOOOOOOOOOOO"},
		{"at the edge, off stays off", join(repeat(3, 6*s), repeat(12, 4*s)), "..OOOOOOOOOOOOO"},
		{"at the edge, right stays right", join(repeat(12, 4*s)), "............"},
	} {
		var d Verdict
		got := ""
		for _, ahead := range c.ahead {
			if d.Look(view(0, ahead, 0, 0), "a") {
				got += "O"
			} else {
				got += "."
			}
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// TestNoFlapping: nobody's verdict changes without end while the clocks stand still, however they stand.
func TestNoFlapping(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var ahead []time.Duration
		for i := range rapid.IntRange(1, 7).Draw(t, "nodes") {
			ahead = append(ahead, time.Duration(rapid.Int64Range(0, 20).Draw(t, fmt.Sprint("ahead ", i)))*time.Second)
		}
		v := view(rapid.IntRange(0, 2).Draw(t, "not measured"), ahead...)
		for node := range v.Clocks {
			d := Verdict{off: rapid.Bool().Draw(t, "off before")}
			changes, was := 0, d.off
			for range 60 {
				if now := d.Look(v, node); now != was {
					changes, was = changes+1, now
				}
			}
			if changes > 1 {
				t.Fatalf("%s changes %d times: %+v", node, changes, v)
			}
			if d.off && v.Right(node) && v.Off(node, v.Bound) {
				t.Fatalf("%s is right and off: %+v", node, v)
			}
		}
	})
}
