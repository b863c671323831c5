package cluster

import (
	"sync/atomic"
	"time"
)

// disk knows how this node's disk is. Where a leader's disk hangs, nothing is committed: what the group has stored elsewhere is not
// told to anybody before it is durable here, and what the library's main loop writes it waits for; yet heartbeats go on. So the node tells
// the others, who then elect another leader as if its process had ended. It finds out when it can go on, as a process that was stopped.
type disk struct {
	hangs   atomic.Bool
	slow    atomic.Bool // it hangs, or did so not long ago
	probing atomic.Bool // it is not known to write
	last    time.Time   // when it hung last; campaign's
}

// probe finds out whether the disk writes, when another node's has begun to hang: it may be the same one, and then nobody here is better
// than the leader who waits for it. A node that has nothing to write would not notice.
func (c *Cluster) probe() {
	if !c.disk.probing.CompareAndSwap(false, true) {
		return
	}
	c.work.Go(func() {
		if err := c.o.Store.Probe(); err != nil {
			c.log.Debug("probe", "err", err) // a disk that refuses does not hang
		}
		c.disk.probing.Store(false)
	})
}

// slowFor is how long others than a node whose disk has hung are preferred to lead: disks seldom hang only once.
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
		c.log.Warn("a write to the disk takes long: other nodes whose disks do not hang take the lead")
	case was && !hangs:
		c.log.Info("the disk takes writes again")
	}
	if was != hangs || wasSlow != slow {
		c.statusChanged()
	}
}

// diskProblems says whose disks hang, or did so not long ago.
func (c *Cluster) diskProblems(members []Member, add func(format string, args ...any)) {
	for _, m := range members {
		if m.State == MemberRunning && m.DiskSlow {
			add("a write to the disk of node '%s' has taken seconds: others lead for now, as far as theirs do not", m.Name)
		}
	}
}
