package storage

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warrenmq/warren/storage/vfs"
)

// wal is the write-ahead log of the store. One goroutine writes: it takes everything that waits, writes it as one batch
// and syncs once.
type wal struct {
	s    *Store
	dir  string
	wake chan struct{} // has room for one
	done chan struct{} // closed when the writer has ended

	background sync.WaitGroup // what the writer has begun beside itself

	mu      sync.Mutex // guards what follows, up to failed
	waiting []*request
	queued  int64 // what the requests that are not answered may take
	room    int64 // left in the newest file
	closed  bool
	failed  bool // OnFatal has been called

	filesMu sync.RWMutex // guards files, and their retired and readers
	files   []*walFile   // by number; the last one is written to

	spareMu sync.Mutex // guards spares: held while one is prepared
	spares  spares
	short   atomic.Bool   // there is no spare, and no room on the disk for one
	again   atomic.Bool   // one is being reserved for Full
	wanted  atomic.Int32  // who waits for spareMu
	hurry   chan struct{} // has room for one: somebody has begun to wait

	// The writer's own.
	newest    *walFile
	tail      int64 // where the next batch goes
	buf       []byte
	dirty     bool      // something was written since the last mark
	filling   bool      // the next file was or is filled, or is not to be
	begun     time.Time // when the newest file was
	fillBelow int64     // see fillBelow

	// Room that is used again for each batch.
	named []uint32
	batch []placed
	items []cached
}

// walFile is one file of the log.
type walFile struct {
	number  uint64
	f       vfs.File
	seed    uint32
	begin   int64 // where the first batch is
	size    int64 // what is reserved
	readers int   // streams that read from it
	retired bool  // out of the list; closed with the last reader
}

// request is records of one group that wait to be durable: entries, or one of another kind.
type request struct {
	group   *Group
	entries []Entry
	other   record // when there are no entries
	next    int    // records before it are written
	whole   int64  // what it takes of a file behind the front of its first batch, at most
	takes   int64  // and with that
	done    chan error
}

// early tells whether nobody waits for the answer.
func (r *request) early() bool { return r.done == nil }

func (r *request) len() int { return max(len(r.entries), 1) }

// record is the record at a place, without its checksums.
func (r *request) record(i int) record {
	if len(r.entries) == 0 {
		return r.other
	}
	e := &r.entries[i]
	return record{kind: kindEntry, typ: e.Type, group: r.group.id, index: e.Index, term: e.Term, time: e.AppendedAt,
		data: e.Data, exts: e.Extensions, dataLen: uint32(len(e.Data)), extLen: uint32(len(e.Extensions))}
}

// errFailed ends the writer after somebody else has called die.
var errFailed = errors.New("the write-ahead log has failed")

const (
	// maxBatch bounds a batch, unless one record is larger.
	maxBatch = 4 << 20
	// fullPause is waited between two looks for space.
	fullPause = 100 * time.Millisecond
	// keepBuffer is the largest write buffer that is kept.
	keepBuffer = 8 << 20
)

func (w *wal) walName(number uint64) string {
	return path.Join(w.dir, fmt.Sprintf("%016x.wal", number))
}

// submit queues records and waits until they are durable, as all of the group before them are then.
func (w *wal) submit(g *Group, entries []Entry, other record) error {
	if err := g.Settle(); err != nil {
		return err
	}
	r := &request{group: g, entries: entries, other: other, done: make(chan error, 1)}
	if !w.queue(r) {
		return ErrClosed
	}
	return <-r.done
}

// submitEarly queues entries that nobody waits for. It returns false when they might not fit into the newest file: for the next one
// there may be no room on the disk, and who has not waited cannot be told.
func (w *wal) submitEarly(g *Group, entries []Entry) bool {
	return w.queue(&request{group: g, entries: entries})
}

// queue queues a request; false: it is not taken.
func (w *wal) queue(r *request) bool {
	for i := range r.len() {
		rec := r.record(i)
		r.whole += int64(rec.size())
	}
	// It may be alone in its batch, whose front names the groups of all that wait. If it has several records it may go over the batch's end,
	// and of those that follow each two have more than the most of one.
	front := int64(padded(batchHeaderSize + 4*int(w.s.known.Load())))
	if r.len() > 1 {
		r.whole += (1 + 2*r.whole/maxBatch) * front
	}
	r.takes = front + r.whole
	w.mu.Lock()
	if w.closed || r.early() && w.queued+r.takes > w.room {
		w.mu.Unlock()
		return false
	}
	w.waiting = append(w.waiting, r)
	w.queued += r.takes
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
	return true
}

// answer tells what became of a request.
func (w *wal) answer(r *request, err error) {
	w.mu.Lock()
	w.queued -= r.takes
	w.mu.Unlock()
	if r.early() {
		r.group.early.answer(len(r.entries), err)
		return
	}
	r.done <- err
}

// measure notes how much room the newest file has.
func (w *wal) measure() {
	w.mu.Lock()
	w.room = w.newest.size - w.tail
	w.mu.Unlock()
}

// run writes until close.
func (w *wal) run() {
	defer close(w.done)
	w.background.Go(w.prepareSpare)
	for range w.wake {
		for {
			w.mu.Lock()
			batch, closed := w.waiting, w.closed
			w.waiting = nil
			w.mu.Unlock()
			if len(batch) == 0 {
				if closed {
					w.end()
					return
				}
				break
			}
			if unanswered, err := w.writeAll(batch); err != nil {
				w.mu.Lock()
				w.waiting = append(unanswered, w.waiting...)
				w.mu.Unlock()
				w.die(err)
				return
			}
		}
		if err := w.mark(); err != nil {
			w.die(err)
			return
		}
	}
}

// end makes the note durable that everything is: after an orderly end nothing of the log can be taken for a torn write.
func (w *wal) end() {
	w.mu.Lock()
	failed := w.failed
	w.mu.Unlock()
	if failed {
		return
	}
	err := w.mark()
	if err == nil {
		err = w.watched(func() error { return w.sync(w.current()) })
	}
	if err != nil {
		w.die(err)
	}
}

// die reports, once, a write that nobody knows the outcome of. Those who wait for it wait until the store is closed: the
// process is to end.
func (w *wal) die(err error) {
	w.mu.Lock()
	already := w.failed
	w.closed, w.failed = true, true
	w.mu.Unlock()
	if !already {
		w.s.o.OnFatal(fmt.Errorf("write-ahead log: %w", err))
	}
}

// stop ends the writer after what waits has been written.
func (w *wal) stop() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
	<-w.done
	w.mu.Lock()
	left := w.waiting
	w.waiting = nil
	w.mu.Unlock()
	for _, r := range left {
		w.answer(r, fmt.Errorf("%w after it failed: whether the records are durable is not known", ErrClosed))
	}
	w.background.Wait()
}

func (w *wal) closeFiles() error {
	w.filesMu.Lock()
	defer w.filesMu.Unlock()
	var errs []error
	for _, f := range w.files {
		errs = append(errs, f.f.Close())
	}
	return errors.Join(append(errs, w.closeSpares())...)
}

// current is the file that is written to. Only the writer asks: the list changes under it when files retire.
func (w *wal) current() *walFile { return w.newest }

// placed is a record in the batch under way, and where in the file it goes.
type placed struct {
	r      *request
	record int
	at     int64
}

// writeAll makes the requests durable, in as many batches as the files need. A full disk and a record that fits into no
// file are answered; any other failure is returned with the requests that are not answered, and fatal.
func (w *wal) writeAll(requests []*request) ([]*request, error) {
	for len(requests) > 0 {
		batch := w.build(requests)
		if len(batch) == 0 {
			answered, err := w.makeRoom(requests[0])
			if err != nil {
				return requests, err
			}
			if answered {
				requests = requests[1:]
			}
			continue
		}
		if err := w.write(batch); err != nil {
			return requests, err
		}
		for len(requests) > 0 && requests[0].next == requests[0].len() {
			w.answer(requests[0], nil)
			requests = requests[1:]
		}
	}
	if cap(w.buf) > keepBuffer {
		w.buf = nil
	}
	return nil, nil
}

// makeRoom changes to the next file for a request that does not fit, or answers the request with the reason why not.
func (w *wal) makeRoom(r *request) (answered bool, err error) {
	rec := r.record(r.next)
	if w.tail == w.current().begin && w.current().size >= w.s.o.WALFileSize {
		w.answer(r, fmt.Errorf("a record of %d octets fits into no log file of %d", rec.size(), w.s.o.WALFileSize))
		return true, nil
	}
	err = w.rotate()
	if !errors.Is(err, ErrDiskFull) {
		return false, err
	}
	w.s.log.Error("no space for the next log file", "err", err)
	if w.isClosed() {
		err = fmt.Errorf("%w: %w", ErrClosed, err)
	} else if r.next > 0 || r.early() {
		// A part is durable, or was taken, so neither yes nor no would be true. It waits until there is space.
		time.Sleep(fullPause)
		return false, nil
	}
	w.answer(r, err)
	return true, nil
}

// build puts records into the buffer behind room for the batch's header, as many as fit, and chains them.
func (w *wal) build(requests []*request) []placed {
	header := batchHeader{groups: w.named[:0]}
	for i, r := range requests {
		if len(header.groups) == maxBatchGroups {
			requests = requests[:i]
			break
		}
		if !slices.Contains(header.groups, r.group.id) {
			header.groups = append(header.groups, r.group.id)
		}
	}
	w.named = header.groups
	front := header.size()
	w.buf = slices.Grow(w.buf[:0], front)[:front]
	w.batch = w.batch[:0]
	for _, r := range requests {
		if r.next == 0 && !w.mayBegin(r) {
			break
		}
		for i := r.next; i < r.len(); i++ {
			rec := r.record(i)
			size := int64(len(w.buf) + rec.size())
			if w.tail+size > w.current().size || size > maxBatch && len(w.batch) > 0 {
				return w.finish(w.batch, &header, front)
			}
			w.batch = append(w.batch, placed{r, i, w.tail + int64(len(w.buf))})
			rec.prev = r.group.chain
			w.buf = rec.append(w.buf, w.current().seed)
			r.group.chain = rec.crc
		}
	}
	return w.finish(w.batch, &header, front)
}

// mayBegin tells whether a request may begin behind what is in the buffer: all of it fits into the file. A part of it that is durable could
// not be taken back, and if there is no room on the disk for the next file, it would wait, and everybody with it, for what may be given
// back by one of those alone. Only what is larger than a file goes over its end.
func (w *wal) mayBegin(r *request) bool {
	f := w.current()
	empty := w.tail == f.begin && len(w.batch) == 0 && f.size >= w.s.o.WALFileSize
	return empty || r.whole > w.s.o.WALFileSize || w.tail+int64(len(w.buf))+r.whole <= f.size
}

func (w *wal) finish(batch []placed, header *batchHeader, front int) []placed {
	header.length, header.durable = uint32(len(w.buf)-front), uint64(w.tail)
	header.put(w.buf, w.current().seed)
	return batch
}

// write writes and syncs the batch in the buffer, and tells the groups.
func (w *wal) write(batch []placed) error {
	f := w.current()
	if err := w.watched(func() error {
		if _, err := f.f.WriteAt(w.buf, w.tail); err != nil {
			return fmt.Errorf("write %s: %w", w.walName(f.number), err)
		}
		return w.sync(f)
	}); err != nil {
		return err
	}
	w.tail += int64(len(w.buf))
	w.measure()
	w.dirty = true
	if !w.filling && w.tail > f.size/fillAfter {
		w.filling = true
		if float64(w.tail) < float64(w.fillBelow)*time.Since(w.begun).Seconds() {
			w.background.Go(w.fillSpare)
		}
	}
	items := w.items[:0]
	for i := 0; i < len(batch); {
		g := batch[i].r.group
		n := i + 1
		for n < len(batch) && batch[n].r.group == g {
			n++
		}
		items = g.written(f, batch[i:n], items)
		i = n
	}
	w.s.cache.add(items...)
	clear(items)
	clear(batch)
	w.items = items
	return nil
}

// sync is an fsync that OnSync is told of.
func (w *wal) sync(f *walFile) error {
	began := time.Now()
	err := f.f.Sync()
	w.s.o.OnSync(time.Since(began))
	if err != nil {
		return fmt.Errorf("sync %s: %w", w.walName(f.number), err)
	}
	return nil
}

// watched does something to the disk with a watchdog: a disk that hangs is a dead disk. A write may hang as well as an fsync, where
// the file system waits for its journal.
func (w *wal) watched(work func() error) error { return w.watchedBy(w.s.stalls.Watch, work) }

// watchedAside is watched for what the log does not wait for, as a rule: it may take seconds without anybody noticing. Who does wait counts
// by himself (takeSpare).
func (w *wal) watchedAside(work func() error) error { return w.watchedBy(Watch, work) }

func (w *wal) watchedBy(watch func(time.Duration, func()) *Watchdog, work func() error) error {
	watchdog := watch(w.s.o.SyncTimeout, func() {
		w.die(fmt.Errorf("a write or an fsync takes longer than %v", w.s.o.SyncTimeout))
	})
	err := work()
	if !watchdog.Stop() {
		return errors.Join(errFailed, err)
	}
	return err
}

// mark notes at the end of the log, when nothing waits, that everything before is durable. The note is not synced: it
// tells damage from a torn write after the process was killed, and the next batch takes its place.
func (w *wal) mark() error {
	if !w.dirty {
		return nil
	}
	w.dirty = false
	header := batchHeader{durable: uint64(w.tail)}
	if w.tail+int64(header.size()) > w.current().size {
		return nil
	}
	b := make([]byte, header.size())
	header.put(b, w.current().seed)
	return w.watched(func() error {
		_, err := w.current().f.WriteAt(b, w.tail)
		return err
	})
}
