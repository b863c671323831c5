package chaos

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// machine watches what the machine itself does to the run: how late a timer of this process fires, and how long an fsync
// of a small file takes on the nodes' disk. On a busy machine both reach seconds, and nodes then fail for no other reason.
type machine struct {
	mu     sync.Mutex // guards what follows
	stalls []stall
}

type stall struct {
	from, to time.Duration
	disk     bool
}

// Timers and fsyncs that are late by less are not kept.
const stallFrom = 50 * time.Millisecond

// watch measures until ctx ends.
func (m *machine) watch(ctx context.Context, dir string, now func() time.Duration) error {
	f, err := os.Create(filepath.Join(dir, "fsync-probe"))
	if err != nil {
		return err
	}
	var both sync.WaitGroup
	both.Go(func() {
		for ctx.Err() == nil {
			begin := now()
			time.Sleep(10 * time.Millisecond)
			m.note(stall{begin, now() - 10*time.Millisecond, false})
		}
	})
	both.Go(func() {
		ticker := time.NewTicker(100 * time.Millisecond)
		defer ticker.Stop()
		for ctx.Err() == nil {
			begin := now()
			if _, err := f.WriteAt([]byte(fmt.Sprint(begin)), 0); err != nil {
				return // the disk is full or gone; what the nodes make of it is what counts
			}
			if err := f.Sync(); err != nil {
				return
			}
			m.note(stall{begin, now(), true})
			<-ticker.C
		}
	})
	both.Wait()
	return f.Close()
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
