package fill_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/rule"
)

func TestMissThenHit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := w.reader(nil, nil)
	miss := read(t, r, 1, fill.Miss, price(1, 10))
	hit := read(t, r, 1, fill.Hit, price(1, 10))
	if hit.Name != w.name("product", "1") || miss.Name != hit.Name || miss.Reason != "" {
		t.Errorf("names %q and %q, reason %q", miss.Name, hit.Name, miss.Reason)
	}
	filled, _ := hit.Stamp()
	if since := time.Since(filled); since < -time.Second || since > 10*time.Second {
		t.Errorf("filled %v ago", since)
	}
	w.change()
	read(t, r, 1, fill.Miss, price(1, 11))
	if s := r.Stats(); s.Hits != 1 || s.Misses != 2 || s.Loads != 2 || s.Fills != 2 || s.Bypassed["store_unavailable"] != 0 {
		t.Errorf("Stats = %+v", s)
	}
}

// TestHitIsOneGet counts what the server is asked for hits: one GET for each, and no script.
func TestHitIsOneGet(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{ownRedis: true})
	r := w.reader(nil, nil)
	read(t, r, 1, fill.Miss, price(1, 10))
	w.redis.Do(t, "CONFIG", "RESETSTAT")
	const hits = 500
	for range hits {
		read(t, r, 1, fill.Hit, price(1, 10))
	}
	text, err := w.redis.Ask(t, "INFO", "commandstats").ToString()
	if err != nil {
		t.Fatal(err)
	}
	calls := map[string]int{}
	for _, found := range regexp.MustCompile(`cmdstat_([^:]+):calls=(\d+)`).FindAllStringSubmatch(text, -1) {
		calls[found[1]], _ = strconv.Atoi(found[2])
	}
	// Beside them, the roster is confirmed twice a second, and the connection says now and then that it lives.
	if calls["get"] < hits || calls["get"] > hits+20 || calls["evalsha"]+calls["eval"]+calls["set"] > 0 || calls["hmget"] > 20 {
		t.Errorf("%d hits were the commands %v", hits, calls)
	}
}

func TestNegativeAndMany(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := w.reader(nil, nil)
	read(t, r, 1000, fill.Miss, "")
	read(t, r, 1000, fill.Hit, "")
	ttl, err := w.raw.Do(t.Context(), w.raw.B().Pttl().Key(w.name("product", "1000")).Build()).AsInt64()
	if err != nil || ttl <= 8_000 || ttl > 10_000 {
		t.Errorf("a negative entry lives for %d ms, %v, want 9 to 10 s", ttl, err)
	}
	if _, err := w.db.Exec(t.Context(), "INSERT INTO product VALUES (1000, 5)"); err != nil {
		t.Fatal(err)
	}
	w.confirm(w.name("product", "1000"))
	read(t, r, 1000, fill.Miss, price(1000, 5))
	for than, want := range map[string]string{"21": `[{"id":1},{"id":2},{"id":1000}]`, "-1": `[]`} {
		for _, status := range []fill.Status{fill.Miss, fill.Hit} {
			v, err := r.Get(t.Context(), "cheaper", arg(than), nil)
			if err != nil || string(v.Payload) != want || v.Status != status || !v.Found {
				t.Errorf("cheaper than %s: %+v %s, %v", than, v, v.Payload, err)
			}
		}
	}
	ttl, err = w.raw.Do(t.Context(), w.raw.B().Pttl().Key(w.name("cheaper", "-1")).Build()).AsInt64()
	if err != nil || ttl <= 50_000 || ttl > 60_000 {
		t.Errorf("an empty list lives for %d ms, %v, want 54 to 60 s", ttl, err)
	}
}

func TestArgumentsAndEntries(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := w.reader(nil, nil)
	if _, err := r.Get(t.Context(), "nothing", nil, nil); !errors.Is(err, fill.ErrUnknownEntry) {
		t.Errorf("unknown entry: %v", err)
	}
	if _, err := r.Get(t.Context(), "product", nil, nil); !errors.Is(err, fill.ErrArguments) {
		t.Errorf("no argument: %v", err)
	}
	if _, err := r.Get(t.Context(), "code", arg("1"), nil); !errors.Is(err, fill.ErrNoLoader) {
		t.Errorf("no code to load with: %v", err)
	}
	v, err := r.Get(t.Context(), "product", []keytext.Arg{{Null: true}}, nil)
	if err != nil || v.Found || !strings.HasSuffix(v.Name, "product:%-") {
		t.Errorf("NULL: %+v, %v", v, err)
	}
	params, err := r.Params(t.Context(), "product")
	if err != nil || len(params) != 1 || params[0] != (rule.Param{Name: "id", Type: keytext.Int8}) {
		t.Errorf("Params = %v, %v", params, err)
	}
}

// TestSlowReaderWithOldRow is T1: a load that read before a write must not be stored after it.
func TestSlowReaderWithOldRow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r, _, v, old := w.heldAfter()
	w.change()
	close(v.open)
	if a := <-old; a.err != nil || string(a.value.Payload) != price(1, 10) || a.value.Reason != "lease_lost" {
		t.Errorf("the slow reader got %+v, %v", a.value, a.err)
	}
	if record, _ := w.record(w.name("product", "1")); record.State != fence.None {
		t.Errorf("the old row is stored: %s", record.Payload)
	}
	read(t, r, 1, fill.Miss, price(1, 11))
	if s := r.Stats(); s.Refused["lease_lost"] != 1 {
		t.Errorf("Stats = %+v", s)
	}
}

// TestFillRefusedAfterAConfirmGivesItsLeaseBack has the change confirmed by script, which leaves the lease to the slow reader, and a
// fence with it. When the fill is refused, nobody waits for the end of that lease.
func TestFillRefusedAfterAConfirmGivesItsLeaseBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r, _, v, old := w.heldAfter()
	x := w.reprice()
	snapshot, lsn := w.gate()
	batch := redisstore.Batch{
		Expect: w.expected(), Wi: lsn, Si: snapshot, Advance: lsn, Sa: snapshot,
		Keys: []redisstore.Stamped{{Name: w.name("product", "1"), Stamps: []fence.Stamp{{XID: x, End: lsn}}}},
	}
	if _, err := w.daemon.Apply(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	w.head.Wc = lsn
	// Whoever comes now does not wait for a load from before the change.
	read(t, r, 1, fill.Bypass, price(1, 11))
	close(v.open)
	if a := <-old; a.err != nil || string(a.value.Payload) != price(1, 10) || a.value.Reason != "not_covering" {
		t.Errorf("the slow reader got %+v, %v", a.value, a.err)
	}
	if record, _ := w.record(w.name("product", "1")); record.State != fence.None || !record.Lease.IsZero() {
		t.Errorf("the record is %+v", record)
	}
	read(t, r, 1, fill.Miss, price(1, 11))
	if s := r.Stats(); s.Refused["not_covering"] != 1 || s.Waits != 1 || s.Fills != 1 {
		t.Errorf("Stats = %+v", s)
	}
}

// TestLoadFromBeforeTheLease is T14: a load under a snapshot from before the confirm, under a lease from after it.
func TestLoadFromBeforeTheLease(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	conn, err := pgx.Connect(t.Context(), w.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	// The transaction is open, and its snapshot taken, before the write.
	early := &inTransaction{Loader: w.loader, conn: conn}
	early.begin(t)
	w.change()
	r := w.reader(nil, early)
	if v := read(t, r, 1, fill.Miss, price(1, 10)); v.Reason != "below_floor" {
		t.Errorf("Reason = %q", v.Reason)
	}
	if record, _ := w.record(w.name("product", "1")); record.State != fence.None || !record.Lease.IsZero() {
		t.Errorf("the record is %+v", record)
	}
	if s := r.Stats(); s.Refused["below_floor"] != 1 || s.Fills != 0 {
		t.Errorf("Stats = %+v", s)
	}
}

// inTransaction loads in one transaction that stays open, as an application's own code might.
type inTransaction struct {
	fill.Loader
	conn *pgx.Conn
	rest pgload.Loaded
}

func (l *inTransaction) begin(t *testing.T) {
	t.Helper()
	if _, err := l.conn.Exec(t.Context(), "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT"); err != nil {
		t.Fatal(err)
	}
	var err error
	if l.rest, err = l.Loader.Load(t.Context(), "SELECT 1 AS one", rule.One, nil); err != nil {
		t.Fatal(err)
	}
}

func (l *inTransaction) Load(ctx context.Context, sql string, _ rule.Result, args []keytext.Arg) (pgload.Loaded, error) {
	loaded := l.rest
	err := l.conn.QueryRow(ctx, "SELECT row_to_json(q)::text FROM ("+sql+") q", args[0].Text).Scan(&loaded.Payload)
	return loaded, err
}

// TestRefusedLoads has loads whose rows are for their callers only; which they are is pgload's part.
func TestRefusedLoads(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	tests := []struct {
		name, reason string
		change       func(*pgload.Loaded)
	}{
		{"other system", "other_server", func(l *pgload.Loaded) { l.Server.System = "1" }},
		{"other timeline", "other_server", func(l *pgload.Loaded) { l.Server.Timeline = 7 }},
		{"refused by the statement", "load_not_fillable", func(l *pgload.Loaded) { l.Refuse, l.Coverage = "it wrote", fence.Coverage{} }},
	}
	for i, tt := range tests {
		r := w.reader(nil, &altered{Loader: w.loader, change: tt.change})
		if v := read(t, r, i+1, fill.Miss, price(i+1, 10*(i+1))); v.Reason != tt.reason {
			t.Errorf("%s: reason %q, want %q", tt.name, v.Reason, tt.reason)
		}
		if record, _ := w.record(w.name("product", strconv.Itoa(i+1))); record.State != fence.None || !record.Lease.IsZero() {
			t.Errorf("%s: the record is %+v", tt.name, record)
		}
	}
}

// altered is the real loader, connected to a server that differs in one point.
type altered struct {
	fill.Loader
	change func(*pgload.Loaded)
}

func (l *altered) Load(ctx context.Context, sql string, result rule.Result, args []keytext.Arg) (pgload.Loaded, error) {
	loaded, err := l.Loader.Load(ctx, sql, result, args)
	l.change(&loaded)
	return loaded, err
}

func TestCodeLoads(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := w.reader(nil, nil)
	load := func(ctx context.Context, q pgload.Querier) ([]byte, bool, error) {
		var p int
		err := q.QueryRow(ctx, "SELECT price FROM product WHERE id = 3").Scan(&p)
		return fmt.Appendf(nil, `%d`, p), true, err
	}
	for _, status := range []fill.Status{fill.Miss, fill.Hit} {
		v, err := r.Get(t.Context(), "code", arg("3"), load)
		if err != nil || v.Status != status || string(v.Payload) != "30" {
			t.Fatalf("Get = %+v %s, %v", v, v.Payload, err)
		}
	}
	// What is cached is served also to those who could not load it.
	if v, err := r.Get(t.Context(), "code", arg("3"), nil); err != nil || v.Status != fill.Hit {
		t.Errorf("Get = %+v, %v", v, err)
	}
}

func TestCorruptRecordIsAMiss(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := w.reader(nil, nil)
	for n, text := range []string{
		"\x00 not a record",
		"f1 V y - - s:0000000000000002:0000000000000002: - 0000000000000001\n" + price(1, 9), // a flag of a later freshet
		"f1 V ky - - s:0000000000000002:0000000000000002: - 0000000000000001 0000000000000001\n" + price(1, 9),
		"f1 v ky - - s:0000000000000002:0000000000000002: - 0000000000000001 0000000000000001\n" + price(1, 9),
	} {
		w.put(w.name("product", "1"), []byte(text))
		read(t, r, 1, fill.Miss, price(1, 10))
		read(t, r, 1, fill.Hit, price(1, 10))
		w.put(w.name("product", "1"), []byte(text))
		if a := r.GetMany(t.Context(), "product", [][]keytext.Arg{arg("1")}, &fill.Demand{})[0]; a.Err != nil || a.Value.Status != fill.Miss {
			t.Errorf("%q, of many: %v %v", text, a.Value.Status, a.Err)
		}
		if s := r.Stats(); s.Corrupt < uint64(2*(n+1)) {
			t.Errorf("%q was not counted: %+v", text, s)
		}
	}
}

func TestFailedLoadGivesItsLeaseBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := w.reader(nil, nil)
	own := errors.New("no such luck")
	_, err := r.Get(t.Context(), "code", arg("1"), func(context.Context, pgload.Querier) ([]byte, bool, error) { return nil, false, own })
	if !errors.Is(err, own) {
		t.Fatalf("error = %v", err)
	}
	if record, text := w.record(w.name("code", "1")); text != nil && !record.Lease.IsZero() {
		t.Errorf("the lease is still there: %+v", record)
	}
}

func TestLoadTimeout(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	entries := map[string]fill.Entry{"product": {Declared: declarations()["product"], LoadTimeout: 200 * time.Millisecond}}
	hangs := &slow{Loader: w.loader, before: func(ctx context.Context) { <-ctx.Done() }}
	r := w.readerOf(nil, hangs, entries)
	start := time.Now()
	first := background(t.Context(), r, "1")
	second := background(t.Context(), r, "1")
	for _, done := range []<-chan answer{first, second} {
		if a := <-done; !errors.Is(a.err, fill.ErrTimeout) {
			t.Errorf("error = %v", a.err)
		}
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("the readers waited for %v", took)
	}
}

func TestClose(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r, _, _, waits := w.heldBefore()
	r.Close()
	if a := <-waits; !errors.Is(a.err, fill.ErrClosed) {
		t.Errorf("error = %v", a.err)
	}
	if _, err := r.Get(t.Context(), "product", arg("2"), nil); !errors.Is(err, fill.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	r.Close()
}
