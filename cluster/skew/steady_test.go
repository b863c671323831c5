package skew

import (
	"testing"
	"time"
)

// TestSteady steps the clock that is followed; what is shown goes on and comes to it by and by.
func TestSteady(t *testing.T) {
	for _, step := range []time.Duration{-time.Hour, -3 * time.Second, 0, time.Millisecond, time.Hour} {
		var s Steady
		s.Set(0, 0)
		at, last := time.Duration(0), time.Duration(0)
		for arrived := false; !arrived; {
			at += time.Second
			shows := s.Time(at+step, at)
			if passed := shows - last; passed < time.Second-time.Second/slew || passed > time.Second+time.Second/slew {
				t.Fatalf("a step of %v: a second lasts %v", step, passed)
			}
			last, arrived = shows, shows == at+step
			if at > max(step, -step)*slew+time.Second {
				t.Fatalf("a step of %v: after %v it shows %v", step, at, shows)
			}
		}
	}
}
