//go:build !linux

package pgsource

import "syscall"

// wakeAt does nothing here: pauses save less then.
func wakeAt(syscall.RawConn, int) error { return nil }

// narrow does nothing here either.
func narrow(syscall.RawConn) {}
