package bench

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// processes are the broker processes to be watched, by name; others are further servers of the broker.
func (t *Target) processes(others ...string) map[string]int {
	found := map[string]int{}
	for _, pid := range t.PIDs {
		found[fmt.Sprintf("pid %d", pid)] = pid
	}
	if len(found) > 0 {
		return found
	}
	for _, server := range append(append([]string(nil), t.Servers...), others...) {
		if pid := listener(server); pid != 0 {
			found[server] = pid
		}
	}
	return found
}

// listener finds the process of this machine that listens at the address, or 0.
func listener(addr string) int {
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return 0
	}
	ip := net.ParseIP(host)
	port, err := strconv.Atoi(portText)
	if err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return 0
	}
	inode := listeningInode(port)
	if inode == "" {
		return 0
	}
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return 0
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && target == "socket:["+inode+"]" {
			pid, _ := strconv.Atoi(strings.Split(link, "/")[2])
			return pid
		}
	}
	return 0
}

// listeningInode finds the socket that listens on a port, in Linux's table of sockets.
func listeningInode(port int) string {
	const listening = "0A"
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		data, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			if len(f) > 9 && f[3] == listening && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				return f[9]
			}
		}
	}
	return ""
}

// clockTick is the unit of CPU time in /proc: 100 a second on every Linux that Go runs on.
const clockTick = time.Second / 100

// cpuOf reads the CPU time that each process has used; processes that cannot be read are left out.
func cpuOf(processes map[string]int) map[string]time.Duration {
	times := map[string]time.Duration{}
	for name, pid := range processes {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		// The fields after the command's name, which is in parentheses and may hold spaces.
		f := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		if len(f) < 13 {
			continue
		}
		user, _ := strconv.ParseInt(f[11], 10, 64)
		system, _ := strconv.ParseInt(f[12], 10, 64)
		times[name] = time.Duration(user+system) * clockTick
	}
	return times
}

// residentOf reads how many bytes of memory each process holds; processes that cannot be read are left out.
func residentOf(processes map[string]int) map[string]int64 {
	held := map[string]int64{}
	for name, pid := range processes {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if err != nil {
			continue
		}
		if f := strings.Fields(string(data)); len(f) > 1 {
			pages, _ := strconv.ParseInt(f[1], 10, 64)
			held[name] = pages * int64(os.Getpagesize())
		}
	}
	return held
}

// ownCPU is the CPU time of this process.
func ownCPU() time.Duration {
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
