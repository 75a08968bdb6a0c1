package pgtest

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/testkit"
)

// Freeze has all of the server's processes stand still (SIGSTOP): connections to it stay, and nothing is answered. It
// returns what has them go on.
func (s *Server) Freeze(tb testing.TB) (thaw func()) {
	tb.Helper()
	if s.isShared {
		tb.Fatal("the shared server is not to be frozen: use pgtest.Start")
	}
	ctx, cancel := testkit.Context(tb)
	defer cancel()
	pids, err := s.freeze(ctx)
	thaw = func() {
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGCONT) // it may have been killed
		}
	}
	if err != nil {
		thaw()
		tb.Fatalf("freeze PostgreSQL: %v", err)
	}
	return thaw
}

// freeze stops the postmaster, then the processes that it has, which are its children, each in a group of its own.
func (s *Server) freeze(ctx context.Context) (stopped []int, err error) {
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.PgConn().Conn().Close() }() // the server cannot say good-bye
	postmaster := s.server.PID()
	if postmaster == 0 {
		return nil, errors.New("it does not run")
	}
	if err := syscall.Kill(postmaster, syscall.SIGSTOP); err != nil { // it starts no further ones
		return nil, err
	}
	stopped = []int{postmaster}
	rows, err := conn.Query(ctx, "SELECT pid FROM pg_stat_activity")
	if err != nil {
		return stopped, err
	}
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		return stopped, fmt.Errorf("ask for its processes: %w", err)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err == nil { // or it has ended meanwhile
			stopped = append(stopped, pid)
		}
	}
	return stopped, nil
}
