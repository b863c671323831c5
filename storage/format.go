package storage

import (
	"encoding/binary"
	"hash/crc32"
)

// All integers are little endian; all checksums are CRC32C. A data directory holds
//
//	LOCK           held while the store is open
//	store          magic "WRNSTOR1" | version u32 | store id u64 | crc u32
//	wal/CURRENT    magic "WRNCURR1" | version u32 | number of the newest WAL file in use u64 | crc u32
//	wal/N.wal      the write-ahead log, N in hexadecimal, numbers without gaps
//	wal/spare-N.wal  files reserved beforehand, of which one is the next
//	probe          what Probe writes, which means nothing
//	group-N/       one Raft group: checkpoint, N.seg, N.wal (a log file that is kept, see kept.go), and install/ while a snapshot arrives
//
// A WAL file is reserved to its full size and begins with a header, followed by batches; each begins at a multiple of 8.
// What follows the last batch does not matter: zeros, or the remains of the file's former life under another number.
//
//	header  magic "WRNWAL01" | version u32 | groups u32 | store id u64 | number u64 | size u64 | crc of what came before u32 |
//	        groups × (group u32 | chain u32 | last index u64 | reset u64) | crc of the groups u32
//	batch   magic u32 | length of the records u32 | durable u64 | groups u16 | zero u16 | crc u32 | group u32 … | records
//	record  kind u8 | type u8 | zero u16 | group u32 | index u64 | term u64 | time i64 | data length u32 |
//	        extensions length u32 | previous u32 | crc u32 | data | extensions | zeros to a multiple of 8
//
// size is what was reserved: a file that is shorter was cut. The groups of the header are the watermark: what each group's
// log must come to at the end of the file before, and the number of its last reset; the last index of a group that was
// damaged then is 2^64-1, and the group stays damaged until a reset. durable is
// the offset in this file up to which everything was fsynced when the batch was written; a batch without records is the
// mark left by an idle writer, and the next batch takes its place. The crc of a batch covers its fields and the list of the
// groups in it, the crc of a record its fields, data and extensions, both seeded with store id and file number: nothing of a file's
// former life passes in this one. previous is the crc of the group's record before it, wherever that is. So records of a group form
// a chain that shows a hole.
const (
	walMagic     = "WRNWAL01"
	storeMagic   = "WRNSTOR1"
	currentMagic = "WRNCURR1"
	formatVer    = 2

	batchMagic      = 0x42_4e_52_57 // "WRNB"
	walHeaderSize   = 8 + 4 + 4 + 8 + 8 + 8 + 4
	watermarkSize   = 24
	maxBatchGroups  = 1<<16 - 1
	maxBatchHeader  = batchHeaderSize + 4*maxBatchGroups + align
	batchHeaderSize = 4 + 4 + 8 + 2 + 2 + 4
	recordSize      = 1 + 1 + 2 + 4 + 8 + 8 + 8 + 4 + 4 + 4 + 4
	align           = 8
)

// Kinds of records.
const (
	kindEntry    = 1 // an entry of a group's log
	kindTruncate = 2 // entries from index on are gone
	kindReset    = 3 // all entries are gone: a snapshot up to index took their place, or, 0, nothing; term is the reset's number
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(seed uint32, data ...[]byte) uint32 {
	for _, d := range data {
		seed = crc32.Update(seed, castagnoli, d)
	}
	return seed
}

func padded(n int) int { return (n + align - 1) &^ (align - 1) }

// record is a record's fields; data and extensions point to wherever they are.
type record struct {
	kind, typ  uint8
	group      uint32
	index      uint64
	term       uint64
	time       int64
	dataLen    uint32
	extLen     uint32
	prev, crc  uint32
	data, exts []byte
}

// size is the length of the record in its batch.
func (r *record) size() int { return padded(recordSize + int(r.dataLen) + int(r.extLen)) }

// appendFields writes the fields up to and without the crc.
func (r *record) appendFields(dst []byte) []byte {
	le := binary.LittleEndian
	dst = append(dst, r.kind, r.typ, 0, 0)
	dst = le.AppendUint32(dst, r.group)
	dst = le.AppendUint64(dst, r.index)
	dst = le.AppendUint64(dst, r.term)
	dst = le.AppendUint64(dst, uint64(r.time))
	dst = le.AppendUint32(dst, r.dataLen)
	dst = le.AppendUint32(dst, r.extLen)
	return le.AppendUint32(dst, r.prev)
}

// append writes the whole record for a file and sets its crc.
func (r *record) append(dst []byte, seed uint32) []byte {
	start := len(dst)
	r.dataLen, r.extLen = uint32(len(r.data)), uint32(len(r.exts))
	dst = r.appendFields(dst)
	r.crc = checksum(seed, dst[start:], r.data, r.exts)
	dst = binary.LittleEndian.AppendUint32(dst, r.crc)
	dst = append(append(dst, r.data...), r.exts...)
	for len(dst)%align != 0 {
		dst = append(dst, 0)
	}
	return dst
}

// parseRecord reads the fields; data and extensions are not looked at.
func parseRecord(b []byte) record {
	le := binary.LittleEndian
	return record{kind: b[0], typ: b[1], group: le.Uint32(b[4:]), index: le.Uint64(b[8:]), term: le.Uint64(b[16:]), time: int64(le.Uint64(b[24:])),
		dataLen: le.Uint32(b[32:]), extLen: le.Uint32(b[36:]), prev: le.Uint32(b[40:]), crc: le.Uint32(b[44:])}
}

// valid checks a whole record of a file at the front of b and points data and exts into it.
func (r *record) valid(b []byte, seed uint32) bool {
	if r.kind < kindEntry || r.kind > kindReset {
		return false
	}
	end := uint64(recordSize) + uint64(r.dataLen) + uint64(r.extLen)
	if end > uint64(len(b)) {
		return false
	}
	r.data = b[recordSize : recordSize+r.dataLen : recordSize+r.dataLen]
	r.exts = b[recordSize+r.dataLen : end : end]
	return checksum(seed, b[:recordSize-4], r.data, r.exts) == r.crc
}

// batchHeader is the front of a batch.
type batchHeader struct {
	length  uint32
	durable uint64
	groups  []uint32
}

func (h *batchHeader) size() int { return padded(batchHeaderSize + 4*len(h.groups)) }

// seedOf ties batches and records to their store and file.
func seedOf(storeID, number uint64) uint32 {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], storeID)
	binary.LittleEndian.PutUint64(b[8:], number)
	return checksum(0, b[:])
}

// put writes the header into the front of b, which has room for size.
func (h *batchHeader) put(b []byte, seed uint32) {
	le := binary.LittleEndian
	le.PutUint32(b, batchMagic)
	le.PutUint32(b[4:], h.length)
	le.PutUint64(b[8:], h.durable)
	le.PutUint16(b[16:], uint16(len(h.groups)))
	le.PutUint16(b[18:], 0)
	for i, g := range h.groups {
		le.PutUint32(b[batchHeaderSize+4*i:], g)
	}
	clear(b[batchHeaderSize+4*len(h.groups) : h.size()])
	le.PutUint32(b[20:], checksum(seed, b[:20], b[batchHeaderSize:h.size()]))
}

// parseBatch reads a header at the front of b; false when there is none for this file.
func parseBatch(b []byte, seed uint32) (batchHeader, bool) {
	le := binary.LittleEndian
	if len(b) < batchHeaderSize || le.Uint32(b) != batchMagic {
		return batchHeader{}, false
	}
	n := int(le.Uint16(b[16:]))
	size := padded(batchHeaderSize + 4*n)
	if len(b) < size || le.Uint32(b[20:]) != checksum(seed, b[:20], b[batchHeaderSize:size]) {
		return batchHeader{}, false
	}
	h := batchHeader{length: le.Uint32(b[4:]), durable: le.Uint64(b[8:]), groups: make([]uint32, n)}
	for i := range h.groups {
		h.groups[i] = le.Uint32(b[batchHeaderSize+4*i:])
	}
	return h, true
}

// watermark is what a group's log comes to.
type watermark struct {
	chain uint32 // crc of its last record
	last  uint64 // last index; 0: none
	reset uint64 // number of the last reset; 0: none
}

// poisoned is the last index in the watermark of a damaged group.
const poisoned = 1<<64 - 1

func appendWALHeader(dst []byte, storeID, number, size uint64, groups []uint32, marks map[uint32]watermark) []byte {
	le := binary.LittleEndian
	start := len(dst)
	dst = append(dst, walMagic...)
	dst = le.AppendUint32(dst, formatVer)
	dst = le.AppendUint32(dst, uint32(len(groups)))
	dst = le.AppendUint64(dst, storeID)
	dst = le.AppendUint64(dst, number)
	dst = le.AppendUint64(dst, size)
	dst = le.AppendUint32(dst, checksum(0, dst[start:]))
	list := len(dst)
	for _, g := range groups {
		dst = le.AppendUint32(dst, g)
		dst = le.AppendUint32(dst, marks[g].chain)
		dst = le.AppendUint64(dst, marks[g].last)
		dst = le.AppendUint64(dst, marks[g].reset)
	}
	dst = le.AppendUint32(dst, checksum(0, dst[list:]))
	for len(dst)%align != 0 {
		dst = append(dst, 0)
	}
	return dst
}
