package chaos

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/warrenmq/warren/test/chaos/check"
)

// machine watches what the machine itself does to the run: how late a timer of this process fires, and how long an fsync
// of a small file takes on the nodes' disk. On a busy machine both reach seconds, and nodes then fail for no other reason.
type machine struct {
	mu     sync.Mutex // guards what follows
	stalls []stall
	ends   []nodeEnd
}

// nodeEnd is the end of a process that nobody had ended.
type nodeEnd struct {
	at         time.Duration
	name, tail string
}

// A node ends itself when an fsync hangs, and says so in its last line. That is right when the disk really did.
const (
	hangingDisk = "fsync takes longer than"
	hangingFrom = 3 * time.Second
)

// judgeEnds makes findings of the ends of processes, and notes of those that the machine's disk explains.
func (m *machine) judgeEnds(report func(check.Finding)) (notes []string) {
	m.mu.Lock()
	ends := m.ends
	m.mu.Unlock()
	for _, e := range ends {
		_, fsync := m.worst(e.at-30*time.Second, e.at+30*time.Second)
		lines := strings.Split(e.tail, "\n")
		last := lines[len(lines)-1]
		if strings.Contains(last, hangingDisk) && fsync > hangingFrom {
			notes = append(notes, fmt.Sprintf("%s ended itself at %v: %q; the suite's own fsync took %v at that time", e.name, round(e.at), last, round(fsync)))
			continue
		}
		report(check.Finding{Kind: check.NodeEnded, Detail: fmt.Sprintf("%s at %v; its log ends with\n%s", e.name, round(e.at), e.tail)})
	}
	return notes
}

type stall struct {
	from, to time.Duration
	disk     bool
}

// Timers and fsyncs that are late by less are not kept.
const stallFrom = 50 * time.Millisecond

// watch measures until ctx ends: timers, and the disks of some directories.
func (m *machine) watch(ctx context.Context, dirs []string, now func() time.Duration) error {
	var probes []*os.File
	defer func() {
		for _, f := range probes {
			_ = f.Close() // what is in it is of no interest
		}
	}()
	for _, dir := range dirs {
		f, err := os.Create(filepath.Join(dir, "fsync-probe"))
		if err != nil {
			return err
		}
		probes = append(probes, f)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for ctx.Err() == nil {
			begin := now()
			time.Sleep(10 * time.Millisecond)
			m.note(stall{begin, now() - 10*time.Millisecond, false})
		}
	})
	for _, f := range probes {
		all.Go(func() {
			ticker := time.NewTicker(100 * time.Millisecond)
			defer ticker.Stop()
			for ; ctx.Err() == nil; <-ticker.C {
				begin := now()
				if _, err := f.WriteAt([]byte(fmt.Sprint(begin)), 0); err != nil {
					continue // the disk is full; what the nodes make of it is what counts
				}
				if err := f.Sync(); err != nil {
					continue
				}
				m.note(stall{begin, now(), true})
			}
		})
	}
	all.Wait()
	return nil
}

func (m *machine) note(s stall) {
	if s.to-s.from < stallFrom {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stalls = append(m.stalls, s)
}

// worst gives the longest delays of timers and fsyncs in a span; 0: shorter than is kept.
func (m *machine) worst(from, to time.Duration) (timer, fsync time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.stalls {
		switch {
		case s.from > to || s.to < from:
		case s.disk:
			fsync = max(fsync, s.to-s.from)
		default:
			timer = max(timer, s.to-s.from)
		}
	}
	return timer, fsync
}
