package cluster

import (
	"sync/atomic"
	"time"
)

// disk knows how this node's disk is. Where a leader's disk hangs, nothing is committed: what the group has stored elsewhere is not
// told to anybody before it is durable here, and what the library's main loop writes it waits for; yet heartbeats go on. So the node tells
// the others, who then elect another leader as if its process had ended. It finds out when it can go on, as a process that was stopped.
type disk struct {
	hangs atomic.Bool
	slow  atomic.Bool // it hangs, or did so not long ago
	last  time.Time   // when it hung last; campaign's
}

// slowFor is how long a disk that has hung gets nothing to lead: they seldom hang only once.
const slowFor = 30 * time.Second

// lookAtDisk finds out how the disk is, and tells the others when that has changed.
func (c *Cluster) lookAtDisk(now time.Time) {
	d, hangs := &c.disk, c.o.Store.Stalled() || c.db.Stalled()
	if hangs {
		d.last = now
	}
	slow := !d.last.IsZero() && now.Sub(d.last) < slowFor
	was, wasSlow := d.hangs.Swap(hangs), d.slow.Swap(slow)
	switch {
	case hangs && !was:
		c.log.Warn("a write to the disk takes long: other nodes are to lead what this one leads")
	case was && !hangs:
		c.log.Info("the disk takes writes again")
	}
	if was != hangs || wasSlow != slow {
		c.statusChanged()
	}
}

// diskProblems says whose disks hang.
func (c *Cluster) diskProblems(members []Member, add func(format string, args ...any)) {
	for _, m := range members {
		if m.State == MemberRunning && m.DiskSlow {
			add("a write to the disk of node '%s' has taken seconds: it is to lead nothing for now", m.Name)
		}
	}
}
