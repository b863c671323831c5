// Package disk is a disk whose faults are at will: a file system in user space (FUSE) that keeps everything in a directory
// below, and can make each fsync slow, hang or fail, and lose at a power cut what was not synced. It needs root and
// /dev/fuse.
//
// What a power cut loses follows POSIX: a write lasts when its file has been synced, a new, removed or changed name when its
// directory has. Of what was not synced anything may be lost: all, the last, or any, also parts of a write.
package disk

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Disk is mounted at a directory.
type Disk struct {
	point, below string
	journal      *journal
	server       *fuse.Server // nil while it is not mounted; used by one goroutine at a time

	mu      sync.Mutex // guards what follows
	delay   time.Duration
	failing bool
	failed  int           // fsyncs
	hanging chan struct{} // closed when fsyncs go on; nil: none hangs
}

// Missing says why there can be no such disk here, or nothing.
func Missing() string {
	if os.Geteuid() != 0 {
		return "a disk with faults needs root, to mount it"
	}
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return "a disk with faults: " + err.Error()
	}
	_ = f.Close() // only opened to see whether it can be
	return ""
}

var ours = regexp.MustCompile(`^warren-chaos-([0-9]+)$`)

func source() string { return fmt.Sprintf("warren-chaos-%d", os.Getpid()) }

// sweep takes off the disks of processes that have ended without doing so.
func sweep() {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		if match := ours.FindStringSubmatch(fields[0]); match != nil {
			if pid, err := strconv.Atoi(match[1]); err == nil && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
				_ = unix.Unmount(fields[1], unix.MNT_DETACH) // another process may do the same
			}
		}
	}
}

// Mount makes a disk at point, which is created if it is missing, and keeps its content in the directory below. Both are on
// one file system; the content survives Close.
func Mount(point, below string) (*Disk, error) {
	sweep()
	d := &Disk{point: point, below: filepath.Join(below, "content"), journal: newJournal(filepath.Join(below, "removed"))}
	for _, dir := range []string{point, d.below, d.journal.trash} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	return d, d.mount()
}

func (d *Disk) mount() error {
	var st unix.Stat_t
	if err := unix.Stat(d.below, &st); err != nil {
		return fmt.Errorf("disk at %s: %w", d.point, err)
	}
	root := &fs.LoopbackRoot{Path: d.below, Dev: st.Dev}
	root.RootNode = &node{&fs.LoopbackNode{RootData: root}, d}
	short := time.Second
	server, err := fs.Mount(d.point, root.RootNode, &fs.Options{EntryTimeout: &short, AttrTimeout: &short,
		MountOptions: fuse.MountOptions{FsName: source(), Name: "chaos", DirectMountStrict: true, AllowOther: true, DisableXAttrs: true}})
	if err != nil {
		return fmt.Errorf("mount a disk at %s: %w", d.point, err)
	}
	d.server = server
	return nil
}

// SlowSync makes each fsync take so much longer; 0: no longer.
func (d *Disk) SlowSync(by time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.delay = by
}

// FailSync makes each fsync fail with an I/O error, or no longer, and says how many have failed since the call before. What
// such an fsync was to write is lost at the next power cut, even if a later fsync succeeds.
func (d *Disk) FailSync(fail bool) (failed int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	failed, d.failed, d.failing = d.failed, 0, fail
	return failed
}

// Hang lets no fsync end until Release. A process that waits for one does not end before either, not even by SIGKILL.
func (d *Disk) Hang() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.hanging == nil {
		d.hanging = make(chan struct{})
	}
}

// Release ends Hang.
func (d *Disk) Release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.hanging != nil {
		close(d.hanging)
		d.hanging = nil
	}
}

// wait is what an fsync has to bear; the error is the fsync's.
func (d *Disk) wait() error {
	d.mu.Lock()
	delay, hanging := d.delay, d.hanging
	d.mu.Unlock()
	if hanging != nil {
		<-hanging
	}
	time.Sleep(delay)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failing {
		d.failed++
		return unix.EIO
	}
	return nil
}

// PowerCut loses what was not synced, and tells how much. No process may have a file of the disk open.
func (d *Disk) PowerCut(random *rand.Rand) (told string, err error) {
	if err := d.unmount(); err != nil { // the kernel's cache goes with it
		return "", err
	}
	told, err = d.journal.lose(random)
	return told, errors.Join(err, d.mount())
}

func (d *Disk) unmount() error {
	if d.server == nil {
		return nil
	}
	server := d.server
	// A process that was killed may still be closing its files.
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Unmount(d.point, 0)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return fmt.Errorf("take off the disk at %s: %w", d.point, err)
		}
	}
	gone := make(chan struct{})
	go func() {
		server.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		d.server = nil
		return nil
	case <-time.After(20 * time.Second):
		return fmt.Errorf("take off the disk at %s: it is still mounted in another namespace", d.point)
	}
}

// Close takes the disk off, however busy it is.
func (d *Disk) Close() error {
	d.Release()
	if d.server == nil {
		return nil
	}
	err := unix.Unmount(d.point, unix.MNT_DETACH)
	d.server = nil
	return err
}
