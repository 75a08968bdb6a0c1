package store

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Awake is a monotonic clock that goes on while the machine is suspended: a process that slept must not believe that
// its names are still fresh (R0).
//
// Every hit asks it once. The call never blocks, so the scheduler need not be told of it, which is most of its cost.
func Awake() time.Duration {
	var t unix.Timespec
	//nolint:gosec // the kernel writes to t before the call returns
	if _, _, failed := unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_BOOTTIME, uintptr(unsafe.Pointer(&t)), 0); failed != 0 {
		return time.Duration(time.Now().UnixNano()) // no kernel that Go runs on is without the clock
	}
	return time.Duration(t.Nano())
}
