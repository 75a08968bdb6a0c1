package pgsource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
)

func wantGap(t *testing.T, err error, code string) {
	t.Helper()
	if gap, ok := errors.AsType[*GapError](err); !ok || gap.Reason == "" {
		t.Errorf("error %v, want a GapError", err)
	}
	if got := sqlState(err); got != code {
		t.Errorf("SQLSTATE %q, want %q (%v)", got, code, err)
	}
}

// wantPassing fails for an error that reconnecting does not mend.
func wantPassing(t *testing.T, err error) {
	t.Helper()
	_, gap := errors.AsType[*GapError](err)
	_, setup := errors.AsType[*SetupError](err)
	if err == nil || gap || setup {
		t.Errorf("error %v, want a passing one", err)
	}
}

func TestSlotInUse(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Shared(t), nil)
	first := f.run(t, &recorder{})
	if _, err := Start(t.Context(), f.options(), 0); !errors.Is(err, ErrSlotInUse) {
		t.Errorf("second Start = %v, want ErrSlotInUse", err)
	}
	if err := Drop(t.Context(), f.sql, f.slot, f.publication); !errors.Is(err, ErrSlotInUse) {
		t.Errorf("Drop = %v, want ErrSlotInUse", err)
	}
	info, err := SlotState(t.Context(), f.sql, f.slot)
	if err != nil || info.ActivePID == 0 {
		t.Errorf("SlotState = %+v, %v", info, err)
	}
	first.end(t) // leaves the slot free at once
	second, err := Start(t.Context(), f.options(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestSlotMissing(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Shared(t), nil)
	if err := Drop(t.Context(), f.sql, f.slot, "none"); err != nil {
		t.Fatal(err)
	}
	_, err := Start(t.Context(), f.options(), 0)
	wantGap(t, err, "")
}

func TestSlotOfAnotherDatabase(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Shared(t), nil)
	o := f.options()
	o.URL = f.server.URL("postgres")
	_, err := Start(t.Context(), o, 0)
	wantGap(t, err, "")
	_, err = Prepare(t.Context(), connect(t, o.URL), PrepareOptions{Slot: f.slot, Publication: f.publication})
	if _, ok := errors.AsType[*SetupError](err); !ok {
		t.Errorf("Prepare = %v, want a SetupError", err)
	}
	if err := Drop(t.Context(), connect(t, o.URL), "none", f.publication); err != nil {
		t.Error(err)
	}
}

// Below its confirmed position a slot has nothing, and the server would start there without a word.
func TestForwardedStartIsAGap(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Shared(t), []string{`CREATE TABLE t (id int PRIMARY KEY)`}, "t")
	before := f.prepared.Confirmed
	r := f.run(t, &recorder{})
	f.exec(t, `INSERT INTO t VALUES (1)`)
	f.changes(t, r.recorder)
	r.Confirm(r.lastCommit())
	r.end(t)
	_, err := Start(t.Context(), f.options(), change.Position(before))
	wantGap(t, err, "")
	if after := f.prepare(t, "t"); after.Confirmed != mvccLSN(r.lastCommit()) || after.SlotCreated {
		t.Errorf("Prepare = %+v, want confirmed %s", after, mvccLSN(r.lastCommit()))
	}
	// At or past it there is no gap.
	s := f.start(t, r.lastCommit())
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestLostSlot(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{Settings: map[string]string{
		"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB",
	}})
	f := newFixture(t, server, []string{`CREATE TABLE t (id int PRIMARY KEY)`}, "t")
	info, err := SlotState(t.Context(), f.sql, f.slot)
	if err != nil || info.Lost || !info.Exists || !info.SafeWALLimited || info.WALStatus == "" || info.Confirmed == 0 || info.Restart == 0 {
		t.Fatalf("SlotState = %+v, %v", info, err)
	}
	testkit.Eventually(t, patience, func() error {
		f.exec(t, `SELECT pg_logical_emit_message(false, 'fill', repeat('x', 1000000))`, `SELECT pg_switch_wal()`, `CHECKPOINT`)
		if info, err = SlotState(t.Context(), f.sql, f.slot); err != nil || info.Lost {
			return err
		}
		return fmt.Errorf("not lost: %+v", info)
	})
	_, err = Start(t.Context(), f.options(), 0)
	wantGap(t, err, "")
	if prepared := f.prepare(t, "t"); !prepared.SlotCreated || prepared.Confirmed <= info.Confirmed {
		t.Errorf("Prepare = %+v, want a new slot", prepared)
	}
	r := f.run(t, &recorder{})
	f.exec(t, `INSERT INTO t VALUES (1)`)
	f.wantChanges(t, r.recorder, "BEGIN", "INSERT public.t new('1')", "COMMIT")
}

// The process that streams is ended when its slot is invalidated under it.
func TestSlotLostWhileStreaming(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{Settings: map[string]string{
		"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB",
	}})
	f := newFixture(t, server, []string{`CREATE TABLE t (id int PRIMARY KEY)`}, "t")
	r := f.run(t, &recorder{}) // never confirms
	testkit.Eventually(t, patience, func() error {
		f.exec(t, `SELECT pg_logical_emit_message(false, 'fill', repeat('x', 1000000))`, `SELECT pg_switch_wal()`, `CHECKPOINT`)
		select {
		case <-r.done:
			return nil
		default:
			return errors.New("Run still runs")
		}
	})
	if r.err == nil {
		t.Error("Run ended without an error")
	}
	r.end(t)
	_, err := Start(t.Context(), f.options(), 0)
	wantGap(t, err, "")
}

func TestPublicationMissing(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Shared(t), []string{`CREATE TABLE t (id int PRIMARY KEY)`}, "t")
	r := f.run(t, &recorder{})
	f.exec(t, `INSERT INTO t VALUES (1)`)
	f.changes(t, r.recorder)
	f.exec(t, `DROP PUBLICATION `+quoteIdent(f.publication), `INSERT INTO t VALUES (2)`)
	wantGap(t, r.ended(t), "42704")
	r.end(t)
	// Making it again does not bring back what it has not published.
	f.prepare(t, "t")
	again := f.run(t, &recorder{})
	wantGap(t, again.ended(t), "42704")
}

func TestNamesAreQuoted(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Shared(t), []string{`CREATE TABLE "T "" '\" (id int PRIMARY KEY)`})
	f.publication = `Pub "q", 'l' \ é; x`
	f.prepare(t, `T " '\`)
	r := f.run(t, &recorder{})
	f.exec(t, `INSERT INTO "T "" '\" VALUES (1)`)
	f.wantChanges(t, r.recorder, "BEGIN", `INSERT public.T " '\ new('1')`, "COMMIT")
	if err := Drop(t.Context(), f.sql, "none", f.publication); err != nil {
		t.Error(err)
	}
	for _, slot := range []string{"", "Upper", "a-b", `a"b`, "a'b", strings.Repeat("x", 64)} {
		o := f.options()
		o.Slot = slot
		_, err := Start(t.Context(), o, 0)
		if _, ok := errors.AsType[*SetupError](err); !ok {
			t.Errorf("Start with slot %q = %v, want a SetupError", slot, err)
		}
	}
}

// A sink that blocks for longer than the server's patience does not cost the connection.
func TestBlockedSinkKeepsTheConnection(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"wal_sender_timeout": "6s"}})
	f := newFixture(t, server, []string{`CREATE TABLE t (id int PRIMARY KEY)`}, "t")
	sink := &recorder{block: make(chan struct{})}
	r := f.run(t, sink)
	f.exec(t, `INSERT INTO t VALUES (1)`)
	f.wantLater(t, sink, "INSERT public.t new('1')")
	walsender := f.query(t, `SELECT active_pid::text FROM pg_replication_slots WHERE slot_name = $1`, f.slot)
	start := time.Now()
	testkit.Eventually(t, patience, func() error { // more than twice the timeout
		if time.Since(start) < 13*time.Second {
			return errors.New("not blocked for long enough yet")
		}
		return nil
	})
	close(sink.block)
	f.exec(t, `INSERT INTO t VALUES (2)`)
	f.wantLater(t, sink, "INSERT public.t new('2')")
	if got := f.query(t, `SELECT active_pid::text FROM pg_replication_slots WHERE slot_name = $1`, f.slot); got != walsender {
		t.Errorf("walsender %s, was %s", got, walsender)
	}
	select {
	case <-r.done:
		t.Errorf("Run ended: %v", r.err)
	default:
	}
}

// A server that is stopped does not wait for us, although not everything was confirmed, and what was not comes again
// afterwards.
func TestServerRestart(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{})
	f := newFixture(t, server, []string{`CREATE TABLE t (id int PRIMARY KEY)`}, "t")
	r := f.run(t, &recorder{})
	f.exec(t, `INSERT INTO t VALUES (1)`)
	f.changes(t, r.recorder)
	closed := make(chan error, 1)
	go func() { // what a daemon does
		<-r.done
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		closed <- r.Close(ctx)
	}()
	start := time.Now()
	server.Restart(t)
	if err := r.ended(t); !errors.Is(err, ErrShuttingDown) {
		t.Errorf("Run = %v, want ErrShuttingDown", err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("restart took %v", took)
	}
	f.sql, f.seen = connect(t, f.url), 0
	again := f.run(t, &recorder{})
	f.wantLater(t, again.recorder, "INSERT public.t new('1')")
}

func TestServerCrash(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{})
	f := newFixture(t, server, []string{`CREATE TABLE t (id int PRIMARY KEY)`}, "t")
	r := f.run(t, &recorder{})
	f.exec(t, `INSERT INTO t VALUES (1)`)
	f.changes(t, r.recorder)
	server.Kill(t)
	wantPassing(t, r.ended(t))
	_, err := Start(t.Context(), f.options(), 0)
	wantPassing(t, err)
	server.Start(t)
	f.sql, f.seen = connect(t, f.url), 0
	again := f.run(t, &recorder{})
	f.wantLater(t, again.recorder, "INSERT public.t new('1')")
}

func TestTerminatedWalsender(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Shared(t), nil)
	r := f.run(t, &recorder{})
	f.exec(t, `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '`+f.slot+`'`)
	err := r.ended(t)
	wantPassing(t, err)
	if got := sqlState(err); got != "57P01" {
		t.Errorf("SQLSTATE %q of %v", got, err)
	}
}

// Writes elsewhere fill the log too. What is idle here must not keep it.
func TestIdleDatabaseAdvancesTheSlot(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{})
	f := newFixture(t, server, []string{`CREATE TABLE unpublished (id int)`})
	r := f.run(t, &recorder{})
	elsewhere := connect(t, server.Database(t))
	before := f.insertLSN(t)
	if _, err := elsewhere.Exec(t.Context(), `CREATE TABLE t AS SELECT generate_series(1, 1000)`); err != nil {
		t.Fatal(err)
	}
	f.exec(t, `INSERT INTO unpublished VALUES (1)`) // empty here
	end := f.insertLSN(t)
	if end <= before {
		t.Fatalf("the log did not grow: %s, %s", before, end)
	}
	testkit.Eventually(t, patience, func() error {
		p := r.idle.Load()
		r.Confirm(change.Position(p))
		if got := f.confirmed(t); got < end {
			return fmt.Errorf("confirmed %s, idle at %s, want %s", got, mvccLSN(change.Position(p)), end)
		}
		return nil
	})
	if got := rows(f.changes(t, r.recorder)); len(got) != 0 {
		t.Errorf("changes %q", got)
	}
}

// Nothing is confirmed on its own: not by keepalives, not by what was received, not by Close.
func TestNothingIsConfirmedOnItsOwn(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Shared(t), []string{`CREATE TABLE t (id int PRIMARY KEY)`}, "t")
	before := f.confirmed(t)
	r := f.run(t, &recorder{})
	f.exec(t, `INSERT INTO t VALUES (1)`)
	f.changes(t, r.recorder)
	end := uint64(f.insertLSN(t))
	testkit.Eventually(t, patience, func() error { // keepalives past it have come and were answered
		if got := r.idle.Load(); got < end {
			return fmt.Errorf("idle at %d, want %d", got, end)
		}
		return nil
	})
	r.end(t)
	if got := f.confirmed(t); got != before {
		t.Errorf("confirmed %s, want %s", got, before)
	}
}

func TestRunReturnsTheSinksError(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Shared(t), []string{`CREATE TABLE t (id int PRIMARY KEY)`}, "t")
	broken := errors.New("broken")
	s := f.start(t, 0)
	f.exec(t, `INSERT INTO t VALUES (1)`)
	if err := s.Run(t.Context(), &failingSink{err: broken}); !errors.Is(err, broken) {
		t.Errorf("Run = %v", err)
	}
	if err := s.Run(t.Context(), &recorder{}); err == nil {
		t.Error("Run succeeds twice")
	}
	for range 2 {
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

type failingSink struct {
	recorder

	err error
}

func (s *failingSink) Row(context.Context, *change.Row) error { return s.err }

func TestRunEndsWithItsContextAndWithClose(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Shared(t), nil)
	r := f.run(t, &recorder{})
	r.cancel()
	if err := r.ended(t); !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v, want context.Canceled", err)
	}
	r.end(t)
	second := f.run(t, &recorder{})
	if err := second.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := second.ended(t); !errors.Is(err, errClosed) {
		t.Errorf("Run = %v, want errClosed", err)
	}
	// Never run at all.
	third := f.start(t, 0)
	if err := third.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := third.Run(t.Context(), &recorder{}); err == nil {
		t.Error("Run after Close succeeds")
	}
}

// A connection on which nothing comes any more is given up, though nobody closed it.
func TestSilentConnection(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{Settings: map[string]string{"wal_sender_timeout": "5s"}})
	f := newFixture(t, server, nil)
	direct := f.url
	proxy := newProxy(t, fmt.Sprintf("127.0.0.1:%d", server.Port))
	u, err := url.Parse(direct)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = proxy.address
	f.url = u.String()
	r := f.run(t, &recorder{})
	f.changes(t, r.recorder)
	proxy.frozen.Store(true)
	start := time.Now()
	wantPassing(t, r.ended(t))
	if took := time.Since(start); took > 3*leastPatience {
		t.Errorf("it took %v", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_ = r.Close(ctx) // cannot say goodbye
}

// proxy forwards one connection until it is frozen, and then swallows everything.
type proxy struct {
	address string
	frozen  atomic.Bool
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{address: listener.Addr().String()}
	var pumps sync.WaitGroup
	pumps.Go(func() {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		server, err := (&net.Dialer{}).Dial("tcp", target)
		if err != nil {
			_ = client.Close()
			return
		}
		pump := func(to, from net.Conn) {
			buf := make([]byte, 1<<16)
			for {
				n, err := from.Read(buf)
				if err != nil {
					_ = client.Close()
					_ = server.Close()
					return
				}
				if !p.frozen.Load() {
					_, _ = to.Write(buf[:n])
				}
			}
		}
		pumps.Go(func() { pump(server, client) })
		pump(client, server)
	})
	t.Cleanup(func() {
		_ = listener.Close()
		pumps.Wait()
	})
	return p
}

func TestStandbyIsRefused(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{})
	f := newFixture(t, server, nil)
	server.Stop(t)
	signal := filepath.Join(server.Dir, "data", "standby.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	owner, err := os.Stat(filepath.Dir(signal))
	if err != nil {
		t.Fatal(err)
	}
	if stat, ok := owner.Sys().(*syscall.Stat_t); ok {
		if err := os.Chown(signal, int(stat.Uid), int(stat.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	server.Start(t)
	if _, err := Start(t.Context(), f.options(), 0); !errors.Is(err, ErrStandby) {
		t.Errorf("Start = %v, want ErrStandby", err)
	}
	_, err = Prepare(t.Context(), connect(t, f.url), PrepareOptions{Slot: f.slot, Publication: f.publication})
	if !errors.Is(err, ErrStandby) {
		t.Errorf("Prepare = %v, want ErrStandby", err)
	}
}

// A password that the server refuses is no privilege that somebody lacks, and what to do says so.
func TestWrongPassword(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgtest.Options{})
	f := newFixture(t, server, []string{
		`CREATE ROLE guarded LOGIN PASSWORD 'right'`, `CREATE ROLE bare LOGIN PASSWORD 'right'`, `ALTER ROLE guarded REPLICATION`,
	})
	file := filepath.Join(server.Dir, "data", "pg_hba.conf")
	rules, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	rules = append([]byte("host all guarded,bare 127.0.0.1/32 scram-sha-256\n"), rules...)
	if err := os.WriteFile(file, rules, 0o600); err != nil {
		t.Fatal(err)
	}
	f.exec(t, `SELECT pg_reload_conf()`)
	as := func(user string) Options {
		o := f.options()
		o.URL = strings.Replace(o.URL, "postgres@", user+"@", 1)
		return o
	}
	for user, want := range map[string]struct{ state, do string }{
		"guarded:wrong": {"28P01", "correct the password"},
		"bare:right":    {"42501", "WITH REPLICATION LOGIN"},
	} {
		testkit.Eventually(t, patience, func() error { // the server reads its rules in its own time
			stream, err := Start(t.Context(), as(user), 0)
			if err == nil {
				return errors.Join(errors.New("let in"), stream.Close(t.Context()))
			}
			setup, ok := errors.AsType[*SetupError](err)
			if !ok || sqlState(err) != want.state || !strings.Contains(setup.Problems[0].Do, want.do) {
				return fmt.Errorf("Start as %s = %w, want %s and what to do: %s", user, err, want.state, want.do)
			}
			return nil
		})
	}
}

func TestClassify(t *testing.T) {
	t.Parallel()
	tests := []struct {
		code string
		want string
	}{
		{"55006", "in use"},
		{"42704", "gap"},
		{"55000", "gap"},
		{"58P01", "gap"},
		{"0A000", "gap"},
		{"42501", "setup"},
		{"28000", "setup"},
		{"28P01", "setup"},
		{"57P01", ""},
		{"57P02", ""},
		{"57P03", ""},
		{"53300", ""},
		{"25006", ""},
		{"XX000", ""},
	}
	for _, tt := range tests {
		t.Run(tt.code, func(t *testing.T) {
			t.Parallel()
			cause := &pgconn.PgError{Code: tt.code, Message: "m"}
			err := classify("do", cause)
			got := ""
			if errors.Is(err, ErrSlotInUse) {
				got = "in use"
			} else if _, ok := errors.AsType[*GapError](err); ok {
				got = "gap"
			} else if _, ok := errors.AsType[*SetupError](err); ok {
				got = "setup"
			}
			if got != tt.want || !errors.Is(err, cause) {
				t.Errorf("classify(%s) = %v: %q, want %q", tt.code, err, got, tt.want)
			}
		})
	}
	if err := classify("do", io.ErrUnexpectedEOF); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("classify = %v", err)
	}
}
