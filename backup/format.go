// Package backup is the format of a backup: what a cluster holds, as one stream of records that is checked from the first
// octet to the last. Writer writes it, Reader reads it and finds damage, Verify reads a whole file. The same format goes over
// the wire, a part of a backup at a time. Taking a backup and restoring one are left to package cluster, files to cmd/warren.
package backup

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// A backup is a header, chunks, and an end; all integers are little endian:
//
//	header  "WRNBCKUP" | version u16 (1) | reserved u16 (0) | crc u32
//	chunk   length u32, 1 to 256 KiB | octets | crc u32
//	end     length u32 (0) | crc u32; nothing follows
//
// A crc is CRC32C over the crc before it, as four octets (none before the header's), and what stands between the two. So a
// chunk that is damaged, missing, repeated or in another's place is found, and so is an end that is missing.
//
// The octets of all chunks together are records, wherever the chunks' borders are:
//
//	record  kind u8 | length u32 of what the kind needs | what the kind needs
//	1 begin    taken at i64, ms since 1970 | shards u32 | cluster's id u16, bytes | version of the program u16, bytes
//	2 catalog  a CatalogRecord of proto/raft/v1: vhost, user, permission, exchange, queue, binding
//	3 shard    number u32 | index u64 of the last entry that it holds | time i64, ms, of its machine
//	4 queue    id u64 | settings, as raftfsm/queue writes them
//	5 message  persistent u8 | reserved u8 | places u16 | size u64 of the envelope | place…
//	           place: queue u64 | priority u8 | flags u8: 1 it was out with a consumer | failed deliveries u16 |
//	           times handed out and returned u32 | expires at i64, ms since 1970; 0: never
//	6 piece    octets of the envelope of the message before
//	7 shard's end  queues u64 | messages u64 | places u64 | envelope octets u64
//	8 end      shards u64 | catalog records u64 | queues u64 | messages u64 | places u64 | envelope octets u64
//
// They come as begin, catalog…, then for each shard: shard, queue…, (message, piece…)…, shard's end; then end. A message
// stands once, however many queues of its shard have it, and messages stand in the order of each of their queues. A whole
// backup has each shard from 0 on once; a part may have the catalog alone, or one shard.
const (
	magic      = "WRNBCKUP"
	version    = 1
	headerSize = len(magic) + 4
	maxChunk   = 256 << 10
	recordHead = 5
	// MaxPiece is the longest piece of an envelope, in octets.
	MaxPiece = 128 << 10
	// maxRecord bounds a record: a catalog command has up to 4 MiB.
	maxRecord = 5 << 20
	maxPlaces = 1<<16 - 1
	placeSize = 24
)

const (
	kindBegin    = 1
	kindCatalog  = 2
	kindShard    = 3
	kindQueue    = 4
	kindMessage  = 5
	kindPiece    = 6
	kindShardEnd = 7
	kindEnd      = 8
)

var (
	// ErrDamaged tells that a backup is not as it was written: an octet is another, or something is missing or too much.
	ErrDamaged = errors.New("the backup is damaged")
	// ErrFormat tells that something is no backup, or one of a version that this program does not know.
	ErrFormat = errors.New("not a backup that this program can read")
)

// Begin is the first record.
type Begin struct {
	TakenAtMillis int64 // when it was begun, milliseconds since 1970
	Shards        uint32
	ClusterID     string
	Version       string // of the program that wrote it
}

// Catalog is a thing of the catalog: an encoded CatalogRecord.
type Catalog []byte

// Shard begins the messages of a shard.
type Shard struct {
	ID         uint32
	Index      uint64 // of the last entry of the shard's log that its state holds
	TimeMillis int64  // of the shard's machine then
}

// Queue is a queue of the shard at hand.
type Queue struct {
	ID       uint64
	Settings []byte // as raftfsm/queue writes them
}

// Message is a message of the shard at hand; Piece records with Size octets follow.
type Message struct {
	Persistent bool
	Size       uint64 // of the envelope, in octets
	Places     []Place
}

// Place is a message in one queue.
type Place struct {
	Queue    uint64
	Priority uint8
	Out      bool   // it was out with a consumer
	Failed   uint16 // failed deliveries
	Acquired uint32 // times handed out and returned
	Expiry   int64  // milliseconds since 1970; 0: never
}

// Piece is octets of an envelope.
type Piece []byte

// Counts is how much there is of something.
type Counts struct {
	Queues   uint64
	Messages uint64
	Places   uint64 // messages, each counted in every queue that has it
	Octets   uint64 // of envelopes
}

func (c *Counts) add(o Counts) {
	c.Queues += o.Queues
	c.Messages += o.Messages
	c.Places += o.Places
	c.Octets += o.Octets
}

// ShardEnd ends the messages of a shard.
type ShardEnd struct{ Counts }

// End is the last record.
type End struct {
	Shards  uint64
	Catalog uint64 // records of the catalog
	Counts
}

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// chain is the crc of octets after another.
func chain(before uint32, parts ...[]byte) uint32 {
	var b [4]byte
	le.PutUint32(b[:], before)
	sum := crc32.Update(0, castagnoli, b[:])
	for _, p := range parts {
		sum = crc32.Update(sum, castagnoli, p)
	}
	return sum
}
