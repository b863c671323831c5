// Package freeport finds free ports of 127.0.0.1 for tests that start nodes. They are below the range from which the kernel takes
// the local ports of connections: a node that was killed must find its ports free when it comes back.
package freeport

import (
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
)

// Find finds so many ports that are free for TCP and UDP, and that nobody who asks here finds again as long as this process runs.
func Find(count int) ([]int, error) {
	return find(count, 1)
}

// Row finds so many ports in a row and returns the first, for scripts that count up from one.
func Row(count int) (first int, err error) {
	ports, err := find(1, count)
	if err != nil {
		return 0, err
	}
	return ports[0], nil
}

// find finds count ports, each the first of a row of free ones. All are held until the last is found.
func find(count, row int) ([]int, error) {
	const first, last, tries = 10000, 30000, 1000
	var ports []int
	for range tries {
		if len(ports) == count {
			return ports, nil
		}
		port := first + rand.IntN(last-first)
		release, free := hold(port, row)
		defer release()
		if free && reserve(port, row) {
			ports = append(ports, port)
		}
	}
	return nil, fmt.Errorf("no %d free ports in %d tries", count*row, tries)
}

// reserved are the locks of the ports that this process has found: no test of this machine finds them again as long as it runs.
// Between their being found and a node's listening there, and while the node is down to be started again, nothing else says that
// they are taken.
var reserved struct {
	mu    sync.Mutex // guards locks
	locks map[int]*os.File
}

// reserve locks a row of ports; false: another process has one of them, or this one has found it before.
func reserve(first, row int) bool {
	reserved.mu.Lock()
	defer reserved.mu.Unlock()
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("warren-test-ports-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false
	}
	locks := map[int]*os.File{}
	for port := first; port < first+row; port++ {
		lock, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(port)), os.O_CREATE|os.O_RDWR, 0o600)
		if err == nil { // another file of this process does not get the lock either (flock(2))
			locks[port] = lock
			err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		}
		if err != nil {
			for _, l := range locks {
				_ = l.Close()
			}
			return false
		}
	}
	if reserved.locks == nil {
		reserved.locks = map[int]*os.File{}
	}
	maps.Copy(reserved.locks, locks)
	return true
}

// hold takes a row of ports, for TCP and UDP, and tells whether all were free.
func hold(first, row int) (release func(), free bool) {
	var held []io.Closer
	release = func() {
		for _, h := range held {
			_ = h.Close()
		}
	}
	for port := first; port < first+row; port++ {
		address := "127.0.0.1:" + strconv.Itoa(port)
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return release, false
		}
		held = append(held, listener)
		packets, err := net.ListenPacket("udp", address)
		if err != nil {
			return release, false
		}
		held = append(held, packets)
	}
	return release, true
}
