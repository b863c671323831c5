// Package storage is a node's disk: one write-ahead log for all Raft groups, segments for what outlives a log file,
// checkpoints of the groups' states, and streams that carry both to another node. It knows groups, indexes, terms and
// octets. What entries mean, when to checkpoint and which parts of an entry are alive is told by its caller.
//
// DESIGN.md says why; format.go draws the layouts.
package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/warrenmq/warren/storage/vfs"
)

// What the store's methods fail with.
var (
	ErrNotFound = errors.New("no such entry")
	ErrCorrupt  = errors.New("damaged data")
	ErrDamaged  = errors.New("the group's log is damaged")
	ErrDiskFull = errors.New("no space left for the log")
	ErrClosed   = errors.New("the store is closed")
)

// Options say how the store works. The zero value of a field means its default.
type Options struct {
	Dir         string
	FS          vfs.FS        // default: the real one
	WALFileSize int64         // default 256 MiB
	CacheBytes  int64         // recent entries and what was read back; default 64 MiB
	SegmentSize int64         // default 64 MiB
	KeepFiles   int           // full WAL files kept for followers that lag, default 2
	SyncTimeout time.Duration // an fsync that takes longer is a dead disk; default 10 s
	Logger      *slog.Logger
	// OnFatal is called when a write or fsync fails or hangs: nobody may assume anything about the file, so the process
	// must end. The store does nothing after it. Default: panic.
	OnFatal func(error)
	// OnSync is told how long each fsync of the log took; it must not block. Default: nobody is.
	OnSync func(time.Duration)
}

func (o *Options) setDefaults() {
	if o.FS == nil {
		o.FS = vfs.OS()
	}
	if o.WALFileSize == 0 {
		o.WALFileSize = 256 << 20
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 64 << 20
	}
	if o.SegmentSize == 0 {
		o.SegmentSize = 64 << 20
	}
	if o.KeepFiles == 0 {
		o.KeepFiles = 2
	}
	if o.SyncTimeout == 0 {
		o.SyncTimeout = 10 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.OnSync == nil {
		o.OnSync = func(time.Duration) {}
	}
	if o.OnFatal == nil {
		o.OnFatal = func(err error) { panic(err) }
	}
}

// Store is an open data directory.
type Store struct {
	o    Options
	fs   vfs.FS
	log  *slog.Logger
	id   uint64
	lock io.Closer

	wal   *wal
	cache *cache

	mu     sync.RWMutex // guards groups
	groups map[uint32]*Group
	known  atomic.Int64 // how many there are
	needs  chan []uint32

	stalls Stalls
}

// GroupInfo is what is known of a group.
type GroupInfo struct {
	ID          uint32
	First, Last uint64
	Damaged     error // nil: healthy
}

// Open recovers what the directory holds, or begins an empty one. Damage to a group's log does not fail it: that group
// says so. It fails when the directory is in use, cannot be read, or is of another version.
func Open(o Options) (_ *Store, err error) {
	o.setDefaults()
	s := &Store{o: o, fs: o.FS, log: o.Logger, groups: map[uint32]*Group{}, needs: make(chan []uint32, 1)}
	if err := s.fs.MkdirAll(path.Join(o.Dir, "wal")); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if s.lock, err = s.fs.Lock(path.Join(o.Dir, "LOCK")); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.release())
		}
	}()
	if err := s.readID(); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s.cache = newCache(o.CacheBytes)
	if err := s.openGroups(); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err := s.recoverWAL(); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s.wal.measure()
	go s.wal.run()
	s.giveBackLeft()
	for _, g := range s.sortedGroups() {
		if g.cutShort {
			if err := g.resetAfterCrash(); err != nil {
				s.wal.stop()
				return nil, fmt.Errorf("open store: complete the install into group %d: %w", g.id, err)
			}
		}
	}
	return s, nil
}

// giveBackLeft retires the log files that nobody needs: a crash may have come between what gave them up and that, and what follows may need
// the room. Not while a group is damaged, which pins nothing: what it could not read may be put back.
func (s *Store) giveBackLeft() {
	if !slices.ContainsFunc(s.sortedGroups(), func(g *Group) bool { return g.Damaged() != nil }) {
		s.wal.giveBackFiles()
	}
}

// readID reads the store file, or makes it.
func (s *Store) readID() error {
	name := path.Join(s.o.Dir, "store")
	data, err := readFile(s.fs, name, 64)
	if errors.Is(err, vfs.ErrNotExist) {
		if _, statErr := s.fs.Stat(s.currentName()); !errors.Is(statErr, vfs.ErrNotExist) {
			return fmt.Errorf("there is data, but the file that names the store is missing: %w", errors.Join(err, statErr))
		}
		s.id = rand.Uint64()
		data = append([]byte(storeMagic), 0, 0, 0, 0)
		binary.LittleEndian.PutUint32(data[8:], formatVer)
		data = binary.LittleEndian.AppendUint64(data, s.id)
		return writeFile(s.fs, name, binary.LittleEndian.AppendUint32(data, checksum(0, data)))
	}
	if err != nil {
		return err
	}
	if s.id, err = parseNumberFile(data, storeMagic); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// parseNumberFile reads a small file of magic, version, number and crc.
func parseNumberFile(data []byte, magic string) (uint64, error) {
	le := binary.LittleEndian
	if len(data) != 24 || string(data[:8]) != magic || le.Uint32(data[20:]) != checksum(0, data[:20]) {
		return 0, ErrCorrupt
	}
	if v := le.Uint32(data[8:]); v != formatVer {
		return 0, fmt.Errorf("format version %d; this program knows %d", v, formatVer)
	}
	return le.Uint64(data[12:]), nil
}

// openGroups reads the groups' directories. What is no group's is put aside, never deleted.
func (s *Store) openGroups() error {
	if err := s.fs.SyncDir(s.o.Dir); err != nil {
		return err
	}
	names, err := s.fs.ReadDir(s.o.Dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		info, err := s.fs.Stat(path.Join(s.o.Dir, name))
		if err != nil {
			return err
		}
		if !info.IsDir || name == "wal" || strings.HasPrefix(name, "quarantine-") {
			continue
		}
		number, isGroup := strings.CutPrefix(name, "group-")
		id, err := strconv.ParseUint(number, 10, 32)
		if !isGroup || err != nil {
			if err := s.quarantine(name); err != nil {
				return err
			}
			continue
		}
		g := newGroup(s, uint32(id))
		s.groups[g.id] = g
		if err := g.open(); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) quarantine(name string) error {
	to := fmt.Sprintf("quarantine-%s-%x", name, rand.Uint64())
	s.log.Warn("unknown directory put aside", "name", name, "to", to)
	if err := s.fs.Rename(path.Join(s.o.Dir, name), path.Join(s.o.Dir, to)); err != nil {
		return err
	}
	return s.fs.SyncDir(s.o.Dir)
}

// Group returns a group, which is made when it is new.
func (s *Store) Group(id uint32) (*Group, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.groups[id]; g != nil {
		return g, nil
	}
	g := newGroup(s, id)
	if err := s.fs.MkdirAll(g.dir); err != nil {
		return nil, fmt.Errorf("make group %d: %w", id, err)
	}
	if err := s.fs.SyncDir(s.o.Dir); err != nil {
		return nil, fmt.Errorf("make group %d: %w", id, err)
	}
	s.groups[id] = g
	return g, nil
}

// sortedGroups are the groups by id.
func (s *Store) sortedGroups() []*Group {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var list []*Group
	for _, id := range slices.Sorted(maps.Keys(s.groups)) {
		list = append(list, s.groups[id])
	}
	return list
}

// Groups tells what there is.
func (s *Store) Groups() []GroupInfo {
	var list []GroupInfo
	for _, g := range s.sortedGroups() {
		list = append(list, GroupInfo{ID: g.id, First: g.FirstIndex(), Last: g.LastIndex(), Damaged: g.Damaged()})
	}
	return list
}

// NeedsCheckpoint gives the groups that keep the oldest WAL files from retiring. A list that was not taken is replaced by
// a newer one.
func (s *Store) NeedsCheckpoint() <-chan []uint32 { return s.needs }

// Probe makes a small write that means nothing, and returns when it is on the disk, or was refused: whoever has nothing else to write finds
// out by it whether the disk hangs.
func (s *Store) Probe() error {
	defer s.stalls.Watch(s.o.SyncTimeout, func() {}).Stop()
	f, err := s.fs.Create(path.Join(s.o.Dir, "probe"))
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte{0}, 0)
	return errors.Join(err, f.Sync(), f.Close())
}

// maxRecord bounds an entry with what it takes beside its data.
func (s *Store) maxRecord() int64 { return s.o.WALFileSize / 2 }

// MaxEntry is the longest data that an entry may have, in octets.
func (s *Store) MaxEntry() int64 { return s.maxRecord()&^(align-1) - recordSize }

// Stalled tells whether a write to the disk takes long: see StallTime.
func (s *Store) Stalled() bool { return s.stalls.Any() }

// Close ends the store after what waits has been written.
func (s *Store) Close() error {
	s.wal.stop()
	for _, g := range s.sortedGroups() {
		g.mu.Lock()
		g.dropTrails()
		g.mu.Unlock()
		g.working.Lock() // what is under way ends, and nothing begins any more
		defer g.working.Unlock()
	}
	return s.release()
}

// release closes all files, those of a store that could not be opened as well, and gives the lock back.
func (s *Store) release() error {
	var errs []error
	if s.wal != nil {
		errs = append(errs, s.wal.closeFiles())
	}
	for _, g := range s.sortedGroups() {
		errs = append(errs, g.close())
	}
	return errors.Join(append(errs, s.lock.Close())...)
}

// readFile reads a small file whole.
func readFile(fs vfs.FS, name string, limit int64) ([]byte, error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err == nil && size > limit {
		err = fmt.Errorf("%s: %d octets, more than %d: %w", name, size, limit, ErrCorrupt)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	data := make([]byte, size)
	if _, err := f.ReadAt(data, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.Join(err, f.Close())
	}
	return data, f.Close()
}

// writeFile writes a file so that its name leads to the old or the new content, never to a mix.
func writeFile(fs vfs.FS, name string, data []byte) error {
	aside := name + ".new"
	f, err := fs.Create(aside)
	if err != nil {
		return diskFull(err)
	}
	if _, err := f.WriteAt(data, 0); err != nil {
		return diskFull(errors.Join(err, f.Close()))
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return diskFull(err)
	}
	if err := fs.Rename(aside, name); err != nil {
		return err
	}
	return fs.SyncDir(path.Dir(name))
}
