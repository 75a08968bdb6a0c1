package mend

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/internal/testkit/servetest"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const patience = 30 * time.Second

var errNotYet = errors.New("not yet")

// shop is a schema in which every way of mending is the cheapest one for a table.
const shop = `
CREATE TABLE orders (id int8 PRIMARY KEY, user_id int8 NOT NULL, total int8 NOT NULL);
CREATE TABLE posts (id int8 PRIMARY KEY, author int8, body text);
CREATE TABLE members (id int8 PRIMARY KEY, team int8 NOT NULL, person int8 NOT NULL, UNIQUE (team, id));
CREATE TABLE people (id int8 PRIMARY KEY, badge int8 NOT NULL, name text NOT NULL);
CREATE TABLE notes (note_id int8 PRIMARY KEY, body text);
ALTER TABLE notes REPLICA IDENTITY NOTHING;
CREATE TABLE "Odd ""Name" ("User Id" int8 NOT NULL, id int8 PRIMARY KEY)`

const entries = `
  orders: {key: 'orders:{user}', result: many, query: 'SELECT id, total FROM orders WHERE user_id = @user ORDER BY id'}
  posts: {key: 'posts:{author}', result: many, query: 'SELECT id, body FROM posts WHERE author = @author ORDER BY id'}
  team: {key: 'team:{team}', result: many, query: 'SELECT person FROM members WHERE team = @team ORDER BY person'}
  names: {key: 'names:{team}', result: many, query: 'SELECT p.name FROM members m JOIN people p ON p.badge = m.person WHERE m.team = @team ORDER BY p.name'}
  note: {key: 'note:{id}', query: 'SELECT body FROM notes WHERE note_id = @id'}
  odd: {key: 'odd:{user}', result: many, query: 'SELECT id FROM "Odd ""Name" WHERE "User Id" = @user ORDER BY id'}
`

// world is a database and a configuration for it.
type world struct {
	t    *testing.T
	pg   *pgtest.Server
	url  string
	file string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, pg: pgtest.Start(t, pgtest.Options{Settings: map[string]string{"max_slot_wal_keep_size": "1GB", "autovacuum": "off"}})}
	w.url = w.pg.Database(t)
	w.pg.Exec(t, w.url, strings.Split(shop, ";")...)
	w.file = w.config(w.url, w.url, entries)
	return w
}

func (w *world) config(loads, source, entries string) string {
	w.t.Helper()
	file := filepath.Join(w.t.TempDir(), "freshet.yaml")
	text := fmt.Sprintf("namespace: %s\ndatabase: {url: %q}\nsource: {postgres: {url: %q}}\nregions: [{name: local, redis: {url: %q}}]\n"+
		"listen: 127.0.0.1:0\ndefaults: {ttl: 1h}\nentries:\n%s", redistest.Namespace(w.t), loads, source, redistest.Shared(w.t).URL, entries)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return file
}

// command is the program with the configuration.
func (w *world) command(args ...string) *exec.Cmd {
	w.t.Helper()
	return exec.CommandContext(w.t.Context(), servetest.Binary(w.t), append(args, "--config", w.file)...)
}

// run runs it to its end, and holds its exit code.
func (w *world) run(code int, args ...string) (stdout, stderr string) {
	w.t.Helper()
	const enough = 2 * time.Minute
	ctx, cancel := context.WithTimeout(w.t.Context(), enough)
	defer cancel()
	cmd := exec.CommandContext(ctx, servetest.Binary(w.t), append(args, "--config", w.file)...)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	err := cmd.Run()
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else if err != nil {
		w.t.Fatal(err)
	}
	if got != code { // -1: it did not end
		w.t.Fatalf("freshet %s exits with %d, want %d\n%s%s", strings.Join(args, " "), got, code, out.String(), problems.String())
	}
	return out.String(), problems.String()
}

// report is what the tests read of the JSON.
type report struct {
	OK         bool  `json:"ok"`
	Fixes      []fix `json:"fixes"`
	Applied    []fix `json:"applied"`
	Identities []struct {
		Table string   `json:"table"`
		How   string   `json:"how"`
		Lacks []string `json:"lacks"`
	} `json:"identities"`
	Postgres struct {
		DDL bool `json:"ddl_triggers"`
	} `json:"postgres"`
}

type fix struct {
	Area       string `json:"area"`
	What       string `json:"what"`
	Statements []struct {
		SQL   string `json:"sql"`
		State string `json:"state"`
		Error string `json:"error"`
	} `json:"statements"`
}

func (w *world) report(code int, args ...string) (r report) {
	w.t.Helper()
	out, _ := w.run(code, append(args, "--json")...)
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		w.t.Fatalf("%v\n%s", err, out)
	}
	return r
}

func (w *world) connect(address string) *pgx.Conn {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), address)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// identity is a table's replica identity, as its letter and the columns of its index.
func (w *world) identity(table string) (text string) {
	w.t.Helper()
	return w.pg.Ask(w.t, w.url, `SELECT concat_ws(' ', c.relreplident, (SELECT string_agg(a.attname, ',' ORDER BY k.place)
		FROM pg_index x CROSS JOIN LATERAL unnest(x.indkey::int2[]) WITH ORDINALITY k(num, place) JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.num
		WHERE x.indrelid = c.oid AND x.indisreplident AND x.indisvalid)) FROM pg_class c WHERE c.oid = '`+table+`'::regclass`)
}

// TestFix mends each table in the cheapest way, and finds nothing left to be done.
func TestFix(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.report(3, "check")
	how := map[string]string{}
	for _, id := range before.Identities {
		how[id.Table] = id.How
	}
	want := map[string]string{
		"public.orders": "new index", "public.posts": "full", "public.members": "existing index", "public.notes": "default",
		"public.people": "new index", `public.Odd "Name`: "new index",
	}
	if fmt.Sprint(how) != fmt.Sprint(want) {
		t.Errorf("mended by %v, want %v", how, want)
	}
	// A dry run prints what --fix runs, and runs none of it.
	dry, _ := w.run(3, "check", "--dry-run")
	if again := w.report(3, "check"); fmt.Sprint(again.Fixes) != fmt.Sprint(before.Fixes) {
		t.Errorf("after a dry run there is to be mended:\n%v\nbefore:\n%v", again.Fixes, before.Fixes)
	}
	fixed, _ := w.run(0, "check", "--fix")
	for _, f := range before.Fixes {
		for _, s := range f.Statements {
			first, _, _ := strings.Cut(s.SQL, "\n")
			for name, text := range map[string]string{"--dry-run": dry, "--fix": fixed} {
				if !strings.Contains(text, "\n  "+first) {
					t.Errorf("check %s does not print %s\n%s", name, first, text)
				}
			}
		}
	}
	for table, want := range map[string]string{
		"orders": "i id,user_id", "posts": "f", "members": "i team,id", "notes": "d", "people": "i id,badge", `"Odd ""Name"`: "i id,User Id",
	} {
		if got := w.identity(table); got != want {
			t.Errorf("the identity of %s is %q, want %q", table, got, want)
		}
	}
	// Once more: nothing is lacking, and nothing runs.
	after := w.report(0, "check", "--fix")
	if !after.OK || len(after.Fixes)+len(after.Applied)+len(after.Identities) > 0 || !after.Postgres.DDL {
		t.Errorf("after check --fix: %+v", after)
	}
	// drop takes the event triggers away again.
	w.run(0, "drop", "--yes")
	if left := w.pg.Ask(t, w.url, `SELECT count(*)::text FROM pg_event_trigger`); left != "0" {
		t.Errorf("%s event triggers are left", left)
	}
	w.run(0, "drop", "--yes")
}

// TestFixServesAtOnce has the daemon run while its tables are mended: what it refused it serves, without a restart.
func TestFixServesAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.pg.Exec(t, w.url, `ALTER TABLE orders REPLICA IDENTITY FULL`, `ALTER TABLE posts REPLICA IDENTITY FULL`, `INSERT INTO orders VALUES (1, 7, 10)`,
		`ALTER TABLE members REPLICA IDENTITY FULL`, `ALTER TABLE notes REPLICA IDENTITY FULL`, `ALTER TABLE people REPLICA IDENTITY FULL`, `ALTER TABLE "Odd ""Name" REPLICA IDENTITY FULL`)
	d := servetest.Start(t, "daemon", w.file)
	read := func(status, want string) {
		t.Helper()
		testkit.Eventually(t, patience, func() error {
			_, header, body, err := d.Get(t.Context(), "/v1/entries/orders/7")
			if err == nil && (header.Get("Freshet-Status") != status || string(body) != want) {
				err = fmt.Errorf("%s %s, want %s %s", header.Get("Freshet-Status"), body, status, want)
			}
			return err
		})
	}
	read("hit", `[{"id":1,"total":10}]`)
	// Somebody takes it away: a row that moves does not say where it came from any more.
	w.pg.Exec(t, w.url, `ALTER TABLE orders REPLICA IDENTITY DEFAULT`, `UPDATE orders SET user_id = 8, total = 11`)
	read("bypass", `[]`)
	w.run(0, "check", "--fix")
	read("hit", `[]`)
	w.pg.Exec(t, w.url, `UPDATE orders SET user_id = 7, total = 12`)
	read("hit", `[{"id":1,"total":12}]`)
	if got := w.identity("orders"); got != "i id,user_id" {
		t.Errorf("the identity of orders is %q", got)
	}
}

// TestFixIsKilled ends check --fix while an index is made: by killing it, whereupon the server goes on, and by ending the
// server's process, which leaves an index that is not valid. The next one waits for the first, and clears up after the second.
func TestFixIsKilled(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"the program", "the server's process", "both"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			open := w.connect(w.url) // making an index CONCURRENTLY waits for it
			if _, err := open.Exec(t.Context(), `BEGIN; INSERT INTO orders VALUES (1, 7, 10)`); err != nil {
				t.Fatal(err)
			}
			var said bytes.Buffer
			cmd := w.command("check", "--fix")
			cmd.Stdout = &said
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			const making = `SELECT coalesce((SELECT pid::text FROM pg_stat_activity WHERE query LIKE 'CREATE UNIQUE INDEX%orders%' AND wait_event_type = 'Lock'), '')`
			pid := ""
			testkit.Eventually(t, patience, func() error {
				if pid = w.pg.Ask(t, w.url, making); pid == "" {
					return errNotYet
				}
				return nil
			})
			if name != "the server's process" {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			if name != "the program" {
				w.pg.Exec(t, w.url, `SELECT pg_terminate_backend(`+pid+`)`)
			}
			_ = cmd.Wait()
			if !strings.Contains(said.String(), "CREATE UNIQUE INDEX") {
				t.Errorf("the statement was not printed before it ran: %s", said.String())
			}
			if got := w.pg.Ask(t, w.url, `SELECT count(*)::text FROM pg_index WHERE NOT indisvalid`); got != "1" {
				t.Fatalf("%s indexes are not valid, want the one that was being made", got)
			}
			var second saying
			next := w.command("check", "--fix")
			next.Stdout, next.Stderr = &second, &second
			if err := next.Start(); err != nil {
				t.Fatal(err)
			}
			if name == "the program" { // the server is still at it
				testkit.Eventually(t, patience, func() error {
					if said := second.String(); !strings.Contains(said, "waiting for another freshet check --fix: process "+pid) && !strings.Contains(said, "DROP") {
						return errNotYet
					}
					return nil
				})
			}
			if _, err := open.Exec(t.Context(), `COMMIT`); err != nil {
				t.Fatal(err)
			}
			if err := next.Wait(); err != nil {
				t.Fatalf("the second check --fix: %v\n%s", err, second.String())
			}
			out := second.String()
			if dropped := strings.Contains(out, "DROP INDEX CONCURRENTLY"); dropped != (name != "the program") {
				t.Errorf("an index was dropped: %t\n%s", dropped, out)
			}
			if got := w.identity("orders"); got != "i id,user_id" {
				t.Errorf("the identity of orders is %q", got)
			}
			if got := w.pg.Ask(t, w.url, `SELECT count(*)::text FROM pg_index WHERE NOT indisvalid`); got != "0" {
				t.Errorf("%s indexes are not valid", got)
			}
		})
	}
}

// saying is what a program has said so far.
type saying struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *saying) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *saying) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// TestFixWhatARoleMay has a role apply what it may: the rest is printed, and reported with why it did not run.
func TestFixWhatARoleMay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.pg.Exec(t, w.url, `CREATE ROLE follower LOGIN REPLICATION`, `CREATE ROLE reader LOGIN`, `ALTER TABLE orders OWNER TO follower`,
		`CREATE SCHEMA freshet AUTHORIZATION follower`, `GRANT USAGE, CREATE ON SCHEMA public TO follower`)
	name := w.pg.Ask(t, w.url, `SELECT current_database()::text`)
	w.pg.Exec(t, w.url, `GRANT TEMPORARY ON DATABASE "`+name+`" TO follower`)
	w.file = w.config(as(t, w.url, "reader"), as(t, w.url, "follower"), entries)
	r := w.report(3, "check", "--fix")
	states := map[string]string{}
	for _, f := range r.Applied {
		for _, s := range f.Statements {
			first, _, _ := strings.Cut(s.SQL, "\n")
			states[first] = s.State
		}
	}
	for statement, want := range map[string]string{
		`CREATE UNIQUE INDEX CONCURRENTLY "orders_freshet" ON "public"."orders" ("id", "user_id")`: "done",
		`ALTER TABLE "public"."orders" REPLICA IDENTITY USING INDEX "orders_freshet"`:              "done",
		`ALTER TABLE "public"."posts" REPLICA IDENTITY FULL`:                                       "not permitted",
		`CREATE EVENT TRIGGER freshet_ddl ON ddl_command_end EXECUTE FUNCTION freshet.ddl()`:       "not permitted",
	} {
		if states[statement] != want {
			t.Errorf("%s: %q, want %q", statement, states[statement], want)
		}
	}
	// Now that it can be planned, the privilege to load from it is what lacks; its owner may give it.
	r = w.report(3, "check", "--fix")
	if got := w.pg.Ask(t, w.url, `SELECT has_table_privilege('reader', 'orders', 'SELECT')::text`); got != "true" {
		t.Errorf("the role that loads may not read what the other owns: %+v", r.Applied)
	}
	// Nothing of a function in the schema that a role owns which is no superuser runs in everybody's DDL.
	if got := w.pg.Ask(t, w.url, `SELECT count(*)::text FROM pg_proc WHERE proname = 'ddl'`); got != "0" {
		t.Errorf("%s functions were made for triggers that were not", got)
	}
}

// TestFunctionOfAnotherOwner has the event triggers' function replaced where somebody owns it who is no superuser: by it, that
// role could do in a superuser's DDL what it likes.
func TestFunctionOfAnotherOwner(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run(0, "check", "--fix")
	w.pg.Exec(t, w.url, `CREATE ROLE mallory`, `ALTER FUNCTION freshet.ddl() OWNER TO mallory`)
	if r := w.report(0, "check"); r.Postgres.DDL {
		t.Error("the triggers pass for installed")
	}
	w.run(0, "check", "--fix")
	if got := w.pg.Ask(t, w.url, `SELECT r.rolsuper::text FROM pg_proc p JOIN pg_roles r ON r.oid = p.proowner WHERE p.proname = 'ddl'`); got != "true" {
		t.Error("the function still is another's")
	}
}

// TestFixWaitsForNobodyLong has a statement that needs a table to itself give up where somebody is at work in it, so that
// nobody waits behind it, and the others go on.
func TestFixWaitsForNobodyLong(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	open := w.connect(w.url)
	if _, err := open.Exec(t.Context(), `BEGIN; SELECT count(*) FROM notes`); err != nil {
		t.Fatal(err)
	}
	out, problems := w.run(3, "check", "--fix")
	if !strings.Contains(out, "failed: canceling statement due to lock timeout") || !strings.Contains(problems, "the table is in use; trying again (5 of 5)") {
		t.Errorf("nothing is said of the table in use:\n%s%s", out, problems)
	}
	if got := w.identity("posts"); got != "f" {
		t.Errorf("the identity of posts is %q: what comes after was left out", got)
	}
	if _, err := open.Exec(t.Context(), `COMMIT`); err != nil {
		t.Fatal(err)
	}
	w.run(0, "check", "--fix")
	if got := w.identity("notes"); got != "d" {
		t.Errorf("the identity of notes is %q", got)
	}
}

func as(t *testing.T, address, role string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(role)
	return u.String()
}
