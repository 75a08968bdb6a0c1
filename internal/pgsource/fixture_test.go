package pgsource

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/schema"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/mvcc"
)

const patience = 20 * time.Second

var _ change.Sink = (*recorder)(nil)

// recorder is a sink that writes down what it is told, in a short notation.
type recorder struct {
	mu        sync.Mutex
	lines     []string
	begins    []change.Begin
	commits   []change.Commit
	relations []*change.Relation // of each row

	idle  atomic.Uint64
	block chan struct{} // when not nil, Commit waits for it
}

func (r *recorder) note(format string, args ...any) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, fmt.Sprintf(format, args...))
	return nil
}

func (r *recorder) Begin(_ context.Context, b change.Begin) error {
	r.mu.Lock()
	r.begins = append(r.begins, b)
	r.mu.Unlock()
	return r.note("BEGIN")
}

func (r *recorder) Row(_ context.Context, row *change.Row) error {
	text := fmt.Sprintf("%s %s.%s", row.Op, row.Relation.Schema, row.Relation.Name)
	if row.Old != nil {
		text += " old" + notation(row.Old)
	}
	if row.New != nil {
		text += " new" + notation(row.New)
	}
	r.mu.Lock()
	r.relations = append(r.relations, row.Relation)
	r.mu.Unlock()
	return r.note("%s", text)
}

func (r *recorder) Truncate(_ context.Context, t *change.Truncate) error {
	names := make([]string, len(t.Relations))
	for i, relation := range t.Relations {
		names[i] = relation.Schema + "." + relation.Name
	}
	return r.note("TRUNCATE %s cascade=%t restart=%t", strings.Join(names, ","), t.Cascade, t.RestartIdentity)
}

func (r *recorder) Message(_ context.Context, m *change.Message) error {
	return r.note("MESSAGE %s %s transactional=%t", m.Prefix, m.Content, m.Transactional)
}

func (r *recorder) Commit(ctx context.Context, c change.Commit) error {
	if r.block != nil {
		select {
		case <-r.block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	r.mu.Lock()
	r.commits = append(r.commits, c)
	r.mu.Unlock()
	return r.note("COMMIT")
}

func (r *recorder) Idle(_ context.Context, p change.Position) error {
	r.idle.Store(uint64(p))
	return nil
}

func (r *recorder) lastCommit() change.Position {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.commits) == 0 {
		return 0
	}
	return r.commits[len(r.commits)-1].Position
}

// notation writes an image: - absent, ~ unchanged, null, and quoted text, shortened when long.
func notation(values []change.Value) string {
	parts := make([]string, len(values))
	for i, v := range values {
		switch v.Kind {
		case change.Absent:
			parts[i] = "-"
		case change.Null:
			parts[i] = "null"
		case change.Unchanged:
			parts[i] = "~"
		case change.Text:
			text := string(v.Text)
			if len(text) > 40 {
				text = fmt.Sprintf("%s...%d", text[:4], len(text))
			}
			parts[i] = "'" + text + "'"
		}
	}
	return "(" + strings.Join(parts, ",") + ")"
}

// fixture is a database of its own with a publication and a slot.
type fixture struct {
	server      *pgtest.Server
	url         string
	slot        string
	publication string
	sql         *pgx.Conn
	prepared    Prepared
	seen        int
	marks       int
	log         *logLines
}

// logLines keeps what a stream logs.
type logLines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// newFixture makes the database with the given statements, and publishes the tables ("t" is public.t).
func newFixture(t *testing.T, server *pgtest.Server, statements []string, tables ...string) *fixture {
	t.Helper()
	f := &fixture{server: server, url: server.Database(t), log: &logLines{}}
	f.slot = "s_" + f.url[strings.LastIndex(f.url, "/")+1:strings.IndexByte(f.url+"?", '?')]
	f.slot = f.slot[max(0, len(f.slot)-60):]
	f.publication = f.slot
	f.sql = connect(t, f.url)
	f.exec(t, statements...)
	f.prepare(t, tables...)
	return f
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := testkit.Context(t)
		defer cancel()
		_ = conn.Close(ctx)
	})
	return conn
}

func names(tables ...string) []schema.Name {
	list := make([]schema.Name, len(tables))
	for i, name := range tables {
		list[i] = schema.Name{Schema: "public", Name: name}
	}
	return list
}

func (f *fixture) prepare(t *testing.T, tables ...string) Prepared {
	t.Helper()
	prepared, err := Prepare(t.Context(), f.sql, PrepareOptions{Slot: f.slot, Publication: f.publication, Tables: names(tables...)})
	if err != nil {
		t.Fatalf("Prepare: %v", err)
	}
	f.prepared = prepared
	return prepared
}

func (f *fixture) exec(t *testing.T, statements ...string) {
	t.Helper()
	for _, statement := range statements {
		if _, err := f.sql.Exec(t.Context(), statement, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

func (f *fixture) query(t *testing.T, query string, args ...any) string {
	t.Helper()
	var answer *string
	if err := f.sql.QueryRow(t.Context(), query, args...).Scan(&answer); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	if answer == nil {
		return ""
	}
	return *answer
}

func (f *fixture) options() Options {
	return Options{
		URL: f.url, Slot: f.slot, Publication: f.publication,
		Logger: slog.New(slog.NewTextHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
}

// start starts a stream, waiting for the slot to be free.
func (f *fixture) start(t *testing.T, from change.Position) *Stream {
	t.Helper()
	var stream *Stream
	testkit.Eventually(t, patience, func() error {
		var err error
		stream, err = Start(t.Context(), f.options(), from)
		if err != nil && !errors.Is(err, ErrSlotInUse) {
			t.Fatalf("Start: %v", err)
		}
		return err
	})
	return stream
}

// running is a stream with Run going on.
type running struct {
	*Stream
	*recorder
	cancel context.CancelFunc
	done   chan struct{}
	err    error // once done
}

func (f *fixture) run(t *testing.T, sink *recorder) *running {
	t.Helper()
	return runStream(t, f.start(t, 0), sink)
}

func runStream(t *testing.T, stream *Stream, sink *recorder) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{Stream: stream, recorder: sink, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.err = stream.Run(ctx, sink)
	}()
	t.Cleanup(func() { r.end(t) })
	return r
}

// end stops the run and closes the stream.
func (r *running) end(t *testing.T) {
	t.Helper()
	broken := false // the connection, before anybody asked for the end: then the last status cannot be sent
	select {
	case <-r.done:
		broken = r.err != nil
	default:
	}
	r.cancel()
	ctx, cancel := testkit.Context(t)
	defer cancel()
	if err := r.Close(ctx); err != nil && !broken {
		t.Errorf("Close: %v", err)
	}
	<-r.done
}

// ended waits for Run to end by itself, and returns its error.
func (r *running) ended(t *testing.T) error {
	t.Helper()
	select {
	case <-r.done:
		return r.err
	case <-time.After(patience):
		t.Fatal("Run still runs")
		return nil
	}
}

// changes returns what the stream brought since the last call: everything before a mark that it sends itself.
func (f *fixture) changes(t *testing.T, r *recorder) []string {
	t.Helper()
	f.marks++
	mark := fmt.Sprintf("mark %d", f.marks)
	f.exec(t, fmt.Sprintf(`SELECT pg_logical_emit_message(true, 'test', '%s')`, mark))
	want := "MESSAGE test " + mark + " transactional=true"
	var lines []string
	testkit.Eventually(t, patience, func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		for i := f.seen; i < len(r.lines)-1; i++ {
			if r.lines[i] == want {
				lines = append([]string{}, r.lines[f.seen:i-1]...) // without the mark's BEGIN
				f.seen = i + 2                                     // and COMMIT
				return nil
			}
		}
		return fmt.Errorf("no %q among %d lines after %d", want, len(r.lines), f.seen)
	})
	return lines
}

func (f *fixture) wantChanges(t *testing.T, r *recorder, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, f.changes(t, r)); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

func (f *fixture) confirmed(t *testing.T) mvcc.LSN {
	t.Helper()
	info, err := SlotState(t.Context(), f.sql, f.slot)
	if err != nil {
		t.Fatal(err)
	}
	return info.Confirmed
}

func (f *fixture) insertLSN(t *testing.T) mvcc.LSN {
	t.Helper()
	lsn, err := mvcc.ParseLSN(f.query(t, `SELECT pg_current_wal_insert_lsn()::text`))
	if err != nil {
		t.Fatal(err)
	}
	return lsn
}

func mvccLSN(p change.Position) mvcc.LSN { return mvcc.LSN(p) }

func contains(r *recorder, line string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.lines, line)
}

// wantLater waits for a line to come.
func (f *fixture) wantLater(t *testing.T, r *recorder, line string) {
	t.Helper()
	testkit.Eventually(t, patience, func() error {
		if !contains(r, line) {
			return fmt.Errorf("no %q", line)
		}
		return nil
	})
}
