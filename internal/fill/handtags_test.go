package fill_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/redisstore"
	"github.com/freshet/freshet/internal/rule"
)

func handDeclarations() []rule.Declared {
	none := []rule.Dependency{}
	return []rule.Declared{
		{Name: "hand", Key: "hand:{id}", Result: rule.One, DependsOn: none, Tags: rule.TagsByHand},
		{Name: "plain", Key: "plain:{id}", Result: rule.One, DependsOn: none},
		{Name: "away", Key: "away:{id}", Result: rule.One, DependsOn: none, Covers: rule.CoversNone},
	}
}

// newHand is a world with entries that code loads: one with tags by hand, one without, and one that covers nothing.
func newHand(t *testing.T) *withEpochs {
	t.Helper()
	w := &withEpochs{newWorld(t, options{})}
	roster := w.newRoster(2)
	for _, d := range handDeclarations() {
		e := &rule.Entry{Name: d.Name, Definition: d.Digest(), Key: d.Key, Result: d.Result, Tags: d.Tags, Rules: []rule.Rule{}}
		e.Params = []rule.Param{{Name: "id", Type: keytext.Int8}}
		e.Version, e.Activation = e.Hash(), fmt.Sprintf("%016x", 2)
		roster.Entries[d.Name] = e
	}
	w.move(roster)
	return w
}

func (w *withEpochs) handReader(store fill.Store) *fill.Reader {
	w.t.Helper()
	entries := map[string]fill.Entry{}
	for _, d := range handDeclarations() {
		entries[d.Name] = fill.Entry{Declared: d, TTL: time.Minute, NegativeTTL: time.Minute}
	}
	return w.readerOf(store, nil, entries)
}

// priced is code that loads the price of a product, and ties it to tags; then it does what the test says.
func priced(id int, then func(), tags ...string) fill.LoadFunc {
	return func(ctx context.Context, q pgload.Querier) ([]byte, bool, error) {
		var price int
		if err := q.QueryRow(ctx, `SELECT price FROM product WHERE id = $1`, id).Scan(&price); err != nil {
			return nil, false, err
		}
		if err := fill.Tag(ctx, tags...); err != nil {
			return nil, false, err
		}
		if then != nil {
			then()
		}
		return []byte(strconv.Itoa(price)), true, nil
	}
}

func (w *withEpochs) hand(r *fill.Reader, id int, load fill.LoadFunc, status fill.Status, payload string) fill.Value {
	w.t.Helper()
	v, err := r.Get(w.t.Context(), "hand", arg(strconv.Itoa(id)), load)
	if err != nil {
		w.t.Fatal(err)
	}
	expect(w.t, v, status, payload)
	return v
}

func tagged(tag string) string { return string(rule.AppendTagEpoch(nil, tag)) }

// TestTagsByHand: a value is tied to the tags that its code gave, each once, and dies with any of them and with nothing else.
func TestTagsByHand(t *testing.T) {
	t.Parallel()
	w := newHand(t)
	r := w.handReader(nil)
	one, two, bare := priced(1, nil, "tenant:7", "b", "tenant:7"), priced(2, nil, "tenant:8"), priced(3, nil)
	w.hand(r, 1, one, fill.Miss, "10")
	w.hand(r, 2, two, fill.Miss, "20")
	w.hand(r, 3, bare, fill.Miss, "30")
	for key, want := range map[string][]string{
		"hand:1": {"~t", "~t:b", "~t:tenant%3A7"}, "hand:2": {"~t", "~t:tenant%3A8"}, "hand:3": {"~t"},
	} {
		if got := w.tiedTo("hand", key); !slices.Equal(got, want) {
			t.Errorf("%s is tied to %q, want %q", key, got, want)
		}
	}
	hits := func(status1, status2, status3 fill.Status) {
		t.Helper()
		w.hand(r, 1, one, status1, "10")
		w.hand(r, 2, two, status2, "20")
		w.hand(r, 3, bare, status3, "30")
	}
	hits(fill.Hit, fill.Hit, fill.Hit)
	hits(fill.Hit, fill.Hit, fill.Hit)
	w.end(w.epoch("hand", tagged("tenant:7")))
	hits(fill.Miss, fill.Hit, fill.Hit)
	w.end(w.epoch("hand", tagged("b")))
	hits(fill.Miss, fill.Hit, fill.Hit)
	w.end(w.epoch("hand", "~t")) // tags that could not be read
	hits(fill.Miss, fill.Miss, fill.Miss)
	hits(fill.Hit, fill.Hit, fill.Hit)

	// "No such thing" is tied as well.
	none := func(ctx context.Context, _ pgload.Querier) ([]byte, bool, error) {
		return nil, false, fill.Tag(ctx, "tenant:9")
	}
	w.hand(r, 4, none, fill.Miss, "")
	w.hand(r, 4, none, fill.Hit, "")
	w.end(w.epoch("hand", tagged("tenant:9")))
	w.hand(r, 4, priced(4, nil, "tenant:9"), fill.Miss, "40")

	// An epoch that was evicted is a miss.
	if err := w.raw.Do(t.Context(), w.raw.B().Del().Key(w.epoch("hand", tagged("tenant:8"))).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	hits(fill.Hit, fill.Miss, fill.Hit)
}

// TestTagEndedDuringLoad: the tag ends after the code has read, and before the value is stored. Its epoch is made anew by the fill, so that
// nothing but HEAD tells; without asking HEAD the old value is served for good.
func TestTagEndedDuringLoad(t *testing.T) {
	t.Parallel()
	w := newHand(t)
	for id, asks := range map[int]bool{1: true, 2: false} {
		store := fill.Store(w.store)
		if !asks {
			store = blind{store}
		}
		change := func() {
			w.pg.Exec(t, w.url, `UPDATE product SET price = 11 WHERE id = `+strconv.Itoa(id))
			w.end(w.epoch("hand", tagged("tenant:7")))
		}
		old := strconv.Itoa(10 * id)
		w.hand(w.handReader(store), id, priced(id, change, "tenant:7"), fill.Miss, old)
		want, status := "11", fill.Miss
		if !asks {
			want, status = old, fill.Hit
		}
		w.hand(w.handReader(nil), id, priced(id, nil, "tenant:7"), status, want)
	}
}

// TestTagEndedAfterItsLoad: the tag ends between what the fill asked of its epoch and the FILL: the value is stored, and is none.
func TestTagEndedAfterItsLoad(t *testing.T) {
	t.Parallel()
	w := newHand(t)
	store := &afterPin{Store: w.store, do: func() {
		w.pg.Exec(t, w.url, `UPDATE product SET price = 11 WHERE id = 1`)
		w.end(w.epoch("hand", tagged("tenant:7")))
	}}
	w.hand(w.handReader(store), 1, priced(1, nil, "tenant:7"), fill.Miss, "10")
	w.hand(w.handReader(nil), 1, priced(1, nil, "tenant:7"), fill.Miss, "11")
}

// TestTagsThatAreTooMany: a value with more tags than the bound is tied to the shared epoch instead, which every tag ends.
func TestTagsThatAreTooMany(t *testing.T) {
	t.Parallel()
	w := newHand(t)
	r := w.handReader(nil)
	some := func(n, long int) (tags []string) {
		for i := range n {
			tags = append(tags, strings.Repeat("x", long)+strconv.Itoa(i))
		}
		return tags
	}
	for id, tt := range []struct {
		tags []string
		want int // epochs
	}{{some(256, 1), 257}, {some(257, 1), 2}, {some(40, 500), 2}} {
		load := priced(id+1, nil, tt.tags...)
		w.hand(r, id+1, load, fill.Miss, strconv.Itoa(10*(id+1)))
		got := w.tiedTo("hand", "hand:"+strconv.Itoa(id+1))
		if len(got) != tt.want || (tt.want == 2) != slices.Contains(got, "~t+") {
			t.Errorf("%d tags: tied to %d epochs, such as %q", len(tt.tags), len(got), got[:2])
		}
		w.hand(r, id+1, load, fill.Hit, strconv.Itoa(10*(id+1)))
	}
	w.end(w.epoch("hand", "~t+"))
	w.hand(r, 1, priced(1, nil), fill.Hit, "10")
	w.hand(r, 2, priced(2, nil), fill.Miss, "20")
}

// TestTagMistakes: what cannot be tied is not stored, also where the code passes over the error.
func TestTagMistakes(t *testing.T) {
	t.Parallel()
	w := newHand(t)
	r := w.handReader(nil)
	if err := fill.Tag(t.Context(), "a"); !errors.Is(err, fill.ErrTag) {
		t.Errorf("outside of a load: %v", err)
	}
	var load context.Context
	careless := func(tags ...string) fill.LoadFunc {
		return func(ctx context.Context, _ pgload.Querier) ([]byte, bool, error) {
			load = ctx //nolint:fatcontext // kept to be used too late
			_ = fill.Tag(ctx, tags...)
			return []byte("1"), true, nil
		}
	}
	for _, tt := range []struct {
		entry, text string
		tags        []string
	}{
		{"plain", "add tags: by_hand", []string{"a"}},
		{"hand", "empty", []string{"a", ""}},
		{"hand", "longer than", []string{strings.Repeat("x", rule.MaxTag+1)}},
		{"hand", "not UTF-8", []string{"\xff"}},
		{"hand", "not UTF-8", []string{"a\x00"}},
	} {
		_, err := r.Get(t.Context(), tt.entry, arg("1"), careless(tt.tags...))
		if !errors.Is(err, fill.ErrTag) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s, %.10q: %v, want %q", tt.entry, tt.tags, err, tt.text)
		}
		if _, text := w.record(w.named(tt.entry, tt.entry+":1")); len(text) > 0 && strings.HasSuffix(string(text), "\n1") {
			t.Errorf("%s, %.10q: it was stored", tt.entry, tt.tags)
		}
	}
	if v, err := r.Get(t.Context(), "hand", arg("1"), careless("a")); err != nil || v.Status != fill.Miss {
		t.Fatalf("%+v, %v", v, err)
	}
	if err := fill.Tag(load, "b"); !errors.Is(err, fill.ErrTag) || !strings.Contains(err.Error(), "its load is over") {
		t.Errorf("after the load: %v", err)
	}
}

// TestEntriesWithoutTagsAreReadByGet: what tags cost, only those pay who have them.
func TestEntriesWithoutTagsAreReadByGet(t *testing.T) {
	t.Parallel()
	w := newHand(t)
	gets := 0
	r := w.handReader(&hooks{Store: w.store, afterGet: func(string) { gets++ }})
	load := func(context.Context, pgload.Querier) ([]byte, bool, error) { return []byte("1"), true, nil }
	for _, entry := range []string{"plain", "plain", "hand", "hand"} {
		if _, err := r.Get(t.Context(), entry, arg("1"), load); err != nil {
			t.Fatal(err)
		}
	}
	if s := r.Stats(); gets != 2 || s.Hits != 2 {
		t.Errorf("%d plain GETs, %d hits, want 2 and 2", gets, s.Hits)
	}
}

// TestCoversNone: a plain read hits; whatever asks for more than a cached value loads, each time, and what it loads is stored.
func TestCoversNone(t *testing.T) {
	t.Parallel()
	w := newHand(t)
	r := w.handReader(nil)
	loads := 0
	load := func(context.Context, pgload.Querier) ([]byte, bool, error) { //nolint:unparam // a LoadFunc
		loads++
		return []byte(strconv.Itoa(loads)), true, nil
	}
	read := func(d *fill.Demand, status fill.Status, payload string) {
		t.Helper()
		v, err := r.GetUnder(t.Context(), "away", arg("1"), load, d)
		if err != nil {
			t.Fatal(err)
		}
		expect(t, v, status, payload)
	}
	read(&fill.Demand{}, fill.Miss, "1")
	read(&fill.Demand{}, fill.Hit, "1")
	session := &fill.Session{}
	for i, d := range []*fill.Demand{
		{Session: session}, {Session: session}, {Bounded: true, MaxStale: time.Hour}, {Bounded: true, MaxStale: time.Hour}, {Revalidate: true}, {Reload: true},
	} {
		read(d, fill.Miss, strconv.Itoa(i+2))
		read(&fill.Demand{}, fill.Hit, strconv.Itoa(i+2))
	}
	// The same of an entry that covers what it reads: the cached value is proof.
	ahead := func(d *fill.Demand, status fill.Status) {
		t.Helper()
		v, err := r.GetUnder(t.Context(), "plain", arg("1"), load, d)
		if err != nil || v.Status != status {
			t.Errorf("%+v: %+v, %v, want %v", d, v, err, status)
		}
	}
	ahead(&fill.Demand{}, fill.Miss)
	ahead(&fill.Demand{Session: &fill.Session{}}, fill.Hit)
}

// afterPin does something once, between what a fill asks of its epochs and the FILL.
type afterPin struct {
	fill.Store
	do func()
}

func (a *afterPin) Pin(ctx context.Context, epochs []string, life time.Duration) (redisstore.Pinned, error) {
	p, err := a.Store.Pin(ctx, epochs, life)
	if a.do != nil {
		a.do()
		a.do = nil
	}
	return p, err
}
