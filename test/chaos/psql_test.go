package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/mvcc"
)

// psql makes random transactions in processes of their own, by plain SQL, some of many rows. It can be killed and frozen
// in the midst of one. What a transaction changed it notes in a table, as a part of itself: whatever becomes of the
// process, the table says what was committed.
type psql struct {
	w    *world
	rand *rand.Rand
	made int

	mu      sync.Mutex
	running *exec.Cmd // nil: none
}

func (p *psql) run(ctx context.Context) {
	for ctx.Err() == nil {
		p.w.writing.RLock()
		err := p.transaction(ctx)
		p.w.writing.RUnlock()
		if err != nil && ctx.Err() == nil {
			p.w.counts.undone.Add(1)
		}
		wait(ctx, time.Duration(p.rand.Int64N(int64(100*time.Millisecond))))
	}
}

// script is one transaction.
type script struct {
	strings.Builder

	name    string
	deleted []int64
}

func (s *script) say(format string, args ...any) { _, _ = fmt.Fprintf(s, format+";\n", args...) }

// script draws a transaction.
func (p *psql) script() *script {
	p.made++
	s := &script{name: fmt.Sprintf("psql-%d", p.made)}
	s.say("BEGIN")
	for range 1 + p.rand.IntN(3) {
		savepoint := p.rand.IntN(4) == 0
		if savepoint {
			s.say("SAVEPOINT s")
		}
		p.statement(s)
		if savepoint {
			s.say([]string{"RELEASE SAVEPOINT s", "ROLLBACK TO SAVEPOINT s"}[p.rand.IntN(2)])
		}
	}
	if p.rand.IntN(8) == 0 {
		s.say("SELECT pg_sleep(%f)", p.rand.Float64()/4)
	}
	switch n := p.rand.IntN(10); {
	case n == 0:
		s.say("ROLLBACK")
	case n < 3:
		p.w.counts.prepared.Add(1)
		s.say("PREPARE TRANSACTION '%s'", s.name)
		s.say("SELECT pg_sleep(%f)", p.rand.Float64()/10)
		s.say("%s PREPARED '%s'", []string{"COMMIT", "COMMIT", "ROLLBACK"}[p.rand.IntN(3)], s.name)
	default:
		s.say("COMMIT")
	}
	return s
}

// statement changes items from an id on, which it locks as every writer of items does.
func (p *psql) statement(s *script) {
	id, n := someID(p.rand, items), int64(1)
	switch p.rand.IntN(12) {
	case 0, 1, 2:
		n = 1 + p.rand.Int64N(10)
	case 3: // so many that their keys are removed in bulk
		id, n = 1, items
	}
	last := min(id+n-1, items)
	s.say("SELECT pg_advisory_xact_lock(g) FROM generate_series(%d, %d) g", id, last)
	note := "INSERT INTO notes SELECT '" + s.name + "', pg_current_xact_id(), "
	switch p.rand.IntN(5) {
	case 0:
		s.say(`WITH c AS (INSERT INTO items SELECT g, 'of psql', 1, 1 + g %% %d, nextval('versions') FROM generate_series(%d, %d) g
			ON CONFLICT DO NOTHING RETURNING id, v) %s id, v, true FROM c`, categories, id, last, note)
	case 1:
		for one := id; one <= last; one++ {
			s.deleted = append(s.deleted, one)
		}
		s.say(`WITH c AS (DELETE FROM items WHERE id BETWEEN %d AND %d RETURNING id) %s id, nextval('versions'), false FROM c`, id, last, note)
	default:
		s.say(`WITH c AS (UPDATE items SET price = price + 1, v = nextval('versions') WHERE id BETWEEN %d AND %d RETURNING id, v)
			%s id, v, true FROM c`, id, last, note)
	}
}

// transaction runs one, and learns from the database what came of it.
func (p *psql) transaction(parent context.Context) error {
	s := p.script()
	for _, id := range s.deleted {
		p.w.ledger.deletes(id)
	}
	var (
		changed = map[int64]change{}
		o       outcome
	)
	defer func() { p.w.ledger.over(s.deleted, changed, o) }()
	failed := p.execute(parent, s)
	err := p.w.left(parent, s.name, changed, &o)
	if err != nil {
		o.unknown = true
	}
	if o.committed {
		p.w.counts.psql.Add(1)
	}
	return errors.Join(failed, err)
}

// execute runs a script to its end, or to the end of the process.
func (p *psql) execute(ctx context.Context, s *script) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(p.w.pg.Bin, "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1",
		"-d", p.w.url+"&application_name="+ourName+"-"+s.name)
	cmd.Stdin = strings.NewReader(s.String())
	p.mu.Lock()
	err := cmd.Start()
	if err == nil {
		p.running = cmd
	}
	p.mu.Unlock()
	if err != nil {
		return err
	}
	err = cmd.Wait()
	p.mu.Lock()
	p.running = nil
	p.mu.Unlock()
	return err
}

// left waits until the sessions of a script are gone, finishes what they may have left prepared, and reads what they have
// committed.
func (w *world) left(ctx context.Context, name string, changed map[int64]change, o *outcome) error {
	return w.gone(ctx, ourName+"-"+name, name, func(ctx context.Context, conn *pgx.Conn) error {
		clear(changed)
		rows, err := conn.Query(ctx, "SELECT xid::text, item, version, there FROM notes WHERE name = $1 ORDER BY version", name)
		if err != nil {
			return err
		}
		var (
			xid      string
			id, made int64
			exists   bool
		)
		if _, err := pgx.ForEachRow(rows, []any{&xid, &id, &made, &exists}, func() error {
			changed[id] = change{version: made, exists: exists}
			return nil
		}); err != nil || len(changed) == 0 {
			return err
		}
		o.token = w.token
		if o.token.XID, err = mvcc.ParseXID(xid); err != nil {
			return err
		}
		o.committed = true
		o.end, err = endOfLog(ctx, conn)
		return err
	})
}

// signal sends a signal to a running psql.
func (p *psql) signal(ctx context.Context, s syscall.Signal) error {
	return until(ctx, func(context.Context) error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.running == nil {
			return errors.New("no psql is running")
		}
		return p.running.Process.Signal(s)
	})
}

func killPsql(w *world, r *rand.Rand) error {
	w.some(r, 100*time.Millisecond)
	return w.psql.signal(w.t.Context(), syscall.SIGKILL)
}

// freezePsql has one stand still, in most cases with a transaction open.
func freezePsql(w *world, r *rand.Rand) error {
	w.some(r, 100*time.Millisecond)
	if err := w.psql.signal(w.t.Context(), syscall.SIGSTOP); err != nil {
		return err
	}
	w.some(r, 3*time.Second)
	return w.psql.signal(w.t.Context(), syscall.SIGCONT)
}
