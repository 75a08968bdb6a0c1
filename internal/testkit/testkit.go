// Package testkit is what the tests of every package share: the frame of TestMain, waiting for a condition, and, in its
// sub-packages, private servers.
package testkit

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

//nolint:gochecknoglobals // TestMain is a process's own: what the tests share has no other owner
var shared struct {
	mu       sync.Mutex
	closings []func() error
}

// Main is the whole of a package's TestMain: it runs the tests, ends the servers that they shared, and fails when a
// goroutine is left.
func Main(m *testing.M) {
	code := m.Run()
	shared.mu.Lock()
	closings := shared.closings
	shared.closings = nil
	shared.mu.Unlock()
	for _, closing := range slices.Backward(closings) {
		if err := closing(); err != nil {
			fmt.Fprintln(os.Stderr, "testkit:", err)
			code = max(code, 1)
		}
	}
	if code == 0 {
		// A client of a cluster closes connections to nodes that it needs no more after five seconds, whether it is closed or not.
		if err := goleak.Find(goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*clusterClient)._refresh.func2")); err != nil {
			fmt.Fprintln(os.Stderr, "testkit:", err)
			code = 1
		}
	}
	os.Exit(code) //nolint:forbidigo // TestMain is the main of a test binary
}

// AtEnd has Main call the function after the last test, in the reverse order of the calls. A package that uses it must
// have Main as its TestMain.
func AtEnd(closing func() error) {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	shared.closings = append(shared.closings, closing)
}

// Eventually calls the check until it returns nil, and fails the test with its last error when that takes longer.
func Eventually(tb testing.TB, limit time.Duration, check func() error) {
	tb.Helper()
	const firstPause, longestPause = time.Millisecond, 100 * time.Millisecond
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	pause := firstPause
	for {
		err := check()
		if err == nil {
			return
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-deadline.C:
			timer.Stop()
			tb.Fatalf("still not so after %v: %v", limit, err)
		case <-tb.Context().Done():
			timer.Stop()
			tb.Fatalf("the test ended: %v", err)
		}
		pause = min(2*pause, longestPause)
	}
}

// Context is for what has to be done also after the test's own context has ended, with a time limit.
func Context(tb testing.TB) (context.Context, context.CancelFunc) {
	tb.Helper()
	const limit = 2 * time.Minute
	return context.WithTimeout(context.WithoutCancel(tb.Context()), limit)
}
