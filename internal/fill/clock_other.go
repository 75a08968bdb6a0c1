//go:build !linux

package fill

import "time"

// awake is the wall clock where there is no monotonic one that counts suspension: a step backwards could keep names
// fresh for too long, but a suspended machine cannot.
func awake() time.Duration { return time.Duration(time.Now().UnixNano()) }
