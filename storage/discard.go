package storage

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// Discard makes the group empty, as if it were new, and healthy. It is for a group whose data is damaged, or was promised
// under another name: what it held is had from its peers again. A crash in the middle leaves the group as it was or empty; or
// damaged as before, if the damage is to its checkpoint or segments.
func (g *Group) Discard() error {
	if err := g.begin(); err != nil {
		return err
	}
	defer g.working.Unlock()
	if err := g.discard(); err != nil {
		return fmt.Errorf("discard group %d: %w", g.id, err)
	}
	g.s.wal.giveBackFiles() // on a full disk nothing is appended, so that no file begins which would do it
	return nil
}

func (g *Group) discard() error {
	// The directory of a damaged group may be missing.
	if err := errors.Join(g.s.fs.MkdirAll(g.dir), g.s.fs.SyncDir(g.s.o.Dir)); err != nil {
		return err
	}
	if err := g.s.wal.submit(g, nil, record{kind: kindReset, group: g.id, term: newReset()}); err != nil {
		return err
	}
	return g.emptied()
}

// emptied removes what the group's directory holds; the log says already that it is void.
func (g *Group) emptied() error {
	g.mu.Lock()
	old := g.segments
	g.segments, g.checkpoint, g.floor, g.postponed = nil, nil, 0, false
	g.uncache(0)
	g.mu.Unlock()
	// The checkpoint goes first: it must never name a segment that has gone.
	errs := []error{g.removeFiles(func(name string) bool { return name == "checkpoint" })}
	for _, seg := range old {
		errs = append(errs, seg.release())
	}
	return errors.Join(append(errs, g.removeFiles(func(name string) bool { return strings.HasSuffix(name, ".seg") || strings.HasSuffix(name, ".wal") }))...)
}

func (g *Group) removeFiles(which func(name string) bool) error {
	names, err := g.s.fs.ReadDir(g.dir)
	errs := []error{err}
	for _, name := range names {
		if which(name) {
			errs = append(errs, g.s.fs.Remove(path.Join(g.dir, name)))
		}
	}
	return errors.Join(append(errs, g.s.fs.SyncDir(g.dir))...)
}
