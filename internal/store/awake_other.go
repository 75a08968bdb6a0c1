//go:build !linux

package store

import "time"

// Awake is the wall clock where there is no monotonic one that counts suspension: a step backwards could keep names
// fresh for too long, but a suspended machine cannot.
func Awake() time.Duration { return time.Duration(time.Now().UnixNano()) }
