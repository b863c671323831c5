package storage

import (
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/warrenmq/warren/storage/vfs"
)

// trailed is a store in which a group is sent as a snapshot to another node, while another group fills the log. Checkpoints are made when
// they are asked for, of everything.
type trailed struct {
	t       *testing.T
	s       *Store
	g, busy *Group
	stuck   bool // the busy group's replica applies nothing
	lazy    bool // no checkpoints are made
	saved   int  // checkpoints
}

const trailIndex = 30 // of the snapshot

func newTrailed(t *testing.T, fs vfs.FS) *trailed {
	s := mustOpen(t, fs, func(o *Options) { o.WALFileSize, o.SegmentSize = 64<<10, 64<<10 })
	r := &trailed{t: t, s: s, g: mustGroup(t, s, 1), busy: mustGroup(t, s, 2)}
	must(t, r.g.Append(entries(1, 1, trailIndex, 1, 100)))
	return r
}

// send begins the stream of the snapshot.
func (r *trailed) send() io.ReadCloser {
	r.t.Helper()
	b, err := r.g.OpenBodies(r.g.LastIndex)
	must(r.t, err)
	_, stream, err := b.Snapshot(Checkpoint{Index: r.g.LastIndex(), Term: 1}, []byte("state"), refs(nil))
	must(r.t, err)
	return stream
}

func (r *trailed) receive(stream io.ReadCloser) {
	r.t.Helper()
	_, err := io.Copy(io.Discard, stream)
	must(r.t, errors.Join(err, stream.Close()))
}

// publish writes some files of the log, with a few entries of the group that is sent.
func (r *trailed) publish(files int) {
	r.t.Helper()
	for newest := r.newest() + uint64(files); r.newest() < newest; {
		last := r.busy.LastIndex()
		must(r.t, r.busy.Append(entries(2, last+1, last+10, 1, 2000)))
		must(r.t, r.g.Append(entries(1, r.g.LastIndex()+1, r.g.LastIndex()+1, 1, 100)))
		synctest.Wait()
		if !r.lazy {
			r.checkpoint()
		}
	}
}

// checkpoint does what is asked for.
func (r *trailed) checkpoint() {
	r.t.Helper()
	for {
		select {
		case ids := <-r.s.NeedsCheckpoint():
			for _, id := range ids {
				g := mustGroup(r.t, r.s, id)
				index := g.LastIndex()
				if r.stuck && g == r.busy {
					index = 1
				}
				must(r.t, g.SaveCheckpoint(Checkpoint{Index: index, Term: 1}, func(io.Writer) error { return nil }, noRefs))
				if r.saved++; r.saved > 1000 {
					r.t.Fatal("checkpoints are made without a pause")
				}
			}
		default:
			return
		}
	}
}

func (r *trailed) newest() uint64 {
	r.s.wal.filesMu.RLock()
	defer r.s.wal.filesMu.RUnlock()
	return r.s.wal.files[len(r.s.wal.files)-1].number
}

func (r *trailed) files() int {
	r.s.wal.filesMu.RLock()
	defer r.s.wal.filesMu.RUnlock()
	return len(r.s.wal.files)
}

// follows tells whether a follower that has the snapshot can be sent what comes after it.
func (r *trailed) follows() bool {
	for i := uint64(trailIndex); i <= r.g.LastIndex(); i++ {
		if _, err := r.g.Entry(i); err != nil {
			return false
		}
	}
	return true
}

// kept fails if the log does not go on from the snapshot; given, if more files are left than are kept in any case.
func (r *trailed) kept(when string) {
	r.t.Helper()
	if !r.follows() {
		r.t.Fatalf("%s: the log is %d to %d, and the snapshot is of %d", when, r.g.FirstIndex(), r.g.LastIndex(), trailIndex)
	}
}

func (r *trailed) given(when string) {
	r.t.Helper()
	synctest.Wait()
	if n := r.files(); n > r.s.o.KeepFiles+1 {
		r.t.Errorf("%s: %d log files are left", when, n)
	}
}

// TestLogStaysForAFollower: what comes after a snapshot stays in the log while that is sent, and for as long again, at least ten seconds,
// and then goes by itself. Checkpoints are made as often as they would be otherwise.
func TestLogStaysForAFollower(t *testing.T) {
	for name, takes := range map[string]time.Duration{"at once": 0, "a minute": time.Minute, "an hour": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newTrailed(t, vfs.NewMem())
				defer func() { must(t, r.s.Close()) }()
				grace := min(max(takes, 10*time.Second), 10*time.Minute)
				stream := r.send()
				for range 6 {
					time.Sleep(takes / 6)
					r.publish(1)
				}
				r.kept("while the snapshot is sent")
				r.receive(stream)
				r.publish(2)
				r.kept("when it was sent")
				other := newTrailed(t, vfs.NewMem())
				if other.publish(8); r.saved < 8 || r.saved > other.saved {
					t.Errorf("%d checkpoints for 8 files, and %d where nobody follows", r.saved, other.saved)
				}
				must(t, other.s.Close())
				for _, g := range []*Group{r.g, r.busy} {
					if floor, last := g.Floor(), g.LastIndex(); floor < last/2 || g.KeepsLog(last) {
						t.Errorf("group %d: what is alive up to %d of %d is outside the log; a checkpoint would help: %v", g.id, floor, last, g.KeepsLog(last))
					}
				}
				time.Sleep(grace - time.Millisecond)
				synctest.Wait()
				r.kept("before the grace is over")
				time.Sleep(2 * time.Millisecond)
				r.given("after the grace")
				r.saved = 0
				if r.checkpoint(); r.saved > 2 {
					t.Errorf("%d checkpoints after the grace", r.saved)
				}
			})
		})
	}
}

// TestCheckpointInVainForAFollower: where a checkpoint does not help, as a follower needs the log and a replica has not applied what is in
// it, none is asked for but when a file begins or a follower needs nothing any more.
func TestCheckpointInVainForAFollower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		other, r := newTrailed(t, vfs.NewMem()), newTrailed(t, vfs.NewMem())
		r.stuck = true
		other.publish(6)
		must(t, other.s.Close())
		stream := r.send()
		if r.publish(6); r.saved > other.saved {
			t.Errorf("%d checkpoints, and %d where nobody follows", r.saved, other.saved)
		}
		if last := r.busy.LastIndex(); r.busy.KeepsLog(last) {
			t.Errorf("a checkpoint at %d is to give back what a follower needs", last)
		}
		r.receive(stream)
		time.Sleep(minGrace)
		synctest.Wait()
		r.saved = 0
		if r.checkpoint(); r.saved == 0 || r.saved > 2 {
			t.Errorf("%d checkpoints after the grace", r.saved)
		}
		if last := r.busy.LastIndex(); !r.busy.KeepsLog(last) {
			t.Errorf("a checkpoint at %d would give back nothing", last)
		}
		r.stuck = false
		must(t, r.busy.SaveCheckpoint(Checkpoint{Index: r.busy.LastIndex(), Term: 1}, func(io.Writer) error { return nil }, noRefs))
		r.checkpoint()
		r.given("when all is applied")
		must(t, r.s.Close())
	})
}

// TestNobodyFollows: where no follower comes to have the snapshot, or the log is not the one that it was of, nothing stays.
func TestNobodyFollows(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, r *trailed, stream io.ReadCloser){
		"broken off": func(t *testing.T, r *trailed, stream io.ReadCloser) {
			_, err := stream.Read(make([]byte, 10))
			must(t, errors.Join(err, stream.Close()))
		},
		"discard": func(t *testing.T, r *trailed, stream io.ReadCloser) { must(t, r.g.Discard()) },
		"install": func(t *testing.T, r *trailed, stream io.ReadCloser) {
			must(t, installAll(r.g, snapshotOf(t, 1, trailIndex)))
		},
		"install in the grace": func(t *testing.T, r *trailed, stream io.ReadCloser) {
			r.receive(stream)
			must(t, installAll(r.g, snapshotOf(t, 1, trailIndex)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newTrailed(t, vfs.NewMem())
				stream := r.send()
				r.publish(5)
				r.kept("while the snapshot is sent")
				end(t, r, stream)
				r.given("at its end")
				if r.g.LastIndex() == 0 { // it goes on as another log
					must(t, r.g.Append(entries(1, trailIndex+1, trailIndex+10, 2, 100)))
				}
				r.publish(5)
				r.given("after its end")
				must(t, r.s.Close())
			})
		})
	}
	t.Run("backup", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newTrailed(t, vfs.NewMem())
			b, err := r.g.OpenBodies(r.g.LastIndex)
			must(t, err)
			r.publish(3)
			r.kept("while it is not known what becomes of the bodies")
			_, err = b.Read(1, 0, 10)
			must(t, err)
			r.given("while a backup is made")
			r.publish(3)
			r.given("while a backup is made")
			must(t, errors.Join(b.Close(), r.s.Close()))
		})
	})
}

// TestNoRoomForFollowers: on a disk that is nearly full the log goes, and no append is refused for the sake of a follower.
func TestNoRoomForFollowers(t *testing.T) {
	for name, limit := range map[string]func(r *trailed, mem *vfs.Mem, quota *atomic.Bool){
		"disk":  func(r *trailed, mem *vfs.Mem, _ *atomic.Bool) { mem.SetCapacity(20 * r.s.o.WALFileSize) },
		"quota": func(r *trailed, _ *vfs.Mem, quota *atomic.Bool) { quota.Store(true) }, // free space is there, for others
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				mem := vfs.NewMem()
				var quota atomic.Bool
				r := newTrailed(t, vfs.Inject(mem, func(op vfs.Op) error {
					if quota.Load() && op.Kind == "preallocate" {
						return syscall.EDQUOT
					}
					return nil
				}))
				stream := r.send()
				r.publish(5)
				r.kept("while there is room")
				limit(r, mem, &quota)
				r.lazy = true // those that were made are enough for a while
				r.publish(2)
				r.lazy = false
				r.publish(40)
				if r.follows() || r.s.Full() {
					t.Errorf("%d log files are left; full: %v", r.files(), r.s.Full())
				}
				r.receive(stream)
				r.publish(2)
				time.Sleep(time.Hour)
				quota.Store(false)
				mem.SetCapacity(0)
				r.publish(1)
				r.given("when all was received")
				must(t, r.s.Close())
			})
		})
	}
}

// TestClosedInTheGrace: the end of the store waits for what retires at the end of a grace, and nothing of it touches the disk afterwards.
func TestClosedInTheGrace(t *testing.T) {
	for name, begun := range map[string]bool{"before its end": false, "at its end": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var closed, hold atomic.Bool
				release := make(chan struct{})
				r := newTrailed(t, vfs.Inject(vfs.NewMem(), func(op vfs.Op) error {
					if closed.Load() {
						t.Errorf("%s of %s after the end", op.Kind, op.Name)
					}
					if hold.Load() && op.Kind == "rename" && strings.HasSuffix(op.Name, ".wal") {
						<-release
					}
					return nil
				}))
				stream, late := r.send(), r.send()
				r.publish(6)
				r.receive(stream)
				must(t, late.Close())
				hold.Store(begun)
				if begun {
					time.Sleep(minGrace)
					synctest.Wait()
				}
				again := r.send()
				ended := make(chan error, 1)
				go func() {
					err := r.s.Close()
					closed.Store(true)
					ended <- err
				}()
				synctest.Wait()
				if closed.Load() == begun {
					t.Errorf("the store has ended: %v", closed.Load())
				}
				close(release)
				must(t, <-ended)
				r.s.wal.beside(func() { t.Error("the disk is used after the end") })
				_, err := again.Read(make([]byte, 1<<10)) // the state, which is in memory
				_ = again.Close()
				must(t, err)
				if g := r.g; len(g.trails) > 0 {
					t.Errorf("%d trails are left", len(g.trails))
				}
				time.Sleep(time.Hour)
			})
		})
	}
}
