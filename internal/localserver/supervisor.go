package localserver

import (
	"bufio"
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

//go:embed supervisor.sh
var supervisorScript string

// errSupervisorGone means that the shell ended although nobody closed it.
var errSupervisorGone = errors.New("the supervisor of the server is gone")

const (
	startTimeout = 60 * time.Second
	stopTimeout  = 60 * time.Second
	pollInterval = 10 * time.Millisecond
	logTail      = 2000 // bytes of a server's log that go into an error
)

// supervisor is one directory and the shell that keeps its server.
type supervisor struct {
	dir   string
	stdin io.WriteCloser
	made  chan struct{} // closed when the directory is there
	gone  chan struct{} // closed when the shell has ended

	mu      sync.Mutex
	pending *process      // told to start, its number not yet known
	running *process      // the last one started
	started chan struct{} // closed when pending has its number
}

// process is one run of a server.
type process struct {
	pid    int
	exited chan struct{} // closed when it ended
	code   int           // valid after exited
}

// alive tells whether the process has not ended yet.
func (p *process) alive() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// directoryLetters make a directory's name one of its own: 60 bits.
const directoryLetters = 12

// supervise starts the shell, which makes the directory.
func supervise(ctx context.Context, kind string) (*supervisor, error) {
	who, err := serverAccount()
	if err != nil {
		return nil, err
	}
	base, err := who.base()
	if err != nil {
		return nil, err
	}
	// The shell makes the directory, since only what it has made is certain to be removed.
	dir := filepath.Join(base, "freshet-"+kind+"-"+rand.Text()[:directoryLetters])
	// It outlives the caller's context: it ends with its input. Its program comes on a descriptor, which keeps the list
	// of processes readable.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "/bin/sh", "-c", `eval "$(cat <&3)"`, //nolint:gosec // our own
		"freshet-supervisor", dir)
	cmd.Dir = base
	cmd.Env = []string{"PATH=" + os.Getenv("PATH") + ":/usr/bin:/bin", "HOME=" + dir, "TMPDIR=" + dir, "LC_ALL=C"}
	// A process group of its own: an interrupt typed at the terminal is for this process, which then closes in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: who.credential}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("make supervisor's input: %w", err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make supervisor's output: %w", err), stdin.Close())
	}
	program, script, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make supervisor's program: %w", err), stdin.Close(), stdout.Close())
	}
	cmd.ExtraFiles = []*os.File{program}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start supervisor: %w", err), program.Close(), script.Close())
	}
	s := &supervisor{dir: dir, stdin: stdin, made: make(chan struct{}), gone: make(chan struct{})}
	go s.follow(cmd, stdout)
	_, err = script.WriteString(supervisorScript)
	if err = errors.Join(err, script.Close(), program.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("write supervisor's program: %w", err), s.close())
	}
	select {
	case <-s.made:
		return s, nil
	case <-s.gone:
		return nil, fmt.Errorf("make server directory %s: %w", dir, errSupervisorGone)
	}
}

// follow reads what the shell says until it ends.
func (s *supervisor) follow(cmd *exec.Cmd, stdout io.Reader) {
	defer close(s.gone)
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		if word == "made" {
			close(s.made)
			continue
		}
		number, err := strconv.Atoi(rest)
		if err != nil {
			continue
		}
		s.mu.Lock()
		switch {
		case word == "started" && s.pending != nil:
			s.running, s.pending = s.pending, nil
			s.running.pid = number
			close(s.started)
		case word == "exited" && s.running.alive():
			s.running.code = number
			close(s.running.exited)
		}
		s.mu.Unlock()
	}
	// The exit status says nothing: whoever closed the input wanted the end.
	_ = cmd.Wait()
}

// run starts a command. At the end of this process it gets the signal.
func (s *supervisor) run(ctx context.Context, signal string, argv ...string) (*process, error) {
	quoted := make([]string, len(argv))
	for i, arg := range argv {
		if strings.ContainsAny(arg, "\n\x00") {
			return nil, fmt.Errorf("argument %q has a line break", arg)
		}
		quoted[i] = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
	}
	s.mu.Lock()
	if s.pending != nil || s.running.alive() {
		s.mu.Unlock()
		return nil, errors.New("the server is running already")
	}
	p := &process{exited: make(chan struct{})}
	started := make(chan struct{})
	s.pending, s.started = p, started
	s.mu.Unlock()

	if _, err := fmt.Fprintf(s.stdin, "%s %s\n", signal, strings.Join(quoted, " ")); err != nil {
		return nil, fmt.Errorf("ask supervisor: %w", err)
	}
	select {
	case <-started:
		return p, nil
	case <-s.gone:
		return nil, errSupervisorGone
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// withEnv is the beginning of a command that runs the program with further variables in its environment.
func withEnv(env []string, program string) []string {
	if len(env) == 0 {
		return []string{program}
	}
	return append(append([]string{"env"}, env...), program)
}

// current is the last process started, or nil.
func (s *supervisor) current() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running
}

// pid is the number of the running process, or 0.
func (s *supervisor) pid() int {
	if p := s.current(); p.alive() {
		return p.pid
	}
	return 0
}

// wait returns when the process has ended.
func (s *supervisor) wait(ctx context.Context, p *process) error {
	select {
	case <-p.exited:
		return nil
	case <-s.gone:
		return errSupervisorGone
	case <-ctx.Done():
		return fmt.Errorf("wait for the server's end: %w", context.Cause(ctx))
	}
}

// end sends the signal to the running process and waits until it has ended. Nothing happens when it already has.
func (s *supervisor) end(ctx context.Context, signal syscall.Signal) error {
	p := s.current()
	if !p.alive() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if err := syscall.Kill(p.pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal server: %w", err)
	}
	return s.wait(ctx, p)
}

// ready polls until the check passes; it fails when the process ends or the time is over.
func (s *supervisor) ready(ctx context.Context, p *process, check func() bool) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			if check() {
				return nil
			}
			timer.Reset(pollInterval)
		case <-p.exited:
			return fmt.Errorf("the server ended with code %d; its log ends with:\n%s", p.code, s.log())
		case <-s.gone:
			return errSupervisorGone
		case <-ctx.Done():
			return fmt.Errorf("the server is not ready: %w; its log ends with:\n%s", context.Cause(ctx), s.log())
		}
	}
}

// log is the end of what the server wrote.
func (s *supervisor) log() string {
	text, err := os.ReadFile(filepath.Join(s.dir, "server.log"))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-logTail):])
}

// write makes a file in the directory that the server can read.
func (s *supervisor) write(name, text string) error {
	who, err := serverAccount()
	if err != nil {
		return err
	}
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write server configuration: %w", err)
	}
	return who.own(path)
}

// close ends the server the hard way, and with it its directory. It may be called again.
func (s *supervisor) close() error {
	if err := s.stdin.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("close supervisor: %w", err)
	}
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-s.gone:
	case <-timer.C:
		return fmt.Errorf("the server in %s does not end", s.dir)
	}
	if _, err := os.Stat(s.dir); err == nil {
		return fmt.Errorf("the server's directory %s is still there", s.dir)
	}
	return nil
}
