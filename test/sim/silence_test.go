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
	// ledWithin is how long there may be no other leader. Mostly it is 2.3 s. But one that the library has elected early offers a silent
	// node the leadership back that it prefers, before it is noticed that the node is silent, and takes nothing until that has timed out.
	ledWithin = 4500 * time.Millisecond
)

// TestLeaderFallsSilent: no connection breaks, nothing comes from the node that leads the catalog any more. The others give it up, and
// have leaders for everything.
func TestLeaderFallsSilent(t *testing.T) {
	for name, silence := range map[string]func(*sim, *action){"cut off": isolating, "stopped": freezing} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var w watch
			var fault action
			w.at(10*time.Second, "silence", func(s *sim) {
				leader := groups(s)["catalog"].Leader
				other := 0
				for i := range s.nodes {
					if fmt.Sprintf("n%d", i+1) == leader {
						fault.victims = []int{i}
					} else {
						other = i
					}
				}
				silence(s, &fault)
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
			})
			w.at(20*time.Second, "all can talk", func(s *sim) {
				s.network.freeze(fault.victims[0], false)
				s.healNetwork()
			})
			w.run(t)
		})
	}
}
