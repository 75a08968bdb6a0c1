package store

import (
	"time"

	"github.com/freshet/freshet/mvcc"
)

// Under is what a reader knows of names, as it was confirmed on the connection that readers share: what is read elsewhere counts only under a
// HEAD that was read there, of the same names, and not behind what was confirmed.
type Under struct {
	Generation string
	Revision   uint64
	Wc         mvcc.LSN
	// Trust is how long a HEAD is believed after it was asked for: T_r.
	Trust time.Duration
}
