package chaos

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/envelope"
	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/verify"
	"github.com/freshet/freshet/mvcc"
)

// rest brings everything to rest and compares what is cached with the database. It returns an error when it does not
// come to rest.
func (w *world) rest(ctx context.Context) error {
	w.writing.Lock()
	defer w.writing.Unlock()
	if err := w.whole(ctx); err != nil {
		return err
	}
	conn, err := w.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", quietLock); err != nil {
		return fmt.Errorf("wait for the application's transaction: %w", err)
	}
	// A commit that is waited for flushes those that were not.
	if _, err := conn.Exec(ctx, "SELECT pg_logical_emit_message(true, 'chaos', '')"); err != nil {
		return fmt.Errorf("flush the log: %w", err)
	}
	// Not where the next record will begin: that may be behind the header of a page which nobody reads before it has a record.
	target, err := lsn(ctx, conn, "SELECT pg_current_wal_flush_lsn()::text")
	if err != nil {
		return err
	}
	err = until(ctx, func(ctx context.Context) error {
		head, found, err := w.store.Head(ctx)
		if err == nil && (!found || head.Wc < target) {
			err = fmt.Errorf("head is at %v, the last commit before %v", head.Wc, target)
		}
		if err != nil {
			return err
		}
		if err := whole(&head); err != nil {
			return err
		}
		// A roster that was lost is noticed within some seconds, which HEAD does not wait for.
		roster, err := w.roster(ctx)
		if err == nil && (roster.Generation != head.Generation || roster.Revision != head.Revision) {
			err = fmt.Errorf("the roster has revision %d, head %d", roster.Revision, head.Revision)
		}
		return err
	})
	if err != nil {
		return err
	}
	expected, err := readTruth(ctx, conn)
	if err != nil {
		return err
	}
	// Once with what the run has left, then every key through both readers, then what these have filled.
	for _, check := range []func(context.Context, truth) error{w.compareRecords, w.compareReads, w.compareRecords} {
		if err := check(ctx, expected); err != nil {
			return err
		}
	}
	if err := w.verify(ctx); err != nil {
		return err
	}
	w.judgeSessions()
	w.counts.quiescent.Add(1)
	if err := w.ledger.reset(expected); err != nil {
		return err
	}
	w.applied.believe(true)
	w.kept.regain()
	w.judgeSessions() // what they have seen meanwhile is no matter: they begin anew
	return nil
}

// endOfLog is a position at or after the end of everything that was committed.
func endOfLog(ctx context.Context, conn *pgx.Conn) (mvcc.LSN, error) {
	return lsn(ctx, conn, "SELECT pg_current_wal_insert_lsn()::text")
}

func lsn(ctx context.Context, conn *pgx.Conn, question string) (mvcc.LSN, error) {
	var text string
	if err := conn.QueryRow(ctx, question).Scan(&text); err != nil {
		return 0, fmt.Errorf("ask for a position of the log: %w", err)
	}
	return mvcc.ParseLSN(text)
}

// compareRecords compares every record that is live under a live name with the database.
func (w *world) compareRecords(ctx context.Context, expected truth) error {
	roster, err := w.roster(ctx)
	if err != nil {
		return err
	}
	w.counts.mu.Lock()
	w.counts.generations[roster.Generation] = true
	w.counts.mu.Unlock()
	head, _, err := w.store.Head(ctx)
	if err != nil {
		return err
	}
	names, err := w.keys(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		key, ok := liveKey(roster, &head, name)
		if !ok {
			continue
		}
		text, err := w.store.Read(ctx, name)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if text == nil {
			continue
		}
		record, err := fence.ParseRecord(text)
		if err != nil {
			w.violation("%s is not a record: %v", name, err)
			continue
		}
		if !record.State.Live() {
			continue
		}
		w.counts.compared.Add(1)
		want, known := expected[key]
		payload, err := envelope.JSONOf(record.Payload)
		if err != nil {
			return fmt.Errorf("compare %s: %w", name, err)
		}
		switch got := string(payload); {
		case !known:
			w.violation("%s is cached, and nobody reads it", name)
		case got != want || (record.State == fence.Negative) != (want == ""):
			w.violation("stale: %s is cached as %q (%v, %v), the database has %q", name, got, record.State, record.Coverage, want)
		}
	}
	return nil
}

// verify has the command of that name compare every key, which knows nothing of this test's own account.
func (w *world) verify(ctx context.Context) error {
	loader, err := pgload.Open(ctx, w.url+"&application_name="+ourName)
	if err != nil {
		return err
	}
	defer loader.Close()
	survey, err := w.store.Survey(ctx)
	if err != nil {
		return err
	}
	defer survey.Close()
	report, err := verify.Run(ctx, verify.Options{Namespace: namespace, Store: survey, Truth: loader, Wait: recovery})
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	if report.Stopped != "" {
		return fmt.Errorf("verify: %s", report.Stopped)
	}
	w.counts.verified.Add(int64(report.Total.Fresh))
	if t := &report.Total; t.Violations > 0 || t.Undecided > 0 || t.Reordered > 0 || t.WithoutTTL > 0 {
		w.violation("verify: %+v, causes %v, undecided %v, the first %+v", *t, report.Causes, report.Reasons, report.Findings[:min(1, len(report.Findings))])
	}
	return nil
}

// liveKey is the key of a record's name, if the name is one that readers would use.
func liveKey(roster *rule.Roster, head *fence.Head, name string) (string, bool) {
	var lanes []string
	for _, h := range head.Lanes {
		lanes = append(lanes, h.Lane)
	}
	for _, e := range roster.Entries {
		for _, prefix := range fence.LanePrefixes(namespace, roster.Generation, lanes, rule.KeyTail(e)) {
			if key, ok := strings.CutPrefix(name, prefix); ok {
				return key, e.Suspended == ""
			}
		}
	}
	return "", false
}

// whole says which lanes of a cluster are not vouched for.
func whole(head *fence.Head) error {
	for lane, h := range head.Lanes {
		if h.Generation == "" || h.Revision != head.Revision {
			return fmt.Errorf("lane %d is at revision %d of generation %q, the others at %d", lane, h.Revision, h.Generation, head.Revision)
		}
	}
	return nil
}

func (w *world) roster(ctx context.Context) (*rule.Roster, error) {
	text, found, err := w.store.Roster(ctx)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, errors.New("the store has no roster")
	}
	return rule.ParseRoster(text)
}

// keys are the names of all records.
func (w *world) keys(ctx context.Context) ([]string, error) {
	var (
		all    []string
		cursor uint64
	)
	if w.nodes != nil {
		survey, err := w.store.Survey(ctx)
		if err != nil {
			return nil, err
		}
		defer survey.Close()
		err = survey.Walk(ctx, "f:"+namespace+":*:*", func(names []string) error {
			all = append(all, names...)
			return nil
		})
		return all, err
	}
	for {
		page, err := w.admin.Do(ctx, w.admin.B().Scan().Cursor(cursor).Match("f:"+namespace+":*:*").Count(1000).Build()).AsScanEntry()
		if err != nil {
			return nil, fmt.Errorf("scan: %w", err)
		}
		all = append(all, page.Elements...)
		if cursor = page.Cursor; cursor == 0 {
			return all, nil
		}
	}
}

// patiently reads a key. A process that the database has not answered for a while does not ask it for two seconds at most, though it would
// answer by now.
func patiently(ctx context.Context, r reader, entry string, id int64) (string, error) {
	const most = 3 * time.Second
	for began := time.Now(); ; {
		got, err := r.read(ctx, entry, id, &ask{})
		spared := err != nil && (errors.Is(err, freshet.ErrUnavailable) || strings.Contains(err.Error(), ": 503 "))
		if !spared || ctx.Err() != nil || time.Since(began) > most {
			return got, err
		}
		wait(ctx, 100*time.Millisecond)
	}
}

// compareReads reads every key through libraries and gateway.
func (w *world) compareReads(ctx context.Context, expected truth) error {
	wait(ctx, memory)
	for name, r := range map[string]reader{
		"library": w.library, "library on the primary": w.onPrimary, "library without memory": w.bare, "gateway": &gateway{w},
	} {
		seen := map[string]bool{}
		for _, entry := range r.entries() {
			if seen[entry] {
				continue
			}
			seen[entry] = true
			for id := int64(1); id <= sizes()[entry]; id++ {
				key := keyOf(entry, id)
				w.counts.reads.Add(1)
				got, err := patiently(ctx, r, entry, id)
				if err != nil {
					w.violation("at rest, reading %s through the %s failed: %v", key, name, err)
				} else if got != expected[key] {
					w.violation("at rest, %s through the %s is %q, the database has %q", key, name, got, expected[key])
				}
			}
		}
	}
	return nil
}
