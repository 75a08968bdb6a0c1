package daemon_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// TestSlowLoadIsAnswered: a load may take as long as its entry says, also when that is longer than any answer takes to be
// written, and whoever waited in vain is told so.
func TestSlowLoadIsAnswered(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true) // others' slots would wait for its transaction
	w.configure(strings.Replace(entries, "load_timeout: 2s", "load_timeout: 62s", 1))
	w.start()
	w.ready()
	conn, err := pgx.Connect(t.Context(), w.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	if _, err := conn.Exec(t.Context(), `BEGIN; LOCK TABLE products IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.base+"/v1/entries/product/1", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatalf("after %v there is no answer: %v", time.Since(began), err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || took < 62*time.Second {
		t.Errorf("after %v the answer is %d %s, %v", took, resp.StatusCode, body, resp.Header)
	}
}
