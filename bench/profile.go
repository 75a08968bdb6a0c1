package main

import (
	"fmt"
	"os"
	"runtime/pprof"
)

// profile records where this process spends its time, until the returned function is called.
func profile(path string) (stop func(), err error) {
	if path == "" {
		return func() {}, nil
	}
	file, err := os.Create(path) //nolint:gosec // the caller's own choice
	if err != nil {
		return nil, fmt.Errorf("record a profile: %w", err)
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		return nil, fmt.Errorf("record a profile: %w", err)
	}
	return func() {
		pprof.StopCPUProfile()
		_ = file.Close()
	}, nil
}
