// Package clocktest gives tests a clock for the servers that they start, and has it jump while these run: a small
// library that is preloaded into them shifts the wall clock. It is compiled when the first test wants it, by the C
// compiler that building freshet takes as well.
package clocktest

import (
	"context"
	_ "embed"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/testkit"
)

//go:embed preload/clock.c
var source string

//nolint:gochecknoglobals // compiled once for each test process, removed by testkit.Main
var library = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "freshet-clock-*")
	if err != nil {
		return "", fmt.Errorf("build the clock: %w", err)
	}
	testkit.AtEnd(func() error { return os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // the servers run under another account
		return "", fmt.Errorf("build the clock: %w", err)
	}
	from, to := filepath.Join(dir, "clock.c"), filepath.Join(dir, "clock.so")
	if err := os.WriteFile(from, []byte(source), 0o600); err != nil {
		return "", fmt.Errorf("build the clock: %w", err)
	}
	out, err := exec.CommandContext(context.Background(), "cc", "-O2", "-shared", "-fPIC", "-o", to, from).CombinedOutput() //nolint:gosec // our own source
	if err != nil {
		return "", fmt.Errorf("build the clock: %w\n%s", err, out)
	}
	return to, nil
})

// Clock is a wall clock that some servers have in common.
type Clock struct {
	// Env is the environment of a server that has this clock.
	Env []string

	file *os.File
}

// New makes a clock that is right. The package's TestMain must be testkit.Main.
func New(tb testing.TB) *Clock {
	tb.Helper()
	path, err := library()
	if err != nil {
		tb.Fatal(err)
	}
	file, err := os.CreateTemp(filepath.Dir(path), "shift-*")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = file.Close() })
	if err := file.Chmod(0o644); err != nil {
		tb.Fatal(err)
	}
	c := &Clock{Env: []string{"LD_PRELOAD=" + path, "FRESHET_TEST_CLOCK=" + file.Name()}, file: file}
	c.Shift(tb, 0)
	return c
}

// Shift has the clock go by that much before the right time, or behind it, from now on.
func (c *Clock) Shift(tb testing.TB, by time.Duration) {
	tb.Helper()
	var shift [8]byte
	binary.NativeEndian.PutUint64(shift[:], uint64(by)) //nolint:gosec // two's complement, as the library reads it
	if _, err := c.file.WriteAt(shift[:], 0); err != nil {
		tb.Fatal(err)
	}
}
