package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
	boltdb "github.com/hashicorp/raft-boltdb/v2"
)

// A record in bolt's conf bucket is: checksum u32 (CRC32C of key and value) | value. The keys of a group are
//
//	group-N/term   term u64
//	group-N/vote   term u64 | candidate
//	group-N/seat   incarnation u64 | ready u8: what the node knows of its replica, see Seat
//
// All integers are little endian.

var le = binary.LittleEndian

// The keys that the Raft library uses.
const (
	keyTerm     = "CurrentTerm"
	keyVoteTerm = "LastVoteTerm"
	keyVoteFor  = "LastVoteCand"
)

// Stable is a group's raft.StableStore: its term and its vote. It is for one goroutine at a time, as the library uses it.
type Stable struct {
	db     *DB
	prefix string
	// voteTerm is a vote's term whose candidate has not come yet. The library writes both one after the other; the first
	// alone must not survive a crash, or the old candidate would count as that term's (#661).
	voteTerm uint64
}

var _ raft.StableStore = (*Stable)(nil)

// errNotFound has the text by which the library knows that there is no value.
var errNotFound = errors.New("not found")

// Stable returns the store of a group.
func (d *DB) Stable(group uint32) *Stable {
	return &Stable{db: d, prefix: fmt.Sprintf("group-%d/", group)}
}

func (s *Stable) put(name string, value []byte) error {
	key := []byte(s.prefix + name)
	if err := s.db.bolt.Set(key, seal(key, value)); err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	return nil
}

func (s *Stable) get(name string) (value []byte, err error) {
	key := []byte(s.prefix + name)
	err = guard(func() error {
		sealed, err := s.db.bolt.Get(key)
		if errors.Is(err, boltdb.ErrKeyNotFound) {
			return errNotFound
		} else if err != nil {
			return fmt.Errorf("read %s: %w", key, err)
		}
		value, err = unseal(key, sealed)
		return err
	})
	return value, err
}

func (s *Stable) number(name string) (uint64, error) {
	value, err := s.get(name)
	if err != nil {
		return 0, err
	}
	if len(value) < 8 {
		return 0, fmt.Errorf("%w: %s%s has %d bytes", ErrDamaged, s.prefix, name, len(value))
	}
	return le.Uint64(value), nil
}

// SetUint64 implements raft.StableStore.
func (s *Stable) SetUint64(key []byte, value uint64) error {
	switch string(key) {
	case keyTerm:
		err := s.put("term", le.AppendUint64(nil, value))
		if err != nil {
			s.db.bolt.awaitEnd()
		}
		return err
	case keyVoteTerm:
		s.voteTerm = value
		return nil
	}
	return fmt.Errorf("number %q is not one that Raft keeps", key)
}

// Set implements raft.StableStore.
func (s *Stable) Set(key, value []byte) error {
	if string(key) != keyVoteFor {
		return fmt.Errorf("value %q is not one that Raft keeps", key)
	}
	return s.put("vote", append(le.AppendUint64(nil, s.voteTerm), value...))
}

// GetUint64 implements raft.StableStore.
func (s *Stable) GetUint64(key []byte) (uint64, error) {
	switch string(key) {
	case keyTerm:
		return s.number("term")
	case keyVoteTerm:
		return s.number("vote")
	}
	return 0, errNotFound
}

// Get implements raft.StableStore.
func (s *Stable) Get(key []byte) ([]byte, error) {
	if string(key) != keyVoteFor {
		return nil, errNotFound
	}
	value, err := s.get("vote")
	if err != nil || len(value) < 8 {
		return nil, err
	}
	return value[8:], nil
}

// Seat is what a node remembers of its replica of a group.
type Seat struct {
	// Incarnation counts how often the replica was made anew because it had lost what it knew; from 1. It is part of the
	// seat's id.
	Incarnation uint64
	// Ready tells that the replica has begun: from then on an empty log means that it was lost.
	Ready bool
}

// Seat returns what was saved; the zero value when nothing was.
func (s *Stable) Seat() (Seat, error) {
	value, err := s.get("seat")
	switch {
	case errors.Is(err, errNotFound):
		return Seat{}, nil
	case err != nil:
		return Seat{}, err
	case len(value) != 9:
		return Seat{}, fmt.Errorf("%w: %sseat has %d bytes", ErrDamaged, s.prefix, len(value))
	}
	return Seat{le.Uint64(value), value[8] == 1}, nil
}

// SaveSeat makes a seat durable.
func (s *Stable) SaveSeat(seat Seat) error {
	value := append(le.AppendUint64(nil, seat.Incarnation), 0)
	if seat.Ready {
		value[8] = 1
	}
	return s.put("seat", value)
}

// Forget removes term and vote: the seat gets another id, under which nothing was promised yet.
func (s *Stable) Forget() error {
	s.voteTerm = 0
	return errors.Join(s.put("term", le.AppendUint64(nil, 0)), s.put("vote", le.AppendUint64(nil, 0)))
}

// Succeed gives the store to another id, which goes on with what the log holds: nobody has its vote yet, and its term is not
// below the one known here nor the one given, the log's last.
func (s *Stable) Succeed(term uint64) error {
	if known, err := s.number("term"); err == nil { // what cannot be read was a promise of the former id
		term = max(term, known)
	}
	s.voteTerm = 0
	return errors.Join(s.put("term", le.AppendUint64(nil, term)), s.put("vote", le.AppendUint64(nil, 0)))
}

// Term returns the highest term that was seen; 0: none was.
func (s *Stable) Term() (uint64, error) {
	term, err := s.number("term")
	if errors.Is(err, errNotFound) {
		return 0, nil
	}
	return term, err
}

// Check reads term and vote and tells damage.
func (s *Stable) Check() error {
	for _, name := range []string{"term", "vote"} {
		if _, err := s.number(name); err != nil && !errors.Is(err, errNotFound) {
			return err
		}
	}
	return nil
}
