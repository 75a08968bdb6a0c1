package verify_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/daemon"
	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/internal/verify"
)

const patience = 30 * time.Second

// rig is a database, a store, a daemon between them, and a reader that fills the store.
type rig struct {
	t      *testing.T
	pg     *pgtest.Server
	url    string
	config *config.Config
	loader *pgload.Loader
	store  *redisstore.Store
	reader *fill.Reader
	admin  rueidis.Client
	stop   func() // of the daemon; may be called twice
}

func newRig(t *testing.T, pg *pgtest.Server, tables []string, entries string) *rig {
	t.Helper()
	redis, name := redistest.Shared(t), redistest.Namespace(t)
	r := &rig{t: t, pg: pg, url: pg.Database(t)}
	pg.Exec(t, r.url, tables...)
	r.declare(name, entries)
	var err error
	if r.loader, err = pgload.Open(t.Context(), r.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.loader.Close)
	if r.store, err = redisstore.Open(t.Context(), redisstore.Options{URL: redis.URL, Namespace: name, Patience: patience}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.store.Close)
	if r.reader, err = fill.New(fill.Options{
		Namespace: name, Store: r.store, Loader: r.loader, Entries: fill.Entries(r.config), Patience: patience,
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.reader.Close)
	option, err := rueidis.ParseURL(redis.URL)
	if err != nil {
		t.Fatal(err)
	}
	option.ForceSingleClient, option.DisableCache = true, true
	if r.admin, err = rueidis.NewClient(option); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.admin.Close)
	r.serve()
	return r
}

// declare has the daemon's file declare entries.
func (r *rig) declare(namespace, entries string) {
	r.t.Helper()
	text := fmt.Sprintf("namespace: %s\ndatabase: {url: %q}\nsource: {postgres: {slot: %q}}\n"+
		"regions: [{name: local, redis: {url: %q}}]\nlisten: 127.0.0.1:0\ndefaults: {ttl: 1h}\nentries:\n%s",
		namespace, r.url, strings.ToLower(strings.ReplaceAll(namespace, "-", "_")), redistest.Shared(r.t).URL, entries)
	file := filepath.Join(r.t.TempDir(), "freshet.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	var err error
	if r.config, err = config.Load(file, os.LookupEnv); err != nil {
		r.t.Fatal(err)
	}
}

// serve starts the daemon, and waits until every entry is live.
func (r *rig) serve() {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- daemon.Run(ctx, daemon.Options{Config: r.config, Logger: slog.New(slog.DiscardHandler), Ready: func(string) {}})
	}()
	r.stop = func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("the daemon: %v", err)
		}
		done <- nil
	}
	r.t.Cleanup(r.stop)
	testkit.Eventually(r.t, patience, func() error {
		roster, err := r.roster()
		if err != nil {
			return err
		}
		head, found, err := r.store.Head(r.t.Context())
		if err != nil || !found || head.Revision != roster.Revision || len(roster.Entries) == 0 {
			return fmt.Errorf("no roster is in force: %t, %w", found, err)
		}
		for name, e := range roster.Entries {
			if e.Suspended != "" {
				return fmt.Errorf("%s: %s", name, e.Suspended)
			}
		}
		return nil
	})
}

func (r *rig) roster() (*rule.Roster, error) {
	text, found, err := r.store.Roster(r.t.Context())
	if err != nil || !found {
		return nil, fmt.Errorf("read roster: %t, %w", found, err)
	}
	return rule.ParseRoster(text)
}

func (r *rig) exec(statements ...string) {
	r.t.Helper()
	r.pg.Exec(r.t, r.url, statements...)
}

func args(texts ...string) []keytext.Arg {
	list := make([]keytext.Arg, len(texts))
	for i, text := range texts {
		list[i] = keytext.Arg{Text: text, Null: text == "NULL"}
	}
	return list
}

// fill reads a value until it comes from the store, and returns the name of its record.
func (r *rig) fill(entry string, a ...string) string {
	r.t.Helper()
	return r.fillBy(entry, nil, a...)
}

func (r *rig) fillBy(entry string, load fill.LoadFunc, a ...string) string {
	r.t.Helper()
	var v fill.Value
	testkit.Eventually(r.t, patience, func() (err error) {
		if v, err = r.reader.Get(r.t.Context(), entry, args(a...), load); err == nil && v.Status != fill.Hit {
			err = fmt.Errorf("%s %v is a %v (%s)", entry, a, v.Status, v.Reason)
		}
		return err
	})
	return v.Name
}

func (r *rig) record(name string) fence.Record {
	r.t.Helper()
	record, err := r.store.Get(r.t.Context(), name)
	if err != nil {
		r.t.Fatal(err)
	}
	return record
}

// plant stores a record past the protocol.
func (r *rig) plant(name string, record fence.Record) {
	r.t.Helper()
	r.do("SET", name, string(record.Append(nil)), "PX", "60000")
}

func (r *rig) do(words ...string) {
	r.t.Helper()
	if err := r.admin.Do(r.t.Context(), r.admin.B().Arbitrary(words...).Build()).Error(); err != nil && !rueidis.IsRedisNil(err) {
		r.t.Fatal(err)
	}
}

// verify runs with options that the function may change.
func (r *rig) verify(change func(o *verify.Options)) *verify.Report {
	r.t.Helper()
	report, err := r.tryVerify(change)
	if err != nil {
		r.t.Fatal(err)
	}
	if report.Stopped != "" {
		r.t.Fatalf("verify stopped: %s", report.Stopped)
	}
	return report
}

func (r *rig) tryVerify(change func(o *verify.Options)) (*verify.Report, error) {
	r.t.Helper()
	survey, err := r.store.Survey(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	defer survey.Close()
	o := verify.Options{Namespace: r.config.Namespace, Store: survey, Truth: r.loader, Wait: patience}
	if change != nil {
		change(&o)
	}
	return verify.Run(r.t.Context(), o)
}

// quiet waits until the store vouches for everything that is committed.
func (r *rig) quiet() {
	r.t.Helper()
	r.exec("SELECT pg_logical_emit_message(true, 'verify', '')") // flushes what was committed without waiting
	_, end, err := r.loader.Position(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	testkit.Eventually(r.t, patience, func() error {
		head, _, err := r.store.Head(r.t.Context())
		if err == nil && head.Wc < end {
			err = fmt.Errorf("HEAD is at %v, the log ends at %v", head.Wc, end)
		}
		return err
	})
}

// total compares the counts of a report, all but those that are named there.
func total(t *testing.T, r *verify.Report, want verify.Counts) {
	t.Helper()
	if r.Total != want {
		t.Errorf("the counts are %+v, want %+v (%v, %v, %+v)", r.Total, want, r.Causes, r.Reasons, r.Findings)
	}
}
