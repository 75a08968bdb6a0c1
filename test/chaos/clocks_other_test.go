//go:build !linux

package chaos

import "testing"

// clocks stay right where they cannot be had to jump.
type clocks struct{}

func newClocks(*testing.T) *clocks { return &clocks{} }

func (*clocks) ofRedis() []string    { return nil }
func (*clocks) ofDatabase() []string { return nil }

func clockFaults() []fault { return nil }
