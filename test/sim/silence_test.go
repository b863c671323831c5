package sim

import (
	"fmt"
	"testing"
	"time"
)

// silenceEnds is how long a leader that fell silent may be missed: its node's silence is noticed after five statuses at the
// latest, and a seat stands as soon as nobody has heard the leader.
const silenceEnds = 3 * time.Second

// TestLeaderFallsSilent: no connection breaks, nothing comes from the node that leads the catalog any more. The others have
// leaders for everything long before the timers of the library would see to it.
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
					for _, g := range s.nodes[other].serving().member().Overview().Groups {
						led = led && g.Leader != "" && g.Leader != leader
					}
					if time.Since(fell) > silenceEnds {
						w.errorf("%v after n%d fell silent: %+v", silenceEnds, fault.victims[0]+1, groups(s))
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
