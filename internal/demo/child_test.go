package demo

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/testkit"
)

// parentVariable makes this test binary start children, say so, and wait to be killed.
const parentVariable = "FRESHET_DEMO_PARENT"

// parent is that process: a child that ignores everything but SIGKILL, and a directory.
func parent(t *testing.T, dir string) {
	t.Helper()
	c, err := startChild(t.Context(), nil, "/bin/sh", "-c", "trap '' TERM INT HUP; while :; do sleep 0.05; done")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := removeAtEnd(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(os.Stderr, "child %d\n", c.pid())
	select {}
}

func TestNothingOutlivesAKilledParent(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "demo")
	if parents := os.Getenv(parentVariable); parents != "" {
		parent(t, parents)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "freshet.yaml"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestNothingOutlivesAKilledParent$")
	cmd.Env = append(os.Environ(), parentVariable+"="+dir)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stderr).ReadString('\n')
	pid, notNumber := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, "child ")))
	if err := errors.Join(err, notNumber); err != nil {
		t.Errorf("the parent said %q: %v", line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	testkit.Eventually(t, 10*time.Second, func() error {
		if running(pid) {
			return fmt.Errorf("child %d is still running", pid)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("the directory is still there: %w", err)
		}
		return nil
	})
}

// running tells a process from one that has ended and that nobody has waited for.
func running(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	out, err := exec.Command("ps", "-o", "stat=", "-p", strconv.Itoa(pid)).Output()
	return err == nil && !strings.HasPrefix(strings.TrimSpace(string(out)), "Z")
}

func TestChildStopsInOrder(t *testing.T) {
	t.Parallel()
	output := newLineWatch("ready")
	c, err := startChild(t.Context(), output, "/bin/sh", "-c", "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done")
	if err != nil {
		t.Fatal(err)
	}
	<-output.seen
	if c.ended() {
		t.Error("the child has ended by itself")
	}
	if err := c.stop(10 * time.Second); err != nil {
		t.Error(err)
	}
	if got := output.text(); got != "ready\nbye\n" {
		t.Errorf("output = %q, want ready and bye", got)
	}
}

func TestChildThatDoesNotStopIsKilled(t *testing.T) {
	t.Parallel()
	output := newLineWatch("ready")
	c, err := startChild(t.Context(), output, "/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done")
	if err != nil {
		t.Fatal(err)
	}
	<-output.seen
	if err := c.stop(100 * time.Millisecond); err == nil || !strings.Contains(err.Error(), "does not stop") {
		t.Errorf("stop = %v, want an error that says so", err)
	}
	if !c.ended() {
		t.Error("the child is still there")
	}
}

func TestKillIsSigkill(t *testing.T) {
	t.Parallel()
	output := newLineWatch("ready")
	c, err := startChild(t.Context(), output, "/bin/sh", "-c", "trap 'echo bye' TERM EXIT; echo ready; while :; do sleep 0.05; done")
	if err != nil {
		t.Fatal(err)
	}
	<-output.seen
	if err := c.kill(); err != nil {
		t.Fatal(err)
	}
	var status *exec.ExitError
	if !errors.As(c.err, &status) || status.String() != "signal: killed" {
		t.Errorf("the child ended with %v, want SIGKILL", c.err)
	}
	if got := output.text(); got != "ready\n" {
		t.Errorf("output = %q, want nothing after ready", got)
	}
	if err := c.kill(); err != nil {
		t.Errorf("killing it again: %v", err)
	}
}

func TestRemoveAtEnd(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "demo")
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	remove, err := removeAtEnd(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is still there: %v", err)
	}
}
