package stampede

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/testkit"
)

// jobVariable holds what a process is to do, when the test's binary is one of the fleet.
const jobVariable = "FRESHET_TEST_STAMPEDE"

// TestMain also runs the processes of the fleet: the test starts itself for them.
func TestMain(m *testing.M) {
	if text := os.Getenv(jobVariable); text != "" {
		if err := member(context.Background(), text); err != nil {
			_, _ = fmt.Fprintln(os.Stderr, "stampede:", err)
			os.Exit(1) //nolint:forbidigo // this is the process's main
		}
		os.Exit(0) //nolint:forbidigo // this is the process's main
	}
	testkit.Main(m)
}

// job is what a process does: when it is told to, so many goroutines read all the keys, each in an order of its own.
type job struct {
	Config     string        `json:"config"`
	Goroutines int           `json:"goroutines"`
	Keys       []int         `json:"keys"`
	Load       time.Duration `json:"load"`  // how long a load takes
	Hangs      bool          `json:"hangs"` // it says that it loads, and hangs
}

// report is what came of it.
type report struct {
	Loads   int64         `json:"loads"`
	Past    uint64        `json:"past"`    // reads that went past the cache: the process was held up for longer than it may vouch for names, or wait
	Longest time.Duration `json:"longest"` // that a read took
	Wrong   string        `json:"wrong"`   // a read that failed, if one did
}

const (
	ready   = "ready"
	loading = "loading"
	warmKey = 1
)

// price is the value of a key.
func price(id int) int { return 10 * id }

// member is the whole life of a process of the fleet.
func member(ctx context.Context, text string) error {
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return err
	}
	cache, err := freshet.Open(ctx, freshet.Options{Config: j.Config})
	if err != nil {
		return err
	}
	defer cache.Close()
	var r report
	products, err := freshet.Entry(cache, "product", freshet.Load(func(ctx context.Context, q freshet.Querier, id int) (price int, err error) {
		if id != warmKey {
			atomic.AddInt64(&r.Loads, 1)
		}
		if id != warmKey && j.Hangs {
			say(loading)
			_, _ = io.Copy(io.Discard, os.Stdin)
		}
		if err := q.QueryRow(ctx, `SELECT price FROM products WHERE id = $1`, id).Scan(&price); err != nil {
			return 0, err
		}
		timer := time.NewTimer(j.Load)
		defer timer.Stop()
		select {
		case <-timer.C:
			return price, nil
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}))
	if err != nil {
		return err
	}
	if _, err := products.Get(ctx, warmKey); err != nil { // so that names and connections are there
		return err
	}
	say(ready)
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	r.Longest, r.Wrong = j.storm(ctx, products)
	for _, n := range cache.Stats().Bypassed {
		r.Past += n
	}
	said, err := json.Marshal(&r)
	say(string(said))
	return err
}

func (j *job) storm(ctx context.Context, products *freshet.Typed[int, int]) (longest time.Duration, wrong string) {
	var (
		all sync.WaitGroup
		mu  sync.Mutex
	)
	for g := range j.Goroutines {
		all.Go(func() {
			for k := range j.Keys {
				id := j.Keys[(k+g)%len(j.Keys)]
				began := time.Now()
				got, err := products.Get(ctx, id)
				took := time.Since(began)
				mu.Lock()
				if longest = max(longest, took); err != nil || got != price(id) {
					wrong = fmt.Sprintf("product %d: %d, %v", id, got, err)
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return longest, wrong
}

// say tells the test something. A test that is gone has closed the process's input as well.
func say(word string) { _, _ = fmt.Fprintln(os.Stdout, word) }

// process is one of the fleet.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines *bufio.Scanner
}

// begin starts a process and waits until it is ready.
func begin(t *testing.T, j *job) *process {
	t.Helper()
	text, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: exec.CommandContext(t.Context(), self)}
	p.cmd.Env = append(os.Environ(), jobVariable+"="+string(text))
	p.cmd.Stderr = os.Stderr
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.lines = bufio.NewScanner(stdout)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	})
	if said := p.hear(); said != ready {
		t.Fatalf("it says %q", said)
	}
	return p
}

// hear is the next thing that the process says.
func (p *process) hear() string {
	p.t.Helper()
	if !p.lines.Scan() {
		p.t.Fatalf("the process ended: %v", p.lines.Err())
	}
	return p.lines.Text()
}

func (p *process) tell() {
	p.t.Helper()
	if _, err := io.WriteString(p.stdin, "go\n"); err != nil {
		p.t.Fatal(err)
	}
}

func (p *process) report() (r report) {
	p.t.Helper()
	if err := json.Unmarshal([]byte(p.hear()), &r); err != nil {
		p.t.Fatal(err)
	}
	if r.Wrong != "" {
		p.t.Error(r.Wrong)
	}
	return r
}
