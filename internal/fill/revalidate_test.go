package fill_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/mvcc"
)

// comparing is the real loader, with what its comparisons were asked and found, and with steps around each that the test
// decides.
type comparing struct {
	fill.Loader
	before, after func(context.Context)

	mu    sync.Mutex
	asked []pgload.Query
	known []pgload.Known
	found []pgload.Loaded
	loads int // of whole values
}

func (c *comparing) LoadChanged(ctx context.Context, q pgload.Query, args []keytext.Arg, known pgload.Known) (pgload.Loaded, error) {
	if c.before != nil {
		c.before(ctx)
	}
	loaded, err := c.Loader.LoadChanged(ctx, q, args, known)
	c.mu.Lock()
	c.asked, c.known, c.found = append(c.asked, q), append(c.known, known), append(c.found, loaded)
	c.mu.Unlock()
	if c.after != nil {
		c.after(ctx)
	}
	return loaded, err
}

func (c *comparing) Load(ctx context.Context, sql string, result rule.Result, args []keytext.Arg) (pgload.Loaded, error) {
	c.mu.Lock()
	c.loads++
	c.mu.Unlock()
	return c.Loader.Load(ctx, sql, result, args)
}

// last is what the last comparison was asked and found, of as many as there were.
func (c *comparing) last() (n int, known pgload.Known, found pgload.Loaded) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n = len(c.found); n == 0 {
		return 0, known, found
	}
	return n, c.known[n-1], c.found[n-1]
}

func revalidated() *fill.Demand { return &fill.Demand{Revalidate: true} }

// TestRevalidate: a value that is still right is not fetched, and is known to be right since; one that is not is replaced.
func TestRevalidate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	loader := &comparing{Loader: w.loader}
	r := w.reader(nil, loader)
	under(t, r, 1, revalidated(), fill.Miss, price(1, 10)) // nothing is cached
	before, _ := w.record(w.name("product", "1"))
	if err := w.raw.Do(t.Context(), w.raw.B().Pexpire().Key(w.name("product", "1")).Milliseconds(5000).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	w.write(2, 21) // so that a later snapshot sees more
	under(t, r, 1, revalidated(), fill.Revalidated, price(1, 10))
	after, _ := w.record(w.name("product", "1"))
	if n, _, found := loader.last(); n != 1 || found.Same != pgload.SameDigest || found.Payload != nil {
		t.Errorf("%d comparisons, the last one found %+v", n, found)
	}
	if !after.Coverage.Dominates(before.Coverage) || before.Coverage.Dominates(after.Coverage) || after.Filled <= before.Filled || !after.Lease.IsZero() {
		t.Errorf("renewed: %+v, before %+v", after, before)
	}
	if ttl, err := w.raw.Do(t.Context(), w.raw.B().Pttl().Key(w.name("product", "1")).Build()).AsInt64(); err != nil || ttl < 50_000 {
		t.Errorf("a renewed value lives for %d ms, %v", ttl, err)
	}
	w.reprice() // nobody confirms it
	read(t, r, 1, fill.Hit, price(1, 10))
	under(t, r, 1, revalidated(), fill.Miss, price(1, 11))
	read(t, r, 1, fill.Hit, price(1, 11))
	if s := r.Stats(); s.Loads != 3 || s.Fills != 3 || s.Renewals != 1 || s.Revalidations != 2 || s.Unchanged != 1 || s.Hits != 2 {
		t.Errorf("Stats = %+v", s)
	}
}

// TestRevalidateWhatIsNotThere, comes to be there, and goes.
func TestRevalidateWhatIsNotThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := w.reader(nil, nil)
	exec := func(sql string) {
		if _, err := w.db.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	under(t, r, 1000, revalidated(), fill.Miss, "")
	before, _ := w.record(w.name("product", "1000"))
	under(t, r, 1000, revalidated(), fill.Revalidated, "")
	if after, _ := w.record(w.name("product", "1000")); after.State != fence.Negative || after.Filled <= before.Filled {
		t.Errorf("renewed: %+v", after)
	}
	if ttl, err := w.raw.Do(t.Context(), w.raw.B().Pttl().Key(w.name("product", "1000")).Build()).AsInt64(); err != nil || ttl <= 8_000 || ttl > 10_000 {
		t.Errorf("it lives for %d ms, %v, want 9 to 10 s", ttl, err)
	}
	exec("INSERT INTO product VALUES (1000, 5)")
	under(t, r, 1000, revalidated(), fill.Miss, price(1000, 5))
	under(t, r, 1000, revalidated(), fill.Revalidated, price(1000, 5))
	exec("DELETE FROM product WHERE id = 1000")
	under(t, r, 1000, revalidated(), fill.Miss, "")
	read(t, r, 1000, fill.Hit, "")
	for range 2 {
		v, err := r.GetUnder(t.Context(), "cheaper", arg("-1"), nil, revalidated())
		if err != nil || string(v.Payload) != "[]" || !v.Found {
			t.Errorf("an empty list: %+v %s, %v", v, v.Payload, err)
		}
	}
	if s := r.Stats(); s.Renewals != 3 {
		t.Errorf("Stats = %+v", s)
	}
}

// TestRevalidateByCode: what code loads is compared here, and spares the store the value.
func TestRevalidateByCode(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := w.reader(nil, nil)
	load := func(ctx context.Context, q pgload.Querier) (payload []byte, found bool, err error) {
		var p int
		err = q.QueryRow(ctx, "SELECT price FROM product WHERE id = 1").Scan(&p)
		return []byte(strconv.Itoa(p)), true, err
	}
	for i, want := range []fill.Status{fill.Miss, fill.Revalidated, fill.Miss} {
		if i == 2 {
			w.reprice()
		}
		v, err := r.GetUnder(t.Context(), "code", arg("1"), load, revalidated())
		if err != nil || v.Status != want || v.Reason != "" {
			t.Errorf("read %d: %v %s %s, %v", i, v.Status, v.Payload, v.Reason, err)
		}
	}
	if s := r.Stats(); s.Renewals != 1 || s.Fills != 3 {
		t.Errorf("Stats = %+v", s)
	}
	if _, err := r.GetUnder(t.Context(), "code", arg("1"), nil, revalidated()); !errors.Is(err, fill.ErrNoLoader) {
		t.Errorf("without the code: %v", err)
	}
}

// TestRevalidateWithoutCache goes to the database.
func TestRevalidateWithoutCache(t *testing.T) {
	t.Parallel()
	bare := newWorld(t, options{noDaemon: true})
	under(t, bare.reader(nil, nil), 1, revalidated(), fill.Bypass, price(1, 10))
	w := newWorld(t, options{ownRedis: true})
	r := w.reader(nil, nil)
	read(t, r, 1, fill.Miss, price(1, 10))
	if err := w.raw.Do(t.Context(), w.raw.B().ConfigSet().ParameterValue().ParameterValue("maxmemory", "1").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	w.reprice()
	if v, err := r.GetUnder(t.Context(), "product", arg("1"), nil, revalidated()); err != nil || v.Reason != "store_full" || string(v.Payload) != price(1, 11) {
		t.Errorf("a full store: %+v, %v", v, err)
	}
	w.redis.Kill(t)
	under(t, r, 1, revalidated(), fill.Bypass, price(1, 11))
	if _, err := r.GetUnder(t.Context(), "nothing", nil, nil, revalidated()); !errors.Is(err, fill.ErrUnknownEntry) {
		t.Errorf("unknown entry: %v", err)
	}
}

// TestChangedBetweenComparisonAndRenew: the comparison finds the same, and then the row is changed, or the lease is lost, before
// the store hears of it. The reader gets what was there when it asked; and nothing is renewed that lacks the change.
func TestChangedBetweenComparisonAndRenew(t *testing.T) {
	t.Parallel()
	type race struct {
		between func(w *world, name string)
		reason  string
		left    fence.State // of the record
		next    fill.Status // of a plain read after it, which must show what the database has
		value   string
	}
	confirmByScript := func(w *world, name string, x fence.Stamp) {
		snapshot, end := w.gate()
		batch := redisstore.Batch{
			Expect: w.expected(), Wi: end, Si: snapshot, Advance: end, Sa: snapshot, Keys: []redisstore.Stamped{{Name: name, Stamps: []fence.Stamp{x}}},
		}
		if _, err := w.daemon.Apply(w.t.Context(), batch); err != nil {
			w.t.Fatal(err)
		}
		w.head.Wc = end
	}
	do := func(w *world, command ...string) {
		if err := w.raw.Do(w.t.Context(), w.raw.B().Arbitrary(command...).Build()).Error(); err != nil {
			w.t.Fatal(err)
		}
	}
	for what, tt := range map[string]race{
		"changed, and confirmed by UNLINK": {
			func(w *world, _ string) { w.change() }, "lease_lost", fence.None, fill.Miss, price(1, 11),
		},
		"changed, and confirmed by script": {
			func(w *world, name string) {
				confirmByScript(w, name, w.committed("UPDATE product SET price = 11 WHERE id = 1"))
			}, "not_covering", fence.None, fill.Miss, price(1, 11),
		},
		"changed, and fenced before it is visible": {
			func(w *world, name string) { w.early(name, w.committed("UPDATE product SET price = 11 WHERE id = 1")) },
			"not_covering", fence.None, fill.Miss, price(1, 11),
		},
		"evicted": {
			func(w *world, name string) { do(w, "DEL", name) }, "lease_lost", fence.None, fill.Miss, price(1, 10),
		},
		"evicted, and leased by another": {
			func(w *world, name string) {
				do(w, "DEL", name)
				if _, err := w.store.Lease(w.t.Context(), name, fence.Token(strings.Repeat("c", 32)), time.Minute); err != nil {
					w.t.Fatal(err)
				}
			}, "lease_lost", fence.None, fill.Bypass, price(1, 10),
		},
		"its lease over, another's value there": {
			func(w *world, name string) {
				record, _ := w.record(name)
				record.Lease.End = 1
				w.put(name, record.Append(nil))
				w.reprice()
				token := fence.Token(strings.Repeat("c", 32))
				reply, err := w.store.Lease(w.t.Context(), name, token, time.Minute)
				if err != nil || !reply.Granted {
					w.t.Fatalf("Lease = %+v, %v", reply, err)
				}
				snapshot, _ := w.gate()
				outcome, err := w.store.Fill(w.t.Context(), name, redisstore.FillRequest{
					Token: token, Coverage: fence.Coverage{Snapshot: snapshot}, State: fence.Live, Payload: []byte(price(1, 11)), TTL: time.Minute,
				})
				if err != nil || outcome != fence.Filled {
					w.t.Fatalf("Fill = %v, %v", outcome, err)
				}
			}, "lease_lost", fence.Live, fill.Hit, price(1, 11),
		},
		"its lease over": {
			func(w *world, name string) {
				record, _ := w.record(name)
				record.Lease.End = 1
				w.put(name, record.Append(nil))
			}, "lease_ended", fence.Live, fill.Hit, price(1, 10),
		},
		"a fence that it covers": { // of a transaction that was over when it asked
			func(w *world, name string) {
				w.early(name, fence.Stamp{XID: 3, End: 1})
			}, "", fence.Live, fill.Hit, price(1, 10),
		},
		"names moved": {
			func(w *world, _ string) { w.move(w.newRoster(2)) }, "", fence.Live, fill.Miss, price(1, 10),
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, options{})
			v := newValve()
			r := w.reader(nil, &comparing{Loader: w.loader, after: v.pass})
			read(t, r, 1, fill.Miss, price(1, 10))
			name := w.name("product", "1")
			done := make(chan answer, 1)
			go func() {
				v, err := r.GetUnder(t.Context(), "product", arg("1"), nil, revalidated())
				done <- answer{v, err}
			}()
			<-v.reached
			tt.between(w, name)
			close(v.open)
			a := <-done
			if a.err != nil || a.value.Status != fill.Revalidated || string(a.value.Payload) != price(1, 10) || a.value.Reason != tt.reason {
				t.Errorf("the reader got %v %s (%s), %v", a.value.Status, a.value.Payload, a.value.Reason, a.err)
			}
			if record, _ := w.record(name); record.State != tt.left {
				t.Errorf("the record is %+v", record)
			}
			eventually(t, func() error { // a reader whose names have moved needs a moment
				v, err := r.Get(t.Context(), "product", arg("1"), nil)
				if err != nil || string(v.Payload) != tt.value || v.Status != tt.next {
					return fmt.Errorf("then %v %s, %w, want %v %s", v.Status, v.Payload, err, tt.next, tt.value)
				}
				return nil
			})
		})
	}
}

// TestTouchedBeforeTheComparison: a transaction writes the row and changes nothing of the value; its confirm takes the value away,
// which does not contain it, and leaves the lease of a reader that has seen it. What the reader has can be stored again.
func TestTouchedBeforeTheComparison(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	before, after := newValve(), newValve()
	r := w.reader(nil, &comparing{Loader: w.loader, before: before.pass, after: after.pass})
	read(t, r, 1, fill.Miss, price(1, 10))
	name := w.name("product", "1")
	done := make(chan answer, 1)
	go func() {
		v, err := r.GetUnder(t.Context(), "product", arg("1"), nil, revalidated())
		done <- answer{v, err}
	}()
	<-before.reached
	x := w.committed("UPDATE product SET price = 10 WHERE id = 1")
	close(before.open)
	<-after.reached
	w.early(name, x)
	if record, _ := w.record(name); record.State != fence.None || record.Lease.IsZero() {
		t.Fatalf("the record is %+v", record)
	}
	close(after.open)
	if a := <-done; a.err != nil || a.value.Status != fill.Revalidated || a.value.Reason != "" {
		t.Errorf("the reader got %+v, %v", a.value, a.err)
	}
	record, _ := w.record(name)
	if record.State != fence.Live || string(record.Payload) != price(1, 10) || !record.Coverage.Covers(x) || len(record.Fences) != 0 {
		t.Errorf("the record is %+v", record)
	}
	if s := r.Stats(); s.Renewals != 0 || s.Fills != 2 {
		t.Errorf("Stats = %+v", s)
	}
}

// TestComparisonThatMayNotBeStored: what a FILL would be refused for, a RENEW is.
func TestComparisonThatMayNotBeStored(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	conn, err := pgx.Connect(t.Context(), w.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	name := w.name("product", "1")
	read(t, w.reader(nil, nil), 1, fill.Miss, price(1, 10))
	stored, _ := w.record(name)
	same := func(change func(*pgload.Loaded)) *answering {
		return &answering{Loader: w.loader, change: change}
	}
	for reason, loader := range map[string]fill.Loader{
		"load_not_fillable": same(func(l *pgload.Loaded) { l.Refuse = "for the test" }),
		"other_server":      same(func(l *pgload.Loaded) { l.Server.Timeline = 7 }),
		"below_floor": same(func(l *pgload.Loaded) { // T14: a snapshot from before the lease
			l.Coverage.Snapshot = mvcc.Snapshot{Xmin: 3, Xmax: 3}
		}),
	} {
		r := w.reader(nil, loader)
		v, err := r.GetUnder(t.Context(), "product", arg("1"), nil, revalidated())
		if err != nil || v.Status != fill.Revalidated || v.Reason != reason || string(v.Payload) != price(1, 10) {
			t.Errorf("%s: %v %s (%s), %v", reason, v.Status, v.Payload, v.Reason, err)
		}
		if record, _ := w.record(name); record.Filled != stored.Filled || !record.Lease.IsZero() {
			t.Errorf("%s: the record is %+v", reason, record)
		}
		if s := r.Stats(); s.Refused[reason] != 1 || s.Renewals != 0 {
			t.Errorf("%s: Stats = %+v", reason, s)
		}
	}
}

// answering is the real loader, whose comparisons say something else.
type answering struct {
	fill.Loader
	change func(*pgload.Loaded)
}

func (a *answering) LoadChanged(ctx context.Context, q pgload.Query, args []keytext.Arg, known pgload.Known) (pgload.Loaded, error) {
	loaded, err := a.Loader.LoadChanged(ctx, q, args, known)
	a.change(&loaded)
	return loaded, err
}

// TestRevalidationsOfOneKey: each of them begins after its call, those that come while one is under way share the next, and all of
// them see what was written before they came.
func TestRevalidationsOfOneKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	v := newValve()
	loader := &comparing{Loader: w.loader, after: v.pass}
	r := w.reader(nil, loader)
	read(t, r, 1, fill.Miss, price(1, 10))
	ask := func() <-chan answer {
		done := make(chan answer, 1)
		go func() {
			v, err := r.GetUnder(t.Context(), "product", arg("1"), nil, revalidated())
			done <- answer{v, err}
		}()
		return done
	}
	first := ask()
	<-v.reached
	w.reprice() // nobody confirms it: the lease stands, and the value over which it was granted
	var later []<-chan answer
	for range 30 {
		later = append(later, ask())
	}
	eventually(t, waiting(r, 30))
	for _, done := range later {
		if a := <-done; a.err != nil || string(a.value.Payload) != price(1, 11) {
			t.Errorf("one that came after the change got %v %s, %v", a.value.Status, a.value.Payload, a.err)
		}
	}
	close(v.open)
	if a := <-first; a.err != nil || a.value.Status != fill.Revalidated || string(a.value.Payload) != price(1, 10) {
		t.Errorf("the first one got %v %s, %v", a.value.Status, a.value.Payload, a.err)
	}
	if n, _, _ := loader.last(); n > 20 || loader.loads > 1 {
		t.Errorf("31 reads made %d comparisons and %d loads", n, loader.loads)
	}
}

// TestUnprovedIsRevalidated: by default, what a token, a session or a bound cannot be shown of is compared; an entry may have it
// loaded.
func TestUnprovedIsRevalidated(t *testing.T) {
	t.Parallel()
	for _, loads := range []bool{false, true} {
		w := newWorld(t, options{})
		loader := &comparing{Loader: w.loader}
		r := w.readerOf(nil, loader, map[string]fill.Entry{"product": {Declared: declarations()["product"], TTL: time.Minute, LoadUnproved: loads}})
		read(t, r, 1, fill.Miss, price(1, 10))
		same := fill.Revalidated
		if loads {
			same = fill.Miss
		}
		// The daemon stands still from here on: HEAD proves nothing of what comes.
		var session fill.Session
		for _, tt := range []struct {
			name   string
			demand func() *fill.Demand
		}{
			{"token", func() *fill.Demand { return after(w.write(2, 21)) }},
			{"session", func() *fill.Demand { session.Observe(w.write(3, 31)); return &fill.Demand{Session: &session} }},
			{"bound", func() *fill.Demand { return within(time.Minute) }},
		} {
			r.ForgetSights()
			d := tt.demand()
			v, err := r.GetUnder(t.Context(), "product", arg("1"), nil, d)
			if err != nil || v.Status != same || string(v.Payload) != price(1, 10) || v.Reason != "" {
				t.Errorf("%s: %v %s (%s), %v, want %v", tt.name, v.Status, v.Payload, v.Reason, err, same)
			}
			v, err = r.GetUnder(t.Context(), "product", arg("1"), nil, d)
			if err != nil || v.Status != fill.Hit {
				t.Errorf("%s, again: %v %s (%s), %v, want it to be proved now", tt.name, v.Status, v.Payload, v.Reason, err)
			}
		}
		under(t, r, 1, after(w.write(1, 12)), fill.Miss, price(1, 12))
		n, _, _ := loader.last()
		if loads && n != 0 || !loads && (n != 4 || loader.loads != 1) {
			t.Errorf("load %v: %d comparisons, %d loads", loads, n, loader.loads)
		}
		under(t, r, 1, revalidated(), fill.Revalidated, price(1, 12)) // who asks for it by name gets it
	}
}

// TestRevalidateUnderTokens: both are met, and a token that nobody can have is refused at once.
func TestRevalidateUnderTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := w.reader(nil, nil)
	read(t, r, 1, fill.Miss, price(1, 10))
	token := w.write(2, 21)
	under(t, r, 1, &fill.Demand{Revalidate: true, After: []mvcc.Token{token}}, fill.Revalidated, price(1, 10))
	under(t, r, 1, after(token), fill.Hit, price(1, 10)) // its coverage says so now
	var session fill.Session
	under(t, r, 2, &fill.Demand{Session: &session, Revalidate: true}, fill.Miss, price(2, 21))
	w.write(1, 12)
	under(t, r, 1, &fill.Demand{Session: &session, Revalidate: true, Bounded: true, MaxStale: time.Hour}, fill.Miss, price(1, 12))
	token.XID += 1 << 40
	w.loads = hurried
	if _, err := w.reader(nil, nil).GetUnder(t.Context(), "product", arg("1"), nil, &fill.Demand{Revalidate: true, After: []mvcc.Token{token}}); !errors.Is(err, fill.ErrTokenNotReached) {
		t.Errorf("a token of the future: %v", err)
	}
	token.System = "7"
	if _, err := r.GetUnder(t.Context(), "product", arg("1"), nil, &fill.Demand{Revalidate: true, After: []mvcc.Token{token}}); !errors.Is(err, fill.ErrForeignToken) {
		t.Errorf("a token of another cluster: %v", err)
	}
}
