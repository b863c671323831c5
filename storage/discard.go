package storage

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// Discard makes the group empty, as if it were new, and healthy. It is for a group whose data is damaged, or was promised
// under another name: what it held is had from its peers again. After a crash in the middle the group holds an old
// checkpoint without the log that followed, or is damaged as before.
func (g *Group) Discard() error {
	g.working.Lock()
	defer g.working.Unlock()
	g.mu.Lock()
	old := g.segments
	g.segments, g.checkpoint, g.floor = nil, nil, 0
	g.locs, g.base, g.first, g.last = nil, 0, 0, 0
	g.damaged, g.unreadable = nil, false
	g.uncache(0)
	g.mu.Unlock()
	errs := []error{g.s.wal.submit(&request{group: g, records: []record{{kind: kindReset, group: g.id}}})}
	for _, seg := range old {
		errs = append(errs, seg.release())
	}
	names, err := g.s.fs.ReadDir(g.dir)
	errs = append(errs, err)
	for _, name := range names {
		if name == "checkpoint" || strings.HasSuffix(name, ".seg") {
			errs = append(errs, g.s.fs.Remove(path.Join(g.dir, name)))
		}
	}
	errs = append(errs, g.s.fs.SyncDir(g.dir))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("discard group %d: %w", g.id, err)
	}
	return nil
}
