package node

import (
	"fmt"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// resourcePeriod is how often memory and disk are looked at. A publisher at the disk's full speed writes a few hundred
// megabytes in that time, less than the least disk limit that makes sense.
const resourcePeriod = 500 * time.Millisecond

// watchResources raises and clears the alarms that block publishers, and lets the broker look for deliveries that are out
// for too long, until the node stops.
func (n *Node) watchResources() {
	limit := n.config.MemoryLimit.Of(totalMemory())
	// The collector works harder near the limit, so that garbage alone does not raise the alarm.
	debug.SetMemoryLimit(limit)
	ticker := time.NewTicker(resourcePeriod)
	defer ticker.Stop()
	own, blocked := "", ""
	var rest rest
	for {
		select {
		case <-n.quit:
			return
		case <-ticker.C:
		}
		n.broker.Tick()
		if rest.due(allocated(), usedMemory()) { // the collection holds up the alarms, at a time at which nothing fills memory or disk
			debug.FreeOSMemory()
			rest.kept = usedMemory()
		}
		if reason := alarm(usedMemory() > limit, n.diskLow()); reason != own {
			n.log.Warn("resource alarm", "reason", reason, "memory_limit", limit, "disk_free_limit", int64(n.config.DiskFreeLimit),
				"log_file_size", int64(n.config.WALFileSize))
			n.alarmed.Store(&reason)
			own = reason
		}
		// A message that is published anywhere is stored where the alarm is, so every node blocks, as RabbitMQ's do.
		if reason := anyAlarm(append(n.cluster.Alarms(), own)); reason != blocked {
			n.log.Warn("alarms of the cluster", "reason", reason)
			n.broker.Alarm(reason)
			blocked = reason
		}
	}
}

// anyAlarm is the reason that several nodes' reasons make together.
func anyAlarm(reasons []string) string {
	memory, disk := false, false
	for _, r := range reasons {
		memory, disk = memory || strings.Contains(r, "memory"), disk || strings.Contains(r, "disk")
	}
	return alarm(memory, disk)
}

// alarm words the reason as RabbitMQ does (reference: connection.blocked).
func alarm(memory, disk bool) string {
	switch {
	case memory && disk:
		return "low on memory & disk"
	case memory:
		return "low on memory"
	case disk:
		return "low on disk"
	}
	return ""
}

// diskLow tells whether there is less on the disk than there must be, or no room for the log's next file, which may be more than that. The
// store says so when a file begins: with publishers blocked there is room for a file of acknowledgements and deletions, which free the disk.
func (n *Node) diskLow() bool {
	if n.store.Full() { // asked in any case: it looks for room by that
		return true
	}
	free, _, err := diskSpace(n.config.DataDir)
	if err != nil {
		n.log.Error("free disk space is not known", "dir", n.config.DataDir, "err", err)
		return true
	}
	return free < int64(n.config.DiskFreeLimit)
}

// diskSpace is what is free, for others than root, and what there is, in bytes.
func diskSpace(dir string) (free, total int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), int64(st.Blocks) * int64(st.Bsize), nil
}

// usedMemory is what the runtime holds and has not given back, in bytes.
func usedMemory() int64 {
	samples := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(samples)
	return int64(samples[0].Value.Uint64() - samples[1].Value.Uint64())
}

// allocated is what the program has allocated since its start, in bytes.
func allocated() uint64 {
	samples := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(samples)
	return samples[0].Value.Uint64()
}

// rest tells when a node that was busy may give garbage back. The collector lets the heap grow to twice of what is alive, and looks at a
// program that allocates nothing every two minutes only; what a backlog was taken in with would stay as long as it does.
type rest struct {
	allocated uint64 // when it was looked at last
	quiet     int    // periods in a row in which little was allocated
	kept      int64  // the least memory in use since garbage was given back; 0: it was not yet
}

const (
	quietBytes   = 1 << 20  // allocated in a period at most, for it to be a quiet one: gossip and heartbeats take less
	quietPeriods = 10       // before garbage is given back: a collection then costs nobody anything
	worthGiving  = 32 << 20 // more memory in use than was kept, for it to be worth a collection
)

// due is asked once in a period, with what has been allocated and what memory is in use.
func (r *rest) due(allocated uint64, used int64) bool {
	if allocated-r.allocated > quietBytes {
		r.quiet = 0
	} else {
		r.quiet++
	}
	r.allocated = allocated
	r.kept = min(r.kept, used)
	return r.quiet >= quietPeriods && used-r.kept > worthGiving
}

// fallbackMemory is assumed where the machine does not tell.
const fallbackMemory = 4 << 30

// totalMemory is what the control group allows, or the machine has, in bytes.
func totalMemory() int64 {
	total := int64(fallbackMemory)
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		total = int64(uint64(info.Totalram) * uint64(info.Unit))
	}
	for _, file := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if limit, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64); err == nil && limit > 0 {
			total = min(total, limit)
		}
	}
	return total
}

const (
	// maxClients bounds the connections of clients on any machine: each costs tens of kilobytes.
	maxClients = 1 << 16
	// reservedFiles is what is left to storage (log, segments, snapshots), peers and HTTP, at least, where the limit allows.
	reservedFiles = 512
)

// clientSockets is how many sockets clients may have under a limit on open files: all but an eighth. A node whose clients
// use up the descriptors could not open the next file of its log.
func clientSockets(files uint64) int {
	reserve := max(files/8, min(reservedFiles, files/2))
	return int(min(files-reserve, 2*maxClients))
}

// fileLimit is how many files this process may have open. The Go runtime has raised the soft limit to the hard one.
func fileLimit() uint64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 1024 // the least that Unix systems give
	}
	return limit.Cur
}
