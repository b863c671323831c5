package storage

import (
	"slices"
	"time"
)

// trail is the entries of a group's log from the index of a snapshot on, which the follower that is sent it needs next. They stay in the
// log while the stream is open and, when all of it was read, for a grace after it: without them the follower would need another snapshot,
// and for ever where as much is published while each is sent. No checkpoint gives back what a trail keeps.
type trail struct {
	index uint64
	began time.Time
	grace *time.Timer // nil: the stream is open
}

// The grace is as long as the stream was open, since as much as was written meanwhile is to be caught up with, within these bounds.
const (
	minGrace = 10 * time.Second
	maxGrace = 10 * time.Minute
)

// follow begins a trail. mu is held.
func (g *Group) follow(index uint64) *trail {
	t := &trail{index: index, began: time.Now()}
	g.trails = append(g.trails, t)
	return t
}

// endStream ends the stream of a trail, and with it the trail, at once or after the grace.
func (g *Group) endStream(t *trail, read bool) {
	if !read || g.s.wal.isClosed() {
		g.endTrail(t)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if slices.Contains(g.trails, t) && t.grace == nil {
		t.grace = time.AfterFunc(min(max(time.Since(t.began), minGrace), maxGrace), func() { g.endTrail(t) })
	}
}

// endTrail gives back what only this trail has kept. Nobody may publish, so that no file begins which would do it.
func (g *Group) endTrail(t *trail) {
	g.mu.Lock()
	i := slices.Index(g.trails, t)
	if i >= 0 {
		g.trails = slices.Delete(g.trails, i, i+1)
	}
	g.mu.Unlock()
	if i >= 0 {
		g.s.wal.beside(g.s.wal.giveBackTrail)
	}
}

// dropTrails ends all trails of a log that is no more, or of a store. mu is held.
func (g *Group) dropTrails() {
	for _, t := range g.trails {
		if t.grace != nil {
			t.grace.Stop()
		}
	}
	g.trails = nil
}

// follows tells whether an entry of a trail is in the file or before it. A trail whose next entry has gone already keeps nothing.
func (g *Group) follows(f *walFile) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	for _, t := range g.trails {
		next := max(t.index, g.base)
		if g.damaged == nil && g.last != 0 && t.index+1 >= g.base && next <= g.last && uint64(g.locs[next-g.base].number) <= f.number {
			return true
		}
	}
	return false
}

func (w *wal) hasTrails() bool {
	return slices.ContainsFunc(w.s.sortedGroups(), func(g *Group) bool {
		g.mu.RLock()
		defer g.mu.RUnlock()
		return len(g.trails) > 0
	})
}

// cramped tells whether there is too little room for trails: they give way then, since another snapshot is better than a full disk. They
// leave twice what a checkpoint leaves to the log (roomForLog), which is more than what the disk's alarm is raised at, as a rule.
func (w *wal) cramped() bool {
	return w.hasTrails() && w.tight()
}

// tight tells whether there is little room on the disk.
func (w *wal) tight() bool {
	free, err := w.s.fs.Free(w.dir)
	return w.short.Load() || err == nil && free < 2*(1+maxSpares)*w.s.o.WALFileSize
}

// followed tells whether a trail keeps a file. filesMu is held, and cramped was asked before.
func (w *wal) followed(f *walFile, cramped bool) bool {
	return !cramped && slices.ContainsFunc(w.s.sortedGroups(), func(g *Group) bool { return g.follows(f) })
}

// giveBackTrail retires what a trail has kept. Whose checkpoints did not help since may be asked again.
func (w *wal) giveBackTrail() {
	for _, g := range w.s.sortedGroups() {
		g.setVain(false)
	}
	w.giveBackFiles()
}

// beside does something to the disk on a goroutine of its own, which the end of the store waits for; nothing after it.
func (w *wal) beside(work func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.background.Go(work)
	}
}
