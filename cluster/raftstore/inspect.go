package raftstore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"os"
)

// Bolt checks nothing but its two meta pages, and of these it silently takes the older if the newer is damaged: the last
// transaction, a vote perhaps, is then forgotten. What damage elsewhere does to it is a panic, while opening even on a
// goroutine of its own, which ends the process at every start. So the pages that can be reached are read before bolt sees
// them. What a page holds follows from its head without gaps, so that a flipped bit in a count, a length or a page's number
// is found, and a key that no longer belongs to its value. One thing is not: a reference that has become the number of a
// page that holds an older version of the same, since bolt puts no checksum there.
//
// A page is, in the machine's byte order (bbolt's internal/common):
//
//	page    id u64 | flags u16 (1 branch, 2 leaf) | count u16 | overflow u32 | element… | key, value…
//	branch  position u32 (from the element) | key's size u32 | page u64
//	leaf    flags u32 (1: a bucket) | position u32 | key's size u32 | value's size u32
//	bucket  root page u64 (0: the page follows) | sequence u64 | page, whose id and overflow are 0
//	meta    page's head | magic u32 | version u32 | page size u32 | flags u32 | root bucket | free list u64 | pages u64 |
//	        transaction u64 | FNV-1a over the meta up to here u64
const (
	pageHead    = 16
	elementSize = 16
	bucketHead  = 16
	metaSize    = 64
	metaMagic   = 0xED0CDAED
	metaVersion = 2
	branchPage  = 1
	leafPage    = 2
)

var native = binary.NativeEndian

// inspector reads bolt's pages.
type inspector struct {
	file     []byte
	pageSize uint64
	pages    uint64
	seen     map[uint64]bool
	made     bool   // bolt has written more than an empty file
	bucket   string // that is being read; empty: the root
}

// inspect tells whether the file, which is locked, is as bolt has written it.
func inspect(file *os.File) error {
	info, err := file.Stat()
	if err != nil || info.Size() == 0 { // bolt makes it
		return err
	}
	content := make([]byte, info.Size())
	if _, err := file.ReadAt(content, 0); err != nil {
		return err
	}
	return inspectFile(content)
}

func inspectFile(file []byte) error {
	i := &inspector{file: file, seen: map[uint64]bool{}}
	return i.metas()
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}

// metas reads both meta pages, and from the newer one's root what there is.
func (i *inspector) metas() error {
	first, err := i.meta(0)
	if err != nil {
		return err
	}
	i.pageSize = uint64(native.Uint32(first[8:]))
	second, err := i.meta(i.pageSize)
	if err != nil {
		return err
	}
	newer := first
	if native.Uint64(second[48:]) > native.Uint64(first[48:]) {
		newer = second
	}
	i.made = native.Uint64(newer[48:]) > 1
	// Bolt uses a page that is free without a look at whether the file has it. No crash leaves a file that is too short: what is to hold new
	// pages is made and synced (DB.grow) before they are written, and they are synced before the meta page that counts them is written.
	if i.pages = native.Uint64(newer[40:]); i.pages > uint64(len(i.file))/i.pageSize {
		return damaged("the file has %d bytes for %d pages", len(i.file), i.pages)
	}
	return i.page(native.Uint64(newer[16:]), nil, nil)
}

func (i *inspector) meta(at uint64) ([]byte, error) {
	if at+pageHead+metaSize > uint64(len(i.file)) {
		return nil, damaged("the file has %d bytes", len(i.file))
	}
	m := i.file[at+pageHead:][:metaSize]
	sum := fnv.New64a()
	_, _ = sum.Write(m[:metaSize-8]) // never fails
	if native.Uint32(m) != metaMagic || native.Uint32(m[4:]) != metaVersion || native.Uint64(m[metaSize-8:]) != sum.Sum64() || native.Uint32(m[8:]) < 512 {
		return nil, damaged("meta page at %d", at)
	}
	return m, nil
}

// page reads a page and what is below. Its keys are in [low, high), where nil is no limit.
func (i *inspector) page(id uint64, low, high []byte) error {
	if id < 2 || id >= i.pages {
		return damaged("reference to page %d of %d", id, i.pages)
	}
	p := i.file[id*i.pageSize:]
	overflow := uint64(native.Uint32(p[12:]))
	if native.Uint64(p) != id || id+overflow >= i.pages {
		return damaged("head of page %d", id)
	}
	for n := id; n <= id+overflow; n++ {
		if i.seen[n] {
			return damaged("page %d is referred to twice", n)
		}
		i.seen[n] = true
	}
	used, err := i.elements(p[:(overflow+1)*i.pageSize], low, high)
	if err == nil && (used-1)/i.pageSize != overflow {
		err = damaged("%d bytes in %d pages", used, overflow+1)
	}
	if err == nil && len(bytes.TrimLeft(p[used:(overflow+1)*i.pageSize], "\x00")) > 0 {
		err = damaged("something follows the last of its elements") // which bolt does not write: the count is wrong
	}
	if err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// elements reads what is on a page and tells how much of it is used.
func (i *inspector) elements(p []byte, low, high []byte) (used uint64, err error) {
	if len(p) < pageHead {
		return 0, damaged("a page of %d bytes", len(p))
	}
	flags, count := native.Uint16(p[8:]), uint64(native.Uint16(p[10:]))
	used = pageHead + count*elementSize
	if flags != branchPage && flags != leafPage || used > uint64(len(p)) || flags == branchPage && count == 0 {
		return 0, damaged("flags %#x, count %d", flags, count)
	}
	var keys [][]byte
	var elements []element
	for n := range count {
		e := cutElement(flags, p[pageHead+n*elementSize:])
		if pageHead+n*elementSize+e.position != used || used+e.key+e.value > uint64(len(p)) {
			return 0, damaged("element %d", n)
		}
		key := p[used : used+e.key]
		if n == 0 && bytes.Compare(key, low) < 0 || n > 0 && bytes.Compare(key, keys[n-1]) <= 0 || high != nil && bytes.Compare(key, high) >= 0 {
			return 0, damaged("order of key %d", n)
		}
		e.data = p[used+e.key : used+e.key+e.value]
		used += e.key + e.value
		keys, elements = append(keys, key), append(elements, e)
	}
	for n, e := range elements {
		limit := high
		if n+1 < len(keys) {
			limit = keys[n+1]
		}
		if flags == leafPage {
			err = i.leaf(keys[n], e)
		} else {
			err = i.page(e.child, keys[n], limit)
		}
		if err != nil {
			return 0, err
		}
	}
	return used, i.root(flags, keys)
}

type element struct {
	position, key, value uint64 // from the element; sizes
	child                uint64 // of a branch
	flags                uint32 // of a leaf
	data                 []byte
}

func cutElement(flags uint16, b []byte) element {
	u32 := func(at int) uint64 { return uint64(native.Uint32(b[at:])) }
	if flags == branchPage {
		return element{position: u32(0), key: u32(4), child: native.Uint64(b[8:])}
	}
	return element{flags: native.Uint32(b), position: u32(4), key: u32(8), value: u32(12)}
}

// The buckets that package raft-boltdb makes.
const (
	bucketConf = "conf"
	bucketLogs = "logs"
)

// root tells whether the root has the buckets that it should: bolt would make one that is missing anew.
func (i *inspector) root(flags uint16, keys [][]byte) error {
	if i.bucket != "" || len(keys) == 0 && !i.made {
		return nil
	}
	if flags != leafPage || len(keys) != 2 || string(keys[0]) != bucketConf || string(keys[1]) != bucketLogs {
		return damaged("buckets %q", keys)
	}
	return nil
}

// leaf reads a key and its value: a bucket in the root, a record in bucket conf, an entry in the other.
func (i *inspector) leaf(key []byte, e element) error {
	switch {
	case i.bucket == "":
		return i.subBucket(string(key), e)
	case e.flags != 0:
		return damaged("bucket %q in bucket %q", key, i.bucket)
	case i.bucket == bucketConf:
		return record(key, e.data)
	case len(key) != 8:
		return damaged("entry with key %x", key)
	}
	return nil // an entry's checksum is looked at when it is read
}

// record looks at a record of the conf bucket. One whose value has a flipped bit is left to who reads it, since it is the
// matter of one group; but if the key may be another than it was, then a group has lost a record and would not know.
func record(key, sealed []byte) error {
	_, err := unseal(key, sealed)
	if err == nil {
		return nil
	}
	value := bytes.Clone(sealed)
	for bit := range len(value) * 8 {
		value[bit/8] ^= 1 << (bit % 8)
		if _, err := unseal(key, value); err == nil {
			return nil
		}
		value[bit/8] ^= 1 << (bit % 8)
	}
	return err
}

func (i *inspector) subBucket(name string, e element) error {
	if e.flags != 1 || len(e.data) < bucketHead || name == "" {
		return damaged("bucket %q", name)
	}
	i.bucket = name
	defer func() { i.bucket = "" }()
	if id := native.Uint64(e.data); id != 0 {
		return i.page(id, nil, nil)
	}
	inner := e.data[bucketHead:]
	if len(inner) >= pageHead && (native.Uint64(inner) != 0 || native.Uint32(inner[12:]) != 0) {
		return damaged("the page in bucket %q says that it is %d and %d more", name, native.Uint64(inner), native.Uint32(inner[12:])) // bolt would give them away
	}
	used, err := i.elements(inner, nil, nil)
	if err == nil && used != uint64(len(e.data)-bucketHead) {
		err = damaged("%d of %d bytes used", used, len(e.data)-bucketHead)
	}
	return err
}
