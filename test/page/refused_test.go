package page

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/browsertest"
	"github.com/freshet/freshet/internal/testkit/pgtest"
)

// TestRefusedEntry: a link to the history of a key says something also while its entry is refused, which is when it is asked for.
func TestRefusedEntry(t *testing.T) {
	t.Parallel()
	w := newWorld(t, pgtest.Shared(t), "")
	d := w.serve()
	testkit.Eventually(t, 30*time.Second, func() error { return d.Live(t.Context()) })
	w.pg.Exec(t, w.url, `ALTER TABLE products RENAME name TO title`)
	testkit.Eventually(t, 30*time.Second, func() error {
		if code, _, _, err := d.Get(t.Context(), "/v1/entries/product/7"); err != nil || code != http.StatusInternalServerError {
			return fmt.Errorf("%d, %w", code, err)
		}
		return nil
	})
	tab := browsertest.Open(t, 1280, 900)
	tab.Goto("http://" + w.addr + "/#trace=product&arg.id=7")
	tab.Await(`document.getElementById("entries").innerText`, "there is no column name")
	if got := tab.Eval(`[...document.getElementById("entry").options].map((o) => o.value).sort().join(" ")`); got != "note product" {
		t.Errorf("the form offers %q", got)
	}
	tab.Await(timeline, "product:7")
	tab.Await(timeline, "the entry is not cached: ")
}
