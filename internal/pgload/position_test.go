package pgload_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
)

// TestPositionAtTheEndOfASegment: a log that ends with a segment is reported by its writer as if the header of the next one
// had been written, and nobody who follows the log ever comes there.
func TestPositionAtTheEndOfASegment(t *testing.T) {
	t.Parallel()
	pg := pgtest.Start(t, pgtest.Options{})
	url := pg.URL("postgres")
	loader, err := pgload.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(loader.Close)
	testkit.Eventually(t, 20*time.Second, func() error { // the server may write something of its own in between
		pg.Exec(t, url, `CREATE TABLE IF NOT EXISTS t (id int)`, `INSERT INTO t VALUES (1)`, `SELECT pg_switch_wal()`)
		_, at, err := loader.Position(t.Context())
		if err == nil && at%(16<<20) != 0 {
			err = fmt.Errorf("the log ends at %v, and a segment has just been left", at)
		}
		return err
	})
}
