package cluster

import (
	"slices"
	"sync/atomic"
	"testing"
)

// TestAlarmsOfOthers: every node knows the alarms of the others, as long as they live.
func TestAlarmsOfOthers(t *testing.T) {
	members := newMembers(t, 3, 1)
	var raised atomic.Bool
	members[1].o.Resources = func() Resources {
		if raised.Load() {
			return Resources{Alarm: "low on disk"}
		}
		return Resources{}
	}
	startAll(t, members)
	know := func(want ...string) func() bool {
		return func() bool {
			return slices.Equal(members[0].Alarms(), want) && slices.Equal(members[2].Alarms(), want) && len(members[1].Alarms()) == 0
		}
	}
	eventually(t, "nobody has an alarm", know())
	raised.Store(true)
	eventually(t, "the others know of the alarm", know("low on disk"))
	raised.Store(false)
	eventually(t, "the others know of its end", know())
	raised.Store(true)
	eventually(t, "the others know of the next one", know("low on disk"))
	members[1].stop()
	eventually(t, "a node that is gone has no alarm", func() bool { return len(members[0].Alarms())+len(members[2].Alarms()) == 0 })
}
