//go:build !amd64

package near

// Ticks is a clock's nanoseconds, where there is nothing cheaper that would do.
func Ticks() uint64 { return uint64(Now()) } //nolint:gosec // not negative
