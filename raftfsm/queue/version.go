package queue

import (
	"encoding/binary"
	"fmt"
)

// FirstVersion is the version of a machine that has seen no entry. Entries mean what the version of the state says; a higher one
// arrives by a MachineVersion command only, once every replica knows it. So a replay means what it meant when it was written,
// whichever program does it.
const FirstVersion = 1

// MachineVersion is the version of the machine.
func (s *State) MachineVersion() uint32 { return s.version }

// checkFormat tells whether the entry is of a format that the machine's version has.
func (s *State) checkFormat(entry []byte) error {
	if entry[0] > EntryFormat(s.version) {
		return fmt.Errorf("%w: entry version %d for a machine of version %d", ErrVersion, entry[0], s.version)
	}
	return nil
}

// SealEntry completes the header of an entry of so many batches for a machine of the version.
func SealEntry(entry []byte, batches, machine uint32) {
	entry[0] = EntryFormat(machine)
	binary.LittleEndian.PutUint32(entry[4:], batches)
}
