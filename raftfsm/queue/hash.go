package queue

import (
	"encoding/binary"
	"math/bits"
)

// The digest of a state is a sum, modulo 2^64, of what each part of it contributes, so that it costs one addition to
// keep up when a part comes or goes and does not depend on how parts are stored:
//
//	each ready message      key of its queue × hash of the record
//	each delayed message    another key of its queue × hash of its number and record
//	each unsettled message  key of its consumer × hash of delivery id and record
//	each queue, consumer, session, upload, producer: a hash of its own fields
//
// It finds replicas that differ by mistake; it does not resist anybody who looks for collisions.

// Odd constants: the fractional digits of the square roots of 2, 3, 5 and 7.
const (
	salt0 = 0x6a09e667f3bcc909
	salt1 = 0xbb67ae8584caa73b
	salt2 = 0x3c6ef372fe94f82b
	salt3 = 0xa54ff53a5f1d36f1
)

// fold mixes two words into one by the two halves of their product.
func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a^salt0, b^salt1)
	return hi ^ lo
}

// hashBytes mixes bytes into h.
func hashBytes(h uint64, data []byte) uint64 {
	h = fold(h, uint64(len(data)))
	for len(data) >= 8 {
		h = fold(h, binary.LittleEndian.Uint64(data))
		data = data[8:]
	}
	var last [8]byte
	copy(last[:], data)
	return fold(h, binary.LittleEndian.Uint64(last[:])^salt3)
}

// Hash returns a digest of the state: equal after equal entries on every replica, and after a restore. It costs next to
// nothing.
func (s *State) Hash() uint64 {
	h := fold(s.sum^salt2, s.applied)
	h = fold(h, uint64(s.now))
	return fold(h, uint64(s.version))
}

// recentHashes is how far behind its subject a Hash command may be; the leader has but a few entries in flight.
const recentHashes = 64

// hashes remembers the digests after the last entries, by index modulo their number.
type hashes [recentHashes]struct{ index, hash uint64 }

func (h *hashes) remember(index, hash uint64) {
	h[index%recentHashes].index, h[index%recentHashes].hash = index, hash
}

// at returns the digest after the entry at index, if it is known.
func (h *hashes) at(index uint64) (hash uint64, ok bool) {
	e := &h[index%recentHashes]
	return e.hash, e.index == index && index != 0
}
