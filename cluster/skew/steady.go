package skew

import "time"

// slew is what part of the time that passes a steady clock may use up to come nearer to the clock that it follows.
const slew = 16

// Steady is a clock that goes on with the monotonic clock and follows another one slowly, so that a step of that one changes no
// duration by more than a sixteenth.
type Steady struct {
	shows time.Duration // since 1970
	at    time.Duration // on the monotonic clock
}

// Set lets the clock show a time, at a time of the monotonic clock.
func (s *Steady) Set(shows, at time.Duration) { s.shows, s.at = shows, at }

// Time is what the clock shows at a time of the monotonic clock, not before the last one, when the clock that it follows shows some
// time.
func (s *Steady) Time(follows, at time.Duration) time.Duration {
	passed := at - s.at
	s.shows, s.at = s.shows+passed, at
	most := passed / slew
	s.shows += max(-most, min(follows-s.shows, most))
	return s.shows
}
