package fill_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/mvcc"
)

// pages are entries with row versions: page has the stored ones of large rows, dated one that its writers keep.
func pages() map[string]fill.Entry {
	declared := map[string]rule.Declared{
		"page":  {Name: "page", Key: "page:{id}", Query: "SELECT text FROM page WHERE id = @id", Result: rule.One},
		"dated": {Name: "dated", Key: "dated:{id}", Query: "SELECT text FROM page WHERE id = @id", Result: rule.One, RowVersion: "version"},
	}
	entries := map[string]fill.Entry{}
	for name, d := range declared {
		entries[name] = fill.Entry{Declared: d, TTL: time.Minute}
	}
	return entries
}

// publishPages makes the table, and a roster that has the entries too.
func (w *world) publishPages() {
	w.t.Helper()
	if _, err := w.db.Exec(w.t.Context(), `CREATE TABLE page (id int8 PRIMARY KEY, text text, version int, views int);
		INSERT INTO page SELECT i, repeat('page ' || i || ' ', 1000), 1, 0 FROM generate_series(1, 9) i`); err != nil {
		w.t.Fatal(err)
	}
	roster := w.newRoster(w.roster.Revision + 1)
	for name, e := range pages() {
		d := e.Declared
		published := &rule.Entry{
			Name: name, Definition: d.Digest(), Key: d.Key, Params: []rule.Param{{Name: "id", Type: keytext.Int8}}, Result: d.Result,
			SQL: "SELECT page.text AS text FROM public.page WHERE page.id = $1",
		}
		published.Version, published.Activation = published.Hash(), fmt.Sprintf("%016x", roster.Revision)
		published.RowVersion = &rule.RowVersion{
			SQL:     "SELECT page.text AS text, (SELECT page.version::text) AS freshet_version FROM public.page WHERE page.id = $1",
			Columns: []string{"text"},
		}
		if name == "page" {
			published.RowVersion = &rule.RowVersion{
				SQL: "SELECT page.text AS text, CASE WHEN page.ctid IS NULL THEN '-' WHEN page.tableoid = 'public.page'::regclass THEN" +
					" (page.ctid::text || '/') || page.xmin::text END AS freshet_version, ARRAY[page.xmin::text::int8] AS freshet_xids" +
					" FROM public.page WHERE page.id = $1",
				Columns: []string{"text"}, Tables: []string{"public.page"},
			}
		}
		roster.Entries[name] = published
	}
	w.move(roster)
}

func (w *world) exec(sql string) {
	w.t.Helper()
	if _, err := w.db.Exec(w.t.Context(), sql); err != nil {
		w.t.Fatal(err)
	}
}

// page reads page 1 of an entry, conditionally, and returns what the comparison found, if there was one.
func (c *comparing) page(t *testing.T, r *fill.Reader, entry string, status fill.Status, has string) (found pgload.Loaded) {
	t.Helper()
	before, _, _ := c.last()
	v, err := r.GetUnder(t.Context(), entry, arg("1"), nil, revalidated())
	if err != nil || v.Status != status || !strings.Contains(string(v.Payload), has) {
		t.Fatalf("%s: %v %.30s (%s), %v, want %v of %s", entry, v.Status, v.Payload, v.Reason, err, status, has)
	}
	if after, _, found := c.last(); after > before {
		return found
	}
	return pgload.Loaded{}
}

// TestStoredRowVersions: the first comparison of a value learns the versions of its rows, the later ones look at nothing else, until
// the row is written; and each comparison leaves the versions that belong to what is stored.
func TestStoredRowVersions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{ownPostgres: true}) // alone: transactions of other tests would hold the horizon back
	w.publishPages()
	loader := &comparing{Loader: w.loader}
	r := w.readerOf(nil, loader, pages())
	name := w.name("page", "1")
	version := func() string {
		t.Helper()
		record, _ := w.record(name)
		return record.RowVersion
	}
	loader.page(t, r, "page", fill.Miss, "page 1")
	if v := version(); v != "" {
		t.Errorf("a plain load has the row version %q", v)
	}
	w.confirm() // HEAD has an Sa, which sees the row
	if found := loader.page(t, r, "page", fill.Revalidated, "page 1"); found.Same != pgload.SameDigest || found.Version == "" || version() != found.Version {
		t.Errorf("the first comparison found %v, version %q; stored %q", found.Same, found.Version, version())
	}
	for range 3 {
		if found := loader.page(t, r, "page", fill.Revalidated, "page 1"); found.Same != pgload.SameVersion || version() != found.Version {
			t.Errorf("the next one found %v, version %q; stored %q", found.Same, found.Version, version())
		}
	}
	old := version()
	w.exec("UPDATE page SET views = views + 1 WHERE id = 1")
	if found := loader.page(t, r, "page", fill.Revalidated, "page 1"); found.Same != pgload.SameDigest || version() == old || version() != found.Version {
		t.Errorf("written, and the same: %v, version %q; stored %q", found.Same, found.Version, version())
	}
	// It is not confirmed that the log has it: a crash might take it back.
	if found := loader.page(t, r, "page", fill.Revalidated, "page 1"); found.Same != pgload.SameDigest {
		t.Errorf("behind the horizon: %v", found.Same)
	}
	w.confirm()
	if found := loader.page(t, r, "page", fill.Revalidated, "page 1"); found.Same != pgload.SameVersion {
		t.Errorf("after the daemon came that far: %v", found.Same)
	}
	w.exec("UPDATE page SET text = repeat('changed ', 1000) WHERE id = 1")
	if found := loader.page(t, r, "page", fill.Miss, "changed"); found.Same != pgload.Different || version() != found.Version {
		t.Errorf("changed: %v, version %q; stored %q", found.Same, found.Version, version())
	}
	// A small value is not worth it.
	w.exec("UPDATE page SET text = 'small' WHERE id = 1")
	loader.page(t, r, "page", fill.Miss, "small")
	w.confirm()
	if found := loader.page(t, r, "page", fill.Revalidated, "small"); found.Same != pgload.SameDigest || found.Version != "" {
		t.Errorf("a small one: %v, version %q", found.Same, found.Version)
	}
}

// TestHorizonOfStoredRowVersions: the database is asked to go by row versions only as far as the value's coverage and what HEAD
// vouches for both reach, and by none under the HEAD of another generation, which may be there because of a crash.
func TestHorizonOfStoredRowVersions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.publishPages()
	loader, store := &comparing{Loader: w.loader}, &hooks{Store: w.store}
	r := w.readerOf(store, loader, pages())
	name := w.name("page", "1")
	loader.page(t, r, "page", fill.Miss, "page 1")
	record, _ := w.record(name)
	record.RowVersion = "=1:(0,1)/7"
	asked := func(change func(head *fence.Head, c *fence.Coverage)) pgload.Known {
		t.Helper()
		head, _, err := w.store.Head(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		kept := record
		kept.Coverage = fence.Coverage{Snapshot: mvcc.Snapshot{Xmin: 50, Xmax: 60}}
		head.Sa = mvcc.Snapshot{Xmin: 70, Xmax: 80}
		change(&head, &kept.Coverage)
		w.put(name, kept.Append(nil))
		store.beforeHead = func() {}
		store.head = &head
		loader.page(t, r, "page", fill.Revalidated, "page 1")
		_, known, _ := loader.last()
		return known
	}
	digest := pgload.DigestOf(record.Payload)
	for what, tt := range map[string]struct {
		change func(head *fence.Head, c *fence.Coverage)
		want   pgload.Known
	}{
		"the value's coverage": {
			func(*fence.Head, *fence.Coverage) {}, pgload.Known{Digest: digest, Version: "=1:(0,1)/7", Horizon: 50},
		},
		"what is confirmed": {
			func(h *fence.Head, _ *fence.Coverage) { h.Sa.Xmin = 40 }, pgload.Known{Digest: digest, Version: "=1:(0,1)/7", Horizon: 40},
		},
		"nothing is confirmed":      {func(h *fence.Head, _ *fence.Coverage) { h.Sa = mvcc.Snapshot{} }, pgload.Known{Digest: digest}},
		"loaded on a standby":       {func(_ *fence.Head, c *fence.Coverage) { *c = fence.Coverage{Replay: 1} }, pgload.Known{Digest: digest}},
		"a HEAD of another history": {func(h *fence.Head, _ *fence.Coverage) { h.Generation = "00000000000000ff" }, pgload.Known{Digest: digest}},
	} {
		if got := asked(tt.change); got != tt.want {
			t.Errorf("%s: asked %+v, want %+v", what, got, tt.want)
		}
	}
}

// TestRowVersionsOfAnotherServer: the same versions on a server whose log is not followed, or under a snapshot that is older than
// the value, mean nothing; then the value is loaded.
func TestRowVersionsOfAnotherServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.publishPages()
	for what, change := range map[string]func(*pgload.Loaded){
		"another timeline":      func(l *pgload.Loaded) { l.Server.Timeline = 7 },
		"another cluster":       func(l *pgload.Loaded) { l.Server.System = "7" },
		"an older snapshot":     func(l *pgload.Loaded) { l.Coverage.Snapshot = mvcc.Snapshot{Xmin: 3, Xmax: 3} },
		"uncommitted rows seen": func(l *pgload.Loaded) { l.Refuse = "for the test" },
	} {
		loader := &comparing{Loader: &answering{Loader: w.loader, change: func(l *pgload.Loaded) {
			l.Same, l.Payload = pgload.SameVersion, nil // as if nothing had changed
			change(l)
		}}}
		r := w.readerOf(nil, loader, pages())
		w.exec("UPDATE page SET text = repeat('before ', 1000) WHERE id = 1")
		loader.page(t, r, "dated", fill.Miss, "")
		w.exec("UPDATE page SET text = repeat('after ', 1000) WHERE id = 1")
		loader.page(t, r, "dated", fill.Miss, "after")
		if loader.loads == 0 {
			t.Errorf("%s: the value was not loaded", what)
		}
	}
}

// TestDeclaredRowVersion: it is stored with what it belongs to, and believed.
func TestDeclaredRowVersion(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.publishPages()
	loader := &comparing{Loader: w.loader}
	r := w.readerOf(nil, loader, pages())
	loader.page(t, r, "dated", fill.Miss, "page 1")
	if found := loader.page(t, r, "dated", fill.Revalidated, "page 1"); found.Same != pgload.SameDigest || found.Version != "=1" {
		t.Errorf("the first comparison found %+v", found)
	}
	if record, _ := w.record(w.name("dated", "1")); record.RowVersion != "=1" {
		t.Errorf("stored with version %q", record.RowVersion)
	}
	if found := loader.page(t, r, "dated", fill.Revalidated, "page 1"); found.Same != pgload.SameVersion {
		t.Errorf("the second comparison found %+v", found)
	}
	w.exec("UPDATE page SET text = 'written against what was declared' WHERE id = 1")
	loader.page(t, r, "dated", fill.Revalidated, "page 1")
	w.exec("UPDATE page SET version = 2 WHERE id = 1")
	if found := loader.page(t, r, "dated", fill.Miss, "written"); found.Version != "=2" {
		t.Errorf("with a new version: %+v", found)
	}
	w.exec("UPDATE page SET version = NULL WHERE id = 1")
	loader.page(t, r, "dated", fill.Revalidated, "written")
	w.exec("UPDATE page SET text = 'and without one' WHERE id = 1")
	loader.page(t, r, "dated", fill.Miss, "without")
}

// TestComparisonThatFails: a read that can be answered is answered.
func TestComparisonThatFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{})
	w.publishPages()
	loader := &comparing{Loader: w.loader}
	r := w.readerOf(nil, loader, pages())
	loader.page(t, r, "dated", fill.Miss, "page 1")
	w.exec("ALTER TABLE page DROP COLUMN version")
	loader.page(t, r, "dated", fill.Revalidated, "page 1") // by its bytes
	loader.page(t, r, "dated", fill.Revalidated, "page 1") // and without asking for the column again
	if n := len(loader.asked); n != 2 || loader.asked[0].Version == nil || loader.asked[1].Version != nil || loader.loads != 2 {
		t.Errorf("%d comparisons, %d loads: %+v", n, loader.loads, loader.asked)
	}
	w.exec("UPDATE page SET text = 'changed' WHERE id = 1")
	loader.page(t, r, "dated", fill.Miss, "changed")
	if s := r.Stats(); s.LoadErrors != 0 || s.Renewals != 2 || s.Fills != 4 {
		t.Errorf("Stats = %+v", s)
	}
}

// TestValueFromAStandbyIsCompared, though what it covers cannot be compared with what the primary's snapshot sees: it is not renewed.
func TestValueFromAStandbyIsCompared(t *testing.T) {
	t.Parallel()
	w := newStandby(t)
	name := w.name("product", "1")
	read(t, w.r, 1, fill.Miss, price(1, 10))
	before, _ := w.record(name)
	if !before.Coverage.Standby() {
		t.Fatalf("the value is from the primary: %v", before.Coverage)
	}
	v, err := w.r.GetUnder(t.Context(), "product", arg("1"), nil, revalidated())
	if err != nil || v.Status != fill.Revalidated || v.Reason != "not_newer" || string(v.Payload) != price(1, 10) {
		t.Errorf("revalidated: %v %s (%s), %v", v.Status, v.Payload, v.Reason, err)
	}
	if after, text := w.record(name); !bytes.Equal(text, before.Append(nil)) {
		t.Errorf("the record became %+v", after)
	}
	// A standby that lags is not asked.
	w.standby.Pause(t)
	w.reprice()
	v, err = w.r.GetUnder(t.Context(), "product", arg("1"), nil, revalidated())
	if err != nil || string(v.Payload) != price(1, 11) {
		t.Errorf("while the standby lags: %v %s, %v", v.Status, v.Payload, err)
	}
}
