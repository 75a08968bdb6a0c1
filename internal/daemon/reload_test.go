package daemon_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/daemon"
	"github.com/freshet/freshet/internal/testkit"
)

// overwrite changes the file that the running daemon was started from.
func (w *world) overwrite(entries string) {
	w.t.Helper()
	file := w.file
	w.rewrite(entries)
	text, err := os.ReadFile(w.file)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.file = file
}

// startReloading runs a daemon that reads its file again whenever something comes.
func (w *world) startReloading(signals <-chan os.Signal) {
	w.t.Helper()
	load := func() (*config.Config, error) { return config.Load(w.file, os.LookupEnv) }
	c, err := load()
	if err != nil {
		w.t.Fatal(err)
	}
	w.serve(daemon.Options{
		Config: c, Load: load, Reload: signals, Logger: slog.New(slog.NewTextHandler(logTo{w.t}, nil)), Unused: w.unused,
	})
}

func (w *world) postReload(header ...string) answer {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.base+"/v1/reload", http.NoBody)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.send(req, header...)
}

func (w *world) reload() daemon.Reloaded {
	w.t.Helper()
	a := w.postReload()
	var done daemon.Reloaded
	if err := json.Unmarshal([]byte(a.body), &done); err != nil || a.status != http.StatusOK {
		w.t.Fatalf("POST /v1/reload = %+v, %v", a, err)
	}
	return done
}

const profile = "  user_profile:\n    key: user:{id}:profile\n    query: SELECT id, name FROM users WHERE id = @id\n"

// TestReload: entries are added, changed and removed while another one is hit all the time, and is never loaded again.
func TestReload(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	product := "defaults: {ttl: 1h}\nentries:\n" +
		"  product: {key: \"product:{id}\", query: \"SELECT id, name, price FROM products WHERE id = @id\"}\n"
	w.configure(product + "  short: {key: \"short:{id}\", query: \"SELECT id, name FROM products WHERE id = @id\"}\n")
	w.startReloading(nil)
	w.ready()
	w.until("/v1/entries/product/1", hit)
	w.until("/v1/entries/short/1", hit)

	stop := make(chan struct{})
	var (
		reading sync.WaitGroup
		reads   int
		wrong   []answer
	)
	reading.Go(func() {
		for ; ; reads++ {
			select {
			case <-stop:
				return
			default:
			}
			if a := w.get("/v1/entries/product/1"); !hit(a) {
				wrong = append(wrong, a)
			}
		}
	})
	w.overwrite(product + profile + "  short: {key: \"short:{id}\", ttl: 7m, query: \"SELECT id, name FROM products WHERE id = @id\"}\n")
	done := w.reload()
	if fmt.Sprint(done.Added, done.Changed, done.Removed, done.Live, done.Pending) != "[user_profile] [short] [] true" {
		t.Errorf("reload = %+v", done)
	}
	if a := w.get("/v1/entries/short/1"); !hit(a) {
		t.Errorf("an entry of which only the TTL changed: %+v", a)
	}
	w.until("/v1/entries/user_profile/1", hit)
	w.pg.Exec(t, w.url, `UPDATE users SET name = 'Grace' WHERE id = 1`)
	w.until("/v1/entries/user_profile/1", bodyIs(`{"id":1,"name":"Grace"}`))
	w.pg.Exec(t, w.url, `UPDATE products SET name = 'new' WHERE id = 2`)

	// A query that changes is another value; an entry that is removed is not there any more.
	w.overwrite(product + strings.Replace(profile, "id, name", "name", 1))
	done = w.reload()
	if fmt.Sprint(done.Added, done.Changed, done.Removed, done.Live) != "[] [user_profile] [short] true" {
		t.Errorf("reload = %+v", done)
	}
	w.until("/v1/entries/user_profile/1", func(a answer) bool { return hit(a) && a.body == `{"name":"Grace"}` })
	if a := w.get("/v1/entries/short/1"); a.status != http.StatusNotFound || !strings.Contains(a.body, "entry-not-declared") {
		t.Errorf("a removed entry: %+v", a)
	}
	close(stop)
	reading.Wait()
	if len(wrong) > 0 || reads == 0 {
		t.Errorf("of %d reads of an entry that did not change, %d were no hits: %+v", reads, len(wrong), wrong[:min(len(wrong), 3)])
	}
	if done := w.reload(); len(done.Added)+len(done.Changed)+len(done.Removed) != 0 || !done.Live {
		t.Errorf("the same file again: %+v", done)
	}
}

// TestReloadOfABadFile: it is refused as a whole, with its error, and everything stays as it was.
func TestReloadOfABadFile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.startReloading(nil)
	w.ready()
	w.until("/v1/entries/product/1", hit)
	good, err := os.ReadFile(w.file)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ old, new, says string }{
		"no YAML":         {"entries:", "entries: [", "freshet.yaml:"},
		"unknown key":     {"entries:", "entrys:", `freshet.yaml:8:1: unknown key`},
		"refused query":   {"SELECT id, name, price FROM products", "SELECT id, nam, price FROM products", "column nam"},
		"another slot":    {"slot: ", "publication: other, slot: ", "source: differs from what the daemon was started with"},
		"several at once": {"listen: 127.0.0.1:0", "listen: 127.0.0.1:1", "listen: differs"},
	} {
		bad := strings.Replace(string(good), tt.old, tt.new, 1)
		if bad == string(good) {
			t.Fatal(name)
		}
		if err := os.WriteFile(w.file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		a := w.postReload()
		if a.status != http.StatusUnprocessableEntity || !strings.Contains(a.body, "file-not-applied") || !strings.Contains(a.body, tt.says) {
			t.Errorf("%s: %+v, want %q", name, a, tt.says)
		}
		if a := w.get("/v1/entries/product/1"); !hit(a) {
			t.Errorf("%s: afterwards %+v", name, a)
		}
		st := w.get("/v1/status").body
		if !strings.Contains(st, `"file_refused":{"at":"`) || !strings.Contains(st, strings.ReplaceAll(tt.says, `"`, `\"`)) {
			t.Errorf("%s: the status does not say it: %s", name, st)
		}
	}
	if a := w.get("/metrics"); !strings.Contains(a.body, "\nfreshet_file_refused 1\n") {
		t.Errorf("metrics: %+v", a)
	}
	if err := os.WriteFile(w.file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	w.reload()
	if a := w.get("/v1/status"); strings.Contains(a.body, "file_refused") {
		t.Errorf("after one that holds: %+v", a)
	}
	w.pg.Exec(t, w.url, `UPDATE products SET price = 77 WHERE id = 1`)
	w.until("/v1/entries/product/1", bodyIs(`{"id":1,"name":"product 1","price":77}`))
	if a := w.get("/v1/reload"); a.status != http.StatusMethodNotAllowed {
		t.Errorf("GET: %+v", a)
	}
	if a := w.postReload("Sec-Fetch-Site", "cross-site"); a.status != http.StatusForbidden {
		t.Errorf("from a page elsewhere: %+v", a)
	}
}

// TestReloadWithoutDatabase: a file that differs waits for the database, one that does not needs none, and what a caller called off says
// nothing of the file.
func TestReloadWithoutDatabase(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	signals := make(chan os.Signal, 1)
	w.startReloading(signals)
	w.ready()
	refused := func() bool { return strings.Contains(w.get("/v1/status").body, "file_refused") }
	w.overwrite(entries + strings.Replace(profile, "user_profile", "other", 1))
	w.callOff(refused)
	w.pg.Stop(t)
	if a := w.postReload(); a.status != http.StatusServiceUnavailable || a.retry == "" || !strings.Contains(a.body, "is not known") {
		t.Errorf("without the database: %+v", a)
	}
	if !refused() {
		t.Error("the status does not say that the file is not applied")
	}
	w.overwrite(entries)
	if done := w.reload(); !done.Live || refused() {
		t.Errorf("the file that is in force = %+v, refused %t", done, refused())
	}
	w.overwrite(entries + strings.Replace(profile, "user_profile", "other", 1))
	signals <- syscall.SIGHUP
	w.until("/v1/status", func(a answer) bool { return strings.Contains(a.body, "file_refused") })
	w.pg.Start(t)
	w.until("/v1/entries/other/1", bodyIs(`{"id":1,"name":"Ada"}`))
	if refused() {
		t.Error("applied, and the status says otherwise")
	}
}

// callOff asks for a reload, whose planning is held up, and goes away.
func (w *world) callOff(refused func() bool) {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), w.url)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(w.t.Context())) }()
	if _, err := conn.Exec(w.t.Context(), `BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE`); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), 300*time.Millisecond)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.base+"/v1/reload", http.NoBody)
	if err != nil {
		w.t.Fatal(err)
	}
	client := &http.Client{}
	defer client.CloseIdleConnections()
	if answer, err := client.Do(req); err == nil {
		_ = answer.Body.Close()
		w.t.Errorf("a reload that waits for a lock is answered with %s", answer.Status)
	}
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for began := time.Now(); time.Since(began) < time.Second; <-look.C {
		if refused() {
			w.t.Fatal("a reload was called off, and the status speaks of the file")
		}
	}
}

// TestReloadBySignal: and of a daemon that stands by, which says what the file waits for.
func TestReloadBySignal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	signals := make(chan os.Signal, 1)
	w.startReloading(signals)
	w.ready()
	w.overwrite(entries + strings.Replace(profile, "user_profile", "other", 1))
	signals <- syscall.SIGHUP
	w.until("/v1/entries/other/1", bodyIs(`{"id":1,"name":"Ada"}`))
	w.until("/v1/entries/other/1", hit) // it has planned anew and has the slot again, which the other one would take
	first := w.base
	w.startReloading(nil)
	w.until("/v1/status", func(a answer) bool { return strings.Contains(a.body, `"phase":"standby"`) })
	w.overwrite(entries)
	done := w.reload()
	if done.Live || !strings.Contains(done.Pending, "standby") || fmt.Sprint(done.Removed) != "[other]" {
		t.Errorf("reload of a standby = %+v", done)
	}
	w.base = first
	w.until("/v1/entries/other/1", hit)
}

// TestReloadWhileReading: who reads under the old file has his answer, and nobody reads under it afterwards.
func TestReloadWhileReading(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true) // others' slots would wait for its transaction
	w.startReloading(nil)
	w.ready()
	w.until("/v1/entries/product/1", hit)
	conn, err := pgx.Connect(t.Context(), w.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	if _, err := conn.Exec(t.Context(), `BEGIN; LOCK TABLE addresses IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	slow := make(chan answer, 1)
	go func() { slow <- w.get("/v1/entries/user_profile/1") }()
	testkit.Eventually(t, patience, func() error {
		var waiting int
		other, err := pgx.Connect(t.Context(), w.url)
		if err != nil {
			return err
		}
		defer func() { _ = other.Close(context.WithoutCancel(t.Context())) }()
		if err := other.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks WHERE NOT granted`).Scan(&waiting); err != nil || waiting == 0 {
			return errors.Join(err, errors.New("nobody waits"))
		}
		return nil
	})
	w.overwrite(strings.Replace(entries, "ttl: 1h", "ttl: 2h", 1))
	reloaded := make(chan answer, 1)
	go func() { reloaded <- w.postReload() }()
	// Planning reads no table, so the new file comes into force while the load still waits.
	if _, err := conn.Exec(t.Context(), `COMMIT`); err != nil {
		t.Fatal(err)
	}
	if a := <-slow; a.status != http.StatusOK || !strings.Contains(a.body, "London") {
		t.Errorf("who was reading got %+v", a)
	}
	if a := <-reloaded; a.status != http.StatusOK {
		t.Errorf("reload = %+v", a)
	}
	w.until("/v1/entries/user_profile/1", hit)
}
