package fill

import (
	"testing"
	"time"
)

// TestRegistrationsAreRenewed holds when a process registers: as soon as names are new to it, and every registerEvery.
func TestRegistrationsAreRenewed(t *testing.T) {
	t.Parallel()
	r := &Reader{uses: make(chan []use, 1)}
	asked := func(before, next *confirmation) bool {
		r.register(before, next)
		select {
		case <-r.uses:
			return true
		default:
			return false
		}
	}
	own, mixed := &names{}, &names{retained: []use{{"product", "d"}}}
	at := func(n *names, sent time.Duration) *confirmation { return &confirmation{names: n, sent: sent} }
	first := time.Hour
	for _, tt := range []struct {
		name         string
		before, next *confirmation
		want         bool
	}{
		{"nothing is known", nil, at(nil, 0), false},
		{"nothing to register", at(nil, 0), at(own, 0), false},
		{"new names", at(own, 0), at(mixed, first), true},
		{"a moment later", at(mixed, first), at(mixed, first+time.Second), false},
		{"just not yet", at(mixed, first), at(mixed, first+registerEvery-1), false},
		{"due", at(mixed, first), at(mixed, first+registerEvery), true},
		{"done", at(mixed, first), at(mixed, first+registerEvery+time.Second), false},
		{"the store was away", at(nil, first), at(mixed, first+registerEvery+2*time.Second), true},
	} {
		if got := asked(tt.before, tt.next); got != tt.want {
			t.Errorf("%s: registers %v, want %v", tt.name, got, tt.want)
		}
	}
}
