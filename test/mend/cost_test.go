package mend

import (
	"fmt"
	"regexp"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/testkit/pgtest"
)

// TestCostInLog measures what each replica identity costs in log, for updates that change a column of the index and for such
// that do not, and holds it against what check says beforehand. docs/queries.md has the figures.
func TestCostInLog(t *testing.T) {
	t.Parallel()
	w := &world{t: t, pg: pgtest.Start(t, pgtest.Options{Settings: map[string]string{
		"full_page_writes": "off", "autovacuum": "off", "max_slot_wal_keep_size": "1GB", "checkpoint_timeout": "1h",
	}})}
	w.url = w.pg.Database(t)
	const rows = 2000
	conn := w.connect(w.url)
	exec := func(statement string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	exec(`CREATE TABLE orders (id int8 PRIMARY KEY, user_id int8 NOT NULL, total int8 NOT NULL, note text NOT NULL, parent int8) WITH (fillfactor = 40)`)
	exec(fmt.Sprintf(`INSERT INTO orders SELECT n, 1 + n, 0, repeat(md5(n::text), 8), 2 + n FROM generate_series(1, %d) AS n`, rows))
	exec(`VACUUM ANALYZE orders`)
	// cost is the log that a statement over all rows takes, in bytes for each.
	cost := func(statement string) float64 {
		t.Helper()
		exec(`VACUUM orders`)
		before := position(t, conn)
		exec(statement)
		return float64(position(t, conn)-before) / rows
	}
	measure := func() (same, moved, gone float64) {
		t.Helper()
		same, moved = cost(`UPDATE orders SET total = total + 1`), cost(`UPDATE orders SET user_id = user_id + 1`)
		gone = cost(`DELETE FROM orders`)
		exec(fmt.Sprintf(`INSERT INTO orders SELECT n, 1 + n, 0, repeat(md5(n::text), 8), 2 + n FROM generate_series(1, %d) AS n`, rows))
		return same, moved, gone
	}
	byKey, movedByKey, goneByKey := measure()

	const owned = "  owned: {key: 'owned:{user}', result: many, query: 'SELECT id, total FROM orders WHERE user_id = @user ORDER BY id'}\n"
	const below = "  below: {key: 'below:{parent}', result: many, query: 'SELECT id, total FROM orders WHERE parent = @parent ORDER BY id'}\n"
	w.file = w.config(w.url, w.url, owned)
	indexSaid := said(t, w)
	w.run(0, "check", "--fix")
	byIndex, movedByIndex, goneByIndex := measure()
	w.file = w.config(w.url, w.url, below)
	fullSaid := said(t, w)
	w.run(0, "check", "--fix")
	whole, movedWhole, goneWhole := measure()
	t.Logf("bytes of log for each row       same  moved  deleted")
	t.Logf("DEFAULT (id)                   %5.0f  %5.0f  %5.0f", byKey, movedByKey, goneByKey)
	t.Logf("USING INDEX (id, user_id)      %5.0f  %5.0f  %5.0f", byIndex, movedByIndex, goneByIndex)
	t.Logf("FULL                           %5.0f  %5.0f  %5.0f", whole, movedWhole, goneWhole)
	t.Logf("check says %d for the index and %d for FULL", indexSaid, fullSaid)
	if byIndex > byKey*1.05 {
		t.Errorf("an update that leaves the index's columns takes %.0f bytes, want about the %.0f of the primary key", byIndex, byKey)
	}
	within := func(what string, measured float64, said int) {
		t.Helper()
		if low, high := 0.6*float64(said), 1.4*float64(said); measured < low || measured > high {
			t.Errorf("%s takes %.0f bytes more, and check says %d", what, measured, said)
		}
	}
	within("FULL, for an update,", whole-byKey, fullSaid)
	within("FULL, for a delete,", goneWhole-goneByKey+float64(indexSaid)/2, fullSaid) // a key's old image is in every DELETE
	const indexes, entry = 2, 90
	within("an update that changes a column of the index", movedByIndex-movedByKey, indexSaid+indexes*entry)
}

func position(t *testing.T, conn *pgx.Conn) (at int64) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), `SELECT (pg_current_wal_insert_lsn() - '0/0')::int8`).Scan(&at); err != nil {
		t.Fatal(err)
	}
	return at
}

// said is the number of bytes that check names for its one mending of an identity.
func said(t *testing.T, w *world) int {
	t.Helper()
	out, _ := w.run(3, "check")
	found := regexp.MustCompile(`about (\d+) bytes`).FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("check says nothing of the cost\n%s", out)
	}
	n, err := strconv.Atoi(found[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
