package pgsource

import (
	"fmt"
	"testing"

	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
)

func TestStreamDeliversCommittedChangesInOrder(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Shared(t), []string{`CREATE TABLE t (id int PRIMARY KEY, v text)`}, "t")
	r := f.run(t, &recorder{})
	f.exec(t,
		`INSERT INTO t VALUES (1, 'a'), (2, NULL)`,
		`BEGIN; UPDATE t SET v = 'b' WHERE id = 1; DELETE FROM t WHERE id = 2; COMMIT`,
		`BEGIN; INSERT INTO t VALUES (3, 'never'); ROLLBACK`)
	f.wantChanges(t, r.recorder,
		"BEGIN", "INSERT public.t new('1','a')", "INSERT public.t new('2',null)", "COMMIT",
		"BEGIN", "UPDATE public.t new('1','b')", "DELETE public.t old('2',-)", "COMMIT")
}

func TestConfirmedIsNotSentAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Shared(t), []string{`CREATE TABLE t (id int PRIMARY KEY)`}, "t")
	r := f.run(t, &recorder{})
	f.exec(t, `INSERT INTO t VALUES (1)`)
	f.wantChanges(t, r.recorder, "BEGIN", "INSERT public.t new('1')", "COMMIT")
	confirmed := r.lastCommit()
	r.Confirm(confirmed)
	r.Confirm(confirmed - 1) // never goes back
	f.exec(t, `INSERT INTO t VALUES (2)`)
	f.wantChanges(t, r.recorder, "BEGIN", "INSERT public.t new('2')", "COMMIT")
	r.end(t)
	if got := f.confirmed(t); got != mvccLSN(confirmed) {
		t.Errorf("after Close the slot is confirmed up to %s, want %s", got, mvccLSN(confirmed))
	}

	// What was not confirmed comes again: the next run starts after the first mark.
	f.seen = 0
	again := f.run(t, &recorder{})
	f.wantLater(t, again.recorder, "INSERT public.t new('2')")
	if contains(again.recorder, "INSERT public.t new('1')") {
		t.Error("a confirmed transaction came again")
	}
}

func TestConfirmReachesTheSlotPromptly(t *testing.T) {
	t.Parallel()
	f := newFixture(t, pgtest.Shared(t), []string{`CREATE TABLE t (id int PRIMARY KEY)`}, "t")
	r := f.run(t, &recorder{})
	f.exec(t, `INSERT INTO t VALUES (1)`)
	f.changes(t, r.recorder)
	want := r.lastCommit()
	r.Confirm(want)
	testkit.Eventually(t, patience, func() error {
		if got := f.confirmed(t); got < mvccLSN(want) {
			return fmt.Errorf("confirmed %s, want %s", got, mvccLSN(want))
		}
		return nil
	})
}
