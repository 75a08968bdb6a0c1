package pgsource

import "syscall"

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
