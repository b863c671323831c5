package storage

import (
	"errors"
	"slices"
)

// stateWorth is how many octets of the log a checkpoint is to give up for each octet of state that it writes.
const stateWorth = 4

// worthIt tells whether checkpoints would give up enough of the log for what they write: each writes its group's whole state, which for a
// queue of ten million messages is more than a log file. Where there is little room on the disk any file is enough. filesMu is held, and
// tight was asked before.
func (w *wal) worthIt(tight bool) bool {
	n := len(w.files) - 1 - w.s.o.KeepFiles
	if n <= 0 || tight {
		return n > 0
	}
	states := int64(0)
	for _, g := range w.s.sortedGroups() {
		if g.pins(w.files[n-1]) {
			states += g.stateSize()
		}
	}
	return int64(n)*w.s.o.WALFileSize >= stateWorth*states
}

// stateSize is how large the group's last checkpoint is.
func (g *Group) stateSize() int64 {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.checkpoint == nil {
		return 0
	}
	return g.checkpoint.size
}

// askForCheckpoints tells which groups keep the oldest file that is due, when there are more files than are to be kept. One whose checkpoint
// has just not helped, since it has not applied what is in that file, is asked again when the next file begins, and not at once:
// it would make checkpoints without a pause.
func (w *wal) askForCheckpoints() {
	cramped, tight := w.cramped(), w.tight()
	w.filesMu.RLock()
	var groups []uint32
	if w.worthIt(tight) {
		f := w.due(cramped)
		for _, g := range w.s.sortedGroups() {
			if g.pins(f) && !g.isVain() {
				groups = append(groups, g.id)
			}
		}
	}
	w.filesMu.RUnlock()
	if len(groups) == 0 {
		return
	}
	select {
	case <-w.s.needs:
	default:
	}
	select {
	case w.s.needs <- groups:
	default:
	}
}

// due is the file that checkpoints are made for: the oldest. Where a trail keeps that one, no checkpoint gives anything back, and yet they
// are made as often as ever, for a start that is as quick, and so that everything can go at once: then it is the newest of those that are
// to go. filesMu is held.
func (w *wal) due(cramped bool) *walFile {
	if n := len(w.files) - 1 - w.s.o.KeepFiles; n > 1 && w.followed(w.files[0], cramped) {
		return w.files[n-1]
	}
	return w.files[0]
}

// pinnedBy tells whether a group keeps the file that is due.
func (w *wal) pinnedBy(g *Group) bool {
	cramped := w.cramped()
	w.filesMu.RLock()
	defer w.filesMu.RUnlock()
	return g.pins(w.due(cramped))
}

// KeepsLog tells whether the group keeps a log file from retiring that is not to be kept, which a checkpoint at an index, or a later one,
// would give up, and that is worth it.
func (g *Group) KeepsLog(index uint64) bool {
	w := g.s.wal
	cramped, tight := w.cramped(), w.tight()
	w.filesMu.RLock()
	defer w.filesMu.RUnlock()
	if w.followed(w.files[0], cramped) || !w.worthIt(tight) {
		return false
	}
	return g.pins(w.files[0]) && g.upTo(w.files[0].number) <= index
}

// toGo are the numbers of the files that are to be retired, ascending.
func (w *wal) toGo() (numbers []uint64) {
	w.filesMu.RLock()
	defer w.filesMu.RUnlock()
	for i := range len(w.files) - 1 - w.s.o.KeepFiles {
		numbers = append(numbers, w.files[i].number)
	}
	return numbers
}

// retire takes files from the front that no group needs, and no follower.
func (w *wal) retire() error {
	var errs []error
	groups := w.s.sortedGroups()
	for {
		cramped := w.cramped()
		w.filesMu.Lock()
		f := w.files[0]
		needed := len(w.files)-1 <= w.s.o.KeepFiles || w.followed(f, cramped)
		for _, g := range groups {
			needed = needed || g.pins(f)
		}
		if needed {
			w.filesMu.Unlock()
			break
		}
		// First the entries, then the file: an entry that a group says it has can be read.
		for _, g := range groups {
			g.trim(f.number)
		}
		w.files = w.files[1:]
		f.retired = true
		busy := f.readers > 0
		w.filesMu.Unlock()
		errs = append(errs, w.recycle(f, busy))
	}
	w.askForCheckpoints()
	return errors.Join(errs...)
}

// recycle makes a retired file a spare, unless there are enough, somebody reads the file, or a group keeps it.
func (w *wal) recycle(f *walFile, busy bool) error {
	name := w.walName(f.number)
	if busy {
		return w.s.fs.Remove(name) // the last reader closes it
	}
	if f.size == w.s.o.WALFileSize && !shared(f.f) {
		if kept, err := w.keepSpare(name, spare{f: f.f, written: true}); kept || err != nil {
			return err
		}
	}
	return errors.Join(f.f.Close(), w.s.fs.Remove(name))
}

// acquire finds a file and keeps it open; nil when it has gone.
func (w *wal) acquire(number uint64) *walFile {
	w.filesMu.Lock()
	defer w.filesMu.Unlock()
	if len(w.files) == 0 || number < w.files[0].number || number > w.files[len(w.files)-1].number {
		return nil
	}
	f := w.files[number-w.files[0].number]
	f.readers++
	return f
}

// acquireAll keeps every file open until releaseAll.
func (w *wal) acquireAll() []*walFile {
	w.filesMu.Lock()
	defer w.filesMu.Unlock()
	for _, f := range w.files {
		f.readers++
	}
	return slices.Clone(w.files)
}

func (w *wal) releaseAll(files []*walFile) error {
	var errs []error
	for _, f := range files {
		errs = append(errs, w.release(f))
	}
	return errors.Join(errs...)
}

func (w *wal) release(f *walFile) error {
	w.filesMu.Lock()
	f.readers--
	last := f.retired && f.readers == 0
	w.filesMu.Unlock()
	if last {
		return f.f.Close()
	}
	return nil
}
