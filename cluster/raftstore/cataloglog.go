package raftstore

import (
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/hashicorp/raft"
	bbolterrors "go.etcd.io/bbolt/errors"
)

// CatalogLog is the catalog's raft.LogStore, in bolt. Each entry carries a checksum (CRC32C of index, term, type, data and
// extensions) at the end of its extensions.
type CatalogLog struct{ db *DB }

var _ raft.LogStore = (*CatalogLog)(nil)

// CatalogLog returns the catalog's log.
func (d *DB) CatalogLog() *CatalogLog { return &CatalogLog{d} }

// FirstIndex implements raft.LogStore.
func (l *CatalogLog) FirstIndex() (index uint64, err error) {
	err = guard(func() error {
		index, err = l.db.bolt.FirstIndex()
		return err
	})
	return index, err
}

// LastIndex implements raft.LogStore.
func (l *CatalogLog) LastIndex() (index uint64, err error) {
	err = guard(func() error {
		index, err = l.db.bolt.LastIndex()
		return err
	})
	return index, err
}

// DeleteRange implements raft.LogStore.
func (l *CatalogLog) DeleteRange(min, max uint64) error { return l.db.bolt.DeleteRange(min, max) }

// StoreLog implements raft.LogStore.
func (l *CatalogLog) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

// StoreLogs implements raft.LogStore.
func (l *CatalogLog) StoreLogs(entries []*raft.Log) error {
	sealed := make([]*raft.Log, len(entries))
	for i, e := range entries {
		c := *e
		c.Extensions = le.AppendUint32(c.Extensions[:len(c.Extensions):len(c.Extensions)], entrySum(e))
		sealed[i] = &c
	}
	return l.db.bolt.StoreLogs(sealed)
}

// GetLog implements raft.LogStore.
func (l *CatalogLog) GetLog(index uint64, e *raft.Log) error {
	switch err := guard(func() error { return l.db.bolt.GetLog(index, e) }); {
	case errors.Is(err, raft.ErrLogNotFound), errors.Is(err, bbolterrors.ErrDatabaseNotOpen):
		return err
	case err != nil: // what is there is no entry
		return fmt.Errorf("%w: entry %d of the catalog's log: %w", ErrDamaged, index, err)
	}
	n := len(e.Extensions) - sumSize
	if n < 0 {
		return fmt.Errorf("%w: entry %d of the catalog's log", ErrDamaged, index)
	}
	sum := le.Uint32(e.Extensions[n:])
	if e.Extensions = e.Extensions[:n]; n == 0 {
		e.Extensions = nil
	}
	if e.Index != index || sum != entrySum(e) {
		return fmt.Errorf("%w: entry %d of the catalog's log", ErrDamaged, index)
	}
	return nil
}

func entrySum(e *raft.Log) uint32 {
	head := le.AppendUint64(le.AppendUint64(nil, e.Index), e.Term)
	head = le.AppendUint64(append(head, byte(e.Type)), uint64(len(e.Data)))
	sum := crc32.Checksum(head, castagnoli)
	return crc32.Update(crc32.Update(sum, castagnoli, e.Data), castagnoli, e.Extensions)
}

// Check reads the whole log and tells damage. from is the index that the log must continue, the snapshot's. Up to there entries may be
// missing: when a snapshot comes from the leader, the library keeps some that are older and goes on behind it.
func (l *CatalogLog) Check(from uint64) error {
	return guard(func() error {
		first, err := l.FirstIndex()
		if err != nil {
			return err
		}
		last, err := l.LastIndex()
		if err != nil {
			return err
		}
		if first > from+1 {
			return fmt.Errorf("%w: the catalog's log begins at %d, its snapshot ends at %d", ErrDamaged, first, from)
		}
		for index := first; index <= last && index > 0; index++ {
			var e raft.Log
			if err := l.GetLog(index, &e); errors.Is(err, raft.ErrLogNotFound) {
				if index <= from {
					continue
				}
				return fmt.Errorf("%w: entry %d of the catalog's log is missing", ErrDamaged, index)
			} else if err != nil {
				return err
			}
		}
		return nil
	})
}

// Forget empties the log.
func (l *CatalogLog) Forget() error {
	first, err := l.FirstIndex()
	if err != nil {
		return err
	}
	last, err := l.LastIndex()
	if err != nil || last == 0 {
		return err
	}
	return l.DeleteRange(first, last)
}
