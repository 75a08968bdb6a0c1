package demo

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

//go:embed guard.sh
var guardScript string

// child is a process that dies with this one.
type child struct {
	cmd   *exec.Cmd
	guard *os.File
	done  chan struct{} // closed when it ended and was waited for
	err   error         // valid after done
}

// startChild starts a program in a process group of its own: an interrupt typed at the terminal is for this process,
// which then stops its children in order.
func startChild(ctx context.Context, output io.Writer, program string, args ...string) (*child, error) {
	theirs, ours, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	argv := append([]string{"-c", guardScript, "freshet-demo", program}, args...)
	// It outlives the context: stop and kill end it.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "/bin/sh", argv...) //nolint:gosec // our own script and binary
	cmd.Stdout, cmd.Stderr = output, output
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	if closing := theirs.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", program, err), ours.Close())
	}
	c := &child{cmd: cmd, guard: ours, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		c.err = cmd.Wait()
		// Whether or not the watcher still listens, nothing is left for it to do.
		_, _ = c.guard.WriteString("ended\n")
		_ = c.guard.Close()
	}()
	return c, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// kill is SIGKILL; it returns when the process is gone.
func (c *child) kill() error {
	if err := c.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill process %d: %w", c.pid(), err)
	}
	<-c.done
	return nil
}

// stop is SIGTERM, and SIGKILL for one that does not end; it returns how the process ended.
func (c *child) stop(patience time.Duration) error {
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return errors.Join(fmt.Errorf("stop process %d: %w", c.pid(), err), c.kill())
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
		return errors.Join(fmt.Errorf("process %d does not stop within %s", c.pid(), patience), c.kill())
	}
	if c.err != nil {
		return fmt.Errorf("process %d: %w", c.pid(), c.err)
	}
	return nil
}

// ended tells whether the process is gone.
func (c *child) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// removeAtEnd has a directory removed: by the function that it returns, or by a shell when this process dies before.
func removeAtEnd(ctx context.Context, dir string) (remove func() error, err error) {
	const script = `read -r _ || rm -rf "$1"`
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "/bin/sh", "-c", script, "freshet-demo", dir) //nolint:gosec // our own script
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	guard, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("watch demo directory: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("watch demo directory: %w", err)
	}
	return func() error {
		err := os.RemoveAll(dir) //nolint:gosec // our own directory
		_, told := io.WriteString(guard, "removed\n")
		return errors.Join(err, told, guard.Close(), cmd.Wait())
	}, nil
}
