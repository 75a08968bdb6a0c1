package freshet_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet"
)

// TestInvalidate: what is named is said in the log, by one transaction, whose token a read can be given.
func TestInvalidate(t *testing.T) {
	t.Parallel()
	s := published(t)
	log, p := follow(t, s), pool(t, s.url)
	cache := open(t, freshet.Options{Config: s.file})
	products := entry[string, Product](t, cache, "product")
	token, err := cache.Invalidate(t.Context(), products.Key("007"), cache.AllOf("stage"), products.Key("8"), cache.AllReading("shop.lines"), cache.AllReading("products"), cache.All())
	if err != nil || token.After == 0 || status(t, p, token) != "committed" {
		t.Fatalf("Invalidate() = %+v, %v", token, err)
	}
	xid := token.XID.String() + " "
	want := []string{
		xid + `{"v":1,"entry":"stage","all":true}`, xid + `{"v":1,"schema":"shop","table":"lines"}`,
		xid + `{"v":1,"schema":"public","table":"products"}`, xid + `{"v":1,"all":true}`, xid + `{"v":1,"entry":"product","keys":[["007"],["8"]]}`,
	}
	if diff := cmp.Diff(want, log.messages(t)); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
	if _, err := products.Get(t.Context(), "1", freshet.After(token)); err != nil {
		t.Errorf("Get(After(token)) = %v", err)
	}

	if token, err := cache.Invalidate(t.Context()); err != nil || !token.IsZero() || len(log.messages(t)) > 0 {
		t.Errorf("without keys: %+v, %v", token, err)
	}
	for name, tt := range map[string]struct {
		key  freshet.Key
		want error
	}{
		"an entry that there is not":       {cache.AllOf("nothing"), freshet.ErrUnknownEntry},
		"a key of one":                     {cache.Key("nothing", 1), freshet.ErrUnknownEntry},
		"no key":                           {products.Key("x"), freshet.ErrKey},
		"no table":                         {cache.AllReading("shop."), freshet.ErrKey},
		"no table's name":                  {cache.AllReading("a\x00"), freshet.ErrKey},
		"a key that is to be refreshed":    {products.Key("1", freshet.Refresh()), freshet.ErrKey},
		"an entry that is to be refreshed": {cache.AllOf("stage").With(freshet.Refresh()), freshet.ErrKey},
	} {
		if token, err := cache.Invalidate(t.Context(), tt.key); !errors.Is(err, tt.want) || !token.IsZero() {
			t.Errorf("%s: %+v, %v", name, token, err)
		}
	}

	// In a transaction, with what changes there, and gone with it.
	tx := begin(t, p)
	if err := cache.Intent(t.Context(), tx, cache.AllOf("stage")); err != nil {
		t.Fatal(err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	tx = begin(t, p)
	if _, err := cache.Commit(t.Context(), tx, cache.AllOf("stage"), products.Key("1")); err != nil {
		t.Fatal(err)
	}
	if got := log.messages(t); len(got) != 2 || !strings.HasSuffix(got[0], `"entry":"stage","all":true}`) {
		t.Errorf("Commit leaves %q", got)
	}
	tx = begin(t, p)
	if _, err := cache.Commit(t.Context(), tx, cache.All().With(freshet.Strict())); !errors.Is(err, freshet.ErrKey) || !errors.Is(err, freshet.ErrNotCommitted) {
		t.Errorf("a strict commit of everything: %v", err)
	}
}
