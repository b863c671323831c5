package amqp

import (
	"crypto/tls"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// hangUpPeriod is how often a client without heartbeats is looked after while an alarm keeps the reader from reading.
const hangUpPeriod = time.Second

// hungUp tells whether the other end has closed a socket, or the kernel has given it up (TCP's keep-alive is on), though bytes may be there
// that nobody has read. What is no socket of the kernel never says so.
func hungUp(socket net.Conn) (gone bool) {
	if secure, ok := socket.(*tls.Conn); ok {
		socket = secure.NetConn()
	}
	s, ok := socket.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return false
	}
	err = raw.Control(func(fd uintptr) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}, 0) // tells of POLLERR and POLLHUP in any case
		gone = err == nil && n > 0
	})
	return gone || err != nil // closed by us
}
