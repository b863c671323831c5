package storage

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/warrenmq/warren/storage/vfs"
)

// rotate begins the next file.
func (w *wal) rotate() error {
	number := w.current().number + 1
	taken, err := w.takeSpare(w.walName(number))
	if err != nil {
		return err
	}
	if err := w.watched(func() error { return w.begin(number, taken.f) }); err != nil {
		return w.giveBack(number, taken, err)
	}
	for _, g := range w.s.sortedGroups() {
		g.setVain(false)
	}
	w.askForCheckpoints()
	w.background.Go(w.maintain)
	return nil
}

// maintain retires what nobody needs any more, and reserves the next file.
func (w *wal) maintain() {
	w.giveBackFiles()
	w.prepareSpare()
}

// giveBackFiles retires what a group that was installed, discarded or found damaged leaves without a checkpoint of its own. What cannot be
// retired now is retired later.
func (w *wal) giveBackFiles() {
	if err := w.retire(); err != nil {
		w.s.log.Warn("log files cannot be retired", "err", err)
	}
}

func (w *wal) isClosed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.closed
}

// giveBack makes a file that could not be begun the spare again when the reason was a full disk.
func (w *wal) giveBack(number uint64, taken spare, err error) error {
	if !errors.Is(err, ErrDiskFull) || errors.Is(err, errFailed) {
		return err
	}
	kept, keepErr := w.keepSpare(w.walName(number), taken)
	switch {
	case keepErr != nil:
		return keepErr
	case !kept:
		return errors.Join(err, taken.f.Close(), w.s.fs.Remove(w.walName(number)))
	}
	return err
}

// begin writes a file's header and makes it the newest. That the file has its name is durable before: what it was, when it
// is used again, is not to be found under its old name with a new content.
func (w *wal) begin(number uint64, f vfs.File) error {
	marks := map[uint32]watermark{}
	for _, g := range w.s.sortedGroups() {
		marks[g.id] = watermark{g.chain, g.tail, g.reset}
		if g.Damaged() != nil {
			marks[g.id] = watermark{g.chain, poisoned, g.reset}
		}
	}
	size, err := f.Size()
	if err != nil {
		return fmt.Errorf("begin log file: %w", err)
	}
	if err := w.s.fs.SyncDir(w.dir); err != nil {
		return fmt.Errorf("begin log file: %w", err)
	}
	header := appendWALHeader(nil, w.s.id, number, uint64(size), slices.Sorted(maps.Keys(marks)), marks)
	if _, err := f.WriteAt(header, 0); err != nil {
		return fmt.Errorf("begin log file: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("begin log file: %w", err)
	}
	if err := w.s.writeCurrent(number); err != nil {
		return fmt.Errorf("begin log file: %w", err)
	}
	w.newest = &walFile{number: number, f: f, seed: seedOf(w.s.id, number), begin: int64(len(header)), size: size}
	w.filesMu.Lock()
	w.files = append(w.files, w.newest)
	w.filesMu.Unlock()
	w.tail = int64(len(header))
	w.measure()
	w.dirty, w.filling, w.begun = false, false, time.Now()
	return nil
}
