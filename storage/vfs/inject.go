package vfs

import "io"

// Op is one operation about to be done.
type Op struct {
	Kind string // create, open, remove, rename, link, syncdir, write, sync, preallocate, zero, truncate, read
	Name string
	Size int // of a write, of zeros
}

// Inject asks before every operation; an error is its result, and the operation is not done. The function may block.
func Inject(inner FS, before func(Op) error) FS { return &injected{inner, before} }

type injected struct {
	FS
	before func(Op) error
}

func (i *injected) file(kind, name string, open func(string) (File, error)) (File, error) {
	if err := i.before(Op{Kind: kind, Name: name}); err != nil {
		return nil, err
	}
	f, err := open(name)
	if err != nil {
		return nil, err
	}
	return &injectedFile{f, i, name}, nil
}

func (i *injected) Create(name string) (File, error) { return i.file("create", name, i.FS.Create) }
func (i *injected) Open(name string) (File, error)   { return i.file("open", name, i.FS.Open) }

func (i *injected) Remove(name string) error {
	if err := i.before(Op{Kind: "remove", Name: name}); err != nil {
		return err
	}
	return i.FS.Remove(name)
}

func (i *injected) Rename(from, to string) error {
	if err := i.before(Op{Kind: "rename", Name: from}); err != nil {
		return err
	}
	return i.FS.Rename(from, to)
}

func (i *injected) Link(name, other string) error {
	if err := i.before(Op{Kind: "link", Name: name}); err != nil {
		return err
	}
	return i.FS.Link(name, other)
}

func (i *injected) SyncDir(name string) error {
	if err := i.before(Op{Kind: "syncdir", Name: name}); err != nil {
		return err
	}
	return i.FS.SyncDir(name)
}

func (i *injected) Lock(name string) (io.Closer, error) { return i.FS.Lock(name) }

type injectedFile struct {
	File
	fs   *injected
	name string
}

func (f *injectedFile) ReadAt(p []byte, at int64) (int, error) {
	if err := f.fs.before(Op{"read", f.name, len(p)}); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, at)
}

func (f *injectedFile) WriteAt(p []byte, at int64) (int, error) {
	if err := f.fs.before(Op{"write", f.name, len(p)}); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, at)
}

func (f *injectedFile) Sync() error {
	if err := f.fs.before(Op{Kind: "sync", Name: f.name}); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *injectedFile) Preallocate(size int64) error {
	if err := f.fs.before(Op{Kind: "preallocate", Name: f.name}); err != nil {
		return err
	}
	return f.File.Preallocate(size)
}

func (f *injectedFile) Zero(from, to int64) error {
	if err := f.fs.before(Op{"zero", f.name, int(to - from)}); err != nil {
		return err
	}
	return f.File.Zero(from, to)
}

func (f *injectedFile) Truncate(size int64) error {
	if err := f.fs.before(Op{Kind: "truncate", Name: f.name}); err != nil {
		return err
	}
	return f.File.Truncate(size)
}
