// Package demo_test runs the demo as make demo does: the real binary tells the whole story on servers of its own.
package demo_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// built is the binary, which all tests share.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "freshet-demo-test-")
	if err != nil {
		return "", err
	}
	testkit.AtEnd(func() error { return os.RemoveAll(dir) })
	path := filepath.Join(dir, "freshet")
	out, err := exec.Command("go", "build", "-o", path, "github.com/freshet/freshet/cmd/freshet").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("build freshet: %w\n%s", err, out)
	}
	return path, err
})

// demo is the command, and the temporary folder that it is given.
func demo(t *testing.T, args ...string) (cmd *exec.Cmd, temp string) {
	t.Helper()
	binary, err := built()
	if err != nil {
		t.Fatal(err)
	}
	// t.TempDir has a parent that the servers' account may not enter when this is root.
	temp, err = os.MkdirTemp("", "freshet-demo-test-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(temp) }) // what is left in it has been complained about
	if err := os.Chmod(temp, 0o777); err != nil {
		t.Fatal(err)
	}
	cmd = exec.CommandContext(t.Context(), binary, append([]string{"demo"}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+temp)
	return cmd, temp
}

type counts struct {
	Reads   int     `json:"reads"`
	Hits    int     `json:"hits"`
	Errors  int     `json:"errors"`
	Stale   int     `json:"stale"`
	StaleMS float64 `json:"stale_ms"`
	Untrue  int     `json:"untrue"`
}

type report struct {
	OK       bool    `json:"ok"`
	Seconds  float64 `json:"seconds"`
	Postgres string  `json:"postgres"`
	Redis    string  `json:"redis"`
	Steps    []struct {
		Step     string             `json:"step"`
		Title    string             `json:"title"`
		Plain    string             `json:"plain"`
		Freshet  string             `json:"freshet"`
		Measured string             `json:"measured"`
		Held     bool               `json:"held"`
		Reasons  []string           `json:"reasons"`
		Seconds  float64            `json:"seconds"`
		Figures  map[string]float64 `json:"figures"`
		Reads    struct {
			Gateway counts `json:"gateway"`
			Library counts `json:"library"`
		} `json:"reads"`
	} `json:"steps"`
}

func TestStory(t *testing.T) {
	t.Parallel()
	const limit = 150 * time.Second // some 25 s on a machine that has nothing else to do
	cmd, temp := demo(t, "--once", "--json")
	begun := time.Now()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	t.Logf("stderr:\n%s", &stderr)
	if err != nil {
		t.Errorf("freshet demo --once --json: %v\n%s", err, &stdout)
	}
	if took := time.Since(begun); took > limit {
		t.Errorf("the demo took %s, want at most %s", took, limit)
	}
	decoder := json.NewDecoder(&stdout)
	decoder.DisallowUnknownFields()
	var got report
	if err := decoder.Decode(&got); err != nil {
		t.Fatalf("decode report: %v", err)
	}
	if decoder.More() {
		t.Error("stdout has more than the report")
	}
	if !got.OK || got.Seconds <= 0 || got.Postgres == "" || got.Redis == "" || len(got.Steps) != 6 {
		t.Errorf("report = %+v", got)
	}
	docs, err := os.ReadFile("../../docs/demo.md")
	if err != nil {
		t.Fatal(err)
	}
	for i, step := range got.Steps {
		if want := string(rune('a' + i)); step.Step != want || !step.Held || len(step.Reasons) != 0 {
			t.Errorf("step %q: held = %v, reasons = %q, want %s to hold", step.Step, step.Held, step.Reasons, want)
		}
		if step.Title == "" || step.Plain == "" || step.Freshet == "" || step.Measured == "" {
			t.Errorf("step %s does not say everything: %+v", step.Step, step)
		}
		if step.Reads.Gateway.Reads == 0 || step.Reads.Library.Reads == 0 {
			t.Errorf("step %s: readers = %+v, want reads through both", step.Step, step.Reads)
		}
		for name := range step.Figures {
			if !strings.Contains(string(docs), "`"+name+"`") {
				t.Errorf("step %s: figure %s is not in docs/demo.md", step.Step, name)
			}
		}
	}
	left, err := os.ReadDir(temp)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range left {
		t.Errorf("%s is left in the temporary folder", entry.Name())
	}
}

// A story that cannot fail would show nothing: while the daemon is stopped, steps do not hold.
func TestStoryFailsWithAStoppedDaemon(t *testing.T) {
	t.Parallel()
	cmd, temp := demo(t, "--once", "--json")
	var stdout bytes.Buffer
	stderr := &watch{}
	cmd.Stdout, cmd.Stderr = &stdout, stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 2*time.Minute, func() error { return stderr.has("step c: a row") })
	daemon, err := strconv.Atoi(stderr.find(t, `the daemon is process (\d+)\n`))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(daemon, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 2*time.Minute, func() error { return stderr.has("step e: kill") })
	if err := syscall.Kill(daemon, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("freshet demo ended with %v, want exit code 1\n%s", err, stderr.text())
	}
	var got report
	if err := json.Unmarshal(stdout.Bytes(), &got); err != nil {
		t.Fatalf("decode report: %v\n%s", err, &stdout)
	}
	if got.OK || len(got.Steps) != 6 {
		t.Fatalf("report = %+v, want all steps, and that not all held", got)
	}
	for i, held := range []bool{true, true, false, false, true, true} {
		if step := got.Steps[i]; step.Held != held || held != (len(step.Reasons) == 0) {
			t.Errorf("step %s: held = %v, reasons = %q, want held = %v", step.Step, step.Held, step.Reasons, held)
		}
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) != 0 {
		t.Errorf("left in the temporary folder: %v, %v", left, err)
	}
}

// Without --once everything keeps serving, and with --keep there is something to look at afterwards.
func TestServesOnAndKeeps(t *testing.T) {
	t.Parallel()
	cmd, temp := demo(t, "--keep")
	stdout, stderr := &watch{}, &watch{}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 150*time.Second, func() error { return stdout.has("tail -f") })
	if err := stdout.has("every step held"); err != nil {
		t.Error(err)
	}
	url := stdout.find(t, `curl -i (http://\S+/v1/entries/product/7)\n`)
	old, err := fetch(url)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), stdout.find(t, `psql '(\S+)'`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), stdout.find(t, `-c '(.*)'`)); err != nil {
		t.Error(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Error(err)
	}
	testkit.Eventually(t, 10*time.Second, func() error {
		got, err := fetch(url)
		if err == nil && got == old {
			err = fmt.Errorf("still %s", got)
		}
		return err
	})
	for _, path := range []string{`curl -s (http://\S+/v1/status)\n`, `curl -s (http://\S+/metrics)\n`, `curl -s (http://\S+/category_page/12)\n`} {
		if _, err := fetch(stdout.find(t, path)); err != nil {
			t.Error(err)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("freshet demo: %v\n%s", err, stderr.text())
	}
	dir := stderr.find(t, `kept: (/\S+)\n`)
	for _, name := range []string{"freshet.yaml", "daemon.log", "postgres/PG_VERSION", "redis/dump.rdb"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) != 1 {
		t.Errorf("in the temporary folder: %v, %v, want what was kept", left, err)
	}
}

// fetch is the body of a 200.
func fetch(url string) (string, error) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s: %s", url, response.Status, body)
	}
	return string(body), err
}

// An interrupt in the middle ends everything, in order.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	cmd, temp := demo(t, "--once")
	var stdout bytes.Buffer
	stderr := &watch{}
	cmd.Stdout, cmd.Stderr = &stdout, stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 2*time.Minute, func() error { return stderr.has("step b") })
	config := stderr.find(t, `--config (\S+)`)
	text, err := os.ReadFile(config)
	if err != nil {
		t.Error(err)
	}
	listen := regexp.MustCompile(`listen: (\S+)`).FindStringSubmatch(string(text))
	if listen == nil {
		t.Fatalf("%s has no listen address:\n%s", config, text)
	}
	url := "http://" + listen[1] + "/v1/entries/product/7"
	if _, err := fetch(url); err != nil {
		t.Error(err)
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("freshet demo ended with %v, want exit code 1", err)
	}
	if err := stderr.has("interrupted in step b"); err != nil {
		t.Error(err)
	}
	if stdout.Len() != 0 {
		t.Errorf("stdout = %s, want nothing", &stdout)
	}
	if _, err := fetch(url); err == nil {
		t.Errorf("the daemon still listens on %s", listen[1])
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) != 0 {
		t.Errorf("left in the temporary folder: %v, %v", left, err)
	}
}

// A demo that is killed leaves nothing either.
func TestKill(t *testing.T) {
	t.Parallel()
	cmd, temp := demo(t)
	stderr := &watch{}
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 2*time.Minute, func() error { return stderr.has("step a") })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	testkit.Eventually(t, 30*time.Second, func() error {
		left, err := os.ReadDir(temp)
		if err == nil && len(left) != 0 {
			err = fmt.Errorf("left in the temporary folder: %v", left)
		}
		return err
	})
}
