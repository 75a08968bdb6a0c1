package testkit_test

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/testkit"
)

// breachVariable makes this test binary breach one of the things that Main watches over.
const breachVariable = "FRESHET_TESTKIT_BREACH"

func TestMain(m *testing.M) {
	if os.Getenv(breachVariable) == "closing" {
		testkit.AtEnd(func() error { return errors.New("cannot be closed") })
	}
	testkit.Main(m)
}

func TestBreach(t *testing.T) {
	t.Parallel()
	if os.Getenv(breachVariable) == "goroutine" {
		go func() { select {} }()
		runtime.Gosched()
	}
}

func TestMainFails(t *testing.T) {
	t.Parallel()
	for breach, want := range map[string]string{
		"goroutine": "found unexpected goroutines",
		"closing":   "cannot be closed",
		"":          "PASS",
	} {
		t.Run("on "+breach, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestBreach$", "-test.v")
			cmd.Env = append(os.Environ(), breachVariable+"="+breach)
			out, err := cmd.CombinedOutput()
			if (err == nil) != (breach == "") || !strings.Contains(string(out), want) {
				t.Errorf("exit = %v, want %q in:\n%s", err, want, out)
			}
		})
	}
}

// recorder is a testing.TB that notes a failure instead of failing.
type recorder struct {
	testing.TB

	failed bool
}

func (r *recorder) Fatalf(string, ...any) { r.failed = true; runtime.Goexit() }

func TestEventually(t *testing.T) {
	t.Parallel()
	calls := 0
	testkit.Eventually(t, 10*time.Second, func() error {
		calls++
		if calls < 5 {
			return errors.New("not yet")
		}
		return nil
	})
	if calls != 5 {
		t.Errorf("calls = %d, want 5", calls)
	}

	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		testkit.Eventually(r, 20*time.Millisecond, func() error { return errors.New("never") })
	}()
	<-done
	if !r.failed {
		t.Error("Eventually gave up and did not fail the test")
	}
}
