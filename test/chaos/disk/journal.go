package disk

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
)

// journal remembers what a power cut would lose: writes to files that were not synced since, and changes of names whose
// directories were not. Everything is in the files below already; so nothing is lost when only the process dies.
type journal struct {
	trash string // holds files that were removed or replaced, until their directory is synced

	mu    sync.Mutex // guards what follows, and is held while a change is made
	files map[uint64]*unsynced
	names []*nameChange // oldest first
	saved int           // files in the trash so far
}

// unsynced is the writes to one file, oldest first, and the file, whatever its name may be by now.
type unsynced struct {
	file   *os.File
	writes []*write
}

// write is a change of a file's content or size. After a failed fsync it is doomed: the kernel takes its pages for written,
// and no later fsync writes them.
type write struct {
	offset                int64
	before, after         []byte // content from offset on; what lies beyond the end of the file is missing
	sizeBefore, sizeAfter int64
	doomed                bool
}

// nameChange is a file created, removed or renamed. It lasts when all its directories have been synced.
type nameChange struct {
	directories []uint64
	undo        func() error
	discard     func() error  // what was kept for undo
	within      []*nameChange // of a directory that was removed: what had happened in it; it lasts when the removal does
}

// takeBack undoes the change, and the last ones within what it brings back.
func (c *nameChange) takeBack(random *rand.Rand) error {
	err := c.undo()
	if errors.Is(err, os.ErrNotExist) { // its directory may be gone as well
		err = nil
	}
	keep := random.IntN(len(c.within) + 1)
	for i, within := range slices.Backward(c.within) {
		if i >= keep {
			err = errors.Join(err, within.takeBack(random))
		} else {
			err = errors.Join(err, within.last())
		}
	}
	return err
}

// last forgets how to undo the change.
func (c *nameChange) last() error {
	errs := []error{c.discard()}
	for _, within := range c.within {
		errs = append(errs, within.last())
	}
	return errors.Join(errs...)
}

func newJournal(trash string) *journal { return &journal{trash: trash, files: map[uint64]*unsynced{}} }

// change makes a change to the content or size of an open file and notes it. Length is how many bytes from offset on may
// differ afterwards.
func (j *journal) change(fd uintptr, offset, length int64, do func() error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	number, sizeBefore, err := statOf(fd)
	if err != nil {
		return err
	}
	u := j.files[number]
	if u == nil {
		file, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		u = &unsynced{file: file}
		j.files[number] = u
	}
	w := &write{offset: offset, sizeBefore: sizeBefore}
	if w.before, err = readSome(u.file, offset, length); err != nil {
		return err
	}
	failure := do() // it may have been done in part
	if _, w.sizeAfter, err = statOf(fd); err != nil {
		return err
	}
	if w.after, err = readSome(u.file, offset, length); err != nil {
		return err
	}
	u.writes = append(u.writes, w)
	return failure
}

// readSome reads up to length bytes; less at the end of the file.
func readSome(f *os.File, offset, length int64) ([]byte, error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	data := make([]byte, max(0, min(length, size-offset)))
	n, err := f.ReadAt(data, offset)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return data[:n], err
}

// begun is the writes to a file that an fsync which begins now covers.
func (j *journal) begun(number uint64) []*write {
	j.mu.Lock()
	defer j.mu.Unlock()
	if u := j.files[number]; u != nil {
		return slices.Clone(u.writes)
	}
	return nil
}

// synced ends an fsync of a file.
func (j *journal) synced(number uint64, covered []*write, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	u := j.files[number]
	if u == nil {
		return
	}
	if !ok {
		for _, w := range covered {
			w.doomed = true
		}
		return
	}
	u.writes = slices.DeleteFunc(u.writes, func(w *write) bool { return !w.doomed && slices.Contains(covered, w) })
	if len(u.writes) == 0 {
		_ = u.file.Close() // it was written by others
		delete(j.files, number)
	}
}

// rename makes a change of names and notes it. Prepare says how it is undone, before it is made.
func (j *journal) rename(do func() error, undo func() error, discard func() error, directories ...uint64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.note(do, &nameChange{undo: undo, discard: discard}, directories...)
}

// removeDirectory is rename for the removal of a directory. What happened in it can only come back with it: another one may have its
// name by then, and its number.
func (j *journal) removeDirectory(removed uint64, do func() error, undo func() error, directories ...uint64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	c := &nameChange{undo: undo, discard: nothing}
	if err := j.note(do, c, directories...); err != nil {
		return err
	}
	j.names = slices.DeleteFunc(j.names, func(n *nameChange) bool {
		if !slices.Contains(n.directories, removed) {
			return false
		}
		c.within = append(c.within, n)
		return true
	})
	return nil
}

// note makes a change and notes it. mu is held.
func (j *journal) note(do func() error, c *nameChange, directories ...uint64) error {
	if err := do(); err != nil {
		return errors.Join(err, c.discard())
	}
	slices.Sort(directories)
	c.directories = slices.Compact(directories)
	j.names = append(j.names, c)
	return nil
}

// save keeps a file that is about to lose its name; empty: there is none.
func (j *journal) save(path string) (saved string, err error) {
	if info, err := os.Lstat(path); err != nil || info.IsDir() {
		return "", nil
	}
	j.mu.Lock()
	j.saved++
	saved = filepath.Join(j.trash, strconv.Itoa(j.saved))
	j.mu.Unlock()
	return saved, os.Link(path, saved)
}

// syncedDirectory ends an fsync of a directory.
func (j *journal) syncedDirectory(number uint64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	var errs []error
	j.names = slices.DeleteFunc(j.names, func(c *nameChange) bool {
		c.directories = slices.DeleteFunc(c.directories, func(d uint64) bool { return d == number })
		if len(c.directories) == 0 {
			errs = append(errs, c.last())
			return true
		}
		return false
	})
	return errors.Join(errs...)
}

// lose takes back what a power cut may take back, and forgets the rest. Of the writes to each file all are lost, or the
// last ones, or any, torn at multiples of the sector; of the names the last changes.
func (j *journal) lose(random *rand.Rand) (told string, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	numbers := make([]uint64, 0, len(j.files))
	for number := range j.files {
		numbers = append(numbers, number)
	}
	slices.Sort(numbers)
	writes, lost := 0, 0
	var errs []error
	for _, number := range numbers {
		u := j.files[number]
		kept, n := u.survivors(random)
		writes, lost = writes+len(u.writes), lost+n
		errs = append(errs, u.restore(kept), u.file.Close())
	}
	names := len(j.names)
	keep := random.IntN(names + 1)
	for i := names - 1; i >= 0; i-- {
		if i >= keep {
			errs = append(errs, j.names[i].takeBack(random))
		} else {
			errs = append(errs, j.names[i].last())
		}
	}
	j.files, j.names = map[uint64]*unsynced{}, nil
	return fmt.Sprintf("of %d unsynced writes to %d files %d were lost, of %d changes of names %d", writes, len(numbers), lost, names, names-keep),
		errors.Join(errs...)
}

const sector = 512

// survivors are the writes that reach the disk, and how many do not, or not as a whole.
func (u *unsynced) survivors(random *rand.Rand) (kept []*write, lost int) {
	mode, prefix := random.IntN(3), random.IntN(len(u.writes)+1)
	for i, w := range u.writes {
		switch {
		case w.doomed || mode == 0 || mode == 1 && i >= prefix || mode == 2 && random.IntN(2) == 0:
			lost++
		case mode == 2 && len(w.after) > sector && random.IntN(4) == 0:
			torn := *w
			torn.after = w.after[:sector*(1+random.IntN(len(w.after)/sector))]
			torn.sizeAfter = max(w.sizeBefore, w.offset+int64(len(torn.after)))
			kept = append(kept, &torn)
			lost++
		default:
			kept = append(kept, w)
		}
	}
	return kept, lost
}

// restore brings the file to what it was at its last fsync, and does the surviving writes again.
func (u *unsynced) restore(kept []*write) error {
	var errs []error
	do := func(offset int64, data []byte, size int64) {
		errs = append(errs, u.file.Truncate(size))
		if len(data) > 0 {
			_, err := u.file.WriteAt(data, offset)
			errs = append(errs, err)
		}
	}
	for _, w := range slices.Backward(u.writes) {
		do(w.offset, w.before, w.sizeBefore)
	}
	for _, w := range kept {
		if w.sizeAfter < w.sizeBefore || w.sizeAfter > w.sizeBefore { // the sizes of those in between may differ
			do(w.offset, w.after, w.sizeAfter)
		} else if len(w.after) > 0 {
			_, err := u.file.WriteAt(w.after, w.offset)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
