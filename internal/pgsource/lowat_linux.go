package pgsource

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// wakeAt sets how many bytes have to be there before the kernel reports the socket as readable. A pause alone saves no
// wake-ups: the runtime's poller is woken by every packet on a socket that it knows, whether anybody waits to read or
// not.
func wakeAt(c syscall.RawConn, bytes int) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, bytes)
	})
	if err != nil {
		return err
	}
	return failed
}

const (
	// window is how much the server may send before it is read, roughly. Whatever it has beyond that it appends to what
	// waits already, which costs a third of sending it as a packet, and it has a message to send for each row. So the window
	// is to be full while the reader pauses.
	window = 64 << 10
	// near is the round trip up to which such a window limits nothing: 64 KiB each millisecond is more than a server decodes.
	near = time.Millisecond
)

// narrow makes the window of a near server small. Where that cannot be done, nothing but time is lost.
func narrow(c syscall.RawConn) {
	_ = c.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil && time.Duration(info.Rtt)*time.Microsecond <= near {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, window)
		}
	})
}
