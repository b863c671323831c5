package chaos

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/warrenmq/warren/internal/freeport"
	"github.com/warrenmq/warren/test/chaos/disk"
	"github.com/warrenmq/warren/test/chaos/network"
	"github.com/warrenmq/warren/test/process"
)

// tmpfsSize is the size of a node's disk when a fault fills it. The broker's files are small in these runs.
const tmpfsSize = 2 << 30

// cluster is the nodes under test.
type cluster struct {
	nodes   []*Node
	network network.Network // nil: all nodes are on loopback
	dir     string          // with a folder for each node
	small   bool            // each node has a small disk of its own
	faulty  bool            // each data directory is a disk whose faults are at will
}

// Node is one process and its data.
type Node struct {
	index   int
	name    string
	dataDir string
	logPath string
	binary  string
	flags   []string
	ports   []int // AMQP, HTTP, gRPC, cluster, gossip
	network network.Network
	disk    *disk.Disk // nil: an ordinary one

	mu       sync.Mutex // guards what follows
	command  *exec.Cmd
	exited   chan struct{}
	unready  string // its last answer before it was ready
	expected bool   // its end was asked for
	ends     int    // how often it ended by itself; used by one watcher at a time
	stopped  bool   // it is under SIGSTOP
}

// newCluster prepares nodes and starts none.
func newCluster(o *Options, dir string) (_ *cluster, err error) {
	c := &cluster{dir: dir, small: o.wants("disk-full"), faulty: o.wantsDisks()}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	switch o.Level {
	case Switchboard:
		c.network, err = network.NewSwitchboard(o.Nodes)
	case Netns:
		c.network, err = network.NewBridge(o.Nodes)
	}
	if err != nil {
		c.network = nil // it has removed what it had made
		return nil, err
	}
	ports, err := freeport.Find(5 * o.Nodes) // at once, so that no two nodes get the same
	if err != nil {
		return nil, err
	}
	var join []string
	for i := range o.Nodes {
		n := &Node{index: i, name: fmt.Sprintf("node%d", i+1), binary: o.Binary, network: c.network}
		n.dataDir = filepath.Join(dir, n.name, "data")
		n.logPath = filepath.Join(dir, n.name+".log")
		address, host := "127.0.0.1", "127.0.0.1"
		if c.network == nil {
			n.ports = ports[5*i : 5*i+5]
		} else {
			n.ports = []int{5672, 15672, 7672, 7673, 7946}
			address, host = network.Address(i), "0.0.0.0"
		}
		join = append(join, net.JoinHostPort(address, strconv.Itoa(n.ports[4])))
		n.flags = append([]string{"server", "--name", n.name, "--data-dir", n.dataDir, "--host", host, "--advertise", address,
			"--amqp-port", strconv.Itoa(n.ports[0]), "--http-port", strconv.Itoa(n.ports[1]), "--grpc-port", strconv.Itoa(n.ports[2]),
			"--cluster-port", strconv.Itoa(n.ports[3]), "--gossip-port", strconv.Itoa(n.ports[4]),
			// Small files, so that they retire, are copied and are checkpointed within minutes.
			"--wal-file-size", "4MiB", "--cache-size", "16MiB", "--disk-free-limit", "128MiB",
			// Digests of the replicas' states are served with the profiles.
			"--profiles"}, o.Flags...)
		c.nodes = append(c.nodes, n)
		if err := c.prepareDisk(n); err != nil {
			return nil, err
		}
	}
	for _, n := range c.nodes {
		n.flags = append(n.flags, "--join", strings.Join(join, ","), "--expect", strconv.Itoa(o.Nodes))
	}
	return c, nil
}

// prepareDisk makes the folder around the node's data, on a small disk of its own when one is to be filled, and a disk with
// faults for the data itself when they are asked for.
func (c *cluster) prepareDisk(n *Node) (err error) {
	folder := filepath.Dir(n.dataDir)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	if c.small {
		if err := unix.Mount("tmpfs", folder, "tmpfs", 0, fmt.Sprintf("size=%d", tmpfsSize)); err != nil {
			return fmt.Errorf("mount a small disk: %w", err)
		}
	}
	if c.faulty {
		n.disk, err = disk.Mount(n.dataDir, filepath.Join(folder, "below"))
	}
	return err
}

// disks are directories on the disks that the nodes write to: a small one each, or the one that all share. The faults of a disk whose faults
// are at will are not the machine's.
func (c *cluster) disks() []string {
	if !c.small {
		return []string{c.dir}
	}
	var list []string
	for _, n := range c.nodes {
		list = append(list, filepath.Dir(n.dataDir))
	}
	return list
}

// close ends all nodes and removes what was made, except the folder with the logs.
func (c *cluster) close() error {
	var errs []error
	for _, n := range c.nodes {
		if n.disk != nil {
			n.disk.Release() // a process that waits for it cannot be killed
		}
		n.kill()
		if n.disk != nil {
			errs = append(errs, n.disk.Close())
		}
		if c.small {
			errs = append(errs, unix.Unmount(filepath.Dir(n.dataDir), unix.MNT_DETACH))
		}
	}
	if c.network != nil {
		errs = append(errs, c.network.Close())
	}
	return errors.Join(errs...)
}

// start runs the process and does not wait until it serves. Ended is called when it ends and nobody asked for it.
func (n *Node) start(ended func(*Node)) error {
	log, err := os.OpenFile(n.logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	fmt.Fprintf(log, "--- started by the suite at %s\n", time.Now().Format(time.RFC3339Nano))
	args := append([]string{n.binary}, n.flags...)
	if n.network != nil {
		args = append(network.Inside(n.network.Namespace(n.index)), args...)
	}
	command := exec.Command(args[0], args[1:]...)
	command.Stdout, command.Stderr = log, log
	// Snapshots of the catalog within seconds, so that there are some to damage (cluster/catalog.go).
	command.Env = append(process.CleanEnvironment(), "_WARREN_CATALOG_SNAPSHOT_EVERY=200")
	// A suite that dies must not leave brokers behind; a signal to its process group, as from a terminal, is not for them.
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := startFromLastingThread(command); err != nil {
		return fmt.Errorf("start %s: %w", n.name, err)
	}
	exited := make(chan struct{})
	n.mu.Lock()
	n.command, n.exited, n.expected, n.stopped = command, exited, false, false
	n.mu.Unlock()
	go func() {
		_ = command.Wait() // killed nodes end with an error by design; end looks at the others
		n.mu.Lock()
		expected := n.expected
		n.mu.Unlock()
		close(exited)
		if !expected && ended != nil {
			ended(n)
		}
	}()
	return nil
}

// starts takes what the lasting thread is to do.
var starts = sync.OnceValue(func() chan<- func() {
	calls := make(chan func())
	go func() {
		runtime.LockOSThread()
		for call := range calls {
			call()
		}
	}()
	return calls
})

// startFromLastingThread starts a process from a thread that lives as long as the suite: the kernel kills the process when
// the thread that started it ends, and threads that have been in other namespaces do.
func startFromLastingThread(command *exec.Cmd) error {
	done := make(chan error)
	starts() <- func() { done <- command.Start() }
	return <-done
}

// end sends a signal that ends the process and waits for its end.
func (n *Node) end(s syscall.Signal, patience time.Duration) error {
	n.mu.Lock()
	command, exited := n.command, n.exited
	n.expected = true
	stopped := n.stopped
	n.mu.Unlock()
	if command == nil {
		return nil
	}
	if stopped && s != syscall.SIGKILL {
		_ = n.signal(syscall.SIGCONT)
	}
	if err := command.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", n.name, err)
	}
	select {
	case <-exited:
		if s == syscall.SIGTERM && !command.ProcessState.Success() {
			return fmt.Errorf("%s ended with %v after signal %v", n.name, command.ProcessState, s)
		}
		return nil
	case <-time.After(patience):
		_ = command.Process.Signal(syscall.SIGKILL) // it is told as a finding, and must not stay
		<-exited
		return fmt.Errorf("%s did not end within %v of signal %v", n.name, patience, s)
	}
}

// expectEnd says that the process is to end by itself, in its own time.
func (n *Node) expectEnd() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.expected = true
}

// signalKill sends SIGKILL and does not wait.
func (n *Node) signalKill() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.command == nil {
		return nil
	}
	n.expected = true
	if err := n.command.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", n.name, err)
	}
	return nil
}

func (n *Node) kill() { _ = n.end(syscall.SIGKILL, time.Minute) } // SIGKILL ends every process

// signal sends SIGSTOP or SIGCONT.
func (n *Node) signal(s syscall.Signal) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.command == nil {
		return fmt.Errorf("%s was never started", n.name)
	}
	n.stopped = s == syscall.SIGSTOP
	if err := n.command.Process.Signal(s); err != nil {
		return fmt.Errorf("signal %s: %w", n.name, err)
	}
	return nil
}

// running says whether the process exists.
func (n *Node) running() bool {
	n.mu.Lock()
	exited := n.exited
	n.mu.Unlock()
	if exited == nil {
		return false
	}
	select {
	case <-exited:
		return false
	default:
		return true
	}
}

// endedByItself says that the process is gone and nobody had ended it.
func (n *Node) endedByItself() bool {
	n.mu.Lock()
	expected := n.expected
	n.mu.Unlock()
	return !expected && !n.running()
}

func (n *Node) pid() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.command.Process.Pid
}

// dial connects to one of the node's ports the way a client on its machine does: no partition between nodes is between.
func (n *Node) dial(port int, timeout time.Duration) (net.Conn, error) {
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	if n.network != nil {
		return n.network.Dial(n.index, address, timeout)
	}
	return net.DialTimeout("tcp", address, timeout)
}

// get asks the node's HTTP side for something.
func (n *Node) get(ctx context.Context, path string) (status int, body string, err error) {
	return n.ask(ctx, http.MethodGet, path)
}

// ask sends a request to the node's HTTP side, as the default user.
func (n *Node) ask(ctx context.Context, method, path string) (status int, body string, err error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) { return n.dial(n.ports[1], 2*time.Second) }}}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, "http://"+n.name+path, nil)
	if err != nil {
		return 0, "", err
	}
	request.SetBasicAuth("guest", "guest")
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, 8<<20))
	return response.StatusCode, string(data), err
}

// waitReady waits until the node says that it serves; it gives up when ctx ends, or the process does by itself while it is not sick.
func (n *Node) waitReady(ctx context.Context, sick func() bool) error {
	last := "no answer"
	defer func() {
		n.mu.Lock()
		n.unready = last
		n.mu.Unlock()
	}()
	for {
		status, body, err := n.get(ctx, "/health/ready")
		switch {
		case err == nil && status == http.StatusOK:
			return nil
		case err == nil:
			last = fmt.Sprintf("status %d: %s", status, strings.TrimSpace(body))
		case !sick() && n.endedByItself():
			return fmt.Errorf("%s ended before it was ready", n.name)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %s", n.name, last)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// lastUnready is what the node answered last before it was ready.
func (n *Node) lastUnready() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.unready
}

// usage is what a node takes from its machine.
type usage struct {
	Memory     int64 // bytes
	Goroutines int
	Files      int
}

func (u usage) String() string {
	return fmt.Sprintf("%d MiB, %d goroutines, %d files", u.Memory>>20, u.Goroutines, u.Files)
}

// usage reads what the process has in use: memory, goroutines and open files. Memory is that of Go's heap after a collection, and of
// the stacks. What is resident says less: an idle process collects its garbage after two minutes only, gives memory back slowly, and under
// the race detector never gives back the shadow of what it once used.
func (n *Node) usage(ctx context.Context) (usage, error) {
	if _, _, err := n.get(ctx, "/debug/pprof/heap?gc=1"); err != nil {
		return usage{}, err
	}
	_, metrics, err := n.get(ctx, "/metrics")
	if err != nil {
		return usage{}, err
	}
	u := usage{Goroutines: int(metric(metrics, "go_goroutines")),
		Memory: int64(metric(metrics, "go_memstats_heap_inuse_bytes") + metric(metrics, "go_memstats_stack_inuse_bytes"))}
	if u.Memory == 0 {
		return usage{}, errors.New("the metrics have no memory")
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.pid()))
	if err != nil {
		return usage{}, err
	}
	u.Files = len(files)
	return u, nil
}

// openFiles tells what the process has open, by kind: how many sockets, log files and so on.
func (n *Node) openFiles() string {
	dir := fmt.Sprintf("/proc/%d/fd", n.pid())
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err.Error()
	}
	count := map[string]int{}
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		count[fileKind(target)]++
	}
	var list []string
	for _, kind := range slices.Sorted(maps.Keys(count)) {
		list = append(list, fmt.Sprintf("%d %s", count[kind], kind))
	}
	return strings.Join(list, ", ")
}

// threads tells what the process's threads do: how many are in which state, and what the kernel does for those that nothing can interrupt.
// A node that does not answer, with nothing wrong with it, is waiting for its disk, for a processor, or for itself.
func (n *Node) threads() string {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", n.pid()))
	if err != nil || len(tasks) == 0 {
		return "not known"
	}
	count := map[string]int{}
	for _, task := range tasks {
		data, err := os.ReadFile(filepath.Join(task, "stat"))
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		if len(fields) == 0 {
			continue
		}
		what := fields[0]
		if what == "D" {
			stack, err := os.ReadFile(filepath.Join(task, "stack"))
			if err == nil {
				what += " in " + strings.Join(strings.Fields(string(stack)), " ")
			}
		}
		count[what]++
	}
	var list []string
	for _, what := range slices.Sorted(maps.Keys(count)) {
		list = append(list, fmt.Sprintf("%d %s", count[what], what))
	}
	return strings.Join(list, ", ")
}

// fileKind is what the kernel calls a file that has no name, or the ending of its name.
func fileKind(target string) string {
	if kind, _, ok := strings.Cut(target, ":"); ok {
		return kind
	}
	if ext := filepath.Ext(target); ext != "" {
		return ext
	}
	return filepath.Base(target)
}

// metric finds a number among metrics in Prometheus's text form; 0 when it is not there.
func metric(text, name string) float64 {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			v, _ := strconv.ParseFloat(strings.TrimSpace(rest), 64) // 0 says as much as an error
			return v
		}
	}
	return 0
}

// logTail is the end of the node's log.
func (n *Node) logTail(lines int) string {
	data, err := os.ReadFile(n.logPath)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// led is when the node's log says for the last time, not after a time, that it took the lead of a group; zero: never.
func (n *Node) led(group string, notAfter time.Time) (last time.Time) {
	n.eachLine(func(line string) {
		if !strings.Contains(line, "msg=leads ") || !strings.Contains(line, "group="+group+" ") {
			return
		}
		stamp, _, _ := strings.Cut(strings.TrimPrefix(line, "time="), " ")
		if at, err := time.Parse(time.RFC3339Nano, stamp); err == nil && !at.After(notAfter) {
			last = at
		}
	})
	return last
}

// badLines finds what must never be in a log.
func (n *Node) badLines() []string {
	var bad []string
	n.eachLine(func(line string) {
		for _, word := range []string{"panic:", "fatal error:", "DATA RACE", "panic=", "diverge"} {
			if strings.Contains(line, word) {
				bad = append(bad, line)
				break
			}
		}
	})
	return bad
}

// eachLine visits the lines of the log; one that cannot be read is told in its place.
func (n *Node) eachLine(visit func(string)) {
	f, err := os.Open(n.logPath)
	if err != nil {
		visit("panic: the suite cannot read the log: " + err.Error())
		return
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		visit(lines.Text())
	}
	if err := lines.Err(); err != nil {
		visit("panic: the suite cannot read the log: " + err.Error())
	}
}
