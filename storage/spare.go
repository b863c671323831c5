package storage

import (
	"errors"
	"fmt"
	"path"
	"syscall"
	"time"

	"github.com/warrenmq/warren/storage/vfs"
)

// spares are files that are reserved for the log. One is reserved as soon as there is none, so that a full disk is noticed early;
// what has retired becomes one. Where a file system has only promised the space, each fsync has to write down as well which of it has
// been used (ext4, xfs: unwritten extents), which takes two to three times as long as to write once more where something was. So a
// spare that is to be used soon and was never written is filled with zeros before.
type spares [maxSpares]spare

type spare struct {
	f vfs.File // nil: none
	// written: all of it was written once. What was not was never a file of the log either, so that filling it spoils nothing that
	// could be found under an old name after a power cut.
	written bool
}

const (
	// maxSpares is one to be used next and one that retires while it waits.
	maxSpares = 2
	// firstSize bounds the first file of a store: a small one is filled at once, so that a store is fast from its first append.
	firstSize = 16 << 20
	// fillAfter is the part of a file that is used before the next one is filled: who never uses the log writes no zeros.
	fillAfter = 8
	// fillBelow is how fast the log may grow, in octets a second, if the next file is to be filled: a log that fills faster would be slowed down
	// by as many octets again more than by an fsync that takes longer.
	fillBelow = 32 << 20
	// fillChunk is filled at once, and fillRest the share of the time, compared to that of filling, that is left to others.
	fillChunk = 1 << 20
	fillRest  = 4
	// maxFillRest bounds what the end of the store waits for.
	maxFillRest = 50 * time.Millisecond
)

func (w *wal) spareName(i int) string { return path.Join(w.dir, fmt.Sprintf("spare-%d.wal", i)) }

// isSpareName tells whether a file of the log's directory is a spare.
func isSpareName(name string) bool {
	ok, err := path.Match("spare-[0-9].wal", name)
	return ok && err == nil
}

// lockSpares locks the spares. Who fills one stops.
func (w *wal) lockSpares() {
	w.wanted.Add(1)
	select {
	case w.hurry <- struct{}{}:
	default:
	}
	w.spareMu.Lock()
	w.wanted.Add(-1)
}

// prepareSpare reserves the next file beforehand. A full disk is found again when the file is needed.
func (w *wal) prepareSpare() {
	w.lockSpares()
	defer w.spareMu.Unlock()
	w.provide()
}

// provide is prepareSpare under the lock. It returns the number of a spare; -1: there is none.
func (w *wal) provide() int {
	if i := w.spares.best(); i >= 0 || w.isClosed() {
		return i
	}
	known := w.short.Load()
	if err := w.reserveNext(); err != nil {
		if !known {
			w.s.log.Warn("the next log file cannot be reserved", "err", err)
		}
		return -1
	}
	return 0
}

// reserveNext makes the first spare, of which there are none, and notes whether it can.
func (w *wal) reserveNext() error {
	made, err := w.reserve(w.spareName(0), w.s.o.WALFileSize)
	if err == nil {
		w.spares[0] = made
		w.short.Store(false)
	} else if errors.Is(err, ErrDiskFull) {
		w.short.Store(true)
		if w.hasTrails() {
			w.beside(w.giveBackFiles)
		}
	}
	return err
}

// Full tells that there is no room on the disk for the next file of the log: appends go on until the newest file is at its end, and are
// refused then. Who asks makes the store look whether there is room now, beside and one at a time; without appends nobody else would.
func (s *Store) Full() bool {
	w := s.wal
	if !w.short.Load() {
		return false
	}
	if w.again.CompareAndSwap(false, true) {
		go func() { // whoever ends the store waits for the spares' lock, and nothing is reserved afterwards
			defer w.again.Store(false)
			w.prepareSpare()
		}()
	}
	return true
}

// best is the number of the spare to be used next; -1: there is none.
func (s *spares) best() int {
	best := -1
	for i := range s {
		if s[i].f != nil && (best < 0 || s[i].written) {
			best = i
		}
	}
	return best
}

// fillSpare fills the next file, unless it was written before. It leaves most of the disk's time to the log, and stops for whoever
// wants the spares.
func (w *wal) fillSpare() {
	w.lockSpares()
	defer w.spareMu.Unlock()
	i := w.provide()
	if i < 0 || w.spares[i].written {
		return
	}
	f := w.spares[i].f
	for at := int64(0); at < w.s.o.WALFileSize; at += fillChunk {
		began := time.Now()
		if err := w.fill(f, at, min(at+fillChunk, w.s.o.WALFileSize)); err != nil {
			w.s.log.Warn("the next log file cannot be filled", "err", err)
			return
		}
		if at+fillChunk >= w.s.o.WALFileSize {
			break // all of it is filled, whoever waits
		}
		select {
		case <-w.hurry: // wakes who is meant, and sometimes for one who has gone
		case <-time.After(min(fillRest*time.Since(began), maxFillRest)):
		}
		if w.wanted.Load() > 0 || w.isClosed() {
			return
		}
	}
	w.spares[i].written = true
}

// fill fills a part of a file. What is done to a disk under the spares' lock is watched in small parts: the log's writer may wait for
// the lock, and one step that hangs ends the process as it would in the log.
func (w *wal) fill(f vfs.File, from, to int64) error {
	return w.watchedAside(func() error { return errors.Join(f.Zero(from, to), f.Sync()) })
}

// reserve makes a file of a size. Where the file system cannot reserve space, it is filled at once. What is free is asked first: an attempt
// that fails may take everything for a moment, from whoever writes then.
func (w *wal) reserve(name string, size int64) (spare, error) {
	if free, err := w.s.fs.Free(w.dir); err == nil && free < size {
		return spare{}, fmt.Errorf("%w: %d octets are free, %d are needed", ErrDiskFull, free, size)
	}
	f, err := w.s.fs.Create(name)
	if err != nil {
		return spare{}, diskFull(err)
	}
	made := spare{f: f}
	err = w.watchedAside(func() error { return f.Preallocate(size) })
	if errors.Is(err, errors.ErrUnsupported) {
		made.written = true
		err = nil
		for at := int64(0); at < size && err == nil; at += fillChunk {
			err = w.fill(f, at, min(at+fillChunk, size))
		}
	}
	if err != nil {
		return spare{}, errors.Join(diskFull(err), f.Close(), w.s.fs.Remove(name))
	}
	if err := w.watchedAside(f.Sync); err != nil {
		return spare{}, errors.Join(diskFull(err), f.Close())
	}
	return made, nil
}

func diskFull(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrDiskFull, err)
	}
	return err
}

// takeSpare gives a reserved file its name, or reserves one now.
func (w *wal) takeSpare(name string) (spare, error) {
	defer w.s.stalls.Watch(w.s.o.SyncTimeout, func() {}).Stop() // the log waits, for whoever has the lock as well
	w.lockSpares()
	defer w.spareMu.Unlock()
	i := w.spares.best()
	if i < 0 {
		if err := w.reserveNext(); err != nil {
			return spare{}, err
		}
		i = 0
	}
	taken := w.spares[i]
	w.spares[i] = spare{}
	if err := w.watched(func() error { return w.s.fs.Rename(w.spareName(i), name) }); err != nil {
		return spare{}, errors.Join(err, taken.f.Close())
	}
	return taken, nil
}

// adopt makes a file that an earlier run has left a spare again, or removes it. What was a file of the log was written once.
func (w *wal) adopt(name string) error {
	for i := range w.spares {
		if path.Base(w.spareName(i)) != name {
			continue
		}
		f, err := w.s.fs.Open(w.spareName(i))
		if err != nil {
			return err
		}
		size, err := f.Size()
		if err != nil || size != w.s.o.WALFileSize {
			if err := errors.Join(err, f.Close()); err != nil {
				return err
			}
			break
		}
		magic := make([]byte, len(walMagic))
		if err := errors.Join(readFull(f, magic, 0), f.Sync()); err != nil {
			return errors.Join(err, f.Close())
		}
		w.spares[i] = spare{f, string(magic) == walMagic}
		return nil
	}
	return w.s.fs.Remove(path.Join(w.dir, name))
}

// keepSpare makes a file a spare, if there is room for one more; otherwise it returns false.
func (w *wal) keepSpare(name string, one spare) (bool, error) {
	w.lockSpares()
	defer w.spareMu.Unlock()
	for i := range w.spares {
		if w.spares[i].f != nil {
			continue
		}
		if err := w.watchedAside(func() error { return w.s.fs.Rename(name, w.spareName(i)) }); err != nil {
			return false, err
		}
		w.spares[i] = one
		w.short.Store(false)
		return true, nil
	}
	return false, nil
}

func (w *wal) closeSpares() error {
	w.lockSpares()
	defer w.spareMu.Unlock()
	var errs []error
	for i := range w.spares {
		if f := w.spares[i].f; f != nil {
			errs = append(errs, f.Close())
		}
		w.spares[i] = spare{}
	}
	return errors.Join(errs...)
}
