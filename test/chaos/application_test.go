package chaos

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/testkit/servetest"
)

// applicationVariable holds what an application is to do. It is this very program, in a process of its own, which can be
// killed and frozen: it reads, and it commits through the library.
const applicationVariable = "FRESHET_TEST_APPLICATION"

type job struct {
	Config   string `json:"config"`
	Primary  string `json:"primary"` // a configuration that does not load from the replica
	Database string `json:"database"`
	Seed     uint64 `json:"seed"`
	Number   uint64 `json:"number"`
}

// report is what an application tells: a read, or a commit.
type report struct {
	Entry  string    `json:"entry,omitempty"`
	ID     int64     `json:"id,omitempty"`
	Began  time.Time `json:"began"`
	Value  string    `json:"value,omitempty"`
	After  int64     `json:"after,omitempty"` // it was asked to contain the commit that made this version
	Failed string    `json:"failed,omitempty"`

	Token  string          `json:"token,omitempty"`
	Wrote  map[int64]int64 `json:"wrote,omitempty"`
	Strict bool            `json:"strict,omitempty"`
}

// writing is how many in an application write at a time. A strict commit takes a second.
const writing = 8

// applicationName is what an application's writers call their sessions.
const applicationName = "application"

// quietLock is held by an application's transactions, shared, and by whoever wants none.
const quietLock = -1

// worker is the inside of an application.
type worker struct {
	job   job
	lib   *library
	sure  *library // does not load from the replica
	pool  *pgxpool.Pool
	weak  atomic.Int64 // how often a strict commit may not have been one
	end   context.CancelFunc
	outMu sync.Mutex
	out   *json.Encoder
}

// work is the main of an application. It ends when its input does.
func work(ctx context.Context, text string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	x := &worker{end: cancel, out: json.NewEncoder(os.Stdout)}
	if err := json.Unmarshal([]byte(text), &x.job); err != nil {
		return err
	}
	var err error
	if x.lib, err = openLibrary(ctx, x.job.Config, slog.New(weakened{slog.DiscardHandler, &x.weak})); err != nil {
		return err
	}
	defer x.lib.close()
	if x.sure, err = openLibrary(ctx, x.job.Primary, nil); err != nil {
		return err
	}
	defer x.sure.close()
	if x.pool, err = pgxpool.New(ctx, x.job.Database); err != nil {
		return err
	}
	defer x.pool.Close()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	source := func(n uint64) *rand.Rand { return rand.New(rand.NewPCG(x.job.Seed, 1000*x.job.Number+n)) }
	var working sync.WaitGroup
	working.Go(func() { x.read(ctx, source(0)) })
	for n := range uint64(writing) {
		working.Go(func() { x.write(ctx, source(100+n)) })
	}
	working.Wait()
	return nil
}

// weakened hears the library's warnings. One of them is that the fences of a commit were not put up again, of which it
// tells nobody else: the commit is done.
type weakened struct {
	slog.Handler
	weak *atomic.Int64
}

func (weakened) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

func (h weakened) Handle(context.Context, slog.Record) error {
	h.weak.Add(1)
	return nil
}

func (x *worker) tell(r *report) {
	x.outMu.Lock()
	defer x.outMu.Unlock()
	if err := x.out.Encode(r); err != nil {
		x.end() // nobody listens any more
	}
}

func (x *worker) read(ctx context.Context, source *rand.Rand) {
	for ctx.Err() == nil {
		x.readOne(ctx, []string{"item", "coded", "sure"}[source.IntN(3)], someID(source, items), &ask{}, 0)
		wait(ctx, time.Duration(source.Int64N(int64(8*time.Millisecond))))
	}
}

func (x *worker) readOne(ctx context.Context, entry string, id int64, a *ask, after int64) {
	r := &report{Entry: entry, ID: id, Began: time.Now(), After: after}
	lib := x.lib
	if entry == "sure" {
		lib = x.sure
	}
	value, err := lib.read(ctx, entry, id, a)
	if ctx.Err() != nil {
		return
	}
	if r.Value = value; err != nil {
		r.Failed = err.Error()
		defer wait(ctx, 20*time.Millisecond)
	}
	x.tell(r)
}

func (x *worker) write(ctx context.Context, source *rand.Rand) {
	for ctx.Err() == nil {
		_ = x.transaction(ctx, source) // whatever it is, nobody was told of a commit
		wait(ctx, time.Duration(source.Int64N(int64(40*time.Millisecond))))
	}
}

// transaction changes an item or two and commits through the library, strictly more often than not. Then it reads one of
// them with the token.
func (x *worker) transaction(ctx context.Context, source *rand.Rand) error {
	// Not ended by ctx: what was begun is told of.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	tx, err := x.pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx)
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock_shared($1)", quietLock); err != nil {
		return err
	}
	r := &report{Wrote: map[int64]int64{}, Strict: source.IntN(3) != 0}
	var keys []freshet.Key
	ids := []int64{someID(source, items), someID(source, items)}[source.IntN(2):]
	slices.Sort(ids)
	for _, id := range slices.Compact(ids) {
		version, err := x.change(ctx, tx, id)
		if errors.Is(err, pgx.ErrNoRows) {
			continue
		}
		if err != nil {
			return err
		}
		r.Wrote[id] = version
		var options []freshet.KeyOption
		if r.Strict {
			options = append(options, freshet.Strict())
		}
		if source.IntN(3) == 0 {
			options = append(options, freshet.Refresh())
		}
		keys = append(keys, x.lib.coded.Key(id, options...), x.lib.typed["item"].Key(id, options...))
		if r.Strict { // and not loaded anew: that would be from the replica
			keys = append(keys, x.lib.typed["sure"].Key(id, freshet.Strict()))
		}
	}
	if len(r.Wrote) == 0 {
		return nil
	}
	weak := x.weak.Load()
	token, err := x.lib.cache.Commit(ctx, tx, keys...)
	if err != nil {
		return err // rolled back, or nobody knows
	}
	r.Strict = r.Strict && x.weak.Load() == weak
	r.Token = token.String()
	x.tell(r)
	for id, version := range r.Wrote {
		x.readOne(ctx, []string{"item", "coded", "sure"}[source.IntN(3)], id, &ask{after: token}, version)
		break
	}
	return nil
}

func (x *worker) change(ctx context.Context, tx pgx.Tx, id int64) (version int64, err error) {
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", id); err != nil {
		return 0, err
	}
	err = tx.QueryRow(ctx, "UPDATE items SET price = price + 1, v = nextval('versions') WHERE id = $1 RETURNING v", id).Scan(&version)
	return version, err
}

// application is the outside of one.
type application struct {
	cmd   *exec.Cmd
	input io.Closer
	guard io.Closer
	ended chan struct{}
}

// startApplication starts one more application, and hears what it tells.
func (w *world) startApplication() *application {
	w.t.Helper()
	w.mu.Lock()
	w.applications++
	number := w.applications
	w.mu.Unlock()
	a, err := w.launch(&job{
		Config: w.readerFile, Primary: w.primaryFile, Seed: w.seed, Number: number, Database: w.throughProxy(w.links.readerDatabase) + "&application_name=" + applicationName,
	})
	if err != nil {
		w.t.Fatalf("start application: %v", err)
	}
	return a
}

func (w *world) launch(j *job) (*application, error) {
	text, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	a := &application{cmd: exec.CommandContext(context.WithoutCancel(w.t.Context()), self), ended: make(chan struct{})}
	a.cmd.Env = append(os.Environ(), applicationVariable+"="+string(text))
	a.cmd.Stderr = os.Stderr
	if a.input, err = a.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	output, err := a.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := a.cmd.Start(); err != nil {
		return nil, err
	}
	if a.guard, err = servetest.Guard(a.cmd.Process.Pid, a.ended); err != nil {
		return nil, err
	}
	go func() {
		defer close(a.ended)
		w.hear(output)
		_ = a.cmd.Wait() // it was killed, or its input has ended
	}()
	return a, nil
}

// hear takes an application's reports until it ends.
func (w *world) hear(output io.Reader) {
	lines := bufio.NewReader(output)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var r report
		if err := json.Unmarshal(line, &r); err != nil {
			w.violation("an application says %q: %v", line, err)
			continue
		}
		if err := w.heard(&r); err != nil {
			w.violation("an application says %q: %v", line, err)
		}
	}
}

func (w *world) heard(r *report) error {
	if r.Token != "" {
		token, err := freshet.ParseToken(r.Token)
		if err != nil {
			return err
		}
		changed := map[int64]change{}
		for id, version := range r.Wrote {
			changed[id] = change{version: version, exists: true}
		}
		if r.Strict {
			w.counts.strict.Add(1)
		}
		w.ledger.over(nil, changed, outcome{committed: true, token: token, end: token.After, strict: r.Strict})
		return nil
	}
	w.counts.reads.Add(1)
	if r.Failed != "" {
		w.counts.failedReads.Add(1)
		if w.wholeSince(r.Began) {
			w.violation("while nothing was broken, reading %s in an application failed: %s", keyOf(r.Entry, r.ID), r.Failed)
		}
		return nil
	}
	w.judge(w.t.Context(), "application's library", r.Entry, r.ID, r.Value, promise{at: r.Began, after: r.After, memory: true})
	return nil
}

// stop ends the application in order.
func (a *application) stop() {
	_ = a.input.Close()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-a.ended:
	case <-timer.C:
		a.kill()
	}
	_ = a.guard.Close()
}

func (a *application) kill() {
	_ = a.cmd.Process.Kill()
	<-a.ended
	_ = a.guard.Close()
}

func killApplication(w *world, r *rand.Rand) error {
	w.some(r, 300*time.Millisecond)
	w.application.kill()
	w.application = w.startApplication()
	return nil
}

// freezeApplication has it stand still in the midst of loads and commits, and then go on with what it had in its hands.
func freezeApplication(w *world, r *rand.Rand) error {
	return w.application.frozen(func() error {
		wait(w.t.Context(), 300*time.Millisecond)
		w.some(r, 3*time.Second)
		return nil
	})
}

// sleepThrough has it stand still while commits wait for the replica.
func sleepThrough(w *world, r *rand.Rand) error {
	return w.application.frozen(func() error { return waitForReplica(w, r) })
}

// sleepThroughMove has it stand still while names move to a new generation, and are written to under these for a while:
// what it knows when it goes on is out of use for longer than anybody may believe it.
func sleepThroughMove(w *world, r *rand.Rand) error {
	return w.application.frozen(func() error {
		before, _, err := w.store.Head(w.t.Context())
		if err != nil {
			return err
		}
		move := []func(*world, *rand.Rand) error{evict(headKey), evict(headKey, rosterKey), dropSlot}[r.IntN(3)]
		if w.nodes != nil { // where each lane has its HEAD
			move = dropSlot
		}
		// Tables that are new in the stream wait for every transaction that is open, and it would keep its own for as long as it stands still.
		if err := w.endTransactions(applicationName); err != nil {
			return err
		}
		if err := move(w, r); err != nil {
			return err
		}
		err = until(w.t.Context(), func(ctx context.Context) error {
			head, found, err := w.store.Head(ctx)
			if err == nil && (!found || head.Generation == before.Generation) {
				err = errors.New("no new generation begins")
			}
			return err
		})
		err = errors.Join(err, w.settled())
		wait(w.t.Context(), 2*time.Second)
		return err
	})
}

// endTransactions ends the sessions of a name that have a transaction open and ask for nothing, or wait in vain, until there is none.
func (w *world) endTransactions(name string) error {
	return until(w.t.Context(), func(ctx context.Context) error {
		open, err := w.query(ctx, `SELECT CASE WHEN state LIKE 'idle in transaction%' OR pg_blocking_pids(pid) <> '{}' THEN pg_terminate_backend(pid)::text ELSE state END
			FROM pg_stat_activity WHERE application_name = $1 AND xact_start IS NOT NULL`, name)
		if err == nil && len(open) > 0 {
			err = fmt.Errorf("%d sessions of %s have a transaction open", len(open), name)
		}
		return err
	})
}

// frozen has the application stand still while something is done.
func (a *application) frozen(do func() error) error {
	if err := a.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	return errors.Join(do(), a.cmd.Process.Signal(syscall.SIGCONT))
}
