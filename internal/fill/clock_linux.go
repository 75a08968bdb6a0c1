package fill

import (
	"time"

	"golang.org/x/sys/unix"
)

// awake is a monotonic clock that goes on while the machine is suspended: a process that slept must not believe that
// its names are still fresh (R0).
func awake() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return time.Duration(time.Now().UnixNano()) // no kernel that Go runs on is without the clock
	}
	return time.Duration(t.Nano())
}
