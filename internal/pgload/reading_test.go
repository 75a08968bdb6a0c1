package pgload_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/freshet/freshet/internal/pgload"
)

// of runs code that loads, and has what it returned.
func of(t *testing.T, l *pgload.Loader, code pgload.Func) (string, error) {
	t.Helper()
	got, err := l.LoadFunc(t.Context(), code)
	return string(got.Payload), err
}

// isCodes fails the test unless an error is the code's, says nothing of the database, and has the text.
func isCodes(t *testing.T, err error, text string) {
	t.Helper()
	var query *pgload.QueryError
	var own *pgload.CodeError
	if !errors.As(err, &own) || errors.As(err, &query) || errors.Is(err, pgload.ErrUnavailable) || errors.Is(err, pgload.ErrTimeout) {
		t.Errorf("%T, which is not the code's own: %v", err, err)
	}
	if !strings.Contains(fmt.Sprint(err), text) {
		t.Errorf("%v, want %q in it", err, text)
	}
}

// TestErrorOfCodeIsNotTheDatabases: what code meets elsewhere says nothing of the database that the load was sent to, whatever it looks like.
func TestErrorOfCodeIsNotTheDatabases(t *testing.T) {
	t.Parallel()
	l, _, _ := open(t)
	for _, own := range []error{
		&net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}, // of a service that is down
		io.EOF, io.ErrUnexpectedEOF, context.DeadlineExceeded, // of one that went, or took longer than the code gave it
		&pgconn.PgError{Code: "57P03"}, &pgconn.PgError{Code: "22P02"}, &pgconn.ConnectError{}, // of another database
		&pgload.CodeError{Err: io.EOF}, fmt.Errorf("%w: %w", pgload.ErrUnavailable, io.EOF), // of a load within
	} {
		_, err := of(t, l, func(ctx context.Context, q pgload.Querier) ([]byte, bool, error) {
			var one int
			if err := q.QueryRow(ctx, "SELECT 1").Scan(&one); err != nil {
				return nil, false, err
			}
			return nil, false, fmt.Errorf("mine: %w", own)
		})
		var of *pgload.CodeError
		var query *pgload.QueryError
		if !errors.Is(err, own) || !errors.As(err, &of) || errors.As(err, &query) || errors.Is(err, pgload.ErrTimeout) {
			t.Errorf("%v became %T: %v", own, err, err)
		}
		if errors.Is(err, pgload.ErrUnavailable) && !errors.Is(own, pgload.ErrUnavailable) {
			t.Errorf("%v is taken for: %v", own, err)
		}
	}
}

// TestStatementOfCodeIsTheDatabases: a statement that the database did not answer says that it is away, whatever the code makes of that.
func TestStatementOfCodeIsTheDatabases(t *testing.T) {
	t.Parallel()
	l, server, url := open(t)
	own := errors.New("try again later")
	for name, result := range map[string]func(error) error{
		"returned":    func(err error) error { return err },
		"another":     func(error) error { return own },
		"passed over": func(error) error { return nil },
	} {
		_, err := of(t, l, func(ctx context.Context, q pgload.Querier) ([]byte, bool, error) {
			var pid int
			if err := q.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&pid); err != nil {
				return nil, false, err
			}
			server.Exec(t, url, fmt.Sprintf("SELECT pg_terminate_backend(%d, 5000)", pid)) //nolint:contextcheck // another's
			return nil, true, result(q.QueryRow(ctx, "SELECT 1").Scan(&pid))
		})
		var answer *pgconn.PgError
		if !errors.Is(err, pgload.ErrUnavailable) || name == "another" && (!errors.Is(err, own) || !errors.As(err, &answer)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The connection ends without a word.
	var wire net.Conn
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 1
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		wire = conn
		return conn, err
	}
	p, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	_, err = of(t, pgload.New(p), func(ctx context.Context, q pgload.Querier) ([]byte, bool, error) {
		_ = wire.Close()
		var one int
		_ = q.QueryRow(ctx, "SELECT 1").Scan(&one)
		return nil, false, own
	})
	if !errors.Is(err, pgload.ErrUnavailable) || !errors.Is(err, own) || !errors.Is(err, net.ErrClosed) {
		t.Errorf("a connection that ended: %v", err)
	}
}

// TestRowsLeftOpen: rows that the code did not close are closed for it. Their error, which nobody else would see, is the load's.
func TestRowsLeftOpen(t *testing.T) {
	t.Parallel()
	_, _, url := open(t)
	l := pool(t, url) // of one connection
	process := func() (pid string) {
		pid, err := of(t, l, func(ctx context.Context, q pgload.Querier) (pid []byte, found bool, err error) {
			err = q.QueryRow(ctx, "SELECT pg_backend_pid()::text").Scan(&pid)
			return pid, true, err
		})
		if err != nil {
			t.Fatal(err)
		}
		return pid
	}
	before := process()
	got, err := of(t, l, func(ctx context.Context, q pgload.Querier) (first []byte, found bool, err error) {
		rows, err := q.Query(ctx, "SELECT n::text FROM generate_series(1, 10000) n")
		if err != nil || !rows.Next() {
			return nil, false, errors.Join(err, rows.Err())
		}
		return []byte("the first is enough"), true, rows.Scan(&first)
	})
	if err != nil || got != "the first is enough" {
		t.Errorf("rows that were not read to their end: %q, %v", got, err)
	}
	got, err = of(t, l, func(ctx context.Context, q pgload.Querier) ([]byte, bool, error) {
		_ = q.QueryRow(ctx, "SELECT 1")
		return []byte("not scanned"), true, nil
	})
	if err != nil || got != "not scanned" {
		t.Errorf("a row that was not scanned: %q, %v", got, err)
	}
	_, err = of(t, l, func(ctx context.Context, q pgload.Querier) ([]byte, bool, error) {
		_, err := q.Query(ctx, "INSERT INTO product VALUES (9)") //nolint:gocritic,sqlclosecheck // left open, which is tested
		return []byte("written"), true, err
	})
	var query *pgload.QueryError
	if !errors.As(err, &query) || query.Code != "25006" || !strings.Contains(fmt.Sprint(err), "left open") {
		t.Errorf("an INSERT whose rows were left open: %v", err)
	}
	if after := process(); after != before {
		t.Errorf("the connection was lost on the way: process %s, then %s", before, after)
	}
	_, err = of(t, l, func(ctx context.Context, q pgload.Querier) ([]byte, bool, error) {
		_, err := q.Query(ctx, "SELECT 1") //nolint:gocritic,sqlclosecheck // left open, which is tested
		if err != nil {
			return nil, false, err
		}
		var one int
		return nil, true, q.QueryRow(ctx, "SELECT 1").Scan(&one)
	})
	isCodes(t, err, "one statement at a time")
}

// TestStatementThatCodeCutOff: a statement that ran into a timeout of the code's own took the connection with it, and nothing is wrong with
// the database.
func TestStatementThatCodeCutOff(t *testing.T) {
	t.Parallel()
	_, _, url := open(t)
	l := pool(t, url)
	for _, passes := range []bool{true, false} {
		_, err := of(t, l, func(ctx context.Context, q pgload.Querier) ([]byte, bool, error) {
			ctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
			defer cancel()
			_, err := q.Query(ctx, "SELECT pg_sleep(5)") //nolint:gocritic,sqlclosecheck // left open, which is tested
			if err == nil {
				var none any
				err = q.QueryRow(ctx, "SELECT pg_sleep(5)").Scan(&none) // the rows are open
			}
			<-ctx.Done()
			if passes {
				err = nil
			}
			return []byte("9"), true, err
		})
		isCodes(t, err, "")
		_, err = of(t, l, func(ctx context.Context, q pgload.Querier) ([]byte, bool, error) {
			ctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
			defer cancel()
			_, err := q.Query(ctx, "SELECT 1") //nolint:gocritic,sqlclosecheck // left open, which is tested
			if err != nil {
				return nil, false, err
			}
			rows, err := q.Query(ctx, "SELECT 1")
			rows.Close()
			return nil, false, err
		})
		isCodes(t, err, "")
		_, err = of(t, l, func(ctx context.Context, q pgload.Querier) ([]byte, bool, error) {
			ctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
			defer cancel()
			var none any
			err := q.QueryRow(ctx, "SELECT pg_sleep(5)").Scan(&none)
			if passes {
				err = nil
			}
			return []byte("9"), true, err
		})
		text := ""
		if passes {
			text = "cut off by the context that the code gave it"
		}
		isCodes(t, err, text)
	}
}

// TestCodeOfTwoGoroutines: two that use q at a time are told so, and not that the database is away.
func TestCodeOfTwoGoroutines(t *testing.T) {
	t.Parallel()
	l, _, _ := open(t)
	for _, passes := range []bool{true, false} {
		_, err := of(t, l, func(ctx context.Context, q pgload.Querier) ([]byte, bool, error) {
			var both sync.WaitGroup
			errs := make([]error, 2)
			for i := range errs {
				both.Go(func() {
					var none any
					errs[i] = q.QueryRow(ctx, "SELECT pg_sleep(0.3)").Scan(&none)
				})
			}
			both.Wait()
			if passes {
				return []byte("1"), true, nil
			}
			return nil, false, errors.Join(errs...)
		})
		isCodes(t, err, "one goroutine at a time")
	}
}

// TestGoroutineThatCodeLeft: a goroutine that is in the middle of a statement when the code returns does not keep the load, nor use a connection
// that is somebody else's by then.
func TestGoroutineThatCodeLeft(t *testing.T) {
	t.Parallel()
	_, server, url := open(t)
	l := pool(t, url)
	ended := make(chan error, 1)
	began := time.Now()
	_, err := of(t, l, func(ctx context.Context, q pgload.Querier) ([]byte, bool, error) {
		go func() {
			rows, err := q.Query(context.WithoutCancel(ctx), "SELECT pg_sleep(30)")
			for err == nil && rows.Next() {
				continue
			}
			ended <- errors.Join(err, rows.Err())
		}()
		eventually(t, func() error { //nolint:contextcheck // another's
			if server.Ask(t, url, "SELECT count(*)::text FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(30)' AND state = 'active'") == "0" {
				return errors.New("it is not asked")
			}
			return nil
		})
		return []byte("1"), true, nil
	})
	isCodes(t, err, "another goroutine was in a statement")
	if err := <-ended; err == nil || time.Since(began) > 20*time.Second {
		t.Errorf("its statement: %v, after %s", err, time.Since(began))
	}
	if got, err := of(t, l, func(context.Context, pgload.Querier) ([]byte, bool, error) { return []byte("2"), true, nil }); err != nil || got != "2" {
		t.Errorf("the next load: %q, %v", got, err)
	}
}

// TestQuerierThatWasKept is of no use once its load is over, nor are rows.
func TestQuerierThatWasKept(t *testing.T) {
	t.Parallel()
	l, _, _ := open(t)
	var kept pgload.Querier
	var rows pgx.Rows
	_, err := of(t, l, func(ctx context.Context, q pgload.Querier) (none []byte, found bool, err error) {
		kept = q
		if rows, err = q.Query(ctx, "SELECT n FROM generate_series(1, 3) n"); err == nil && !rows.Next() { //nolint:sqlclosecheck // left open
			err = rows.Err()
		}
		return nil, true, err
	})
	if err != nil {
		t.Fatal(err)
	}
	var n int
	const over = "is over"
	if err := kept.QueryRow(t.Context(), "SELECT 1").Scan(&n); err == nil || !strings.Contains(fmt.Sprint(err), over) {
		t.Errorf("QueryRow of a q that was kept: %d, %v", n, err)
	}
	if later, err := kept.Query(t.Context(), "SELECT 1"); err == nil || !strings.Contains(fmt.Sprint(err), over) || later.Next() || later.Err() == nil {
		t.Errorf("Query of a q that was kept: %v", err)
	}
	if err := rows.Scan(&n); err == nil || rows.Next() || rows.Err() == nil || !strings.Contains(fmt.Sprint(rows.Err()), over) || rows.Conn() != nil {
		t.Errorf("rows that were kept: %d, %v, %v", n, err, rows.Err())
	}
}

// TestTransactionThatCodeEnded: there is no snapshot any more that the value could be stored under, and nothing is written outside of it.
func TestTransactionThatCodeEnded(t *testing.T) {
	t.Parallel()
	_, server, url := open(t)
	l := pool(t, url)
	for _, end := range []string{"COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "rollback and chain"} {
		for _, then := range []string{"", "BEGIN", "INSERT INTO product (id) VALUES (9)"} {
			for _, passes := range []bool{true, false} {
				_, err := of(t, l, func(ctx context.Context, q pgload.Querier) ([]byte, bool, error) {
					rows, err := q.Query(ctx, end)
					rows.Close()
					if err == nil && then != "" {
						rows, err = q.Query(ctx, then)
						rows.Close()
					}
					if passes {
						err = nil
					}
					return []byte("1"), true, err
				})
				isCodes(t, err, "ended its transaction")
			}
		}
	}
	if rows := server.Ask(t, url, "SELECT count(*)::text FROM product WHERE id = 9"); rows != "0" {
		t.Errorf("%s rows were written", rows)
	}
	got, err := of(t, l, func(ctx context.Context, q pgload.Querier) ([]byte, bool, error) {
		for _, sql := range []string{"SAVEPOINT s", "SELECT 1 / 0", "ROLLBACK TO s"} {
			rows, _ := q.Query(ctx, sql)
			rows.Close()
		}
		return []byte("1"), true, nil
	})
	if err != nil || got != "1" {
		t.Errorf("a savepoint: %q, %v", got, err)
	}
}
