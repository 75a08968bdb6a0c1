package freshet_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet"
)

// What code loads is tied to a tag: with one write, a transaction takes everything out of use that is.
func ExampleTag() {
	ctx := context.Background()
	type Profile struct{ Name string }
	profiles, err := freshet.Entry(app.cache, "profile", freshet.Load( // in the file: depends_on: [], tags: by_hand
		func(ctx context.Context, q freshet.Querier, id string) (p Profile, err error) {
			tenant, _, _ := strings.Cut(id, "-")
			if err := freshet.Tag(ctx, "tenant:"+tenant); err != nil {
				return p, err
			}
			err = q.QueryRow(ctx, "SELECT 'user ' || $1::text", id).Scan(&p.Name)
			return p, err
		}))
	if err != nil {
		fmt.Println(err)
		return
	}
	profile, err := profiles.Get(ctx, "7-42")
	fmt.Println(profile.Name, err)
	// Output: user 7-42 <nil>
}

// A tag is named like a key, in the transaction that changes what the values are made of.
func ExampleCache_Tagged() {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, example.url)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = conn.Close(ctx) }()
	tx, err := conn.Begin(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	token, err := app.cache.Commit(ctx, tx, app.cache.Tagged("tenant:7"))
	fmt.Println(token.XID > 0, err)
	// Output: true <nil>
}

// TestTagged: tags are in the log in a message of their own, with the transaction.
func TestTagged(t *testing.T) {
	t.Parallel()
	s := published(t)
	log, p := follow(t, s), pool(t, s.url)
	cache := open(t, freshet.Options{Config: s.file})
	products := entry[int64, Product](t, cache, "product")
	token, err := cache.Commit(t.Context(), begin(t, p, rename), cache.Tagged("tenant:7"), products.Key(1), cache.Tagged("b"))
	if err != nil {
		t.Fatal(err)
	}
	x := token.XID.String()
	want := []string{x + ` {"v":1,"tags":["tenant:7"]}`, x + ` {"v":1,"tags":["b"]}`, x + ` {"v":1,"entry":"product","keys":[["1"]]}`}
	if diff := cmp.Diff(want, log.messages(t)); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
	for _, key := range []freshet.Key{
		cache.Tagged(""), cache.Tagged("a\xff"), cache.Tagged("a").With(freshet.Strict()), cache.Tagged("a").With(freshet.Refresh()),
	} {
		if _, err := cache.Commit(t.Context(), begin(t, p, rename), key); !errors.Is(err, freshet.ErrKey) || !errors.Is(err, freshet.ErrNotCommitted) {
			t.Errorf("Commit = %v", err)
		}
		if err := cache.Intent(t.Context(), p, key); !errors.Is(err, freshet.ErrKey) {
			t.Errorf("Intent = %v", err)
		}
	}
	if got := log.messages(t); len(got) > 0 {
		t.Errorf("what is no tag is in the log: %q", got)
	}
}

// TestTagErrors: a mistake is told to the code, and to who reads.
func TestTagErrors(t *testing.T) {
	t.Parallel()
	cache := open(t, freshet.Options{Config: published(t).file})
	if err := freshet.Tag(t.Context(), "a"); !errors.Is(err, freshet.ErrTag) {
		t.Errorf("outside of a load: %v", err)
	}
	totals := entry(t, cache, "total", freshet.Load(func(ctx context.Context, _ freshet.Querier, _ int) (int, error) {
		_ = freshet.Tag(ctx, "a")
		return 1, nil
	}))
	if _, err := totals.Get(t.Context(), 7); !errors.Is(err, freshet.ErrTag) || !strings.Contains(err.Error(), "tags: by_hand") {
		t.Errorf("of an entry without tags: %v", err)
	}
}

// TestCoversNone: what other services have said is served while it is cached, and is no proof of anything.
func TestCoversNone(t *testing.T) {
	t.Parallel()
	s := published(t)
	cache := open(t, freshet.Options{Config: s.file})
	calls := 0
	weather := entry(t, cache, "weather", freshet.Load(func(context.Context, freshet.Querier, string) (int, error) {
		calls++
		return calls, nil
	}))
	get(t, weather, "Bergen", 1)
	get(t, weather, "Bergen", 1)
	token, err := cache.Commit(t.Context(), begin(t, pool(t, s.url), rename))
	if err != nil {
		t.Fatal(err)
	}
	session := cache.Session()
	for i, option := range []freshet.ReadOption{freshet.After(token), freshet.After(token), freshet.MaxStale(1 << 40), freshet.Through(session), freshet.Through(session), freshet.Revalidate()} {
		if got, err := weather.Get(t.Context(), "Bergen", option); err != nil || got != i+2 {
			t.Errorf("read %d: %d, %v, want a load of its own", i, got, err)
		}
		get(t, weather, "Bergen", i+2)
	}
}
