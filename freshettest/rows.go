package freshettest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/mvcc"
)

// rows stand for a database: what each query finds for each of its arguments, under the snapshot of one primary that never
// crashes. They implement parts.Loader.
type rows struct {
	down atomic.Bool

	mu     sync.Mutex
	found  map[string]map[string][]byte // by query and arguments
	next   mvcc.XID                     // the next transaction's
	end    mvcc.LSN                     // of the log
	during func()                       // to run in the next load

	emit func(messages []byte) (mvcc.Token, error) // intents that are put into the log
}

func newRows() *rows {
	const first, begun = 1000, 0x1000000
	return &rows{found: map[string]map[string][]byte{}, next: first, end: begun}
}

// now is what is visible, whose, and where the log ends.
func (r *rows) now() (mvcc.Snapshot, pgload.Server, mvcc.LSN) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.snapshot(), server(), r.end
}

func (r *rows) snapshot() mvcc.Snapshot { return mvcc.Snapshot{Xmin: r.next, Xmax: r.next} }

func server() pgload.Server { return pgload.Server{System: system, Timeline: timeline} }

// commit is a transaction that changes no row.
func (r *rows) commit() fence.Stamp {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.committed()
}

func (r *rows) committed() fence.Stamp {
	const written = 0x100
	r.end += written
	r.next++
	return fence.Stamp{XID: r.next - 1, End: r.end}
}

// set is a transaction that changes what a query finds; nil: nothing.
func (r *rows) set(sql string, args []keytext.Arg, payload []byte) fence.Stamp {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.found[sql] == nil {
		r.found[sql] = map[string][]byte{}
	}
	r.found[sql][keyOf(args)] = payload
	return r.committed()
}

// keyOf tells arguments apart.
func keyOf(args []keytext.Arg) string {
	var b strings.Builder
	for _, a := range args {
		fmt.Fprintf(&b, "%t:%d:%s", a.Null, len(a.Text), a.Text)
	}
	return b.String()
}

func (r *rows) overtake(do func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.during = do
}

// errDown is the error of a database that is down.
var errDown = fmt.Errorf("freshettest: the test has the database down: %w", pgload.ErrUnavailable)

// read is one statement, under a snapshot.
func (r *rows) read(ctx context.Context, look func() pgload.Loaded) (pgload.Loaded, error) {
	if r.down.Load() {
		return pgload.Loaded{}, errDown
	}
	if err := ctx.Err(); err != nil {
		return pgload.Loaded{}, fmt.Errorf("freshettest: load: %w", err)
	}
	r.mu.Lock()
	loaded := look()
	loaded.Server, loaded.Coverage = server(), fence.Coverage{Snapshot: r.snapshot()}
	r.mu.Unlock()
	return loaded, nil
}

// happened has happen what the test wants to happen during a load.
func (r *rows) happened() {
	r.mu.Lock()
	during := r.during
	r.during = nil
	r.mu.Unlock()
	if during != nil {
		during()
	}
}

// Load implements fill.Loader.
func (r *rows) Load(ctx context.Context, sql string, result rule.Result, args []keytext.Arg) (pgload.Loaded, error) {
	loaded, err := r.read(ctx, func() (l pgload.Loaded) {
		l.Payload, l.Found = r.find(sql, result, args)
		return l
	})
	if err == nil {
		r.happened()
	}
	return loaded, err
}

// find is what a query finds. The caller holds mu.
func (r *rows) find(sql string, result rule.Result, args []keytext.Arg) (payload []byte, found bool) {
	payload = r.found[sql][keyOf(args)]
	if payload == nil && result == rule.Many {
		payload = []byte("[]")
	}
	return payload, payload != nil
}

// row is what a query finds, for the test itself.
func (r *rows) row(sql string, result rule.Result, args []keytext.Arg) (payload []byte, found bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.find(sql, result, args)
}

// LoadTagged implements fill.Loader. No entry here has tags.
func (r *rows) LoadTagged(ctx context.Context, q pgload.Query, args []keytext.Arg) (pgload.Loaded, error) {
	return r.Load(ctx, q.SQL, q.Result, args)
}

// LoadChanged implements fill.Loader: values are compared by their digests.
func (r *rows) LoadChanged(ctx context.Context, q pgload.Query, args []keytext.Arg, known pgload.Known) (pgload.Loaded, error) {
	l, err := r.Load(ctx, q.SQL, q.Result, args)
	if err == nil && l.Found && pgload.DigestOf(l.Payload) == known.Digest {
		l.Same, l.Payload = pgload.SameDigest, nil
	}
	return l, err
}

// LoadFunc implements fill.Loader: the code runs, and has no database to ask.
func (r *rows) LoadFunc(ctx context.Context, load pgload.Func) (pgload.Loaded, error) {
	// The snapshot comes first: what the code reads is at least as new.
	loaded, err := r.read(ctx, func() pgload.Loaded { return pgload.Loaded{} })
	if err != nil {
		return pgload.Loaded{}, err
	}
	if loaded.Payload, loaded.Found, err = load(ctx, noDatabase{}); err != nil {
		return pgload.Loaded{}, fmt.Errorf("load by code: %w", err)
	}
	r.happened()
	return loaded, nil
}

// errNoDatabase says what code that loads cannot have.
var errNoDatabase = errors.New("freshettest: there is no database to ask: give freshet.Load code that can do without in tests, or test it with a real one")

// noDatabase is the pgload.Querier of code that loads.
type noDatabase struct{}

// Query implements pgload.Querier.
func (noDatabase) Query(context.Context, string, ...any) (pgx.Rows, error) { return nil, errNoDatabase }

// QueryRow implements pgload.Querier.
func (noDatabase) QueryRow(context.Context, string, ...any) pgx.Row { return noRow{} }

type noRow struct{}

// Scan implements pgx.Row.
func (noRow) Scan(...any) error { return errNoDatabase }

// Types implements fill.Loader: nobody knows the types here.
func (r *rows) Types(context.Context, string) ([]keytext.Type, error) {
	if r.down.Load() {
		return nil, errDown
	}
	return nil, nil
}

// Visible implements fill.Loader.
func (r *rows) Visible(context.Context) (mvcc.Snapshot, pgload.Server, error) {
	if r.down.Load() {
		return mvcc.Snapshot{}, pgload.Server{}, errDown
	}
	snapshot, server, _ := r.now()
	return snapshot, server, nil
}

// System implements parts.Loader.
func (r *rows) System(context.Context) (cluster, database string, err error) {
	return system, "test", nil
}

// Position implements parts.Loader.
func (r *rows) Position(context.Context) (pgload.Server, mvcc.LSN, error) {
	if r.down.Load() {
		return pgload.Server{}, 0, errDown
	}
	_, server, end := r.now()
	return server, end, nil
}

// Emit implements parts.Loader.
func (r *rows) Emit(_ context.Context, messages []byte) (mvcc.Token, error) {
	if r.down.Load() {
		return mvcc.Token{}, errDown
	}
	return r.emit(messages)
}

// Close implements parts.Loader.
func (r *rows) Close() {}
