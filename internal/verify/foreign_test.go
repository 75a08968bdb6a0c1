package verify_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/internal/verify"
)

// plain is an application with cache-aside code of its own, and no freshet anywhere.
type plain struct {
	t      *testing.T
	pg     *pgtest.Server
	url    string
	redis  rueidis.Client
	keys   *redisstore.Survey
	loader *pgload.Loader
}

func newPlain(t *testing.T) *plain {
	t.Helper()
	server := redistest.Start(t)
	return newPlainOn(t, server, server.URL)
}

// newPlainOn has it use a server, or the cluster that it is a node of. verify is given the address.
func newPlainOn(t *testing.T, server *redistest.Server, address string) *plain {
	t.Helper()
	p := &plain{t: t, pg: pgtest.Shared(t)}
	p.url = p.pg.Database(t)
	p.exec("CREATE TABLE users (id int8 PRIMARY KEY, name text, score numeric(10,2))",
		"INSERT INTO users SELECT n, 'user ' || n, n FROM generate_series(1, 40) n")
	var err error
	if p.redis, err = rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{server.Addr}, DisableCache: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.redis.Close)
	if p.keys, err = redisstore.OpenSurvey(t.Context(), address); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.keys.Close)
	if p.loader, err = pgload.Open(t.Context(), p.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.loader.Close)
	return p
}

func (p *plain) exec(statements ...string) {
	p.t.Helper()
	p.pg.Exec(p.t, p.url, statements...)
}

// load is what the application's code loads and stores.
func (p *plain) load(ctx context.Context, id int) (string, error) {
	var value string
	err := p.loader.Pool().QueryRow(ctx,
		`SELECT json_build_object('name', name, 'id', id, 'score', score::float8, 'cached_at', clock_timestamp()) FROM users WHERE id = $1`, id).Scan(&value)
	return value, err
}

func (p *plain) set(key, value string, more ...string) {
	p.t.Helper()
	if err := p.redis.Do(context.Background(), p.redis.B().Arbitrary(append([]string{"SET", key, value}, more...)...).Build()).Error(); err != nil {
		p.t.Error(err)
	}
}

func (p *plain) cache(id int) {
	p.t.Helper()
	value, err := p.load(context.Background(), id)
	if err != nil {
		p.t.Error(err)
	}
	p.set(fmt.Sprintf("user:%d", id), value, "EX", "600")
}

const usersQuery = "SELECT id, name, score FROM users WHERE id = @id"

func (p *plain) options(change func(o *verify.ForeignOptions)) verify.ForeignOptions {
	p.t.Helper()
	pattern, err := verify.ParsePattern("user:{id}")
	if err != nil {
		p.t.Fatal(err)
	}
	o := verify.ForeignOptions{
		Keys: p.keys, Truth: p.loader, Pattern: pattern, Query: usersQuery, Ignore: []string{"cached_at"},
		Grace: 300 * time.Millisecond, Watch: 400 * time.Millisecond,
	}
	if change != nil {
		change(&o)
	}
	return o
}

func (p *plain) verify(change func(o *verify.ForeignOptions)) *verify.Report {
	p.t.Helper()
	report, err := verify.RunForeign(p.t.Context(), p.options(change))
	if err != nil {
		p.t.Fatal(err)
	}
	if report.Stopped != "" {
		p.t.Fatalf("verify stopped: %s", report.Stopped)
	}
	return report
}

// TestForeignStaleKeysAreFound has a reader that stores the row which it read before a change and after the deletion, a
// writer that deletes nothing, and a value whose row is gone, on a server and in a cluster.
func TestForeignStaleKeysAreFound(t *testing.T) {
	t.Parallel()
	t.Run("server", func(t *testing.T) {
		t.Parallel()
		foreignStaleKeysAreFound(t, newPlain(t))
	})
	t.Run("cluster, of which one node is named", func(t *testing.T) {
		t.Parallel()
		c := redistest.StartCluster(t, 3, true, redistest.Patient()...)
		foreignStaleKeysAreFound(t, newPlainOn(t, c.Masters[0], c.Masters[1].URL))
	})
	t.Run("cluster with TLS", func(t *testing.T) {
		t.Parallel()
		c := redistest.StartTLSCluster(t, 3, false, redistest.Patient()...)
		foreignStaleKeysAreFound(t, newPlainOn(t, c.Masters[0], c.URL))
	})
}

func foreignStaleKeysAreFound(t *testing.T, p *plain) {
	t.Helper()
	for id := range 40 {
		p.cache(id + 1)
	}
	total(t, p.verify(nil), verify.Counts{Checked: 40, Fresh: 40})

	slow, err := p.load(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	p.exec("UPDATE users SET name = 'changed' WHERE id IN (1, 2)", "DELETE FROM users WHERE id = 3")
	if err := p.redis.Do(t.Context(), p.redis.B().Del().Key("user:1").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	p.set("user:1", slow) // without an end
	p.set("user:nobody", "{}")
	p.set("user:4", "\x1f\x8bcompressed")
	p.set("users:5", "of something else")
	if err := p.redis.Do(t.Context(), p.redis.B().Hset().Key("user:6").FieldValue().FieldValue("a", "b").Build()).Error(); err == nil {
		t.Fatal("user:6 is no string")
	}
	if err := p.redis.Do(t.Context(), p.redis.B().Lpush().Key("user:list").Element("a").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	report := p.verify(nil)
	total(t, report, verify.Counts{Checked: 39, Fresh: 36, Violations: 3, Unreadable: 3, WithoutTTL: 1})
	if report.Nines == nil || *report.Nines < 1.1 || *report.Nines > 1.2 {
		t.Errorf("nines = %v of %v, want -log10(3/39)", report.Nines, report.FreshShare)
	}
	for _, f := range report.Findings {
		switch f.Key {
		case "user:1":
			if f.TTL != nil || f.Seen < 0.3 || !strings.Contains(*f.Cached, "user 1") || !strings.Contains(*f.Database, "changed") {
				t.Errorf("user:1 is described as %+v", f)
			}
		case "user:3":
			if f.TTL == nil || *f.TTL > 600 || f.Database != nil {
				t.Errorf("user:3 is described as %+v", f)
			}
		}
	}
	if report.Differed[2].Count != 3 {
		t.Errorf("they differed for %+v, want three of up to 1 s", report.Differed)
	}
	some := p.verify(func(o *verify.ForeignOptions) { o.Sample = verify.Sample{Count: 5, Seed: 4} })
	if some.Total.Checked+some.Total.Unreadable != 5 {
		t.Errorf("a sample of 5: %+v", some.Total)
	}
}

// TestForeignInFlight has values that differ only for a while, each way in which that ends.
func TestForeignInFlight(t *testing.T) {
	t.Parallel()
	p := newPlain(t)
	for id := range 5 {
		p.cache(id + 1)
	}
	p.exec("UPDATE users SET name = 'changed' WHERE id <= 4")
	looked := 0
	report := p.verify(func(o *verify.ForeignOptions) {
		o.Grace, o.Watch = 20*time.Second, 20*time.Second
		o.Keys = &keysThen{Keys: p.keys, then: func() {
			looked++
			if looked != 2 {
				return
			}
			p.cache(1)                                                  // replaced
			p.exec("UPDATE users SET name = 'user 2' WHERE id = 2")     // right again
			p.set("user:3", "null", "PX", "1")                          // gone
			p.set("user:4", `{"id":4,"name":"wrong, but another one"}`) // another
		}}
	})
	total(t, report, verify.Counts{Checked: 5, Fresh: 1, InFlight: 4})
}

type keysThen struct {
	verify.Keys
	then func()
}

func (k *keysThen) Read(ctx context.Context, names []string) ([]redisstore.Held, error) {
	k.then()
	return k.Keys.Read(ctx, names)
}

func TestForeignFormats(t *testing.T) {
	t.Parallel()
	p := newPlain(t)
	p.set("name:1:x", "user 1")
	p.set("name:2:x", "someone else")
	p.set("list:1", `[{"id":2},{"id":1}]`)
	p.set("list:2", `[{"id":1},{"id":1}]`)
	for _, words := range [][]string{
		{"HSET", "hash:1", "id", "1", "name", "user 1", "score", "1.00"}, {"HSET", "hash:2", "id", "2", "name", "user 2", "score", "1.00"},
	} {
		if err := p.redis.Do(t.Context(), p.redis.B().Arbitrary(words...).Build()).Error(); err != nil {
			t.Fatal(err)
		}
	}
	p.set("top:1", `[{"id":2},{"id":1}]`)
	for _, tt := range []struct {
		name, pattern string
		change        func(o *verify.ForeignOptions)
		want          verify.Counts
	}{
		{
			"text", "name:{id}:{unused}",
			func(o *verify.ForeignOptions) {
				o.Format, o.Field, o.Query = verify.Text, "name", "SELECT id, name FROM users WHERE id = @id"
			},
			verify.Counts{Checked: 2, Fresh: 1, Violations: 1, WithoutTTL: 2},
		},
		{
			"a parameter that the query does not have", "name:{unused}:{id}",
			func(o *verify.ForeignOptions) { o.Format, o.Query = verify.Text, "SELECT 'user 1' WHERE @id = 'x'" },
			verify.Counts{Checked: 2, Fresh: 1, Violations: 1, WithoutTTL: 2},
		},
		{
			"hashes", "hash:{id}",
			func(o *verify.ForeignOptions) { o.Format = verify.Hash },
			verify.Counts{Checked: 2, Fresh: 1, Violations: 1, WithoutTTL: 2},
		},
		{
			"a list in any order", "list:{n}",
			func(o *verify.ForeignOptions) {
				o.Many, o.Query = true, "SELECT id FROM users WHERE id <= 2 AND @n > 0"
			},
			verify.Counts{Checked: 2, Fresh: 1, Violations: 1, WithoutTTL: 2},
		},
		{
			"a list in its order", "top:{n}",
			func(o *verify.ForeignOptions) {
				o.Many, o.Query = true, "SELECT id FROM users WHERE id <= 2 AND @n > 0 ORDER BY id"
			},
			verify.Counts{Checked: 1, Violations: 1, WithoutTTL: 1},
		},
		{
			"more rows than one", "top:{n}",
			func(o *verify.ForeignOptions) { o.Query = "SELECT id FROM users WHERE id > @n" },
			verify.Counts{Checked: 1, Undecided: 1, WithoutTTL: 1},
		},
	} {
		pattern, err := verify.ParsePattern(tt.pattern)
		if err != nil {
			t.Fatal(err)
		}
		t.Log(tt.name)
		total(t, p.verify(func(o *verify.ForeignOptions) {
			o.Pattern, o.Grace, o.Watch = pattern, 50*time.Millisecond, 50*time.Millisecond
			tt.change(o)
		}), tt.want)
	}
	for query, want := range map[string]string{
		"SELECT * FROM nothing WHERE id = @id":   `relation "nothing" does not exist`,
		"SELECT * FROM users WHERE id = @number": "{number}",
		"SELECT * FROM users WHERE id = $1":      "positional parameter",
	} {
		_, err := verify.RunForeign(t.Context(), p.options(func(o *verify.ForeignOptions) { o.Query = query }))
		if !errors.Is(err, verify.ErrQuery) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", query, err, want)
		}
	}
}
