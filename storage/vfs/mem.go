package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// Mem is a file system in memory that knows what would survive a power cut: of files what was synced, of directories the
// entries that were there at their last SyncDir.
type Mem struct {
	mu       sync.Mutex // guards everything of this file system, also the contents of files
	files    map[string]*memNode
	dirs     map[string]bool
	durable  map[string]*memNode // by name: the file that a directory's last sync saw
	changes  [][]nameChange      // of names, in order, that no SyncDir saw
	locked   map[string]bool
	capacity int64 // 0: no limit
}

// nameChange is that a name leads to a file from then on, or to none.
type nameChange struct {
	name string
	node *memNode
}

// memNode is a file whatever its name. pending are the writes since its last sync, in order.
type memNode struct {
	data    []byte
	synced  []byte
	pending []memWrite
}

type memWrite struct {
	at   int64
	data []byte // nil: truncated to at
}

// NewMem returns an empty file system.
func NewMem() *Mem {
	return &Mem{files: map[string]*memNode{}, dirs: map[string]bool{".": true, "/": true}, durable: map[string]*memNode{}, locked: map[string]bool{}}
}

// SetCapacity limits the bytes of all files together; 0 lifts the limit.
func (m *Mem) SetCapacity(bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.capacity = bytes
}

// Keep says what of a write that was not synced a power cut leaves: the first so many bytes of its n.
type Keep func(n int) int

// CrashClone returns what a power cut now would leave. keep is asked for every unsynced write in order.
func (m *Mem) CrashClone(keep Keep) *Mem {
	return m.CrashCloneNames(keep, func(int) int { return 0 })
}

// CrashCloneNames is CrashClone where also the first few of the changes of names that no SyncDir saw are left: as many as
// names says of their number, in order, as a journal keeps them.
func (m *Mem) CrashCloneNames(keep, names Keep) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	durable := maps.Clone(m.durable)
	for _, change := range m.changes[:names(len(m.changes))] {
		for _, c := range change {
			if c.node == nil {
				delete(durable, c.name)
			} else {
				durable[c.name] = c.node
			}
		}
	}
	clone := NewMem()
	maps.Copy(clone.dirs, m.dirs)
	copies := map[*memNode]*memNode{}
	for _, name := range slices.Sorted(maps.Keys(durable)) {
		node := durable[name]
		if copies[node] == nil {
			data := slices.Clone(node.synced)
			for _, w := range node.pending {
				if w.data == nil {
					continue // a truncation that was not synced may be undone
				}
				data = overwrite(data, w.at, w.data[:min(max(keep(len(w.data)), 0), len(w.data))])
			}
			copies[node] = &memNode{data: data, synced: slices.Clone(data)}
		}
		clone.files[name], clone.durable[name] = copies[node], copies[node]
	}
	return clone
}

// KillClone returns what the death of the process now would leave: everything, of which what is not durable still is not.
func (m *Mem) KillClone() *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	clone := NewMem()
	maps.Copy(clone.dirs, m.dirs)
	copies := map[*memNode]*memNode{nil: nil}
	copied := func(node *memNode) *memNode {
		if c, ok := copies[node]; ok {
			return c
		}
		copies[node] = &memNode{data: slices.Clone(node.data), synced: slices.Clone(node.synced), pending: slices.Clone(node.pending)}
		return copies[node]
	}
	for name, node := range m.files {
		clone.files[name] = copied(node)
	}
	for name, node := range m.durable {
		clone.durable[name] = copied(node)
	}
	for _, change := range m.changes {
		var c []nameChange
		for _, n := range change {
			c = append(c, nameChange{n.name, copied(n.node)})
		}
		clone.changes = append(clone.changes, c)
	}
	return clone
}

// ForgetUnsynced is what a failed fsync leaves: what was written can still be read, counts as written, and never reaches the disk
// (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020).
func (m *Mem) ForgetUnsynced() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, nodes := range []map[string]*memNode{m.files, m.durable} {
		for _, node := range nodes {
			node.pending = nil
		}
	}
}

// Clone returns an exact copy, everything in it durable.
func (m *Mem) Clone() *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	clone := NewMem()
	for dir := range m.dirs {
		clone.dirs[dir] = true
	}
	copies := map[*memNode]*memNode{}
	for name, node := range m.files {
		if copies[node] == nil {
			copies[node] = &memNode{data: slices.Clone(node.data), synced: slices.Clone(node.data)}
		}
		clone.files[name], clone.durable[name] = copies[node], copies[node]
	}
	return clone
}

// Files lists all files in sorted order.
func (m *Mem) Files() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for name := range m.files {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Bytes is a copy of a file's content.
func (m *Mem) Bytes(name string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	if node := m.files[path.Clean(name)]; node != nil {
		return slices.Clone(node.data)
	}
	return nil
}

// SetBytes replaces a file's content for good: bit flips, truncations.
func (m *Mem) SetBytes(name string, data []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if node := m.files[path.Clean(name)]; node != nil {
		node.data, node.synced, node.pending = slices.Clone(data), slices.Clone(data), nil
	}
}

func overwrite(dst []byte, at int64, data []byte) []byte {
	if end := at + int64(len(data)); int64(len(dst)) < end {
		dst = append(dst, make([]byte, end-int64(len(dst)))...)
	}
	copy(dst[at:], data)
	return dst
}

func notExist(op, name string) error { return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist} }

// Create makes a file, or empties the one that is there.
func (m *Mem) Create(name string) (File, error) {
	name = path.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.dirs[path.Dir(name)] {
		return nil, notExist("create", name)
	}
	if node := m.files[name]; node != nil {
		node.data, node.pending = nil, append(node.pending, memWrite{})
		return &memFile{m, node}, nil
	}
	m.files[name] = &memNode{}
	m.changed(nameChange{name, m.files[name]})
	return &memFile{m, m.files[name]}, nil
}

// Open opens a file.
func (m *Mem) Open(name string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	node := m.files[path.Clean(name)]
	if node == nil {
		return nil, notExist("open", name)
	}
	return &memFile{m, node}, nil
}

// Remove removes a file or an empty directory.
func (m *Mem) Remove(name string) error {
	name = path.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dirs[name] {
		for file := range m.files {
			if strings.HasPrefix(file, name+"/") {
				return fmt.Errorf("remove %s: not empty", name)
			}
		}
		delete(m.dirs, name)
		return nil
	}
	if m.files[name] == nil {
		return notExist("remove", name)
	}
	delete(m.files, name)
	m.changed(nameChange{name, nil})
	return nil
}

// changed notes a change of names. mu is held.
func (m *Mem) changed(c ...nameChange) { m.changes = append(m.changes, c) }

// RemoveAll removes everything below a name.
func (m *Mem) RemoveAll(name string) error {
	name = path.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	for file := range m.files {
		if file == name || strings.HasPrefix(file, name+"/") {
			delete(m.files, file)
			m.changed(nameChange{file, nil})
		}
	}
	for dir := range m.dirs {
		if dir == name || strings.HasPrefix(dir, name+"/") {
			delete(m.dirs, dir)
		}
	}
	return nil
}

// Rename moves a file or a directory. A directory's move is durable at once, as the files in it stay where they are.
func (m *Mem) Rename(from, to string) error {
	from, to = path.Clean(from), path.Clean(to)
	m.mu.Lock()
	defer m.mu.Unlock()
	if node := m.files[from]; node != nil {
		delete(m.files, from)
		m.files[to] = node
		m.changed(nameChange{from, nil}, nameChange{to, node})
		return nil
	}
	if !m.dirs[from] {
		return notExist("rename", from)
	}
	for _, names := range []map[string]*memNode{m.files, m.durable} {
		for name, node := range names {
			if rest, ok := strings.CutPrefix(name, from+"/"); ok {
				delete(names, name)
				names[to+"/"+rest] = node
			}
		}
	}
	for dir := range m.dirs {
		if rest, ok := strings.CutPrefix(dir, from+"/"); ok {
			delete(m.dirs, dir)
			m.dirs[to+"/"+rest] = true
		}
	}
	delete(m.dirs, from)
	m.dirs[to] = true
	return nil
}

// Link gives a file one more name.
func (m *Mem) Link(name, other string) error {
	name, other = path.Clean(name), path.Clean(other)
	m.mu.Lock()
	defer m.mu.Unlock()
	node := m.files[name]
	if node == nil || !m.dirs[path.Dir(other)] {
		return notExist("link", name)
	}
	if m.files[other] != nil {
		return &fs.PathError{Op: "link", Path: other, Err: fs.ErrExist}
	}
	m.files[other] = node
	m.changed(nameChange{other, node})
	return nil
}

// MkdirAll makes directories; they are durable at once.
func (m *Mem) MkdirAll(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for dir := path.Clean(name); !m.dirs[dir]; dir = path.Dir(dir) {
		m.dirs[dir] = true
	}
	return nil
}

// ReadDir lists names.
func (m *Mem) ReadDir(name string) ([]string, error) {
	name = path.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.dirs[name] {
		return nil, notExist("readdir", name)
	}
	found := map[string]bool{}
	for file := range m.files {
		if path.Dir(file) == name {
			found[path.Base(file)] = true
		}
	}
	for dir := range m.dirs {
		if dir != name && path.Dir(dir) == name {
			found[path.Base(dir)] = true
		}
	}
	names := make([]string, 0, len(found))
	for n := range found {
		names = append(names, n)
	}
	slices.Sort(names)
	return names, nil
}

// Stat tells about a name.
func (m *Mem) Stat(name string) (Info, error) {
	name = path.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dirs[name] {
		return Info{IsDir: true}, nil
	}
	if node := m.files[name]; node != nil {
		return Info{Size: int64(len(node.data))}, nil
	}
	return Info{}, notExist("stat", name)
}

// SyncDir makes a directory's entries durable.
func (m *Mem) SyncDir(name string) error {
	name = path.Clean(name)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.dirs[name] {
		return notExist("sync", name)
	}
	for file := range m.durable {
		if path.Dir(file) == name && m.files[file] == nil {
			delete(m.durable, file)
		}
	}
	for file, node := range m.files {
		if path.Dir(file) == name {
			m.durable[file] = node
		}
	}
	// Of a file that came from another directory only its going there is open.
	for i, c := range m.changes {
		m.changes[i] = slices.DeleteFunc(c, func(n nameChange) bool { return path.Dir(n.name) == name })
	}
	m.changes = slices.DeleteFunc(m.changes, func(c []nameChange) bool { return len(c) == 0 })
	return nil
}

var errLocked = errors.New("locked by somebody else")

// Lock takes a lock.
func (m *Mem) Lock(name string) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locked[name] {
		return nil, errLocked
	}
	m.locked[name] = true
	return memLock{m, name}, nil
}

type memLock struct {
	m    *Mem
	name string
}

func (l memLock) Close() error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	delete(l.m.locked, l.name)
	return nil
}

// Free is what the capacity leaves.
func (m *Mem) Free(string) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.capacity == 0 {
		return 1 << 40, nil
	}
	return m.capacity - m.used(), nil
}

func (m *Mem) used() int64 {
	var n int64
	counted := map[*memNode]bool{} // a file may have several names
	for _, node := range m.files {
		if !counted[node] {
			counted[node] = true
			n += int64(len(node.data))
		}
	}
	return n
}

type memFile struct {
	m    *Mem
	node *memNode
}

func (f *memFile) ReadAt(p []byte, at int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if at >= int64(len(f.node.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.node.data[at:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(p []byte, at int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if grow := at + int64(len(p)) - int64(len(f.node.data)); f.m.capacity > 0 && grow > 0 && f.m.used()+grow > f.m.capacity {
		return 0, syscall.ENOSPC
	}
	f.node.data = overwrite(f.node.data, at, p)
	f.node.pending = append(f.node.pending, memWrite{at, slices.Clone(p)})
	return len(p), nil
}

func (f *memFile) Close() error { return nil }

func (f *memFile) Sync() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	for _, w := range f.node.pending {
		if w.data == nil {
			f.node.synced = resize(f.node.synced, w.at)
			continue
		}
		f.node.synced = overwrite(f.node.synced, w.at, w.data)
	}
	f.node.pending = nil
	return nil
}

func resize(data []byte, size int64) []byte {
	if int64(len(data)) >= size {
		return data[:size:size]
	}
	return append(data, make([]byte, size-int64(len(data)))...)
}

func (f *memFile) Preallocate(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	grow := size - int64(len(f.node.data))
	if grow <= 0 {
		return nil
	}
	if f.m.capacity > 0 && f.m.used()+grow > f.m.capacity {
		return syscall.ENOSPC
	}
	f.node.data = resize(f.node.data, size)
	f.node.pending = append(f.node.pending, memWrite{at: size})
	return nil
}

// Zero has nothing to do: zeros are what Preallocate has left.
func (f *memFile) Zero(_, _ int64) error { return nil }

func (f *memFile) Truncate(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.node.data = slices.Clone(resize(f.node.data, size))
	f.node.pending = append(f.node.pending, memWrite{at: size})
	return nil
}

func (f *memFile) Size() (int64, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return int64(len(f.node.data)), nil
}

func (f *memFile) Links() (n int, err error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	for _, node := range f.m.files {
		if node == f.node {
			n++
		}
	}
	return n, nil
}
