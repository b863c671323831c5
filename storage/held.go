package storage

import "fmt"

// held is a group's data as it is at one moment: every log file and segment stays readable until release, whatever retires
// meanwhile.
type held struct {
	g        *Group
	files    []*walFile
	segments []*segment
	in       *lookup
	base     uint64 // index of locs[0]
	locs     []loc
	trail    *trail // of the stream that this may become; nil: none
}

// hold takes the data with entries up to an index, and begins the trail behind it. The log's files come first: a file that retires then
// leaves what is alive in a segment.
func (g *Group) hold(to uint64) *held {
	h := &held{g: g, files: g.s.wal.acquireAll()}
	g.mu.Lock()
	defer g.mu.Unlock()
	h.trail = g.follow(to)
	h.segments, h.base = g.segments, g.base
	for _, seg := range h.segments {
		seg.acquire()
	}
	h.in = newLookup(h.segments)
	// Entries up to a checkpoint's index are committed: no truncation changes this part of the list.
	if g.last != 0 && to >= g.base {
		h.locs = g.locs[:min(uint64(len(g.locs)), to-g.base+1)]
	}
	return h
}

// unfollow ends the trail; at once, unless a follower has read all of its stream.
func (h *held) unfollow(read bool) {
	if h.trail != nil {
		h.g.endStream(h.trail, read)
		h.trail = nil
	}
}

func (h *held) release() error {
	h.unfollow(false)
	err := h.g.s.wal.releaseAll(h.files)
	for _, seg := range h.segments {
		if releaseErr := seg.release(); err == nil {
			err = releaseErr
		}
	}
	h.files, h.segments = nil, nil
	return err
}

// has tells whether there is something of an entry.
func (h *held) has(index uint64) bool {
	_, logged := h.location(index)
	return logged || h.in.find(index) != nil
}

// location is where an entry is in the log.
func (h *held) location(index uint64) (l loc, ok bool) {
	if index < h.base || index-h.base >= uint64(len(h.locs)) {
		return loc{}, false
	}
	l = h.locs[index-h.base]
	return l, h.file(l) != nil
}

func (h *held) file(l loc) *walFile {
	if len(h.files) == 0 || uint64(l.number) < h.files[0].number || uint64(l.number) > h.files[len(h.files)-1].number {
		return nil
	}
	return h.files[uint64(l.number)-h.files[0].number]
}

// read reads what there is of an entry.
func (h *held) read(index uint64) (*piece, error) {
	if seg := h.in.find(index); seg != nil {
		return seg.read(seg.items[h.in.at], h.g.id)
	}
	l, ok := h.location(index)
	if !ok {
		return nil, ErrNotFound
	}
	f := h.file(l)
	rec, err := readRecord(f.f, f.seed, int64(l.at)*align)
	if err != nil {
		return nil, err
	}
	if rec.group != h.g.id || rec.index != index || rec.kind != kindEntry {
		return nil, fmt.Errorf("%w: another record is there", ErrCorrupt)
	}
	return pieceOf(rec), nil
}
