package pgtest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/testkit/pgtest"
)

func TestFreeze(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, pgtest.Options{})
	url := s.Database(t)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	const short = 300 * time.Millisecond
	answers := func() error {
		t.Helper()
		var one int
		return conn.QueryRow(t.Context(), "SELECT 1").Scan(&one)
	}
	if err := answers(); err != nil {
		t.Fatal(err)
	}
	thaw := s.Freeze(t)
	answered := make(chan error, 1)
	go func() { answered <- answers() }()
	select {
	case err := <-answered:
		t.Errorf("a frozen server answered: %v", err)
	case <-time.After(short):
	}
	limited, cancel := context.WithTimeout(t.Context(), short)
	defer cancel()
	if other, err := pgx.Connect(limited, url); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a new connection to a frozen server: %v, %v", other, err)
	}
	thaw()
	select {
	case err := <-answered:
		if err != nil {
			t.Errorf("the server did not go on: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the server does not go on")
	}
}
