// Package raftstore keeps what the Raft library wants kept: the votes of all groups and the catalog's log in one bolt file,
// the shards' logs and snapshots in package storage. It defuses defects of hashicorp/raft v1.8.0 from outside (term and
// candidate of a vote are one record, #661) and adds what bolt lacks: a checksum over everything that is read back.
package raftstore

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	boltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// ErrDamaged tells that what was read is not what was written.
var ErrDamaged = errors.New("damaged data")

// DB is the bolt file.
type DB struct{ bolt *watched }

const (
	fileName    = "raft.db"
	lockTimeout = 2 * time.Second
	lockPeriod  = 20 * time.Millisecond
	sumSize     = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// OpenDB opens the bolt file of a data directory, or makes it.
func OpenDB(dir string) (db *DB, err error) {
	path := filepath.Join(dir, fileName)
	err = guard(func() error {
		bolt, err := boltdb.New(boltdb.Options{Path: path, BoltOptions: &bbolt.Options{Timeout: lockTimeout,
			NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, OpenFile: openFile}})
		db = &DB{watch(bolt)}
		return err
	})
	switch {
	case err == nil:
		return db, nil
	case errors.Is(err, bbolterrors.ErrInvalid), errors.Is(err, bbolterrors.ErrChecksum), errors.Is(err, bbolterrors.ErrVersionMismatch):
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return nil, fmt.Errorf("open %s: %w", path, err)
}

// openFile opens the file for bolt, when it has been locked and looked at. Bolt locks what it is given once more, which changes nothing:
// nobody else has the file between the look and its use.
func openFile(path string, flag int, mode os.FileMode) (*os.File, error) {
	file, err := os.OpenFile(path, flag, mode)
	if err != nil {
		return nil, err
	}
	if err = lock(file); err == nil {
		err = inspect(file)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// lock waits for the lock that bolt takes, for as long as bolt would: of a process that is ending, files are closed one after the other.
func lock(file *os.File) error {
	for began := time.Now(); ; time.Sleep(lockPeriod) {
		switch err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
		case errors.Is(err, unix.EINTR):
		case !errors.Is(err, unix.EWOULDBLOCK):
			return err
		case time.Since(began) >= lockTimeout:
			return errLocked
		}
	}
}

var errLocked = errors.New("another process has the file open: does the node run already?")

// PutAside renames a file that cannot be opened.
func PutAside(dir string) error {
	path := filepath.Join(dir, fileName)
	return os.Rename(path, fmt.Sprintf("%s.damaged-%d", path, time.Now().UnixNano()))
}

// renewedKey holds the mark: whether this file took the place of one that was lost. A file without it was just made, or by a start that was
// cut short before it could tell.
var renewedKey = []byte("renewed")

var (
	renewed = []byte{1}
	whole   = []byte{0}
)

// MarkRenewed notes that this file took the place of one that was lost: a group without a seat in it may have had one.
func (d *DB) MarkRenewed() error { return d.mark(renewed) }

// ClearRenewed notes that no group is bound by anything but what this file holds: it is its node's first, or there is none any more that a
// lost one bound.
func (d *DB) ClearRenewed() error { return d.mark(whole) }

func (d *DB) mark(as []byte) error {
	if err := d.bolt.setFirst(renewedKey, seal(renewedKey, as)); err != nil {
		return fmt.Errorf("mark %s: %w", fileName, err)
	}
	return nil
}

// Marked tells whether the file has a mark, be it that nobody can read it.
func (d *DB) Marked() bool {
	_, err := d.bolt.Get(renewedKey)
	return !errors.Is(err, boltdb.ErrKeyNotFound)
}

// Renewed tells whether the file may have taken the place of one that was lost: nothing but a mark says that it has not.
func (d *DB) Renewed() bool {
	sealed, err := d.bolt.Get(renewedKey)
	if err != nil {
		return true
	}
	mark, err := unseal(renewedKey, sealed)
	return err != nil || !bytes.Equal(mark, whole)
}

// Exists tells whether a data directory has the file.
func Exists(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, fileName))
	return err == nil
}

// Blank tells whether the catalog has no seat in the file, nor had one in a file before it: nothing was promised yet.
func (d *DB) Blank() bool {
	seat, err := d.Stable(CatalogGroup).Seat()
	return err == nil && seat.Incarnation == 0 && !(d.Marked() && d.Renewed())
}

// CatalogGroup is the number of the catalog's group; the shards have theirs from 0.
const CatalogGroup = 1<<32 - 1

// OnFatal names who is called, once, when a write fails or hangs: the process is to end at once. Until then it panics.
func (d *DB) OnFatal(call func(error)) { d.bolt.fatal.Store(&call) }

// Stalled tells whether a write takes long: see storage.StallTime.
func (d *DB) Stalled() bool { return d.bolt.stalls.Any() }

// Around names who is asked to do each write: a simulation's disk, which may be slow, full or gone. nil: the writes are done.
// It is called before the file is used.
func (d *DB) Around(do func(write func() error) error) { d.bolt.around = do }

// Close closes the file.
func (d *DB) Close() error { return d.bolt.Close() }

// guard runs a function that reads the file. Bolt trusts its pages: a damaged one makes it panic or fault.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, p)
		}
	}()
	return f()
}

// seal puts a checksum over key and value before the value.
func seal(key, value []byte) []byte {
	out := make([]byte, sumSize, sumSize+len(value))
	le.PutUint32(out, crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value))
	return append(out, value...)
}

// unseal gives a value back without its checksum.
func unseal(key, sealed []byte) ([]byte, error) {
	if len(sealed) < sumSize || le.Uint32(sealed) != crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, sealed[sumSize:]) {
		return nil, fmt.Errorf("%w: record %q", ErrDamaged, key)
	}
	return sealed[sumSize:], nil
}
