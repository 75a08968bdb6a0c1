package writer

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/testkit"
)

// jobVariable holds what a writer is to do. A writer is this very program, in a process of its own that can be killed.
const jobVariable = "FRESHET_TEST_WRITER"

func TestMain(m *testing.M) {
	if text := os.Getenv(jobVariable); text != "" {
		if err := write(context.Background(), text); err != nil {
			fmt.Fprintln(os.Stderr, "writer:", err)
			os.Exit(1) //nolint:forbidigo // this is the writer's main
		}
		os.Exit(0) //nolint:forbidigo // this is the writer's main
	}
	testkit.Main(m)
}

// point is where a writer stops until it is killed.
type point string

const (
	begun      point = "begun"      // the row is changed, nothing is said of it yet
	declared   point = "declared"   // everything is said and, if Strict, fenced that goes before COMMIT
	committing point = "committing" // COMMIT is under way: the writer does not stop
	committed  point = "committed"  // COMMIT has returned, and nothing came after it
	refreshing point = "refreshing" // the writer holds the key's lease and loads
	finished   point = "finished"   // Commit has returned
)

type job struct {
	Config   string `json:"config"`
	Database string `json:"database"`
	Currency string `json:"currency"`
	Value    int    `json:"value"`
	Stop     point  `json:"stop"`
	Strict   bool   `json:"strict"`
}

// write changes a rate and commits it with its intent, as far as it gets.
func write(ctx context.Context, text string) error {
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return err
	}
	cache, err := freshet.Open(ctx, freshet.Options{Config: j.Config})
	if err != nil {
		return err
	}
	defer cache.Close()
	rates, err := openRates(cache, j.Stop)
	if err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, j.Database)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `UPDATE rates SET value = $2 WHERE currency = $1`, j.Currency, j.Value); err != nil {
		return err
	}
	options := []freshet.KeyOption{freshet.Refresh()}
	if j.Strict {
		options = append(options, freshet.Strict())
	}
	if _, err := cache.Commit(ctx, &haltingTx{Tx: tx, stop: j.Stop}, rates.Key(j.Currency, options...)); err != nil {
		return err
	}
	halt(j.Stop, finished)
	return nil
}

// halt says that the point is reached, and goes on when the parent is gone.
func halt(stop, here point) {
	if stop == here {
		_, _ = fmt.Fprintln(os.Stdout, here)
		_, _ = io.Copy(io.Discard, os.Stdin)
	}
}

// haltingTx stops around what Commit does with it.
type haltingTx struct {
	pgx.Tx
	stop point
}

func (tx *haltingTx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	halt(tx.stop, begun)
	return tx.Tx.QueryRow(ctx, sql, args...)
}

func (tx *haltingTx) Commit(ctx context.Context) error {
	halt(tx.stop, declared)
	if tx.stop == committing {
		_, _ = fmt.Fprintln(os.Stdout, committing)
	}
	err := tx.Tx.Commit(ctx)
	halt(tx.stop, committed)
	return err
}

func openRates(cache *freshet.Cache, stop point) (*freshet.Typed[string, int], error) {
	return freshet.Entry(cache, "rate", freshet.Load(func(ctx context.Context, q freshet.Querier, currency string) (value int, err error) {
		err = q.QueryRow(ctx, `SELECT value FROM rates WHERE currency = $1`, currency).Scan(&value)
		halt(stop, refreshing)
		return value, err
	}))
}

// killAt runs a writer and kills it with SIGKILL when it is at the point.
func killAt(t *testing.T, j job) {
	t.Helper()
	text, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), jobVariable+"="+string(text))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var at point
	_, scanning := fmt.Fscanln(stdout, &at)
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	_ = stdin.Close()
	if scanning != nil || at != j.Stop {
		t.Fatalf("the writer came to %q, want %q (%v)", at, j.Stop, scanning)
	}
}
