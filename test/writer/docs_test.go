package writer

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/testkit"
)

// statement is the SQL block of docs/writing.md that holds a text.
func statement(t *testing.T, holds string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/writing.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?s)```sql\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		if strings.Contains(m[1], holds) {
			return m[1]
		}
	}
	t.Fatalf("docs/writing.md has no SQL with %q", holds)
	return ""
}

// TestDocumentedSQL runs the statements of docs/writing.md as they stand.
func TestDocumentedSQL(t *testing.T) {
	t.Parallel()
	b := newBank(t)
	b.exec(`INSERT INTO rates VALUES ('EUR', 1), ('USD', 1)`)
	b.cached("EUR")
	b.cached("USD")
	b.exec(`UPDATE rates SET value = 2`)
	b.exec(statement(t, `'entry', 'rate'`))
	b.settled()
	if eur, usd := b.get("EUR"), b.get("USD"); eur != 2 || usd != 2 {
		t.Errorf("EUR %d, USD %d", eur, usd)
	}

	b.exec(`INSERT INTO lines VALUES (7, 1, 'k-1'), (7, 2, 'c-2')`)
	type key struct{ OrderID, Number int }
	lines, err := freshet.Entry(b.cache, "line", freshet.Load(func(ctx context.Context, q freshet.Querier, k key) (sku string, err error) {
		err = q.QueryRow(ctx, `SELECT sku FROM lines WHERE order_id = $1 AND number = $2`, k.OrderID, k.Number).Scan(&sku)
		return sku, err
	}))
	if err != nil {
		t.Fatal(err)
	}
	read := func(number int, want string) {
		t.Helper()
		testkit.Eventually(t, patience, func() error {
			hits := b.cache.Stats().Hits
			got, err := lines.Get(t.Context(), key{7, number})
			if err == nil && (got != want || b.cache.Stats().Hits == hits) {
				err = fmt.Errorf("line %d: %q, want a hit with %q", number, got, want)
			}
			return err
		})
	}
	read(1, "k-1")
	read(2, "c-2")
	b.exec(statement(t, `UPDATE lines`))
	read(1, "K-1")
	read(2, "C-2")

	tx, err := b.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var text, is string
	if err := tx.QueryRow(t.Context(), statement(t, `pg_control_system`)).Scan(&text); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	token, err := freshet.ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	ask := strings.ReplaceAll(statement(t, `pg_xact_status`), "1234", token.XID.String())
	if err := b.pool.QueryRow(t.Context(), ask).Scan(&is); err != nil || is != "committed" {
		t.Errorf("%s: %q, %v", ask, is, err)
	}
	var later string
	if err := b.pool.QueryRow(t.Context(), `SELECT $1::text || '.' || pg_current_wal_insert_lsn()`, text).Scan(&later); err != nil {
		t.Fatal(err)
	}
	if token, err = freshet.ParseToken(later); err != nil || token.After == 0 {
		t.Errorf("token %q = %v, %v", later, token, err)
	}
	if !strings.Contains(strings.Join(strings.Fields(statement(t, `pg_control_system`)), " "), strings.Join(strings.Fields(freshet.TokenSQL), " ")) {
		t.Error("the document's token is not TokenSQL")
	}
}
