// Package script drives the freshet binary as its users do: by scripts in testdata, against real servers.
package script

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/rueidis"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// binary builds freshet once.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "freshet-script-*")
	if err != nil {
		return "", fmt.Errorf("make a directory: %w", err)
	}
	testkit.AtEnd(func() error { return os.RemoveAll(dir) })
	path := filepath.Join(dir, "freshet")
	cmd := exec.Command("go", "build", "-o", path, "github.com/freshet/freshet/cmd/freshet")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build freshet: %w\n%s", err, out)
	}
	return path, nil
})

// Each script has a database, a namespace, a slot and a port of its own. The first word of its name says what else:
// own has its own PostgreSQL, replica and oneslot have one with other settings, faults has servers of its own to stop, hot
// has a hot standby, tls has a Redis that Sentinels watch and all of whom speak TLS.
func TestScripts(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("scripts: %v, %v", files, err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, name, file)
		})
	}
}

func run(t *testing.T, name, file string) {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	var settings map[string]string
	kind, _, _ := strings.Cut(name, "_")
	switch kind {
	case "replica":
		settings = map[string]string{"wal_level": "replica"}
	case "oneslot":
		settings = map[string]string{"max_replication_slots": "1"}
	}
	server, redis := pgtest.Shared(t), redistest.Shared(t)
	if settings != nil || kind == "faults" || kind == "own" || kind == "hot" {
		server = pgtest.Start(t, pgtest.Options{Settings: settings})
	}
	cmds := map[string]func(ts *testscript.TestScript, neg bool, args []string){
		"exits": exits, "sql": sql, "token": token, "http": get, "await": await, "terminate": signal("terminate", syscall.SIGTERM), "hangup": signal("hangup", syscall.SIGHUP),
		"store": store, "plant": plant,
	}
	if kind == "faults" {
		redis = redistest.Start(t)
		cmds["postgres"] = stopStart(t, server)
		cmds["redis"] = stopStart(t, redis)
	}
	database, there := server.Database(t), ""
	if kind == "hot" {
		standby := pgtest.Standby(t, server, pgtest.Options{})
		cmds["standby"] = change(t, standby)
		there = standby.URL(server.Ask(t, database, "SELECT current_database()::text"))
	}
	address := redis.URL
	if kind == "tls" {
		master := redistest.StartTLS(t)
		master.Replica(t)
		address = master.Watch(t, 3, 1).URL
	}
	unknown, _, _ := strings.Cut(address, "&ssl")
	listen := freeAddress(t)
	unique := strings.ReplaceAll(redistest.Namespace(t), "-", "_")
	testscript.Run(t, testscript.Params{
		Files:               []string{file},
		Deadline:            time.Now().Add(4 * time.Minute), // a command that does not end fails its script
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", filepath.Dir(path)+string(os.PathListSeparator)+env.Getenv("PATH"))
			env.Setenv("DATABASE_URL", database)
			env.Setenv("READER_URL", as(t, database, "reader"))
			env.Setenv("STANDBY_URL", there)
			env.Setenv("FOREIGN_URL", pgtest.Shared(t).URL("postgres"))
			env.Setenv("REDIS_URL", address)
			env.Setenv("UNKNOWN_URL", unknown) // the same without the certificates
			env.Setenv("NAMESPACE", unique)
			env.Setenv("SLOT", slotName(unique))
			env.Setenv("LISTEN", listen)
			env.Setenv("ODD", "a\x1b[31m\tb/c") // an argument that a terminal would obey
			env.Setenv("LISTEN2", freeAddress(t))
			return nil
		},
		Cmds: cmds,
	})
}

// change is the command "standby": pause, resume, promote, stop, or catchup.
func change(t *testing.T, standby *pgtest.StandbyServer) func(ts *testscript.TestScript, neg bool, args []string) {
	t.Helper()
	actions := map[string]func(testing.TB){
		"pause": standby.Pause, "resume": standby.Resume, "promote": standby.Promote, "stop": standby.Stop, "catchup": standby.CatchUp,
	}
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) != 1 || actions[args[0]] == nil {
			ts.Fatalf("usage: standby pause|resume|promote|stop|catchup")
		}
		actions[args[0]](t)
	}
}

// as is a connection string of another role.
func as(t *testing.T, address, role string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(role)
	return u.String()
}

func slotName(unique string) string {
	const longest = 63
	name := "s_" + strings.ToLower(unique)
	return name[max(0, len(name)-longest):]
}

func freeAddress(t *testing.T) string {
	t.Helper()
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}

// exits runs a program and compares its exit code: exits 3 freshet check.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARG...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%s exits with %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

// stopStart is a command that stops or starts a server: redis stop.
func stopStart(tb testing.TB, server interface {
	Stop(tb testing.TB)
	Start(tb testing.TB)
},
) func(ts *testscript.TestScript, neg bool, args []string) {
	tb.Helper()
	return func(ts *testscript.TestScript, neg bool, args []string) {
		switch {
		case !neg && len(args) == 1 && args[0] == "stop":
			server.Stop(tb)
		case !neg && len(args) == 1 && args[0] == "start":
			server.Start(tb)
		default:
			ts.Fatalf("usage: redis stop|start, postgres stop|start")
		}
	}
}

// signal sends a signal to the background program that was started last.
func signal(name string, s os.Signal) func(ts *testscript.TestScript, neg bool, args []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		running := ts.BackgroundCmds()
		if neg || len(args) > 0 || len(running) == 0 {
			ts.Fatalf("usage: %s, with a program in the background", name)
		}
		ts.Check(running[len(running)-1].Process.Signal(s))
	}
}

// sql runs each argument as a statement on the script's database.
func sql(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("sql does not take !")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, ts.Getenv("DATABASE_URL"))
	ts.Check(err)
	defer func() { ts.Check(conn.Close(ctx)) }()
	for _, statement := range args {
		if _, err := conn.Exec(ctx, statement); err != nil {
			ts.Fatalf("%s: %v", statement, err)
		}
	}
}

// token is token NAME STATEMENT: it commits the statement, and sets the variable to the transaction's token.
func token(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: token NAME STATEMENT")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, ts.Getenv("DATABASE_URL"))
	ts.Check(err)
	defer func() { ts.Check(conn.Close(ctx)) }()
	var text string
	ts.Check(pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, args[1]); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `SELECT system_identifier || '.' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) || '.' || pg_current_xact_id()
			FROM pg_control_system()`).Scan(&text)
	}))
	ts.Setenv(args[0], text)
}

// get is http CODE PATH [HEADER VALUE]...: it prints the status line, the headers and the body.
func get(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args)%2 != 0 {
		ts.Fatalf("usage: http CODE PATH [HEADER VALUE]...")
	}
	text, code, err := request(ts.Getenv("LISTEN"), args[1], args[2:])
	ts.Check(err)
	_, err = io.WriteString(ts.Stdout(), text)
	ts.Check(err)
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("GET %s = %d, want %s:\n%s", args[1], code, args[0], text)
	}
}

// await is await CODE PATH [TEXT]: it asks until the answer is that and contains the text.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: await CODE PATH [TEXT | ~REGEXP]")
	}
	matches := func(string) bool { return true }
	if len(args) > 2 {
		matches = func(text string) bool { return strings.Contains(text, args[2]) }
		if pattern, is := strings.CutPrefix(args[2], "~"); is {
			matches = regexp.MustCompile(pattern).MatchString
		}
	}
	deadline := time.Now().Add(30 * time.Second)
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	for {
		text, code, err := request(ts.Getenv("LISTEN"), args[1], nil)
		if err == nil && strconv.Itoa(code) == args[0] && matches(text) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("GET %s did not become %s: %d %v\n%s", args[1], strings.Join(args, " "), code, err, text)
		}
		<-pause.C
	}
}

// store is store KEY VALUE: it sets a key in Redis, as an application's own code does.
func store(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: store KEY VALUE")
	}
	inRedis(ts, func(ctx context.Context, client rueidis.Client) error {
		return client.Do(ctx, client.B().Set().Key(args[0]).Value(args[1]).Build()).Error()
	})
}

// plant is plant KEY PAYLOAD: it stores a value under the name that a cached key of freshet's has, past the protocol.
func plant(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: plant KEY PAYLOAD")
	}
	inRedis(ts, func(ctx context.Context, client rueidis.Client) error {
		pattern := "f:" + ts.Getenv("NAMESPACE") + ":*:" + args[0]
		page, err := client.Do(ctx, client.B().Scan().Cursor(0).Match(pattern).Count(1_000_000).Build()).AsScanEntry()
		if err != nil {
			return err
		}
		if len(page.Elements) != 1 {
			return fmt.Errorf("%d keys are like %s", len(page.Elements), pattern)
		}
		record := "f1 V - - - - - 0000000000000001\n" + args[1]
		return client.Do(ctx, client.B().Set().Key(page.Elements[0]).Value(record).ExSeconds(600).Build()).Error()
	})
}

func inRedis(ts *testscript.TestScript, do func(context.Context, rueidis.Client) error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	option, err := rueidis.ParseURL(ts.Getenv("REDIS_URL"))
	ts.Check(err)
	option.ForceSingleClient, option.DisableCache = true, true
	client, err := rueidis.NewClient(option)
	ts.Check(err)
	defer client.Close()
	ts.Check(do(ctx, client))
}

func request(listen, path string, headers []string) (text string, code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+listen+path, http.NoBody)
	if err != nil {
		return "", 0, fmt.Errorf("make request: %w", err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := transport.RoundTrip(req)
	if err != nil {
		return "", 0, fmt.Errorf("get %s: %w", path, err)
	}
	var b strings.Builder
	b.WriteString(response.Status + "\n")
	if err := response.Header.Write(&b); err != nil {
		return "", 0, fmt.Errorf("print headers: %w", err)
	}
	b.WriteString("\n")
	body, err := io.ReadAll(response.Body)
	b.Write(body)
	return strings.ReplaceAll(b.String(), "\r\n", "\n") + "\n", response.StatusCode, errors.Join(err, response.Body.Close())
}
