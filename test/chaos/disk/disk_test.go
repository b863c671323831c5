package disk

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warrenmq/warren/test/process"
)

func newDisk(t *testing.T) *Disk {
	t.Helper()
	if why := Missing(); why != "" {
		process.Missing(t, why)
	}
	dir := t.TempDir()
	d, err := Mount(filepath.Join(dir, "data"), filepath.Join(dir, "below"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d *Disk) file(name string) string { return filepath.Join(d.point, name) }

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// write writes to a file that exists or not, and syncs it if asked.
func (d *Disk) write(t *testing.T, name, text string, offset int64, sync bool) {
	t.Helper()
	f, err := os.OpenFile(d.file(name), os.O_CREATE|os.O_RDWR, 0o600)
	must(t, err)
	_, err = f.WriteAt([]byte(text), offset)
	must(t, err)
	if sync {
		must(t, unix.Fdatasync(int(f.Fd())))
	}
	must(t, f.Close())
}

func (d *Disk) syncDirectory(t *testing.T, name string) {
	t.Helper()
	f, err := os.Open(d.file(name))
	must(t, err)
	must(t, f.Sync(), f.Close())
}

func (d *Disk) cut(t *testing.T, seed uint64) {
	t.Helper()
	told, err := d.PowerCut(rand.New(rand.NewPCG(seed, 0)))
	must(t, err)
	t.Log(told)
}

// TestWhatWasSyncedLasts: whatever the power cut takes, synced content and names stay, and nothing comes that was never written.
func TestWhatWasSyncedLasts(t *testing.T) {
	d := newDisk(t)
	seen := map[string]bool{}
	for seed := range uint64(25) {
		name := fmt.Sprintf("f%d", seed)
		d.write(t, name, "synced....", 0, true)
		d.syncDirectory(t, ".")
		d.write(t, name, "XX", 3, false)
		d.write(t, name, "longer", 8, false)
		d.write(t, name+".new", "new", 0, true) // its name was never synced
		must(t, os.Mkdir(d.file(name+".dir"), 0o700))
		d.cut(t, seed)
		data, err := os.ReadFile(d.file(name))
		must(t, err)
		if !slices.Contains([]string{"synced....", "synXXd....", "synced..longer", "synXXd..longer"}, string(data)) {
			t.Fatalf("seed %d: %q", seed, data)
		}
		seen[string(data)] = true
		if _, err := os.Stat(d.file(name + ".new")); err != nil {
			seen["no file"] = true
		}
		if _, err := os.Stat(d.file(name + ".dir")); err != nil {
			seen["no directory"] = true
		}
	}
	if len(seen) != 6 {
		t.Errorf("some outcomes never came: %v", seen)
	}
}

// TestNamesComeBack: what was renamed over or removed is there again, if the directory was not synced; else it is gone.
func TestNamesComeBack(t *testing.T) {
	d := newDisk(t)
	back, stays := 0, 0
	for seed := range uint64(12) {
		for _, sync := range []bool{true, false} {
			for name, text := range map[string]string{"checkpoint": "old", "checkpoint.tmp": "new", "removed": "still here"} {
				must(t, os.RemoveAll(d.file(name)))
				d.write(t, name, text, 0, true)
			}
			d.syncDirectory(t, ".")
			must(t, os.Rename(d.file("checkpoint.tmp"), d.file("checkpoint")), os.Remove(d.file("removed")))
			if sync {
				d.syncDirectory(t, ".")
			}
			d.cut(t, seed)
			data, err := os.ReadFile(d.file("checkpoint"))
			must(t, err)
			_, temporary := os.Stat(d.file("checkpoint.tmp"))
			_, removed := os.Stat(d.file("removed"))
			switch {
			case string(data) == "old" && temporary == nil && removed == nil && !sync:
				back++
			case string(data) == "new" && temporary != nil && (removed != nil || !sync):
				stays++
			default:
				t.Fatalf("synced %v: checkpoint %q, checkpoint.tmp %v, removed %v", sync, data, temporary, removed)
			}
		}
	}
	if back == 0 || stays < 12 {
		t.Errorf("%d times back, %d times not", back, stays)
	}
}

// TestDirectoriesComeBack: a directory that was removed comes back with what was in it, or is gone with all of it; another one that got
// its name has nothing to do with that.
func TestDirectoriesComeBack(t *testing.T) {
	d := newDisk(t)
	made := func(text string) {
		must(t, os.Mkdir(d.file("dir"), 0o700))
		d.write(t, "dir/f", text, 0, true)
		d.write(t, "dir/"+text, text, 0, true)
		d.syncDirectory(t, "dir")
		d.syncDirectory(t, ".")
	}
	seen := map[string]int{}
	for seed := range uint64(25) {
		for _, synced := range []bool{true, false} {
			must(t, os.RemoveAll(d.file("dir")))
			made("old")
			must(t, os.RemoveAll(d.file("dir")))
			want := []string{"old", "f old", "f", "", "no directory"}
			if synced {
				// Its number may go to the next directory, or not.
				if seed%2 == 0 {
					must(t, os.Mkdir(d.file(fmt.Sprintf("between%d", seed)), 0o700))
				}
				made("new")
				want = []string{"f new"}
			}
			d.cut(t, seed)
			got := "no directory"
			if entries, err := os.ReadDir(d.file("dir")); err == nil {
				var names []string
				for _, e := range entries {
					names = append(names, e.Name())
				}
				got = strings.Join(names, " ")
			}
			if !slices.Contains(want, got) {
				t.Fatalf("seed %d, the removal was synced: %v: %q", seed, synced, got)
			}
			if data, err := os.ReadFile(d.file("dir/f")); err == nil && (string(data) == "new") != synced {
				t.Fatalf("seed %d, the removal was synced: %v: %q", seed, synced, data)
			}
			seen[got]++
		}
	}
	if len(seen) < 4 {
		t.Errorf("some outcomes never came: %v", seen)
	}
}

// TestSizes: reserved space and cuts are changes like others.
func TestSizes(t *testing.T) {
	d := newDisk(t)
	for seed := range uint64(12) {
		must(t, os.RemoveAll(d.file("f")))
		d.write(t, "f", "0123456789", 0, true)
		d.syncDirectory(t, ".")
		f, err := os.OpenFile(d.file("f"), os.O_RDWR, 0)
		must(t, err)
		must(t, unix.Fallocate(int(f.Fd()), 0, 0, 4096), f.Truncate(4), f.Close())
		d.cut(t, seed)
		data, err := os.ReadFile(d.file("f"))
		must(t, err)
		if n := len(data); n != 10 && n != 4096 && n != 4 || string(data[:4]) != "0123" || n >= 10 && string(data[:10]) != "0123456789" {
			t.Fatalf("%d bytes, %q", n, data[:min(n, 20)])
		}
	}
}

func TestSlowFailingAndHangingSyncs(t *testing.T) {
	d := newDisk(t)
	f, err := os.Create(d.file("f"))
	must(t, err)
	defer f.Close()
	d.SlowSync(50 * time.Millisecond)
	begin := time.Now()
	must(t, f.Sync())
	if took := time.Since(begin); took < 50*time.Millisecond {
		t.Errorf("slow: %v", took)
	}
	d.SlowSync(0)

	d.Hang()
	done := make(chan error, 1)
	_, err = f.WriteString("kept")
	must(t, err)
	go func() { done <- f.Sync() }()
	// Another file: the kernel lets nobody write to one that is being synced.
	must(t, os.WriteFile(d.file("g"), []byte("writes go on"), 0o600))
	select {
	case <-done:
		t.Error("it does not hang")
	case <-time.After(100 * time.Millisecond):
	}
	d.Release()
	must(t, <-done)

	_, err = f.WriteString("lost")
	must(t, err)
	d.FailSync(true)
	if err := f.Sync(); !errors.Is(err, unix.EIO) {
		t.Errorf("failing: %v", err)
	}
	if n := d.FailSync(false); n != 1 {
		t.Errorf("%d failed", n)
	}
	must(t, f.Sync()) // says nothing of what the one before was to write
	must(t, f.Close())
	d.syncDirectory(t, ".")
	d.cut(t, 1)
	data, err := os.ReadFile(d.file("f"))
	must(t, err)
	if string(data) != "kept" {
		t.Errorf("after a failed fsync and a power cut: %q", data)
	}
}

func TestSweepLeavesTheLiving(t *testing.T) {
	d := newDisk(t)
	d.write(t, "f", "here", 0, false)
	sweep()
	if data, err := os.ReadFile(d.file("f")); err != nil || string(data) != "here" {
		t.Errorf("%q, %v", data, err)
	}
}
