package fill_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/rule"
)

// A read past the cache sees a change that no daemon has confirmed yet, and leaves what is cached as it is.
func TestReadPastTheCache(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := w.reader(nil, nil)
	read(t, r, 1, fill.Miss, price(1, 10))
	if _, err := w.db.Exec(t.Context(), "UPDATE product SET price = 99 WHERE id = 1"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct{ id, payload string }{{"1", price(1, 99)}, {"2", price(2, 20)}, {"1000", ""}} {
		v, err := r.GetUnder(t.Context(), "product", arg(want.id), nil, &fill.Demand{Past: true})
		if err != nil || v.Status != fill.Bypass || v.Reason != "asked_for" || string(v.Payload) != want.payload || v.Found != (want.payload != "") {
			t.Errorf("past the cache, %s: %+v %s, %v", want.id, v, v.Payload, err)
		}
	}
	read(t, r, 1, fill.Hit, price(1, 10))
	read(t, r, 2, fill.Miss, price(2, 20)) // it was not filled
	if s := r.Stats(); s.Bypassed["asked_for"] != 3 || s.Fills != 2 {
		t.Errorf("Stats = %+v", s)
	}
	if _, err := r.GetUnder(t.Context(), "nothing", nil, nil, &fill.Demand{Past: true}); !errors.Is(err, fill.ErrUnknownEntry) {
		t.Errorf("unknown entry: %v", err)
	}
	if _, err := r.GetUnder(t.Context(), "product", nil, nil, &fill.Demand{Past: true}); !errors.Is(err, fill.ErrArguments) {
		t.Errorf("no argument: %v", err)
	}
	if _, err := r.GetUnder(t.Context(), "code", arg("1"), nil, &fill.Demand{Past: true}); !errors.Is(err, fill.ErrNoLoader) {
		t.Errorf("no code to load with: %v", err)
	}
}

// Nor does it need a daemon that ever ran.
func TestReadPastWithoutRoster(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{noDaemon: true})
	v, err := w.reader(nil, nil).GetUnder(t.Context(), "product", arg("1"), nil, &fill.Demand{Past: true})
	if err != nil || v.Reason != "asked_for" || string(v.Payload) != price(1, 10) {
		t.Errorf("%+v %s, %v", v, v.Payload, err)
	}
}

// TestParameterThatOnlyADaemonTypes: PostgreSQL does not find out the type of every parameter that the planner does. Until a daemon
// has planned such an entry the error says what to do; it is no fault of the caller's argument.
func TestParameterThatOnlyADaemonTypes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{noDaemon: true})
	_, err := w.reader(nil, nil).Get(t.Context(), "any", arg("1"), nil)
	if !errors.Is(err, fill.ErrUnavailable) || errors.Is(err, fill.ErrArguments) || !strings.Contains(err.Error(), "entry any: ") ||
		!strings.Contains(err.Error(), "@id::int8") {
		t.Errorf("without a daemon: %v", err)
	}
	w.begin()
	if v, err := w.reader(nil, nil).Get(t.Context(), "any", arg("1"), nil); err != nil || string(v.Payload) != price(1, 10) {
		t.Errorf("planned: %s, %v", v.Payload, err)
	}
}

func TestEntries(t *testing.T) {
	t.Parallel()
	c, err := config.Parse("freshet.yaml", []byte(`
database: {url: postgres://app@db/shop}
source: {postgres: }
regions: [{name: local, redis: {url: redis://127.0.0.1}}]
defaults: {ttl: 1h, negative_ttl: 5s, load_timeout: 3s, ttl_jitter: 20%}
entries:
  product: {key: "product:{id}", query: SELECT id FROM products WHERE id = @id, ttl: 10m}
  code: {key: "code:{id}", depends_on: [{table: products, key: "{id}"}], result: many, on_unproved: load, on_change: {serve_stale: {for: 2s}},
    serve_stale_on_error: 10s, soft_timeout: 1s, eager_refresh: 20%, max_loads: 4, max_value: 1MiB, compress_above: 4KiB, l1: off}
`), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	product := fill.Entry{
		Declared: rule.Declared{Name: "product", Key: "product:{id}", Query: "SELECT id FROM products WHERE id = @id", Result: rule.One},
		Near:     true,
	}
	code := fill.Entry{Declared: rule.Declared{
		Name: "code", Key: "code:{id}", Result: rule.Many, DependsOn: []rule.Dependency{{Table: "products", Key: "{id}"}},
	}}
	product.TTL, code.TTL, code.LoadUnproved, code.CompressAbove = 10*time.Minute, 60*time.Minute, true, 4<<10
	for _, e := range []*fill.Entry{&product, &code} {
		e.NegativeTTL, e.LoadTimeout, e.Jitter = 5*time.Second, 3*time.Second, 0.2
	}
	product.Policy = fill.Policy{MaxValue: 64 << 20}
	code.Policy = fill.Policy{
		StaleFor: 2 * time.Second, StaleOnError: 10 * time.Second, SoftTimeout: time.Second, Eager: 0.2, MaxLoads: 4, MaxValue: 1 << 20,
	}
	if diff := cmp.Diff(map[string]fill.Entry{"product": product, "code": code}, fill.Entries(c)); diff != "" {
		t.Errorf("Entries (-want +got):\n%s", diff)
	}
}
