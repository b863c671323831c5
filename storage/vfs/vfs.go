// Package vfs is the file system as storage sees it: the real one, one in memory that knows what is durable, and a wrapper
// that injects faults. What files hold is left to storage.
package vfs

import (
	"io"
	"io/fs"
)

// FS is a file system. Names are slash-separated paths.
type FS interface {
	// Create makes a file for reading and writing; an old one is emptied.
	Create(name string) (File, error)
	// Open opens an existing file for reading and writing.
	Open(name string) (File, error)
	Remove(name string) error
	RemoveAll(name string) error
	Rename(from, to string) error
	// Link gives a file one more name; it fails where the file system, or this place of it, cannot do that.
	Link(name, other string) error
	MkdirAll(name string) error
	// ReadDir lists the names in a directory in sorted order.
	ReadDir(name string) ([]string, error)
	Stat(name string) (Info, error)
	// SyncDir makes the entries of a directory durable.
	SyncDir(name string) error
	// Lock takes a lock that only one process can hold; closing gives it back.
	Lock(name string) (io.Closer, error)
	// Free is the space left for files in the directory, in bytes.
	Free(name string) (int64, error)
}

// Info is what Stat tells.
type Info struct {
	Size  int64
	IsDir bool
}

// File is an open file.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Sync makes what was written durable (fdatasync).
	Sync() error
	// Preallocate reserves space up to size and makes the file that long; errors.ErrUnsupported: the file system cannot do that.
	Preallocate(size int64) error
	// Zero writes zeros into a range that nobody has written yet.
	Zero(from, to int64) error
	Truncate(size int64) error
	Size() (int64, error)
	// Links is how many names the file has.
	Links() (int, error)
}

// ErrNotExist is what a missing file gives.
var ErrNotExist = fs.ErrNotExist
