package raftstore

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sys/unix"
)

// smallDB fills a file with what the sweep then reads back, and returns its octets. The log has as many entries, a multiple
// of four.
func smallDB(t *testing.T, last uint64) []byte {
	t.Helper()
	dir := t.TempDir()
	db := openDB(t, dir)
	for group := range uint32(3) {
		s := db.Stable(group)
		set(t, s.SaveSeat(Seat{Incarnation: 1, Ready: true}))
		for term := uint64(1); term <= 9; term++ { // so that old values lie about in the file
			set(t, s.SetUint64([]byte(keyTerm), term))
			set(t, s.SetUint64([]byte(keyVoteTerm), term))
			set(t, s.Set([]byte(keyVoteFor), fmt.Appendf(nil, "node-%d.1", term)))
		}
	}
	for i := uint64(1); i <= last; i += 4 {
		set(t, db.CatalogLog().StoreLogs(catalogEntries(i, i+3)))
	}
	set(t, db.Close())
	b, err := os.ReadFile(filepath.Join(dir, fileName))
	set(t, err)
	return b
}

// readAll reads everything that smallDB has written. An error is as good as the right value; another value is told.
func readAll(db *DB) error {
	for group := range uint32(3) {
		s := db.Stable(group)
		if seat, err := s.Seat(); err == nil && seat != (Seat{Incarnation: 1, Ready: true}) {
			return fmt.Errorf("seat %d: %+v", group, seat)
		}
		for _, key := range []string{keyTerm, keyVoteTerm} {
			if n, err := s.GetUint64([]byte(key)); (err == nil && n != 9) || errors.Is(err, errNotFound) {
				return fmt.Errorf("%s of group %d: %d, %w", key, group, n, err)
			}
		}
		if b, err := s.Get([]byte(keyVoteFor)); (err == nil && string(b) != "node-9.1") || errors.Is(err, errNotFound) {
			return fmt.Errorf("vote of group %d: %q, %w", group, b, err)
		}
	}
	l := db.CatalogLog()
	for _, want := range catalogEntries(1, 12) {
		var got raft.Log
		if err := l.GetLog(want.Index, &got); err == nil && !sameEntry(&got, want) {
			return fmt.Errorf("entry %d: %+v", want.Index, got)
		}
	}
	last, err := l.LastIndex()
	switch damage := l.Check(0); {
	case damage != nil && !errors.Is(damage, ErrDamaged):
		return fmt.Errorf("the log is not whole, and this is no damage: %w", damage)
	case err == nil && damage == nil && last != 12:
		return fmt.Errorf("the log ends at %d and nothing is missing", last)
	}
	return nil
}

// One flipped bit, wherever it is, must not give another value than was written: not an older one, and not none, which the
// library takes for a replica that has promised nothing. Nor may it end the process, which would then end at every start.
func TestFlippedBit(t *testing.T) {
	file := smallDB(t, 12)
	reached := &inspector{file: file, seen: map[uint64]bool{}}
	set(t, reached.metas())
	const stride = 5 // has no common factor with 8, so each bit of an octet has its turn
	found, accepted := 0, 0
	for bit := 0; bit < len(file)*8; bit += stride {
		opened := 197 // one in so many that the first look accepts, if nothing refers to the page
		if reached.seen[uint64(bit/8)/reached.pageSize] {
			opened = 7
		}
		file[bit/8] ^= 1 << (bit % 8)
		if err := inspectFile(file); errors.Is(err, ErrDamaged) {
			found++
		} else if accepted++; err != nil {
			t.Errorf("octet %#x, bit %d: %v", bit/8, bit%8, err)
		} else if accepted%opened == 0 {
			openAndRead(t, file, bit)
		}
		file[bit/8] ^= 1 << (bit % 8)
	}
	t.Logf("of %d flips in %d octets the first look found %d", found+accepted, len(file), found)
}

// openAndRead opens a file and reads what it can.
func openAndRead(t *testing.T, file []byte, bit int) {
	t.Helper()
	dir := t.TempDir()
	set(t, os.WriteFile(filepath.Join(dir, fileName), file, 0o600))
	db, err := OpenDB(dir)
	if errors.Is(err, ErrDamaged) {
		return
	}
	if err != nil {
		t.Errorf("octet %#x, bit %d: %v", bit/8, bit%8, err)
		return
	}
	if err := readAll(db); err != nil {
		t.Errorf("octet %#x, bit %d: %v", bit/8, bit%8, err)
	}
	db.OnFatal(func(err error) { t.Errorf("octet %#x, bit %d: %v", bit/8, bit%8, err) })
	_ = db.Stable(7).SetUint64([]byte(keyTerm), 1) // a record that is damaged may be an error
	_ = db.CatalogLog().StoreLogs(catalogEntries(13, 13))
	set(t, db.Close())
}

// The heads of the pages are small, and what they hold matters most: all their bits are tried. A page with 16 entries has
// none when one bit of its count is flipped.
func TestFlippedBitInTheHeadOfAPage(t *testing.T) {
	for _, entries := range []uint64{12, 16} {
		file := smallDB(t, entries)
		reached := &inspector{file: file, seen: map[uint64]bool{}}
		set(t, reached.metas())
		for page := range reached.seen {
			for bit := int(page*reached.pageSize) * 8; bit < int(page*reached.pageSize+pageHead)*8; bit++ {
				file[bit/8] ^= 1 << (bit % 8)
				if err := inspectFile(file); !errors.Is(err, ErrDamaged) {
					t.Errorf("page %d, octet %d, bit %d: %v", page, bit/8%int(reached.pageSize), bit%8, err)
				}
				file[bit/8] ^= 1 << (bit % 8)
			}
		}
	}
}

// A small bucket has its page in the page of its parent. Bolt takes the number in that page's head for one that it may give away, and
// panics at the next write when another is there.
func TestFlippedBitInTheHeadOfAnInnerPage(t *testing.T) {
	dir := t.TempDir()
	db := openDB(t, dir)
	set(t, db.Stable(1).SaveSeat(Seat{Incarnation: 1, Ready: true}))
	set(t, db.Close())
	file, err := os.ReadFile(filepath.Join(dir, fileName))
	set(t, err)
	pageSize := int(native.Uint32(file[pageHead+8:]))
	newer := file[pageHead:]
	if second := file[pageSize+pageHead:]; native.Uint64(second[48:]) > native.Uint64(newer[48:]) {
		newer = second
	}
	root := int(native.Uint64(newer[16:])) * pageSize
	inner := 0
	for n := range int(native.Uint16(file[root+10:])) {
		element := root + pageHead + n*elementSize
		e := cutElement(leafPage, file[element:])
		bucket := element + int(e.position+e.key)
		if native.Uint64(file[bucket:]) != 0 {
			continue // its page is elsewhere
		}
		inner++
		head := bucket + bucketHead
		for bit := head * 8; bit < (head+pageHead)*8; bit++ {
			file[bit/8] ^= 1 << (bit % 8)
			if err := inspectFile(file); !errors.Is(err, ErrDamaged) {
				t.Errorf("bucket %d, octet %d of the head, bit %d: %v", n, bit/8-head, bit%8, err)
			}
			file[bit/8] ^= 1 << (bit % 8)
		}
	}
	if inner != 2 {
		t.Errorf("%d inner pages", inner)
	}
	set(t, inspectFile(file))
}

// Bolt would take the older of its meta pages, and give the newest transaction up silently.
func TestDamagedMetaPage(t *testing.T) {
	file := smallDB(t, 12)
	for page := range 2 {
		at := page*os.Getpagesize() + pageHead + 20
		file[at] ^= 4
		dir := t.TempDir()
		set(t, os.WriteFile(filepath.Join(dir, fileName), file, 0o600))
		if _, err := OpenDB(dir); !errors.Is(err, ErrDamaged) {
			t.Errorf("a damaged meta page %d: %v", page, err)
		}
		file[at] ^= 4
	}
}

// TestLockedFile: while a process that is ending has the file still, who opens it waits, and then looks at it like anybody else. It does
// not wait for ever.
func TestLockedFile(t *testing.T) {
	file := smallDB(t, 12)
	newer := 0
	if native.Uint64(file[os.Getpagesize()+pageHead+48:]) > native.Uint64(file[pageHead+48:]) {
		newer = os.Getpagesize()
	}
	locked := func(t *testing.T, flip byte) (dir string, holder *os.File) {
		dir = t.TempDir()
		path := filepath.Join(dir, fileName)
		content := bytes.Clone(file)
		content[newer+pageHead+20] ^= flip
		set(t, os.WriteFile(path, content, 0o600))
		holder, err := os.Open(path)
		set(t, err)
		t.Cleanup(func() { _ = holder.Close() })
		set(t, lock(holder))
		return dir, holder
	}
	for name, flip := range map[string]byte{"sound": 0, "damaged": 4} {
		t.Run(name, func(t *testing.T) {
			dir, holder := locked(t, flip)
			opened := make(chan error, 1)
			go func() {
				db, err := OpenDB(dir)
				if err == nil {
					err = errors.Join(readAll(db), db.Close())
				}
				opened <- err
			}()
			select {
			case err := <-opened:
				t.Fatalf("it does not wait: %v", err)
			case <-time.After(10 * lockPeriod):
			}
			set(t, holder.Close())
			if err := <-opened; errors.Is(err, ErrDamaged) != (flip != 0) || err != nil && flip == 0 {
				t.Errorf("when the file is free: %v", err)
			}
		})
	}
	t.Run("for long", func(t *testing.T) {
		dir, holder := locked(t, 0)
		if _, err := OpenDB(dir); !errors.Is(err, errLocked) || errors.Is(err, ErrDamaged) {
			t.Errorf("another process has the file: %v", err)
		}
		set(t, holder.Close())
		set(t, openDB(t, dir).Close())
	})
}

// TestLockIsHeldFromTheLookOn: nobody can take the file between the look at it and its use.
func TestLockIsHeldFromTheLookOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), fileName)
	set(t, os.WriteFile(path, smallDB(t, 12), 0o600))
	looked, err := openFile(path, os.O_RDWR, 0o600)
	set(t, err)
	defer looked.Close()
	other, err := os.Open(path)
	set(t, err)
	defer other.Close()
	if err := unix.Flock(int(other.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("the lock of a file that bolt has not yet: %v", err)
	}
}

// A flipped bit in a value concerns one group; one in a key could hide that a group has lost a record.
func TestDamagedRecord(t *testing.T) {
	key, value := []byte("group-7/vote"), []byte("\x09\x00\x00\x00\x00\x00\x00\x00node-9.1")
	sealed := seal(key, value)
	set(t, record(key, sealed))
	for bit := range len(sealed) * 8 {
		sealed[bit/8] ^= 1 << (bit % 8)
		if _, err := unseal(key, sealed); !errors.Is(err, ErrDamaged) {
			t.Errorf("bit %d of the value: %v", bit, err)
		}
		if err := record(key, sealed); err != nil {
			t.Errorf("bit %d of the value condemns the file: %v", bit, err)
		}
		sealed[bit/8] ^= 1 << (bit % 8)
	}
	for bit := range len(key) * 8 {
		key[bit/8] ^= 1 << (bit % 8)
		if err := record(key, sealed); !errors.Is(err, ErrDamaged) {
			t.Errorf("bit %d of the key: %v", bit, err)
		}
		key[bit/8] ^= 1 << (bit % 8)
	}
}

// TestCutBehindWhatIsInUse: a file that has lost its end is damaged though nothing refers to the pages that are gone. They are free: bolt
// would write to them beyond what it has mapped of the file, and read whatever else is there.
func TestCutBehindWhatIsInUse(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, fileName)
	db := openDB(t, dir)
	set(t, db.CatalogLog().StoreLogs(catalogEntries(1, 400))) // the last pages
	set(t, db.CatalogLog().DeleteRange(1, 396))
	for i := uint64(401); i <= 410; i++ { // what is in use moves forward, to pages that are free now
		set(t, db.CatalogLog().StoreLogs(catalogEntries(i, i)))
	}
	set(t, db.Close())
	file, err := os.ReadFile(path)
	set(t, err)
	reached := &inspector{file: file, seen: map[uint64]bool{}}
	set(t, reached.metas())
	used := uint64(2)
	for page := range reached.seen {
		used = max(used, page+1)
	}
	if used >= reached.pages {
		t.Fatalf("page %d of %d is in use: the last ones should be free", used-1, reached.pages)
	}
	for pages := used; pages < reached.pages; pages++ {
		set(t, os.WriteFile(path, file[:pages*reached.pageSize], 0o600))
		if db, err := OpenDB(dir); !errors.Is(err, ErrDamaged) {
			t.Errorf("%d pages of %d: %v", pages, reached.pages, err)
			set(t, db.Close())
		}
	}
	set(t, os.WriteFile(path, file[:reached.pages*reached.pageSize], 0o600))
	db, err = OpenDB(dir)
	set(t, err)
	set(t, db.Close())
}

// What bolt writes passes, however large the tree and whatever was deleted.
func TestSoundFilePasses(t *testing.T) {
	dir := t.TempDir()
	db := openDB(t, dir)
	path := filepath.Join(dir, fileName)
	last := uint64(0)
	for round := range uint64(12) {
		var entries []*raft.Log
		for range 200 {
			last++
			entries = append(entries, &raft.Log{Index: last, Data: bytes.Repeat([]byte{1}, int(last*last%9000)>>(last%5))})
		}
		set(t, db.CatalogLog().StoreLogs(entries))
		for group := range uint32(round * 10) {
			if group%7 == 0 {
				set(t, db.Stable(group).SetUint64([]byte(keyTerm), last))
			}
		}
		switch round % 4 {
		case 1:
			set(t, db.CatalogLog().DeleteRange(1, last-250))
		case 2:
			set(t, db.CatalogLog().DeleteRange(last-90, last))
			last -= 91
		case 3:
			set(t, db.CatalogLog().Forget())
		}
		file, err := os.ReadFile(path)
		set(t, err)
		if err := inspectFile(file); err != nil {
			t.Fatalf("round %d, %d octets: %v", round, len(file), err)
		}
	}
	db = reopen(t, db, dir)
	set(t, db.Close())
	empty := t.TempDir()
	set(t, openDB(t, empty).Close())
	file, err := os.ReadFile(filepath.Join(empty, fileName))
	set(t, err)
	set(t, inspectFile(file))
}
