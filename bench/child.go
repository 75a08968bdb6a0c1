package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/freshet/freshet/internal/apply"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pipeline"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
	"github.com/jackc/pgx/v5"
)

// childVariable holds a child's job. Followers of the log run in processes of their own: their memory is their own
// then, and the measuring side's garbage collector is not theirs.
const childVariable = "FRESHET_BENCH_CHILD"

// job is what a child does until its standard input is closed.
type job struct {
	Kind      string `json:"kind"` // follow, loop, write, floor or crowd
	Postgres  string `json:"postgres"`
	Redis     string `json:"redis"`
	Slot      string `json:"slot"`
	Namespace string `json:"namespace"`
	Prefix    string `json:"prefix"`   // of loop's keys
	Position  string `json:"position"` // where loop writes the end of each transaction that it has dealt with, if anywhere
	Config    string `json:"config"`   // whose entries to follow; none: a single one
	Until     int    `json:"until"`    // so many records deleted, which follow says when it has come to
	Profile   string `json:"profile"`  // where to write a CPU profile to, if anywhere

	Scheme string        `json:"scheme"` // of write
	ID     int           `json:"id"`     // of the row that write changes
	Rest   time.Duration `json:"rest"`   // what write still does once it has committed, or how much later than others crowd begins
	Rounds int           `json:"rounds"` // of crowd

	Value string `json:"value"` // that floor serves
}

const (
	follow = "follow" // the daemon's main loop
	loop   = "loop"   // the least that could be called a follower

	table       = "items"
	publication = "freshet"
	live        = "live"    // a child's word for following the log
	applied     = "applied" // and for having come to its job's end
)

func childMain(ctx context.Context, text string) int {
	if err := childRun(ctx, text); err != nil {
		fmt.Fprintln(os.Stderr, "bench: child:", err)
		return 1
	}
	return 0
}

func childRun(ctx context.Context, text string) error {
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return fmt.Errorf("read job: %w", err)
	}
	stop, err := profile(j.Profile)
	if err != nil {
		return err
	}
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // it ends when the parent closes the pipe, or is gone
		cancel()
	}()
	switch j.Kind {
	case follow:
		return runFollow(ctx, j)
	case loop:
		return runLoop(ctx, j)
	case write:
		return runWrite(ctx, j)
	case floor:
		return runFloor(ctx, j)
	case crowd:
		return runCrowd(ctx, j)
	}
	return fmt.Errorf("no job is called %q", j.Kind)
}

// entry is the one cached thing of drain and latency: a row by its id.
func entry() *rule.Entry {
	e := &rule.Entry{
		Name: table, Definition: "0000000000000000", Key: table + ":{id}",
		Params: []rule.Param{{Name: "id", Type: keytext.Int4}},
		SQL:    "SELECT id, v FROM public." + table + " WHERE id = $1", Result: rule.One,
		Rules: []rule.Rule{{Schema: "public", Table: table, Bind: []string{"id"}, Columns: []string{"id", "v"}}},
	}
	e.Version = e.Hash()
	return e
}

// runFollow runs the daemon's main loop as the daemon does, with an entry that needs no SQL parser.
func runFollow(ctx context.Context, j job) error {
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	store, err := redisstore.Open(ctx, redisstore.Options{URL: j.Redis, Namespace: j.Namespace, Logger: logger})
	if err != nil {
		return err
	}
	defer store.Close()
	entries := []*rule.Entry{entry()}
	if j.Config != "" {
		if entries, err = planned(j.Config); err != nil {
			return err
		}
	}
	p := pipeline.New(pipeline.Options{
		URL: j.Postgres, Slot: j.Slot, Publication: publication, Namespace: j.Namespace, Store: pipeline.StoreOf(store),
		Rewind: apply.Rewind{Time: 30 * time.Second, WAL: 256 << 20}, Logger: logger, // the daemon's defaults
		Observe: func(time.Time) {},
		Compile: func(context.Context, *pgx.Conn, []rule.Declared, bool) (*pipeline.Compiled, error) {
			return &pipeline.Compiled{
				Entries: entries, Tables: []schema.Name{{Schema: "public", Name: table}},
			}, nil
		},
	})
	go announce(ctx, p, j.Until)
	return p.Run(ctx)
}

// announce tells the parent once that the log is followed and the entries are live, or, when there is a number of
// records to delete, that the store has answered the last of them. It looks at what the process knows of itself, since
// asking the store over and over would take time from what is measured.
func announce(ctx context.Context, p *pipeline.Pipeline, records int) {
	for {
		st := p.Status()
		if records != 0 {
			if p.Stats().Unlinked.Load() >= uint64(records) { //nolint:gosec // not negative
				say(applied)
				return
			}
		} else if st.Phase == pipeline.Streaming && len(st.Entries) > 0 &&
			!slices.ContainsFunc(st.Entries, func(e pipeline.EntryStatus) bool { return e.Suspended != "" }) {
			say(live)
			return
		}
		if pause(ctx, 2*time.Millisecond) != nil {
			return
		}
	}
}

// say tells the parent something. A parent that is gone closes the child's input as well.
func say(word string) { _, _ = fmt.Fprintln(os.Stdout, word) }

// child is a running job.
type child struct {
	cmd   *exec.Cmd
	stdin io.Closer
	lines chan string // what it said, closed at its end
}

func start(ctx context.Context, j job) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self) //nolint:gosec // this very program
	cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, stdin: stdin, lines: make(chan string, 4)}
	go func() {
		defer close(c.lines)
		scanner := bufio.NewScanner(stdout)
		for scanner.Scan() {
			c.lines <- scanner.Text()
		}
	}()
	return c, nil
}

// line is the next thing that the child says.
func (c *child) line(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	select {
	case line, ok := <-c.lines:
		if !ok {
			return "", errors.New("the child ended")
		}
		return line, nil
	case <-ctx.Done():
		return "", fmt.Errorf("wait for the child: %w", ctx.Err())
	}
}

// says waits until the child says a word.
func (c *child) says(ctx context.Context, word string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for {
		select {
		case line, ok := <-c.lines:
			if !ok {
				return errors.New("the follower ended")
			}
			if line == word {
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("wait for the follower: %w", ctx.Err())
		}
	}
}

// stop ends the child in order.
func (c *child) stop() error {
	_ = c.stdin.Close()
	for range c.lines {
		// Read to the end, so that Wait does not close the pipe under the scanner.
	}
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("stop the follower: %w", err)
	}
	return nil
}

// memory reads a line of the process's status in KiB: VmRSS, or VmHWM for its peak. It is 0 on systems that do not tell.
func (c *child) memory(line string) (kib float64) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(c.cmd.Process.Pid) + "/status") //nolint:gosec // a number
	if err != nil {
		return 0
	}
	for l := range strings.Lines(string(text)) {
		if name, value, found := strings.Cut(l, ":"); found && name == line {
			kib, _ = strconv.ParseFloat(strings.Fields(value)[0], 64)
		}
	}
	return kib
}
