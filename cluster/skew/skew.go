// Package skew tells whose clock is wrong: pure functions of what a node has measured. When to measure, and what follows from a
// clock that is off, is left to package cluster.
//
// Nobody knows the right time, so the clocks of a majority are taken for right. Measurements are bounds, not estimates, and what
// they leave open counts for neither side: a slow network or a stopped process can keep a decision from being made, and cannot make
// a wrong one.
package skew

import (
	"maps"
	"slices"
	"time"
)

// Reading is bounds on what a clock showed, as the time since 1970, when the monotonic clock of the node that measures began. So
// readings of several clocks from several times can be compared, and that node's own wall clock is one clock of many: when it is
// set, no reading of another changes.
type Reading struct{ Low, High time.Duration }

// Read takes a reading of a clock that showed a time at some moment between two of the monotonic clock: before it was asked, and
// when the answer was there. Whatever held the question or the answer up makes the reading wider, never wrong.
func Read(shown time.Time, asked, answered time.Duration) Reading {
	at := time.Duration(shown.UnixNano())
	return Reading{Low: at - answered, High: at - asked}
}

// Ahead is how far one clock is ahead of another, about.
func (r Reading) Ahead(of Reading) time.Duration {
	return (r.Low-of.Low)/2 + (r.High-of.High)/2
}

// Middle is the best guess.
func (r Reading) Middle() time.Duration { return r.Low + (r.High-r.Low)/2 }

// apart tells whether two clocks differ by more than a bound, whatever the truth within the readings.
func (r Reading) apart(o Reading, bound time.Duration) bool {
	return r.Low-o.High > bound || o.Low-r.High > bound
}

// near tells whether two clocks differ by no more than a bound, whatever the truth within the readings.
func (r Reading) near(o Reading, bound time.Duration) bool {
	return max(r.High-o.Low, o.High-r.Low) <= bound
}

// View is the clocks of the nodes that one of them can reach, by the nodes' identities.
type View struct {
	Clocks map[string]Reading // those that were measured, its own among them
	Nodes  int                // all that can be reached, itself included
	Bound  time.Duration      // how far clocks that are right may differ
}

// Right tells whether a node's clock was measured and agrees with those of a majority, itself included.
func (v View) Right(node string) bool {
	own, ok := v.Clocks[node]
	near := 0
	for _, r := range v.Clocks {
		if own.near(r, v.Bound) {
			near++
		}
	}
	return ok && 2*near > v.Nodes
}

// AnyRight tells whether there is a majority of clocks that agree with one of them.
func (v View) AnyRight() bool {
	for node := range v.Clocks {
		if v.Right(node) {
			return true
		}
	}
	return false
}

// Off tells whether a node's clock differs by more than a bound from those of a majority, and there is one that is right. So of
// two clocks, or of three that all differ, none is off.
func (v View) Off(node string, bound time.Duration) bool {
	own, ok := v.Clocks[node]
	apart := 0
	for _, r := range v.Clocks {
		if own.apart(r, bound) {
			apart++
		}
	}
	return ok && 2*apart > v.Nodes && v.AnyRight()
}

// Ahead is how far a node's clock is ahead of one that is right, about; 0: it was not measured, or none is right.
func (v View) Ahead(node string) time.Duration {
	own, ok := v.Clocks[node]
	for _, other := range slices.Sorted(maps.Keys(v.Clocks)) {
		if ok && v.Right(other) {
			return own.Ahead(v.Clocks[other])
		}
	}
	return 0
}

// Reference is the clock that a node should go by: its own, unless that is off, then one that is right. attested: a majority of
// several agrees with it.
func (v View) Reference(node string) (r Reading, own, attested bool) {
	if !v.Off(node, v.Bound) {
		return v.Clocks[node], true, len(v.Clocks) > 1 && v.Right(node)
	}
	for _, other := range slices.Sorted(maps.Keys(v.Clocks)) {
		if v.Right(other) {
			return v.Clocks[other], false, true
		}
	}
	return v.Clocks[node], true, false
}

// Disagree tells whether clocks differ by more than the bound and none of them is right.
func (v View) Disagree() bool {
	if v.AnyRight() {
		return false
	}
	for _, a := range v.Clocks {
		for _, b := range v.Clocks {
			if a.apart(b, v.Bound) {
				return true
			}
		}
	}
	return false
}

const (
	// offAfter is in how many views in a row a clock must be off to count as such: several measurements of each node.
	offAfter = 3
	// rightAfter is in how many views in a row it must not be, within half the bound, to count as right again.
	rightAfter = 10
)

// Verdict is whether a node's clock counts as off. It changes only when several views in a row say so, and back later than forth
// and within a narrower bound, so that a clock at the edge does not make leaderships go to and fro. The zero value is of a clock that
// counts as right.
type Verdict struct {
	off   bool
	views int // in a row that contradict it
}

// Look takes a view.
func (d *Verdict) Look(v View, node string) (off bool) {
	bound, after := v.Bound, offAfter
	if d.off {
		bound, after = v.Bound/2, rightAfter
	}
	if v.Off(node, bound) == d.off {
		d.views = 0
		return d.off
	}
	if d.views++; d.views >= after {
		d.off, d.views = !d.off, 0
	}
	return d.off
}
