package sim

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/warrenmq/warren/storage/vfs"
)

// disk is a node's: the store's files are in memory, with what a power cut would leave of them; the votes, the catalog's log and
// snapshots are real files, since the libraries that write them want those. Each run of the node has copies of its own: a run
// that is dead goes on with those until its goroutines have ended, and a later one sees nothing of it.
type disk struct {
	root string // of the real files
	runs int
	mem  *vfs.Mem
	dir  string
}

// newDisk makes an empty disk; root is a directory for its real files.
func newDisk(root string) *disk {
	d := &disk{root: root}
	d.wipe()
	return d
}

// wipe empties the disk.
func (d *disk) wipe() { d.mem, d.dir = vfs.NewMem(), d.next() }

func (d *disk) next() string {
	d.runs++
	return filepath.Join(d.root, strconv.Itoa(d.runs))
}

// mount is a run's disk.
type mount struct {
	mem *vfs.Mem
	dir string

	writing sync.RWMutex // read: a write to the votes is under way

	mu      sync.Mutex // guards what follows
	random  *rand.Rand
	gone    bool
	serving bool // the node has started; before, the code that writes holds mutexes, and may not be kept waiting
	sync    time.Duration
	full    bool
	open    map[string]*mountFile // by name, those opened last
	lies    bool                  // an fsync does nothing
	changed chan struct{}         // closed and replaced when the disk gets another speed
	died    func(error)           // ends the run at once: its votes cannot be written
}

// mount gives a run the disk. sync is about how long an fsync takes.
func (d *disk) mount(sync time.Duration, random *rand.Rand) *mount {
	return &mount{mem: d.mem, dir: d.dir, random: random, sync: sync, open: map[string]*mountFile{}, changed: make(chan struct{})}
}

// cut ends a run's use of the disk as the death of its process does, or a power cut: then what was not synced is lost, or a
// part of it, or its order.
func (d *disk) cut(m *mount, power bool, random *rand.Rand) {
	m.mu.Lock()
	m.gone = true
	close(m.changed)
	m.changed = make(chan struct{})
	m.mu.Unlock()
	m.mem.SetCapacity(0)
	m.writing.Lock()
	defer m.writing.Unlock()
	if power {
		some := func(n int) int {
			switch random.IntN(3) {
			case 0:
				return 0
			case 1:
				return n
			}
			return random.IntN(n + 1)
		}
		d.mem = m.mem.CrashCloneNames(some, func(n int) int { return random.IntN(n + 1) })
	} else {
		d.mem = m.mem.KillClone()
	}
	d.dir = d.next()
	if err := copyTree(m.dir, d.dir); err != nil {
		panic(fmt.Sprintf("copy a disk: %v", err))
	}
}

// copyTree copies what there is. The dead run may be removing old snapshots meanwhile: those are no loss.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(name string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o750)
		}
		data, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), data, 0o600)
	})
}

// slow makes each fsync take about so long.
func (m *mount) slow(sync time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sync = sync
	close(m.changed)
	m.changed = make(chan struct{})
}

// setFull leaves no room for anything new, or lifts that.
func (m *mount) setFull(full bool) {
	m.mu.Lock()
	m.full = full
	m.mu.Unlock()
	capacity := int64(0)
	if full {
		capacity = 1
	}
	m.mem.SetCapacity(capacity)
}

// wait takes the time of an fsync, at most so long.
func (m *mount) wait(most time.Duration) {
	m.mu.Lock()
	pause, changed := time.Duration(0), m.changed
	if m.sync > 0 && m.serving && !m.gone {
		pause = m.sync/2 + time.Duration(m.random.Int64N(int64(m.sync)))
	}
	m.mu.Unlock()
	if pause = min(pause, most); pause == 0 {
		return
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-changed:
	}
}

// longestVote is how long a write of votes may take: the library panics when one fails, as it does when the process ends
// because of it.
const longestVote = 5 * time.Second

// writeVotes does a write to the file of votes. One that cannot be made is the end of the run, which nobody hears of then.
func (m *mount) writeVotes(write func() error) error {
	m.wait(longestVote)
	m.mu.Lock()
	full, died := m.full && !m.gone, m.died
	m.mu.Unlock()
	if full {
		died(syscall.ENOSPC)
	}
	m.writing.RLock()
	defer m.writing.RUnlock()
	return write()
}

// fs is the store's file system.
func (m *mount) fs() vfs.FS { return mountFS{m.mem, m} }

type mountFS struct {
	vfs.FS
	m *mount
}

// Create makes a file.
func (f mountFS) Create(name string) (vfs.File, error) {
	file, err := f.FS.Create(name)
	return f.m.opened(&mountFile{File: file, m: f.m, unused: true}, name), err
}

// Open opens a file.
func (f mountFS) Open(name string) (vfs.File, error) {
	file, err := f.FS.Open(name)
	return f.m.opened(&mountFile{File: file, m: f.m}, name), err
}

// Rename gives a file another name: a spare becomes a log file, and the other way.
func (f mountFS) Rename(from, to string) error {
	f.m.mu.Lock()
	if file := f.m.open[from]; file != nil {
		delete(f.m.open, from)
		file.log.Store(isLog(to))
		f.m.open[to] = file
	}
	f.m.mu.Unlock()
	return f.FS.Rename(from, to)
}

func (m *mount) opened(f *mountFile, name string) *mountFile {
	f.log.Store(isLog(name))
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open[name] = f
	return f
}

// isLog says whether a name is that of a log file in use. Those that are kept for later are spares.
func isLog(name string) bool {
	ok, _ := path.Match("wal/[0-9a-f]*.wal", path.Join(path.Base(path.Dir(name)), path.Base(name)))
	return ok
}

// mountFile is an open file. Only the fsync of a log file in use takes time: others are made by code that holds mutexes, and who
// waits for a mutex keeps the bubble's time from passing.
type mountFile struct {
	vfs.File
	m      *mount
	unused bool // a new file that is being prepared
	log    atomic.Bool
}

// Sync takes the time of an fsync.
func (f *mountFile) Sync() error {
	if f.log.Load() && !f.unused {
		f.m.wait(time.Hour)
	}
	f.unused = false
	if f.m.lies {
		return nil
	}
	return f.File.Sync()
}

// damage does harm to one to three of a dead node's files and says what it did. kind is one of damages.
func (d *disk) damage(kind string, cut bool, random *rand.Rand) string {
	files := filesOf(d.mem, d.dir, kind)
	random.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
	var did []string
	for _, f := range files[:min(len(files), 1+random.IntN(3))] {
		if cut {
			size := random.IntN(f.used)
			f.put(f.data[:size])
			did = append(did, fmt.Sprintf("%s cut to %d of %d", path.Base(f.name), size, f.used))
			continue
		}
		for range 1 + random.IntN(8) {
			f.data[random.IntN(f.used)] ^= 1 << random.IntN(8)
		}
		f.put(f.data)
		did = append(did, path.Base(f.name)+" flipped")
	}
	slices.Sort(did)
	return strings.Join(did, ", ")
}

// has says whether a run's disk has files of a kind to do harm to.
func (m *mount) has(kind string) bool { return len(filesOf(m.mem, m.dir, kind)) > 0 }

// file is one that harm may be done to.
type file struct {
	name string
	data []byte
	used int // bytes up to the last that is not zero: files are reserved beforehand
	put  func([]byte)
}

// filesOf are the files of a kind with something in them.
func filesOf(mem *vfs.Mem, dir, kind string) (files []file) {
	add := func(name string, data []byte, put func([]byte)) {
		if used := len(bytes.TrimRight(data, "\x00")); used > 0 {
			files = append(files, file{name, data, used, put})
		}
	}
	for _, name := range mem.Files() {
		if ok, _ := path.Match(damages[kind], name); ok {
			add(name, mem.Bytes(name), func(b []byte) { mem.SetBytes(name, b) })
		}
	}
	real, err := filepath.Glob(filepath.Join(dir, damages[kind]))
	if err != nil {
		panic(err)
	}
	for _, name := range real {
		data, _ := os.ReadFile(name) // one that is gone has nothing in it
		add(name, data, func(b []byte) {
			if err := os.WriteFile(name, b, 0o600); err != nil {
				panic(err)
			}
		})
	}
	return files
}

// damages are the kinds of files, and their names.
var damages = map[string]string{
	"log":        "store/wal/[0-9a-f]*.wal",
	"segment":    "store/group-*/*.[sw][ea][gl]", // and log files that are kept as such
	"checkpoint": "store/group-*/checkpoint",
	"votes":      "*.db",
	"catalog":    "catalog/*/*/*",
}
