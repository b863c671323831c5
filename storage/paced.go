package storage

import "github.com/warrenmq/warren/storage/vfs"

const (
	// writeSize is how much is gathered for a write.
	writeSize = 1 << 20
	// syncEvery is how much is written before it is synced. One fsync of a large file at its end would keep the log from
	// the disk for as long as that takes, and appends with it.
	syncEvery = 4 << 20
)

// paced writes a large file from its front to its end.
type paced struct {
	f          vfs.File
	at, synced int64
}

func (p *paced) write(b []byte) error {
	if _, err := p.f.WriteAt(b, p.at); err != nil {
		return diskFull(err)
	}
	p.at += int64(len(b))
	if p.at-p.synced < syncEvery {
		return nil
	}
	p.synced = p.at
	return diskFull(p.f.Sync())
}
