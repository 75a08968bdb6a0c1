package near

// Ticks is a counter of the processor's, which goes on while the process is stopped, and as a rule ticks more than once in a nanosecond. It
// is read in a third of the time that a clock takes. Gauge tells whether it can be relied on.
//
//go:noescape
func Ticks() uint64
