// Package servetest gives tests the real program: the freshet binary, built once for each test process, and daemons
// that run in processes of their own, which can be killed, frozen and stopped.
package servetest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/testkit"
)

// BinaryVariable names the environment variable that chooses the binary to test, by its path. Default: the one that is
// built from this source.
const BinaryVariable = "FRESHET_TEST_BINARY"

// patience is how long a daemon may take to listen, or to stop.
const patience = time.Minute

//nolint:gochecknoglobals // one binary for each test process, removed by testkit.Main
var binary = sync.OnceValues(func() (string, error) {
	if path := os.Getenv(BinaryVariable); path != "" {
		return path, nil
	}
	dir, err := os.MkdirTemp("", "freshet-binary-*")
	if err != nil {
		return "", fmt.Errorf("build freshet: %w", err)
	}
	testkit.AtEnd(func() error { return os.RemoveAll(dir) })
	path := filepath.Join(dir, "freshet")
	out, err := exec.CommandContext(context.Background(), //nolint:gosec // our own program
		"go", "build", "-o", path, "github.com/freshet/freshet/cmd/freshet").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build freshet: %w\n%s", err, out)
	}
	return path, nil
})

// Binary is the path of the freshet program. The package's TestMain must be testkit.Main, which removes it.
func Binary(tb testing.TB) string {
	tb.Helper()
	path, err := binary()
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// Daemon is a running `freshet serve`. Its methods may be called from any goroutine.
type Daemon struct {
	Name  string
	Addr  string // of the gateway, from the first line of its log
	First string // that line

	cmd   *exec.Cmd
	guard io.Closer
	ended chan struct{} // closed when the process was waited for

	mu       sync.Mutex
	log      []string
	expected bool // its end was asked for
}

// Start runs `freshet serve` with a configuration and returns when it listens. It ends with the test, and with this
// process, should that be killed.
func Start(tb testing.TB, name, config string, args ...string) *Daemon {
	tb.Helper()
	d, err := start(tb, name, config, args)
	if err != nil {
		tb.Fatalf("start daemon %s: %v", name, err)
	}
	return d
}

// guardScript kills the daemon when this process is gone: then its input ends.
const guardScript = `while read -r _; do :; done; kill -KILL "$1" 2>/dev/null; exit 0`

func start(tb testing.TB, name, config string, args []string) (*Daemon, error) {
	tb.Helper()
	path := Binary(tb)
	argv := append([]string{"serve", "--config", config, "--log-format", "json"}, args...)
	d := &Daemon{Name: name, ended: make(chan struct{})}
	// It outlives the context: the test says when and how it ends.
	d.cmd = exec.CommandContext(context.WithoutCancel(tb.Context()), path, argv...) //nolint:gosec // the program under test
	stderr, err := d.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	listening := make(chan struct{})
	go d.follow(stderr, listening)
	tb.Cleanup(d.Kill)
	if d.guard, err = Guard(d.PID(), d.ended); err != nil {
		return nil, err
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-listening:
		return d, nil
	case <-d.ended:
		return nil, fmt.Errorf("it ended: %v\n%s", d.cmd.ProcessState, d.Log())
	case <-timer.C:
		return nil, fmt.Errorf("it does not listen\n%s", d.Log())
	}
}

// Guard starts the process that outlives this one for as long as it takes to end another, which may be frozen. ended is
// closed when that was waited for; what is returned is to be closed, or kept, until then.
func Guard(pid int, ended <-chan struct{}) (io.Closer, error) {
	guard := exec.CommandContext(context.Background(), "/bin/sh", "-c", guardScript, "freshet-test-guard", strconv.Itoa(pid)) //nolint:gosec // our own
	guard.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	input, err := guard.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := guard.Start(); err != nil {
		return nil, err
	}
	go func() {
		<-ended
		// The process number may soon be somebody else's.
		_ = guard.Process.Kill()
		_ = guard.Wait()
	}()
	return input, nil
}

// follow reads the daemon's log until it ends.
func (d *Daemon) follow(stderr io.Reader, listening chan struct{}) {
	defer close(d.ended)
	const kept = 400
	lines := bufio.NewReader(stderr)
	for {
		line, err := lines.ReadString('\n')
		if line = strings.TrimRight(line, "\n"); line != "" {
			d.mu.Lock()
			d.log = append(d.log, line)
			if len(d.log) > 2*kept {
				d.log = append(d.log[:0], d.log[len(d.log)-kept:]...)
			}
			d.mu.Unlock()
			if d.Addr == "" {
				var entry struct {
					Message string `json:"msg"`
					Addr    string `json:"addr"`
				}
				if json.Unmarshal([]byte(line), &entry) == nil && entry.Message == "listening" && entry.Addr != "" {
					d.Addr, d.First = entry.Addr, d.log[0]
					close(listening)
				}
			}
		}
		if err != nil {
			break
		}
	}
	_ = d.cmd.Wait() // the state says how
}

// PID is the number of the process.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// Log is the end of what the daemon logged.
func (d *Daemon) Log() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.log, "\n")
}

// Died reports whether the process ended although nobody asked it to, and how.
func (d *Daemon) Died() (string, bool) {
	select {
	case <-d.ended:
	default:
		return "", false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cmd.ProcessState.String(), !d.expected
}

func (d *Daemon) signal(s syscall.Signal) {
	// One that has ended already needs no signal.
	_ = d.cmd.Process.Signal(s)
}

// Kill is SIGKILL; it returns when the process is gone.
func (d *Daemon) Kill() {
	d.expect()
	d.signal(syscall.SIGKILL)
	<-d.ended
}

// Freeze is SIGSTOP.
func (d *Daemon) Freeze() { d.signal(syscall.SIGSTOP) }

// Thaw is SIGCONT.
func (d *Daemon) Thaw() { d.signal(syscall.SIGCONT) }

func (d *Daemon) expect() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.expected = true
}

// Stop is SIGTERM. It fails unless the process then ends by itself, with code 0.
func (d *Daemon) Stop() error {
	d.expect()
	d.signal(syscall.SIGTERM)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-d.ended:
	case <-timer.C:
		d.Kill()
		return fmt.Errorf("daemon %s does not stop\n%s", d.Name, d.Log())
	}
	if code := d.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("daemon %s: %s\n%s", d.Name, d.cmd.ProcessState, d.Log())
	}
	return nil
}

// Status is what the tests read of GET /v1/status.
type Status struct {
	Phase      string `json:"phase"`
	Problem    string `json:"problem"`
	Generation string `json:"generation"`
	Admission  string `json:"admission"`
	Gaps       int    `json:"gaps"`
	Entries    []struct {
		Name      string `json:"name"`
		Suspended string `json:"suspended"`
	} `json:"entries"`
	Source struct {
		ConfirmedLSN string `json:"confirmed_lsn"`
	} `json:"source"`
	Reads struct {
		Hits    uint64            `json:"hits"`
		Misses  uint64            `json:"misses"`
		Fills   uint64            `json:"fills"`
		Refused map[string]uint64 `json:"refused"`
	} `json:"reads"`
	Applied struct {
		Transactions uint64 `json:"transactions"`
	} `json:"applied"`
}

// Status asks the daemon what it is doing.
func (d *Daemon) Status(ctx context.Context) (Status, error) {
	var s Status
	code, _, body, err := d.Get(ctx, "/v1/status")
	if err != nil {
		return s, err
	}
	if code != http.StatusOK {
		return s, fmt.Errorf("GET /v1/status: %d %s", code, body)
	}
	if err := json.Unmarshal(body, &s); err != nil {
		return s, fmt.Errorf("GET /v1/status: %w", err)
	}
	return s, nil
}

// Live is nil when the daemon streams and every entry is live.
func (d *Daemon) Live(ctx context.Context) error {
	s, err := d.Status(ctx)
	if err != nil {
		return err
	}
	if s.Phase != "streaming" {
		return fmt.Errorf("daemon %s: %s: %s", d.Name, s.Phase, s.Problem)
	}
	if len(s.Entries) == 0 {
		return errors.New("no entry is public yet")
	}
	for _, e := range s.Entries {
		if e.Suspended != "" {
			return fmt.Errorf("entry %s: %s (%s)", e.Name, e.Suspended, s.Admission)
		}
	}
	return nil
}

// Get reads a path of the daemon's gateway over a connection of its own.
func (d *Daemon) Get(ctx context.Context, path string) (code int, header http.Header, body []byte, err error) {
	return d.GetWith(ctx, path, http.Header{})
}

// GetWith is Get with headers in the request.
func (d *Daemon) GetWith(ctx context.Context, path string, asked http.Header) (code int, header http.Header, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.Addr+path, http.NoBody)
	if err != nil {
		return 0, nil, nil, err
	}
	req.Header = asked
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err = io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil, nil, err
	}
	return resp.StatusCode, resp.Header, bytes.TrimSpace(body), nil
}
