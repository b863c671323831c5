package bench

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
)

// LimitOptions say how the machine's limit is measured: the same bytes appended and fsynced by three processes.
type LimitOptions struct {
	Dir        string   // folder on the disk to be measured; a folder of its own is made in it and removed
	Sizes      []int    // bytes of a message, measured one after another
	Window     int      // messages that may be uncommitted, as a publisher's window; 0: no limit
	EntryBytes int      // most bytes that are sent, appended and acknowledged together
	InFlight   int      // entries that may be uncommitted
	Follower   []string // command of a follower: a program that calls ServeLimit with DIR, which is added to it
	Warmup     time.Duration
	Duration   time.Duration
}

// LimitResult is what one size reached. No broker that keeps three copies on this machine and syncs a majority of them before it
// confirms can do better.
type LimitResult struct {
	Size           int
	Messages       float64 // committed per second
	Bytes          float64 // committed per second
	LeaderSyncs    float64 // fsyncs per second of the leader
	FollowerSyncs  float64 // of one follower, on average
	CommitTime     Latency // from the moment that an entry is made until a majority has it on disk
	CPUPerMessage  float64 // microseconds, all three processes
	EntryBytes     int
	InFlightMost   int // entries
	MeasuredSecond float64
}

func (o *LimitOptions) validate() error {
	switch {
	case len(o.Sizes) == 0 || o.Duration <= 0:
		return errors.New("nothing to measure: no size or no duration")
	case len(o.Follower) == 0:
		return errors.New("no command for a follower")
	case o.Window < 0 || o.InFlight < 1 || o.EntryBytes < 1 || o.EntryBytes > limitEntryMax:
		return errors.New("a figure is negative or too large")
	}
	for _, size := range o.Sizes {
		if size < 1 || size > limitFileSize {
			return fmt.Errorf("size %d is not between 1 and %d", size, limitFileSize)
		}
	}
	return nil
}

const (
	limitFollowers = 2
	limitFileSize  = 256 << 20 // the file that is written round and round, as a log whose files are used again
	limitEntryMax  = 16 << 20
	// limitLag bounds how many entries a follower may be behind: three copies are written, not two and a promise.
	limitLag = 64
)

// entriesOf tells how a window's messages are cut: full entries, or one smaller entry where the window is less.
func (o *LimitOptions) entriesOf(size int) (entryBytes, inFlight int) {
	entryBytes, inFlight = max(1, o.EntryBytes/size)*size, o.InFlight
	if size > o.EntryBytes {
		entryBytes = o.EntryBytes // a large message is cut into several entries
	}
	if o.Window > 0 {
		window := o.Window * size
		entryBytes = min(entryBytes, window)
		inFlight = min(inFlight, max(1, window/entryBytes))
	}
	return entryBytes, inFlight
}

// Limit measures each size in turn, with followers of its own.
func Limit(ctx context.Context, o LimitOptions) (results []LimitResult, err error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(o.Dir, "warren-limit-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for _, size := range o.Sizes {
		r, err := limitOf(ctx, &o, dir, size)
		if err != nil {
			return nil, fmt.Errorf("size %d: %w", size, err)
		}
		results = append(results, *r)
	}
	return results, nil
}

// limitRun is the measurement of one size: the leader. Its loop alone touches what is not a channel.
type limitRun struct {
	entry    []byte
	inFlight int
	acks     chan limitAck
	failed   chan error
	members  []*limitMember // the leader's own file first, then the followers
}

// limitAck tells that a member has fsynced all entries up to one.
type limitAck struct {
	member int
	upTo   uint64
	syncs  uint64 // fsyncs of this member so far
}

// limitMember is what the leader knows of one copy.
type limitMember struct {
	entries chan uint64 // numbers of entries to be written; closed at the end
	match   uint64      // the last entry that is on its disk
	syncs   uint64
	pid     int
}

func limitOf(ctx context.Context, o *LimitOptions, dir string, size int) (result *LimitResult, err error) {
	entryBytes, inFlight := o.entriesOf(size)
	r := &limitRun{entry: make([]byte, entryBytes), inFlight: inFlight, acks: make(chan limitAck, 64), failed: make(chan error, 8)}
	for i := range r.entry {
		r.entry[i] = byte(i * 7)
	}
	file, err := newLimitFile(filepath.Join(dir, "leader"))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var workers sync.WaitGroup
	var stops []func() error
	defer func() {
		cancel()
		for _, m := range r.members {
			close(m.entries)
		}
		for _, stop := range stops {
			err = errors.Join(err, stop())
		}
		workers.Wait() // they use the file
		err = errors.Join(err, file.Close())
	}()
	r.append(ctx, r.member(os.Getpid()), file, &workers)
	for i := range limitFollowers {
		followerDir := filepath.Join(dir, fmt.Sprint("follower", i))
		if err := os.MkdirAll(followerDir, 0o700); err != nil {
			return nil, err
		}
		socket, pid, stop, err := startFollower(ctx, o.Follower, followerDir)
		if err != nil {
			return nil, err
		}
		stops = append(stops, stop)
		r.follow(ctx, r.member(pid), socket, &workers)
	}
	return r.measure(ctx, o, size)
}

func (r *limitRun) member(pid int) int {
	r.members = append(r.members, &limitMember{entries: make(chan uint64, limitLag+16), pid: pid})
	return len(r.members) - 1
}

// append writes the leader's own copy: all that waits with one write and one fsync.
func (r *limitRun) append(ctx context.Context, member int, file *limitFile, workers *sync.WaitGroup) {
	m := r.members[member]
	workers.Go(func() {
		for n := range m.entries {
			pieces := [][]byte{r.entry}
			for more := len(m.entries); more > 0; more-- {
				last, open := <-m.entries
				if !open {
					break
				}
				n = last
				pieces = append(pieces, r.entry)
			}
			if err := file.append(pieces); err != nil {
				r.fail(err)
				return
			}
			if !r.tell(ctx, limitAck{member, n, file.syncs}) {
				return
			}
		}
	})
}

// follow sends entries to a follower and reads what it acknowledges.
func (r *limitRun) follow(ctx context.Context, member int, socket net.Conn, workers *sync.WaitGroup) {
	m := r.members[member]
	workers.Go(func() {
		var head [limitHead]byte
		for n := range m.entries {
			binary.LittleEndian.PutUint64(head[:], n)
			binary.LittleEndian.PutUint32(head[8:], uint32(len(r.entry)))
			if _, err := (&net.Buffers{head[:], r.entry}).WriteTo(socket); err != nil {
				r.fail(err)
				return
			}
		}
	})
	workers.Go(func() {
		var ack [limitAckSize]byte
		for {
			if _, err := io.ReadFull(socket, ack[:]); err != nil {
				r.fail(fmt.Errorf("a follower ended: %w", err))
				return
			}
			if !r.tell(ctx, limitAck{member, binary.LittleEndian.Uint64(ack[:]), binary.LittleEndian.Uint64(ack[8:])}) {
				return
			}
		}
	})
}

func (r *limitRun) tell(ctx context.Context, ack limitAck) bool {
	select {
	case r.acks <- ack:
		return true
	case <-ctx.Done():
		return false
	}
}

func (r *limitRun) fail(err error) {
	select {
	case r.failed <- err:
	default:
	}
}

// limitState is a moment of the measurement.
type limitState struct {
	at        time.Time
	committed uint64
	syncs     []uint64
	cpu       time.Duration
}

func (r *limitRun) state(committed uint64) limitState {
	s := limitState{at: time.Now(), committed: committed}
	pids := map[string]int{}
	for i, m := range r.members {
		s.syncs = append(s.syncs, m.syncs)
		pids[fmt.Sprint(i)] = m.pid
	}
	for _, used := range cpuOf(pids) {
		s.cpu += used
	}
	return s
}

// measure is the leader's loop: it keeps entries in flight, and counts what a majority has.
func (r *limitRun) measure(ctx context.Context, o *LimitOptions, size int) (*LimitResult, error) {
	var next, committed uint64
	times := make([]int64, r.inFlight) // when each uncommitted entry was made, by its number
	commits := newHistogram()
	measuring := false
	var begin limitState
	begins, ends := time.After(o.Warmup), time.After(o.Warmup+o.Duration)
	for {
		for next-committed < uint64(r.inFlight) && next-r.slowest() < limitLag {
			next++
			times[next%uint64(len(times))] = now()
			for _, m := range r.members {
				m.entries <- next // has room for the most that a member lags
			}
		}
		select {
		case ack := <-r.acks:
			m := r.members[ack.member]
			m.match, m.syncs = ack.upTo, ack.syncs
			for upTo := r.majority(); committed < upTo; {
				committed++
				if measuring {
					recordSince(commits, times[committed%uint64(len(times))])
				}
			}
		case <-begins:
			begin, measuring = r.state(committed), true
		case <-ends:
			return r.result(begin, r.state(committed), commits, size), nil
		case err := <-r.failed:
			return nil, err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (r *limitRun) slowest() uint64 {
	low := r.members[0].match
	for _, m := range r.members {
		low = min(low, m.match)
	}
	return low
}

// majority is the last entry that two of the three have on disk.
func (r *limitRun) majority() uint64 {
	a, b, c := r.members[0].match, r.members[1].match, r.members[2].match
	return max(min(a, b), min(a, c), min(b, c))
}

func (r *limitRun) result(begin, end limitState, commits *hdrhistogram.Histogram, size int) *LimitResult {
	seconds := end.at.Sub(begin.at).Seconds()
	bytes := float64(end.committed-begin.committed) * float64(len(r.entry))
	messages := bytes / float64(size)
	result := &LimitResult{
		Size: size, Messages: messages / seconds, Bytes: bytes / seconds,
		LeaderSyncs:   float64(end.syncs[0]-begin.syncs[0]) / seconds,
		CommitTime:    summary([]*hdrhistogram.Histogram{commits}),
		CPUPerMessage: (end.cpu - begin.cpu).Seconds() * 1e6 / max(messages, 1),
		EntryBytes:    len(r.entry), InFlightMost: r.inFlight, MeasuredSecond: seconds,
	}
	for i := 1; i < len(end.syncs); i++ {
		result.FollowerSyncs += float64(end.syncs[i]-begin.syncs[i]) / seconds / limitFollowers
	}
	return result
}

// limitFile is one copy: a file that is preallocated and written round and round.
type limitFile struct {
	*os.File
	at    int64
	syncs uint64
}

func newLimitFile(path string) (*limitFile, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 0, limitFileSize); err != nil {
		return nil, errors.Join(fmt.Errorf("preallocate %s: %w", path, err), f.Close())
	}
	return &limitFile{File: f}, nil
}

func (f *limitFile) append(pieces [][]byte) error {
	total := 0
	for _, p := range pieces {
		total += len(p)
	}
	if f.at+int64(total) > limitFileSize {
		f.at = 0
	}
	n, err := unix.Pwritev(int(f.Fd()), pieces, f.at)
	if err == nil && n < total {
		err = io.ErrShortWrite
	}
	if err != nil {
		return err
	}
	f.at += int64(total)
	f.syncs++
	return unix.Fdatasync(int(f.Fd()))
}

// What goes over a follower's connection: each entry with a head (number u64, length u32), and acknowledgements (number of
// the last entry on disk u64, fsyncs so far u64). Little-endian.
const (
	limitHead    = 12
	limitAckSize = 16
)

// startFollower starts a follower's process and connects to it. It ends when its standard input does.
func startFollower(ctx context.Context, command []string, dir string) (net.Conn, int, func() error, error) {
	cmd := exec.CommandContext(ctx, command[0], append(append([]string(nil), command[1:]...), dir)...)
	cmd.Stderr = os.Stderr
	life, err := cmd.StdinPipe()
	if err != nil {
		return nil, 0, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, 0, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, 0, nil, err
	}
	end := func() error {
		_ = life.Close()
		_ = cmd.Wait() // it is ended by the closed pipe or by the context: its status says nothing
		return nil
	}
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, 0, nil, errors.Join(fmt.Errorf("a follower did not start: %w", err), end())
	}
	socket, err := net.Dial("tcp", addr[:len(addr)-1])
	if err != nil {
		return nil, 0, nil, errors.Join(err, end())
	}
	return socket, cmd.Process.Pid, func() error { _ = socket.Close(); return end() }, nil
}

// ServeLimit is a follower of Limit: it prints the address it listens at, and appends, fsyncs and acknowledges what one leader
// sends until in, which the leader holds open, ends.
func ServeLimit(dir string, in io.Reader, out io.Writer) error {
	file, err := newLimitFile(filepath.Join(dir, "entries"))
	if err != nil {
		return err
	}
	defer file.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(out, listener.Addr()); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, in) // the leader writes nothing: this returns when it is gone
		_ = listener.Close()
	}()
	socket, err := listener.Accept()
	if err != nil {
		return nil // the leader went before it connected
	}
	err = appendAll(socket, file)
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		err = nil // the leader has what it wanted
	}
	return errors.Join(err, socket.Close())
}

// received is an entry on its way to the file.
type received struct {
	number uint64
	bytes  []byte
}

// appendAll reads entries while earlier ones are written, so that one fsync serves all that came during the one before.
func appendAll(socket net.Conn, file *limitFile) error {
	entries, free := make(chan received, limitLag+16), make(chan []byte, limitLag+16)
	read := make(chan error, 1)
	go func() {
		defer close(entries)
		read <- readEntries(socket, entries, free)
	}()
	var batch []received
	for first := range entries {
		batch = append(batch[:0], first)
		for len(entries) > 0 {
			if e, open := <-entries; open {
				batch = append(batch, e)
			}
		}
		pieces := make([][]byte, 0, len(batch))
		for _, e := range batch {
			pieces = append(pieces, e.bytes)
		}
		err := file.append(pieces)
		if err == nil {
			var ack [limitAckSize]byte
			binary.LittleEndian.PutUint64(ack[:], batch[len(batch)-1].number)
			binary.LittleEndian.PutUint64(ack[8:], file.syncs)
			_, err = socket.Write(ack[:])
		}
		if err != nil {
			_ = socket.Close() // wakes the reader
			for range entries {
				continue
			}
			return err
		}
		for _, p := range pieces {
			select {
			case free <- p:
			default:
			}
		}
	}
	return <-read
}

func readEntries(socket net.Conn, entries chan<- received, free <-chan []byte) error {
	in := bufio.NewReaderSize(socket, 256<<10)
	var head [limitHead]byte
	for {
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return err
		}
		size := binary.LittleEndian.Uint32(head[8:])
		if size > limitEntryMax {
			return fmt.Errorf("an entry of %d bytes is larger than %d", size, limitEntryMax)
		}
		var bytes []byte
		select {
		case bytes = <-free:
		default:
		}
		if uint32(cap(bytes)) < size {
			bytes = make([]byte, size)
		}
		bytes = bytes[:size]
		if _, err := io.ReadFull(in, bytes); err != nil {
			return err
		}
		entries <- received{binary.LittleEndian.Uint64(head[:]), bytes}
	}
}
