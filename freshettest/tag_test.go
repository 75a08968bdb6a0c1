package freshettest_test

import (
	"context"
	"strings"
	"testing"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/freshettest"
)

// TestTags: what code under test says of a tag arrives as in production: all that is tied to it is out of use, of every entry, and
// nothing else; and what was loaded before it arrived is not stored.
func TestTags(t *testing.T) {
	t.Parallel()
	w := freshettest.New(t, freshettest.Options{Config: "testdata/freshet.yaml"})
	version := 1
	loading := freshet.Load(func(ctx context.Context, _ freshet.Querier, id string) (int, error) {
		tenant, _, _ := strings.Cut(id, "-")
		return version, freshet.Tag(ctx, "tenant:"+tenant)
	})
	profiles, err := freshet.Entry(w.Cache, "profile", loading)
	if err != nil {
		t.Fatal(err)
	}
	pages, err := freshet.Entry(w.Cache, "page", loading)
	if err != nil {
		t.Fatal(err)
	}
	read := func(of *freshet.Typed[string, int], id string, want int) {
		t.Helper()
		if got, err := of.Get(t.Context(), id); err != nil || got != want {
			t.Errorf("%s: %d, %v, want %d", id, got, err, want)
		}
	}
	seven := func(want int) func() {
		return func() {
			t.Helper()
			read(profiles, "7-a", want)
			read(profiles, "7-b", want)
			read(pages, "7-a", want)
		}
	}
	eight := func() { read(profiles, "8-a", 1) }
	w.Miss(seven(1))
	w.Miss(eight)
	version = 2
	w.Hit(seven(1))
	w.Late()
	if _, err := w.Cache.Invalidate(t.Context(), w.Cache.Tagged("tenant:7"), profiles.Key("9-a")); err != nil {
		t.Fatal(err)
	}
	w.Hit(seven(1))
	w.Deliver()
	w.Miss(seven(2))
	w.Hit(seven(2))
	w.Hit(eight)

	w.DuringLoad(func() {
		version = 3
		if _, err := w.Cache.Invalidate(t.Context(), w.Cache.Tagged("tenant:9")); err != nil {
			t.Error(err)
		}
	})
	read(profiles, "9-a", 2)
	w.Miss(func() { read(profiles, "9-a", 3) })
	w.Hit(func() { read(profiles, "9-a", 3) })

	many, err := profiles.GetMany(t.Context(), []string{"9-a", "7-a", "8-a", "8-b"})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{3, 2, 1, 3} {
		if many[i].Err != nil || many[i].Value != want {
			t.Errorf("key %d of GetMany: %+v, want %d", i, many[i], want)
		}
	}
}
