package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/warrenmq/warren/storage/vfs"
)

func (s *Store) currentName() string { return path.Join(s.o.Dir, "wal", "CURRENT") }

func (s *Store) writeCurrent(number uint64) error {
	data := append([]byte(currentMagic), 0, 0, 0, 0)
	binary.LittleEndian.PutUint32(data[8:], formatVer)
	data = binary.LittleEndian.AppendUint64(data, number)
	return writeFile(s.fs, s.currentName(), binary.LittleEndian.AppendUint32(data, checksum(0, data)))
}

// recoverWAL reads the log from its oldest file on and finds its end.
//
// What is not as it was written is either the end of the log, torn by a crash before anybody was told that it is durable,
// or damage. It is the end only if nothing valid follows it in its file, its file is the newest, and no mark says that it
// had been durable. Anything else damages the groups that may have had something there, unless a later record of theirs
// or the header of the next file proves that they lost nothing.
func (s *Store) recoverWAL() error {
	s.wal = &wal{s: s, fillBelow: fillBelow, dir: path.Join(s.o.Dir, "wal"), wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1), done: make(chan struct{})}
	if err := s.fs.SyncDir(s.wal.dir); err != nil {
		return err
	}
	numbers, err := s.walNumbers()
	if err != nil {
		return err
	}
	data, err := readFile(s.fs, s.currentName(), 64)
	if errors.Is(err, vfs.ErrNotExist) {
		fresh, freshErr := s.fresh(numbers)
		if freshErr != nil {
			return freshErr
		}
		if fresh {
			return s.firstFile()
		}
	}
	if err != nil {
		return fmt.Errorf("there are groups or files of the log, but what names the log's newest file is missing: %w", err)
	}
	current, err := parseNumberFile(data, currentMagic)
	if err != nil {
		return fmt.Errorf("%s: %w", s.currentName(), err)
	}
	r := &recovery{s: s, suspects: map[uint32]string{}, needs: map[uint32]uint64{}, missing: map[uint32]string{}}
	newest, err := r.files(numbers, current)
	if err != nil {
		return err
	}
	return r.finish(numbers, newest)
}

// walNumbers lists the files of the log, and takes up spares.
func (s *Store) walNumbers() (map[uint64]bool, error) {
	names, err := s.fs.ReadDir(s.wal.dir)
	if err != nil {
		return nil, err
	}
	numbers := map[uint64]bool{}
	for _, name := range names {
		text, ok := strings.CutSuffix(name, ".wal")
		n, err := strconv.ParseUint(text, 16, 64)
		switch {
		case ok && err == nil && s.wal.walName(n) == path.Join(s.wal.dir, name):
			numbers[n] = true
		case isSpareName(name):
			if err := s.wal.adopt(name); err != nil {
				return nil, err
			}
		case strings.HasSuffix(name, ".new"):
			if err := s.fs.Remove(path.Join(s.wal.dir, name)); err != nil {
				return nil, err
			}
		}
	}
	return numbers, nil
}

// fresh tells whether nothing was ever appended, though perhaps the first file was begun when the process or the power went. A group's
// directory is made when CURRENT is durable: where there is one, an empty log has been lost, or is on a disk that is not mounted.
func (s *Store) fresh(numbers map[uint64]bool) (bool, error) {
	if len(s.groups) > 0 || len(numbers) > 1 || len(numbers) == 1 && !numbers[1] {
		return false, nil
	}
	if len(numbers) == 0 {
		return true, nil
	}
	used, err := (&recovery{s: s}).used(1)
	return !used, err
}

func (s *Store) firstFile() error {
	if err := s.wal.closeSpares(); err != nil { // one that an earlier first start has left is made anew
		return err
	}
	size := min(firstSize, s.o.WALFileSize)
	first, err := s.wal.reserve(s.wal.spareName(0), size)
	if err != nil {
		return err
	}
	f := first.f
	if err := s.wal.fill(f, 0, size); err != nil {
		return diskFull(errors.Join(err, f.Close()))
	}
	if err := s.fs.Rename(s.wal.spareName(0), s.wal.walName(1)); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := s.wal.begin(1, f); err != nil {
		return errors.Join(err, f.Close())
	}
	return nil
}

// next begins a file behind all that there are, while the store is opened.
func (w *wal) next(number uint64) error {
	taken, err := w.takeSpare(w.walName(number))
	if err != nil {
		return err
	}
	if err := w.begin(number, taken.f); err != nil {
		return errors.Join(err, taken.f.Close())
	}
	return nil
}

// recovery is what is known while the log is read.
type recovery struct {
	s        *Store
	suspects map[uint32]string // groups that may have lost something, and where
	needs    map[uint32]uint64 // groups whose log stands on an installed checkpoint, and its index
	missing  map[uint32]string // groups with entries before the oldest file that are needed, unless they turn out to be truncated
	last     bool              // the newest file is being read
	at, end  int64             // where the last batch of the file that was read last is
	doubt    bool              // something is wrong with the newest file
}

// files reads the files up to the newest, which it returns. That is the one that CURRENT names, unless CURRENT is older than the log: a file
// is used only after CURRENT has named it, durably. Then others that were used may be missing without a trace.
func (r *recovery) files(numbers map[uint64]bool, current uint64) (newest uint64, err error) {
	newest = current
	for n := range numbers {
		if n <= newest {
			continue
		}
		if used, err := r.used(n); err != nil {
			return 0, err
		} else if used { // or its beginning was cut short
			newest = n
		}
	}
	oldest := newest
	for numbers[oldest-1] {
		oldest--
	}
	for n := range numbers {
		if n < oldest {
			// A hole: what is before it is of no use without what was in it.
			r.suspectAll(fmt.Sprintf("log files between %x and %x are missing", n, oldest))
		}
	}
	for n := oldest; n <= newest && numbers[n]; n++ {
		if err := r.file(n, n == oldest, n == newest); err != nil {
			return 0, err
		}
	}
	if !numbers[newest] {
		r.suspectAll(fmt.Sprintf("log file %x is missing", newest))
	}
	if newest > current {
		r.suspectAll(fmt.Sprintf("log file %x was used, but CURRENT is older and names %x", newest, current))
	}
	return newest, nil
}

func (r *recovery) suspectAll(why string) {
	r.doubt = r.doubt || r.last
	for _, g := range r.s.sortedGroups() {
		r.suspect(g.id, why)
	}
	// Groups that have no directory cannot be named; a group without directory has nothing to lose.
}

func (r *recovery) suspect(group uint32, why string) {
	r.doubt = r.doubt || r.last
	if r.suspects[group] == "" {
		r.suspects[group] = why
	}
}

// group returns a group by the number in a record or header.
func (r *recovery) group(id uint32) *Group {
	if g := r.s.groups[id]; g != nil {
		return g
	}
	g := newGroup(r.s, id)
	r.s.groups[id] = g
	g.unreadable = true // a reset in the log does not bring the directory back
	g.damage("its directory is missing")
	return g
}

// file reads one file.
func (r *recovery) file(number uint64, oldest, newest bool) error {
	name := r.s.wal.walName(number)
	f, err := r.s.fs.Open(name)
	if err != nil {
		return err
	}
	size, err := f.Size()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	r.last = newest
	wf := &walFile{number: number, f: f, seed: seedOf(r.s.id, number), size: size}
	r.s.wal.files = append(r.s.wal.files, wf)
	if err = r.header(wf, oldest); err != nil {
		if !errors.Is(err, ErrCorrupt) {
			return fmt.Errorf("%s: %w", name, err)
		}
		r.suspectAll(fmt.Sprintf("%s: %s", name, err))
		// Where the batches begin is not known; the first one is looked for.
		wf.begin = int64(padded(walHeaderSize))
	}
	end, marked, err := r.batches(wf, size)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if wf.size > size && !marked {
		r.suspectAll(fmt.Sprintf("%s has %d octets of %d", name, size, wf.size))
	}
	if newest {
		r.s.wal.tail = end
	}
	return nil
}

// batches reads the batches of a file and returns where they end, and whether a mark is there.
func (r *recovery) batches(f *walFile, size int64) (end int64, marked bool, err error) {
	r.at, r.end = 0, 0
	for at := f.begin; ; {
		h, ok, err := r.peek(f, at, size)
		if err != nil || ok && h.length == 0 {
			return at, ok, err // a mark: nothing comes behind it
		}
		if ok {
			next, whole, err := r.batch(f, h, at, size)
			if err != nil {
				return at, false, err
			}
			if whole {
				r.at, r.end = at, next
				at = next
				continue
			}
		}
		next, found, err := r.find(f, at+align, size)
		if err != nil || !found {
			return at, false, err // the end: what is here was never whole
		}
		if ok {
			for _, id := range h.groups {
				r.suspect(id, fmt.Sprintf("the batch at %d of log file %x does not match its checksums", at, f.number))
			}
		} else {
			r.suspectAll(fmt.Sprintf("log file %x cannot be read from %d to %d", f.number, at, next))
		}
		at = next
	}
}

// header reads a file's header and compares its watermark with what was read before.
func (r *recovery) header(wf *walFile, oldest bool) error {
	le := binary.LittleEndian
	b := make([]byte, walHeaderSize)
	if err := readFull(wf.f, b, 0); err != nil {
		return err
	}
	if string(b[:8]) != walMagic || le.Uint32(b[walHeaderSize-4:]) != checksum(0, b[:walHeaderSize-4]) {
		return fmt.Errorf("%w: the header", ErrCorrupt)
	}
	if v := le.Uint32(b[8:]); v != formatVer {
		return fmt.Errorf("format version %d; this program knows %d", v, formatVer)
	}
	if le.Uint64(b[16:]) != r.s.id || le.Uint64(b[24:]) != wf.number {
		return fmt.Errorf("%w: the file of another store or number", ErrCorrupt)
	}
	n := int64(le.Uint32(b[12:]))
	if n*watermarkSize > wf.size {
		return fmt.Errorf("%w: the watermark", ErrCorrupt)
	}
	marks := make([]byte, n*watermarkSize+4)
	if err := readFull(wf.f, marks, walHeaderSize); err != nil {
		return err
	}
	list := marks[:n*watermarkSize]
	if le.Uint32(marks[len(list):]) != checksum(0, list) {
		return fmt.Errorf("%w: the watermark", ErrCorrupt)
	}
	for ; len(list) > 0; list = list[watermarkSize:] {
		r.watermark(le.Uint32(list), watermark{le.Uint32(list[4:]), le.Uint64(list[8:]), le.Uint64(list[16:])}, oldest, wf.number)
	}
	wf.begin, wf.size = int64(padded(walHeaderSize+len(marks))), int64(le.Uint64(b[32:]))
	return nil
}

// watermark compares what a group's log has come to with what it must.
func (r *recovery) watermark(id uint32, mark watermark, oldest bool, number uint64) {
	g := r.group(id)
	g.reset = mark.reset
	if mark.last == poisoned {
		g.damage("it was damaged before log file %x", number)
		g.chain, g.tail = mark.chain, 0
		delete(r.suspects, id)
		return
	}
	if oldest {
		if mark.last > g.floor {
			r.missing[id] = fmt.Sprintf("the log begins at file %x, after entry %d; entries above %d are needed", number, mark.last, g.floor)
		}
		g.chain, g.tail = mark.chain, mark.last
		delete(r.suspects, id)
		return
	}
	if g.chain != mark.chain || g.tail != mark.last {
		g.damage("before log file %x its log ended at %d, but only what ends at %d is there: %s", number, mark.last, g.tail, r.suspects[id])
		g.chain, g.tail = mark.chain, mark.last
	}
	delete(r.suspects, id)
}

// peek reads the header of a batch at an offset; false when there is none.
func (r *recovery) peek(f *walFile, at, size int64) (batchHeader, bool, error) {
	head := make([]byte, min(max(size-at, 0), 1<<10))
	if len(head) < batchHeaderSize {
		return batchHeader{}, false, nil
	}
	if err := readFull(f.f, head, at); err != nil {
		return batchHeader{}, false, err
	}
	if n := padded(batchHeaderSize + 4*int(binary.LittleEndian.Uint16(head[16:]))); n > len(head) && int64(n) <= size-at {
		head = make([]byte, n)
		if err := readFull(f.f, head, at); err != nil {
			return batchHeader{}, false, err
		}
	}
	h, ok := parseBatch(head, f.seed)
	return h, ok && h.durable == uint64(at), nil
}

// batch reads the records of a batch; whole is false when they are not what was written.
func (r *recovery) batch(f *walFile, h batchHeader, at, size int64) (end int64, whole bool, err error) {
	start := at + int64(h.size())
	end = start + int64(h.length)
	if end > size {
		return 0, false, nil
	}
	records := make([]byte, h.length)
	if err := readFull(f.f, records, start); err != nil {
		return 0, false, err
	}
	all, ok := splitRecords(records, f.seed)
	if !ok {
		return 0, false, nil
	}
	for i := range all {
		r.record(f, &all[i], start)
		start += int64(all[i].size())
	}
	return end, true, nil
}

// splitRecords checks every record of a batch.
func splitRecords(b []byte, seed uint32) ([]record, bool) {
	var all []record
	for len(b) > 0 {
		if len(b) < recordSize {
			return nil, false
		}
		rec := parseRecord(b)
		if !rec.valid(b, seed) || rec.size() > len(b) {
			return nil, false
		}
		all = append(all, rec)
		b = b[rec.size():]
	}
	return all, true
}

func (r *recovery) record(f *walFile, rec *record, at int64) {
	g := r.group(rec.group)
	if rec.kind == kindReset && !g.unreadable {
		// From here on the group's log stands on a snapshot or on nothing; what was before does not matter.
		g.damaged = nil
		delete(r.needs, g.id)
		delete(r.missing, g.id)
		if rec.index != 0 {
			r.needs[g.id] = rec.index
		}
	} else if rec.prev != g.chain {
		g.damage("records before %d of log file %x are missing: %s", at, f.number, r.suspects[g.id])
	}
	delete(r.suspects, g.id)
	g.chain = rec.crc
	if g.damaged != nil {
		return
	}
	if rec.kind == kindEntry && g.last != 0 && rec.index != g.last+1 {
		g.damage("entry %d at %d of log file %x does not follow %d", rec.index, at, f.number, g.last)
		return
	}
	if rec.kind == kindTruncate && rec.index <= g.floor+1 {
		delete(r.missing, g.id)
	}
	g.note(f, rec, at)
}

// find looks for the next batch or mark from an offset on: proof that what is before it had been durable.
func (r *recovery) find(f *walFile, from, size int64) (at int64, found bool, err error) {
	const window = 1 << 20
	buf := make([]byte, min(window+maxBatchHeader, max(size-from, 0)))
	for base := from; base < size; base += window {
		n := min(int64(len(buf)), size-base)
		if err := readFull(f.f, buf[:n], base); err != nil {
			return 0, false, err
		}
		for i := int64(0); i < min(window, n-batchHeaderSize+1); i += align {
			if binary.LittleEndian.Uint32(buf[i:]) != batchMagic {
				continue
			}
			if h, ok := parseBatch(buf[i:n], f.seed); ok && h.durable == uint64(base+i) {
				return base + i, true, nil
			}
		}
	}
	return 0, false, nil
}

// used tells whether a batch or a mark is in a file of the log: CURRENT has named it then.
func (r *recovery) used(number uint64) (bool, error) {
	f, err := r.s.fs.Open(r.s.wal.walName(number))
	if err != nil {
		return false, err
	}
	found := false
	size, err := f.Size()
	if err == nil {
		_, found, err = r.find(&walFile{number: number, f: f, seed: seedOf(r.s.id, number)}, 0, size)
	}
	return found, errors.Join(err, f.Close())
}

// judge damages the groups that something is missing of when all has been read.
func (r *recovery) judge() {
	for _, g := range r.s.sortedGroups() {
		if why := r.suspects[g.id]; why != "" {
			g.damage("what it had there is not known: %s", why)
		}
		if why := r.missing[g.id]; why != "" && !g.installing() {
			g.damage("%s", why)
		}
		if need := r.needs[g.id]; need > 0 && (g.checkpoint == nil || g.checkpoint.Index < need) {
			g.damage("its log stands on an installed checkpoint at %d, which is not there", need)
		}
	}
}

// installing tells whether the group's checkpoint is that of an install that the log has not come to. Nothing needs what the log has of the
// group then, and its files may have retired.
func (g *Group) installing() bool {
	return g.checkpoint != nil && g.checkpoint.install != 0 && g.reset == g.checkpoint.reset
}

// complete brings an install or a discard to its end that a crash cut short between the group's directory and its log.
func (r *recovery) complete(g *Group) error {
	switch c := g.checkpoint; {
	case g.installing():
		g.mu.Lock()
		g.locs, g.base, g.first, g.last = nil, 0, 0, 0
		g.mu.Unlock()
		g.cutShort = true // and Open writes the reset
		return nil
	case g.reset == c.reset || g.reset == c.install:
		return nil
	default:
		return g.emptied()
	}
}

// settle makes durable what was read of the newest file. Its last batch may have been written by a process that was killed before it had
// synced it, or that ended because it could not: then the disk may lack what memory still has, and a sync alone, of pages that count as
// written, would do nothing. So that batch is written once more.
func (r *recovery) settle(f vfs.File) error {
	if n := r.end - r.at; n > 0 {
		b := make([]byte, n)
		if err := readFull(f, b, r.at); err != nil {
			return err
		}
		if _, err := f.WriteAt(b, r.at); err != nil {
			return err
		}
	}
	return f.Sync()
}

// finish ends the recovery: whoever is still suspected is damaged, and what was cut short is completed.
func (r *recovery) finish(numbers map[uint64]bool, newest uint64) error {
	r.judge()
	damaged := false
	for _, g := range r.s.sortedGroups() {
		if g.Damaged() == nil && g.checkpoint != nil {
			if err := r.complete(g); err != nil {
				return err
			}
		}
		damaged = damaged || g.Damaged() != nil
	}
	files := r.s.wal.files
	if !damaged {
		// Files before a hole have retired, and a power cut brought their names back.
		for n := range numbers {
			if len(files) > 0 && n < files[0].number {
				if err := r.s.fs.Remove(r.s.wal.walName(n)); err != nil {
					return err
				}
			}
		}
	}
	if len(files) == 0 || files[len(files)-1].number != newest {
		// The newest file has gone: a new one goes on after it. The numbers have no gap among the files that are kept: what is before the
		// hole serves no healthy group.
		r.s.wal.files = nil
		for _, old := range files {
			if err := old.f.Close(); err != nil {
				return err
			}
		}
		return r.s.wal.next(newest + 1)
	}
	r.s.wal.newest = files[len(files)-1]
	if err := r.settle(files[len(files)-1].f); err != nil {
		return err
	}
	if !r.doubt {
		return nil
	}
	// A new file says for good who is damaged; what is wrong here could be mended by what is written behind it.
	return r.s.wal.next(newest + 1)
}
