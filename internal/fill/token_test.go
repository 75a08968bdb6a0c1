package fill_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/mvcc"
)

const tokenQuery = `SELECT system_identifier || '.' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) || '.' || pg_current_xact_id()
	FROM pg_control_system()`

// write sets a price and returns the token of the transaction, as any session would compute it.
func (w *world) write(id, price int) mvcc.Token {
	w.t.Helper()
	var text string
	err := pgx.BeginFunc(w.t.Context(), w.db, func(tx pgx.Tx) error {
		if _, err := tx.Exec(w.t.Context(), "UPDATE product SET price = $2 WHERE id = $1", id, price); err != nil {
			return err
		}
		return tx.QueryRow(w.t.Context(), tokenQuery).Scan(&text)
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.token(text)
}

func (w *world) token(text string) mvcc.Token {
	w.t.Helper()
	token, err := mvcc.ParseToken(text)
	if err != nil {
		w.t.Fatal(err)
	}
	return token
}

// after is the position that a writer reads once COMMIT has returned.
func (w *world) after(token mvcc.Token) mvcc.Token {
	w.t.Helper()
	_, token.After = w.gate()
	return token
}

func after(tokens ...mvcc.Token) *fill.Demand { return &fill.Demand{After: tokens} }

// under reads product id under a demand and checks what comes. What the process has seen itself counts for nothing.
func under(t *testing.T, r *fill.Reader, id int, d *fill.Demand, status fill.Status, payload string) {
	t.Helper()
	r.ForgetSights()
	v, err := r.GetUnder(t.Context(), "product", arg(strconv.Itoa(id)), nil, d)
	if err != nil {
		t.Fatal(err)
	}
	if v.Status != status || string(v.Payload) != payload || v.Found != (payload != "") {
		t.Fatalf("GetUnder(%d) = %v %v %s (%s), want %v %s", id, v.Found, v.Status, v.Payload, v.Reason, status, payload)
	}
}

// TestTokenIsContained: a cached value that does not contain the write is not served to who has its token, is replaced by
// one that does, and served to everybody else until the daemon has come that far.
func TestTokenIsContained(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := w.reader(nil, nil)
	read(t, r, 1, fill.Miss, price(1, 10))
	token := w.write(1, 11)
	read(t, r, 1, fill.Hit, price(1, 10)) // nobody asked for more
	under(t, r, 1, after(token), fill.Miss, price(1, 11))
	under(t, r, 1, after(token), fill.Hit, price(1, 11)) // it is stored, and its coverage says so
	read(t, r, 1, fill.Hit, price(1, 11))
	if s := r.Stats(); s.Loads != 2 || s.Fills != 2 || s.Unproven != 1 {
		t.Errorf("Stats = %+v", s)
	}
}

// TestTokenByHead: a value that was cached before the write is served when HEAD vouches that the write does not affect it.
func TestTokenByHead(t *testing.T) {
	t.Parallel()
	for _, by := range []string{"sa", "wc"} {
		t.Run(by, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, options{})
			r := w.reader(nil, nil)
			read(t, r, 2, fill.Miss, price(2, 20))
			token := w.write(1, 11)
			if by == "wc" {
				// A transaction that is visible and hangs in no Sa: the position alone says that it is confirmed.
				token = w.after(token)
				token.XID += 1000
			}
			w.confirm(w.name("product", "1"))
			under(t, r, 2, after(token), fill.Hit, price(2, 20))
			under(t, r, 1, after(w.write(3, 33), w.token(token.System+".00000001.3")), fill.Miss, price(1, 11))
		})
	}
}

// TestTokenOfARowThatIsGone has negative entries, both ways.
func TestTokenOfARowThatIsGone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := w.reader(nil, nil)
	read(t, r, 500, fill.Miss, "")
	read(t, r, 500, fill.Hit, "")
	var text string
	exec := func(sql string) mvcc.Token {
		t.Helper()
		if err := w.db.QueryRow(t.Context(), sql).Scan(&text); err != nil {
			t.Fatal(err)
		}
		return w.token(text)
	}
	with := func(change string) string { return "WITH x AS (" + change + ") " + tokenQuery }
	under(t, r, 500, after(exec(with("INSERT INTO product VALUES (500, 5)"))), fill.Miss, price(500, 5))
	gone := exec(with("DELETE FROM product WHERE id = 500"))
	read(t, r, 500, fill.Hit, price(500, 5))
	under(t, r, 500, after(gone), fill.Miss, "")
	under(t, r, 500, after(gone), fill.Hit, "")
}

// TestTokenOfAHungCommit: the log has it and the database does not show it. The read waits for it, and for no longer than
// the load timeout.
func TestTokenOfAHungCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := w.reader(nil, nil)
	read(t, r, 1, fill.Miss, price(1, 10))
	tx, err := w.db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var text string
	if _, err := tx.Exec(t.Context(), "UPDATE product SET price = 11 WHERE id = 1"); err != nil {
		t.Fatal(err)
	}
	if err := tx.QueryRow(t.Context(), tokenQuery).Scan(&text); err != nil {
		t.Fatal(err)
	}
	token := w.token(text)
	w.loads = hurried
	began := time.Now()
	_, err = w.reader(nil, nil).GetUnder(t.Context(), "product", arg("1"), nil, after(token))
	if took := time.Since(began); !errors.Is(err, fill.ErrTokenNotReached) || took < hurried/2 || took > 3*hurried {
		t.Errorf("a transaction that is open: %v after %v", err, took)
	}
	done := backgroundUnder(t.Context(), r, "1", after(token))
	pause(t, 100*time.Millisecond)
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a := <-done; a.err != nil || string(a.value.Payload) != price(1, 11) {
		t.Errorf("once it is committed: %s, %v", a.value.Payload, a.err)
	}
}

// TestTokensThatNobodyCanHave: of another cluster, of the future, of an older and a later timeline.
func TestTokensThatNobodyCanHave(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.loads = hurried
	r := w.reader(nil, nil)
	read(t, r, 1, fill.Miss, price(1, 10))
	good := w.write(1, 11)
	for name, c := range map[string]struct {
		change func(*mvcc.Token)
		want   error
	}{
		"another cluster": {func(t *mvcc.Token) { t.System = "7" }, fill.ErrForeignToken},
		"the future":      {func(t *mvcc.Token) { t.XID += 1 << 40 }, fill.ErrTokenNotReached},
		"later timeline":  {func(t *mvcc.Token) { t.Timeline = 2 }, fill.ErrTokenNotReached},
	} {
		token := good
		c.change(&token)
		if _, err := r.GetUnder(t.Context(), "product", arg("1"), nil, after(token)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	// The database was promoted since: what HEAD and coverages say of ids does not count, the database's word does.
	w.head.Timeline = 2
	if err := w.daemon.NewGeneration(t.Context(), w.head); err != nil {
		t.Fatal(err)
	}
	w.move(w.newRoster(2))
	v, err := r.GetUnder(t.Context(), "product", arg("1"), nil, after(good))
	if err != nil || v.Status == fill.Hit || string(v.Payload) != price(1, 11) {
		t.Errorf("an older timeline: %v %s, %v", v.Status, v.Payload, err)
	}
}

// TestTokenOutlivesTheGeneration, and needs neither store nor roster.
func TestTokenOutlivesTheGeneration(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{ownRedis: true})
	r := w.reader(nil, nil)
	read(t, r, 1, fill.Miss, price(1, 10))
	token := w.write(1, 11)
	w.begin()
	under(t, r, 1, after(token), fill.Miss, price(1, 11))
	under(t, r, 1, after(token), fill.Hit, price(1, 11))
	roster := w.newRoster(2)
	roster.Entries["product"].Suspended = "for the test"
	w.move(roster)
	eventually(t, func() error {
		v, err := r.GetUnder(t.Context(), "product", arg("1"), nil, after(w.write(1, 12)))
		if err != nil || string(v.Payload) != price(1, 12) || v.Reason != "suspended" {
			return fmt.Errorf("suspended: %s %s, %w", v.Payload, v.Reason, err)
		}
		return nil
	})
	w.redis.Kill(t)
	under(t, r, 1, after(w.write(1, 13)), fill.Bypass, price(1, 13))
	bare := newWorld(t, options{noDaemon: true})
	token = bare.write(1, 14)
	under(t, bare.reader(nil, nil), 1, after(token), fill.Bypass, price(1, 14))
	token.System = "7"
	if _, err := bare.reader(nil, nil).GetUnder(t.Context(), "product", arg("1"), nil, after(token)); !errors.Is(err, fill.ErrForeignToken) {
		t.Errorf("foreign, without a daemon: %v", err)
	}
}

// TestForgedTokensDoNotStampede: however many reads wait for transactions that do not exist, the database is asked for few
// rows, and other reads go on.
func TestForgedTokensDoNotStampede(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	loader := &slow{Loader: w.loader}
	w.loads = hurried
	r := w.reader(nil, loader)
	read(t, r, 1, fill.Miss, price(1, 10))
	honest := w.write(2, 21)
	var group sync.WaitGroup
	const flood = 300
	for i := range flood {
		group.Go(func() {
			forged := honest
			forged.XID += mvcc.XID(1_000_000 + i)
			if i%3 == 0 {
				forged.System = "7"
			}
			_, err := r.GetUnder(t.Context(), "product", arg("1"), nil, after(forged))
			// On a busy machine their one load may not come to an end within the load timeout either.
			if !errors.Is(err, fill.ErrTokenNotReached) && !errors.Is(err, fill.ErrForeignToken) && !errors.Is(err, fill.ErrTimeout) {
				t.Errorf("a forged token: %v", err)
			}
		})
	}
	eventually(t, func() error {
		if r.Stats().Unproven < flood/4 {
			return errors.New("few have asked yet")
		}
		return nil
	})
	began := time.Now()
	under(t, r, 2, after(honest), fill.Miss, price(2, 21))
	t.Logf("an honest read took %v beside them", time.Since(began))
	group.Wait()
	if loads := loader.count.Load(); loads > flood/4 {
		t.Errorf("%d loads for %d forged tokens", loads, flood)
	}
	// Five seconds of them, with at least two milliseconds between two looks.
	if looks := loader.looks.Load(); looks > 5000 {
		t.Errorf("%d looks for %d forged tokens", looks, flood)
	}
	t.Logf("%d loads, %d looks for %d forged tokens", loader.count.Load(), loader.looks.Load(), flood)
}

// TestWaiterNeedsItsToken is R6 under a token: a flight that began before the write is not joined.
func TestWaiterNeedsItsToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r, _, v, old := w.heldAfter()
	token := w.write(1, 11) // nobody confirms it: the flight's lease stands
	done := backgroundUnder(t.Context(), r, "1", after(token))
	eventually(t, waiting(r, 1))
	close(v.open)
	if a := <-old; a.err != nil || string(a.value.Payload) != price(1, 10) {
		t.Errorf("the flight got %s, %v", a.value.Payload, a.err)
	}
	if a := <-done; a.err != nil || string(a.value.Payload) != price(1, 11) {
		t.Errorf("the waiter got %s, %v", a.value.Payload, a.err)
	}
}

// TestFilledBetweenIsNotTrusted: a value that is found by the LEASE is judged by its own coverage, since HEAD was read
// after it: what that vouches for may have been confirmed in between.
func TestFilledBetweenIsNotTrusted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{ownPostgres: true}) // where the next transaction is the test's
	plain := w.reader(nil, nil)
	filled, changed := false, false
	kept := &hooks{Store: w.store}
	kept.afterHead = func(string) {
		if !filled {
			filled = true
			read(t, plain, 1, fill.Miss, price(1, 10)) // somebody fills the old row
		}
	}
	kept.beforeHead = func() {
		if !changed {
			changed = true
			w.change()
		}
	}
	system, _, err := w.loader.System(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	snapshot, _ := w.gate()
	next := mvcc.Token{System: system, Timeline: 1, XID: snapshot.Xmax} // the change's
	v, err := w.reader(kept, nil).GetUnder(t.Context(), "product", arg("1"), nil, after(next))
	if err != nil || string(v.Payload) != price(1, 11) {
		t.Errorf("got %s %v, %v", v.Payload, v.Status, err)
	}
}

// TestFilledUnderAnotherGeneration: a generation may be the answer to a crash that gave transaction ids out again, so what a value
// from before it covers says nothing of a token from after it.
func TestFilledUnderAnotherGeneration(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	plain := w.reader(nil, nil)
	token := w.write(2, 21)
	another := w.head
	another.Generation = store.Draw()
	kept := &hooks{Store: w.store, beforeHead: func() {}, head: &another}
	filled := false
	kept.afterHead = func(string) {
		if !filled {
			filled = true
			read(t, plain, 1, fill.Miss, price(1, 10)) // between the GET and the LEASE
		}
	}
	v, err := w.reader(kept, nil).GetUnder(t.Context(), "product", arg("1"), nil, after(token))
	if err != nil || v.Status == fill.Hit || !filled {
		t.Errorf("got %v %s, %v", v.Status, v.Payload, err)
	}
}

func TestSessionIsMonotonic(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{ownPostgres: true}) // alone: what others commit meanwhile is seen by one load and not by the other
	r := w.reader(nil, nil)
	for _, id := range []int{1, 2} {
		read(t, r, id, fill.Miss, price(id, 10*id))
	}
	// Both rows in one transaction, of which only one key is confirmed yet.
	if _, err := w.db.Exec(t.Context(), "UPDATE product SET price = price + 1 WHERE id IN (1, 2)"); err != nil {
		t.Fatal(err)
	}
	var session, other fill.Session
	through := &fill.Demand{Session: &session}
	under(t, r, 2, through, fill.Hit, price(2, 20)) // it has seen nothing yet
	w.confirm(w.name("product", "1"))
	// That confirm was not the whole of it: HEAD must not say so for this test.
	w.forget()
	under(t, r, 1, through, fill.Miss, price(1, 11))
	read(t, r, 2, fill.Hit, price(2, 20))
	under(t, r, 2, &fill.Demand{Session: &other}, fill.Hit, price(2, 20))
	under(t, r, 2, through, fill.Miss, price(2, 21)) // what it saw of 1 has to be there in 2
	under(t, r, 1, through, fill.Hit, price(1, 11))
	under(t, r, 2, through, fill.Hit, price(2, 21))
	// Then HEAD vouches for values that are older than what the session has seen.
	read(t, r, 3, fill.Miss, price(3, 30))
	w.write(4, 41)
	under(t, r, 4, through, fill.Miss, price(4, 41))
	under(t, r, 3, through, fill.Miss, price(3, 30))
	w.write(4, 42)
	w.confirm(w.name("product", "4"))
	under(t, r, 4, through, fill.Miss, price(4, 42))
	w.confirm()
	under(t, r, 3, through, fill.Hit, price(3, 30))
	session.Observe(w.write(3, 31))
	read(t, r, 3, fill.Hit, price(3, 30))
	under(t, r, 3, through, fill.Miss, price(3, 31))
}

// TestSessionOfAnotherTimeline: what a session has seen on one timeline is compared with nothing that HEAD says of another.
func TestSessionOfAnotherTimeline(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := w.reader(nil, nil)
	var session fill.Session
	through := &fill.Demand{Session: &session}
	read(t, r, 1, fill.Miss, price(1, 10))
	under(t, r, 1, through, fill.Hit, price(1, 10))
	under(t, r, 1, through, fill.Hit, price(1, 10))
	w.setHead("tl", "00000002")
	v, err := r.GetUnder(t.Context(), "product", arg("1"), nil, through)
	if err != nil || v.Status == fill.Hit {
		t.Errorf("under a HEAD of another timeline: %v, %v", v.Status, err)
	}
}

// forget takes Sa out of HEAD, and Wc back.
func (w *world) forget() {
	w.t.Helper()
	key := "f:" + w.namespace + ":head"
	if err := w.raw.Do(w.t.Context(), w.raw.B().Hset().Key(key).FieldValue().FieldValue("sa", "-").Build()).Error(); err != nil {
		w.t.Fatal(err)
	}
}

// TestSessionOfManyTokens: it stays small, and forgets none.
func TestSessionOfManyTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := w.reader(nil, nil)
	read(t, r, 1, fill.Miss, price(1, 10))
	var session fill.Session
	var last mvcc.Token
	open := func() *pgx.Conn {
		conn, err := pgx.Connect(t.Context(), w.url)
		if err == nil {
			_, err = conn.Exec(t.Context(), "BEGIN; SELECT pg_current_xact_id()")
		}
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	before := open() // it has an id, and stays open: nobody asked for it
	defer func() { _ = before.Close(context.Background()) }()
	var asked *pgx.Conn
	for i := range 400 {
		if last = w.write(1, 1000+i); i == 10 {
			asked = open()
			early := mvcc.Token{System: last.System, Timeline: last.Timeline, XID: xid(t, asked)}
			session.Observe(early) // which is not committed yet
		}
		session.Observe(last)
	}
	w.loads = hurried
	_, err := w.reader(nil, nil).GetUnder(t.Context(), "product", arg("1"), nil, &fill.Demand{Session: &session})
	if !errors.Is(err, fill.ErrTokenNotReached) {
		t.Errorf("a session told of a transaction that is still open: %v", err)
	}
	if err := asked.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := session.Size(); n > 128 {
		t.Errorf("the session holds %d tokens", n)
	}
	under(t, r, 1, &fill.Demand{Session: &session}, fill.Miss, price(1, 1399))
	if n := session.Size(); n != 0 {
		t.Errorf("the session holds %d tokens that it has seen", n)
	}
	last.System = "7"
	session.Observe(last)
	if _, err := r.GetUnder(t.Context(), "product", arg("1"), nil, &fill.Demand{Session: &session}); !errors.Is(err, fill.ErrForeignToken) {
		t.Errorf("a session told of another cluster: %v", err)
	}
}

// TestTokenOfCode has an entry that code loads.
func TestTokenOfCode(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	r := w.reader(nil, nil)
	load := func(ctx context.Context, q pgload.Querier) (payload []byte, found bool, err error) {
		var p int
		err = q.QueryRow(ctx, "SELECT price FROM product WHERE id = 1").Scan(&p)
		return []byte(strconv.Itoa(p)), true, err
	}
	for _, want := range []int{11, 12} {
		v, err := r.GetUnder(t.Context(), "code", arg("1"), load, after(w.write(1, want)))
		if err != nil || v.Status != fill.Miss || string(v.Payload) != strconv.Itoa(want) {
			t.Errorf("got %v %s, %v", v.Status, v.Payload, err)
		}
	}
}
