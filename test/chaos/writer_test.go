package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/freshet/freshet"
)

// writer makes random transactions over one connection, which it opens again when it was lost.
type writer struct {
	w        *world
	rand     *rand.Rand
	name     string // of its sessions, and of what they prepare
	url      string
	patience time.Duration // with a transaction
	twoPhase int           // how many of these there were
	conn     *pgx.Conn
}

func (wr *writer) run(ctx context.Context) {
	defer wr.close(ctx)
	for ctx.Err() == nil {
		// Writers stop between two transactions where everything is to come to rest.
		wr.w.writing.RLock()
		err := wr.transaction(ctx)
		wr.w.writing.RUnlock()
		pause := time.Duration(wr.rand.Int64N(int64(10 * time.Millisecond)))
		if err != nil && ctx.Err() == nil {
			wr.w.counts.undone.Add(1)
			pause += 20 * time.Millisecond
		}
		wait(ctx, pause)
	}
}

func (wr *writer) close(ctx context.Context) {
	if wr.conn != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = wr.conn.Close(ctx)
	}
}

// transaction is what one transaction has done so far.
type transaction struct {
	*writer
	ctx     context.Context
	tx      pgx.Tx
	deleted []int64
	changed map[int64]change
	outcome outcome
}

// patience is how long a transaction may take, mostly.
const patience = 10 * time.Second

func (wr *writer) transaction(parent context.Context) (err error) {
	ctx, cancel := context.WithTimeout(parent, wr.patience)
	defer cancel()
	if wr.conn == nil || wr.conn.IsClosed() {
		if wr.conn, err = connectAs(ctx, wr.url, wr.name); err != nil {
			return err
		}
	}
	tx, err := wr.conn.Begin(ctx)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	t := &transaction{writer: wr, ctx: ctx, tx: tx, changed: map[int64]change{}}
	defer func() { wr.w.ledger.over(t.deleted, t.changed, t.outcome) }()
	err = t.change()
	roll := wr.rand.IntN(10) == 0
	if err != nil || roll {
		_ = tx.Rollback(context.WithoutCancel(ctx)) // or the connection is gone, and the transaction with it
		if err == nil {
			wr.w.counts.rolledBack.Add(1)
		}
		return err
	}
	inTwo := wr.rand.IntN(20) == 0
	if inTwo {
		err = t.prepare()
	} else {
		err = t.commit()
	}
	if err != nil && !t.outcome.committed && (inTwo || !refused(err)) {
		wr.settle(parent, t)
	}
	return err
}

// change is everything up to the commit.
func (t *transaction) change() error {
	if t.rand.IntN(3) == 0 {
		if err := t.exec("SET LOCAL synchronous_commit = off"); err != nil {
			return err
		}
	}
	statements := 1
	if t.rand.IntN(2) == 0 {
		statements += t.rand.IntN(6)
	}
	for range statements {
		if err := t.step(); err != nil {
			return err
		}
	}
	if t.rand.IntN(25) == 0 { // a transaction that stays open
		t.w.counts.long.Add(1)
		longest := 1200 * time.Millisecond
		if *chaosTime == 0 {
			longest /= 2
		}
		wait(t.ctx, time.Duration(t.rand.Int64N(int64(longest))))
	}
	if len(t.changed) == 0 {
		return nil
	}
	var text string
	if err := t.tx.QueryRow(t.ctx, freshet.TokenSQL).Scan(&text); err != nil {
		return fmt.Errorf("ask for the token: %w", err)
	}
	var err error
	t.outcome.token, err = freshet.ParseToken(text)
	return err
}

func (t *transaction) commit() error {
	if err := t.tx.Commit(t.ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return t.committed()
}

// committed notes what the writer knows once its commit has returned.
func (t *transaction) committed() (err error) {
	t.outcome.committed = true
	t.w.counts.committed.Add(1)
	if len(t.changed) == 0 {
		return nil
	}
	if t.outcome.end, err = endOfLog(t.ctx, t.conn); err == nil && t.rand.IntN(2) == 0 {
		t.outcome.token.After = t.outcome.end
	}
	return err
}

// prepare commits in two phases, or rolls back after the first.
func (t *transaction) prepare() error {
	t.w.counts.prepared.Add(1)
	t.twoPhase++
	name := t.gid()
	if err := t.exec("PREPARE TRANSACTION '" + name + "'"); err != nil {
		return err
	}
	if t.rand.IntN(2) == 0 {
		wait(t.ctx, time.Duration(t.rand.Int64N(int64(300*time.Millisecond))))
	}
	if t.rand.IntN(4) == 0 {
		_, err := t.conn.Exec(t.ctx, "ROLLBACK PREPARED '"+name+"'")
		return err
	}
	if _, err := t.conn.Exec(t.ctx, "COMMIT PREPARED '"+name+"'"); err != nil {
		return err
	}
	return t.committed()
}

func (wr *writer) gid() string { return fmt.Sprintf("%s-%d", wr.name, wr.twoPhase) }

// refused reports errors of COMMIT after which the transaction is certainly rolled back.
func refused(err error) bool {
	answer, ok := errors.AsType[*pgconn.PgError](err)
	return ok && answer.SeverityUnlocalized == "ERROR"
}

// settle learns what became of a transaction whose commit was not answered.
func (wr *writer) settle(ctx context.Context, t *transaction) {
	_ = wr.conn.Close(ctx)
	status := ""
	err := wr.w.gone(ctx, wr.name, wr.gid(), func(ctx context.Context, conn *pgx.Conn) error {
		if t.outcome.token.IsZero() {
			return nil
		}
		err := conn.QueryRow(ctx, "SELECT coalesce(pg_xact_status($1::text::xid8), 'aborted')", t.outcome.token.XID.String()).Scan(&status)
		if answer, ok := errors.AsType[*pgconn.PgError](err); ok && answer.Code == "22023" {
			return nil // a crash has undone even that the id was given out
		}
		return err
	})
	if err != nil {
		t.outcome.unknown = true
		return
	}
	wr.w.counts.settled.Add(1)
	t.outcome.committed = status == "committed"
}

// gone waits until the sessions of that name are gone, which it ends, commits what they may have left prepared, and then
// asks.
func (w *world) gone(ctx context.Context, name, prepared string, ask func(context.Context, *pgx.Conn) error) error {
	return until(ctx, func(ctx context.Context) error {
		conn, err := w.connect(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close(ctx) }()
		var left int
		err = conn.QueryRow(ctx, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1", name).Scan(&left)
		if err == nil && left > 0 {
			err = fmt.Errorf("a session of %s is still there", name)
		}
		if err != nil {
			return err
		}
		err = conn.QueryRow(ctx, "SELECT count(*) FROM pg_prepared_xacts WHERE gid = $1", prepared).Scan(&left)
		if err == nil && left > 0 {
			_, err = conn.Exec(ctx, "COMMIT PREPARED '"+prepared+"'")
		}
		if err != nil {
			return err
		}
		return ask(ctx, conn)
	})
}

// step is one statement, or some in a savepoint.
func (t *transaction) step() error {
	if t.rand.IntN(8) != 0 {
		return t.statement()
	}
	if err := t.exec("SAVEPOINT s"); err != nil {
		return err
	}
	before := maps.Clone(t.changed)
	for range 1 + t.rand.IntN(3) {
		if err := t.statement(); err != nil {
			return err
		}
	}
	if t.rand.IntN(2) == 0 {
		return t.exec("RELEASE SAVEPOINT s")
	}
	t.changed = before
	return t.exec("ROLLBACK TO SAVEPOINT s")
}

func (t *transaction) exec(sql string, args ...any) error {
	if _, err := t.tx.Exec(t.ctx, sql, args...); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

func (t *transaction) text() string { return strconv.FormatUint(t.rand.Uint64(), 16) }

func (t *transaction) id(of int64) int64 { return someID(t.rand, of) }

// hot is how many keys are written and read more than all others.
const hot = 4

// someID is a key: every other time one of a few that are hot, so that loads are overtaken by writes.
func someID(r *rand.Rand, of int64) int64 {
	if r.IntN(2) == 0 {
		of = min(of, hot)
	}
	return 1 + r.Int64N(of)
}

func (t *transaction) statement() error {
	switch n := t.rand.IntN(100); {
	case n < 35:
		return t.changeItem()
	case n < 45:
		return t.insertItem()
	case n < 52:
		return t.deleteItem()
	case n < 58:
		return t.renumberItem()
	case n < 90:
		return t.person()
	case n < 96:
		return t.exec("UPDATE rates SET ratio = ratio + 1 WHERE code = $1", t.id(rates))
	default:
		return t.truncate()
	}
}

// truncateEvery is how often the small table is truncated at most: an entry whose name has to move more than sixteen times in half a minute, which
// eight of these have it do, is not cached until it is left alone.
const truncateEvery = 6 * time.Second

func (t *transaction) truncate() error {
	last := t.w.truncated.Load()
	if now := time.Now().UnixNano(); now-last < int64(truncateEvery) || !t.w.truncated.CompareAndSwap(last, now) {
		return nil
	}
	if err := t.exec("TRUNCATE rates"); err != nil {
		return err
	}
	t.w.counts.truncates.Add(1)
	return t.exec("INSERT INTO rates SELECT g, $1 FROM generate_series(1, $2::int4) g", t.id(1000), t.id(rates))
}

// lock makes the order of an item's versions the order of their commits.
func (t *transaction) lock(id int64) error { return t.exec("SELECT pg_advisory_xact_lock($1)", id) }

// noteVersion notes an item's new version, if there was something to change.
func (t *transaction) noteVersion(id int64, row pgx.Row) (found bool, err error) {
	var version int64
	err = row.Scan(&version)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("write item: %w", err)
	}
	t.changed[id] = change{version: version, exists: true}
	return true, nil
}

func (t *transaction) changeItem() error {
	id := t.id(items)
	if err := t.lock(id); err != nil {
		return err
	}
	sql := "UPDATE items SET price = price + 1, v = nextval('versions') WHERE id = $1 RETURNING v"
	if t.rand.IntN(3) == 0 {
		sql = "UPDATE items SET category = category % 8 + 1, v = nextval('versions') WHERE id = $1 RETURNING v"
	}
	_, err := t.noteVersion(id, t.tx.QueryRow(t.ctx, sql, id))
	return err
}

func (t *transaction) insertItem() error {
	id := t.id(items)
	if err := t.lock(id); err != nil {
		return err
	}
	_, err := t.noteVersion(id, t.tx.QueryRow(t.ctx, `INSERT INTO items VALUES ($1::int8, 'item ' || $1::int8, 1, $2, nextval('versions'))
		ON CONFLICT DO NOTHING RETURNING v`, id, t.id(categories)))
	return err
}

func (t *transaction) deleteItem() error {
	id := t.id(items)
	if err := t.lock(id); err != nil {
		return err
	}
	return t.remove(id, func() (bool, error) {
		tag, err := t.tx.Exec(t.ctx, "DELETE FROM items WHERE id = $1", id)
		return tag.RowsAffected() > 0, err
	})
}

// remove takes an item away in the way given, which says whether it did.
func (t *transaction) remove(id int64, by func() (bool, error)) error {
	t.w.ledger.deletes(id)
	t.deleted = append(t.deleted, id)
	removed, err := by()
	if err != nil || !removed {
		return err
	}
	var version int64
	if err := t.tx.QueryRow(t.ctx, "SELECT nextval('versions')").Scan(&version); err != nil {
		return fmt.Errorf("next version: %w", err)
	}
	t.changed[id] = change{version: version}
	return nil
}

// renumberItem changes a key.
func (t *transaction) renumberItem() error {
	from, to := t.id(items), t.id(items)
	if from == to {
		return nil
	}
	for _, id := range []int64{min(from, to), max(from, to)} {
		if err := t.lock(id); err != nil {
			return err
		}
	}
	return t.remove(from, func() (bool, error) {
		return t.noteVersion(to, t.tx.QueryRow(t.ctx, `UPDATE items SET id = $2, v = nextval('versions') WHERE id = $1
			AND NOT EXISTS (SELECT FROM items WHERE id = $2) RETURNING v`, from, to))
	})
}

func (t *transaction) person() error {
	id, other := t.id(people), t.id(people)
	statements := []func() error{
		func() error { return t.exec("UPDATE users SET name = name || '.' WHERE id = $1", id) },
		func() error { return t.exec("UPDATE users SET name = 'user ' || id WHERE id = $1", id) },
		func() error {
			return t.exec("UPDATE profiles SET bio = $2 WHERE user_id = $1", id, t.text())
		},
		func() error { return t.exec("INSERT INTO profiles VALUES ($1, 'new') ON CONFLICT DO NOTHING", id) },
		func() error { return t.exec("DELETE FROM profiles WHERE user_id = $1", id) },
		func() error {
			return t.exec(`INSERT INTO addresses VALUES ($1, $2)
				ON CONFLICT (user_id) DO UPDATE SET city = excluded.city`, id, t.text())
		},
		func() error { return t.exec("UPDATE addresses SET hidden = NOT hidden WHERE user_id = $1", id) },
		func() error { return t.exec("DELETE FROM addresses WHERE user_id = $1", id) },
		func() error {
			return t.exec(`UPDATE addresses SET user_id = $2 WHERE user_id = $1
				AND NOT EXISTS (SELECT FROM addresses WHERE user_id = $2)`, id, other)
		},
		func() error {
			return t.exec(`UPDATE profiles SET user_id = $2 WHERE user_id = $1
				AND NOT EXISTS (SELECT FROM profiles WHERE user_id = $2)`, id, other)
		},
		func() error { return t.exec("DELETE FROM users WHERE id = $1", id) },
		func() error {
			return t.exec("INSERT INTO users VALUES ($1::int8, 'user ' || $1::int8) ON CONFLICT DO NOTHING", id)
		},
		func() error {
			return t.exec("INSERT INTO users VALUES ($1::int8, 'user ' || $1::int8) ON CONFLICT DO NOTHING", other)
		},
	}
	return statements[t.rand.IntN(len(statements))]()
}

// wait waits.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
