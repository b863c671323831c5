package sim

import (
	"fmt"
	"testing"
	"time"
)

const (
	// givenUpWithin is how long nodes may go on naming a leader that fell silent: its node's silence is noticed after five statuses,
	// what the others have not heard with the status after unheardLimit; then there are the turns.
	givenUpWithin = 3 * time.Second
	// ledWithin is how long there may be no other leader. Mostly it is 2.3 s.
	ledWithin = 3 * time.Second
)

// TestLeaderFallsSilent: no connection breaks, nothing comes from the node that leads the catalog any more. The others give it up, and
// have leaders for everything.
func TestLeaderFallsSilent(t *testing.T) {
	for name, silence := range map[string]func(*sim, *action){"cut off": isolating, "stopped": freezing} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var w watch
			inject := func(s *sim, a *action) {
				victim := a.victims[0]
				leader, other := fmt.Sprintf("n%d", victim+1), (victim+1)%len(s.nodes)
				silence(s, a)
				fell := time.Now()
				for led := false; !led; time.Sleep(10 * time.Millisecond) {
					led = true
					after := time.Since(fell)
					for _, g := range s.nodes[other].serving().member().Overview().Groups {
						led = led && g.Leader != "" && g.Leader != leader
						if g.Leader == leader && after > givenUpWithin {
							w.errorf("%v after %s fell silent it is named as the leader of %s", after, leader, g.Name)
							return
						}
					}
					if after > ledWithin {
						w.errorf("%v after %s fell silent: %+v", after, leader, groups(s))
						return
					}
				}
				t.Logf("leaders after %v", time.Since(fell))
			}
			heal := func(s *sim, a *action) {
				thawing(s, a)
				s.healNetwork()
			}
			w.actions = []*action{{fault: &fault{name: "silence", leader: true, inject: inject, heal: heal}, victims: []int{0}, at: 10 * time.Second, lasts: 10 * time.Second}}
			w.run(t)
		})
	}
}
